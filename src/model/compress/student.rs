//! `student`: a small network that learns to score as another model does, whatever that is.
//!
//! The teacher's scores are what it learns (Hinton et al., Distilling the Knowledge in a Neural Network, 2015, for a score
//! instead of classes): no labels are needed, and nothing of the teacher but its answers. They are learned on a scale
//! that suits them ([`Scale`]: of shares the log odds), and the student's answers keep to the bounds of its teacher's:
//! it gives scores in the teacher's unit and under the teacher's name.

use std::collections::BTreeMap;
use std::path::Path;

use super::draft::Draft;
use super::{Changes, CompressError, Compressed};
use crate::model::golden::Golden;
use crate::model::metadata::{Meaning, json};
use crate::model::net::{
    Activation, Epoch, Layer, Loss, Network, Options, Scale, Shape, Targets, Task, train,
};
use crate::model::training::TrainingSet;
use crate::model::{ModelFile, Trust};

/// Most passes over the windows.
pub const EPOCHS: usize = 60;
/// Share of the windows that say when it is enough: the last of each asset.
const HOLDOUT: f64 = 0.2;

/// Teaches a student. `scores` are the teacher's, one for each window of `set`; `watch` is told of every epoch, and ends
/// it by `false`.
///
/// Gives the student with its golden vectors, which are the trainer's own answers.
pub fn student(
    teacher: &ModelFile,
    set: &TrainingSet,
    scores: &[f64],
    units: usize,
    watch: &mut dyn FnMut(&Epoch) -> bool,
) -> Result<(Compressed, Option<Golden>), CompressError> {
    let same = || "the original's score is the same for all windows".to_owned();
    let scale = Scale::of(scores).ok_or_else(|| CompressError::Broken(same()))?;
    let network = network(set, units, scale);
    let options = Options {
        epochs: EPOCHS,
        batch: 32,
        loss: Loss::Huber { delta: 1.0 },
        holdout: HOLDOUT,
        ..Options::default()
    };
    let targets = Targets::Values(scores.to_vec());
    let (bytes, _) =
        train(set, &targets, &network, None, &options, None, &mut |epoch, _| watch(epoch))?;
    let file = ModelFile::of(Path::new("student.onnx"), bytes, &Trust::default())?;
    let mut draft = Draft::of(&file)?;
    carry(&mut draft, teacher);
    let changes = Changes { tensors: 0, numbers: network.parameters()?, kept: 0 };
    Ok((Compressed { changes, draft, beside: false }, file.metadata().golden.clone()))
}

/// Two convolutions in large steps and the mean of what they see; of features, two dense layers.
fn network(set: &TrainingSet, units: usize, scale: Scale) -> Network {
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
    Network { input, sequence: set.steps > 0, layers, task: Task::Imitate(scale), members: 1 }
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
