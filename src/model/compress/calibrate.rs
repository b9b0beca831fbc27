//! Which numbers flow where: what `int8` and `pruned` need to know, from windows of a recording.
//!
//! [`watch`] makes a copy of a model that also gives what is inside it; whoever calls runs it
//! window by window and tells [`Ranges`], or [`super::prune::Activity`]. The layers nearest to the outputs are not watched: what they lose is lost to the
//! score at once, and they are small.

use std::collections::{BTreeMap, BTreeSet};

use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::type_proto;

use super::draft::{Draft, is, operator};
use super::slots::{self, Use};
use super::{Changes, CompressError, Compressed, prune};
use crate::model::ModelFile;

/// Of a window's numbers, the share on either side that [`Calibration::Percentile`] leaves out.
const OUTSIDE: f64 = 0.0005;

/// How a range is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Calibration {
    /// From the least number seen to the largest.
    #[default]
    MinMax,
    /// Of each window without the 5 of 10,000 numbers that are furthest out on either side.
    Percentile,
}

/// Of each value its least and largest number, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ranges(BTreeMap<String, (f64, f64)>);

impl Ranges {
    /// Takes what `value` was in one window.
    pub fn take(&mut self, value: &str, numbers: &[f64], how: Calibration) {
        let mut whole: Vec<f64> = numbers.iter().copied().filter(|n| n.is_finite()).collect();
        let outside = match how {
            Calibration::MinMax => 0,
            Calibration::Percentile => (whole.len() as f64 * OUTSIDE) as usize,
        };
        let Some(last) = whole.len().checked_sub(1 + outside) else { return };
        let (_, least, _) = whole.select_nth_unstable_by(outside, f64::total_cmp);
        let least = *least;
        let (_, most, _) = whole.select_nth_unstable_by(last, f64::total_cmp);
        let most = *most;
        let range = self.0.entry(value.to_owned()).or_insert((least, most));
        *range = (range.0.min(least), range.1.max(most));
    }

    /// Scale and zero of unsigned bytes that hold the range of `value`, and 0 exactly.
    pub(super) fn bytes(&self, value: &str) -> Option<(f32, u8)> {
        let (least, most) = self.0.get(value)?;
        let (least, most) = (least.min(0.0), most.max(0.0));
        let scale = ((most - least) / 255.0) as f32;
        (scale > 0.0).then(|| (scale, (-least / f64::from(scale)).round_ties_even() as u8))
    }
}

/// A model that also gives what is inside it.
#[derive(Clone, Debug)]
pub struct Watched {
    /// By output: the value that it shows, as `[1, numbers]`.
    pub values: BTreeMap<String, String>,
    /// The model.
    pub model: Compressed,
}

/// What to watch for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// [`Ranges`], for `int8`.
    Ranges,
    /// What units do ([`super::prune::Activity`]), for `pruned`.
    Units,
}

/// Makes one of the model in `file`. It must be run on one window at a time.
pub fn watch(file: &ModelFile, what: Watch) -> Result<Watched, CompressError> {
    let mut draft = Draft::of(file)?;
    let mut values = BTreeMap::new();
    let flat: Vec<u8> = [1_i64, -1].iter().flat_map(|size| size.to_le_bytes()).collect();
    let flat = draft.tensor("watched", "shape", DataType::Int64, &[2], flat);
    let (watched, method): (BTreeSet<String>, _) = match what {
        Watch::Ranges => (watched(&draft), "int8"),
        Watch::Units => (prune::watched(&mut draft).collect(), "pruned"),
    };
    for value in watched {
        let output = draft.fresh(&value, "watched");
        draft.graph.node.push(operator("Reshape", &[&value, &flat], &output));
        draft.graph.output.push(float_output(&output));
        values.insert(output, value);
    }
    if values.is_empty() {
        return Err(CompressError::Nothing { method });
    }
    let beside = !file.beside().is_empty();
    Ok(Watched { values, model: Compressed { changes: Changes::default(), draft, beside } })
}

/// What goes into products and convolutions, and what comes out of convolutions.
fn watched(draft: &Draft) -> BTreeSet<String> {
    let heads = heads(&draft.graph);
    let mut values = BTreeSet::new();
    for node in &draft.graph.node {
        let slot = slots::of(node).into_iter().find(|s| slots::weight(draft, node, *s).is_some());
        let Some(slot) = slot.filter(|_| !heads.contains(&node.output[0])) else { continue };
        if slot.r#use == Use::Product || is(node, "Conv") {
            values.insert(node.input[0].clone());
        }
        if is(node, "Conv") {
            values.insert(end_of_convolution(&draft.graph, node).to_owned());
        }
    }
    values
}

/// Where a convolution's result is rounded to bytes: behind the `Relu` that alone takes it, where there is one.
pub(super) fn end_of_convolution<'a>(
    graph: &'a pb::GraphProto,
    node: &'a pb::NodeProto,
) -> &'a str {
    let output = &node.output[0];
    let mut takers = graph.node.iter().filter(|taker| taker.input.contains(output));
    match (takers.next(), takers.next()) {
        (Some(only), None) if is(only, "Relu") => &only.output[0],
        _ => output,
    }
}

/// Outputs of the layers with weights that are nearest to the graph's outputs.
pub(super) fn heads(graph: &pb::GraphProto) -> BTreeSet<String> {
    let makers: BTreeMap<&str, &pb::NodeProto> = (graph.node.iter())
        .flat_map(|node| node.output.iter().map(move |output| (output.as_str(), node)))
        .collect();
    let mut heads = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut left: Vec<&str> = graph.output.iter().map(|port| port.name.as_str()).collect();
    while let Some(value) = left.pop() {
        let Some(node) = makers.get(value).filter(|_| seen.insert(value)) else { continue };
        let is_layer = slots::of(node).iter().any(|slot| {
            let weight = node.input.get(slot.input);
            slot.r#use != Use::Table && weight.is_some_and(|w| !makers.contains_key(w.as_str()))
        });
        if is_layer {
            heads.insert(node.output[0].clone());
        } else {
            left.extend(node.input.iter().map(String::as_str));
        }
    }
    heads
}

fn float_output(name: &str) -> pb::ValueInfoProto {
    let tensor = type_proto::Tensor { elem_type: DataType::Float as i32, shape: None };
    let value = Some(type_proto::Value::TensorType(tensor));
    pb::ValueInfoProto {
        name: name.into(),
        r#type: Some(pb::TypeProto { value, ..pb::TypeProto::default() }),
        ..pb::ValueInfoProto::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_zero_and_what_was_seen() {
        let mut ranges = Ranges::default();
        ranges.take("x", &[1.0, 3.0, f64::NAN], Calibration::MinMax);
        ranges.take("x", &[2.0, 5.1], Calibration::MinMax);
        assert_eq!(ranges.bytes("x"), Some((5.1 / 255.0, 0)));
        ranges.take("y", &[-1.0, 1.55], Calibration::MinMax);
        assert_eq!(ranges.bytes("y").unwrap().1, 100);
        ranges.take("zero", &[0.0], Calibration::MinMax);
        assert_eq!((ranges.bytes("zero"), ranges.bytes("unseen")), (None, None));
    }

    #[test]
    fn a_percentile_leaves_out_what_is_far_out() {
        let mut numbers: Vec<f64> = (0..10_000).map(f64::from).collect();
        numbers[3] = 1e9;
        let mut ranges = Ranges::default();
        ranges.take("x", &numbers, Calibration::Percentile);
        assert_eq!(ranges.0["x"].1, 9995.0);
    }
}
