//! Parquet recordings, a part of a row group at a time.
//!
//! Called by [`super::Recording`]. polars maps the file and decodes only the columns that are read.

use std::fs::File;
use std::path::{Path, PathBuf};

use polars::prelude::{Column, DataFrame, DataType, PolarsError, Series, TimeUnit as PolarsUnit};
use polars_io::SerReader;
use polars_io::prelude::{ParallelStrategy, ParquetReader};

use super::batch::Batch;
use super::columns::{Columns, Layout, listed};
use super::{RecordingError, RecordingOptions, Warnings};
use crate::decode::time::TimeFault;
use crate::decode::{scalar, shown};
use crate::frame::Input;
use crate::time::Timestamp;

/// Rows decoded at a time: enough to make opening the file again worth it, and a few megabytes a dozen columns.
const PART_ROWS: usize = 32 << 10;

/// A Parquet file being read.
pub(super) struct ParquetRows {
    path: PathBuf,
    names: Vec<String>,
    columns: Columns,
    asset: Option<String>,
    total: usize,
    /// The part that is being taken apart, and how far that is.
    part: Option<Part>,
    decoded: usize,
    pub(super) batch: Batch,
    pub(super) rows: u64,
}

impl ParquetRows {
    pub(super) fn open(
        path: &Path,
        options: &RecordingOptions<'_>,
        asset: Option<String>,
        warnings: &mut Warnings,
    ) -> Result<ParquetRows, RecordingError> {
        let mut reader = ParquetReader::new(open_file(path)?);
        let fail = |e: PolarsError| read_error(path, 0, &e);
        let (names, total) = caught(|| {
            let names = reader.schema()?.iter_names().map(ToString::to_string).collect();
            Ok::<(Vec<String>, usize), PolarsError>((names, reader.num_rows()?))
        })
        .map_err(fail)?;
        let columns = Columns::find(path, &names, options, warnings)?;
        if total == 0 {
            return Err(RecordingError::HeaderOnly {
                path: path.to_owned(),
                found: listed(&names),
            });
        }
        Ok(ParquetRows {
            path: path.to_owned(),
            names,
            columns,
            asset,
            total,
            part: None,
            decoded: 0,
            batch: Batch::default(),
            rows: 0,
        })
    }

    /// How much of `bytes` has been read, by rows.
    pub(super) fn share(&self, bytes: u64) -> u64 {
        (bytes as f64 * (self.rows as f64 / self.total as f64)) as u64
    }

    /// The readings of the next `limit` rows; `None` at the end.
    pub(super) fn next_batch(
        &mut self,
        route: &str,
        limit: usize,
        warnings: &mut Warnings,
    ) -> Result<Option<Input>, RecordingError> {
        let mut taken = 0;
        while taken < limit {
            let part = match self.part.take() {
                Some(part) => part,
                None if self.decoded < self.total => self.read_part()?,
                None => break,
            };
            let end = part.height.min(part.at + limit - taken);
            for row in part.at..end {
                self.rows += 1;
                self.take_row(&part, row, warnings);
            }
            taken += end - part.at;
            if end < part.height {
                self.part = Some(Part { at: end, ..part });
            }
        }
        Ok((taken > 0).then(|| self.batch.take(route)))
    }

    fn read_part(&mut self) -> Result<Part, RecordingError> {
        let height = PART_ROWS.min(self.total - self.decoded);
        let mut wanted = vec![self.columns.time];
        wanted.extend(self.columns.asset);
        match &self.columns.layout {
            Layout::Wide(signals) => wanted.extend(signals.iter().map(|(column, _)| column)),
            Layout::Long { signal, value } => wanted.extend([signal, value]),
        }
        wanted.sort_unstable();
        wanted.dedup();
        let reader = ParquetReader::new(open_file(&self.path)?)
            .with_projection(Some(wanted))
            .with_slice(Some((self.decoded, height)))
            .read_parallel(ParallelStrategy::None);
        let frame =
            caught(|| reader.finish()).map_err(|e| read_error(&self.path, self.decoded, &e))?;
        if frame.height() != height {
            let error = PolarsError::ComputeError("it has fewer rows than it says".into());
            return Err(read_error(&self.path, self.decoded, &error));
        }
        self.decoded += height;
        self.take_apart(&frame)
    }

    /// Columns as plain vectors of what they are used as.
    fn take_apart(&self, frame: &DataFrame) -> Result<Part, RecordingError> {
        let column = |index: usize| {
            let name = self.names.get(index).map_or("", String::as_str);
            let found = frame.column(name);
            found.map_err(|e| read_error(&self.path, self.decoded, &e))
        };
        let values = match &self.columns.layout {
            Layout::Wide(signals) => signals
                .iter()
                .map(|&(index, signal)| Ok((signal, self.numbers(column(index)?)?)))
                .collect::<Result<_, RecordingError>>()?,
            Layout::Long { value, .. } => vec![(0, self.numbers(column(*value)?)?)],
        };
        let names = match &self.columns.layout {
            Layout::Wide(_) => None,
            Layout::Long { signal, .. } => Some(self.text(column(*signal)?)?),
        };
        let assets = self.columns.asset.map(|index| self.text(column(index)?)).transpose()?;
        let times = self.times(column(self.columns.time)?)?;
        Ok(Part { height: frame.height(), at: 0, times, assets, names, values })
    }

    fn take_row(&mut self, part: &Part, row: usize, warnings: &mut Warnings) {
        let number = self.rows;
        let ts = match part.times.get(row) {
            Some(Ok(ts)) => *ts,
            Some(Err(fault)) => {
                warnings.add("rows without a readable time skipped", || {
                    format!("row {number}: {fault}")
                });
                return;
            }
            None => return,
        };
        let times = &self.columns.times;
        let (asset, ts) = match (&part.assets, &self.asset) {
            (Some(ids), _) => match ids.get(row).and_then(Option::as_deref) {
                Some(id) if !id.trim().is_empty() => self.batch.row(id.trim(), ts, times),
                _ => {
                    warnings.add("rows without an asset skipped", || format!("row {number}"));
                    return;
                }
            },
            (None, id) => self.batch.row(id.as_deref().unwrap_or_default(), ts, times),
        };
        let named = part.names.as_ref().map(|names| names.get(row).and_then(Option::as_deref));
        for (signal, values) in &part.values {
            let Some(cell) = values.get(row) else { continue };
            let signal = match named {
                None => Some(*signal),
                Some(name) => self.columns.signals.get(name.unwrap_or_default().trim()).copied(),
            };
            match (signal, cell) {
                (Some(signal), Cell::Number(value)) => self.batch.push(asset, signal, ts, *value),
                (_, Cell::Missing) => {}
                (Some(signal), Cell::Text(text)) => {
                    if let Some(value) = self.batch.words.number(text) {
                        self.batch.push(asset, signal, ts, value);
                        continue;
                    }
                    warnings.add("values that are no numbers", || {
                        format!("row {number}: \"{}\"", shown(text))
                    });
                }
                (None, _) => {
                    warnings.add("rows of signals that the schema does not know", || {
                        format!("`{}` (row {number})", shown(named.flatten().unwrap_or_default()))
                    });
                }
            }
        }
    }

    fn times(&self, column: &Column) -> Result<Vec<Result<Timestamp, TimeFault>>, RecordingError> {
        let series = column.as_materialized_series();
        let fail = |e: PolarsError| read_error(&self.path, self.decoded, &e);
        let missing = || self.columns.times.not_a_time("nothing".into());
        match series.dtype() {
            DataType::Datetime(_, zone) => {
                let civil = zone.is_none();
                let micros = cast(series, &DataType::Datetime(PolarsUnit::Microseconds, None))
                    .and_then(|s| cast(&s, &DataType::Int64))
                    .map_err(fail)?;
                let micros = micros.i64().map_err(fail)?;
                let moment = |micros: i64| {
                    if civil {
                        self.columns.times.civil(Timestamp(micros)).ok_or_else(missing)
                    } else {
                        Ok(Timestamp(micros))
                    }
                };
                Ok(micros.iter().map(|m| m.map_or_else(|| Err(missing()), moment)).collect())
            }
            kind if kind.is_integer() => {
                let numbers = cast(series, &DataType::Int64).map_err(fail)?;
                let numbers = numbers.i64().map_err(fail)?;
                let moment = |number| self.columns.times.integer(number);
                Ok(numbers.iter().map(|n| n.map_or_else(|| Err(missing()), moment)).collect())
            }
            kind if kind.is_float() => {
                let numbers = cast(series, &DataType::Float64).map_err(fail)?;
                let numbers = numbers.f64().map_err(fail)?;
                let moment = |number| self.columns.times.float(number);
                Ok(numbers.iter().map(|n| n.map_or_else(|| Err(missing()), moment)).collect())
            }
            DataType::String => {
                let texts = series.str().map_err(fail)?;
                let moment = |text| self.columns.times.text(text);
                Ok(texts.iter().map(|t| t.map_or_else(|| Err(missing()), moment)).collect())
            }
            other => Err(self.wrong_type(series, other, "a time: datetime, number or text")),
        }
    }

    fn numbers(&self, column: &Column) -> Result<Vec<Cell>, RecordingError> {
        let series = column.as_materialized_series();
        let fail = |e: PolarsError| read_error(&self.path, self.decoded, &e);
        match series.dtype() {
            DataType::String => {
                let texts = series.str().map_err(fail)?;
                let cell = |text: &str| match scalar::number(text) {
                    _ if text.trim().is_empty() => Cell::Missing,
                    Some(value) => Cell::Number(value),
                    None => Cell::Text(text.to_owned()),
                };
                Ok(texts.iter().map(|text| text.map_or(Cell::Missing, cell)).collect())
            }
            kind if kind.is_primitive_numeric() || *kind == DataType::Boolean => {
                let numbers = cast(series, &DataType::Float64).map_err(fail)?;
                let numbers = numbers.f64().map_err(fail)?;
                Ok(numbers.iter().map(|n| n.map_or(Cell::Missing, Cell::Number)).collect())
            }
            DataType::Null => Ok(series.iter().map(|_| Cell::Missing).collect()),
            other => Err(self.wrong_type(series, other, "numbers")),
        }
    }

    fn text(&self, column: &Column) -> Result<Vec<Option<String>>, RecordingError> {
        let series = column.as_materialized_series();
        let kind = series.dtype();
        if !kind.is_integer() && *kind != DataType::String {
            return Err(self.wrong_type(series, kind, "text"));
        }
        let fail = |e: PolarsError| read_error(&self.path, self.decoded, &e);
        let texts = cast(series, &DataType::String).map_err(fail)?;
        let texts = texts.str().map_err(fail)?;
        Ok(texts.iter().map(|text| text.map(str::to_owned)).collect())
    }

    fn wrong_type(
        &self,
        series: &Series,
        found: &DataType,
        expected: &'static str,
    ) -> RecordingError {
        RecordingError::ColumnType {
            path: self.path.clone(),
            column: series.name().to_string(),
            found: found.to_string(),
            expected,
        }
    }
}

/// Some rows, column by column.
struct Part {
    height: usize,
    at: usize,
    times: Vec<Result<Timestamp, TimeFault>>,
    assets: Option<Vec<Option<String>>>,
    names: Option<Vec<Option<String>>>,
    /// By signal; in a long recording one column of all signals.
    values: Vec<(u16, Vec<Cell>)>,
}

enum Cell {
    Missing,
    Number(f64),
    Text(String),
}

fn cast(series: &Series, to: &DataType) -> Result<Series, PolarsError> {
    series.cast(to)
}

/// polars trusts what a file says of itself and panics on some kinds of damage; here that is an error like others.
fn caught<T>(read: impl FnOnce() -> Result<T, PolarsError>) -> Result<T, PolarsError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason");
        Err(PolarsError::ComputeError(format!("the file is damaged ({said})").into()))
    })
}

fn open_file(path: &Path) -> Result<File, RecordingError> {
    File::open(path).map_err(|source| RecordingError::Open { path: path.to_owned(), source })
}

fn read_error(path: &Path, row: usize, error: &PolarsError) -> RecordingError {
    RecordingError::Read {
        path: path.to_owned(),
        place: format!("row {row}"),
        reason: error.to_string(),
    }
}
