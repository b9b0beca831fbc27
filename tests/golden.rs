//! Golden cases: what a pipeline makes of messages, as files that a person can read and check.
//!
//! `tests/golden/<case>/` holds `pipeline.toml`, `schema.toml`, `input.ndjson` and `expected.ndjson`. A line of input is
//! a message: `at` is when it arrives (lines with the same `at` come in one tick; a line with `at` alone is a tick
//! without a message), `asset` names the machine in the topic, `payload` is the message. Expected are the records in
//! their order, then the books. Numbers may differ in the last digits. `BLESS=1 cargo test --test golden` writes what
//! came out; read the difference before it is committed. What is there was compared with an offline computation of the same
//! cases in another language, on whole series and by the definitions in `docs/pipelines.md`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use forebay::decode::Rows;
use forebay::engine::Engine;
use forebay::pipeline::load::load_pipeline;
use forebay::pipeline::plan::PlanOptions;
use forebay::stage::{Account, Reason};
use forebay::time::Timestamp;
use serde_json::{Value, json};

fn cases() -> Vec<PathBuf> {
    let entries = fs::read_dir("tests/golden").unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    cases.sort();
    cases
}

/// Runs a case and gives the lines that should be expected.
fn run(case: &Path) -> String {
    let loaded = load_pipeline(&case.join("pipeline.toml"), None).unwrap_or_else(|e| panic!("{e}"));
    let host = forebay::model::Host::default();
    let options = PlanOptions { live: true, ..PlanOptions::of(loaded.base(), &host) };
    let mut engine = loaded.engine("golden", options).unwrap();
    let decoder = loaded.decoder().unwrap();
    let mut rows = Rows::new(decoder.route().to_owned());
    let mut out = String::new();
    let mut write = |engine: &mut Engine, rows: &mut Rows, at: Timestamp| {
        let input = if rows.is_empty() { Vec::new() } else { vec![rows.take()] };
        for outgoing in engine.step(input, at).records {
            writeln!(out, "{}", serde_json::to_string(&outgoing.record).unwrap()).unwrap();
        }
        assert_eq!(engine.pipelines()[0].account().gap(), 0, "the books do not close");
    };
    let mut tick: Option<Timestamp> = None;
    for line in fs::read_to_string(case.join("input.ndjson")).unwrap().lines() {
        let message: Value = serde_json::from_str(line).unwrap();
        let at: Timestamp = message["at"].as_str().unwrap().parse().unwrap();
        if let Some(open) = tick.filter(|open| *open != at) {
            write(&mut engine, &mut rows, open);
        }
        tick = Some(at);
        if let Some(asset) = message["asset"].as_str() {
            let payload = message["payload"].to_string();
            decoder.decode(&format!("rig/{asset}"), payload.as_bytes(), at, &mut rows).unwrap();
        }
    }
    write(&mut engine, &mut rows, tick.unwrap());
    let books = books(engine.pipelines()[0].account());
    writeln!(out, "{books}").unwrap();
    out
}

fn books(account: &Account) -> Value {
    let by_reason = |counts: &[u64]| -> Value {
        let named = Reason::ALL.iter().zip(counts).filter(|(_, count)| **count > 0);
        named.map(|(reason, count)| (reason.name().to_owned(), json!(count))).collect()
    };
    json!({
        "received": account.received,
        "used": account.used,
        "rejected": by_reason(&account.rejected),
        "marked": by_reason(&account.marked),
        "duplicates": account.duplicates,
        "late": account.late,
        "pending": account.pending,
        "windows": account.windows,
        "sparse": account.sparse,
    })
}

/// Equal, but for the last digits of numbers.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1e-3)
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => left == right,
    }
}

#[test]
fn every_case_gives_what_is_expected() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut wrong = Vec::new();
    for case in cases() {
        let (found, file) = (run(&case), case.join("expected.ndjson"));
        if bless {
            fs::write(&file, &found).unwrap();
            continue;
        }
        let expected = fs::read_to_string(&file).unwrap_or_default();
        let parse = |text: &str| -> Vec<Value> {
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        let (found, expected) = (parse(&found), parse(&expected));
        let differs = (0..found.len().max(expected.len())).find(
            |&n| !matches!((found.get(n), expected.get(n)), (Some(a), Some(b)) if same(a, b)),
        );
        if let Some(n) = differs {
            let show = |side: &[Value]| side.get(n).map_or("nothing".into(), Value::to_string);
            wrong.push(format!(
                "{}:{}\n  expected {}\n  found    {}",
                file.display(),
                n + 1,
                show(&expected),
                show(&found)
            ));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    assert!(!bless, "blessed: run again without BLESS");
}

#[test]
fn every_stage_but_score_has_a_case() {
    let all: String =
        cases().iter().map(|c| fs::read_to_string(c.join("pipeline.toml")).unwrap()).collect();
    for stage in ["clean", "resample", "window", "alarm", "emit"] {
        assert!(all.contains(&format!("\n{stage} = ")), "no golden case has `{stage}`");
    }
    assert!(cases().len() >= 10);
}
