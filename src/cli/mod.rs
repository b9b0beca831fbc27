//! The command line: one file a subcommand.

pub mod results;
mod table;
