//! `forebay store`: looking into the store of a node that is stopped.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Context;
use bytesize::ByteSize;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::results::{Results, ResultsFormat};
use super::{Outcome, print, remark};
use crate::record::{Lane, Record};
use crate::store::{self, Part, Quarantined, StoreError};

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
    /// Show messages that were rejected, newest first, or drop some of them
    Quarantine {
        /// Print one JSON array to standard output.
        #[arg(long)]
        json: bool,
        /// At most so many.
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: usize,
        /// Drop those with these numbers instead.
        #[arg(long, value_name = "NUMBER", value_delimiter = ',', conflicts_with_all = ["json", "limit"])]
        drop: Vec<u64>,
    },
}

fn lane(text: &str) -> Result<Lane, String> {
    let named = Lane::ALL.into_iter().find(|lane| lane.name() == text);
    named.ok_or_else(|| "a lane is one of alarm, score, feature, raw".to_owned())
}

/// Verifies, exports, or shows what was rejected.
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
            if part.entries == 0 {
                remark(&format!("0 records: nothing waits in lane `{}`", lane.name()));
            }
            part.damage.iter().for_each(|damage| tracing::warn!("{damage}"));
            Ok(verdict([&part].into_iter()))
        }
        StoreAction::Quarantine { drop, .. } if !drop.is_empty() => {
            let dropped = store::drop_rejected(&args.store, drop)?;
            let absent: Vec<u64> =
                drop.iter().filter(|number| !dropped.contains(number)).copied().collect();
            print(&format!("{} dropped\n", dropped.len()))?;
            if absent.is_empty() {
                return Ok(Outcome::Fine);
            }
            tracing::warn!("there is no rejected message {absent:?}");
            Ok(Outcome::Problem)
        }
        StoreAction::Quarantine { json, limit, .. } => {
            let all = store::rejected(&args.store, *limit)?;
            let all: Vec<Rejected> = all.into_iter().map(Rejected::of).collect();
            if *json {
                print(&format!("{}\n", serde_json::to_string_pretty(&all)?))?;
            } else {
                print(&rejected(&all))?;
            }
            Ok(Outcome::Fine)
        }
    }
}

/// A rejected message as it is shown.
#[derive(Debug, Serialize)]
struct Rejected {
    number: u64,
    why: String,
    topic: String,
    /// Its size; more than is kept of it where it is long.
    bytes: u64,
    /// What is kept of it, what is no text replaced.
    payload: String,
}

impl Rejected {
    fn of(one: Quarantined) -> Rejected {
        let payload = String::from_utf8_lossy(&one.payload).into_owned();
        let Quarantined { number, why, topic, bytes, .. } = one;
        Rejected { number, why, topic, bytes, payload }
    }
}

/// Characters of a payload in the table.
const SHOWN: usize = 100;

fn rejected(all: &[Rejected]) -> String {
    if all.is_empty() {
        return "no message was rejected\n".to_owned();
    }
    let mut text = String::new();
    for Rejected { number, why, topic, bytes, payload } in all {
        // What comes from outside must not steer the terminal.
        let head: String = payload.chars().take(SHOWN).flat_map(char::escape_debug).collect();
        let (why, topic) = (why.escape_debug(), topic.escape_debug());
        let _ = writeln!(text, "{number:>6}  {topic}  {bytes} bytes: {why}\n        {head}");
    }
    text
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
