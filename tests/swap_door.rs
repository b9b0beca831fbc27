//! The ways a model comes into a node that runs: files that are touched, replaced or refused for a time, many from the broker
//! at once, pushes that break off or are not taken; and what becomes of a copy that is damaged.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod edge;
mod node_kit;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use edge::until;
use forebay::config::MqttVersion;
use forebay::demo::broker::Broker;
use forebay::model::signature::SigningKey;
use forebay::model::{ModelFile, Trust};
use node_kit::models::{ANOMALY, anomaly, apart, cli, fine, note, version};
use node_kit::shift::publisher;
use node_kit::{Node, Site, broker, forebay};

const AT_ONCE: &str = "[models.rollout]\nshadow = \"0s\"\ncanary = \"0s\"\nproof = \"0s\"\n";

/// A node with this config of its models, and its broker.
async fn start(site: &Site, models: &str) -> (Broker, Node) {
    let there = Broker::start(None).unwrap();
    site.config(&broker(&there.url(MqttVersion::V5), MqttVersion::V5), models);
    let node = started(site).await;
    (there, node)
}

async fn started(site: &Site) -> Node {
    let mut node = Node::start(site);
    node.ready(200).await;
    until("the models are listed", || anomaly(&node)["version"].is_string()).await;
    node
}

fn put(node: &Node, path: &str, bytes: Vec<u8>) -> u16 {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let url = format!("{}/api/v1/models/incoming/{path}", node.url().unwrap());
    agent.put(url).send(bytes).unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_refused_for_a_time_is_taken_and_one_that_was_taken_back_is_not() {
    let site = Site::new();
    let (_there, node) = start(&site, "[models]\nwatch = \"1s\"").await;
    let shipped = std::fs::read(site.path(ANOMALY)).unwrap();
    until("its model is kept", || site.path("data/models").is_dir()).await;
    // No shelf can be written where a file is.
    std::fs::rename(site.path("data/models"), site.path("data/aside")).unwrap();
    site.write("data/models", "");
    let refused = || node.metric("forebay_model_files_refused");
    site.write(ANOMALY, version(&shipped, "two"));
    until("it is refused", || refused() == 1).await;
    std::fs::remove_file(site.path("data/models")).unwrap();
    std::fs::rename(site.path("data/aside"), site.path("data/models")).unwrap();
    until("it is taken by itself", || anomaly(&node)["candidate"]["version"] == "two").await;
    until("and not refused any more", || refused() == 0).await;
    fine(&cli(&site, &node, &["model", "rollback", "--score", "anomaly"]));
    // As `touch` does it.
    site.write(ANOMALY, version(&shipped, "two"));
    until("that is seen", || node.has_logged("was touched")).await;
    site.write(ANOMALY, version(&shipped, "six"));
    until("the next one is on trial", || anomaly(&node)["candidate"]["version"] == "six").await;
    assert_eq!(node.logged("the model is shadow"), 2, "{}", node.log());
    node.stop().await.fine();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_score_gets_its_model_from_the_broker_however_many_come_at_once() {
    let site = Site::new();
    let pipeline = std::fs::read_to_string(site.path("pipelines/pump.toml")).unwrap();
    let names: Vec<String> = (0..8).map(|at| format!("pump-{at}")).collect();
    for name in &names {
        let text = pipeline.replacen("name = \"pump\"", &format!("name = \"{name}\""), 1);
        assert_ne!(text, pipeline);
        site.write(&format!("pipelines/{name}.toml"), text);
    }
    let (there, node) = start(&site, "[models]\nwatch = \"0s\"\nmqtt = true").await;
    // An upload of this name is none of the broker's business.
    assert_eq!(put(&node, "broker/zz.onnx", vec![0; 100]), 201);
    let shipped = std::fs::read(site.path(ANOMALY)).unwrap();
    let mut sender = publisher(&there.url(MqttVersion::V311), MqttVersion::V311).await;
    for name in names.iter().map(String::as_str).chain(["stranger"]) {
        let topic = format!("forebay/test-node/models/{name}/anomaly");
        sender.send(topic, version(&shipped, "two").into()).await.unwrap();
    }
    sender.drain().await.unwrap();
    let on_trial = || {
        let all = node.json("/api/v1/models");
        let all = all.as_array().unwrap().clone();
        all.iter().filter(|score| score["candidate"]["version"] == "two").count()
    };
    until("all are on trial", || on_trial() == names.len()).await;
    assert!(node.has_logged("no pipeline has this score"), "{}", node.log());
    assert!(site.path("data/models/incoming/broker/zz.onnx").is_file());
    node.stop().await.fine();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_is_not_taken_says_why_and_leaves_nothing() {
    let site = Site::new();
    let shipped = std::fs::read(site.path(ANOMALY)).unwrap();
    let (model, mut weights) = apart(&shipped);
    weights.resize(2 << 20, 0);
    site.write("weights.bin", &weights);
    site.write("new.onnx", &model);
    let (_there, node) = start(&site, "[models]\nlargest = \"1MB\"").await;
    let push = ["model", "push", "new.onnx", "--score", "anomaly"];
    for _ in 0..5 {
        let refused = cli(&site, &node, &push);
        let told = String::from_utf8_lossy(&refused.stderr);
        assert!(told.contains("the model is too large") && told.contains("largest"), "{told}");
    }
    // Four that broke off a while ago keep nobody out.
    let now = std::fs::metadata(site.path("new.onnx")).unwrap().modified().unwrap();
    for id in 0..4 {
        let folder = site.path(&format!("data/models/incoming/broken-{id}"));
        std::fs::create_dir(&folder).unwrap();
        let folder = File::open(folder).unwrap();
        folder.set_modified(now - Duration::from_mins(2)).unwrap();
    }
    site.write("new.onnx", version(&shipped, "two"));
    fine(&cli(&site, &node, &push));
    let left = std::fs::read_dir(site.path("data/models/incoming")).unwrap().count();
    assert_eq!(left, 3, "one has made room");
    node.stop().await.fine();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_the_engine_refuses_does_not_stay() {
    let site = Site::new();
    let (key, _) = SigningKey::make().unwrap();
    let serial = |bytes: &[u8], serial: &str| {
        key.sign(&note(bytes, "forebay.serial", serial), &BTreeMap::new())
    };
    let shipped = std::fs::read(site.path(ANOMALY)).unwrap();
    for entry in std::fs::read_dir(site.path("pipelines/models")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "onnx") {
            std::fs::write(&path, serial(&std::fs::read(&path).unwrap(), "3")).unwrap();
        }
    }
    let old = serial(&shipped, "1");
    site.write("old.onnx", &old);
    let models = format!("[models]\nrequire_signature = true\nkeys = [\"{}\"]", key.public());
    let (_there, node) = start(&site, &models).await;
    let refused = cli(&site, &node, &["model", "push", "old.onnx", "--score", "anomaly"]);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(told.contains("older ones are refused"), "{told}");
    let digest = ModelFile::of(Path::new("old.onnx"), old, &Trust::default()).unwrap().digest;
    let place = site.path("data/models").join(digest);
    until("it is gone", || !place.exists()).await;
    node.stop().await.fine();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_in_use_whose_copy_is_damaged_is_missed_aloud() {
    let site = Site::new();
    let models = format!("[models]\nwatch = \"0s\"\n{AT_ONCE}");
    let (_there, node) = start(&site, &models).await;
    let own = anomaly(&node)["digest"].clone();
    let shipped = std::fs::read(site.path(ANOMALY)).unwrap();
    site.write("new.onnx", version(&shipped, "two"));
    let push = ["model", "push", "new.onnx", "--score", "anomaly"];
    fine(&cli(&site, &node, &push));
    until("it is in use", || anomaly(&node)["previous"] == own).await;
    let digest = anomaly(&node)["digest"].as_str().unwrap().to_owned();
    node.stop().await.fine();
    let copy = site.path("data/models").join(&digest).join("new.onnx");
    let copy = if copy.is_file() { copy } else { copy.with_file_name("model.onnx") };
    let mut bytes = std::fs::read(&copy).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&copy, bytes).unwrap();
    let node = started(&site).await;
    assert_eq!(anomaly(&node)["digest"], own);
    until("it is counted", || node.metric("forebay_model_files_refused") == 1).await;
    let (_, ready) = node.get("/readyz").unwrap();
    assert!(ready.contains(&digest[..12]) && ready.contains("cannot be gone on with"), "{ready}");
    // The good file makes it good.
    fine(&cli(&site, &node, &push));
    until("nothing is missed", || node.metric("forebay_model_files_refused") == 0).await;
    node.stop().await.fine();
    let export = ["store", "export", "--store", "data", "--lane", "alarm"];
    let export = forebay(&export, site.dir.path(), &[]).output().unwrap();
    let told = String::from_utf8(export.stdout).unwrap();
    let gone = told.lines().filter(|line| line.contains(&digest) && line.contains("withdrawn"));
    assert_eq!(gone.count(), 1, "{told}");
}
