//! Units that can be taken out of a graph: channels that one layer makes and others take, with nothing between them that
//! looks at several channels at once.
//!
//! `prune` cuts what is found here. A unit of a fully connected layer, a hidden unit of a transformer's feed-forward part,
//! a channel of a convolution. Between the layers may stand what works number by number (activations, biases, scales,
//! batch normalisation), and what pools over time. Where anything else takes the value (a residual sum, an attention, an
//! output of the graph) the units stay.

use std::collections::{BTreeMap, BTreeSet};

use tract_onnx::pb;

use super::draft::{Draft, is, whole};
use super::slots::{self, Slot, Use};

/// Operators that work number by number on their first input.
const NUMBER_BY_NUMBER: [&str; 24] = [
    "Relu",
    "Sigmoid",
    "Tanh",
    "Erf",
    "Gelu",
    "LeakyRelu",
    "Elu",
    "Selu",
    "HardSigmoid",
    "HardSwish",
    "Softplus",
    "Clip",
    "Identity",
    "Abs",
    "Neg",
    "Sqrt",
    "Exp",
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "Max",
    "Min",
];

/// Where a tensor has the channels: which axis to cut.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cut {
    pub(super) tensor: String,
    pub(super) axis: usize,
    /// Neighbours on the axis that belong to one unit.
    pub(super) block: usize,
}

/// A layer that takes the units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Taker {
    /// The value that it takes.
    pub(super) value: String,
    /// What it gives.
    pub(super) output: String,
    pub(super) weight: Cut,
}

/// Units that go together, and all that has to be cut with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Units {
    pub(super) count: usize,
    /// The weight that makes them.
    pub(super) maker: Cut,
    /// Biases, scales and statistics.
    pub(super) with: BTreeSet<Cut>,
    pub(super) takers: Vec<Taker>,
    /// Axes behind that of the units: none behind a product, those of the kernel behind a convolution.
    pub(super) behind: usize,
}

/// All units of the graph that can be taken out, layer by layer.
pub(super) fn find(draft: &Draft) -> Vec<Units> {
    let mut uses: BTreeMap<&str, usize> = BTreeMap::new();
    for name in draft.graph.node.iter().flat_map(|node| &node.input) {
        *uses.entry(name).or_default() += 1;
    }
    let has_inner = |node: &pb::NodeProto| node.attribute.iter().any(|a| a.g.is_some());
    if draft.graph.node.iter().any(has_inner) {
        return Vec::new();
    }
    let once = |cut: &Cut| uses.get(cut.tensor.as_str()) == Some(&1);
    (draft.graph.node.iter())
        .filter_map(|node| of_layer(draft, node))
        .filter(|units| once(&units.maker) && units.with.iter().all(once))
        .filter(|units| units.takers.iter().all(|taker| once(&taker.weight)))
        .collect()
}

/// The slot of a layer that makes or takes units.
fn layer(node: &pb::NodeProto) -> Option<Slot> {
    let slot = slots::of(node).into_iter().next()?;
    let conv = is(node, "Conv") && whole(node, "group").unwrap_or(1) == 1;
    (slot.r#use == Use::Product || conv).then_some(slot)
}

fn dims(draft: &Draft, name: &str) -> Option<Vec<usize>> {
    let tensor = draft.graph.initializer.iter().find(|tensor| tensor.name == name)?;
    tensor.dims.iter().map(|dim| usize::try_from(*dim).ok()).collect()
}

/// The units that `node` makes.
fn of_layer(draft: &Draft, node: &pb::NodeProto) -> Option<Units> {
    let slot = layer(node)?;
    slots::weight(draft, node, slot)?;
    let tensor = node.input[slot.input].clone();
    let count = *dims(draft, &tensor)?.get(slot.axis)?;
    let behind = dims(draft, &tensor)?.len() - 2;
    let maker = Cut { tensor, axis: slot.axis, block: 1 };
    let mut units = Units { count, maker, with: BTreeSet::new(), takers: Vec::new(), behind };
    if let Some(bias) = node.input.get(2).filter(|name| !name.is_empty()) {
        units.with.insert(beside(draft, bias, count, 0)?);
    }
    follow(draft, node, &mut units)?;
    let outputs: BTreeSet<&str> = draft.graph.output.iter().map(|o| o.name.as_str()).collect();
    (!units.takers.is_empty() && !outputs.contains(node.output[0].as_str())).then_some(units)
}

/// Follows the units from the layer that makes them to all that take them. `None` where they cannot be taken out.
fn follow(draft: &Draft, maker: &pb::NodeProto, units: &mut Units) -> Option<()> {
    let mut values = BTreeSet::from([maker.output[0].as_str()]);
    // Values behind a convolution that are rows: flattened, a unit's numbers side by side, or pooled.
    let mut flat: BTreeSet<&str> = BTreeSet::new();
    for node in &draft.graph.node {
        let taken: Vec<usize> =
            (0..node.input.len()).filter(|at| values.contains(node.input[*at].as_str())).collect();
        if taken.is_empty() {
            continue;
        }
        let conv = units.behind > 0;
        let mut is_flat = node.input.iter().any(|input| flat.contains(input.as_str()));
        if layer(node).is_some() {
            if taken != [0] {
                return None;
            }
            units.takers.push(taker(draft, node, units, is_flat)?);
            continue;
        }
        let output = node.output.first()?.as_str();
        if draft.graph.output.iter().any(|port| port.name == output) {
            return None;
        }
        if NUMBER_BY_NUMBER.iter().any(|kind| is(node, kind)) {
            for other in (0..node.input.len()).filter(|at| !taken.contains(at)) {
                let name = &node.input[other];
                let size: Option<usize> = dims(draft, name).map(|dims| dims.iter().product());
                if !name.is_empty() && size? != 1 {
                    if is_flat {
                        return None;
                    }
                    units.with.insert(beside(draft, name, units.count, units.behind)?);
                }
            }
        } else if is(node, "BatchNormalization") && conv && !is_flat && node.output.len() == 1 {
            for name in node.input.get(1..5)? {
                units.with.insert(beside(draft, name, units.count, 0)?);
            }
        } else if is(node, "Flatten") && conv && whole(node, "axis").unwrap_or(1) == 1 {
            is_flat = true;
        } else if conv && !is_flat && taken == [0] {
            is_flat = pools(draft, node, units.behind)?;
        } else {
            return None;
        }
        if is_flat {
            flat.insert(output);
        }
        values.insert(output);
    }
    Some(())
}

/// Whether nothing is left behind the units once `node` has pooled over what is there; `None` where it does something else.
fn pools(draft: &Draft, node: &pb::NodeProto, behind: usize) -> Option<bool> {
    if ["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"].iter().any(|k| is(node, k))
    {
        return (node.output.len() == 1).then_some(false);
    }
    let noted = node.attribute.iter().find(|a| a.name == "axes").map(|a| a.ints.clone());
    let given = || {
        let axes = draft.graph.initializer.iter().find(|t| node.input.get(1) == Some(&t.name))?;
        Some(axes.raw_data.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect())
    };
    let axes: Vec<i64> = noted.or_else(given)?;
    let rank = behind as i64 + 2;
    let places: BTreeSet<i64> =
        axes.iter().map(|axis| if *axis < 0 { axis + rank } else { *axis }).collect();
    let reduces = ["ReduceMean", "ReduceMax"].iter().any(|kind| is(node, kind));
    if !reduces || places.is_empty() || places.iter().any(|axis| *axis < 2) {
        return None;
    }
    let keeps = whole(node, "keepdims").unwrap_or(1) != 0;
    (keeps || places.len() == behind).then_some(!keeps)
}

/// A bias, scale or statistic, where it has one number a unit, and `behind` axes of one behind that.
fn beside(draft: &Draft, name: &str, count: usize, behind: usize) -> Option<Cut> {
    let dims = dims(draft, name)?;
    draft.floats(name)?;
    let axis = dims.len().checked_sub(behind + 1)?;
    let alone = dims.iter().product::<usize>() == count;
    (alone && dims[axis] == count).then(|| Cut { tensor: name.to_owned(), axis, block: 1 })
}

fn taker(draft: &Draft, node: &pb::NodeProto, units: &Units, flat: bool) -> Option<Taker> {
    let slot = layer(node)?;
    let tensor = node.input[slot.input].clone();
    let dims = draft.floats(&tensor)?.dims;
    // The other axis than that of its own channels.
    let axis = 1 - slot.axis;
    let block = dims.get(axis)? / units.count.max(1);
    let product = slot.r#use == Use::Product && (units.behind == 0 || flat);
    let convolution = slot.r#use == Use::Convolution && units.behind > 0 && !flat && block == 1;
    let fits = block * units.count == dims[axis] && (flat || block == 1);
    (fits && (product || convolution)).then(|| Taker {
        value: node.input[0].clone(),
        output: node.output[0].clone(),
        weight: Cut { tensor, axis, block },
    })
}
