//! Classifiers as scikit-learn's converters export them: an output that is a sequence of maps from label to chance.
//!
//! `onnx` calls [`flatten`] on what it has read. A map for every row is made by one operator, ZipMap, from a tensor with a
//! column for every label; without it the output is that tensor, which both runtimes give at the speed of any other.

use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::type_proto;

/// Replaces each ZipMap by the tensor that it is made of. Gives the outputs that had one, each with its labels.
pub(super) fn flatten(graph: &mut pb::GraphProto) -> Vec<(String, Vec<String>)> {
    let mut flattened = Vec::new();
    for node in &mut graph.node {
        if node.op_type != "ZipMap" || node.domain != "ai.onnx.ml" {
            continue;
        }
        let Some(output) = node.output.first().cloned() else { continue };
        let labels: Vec<String> = node.attribute.iter().flat_map(labels).collect();
        for info in graph.output.iter_mut().filter(|info| info.name == output) {
            info.r#type = Some(matrix(labels.len()));
        }
        node.op_type = "Identity".into();
        node.domain.clear();
        node.attribute.clear();
        flattened.push((output, labels));
    }
    flattened
}

fn labels(attribute: &pb::AttributeProto) -> Vec<String> {
    match attribute.name.as_str() {
        "classlabels_strings" => {
            attribute.strings.iter().map(|s| String::from_utf8_lossy(s).into_owned()).collect()
        }
        "classlabels_int64s" | "classlabels_ints" => {
            attribute.ints.iter().map(ToString::to_string).collect()
        }
        _ => Vec::new(),
    }
}

/// Operators that leave classes what they are.
const PASSES: [&str; 5] = ["Cast", "Identity", "Normalizer", "Reshape", "Softmax"];

/// What a classifier whose `output` this is calls its classes, and whether the output is which of them it is, not a number
/// for each.
pub(super) fn of_classifier(graph: &pb::GraphProto, output: &str) -> Option<(bool, Vec<String>)> {
    let mut name = output;
    // Longer ways are nobody's.
    for _ in 0..8 {
        let node = graph.node.iter().find(|node| node.output.iter().any(|out| out == name))?;
        let labels: Vec<String> = node.attribute.iter().flat_map(labels).collect();
        if !labels.is_empty() {
            return Some((node.output.first().is_some_and(|first| first == name), labels));
        }
        name = PASSES.contains(&node.op_type.as_str()).then(|| node.input.first())??;
    }
    None
}

/// The type of a float32 tensor of any number of rows.
fn matrix(width: usize) -> pb::TypeProto {
    let dim = |value| Dimension { value: Some(value), ..Dimension::default() };
    let dims = [
        dim(dimension::Value::DimParam("n".into())),
        dim(dimension::Value::DimValue(width as i64)),
    ];
    let tensor = type_proto::Tensor {
        elem_type: DataType::Float as i32,
        shape: Some(pb::TensorShapeProto { dim: dims.into() }),
    };
    pb::TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..pb::TypeProto::default() }
}
