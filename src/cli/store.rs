//! `forebay store`: looking into the store of a node that is stopped.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Context;
use bytesize::ByteSize;
use clap::{Args, Subcommand};

use super::results::{Results, ResultsFormat};
use super::{Outcome, print};
use crate::record::{Lane, Record};
use crate::store::{self, Part, StoreError};

/// `forebay store`.
#[derive(Clone, Debug, Args)]
pub struct StoreArgs {
    /// What to do with it.
    #[command(subcommand)]
    pub action: StoreAction,
    /// The store's folder (`store.path` of the config).
    #[arg(long, value_name = "DIR", default_value = "forebay-data", global = true)]
    pub store: PathBuf,
}

/// What can be done with a store.
#[derive(Clone, Debug, Subcommand)]
pub enum StoreAction {
    /// Read all of it and check every checksum; exit code 1 where something is damaged
    Verify {
        /// Print one JSON object to standard output.
        #[arg(long)]
        json: bool,
    },
    /// Write a lane's records to a file, or to standard output; the store stays as it is
    Export {
        /// The lane: alarm, score, feature or raw.
        #[arg(long, value_parser = lane, value_name = "LANE")]
        lane: Lane,
        /// Where to: a file, or `-`.
        #[arg(long, short, value_name = "FILE", default_value = "-")]
        out: String,
        /// How. Absent: by the file's ending.
        #[arg(long, value_enum, value_name = "FORMAT")]
        format: Option<ResultsFormat>,
    },
}

fn lane(text: &str) -> Result<Lane, String> {
    let named = Lane::ALL.into_iter().find(|lane| lane.name() == text);
    named.ok_or_else(|| "a lane is one of alarm, score, feature, raw".to_owned())
}

/// Verifies or exports.
pub(super) fn store(args: &StoreArgs) -> anyhow::Result<Outcome> {
    match &args.action {
        StoreAction::Verify { json } => {
            let parts = store::inspect(&args.store)?;
            if *json {
                print(&format!("{}\n", serde_json::to_string_pretty(&parts)?))?;
            } else {
                print(&told(&parts))?;
            }
            Ok(verdict(parts.iter()))
        }
        StoreAction::Export { lane, out, format } => {
            let mut results = Results::create(out, *format)?;
            let mut failed = None;
            let part = store::export(&args.store, *lane, |line| {
                let record: Record = serde_json::from_slice(line).map_err(|e| {
                    let what = format!("a record of lane `{}`", lane.name());
                    StoreError::Damaged { what, reason: e.to_string() }
                })?;
                if failed.is_none() {
                    failed = results.write(&record).err();
                }
                Ok(())
            })?;
            match failed {
                Some(error) if error.is_broken_pipe() => return Ok(Outcome::Fine),
                Some(error) => return Err(error.into()),
                None => results.finish().map(drop).context("the export is not complete")?,
            }
            part.damage.iter().for_each(|damage| tracing::warn!("{damage}"));
            Ok(verdict([&part].into_iter()))
        }
    }
}

fn verdict<'a>(mut parts: impl Iterator<Item = &'a Part>) -> Outcome {
    if parts.all(|part| part.damage.is_empty()) { Outcome::Fine } else { Outcome::Problem }
}

fn told(parts: &[Part]) -> String {
    let mut text = format!("{:<12}{:>7}{:>12}{:>12}\n", "part", "files", "bytes", "entries");
    for part in parts {
        let bytes = ByteSize::b(part.bytes).to_string();
        let _ = writeln!(text, "{:<12}{:>7}{bytes:>12}{:>12}", part.name, part.files, part.entries);
    }
    let mut damage = parts.iter().flat_map(|part| &part.damage).peekable();
    if damage.peek().is_none() {
        text.push_str("all of it is good\n");
    }
    for one in damage {
        let _ = writeln!(text, "{one}");
    }
    text
}
