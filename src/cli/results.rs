//! Records into a file, or to standard output, for `replay` and whoever keeps results: NDJSON, CSV, Parquet.
//!
//! NDJSON is the records themselves, one a line, as the uplink sends them, written as they come. CSV and Parquet are
//! one flat table of all types (`super::table`): its columns are known when the last record is, so records wait in a
//! file beside the target until [`Results::finish`], and memory stays bounded. A target is complete or not there: it
//! gets its name when it is finished (standard output and devices, of course, get what comes).

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

pub use super::table::read_parquet;
use super::table::{CsvTable, Layout, ParquetTable};
use crate::record::Record;

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ResultsFormat {
    /// One record a line, as JSON.
    Ndjson,
    /// One table, as text.
    Csv,
    /// One table, in columns.
    Parquet,
}

/// Why results cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// The name does not say how to write them.
    #[error(
        "{target}: its name does not say what to write; end it in .ndjson, .csv or .parquet, or give --format"
    )]
    Format {
        /// The target.
        target: String,
    },
    /// A folder.
    #[error("{target}: is a folder; give a file in it")]
    Folder {
        /// The target.
        target: String,
    },
    /// It, or the file beside it, cannot be made.
    #[error("{}: cannot be created: {source}", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be written on.
    #[error("{target}: cannot be written: {source}")]
    Write {
        /// The target.
        target: String,
        /// Why.
        source: io::Error,
    },
}

impl ResultsError {
    /// Whether the reader of a pipe has gone: nothing is wrong, but nobody wants more.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, ResultsError::Write { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }
}

type Out = Box<dyn Write + Send>;

/// Results being written.
pub struct Results {
    target: String,
    format: ResultsFormat,
    /// Where records go as they come: the target itself, or the file in which they wait.
    writer: BufWriter<Out>,
    /// The target under its temporary name; `None` for standard output and devices.
    part: Option<Unfinished>,
    /// The waiting records of a table.
    spool: Option<Spool>,
    records: u64,
}

/// Records that wait until the columns of their table are known.
struct Spool {
    file: Unfinished,
    layout: Layout,
}

/// A file that is removed unless it gets another name.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // It may have been renamed, or the disk may be gone; there is nobody to tell.
        let _ = fs::remove_file(&self.0);
    }
}

impl Results {
    /// Starts writing to `target`, a path or `-`. The format goes by the path's ending where it is not given; `-` alone
    /// is NDJSON. Errors: a folder, a place where no file can be made, an ending that says nothing.
    pub fn create(target: &str, format: Option<ResultsFormat>) -> Result<Results, ResultsError> {
        let path = Path::new(target);
        if path.is_dir() {
            return Err(ResultsError::Folder { target: target.to_owned() });
        }
        let format = format
            .or_else(|| by_name(target))
            .ok_or_else(|| ResultsError::Format { target: target.to_owned() })?;
        let part = is_plain(path).then(|| Unfinished(beside(path, "part")));
        let table = format != ResultsFormat::Ndjson;
        let spool = table.then(|| {
            let file = if part.is_some() {
                beside(path, "rows")
            } else {
                let (id, now) = (std::process::id(), crate::time::now().0);
                std::env::temp_dir().join(format!("forebay-{id}-{now}.rows"))
            };
            Spool { file: Unfinished(file), layout: Layout::default() }
        });
        let writer: Out = match (&spool, &part) {
            (Some(spool), None) => Box::new(create_new(&spool.file.0)?),
            (Some(spool), Some(_)) => Box::new(create(&spool.file.0)?),
            (None, Some(part)) => Box::new(create(&part.0)?),
            (None, None) => open_as_it_is(path)?,
        };
        let writer = BufWriter::with_capacity(256 << 10, writer);
        Ok(Results { target: target.to_owned(), format, writer, part, spool, records: 0 })
    }

    /// Adds a record.
    pub fn write(&mut self, record: &Record) -> Result<(), ResultsError> {
        self.records += 1;
        if let Some(spool) = &mut self.spool {
            spool.layout.learn(record);
        }
        serde_json::to_writer(&mut self.writer, record)
            .map_err(io::Error::from)
            .and_then(|()| self.writer.write_all(b"\n"))
            .map_err(|source| failed(&self.target, source))
    }

    /// Completes the target and says how many records it holds.
    pub fn finish(mut self) -> Result<u64, ResultsError> {
        let target = self.target.clone();
        self.complete().map_err(|source| failed(&target, source))?;
        Ok(self.records)
    }

    fn complete(&mut self) -> io::Result<()> {
        self.writer.flush()?;
        let path = PathBuf::from(&self.target);
        if let Some(spool) = &self.spool {
            let out: Out = match &self.part {
                Some(part) => Box::new(File::create(&part.0)?),
                None => open_as_it_is(&path).map_err(io::Error::other)?,
            };
            fill(spool, self.format, BufWriter::with_capacity(256 << 10, out))?;
        }
        if let Some(part) = &self.part {
            File::open(&part.0)?.sync_all()?;
            fs::rename(&part.0, &path)?;
        }
        Ok(())
    }
}

/// Brings the waiting records into their table.
fn fill(spool: &Spool, format: ResultsFormat, out: BufWriter<Out>) -> io::Result<()> {
    let file = File::open(&spool.file.0)?;
    let lines = BufReader::with_capacity(256 << 10, file).lines();
    let columns = spool.layout.columns();
    let records = lines.map(|line| -> io::Result<Record> { Ok(serde_json::from_str(&line?)?) });
    if format == ResultsFormat::Csv {
        let mut table = CsvTable::new(out, &columns)?;
        for record in records {
            table.write(&record?)?;
        }
        return table.finish();
    }
    let mut table = ParquetTable::new(out, columns)?;
    for record in records {
        table.write(&record?)?;
    }
    table.finish()
}

fn by_name(target: &str) -> Option<ResultsFormat> {
    let extension = Path::new(target).extension().map(|e| e.to_string_lossy().to_lowercase());
    match extension.as_deref() {
        Some("ndjson" | "jsonl") => Some(ResultsFormat::Ndjson),
        Some("csv") => Some(ResultsFormat::Csv),
        Some("parquet") => Some(ResultsFormat::Parquet),
        _ if target == "-" => Some(ResultsFormat::Ndjson),
        _ => None,
    }
}

/// Whether a file can be put in this place under its name: not on standard output, nor over a device or a pipe.
pub(super) fn is_plain(path: &Path) -> bool {
    path != Path::new("-") && fs::metadata(path).map_or(true, |metadata| metadata.is_file())
}

fn open_as_it_is(path: &Path) -> Result<Out, ResultsError> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdout()));
    }
    let file = File::options().write(true).open(path);
    let file = file.map_err(|source| ResultsError::Create { path: path.to_owned(), source })?;
    Ok(Box::new(file))
}

fn create(path: &Path) -> Result<File, ResultsError> {
    File::create(path).map_err(|source| ResultsError::Create { path: path.to_owned(), source })
}

/// In a folder of everybody's, a file that is there already may be a trap.
fn create_new(path: &Path) -> Result<File, ResultsError> {
    let file = File::options().write(true).create_new(true).open(path);
    file.map_err(|source| ResultsError::Create { path: path.to_owned(), source })
}

/// A hidden name in the same folder, so that the last step is a rename on one disk.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{ending}"))
}

fn failed(target: &str, source: io::Error) -> ResultsError {
    let target = if target == "-" { "standard output" } else { target };
    ResultsError::Write { target: target.to_owned(), source }
}
