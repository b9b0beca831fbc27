//! `student`: a small network that learns to score as another model does, whatever that is.
//!
//! The teacher's scores on windows of a recording are what it learns (Hinton et al., Distilling the Knowledge in a Neural
//! Network, 2015, for a score instead of classes): no labels are needed, and nothing of the teacher but its answers. A
//! score is brought between 0 and 1 for learning, by the logistic function about its median; the student's file undoes
//! that, so that it gives scores in the teacher's unit and under the teacher's name.

use std::collections::BTreeMap;
use std::path::Path;

use super::draft::{Draft, is, operator};
use super::{Changes, CompressError, Compressed};
use crate::model::golden::Golden;
use crate::model::metadata::{Baseline, Meaning, json};
use crate::model::net::{Activation, Epoch, Layer, Network, Options, Shape, Targets, Task, train};
use crate::model::training::{TrainingSet, quantile};
use crate::model::{ModelFile, Trust};

/// Most passes over the windows.
pub const EPOCHS: usize = 80;
/// Answers nearer than this to 0 or 1 are too rough to be turned back exactly.
const EDGE: f64 = 1e-2;

/// Teaches a student. `scores` are the teacher's, one for each window of `set`; `watch` is told of every epoch.
///
/// Gives the student with its golden vectors, which are the trainer's own answers.
pub fn student(
    teacher: &ModelFile,
    set: &TrainingSet,
    scores: &[f64],
    units: usize,
    watch: &mut dyn FnMut(&Epoch),
) -> Result<(Compressed, Option<Golden>), CompressError> {
    let middle = quantile(scores, 0.5);
    let spread = spread(scores);
    if spread <= 0.0 {
        return Err(CompressError::Broken(
            "the original's score is the same for all windows".into(),
        ));
    }
    let near = |score: &f64| 1.0 / (1.0 + (-(score - middle) / spread).exp());
    let targets = Targets::Values(scores.iter().map(near).collect());
    let network = network(set, units);
    let options = Options { epochs: EPOCHS, batch: 32, ..Options::default() };
    let (bytes, _) = train(set, &targets, &network, None, &options, None, &mut |epoch, _| {
        watch(epoch);
        true
    })?;
    let file = ModelFile::of(Path::new("student.onnx"), bytes, &Trust::default())?;
    let mut draft = Draft::of(&file)?;
    unfold(&mut draft, middle, spread);
    carry(&mut draft, teacher);
    let unit = |share: f64| middle + spread * (share / (1.0 - share)).ln();
    if let Some(baseline) = &file.metadata().baseline {
        let score =
            baseline.score.map(|share| unit(f64::from(share).clamp(1e-6, 1.0 - 1e-6)) as f32);
        let baseline = Baseline { score, ..baseline.clone() };
        draft.note("forebay.baseline", Some(json(&baseline)));
    }
    let golden = file.metadata().golden.clone().and_then(|golden| unfolded(golden, unit));
    let changes = Changes { tensors: 0, numbers: network.parameters()?, kept: 0 };
    draft.tidy();
    Ok((Compressed { changes, draft, beside: false }, golden))
}

/// A quarter of the range that the middle nine tenths of scores take, or the whole range where that is nothing.
fn spread(scores: &[f64]) -> f64 {
    let between = |share: f64| quantile(scores, 1.0 - share) - quantile(scores, share);
    let middle = between(0.05);
    if middle > 0.0 { middle / 4.0 } else { between(0.0) / 4.0 }
}

/// Two convolutions in large steps and the mean of what they see; of features, two dense layers.
fn network(set: &TrainingSet, units: usize) -> Network {
    let activation = Activation::Relu;
    let (dense, plain) = (
        Layer::Dense { units, activation },
        Layer::Dense { units: 1, activation: Activation::None },
    );
    let conv = Layer::Conv { channels: units, kernel: 5, stride: 2, activation };
    let layers = match set.steps {
        0 | 1 => vec![dense, dense, plain],
        _ => vec![conv, conv, Layer::Mean, dense, plain],
    };
    let input = Shape { steps: set.steps.max(1), width: set.names.len() };
    Network { input, sequence: set.steps > 0, layers, task: Task::Imitate, members: 1 }
}

/// The logistic function at the end becomes what turns its argument into the teacher's unit.
fn unfold(draft: &mut Draft, middle: f64, spread: f64) {
    let last = |node: &tract_onnx::pb::NodeProto| is(node, "Sigmoid") && node.output[0] == "score";
    let Some(place) = draft.graph.node.iter().position(last) else { return };
    let raw = draft.graph.node[place].input[0].clone();
    let factor = draft.floats_of("score", "spread", &[], &[spread as f32]);
    let shift = draft.floats_of("score", "middle", &[], &[middle as f32]);
    let part = draft.fresh("score", "part");
    draft.graph.node[place] = operator("Mul", &[&raw, &factor], &part);
    draft.graph.node.insert(place + 1, operator("Add", &[&part, &shift], "score"));
}

/// Golden vectors with scores in the teacher's unit; `None` where all of them are at an end of the range.
fn unfolded(golden: Golden, unit: impl Fn(f64) -> f64) -> Option<Golden> {
    let mut kept = Golden { shape: golden.shape, tolerance: golden.tolerance, ..Golden::default() };
    let mut answers = Vec::new();
    let scores = golden.outputs.get("score").into_iter().flatten();
    for (row, score) in golden.input.into_iter().zip(scores) {
        let share = score.first().map_or(0.0, |score| f64::from(*score));
        if (EDGE..=1.0 - EDGE).contains(&share) {
            kept.input.push(row);
            answers.push(vec![unit(share) as f32]);
        }
    }
    kept.outputs = BTreeMap::from([("score".to_owned(), answers)]);
    (!kept.input.is_empty()).then_some(kept)
}

/// What the student takes over of the teacher's contract: all that is about its task and not about its making.
fn carry(draft: &mut Draft, teacher: &ModelFile) {
    let noted = teacher.metadata();
    for key in ["name", "units", "window", "every", "step", "threshold", "threshold_by"] {
        let key = format!("forebay.{key}");
        draft.note(&key, noted.all.get(&key).cloned());
    }
    draft.note("forebay.name", Some(teacher.name()));
    let output = noted.output.as_deref().unwrap_or("score");
    let meaning = noted.outputs.as_ref().and_then(|outputs| outputs.get(output));
    if let Some(meaning) = meaning.filter(|meaning| !matches!(meaning, Meaning::Class { .. })) {
        draft.note("forebay.outputs", Some(json(&BTreeMap::from([("score", meaning)]))));
    }
}
