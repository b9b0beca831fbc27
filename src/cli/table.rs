//! Records of all types as one flat table.
//!
//! Used by [`super::results`]. Columns are the fields of the records' JSON: those of an object have its name before
//! theirs (`features.flow.mean`, `scores.anomaly`, `tags.site`); a list stays JSON text. A raw record is a row a
//! reading, with `signal`, `at` and `value`, an aggregate a row an interval, with `signal`, `at`, `count`, `min` and so on. A record has nothing in the columns that are not its type's.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use polars::prelude::{
    Column, DataFrame, DataType, IntoColumn, NamedFrom, PolarsError, Schema, Series, TimeUnit,
    TimeZone,
};
use polars_io::parquet::write::BatchedWriter;
use polars_io::prelude::ParquetWriter;
use serde_json::Value;

use crate::record::{Aggregate, RawReading, Record};
use crate::time::Timestamp;

/// Rows of a row group.
const GROUP_ROWS: usize = 32 << 10;

/// Groups of columns in their order, with the type of each in Parquet.
const GROUPS: [(&str, Kind); 38] = [
    ("type", Kind::Text),
    ("id", Kind::Text),
    ("node", Kind::Text),
    ("pipeline", Kind::Text),
    ("asset", Kind::Text),
    ("tags", Kind::Text),
    ("window_start", Kind::Time),
    ("window_end", Kind::Time),
    ("scores", Kind::Number),
    ("threshold", Kind::Number),
    ("coverage", Kind::Number),
    ("model", Kind::Text),
    ("model_version", Kind::Text),
    ("features", Kind::Number),
    ("signal", Kind::Text),
    ("name", Kind::Text),
    ("state", Kind::Text),
    ("severity", Kind::Text),
    ("at", Kind::Time),
    ("on", Kind::Text),
    ("value", Kind::Number),
    ("limit", Kind::Number),
    ("lane", Kind::Text),
    ("count", Kind::Integer),
    ("first_tick", Kind::Integer),
    ("last_tick", Kind::Integer),
    ("reason", Kind::Text),
    ("from", Kind::Time),
    ("to", Kind::Time),
    ("assets", Kind::Text),
    ("more_assets", Kind::Integer),
    ("unread", Kind::Integer),
    ("every", Kind::Text),
    ("min", Kind::Number),
    ("max", Kind::Number),
    ("mean", Kind::Number),
    ("last", Kind::Number),
    ("last_at", Kind::Time),
];

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
    Integer,
    Time,
}

/// The columns met so far.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// By place of the group in [`GROUPS`] and name.
    columns: BTreeMap<(usize, String), Kind>,
}

impl Layout {
    /// Takes in the columns of a record.
    pub(super) fn learn(&mut self, record: &Record) {
        for row in rows(record) {
            for (name, _) in row {
                let group = name.split_once('.').map_or(name.as_str(), |(group, _)| group);
                let place = GROUPS.iter().position(|known| known.0 == group);
                let kind = place.and_then(|p| GROUPS.get(p)).map_or(Kind::Text, |known| known.1);
                self.columns.entry((place.unwrap_or(GROUPS.len()), name)).or_insert(kind);
            }
        }
    }

    /// Names and types, in their order.
    pub(super) fn columns(&self) -> Vec<(String, Kind)> {
        self.columns.iter().map(|((_, name), kind)| (name.clone(), *kind)).collect()
    }
}

/// The rows of a record, field by field.
fn rows(record: &Record) -> Vec<Vec<(String, Value)>> {
    let Ok(Value::Object(fields)) = serde_json::to_value(record) else { return Vec::new() };
    let mut row = Vec::with_capacity(fields.len() * 2);
    for (name, value) in fields {
        match value {
            _ if name == "signals" => {}
            Value::Object(inner) => {
                row.extend(inner.into_iter().map(|(key, value)| (format!("{name}.{key}"), value)));
            }
            value => row.push((name, value)),
        }
    }
    let with = |signal: &str, fields: Vec<(&str, Value)>| {
        let mut row = row.clone();
        row.push(("signal".into(), signal.into()));
        row.extend(fields.into_iter().map(|(name, value)| (name.to_owned(), value)));
        row
    };
    match record {
        Record::Raw(raw) => {
            let readings = raw.signals.iter().flat_map(|(signal, readings)| {
                readings.iter().map(move |reading| (signal, reading))
            });
            let with_reading = |(signal, reading): (&String, &RawReading)| {
                with(
                    signal,
                    vec![("at", reading.0.to_string().into()), ("value", reading.1.into())],
                )
            };
            readings.map(with_reading).collect()
        }
        Record::Aggregate(aggregate) => {
            let intervals = aggregate.signals.iter().flat_map(|(signal, intervals)| {
                intervals.iter().map(move |interval| (signal, interval))
            });
            let with_interval = |(signal, one): (&String, &Aggregate)| {
                let fields = vec![
                    ("at", one.start.to_string().into()),
                    ("count", one.count.into()),
                    ("min", one.min.into()),
                    ("max", one.max.into()),
                    ("mean", one.mean.into()),
                    ("last", one.last.into()),
                    ("last_at", one.last_at.to_string().into()),
                ];
                with(signal, fields)
            };
            intervals.map(with_interval).collect()
        }
        _ => vec![row],
    }
}

/// Which column a field goes to.
fn places(columns: &[(String, Kind)]) -> HashMap<String, usize> {
    columns.iter().enumerate().map(|(index, (name, _))| (name.clone(), index)).collect()
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

/// A table as CSV: a header, `,` between fields, nothing where there is no value.
pub(super) struct CsvTable<W: Write> {
    writer: csv::Writer<W>,
    places: HashMap<String, usize>,
    fields: Vec<String>,
}

impl<W: Write> CsvTable<W> {
    pub(super) fn new(out: W, columns: &[(String, Kind)]) -> io::Result<CsvTable<W>> {
        let mut writer = csv::Writer::from_writer(out);
        if !columns.is_empty() {
            writer.write_record(columns.iter().map(|(name, _)| name))?;
        }
        Ok(CsvTable { writer, places: places(columns), fields: vec![String::new(); columns.len()] })
    }

    pub(super) fn write(&mut self, record: &Record) -> io::Result<()> {
        for row in rows(record) {
            self.fields.iter_mut().for_each(String::clear);
            for (name, value) in row {
                let place = self.places.get(&name).and_then(|&place| self.fields.get_mut(place));
                if let (Some(field), Some(text)) = (place, text(value)) {
                    *field = text;
                }
            }
            self.writer.write_record(&self.fields)?;
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// A table as Parquet, zstd compressed; times are UTC microseconds.
pub(super) struct ParquetTable<W: Write> {
    writer: BatchedWriter<W>,
    columns: Vec<(String, Kind)>,
    places: HashMap<String, usize>,
    group: Vec<Cells>,
    height: usize,
}

/// A column of the row group that is being filled.
enum Cells {
    Text(Vec<Option<String>>),
    Number(Vec<Option<f64>>),
    Integer(Vec<Option<i64>>),
    Time(Vec<Option<i64>>),
}

impl Cells {
    fn of(kind: Kind) -> Cells {
        match kind {
            Kind::Text => Cells::Text(Vec::new()),
            Kind::Number => Cells::Number(Vec::new()),
            Kind::Integer => Cells::Integer(Vec::new()),
            Kind::Time => Cells::Time(Vec::new()),
        }
    }

    /// Grows by one row without a value.
    fn grow(&mut self) {
        match self {
            Cells::Text(cells) => cells.push(None),
            Cells::Number(cells) => cells.push(None),
            Cells::Integer(cells) | Cells::Time(cells) => cells.push(None),
        }
    }

    /// Gives the last row its value.
    fn set(&mut self, value: Value) {
        match self {
            Cells::Text(cells) => put(cells, text(value)),
            Cells::Number(cells) => put(cells, value.as_f64()),
            Cells::Integer(cells) => put(cells, value.as_i64()),
            Cells::Time(cells) => {
                let ts = value.as_str().and_then(|text| text.parse::<Timestamp>().ok());
                put(cells, ts.map(|ts| ts.0));
            }
        }
    }

    fn into_column(self, name: &str) -> Result<Column, PolarsError> {
        let series = match self {
            Cells::Text(cells) => Series::new(name.into(), cells),
            Cells::Number(cells) => Series::new(name.into(), cells),
            Cells::Integer(cells) => Series::new(name.into(), cells),
            Cells::Time(cells) => Series::new(name.into(), cells).cast(&data_type(Kind::Time))?,
        };
        Ok(series.into_column())
    }
}

fn put<T>(cells: &mut [T], value: T) {
    if let Some(last) = cells.last_mut() {
        *last = value;
    }
}

fn data_type(kind: Kind) -> DataType {
    match kind {
        Kind::Text => DataType::String,
        Kind::Number => DataType::Float64,
        Kind::Integer => DataType::Int64,
        Kind::Time => DataType::Datetime(TimeUnit::Microseconds, Some(TimeZone::UTC)),
    }
}

impl<W: Write> ParquetTable<W> {
    pub(super) fn new(out: W, columns: Vec<(String, Kind)>) -> io::Result<ParquetTable<W>> {
        let schema: Schema =
            columns.iter().map(|(name, kind)| (name.into(), data_type(*kind))).collect();
        let writer = ParquetWriter::new(out).set_parallel(false).batched(&schema);
        let group = columns.iter().map(|(_, kind)| Cells::of(*kind)).collect();
        let (writer, places) = (writer.map_err(io::Error::other)?, places(&columns));
        Ok(ParquetTable { writer, columns, places, group, height: 0 })
    }

    pub(super) fn write(&mut self, record: &Record) -> io::Result<()> {
        for row in rows(record) {
            self.group.iter_mut().for_each(Cells::grow);
            self.height += 1;
            for (name, value) in row {
                let place = self.places.get(&name).and_then(|&place| self.group.get_mut(place));
                if let Some(cells) = place {
                    cells.set(value);
                }
            }
        }
        if self.height >= GROUP_ROWS { self.write_group() } else { Ok(()) }
    }

    fn write_group(&mut self) -> io::Result<()> {
        let empty = self.columns.iter().map(|(_, kind)| Cells::of(*kind)).collect();
        let group = std::mem::replace(&mut self.group, empty);
        let columns: Result<Vec<Column>, PolarsError> = group
            .into_iter()
            .zip(&self.columns)
            .map(|(cells, (name, _))| cells.into_column(name))
            .collect();
        let height = std::mem::take(&mut self.height);
        columns
            .and_then(|columns| DataFrame::new(height, columns))
            .and_then(|frame| self.writer.write_batch(&frame))
            .map_err(io::Error::other)
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        if self.height > 0 {
            self.write_group()?;
        }
        self.writer.finish().map(|_| ()).map_err(io::Error::other)
    }
}
