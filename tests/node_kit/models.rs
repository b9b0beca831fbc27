//! Models for the tests of the whole product: another version of one, the weights of one apart, and what is asked of a
//! node about them.

use std::process::Output;

use prost::Message;
use serde_json::Value;
use tract_onnx::pb;

use super::{Node, Site, forebay};

/// The same model with another version.
pub fn version(bytes: &[u8], version: &str) -> Vec<u8> {
    note(bytes, "forebay.version", version)
}

/// The same model with one more note behind its last byte, as protobuf allows it.
pub fn note(bytes: &[u8], key: &str, value: &str) -> Vec<u8> {
    let (key, value) = (key.to_owned(), value.to_owned());
    let note = pb::StringStringEntryProto { key, value };
    let more = pb::ModelProto { metadata_props: vec![note], ..pb::ModelProto::default() };
    [bytes.to_vec(), more.encode_to_vec()].concat()
}

fn models(node: &Node) -> Vec<Value> {
    let (_, body) = node.get("/api/v1/models").unwrap_or_default();
    serde_json::from_str(&body).unwrap_or_default()
}

pub fn anomaly(node: &Node) -> Value {
    let found = models(node).into_iter().find(|model| model["output"] == "anomaly");
    found.unwrap_or_default()
}

/// `forebay model …` against a node.
pub fn cli(site: &Site, node: &Node, arguments: &[&str]) -> Output {
    let url = node.url().unwrap();
    forebay(arguments, site.dir.path(), &[("FOREBAY_NODE_URL", &url), ("USER", "anna")])
        .output()
        .unwrap()
}

pub fn fine(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub const ANOMALY: &str = "pipelines/models/pump-anomaly.onnx";

/// A model with the largest of its weights in the file `weights.bin` beside it.
pub fn apart(model: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut proto = pb::ModelProto::decode(model).unwrap();
    let all = &mut proto.graph.as_mut().unwrap().initializer;
    let tensor = all.iter_mut().max_by_key(|tensor| tensor.raw_data.len()).unwrap();
    let weights = std::mem::take(&mut tensor.raw_data);
    tensor.data_location = Some(1);
    let (key, value) = ("location".to_owned(), "weights.bin".to_owned());
    tensor.external_data.push(pb::StringStringEntryProto { key, value });
    (proto.encode_to_vec(), weights)
}
