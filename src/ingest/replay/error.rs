//! What can be wrong with a recording, and what is only worth a warning.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::decode::{DecodeError, TimeFormatError};

/// Why a recording cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// It cannot be opened.
    #[error("{}: cannot be opened: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A folder.
    #[error("{}: is a folder; name the recordings in it, such as {}/*.csv", path.display(), path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
    },
    /// Nothing in it.
    #[error("{}: is empty; expected a header and rows, or a JSON object a line", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A header and nothing else.
    #[error("{}: has a header and no rows; columns: {found}", path.display())]
    HeaderOnly {
        /// The file.
        path: PathBuf,
        /// Its columns.
        found: String,
    },
    /// Text of another kind.
    #[error("{}: is UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)", path.display())]
    Utf16 {
        /// The file.
        path: PathBuf,
    },
    /// A separator of more than one character.
    #[error(
        "recording.delimiter is \"{delimiter}\"; it must be one ASCII character, such as \";\" or \"\\t\""
    )]
    BadDelimiter {
        /// What was set.
        delimiter: String,
    },
    /// The separator that was set is not the file's.
    #[error(
        "{}: with delimiter \"{set}\" the header is one column, `{header}`; it looks like \"{looks_like}\"",
        path.display()
    )]
    WrongDelimiter {
        /// The file.
        path: PathBuf,
        /// What was set.
        set: String,
        /// The one that gives columns.
        looks_like: String,
        /// The header.
        header: String,
    },
    /// A column that was asked for is not there.
    #[error("{}: {setting} is the column `{column}`, which is missing{nearest}; columns: {found}", path.display())]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// Which setting asks for it.
        setting: String,
        /// What it asks for.
        column: String,
        /// The columns there are.
        found: Box<str>,
        /// The nearest spelling, as part of the sentence.
        nearest: Box<str>,
    },
    /// A column that is read beside the signals, such as labels, is not there.
    #[error("{}: there is no column `{column}`{nearest}; columns: {found}", path.display())]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        column: String,
        /// The columns there are.
        found: String,
        /// The nearest spelling, as part of the sentence.
        nearest: Box<str>,
    },
    /// No column looks like a time.
    #[error("{}: no column is named as a time; set recording.time to one of {found}", path.display())]
    NoTimeColumn {
        /// The file.
        path: PathBuf,
        /// The columns there are.
        found: String,
    },
    /// No column is a signal.
    #[error(
        "{}: no column carries a signal of the schema ({wanted}){nearest}; columns: {found}; map them in recording.signals",
        path.display()
    )]
    NoSignalColumn {
        /// The file.
        path: PathBuf,
        /// The schema's signals.
        wanted: String,
        /// The columns there are.
        found: String,
        /// The column that is spelt most like one of them, as part of a sentence.
        nearest: Box<str>,
    },
    /// The settings speak of a signal that the schema does not have.
    #[error("recording.signals names `{signal}`, which schema `{schema}` does not have{nearest}")]
    NoSuchSignal {
        /// What was typed.
        signal: String,
        /// The schema.
        schema: String,
        /// The nearest spelling, as the end of the sentence.
        nearest: String,
    },
    /// A column of values without one of names.
    #[error("recording.value is set and recording.signal is not; a long recording needs both")]
    ValueAlone,
    /// A format of times is wrong.
    #[error("recording: {0}")]
    TimeFormat(#[from] TimeFormatError),
    /// Another setting is wrong.
    #[error("recording: {0}")]
    Settings(#[from] DecodeError),
    /// Nothing says which machine it is of.
    #[error("standard input has no file name to take the asset's id from; give --asset")]
    NoAsset,
    /// Parquet cannot be read from its beginning only.
    #[error("Parquet cannot be read from a pipe or inside gzip; give the file's path")]
    ParquetPipe,
    /// It broke off, or the disk did.
    #[error("{}: cannot be read past {place}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Up to where it went well.
        place: String,
        /// Why not further.
        reason: String,
    },
    /// A column of a kind that cannot be what it is used as.
    #[error("{}: column `{column}` is of type {found}; expected {expected}", path.display())]
    ColumnType {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// Its type.
        found: String,
        /// What it is used as.
        expected: &'static str,
    },
    /// All rows were read and not one gave a reading.
    #[error("{}: none of its {rows} rows gave a reading: {reason}", path.display())]
    NoReadings {
        /// The file.
        path: PathBuf,
        /// Rows read.
        rows: u64,
        /// What was wrong with them.
        reason: String,
    },
}

/// What was wrong with single rows: counted by kind, the first few of each with their place.
#[derive(Clone, Debug, Default)]
pub struct Warnings {
    kinds: BTreeMap<&'static str, Warning>,
}

/// One kind of warning.
#[derive(Clone, Debug, Default)]
struct Warning {
    count: u64,
    first: Vec<String>,
}

impl Warnings {
    /// Examples kept of each kind.
    const KEPT: usize = 3;
    /// The kind that is about columns, not rows.
    pub(super) const NO_COLUMN: &str = "signals without a column";

    /// Counts one more of `kind`; `example` is made only while examples are kept.
    pub(super) fn add(&mut self, kind: &'static str, example: impl FnOnce() -> String) {
        let warning = self.kinds.entry(kind).or_default();
        warning.count += 1;
        if warning.first.len() < Self::KEPT {
            warning.first.push(example());
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// Whether single rows had something wrong with them, not only the columns.
    pub(super) fn of_rows(&self) -> bool {
        self.kinds.keys().any(|kind| *kind != Self::NO_COLUMN)
    }

    /// One sentence a kind: what, how often, and where first.
    pub fn sentences(&self) -> impl Iterator<Item = String> {
        self.kinds.iter().map(|(kind, warning)| {
            let more = if warning.count > warning.first.len() as u64 { ", …" } else { "" };
            format!("{} {kind}: {}{more}", warning.count, warning.first.join(", "))
        })
    }
}

impl fmt::Display for Warnings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sentences: Vec<String> = self.sentences().collect();
        f.write_str(&sentences.join("; "))
    }
}
