//! `forebay train` of networks, as people type it: labels from a column, stopped and resumed, started from another model.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/bin.rs"]
mod bin;

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
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
    command(folder, out, more).output().unwrap()
}

fn command(folder: &Path, out: &str, more: &str) -> Command {
    let mut command = bin::forebay();
    command.current_dir(folder).args(["train", "--quiet", "--json", "--pipeline", "pipeline.toml"]);
    if !more.contains("--data") {
        command.args(["--data", "machine.csv"]);
    }
    command
        .args(["--schemas", "schemas", "--onnxruntime", "tract", "--out", out])
        .args(more.split_whitespace());
    command
}

fn report(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_training_that_is_interrupted_says_how_it_goes_on_and_writes_no_model() {
    let folder = site();
    let endless = "--kind dense-autoencoder --epochs 100000 --patience 100000 --units 8";
    let mut child =
        command(folder.path(), "m.onnx", endless).stderr(Stdio::piped()).spawn().unwrap();
    let checkpoint = folder.path().join("m.onnx.checkpoint");
    while !checkpoint.exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    for _ in 0..3000 {
        if child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    drop(child.kill()); // a training that heeds nothing fails below, and does not hang
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("`--resume` goes on from"), "{told}");
    assert!(checkpoint.exists() && !folder.path().join("m.onnx").exists());
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
    let frozen =
        train(folder.path(), "tuned.onnx", &format!("{options} --from whole.onnx --freeze 64"));
    assert!(String::from_utf8_lossy(&frozen.stderr).contains("nothing is left to learn"));
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
    for (option, kind) in
        [("--from no.onnx", "pca"), ("--members 3", "trees"), ("--rounds 9", "pca")]
    {
        let name = option.split(' ').next().unwrap();
        let told = said(&format!("--kind {kind} {option}"));
        assert!(told.contains(&format!("`{name}` does nothing for `--kind {kind}`")), "{told}");
    }
    assert!(said("--holdout 0.95").contains("a share from 0 to 0.9"));
    assert!(said("--margin 0.5").contains("1 or more"));
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

#[test]
fn a_forecast_is_measured_beside_the_last_value_and_its_losses_are_drawn() {
    let folder = site();
    let options =
        "--kind forecaster --epochs 6 --units 8 --depth 1 --holdout 0.25 --html report.html";
    let found = report(&train(folder.path(), "next.onnx", options));
    // Windows of ten seconds every two; the last quarter of them is held out, and scaled by the others' samples.
    let text = std::fs::read_to_string(folder.path().join("machine.csv")).unwrap();
    let rows: Vec<[f64; 2]> = text
        .lines()
        .skip(1)
        .map(|line| {
            let cells: Vec<&str> = line.split(',').collect();
            [cells[1].parse().unwrap(), cells[2].parse().unwrap()]
        })
        .collect();
    let windows: Vec<&[[f64; 2]]> = rows.windows(10).step_by(2).collect();
    let fitted = found["fitted"].as_u64().unwrap() as usize;
    let held = found["held_out"].as_u64().unwrap() as usize;
    let mut expected = 0.0;
    for signal in 0..2 {
        let seen =
            || windows[..fitted].iter().flat_map(|window| window.iter()).map(|row| row[signal]);
        let count = seen().count() as f64;
        let mean = seen().sum::<f64>() / count;
        let variance = seen().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
        let squares = windows[windows.len() - held..]
            .iter()
            .map(|window| (window[9][signal] - window[8][signal]).powi(2) / variance);
        expected += squares.sum::<f64>() / held as f64 / 2.0;
    }
    let last = found["held_out_measures"]["last_value_mean_squared_error"].as_f64().unwrap();
    assert!((last - expected).abs() < 0.01 * expected, "{last}, not {expected}");
    let page = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert_eq!(page.matches("<svg ").count(), 1);
    assert!(page.contains("network 1, loss") && page.contains("last value mean squared error"));
}

#[test]
fn labels_that_are_words_name_the_classes() {
    let folder = site();
    let text = std::fs::read_to_string(folder.path().join("machine.csv")).unwrap();
    let words = text.replace(",1\n", ",slow\n").replace(",0\n", ",normal\n");
    let options = "--kind classifier --label fault --epochs 2 --units 4 --depth 1";
    let by_numbers =
        train(folder.path(), "numbers.onnx", &format!("{options} --classes normal,slow"));
    std::fs::write(folder.path().join("machine.csv"), words).unwrap();
    let (by_numbers, by_words) =
        (report(&by_numbers), report(&train(folder.path(), "words.onnx", options)));
    assert_eq!(by_numbers["epochs"], by_words["epochs"]);
    let mut inspect = bin::forebay();
    inspect.current_dir(folder.path()).args(["model", "inspect", "words.onnx"]);
    let told = String::from_utf8(inspect.output().unwrap().stdout).unwrap();
    assert!(told.contains("one of normal, slow"), "{told}");
    let wrong = train(folder.path(), "wrong.onnx", &format!("{options} --classes normal,fast"));
    let error = String::from_utf8_lossy(&wrong.stderr);
    assert!(error.contains("has `slow`, which is none of `--classes`"), "{error}");
}

#[test]
fn channels_first_is_refused_before_anything_is_learned() {
    let folder = site();
    let first = PIPELINE.replace("\"sequence\"", "\"channels_first\"");
    std::fs::write(folder.path().join("pipeline.toml"), first).unwrap();
    let output = train(folder.path(), "model.onnx", "--kind conv-autoencoder --epochs 1");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("set it to \"sequence\""), "{error}");
}

#[test]
fn what_is_labelled_as_faulty_is_not_learned_as_normal() {
    let folder = site();
    let plain = report(&train(folder.path(), "plain.onnx", ""));
    let labelled = report(&train(folder.path(), "labelled.onnx", "--label fault"));
    let fitted = |report: &Value| report["fitted"].as_u64().unwrap();
    assert!(fitted(&labelled) * 5 < fitted(&plain) * 4, "{labelled} {plain}");
}

/// Lives of several machines, whose `a` is what is left of them.
#[test]
fn trees_learn_the_end_of_a_life_too() {
    let folder = site();
    let features = PIPELINE.replace(", input = \"sequence\"", "");
    std::fs::write(folder.path().join("pipeline.toml"), features).unwrap();
    let mut rows = String::from("time,asset,a,b\n");
    for (asset, life) in [("one", 300), ("two", 420), ("three", 360), ("four", 400)] {
        for second in 0..life {
            let (minute, rest, left) = (second / 60, second % 60, life - second);
            writeln!(rows, "2026-01-01T00:{minute:02}:{rest:02}Z,{asset},{left},40").unwrap();
        }
    }
    std::fs::write(folder.path().join("lives.csv"), rows).unwrap();
    let life = report(&train(
        folder.path(),
        "life.onnx",
        "--kind trees --life-unit 1s --cap 1000 --data lives.csv --rounds 300 --tree-rate 0.1",
    ));
    assert!(life["held_out"].as_u64().unwrap() > 0, "{life}");
    let found = bin::forebay()
        .current_dir(folder.path())
        .args([
            "evaluate",
            "--pipeline",
            "pipeline.toml",
            "--schemas",
            "schemas",
            "--data",
            "lives.csv",
        ])
        .args(["--onnxruntime", "tract", "--model", "life.onnx", "--runs-to-failure", "--json"])
        .args(["--life-unit", "1s", "--quiet"])
        .output()
        .unwrap();
    let found = report(&found);
    assert!(found["life"]["raw"]["rmse"].as_f64().unwrap() < 20.0, "{}", found["life"]);
}

/// Rows of a machine whose `a` says how many seconds are left.
fn run_down(rows: &mut String, from: u32, lefts: impl Iterator<Item = u32>, failed: u8) {
    for (second, left) in (from..).zip(lefts) {
        let (minute, rest, wobble) = (second / 60, second % 60, second * 7919 % 101);
        writeln!(rows, "2026-01-01T00:{minute:02}:{rest:02}Z,{left},{wobble},{failed}").unwrap();
    }
}

#[test]
fn several_runs_to_failure_of_one_machine_are_several_lives() {
    let folder = site();
    let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    file("pipeline.toml", &PIPELINE.replace(", input = \"sequence\"", ""));
    let head = "time,a,b,failed\n".to_owned();
    let (mut first, mut second, mut whole) = (head.clone(), head.clone(), head);
    for rows in [&mut first, &mut whole] {
        run_down(rows, 0, (0..300).rev(), 0);
    }
    // It is mended, runs again, fails again, and is still running at the end.
    run_down(&mut whole, 300, std::iter::repeat_n(0, 100), 1);
    for rows in [&mut second, &mut whole] {
        run_down(rows, 400, (0..500).rev(), 0);
    }
    run_down(&mut whole, 900, std::iter::once(0), 1);
    run_down(&mut whole, 901, (700..900).rev(), 0);
    file("first.csv", &first);
    file("second.csv", &second);
    file("whole.csv", &whole);
    let apart = ["first.csv", "second.csv"].as_slice();
    let marked = ["whole.csv", "--failures", "failed"].as_slice();
    for (out, data) in [("apart.onnx", apart), ("marked.onnx", marked)] {
        let options =
            "--kind trees --rounds 80 --holdout 0 --life-unit 1s --cap 9999 --asset m --data";
        report(&train(folder.path(), out, &format!("{options} {}", data.join(" "))));
        for truth in [apart, marked] {
            let mut command = bin::forebay();
            command.current_dir(folder.path());
            command.args(["evaluate", "--quiet", "--json", "--pipeline", "pipeline.toml"]);
            command.args(["--schemas", "schemas", "--onnxruntime", "tract"]);
            command.args(["--model", &format!("fault={out}"), "--runs-to-failure"]);
            command.args(["--life-unit", "1s", "--asset", "m", "--data"]).args(truth);
            let found = report(&command.output().unwrap());
            let raw = &found["life"]["raw"];
            // Some windows hold the end of one run and the start of the next, and nobody can say anything of them.
            assert!(raw["mae"].as_f64().unwrap() < 8.0, "{out} {truth:?}: {raw}");
            let runs = found["life"]["assets"].as_array().map(Vec::len);
            assert_eq!(runs, Some(2), "{}", found["life"]["assets"]);
        }
    }
    let none = train(folder.path(), "none.onnx", "--kind trees --data first.csv --failures failed");
    assert!(String::from_utf8_lossy(&none.stderr).contains("column `failed` marks no failure"));
}
