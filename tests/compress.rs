//! `forebay compress` as its users meet it: what it writes, what it says, and that what loses too much is not written.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "common/bin.rs"]
mod bin;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use forebay::time::Timestamp;
use serde_json::Value;

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/to_compress").join(name)
}

fn forebay(arguments: &[&str]) -> Output {
    bin::forebay().args(arguments).output().unwrap()
}

fn compress(model: &Path, out: &Path, more: &[&str]) -> Output {
    let paths = [model.to_str().unwrap(), "-o", out.to_str().unwrap()];
    forebay(&[&["compress"][..], &paths, more].concat())
}

fn json(output: &Output) -> Value {
    let told = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {told}"))
}

fn left_in(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap();
    names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn every_method_writes_a_smaller_model_and_says_what_it_costs() {
    let folder = tempfile::tempdir().unwrap();
    for (method, name) in [
        ("int8-weights", "attending.onnx"),
        ("int8", "attending.onnx"),
        ("float16", "dense.onnx"),
        ("pruned", "dense.onnx"),
        ("student", "attending.onnx"),
    ] {
        let out = folder.path().join("made").join(format!("{method}.onnx"));
        let output =
            compress(&model(name), &out, &["--to", method, "--max-loss", "100%", "--json"]);
        let report = json(&output);
        assert!(output.status.success(), "{method}: {report}");
        let bytes = |side: &str| report[side]["bytes"].as_u64().unwrap();
        assert!(bytes("result") < bytes("original"), "{method}: {report}");
        assert_eq!(bytes("result"), std::fs::metadata(&out).unwrap().len());
        assert_eq!(report["accepted"], true);
        assert!(report["comparison"]["loss"].as_f64().unwrap() <= 1.0);
        assert_eq!(report["result"]["latency"][0]["batch"], 1);
        assert!(report["result"]["memory"].as_u64().unwrap() > 1 << 20);
        assert!(report["evaluated_on"].as_str().unwrap().contains("noise"), "{report}");
        // It opens on this machine, gives its golden answers, and says where it comes from.
        let verified = forebay(&["model", "verify", "--json", out.to_str().unwrap()]);
        assert!(json(&verified)["golden_answers"].as_u64().unwrap() > 0, "{method}");
        let noted = json(&forebay(&["model", "inspect", "--json", out.to_str().unwrap()]));
        assert!(noted["compressed"].as_str().unwrap().starts_with(method), "{noted}");
        assert_eq!(noted["parent"].as_str().unwrap().len(), 64);
    }
    assert_eq!(left_in(folder.path()), ["made"], "nothing else is left behind");
}

#[test]
fn what_loses_too_much_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new/folder/pruned.onnx");
    let more = ["--to", "pruned", "--keep", "3%", "--max-loss", "0.1%"];
    let output = compress(&model("dense.onnx"), &out, &more);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("was not written: it loses"), "{told}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("PR-AUC"), "the table is shown");
    assert!(left_in(folder.path()).is_empty(), "{:?}", left_in(folder.path()));
}

#[test]
fn weights_beside_the_original_are_beside_the_result() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("small.onnx");
    let more = ["--to", "int8-weights", "--max-loss", "20%"];
    let output = compress(&model("attending_beside"), &out, &more);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let data = |left: &[String]| -> Vec<String> {
        let is_data = |name: &&String| name.starts_with("small.onnx.");
        left.iter().filter(is_data).cloned().collect()
    };
    let left = left_in(folder.path());
    assert_eq!((left.len(), data(&left).len()), (2, 1), "{left:?}");
    // A folder with one model is a model.
    let verified = || forebay(&["model", "verify", folder.path().to_str().unwrap()]);
    assert!(verified().status.success());
    // Another result under that name leaves the first one's weights as they are: a crash between the two files would leave
    // a model with its own weights, the old one or the new one.
    let first = data(&left).remove(0);
    let before = std::fs::read(folder.path().join(&first)).unwrap();
    let output = compress(&model("attending_beside"), &out, &["--to", "float16"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(data(&left_in(folder.path())).len(), 2);
    assert_eq!(std::fs::read(folder.path().join(&first)).unwrap(), before);
    assert!(verified().status.success());
}

#[test]
fn a_student_learns_nothing_of_what_judges_it() {
    let folder = site();
    let made = |data: &str| {
        let more = ["model.onnx", "--to", "student", "--units", "4", "--max-loss", "100%"];
        let output = on_recording(folder.path(), "compress", data, &more);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report = json(&output);
        let taught = number(&report["fine_tuning"]["taught"]["windows"]);
        (std::fs::read(folder.path().join("small.onnx")).unwrap(), taught, report)
    };
    let (student, taught, report) = made("machine.csv");
    // Windows of 10 s every 2 s, of which the first half may teach: closer ones and copies are many more.
    assert!(taught > 4000.0, "{taught}");
    let rows = std::fs::read_to_string(folder.path().join("machine.csv")).unwrap();
    let rows: Vec<&str> = rows.lines().collect();
    // The second half begins with the window that ends at 1210 s: its first row is the 1200th, behind the header.
    let other: Vec<String> = (rows.iter().enumerate())
        .map(|(at, row)| if at > 1202 { row.replace(",5.", ",7.") } else { (*row).to_owned() })
        .collect();
    std::fs::write(folder.path().join("other.csv"), other.join("\n")).unwrap();
    let (same, _, other) = made("other.csv");
    assert_ne!(report["comparison"]["pr_auc"], other["comparison"]["pr_auc"]);
    assert!(student == same, "the second half of the recording made another student");
}

#[test]
fn the_original_is_never_overwritten_and_what_cannot_be_smaller_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("dense.onnx");
    std::fs::copy(model("dense.onnx"), &copy).unwrap();
    let told = |output: Output| {
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let text = told(compress(&copy, &copy, &["--to", "float16"]));
    assert!(text.contains("is the original"), "{text}");
    assert_eq!(std::fs::read(&copy).unwrap(), std::fs::read(model("dense.onnx")).unwrap());
    let tiny = model("../uint8.onnx");
    let text = told(compress(&tiny, &folder.path().join("x.onnx"), &["--to", "int8-weights"]));
    assert!(text.contains("nothing of the model can be made smaller"), "{text}");
    let more = ["--to", "float16", "--max-loss", "200%"];
    let output = compress(&copy, &folder.path().join("y.onnx"), &more);
    assert_eq!(output.status.code(), Some(2), "a share is at most all of it");
}

const SCHEMA: &str = "name = \"machine\"\n[[signal]]\nname = \"a\"\nunit = \"bar\"\n[[signal]]\nname = \"b\"\nunit = \"degC\"\n";
const PIPELINE: &str = "name = \"machine\"\nschema = \"machine\"\ntopics = [\"plant/{asset}\"]\nformat = { json = { time = \"ts\" } }\n\
[[stage]]\nresample = { every = \"1s\" }\n[[stage]]\nwindow = { length = \"10s\", every = \"2s\", features = [\"mean\", \"std\"] }\n\
[[stage]]\nscore = { model = \"model.onnx\", output = \"anomaly\", input = \"sequence\" }\n";

/// A folder with a pipeline, a recording whose swing slows down for 100 s of every 300 with a column of numbers, one of
/// words and a file that say when, one without faults, and a network that learned of it what is normal.
fn site() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let recording = |faults: bool| {
        let (mut rows, mut times) =
            (String::from("time,a,b,fault,state\n"), String::from("asset,from,to\n"));
        let mut phase: f64 = 0.0;
        for second in 0..2400 {
            let at = |second: i64| Timestamp(1_767_225_600_000_000 + second * 1_000_000);
            let faulty = faults && second % 300 >= 200;
            phase += if faulty { 0.5 } else { 0.9 };
            let wobble = (second * 7919 % 101) as f64 / 200.0;
            let (a, b) = (5.0 + phase.sin() + wobble, 40.0 - 3.0 * phase.cos() - wobble);
            let state = if faulty { "slow" } else { "normal" };
            writeln!(rows, "{},{a},{b},{},{state}", at(second), i32::from(faulty)).unwrap();
            if faulty && second % 300 == 200 {
                writeln!(times, "mixer-1,{},{}", at(second), at(second + 99)).unwrap();
            }
        }
        (rows, times)
    };
    let (rows, times) = recording(true);
    file("machine.csv", &rows);
    file("times.csv", &times);
    file("normal.csv", &recording(false).0);
    file("pipeline.toml", PIPELINE);
    std::fs::create_dir(folder.path().join("schemas")).unwrap();
    file("schemas/machine.toml", SCHEMA);
    let kind = ["--kind", "conv-autoencoder", "--epochs", "10", "--units", "32"];
    let trained = on_recording(folder.path(), "train", "normal.csv", &kind);
    assert!(trained.status.success(), "{}", String::from_utf8_lossy(&trained.stderr));
    folder
}

/// A command on a recording of `mixer-1`, with the runtime under test. It writes `small.onnx`, or trains `model.onnx`.
fn on_recording(folder: &Path, command: &str, data: &str, more: &[&str]) -> Output {
    let out = if command == "train" { "model.onnx" } else { "small.onnx" };
    let mut process = bin::forebay();
    process.current_dir(folder).arg(command);
    process.args(["--quiet", "--json", "--pipeline", "pipeline.toml", "--data", data]);
    process.args(["--schemas", "schemas", "--asset", "mixer-1", "--out", out]).args(more);
    if std::env::var("FOREBAY_TEST_RUNTIME").is_ok_and(|runtime| runtime == "tract") {
        process.args(["--onnxruntime", "tract"]);
    }
    process.output().unwrap()
}

/// What `compress` says of `model.onnx` on the recording with faults.
fn compressed(folder: &Path, more: &[&str]) -> (Output, Value) {
    let output = on_recording(folder, "compress", "machine.csv", &[&["model.onnx"], more].concat());
    let report = json(&output);
    (output, report)
}

fn inspected(path: &Path) -> Value {
    json(&forebay(&["model", "inspect", "--json", path.to_str().unwrap()]))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn what_is_kept_keeps_the_contract_and_gives_its_golden_answers() {
    let folder = site();
    let (original, small) = (folder.path().join("model.onnx"), folder.path().join("small.onnx"));
    for (method, truth) in [("int8-weights", "fault"), ("int8", "times.csv"), ("student", "state")]
    {
        let labels = ["--to", method, "--labels", truth, "--max-loss", "5%"];
        let more = [&labels[..], &["--html", "report.html", "--units", "8"]].concat();
        let (output, report) = compressed(folder.path(), &more);
        assert!(output.status.success(), "{method}: {report}");
        let found = &report["comparison"];
        assert_eq!((&report["accepted"], &found["against"]), (&true.into(), &"labels".into()));
        let [before, after] = ["pr_auc_original", "pr_auc"].map(|of| number(&found[of]));
        assert!(before > 0.8 && before < 1.0, "{before}: losses would not show");
        let loss = number(&found["loss"]);
        assert!(loss <= 0.05 && (loss - (before - after) / before).abs() < 1e-12, "{report}");
        for side in ["original", "result"] {
            let latency = report[side]["latency"].as_array().unwrap();
            assert_eq!(latency.iter().map(|one| &one["batch"]).collect::<Vec<_>>(), [1, 16]);
            assert!(latency.iter().all(|one| number(&one["p50_ms"]) <= number(&one["p95_ms"])));
        }
        assert!(number(&report["result"]["bytes"]) < number(&report["original"]["bytes"]));
        // Its threshold was moved, and it is the one that the file notes.
        let (was, is) = (inspected(&original), inspected(&small));
        assert_eq!(is["threshold"], report["result"]["threshold"], "{method}");
        assert_eq!(was["threshold"], report["original"]["threshold"], "{method}");
        assert_eq!(is["parent"], was["digest"], "{method}");
        for same in ["name", "channels", "steps", "units", "window", "every", "step"] {
            assert!(!was[same].is_null(), "{same}: {was}");
            assert_eq!(is[same], was[same], "{method}, {same}");
        }
        let meaning = |of: &Value| {
            let ports = of["outputs"].as_array().unwrap().iter();
            ports.clone().find(|port| port["name"] == "score").unwrap()["meaning"].clone()
        };
        assert_eq!((meaning(&is), meaning(&was).is_null()), (meaning(&was), false));
        let verified = json(&forebay(&["model", "verify", "--json", small.to_str().unwrap()]));
        assert!(number(&verified["golden_answers"]) > 0.0, "{method}: {verified}");
        let page = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
        assert!(page.contains("<td>PR-AUC</td>") && page.matches("<svg").count() == 2, "{page}");
        assert!(page.contains(method) && !page.contains("src=") && !page.contains("href="));
    }
}

#[test]
fn what_loses_too_much_on_labels_is_refused_with_the_numbers() {
    let folder = site();
    let more = ["--to", "student", "--units", "1", "--labels", "fault", "--max-loss", "0.1%"];
    let page = ["--html", "report.html"];
    let (output, report) = compressed(folder.path(), &[&more[..], &page].concat());
    assert_eq!((output.status.code(), &report["accepted"]), (Some(1), &false.into()));
    let lost = format!(
        "it loses {:.2} % and may lose 0.10 %",
        number(&report["comparison"]["loss"]) * 1e2
    );
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains(&lost) && told.contains("--max-loss"), "{told}, not: {lost}");
    assert!(!folder.path().join("small.onnx").exists());
    let page = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert!(page.contains("was refused"), "the report of what was refused is there to look at");
}

#[test]
fn a_threshold_of_the_pipeline_stays_and_decides_where_there_are_no_labels() {
    let folder = site();
    let with = PIPELINE.replace("input = \"sequence\"", "input = \"sequence\", threshold = 0.45");
    std::fs::write(folder.path().join("pipeline.toml"), with).unwrap();
    let (output, report) = compressed(folder.path(), &["--to", "float16"]);
    assert!(output.status.success(), "{report}");
    assert_eq!(report["comparison"]["against"], "original_verdicts", "{report}");
    for side in ["original", "result"] {
        assert_eq!(number(&report[side]["threshold"]), 0.45);
    }
    let [was, is] = ["model.onnx", "small.onnx"].map(|name| inspected(&folder.path().join(name)));
    assert_eq!((&is["threshold"], &is["threshold_by"]), (&was["threshold"], &was["threshold_by"]));
}

#[test]
fn a_pruned_network_of_ours_is_fine_tuned_and_a_foreign_one_is_told_as_not() {
    let folder = site();
    let more = ["--to", "pruned", "--keep", "30%", "--labels", "fault", "--max-loss", "5%"];
    let (output, report) = compressed(folder.path(), &more);
    assert!(output.status.success(), "{report}");
    assert!(number(&report["fine_tuning"]["done"]["epochs"]) >= 1.0, "{report}");
    let is = inspected(&folder.path().join("small.onnx"));
    assert!(is["compressed"].as_str().unwrap().contains("fine-tuned on"), "{is}");
    let (of, to) = (number(&report["original"]["bytes"]), number(&report["result"]["bytes"]));
    assert!(to < 0.8 * of, "{report}");
    // It is a network of ours as it was, and can be trained on.
    let more = ["--kind", "conv-autoencoder", "--epochs", "1", "--from", "small.onnx"];
    let trained = on_recording(folder.path(), "train", "normal.csv", &more);
    assert!(trained.status.success(), "{}", String::from_utf8_lossy(&trained.stderr));
    let out = folder.path().join("foreign.onnx");
    let more = ["--to", "pruned", "--max-loss", "100%", "--json"];
    let report = json(&compress(&model("dense.onnx"), &out, &more));
    let because = report["fine_tuning"]["not_done"]["because"].as_str().unwrap();
    assert!(because.contains("no network that `forebay train` wrote"), "{report}");
}
