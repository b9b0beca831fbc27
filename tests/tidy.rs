//! The rules of the house that no compiler knows: who may import whom, how long files and functions may be, what a
//! file must open with. ARCHITECTURE.md gives the reasons; a rule that fails here says what to do.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};

/// Top-level modules (and one that lies below its own) and the modules of this crate that each may use. The order is the
/// order of the layers.
const LAYERS: &[(&str, &[&str])] = &[
    ("time", &[]),
    ("schema", &["time"]),
    ("command", &["time"]),
    ("frame", &["time", "command"]),
    ("record", &["time", "command", "frame"]),
    ("usage", &[]),
    ("metrics", &["time", "record", "usage"]),
    ("decode", &["time", "schema", "frame", "pipeline::spec"]),
    ("evaluate/metrics", &["time"]),
    ("model", &["time", "usage", "schema", "frame", "evaluate::metrics", "pipeline::spec"]),
    ("stage", &["time", "command", "schema", "frame", "record", "model", "pipeline::spec"]),
    ("engine", &["time", "command", "schema", "frame", "record", "stage"]),
    ("store", &["time", "command", "schema", "frame", "record", "config"]),
    ("link", &["time", "config"]),
    ("ingest", &["time", "schema", "frame", "decode", "store", "config", "link", "pipeline::spec"]),
    ("uplink", &["time", "command", "record", "store", "config", "link", "metrics"]),
    ("feed", &["time", "command", "record", "config", "link", "metrics"]),
];

/// Crates that only the named places may use: swapping one means touching these alone.
const CRATES: &[(&str, &[&str])] = &[
    ("sled", &["src/store/kv.rs"]),
    ("ort", &["src/model"]),
    ("ort_tract", &["src/model"]),
    ("tract_onnx", &["src/model"]),
    ("burn_tensor", &["src/model/net"]),
    ("rumqttc", &["src/link", "src/demo"]),
    ("rumqttd", &["src/demo"]),
    ("axum", &["src/feed", "src/receive", "src/demo"]),
    ("ureq", &["src/uplink/http.rs", "src/cli/remote.rs"]),
    ("anyhow", &["src/main.rs", "src/cli"]),
    ("clap", &["src/main.rs", "src/cli"]),
    ("polars", &["src/stage/features.rs", "src/ingest/replay", "src/cli/table.rs"]),
];

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no sources in {folder}");
    found
}

/// The part of a file before its unit tests.
fn without_tests(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or(text)
}

fn report(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn modules_use_only_what_lies_below_them() {
    let mut problems = Vec::new();
    for (path, text) in sources("src") {
        let inside = path.strip_prefix("src").unwrap().with_extension("");
        let module = inside.iter().next().unwrap().to_str().unwrap();
        let layer = LAYERS.iter().find(|(name, _)| inside.starts_with(name));
        let Some((_, allowed)) = layer else { continue };
        for (number, line) in without_tests(&text).lines().enumerate() {
            let Some(at) = line.find("crate::") else { continue };
            if line.trim_start().starts_with("//") {
                continue;
            }
            let used = &line[at + "crate::".len()..];
            let fits = |name: &str| used.starts_with(name);
            if !fits(module) && !allowed.iter().any(|name| fits(name)) {
                let place = format!("{}:{}", path.display(), number + 1);
                problems.push(format!(
                    "{place}: `{module}` may not use `{}`; move the shared part to a lower layer",
                    used.trim_end_matches([';', '{'])
                ));
            }
        }
    }
    report(&problems);
}

#[test]
fn crates_stay_where_they_belong() {
    let mut problems = Vec::new();
    for (path, text) in sources("src") {
        let shown = path.to_str().unwrap();
        for (name, places) in CRATES {
            let used = without_tests(&text).lines().any(|line| {
                let line = line.trim_start();
                !line.starts_with("//")
                    && line.match_indices(&format!("{name}::")).any(|(at, _)| {
                        !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
                    })
            });
            if used && !places.iter().any(|place| shown.starts_with(place)) {
                problems.push(format!("{shown}: `{name}` belongs to {}", places.join(", ")));
            }
        }
    }
    report(&problems);
}

/// Where functions with a body start, and how many lines they have.
fn functions(lines: &[&str]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (at, whole) in lines.iter().enumerate() {
        let line = whole.trim_start();
        let starts = ["fn ", "pub", "async "].iter().any(|word| line.starts_with(word));
        if !starts || !line.contains("fn ") || !line.contains('(') {
            continue;
        }
        // A signature ends where its body opens; that of a trait's method may have none.
        let end = lines[at..].iter().position(|l| l.ends_with([';', '{', '}'])).unwrap_or(0);
        if !lines[at + end].ends_with('{') {
            continue;
        }
        let close = format!("{}}}", " ".repeat(whole.len() - line.len()));
        let length = lines[at..].iter().position(|l| *l == close);
        found.push((at, length.expect("rustfmt closes a function in its own column") + 1));
    }
    found
}

#[test]
fn files_and_functions_are_short_enough_to_read() {
    let mut problems = Vec::new();
    for (path, text) in sources("src").into_iter().chain(sources("tests")) {
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() > FILE_LINES_MAX {
            let count = lines.len();
            problems.push(format!("{}: {count} lines; at most {FILE_LINES_MAX}", path.display()));
        }
        for (at, length) in functions(&lines) {
            if length > FUNCTION_LINES_MAX {
                problems.push(format!(
                    "{}:{}: a function of {length} lines; at most {FUNCTION_LINES_MAX}",
                    path.display(),
                    at + 1
                ));
            }
        }
    }
    report(&problems);
}

#[test]
fn every_file_says_what_it_is_and_no_test_is_empty_or_off() {
    let mut problems = Vec::new();
    for (path, text) in sources("src").into_iter().chain(sources("tests")).chain(sources("benches"))
    {
        if !text.starts_with("//!") {
            problems
                .push(format!("{}: opens without a `//!` that says what it is", path.display()));
        }
        let mut before = "";
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            let starts = before.ends_with([';', '{', '}']);
            before = line;
            let bare = starts && line.starts_with("matches!(") && line.ends_with(';');
            let off = line.starts_with("#[ignore") || line.starts_with("#[should_panic");
            if (bare || off) && !path.ends_with("tidy.rs") {
                problems.push(format!("{}:{}: `{line}` tests nothing", path.display(), number + 1));
            }
        }
    }
    report(&problems);
}

#[test]
fn the_map_and_the_tree_agree() {
    let map = fs::read_to_string("ARCHITECTURE.md").unwrap();
    let lib = fs::read_to_string("src/lib.rs").unwrap();
    let mut problems = Vec::new();
    for line in lib.lines() {
        if let Some(module) = line.strip_prefix("pub mod ").and_then(|l| l.strip_suffix(';'))
            && !map.contains(&format!("`{module}`"))
        {
            problems.push(format!("ARCHITECTURE.md does not name the module `{module}`"));
        }
    }
    for word in map.split('`').skip(1).step_by(2) {
        let is_path = word.starts_with("src/") || word.starts_with("tests/");
        if is_path && !Path::new(word).exists() {
            problems.push(format!("ARCHITECTURE.md names `{word}`, which is not there"));
        }
    }
    report(&problems);
}
