//! The manual (README and docs/) against the product: every command in it is run, every file in it is used, every table in it is compared
//! with what the program says of itself.
//!
//! Blocks: ```` ```toml PATH ```` is a file of the example site; ```` ```console ```` holds commands of `forebay`, run in
//! that site one after the other; ```` ```sh ```` holds commands that are named but not run here (they build, or do not
//! end), so only their words are checked. The site's recordings are made here.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod edge;
mod node_kit;
mod readme_kit;

use std::collections::BTreeSet;
use std::path::Path;

use edge::{publish, until};
use forebay::cli::json_schemas;
use forebay::config::MqttVersion;
use forebay::demo::broker::Broker;
use forebay::stage::Reason;
use forebay::time::{Timestamp, now};
use node_kit::{Node, bin};
use readme_kit::{Block, PAGES, Site, backticked, blocks, fan, manual, rows};
use rumqttc::QoS;
use serde_json::Value;

/// Commands that are for a node that runs.
const REMOTE: [&str; 5] =
    ["model push", "model list", "model canary", "model promote", "model rollback"];

/// A node that runs in the example site, on ports of its own.
async fn running(site: &Site, broker: &Broker) -> Node {
    let mut command = site.forebay("run");
    command
        .env("FOREBAY_MQTT__URL", broker.url(MqttVersion::V5))
        .env("FOREBAY_FEED__LISTEN", "127.0.0.1:0")
        .env("FOREBAY_UPLINK__TARGETS__CLOUD__HTTP__URL", "http://127.0.0.1:9/nobody");
    let mut node = Node::spawn(command);
    node.ready(200).await;
    node
}

/// Publishes three minutes of the fan, and waits until they are scored.
async fn feed_fan(node: &Node, broker: &Broker) {
    let start = now().0 - 180_000_000;
    let messages = (0..180).map(|row| {
        let ts = Timestamp(start + row * 1_000_000);
        let (vibration, temperature) = fan(row, row > 60);
        format!("{{\"t\":\"{ts}\",\"vibration\":{vibration},\"temp\":{temperature}}}")
    });
    // Two that are rejected, at the door and by `clean`, so that their counters are there.
    let wrong = ["nonsense".to_owned(), "{\"vibration\":99,\"t\":0}".to_owned()];
    let on_topic = |text: String| ("site/hall-1/fan/fan-7/data".to_owned(), text.into_bytes());
    let messages = messages.chain(wrong).map(on_topic).collect();
    publish(broker.ports().0, QoS::AtLeastOnce, messages).await;
    until("windows are scored", || has(node, "/api/v1/scores/latest", "\"anomaly\"")).await;
}

fn has(node: &Node, path: &str, text: &str) -> bool {
    node.get(path).is_some_and(|(_, body)| body.contains(text))
}

/// Status and body; of a stream, which does not end, the status.
fn get(node: &Node, path: &str) -> (u16, String) {
    if !path.contains("/stream") {
        return node.get(path).unwrap();
    }
    let answer = ureq::get(format!("{}{path}", node.url().unwrap())).call().unwrap();
    (answer.status().as_u16(), String::new())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_works_in_the_example_site() {
    let site = Site::new();
    let mut ran = 0;
    // For commands that are for a node that runs.
    let mut there: Option<(Broker, Node)> = None;
    for Block { kind, text, .. } in blocks() {
        match kind.split_once(' ') {
            Some(("toml", path)) => site.write(path, &text),
            None if kind == "console" => {
                for line in text.lines() {
                    let command = line.strip_prefix("$ forebay ").unwrap_or_else(|| {
                        panic!("a console block holds `$ forebay …` lines, not `{line}`")
                    });
                    let mut process = site.forebay(command);
                    if REMOTE.iter().any(|remote| command.starts_with(remote)) {
                        if there.is_none() {
                            let broker = Broker::start(None).unwrap();
                            let node = running(&site, &broker).await;
                            there = Some((broker, node));
                        }
                        let url = there.as_ref().and_then(|(_, node)| node.url());
                        process.env("FOREBAY_NODE_URL", url.unwrap());
                    }
                    let output = process.output().unwrap();
                    assert!(
                        output.status.success(),
                        "`forebay {command}`: {}\n{}{}",
                        output.status,
                        String::from_utf8_lossy(&output.stdout),
                        String::from_utf8_lossy(&output.stderr)
                    );
                    if command.contains("--json") {
                        serde_json::from_slice::<Value>(&output.stdout).unwrap();
                    }
                    ran += 1;
                }
            }
            // The next test's.
            Some(("console", "plant")) => {}
            None if kind == "toml" => {}
            _ => assert_eq!(kind, "sh", "a block of this kind is not checked by anything"),
        }
    }
    assert!(ran >= 7, "only {ran} commands");
    let results = std::fs::read_to_string(site.path("results.ndjson")).unwrap();
    for name in ["unlike itself", "hot"] {
        assert!(results.contains(&format!("\"name\":\"{name}\"")), "no alarm `{name}`");
    }
}

#[test]
fn commands_that_are_only_named_are_these() {
    let shell: String =
        blocks().iter().filter(|b| b.kind == "sh").map(|b| b.text.as_str()).collect();
    let expected = [
        "cargo run --release -- demo",
        "cargo test",
        "forebay run --config plant/config.toml",
        "forebay doctor",
        "forebay run",
        "forebay evaluate --suite benchmarks",
        "forebay demo --record fleet --duration 2h",
        "forebay demo --record site --pumps 2 --seed 9 --duration 72h",
        "forebay train --kind dense-autoencoder --pipeline fleet/pipelines/plant.toml --data fleet/normal.csv --out fleet.onnx",
        "forebay train --kind dense-autoencoder --pipeline site/pipelines/plant.toml --data site/normal.csv --rows 7200 --from fleet.onnx --out site.onnx",
        "forebay evaluate --pipeline site/pipelines/plant.toml --model anomaly=site.onnx --data site/faults.csv --labels fault",
        "python3 -m venv torch && . torch/bin/activate && pip install torch==2.9.0 numpy",
        "LIBTORCH_USE_PYTORCH=1 cargo build --release --features cuda",
        "export LD_LIBRARY_PATH=$(python3 -c 'import torch; print(torch.__path__[0] + \"/lib\")')",
        "forebay receive --out received --listen 0.0.0.0:8090 --token-file token",
        "forebay receive --out received --broker mqtts://cloud.example --topic \"forebay/#\"",
        "forebay store verify --store forebay-data",
        "forebay store export --store forebay-data --lane score --out scores.parquet",
        "forebay store quarantine --store forebay-data",
    ]
    .map(String::from);
    assert_eq!(shell.lines().map(str::to_owned).collect::<Vec<_>>(), expected);
    // Commands in running text exist as well.
    let help = Site::new().forebay("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for word in backticked(&manual()).iter().filter_map(|w| w.strip_prefix("forebay ")) {
        let name = word.split(' ').next().unwrap();
        let known = name == "COMMAND" || help.contains(&format!("\n  {name} "));
        assert!(known, "`forebay {word}` is no command");
    }
}

#[test]
fn the_tables_of_stages_name_every_key_and_its_default() {
    let schemas = json_schemas();
    let pipeline = schemas.iter().find(|s| s.0 == "pipeline").unwrap();
    let of = |name: &str| pipeline.1["$defs"][name]["properties"].as_object().unwrap();
    let stages = ["Clean", "Resample", "Window", "Score", "Drift", "Alarm", "Emit"];
    let mut told: BTreeSet<(String, String)> = BTreeSet::new();
    let mut stage = String::new();
    for row in rows("| stage | key | default |") {
        if !row[0].is_empty() {
            stage.clone_from(&row[0].replace('`', ""));
        }
        let key = row[1].replace('`', "");
        let spec = format!("{}{}Spec", stage[..1].to_uppercase(), &stage[1..]);
        let field = of(&spec).get(&key).unwrap_or_else(|| panic!("`{stage}` has no `{key}`"));
        if let Some(default) = field.get("default") {
            assert_eq!(row[2].replace('`', ""), default.to_string(), "{stage}.{key}");
        } else {
            let plain = row[2].starts_with('`') && !row[2].contains('×') && row[2] != "`length`";
            assert!(!plain || row[2].contains(", else"), "{stage}.{key} has no default {}", row[2]);
        }
        told.insert((stage.clone(), key));
    }
    let all = stages.iter().flat_map(|stage| {
        of(&format!("{stage}Spec")).keys().map(|key| (stage.to_lowercase(), key.clone()))
    });
    assert_eq!(told, all.collect());
    let words = backticked(&manual());
    for (name, default) in of("TimeSpec").iter().filter_map(|(n, f)| Some((n, f.get("default")?))) {
        assert!(words.contains(name), "`time` has a key `{name}`");
        assert!(words.contains(&default.to_string()), "the default of `{name}` is {default}");
    }
}

#[test]
fn features_units_and_reasons_are_all_named() {
    let words = backticked(&manual());
    let listed: Vec<String> =
        rows("| feature | of one signal").iter().flat_map(|row| backticked(&row[0])).collect();
    for name in forebay::stage::features::NAMES {
        assert!(listed.iter().any(|word| word == name), "feature `{name}` is not in the manual");
    }
    for name in &listed {
        let feature: Result<forebay::stage::features::Feature, _> = name.parse();
        assert!(feature.is_ok(), "`{name}` is no feature");
    }
    let units = forebay::schema::known_units().map(str::to_owned);
    let reasons = Reason::ALL.map(|reason| reason.name().to_owned());
    for name in units.chain(reasons) {
        assert!(words.contains(&name), "`{name}` is not in the manual");
    }
}

#[test]
fn records_have_the_fields_that_the_table_says() {
    let schemas = json_schemas();
    let record = &schemas.iter().find(|s| s.0 == "record").unwrap().1;
    for row in rows("| `type` | fields |") {
        let kind = row[0].replace('`', "");
        let spec = format!("{}{}Record", kind[..1].to_uppercase(), &kind[1..]);
        let fields: BTreeSet<String> =
            record["$defs"][&spec]["properties"].as_object().unwrap().keys().cloned().collect();
        let words =
            ["AlarmState", "NoticeKind", "DriftKind", "Verdict"].map(|w| &record["$defs"][w]);
        let states = serde_json::to_string(&words).unwrap();
        let mut told: BTreeSet<String> = backticked(&row[1]).into_iter().collect();
        told.retain(|word| {
            let is_state = states.contains(&format!("\"{word}\""));
            fields.contains(word) || (word != "[time, value]" && !is_state)
        });
        assert_eq!(told, fields, "{kind}");
    }
}

/// A real node on the example site: each path answers, each metric is there, each feed topic is published.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_node_answers_every_path_and_has_every_metric() {
    let site = Site::new();
    for Block { kind, text, .. } in blocks() {
        if let Some(("toml", path)) = kind.split_once(' ') {
            site.write(path, &text);
        }
    }
    let train =
        "train --pipeline pipelines/fan.toml --data normal.csv --out pipelines/models/fan.onnx";
    assert!(site.forebay(train).output().unwrap().status.success());
    let broker = Broker::start(None).unwrap();
    let node = running(&site, &broker).await;
    feed_fan(&node, &broker).await;

    for row in rows("| path | |") {
        for path in backticked(&row[0]) {
            let path = path.replace("{pipeline}", "fan").replace("{asset}", "fan-7");
            let (status, body) = get(&node, &path);
            assert_eq!(status, 200, "{path}: {body}");
        }
        for word in backticked(&row[1]).iter().filter(|word| word.starts_with('?')) {
            let path = backticked(&row[0]).remove(0).replace("{pipeline}", "fan");
            let query =
                word.replace("asset=&", "asset=fan-7&").replace("pipeline=", "pipeline=fan");
            let (status, body) = get(&node, &(path.replace("{asset}", "fan-7") + &query));
            assert_eq!(status, 200, "{path}{query}: {body}");
        }
    }
    let train = "train --pipeline pipelines/fan.toml --data day.csv --rows 600 --out new.onnx";
    assert!(site.forebay(train).status().unwrap().success());
    let model = std::fs::read(site.path("new.onnx")).unwrap();
    let put = format!("{}/api/v1/models/incoming/ID/model.onnx", node.url().unwrap());
    assert_eq!(ureq::put(put).send(&model[..]).unwrap().status(), 201);
    for row in rows("| command | body |") {
        let (path, body) = (backticked(&row[0]).remove(0), backticked(&row[1]).remove(0));
        let (status, answer) = node.post(&path, &serde_json::from_str(&body).unwrap()).unwrap();
        assert_eq!(status, 200, "{path}: {answer}");
    }
    let tables = ["| path | |", "| command | body |"].map(rows);
    let mut paths: Vec<String> =
        tables.iter().flatten().flat_map(|row| backticked(&row[0])).collect();
    paths.extend(tables.iter().flatten().flat_map(|row| backticked(&row[1])));
    for path in forebay::feed::api::PATHS.split(", ").filter(|path| *path != "/") {
        assert!(paths.iter().any(|p| p == path), "`{path}` is not in the manual");
    }
    // They are brought up to date several times a second.
    let last = "forebay_readings_rejected_total";
    until(last, || has(&node, "/metrics", last)).await;
    let metrics = node.get("/metrics").unwrap().1;
    for row in rows("| metric | |") {
        for word in backticked(&row[0]).iter().filter(|word| word.starts_with("forebay_")) {
            let (name, label) = word.split_once('{').unwrap_or((word, ""));
            let found = metrics
                .lines()
                .any(|line| line.starts_with(name) && line.contains(label.trim_end_matches('}')));
            assert!(found, "`{word}`\n{metrics}");
        }
    }
    node.stop().await.fine();
}

#[test]
fn links_lead_somewhere() {
    let anchor = |line: &str| {
        let kept = line.to_lowercase().replace(' ', "-");
        kept.chars().filter(|c| c.is_alphanumeric() || *c == '-').collect::<String>()
    };
    let heads = |text: &str| -> BTreeSet<String> {
        let heads = text.lines().filter_map(|l| l.strip_prefix("## ").or(l.strip_prefix("### ")));
        heads.map(anchor).collect()
    };
    for page in PAGES.map(Path::new) {
        let text = std::fs::read_to_string(page).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, head) = target.split_once('#').unwrap_or((target, ""));
            let beside = page.parent().unwrap().join(file);
            let path = if file.is_empty() { page } else { &beside };
            assert!(path.exists(), "{}: no file {target}", page.display());
            if !head.is_empty() {
                let there = heads(&std::fs::read_to_string(path).unwrap());
                assert!(there.contains(head), "{}: no heading for {target}", page.display());
            }
        }
    }
    let built = bin::forebay().arg("--version").output().unwrap();
    assert!(built.status.success());
}
