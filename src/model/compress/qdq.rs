//! `int8`: weights and what they are multiplied with in bytes, with ranges found beforehand.
//!
//! Between `QuantizeLinear` and `DequantizeLinear` stands what is to be computed in bytes: a runtime that can joins them
//! with the product or convolution behind (ONNX Runtime: `MatMulIntegerToFloat`, `QLinearConv`), one that cannot computes
//! the same in float32. Inputs are unsigned with a zero of their own, weights signed, one scale a channel.

use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;

use super::calibrate::{Ranges, end_of_convolution, heads};
use super::draft::{Draft, is, operator};
use super::int8::{Rewrite, transposed};
use super::slots::{self, Slot, Use};
use super::{Changes, CompressError};

/// Changes `draft`. Says what.
pub(super) fn weights(
    draft: &mut Draft,
    ranges: &Ranges,
    full_range: bool,
) -> Result<Changes, CompressError> {
    draft.need(13, "int8")?;
    let heads = heads(&draft.graph);
    // Behind a convolution everything takes the bytes.
    let ends: Vec<String> = (draft.graph.node.iter())
        .filter(|node| is(node, "Conv") && !heads.contains(&node.output[0]))
        .filter(|node| slots::of(node).iter().any(|s| slots::weight(draft, node, *s).is_some()))
        .map(|node| end_of_convolution(&draft.graph, node).to_owned())
        .collect();
    let nodes = std::mem::take(&mut draft.graph.node);
    let mut rewrite = Rewrite::new(draft, full_range);
    for mut node in nodes {
        for input in &mut node.input {
            if ends.contains(input)
                && let Some(bytes) = rewrite.through_bytes(input, ranges)
            {
                *input = bytes;
            }
        }
        if heads.contains(&node.output[0]) {
            rewrite.keep(node);
        } else {
            rewrite.calibrated(node, ranges);
        }
    }
    Ok(rewrite.changes)
}

impl Rewrite<'_> {
    /// An operator whose weights stay.
    fn keep(&mut self, node: pb::NodeProto) {
        for slot in slots::of(&node) {
            let kept = slots::weight(self.draft, &node, slot).map(|numbers| numbers.values.len());
            self.changes.kept += kept.unwrap_or(0);
        }
        self.push(node);
    }

    fn calibrated(&mut self, mut node: pb::NodeProto, ranges: &Ranges) {
        for slot in slots::of(&node) {
            let Some(numbers) = slots::weight(self.draft, &node, slot) else { continue };
            match slot.r#use {
                Use::Table => return self.table(&node, &numbers),
                Use::Product => {
                    let Some(rows) = self.through_bytes(&node.input[0], ranges) else {
                        return self.keep(node);
                    };
                    return self.product_of(&node, &rows, slot);
                }
                Use::Convolution => {
                    if let Some(bytes) = self.through_bytes(&node.input[0], ranges) {
                        node.input[0] = bytes;
                    }
                    self.stored(&mut node, slot, &numbers);
                }
                Use::Recurrent => self.stored(&mut node, slot, &numbers),
            }
        }
        self.push(node);
    }

    fn product_of(&mut self, node: &pb::NodeProto, rows: &str, slot: Slot) {
        let Some(numbers) = slots::weight(self.draft, node, slot) else { return };
        let turned = node.op_type == "Gemm" && slots::is_transposed(node);
        let numbers = if turned { transposed(&numbers) } else { numbers };
        let output = &node.output[0];
        let form = if turned { "turned" } else { "stored" };
        let weight = self.back(&node.input[1], form, &numbers, 1);
        let bias = node.input.get(2).filter(|name| !name.is_empty());
        let product = bias.map_or_else(|| output.clone(), |_| self.draft.fresh(output, "product"));
        self.push(operator("MatMul", &[rows, &weight], &product));
        if let Some(bias) = bias {
            self.push(operator("Add", &[&product, bias], output));
        }
    }

    /// The value turned to bytes and back. `None` where its range is not known.
    fn through_bytes(&mut self, name: &str, ranges: &Ranges) -> Option<String> {
        // What has been through already.
        if let Some((known, _)) = self.rows.get(name) {
            return Some(known.clone());
        }
        let (scale, zero) = ranges.bytes(name)?;
        let scale = self.draft.floats_of(name, "scale", &[], &[scale]);
        let zero = self.draft.tensor(name, "zero", DataType::Uint8, &[], vec![zero]);
        let [bytes, back] = ["uint8", "back"].map(|what| self.draft.fresh(name, what));
        self.push(operator("QuantizeLinear", &[name, &scale, &zero], &bytes));
        self.push(operator("DequantizeLinear", &[&bytes, &scale, &zero], &back));
        self.rows.insert(name.to_owned(), (back.clone(), scale));
        // The bytes of bytes are the same.
        self.rows.insert(back.clone(), (back.clone(), String::new()));
        Some(back)
    }
}
