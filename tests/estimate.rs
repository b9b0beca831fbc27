//! `forebay estimate`: its numbers are the product's own, and in an order that makes sense.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/bin.rs"]
mod bin;
mod readme_kit;

use readme_kit::{Site, blocks};
use serde_json::Value;

fn estimate(site: &Site, gather: &str) -> Value {
    let command = format!(
        "estimate --pipeline pipelines/fan.toml --data day.csv --gather {gather} --json --quiet"
    );
    let output = site.forebay(&command).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn gathering_saves_bytes_and_the_lanes_add_up() {
    let site = Site::new();
    for block in blocks() {
        if let Some(("toml", path)) = block.kind.split_once(' ') {
            site.write(path, &block.text);
        }
    }
    // The pipeline names the model that README trains before.
    for block in blocks().iter().filter(|block| block.kind == "console") {
        for line in block.text.lines().filter(|line| line.contains(" train ")) {
            let command = line.trim_start_matches("$ forebay ");
            assert!(site.forebay(command).output().unwrap().status.success());
        }
    }
    let (at_once, later) = (estimate(&site, "0s"), estimate(&site, "10m"));
    let of = |estimate: &Value, what: &str| estimate["total"][what].as_f64().unwrap();
    assert_eq!(of(&at_once, "records"), of(&later, "records"));
    assert_eq!(of(&at_once, "disk_bytes"), of(&later, "disk_bytes"));
    assert!(of(&later, "http_bytes") * 2.0 < of(&at_once, "http_bytes"));
    for estimate in [&at_once, &later] {
        let forms = ["mqtt_dictionary_bytes", "mqtt_parcels_bytes", "http_bytes"];
        assert!(forms.map(|form| of(estimate, form)).is_sorted(), "{estimate}");
        for what in ["records", "disk_bytes", "http_bytes", "mqtt_records_bytes"] {
            let lanes = estimate["lanes"].as_object().unwrap();
            let sum: f64 = lanes.values().map(|lane| lane[what].as_f64().unwrap()).sum();
            assert!((sum - of(estimate, what)).abs() < 1.0, "{what}: {estimate}");
        }
    }
    // What is written is all that a node writes of its own, however long records are gathered.
    let written = |estimate: &Value, what: &str| estimate["written"][what].as_f64().unwrap();
    let parts = ["journal_bytes", "checkpoint_bytes", "record_bytes"];
    assert!(parts.iter().all(|part| written(&later, part) > 0.0), "{later}");
    let sum: f64 = parts.iter().map(|part| written(&later, part)).sum();
    assert_eq!(sum, written(&later, "total_bytes"));
    assert_eq!(at_once["written"], later["written"]);
    // A row is a tick: its readings take few bytes, and its entry has a head. A tick a reading would be twice that.
    let rows = std::fs::read_to_string(site.path("day.csv")).unwrap().lines().count() as f64;
    let of_a_row = written(&later, "journal_bytes") * later["days"].as_f64().unwrap() / rows;
    assert!((20.0..110.0).contains(&of_a_row), "{of_a_row} bytes of journal a row");
    for (lane, costs) in at_once["lanes"].as_object().unwrap() {
        let of = |what: &str| costs[what].as_f64().unwrap();
        assert!(of("disk_bytes") < of("mqtt_records_bytes"), "{lane}: {costs}");
    }
    assert!(of(&later, "mqtt_parcels_bytes") * 4.0 < of(&later, "mqtt_records_bytes"), "{later}");
}
