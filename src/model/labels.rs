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
        "classlabels_int64s" => attribute.ints.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    }
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
