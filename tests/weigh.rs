//! Models that are too large or too slow for a node are refused with the numbers, before they are let in; and one that never
//! comes back costs its own answers, and nothing else.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod edge;
mod node_kit;

use std::time::Duration;

use edge::until;
use forebay::config::MqttVersion;
use forebay::demo::broker::Broker;
use forebay::model::build::{Dim, Graph, Kind};
use forebay::model::{Host, ModelFile, Trust};
use forebay::time::monotonic;
use node_kit::shift::{Shift, publisher, send};
use node_kit::{Node, Site, broker, forebay};

const SHIPPED: &str = "pipelines/models/pump-anomaly.onnx";
const PIPELINE: &str = "pipelines/pump.toml";

/// As many features as the pump's pipeline has.
fn width(site: &Site) -> usize {
    let file = ModelFile::read(&site.path(SHIPPED), &Trust::default()).unwrap();
    file.row_shape().unwrap()[0]
}

/// A small file that takes `numbers` numbers of memory a window: each feature sum, times so many weights.
fn greedy(width: usize, numbers: usize) -> Vec<u8> {
    let mut graph = Graph::new("greedy");
    graph.input("features", Kind::Float32, &[Dim::Batch, Dim::Fixed(width)]);
    graph.weights("ones", &[width, 1], &vec![1.0; width]);
    graph.weights("many", &[1, numbers], &vec![0.5; numbers]);
    graph.node("MatMul", &["features", "ones"], "sum");
    graph.node("MatMul", &["sum", "many"], "all");
    graph.node("ReduceMax", &["all"], "score");
    graph.attributes("axes", &[1]);
    graph.attribute("keepdims", 1);
    graph.output("score", Kind::Float32, &[Dim::Batch, Dim::Fixed(1)]);
    graph.note("forebay.threshold", "1");
    graph.finish()
}

/// Scores a window by its highest number; but where one is not 0, or `least` is above that, a single operator is busy for minutes: it compares each
/// of many boxes with all that it has kept.
fn stuck(width: usize, least: f64) -> Vec<u8> {
    const BOXES: i64 = 400_000;
    let mut graph = Graph::new("stuck");
    graph.input("features", Kind::Float32, &[Dim::Batch, Dim::Fixed(width)]);
    for (name, value) in [("zero", 0.0), ("one", 1.0), ("half", 0.5), ("few", 2.0), ("tiny", 1e-30)]
    {
        graph.weights(name, &[], &[value]);
    }
    graph.weights("many", &[], &[BOXES as f64]);
    graph.weights("overlap", &[1], &[0.5]);
    graph.integers("most", &[BOXES]);
    graph.integers("column", &[1, -1, 1]);
    graph.integers("row", &[1, 1, -1]);
    graph.node("Abs", &["features"], "sizes");
    graph.node("ReduceMax", &["sizes"], "size");
    graph.attribute("keepdims", 0);
    graph.weights("least", &[], &[least]);
    graph.node("Max", &["size", "least"], "larger");
    graph.node("Sign", &["larger"], "is_live");
    graph.node("Mul", &["is_live", "many"], "more");
    graph.node("Add", &["more", "few"], "count");
    graph.node("Range", &["zero", "count", "one"], "near");
    graph.node("Add", &["near", "half"], "far");
    graph.node("Reshape", &["near", "column"], "low");
    graph.node("Reshape", &["far", "column"], "high");
    graph.node("Concat", &["low", "low", "high", "high"], "boxes");
    graph.attribute("axis", 2);
    graph.node("Reshape", &["near", "row"], "chances");
    graph.node("NonMaxSuppression", &["boxes", "chances", "most", "overlap"], "kept");
    graph.node("Cast", &["kept"], "numbers");
    graph.attribute("to", 1);
    graph.node("ReduceMax", &["numbers"], "last");
    graph.attribute("keepdims", 0);
    graph.node("Mul", &["last", "tiny"], "nothing");
    graph.node("ReduceMax", &["features"], "highest");
    graph.attributes("axes", &[1]);
    graph.attribute("keepdims", 1);
    graph.node("Add", &["highest", "nothing"], "score");
    graph.output("score", Kind::Float32, &[Dim::Batch, Dim::Fixed(1)]);
    graph.note("forebay.threshold", "1");
    graph.finish()
}

/// Changes the shipped pipeline's anomaly score.
fn scored(site: &Site, model: &str, keys: &str) {
    let text = std::fs::read_to_string(site.path(PIPELINE)).unwrap();
    let shipped = "score = { model = \"models/pump-anomaly.onnx\"";
    assert!(text.contains(shipped), "{text}");
    site.write(PIPELINE, text.replace(shipped, &format!("score = {{ model = \"{model}\"{keys}")));
}

fn check(site: &Site) -> (bool, String) {
    let output = forebay(&["check"], site.dir.path(), &[]).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn check_refuses_what_takes_too_much_memory_and_warns_of_what_takes_too_long() {
    let site = Site::new();
    site.write("pipelines/models/greedy.onnx", greedy(width(&site), 500_000));
    scored(&site, "models/greedy.onnx", ", batch = 32, deadline = \"1ms\"");
    let memory = |allowed: &str| {
        site.config("url = \"mqtt://127.0.0.1:1\"", &format!("[models]\nmemory = \"{allowed}\""));
    };
    memory("32MiB");
    let (fine, told) = check(&site);
    assert!(!fine && told.contains("too large for this node"), "{told}");
    assert!(told.contains("run on 32 windows at once; `models.memory` allows 32.0 MiB"), "{told}");
    memory("4GiB");
    let (fine, told) = check(&site);
    assert!(fine && told.contains("may be too slow for this machine"), "{told}");
    assert!(told.contains("a batch of 32 windows takes it") && told.contains("1ms"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_refuses_a_model_that_is_pushed_and_goes_on() {
    let site = Site::new();
    let there = Broker::start(None).unwrap();
    scored(&site, "models/pump-anomaly.onnx", ", deadline = \"10s\"");
    let url = there.url(MqttVersion::V5);
    site.config(&broker(&url, MqttVersion::V5), "[models]\nmemory = \"96MiB\"\nwatch = \"0s\"");
    // 256 windows of it take 512 MB, which it must not get; of the other, 5 MB.
    site.write("greedy.onnx", greedy(width(&site), 500_000));
    site.write("modest.onnx", greedy(width(&site), 5_000));
    site.write("endless.onnx", &greedy(width(&site), 5_000)[..1000]);
    let mut node = Node::start(&site);
    node.ready(200).await;
    let push = |file: &str| {
        let node = node.url().unwrap();
        let arguments = ["model", "push", file, "--score", "anomaly", "--node", &node];
        let output = forebay(&arguments, site.dir.path(), &[]).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (taken, told) = push("greedy.onnx");
    assert!(
        !taken && told.contains("on 256 windows at once; `models.memory` allows 96.0 MiB"),
        "{told}"
    );
    let (taken, told) = push("endless.onnx");
    assert!(!taken && told.contains("not a whole ONNX file"), "{told}");
    let (taken, told) = push("modest.onnx");
    assert!(taken, "{told}");
    until("it was weighed", || node.log().contains("the model was weighed")).await;
    node.stop().await.fine();
}

#[test]
fn a_model_that_does_not_come_back_from_its_trials_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stuck.onnx");
    std::fs::write(&path, stuck(2, 1.0)).unwrap();
    let host = Host { longest: Some(Duration::from_millis(300)), ..Host::default() };
    let began = monotonic();
    let error = host.open(&path).unwrap_err().to_string();
    assert!(error.contains("was not loaded and tried within 300ms"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_never_comes_back_costs_its_own_answers_and_nothing_else() {
    let site = Site::new();
    let there = Broker::start(None).unwrap();
    site.write("pipelines/models/stuck.onnx", stuck(width(&site), 0.0));
    scored(&site, "models/stuck.onnx", ", deadline = \"300ms\"");
    site.config(&broker(&there.url(MqttVersion::V5), MqttVersion::V5), "");
    let mut node = Node::start(&site);
    node.ready(200).await;
    let shift = Shift::of(1, 300, 9);
    let mut plant = publisher(&there.url(MqttVersion::V311), MqttVersion::V311).await;
    let mut sent = 0;
    // Some windows at a time, so that the model is asked in several ticks.
    for part in shift.messages.chunks(shift.messages.len().div_ceil(10)) {
        send(&mut plant, part).await;
        sent += part.len() as u64;
        until("the messages are taken", || node.messages() >= sent).await;
        assert_eq!(node.get("/healthz").map(|(code, _)| code), Some(200));
    }
    until("it is left alone", || node.has_logged("the model is left alone for a time")).await;
    assert!(node.has_logged("is still busy with a batch"), "{}", node.log());
    let latest = node.json("/api/v1/scores/latest?pipeline=pump");
    assert!(latest[0]["scores"]["anomaly"].is_null(), "{latest}");
    assert!(latest[0]["scores"]["failure_risk"].is_number(), "the other model answers: {latest}");
    node.stop().await.fine();
}
