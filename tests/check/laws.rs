//! What holds of every mistake, not only of those that somebody thought of.

use std::path::Path;

use forebay::config::Config;
use forebay::diagnose::{Document, Node, Problems, Value};
use forebay::pipeline::load::{load_all, load_pipeline};
use forebay::pipeline::spec::PipelineSpec;
use forebay::schema::Schema;
use proptest::prelude::*;
use serde_json::Value as Json;

use crate::{PIPELINE, SCHEMA, write};

/// A pipeline that uses every key there is, but for one that excludes another.
const FULL: &str = include_str!("full-pipeline.toml");
const GEOMETRY: &str = "geometry = { balls = 9, ball = 7.94, pitch = 39.04, angle = 0.0 }";
const ORDERS: &str = "orders = { bpfo = 3.58, bpfi = 5.42, bsf = 2.36, ftf = 0.4 }";

fn root(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

/// Every key of a tree: its bytes.
fn keys(node: &Node, found: &mut Vec<std::ops::Range<usize>>) {
    match &node.value {
        Value::Table(entries) => entries.iter().for_each(|(_, child)| {
            found.extend(child.key.clone());
            keys(child, found);
        }),
        Value::List(items) => items.iter().for_each(|item| keys(item, found)),
        _ => {}
    }
}

#[test]
fn the_full_pipeline_is_right_and_full() {
    let folder = tempfile::tempdir().unwrap();
    let other = FULL.replace(GEOMETRY, ORDERS);
    let load = |text: &str| {
        write(folder.path(), &[("p.toml", text.as_bytes()), ("pump.toml", SCHEMA.as_bytes())]);
        load_pipeline(&folder.path().join("p.toml"), None).map_err(|p| p.to_string()).unwrap()
    };
    let pipeline = load(FULL);
    assert_ne!(load(&other).spec, pipeline.spec);
    // Every key that the schema knows is in the file, so that the next law covers it.
    let schema = Json::from(schemars::schema_for!(PipelineSpec));
    let mut missing = Vec::new();
    let defs = schema["$defs"].as_object().unwrap().values();
    for table in defs.chain([&schema]) {
        let names = table["properties"].as_object().into_iter().flat_map(|p| p.keys());
        missing.extend(
            names
                .filter(|name| {
                    let there = |text: &str| {
                        text.contains(&format!("{name} =")) || text.contains(&format!("[{name}]"))
                    };
                    !there(FULL) && !there(&other)
                })
                .cloned(),
        );
    }
    assert_eq!(missing, Vec::<String>::new());
    assert_eq!(pipeline.schema.name, "pump");
}

#[test]
fn every_misspelt_key_is_found_with_its_right_spelling() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[("pump.toml", SCHEMA.as_bytes()), ("p.toml", FULL.as_bytes())]);
    let path = folder.path().join("p.toml");
    let document = Document::read(&path, &mut Problems::default()).unwrap();
    let mut all = Vec::new();
    keys(&document.node, &mut all);
    // Names of signals and units are the user's own; headers repeat keys.
    let own = ["pressure", "vibration_rms", "stage"];
    let mut tried = 0;
    for range in all {
        let key = &FULL[range.clone()];
        if own.contains(&key) || key.len() < 3 {
            continue;
        }
        let wrong = format!("{}{}{}{}", &key[..1], &key[2..3], &key[1..2], &key[3..]);
        if wrong == key {
            continue;
        }
        let text = format!("{}{wrong}{}", &FULL[..range.start], &FULL[range.end..]);
        std::fs::write(&path, text).unwrap();
        let told = load_pipeline(&path, None).unwrap_err();
        let here = told.all.iter().find(|p| p.place.range.start == range.start);
        let here = here.unwrap_or_else(|| panic!("{wrong} for {key} is not found:\n{told}"));
        assert!(
            here.suggestion.as_deref().is_some_and(|s| s.contains(key)),
            "{wrong} for {key}:\n{told}"
        );
        tried += 1;
    }
    assert!(tried > 40, "{tried}");
}

#[test]
fn the_example_config_shows_every_key_with_its_default() {
    let text = std::fs::read_to_string(root("config.toml")).unwrap();
    // Lines of keys are commented out; prose begins with a space.
    let uncommented: Vec<&str> = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest,
            _ => line,
        })
        .collect();
    let uncommented = uncommented.join("\n");
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[("config.toml", uncommented.as_bytes())]);
    let mut problems = Problems::default();
    let document = Document::read(&folder.path().join("config.toml"), &mut problems).unwrap();
    let typed = Json::Object(document.fit::<Config>(&mut problems));
    let defaults: Json =
        serde_json::to_value(serde_json::from_str::<Config>("{\"node\":\"gateway-1\"}").unwrap())
            .unwrap();
    differences("", &typed, &defaults);
}

/// Everything in `defaults` is in `typed`, and the same.
fn differences(path: &str, typed: &Json, defaults: &Json) {
    match defaults {
        Json::Object(keys) => keys.iter().for_each(|(key, value)| {
            let typed = typed.get(key).unwrap_or_else(|| panic!("{path}.{key} is not shown"));
            differences(&format!("{path}.{key}"), typed, value);
        }),
        Json::String(default) => {
            let typed = typed.as_str().unwrap();
            let size = |text: &str| text.parse::<bytesize::ByteSize>().ok();
            assert!(
                typed == default || size(typed).is_some_and(|s| Some(s) == size(default)),
                "{path}: {typed} is not {default}"
            );
        }
        other => assert_eq!(typed, other, "{path}"),
    }
}

#[test]
fn the_shipped_pipelines_are_right() {
    for name in ["pipelines/pump.toml", "pipelines/skab.toml"] {
        let pipeline = load_pipeline(&root(name), None).map_err(|p| p.to_string()).unwrap();
        assert_eq!(pipeline.schema.signals.len(), 8, "{name}");
    }
}

#[test]
fn relative_paths_start_at_the_config() {
    let folder = tempfile::tempdir().unwrap();
    let config = "node = \"a\"\n[store]\npath = \"data\"\n[mqtt]\nuser = { env = \"PATH\" }\npassword = { file = \"p\" }\n";
    write(
        folder.path(),
        &[
            ("config.toml", config.as_bytes()),
            ("p", b"x"),
            ("schemas/pump.toml", SCHEMA.as_bytes()),
            ("pipelines/p.toml", PIPELINE.as_bytes()),
        ],
    );
    let loaded = load_all(&folder.path().join("config.toml")).map_err(|p| p.to_string()).unwrap();
    assert_eq!(loaded.config.store.path, folder.path().join("data"));
    let secret = forebay::config::Secret::File(folder.path().join("p"));
    assert_eq!(loaded.config.mqtt.password, Some(secret));
    assert_eq!((loaded.pipelines.len(), loaded.schemas.len()), (1, 1));
    assert!(loaded.warnings.all.is_empty());
}

/// Whatever stands in a file: no panic, every problem lies in its file, and can be printed.
fn survives(text: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.toml");
    write(folder.path(), &[("p.toml", text), ("pump.toml", SCHEMA.as_bytes())]);
    let mut problems = Problems::default();
    if let Some(document) = Document::read(&path, &mut problems) {
        document.fit::<Schema>(&mut problems);
        document.fit::<Config>(&mut problems);
    }
    problems.append(load_pipeline(&path, None).err().unwrap_or_default());
    for problem in &problems.all {
        let range = &problem.place.range;
        assert!(problem.place.source.text().get(range.clone()).is_some(), "{problem:?}");
        assert!(!problem.message.is_empty());
    }
    assert_eq!(problems.to_string().is_empty(), problems.all.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_damage_to_a_file_is_survived(
        damage in prop::collection::vec((0..FULL.len(), prop::sample::select(b"\"'[]{}=,.#\n\\ 0a\xc3\xb6\xff".to_vec())), 1..6),
        cut in 0..FULL.len(),
    ) {
        let mut text = FULL.as_bytes().to_vec();
        for (at, byte) in damage {
            text[at] = byte;
        }
        survives(&text);
        survives(&text[..cut]);
    }
}
