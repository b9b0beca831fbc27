//! `float16`: weights of two bytes, turned back into float32 where they are used, so that any processor runs them.
//!
//! Only weights of products, convolutions, tables and cells are rounded: scalers, biases and normalisations, which a
//! score is sensitive to, stay float32, and so does a weight with numbers that float16 has no room for. All arithmetic
//! stays float32.

use std::collections::BTreeMap;

use half::f16;
use tract_onnx::pb::tensor_proto::DataType;

use super::draft::{Draft, operator, with};
use super::{Changes, CompressError, slots};

/// Numbers below this lose digits in float16; a weight whose largest number is, stays.
const LEAST_NORMAL: f32 = 6.103_515_6e-5;

/// Changes `draft`. Says what.
pub(super) fn weights(draft: &mut Draft) -> Result<Changes, CompressError> {
    draft.need(6, "float16")?;
    let mut changes = Changes::default();
    let mut known: BTreeMap<String, Option<String>> = BTreeMap::new();
    for mut node in std::mem::take(&mut draft.graph.node) {
        for slot in slots::of(&node) {
            let Some(numbers) = slots::weight(draft, &node, slot) else { continue };
            let name = node.input[slot.input].clone();
            if !known.contains_key(&name) {
                let most = numbers.values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
                let fits = (LEAST_NORMAL..=f16::MAX.to_f32()).contains(&most);
                let half = fits.then(|| {
                    let raw = numbers.values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes());
                    let half =
                        draft.tensor(&name, "f16", DataType::Float16, &numbers.dims, raw.collect());
                    let back = draft.fresh(&name, "f32");
                    let cast =
                        with(operator("Cast", &[&half], &back), "to", DataType::Float as i64);
                    draft.graph.node.push(cast);
                    back
                });
                match half {
                    Some(_) => {
                        changes.tensors += 1;
                        changes.numbers += numbers.values.len();
                    }
                    None => changes.kept += numbers.values.len(),
                }
                known.insert(name.clone(), half);
            }
            if let Some(Some(half)) = known.get(&name) {
                node.input[slot.input].clone_from(half);
            }
        }
        draft.graph.node.push(node);
    }
    Ok(changes)
}
