//! Recordings as input: CSV, NDJSON and Parquet files, row by row in their order.
//!
//! `cli` puts the batches of a [`Recording`] through the same engine as live messages. Memory stays bounded however
//! large the file is (a batch of rows; in Parquet a part of a row group). A row that cannot be used is counted, and the
//! first few are named by line; a file that cannot be used is one error that says what to change. Nothing is sorted,
//! filled or judged here: that is for the stages.

mod batch;
mod columns;
mod csv;
mod error;
mod ndjson;
mod parquet;
mod source;

pub use error::{RecordingError, Warnings};

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::decode::Words;
use crate::frame::Input;
use crate::pipeline::spec::RecordingSpec;
use crate::schema::Schema;
use csv::CsvRows;
use ndjson::NdjsonRows;
use parquet::ParquetRows;
use source::{Source, is_stdin};

/// How a recording is read.
#[derive(Clone, Debug)]
pub struct RecordingOptions<'s> {
    /// How it is written.
    pub spec: RecordingSpec,
    /// The asset of rows that name none. Where `spec.asset` is set, only rows of this asset are taken.
    pub asset: Option<String>,
    /// The signals.
    pub schema: &'s Schema,
    /// The route that the batches carry.
    pub route: String,
    /// Most rows in a batch.
    pub batch_rows: usize,
}

/// How far a recording has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the file read, before unpacking.
    pub bytes: u64,
    /// Bytes of the file; `None` for standard input.
    pub bytes_total: Option<u64>,
    /// Rows read, those among them that were skipped too.
    pub rows: u64,
}

/// A recording being read: an iterator over batches of readings.
pub struct Recording {
    path: PathBuf,
    route: String,
    batch_rows: usize,
    rows: Format,
    warnings: Warnings,
    read: Arc<AtomicU64>,
    total: Option<u64>,
    /// The only asset that is wanted, where rows name theirs.
    only: Option<String>,
    readings: u64,
    ended: bool,
}

enum Format {
    Csv(Box<CsvRows>),
    Ndjson(Box<NdjsonRows>),
    Parquet(Box<ParquetRows>),
}

/// What a file is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Csv,
    Ndjson,
    Parquet,
}

impl Recording {
    /// Opens a file, or standard input for `-`. What the name does not say (CSV, NDJSON, Parquet, gzip), the first
    /// bytes do. Errors: no such file, a folder, nothing in it, a column missing, a setting that cannot be meant.
    pub fn open(path: &Path, options: &RecordingOptions<'_>) -> Result<Recording, RecordingError> {
        let from_column = options.spec.asset.is_some();
        let asset = match (&options.asset, from_column) {
            (_, true) => None,
            (Some(id), false) => Some(id.clone()),
            (None, false) if is_stdin(path) => return Err(RecordingError::NoAsset),
            (None, false) => Some(stem(path)),
        };
        let source = Source::open(path)?;
        let (read, total) = (Arc::clone(&source.read), source.total);
        let mut warnings = Warnings::default();
        let rows = match kind(path, &source.head) {
            Kind::Csv => {
                Format::Csv(Box::new(CsvRows::open(path, source, options, asset, &mut warnings)?))
            }
            Kind::Ndjson => {
                Format::Ndjson(Box::new(NdjsonRows::open(path, source, options, asset)?))
            }
            Kind::Parquet => {
                let plain = source.total.is_some() && source.head.starts_with(b"PAR1");
                if !plain {
                    return Err(RecordingError::ParquetPipe);
                }
                Format::Parquet(Box::new(ParquetRows::open(path, options, asset, &mut warnings)?))
            }
        };
        Ok(Recording {
            path: path.to_owned(),
            route: options.route.clone(),
            batch_rows: options.batch_rows.max(1),
            rows,
            warnings,
            read,
            total,
            only: options.asset.clone().filter(|_| from_column),
            readings: 0,
            ended: false,
        })
    }

    /// Takes words for numbers too: in a column of labels.
    #[must_use]
    pub fn with_words(mut self) -> Recording {
        *self.words_mut() = Words::taken();
        self
    }

    fn words_mut(&mut self) -> &mut Words {
        match &mut self.rows {
            Format::Csv(rows) => &mut rows.batch.words,
            Format::Ndjson(rows) => &mut rows.gathered.words,
            Format::Parquet(rows) => &mut rows.batch.words,
        }
    }

    /// The words that were found, and which numbers they were given.
    pub fn words(&self) -> &Words {
        match &self.rows {
            Format::Csv(rows) => &rows.batch.words,
            Format::Ndjson(rows) => &rows.gathered.words,
            Format::Parquet(rows) => &rows.batch.words,
        }
    }

    /// How far it has been read.
    pub fn progress(&self) -> Progress {
        let bytes = match (&self.rows, self.total) {
            (Format::Parquet(rows), Some(total)) => rows.share(total),
            _ => self.read.load(Ordering::Relaxed),
        };
        Progress { bytes, bytes_total: self.total, rows: self.rows() }
    }

    /// What was wrong with single rows so far.
    pub fn warnings(&self) -> &Warnings {
        &self.warnings
    }

    fn rows(&self) -> u64 {
        match &self.rows {
            Format::Csv(rows) => rows.rows,
            Format::Ndjson(rows) => rows.rows,
            Format::Parquet(rows) => rows.rows,
        }
    }

    fn read_batch(&mut self) -> Result<Option<Input>, RecordingError> {
        let (route, limit, warnings) = (&self.route, self.batch_rows, &mut self.warnings);
        let batch = match &mut self.rows {
            Format::Csv(rows) => rows.next_batch(route, limit, warnings)?,
            Format::Ndjson(rows) => rows.next_batch(limit, warnings)?,
            Format::Parquet(rows) => rows.next_batch(route, limit, warnings)?,
        };
        let Some(mut input) = batch else {
            return if self.readings == 0 { Err(self.no_readings()) } else { Ok(None) };
        };
        if let Some(only) = &self.only {
            keep_asset(&mut input, only);
        }
        // A whole batch of nothing but complaints: the rest of the file would be no better.
        let hopeless = self.readings == 0 && input.assets.is_empty() && !self.warnings.is_empty();
        self.readings += input.readings.len() as u64;
        if hopeless && self.only.is_none() && self.rows() >= self.batch_rows as u64 {
            return Err(self.no_readings());
        }
        Ok(Some(input))
    }

    fn no_readings(&self) -> RecordingError {
        let reason = match (&self.only, self.warnings.of_rows()) {
            (_, true) => self.warnings.to_string(),
            (Some(only), false) => format!("no row is of asset `{only}`"),
            (None, false) if self.warnings.is_empty() => "every value is missing".into(),
            (None, false) => format!("every value is missing; {}", self.warnings),
        };
        RecordingError::NoReadings { path: self.path.clone(), rows: self.rows(), reason }
    }
}

impl Iterator for Recording {
    type Item = Result<Input, RecordingError>;

    /// The next batch. After an error there are no more.
    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let batch = self.read_batch();
        self.ended = !matches!(batch, Ok(Some(_)));
        batch.transpose()
    }
}

/// The kind by name, where the name says it, else by the first bytes.
fn kind(path: &Path, head: &[u8]) -> Kind {
    let name = path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    match extension {
        _ if head.starts_with(b"PAR1") => Kind::Parquet,
        "csv" | "tsv" | "txt" => Kind::Csv,
        "ndjson" | "jsonl" | "json" => Kind::Ndjson,
        "parquet" => Kind::Parquet,
        _ if head.trim_ascii_start().starts_with(b"{") => Kind::Ndjson,
        _ => Kind::Csv,
    }
}

/// The file's name without what says its kind.
fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    name.rsplit_once('.').map_or(name, |(stem, _)| stem).to_owned()
}

/// Leaves only the readings of one asset.
fn keep_asset(input: &mut Input, id: &str) {
    let wanted = input.assets.iter().position(|asset| asset.id == id);
    let readings = std::mem::take(&mut input.readings);
    let assets = std::mem::take(&mut input.assets);
    let Some(wanted) = wanted else { return };
    input.assets.extend(assets.into_iter().nth(wanted));
    for i in (0..readings.len()).filter(|&i| readings.asset[i] as usize == wanted) {
        let (ts, value) = (readings.ts[i], readings.value[i]);
        input.readings.push(0, readings.signal[i], ts, value, readings.quality[i]);
    }
}
