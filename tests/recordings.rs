//! Recordings: the same rows in every form, every kind of dirt, and every file that cannot be read.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod common;

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use forebay::frame::Input;
use forebay::ingest::replay::{Recording, RecordingError, RecordingOptions};
use forebay::pipeline::spec::RecordingSpec;
use forebay::schema::Schema;
use polars::prelude::{
    Column, DataFrame, DataType, IntoColumn, NamedFrom, Series, TimeUnit as PolarsUnit,
};
use polars_io::prelude::ParquetWriter;
use tempfile::TempDir;

fn schema() -> Schema {
    common::pump(&[("flow", &["Volume Flow"]), ("pressure", &["Pressure"])])
}

struct Read {
    /// (asset, seconds, signal, value).
    readings: Vec<(String, f64, u16, f64)>,
    batches: usize,
    warnings: String,
}

fn spec(text: &str) -> RecordingSpec {
    toml::from_str(text).unwrap()
}

fn read_as(
    path: &Path,
    settings: &str,
    asset: Option<&str>,
    batch_rows: usize,
) -> Result<Read, RecordingError> {
    let schema = schema();
    let options = RecordingOptions {
        spec: spec(settings),
        asset: asset.map(str::to_owned),
        schema: &schema,
        route: "route".into(),
        batch_rows,
    };
    let mut recording = Recording::open(path, &options)?;
    let mut read = Read { readings: Vec::new(), batches: 0, warnings: String::new() };
    let mut seen = 0;
    while let Some(batch) = recording.next() {
        let Input { route, assets, readings, .. } = batch?;
        assert_eq!(route, "route");
        for i in 0..readings.len() {
            let asset = assets[readings.asset[i] as usize].id.clone();
            let ts = readings.ts[i].0 as f64 / 1e6;
            read.readings.push((asset, ts, readings.signal[i], readings.value[i]));
        }
        read.batches += 1;
        let progress = recording.progress();
        assert!(progress.rows > seen && progress.rows - seen <= batch_rows as u64);
        seen = progress.rows;
        assert!(progress.bytes <= progress.bytes_total.unwrap());
    }
    let progress = recording.progress();
    assert_eq!(Some(progress.bytes), progress.bytes_total, "read to its end");
    read.warnings = recording.warnings().to_string();
    Ok(read)
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(TempDir::new().unwrap())
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

fn read(name: &str, bytes: impl AsRef<[u8]>, settings: &str) -> Read {
    let folder = Folder::new();
    let path = folder.file(name, bytes);
    match read_as(&path, settings, None, 1000) {
        Ok(read) => read,
        Err(error) => panic!("{name} {settings}: {error}"),
    }
}

fn refused(name: &str, bytes: impl AsRef<[u8]>, settings: &str) -> String {
    let folder = Folder::new();
    let path = folder.file(name, bytes);
    match read_as(&path, settings, None, 2) {
        Ok(read) => panic!("{name} {settings} was read: {:?}", read.readings),
        Err(error) => {
            let text = error.to_string();
            text.replace(&format!("{}/", folder.0.path().display()), "")
        }
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn parquet(columns: Vec<Column>) -> Vec<u8> {
    let height = columns[0].len();
    let mut frame = DataFrame::new(height, columns).unwrap();
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes).with_row_group_size(Some(2)).finish(&mut frame).unwrap();
    bytes
}

fn column<T, Phantom: ?Sized>(name: &str, values: T) -> Column
where
    Series: NamedFrom<T, Phantom>,
{
    Series::new(name.into(), values).into_column()
}

const T0: f64 = 1_583_748_873.0; // 2020-03-09T10:14:33Z

/// Two rows with both signals, a third without pressure.
fn expected(asset: &str) -> Vec<(String, f64, u16, f64)> {
    let row = |at: f64, signal, value| (asset.to_owned(), T0 + at, signal, value);
    vec![
        row(0.0, 0, 32.0),
        row(0.0, 1, 0.5),
        row(1.0, 0, 31.5),
        row(1.0, 1, -0.25),
        row(3.0, 0, 30.0),
    ]
}

#[test]
fn the_same_rows_in_every_form() {
    let comma = "datetime,flow,other,pressure\n\
                 2020-03-09 10:14:33,32.0,x,0.5\n\
                 2020-03-09 10:14:34,31.5,y,-0.25\n\
                 2020-03-09 10:14:36,30,,\n";
    let forms: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a.csv", comma.into(), ""),
        ("a.txt", comma.replace(',', "\t").into(), ""),
        ("a.csv", comma.replace(',', ";").into(), "delimiter = \";\"\ntime = \"datetime\""),
        ("a.csv", comma.replace(',', ";").replace('.', ",").into(), ""),
        ("a.csv", comma.replace(',', "|").into(), ""),
        ("a.csv", comma.replace('\n', "\r\n").into(), ""),
        ("a.csv", format!("\u{feff}{comma}").into(), "time = \"datetime\""),
        ("a.csv", comma.trim_end().into(), ""),
        ("a.csv", comma.replace("flow", "\"Volume Flow\"").replace("32.0", "\" 32.0\"").into(), ""),
        ("a.csv", comma.replace("flow", " Durchfluss").into(), "signals = { flow = \"Durchfluss\" }"),
        ("a.csv", comma.replace("\n2", ",\n2").replace("pressure,", "pressure").into(), ""),
        ("a.csv.gz", gzip(comma.as_bytes()), ""),
        ("a.csv", gzip(comma.as_bytes()), ""),
        (
            "a.csv",
            comma.replace("2020-03-09 10", "09.03.2020 11").into(),
            "time_format = \"%d.%m.%Y %H:%M:%S\"\nzone = \"Europe/Berlin\"",
        ),
        (
            "a.csv",
            "t,id,signal,v\n1583748873000,a,flow,32\n1583748873000,a,P,0.5\n1583748874000,a,flow,31.5\n\
             1583748874000,a,P,-0.25\n1583748876000,a,flow,30\n1583748876000,a,other,1\n"
                .into(),
            "time = \"t\"\nunit = \"ms\"\nasset = \"id\"\nsignal = \"signal\"\nvalue = \"v\"\nsignals = { pressure = \"P\" }",
        ),
        (
            "a.ndjson",
            "{\"ts\":1583748873,\"flow\":32,\"Pressure\":\"0.5\"}\n\n\
             {\"flow\":31.5,\"pressure\":-0.25,\"ts\":\"2020-03-09 10:14:34\"}\r\n\
             {\"ts\":1583748876000,\"flow\":30,\"pressure\":null}"
                .into(),
            "",
        ),
        (
            "a.jsonl.gz",
            gzip(
                b"{\"at\":{\"t\":1583748873},\"id\":\"a\",\"n\":\"flow\",\"x\":32}\n\
                  {\"at\":{\"t\":1583748873},\"id\":\"a\",\"n\":\"P\",\"x\":0.5}\n\
                  {\"at\":{\"t\":1583748874},\"id\":\"a\",\"n\":\"flow\",\"x\":31.5}\n\
                  {\"at\":{\"t\":1583748874},\"id\":\"a\",\"n\":\"P\",\"x\":-0.25}\n\
                  {\"at\":{\"t\":1583748876},\"id\":\"a\",\"n\":\"flow\",\"x\":30}\n",
            ),
            "time = \"at.t\"\nasset = \"id\"\nsignal = \"n\"\nvalue = \"x\"\nsignals = { pressure = \"P\" }",
        ),
    ];
    for (name, bytes, settings) in forms {
        let read = read(name, &bytes, settings);
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(read.readings, expected("a"), "{name} {settings}\n{text}");
    }
}

#[test]
fn parquet_of_every_type() {
    let (flow, pressure) = ([32.0f64, 31.5, 30.0], [Some(0.5f32), Some(-0.25), None]);
    let seconds = [T0 as i64, T0 as i64 + 1, T0 as i64 + 3];
    let of = |time: Column| {
        parquet(vec![
            column("x", [1i32, 2, 3]),
            column("flow", flow),
            time,
            column("pressure", pressure),
        ])
    };
    let micros: Vec<i64> = seconds.iter().map(|s| s * 1_000_000).collect();
    let datetime = |zone| {
        let series = Series::new("time".into(), micros.clone());
        series.cast(&DataType::Datetime(PolarsUnit::Microseconds, zone)).unwrap().into_column()
    };
    let texts: Vec<String> =
        ["33", "34", "36"].iter().map(|s| format!("2020-03-09 10:14:{s}")).collect();
    for (time, settings) in [
        (datetime(None), ""),
        (column("time", seconds), "unit = \"s\""),
        (column("time", seconds.map(|s| s as f64)), ""),
        (column("time", texts), ""),
    ] {
        let read = read("p.parquet", of(time), settings);
        assert_eq!(read.readings, expected("p"), "{settings}");
    }
    // A calendar time without a zone is in the recording's.
    let berlin = read("p.parquet", of(datetime(None)), "zone = \"Europe/Berlin\"");
    assert_eq!(berlin.readings[0].1, T0 - 3600.0);
    // Long, with assets; text for numbers; batches over row groups.
    let long = parquet(vec![
        column("ts", [1i64, 2, 3, 4, 5]),
        column("id", ["a", "b", "a", "b", "a"]),
        column("signal", ["flow", "pressure", "flow", "what", "flow"]),
        column("value", ["1", "2.5", "", "4", "five"]),
    ]);
    let folder = Folder::new();
    let path = folder.file("x.parquet", long);
    let settings = "asset = \"id\"\nsignal = \"signal\"\nunit = \"s\"";
    let all = read_as(&path, settings, None, 2).unwrap();
    let expected = [("a".to_owned(), 1.0, 0, 1.0), ("b".to_owned(), 2.0, 1, 2.5)];
    assert_eq!(all.readings, expected);
    assert_eq!(all.batches, 3);
    assert!(
        all.warnings.contains("1 values that are no numbers: row 5: \"five\""),
        "{}",
        all.warnings
    );
    assert!(all.warnings.contains("`what` (row 4)"), "{}", all.warnings);
    assert_eq!(read_as(&path, settings, Some("b"), 2).unwrap().readings, expected[1..]);
}

#[test]
fn the_size_of_batches_does_not_matter() {
    let mut text = "time;flow;pressure;id\n".to_owned();
    for i in 0..97 {
        writeln!(text, "{};{i};{};p{}", 1_600_000_000 + i, i * 2, i % 3).unwrap();
    }
    let folder = Folder::new();
    let path = folder.file("many.csv", &text);
    let read = |rows| read_as(&path, "asset = \"id\"", None, rows).unwrap();
    let whole = read(1000);
    assert_eq!(whole.readings.len(), 194);
    assert_eq!(whole.batches, 1);
    for rows in [1, 7, 96, 97, 98] {
        let parts = read(rows);
        assert_eq!(parts.readings, whole.readings);
        assert_eq!(parts.batches, 97usize.div_ceil(rows));
    }
    let one = read_as(&path, "asset = \"id\"", Some("p1"), 10).unwrap();
    assert_eq!(one.readings.len(), 2 * 32);
    assert!(one.readings.iter().all(|r| r.0 == "p1"));
    let named = read_as(&path, "", Some("pump-9"), 10).unwrap();
    assert!(named.readings.iter().all(|r| r.0 == "pump-9"));
}

#[test]
fn single_rows_are_skipped_counted_and_named() {
    let text = "time;flow;pressure\n\
                2020-01-01 00:00:00;1;2\n\
                2020-01-01 00:00:01;1\n\
                2020-01-01 00:00:02;1;2;3\n\
                yesterday;1;2\n\
                2020-01-01 00:00:04;warm;2\n\
                ;;\n\
                2020-01-01 00:00:05;NA;nan\n\
                \"2020-01-01 00:00:06\";\"1\n\";3\n";
    let read = read("r.csv", text, "");
    let values: Vec<f64> = read.readings.iter().map(|r| r.3).collect();
    assert_eq!(values[..3], [1.0, 2.0, 2.0]);
    assert!(values[3].is_nan(), "`clean` counts it");
    assert_eq!(values[4..], [1.0, 3.0]);
    let sentences = [
        "2 ragged rows skipped: line 3 has 2 fields, not 3, line 4 has 4 fields, not 3",
        "2 rows without a readable time skipped: line 5: found \"yesterday\", expected a time",
        "1 values that are no numbers: line 6: \"warm\"",
    ];
    // Written on Windows, it is the same.
    let same = self::read("r.csv", text.replace('\n', "\r\n"), "");
    assert_eq!(same.readings.len(), read.readings.len());
    for read in [&read, &same] {
        for sentence in sentences {
            assert!(read.warnings.contains(sentence), "{}", read.warnings);
        }
    }
    let lines = "{\"time\":1600000000,\"flow\":1}\n\
                 {\"time\":1600000001,\"flow\":\n\
                 {\"flow\":1}\n\
                 {\"time\":1600000002,\"flow\":\"x\",\"pressure\":2}\n";
    let read = self::read("r.ndjson", lines, "");
    assert_eq!(read.readings.len(), 2);
    for sentence in [
        "2 lines skipped: line 2: is not JSON: EOF while parsing a value",
        "line 3: the time is missing; expected it at `time`",
        "1 values refused: line 4: flow is the text \"x\"; expected a number",
    ] {
        assert!(read.warnings.contains(sentence), "{}", read.warnings);
    }
}

#[test]
fn latin_1_is_read_with_a_warning() {
    let text = b"time,flow,pressure,Temperatur \xb0C,id\n2020-01-01 00:00:00,1,2,3,M\xfchle\n";
    let read = read("l.csv", text, "asset = \"id\"\nsignals = { flow = \"Temperatur °C\" }");
    assert_eq!(read.readings[0].0, "Mühle");
    assert_eq!(read.readings.iter().map(|r| r.3).collect::<Vec<_>>(), [2.0, 3.0]);
    assert!(read.warnings.contains("Latin-1"), "{}", read.warnings);
    assert!(read.warnings.contains("line 2: \"Mühle\""), "{}", read.warnings);
}

#[test]
fn a_signal_without_a_column_is_a_warning() {
    let read = read("s.csv", "time,flow,presure\n2020-01-01 00:00:00,1,2\n", "");
    assert_eq!(read.readings.len(), 1);
    assert_eq!(read.warnings, "1 signals without a column: `pressure` (is it `presure`?)");
}

const ROWS: &str = "time,flow\n2020-01-01,1\n";

/// Name, text, settings, and what the error says.
const TEXTS: &[(&str, &str, &str, &str)] = &[
    ("e.csv", "\n \n", "", "e.csv: is empty"),
    ("h.csv", "time,flow\r\n", "", "has a header and no rows; columns: `time`, `flow`"),
    (
        "m.csv",
        ROWS,
        "time = \"tme\"",
        "recording.time is the column `tme`, which is missing; is it `time`?; columns: `time`, `flow`",
    ),
    (
        "m.csv",
        ROWS,
        "signals = { flow = \"Flow rate\" }",
        "recording.signals.flow is the column `Flow rate`",
    ),
    ("m.csv", ROWS, "signals = { flw = \"flow\" }", "does not have; is it `flow`?"),
    ("m.csv", ROWS, "asset = \"id\"", "recording.asset"),
    ("m.csv", ROWS, "value = \"x\"", "needs both"),
    ("t.csv", "when,flow\n1,2\n", "", "set recording.time to one of `when`, `flow`"),
    (
        "n.csv",
        "time,x\n1,2\n",
        "",
        "no column carries a signal of the schema (`flow`, `pressure`); columns: `time`, `x`",
    ),
    (
        "w.csv",
        ROWS,
        "delimiter = \";\"",
        "with delimiter \";\" the header is one column, `time,flow`; it looks like \",\"",
    ),
    ("d.csv", ROWS, "delimiter = \";;\"", "one ASCII character"),
    ("z.csv", ROWS, "zone = \"Mars\"", "time zone `Mars`"),
    ("f.csv", ROWS, "time_format = \"%Q%!\"", "time format `%Q%!`"),
    (
        "b.csv",
        "time,flow\nx,1\ny,2\nz,3\n",
        "",
        "none of its 2 rows gave a reading: 2 rows without a readable time skipped: line 2: found \"x\"",
    ),
    (
        "v.csv",
        "time,flow\n1,\n2,\n",
        "",
        "none of its 2 rows gave a reading: every value is missing",
    ),
    ("a.ndjson", "[1,2]\n", "time = \"t\"", "none of its 1 rows"),
    ("a.ndjson", "{\"x\":1}\n", "", "set recording.time to one of `x`"),
    ("a.ndjson", "{\"time\":1,\"flw\":1}\n", "", "`flw`"),
    ("p.parquet", "PAR1 and no more", "", "p.parquet: cannot be read"),
    ("p.parquet", ROWS, "", "Parquet"),
];

#[test]
fn texts_that_cannot_be_read_say_why() {
    for (name, text, settings, fact) in TEXTS {
        let error = refused(name, text, settings);
        assert!(error.contains(fact), "{name} {settings}: {error}");
    }
}

#[test]
fn files_that_cannot_be_read_say_why() {
    let cases: Vec<(&str, Vec<u8>, &str, &str)> = vec![
        ("e.csv", vec![], "", "e.csv: is empty"),
        ("e.csv.gz", gzip(b""), "", "is empty"),
        ("u.csv", b"\xff\xfet\0i\0".to_vec(), "", "is UTF-16"),
        ("g.csv.gz", gzip(ROWS.repeat(50).as_bytes())[..40].to_vec(), "", "g.csv.gz: cannot be"),
        (
            "p.parquet",
            parquet(vec![column("time", [true]), column("flow", [1i64])]),
            "",
            "column `time` is of type bool; expected a time",
        ),
        (
            "p.parquet",
            parquet(vec![column("t", [1i64]), column("flow", [1i64])]),
            "time = \"tt\"",
            "recording.time is the column `tt`",
        ),
    ];
    for (name, bytes, settings, fact) in cases {
        let error = refused(name, bytes, settings);
        assert!(error.contains(fact), "{name} {settings}: {error}");
    }
    let folder = Folder::new();
    let error = read_as(folder.0.path(), "", None, 10).err().unwrap().to_string();
    assert!(error.contains("is a folder; name the recordings in it"), "{error}");
    let why = |path: &Path| read_as(path, "", None, 10).err().unwrap().to_string();
    assert!(why(&folder.0.path().join("no.csv")).contains("no.csv: cannot be opened"));
    assert!(why(Path::new("-")).contains("give --asset"));
}

#[test]
fn a_file_that_breaks_off_gives_its_rows_and_then_the_error() {
    let mut text = "time,flow\n".to_owned();
    let mut random = 12345u64;
    for i in 0..50_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        writeln!(text, "{},{}", 1_600_000_000 + i, random >> 40).unwrap();
    }
    let packed = gzip(text.as_bytes());
    let folder = Folder::new();
    let path = folder.file("cut.csv.gz", &packed[..packed.len() / 2]);
    let schema = schema();
    let options = RecordingOptions {
        spec: RecordingSpec::default(),
        asset: None,
        schema: &schema,
        route: "route".into(),
        batch_rows: 100,
    };
    let mut recording = Recording::open(&path, &options).unwrap();
    let mut rows = 0;
    let error = loop {
        match recording.next() {
            Some(Ok(input)) => rows += input.readings.len(),
            Some(Err(error)) => break error,
            None => panic!("ended as if it were whole"),
        }
    };
    assert!(rows > 10_000, "{rows}");
    assert!(error.to_string().contains("cut.csv.gz: cannot be read past"), "{error}");
    assert!(recording.next().is_none());
}

#[test]
fn a_quote_left_open_does_not_take_the_memory() {
    let folder = Folder::new();
    let path = folder.file("q.csv", format!("time,flow\n1,2\n3,\"4\n{}", "5,6\n".repeat(5 << 20)));
    let error = read_as(&path, "unit = \"s\"", None, 1).err().unwrap().to_string();
    assert!(error.contains("cannot be read past line 3"), "{error}");
    assert!(error.contains("is a quote left open?"), "{error}");
}

#[test]
fn damaged_parquet_is_an_error_and_no_panic() {
    let whole = parquet(vec![
        column("ts", [1_600_000_000i64, 1_600_000_001, 1_600_000_002]),
        column("id", ["a", "b", "a"]),
        column("flow", [1.5f64, 2.5, 3.5]),
    ]);
    let folder = Folder::new();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        let path = folder.file("d.parquet", &bytes);
        // Some damage goes unseen in a value; what counts is that it ends, one way or the other.
        let _ = read_as(&path, "asset = \"id\"", None, 2);
        let path = folder.file("d.parquet", &whole[..at]);
        assert!(read_as(&path, "asset = \"id\"", None, 2).is_err(), "cut at {at}");
    }
}
