//! `forebay check`: everything that is wrong with a node's files, in one run, without a network.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use super::args::CheckArgs;
use super::{Outcome, colours, print};
use crate::diagnose::{Problems, render};
use crate::pipeline::kind::{self, Kind};
use crate::pipeline::load::{Loader, Models, toml_files};

/// Checks files and prints what was found.
pub(super) fn check(args: &CheckArgs) -> anyhow::Result<Outcome> {
    let mut loader = Loader::default();
    if args.files.is_empty() {
        let here = Path::new("config.toml");
        if here.exists() {
            file(&mut loader, here, Kind::Config);
        } else {
            loader.stranger(
                here,
                "there is no config.toml here to check",
                "the folder of a node, or files: `forebay check FILE…`",
            );
        }
    }
    for path in sorted(&args.files) {
        file(&mut loader, &path, kind::of(&path));
    }
    let files = loader.files.len();
    let (_, _, problems) = loader.finish();
    if args.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&render::flat(&problems))?))?;
    } else {
        print(&told(&problems, files))?;
    }
    Ok(if problems.has_errors() { Outcome::Problem } else { Outcome::Fine })
}

fn told(problems: &Problems, files: usize) -> String {
    let colour = colours(std::io::stdout().is_terminal());
    let text = render::text(problems, colour);
    let gap = if text.is_empty() { "" } else { "\n\n" };
    format!("{text}{gap}{}\n", render::summary(problems, files))
}

/// Files, and the files of folders; configs first (they say where schemas are), then schemas, then the rest.
fn sorted(files: &[PathBuf]) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = Vec::new();
    for path in files {
        match toml_files(path) {
            Ok(inside) if !inside.is_empty() => all.extend(inside),
            _ => all.push(path.clone()),
        }
    }
    all.sort_by_key(|path| match kind::of(path) {
        Kind::Config => 0,
        Kind::Schema => 1,
        Kind::Pipeline | Kind::Unknown => 2,
    });
    all
}

fn file(loader: &mut Loader, path: &Path, kind: Kind) {
    match kind {
        Kind::Config => drop(loader.config(path, std::env::vars())),
        Kind::Schema => loader.asset(path),
        Kind::Pipeline => loader.pipeline(path, None, Models::Check),
        Kind::Unknown if path.is_dir() => {
            loader.stranger(path, "this folder holds no TOML file", "a file, or a folder of files");
        }
        Kind::Unknown if path.extension().is_some_and(|e| e == "onnx") => loader.model(path),
        Kind::Unknown if !path.is_file() => loader.pipeline(path, None, Models::Check),
        Kind::Unknown => loader.unknown(path),
    }
}
