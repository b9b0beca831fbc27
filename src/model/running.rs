//! A model that needs no training: it learns what is normal while it runs, from each asset by itself.
//!
//! `cli model running` writes it for a pipeline. Of every feature it keeps a running mean and variance of the asset's
//! windows, exponentially weighted once there are `memory` of them (West, Communications of the ACM 22, 1979; Finch,
//! Incremental calculation of weighted mean and variance, 2009). The score is the largest distance of a feature from its
//! mean, in standard deviations of the windows before. What lies far out is learned only up to `clip` standard
//! deviations (Winsorised), so that a fault, however long, becomes normal slowly. Until `warm` windows are known the
//! score is 0. It answers from the past alone; its memory is the asset's, and is in the checkpoint.

use std::collections::BTreeMap;

use super::build::{Dim, Graph, Kind};
use super::metadata::{Meaning, SCHEMA, json};

/// Beyond this a distance says no more than that it is far.
const FAR: f64 = 1e4;

/// How it learns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RunningOptions {
    /// Windows that it remembers, at least 2: older ones fade.
    pub memory: u32,
    /// Windows before the first score.
    pub warm: u32,
    /// Standard deviations up to which a distance is learned, above 0.
    pub clip: f64,
    /// Standard deviations at which a window is abnormal.
    pub threshold: f64,
}

impl Default for RunningOptions {
    fn default() -> Self {
        RunningOptions { memory: 4032, warm: 288, clip: 2.0, threshold: 3.5 }
    }
}

/// Writes the model for these features; gives the bytes of an ONNX file.
pub fn running(name: &str, features: &[String], options: &RunningOptions) -> Vec<u8> {
    let width = features.len();
    let mut graph = Graph::new("running");
    let (batch, columns) = (Dim::Batch, Dim::Fixed(width));
    graph.input("features", Kind::Float32, &[batch, columns]);
    graph.input("count", Kind::Float32, &[batch, Dim::Fixed(1)]);
    graph.input("mean", Kind::Float32, &[batch, columns]);
    graph.input("variance", Kind::Float32, &[batch, columns]);
    write(&mut graph, options);
    graph.output("score", Kind::Float32, &[batch]);
    graph.output("contributions", Kind::Float32, &[batch, columns]);
    graph.output("count_out", Kind::Float32, &[batch, Dim::Fixed(1)]);
    graph.output("mean_out", Kind::Float32, &[batch, columns]);
    graph.output("variance_out", Kind::Float32, &[batch, columns]);
    let state = ["count", "mean", "variance"].map(|s| (s.to_owned(), format!("{s}_out")));
    let meanings = [("score", Meaning::Score), ("contributions", Meaning::Contributions)];
    let meanings: BTreeMap<&str, Meaning> = meanings.into();
    graph.note("forebay.schema", SCHEMA);
    graph.note("forebay.kind", "running");
    graph.note("forebay.name", name);
    graph.note("forebay.features", json(&features));
    graph.note("forebay.output", "score");
    graph.note("forebay.outputs", json(&meanings));
    graph.note("forebay.state", json(&BTreeMap::from(state)));
    graph.note("forebay.scaler", "running mean and deviation of the asset, in the graph");
    graph.note("forebay.threshold", options.threshold.to_string());
    graph.note("forebay.threshold_by", "given: standard deviations of the asset's own past");
    graph.finish()
}

/// The arithmetic. `gain` is the weight of the newest window.
fn write(graph: &mut Graph, options: &RunningOptions) {
    graph.weights("one", &[], &[1.0]);
    graph.weights("nought", &[], &[0.0]);
    graph.weights("half", &[], &[0.5]);
    graph.weights("tiny", &[], &[1e-12]);
    graph.weights("far", &[], &[FAR]);
    graph.weights("clip", &[], &[options.clip.max(1e-3)]);
    graph.weights("least_gain", &[], &[1.0 / f64::from(options.memory.max(2))]);
    graph.weights("warm", &[], &[f64::from(options.warm.max(1)) + 0.5]);
    graph.node("Add", &["count", "one"], "count_now");
    // Counting further than the memory reaches would only lose digits.
    graph.weights("most", &[], &[f64::from(options.memory.max(options.warm + 2))]);
    graph.node("Min", &["count_now", "most"], "count_out");
    graph.node("Div", &["one", "count_now"], "share");
    graph.node("Max", &["share", "least_gain"], "gain");
    // The first window is its own mean.
    graph.node("Less", &["count", "half"], "is_first");
    graph.node("Where", &["is_first", "features", "mean"], "mean_before");
    graph.node("Sub", &["features", "mean_before"], "away_from");
    // Its square must stay a number, or one wild value would make the asset deaf for ever.
    graph.weights("furthest", &[], &[1e15]);
    graph.weights("least", &[], &[-1e15]);
    graph.node("Min", &["away_from", "furthest"], "not_above");
    graph.node("Max", &["not_above", "least"], "distance");
    graph.node("Sqrt", &["variance"], "deviation");
    graph.node("Mul", &["deviation", "clip"], "bound");
    graph.node("Sub", &["nought", "bound"], "lower");
    graph.node("Min", &["distance", "bound"], "below");
    graph.node("Max", &["below", "lower"], "clipped");
    graph.node("Greater", &["count_now", "warm"], "is_warm");
    graph.node("Greater", &["deviation", "tiny"], "has_moved");
    graph.node("And", &["is_warm", "has_moved"], "is_clipped");
    graph.node("Where", &["is_clipped", "clipped", "distance"], "learned");
    graph.node("Mul", &["learned", "gain"], "step");
    graph.node("Add", &["mean_before", "step"], "mean_out");
    graph.node("Mul", &["learned", "step"], "spread");
    graph.node("Add", &["variance", "spread"], "wider");
    graph.node("Sub", &["one", "gain"], "kept");
    graph.node("Mul", &["wider", "kept"], "variance_out");
    graph.node("Abs", &["distance"], "away");
    graph.node("Add", &["deviation", "tiny"], "unit");
    graph.node("Div", &["away", "unit"], "ratio");
    graph.node("Min", &["ratio", "far"], "bounded");
    graph.node("Where", &["is_warm", "bounded", "nought"], "contributions");
    graph.node("ReduceMax", &["contributions"], "score");
    graph.attributes("axes", &[1]);
    graph.attribute("keepdims", 0);
}
