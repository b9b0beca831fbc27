//! What was true: labels from a column of the recordings, or from a file of times.
//!
//! A column is read as recordings are (CSV, NDJSON, Parquet, gzipped). A file of times is NAB's JSON (a recording's name
//! to pairs of times), or a CSV with the columns `asset`, `from`, `to` and, where there are several kinds, `fault`.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::metrics::events::Interval;
use crate::decode::{WORDS_MAX, Words};
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

/// A column of labels, by asset: what each row was, as a place in `names`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Labels {
    /// Whole numbers.
    pub columns: BTreeMap<String, Column>,
    /// What there is; the first is normal running.
    pub names: Vec<String>,
}

/// What normal running is called where nobody says otherwise. So are 0 and `false`.
pub const NORMAL: &str = "normal";

/// Reads one column of numbers of a recording, by asset.
pub fn column(
    path: &Path,
    spec: &RecordingSpec,
    asset: Option<&str>,
    name: &str,
) -> Result<BTreeMap<String, Column>, RecordingError> {
    let mut columns: BTreeMap<String, Column> = BTreeMap::new();
    let mut recording = open(path, spec, asset, name)?;
    each(&mut recording, |asset, at, value, _| {
        let column = columns.entry(asset.to_owned()).or_default();
        column.times.push(at);
        column.values.push(value);
        Ok::<_, RecordingError>(())
    })?;
    Ok(columns)
}

/// Reads a column of labels of all recordings: numbers (0, or less than a half, is normal) or words. `normal` is the word
/// for normal running. Rows without a label are left out.
pub fn labels(
    paths: &[PathBuf],
    spec: &RecordingSpec,
    asset: Option<&str>,
    name: &str,
    normal: Option<&str>,
) -> Result<Labels, LabelsError> {
    let mut found: BTreeMap<String, Vec<(Timestamp, Label)>> = BTreeMap::new();
    for path in paths {
        let mut recording = open(path, spec, asset, name)?.with_words();
        each(&mut recording, |asset, at, value, words| {
            if value.is_nan() {
                return Ok(());
            }
            if words.is_full() {
                return Err(LabelsError::TooMany { column: name.to_owned() });
            }
            let label = match words.word(value) {
                Some(word) => Label::Word(word.to_owned()),
                None => Label::Number(value),
            };
            found.entry(asset.to_owned()).or_default().push((at, label));
            Ok(())
        })?;
    }
    let all: Vec<&Label> = found.values().flatten().map(|(_, label)| label).collect();
    let are_words = all.iter().any(|label| matches!(label, Label::Word(_)));
    let word = normal.unwrap_or(if are_words { NORMAL } else { "0" });
    let is_normal = |label: &Label| {
        let is_small = matches!(label, Label::Number(number) if *number <= 0.5);
        let is_other = normal.is_some_and(|normal| normal.parse::<f64>().is_ok());
        (is_small && !is_other) || label.to_string().eq_ignore_ascii_case(word)
    };
    let mut kinds: Vec<&Label> = all.iter().copied().filter(|label| !is_normal(label)).collect();
    kinds.sort_by(|a, b| a.order(b));
    kinds.dedup_by(|a, b| a.to_string() == b.to_string());
    let names: Vec<String> =
        std::iter::once(word.to_owned()).chain(kinds.iter().map(ToString::to_string)).collect();
    if are_words && normal.is_none() && !all.iter().any(|label| is_normal(label)) {
        let found = names.get(1..).unwrap_or_default().join(", ");
        return Err(LabelsError::NoNormal { column: name.to_owned(), found });
    }
    let places: BTreeMap<&String, usize> = names.iter().skip(1).zip(1..).collect();
    let place = |label: &Label| match places.get(&label.to_string()) {
        Some(place) if !is_normal(label) => *place as f64,
        _ => 0.0,
    };
    let columns = found.iter().map(|(asset, rows)| {
        let times = rows.iter().map(|(at, _)| *at).collect();
        let values = rows.iter().map(|(_, label)| place(label)).collect();
        (asset.clone(), Column { times, values })
    });
    Ok(Labels { columns: columns.collect(), names })
}

/// What stands in a cell.
enum Label {
    Number(f64),
    Word(String),
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Label::Number(number) => write!(f, "{number}"),
            Label::Word(word) => f.write_str(word),
        }
    }
}

impl Label {
    /// Numbers first.
    fn order(&self, other: &Label) -> Ordering {
        match (self, other) {
            (Label::Number(a), Label::Number(b)) => a.total_cmp(b),
            (Label::Word(a), Label::Word(b)) => a.cmp(b),
            (Label::Number(_), Label::Word(_)) => Ordering::Less,
            (Label::Word(_), Label::Number(_)) => Ordering::Greater,
        }
    }
}

/// A recording of which one column is read.
fn open(
    path: &Path,
    spec: &RecordingSpec,
    asset: Option<&str>,
    name: &str,
) -> Result<Recording, RecordingError> {
    let signal = Signal { name: name.to_owned(), ..Signal::default() };
    let schema = Schema { name: "labels".into(), description: None, signals: vec![signal] };
    let options = RecordingOptions {
        spec: RecordingSpec { signals: BTreeMap::new(), ..spec.clone() },
        asset: asset.map(str::to_owned),
        schema: &schema,
        route: String::new(),
        batch_rows: BATCH_ROWS,
    };
    // The schema is made up above: what is missing is the column that was asked for.
    Recording::open(path, &options).map_err(|error| match error {
        RecordingError::NoSignalColumn { path, found, nearest, .. } => {
            RecordingError::NoColumn { path, column: name.to_owned(), found, nearest }
        }
        other => other,
    })
}

/// Hands on the cells of that column: asset, time, number, and the words that have numbers.
fn each<E: From<RecordingError>>(
    recording: &mut Recording,
    mut take: impl FnMut(&str, Timestamp, f64, &Words) -> Result<(), E>,
) -> Result<(), E> {
    while let Some(batch) = recording.next() {
        let batch = batch?;
        let (readings, words) = (&batch.readings, recording.words());
        for row in 0..readings.len() {
            let Some(asset) = batch.assets.get(readings.asset[row] as usize) else { continue };
            take(&asset.id, readings.ts[row], readings.value[row], words)?;
        }
    }
    Ok(())
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

/// A time during which a machine was faulty.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// From when to when.
    pub interval: Interval,
    /// Which kind; empty where there is only one.
    pub name: String,
}

/// Why labels cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LabelsError {
    /// The recordings.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// Nothing is normal.
    #[error(
        "column `{column}`: no row is `normal` or 0; it has {found}: say which of them is normal running with `--normal`"
    )]
    NoNormal {
        /// The column.
        column: String,
        /// What there is.
        found: String,
    },
    /// It is no column of labels.
    #[error(
        "column `{column}` has {WORDS_MAX} different words and more: is it a column of labels?"
    )]
    TooMany {
        /// The column.
        column: String,
    },
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

    #[test]
    fn words_and_numbers_are_told_apart_and_normal_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.csv");
        let read = |cells: &[&str], normal: Option<&str>| {
            let rows = cells.iter().enumerate();
            let rows: Vec<String> =
                rows.map(|(n, cell)| format!("2026-01-01T00:00:{n:02}Z,{cell}")).collect();
            std::fs::write(&path, format!("time,label\n{}\n", rows.join("\n"))).unwrap();
            let spec = RecordingSpec::default();
            let found = labels(std::slice::from_ref(&path), &spec, None, "label", normal)?;
            let values = found.columns.into_values().next().unwrap_or_default().values;
            Ok::<_, LabelsError>((found.names.join(" "), values))
        };
        let found = |cells: &[&str], normal| read(cells, normal).unwrap();
        assert_eq!(found(&["0", "2", "1.0", "0.4"], None), ("0 1 2".into(), vec![0., 2., 1., 0.]));
        assert_eq!(found(&["True", "False"], None), ("0 1".into(), vec![1.0, 0.0]));
        let words = ["leak", "Normal", "", "bearing", "leak", "NA"];
        assert_eq!(found(&words, None), ("normal bearing leak".into(), vec![2.0, 0.0, 1.0, 2.0]));
        assert_eq!(found(&["ok", "leak"], Some("ok")), ("ok leak".into(), vec![0.0, 1.0]));
        assert_eq!(found(&["0", "leak", "3"], None), ("normal 3 leak".into(), vec![0., 2., 1.]));
        assert_eq!(found(&["1", "2"], Some("2")), ("2 1".into(), vec![1.0, 0.0]));
        let told = read(&["ok", "leak"], None).unwrap_err().to_string();
        assert!(told.contains("leak, ok") && told.contains("--normal"), "{told}");
        let rows: Vec<String> =
            (0..=WORDS_MAX).map(|n| format!("2026-01-01T00:00:00Z,word {n}")).collect();
        std::fs::write(&path, format!("time,label\n{}\n", rows.join("\n"))).unwrap();
        let spec = RecordingSpec::default();
        let told = labels(std::slice::from_ref(&path), &spec, None, "label", None);
        let told = told.unwrap_err().to_string();
        assert!(told.contains("is it a column of labels?"), "{told}");
    }
}
