//! The `forebay` command: parses its arguments, sets up logging, obeys, and says what went wrong.
//!
//! The only file that prints an error. Exit codes: 0 all went well, 1 a problem was found or a run failed, 2 the
//! command line was wrong (clap's own).

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use forebay::cli::args::{Cli, LogFormat};
use forebay::diagnose::Problems;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = log(&cli).and_then(|()| forebay::cli::obey(cli));
    match outcome {
        Ok(outcome) => outcome.into(),
        Err(error) => {
            // If standard error is gone there is nobody left to tell.
            let _ = writeln!(std::io::stderr(), "{}", told(&error));
            ExitCode::from(1)
        }
    }
}

/// The error with its causes, each said once: most sentences have their cause in them already. Problems of files say
/// themselves what they are.
fn told(error: &anyhow::Error) -> String {
    if error.is::<Problems>() {
        return error.to_string();
    }
    let mut text = format!("error: {error}");
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Log lines go to standard error: standard output is for results.
fn log(cli: &Cli) -> anyhow::Result<()> {
    let wanted = cli.log.as_deref().unwrap_or_else(|| cli.command.usual_log());
    let filter = EnvFilter::try_new(wanted)
        .map_err(|e| anyhow::anyhow!("the log filter `{wanted}` cannot be used: {e}"))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match cli.log_format {
        LogFormat::Text => {
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            lines.with_ansi(colour).init();
        }
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}
