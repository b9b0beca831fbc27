//! The program under test.

use std::process::Command;

/// `forebay` with no settings from outside: what stands in a developer's shell changes no test.
pub(crate) fn forebay() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("FOREBAY_")) {
        command.env_remove(name);
    }
    command
}
