//! Records of all types as one flat table.
//!
//! Used by [`super::results`]. Columns are the fields of the records' JSON: those of an object have its name before
//! theirs (`features.flow.mean`, `scores.anomaly`, `tags.site`); a list stays JSON text. A raw record is a row a
//! reading, with `signal`, `at` and `value`; an aggregate a row an interval, with `signal`, `at`, `count`, `min` and so on.
//! A record has nothing in the columns that are not its type's. [`read_parquet`] makes records of it again.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use polars::prelude::{
    Column, DataFrame, DataType, IntoColumn, NamedFrom, PolarsError, Schema, Series, TimeUnit,
    TimeZone,
};
use polars_io::SerReader;
use polars_io::parquet::write::BatchedWriter;
use polars_io::prelude::{ParallelStrategy, ParquetReader, ParquetWriter};
use serde_json::{Map, Value};

use crate::record::{Aggregate, RawReading, RawRecord, Record, VerdictRecord};
use crate::time::Timestamp;

/// Rows of a row group.
const GROUP_ROWS: usize = 32 << 10;

/// Groups of columns in their order, with the type of each in Parquet.
const GROUPS: [(&str, Kind); 47] = [
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
    ("kind", Kind::Text),
    ("since", Kind::Time),
    ("before", Kind::Number),
    ("verdict", Kind::Text),
    ("fault", Kind::Text),
    ("given", Kind::Time),
    ("peak", Kind::Number),
    ("peak_start", Kind::Time),
    ("until", Kind::Time),
];

/// Groups that are objects in a record.
const OBJECTS: [&str; 3] = ["tags", "features", "scores"];
/// Fields that are lists in a record, and JSON text here.
const LISTS: [&str; 3] = ["models", "contributions", "assets"];
/// Fields that are true or false in a record, and text here.
const FLAGS: [&str; 1] = ["retrain"];
/// Columns that differ between the rows of a record.
const OF_A_ROW: [&str; 9] =
    ["signal", "at", "value", "count", "min", "max", "mean", "last", "last_at"];

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
        Record::Raw(RawRecord { signals, .. }) | Record::Verdict(VerdictRecord { signals, .. })
            if !signals.is_empty() =>
        {
            let readings = signals.iter().flat_map(|(signal, readings)| {
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

/// Reading back.
impl Cells {
    fn from_column(column: &Column) -> Result<Cells, PolarsError> {
        let series = column.as_materialized_series();
        Ok(match series.dtype() {
            DataType::String => {
                Cells::Text(series.str()?.iter().map(|text| text.map(str::to_owned)).collect())
            }
            DataType::Datetime(..) => {
                let micros = series.cast(&DataType::Int64)?;
                Cells::Time(micros.i64()?.iter().collect())
            }
            kind if kind.is_integer() => Cells::Integer(series.i64()?.iter().collect()),
            _ => Cells::Number(series.f64()?.iter().collect()),
        })
    }

    fn value(&self, row: usize) -> Option<Value> {
        match self {
            Cells::Text(cells) => cells.get(row)?.clone().map(Value::from),
            Cells::Number(cells) => cells.get(row)?.map(Value::from),
            Cells::Integer(cells) => cells.get(row)?.map(Value::from),
            Cells::Time(cells) => cells.get(row)?.map(|at| Timestamp(at).to_string().into()),
        }
    }

    fn text(&self, row: usize) -> Option<&str> {
        if let Cells::Text(cells) = self { cells.get(row)?.as_deref() } else { None }
    }

    fn time(&self, row: usize) -> Option<Timestamp> {
        if let Cells::Time(cells) = self { (*cells.get(row)?).map(Timestamp) } else { None }
    }

    fn integer(&self, row: usize) -> Option<i64> {
        if let Cells::Integer(cells) = self { *cells.get(row)? } else { None }
    }

    fn number(&self, row: usize) -> Option<f64> {
        if let Cells::Number(cells) = self { *cells.get(row)? } else { None }
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

/// The records of a table that [`ParquetTable`] wrote, in their order. Numbers that were null are not there at all.
pub fn read_parquet(path: &Path) -> io::Result<Vec<Record>> {
    let reader = ParquetReader::new(File::open(path)?).read_parallel(ParallelStrategy::None);
    let frame = reader.finish().map_err(io::Error::other)?;
    let named = |column: &Column| Ok((column.name().to_string(), Cells::from_column(column)?));
    let columns: Result<HashMap<_, _>, PolarsError> = frame.columns().iter().map(named).collect();
    let columns = columns.map_err(io::Error::other)?;
    let mut records: Vec<Record> = Vec::new();
    for row in 0..frame.height() {
        let text = |name: &str| columns.get(name).and_then(|cells| cells.text(row));
        let signal = text("signal");
        if signal.is_none() || records.last().map(Record::id) != text("id") {
            let fields = Value::Object(fields(&columns, row, signal.is_some()));
            records.push(serde_json::from_value(fields)?);
        }
        if let (Some(signal), Some(record)) = (signal, records.last_mut()) {
            let added = add_row(record, signal, &columns, row);
            added.ok_or_else(|| io::Error::other(format!("row {row} lacks a value")))?;
        }
    }
    Ok(records)
}

/// Adds a row's reading or interval to the record that it belongs to.
fn add_row(
    record: &mut Record,
    signal: &str,
    columns: &HashMap<String, Cells>,
    row: usize,
) -> Option<()> {
    let time = |name: &str| columns.get(name).and_then(|cells| cells.time(row));
    let number = |name: &str| columns.get(name).and_then(|cells| cells.number(row));
    match record {
        Record::Raw(RawRecord { signals, .. }) | Record::Verdict(VerdictRecord { signals, .. }) => {
            let reading = RawReading(time("at")?, number("value")?);
            signals.entry(signal.to_owned()).or_default().push(reading);
        }
        Record::Aggregate(aggregate) => {
            let count = columns.get("count").and_then(|cells| cells.integer(row))?;
            let interval = Aggregate {
                start: time("at")?,
                count: u64::try_from(count).ok()?,
                min: number("min")?,
                max: number("max")?,
                mean: number("mean")?,
                last: number("last")?,
                last_at: time("last_at")?,
            };
            aggregate.signals.entry(signal.to_owned()).or_default().push(interval);
        }
        _ => {}
    }
    Some(())
}

/// A row as the fields of a record; where a record has several, without what differs between them.
fn fields(columns: &HashMap<String, Cells>, row: usize, is_one_of: bool) -> Map<String, Value> {
    let mut fields = Map::new();
    let needed: &[&str] = if is_one_of { &["signals"] } else { &OBJECTS };
    for name in needed {
        fields.insert((*name).to_owned(), Value::Object(Map::new()));
    }
    for (name, cells) in columns {
        let Some(value) = cells.value(row) else { continue };
        match name.split_once('.') {
            Some((group, name)) if OBJECTS.contains(&group) => {
                let object = fields.entry(group).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(object) = object {
                    object.insert(name.to_owned(), value);
                }
            }
            _ if is_one_of && OF_A_ROW.contains(&name.as_str()) => {}
            _ => {
                let is_coded = LISTS.contains(&name.as_str()) || FLAGS.contains(&name.as_str());
                let list = value.as_str().filter(|_| is_coded);
                let list = list.and_then(|text| serde_json::from_str(text).ok());
                fields.insert(name.clone(), list.unwrap_or(value));
            }
        }
    }
    fields
}
