//! `forebay evaluate` on recordings made here: a fan whose fault is known, and folders laid out as the public benchmarks are.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/bin.rs"]
mod bin;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Output;

use forebay::evaluate::stream::{Stream, Verdict};
use forebay::ingest::replay::{Recording, RecordingOptions};
use forebay::model::Host;
use forebay::model::running::{RunningOptions, running};
use forebay::pipeline::load::load_pipeline;
use forebay::pipeline::plan::route;
use forebay::pipeline::spec::RecordingSpec;
use forebay::time::Timestamp;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use tempfile::TempDir;

const SCHEMA: &str = "name = \"fan\"\n[[signal]]\nname = \"vibration\"\nunit = \"mm/s\"\n[[signal]]\nname = \"heat\"\nunit = \"degC\"\n";
const PIPELINE: &str = r#"
name = "fan"
schema = "fan"
topics = ["fan/{asset}"]
[[stage]]
resample = { every = "1s" }
[[stage]]
window = { length = "20s", every = "1s", features = ["mean"] }
[[stage]]
score = { model = "fan.onnx", output = "anomaly" }
"#;
const START: i64 = 1_772_366_400_000_000;

fn at(second: usize) -> Timestamp {
    Timestamp(START + second as i64 * 1_000_000)
}

/// A row a second of a fan that gets warmer all the while; it shakes from `fault.0` to `fault.1`, by `size` more.
fn recording(seed: u64, rows: usize, fault: (usize, usize), size: f64) -> String {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut heat = 40.0;
    let mut text = String::from("time,vibration,heat,label\n");
    for row in 0..rows {
        let faulty = (fault.0..fault.1).contains(&row);
        heat += random.random_range(-0.02..0.06);
        let vibration = 3.0 + random.random_range(-0.5..0.5) + if faulty { size } else { 0.0 };
        let label = u8::from(faulty);
        writeln!(text, "{},{vibration:.3},{heat:.3},{label}", at(row)).unwrap();
    }
    text
}

/// A folder with a pipeline and recordings, one to learn from.
fn site() -> TempDir {
    let site = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(site.path().join(name), text).unwrap();
    write("fan.toml", SCHEMA);
    write("pipeline.toml", PIPELINE);
    write("normal.csv", &recording(1, 1200, (0, 0), 0.0));
    write("a.csv", &recording(2, 900, (500, 700), 1.0));
    write("b.csv", &recording(3, 900, (400, 600), 1.0));
    site
}

fn forebay(folder: &Path, arguments: &str) -> Output {
    bin::forebay().args(arguments.split(' ')).current_dir(folder).output().unwrap()
}

fn fine(folder: &Path, arguments: &str) -> String {
    let output = forebay(folder, arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(folder: &Path, arguments: &str) -> Value {
    serde_json::from_str(&fine(folder, arguments)).unwrap()
}

const TRAIN: &str = "train --pipeline pipeline.toml --data normal.csv --schemas . --out fan.onnx";
const EVALUATE: &str = "evaluate --pipeline pipeline.toml --schemas . --data a.csv b.csv --json";

#[test]
fn what_drifts_in_normal_running_is_no_fault_where_it_is_told_so() {
    let site = site();
    for (name, seed) in [("a.csv", 2), ("b.csv", 3)] {
        std::fs::write(site.path().join(name), recording(seed, 900, (500, 700), 0.3)).unwrap();
    }
    // Fans go on getting warmer than they were in the first 400 seconds, from which is learned.
    let area = |more: &str| {
        fine(site.path(), &format!("{TRAIN} --rows 400 --holdout 0 --variance 1{more}"));
        let found = json(site.path(), &format!("{EVALUATE} --labels label"));
        found["detection"]["roc_auc"].as_f64().unwrap()
    };
    let (plain, told) = (area(""), area(" --drift 200s"));
    assert!(told > 0.93 && told > plain + 0.02, "{told} with drift, {plain} without");
}

#[test]
fn a_column_and_a_file_of_times_say_the_same_and_floors_stand_beside() {
    let site = site();
    fine(site.path(), &format!("{TRAIN} --holdout 0 --variance 1 --drift 300s"));
    let mut times = String::from("asset,from,to,fault\n");
    for (asset, from, to) in [("a", 500, 699), ("b", 400, 599), ("nobody", 0, 9)] {
        let kind = if asset == "a" { "loose" } else { "bent" };
        writeln!(times, "{asset},{},{},{kind}", at(from), at(to)).unwrap();
    }
    std::fs::write(site.path().join("times.csv"), times).unwrap();
    let column = json(site.path(), &format!("{EVALUATE} --labels label --html report.html"));
    let times = json(site.path(), &format!("{EVALUATE} --labels times.csv"));
    let (column, times) = (&column["detection"], &times["detection"]);
    // By the file each window is a row, so the first twenty seconds are missing in it and the edges are a row apart.
    assert_eq!((&column["events"]["faults"], &times["events"]["faults"]), (&2.into(), &2.into()));
    assert_eq!(column["events"]["found"], times["events"]["found"]);
    let f1 = |of: &Value| of["rates"]["f1"].as_f64().unwrap();
    assert!(f1(column) > 0.8 && (f1(column) - f1(times)).abs() < 0.02, "{column}");
    let kinds: Vec<&str> =
        times["faults"].as_array().unwrap().iter().map(|k| k["name"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["bent", "loose"]);
    let floors = column["floors"].as_array().unwrap();
    let names: Vec<&str> = floors.iter().map(|f| f["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["always on", "never", "clock only"]);
    let share = column["prevalence"].as_f64().unwrap();
    assert!((f1(&floors[0]) - 2.0 * share / (1.0 + share)).abs() < 1e-12);
    let page = std::fs::read_to_string(site.path().join("report.html")).unwrap();
    assert!(page.matches("<svg ").count() >= 4 && page.contains("clock only"));
    for outside in ["<script", "<link", "src=", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn remaining_life_is_told_beside_the_best_constant() {
    let site = site();
    fine(site.path(), TRAIN);
    let found =
        json(site.path(), &format!("{EVALUATE} --runs-to-failure --life-unit 1s --life-cap 125"));
    let life = &found["life"];
    // The score is no life: it is below 1, so the capped error is about that of always saying nothing is left.
    let floors = &life["capped"]["floors"];
    assert_eq!(
        (&floors[0]["name"], &floors[1]["name"]),
        (&"best constant".into(), &"clock only".into())
    );
    let (rmse, best) = (&life["capped"]["rmse"], &floors[0]["rmse"]);
    // Both fans ran for as long, so the other's age tells all.
    assert!(life["raw"]["floors"][1]["rmse"].as_f64().unwrap() < 1e-6, "{life}");
    assert!(rmse.as_f64().unwrap() > best.as_f64().unwrap(), "{life}");
    assert_eq!(life["last"]["rows"], 2);
    assert!(life["last"]["rmse"].as_f64().unwrap() < 1.0);
}

#[test]
fn what_is_asked_wrongly_is_told_with_what_to_change() {
    let site = site();
    fine(site.path(), TRAIN);
    for (arguments, part) in [
        (format!("{EVALUATE} --labels lable"), "no column `lable`; is it `label`?; columns"),
        (format!("{EVALUATE} --labels no.csv"), "`--labels no.csv`: there is no such file"),
        (format!("{EVALUATE} --labels label --output risk"), "no score `risk`; it has anomaly"),
        (EVALUATE.to_owned(), "--labels"),
        ("evaluate --suite .".to_owned(), "holds none of the benchmarks"),
        ("evaluate --suite . --only nobody".to_owned(), "there is skab"),
    ] {
        let output = forebay(site.path(), &arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(part), "{arguments}: {error}");
    }
}

/// The verdicts on the first `rows` of a recording.
fn verdicts(site: &Path, rows: usize) -> Vec<Verdict> {
    let pipeline = load_pipeline(&site.join("pipeline.toml"), Some(site)).unwrap();
    let host = Host::default();
    let (spec, schema) = (&pipeline.spec, &pipeline.schema);
    let mut stream = Stream::new(&pipeline, &[], &host, None).unwrap();
    let options = RecordingOptions {
        spec: RecordingSpec::default(),
        asset: None,
        schema,
        route: route(spec),
        batch_rows: 100,
    };
    let batches = Recording::open(&site.join("a.csv"), &options).unwrap();
    for batch in batches.take(rows / 100) {
        stream.take(batch.unwrap()).unwrap();
    }
    stream.finish(None).unwrap().by_asset.remove("a").unwrap()
}

#[test]
fn a_verdict_rests_on_the_past_alone() {
    let site = site();
    let options = RunningOptions { warm: 50, ..RunningOptions::default() };
    let features = ["vibration.mean", "heat.mean"].map(str::to_owned);
    std::fs::write(site.path().join("fan.onnx"), running("fan", &features, &options)).unwrap();
    let whole = verdicts(site.path(), 900);
    for rows in [100, 400, 600] {
        let part = verdicts(site.path(), rows);
        assert!(part.len() > rows - 30 && part[..] == whole[..part.len()], "{rows}");
    }
    assert!(whole.iter().any(|verdict| verdict.score > Some(3.5)));
}

/// The same arithmetic as the graph's, in float64.
fn by_hand(values: &[f64], options: &RunningOptions) -> Vec<f64> {
    let (mut mean, mut variance) = (0.0, 0.0_f64);
    let score = |(index, value): (usize, &f64)| {
        let count = index as f64 + 1.0;
        if index == 0 {
            mean = *value;
        }
        let (distance, deviation) = (value - mean, variance.sqrt());
        let warm = count > f64::from(options.warm);
        let bound = options.clip * deviation;
        let learned = if warm { distance.clamp(-bound, bound) } else { distance };
        let gain = f64::max(1.0 / count, 1.0 / f64::from(options.memory));
        mean += gain * learned;
        variance = (1.0 - gain) * (variance + gain * learned * learned);
        if warm { distance.abs() / deviation } else { 0.0 }
    };
    values.iter().enumerate().map(score).collect()
}

#[test]
fn the_running_model_computes_what_its_papers_say() {
    let options = RunningOptions { memory: 60, warm: 20, ..RunningOptions::default() };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("running.onnx");
    std::fs::write(&path, running("r", &["x.mean".into(), "y.mean".into()], &options)).unwrap();
    let mut model = Host::default().open(&path).unwrap();
    let wanted = [model.score_output(None, "score", None).unwrap()];
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut draw = || -> Vec<f64> {
        (0..300)
            .map(|n| {
                f64::from(random.random_range(-1.0_f32..1.0)) + if n > 250 { 4.0 } else { 0.0 }
            })
            .collect()
    };
    let (x, y) = (draw(), draw());
    let (by_x, by_y) = (by_hand(&x, &options), by_hand(&y, &options));
    let (mut memory, mut outputs) = (vec![model.fresh_memory()], Vec::new());
    for index in 0..x.len() {
        let row = [x[index], y[index]];
        model.run_with(&row, &[1, 2], &mut memory, &wanted, &mut outputs).unwrap();
        let (ours, theirs) = (outputs[0].values[0], by_x[index].max(by_y[index]));
        assert!((ours - theirs).abs() < 1e-3 * theirs.max(1.0), "{index}: {ours}, not {theirs}");
    }
    assert!(by_x[251] > 3.5 && by_x[19] == 0.0);
}

/// An experiment of the pump testbed's form: its first 400 rows normal, the flow low from row 570 to 970.
fn experiment(seed: u64) -> String {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut text = String::from(
        "datetime;Accelerometer1RMS;Accelerometer2RMS;Current;Pressure;Temperature;Thermocouple;Voltage;Volume Flow RateRMS;anomaly;changepoint\n",
    );
    for row in 0..1100_usize {
        let faulty = (570..970).contains(&row);
        let flow = if faulty { 24.0 } else { 32.0 };
        let mut noise = |width: f64| random.random_range(-width..width);
        let values = [
            0.2 + noise(0.01),
            0.3 + noise(0.01),
            1.5 + noise(0.5),
            0.3 + noise(0.3),
            70.0 + noise(0.2),
        ];
        let rest = [25.0 + noise(0.1), 230.0 + noise(9.0), flow + noise(0.6)];
        let values: Vec<String> = values.iter().chain(&rest).map(|v| format!("{v:.4}")).collect();
        let time = at(row).to_string().replace('T', " ").replace('Z', "");
        let turn = u8::from(row == 570 || row == 970);
        writeln!(text, "{time};{};{}.0;{turn}.0", values.join(";"), u8::from(faulty)).unwrap();
    }
    text
}

#[test]
fn a_folder_of_benchmarks_is_run_by_their_protocols() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("skab/valve1/0.csv", &experiment(1));
    write("skab/other/1.csv", &experiment(2));
    let (mut series, mut random) =
        (String::from("timestamp,value\n"), ChaCha8Rng::seed_from_u64(3));
    let time = |row: usize| at(row * 300).to_string().replace('T', " ").replace('Z', "");
    for row in 0..4000 {
        let jump = if row >= 3000 { 9.0 } else { 0.0 };
        writeln!(series, "{},{:.3}", time(row), 50.0 + random.random_range(-2.0..2.0) + jump)
            .unwrap();
    }
    write("nab/some.csv", &series);
    let window = (time(2950), time(3150));
    write(
        "nab/combined_windows.json",
        &format!("{{\"x/some.csv\": [[\"{}\", \"{}\"]]}}", window.0, window.1),
    );
    let found =
        json(folder.path(), "evaluate --suite . --json --html suite.html --only skab --only nab");
    let row = |collection: usize, part: &str, metric: &str| -> Value {
        let rows = found["collections"][collection]["rows"].as_array().unwrap();
        let is = |row: &&Value| {
            row["part"].as_str().unwrap().starts_with(part) && row["metric"] == metric
        };
        rows.iter().find(is).unwrap_or_else(|| panic!("{part} {metric}")).clone()
    };
    let f1 = row(0, "all 2", "outlier F1");
    // The alarm goes off half a minute after the fault, and a window is a third of one.
    assert!(f1["value"].as_f64().unwrap() > 0.9, "{f1}");
    let floors: Vec<f64> = f1["floors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|floor| floor["value"].as_f64().unwrap())
        .collect();
    // 400 of 700 rows are faulty; both files have one timetable.
    assert!(
        (floors[0] - 800.0 / 1100.0).abs() < 1e-9 && floors[1] == 0.0 && floors[2] > 0.99,
        "{f1}"
    );
    assert!(row(0, "all 2", "changepoint NAB, standard")["value"].as_f64().unwrap() > 60.0);
    assert!(row(1, "some", "raw score, standard (of 1)")["value"].as_f64().unwrap() > 0.5);
    for collection in found["collections"].as_array().unwrap() {
        assert!(
            collection["data_sha256"].as_str().unwrap().len() == 64
                && collection.get("error").is_none()
        );
    }
    assert!(folder.path().join("suite.html").is_file());
}

/// Cycles of an engine that flies at three altitudes, each with its own level of every sensor, and wears out.
fn engine(number: u32, life: usize, flown: usize, random: &mut ChaCha8Rng) -> String {
    let mut text = String::new();
    for cycle in 1..=flown {
        let regime = random.random_range(0..3_u8);
        let altitude = f64::from(regime) * 10.0 + random.random_range(-0.005..0.005);
        let wear = 2.0 * cycle as f64 / life as f64;
        write!(text, "{number} {cycle} {altitude:.4} 0.0 100.0").unwrap();
        for sensor in 1..=21_u8 {
            let level = 100.0 + f64::from(regime) * 70.0 * f64::from(sensor % 5 + 1);
            let turn = if sensor % 2 == 0 { 1.0 } else { -1.0 };
            write!(text, " {:.3}", level + turn * wear + random.random_range(-0.2..0.2)).unwrap();
        }
        text.push('\n');
    }
    text
}

#[test]
fn engines_at_several_altitudes_are_told_apart_from_worn_ones() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let (mut train, mut test, mut truth) = (String::new(), String::new(), String::new());
    for number in 1..=12 {
        let life = random.random_range(70..110);
        train += &engine(number, life, life, &mut random);
        let life = random.random_range(70..110);
        // The first has flown less than a window that is filled up has of its own.
        let flown = if number == 1 { 20 } else { random.random_range(35..life - 5) };
        test += &engine(number, life, flown, &mut random);
        writeln!(truth, "{}", life - flown).unwrap();
    }
    std::fs::create_dir(folder.path().join("cmapss")).unwrap();
    for (name, text) in [("train_FD002", train), ("test_FD002", test), ("RUL_FD002", truth)] {
        std::fs::write(folder.path().join(format!("cmapss/{name}.txt")), text).unwrap();
    }
    let found = json(folder.path(), "evaluate --suite . --json --only cmapss");
    let row = &found["collections"][0]["rows"][0];
    let (value, constant) = (&row["value"], &row["floors"][0]["value"]);
    assert!(value.as_f64().unwrap() < 0.6 * constant.as_f64().unwrap(), "{row}");
}

/// 4.2 s of a bearing at 12 kHz whose fault strikes at a multiple of the shaft's speed, in NumPy's format.
fn vibration(order: Option<f64>, rpm: f64, random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (50400,), }";
    bytes.extend(format!("{header:117}\n").into_bytes());
    let shaft = rpm / 60.0;
    for at in 0..50_400 {
        let t = f64::from(at) / 12_000.0;
        let strike = order.map_or(0.0, |order| {
            let since = t % (1.0 / (order * shaft));
            (-since * 800.0).exp() * (since * 3100.0 * std::f64::consts::TAU).sin()
        });
        let value =
            strike + (t * shaft * std::f64::consts::TAU).sin() + random.random_range(-0.3..0.3);
        bytes.extend((value as f32).to_le_bytes());
    }
    bytes
}

#[test]
fn bearings_at_any_load_are_judged_by_their_own_speed() {
    let folder = tempfile::tempdir().unwrap();
    let cwru = folder.path().join("cwru_bearing");
    std::fs::create_dir(&cwru).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(6);
    let mut index = String::from("file,fault,diameter_mil,load_hp,rpm_nominal,rpm_in_file,fs_hz\n");
    let faults = [("ball", 4.7135), ("inner_race", 5.4152), ("outer_race", 3.5848)];
    let loads = [(7, 0, 1797.0), (21, 3, 1725.0)];
    for (diameter, load, rpm) in loads {
        for (fault, order) in faults {
            let name = format!("{fault}_{diameter}_{load}hp.npy");
            std::fs::write(cwru.join(&name), vibration(Some(order), rpm, &mut random)).unwrap();
            // One of them says its speed by its load alone.
            let own = if fault == "ball" { String::new() } else { rpm.to_string() };
            writeln!(index, "{name},{fault},{diameter},{load},{rpm},{own},12000").unwrap();
        }
    }
    std::fs::write(cwru.join("normal.npy"), vibration(None, 1797.0, &mut random)).unwrap();
    index += "normal.npy,normal,,0,1797,1796,12000\nnot_there.npy,ball,14,1,1772,1772,12000\n";
    std::fs::write(cwru.join("index.csv"), index).unwrap();
    let found = json(folder.path(), "evaluate --suite . --json --only cwru");
    let rows = found["collections"][0]["rows"].as_array().unwrap_or_else(|| panic!("{found}"));
    let all: Vec<f64> = rows
        .iter()
        .filter(|row| row["part"] == "all diameters" || row["part"] == "4 of the races")
        .map(|row| row["value"].as_f64().unwrap())
        .collect();
    assert_eq!(all, [1.0; 4], "{rows:?}");
}

/// What could not be run of a collection: its own error, or those of its parts.
fn failures(report: &Value) -> Vec<(String, String)> {
    let part = |failure: &Value| {
        let text = |key: &str| failure[key].as_str().unwrap().to_owned();
        (text("part"), text("error"))
    };
    report["failures"].as_array().unwrap().iter().map(part).collect()
}

#[test]
fn a_part_that_cannot_be_run_costs_no_other_part() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("skab/valve1/0.csv", &experiment(1));
    write("skab/valve1/1.csv", &experiment(2).replacen("anomaly", "outlier", 1));
    let short: Vec<String> = experiment(3).lines().take(300).map(str::to_owned).collect();
    write("skab/valve2/0.csv", &short.join("\n"));
    write("nab/combined_windows.json", "{\"x/absent.csv\": []}");
    write("nab/other.csv", "timestamp,value\n");
    write("cmapss/train_FD001.txt", "1 1 0 0 100\n");
    write("ai4i2020/ai4i2020.csv", "UDI,Type\n1,M\n");
    write(
        "cwru_bearing/index.csv",
        "file,fault,diameter_mil,rpm_nominal,rpm_in_file,fs_hz\nballs.npy,ball,7,1797,,12000\n",
    );
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (12000,), }";
    let mut recording = b"\x93NUMPY\x01\x00".to_vec();
    recording.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
    recording.extend(header.bytes().chain([0; 4000]));
    std::fs::write(folder.path().join("cwru_bearing/balls.npy"), recording).unwrap();
    let output = forebay(folder.path(), "evaluate --suite . --json");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let of = |name: &str| -> Value {
        let reports = found["collections"].as_array().unwrap();
        reports.iter().find(|report| report["collection"] == name).unwrap().clone()
    };
    let skab = of("skab");
    let part = |row: &Value| row["part"].as_str().unwrap().to_owned();
    assert!(part(&skab["rows"][0]).starts_with("all 1 files"), "{skab}");
    let told = failures(&skab);
    assert!(
        told.len() == 2 && told[0].0 == "valve1/1.csv" && told[0].1.contains("anomaly"),
        "{told:?}"
    );
    assert!(told[1].0 == "valve2/0.csv" && told[1].1.contains("299 rows"), "{told:?}");
    let nab = of("nab");
    assert!(nab["error"].as_str().unwrap().contains("no recording that"), "{nab}");
    assert!(nab["rows"].as_array().unwrap().is_empty() && failures(&nab).is_empty(), "{nab}");
    for (name, part, error) in [
        ("cwru", "balls.npy", "1000 values, 12000 told"),
        ("cmapss", "FD001", "there is no test_FD001.txt"),
        ("ai4i", "ai4i2020", "no column `Air temperature [K]`"),
    ] {
        let told = failures(&of(name));
        assert!(told.len() == 1 && told[0].0 == part && told[0].1.contains(error), "{told:?}");
    }
    let table = forebay(folder.path(), "evaluate --suite . --only skab");
    assert_eq!(table.status.code(), Some(1));
    let text = String::from_utf8(table.stdout).unwrap();
    assert!(text.contains("valve1/1.csv could not be run: "), "{text}");
    assert!(text.contains("outlier F1"), "{text}");
}
