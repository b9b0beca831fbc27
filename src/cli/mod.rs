//! The subcommands, one file each. `main` parses and prints errors; nothing else does.

pub mod args;
mod bench;
mod check;
mod completion;
pub mod compress;
mod demo;
mod estimate;
pub mod evaluate;
pub mod model;
mod recordings;
mod replay;
pub mod results;
mod table;
mod train;
pub mod receive;
pub mod remote;
mod run;
mod screen;
pub mod store;
pub mod doctor;
mod schema;
mod torture;
mod values;
mod verify;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

use args::{Cli, Command};
use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches};

pub use schema::json_schemas;
pub use screen::Screen;

/// What a subcommand came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All went well.
    Fine,
    /// It did what it should, and found something wrong.
    Problem,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> ExitCode {
        match outcome {
            Outcome::Fine => ExitCode::SUCCESS,
            Outcome::Problem => ExitCode::from(1),
        }
    }
}

/// Obeys the command line.
pub fn obey(cli: Cli, screen: &Screen) -> anyhow::Result<Outcome> {
    match cli.command {
        Command::Check(args) => check::check(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Schema(args) => schema::schema(&args),
        Command::Completion(args) => completion::completion(&args),
        Command::Demo(args) => demo::demo(&args, screen),
        Command::Run(args) => run::run(&args),
        Command::Estimate(args) => estimate::estimate(&args, screen),
        Command::Evaluate(args) => evaluate::evaluate(&args, screen),
        Command::Receive(args) => receive::receive(&args),
        Command::Replay(args) => replay::replay(&args, screen),
        Command::Train(args) => train::train(&args, screen),
        Command::Compress(args) => compress::compress(&args, screen),
        Command::Model(args) => model::model(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::Store(args) => store::store(&args),
        Command::Torture(args) => torture::torture(&args, screen),
    }
}

impl Cli {
    /// What this program was called with. Ends it where that cannot be meant.
    pub fn of_this_program() -> Cli {
        let matches = Cli::command().get_matches();
        let mut cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        if let (Command::Train(args), Some((_, train))) = (&mut cli.command, matches.subcommand()) {
            let is_given =
                |id: &&clap::Id| train.value_source(id.as_str()) == Some(ValueSource::CommandLine);
            args.given = train.ids().filter(is_given).map(ToString::to_string).collect();
        }
        cli
    }
}

/// Prints to standard output. A reader that has gone away (`| head`) is no problem.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("standard output cannot be written"),
    }
}

/// Says what is no result, on standard error. If that is gone there is nobody to tell.
fn remark(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A file that is either the old one or the whole new one. A device or a pipe stays what it is, and is written to.
fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = || format!("`{}` cannot be written", path.display());
    if !results::is_plain(path) {
        return std::fs::write(path, bytes).with_context(failed);
    }
    std::fs::create_dir_all(folder).with_context(failed)?;
    let readable = std::fs::Permissions::from_mode(0o644);
    let mut file =
        tempfile::Builder::new().permissions(readable).tempfile_in(folder).with_context(failed)?;
    file.write_all(bytes).with_context(failed)?;
    file.as_file().sync_all().with_context(failed)?;
    file.persist(path).with_context(failed)?;
    Ok(())
}

/// Whether colours may be used on this stream: a terminal, and no wish against it.
pub fn colours(terminal: bool) -> bool {
    let wish = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    let dumb = std::env::var("TERM").is_ok_and(|t| t == "dumb");
    terminal && !wish("NO_COLOR") && !dumb
}
