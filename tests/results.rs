//! Results: the same records in every form, complete or not there at all.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::collections::BTreeMap;
use std::fs;

use forebay::cli::results::{Results, ResultsFormat, read_parquet};
use forebay::ingest::replay::{Recording, RecordingOptions};
use forebay::record::{
    AlarmRecord, AlarmState, Contribution, Lane, LossRecord, RawReading, RawRecord, Record,
    ScoreRecord, Severity,
};
use forebay::schema::{Schema, Signal};
use forebay::time::Timestamp;
use polars::prelude::DataType;
use polars_io::SerReader;
use polars_io::parquet::read::ParquetReader;
use tempfile::TempDir;

fn score(i: i64, feature: &str) -> Record {
    Record::Score(ScoreRecord {
        id: format!("s{i}"),
        node: "n".into(),
        pipeline: "p".into(),
        asset: "pump, \"7\"".into(),
        tags: BTreeMap::from([("site".into(), "nörd".into())]),
        window_start: Timestamp(i * 1_000_000),
        window_end: Timestamp((i + 60) * 1_000_000 + 1),
        features: BTreeMap::from([(feature.into(), Some(0.1 + i as f64)), ("b.max".into(), None)]),
        scores: BTreeMap::from([("anomaly".into(), Some(1e-7))]),
        threshold: Some(0.5),
        coverage: 1.0,
        model: Some("m".into()),
        model_version: None,
        models: Vec::new(),
        contributions: vec![Contribution { name: "b".into(), value: 0.25 }],
    })
}

fn records() -> Vec<Record> {
    let alarm = Record::Alarm(AlarmRecord {
        id: "a".into(),
        node: "n".into(),
        pipeline: "p".into(),
        asset: "x".into(),
        tags: BTreeMap::new(),
        name: "hot\nline".into(),
        state: AlarmState::Unacknowledged,
        severity: Severity::High,
        at: Timestamp(5),
        on: "anomaly".into(),
        value: Some(0.9),
        limit: 0.8,
        by: None,
        reason: None,
        until: Some(Timestamp(9)),
        contributions: Vec::new(),
    });
    let raw = Record::Raw(RawRecord {
        id: "r".into(),
        node: "n".into(),
        pipeline: "p".into(),
        asset: "x".into(),
        tags: BTreeMap::new(),
        signals: BTreeMap::from([
            ("t".into(), vec![RawReading(Timestamp(1), 1.5), RawReading(Timestamp(2), 2.5)]),
            ("u".into(), vec![RawReading(Timestamp(1), -1.0)]),
        ]),
    });
    let loss = Record::Loss(LossRecord {
        id: "l".into(),
        node: "n".into(),
        lane: Lane::Raw,
        count: u64::from(u32::MAX) + 1,
        first_tick: 1,
        last_tick: 9,
        reason: "lane limit".into(),
        from: None,
        to: None,
        assets: Vec::new(),
        more_assets: 0,
        unread: 0,
        at: Timestamp(7),
    });
    vec![alarm, score(0, "b.mean"), raw, score(10, "c.mean"), loss]
}

fn write(folder: &TempDir, name: &str, records: &[Record]) -> Vec<u8> {
    let path = folder.path().join(name);
    let mut results = Results::create(path.to_str().unwrap(), None).unwrap();
    for record in records {
        results.write(record).unwrap();
    }
    assert!(!path.exists(), "no half-written target");
    assert_eq!(results.finish().unwrap(), records.len() as u64);
    let bytes = fs::read(&path).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    fs::remove_file(path).unwrap();
    bytes
}

#[test]
fn ndjson_is_the_records_themselves() {
    let folder = TempDir::new().unwrap();
    let text = String::from_utf8(write(&folder, "r.ndjson", &records())).unwrap();
    let read: Vec<Record> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(read, records());
    assert!(write(&folder, "r.jsonl", &[]).is_empty());
}

#[test]
fn notices_and_verdicts_are_rows_that_can_be_read_back() {
    let folder = TempDir::new().unwrap();
    let of = |value: serde_json::Value| serde_json::from_value::<Record>(value).unwrap();
    let head = |kind: &str, id: &str| {
        serde_json::json!({
            "type": kind, "id": id, "node": "n", "pipeline": "p", "asset": "x", "name": "odd",
        })
    };
    let with = |mut head: serde_json::Value, more: serde_json::Value| {
        head.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        of(head)
    };
    let notice = serde_json::json!({
        "kind": "drift", "at": Timestamp(5), "since": Timestamp(3), "drift": "input", "retrain": true,
        "contributions": [{ "name": "a.mean", "value": 0.5 }], "reason": "1 feature has moved",
    });
    let verdict = |signals: serde_json::Value| {
        serde_json::json!({
            "verdict": "true", "fault": "bearing", "given": Timestamp(9), "on": "anomaly", "peak": 5.0,
            "limit": 3.0, "window_start": Timestamp(1), "window_end": Timestamp(3), "peak_start": Timestamp(1),
            "features": { "a.mean": 4.5 }, "signals": signals,
        })
    };
    let rows = serde_json::json!({ "a": [[Timestamp(1), 4.0], [Timestamp(2), 5.0]], "b": [[Timestamp(1), 0.5]] });
    let records = vec![
        with(head("notice", "1"), notice),
        with(head("verdict", "2"), verdict(rows)),
        with(head("verdict", "3"), verdict(serde_json::json!({}))),
    ];
    let again = folder_again();
    let path = again.path().join("again.parquet");
    fs::write(&path, write(&folder, "r.parquet", &records)).unwrap();
    assert_eq!(read_parquet(&path).unwrap(), records);
    let csv = String::from_utf8(write(&folder_again(), "r.csv", &records)).unwrap();
    assert_eq!(csv.lines().count(), 1 + 1 + 3 + 1, "{csv}");
    assert!(csv.contains("peak_start"), "{csv}");
    let with_alarm: Vec<Record> = records.into_iter().chain(self::records()).collect();
    let csv = write(&folder_again(), "r.csv", &with_alarm);
    fs::write(&path, write(&folder, "r.parquet", &with_alarm)).unwrap();
    let frame = ParquetReader::new(fs::File::open(&path).unwrap()).finish().unwrap();
    let mut reader = csv::Reader::from_reader(csv.as_slice());
    let header = reader.headers().unwrap().clone();
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    for (at, name) in header.iter().enumerate() {
        let cells = || rows.iter().map(|row| &row[at]).filter(|cell| !cell.is_empty());
        let is_time = |cell: &str| cell.parse::<Timestamp>().is_ok();
        let are_times = cells().count() > 0 && cells().all(is_time);
        let kind = frame.column(name).unwrap().dtype();
        assert_eq!(matches!(kind, DataType::Datetime(..)), are_times, "{name}: {kind:?}");
    }
}

#[test]
fn csv_has_every_field_of_every_type() {
    let folder = TempDir::new().unwrap();
    let bytes = write(&folder, "r.csv", &records());
    let mut reader = csv::Reader::from_reader(bytes.as_slice());
    let header: Vec<String> = reader.headers().unwrap().iter().map(str::to_owned).collect();
    assert_eq!(header[..6], ["type", "id", "node", "pipeline", "asset", "tags.site"]);
    let rows: Vec<BTreeMap<String, String>> = reader.deserialize().map(Result::unwrap).collect();
    let types: Vec<&str> = rows.iter().map(|row| row["type"].as_str()).collect();
    assert_eq!(types, ["alarm", "score", "raw", "raw", "raw", "score", "loss"]);
    let cell = |row: usize, name: &str| rows[row][name].as_str();
    assert_eq!(cell(0, "name"), "hot\nline");
    assert_eq!(cell(0, "at"), "1970-01-01T00:00:00.000005Z");
    assert_eq!((cell(0, "features.b.mean"), cell(1, "state")), ("", ""));
    assert_eq!((cell(1, "asset"), cell(1, "tags.site")), ("pump, \"7\"", "nörd"));
    assert_eq!((cell(1, "features.b.mean"), cell(1, "features.b.max")), ("0.1", ""));
    assert_eq!((cell(1, "features.c.mean"), cell(5, "features.c.mean")), ("", "10.1"));
    assert_eq!(cell(1, "scores.anomaly").parse::<f64>().unwrap(), 1e-7);
    assert_eq!(cell(1, "contributions"), r#"[{"name":"b","value":0.25}]"#);
    assert_eq!((cell(3, "signal"), cell(3, "value")), ("t", "2.5"));
    assert_eq!(cell(6, "count"), "4294967296");
    assert!(write(&folder, "r.csv", &[]).is_empty());
}

#[test]
fn parquet_holds_the_same_and_can_be_read_back() {
    let folder = TempDir::new().unwrap();
    // More than one row group.
    let many: Vec<Record> = (0..40_000).map(|i| score(i, "b.mean")).chain(records()).collect();
    let bytes = write(&folder, "r.parquet", &many);
    let path = folder.path().join("again.parquet");
    fs::write(&path, &bytes).unwrap();
    let signal = Signal { name: "features.b.mean".into(), unit: "1".into(), ..Signal::default() };
    let schema = Schema { name: "s".into(), description: None, signals: vec![signal] };
    let settings = "time = \"window_end\"\nasset = \"asset\"";
    let options = RecordingOptions {
        spec: toml::from_str(settings).unwrap(),
        asset: None,
        schema: &schema,
        route: "r".into(),
        batch_rows: 5000,
    };
    let mut values = Vec::new();
    for batch in Recording::open(&path, &options).unwrap() {
        let batch = batch.unwrap();
        assert!(batch.assets.iter().all(|asset| asset.id == "pump, \"7\""));
        values.extend(batch.readings.ts.into_iter().zip(batch.readings.value));
    }
    assert_eq!(values.len(), 40_001);
    for (i, (ts, value)) in values[..40_000].iter().enumerate() {
        assert_eq!(*ts, Timestamp((i as i64 + 60) * 1_000_000 + 1));
        assert_eq!(*value, 0.1 + i as f64);
    }
    let read = read_parquet(&path).unwrap();
    assert_eq!(read.len(), many.len());
    for (read, written) in read.iter().zip(&many) {
        assert_eq!(without_nulls(read), without_nulls(written));
    }
    fs::write(&path, write(&folder_again(), "empty.parquet", &[])).unwrap();
    assert_eq!(read_parquet(&path).unwrap(), []);
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(read_parquet(&path).is_err());
}

/// A table knows no difference between a number that is null and one that is not there.
fn without_nulls(record: &Record) -> serde_json::Value {
    let mut value = serde_json::to_value(record).unwrap();
    for object in ["features", "scores"] {
        if let Some(object) = value.get_mut(object).and_then(serde_json::Value::as_object_mut) {
            object.retain(|_, value| !value.is_null());
        }
    }
    value
}

fn folder_again() -> TempDir {
    TempDir::new().unwrap()
}

#[test]
fn what_is_not_finished_leaves_the_old_file_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    for name in ["r.ndjson", "r.csv", "r.parquet"] {
        let path = folder.path().join(name);
        fs::write(&path, "old").unwrap();
        let mut results = Results::create(path.to_str().unwrap(), None).unwrap();
        results.write(&score(1, "f")).unwrap();
        drop(results);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let mut results = Results::create(path.to_str().unwrap(), None).unwrap();
        results.write(&score(1, "f")).unwrap();
        results.finish().unwrap();
        assert_ne!(fs::read(&path).unwrap(), b"old");
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn targets_that_cannot_be() {
    let folder = TempDir::new().unwrap();
    let why = |name: &str| {
        let path = folder.path().join(name);
        Results::create(path.to_str().unwrap(), None).err().unwrap().to_string()
    };
    assert!(why("").contains("is a folder"));
    assert!(why("r.xlsx").contains(".ndjson, .csv or .parquet"));
    assert!(why("no/such/r.csv").contains("cannot be created"));
    let path = folder.path().join("r.dat");
    let named = Results::create(path.to_str().unwrap(), Some(ResultsFormat::Ndjson));
    assert_eq!(named.unwrap().finish().unwrap(), 0);
    // A device takes what comes and is not replaced.
    let mut full = Results::create("/dev/full", Some(ResultsFormat::Ndjson)).unwrap();
    full.write(&score(1, "f")).unwrap();
    assert!(full.finish().unwrap_err().to_string().contains("/dev/full: cannot be written"));
}
