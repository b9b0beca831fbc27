//! `int8-weights`: weights of one byte, one scale a channel; what products are given is quantised while the model runs.
//!
//! A product `x W` becomes `(q_x q_W) s_x s_W` with `q` whole numbers of 8 bits and the product in 32 bits
//! (`MatMulInteger`). `s_x` is found anew for each row of `x`, not for the batch: what a window scores must not depend on
//! which others are scored with it. Rows and weights are symmetric about 0 (Jacob et al., Quantization and Training of
//! Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018, section 2, with zero point 0). Tables are
//! looked up in bytes; weights of convolutions and cells are kept in bytes and turned back where they are used, which
//! makes them smaller but not faster. All of it is ONNX's own operators.

use std::collections::BTreeMap;

use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;

use super::draft::{Draft, Numbers, operator, with, with_list};
use super::slots::{self, Slot, Use};
use super::{Changes, CompressError};

/// A row whose largest number is below this is all zeros.
const TINY: f32 = 1e-30;
/// Since this opset axes of a reduction are an input.
const AXES_ARE_INPUTS: i64 = 18;
/// Since this opset a scale may be one for each channel.
const SCALE_A_CHANNEL: i64 = 13;

/// Weights in bytes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bytes {
    pub(super) values: Vec<i8>,
    /// One for each channel: `weight = value * scale`.
    pub(super) scales: Vec<f32>,
}

/// The largest byte of a weight. With 63, two products of a weight and an unsigned byte fit into 16 bits together, as
/// processors without VNNI add them.
pub(super) fn reach(full_range: bool) -> f32 {
    if full_range { 127.0 } else { 63.0 }
}

/// Quantises weights symmetrically, each channel on `axis` by itself.
pub(super) fn bytes(numbers: &Numbers, axis: usize, reach: f32) -> Bytes {
    let channels = numbers.dims.get(axis).copied().unwrap_or(1).max(1);
    let inner: usize = numbers.dims.iter().skip(axis + 1).product::<usize>().max(1);
    let channel = |at: usize| (at / inner) % channels;
    let mut scales = vec![0.0_f32; channels];
    for (at, value) in numbers.values.iter().enumerate() {
        scales[channel(at)] = scales[channel(at)].max(value.abs());
    }
    for scale in &mut scales {
        *scale = if *scale > TINY { *scale / reach } else { 1.0 };
    }
    let byte = |(at, value): (usize, &f32)| {
        (value / scales[channel(at)]).round_ties_even().clamp(-reach, reach) as i8
    };
    let values = numbers.values.iter().enumerate().map(byte).collect();
    Bytes { values, scales }
}

/// `[columns, rows]` of numbers that are `[rows, columns]`.
pub(super) fn transposed(numbers: &Numbers) -> Numbers {
    let [rows, columns] = numbers.dims[..] else { return numbers.clone() };
    let column = |c: usize| (0..rows).map(move |r| r * columns + c);
    let values = (0..columns).flat_map(column).map(|at| numbers.values[at]).collect();
    Numbers { dims: vec![columns, rows], values }
}

/// A graph whose operators are gone through one by one.
pub(super) struct Rewrite<'a> {
    pub(super) draft: &'a mut Draft,
    reach: f32,
    pub(super) changes: Changes,
    /// By value: its rows in bytes, and their scales.
    pub(super) rows: BTreeMap<String, (String, String)>,
    /// By weight, in the form of a use: its bytes and scales.
    known: BTreeMap<(String, &'static str), (String, String)>,
    /// Names of what every product needs: the least scale, one, the byte of zero.
    constants: Option<(String, String, String)>,
}

/// Changes `draft`. Says what.
pub(super) fn weights(draft: &mut Draft, full_range: bool) -> Result<Changes, CompressError> {
    draft.need(11, "int8-weights")?;
    let nodes = std::mem::take(&mut draft.graph.node);
    let mut rewrite = Rewrite::new(draft, full_range);
    for node in nodes {
        rewrite.node(node);
    }
    Ok(rewrite.changes)
}

impl<'a> Rewrite<'a> {
    pub(super) fn new(draft: &'a mut Draft, full_range: bool) -> Rewrite<'a> {
        Rewrite {
            draft,
            reach: reach(full_range),
            changes: Changes::default(),
            rows: BTreeMap::new(),
            known: BTreeMap::new(),
            constants: None,
        }
    }
}

impl Rewrite<'_> {
    fn node(&mut self, mut node: pb::NodeProto) {
        for slot in slots::of(&node) {
            let Some(numbers) = slots::weight(self.draft, &node, slot) else { continue };
            match slot.r#use {
                Use::Product => return self.product(&node, &numbers),
                Use::Table => return self.table(&node, &numbers),
                Use::Convolution | Use::Recurrent => self.stored(&mut node, slot, &numbers),
            }
        }
        self.push(node);
    }

    pub(super) fn push(&mut self, node: pb::NodeProto) {
        self.draft.graph.node.push(node);
    }

    /// The bytes of a weight and their scales, with the shape `scaled`.
    fn bytes(
        &mut self,
        name: &str,
        form: &'static str,
        numbers: &Numbers,
        axis: usize,
        scaled: &[usize],
    ) -> (String, String) {
        if let Some(known) = self.known.get(&(name.to_owned(), form)) {
            return known.clone();
        }
        let Bytes { values, scales } = bytes(numbers, axis, self.reach);
        let raw = values.iter().map(|value| value.cast_unsigned()).collect();
        let bytes = self.draft.tensor(name, "int8", DataType::Int8, &numbers.dims, raw);
        let scales = self.draft.floats_of(name, "scale", scaled, &scales);
        self.changes.tensors += 1;
        self.changes.numbers += numbers.values.len();
        self.known.insert((name.to_owned(), form), (bytes.clone(), scales.clone()));
        (bytes, scales)
    }

    fn product(&mut self, node: &pb::NodeProto, numbers: &Numbers) {
        let turned = node.op_type == "Gemm" && slots::is_transposed(node);
        let numbers = if turned { &transposed(numbers) } else { numbers };
        let (weight, output) = (&node.input[1], &node.output[0]);
        let form = if turned { "turned" } else { "product" };
        let (bytes, scales) = self.bytes(weight, form, numbers, 1, &[numbers.dims[1]]);
        let (rows, row_scales) = self.rows_of(&node.input[0]);
        let (_, _, zero) = self.constants();
        let [sums, real, scaled] =
            ["sums", "real", "scaled"].map(|what| self.draft.fresh(output, what));
        let bias = node.input.get(2).filter(|name| !name.is_empty());
        let product = bias.map_or_else(|| output.clone(), |_| self.draft.fresh(output, "product"));
        self.push(operator("MatMulInteger", &[&rows, &bytes, &zero], &sums));
        self.push(with(operator("Cast", &[&sums], &real), "to", DataType::Float as i64));
        self.push(operator("Mul", &[&real, &row_scales], &scaled));
        self.push(operator("Mul", &[&scaled, &scales], &product));
        if let Some(bias) = bias {
            self.push(operator("Add", &[&product, bias], output));
        }
    }

    /// The rows of the value `name` in bytes, 128 for 0, and the scale of each.
    fn rows_of(&mut self, name: &str) -> (String, String) {
        if let Some(known) = self.rows.get(name) {
            return known.clone();
        }
        let (tiny, one, zero) = self.constants();
        let [size, most, share, scale, unit, bytes] =
            ["abs", "most", "share", "row_scale", "unit", "uint8"]
                .map(|w| self.draft.fresh(name, w));
        self.push(operator("Abs", &[name], &size));
        let reduce = if self.draft.opset() < AXES_ARE_INPUTS {
            with_list(operator("ReduceMax", &[&size], &most), "axes", &[-1])
        } else {
            let axis = (-1_i64).to_le_bytes().to_vec();
            let axes = self.draft.tensor(name, "axes", DataType::Int64, &[1], axis);
            operator("ReduceMax", &[&size, &axes], &most)
        };
        self.push(with(reduce, "keepdims", 1));
        let share_of = self.draft.floats_of(name, "bytes", &[], &[1.0 / 127.0]);
        self.push(operator("Mul", &[&most, &share_of], &share));
        self.push(operator("Max", &[&share, &tiny], &scale));
        self.push(operator("Div", &[name, &scale], &unit));
        self.push(operator("QuantizeLinear", &[&unit, &one, &zero], &bytes));
        self.rows.insert(name.to_owned(), (bytes.clone(), scale.clone()));
        (bytes, scale)
    }

    fn constants(&mut self) -> (String, String, String) {
        let draft = &mut *self.draft;
        let made = self.constants.get_or_insert_with(|| {
            (
                draft.floats_of("int8", "tiny", &[], &[TINY]),
                draft.floats_of("int8", "one", &[], &[1.0]),
                draft.tensor("int8", "zero", DataType::Uint8, &[], vec![128]),
            )
        });
        made.clone()
    }

    /// Rows are looked up in bytes, each with its scale.
    pub(super) fn table(&mut self, node: &pb::NodeProto, numbers: &Numbers) {
        let (table, index, output) = (&node.input[0], &node.input[1], &node.output[0]);
        let scaled: Vec<usize> = std::iter::once(numbers.dims[0])
            .chain(std::iter::repeat_n(1, numbers.dims.len() - 1))
            .collect();
        let (bytes, scales) = self.bytes(table, "table", numbers, 0, &scaled);
        let [found, real, scale] = ["bytes", "real", "scale"].map(|w| self.draft.fresh(output, w));
        self.push(operator("Gather", &[&bytes, index], &found));
        self.push(with(operator("Cast", &[&found], &real), "to", DataType::Float as i64));
        self.push(operator("Gather", &[&scales, index], &scale));
        self.push(operator("Mul", &[&real, &scale], output));
    }

    /// The weight is kept in bytes and turned back before it is used.
    pub(super) fn stored(&mut self, node: &mut pb::NodeProto, slot: Slot, numbers: &Numbers) {
        if self.draft.opset() < SCALE_A_CHANNEL {
            self.changes.kept += numbers.values.len();
            return;
        }
        let weight = node.input[slot.input].clone();
        node.input[slot.input] = self.back(&weight, "stored", numbers, slot.axis);
    }

    /// The weight in bytes, turned back.
    pub(super) fn back(
        &mut self,
        weight: &str,
        form: &'static str,
        numbers: &Numbers,
        axis: usize,
    ) -> String {
        let channels = numbers.dims[axis];
        let (bytes, scales) = self.bytes(weight, form, numbers, axis, &[channels]);
        let zeros =
            self.draft.tensor(weight, "zeros", DataType::Int8, &[channels], vec![0; channels]);
        let back = self.draft.fresh(weight, "back");
        let turn = operator("DequantizeLinear", &[&bytes, &scales, &zeros], &back);
        self.push(with(turn, "axis", axis as i64));
        back
    }
}
