//! `forebay check`: every mistake in every kind of file, and what a person is told of it. The messages are snapshots
//! in `tests/snapshots`; after a change to a message, look at the new one and accept it (`INSTA_UPDATE=always`).
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "common/bin.rs"]
mod bin;
#[path = "check/config.rs"]
mod config;
#[path = "check/files.rs"]
mod files;
#[path = "check/laws.rs"]
mod laws;
#[path = "check/model.rs"]
mod model;
#[path = "check/pipeline.rs"]
mod pipeline;
#[path = "check/schema.rs"]
mod schema;

use std::path::Path;
use std::process::Output;

/// A node whose files are all right and need no model.
pub(crate) const CONFIG: &str = "node = \"gateway-1\"\n";
/// Its asset schema.
pub(crate) const SCHEMA: &str = r#"name = "pump"

[[signal]]
name = "vibration_rms"
unit = "mm/s"
aliases = ["vib"]
min = 0.0
max = 50.0
every = "100ms"

[[signal]]
name = "pressure"
unit = "bar"
min = 0.0
max = 25.0
every = "1s"
"#;
/// Its pipeline.
pub(crate) const PIPELINE: &str = r#"name = "pump"
schema = "pump"
topics = ["plant/{site}/pump/{asset}"]

[[stage]]
clean = {}
[[stage]]
resample = { every = "1s" }
[[stage]]
window = { length = "60s", every = "10s", features = ["mean", "std"] }
[[stage]]
alarm = { name = "vibration", on = "vibration_rms.mean", raise = 7.1, clear = 4.5 }
[[stage]]
emit = { lane = "feature" }
"#;

/// Runs `forebay check` with `arguments` in a folder that holds `files`.
pub(crate) fn check(
    files: &[(&str, &[u8])],
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> Output {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), files);
    run_in(folder.path(), arguments, variables)
}

pub(crate) fn write(folder: &Path, files: &[(&str, &[u8])]) {
    for (name, content) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

pub(crate) fn run_in(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = bin::forebay();
    command.arg("check").args(arguments).current_dir(folder).envs(variables.iter().copied());
    command.output().unwrap()
}

/// What `check` prints, and the exit code that goes with it.
pub(crate) fn told(output: &Output) -> String {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let errors = text.contains("error: ");
    assert_eq!(output.status.code(), Some(i32::from(errors)), "{text}");
    text
}

/// A node of these files, the healthy ones standing in for those that are not given.
pub(crate) fn node(files: &[(&str, &str)]) -> String {
    node_with(files, &[])
}

pub(crate) fn node_with(files: &[(&str, &str)], variables: &[(&str, &str)]) -> String {
    let mut all: Vec<(&str, &[u8])> = vec![
        ("config.toml", CONFIG.as_bytes()),
        ("schemas/pump.toml", SCHEMA.as_bytes()),
        ("pipelines/pump.toml", PIPELINE.as_bytes()),
    ];
    for (name, content) in files {
        all.retain(|(other, _)| other != name);
        all.push((name, content.as_bytes()));
    }
    told(&check(&all, &[], variables))
}

/// `text` with each first part replaced by the second; each must be there.
pub(crate) fn with(text: &str, changes: &[(&str, &str)]) -> String {
    let mut text = text.to_owned();
    for (from, to) in changes {
        assert!(text.contains(from), "{from} is not in\n{text}");
        text = text.replacen(from, to, 1);
    }
    text
}

/// Compares with `tests/snapshots/NAME.snap`.
#[track_caller]
pub(crate) fn snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

#[test]
fn files_that_are_right_are_told_so() {
    assert_eq!(node(&[]), "no problems in 3 files\n");
}
