//! `forebay train` of networks, as people type it: labels from a column, stopped and resumed, started from another model.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const SCHEMA: &str = "name = \"machine\"\n[[signal]]\nname = \"a\"\nunit = \"bar\"\n[[signal]]\nname = \"b\"\nunit = \"degC\"\n";
const PIPELINE: &str = "name = \"machine\"\nschema = \"machine\"\ntopics = [\"plant/{asset}\"]\nformat = { json = { time = \"ts\" } }\n\
[[stage]]\nresample = { every = \"1s\" }\n[[stage]]\nwindow = { length = \"10s\", every = \"2s\", features = [\"mean\"] }\n\
[[stage]]\nscore = { model = \"model.onnx\", output = \"fault\", input = \"sequence\" }\n";

/// A folder with a pipeline, and a recording whose swing slows down for 100 s of every 300.
fn site() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let mut rows = String::from("time,a,b,fault\n");
    let mut phase: f64 = 0.0;
    for second in 0..1200 {
        let faulty = second % 300 >= 200;
        phase += if faulty { 0.2 } else { 0.9 };
        let (minute, rest) = (second / 60, second % 60);
        let wobble = f64::from(second * 7919 % 101) / 1000.0;
        let (a, b) = (5.0 + phase.sin() + wobble, 40.0 - 3.0 * phase.cos());
        writeln!(rows, "2026-01-01T00:{minute:02}:{rest:02}Z,{a},{b},{}", i32::from(faulty))
            .unwrap();
    }
    file("machine.csv", &rows);
    file("pipeline.toml", PIPELINE);
    std::fs::create_dir(folder.path().join("schemas")).unwrap();
    file("schemas/machine.toml", SCHEMA);
    folder
}

fn train(folder: &Path, out: &str, more: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.current_dir(folder).args(["train", "--quiet", "--json", "--pipeline", "pipeline.toml"]);
    if !more.contains("--data") {
        command.args(["--data", "machine.csv"]);
    }
    command
        .args(["--schemas", "schemas", "--onnxruntime", "tract", "--out", out])
        .args(more.split_whitespace());
    command.output().unwrap()
}

fn report(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_classifier_learns_from_a_column_and_goes_on_where_it_was_stopped() {
    let folder = site();
    let options = "--kind classifier --label fault --epochs 12 --units 8 --depth 1 --batch 32 --learning-rate 5e-3 --class-weights";
    let whole = report(&train(folder.path(), "whole.onnx", options));
    assert!(whole["held_out_measures"]["f1"].as_f64().unwrap() > 0.8, "{whole}");
    assert_eq!(whole["epochs"].as_array().unwrap().len(), 12);
    assert!(!folder.path().join("whole.onnx.checkpoint").exists());
    // The name is part of the file, so both are called the same.
    let first = folder.path().join("first");
    std::fs::create_dir(&first).unwrap();
    std::fs::rename(folder.path().join("whole.onnx"), first.join("whole.onnx")).unwrap();
    let stopped =
        report(&train(folder.path(), "whole.onnx", &format!("{options} --time-budget 0s")));
    assert_eq!(stopped["epochs"].as_array().unwrap().len(), 1);
    assert!(folder.path().join("whole.onnx.checkpoint").exists());
    let other = train(folder.path(), "whole.onnx", &format!("{options} --resume --seed 9"));
    assert!(String::from_utf8_lossy(&other.stderr).contains("checkpoint is of other data"));
    report(&train(folder.path(), "whole.onnx", &format!("{options} --resume")));
    let read = |path: &Path| std::fs::read(path).unwrap();
    assert!(read(&folder.path().join("whole.onnx")) == read(&first.join("whole.onnx")));
    let tuned = format!("{options} --from whole.onnx --freeze 2 --seed 3");
    let tuned = report(&train(folder.path(), "tuned.onnx", &tuned));
    let loss = |report: &Value| report["epochs"][0]["loss"].as_f64().unwrap();
    assert!(loss(&tuned) < loss(&whole), "{} {}", loss(&tuned), loss(&whole));
}

#[test]
fn what_a_kind_lacks_is_told() {
    let folder = site();
    let said = |more: &str| {
        let output = train(folder.path(), "model.onnx", more);
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(said("--kind classifier").contains("name their column with `--label`"));
    assert!(said("--kind classifier --label a").contains("a label is 0 for normal"));
    assert!(said("--kind classifier --label fault --classes normal").contains("has 1 names"));
    // The only fault is in the part that is held out.
    let text = std::fs::read_to_string(folder.path().join("machine.csv")).unwrap();
    let labelled = |(at, row): (usize, &str)| match row.rsplit_once(',') {
        Some((rest, fault)) if at > 0 && at < 1100 && fault == "1" => format!("{rest},0\n"),
        _ => format!("{row}\n"),
    };
    let late: String = text.lines().enumerate().map(labelled).collect();
    std::fs::write(folder.path().join("late.csv"), late).unwrap();
    for kind in ["classifier", "trees"] {
        let told = said(&format!("--kind {kind} --label fault --data late.csv"));
        assert!(told.contains("have the same label"), "{kind}: {told}");
    }
    assert!(said("--kind gru-autoencoder --from machine.csv").contains("cannot be trained on"));
    let features = PIPELINE.replace(", input = \"sequence\"", "");
    std::fs::write(folder.path().join("pipeline.toml"), features).unwrap();
    assert!(said("--kind forecaster").contains("input = \"sequence\""));
    assert!(said("--kind classifier --label a --device cuda --epochs 1").contains("a label is 0"));
}

#[test]
fn trees_learn_labels_and_lives() {
    let folder = site();
    let chance =
        report(&train(folder.path(), "chance.onnx", "--kind trees --label fault --rounds 60"));
    assert!(chance["fitted"].as_u64().unwrap() > 0 && chance["held_out"].as_u64().unwrap() > 0);
    assert!((0.0..=1.0).contains(&chance["threshold"].as_f64().unwrap()), "{chance}");
    let life =
        report(&train(folder.path(), "life.onnx", "--kind trees --rounds 30 --tree-depth 2"));
    assert!(life["threshold"].is_null() && life["rounds"].as_u64().unwrap() <= 30, "{life}");
    let wrong = train(folder.path(), "wrong.onnx", "--kind trees --tree-rate 0");
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("`--tree-rate` must be above 0"));
}
