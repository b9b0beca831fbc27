//! Models that are swapped in a node that runs: pushed, put in place of a file, published; and after a kill it goes on with
//! the models it had.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod edge;
mod node_kit;

use std::process::Output;

use edge::until;
use forebay::config::MqttVersion;
use forebay::demo::broker::Broker;
use node_kit::{Node, Site, broker, forebay};
use serde_json::Value;

/// The same model with another version: one more note behind its last byte, as protobuf allows it.
fn version(bytes: &[u8], version: &str) -> Vec<u8> {
    let field = |number: u8, content: &[u8]| {
        let mut field = vec![number << 3 | 2, content.len() as u8];
        field.extend_from_slice(content);
        field
    };
    let entry = [field(1, b"forebay.version"), field(2, version.as_bytes())].concat();
    [bytes.to_vec(), field(14, &entry)].concat()
}

fn models(node: &Node) -> Vec<Value> {
    let (_, body) = node.get("/api/v1/models").unwrap_or_default();
    serde_json::from_str(&body).unwrap_or_default()
}

fn anomaly(node: &Node) -> Value {
    let found = models(node).into_iter().find(|model| model["output"] == "anomaly");
    found.unwrap_or_default()
}

/// `forebay model …` against a node.
fn cli(site: &Site, node: &Node, arguments: &[&str]) -> Output {
    let url = node.url().unwrap();
    forebay(arguments, site.dir.path(), &[("FOREBAY_NODE", &url), ("USER", "anna")])
        .output()
        .unwrap()
}

fn fine(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

const ANOMALY: &str = "pipelines/models/pump-anomaly.onnx";

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_pushed_promoted_and_still_there_after_a_kill() {
    let broker_v5 = Broker::start(None).unwrap();
    let site = Site::new();
    let url = broker_v5.url(MqttVersion::V5);
    let models = format!("[models]\nwatch = \"0s\"\nkeys = [\"{}\"]", "ab".repeat(32));
    site.config(&broker(&url, MqttVersion::V5), &models);
    let mut node = Node::start(&site);
    node.ready(200).await;
    let shipped = std::fs::read(site.path(ANOMALY)).unwrap();
    site.write("new.onnx", version(&shipped, "two"));
    site.write("bad.onnx", &shipped[..shipped.len() / 2]);
    let push = ["model", "push", "new.onnx", "--score", "anomaly"];
    let told = fine(&cli(&site, &node, &push));
    assert!(told.contains("shadow"), "{told}");
    let twice = cli(&site, &node, &push);
    assert!(String::from_utf8_lossy(&twice.stderr).contains("on trial already"), "{twice:?}");
    assert!(
        !cli(&site, &node, &["model", "push", "bad.onnx", "--score", "anomaly"]).status.success()
    );
    let unclear = cli(&site, &node, &["model", "push", "new.onnx"]);
    assert!(String::from_utf8_lossy(&unclear.stderr).contains("several scores"), "{unclear:?}");
    until("it is listed", || anomaly(&node)["candidate"]["version"] == "two").await;
    let listed = fine(&cli(&site, &node, &["model", "list"]));
    assert!(listed.contains("in use") && listed.contains("shadow"), "{listed}");
    // What it was told holds.
    node.kill();
    let mut node = Node::start(&site);
    node.ready(200).await;
    until("the model is on trial again", || anomaly(&node)["candidate"]["version"] == "two").await;
    fine(&cli(&site, &node, &["model", "canary", "--score", "anomaly", "--share", "0.5"]));
    fine(&cli(&site, &node, &["model", "promote", "--score", "anomaly"]));
    let phase = anomaly(&node)["candidate"]["phase"].clone();
    assert_eq!(phase, "promoted", "what was answered is listed");
    assert!(node.has_logged("score=\"anomaly\" action=\"promote\""), "{}", node.log());
    assert!(node.has_logged("used all the same, unless `models.require_signature`"));
    fine(&cli(&site, &node, &["model", "rollback", "--score", "anomaly", "--reason", "too loud"]));
    assert!(anomaly(&node)["candidate"].is_null(), "it is gone");
    let again = cli(&site, &node, &["model", "rollback", "--score", "anomaly"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("none before"), "{again:?}");
    // The copy that was kept is damaged: the good file takes its place.
    let digest = anomaly(&node)["withdrawn"][0].as_str().unwrap().to_owned();
    let damaged = site.path("data/models").join(digest).join("model.onnx");
    std::fs::write(&damaged, b"damaged").unwrap();
    fine(&cli(&site, &node, &push));
    assert!(std::fs::read(&damaged).unwrap().len() > 1000);
    node.stop().await.fine();
    let export = ["store", "export", "--store", "data", "--lane", "feature"];
    let export = forebay(&export, site.dir.path(), &[]).output().unwrap();
    assert!(String::from_utf8_lossy(&export.stderr).starts_with("0 records"), "{export:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_changed_while_the_node_is_stopped_is_offered_and_not_used_at_once() {
    let there = Broker::start(None).unwrap();
    let site = Site::new();
    site.config(&broker(&there.url(MqttVersion::V5), MqttVersion::V5), "[models]\nwatch = \"0s\"");
    let mut node = Node::start(&site);
    node.ready(200).await;
    until("the models are listed", || anomaly(&node)["version"].is_string()).await;
    let own = anomaly(&node)["version"].clone();
    until("it is kept", || site.path("data/models").is_dir()).await;
    node.stop().await.fine();
    let shipped = std::fs::read(site.path(ANOMALY)).unwrap();
    site.write(ANOMALY, version(&shipped, "two"));
    for _ in 0..2 {
        let mut node = Node::start(&site);
        node.ready(200).await;
        until("it is on trial", || anomaly(&node)["candidate"]["version"] == "two").await;
        assert_eq!(anomaly(&node)["version"], own, "and the old one is in use");
        node.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_fail_leave_the_door_open() {
    let there = Broker::start(None).unwrap();
    let site = Site::new();
    let shipped = std::fs::read(site.path(ANOMALY)).unwrap();
    let most = shipped.len() + 1000;
    let config = format!("[models]\nlargest = \"{most}B\"");
    site.config(&broker(&there.url(MqttVersion::V5), MqttVersion::V5), &config);
    let mut node = Node::start(&site);
    node.ready(200).await;
    let url = format!("{}/api/v1/models/incoming", node.url().unwrap());
    let put = |id: &str, bytes: Vec<u8>| {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let sent = agent.put(format!("{url}/{id}/model.onnx")).send(bytes);
        sent.map_or(0, |answer| answer.status().as_u16())
    };
    for id in 0..8 {
        let answer = put(&format!("large-{id}"), vec![0; most + 1]);
        assert!([0, 413].contains(&answer), "{answer}");
    }
    for id in 0..4 {
        assert_eq!(put(&format!("fine-{id}"), vec![0; 100]), 201);
    }
    assert_eq!(put("one-more", vec![0; 100]), 507);
    assert_eq!(put("fine-0", vec![0; 200]), 201, "what is there may come anew");
    assert!(!site.path("data/models/incoming/one-more").exists());
    assert!(!site.path("data/models/incoming/large-0").exists());
    node.stop().await.fine();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_changed_comes_into_use_by_itself_and_a_damaged_one_does_not() {
    let broker_v5 = Broker::start(None).unwrap();
    let site = Site::new();
    let url = broker_v5.url(MqttVersion::V5);
    let at_once = "[models]\nwatch = \"1s\"\nmqtt = true\n[models.rollout]\n\
                   shadow = \"0s\"\ncanary = \"0s\"\nproof = \"0s\"\n";
    site.config(&broker(&url, MqttVersion::V5), at_once);
    let mut node = Node::start(&site);
    node.ready(200).await;
    let shipped = std::fs::read(site.path(ANOMALY)).unwrap();
    until("the models are listed", || anomaly(&node)["version"].is_string()).await;
    let own = anomaly(&node)["version"].clone();
    site.write(ANOMALY, version(&shipped, "two"));
    until("the new model is in use", || anomaly(&node)["version"] == "two").await;
    until("and alone", || anomaly(&node)["candidate"].is_null()).await;
    site.write(ANOMALY, b"damaged");
    until("the damaged one is refused", || node.has_logged("the new model is refused")).await;
    assert_eq!(anomaly(&node)["version"], "two");
    // From the broker.
    let topic = "forebay/test-node/models/pump/anomaly".to_owned();
    let url = broker_v5.url(MqttVersion::V311);
    let mut sender = node_kit::shift::publisher(&url, MqttVersion::V311).await;
    sender.send(topic, version(&shipped, "three").into()).await.unwrap();
    sender.drain().await.unwrap();
    until("the broker's model is in use", || anomaly(&node)["version"] == "three").await;
    until("and alone", || anomaly(&node)["candidate"].is_null()).await;
    // The way back.
    fine(&cli(&site, &node, &["model", "rollback", "--score", "anomaly"]));
    until("the one before is back", || anomaly(&node)["version"] == "two").await;
    assert_ne!(own, "two");
    // A damaged file of the pipeline would be no start at all.
    site.write(ANOMALY, &shipped);
    until("the shipped one is in use", || anomaly(&node)["version"] == own).await;
    node.stop().await.fine();
}
