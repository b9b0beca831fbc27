//! CSV recordings, row by row: bounded memory however large the file, and every complaint with its line.
//!
//! Called by [`super::Recording`]. The crate `csv` splits bytes, so text that is not UTF-8 can be taken as Latin-1, and
//! a ragged row costs only itself.

use std::borrow::Cow;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use csv::{ByteRecord, Reader, ReaderBuilder};

use super::batch::Batch;
use super::columns::{Columns, Layout, listed, wanted_names};
use super::source::Source;
use super::{RecordingError, RecordingOptions, Warnings};
use crate::decode::{scalar, shown};
use crate::frame::Input;
use crate::pipeline::spec::RecordingSpec;
use crate::schema::Schema;
use crate::time::Timestamp;

/// Separators that are tried.
const DELIMITERS: [u8; 4] = [b';', b'\t', b',', b'|'];
/// Rows looked at to find the separator.
const SNIFFED_ROWS: usize = 20;
/// How a value that was not taken is written.
const MISSING: [&[u8]; 6] = [b"", b"-", b"NA", b"N/A", b"null", b"NULL"];

/// Longest row that is read. A quote that nobody closes would make a row of the rest of the file.
const ROW_MAX: u64 = 16 << 20;

/// A CSV file being read.
pub(super) struct CsvRows {
    path: PathBuf,
    reader: Reader<Guard>,
    /// Up to which byte the guard lets the reader go.
    allowed: Arc<AtomicU64>,
    columns: Columns,
    width: usize,
    /// Whether a comma in a number is its decimal point: it separates nothing.
    decimal_comma: bool,
    /// The asset of rows that do not name one.
    asset: Option<String>,
    row: ByteRecord,
    /// Whether `row` holds a row that was not taken yet.
    peeked: bool,
    pub(super) batch: Batch,
    pub(super) rows: u64,
}

impl CsvRows {
    pub(super) fn open(
        path: &Path,
        source: Source,
        options: &RecordingOptions<'_>,
        asset: Option<String>,
        warnings: &mut Warnings,
    ) -> Result<CsvRows, RecordingError> {
        let delimiter = delimiter(path, &source, &options.spec, options.schema)?;
        let allowed = Arc::new(AtomicU64::new(ROW_MAX));
        let guard = Guard {
            inner: source.reader,
            passed: 0,
            allowed: Arc::clone(&allowed),
            returns: source.head.windows(2).any(|two| two == b"\r\n"),
        };
        let mut reader = ReaderBuilder::new()
            .delimiter(delimiter)
            .flexible(true)
            .buffer_capacity(64 << 10)
            .from_reader(guard);
        let header = reader.byte_headers().map_err(|e| read_error(path, 1, &e))?.clone();
        let mut names = Vec::with_capacity(header.len());
        for field in &header {
            names.push(text(field, 1, warnings).trim().to_owned());
        }
        let columns = Columns::find(path, &names, options, warnings)?;
        let mut rows = CsvRows {
            path: path.to_owned(),
            reader,
            allowed,
            columns,
            width: names.len(),
            decimal_comma: delimiter != b',',
            asset,
            row: ByteRecord::new(),
            peeked: false,
            batch: Batch::default(),
            rows: 0,
        };
        rows.peeked = rows.advance()?;
        if !rows.peeked {
            return Err(RecordingError::HeaderOnly {
                path: path.to_owned(),
                found: listed(&names),
            });
        }
        Ok(rows)
    }

    /// The readings of the next `limit` rows; `None` at the end.
    pub(super) fn next_batch(
        &mut self,
        route: &str,
        limit: usize,
        warnings: &mut Warnings,
    ) -> Result<Option<Input>, RecordingError> {
        let mut taken = 0;
        while taken < limit && (std::mem::take(&mut self.peeked) || self.advance()?) {
            self.rows += 1;
            taken += 1;
            self.take_row(warnings);
        }
        Ok((taken > 0).then(|| self.batch.take(route)))
    }

    fn advance(&mut self) -> Result<bool, RecordingError> {
        let position = self.reader.position();
        let line = position.line();
        self.allowed.store(position.byte() + ROW_MAX, Ordering::Relaxed);
        self.reader.read_byte_record(&mut self.row).map_err(|e| read_error(&self.path, line, &e))
    }

    fn take_row(&mut self, warnings: &mut Warnings) {
        let CsvRows { row, columns, batch, .. } = self;
        let line = row.position().map_or(0, csv::Position::line);
        // A separator at the end of every line is a habit of some loggers, not a field.
        let extra_empty =
            row.len() > self.width && row.iter().skip(self.width).all(<[u8]>::is_empty);
        if row.len() != self.width && !extra_empty {
            let (width, found) = (self.width, row.len());
            warnings.add("ragged rows skipped", || {
                format!("line {line} has {found} fields, not {width}")
            });
            return;
        }
        let field = |column: usize| row.get(column).unwrap_or_default();
        let ts = match columns.times.text(&text(field(columns.time), line, warnings)) {
            Ok(ts) => ts,
            Err(fault) => {
                warnings.add("rows without a readable time skipped", || {
                    format!("line {line}: {fault}")
                });
                return;
            }
        };
        let (asset, ts) = match (columns.asset, &self.asset) {
            (Some(column), _) => {
                let id = text(field(column), line, warnings);
                if id.trim().is_empty() {
                    warnings.add("rows without an asset skipped", || format!("line {line}"));
                    return;
                }
                batch.row(id.trim(), ts, &columns.times)
            }
            (None, id) => batch.row(id.as_deref().unwrap_or_default(), ts, &columns.times),
        };
        let mut cells = Cells { batch, ts, asset, line, decimal_comma: self.decimal_comma };
        match &columns.layout {
            Layout::Wide(signals) => {
                for &(column, signal) in signals {
                    cells.push(signal, field(column), warnings);
                }
            }
            Layout::Long { signal, value } => {
                let name = text(field(*signal), line, warnings);
                match columns.signals.get(name.trim()) {
                    Some(&signal) => cells.push(signal, field(*value), warnings),
                    None => warnings.add("rows of signals that the schema does not know", || {
                        format!("`{}` (line {line})", shown(name.trim()))
                    }),
                }
            }
        }
    }
}

/// The values of one row on their way into the batch.
struct Cells<'b> {
    batch: &'b mut Batch,
    ts: Timestamp,
    asset: u32,
    line: u64,
    decimal_comma: bool,
}

impl Cells<'_> {
    fn push(&mut self, signal: u16, bytes: &[u8], warnings: &mut Warnings) {
        let bytes = bytes.trim_ascii();
        if MISSING.contains(&bytes) {
            return;
        }
        let number = self.number(bytes);
        let word = || self.batch.words.number(&String::from_utf8_lossy(bytes));
        if let Some(value) = number.or_else(word) {
            self.batch.push(self.asset, signal, self.ts, value);
            return;
        }
        let line = self.line;
        warnings.add("values that are no numbers", || {
            format!("line {line}: \"{}\"", shown(&String::from_utf8_lossy(bytes)))
        });
    }

    fn number(&self, bytes: &[u8]) -> Option<f64> {
        let text = std::str::from_utf8(bytes).ok()?;
        scalar::number(text).or_else(|| {
            let comma = self.decimal_comma && text.matches(',').count() == 1 && !text.contains('.');
            comma.then(|| scalar::number(&text.replace(',', "."))).flatten()
        })
    }
}

/// A field as text; what is not UTF-8 is Latin-1, whose bytes are the characters of the same number.
fn text<'f>(field: &'f [u8], line: u64, warnings: &mut Warnings) -> Cow<'f, str> {
    if let Ok(text) = std::str::from_utf8(field) {
        return Cow::Borrowed(text);
    }
    let latin: String = field.iter().map(|&byte| char::from(byte)).collect();
    warnings.add("fields read as Latin-1, because they are not UTF-8", || {
        format!("line {line}: \"{}\"", shown(&latin))
    });
    Cow::Owned(latin)
}

/// Keeps a single row from taking all memory, and lines apart.
struct Guard {
    inner: Box<dyn Read + Send>,
    passed: u64,
    allowed: Arc<AtomicU64>,
    /// Whether lines end in CR LF. The CR is left out: it would end the row by itself, and the LF be counted as a part
    /// of the next row, whose line would be told one too low.
    returns: bool,
}

impl Read for Guard {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.passed > self.allowed.load(Ordering::Relaxed) {
            let reason = format!("the row has more than {ROW_MAX} bytes; is a quote left open?");
            return Err(io::Error::other(reason));
        }
        loop {
            let size = self.inner.read(buffer)?;
            self.passed += size as u64;
            let kept = if self.returns { without_returns(buffer, size) } else { size };
            if kept > 0 || size == 0 {
                return Ok(kept);
            }
        }
    }
}

/// Takes every CR out of the first `size` bytes; how many are left.
fn without_returns(buffer: &mut [u8], size: usize) -> usize {
    let mut kept = 0;
    for at in 0..size {
        if buffer[at] != b'\r' {
            buffer[kept] = buffer[at];
            kept += 1;
        }
    }
    kept
}

fn read_error(path: &Path, line: u64, error: &csv::Error) -> RecordingError {
    let line = error.position().map_or(line, csv::Position::line);
    let place = format!("line {line}");
    RecordingError::Read { path: path.to_owned(), place, reason: error.to_string() }
}

/// The separator: as set, or the one under which the header holds most of the names that are wanted and the rows are
/// as wide as the header.
fn delimiter(
    path: &Path,
    source: &Source,
    spec: &RecordingSpec,
    schema: &Schema,
) -> Result<u8, RecordingError> {
    let wanted = wanted_names(spec, schema);
    let looks = |delimiter: u8| Looks::of(source, delimiter, &wanted);
    let best = DELIMITERS
        .into_iter()
        .max_by_key(|&delimiter| looks(delimiter).rank())
        .expect("invariant: there are delimiters to try");
    let Some(set) = &spec.delimiter else { return Ok(best) };
    let set = match set.as_str() {
        "\\t" | "tab" => b'\t',
        one if one.len() == 1 && one.is_ascii() => one.as_bytes()[0],
        other => return Err(RecordingError::BadDelimiter { delimiter: other.to_owned() }),
    };
    if looks(set).width == 1 && looks(best).width > 1 {
        let header = source.head.split(|&b| b == b'\n').next().unwrap_or_default();
        return Err(RecordingError::WrongDelimiter {
            path: path.to_owned(),
            set: char::from(set).escape_default().to_string(),
            looks_like: char::from(best).escape_default().to_string(),
            header: shown(String::from_utf8_lossy(header).trim_end()),
        });
    }
    Ok(set)
}

/// How a file looks with one separator.
struct Looks {
    width: usize,
    known: usize,
    regular: usize,
}

impl Looks {
    fn of(source: &Source, delimiter: u8, wanted: &[&str]) -> Looks {
        // The last line of a part of a file may be a part of a line.
        let end = match source.head.iter().rposition(|&b| b == b'\n') {
            Some(end) if !source.whole => end,
            _ => source.head.len(),
        };
        let head = source.head.get(..end).unwrap_or_default();
        let mut reader = ReaderBuilder::new()
            .delimiter(delimiter)
            .flexible(true)
            .has_headers(false)
            .from_reader(head);
        let mut rows = reader.byte_records().map_while(Result::ok);
        let header = rows.next().unwrap_or_default();
        let names: Vec<Cow<'_, str>> = header.iter().map(String::from_utf8_lossy).collect();
        let known = wanted.iter().filter(|w| names.iter().any(|n| n.trim() == w.trim())).count();
        let regular = rows.take(SNIFFED_ROWS).filter(|row| row.len() == header.len()).count();
        Looks { width: header.len(), known, regular }
    }

    fn rank(&self) -> (usize, usize, usize) {
        let split = usize::from(self.width > 1);
        (self.known * split, self.regular * split, self.width)
    }
}
