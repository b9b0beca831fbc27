//! Writing ONNX graphs.
//!
//! The trainers use it, and benches and tests where they need a model of a known shape. It promises the same bytes
//! for the same calls. Graphs use opset 17, which ONNX Runtime and tract both take. It does not check that a graph
//! makes sense: opening it as a [`super::Model`] does.

use prost::Message;
use tract_onnx::pb;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::type_proto;

const IR_VERSION: i64 = 8;
const OPSET: i64 = 17;

/// The domain of classical machine learning.
const LEARNED: &str = "ai.onnx.ml";
const LEARNED_OPSET: i64 = 3;

/// The name of the dimension that may vary.
const BATCH: &str = "n";

/// A size in a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim {
    /// The number of rows, which may vary.
    Batch,
    /// A fixed size.
    Fixed(usize),
}

/// The type of an input or output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 32 bit floating point.
    Float32,
    /// 64 bit floating point.
    Float64,
    /// 64 bit integers: for models that do not fit.
    Int64,
}

impl Kind {
    fn number(self) -> i32 {
        match self {
            Kind::Float32 => DataType::Float as i32,
            Kind::Float64 => DataType::Double as i32,
            Kind::Int64 => DataType::Int64 as i32,
        }
    }
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Attribute {
    Integers(Vec<i64>),
    Floats(Vec<f32>),
    Texts(Vec<&'static str>),
    Text(&'static str),
}

impl Attribute {
    fn proto(self, name: &str) -> pb::AttributeProto {
        let mut proto = pb::AttributeProto { name: name.into(), ..pb::AttributeProto::default() };
        let kind = match self {
            Attribute::Integers(values) => {
                proto.ints = values;
                AttributeType::Ints
            }
            Attribute::Floats(values) => {
                proto.floats = values;
                AttributeType::Floats
            }
            Attribute::Texts(values) => {
                proto.strings = values.into_iter().map(Into::into).collect();
                AttributeType::Strings
            }
            Attribute::Text(value) => {
                proto.s = value.into();
                AttributeType::String
            }
        };
        proto.r#type = kind as i32;
        proto
    }
}

/// A graph being written. Values are referred to by name.
#[derive(Clone, Debug)]
pub struct Graph {
    proto: pb::GraphProto,
    metadata: Vec<pb::StringStringEntryProto>,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: &str) -> Graph {
        let proto = pb::GraphProto { name: name.into(), ..pb::GraphProto::default() };
        Graph { proto, metadata: Vec::new() }
    }

    /// Declares an input.
    pub fn input(&mut self, name: &str, kind: Kind, dims: &[Dim]) {
        self.proto.input.push(value_info(name, kind, dims));
    }

    /// Declares that the value `name` is an output.
    pub fn output(&mut self, name: &str, kind: Kind, dims: &[Dim]) {
        self.proto.output.push(value_info(name, kind, dims));
    }

    /// Adds weights: row-major, rounded to float32. Gives back `name`.
    pub fn weights<'n>(&mut self, name: &'n str, dims: &[usize], values: &[f64]) -> &'n str {
        let data = values.iter().flat_map(|&value| (value as f32).to_le_bytes()).collect();
        self.constant(name, DataType::Float, dims, data);
        name
    }

    /// Adds whole numbers, for operators that take axes or shapes as an input. Gives back `name`.
    pub fn integers<'n>(&mut self, name: &'n str, values: &[i64]) -> &'n str {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, DataType::Int64, &[values.len()], data);
        name
    }

    /// Adds an operator that gives one value. Gives back that value's name.
    pub fn node<'n>(&mut self, operator: &str, inputs: &[&str], output: &'n str) -> &'n str {
        self.node_with(operator, inputs, &[output]);
        output
    }

    /// Adds an operator that gives several values.
    pub fn node_with(&mut self, operator: &str, inputs: &[&str], outputs: &[&str]) {
        self.proto.node.push(pb::NodeProto {
            name: format!("{operator}_{}", outputs.join("_")),
            op_type: operator.into(),
            input: inputs.iter().map(|&name| name.into()).collect(),
            output: outputs.iter().map(|&name| name.into()).collect(),
            ..pb::NodeProto::default()
        });
    }

    /// Gives the operator added last a whole number as an attribute.
    pub fn attribute(&mut self, name: &str, value: i64) {
        if let Some(node) = self.proto.node.last_mut() {
            node.attribute.push(pb::AttributeProto {
                name: name.into(),
                r#type: AttributeType::Int as i32,
                i: value,
                ..pb::AttributeProto::default()
            });
        }
    }

    /// Gives the operator added last whole numbers as an attribute.
    pub fn attributes(&mut self, name: &str, values: &[i64]) {
        if let Some(node) = self.proto.node.last_mut() {
            node.attribute.push(pb::AttributeProto {
                name: name.into(),
                r#type: AttributeType::Ints as i32,
                ints: values.to_vec(),
                ..pb::AttributeProto::default()
            });
        }
    }

    /// Adds an operator of classical machine learning, which has attributes instead of weights.
    pub(super) fn learned_node(
        &mut self,
        operator: &str,
        input: &str,
        outputs: &[&str],
        attributes: Vec<(&str, Attribute)>,
    ) {
        let attribute = |(name, attribute): (&str, Attribute)| attribute.proto(name);
        self.proto.node.push(pb::NodeProto {
            name: format!("{operator}_{}", outputs.concat()),
            op_type: operator.into(),
            domain: LEARNED.into(),
            input: vec![input.into()],
            output: outputs.iter().map(|&name| name.into()).collect(),
            attribute: attributes.into_iter().map(attribute).collect(),
            ..pb::NodeProto::default()
        });
    }

    /// Notes `value` under `key` in `metadata_props`.
    pub fn note(&mut self, key: &str, value: impl Into<String>) {
        self.metadata.push(pb::StringStringEntryProto { key: key.into(), value: value.into() });
    }

    /// The bytes of the ONNX file.
    pub fn finish(self) -> Vec<u8> {
        let opset = pb::OperatorSetIdProto { domain: String::new(), version: OPSET };
        let learned = self.proto.node.iter().any(|node| node.domain == LEARNED);
        let learned = learned
            .then(|| pb::OperatorSetIdProto { domain: LEARNED.into(), version: LEARNED_OPSET });
        let model = pb::ModelProto {
            ir_version: IR_VERSION,
            opset_import: std::iter::once(opset).chain(learned).collect(),
            producer_name: "forebay".into(),
            graph: Some(self.proto),
            metadata_props: self.metadata,
            ..pb::ModelProto::default()
        };
        model.encode_to_vec()
    }

    fn constant(&mut self, name: &str, kind: DataType, dims: &[usize], raw_data: Vec<u8>) {
        self.proto.initializer.push(pb::TensorProto {
            name: name.into(),
            dims: dims.iter().map(|&dim| dim as i64).collect(),
            data_type: kind as i32,
            raw_data,
            ..pb::TensorProto::default()
        });
    }
}

fn value_info(name: &str, kind: Kind, dims: &[Dim]) -> pb::ValueInfoProto {
    let dim = dims.iter().map(|dim| Dimension {
        value: Some(match dim {
            Dim::Batch => dimension::Value::DimParam(BATCH.into()),
            Dim::Fixed(size) => dimension::Value::DimValue(*size as i64),
        }),
        ..Dimension::default()
    });
    let shape = pb::TensorShapeProto { dim: dim.collect() };
    let tensor = type_proto::Tensor { elem_type: kind.number(), shape: Some(shape) };
    let value = Some(type_proto::Value::TensorType(tensor));
    pb::ValueInfoProto {
        name: name.into(),
        r#type: Some(pb::TypeProto { value, ..pb::TypeProto::default() }),
        ..pb::ValueInfoProto::default()
    }
}
