//! A graph being changed: its weights as numbers, new tensors and operators under names of their own.
//!
//! The methods of `compress` work on it. It promises that what no operator uses any more is gone at the end
//! ([`Draft::tidy`]), that no new name meets an old one, and that nothing else of the file changes: other operator sets,
//! functions and notes stay. Subgraphs (`If`, `Loop`) are left alone; what they use of the outer graph stays.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use tract_onnx::pb;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};

use super::CompressError;
use crate::model::ModelFile;
use crate::model::file::MAX_BYTES;
use crate::model::onnx::digest;

/// A tensor smaller than this stays in the model's file even where weights are beside it.
const INSIDE: usize = 1024;
/// Where a tensor may start in the file of weights: what a system can map.
const PAGE: usize = 4096;
/// Weights listed among the inputs were the only ones before this version of the format.
const IR_WITH_WEIGHTS_APART: i64 = 4;

/// Numbers with a shape.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Numbers {
    pub(super) dims: Vec<usize>,
    pub(super) values: Vec<f32>,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    proto: pb::ModelProto,
    /// Taken out of `proto`, so that it is always there.
    pub(super) graph: pb::GraphProto,
    names: BTreeSet<String>,
}

impl Draft {
    /// A copy of what is in `file`, its weights inside, without its signature and golden vectors.
    pub(super) fn of(file: &ModelFile) -> Result<Draft, CompressError> {
        let broken = |reason: &str| CompressError::Broken(reason.to_owned());
        let mut proto = pb::ModelProto::decode(file.bytes.as_slice())
            .map_err(|error| CompressError::Broken(error.to_string()))?;
        if let Some(weights) = &file.parsed.weights {
            weights.take_in(&mut proto)?;
        }
        let mut graph = proto.graph.take().ok_or_else(|| broken("it holds no graph"))?;
        let weights: BTreeSet<&String> = graph.initializer.iter().map(|t| &t.name).collect();
        graph.input.retain(|input| !weights.contains(&input.name));
        proto.ir_version = proto.ir_version.max(IR_WITH_WEIGHTS_APART);
        let values = graph.node.iter().flat_map(|node| node.input.iter().chain(&node.output));
        let tensors = graph.initializer.iter().map(|t| &t.name);
        let ports = graph.input.iter().chain(&graph.output).map(|port| &port.name);
        let names = values.chain(tensors).chain(ports).cloned().collect();
        let mut draft = Draft { proto, graph, names };
        // They are about the original's bytes and answers.
        for key in ["signature", "beside", "golden"] {
            draft.note(&format!("forebay.{key}"), None);
        }
        draft.take_constants();
        Ok(draft)
    }

    /// The version of ONNX's own operators.
    pub(super) fn opset(&self) -> i64 {
        let own = |set: &&pb::OperatorSetIdProto| set.domain.is_empty() || set.domain == "ai.onnx";
        self.proto.opset_import.iter().find(own).map_or(1, |set| set.version)
    }

    /// An error where the operators are older than `needed`.
    pub(super) fn need(&self, needed: i64, method: &'static str) -> Result<(), CompressError> {
        let found = self.opset();
        if found < needed { Err(CompressError::Opset { found, needed, method }) } else { Ok(()) }
    }

    /// The float32 weights called `name`; `None` where it is no weight, or holds other numbers.
    pub(super) fn floats(&self, name: &str) -> Option<Numbers> {
        let tensor = self.graph.initializer.iter().find(|tensor| tensor.name == name)?;
        if tensor.data_type != DataType::Float as i32 {
            return None;
        }
        let dims =
            tensor.dims.iter().map(|dim| usize::try_from(*dim).ok()).collect::<Option<_>>()?;
        let numbers = |bytes: &[u8; 4]| f32::from_le_bytes(*bytes);
        let values = if tensor.raw_data.is_empty() {
            tensor.float_data.clone()
        } else {
            tensor.raw_data.as_chunks().0.iter().map(numbers).collect()
        };
        Some(Numbers { dims, values })
    }

    /// Gives the float32 weights called `name` other numbers.
    pub(super) fn replace(&mut self, name: &str, numbers: &Numbers) {
        if let Some(tensor) = self.graph.initializer.iter_mut().find(|tensor| tensor.name == name) {
            tensor.dims = numbers.dims.iter().map(|dim| *dim as i64).collect();
            tensor.float_data.clear();
            tensor.raw_data = numbers.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        }
    }

    /// Gives each operator its own copy of float32 weights that several take, so that they can be changed one by one.
    /// Gives back the copies, each with what it was copied from: [`Draft::share`] undoes it where they are still equal.
    pub(super) fn unshare(&mut self) -> Vec<(String, String)> {
        let (mut seen, mut copies) = (BTreeSet::new(), Vec::new());
        let mut nodes = std::mem::take(&mut self.graph.node);
        for name in nodes.iter_mut().flat_map(|node| &mut node.input) {
            if seen.insert(name.clone()) {
                continue;
            }
            if let Some(numbers) = self.floats(name).filter(|numbers| numbers.values.len() > 1) {
                let copy = self.floats_of(name, "own", &numbers.dims, &numbers.values);
                copies.push((copy.clone(), std::mem::replace(name, copy)));
            }
        }
        self.graph.node = nodes;
        copies
    }

    /// See [`Draft::unshare`].
    pub(super) fn share(&mut self, copies: &[(String, String)]) {
        let names: BTreeMap<&String, &String> = (copies.iter())
            .filter(|(copy, original)| self.floats(copy) == self.floats(original))
            .map(|(copy, original)| (copy, original))
            .collect();
        for input in self.graph.node.iter_mut().flat_map(|node| &mut node.input) {
            if let Some(original) = names.get(input) {
                input.clone_from(original);
            }
        }
    }

    /// A name that nothing has yet, for something that is made of `base`.
    pub(super) fn fresh(&mut self, base: &str, what: &str) -> String {
        let mut name = format!("{base}_{what}");
        while !self.names.insert(name.clone()) {
            name.push('_');
        }
        name
    }

    /// Adds float32 weights. Gives back their name.
    pub(super) fn floats_of(
        &mut self,
        base: &str,
        what: &str,
        dims: &[usize],
        values: &[f32],
    ) -> String {
        let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensor(base, what, DataType::Float, dims, raw)
    }

    /// Adds a tensor of any type. Gives back its name.
    pub(super) fn tensor(
        &mut self,
        base: &str,
        what: &str,
        kind: DataType,
        dims: &[usize],
        raw_data: Vec<u8>,
    ) -> String {
        let name = self.fresh(base, what);
        self.graph.initializer.push(pb::TensorProto {
            name: name.clone(),
            dims: dims.iter().map(|&dim| dim as i64).collect(),
            data_type: kind as i32,
            raw_data,
            ..pb::TensorProto::default()
        });
        name
    }

    /// What is noted under `key`.
    pub(super) fn noted(&self, key: &str) -> Option<String> {
        let entry = self.proto.metadata_props.iter().find(|entry| entry.key == key);
        entry.map(|entry| entry.value.clone())
    }

    /// Notes `value` under `key`; `None` takes the note away.
    pub(super) fn note(&mut self, key: &str, value: Option<String>) {
        self.proto.metadata_props.retain(|entry| entry.key != key);
        if let Some(value) = value {
            let key = key.to_owned();
            self.proto.metadata_props.push(pb::StringStringEntryProto { key, value });
        }
    }

    /// Takes away what nothing uses any more.
    pub(super) fn tidy(&mut self) {
        let mut used: BTreeSet<String> =
            self.graph.output.iter().map(|port| port.name.clone()).collect();
        collect_uses(&self.graph, &mut used);
        self.graph.initializer.retain(|tensor| used.contains(&tensor.name));
        let made: BTreeSet<&String> =
            self.graph.node.iter().flat_map(|node| &node.output).collect();
        self.graph.value_info.retain(|value| made.contains(&value.name));
    }

    /// The files: the model called `name`, and its weights beside it where `beside`, or where it is too large.
    pub(super) fn files(&self, name: &str, beside: bool) -> Vec<(String, Vec<u8>)> {
        let mut proto = self.proto.clone();
        proto.graph = Some(self.graph.clone());
        if !beside && proto.encoded_len() as u64 <= MAX_BYTES {
            return vec![(name.to_owned(), proto.encode_to_vec())];
        }
        let (mut data, mut places) = (Vec::new(), Vec::new());
        let mut tensors: Vec<&mut pb::TensorProto> = (proto.graph.iter_mut())
            .flat_map(|graph| &mut graph.initializer)
            .filter(|tensor| tensor.raw_data.len() >= INSIDE)
            .collect();
        for tensor in &mut tensors {
            data.resize(data.len().next_multiple_of(PAGE), 0);
            places.push((data.len(), tensor.raw_data.len()));
            data.append(&mut tensor.raw_data);
        }
        // Other weights have another name: a model of that name which stands there keeps its own until it is replaced.
        let location = format!("{name}.{:.12}.data", digest(&data));
        for (tensor, (offset, length)) in tensors.into_iter().zip(places) {
            tensor.data_location = Some(DataLocation::External as i32);
            let entry =
                |key: &str, value: String| pb::StringStringEntryProto { key: key.into(), value };
            tensor.external_data = vec![
                entry("location", location.clone()),
                entry("offset", offset.to_string()),
                entry("length", length.to_string()),
            ];
        }
        let model = proto.encode_to_vec();
        if data.is_empty() {
            vec![(name.to_owned(), model)]
        } else {
            vec![(location, data), (name.to_owned(), model)]
        }
    }

    /// Tensors in `Constant` operators become weights like all others.
    fn take_constants(&mut self) {
        for node in std::mem::take(&mut self.graph.node) {
            let value = node.attribute.iter().find(|attribute| attribute.name == "value");
            match (value.and_then(|value| value.t.clone()), node.output.as_slice()) {
                (Some(mut tensor), [output]) if is(&node, "Constant") => {
                    tensor.name.clone_from(output);
                    self.graph.initializer.push(tensor);
                }
                _ => self.graph.node.push(node),
            }
        }
    }
}

/// Whether it is ONNX's own operator of this name.
pub(super) fn is(node: &pb::NodeProto, operator: &str) -> bool {
    node.op_type == operator && (node.domain.is_empty() || node.domain == "ai.onnx")
}

/// Every name that an operator takes, those of subgraphs included.
fn collect_uses(graph: &pb::GraphProto, used: &mut BTreeSet<String>) {
    for node in &graph.node {
        used.extend(node.input.iter().cloned());
        for inner in node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)) {
            used.extend(inner.output.iter().map(|port| port.name.clone()));
            collect_uses(inner, used);
        }
    }
}

/// An operator of ONNX's own that gives one value.
pub(super) fn operator(kind: &str, inputs: &[&str], output: &str) -> pb::NodeProto {
    pb::NodeProto {
        name: format!("{output}_{kind}"),
        op_type: kind.into(),
        input: inputs.iter().map(|&name| name.into()).collect(),
        output: vec![output.into()],
        ..pb::NodeProto::default()
    }
}

/// The operator with a whole number as an attribute.
pub(super) fn with(mut node: pb::NodeProto, name: &str, value: i64) -> pb::NodeProto {
    let r#type = AttributeType::Int as i32;
    node.attribute.push(pb::AttributeProto {
        name: name.into(),
        r#type,
        i: value,
        ..Default::default()
    });
    node
}

/// The operator with whole numbers as an attribute.
pub(super) fn with_list(mut node: pb::NodeProto, name: &str, values: &[i64]) -> pb::NodeProto {
    let (r#type, ints) = (AttributeType::Ints as i32, values.to_vec());
    node.attribute.push(pb::AttributeProto {
        name: name.into(),
        r#type,
        ints,
        ..Default::default()
    });
    node
}

/// A whole number that an operator has as an attribute.
pub(super) fn whole(node: &pb::NodeProto, name: &str) -> Option<i64> {
    node.attribute.iter().find(|attribute| attribute.name == name).map(|attribute| attribute.i)
}

/// A number that an operator has as an attribute.
pub(super) fn real(node: &pb::NodeProto, name: &str) -> Option<f32> {
    node.attribute.iter().find(|attribute| attribute.name == name).map(|attribute| attribute.f)
}
