//! `forebay compress` as its users meet it: what it writes, what it says, and that what loses too much is not written.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/to_compress").join(name)
}

fn forebay(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_forebay")).args(arguments).output().unwrap()
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
    let mut left = left_in(folder.path());
    left.sort();
    assert_eq!(left, ["small.onnx", "small.onnx.data"]);
    // A folder with one model is a model.
    let verified = forebay(&["model", "verify", folder.path().to_str().unwrap()]);
    assert!(verified.status.success());
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
