//! What an ONNX file says of itself: its inputs and outputs, and (in `metadata`) what is noted in `metadata_props`.
//!
//! Read from the file's protobuf by `session` before any runtime sees it, because tract gives no metadata and
//! neither runtime survives every damaged file. It promises: `parse` never panics, and what it lets through has
//! tensors as large as they say, unique outputs, and all its weights inside. It does not check what nodes compute.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use prost::Message;
use sha2::{Digest, Sha256};
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};
use tract_onnx::pb::{self, tensor_shape_proto, type_proto};

use super::element::Element;
use super::fit::Mismatch;
use super::metadata::Metadata;
use super::state::State;
use super::weights::Weights;
use super::{ModelError, labels};

/// Largest tensor (weights, or one row of input) that is taken, in numbers.
const MAX_ELEMENTS: i64 = 1 << 26;
/// Most numbers of one row of its input: trials hold several rows.
const MAX_ROW: usize = 1 << 22;

/// An input or output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// The type of its numbers; `None` where it is no tensor.
    pub element: Option<Element>,
    /// Its dimensions, `None` for one that may vary; empty where the file does not say.
    pub dims: Vec<Option<usize>>,
    /// Of a classifier's output: the label of each column.
    pub labels: Vec<String>,
    /// Of an output that says which class it is: the classes that it can say, where that is known.
    pub says: Vec<String>,
}

impl Port {
    /// Its shape as people write it: `[n, 48]`.
    pub fn shape(&self) -> String {
        shape_text(&self.dims)
    }
}

pub(super) fn shape_text(dims: &[Option<usize>]) -> String {
    let dims: Vec<String> =
        dims.iter().map(|d| d.map_or_else(|| "n".into(), |d| d.to_string())).collect();
    format!("[{}]", dims.join(", "))
}

/// What goes in and what comes out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signature {
    /// What the model must be given.
    pub inputs: Vec<Port>,
    /// What it gives.
    pub outputs: Vec<Port>,
    /// Which of its inputs are fed with what an output gave before.
    pub states: Vec<State>,
}

impl Signature {
    /// The inputs that take data, in order: all but states.
    pub fn data(&self) -> Vec<&Port> {
        let is_data = |at: &usize| self.states.iter().all(|state| state.input != *at);
        (0..self.inputs.len()).filter(is_data).map(|at| &self.inputs[at]).collect()
    }

    /// Whether it has several inputs of one number a row each: a column of features.
    pub fn takes_columns(&self) -> bool {
        let one = |port: &&Port| {
            matches!(port.dims.as_slice(), [_] | [_, Some(1) | None]) && port.element.is_some()
        };
        let data = self.data();
        data.len() > 1 && data.iter().all(one)
    }

    /// How many rows it takes at once, where that is fixed.
    pub fn batch(&self) -> Option<usize> {
        if self.states.iter().any(State::is_single) {
            return Some(1);
        }
        self.data().iter().find_map(|port| port.dims.first().copied().flatten())
    }

    /// Declares what it remembers: names of inputs, each with the output that feeds it the next time.
    pub fn remember(&mut self, states: &BTreeMap<String, String>) -> Result<(), Mismatch> {
        let found = states.iter().map(|(input, output)| State::find(self, input, output));
        self.states = found.collect::<Result<_, _>>()?;
        Ok(())
    }

    /// The index of the output called `name`.
    pub fn output(&self, name: &str) -> Option<usize> {
        self.outputs.iter().position(|port| port.name == name)
    }
}

/// A file that has been read.
#[derive(Clone, Debug)]
pub(super) struct Parsed {
    pub(super) proto: pb::ModelProto,
    pub(super) signature: Signature,
    pub(super) metadata: Metadata,
    /// Whether `proto` differs from the file: weights were listed among the inputs (ONNX before IR 4), or an output was
    /// a sequence of maps.
    pub(super) rewritten: bool,
    /// What it needs of the files beside it.
    pub(super) weights: Option<Weights>,
}

impl Parsed {
    /// A shape of `rows` rows on which the model can be tried; `None` where the file does not say its width, or where
    /// it takes no numbers and `fit` has to refuse it.
    pub(super) fn trial_shape(&self, rows: usize) -> Option<Vec<usize>> {
        let inputs = self.signature.data();
        if !inputs.iter().all(|input| input.element.is_some_and(Element::is_number)) {
            return None;
        }
        let [input] = inputs.as_slice() else {
            return self.signature.takes_columns().then(|| vec![rows, inputs.len()]);
        };
        let rest = input.dims.get(1..)?;
        let features = self.metadata.features.as_ref().map(Vec::len);
        let channels = self.metadata.channels.as_ref().map(Vec::len);
        let noted = match rest.len() {
            1 => vec![features],
            2 => vec![self.metadata.steps, channels],
            _ => vec![None; rest.len()],
        };
        let rest = rest.iter().zip(noted).map(|(dim, noted)| dim.or(noted));
        std::iter::once(Some(rows)).chain(rest).collect()
    }
}

/// Reads and checks the bytes of an ONNX file; `path` is for errors only.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Parsed, ModelError> {
    let fault = |reason: String| ModelError::NotOnnx { path: path.to_owned(), reason };
    let mut proto = pb::ModelProto::decode(bytes).map_err(|e| fault(first_line(&e.to_string())))?;
    let Some(graph) = proto.graph.as_mut() else {
        return Err(fault("it holds no graph".into()));
    };
    if graph.output.is_empty() {
        return Err(fault("its graph has no output".into()));
    }
    for tensor in &graph.initializer {
        if tensor.data_location != Some(DataLocation::External as i32) {
            check_tensor(tensor).map_err(fault)?;
        }
    }
    let weights: BTreeSet<String> = graph.initializer.iter().map(|t| t.name.clone()).collect();
    let inputs = graph.input.len();
    graph.input.retain(|input| !weights.contains(&input.name));
    graph.input.iter_mut().for_each(name_batch);
    let mut labels = labels::flatten(graph);
    let rewritten = graph.input.len() != inputs || !labels.is_empty();
    let mut signature = Signature {
        inputs: graph.input.iter().map(port).collect(),
        outputs: graph.output.iter().map(port).collect(),
        states: Vec::new(),
    };
    for port in &mut signature.outputs {
        if let Some(at) = labels.iter().position(|(output, _)| *output == port.name) {
            port.labels = labels.swap_remove(at).1;
        } else {
            match labels::of_classifier(graph, &port.name) {
                Some((true, labels)) => port.says = labels,
                Some((false, labels)) if port.dims.get(1) == Some(&Some(labels.len())) => {
                    port.labels = labels;
                }
                _ => {}
            }
        }
    }
    check_names(graph, &signature, &weights).map_err(fault)?;
    let metadata = Metadata::read(&proto);
    if let Some(states) = &metadata.state {
        signature.remember(states).map_err(|mismatch| fault(mismatch.to_string()))?;
    }
    let weights = Weights::of(path, &proto)?;
    if weights.is_some() && rewritten {
        let reason =
            "it lists weights among its inputs, or gives maps, and its weights are in other files";
        return Err(fault(format!("{reason}; save it with its weights inside")));
    }
    let parsed = Parsed { proto, signature, metadata, rewritten, weights };
    if let Some(shape) = parsed.trial_shape(1) {
        let numbers = shape.iter().try_fold(1_usize, |all, &size| all.checked_mul(size));
        if numbers.is_none_or(|numbers| numbers > MAX_ROW) {
            let reason = format!("a row of its input has the shape {:?}", shape.get(1..));
            return Err(fault(format!("{reason}; at most {MAX_ROW} numbers are taken")));
        }
    }
    Ok(parsed)
}

/// Some converters leave the number of rows without a name, and tract wants one.
fn name_batch(input: &mut pb::ValueInfoProto) {
    let value = input.r#type.as_mut().and_then(|kind| kind.value.as_mut());
    let Some(type_proto::Value::TensorType(tensor)) = value else { return };
    if let Some(rows) = tensor.shape.as_mut().and_then(|shape| shape.dim.first_mut()) {
        let name = || tensor_shape_proto::dimension::Value::DimParam("n".into());
        rows.value.get_or_insert_with(name);
    }
}

fn check_tensor(tensor: &pb::TensorProto) -> Result<(), String> {
    let count = tensor.dims.iter().try_fold(1_i64, |count, &dim| {
        (dim >= 0).then(|| count.checked_mul(dim)).flatten().filter(|&n| n <= MAX_ELEMENTS)
    });
    let Some(count) = count else {
        return Err(format!("tensor `{}` has the impossible shape {:?}", tensor.name, tensor.dims));
    };
    let held = match DataType::try_from(tensor.data_type) {
        Ok(DataType::Float) => tensor.float_data.len(),
        Ok(DataType::Double) => tensor.double_data.len(),
        Ok(DataType::Int64) => tensor.int64_data.len(),
        Ok(DataType::Int32) => tensor.int32_data.len(),
        _ => return Ok(()),
    };
    let width = element_size(tensor.data_type).unwrap_or(1) as usize;
    let held = if tensor.raw_data.is_empty() { held } else { tensor.raw_data.len() / width };
    if held as i64 != count {
        return Err(format!("tensor `{}` holds {held} numbers of {count}", tensor.name));
    }
    Ok(())
}

fn check_names(
    graph: &pb::GraphProto,
    signature: &Signature,
    weights: &BTreeSet<String>,
) -> Result<(), String> {
    let mut known: BTreeSet<&str> = weights.iter().map(String::as_str).collect();
    known.extend(signature.inputs.iter().map(|port| port.name.as_str()));
    known.extend(graph.node.iter().flat_map(|node| node.output.iter().map(String::as_str)));
    let mut seen = BTreeSet::new();
    for port in &signature.outputs {
        if !known.contains(port.name.as_str()) {
            return Err(format!("nothing computes its output `{}`", port.name));
        }
        if !seen.insert(&port.name) {
            return Err(format!("it has two outputs `{}`", port.name));
        }
    }
    for port in signature.inputs.iter().chain(&signature.outputs) {
        if port.name.is_empty() || port.name.contains('\0') {
            return Err(format!("an input or output has the impossible name {:?}", port.name));
        }
        let size = port.dims.iter().try_fold(1_i64, |size, dim| {
            size.checked_mul(dim.unwrap_or(1) as i64).filter(|&n| n <= MAX_ELEMENTS)
        });
        if size.is_none() {
            return Err(format!("`{}` has the impossible shape {}", port.name, port.shape()));
        }
    }
    Ok(())
}

fn port(info: &pb::ValueInfoProto) -> Port {
    let name = info.name.clone();
    let Some(type_proto::Value::TensorType(tensor)) =
        info.r#type.as_ref().and_then(|t| t.value.as_ref())
    else {
        return Port { name, ..Port::default() };
    };
    let dims = tensor.shape.iter().flat_map(|shape| &shape.dim).map(|dim| match dim.value {
        Some(tensor_shape_proto::dimension::Value::DimValue(size)) => usize::try_from(size).ok(),
        _ => None,
    });
    let (element, dims) = (Some(Element::of(tensor.elem_type)), dims.collect());
    Port { name, element, dims, ..Port::default() }
}

pub(super) fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// Bytes of one number of ONNX's type `number`; `None` where that is not fixed.
pub(super) fn element_size(number: i32) -> Option<u64> {
    Some(match DataType::try_from(number).ok()? {
        DataType::Float | DataType::Int32 | DataType::Uint32 => 4,
        DataType::Double | DataType::Int64 | DataType::Uint64 => 8,
        DataType::Float16 | DataType::Bfloat16 | DataType::Int16 | DataType::Uint16 => 2,
        DataType::Int8 | DataType::Uint8 | DataType::Bool => 1,
        _ => return None,
    })
}

/// SHA-256 of a file's bytes, in hex.
pub(crate) fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes as hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("it panicked: {}", text.unwrap_or("no reason given"))
}
