//! `forebay completion`: the completion script of a shell.

use clap::CommandFactory;

use super::args::{Cli, CompletionArgs};
use super::{Outcome, print};

/// Prints the script.
pub(super) fn completion(args: &CompletionArgs) -> anyhow::Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "forebay", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Outcome::Fine)
}
