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

/// A time as RFC 3339, or the same in UTC with a space and without a zone.
pub fn time(text: &str) -> Result<Timestamp, String> {
    let text = text.trim();
    let whole = if text.ends_with('Z') || text.contains('+') || text.matches('-').count() > 2 {
        text.to_owned()
    } else {
        format!("{}Z", text.replace(' ', "T"))
    };
    whole.parse::<Timestamp>().map_err(|error| format!("`{text}` is no time: {error}"))
}

/// Whether each time lies in one of the intervals.
pub fn within(times: &[Timestamp], intervals: &[Interval]) -> Vec<bool> {
    times.iter().map(|at| intervals.iter().any(|interval| interval.holds(*at))).collect()
}

/// A time during which a machine was faulty.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// From when to when.
    pub interval: Interval,
    /// Which kind; empty where there is only one.
    pub name: String,
}

/// Why a file of times cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LabelsError {
    /// It cannot be opened, or not to its end.
    #[error("labels {path}: cannot be read: {reason}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// It is neither of the two kinds.
    #[error(
        "labels {path}: {reason}; expected a CSV with the columns asset, from, to and perhaps fault, or JSON of \
         recordings' names, each with pairs of times"
    )]
    Format {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

/// Reads a file of times, by asset; in JSON an asset is a recording's name without folder and ending.
pub fn faults(path: &Path) -> Result<BTreeMap<String, Vec<Fault>>, LabelsError> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path);
    let text =
        text.map_err(|e| LabelsError::Read { path: shown.clone(), reason: e.to_string() })?;
    let is_json = text.trim_start().starts_with('{');
    let read = if is_json { from_json(&text) } else { from_csv(&text) };
    read.map_err(|reason| LabelsError::Format { path: shown, reason })
}

fn from_json(text: &str) -> Result<BTreeMap<String, Vec<Fault>>, String> {
    let all: BTreeMap<String, Vec<(String, String)>> =
        serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut faults: BTreeMap<String, Vec<Fault>> = BTreeMap::new();
    for (name, pairs) in all {
        let asset = Path::new(&name).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        for (from, to) in pairs {
            let fault = fault(&from, &to, String::new())?;
            faults.entry(asset.clone()).or_default().push(fault);
        }
    }
    Ok(faults)
}

fn from_csv(text: &str) -> Result<BTreeMap<String, Vec<Fault>>, String> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let header = reader.headers().map_err(|error| error.to_string())?.clone();
    let place = |name: &str| header.iter().position(|column| column == name);
    let needed = |name: &str| place(name).ok_or_else(|| format!("there is no column `{name}`"));
    let (asset, from, to, name) =
        (needed("asset")?, needed("from")?, needed("to")?, place("fault"));
    let mut faults: BTreeMap<String, Vec<Fault>> = BTreeMap::new();
    for row in reader.records() {
        let row = row.map_err(|error| error.to_string())?;
        let cell = |at: usize| row.get(at).unwrap_or_default();
        let name = name.map(cell).unwrap_or_default().to_owned();
        let fault = fault(cell(from), cell(to), name)?;
        faults.entry(cell(asset).to_owned()).or_default().push(fault);
    }
    Ok(faults)
}

fn fault(from: &str, to: &str, name: String) -> Result<Fault, String> {
    let (from, to) = (time(from)?, time(to)?);
    if to < from {
        return Err(format!("a fault from {from} to {to} ends before it begins"));
    }
    Ok(Fault { interval: Interval { from, to }, name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_file_say_the_same() {
        let json = r#"{"a/pump-1.csv": [["2026-01-01 00:00:00.000", "2026-01-01 01:00:00"]], "b.csv": []}"#;
        let csv = "asset,from,to\npump-1, 2026-01-01T00:00:00Z, 2026-01-01 01:00:00\n";
        let (json, csv) = (from_json(json).unwrap(), from_csv(csv).unwrap());
        assert_eq!(json, csv);
        assert_eq!(
            csv["pump-1"][0].interval.to.since(csv["pump-1"][0].interval.from).as_seconds(),
            3600.0
        );
        let kinds = from_csv("fault,to,from,asset\nleak,2026-01-02,2026-01-01,p\n");
        assert!(kinds.unwrap_err().contains("no time"));
        let kinds = "fault,to,from,asset\nleak,2026-01-02T00:00:00+01:00,2026-01-01T00:00:00Z,p\n";
        assert_eq!(from_csv(kinds).unwrap()["p"][0].name, "leak");
        for (text, part) in [
            ("asset,from\n", "`to`"),
            ("asset,from,to\np,2026-01-02 00:00:00,2026-01-01 00:00:00\n", "before it begins"),
        ] {
            assert!(from_csv(text).unwrap_err().contains(part), "{text}");
        }
        assert!(from_json("{").is_err());
    }
}
