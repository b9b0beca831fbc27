//! Which inputs of which operators are weights, and which of their axes is the channel: what each output is made with.
//!
//! The methods ask; a weight of an operator that is not here stays as it is.

use tract_onnx::pb;

use super::LEAST;
use super::draft::{Draft, Numbers, is, real, whole};

/// What an operator does with its weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// `MatMul`, or `Gemm` that is one with a bias: `rows x weight`.
    Product,
    /// Convolutions.
    Convolution,
    /// Rows of a table are looked up.
    Table,
    /// A recurrent cell.
    Recurrent,
}

/// An input that is a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// Which input.
    pub(super) input: usize,
    /// The axis of its channels.
    pub(super) axis: usize,
    /// What for.
    pub(super) r#use: Use,
}

const fn slot(input: usize, axis: usize, r#use: Use) -> Slot {
    Slot { input, axis, r#use }
}

/// The inputs of `node` that may be weights.
pub(super) fn of(node: &pb::NodeProto) -> Vec<Slot> {
    if is(node, "MatMul") {
        return vec![slot(1, 1, Use::Product)];
    }
    if is(node, "Gemm") && is_product(node) {
        return vec![slot(1, usize::from(!is_transposed(node)), Use::Product)];
    }
    if is(node, "Conv") {
        return vec![slot(1, 0, Use::Convolution)];
    }
    if is(node, "ConvTranspose") {
        return vec![slot(1, 1, Use::Convolution)];
    }
    if is(node, "Gather") && whole(node, "axis").unwrap_or(0) == 0 {
        return vec![slot(0, 0, Use::Table)];
    }
    if ["LSTM", "GRU", "RNN"].iter().any(|kind| is(node, kind)) {
        return vec![slot(1, 1, Use::Recurrent), slot(2, 1, Use::Recurrent)];
    }
    Vec::new()
}

/// Whether a `Gemm` is a product with a bias: its rows as they are, and both parts in full.
fn is_product(node: &pb::NodeProto) -> bool {
    let one = |name: &str| real(node, name).unwrap_or(1.0) == 1.0;
    whole(node, "transA").unwrap_or(0) == 0 && one("alpha") && one("beta")
}

/// Whether a `Gemm` has its weight as `[outputs, inputs]`.
pub(super) fn is_transposed(node: &pb::NodeProto) -> bool {
    whole(node, "transB").unwrap_or(0) != 0
}

/// Whether there is any weight.
pub(super) fn any(draft: &Draft) -> bool {
    let node =
        |node: &pb::NodeProto| of(node).into_iter().any(|slot| weight(draft, node, slot).is_some());
    draft.graph.node.iter().any(node)
}

/// The weight in a slot, if it is one of float32, large enough, and of the rank that the operator wants of it.
pub(super) fn weight(draft: &Draft, node: &pb::NodeProto, slot: Slot) -> Option<Numbers> {
    let numbers = draft.floats(node.input.get(slot.input)?)?;
    let rank = numbers.dims.len();
    let fits = match slot.r#use {
        Use::Product => rank == 2,
        Use::Table => rank >= 2,
        Use::Convolution | Use::Recurrent => rank >= 3,
    };
    let whole =
        numbers.values.len() >= LEAST && numbers.values.iter().all(|value| value.is_finite());
    (fits && whole).then_some(numbers)
}
