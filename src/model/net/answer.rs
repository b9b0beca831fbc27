//! What a network says of windows: scores, classes, lives, from what its layers give.
//!
//! The trainer's own arithmetic, in float32 as the file has it, without a runtime: golden answers come from here, and
//! `export` writes the same sums as ONNX operators.

use std::collections::BTreeMap;

use burn_tensor::{Tensor, TensorData};

use super::forward::forward;
use super::learn::{flat, numbers, place};
use super::options::Device;
use super::{NetError, Task, Trained};

/// Rows that are looked at together.
const LOOK: usize = 256;

/// Of one window: the numbers of each output.
pub type Answer = BTreeMap<&'static str, Vec<f32>>;

/// A share is taken of no less than this.
pub(super) const TINY: f32 = 1e-12;

/// The outputs for windows, given one after the other as the pipeline gives them.
pub fn answers(trained: &Trained, rows: &[f64]) -> Result<Vec<Answer>, NetError> {
    let size = trained.network.input.size().max(1);
    let scaler = trained.scaler.rounded();
    let scale = |row: &[f64]| -> Vec<f32> {
        let row: Vec<f64> = row.iter().map(|value| f64::from(*value as f32)).collect();
        scaler.apply(&row).into_iter().map(|value| value as f32).collect()
    };
    let scaled: Vec<Vec<f32>> = rows.chunks_exact(size).map(scale).collect();
    let raw = raw(trained, &scaled)?;
    let wide = trained.network.wanted();
    Ok(scaled
        .iter()
        .zip(raw.chunks_exact(wide))
        .map(|(row, raw)| answer(trained, row, raw))
        .collect())
}

/// What the last layer gives, the mean of all members.
fn raw(trained: &Trained, scaled: &[Vec<f32>]) -> Result<Vec<f32>, NetError> {
    let network = &trained.network;
    let (place, fed, wide) = (place(Device::Cpu)?, network.fed(), network.wanted());
    let each = network.needs(0)?.len().max(1);
    let tensors: Vec<Tensor<1>> =
        trained.weights.tensors.iter().map(|tensor| flat(&tensor.values, &place)).collect();
    let members: Vec<&[Tensor<1>]> = tensors.chunks_exact(each).collect();
    let mut all = Vec::with_capacity(scaled.len() * wide);
    for rows in scaled.chunks(LOOK) {
        let values: Vec<f32> =
            rows.iter().flat_map(|row| row[..fed.size()].iter().copied()).collect();
        let input = Tensor::<3>::from_data(
            TensorData::new(values, [rows.len(), fed.steps, fed.width]),
            &place,
        );
        let outputs = members.iter().map(|weights| forward(network, weights, input.clone()));
        let mut sum: Option<Tensor<3>> = None;
        for output in outputs {
            let output = output?;
            sum = Some(match sum {
                Some(sum) => sum + output,
                None => output,
            });
        }
        let sum = sum.ok_or(NetError::TooShort)?;
        all.extend(numbers(sum * (1.0 / members.len() as f32)));
    }
    Ok(all)
}

fn answer(trained: &Trained, row: &[f32], raw: &[f32]) -> Answer {
    let width = trained.network.input.width;
    match &trained.network.task {
        Task::Reconstruct => unlike(row, raw, width, trained.limit as f32),
        Task::Forecast => unlike(&row[row.len() - width..], raw, width, trained.limit as f32),
        Task::Classify { .. } => {
            let most = raw.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let powers: Vec<f32> = raw.iter().map(|value| (value - most).exp()).collect();
            let sum: f32 = powers.iter().sum();
            let classes: Vec<f32> = powers.iter().map(|power| power / sum).collect();
            Answer::from([("score", vec![classes.iter().skip(1).sum()]), ("classes", classes)])
        }
        Task::RemainingLife { cap, .. } => {
            let cap = *cap as f32;
            Answer::from([("remaining_life", vec![(raw[0] * cap).clamp(0.0, cap)])])
        }
        Task::Imitate(scale) => Answer::from([("score", vec![scale.score(raw[0])])]),
    }
}

/// How unlike a row is to what the network makes of it: the mean squared error by its limit, brought below 1, and what
/// each channel has of it.
fn unlike(row: &[f32], raw: &[f32], width: usize, limit: f32) -> Answer {
    let steps = (row.len() / width.max(1)).max(1) as f32;
    let mut parts = vec![0.0; width];
    for (at, (value, back)) in row.iter().zip(raw).enumerate() {
        parts[at % width] += (value - back) * (value - back) / steps;
    }
    let sum: f32 = parts.iter().sum();
    let index = sum / width as f32 / limit;
    let shares = parts.iter().map(|part| part / (sum + TINY)).collect();
    Answer::from([("score", vec![index / (index + 1.0)]), ("contributions", shares)])
}
