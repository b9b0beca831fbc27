//! Models that are swapped in a node that runs: pushed, put in place of a file, published; and after a kill it goes on with
//! the models it had, also where their files can no longer be used.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod edge;
mod node_kit;

use std::time::Duration;

use edge::until;
use forebay::config::MqttVersion;
use forebay::demo::broker::Broker;
use forebay::model::build::{Dim, Graph, Kind};
use forebay::model::{ModelFile, Trust};
use forebay::time::monotonic;
use node_kit::models::{ANOMALY, anomaly, apart, cli, fine, version};
use node_kit::shift::{Shift, publisher, send};
use node_kit::{Node, Site, broker, forebay};

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
    site.write(ANOMALY, &shipped);
    until("the shipped one is in use", || anomaly(&node)["version"] == own).await;
    node.stop().await.fine();
}

/// A model for `width` features that takes some seconds to be tried: large matrices are multiplied for each batch.
fn slow(width: usize) -> Vec<u8> {
    let mut graph = Graph::new("slow");
    graph.input("features", Kind::Float32, &[Dim::Batch, Dim::Fixed(width)]);
    graph.integers("large", &[1200, 1200]);
    graph.node("ReduceMax", &["features"], "score");
    graph.attributes("axes", &[1]);
    graph.attribute("keepdims", 1);
    graph.node("ReduceMax", &["features"], "highest");
    graph.attribute("keepdims", 0);
    graph.node("Expand", &["highest", "large"], "first");
    let powers = ["first", "second", "third", "fourth", "fifth"];
    for pair in powers.windows(2) {
        graph.node("MatMul", &[pair[0], pair[0]], pair[1]);
    }
    graph.node("ReduceMax", &[powers[4]], "power");
    graph.attribute("keepdims", 0);
    graph.output("score", Kind::Float32, &[Dim::Batch, Dim::Fixed(1)]);
    graph.output("power", Kind::Float32, &[]);
    graph.note("forebay.threshold", "1");
    graph.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_model_file_cannot_be_used_goes_on_with_the_model_that_it_had() {
    let there = Broker::start(None).unwrap();
    let site = Site::new();
    site.config(&broker(&there.url(MqttVersion::V5), MqttVersion::V5), "[models]\nwatch = \"1s\"");
    let shipped = std::fs::read(site.path(ANOMALY)).unwrap();
    // Whoever starts it the first time is told.
    site.write(ANOMALY, &shipped[..shipped.len() / 2]);
    let first = forebay(&["run"], site.dir.path(), &[]).output().unwrap();
    assert_eq!(first.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&first.stderr).contains("cannot be used"), "{first:?}");
    site.write(ANOMALY, &shipped);
    let mut node = Node::start(&site);
    node.ready(200).await;
    until("the models are listed", || anomaly(&node)["version"].is_string()).await;
    let own = anomaly(&node)["digest"].clone();
    let kept = site.path("data/models").join(own.as_str().unwrap());
    until("it is kept", || kept.is_dir()).await;
    node.stop().await.fine();

    let refused = |node: &Node| node.metric("forebay_model_files_refused");
    let damages: [Option<Vec<u8>>; 4] =
        [None, Some(shipped[..shipped.len() / 2].to_vec()), Some(b"garbage".into()), Some(slow(3))];
    for damage in damages {
        match &damage {
            Some(bytes) => site.write(ANOMALY, bytes),
            None => std::fs::remove_file(site.path(ANOMALY)).unwrap(),
        }
        let check = forebay(&["check"], site.dir.path(), &[]).output().unwrap();
        assert_eq!(check.status.code(), Some(1), "{damage:?}");
        let mut node = Node::start(&site);
        node.ready(200).await;
        until("the models are listed", || anomaly(&node)["digest"] == own).await;
        assert!(node.has_logged("the one that was in use goes on"), "{}", node.log());
        until("it is counted", || refused(&node) == 1).await;
        let (_, ready) = node.get("/readyz").unwrap();
        assert!(ready.contains("pump/anomaly: "), "{ready}");
        let status = node.json("/api/v1/status");
        assert_eq!(status["models_refused"].as_array().map(Vec::len), Some(1), "{status}");
        site.write(ANOMALY, &shipped);
        until("the good file is found", || refused(&node) == 0).await;
        assert!(anomaly(&node)["candidate"].is_null(), "it is the model in use");
        node.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_score_that_has_no_model_at_all_costs_its_own_answers_until_one_comes() {
    let there = Broker::start(None).unwrap();
    let site = Site::new();
    let at_once = "[models]\nwatch = \"1s\"\n[models.rollout]\n\
                   shadow = \"0s\"\ncanary = \"0s\"\nproof = \"0s\"\n";
    site.config(&broker(&there.url(MqttVersion::V5), MqttVersion::V5), at_once);
    let mut node = Node::start(&site);
    node.ready(200).await;
    until("the models are listed", || anomaly(&node)["version"].is_string()).await;
    let own = anomaly(&node)["digest"].clone();
    node.stop().await.fine();
    let shipped = std::fs::read(site.path(ANOMALY)).unwrap();
    std::fs::remove_file(site.path(ANOMALY)).unwrap();
    drop(std::fs::remove_dir_all(site.path("data/models")));
    let mut node = Node::start(&site);
    node.ready(200).await;
    assert!(node.has_logged("no model answers until a good one comes"), "{}", node.log());
    let shift = Shift::of(1, 200, 9);
    let mut plant = publisher(&there.url(MqttVersion::V311), MqttVersion::V311).await;
    send(&mut plant, &shift.messages).await;
    until("windows are scored", || node.count("scores") > 0).await;
    let latest = node.json("/api/v1/scores/latest?pipeline=pump");
    assert!(latest[0]["scores"]["anomaly"].is_null(), "{latest}");
    assert!(latest[0]["scores"]["failure_risk"].is_number(), "the other model answers: {latest}");
    // Over another restart, as over the first.
    node.kill();
    let mut node = Node::start(&site);
    node.ready(200).await;
    site.write(ANOMALY, &shipped);
    until("the file's model is in use", || anomaly(&node)["digest"] == own).await;
    until("and alone", || anomaly(&node)["candidate"].is_null()).await;
    assert!(anomaly(&node)["previous"].is_null(), "there is none to go back to");
    node.stop().await.fine();
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_that_are_changed_beside_a_file_are_a_new_model() {
    let there = Broker::start(None).unwrap();
    let site = Site::new();
    site.config(&broker(&there.url(MqttVersion::V5), MqttVersion::V5), "[models]\nwatch = \"1s\"");
    let (model, mut weights) = apart(&std::fs::read(site.path(ANOMALY)).unwrap());
    site.write(ANOMALY, model);
    let beside = "pipelines/models/weights.bin";
    site.write(beside, &weights);
    let mut node = Node::start(&site);
    node.ready(200).await;
    until("the models are listed", || anomaly(&node)["digest"].is_string()).await;
    until("it is kept", || site.path("data/models").is_dir()).await;
    // Not so much that the golden answers would be others.
    weights[0] ^= 1;
    site.write(beside, &weights);
    until("it is on trial", || anomaly(&node)["candidate"]["phase"] == "shadow").await;
    // A bad copy, and the good one again: the file in front of them is the same all the while.
    site.write(beside, &weights[1..]);
    until("it is refused", || node.metric("forebay_model_files_refused") == 1).await;
    site.write(beside, &weights);
    until("the good one is known", || node.metric("forebay_model_files_refused") == 0).await;
    node.stop().await.fine();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_gone_back_to_is_opened_beside_the_engine() {
    let there = Broker::start(None).unwrap();
    let site = Site::new();
    let at_once = "[models]\nwatch = \"0s\"\n[models.rollout]\n\
                   shadow = \"0s\"\ncanary = \"0s\"\nproof = \"0s\"\n";
    site.config(&broker(&there.url(MqttVersion::V5), MqttVersion::V5), at_once);
    let shipped = std::fs::read(site.path(ANOMALY)).unwrap();
    let features = ModelFile::read(&site.path(ANOMALY), &Trust::default()).unwrap();
    site.write(ANOMALY, slow(features.row_shape().unwrap()[0]));
    site.write("fast.onnx", &shipped);
    let mut node = Node::start(&site);
    node.ready(200).await;
    until("the models are listed", || anomaly(&node)["digest"].is_string()).await;
    let own = anomaly(&node)["digest"].clone();
    fine(&cli(&site, &node, &["model", "push", "fast.onnx", "--score", "anomaly"]));
    until("the other one is in use", || anomaly(&node)["previous"] == own).await;
    let url = node.url().unwrap();
    let mut back =
        forebay(&["model", "rollback", "--score", "anomaly", "--node", &url], site.dir.path(), &[]);
    let mut back = back.spawn().unwrap();
    // The engine answers each of these between two of its ticks.
    let stray = serde_json::json!({ "pipeline": "pump", "asset": "none", "alarm": "none" });
    let (began, mut longest) = (monotonic(), Duration::ZERO);
    let ended = loop {
        if let Some(status) = back.try_wait().unwrap() {
            break status;
        }
        let asked = monotonic();
        let (code, told) = node.post("/api/v1/alarms/ack", &stray).unwrap_or_default();
        assert_eq!(code, 404, "{told}");
        longest = longest.max(asked.elapsed());
    };
    let whole = began.elapsed();
    assert!(ended.success());
    until("the one before is back", || anomaly(&node)["digest"] == own).await;
    assert!(longest * 2 < whole, "the engine stood still for {longest:?} of {whole:?}");
    node.stop().await.fine();
}
