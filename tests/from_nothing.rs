//! The README's page from nothing to a served model, command by command, and that the node then answers with that model.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod edge;
mod node_kit;
mod readme_kit;

use edge::until;
use forebay::config::MqttVersion;
use forebay::demo::broker::Broker;
use forebay::time::Timestamp;
use node_kit::{Node, bin};
use readme_kit::{Site, blocks};
use rumqttc::{Client, Event, MqttOptions, Packet, QoS};
use serde_json::{Value, json};

/// Publishes the recording of one pump, as the plant's pumps do.
fn publish(site: &Site, port: u16, pump: &str) {
    let mut rows = csv::Reader::from_path(site.path("plant/normal.csv")).unwrap();
    let names: Vec<String> = rows.headers().unwrap().iter().map(str::to_owned).collect();
    let rows = rows.records().map(Result::unwrap).filter(|row| &row[1] == pump).take(200);
    let messages: Vec<Value> = rows
        .map(|row| {
            let time: Timestamp = row[0].parse().unwrap();
            let mut message = json!({ "ts": time.0 / 1000 });
            for (name, value) in names.iter().zip(row.iter()).skip(2).take(8) {
                message[name] = value.parse::<f64>().unwrap().into();
            }
            message
        })
        .collect();
    let (client, mut connection) = Client::new(MqttOptions::new("plant", "127.0.0.1", port), 500);
    let count = messages.len();
    for message in messages {
        let topic = format!("plant/north/pump/{pump}/telemetry");
        client.publish(topic, QoS::AtLeastOnce, false, message.to_string()).unwrap();
    }
    let acks = connection.iter().map(Result::unwrap);
    let acks = acks.filter(|event| matches!(event, Event::Incoming(Packet::PubAck(_))));
    assert_eq!(acks.take(count).count(), count);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_holds_word_for_word() {
    let site = Site::new();
    let there = Broker::start(None).unwrap();
    let mut node: Option<Node> = None;
    for block in blocks() {
        let is_run = block.text.starts_with("forebay run --config plant/");
        if is_run {
            let mut command = site.forebay(block.text.trim().strip_prefix("forebay ").unwrap());
            command.env("FOREBAY_MQTT__URL", there.url(MqttVersion::V5));
            command.env("FOREBAY_FEED__LISTEN", "127.0.0.1:0");
            let running = node.insert(Node::spawn(command));
            running.ready(200).await;
        }
        if block.kind != "console plant" {
            continue;
        }
        for line in block.text.lines() {
            let command = line.strip_prefix("$ forebay ").unwrap();
            let mut process = site.forebay(command);
            if let Some(node) = &node {
                process.env("FOREBAY_NODE_URL", node.url().unwrap());
            }
            let output = process.output().unwrap();
            let told = String::from_utf8_lossy(&output.stdout).into_owned();
            let wrong = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "`{command}`: {told}{wrong}");
            if command.starts_with("evaluate") {
                let words: Vec<&str> = told.split_whitespace().collect();
                assert!(words.join(" ").contains("faults 6 found 6 (1.000)"), "{told}");
            }
            if command.starts_with("model keygen") {
                let config = std::fs::read_to_string(site.path("plant/config.toml")).unwrap();
                let key = told.trim();
                let keys = format!("{config}\n[models]\nkeys = [\"{key}\"]\n");
                site.write("plant/config.toml", &keys);
            }
        }
    }
    let node = node.unwrap();
    let anomaly = |node: &Node| -> Value {
        let models = node.json("/api/v1/models");
        models.as_array().unwrap().iter().find(|m| m["output"] == "anomaly").unwrap().clone()
    };
    until("it speaks for all", || anomaly(&node)["candidate"]["phase"] == "promoted").await;
    let port = there.ports().0;
    std::thread::scope(|scope| scope.spawn(|| publish(&site, port, "pump-01")).join().unwrap());
    until("a window is scored", || {
        let scores = node.json("/api/v1/scores/latest").to_string();
        scores.contains("\"anomaly\"")
    })
    .await;
    let scored = node.json("/api/v1/scores/latest").to_string();
    assert!(scored.contains("small") || scored.contains("network"), "{scored}");
    node.stop().await.fine();
}
