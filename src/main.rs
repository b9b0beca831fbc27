//! The `forebay` command: parses its arguments, sets up logging, obeys, and says what went wrong.
//!
//! The only file that prints an error. Exit codes: 0 all went well, 1 a problem was found or a run failed, 2 the
//! command line was wrong (clap's own).

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use forebay::cli::args::{Cli, LogFormat};
use forebay::cli::{Screen, colours};
use forebay::diagnose::{Problems, render};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    forebay::model::weigh::with_this_program();
    let cli = Cli::of_this_program();
    let screen = Screen::default();
    let outcome = log(&cli, &screen).and_then(|()| forebay::cli::obey(cli, &screen));
    match outcome {
        Ok(outcome) => outcome.into(),
        Err(error) => {
            // If standard error is gone there is nobody left to tell.
            let _ = writeln!(std::io::stderr(), "{}", told(&error));
            ExitCode::from(1)
        }
    }
}

/// Log lines go to standard error: standard output is for results.
fn log(cli: &Cli, screen: &Screen) -> anyhow::Result<()> {
    let wanted = cli.log.as_deref().unwrap_or_else(|| cli.command.usual_log());
    let filter = EnvFilter::try_new(wanted)
        .map_err(|e| anyhow::anyhow!("the log filter `{wanted}` cannot be used: {e}"))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(screen.clone());
    match cli.log_format {
        LogFormat::Text => lines.with_ansi(colours(std::io::stderr().is_terminal())).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}

/// An error with its causes, each said once. What is wrong with files is shown as `forebay check` shows it.
fn told(error: &anyhow::Error) -> String {
    if let Some(problems) = error.downcast_ref::<Problems>() {
        let text = render::text(problems, colours(std::io::stderr().is_terminal()));
        let first = problems.all.iter().map(|p| &p.place.source.name);
        let files: std::collections::BTreeSet<_> = first.collect();
        return format!("{text}\n\n{}", render::summary(problems, files.len()));
    }
    let mut text = format!("error: {error}");
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            // Writing to a String cannot fail.
            let _ = write!(text, ": {cause}");
        }
    }
    text
}
