//! Units that can be taken out of a graph: channels that one layer makes and others take, with nothing between them that
//! looks at several channels at once.
//!
//! `prune` cuts what is found here. A unit of a fully connected layer, a hidden unit of a transformer's feed-forward part,
//! a channel of a convolution. Between the layers may stand what works number by number (activations, biases, scales,
//! batch normalisation), what pools or repeats over time, and what turns axes round. Where anything else takes the value (a
//! residual sum, an attention, a recurrent cell, an output of the graph) the units stay.

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
    /// Whether a unit's numbers in `value` lie side by side; else the units do.
    pub(super) blocks: bool,
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
}

/// Where the units are in a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Axes behind that of the units: none behind a product, those of the kernel behind a convolution.
    behind: usize,
    /// All axes, where that is known.
    rank: Option<usize>,
    /// Flattened: a unit's numbers side by side, on the axis of the units.
    flat: bool,
}

impl Place {
    /// The axis of the units, where all axes are known.
    fn axis(self) -> Option<usize> {
        self.rank?.checked_sub(self.behind + 1)
    }

    /// Whether they are what convolutions call channels.
    fn channels(self) -> bool {
        self.behind > 0 && self.axis() == Some(1)
    }
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
    let dims = dims(draft, &tensor)?;
    let count = *dims.get(slot.axis)?;
    let maker = Cut { tensor, axis: slot.axis, block: 1 };
    let mut units = Units { count, maker, with: BTreeSet::new(), takers: Vec::new() };
    if let Some(bias) = node.input.get(2).filter(|name| !name.is_empty()) {
        units.with.insert(beside(draft, bias, count, 0)?);
    }
    let conv = slot.r#use == Use::Convolution;
    let place = Place { behind: dims.len() - 2, rank: conv.then_some(dims.len()), flat: false };
    follow(draft, node, place, &mut units)?;
    (!units.takers.is_empty()).then_some(units)
}

/// Follows the units from the layer that makes them to all that take them. `None` where they cannot be taken out.
fn follow(draft: &Draft, maker: &pb::NodeProto, made: Place, units: &mut Units) -> Option<()> {
    let is_output = |value: &str| draft.graph.output.iter().any(|port| port.name == value);
    let mut values = BTreeMap::from([(maker.output[0].as_str(), made)]);
    for node in &draft.graph.node {
        let places: Vec<(usize, Place)> = (node.input.iter().enumerate())
            .filter_map(|(at, name)| Some((at, *values.get(name.as_str())?)))
            .collect();
        let Some((first, place)) = places.first().copied() else { continue };
        if places.iter().any(|(_, other)| *other != place) {
            return None;
        }
        if layer(node).is_some() {
            if first != 0 || places.len() > 1 {
                return None;
            }
            units.takers.push(taker(draft, node, units, place)?);
            continue;
        }
        let output = node.output.first()?.as_str();
        let next = if NUMBER_BY_NUMBER.iter().any(|kind| is(node, kind)) {
            let taken = |at: &usize| places.iter().any(|(place, _)| place == at);
            for other in (0..node.input.len()).filter(|at| !taken(at)) {
                with(draft, &node.input[other], place, units)?;
            }
            place
        } else if is(node, "BatchNormalization") && place.channels() && node.output.len() == 1 {
            for name in node.input.get(1..5)? {
                units.with.insert(beside(draft, name, units.count, 0)?);
            }
            place
        } else if first == 0 && places.len() == 1 && !place.flat {
            moved(draft, node, place)?
        } else {
            return None;
        };
        if is_output(output) {
            return None;
        }
        values.insert(output, next);
    }
    values.keys().all(|value| !is_output(value)).then_some(())
}

/// What the units meet on their way: one number for all, or one for each, which goes with it.
fn with(draft: &Draft, name: &str, place: Place, units: &mut Units) -> Option<()> {
    let size: Option<usize> = dims(draft, name).map(|dims| dims.iter().product());
    if !name.is_empty() && size? != 1 {
        if place.flat {
            return None;
        }
        units.with.insert(beside(draft, name, units.count, place.behind)?);
    }
    Some(())
}

/// Where the units are behind an operator that moves, pools or repeats what lies beside them; `None` where it does
/// something else.
fn moved(draft: &Draft, node: &pb::NodeProto, place: Place) -> Option<Place> {
    let numbers = |name: &str| node.attribute.iter().find(|a| a.name == name).map(|a| &a.ints);
    if is(node, "Flatten") {
        let fits = place.channels() && whole(node, "axis").unwrap_or(1) == 1;
        return fits.then_some(Place { behind: 0, rank: Some(2), flat: true });
    }
    if ["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"].iter().any(|k| is(node, k))
    {
        return (place.channels() && node.output.len() == 1).then_some(place);
    }
    if is(node, "Transpose") {
        let order = numbers("perm")?;
        let axis = order.len().checked_sub(place.behind + 1)? as i64;
        let behind = order.iter().rev().position(|from| *from == axis)?;
        return Some(Place { behind, rank: Some(order.len()), flat: false });
    }
    let (axis, rank) = (place.axis()?, place.rank?);
    if is(node, "Gather") {
        let repeats = whole(node, "axis").unwrap_or(0) != axis as i64;
        let in_row = dims(draft, node.input.get(1)?)?.len() == 1;
        return (repeats && whole(node, "axis")? >= 0 && in_row).then_some(place);
    }
    if !["ReduceMean", "ReduceMax"].iter().any(|kind| is(node, kind)) {
        return None;
    }
    let given = || {
        let axes = draft.graph.initializer.iter().find(|t| node.input.get(1) == Some(&t.name))?;
        Some(axes.raw_data.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect())
    };
    let axes: Vec<i64> = numbers("axes").cloned().or_else(given)?;
    let from_front =
        |axis: &i64| usize::try_from(if *axis < 0 { axis + rank as i64 } else { *axis });
    let axes: BTreeSet<usize> = axes.iter().map(from_front).collect::<Result<_, _>>().ok()?;
    if axes.is_empty() || axes.contains(&axis) || axes.iter().any(|axis| *axis >= rank) {
        return None;
    }
    if whole(node, "keepdims").unwrap_or(1) != 0 {
        return Some(place);
    }
    let behind = place.behind - axes.iter().filter(|pooled| **pooled > axis).count();
    Some(Place { behind, rank: Some(rank - axes.len()), flat: false })
}

/// A bias, scale or statistic, where it has one number a unit, and `behind` axes of one behind that.
fn beside(draft: &Draft, name: &str, count: usize, behind: usize) -> Option<Cut> {
    let dims = dims(draft, name)?;
    draft.floats(name)?;
    let axis = dims.len().checked_sub(behind + 1)?;
    let alone = dims.iter().product::<usize>() == count;
    (alone && dims[axis] == count).then(|| Cut { tensor: name.to_owned(), axis, block: 1 })
}

fn taker(draft: &Draft, node: &pb::NodeProto, units: &Units, place: Place) -> Option<Taker> {
    let slot = layer(node)?;
    let tensor = node.input[slot.input].clone();
    let dims = draft.floats(&tensor)?.dims;
    // The other axis than that of its own channels.
    let axis = 1 - slot.axis;
    let block = dims.get(axis)? / units.count.max(1);
    let product = slot.r#use == Use::Product && place.behind == 0;
    let convolution = slot.r#use == Use::Convolution && place.channels() && block == 1;
    let fits = block * units.count == dims[axis] && (place.flat || block == 1);
    (fits && (product || convolution)).then(|| Taker {
        value: node.input[0].clone(),
        output: node.output[0].clone(),
        weight: Cut { tensor, axis, block },
        blocks: place.flat || place.behind > 0,
    })
}
