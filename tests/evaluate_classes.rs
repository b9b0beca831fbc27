//! `forebay evaluate` of models that tell classes apart: the three ways in which they say so, labels as words and as
//! numbers, in columns and as times. The models (`tests/models/make.py`) answer with the place of the largest of three
//! numbers, so what each row is taken for is counted here by itself.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/bin.rs"]
mod bin;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Output;

use forebay::time::Timestamp;
use polars::prelude::{Column, DataFrame};
use polars_io::prelude::ParquetWriter;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tempfile::TempDir;

const CLASSES: [&str; 3] = ["normal", "leak", "bearing"];
const SCHEMA: &str = "name = \"pump\"\n[[signal]]\nname = \"a\"\nunit = \"1\"\n[[signal]]\nname = \"b\"\nunit = \"1\"\n\
                      [[signal]]\nname = \"c\"\nunit = \"1\"\n";

/// Windows of a second, so that each row is one.
fn pipeline(model: &str, class: &str) -> String {
    format!(
        "name = \"pump\"\nschema = \"pump\"\ntopics = [\"pump/{{asset}}\"]\n[[stage]]\nresample = {{ every = \"1s\" }}\n\
         [[stage]]\nwindow = {{ length = \"1s\", features = [\"mean\"] }}\n\
         [[stage]]\nscore = {{ model = \"{model}\", output = \"fault\", class = \"{class}\", threshold = 0.5 }}\n"
    )
}

/// Rows of three numbers, and what each is: nearly always the largest of them.
struct Rows {
    times: Vec<Timestamp>,
    values: Vec<[f64; 3]>,
    truth: Vec<usize>,
}

impl Rows {
    fn new(seed: u64, count: usize) -> Rows {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut rows = Rows { times: Vec::new(), values: Vec::new(), truth: Vec::new() };
        for row in 0..count {
            let truth = [0, 0, 1, 2][row / 10 % 4];
            let mut values = [0.0, 0.0, 0.0].map(|v: f64| v + random.random_range(-1.0..1.0));
            values[truth] += 0.5;
            rows.times.push(Timestamp(1_772_366_400_000_000 + row as i64 * 1_000_000));
            rows.values.push(values);
            rows.truth.push(truth);
        }
        rows
    }

    fn csv(&self, label: impl Fn(usize) -> String) -> String {
        let mut text = String::from("time,a,b,c,label\n");
        for ((at, [a, b, c]), truth) in self.times.iter().zip(&self.values).zip(&self.truth) {
            writeln!(text, "{at},{a},{b},{c},{}", label(*truth)).unwrap();
        }
        text
    }

    /// How often each class is taken for each, by the rule of the models.
    fn count(&self, matrix: &mut [[u64; 3]; 3]) {
        for (values, truth) in self.values.iter().zip(&self.truth) {
            let largest = (0..3).max_by(|x, y| values[*x].total_cmp(&values[*y])).unwrap();
            matrix[*truth][largest] += 1;
        }
    }
}

fn site(model: &str, class: &str) -> TempDir {
    let site = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(site.path().join(name), text).unwrap();
    write("pump.toml", SCHEMA);
    write("pipeline.toml", &pipeline("model.onnx", class));
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models");
    std::fs::copy(models.join(model), site.path().join("model.onnx")).unwrap();
    site
}

fn forebay(folder: &Path, arguments: &str) -> Output {
    let mut command = bin::forebay();
    let arguments = format!("evaluate --pipeline pipeline.toml --schemas . {arguments}");
    command.args(arguments.split(' ')).current_dir(folder).output().unwrap()
}

fn found(folder: &Path, arguments: &str) -> Value {
    let output = forebay(folder, arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments}: {error}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn recordings() -> ([Rows; 2], [[u64; 3]; 3]) {
    let rows = [Rows::new(1, 200), Rows::new(2, 160)];
    let mut expected = [[0; 3]; 3];
    for rows in &rows {
        rows.count(&mut expected);
    }
    (rows, expected)
}

#[test]
fn without_a_threshold_no_verdict_is_made_up() {
    let (rows, _) = recordings();
    let site = site("class_chances.onnx", "1");
    let pipeline = pipeline("model.onnx", "1").replace(", threshold = 0.5", "");
    std::fs::write(site.path().join("pipeline.toml"), pipeline).unwrap();
    std::fs::write(site.path().join("x.csv"), rows[0].csv(|is| is.to_string())).unwrap();
    let output = forebay(site.path(), "--data x.csv --labels label --quiet --html page.html");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        told.contains("no verdict: neither the model nor the pipeline has a threshold"),
        "{told}"
    );
    assert!(told.contains("PR-AUC") && !told.contains("false alarms"), "{told}");
    let page = std::fs::read_to_string(site.path().join("page.html")).unwrap();
    assert!(page.contains("ROC, area") && !page.contains("<h2>Rows</h2>"));
}

#[test]
fn however_a_model_says_its_class_each_is_counted() {
    let (rows, expected) = recordings();
    for (model, class) in
        [("class_chances.onnx", "1"), ("class_places.onnx", "1"), ("class_names.onnx", "leak")]
    {
        let site = site(model, class);
        for (name, rows) in ["x.csv", "y.csv"].iter().zip(&rows) {
            std::fs::write(site.path().join(name), rows.csv(|is| is.to_string())).unwrap();
        }
        let found = found(site.path(), "--data x.csv y.csv --labels label --json");
        let classes = &found["classes"];
        assert_eq!(classes["confusion"]["matrix"], json!(expected), "{model}");
        let right: u64 = (0..3).map(|class| expected[class][class]).sum();
        assert_eq!(classes["overall"]["accuracy"], json!(right as f64 / 360.0));
        let rows = (&classes["rows"], &classes["unanswered"]);
        assert_eq!(rows, (&json!(360), &json!(0)), "{model}");
        // Half of the rows are normal, and both recordings have one timetable.
        assert_eq!(classes["floors"][0]["accuracy"], json!(0.5));
        assert_eq!(classes["floors"][1]["name"], "clock only");
        assert_eq!(classes["floors"][1]["accuracy"], json!(1.0));
    }
}

#[test]
fn words_numbers_and_times_say_the_same() {
    let (rows, expected) = recordings();
    let site = site("class_names.onnx", "leak");
    let write = |name: &str, text: &[u8]| std::fs::write(site.path().join(name), text).unwrap();
    let word = |is: usize| CLASSES[is].to_owned();
    let (mut times, mut lines) = (String::from("asset,from,to,fault\n"), String::new());
    for (asset, rows) in ["x", "y"].iter().zip(&rows) {
        write(&format!("{asset}.csv"), rows.csv(word).as_bytes());
        for ((at, [a, b, c]), is) in rows.times.iter().zip(&rows.values).zip(&rows.truth) {
            let label = CLASSES[*is];
            let line = json!({"time": at.to_string(), "asset": asset, "a": a, "b": b, "c": c, "label": label});
            writeln!(lines, "{line}").unwrap();
            if *is > 0 {
                let last = Timestamp(at.0 + 999_999);
                writeln!(times, "{asset},{at},{last},{label}").unwrap();
            }
        }
    }
    write("times.csv", times.as_bytes());
    write("all.ndjson", lines.as_bytes());
    write("x.parquet", &parquet(&rows[0]));
    let matrix = |arguments: &str| found(site.path(), arguments)["classes"]["confusion"].clone();
    let by_words = matrix("--data x.csv y.csv --labels label --json");
    assert_eq!(by_words["labels"], json!(CLASSES));
    assert_eq!(by_words["matrix"], json!(expected));
    let lines = matrix("--data all.ndjson --asset-column asset --labels label --json");
    assert_eq!(lines, by_words, "NDJSON");
    let mut first = [[0; 3]; 3];
    rows[0].count(&mut first);
    let parquet = matrix("--data x.parquet --labels label --json");
    assert_eq!(parquet["matrix"], json!(first), "Parquet");
    assert_eq!(matrix("--data x.csv y.csv --labels times.csv --json"), by_words, "times");
    let all = found(site.path(), "--data x.csv y.csv --labels label --json");
    let kinds: Vec<&str> = all["detection"]["faults"]
        .as_array()
        .unwrap()
        .iter()
        .map(|kind| kind["name"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["bearing", "leak"]);
}

fn parquet(rows: &Rows) -> Vec<u8> {
    let of = |at: usize| rows.values.iter().map(|values| values[at]).collect::<Vec<f64>>();
    let words: Vec<&str> = rows.truth.iter().map(|is| CLASSES[*is]).collect();
    let times: Vec<String> = rows.times.iter().map(ToString::to_string).collect();
    let columns = vec![
        Column::new("time".into(), times),
        Column::new("a".into(), of(0)),
        Column::new("b".into(), of(1)),
        Column::new("c".into(), of(2)),
        Column::new("label".into(), words),
    ];
    let mut frame = DataFrame::new(rows.times.len(), columns).unwrap();
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes).finish(&mut frame).unwrap();
    bytes
}

#[test]
fn what_is_normal_is_asked_for_where_nobody_knows() {
    let (rows, _) = recordings();
    let site = site("class_chances.onnx", "1");
    let words = ["fine", "leak", "bearing"];
    let text = rows[0].csv(|is| words[is].to_owned());
    std::fs::write(site.path().join("x.csv"), text).unwrap();
    let output = forebay(site.path(), "--data x.csv --labels label");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{error}");
    assert!(error.contains("bearing, fine, leak") && error.contains("--normal"), "{error}");
    let found = found(site.path(), "--data x.csv --labels label --normal fine --json");
    // The model calls its classes 0, 1 and 2, of which 0 is normal: other words are none of them, and never answered.
    let labels = &found["classes"]["confusion"]["labels"];
    assert_eq!(labels, &json!(["0", "1", "2", "bearing", "leak"]));
    let mut matrix = [[0; 3]; 3];
    rows[0].count(&mut matrix);
    let right = matrix[0][0] as f64 / 200.0;
    assert_eq!(found["classes"]["overall"]["accuracy"], json!(right));
    assert_eq!(found["detection"]["prevalence"], json!(0.5));
}

/// PyTorch's convolutions take `[batch, channels, steps]`. The windows that its scores were computed of are put one behind
/// the other, so that the pipeline cuts them again.
#[test]
fn a_convolution_of_pytorch_is_evaluated_with_its_channels_first() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models");
    let cases: Vec<Value> =
        serde_json::from_slice(&std::fs::read(models.join("expected.json")).unwrap()).unwrap();
    let case = cases.iter().find(|case| case["file"] == "torch_convolved.onnx").unwrap();
    let expected: Vec<f64> = serde_json::from_value(case["expected"].clone()).unwrap();
    let windows: Vec<Vec<f64>> = serde_json::from_value(case["rows"].clone()).unwrap();
    // Faulty are the windows whose score is above the median: a curve under which all lies, and a threshold that finds them.
    let mut sorted = expected.clone();
    sorted.sort_by(f64::total_cmp);
    let limit = sorted[sorted.len() / 2];
    let mut text = String::from("time,a,b,c,label\n");
    for (row, values) in windows.iter().flat_map(|window| window.chunks(3)).enumerate() {
        let at = Timestamp(1_772_366_400_000_000 + row as i64 * 1_000_000);
        // A row's verdict is the newest, that of the window which ends with it.
        let known = ((row + 1) / 8).checked_sub(1).map(|window| expected[window] >= limit);
        let [a, b, c] = values else { panic!("{values:?}") };
        writeln!(text, "{at},{a},{b},{c},{}", u8::from(known.unwrap_or(false))).unwrap();
    }
    let site = site("torch_convolved.onnx", "1");
    let write = |name: &str, text: &str| std::fs::write(site.path().join(name), text).unwrap();
    let pipeline = pipeline("model.onnx", "1")
        .replace("length = \"1s\"", "length = \"8s\"")
        .replace("class = \"1\"", "input = \"channels_first\"")
        .replace("threshold = 0.5", &format!("threshold = {}", limit - 1e-6));
    write("pipeline.toml", &pipeline);
    write("x.csv", &text);
    let found = found(site.path(), "--data x.csv --labels label --json");
    let detection = &found["detection"];
    assert_eq!(detection["rows"], json!(40 - 7));
    assert_eq!(
        (&detection["roc_auc"], &detection["rates"]["f1"]),
        (&json!(1.0), &json!(1.0)),
        "{detection}"
    );
    assert!(found.get("classes").is_none());
    write("pipeline.toml", &pipeline.replace("channels_first", "sequence"));
    let output = forebay(site.path(), "--data x.csv --labels label");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("found [n, 8, 3], which the pipeline gives: 8 steps of 3 channels"),
        "{error}"
    );
}
