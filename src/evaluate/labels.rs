//! What was true: labels from a column of the recordings, or from a file of times.
//!
//! A column is read as recordings are (CSV, NDJSON, Parquet, gzipped). A file of times is NAB's JSON (a recording's name
//! to pairs of times), or a CSV with the columns `asset`, `from`, `to` and, where there are several kinds, `fault`.

use std::collections::BTreeMap;
use std::path::Path;

use super::metrics::events::Interval;
use crate::ingest::replay::{Recording, RecordingError, RecordingOptions};
use crate::pipeline::spec::RecordingSpec;
use crate::schema::{Schema, Signal};
use crate::time::Timestamp;

/// Rows of a batch.
const BATCH_ROWS: usize = 8192;

/// A column of one asset: times and values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Column {
    /// In the order of the recording.
    pub times: Vec<Timestamp>,
    /// One a time.
    pub values: Vec<f64>,
}

/// Reads one column of a recording, by asset.
pub fn column(
    path: &Path,
    spec: &RecordingSpec,
    asset: Option<&str>,
    name: &str,
) -> Result<BTreeMap<String, Column>, RecordingError> {
    let signal = Signal { name: name.to_owned(), ..Signal::default() };
    let schema = Schema { name: "labels".into(), description: None, signals: vec![signal] };
    let options = RecordingOptions {
        spec: RecordingSpec { signals: BTreeMap::new(), ..spec.clone() },
        asset: asset.map(str::to_owned),
        schema: &schema,
        route: String::new(),
        batch_rows: BATCH_ROWS,
    };
    let mut columns: BTreeMap<String, Column> = BTreeMap::new();
    for batch in Recording::open(path, &options)? {
        let batch = batch?;
        for row in 0..batch.readings.len() {
            let readings = &batch.readings;
            let Some(asset) = batch.assets.get(readings.asset[row] as usize) else { continue };
            let column = columns.entry(asset.id.clone()).or_default();
            column.times.push(readings.ts[row]);
            column.values.push(readings.value[row]);
        }
    }
    Ok(columns)
}

/// Whether each time lies in one of the intervals.
pub fn within(times: &[Timestamp], intervals: &[Interval]) -> Vec<bool> {
    times.iter().map(|at| intervals.iter().any(|interval| interval.holds(*at))).collect()
}
