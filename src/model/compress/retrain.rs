//! Fine-tuning: a pruned network of ours learns back what it lost.
//!
//! `cli compress` asks for it after [`super::prune`]. The pruned graph is read back as the network that it is, its sizes
//! being noted in it ([`note_sizes`]), and `net` trains it on from there, with a small learning rate. What it learns is what it
//! was trained for where a window says that by itself (to give it back, to say its last step), else what the original
//! answers: its class, its remaining life. A file that `forebay train` did not write cannot be trained here.

use std::path::Path;

use super::draft::Draft;
use super::{CompressError, Compressed};
use crate::model::golden::Golden;
use crate::model::metadata::{Baseline, json};
use crate::model::net::{
    Epoch, Layer, Loss, NetError, Network, Options, Targets, Task, Trained, answers, read, train,
};
use crate::model::training::TrainingSet;
use crate::model::{ModelFile, Trust};

/// Most passes over the windows.
pub const EPOCHS: usize = 60;
/// Half of what a network starts with that knows nothing yet.
const LEARNING_RATE: f64 = 1e-3;
/// Notes that are the new network's own; all others are the original's.
const OWN: [&str; 8] =
    ["threshold", "threshold_by", "baseline", "golden", "limit", "network", "signature", "beside"];

/// The network in `file`, if `forebay train` wrote it and it can be trained on.
pub fn ours(file: &ModelFile) -> Result<Trained, NetError> {
    let trained = read(&file.bytes)?;
    match trained.network.task {
        Task::Imitate(_) => Err(NetError::NotOurs("a student; teach a smaller one".into())),
        _ => Ok(trained),
    }
}

/// Whether a network learns from normal windows alone.
pub fn learns_normal(trained: &Trained) -> bool {
    matches!(trained.network.task, Task::Reconstruct | Task::Forecast)
}

/// Trains `pruned`, which was made of the network `before` in `original`, on the windows of `set`. `watch` is told of every
/// epoch. Gives it with its golden vectors, which are the trainer's own answers.
pub fn fine_tuned(
    original: &ModelFile,
    before: &Trained,
    pruned: &Compressed,
    set: &TrainingSet,
    watch: &mut dyn FnMut(&Epoch),
) -> Result<(Compressed, Option<Golden>), CompressError> {
    let (_, bytes) = pruned.draft.files("pruned.onnx", false).swap_remove(0);
    let start = read(&bytes)?;
    let options = Options {
        epochs: EPOCHS,
        learning_rate: LEARNING_RATE,
        batch: 32,
        loss: match start.network.task {
            Task::Classify { .. } => Loss::CrossEntropy { focal: 0.0 },
            _ => Loss::Mse,
        },
        ..Options::default()
    };
    let targets = targets(before, set)?;
    let network = &start.network;
    let (bytes, _) =
        train(set, &targets, network, Some(&start), &options, None, &mut |epoch, _| {
            watch(epoch);
            true
        })?;
    let file = ModelFile::of(Path::new("tuned.onnx"), bytes, &Trust::default())?;
    let mut draft = Draft::of(&file)?;
    let noted = original.metadata();
    for (key, value) in &noted.all {
        if !OWN.contains(&key.trim_start_matches("forebay.")) {
            draft.note(key, Some(value.clone()));
        }
    }
    if let (Some(old), Some(new)) = (&noted.baseline, &file.metadata().baseline) {
        let baseline = Baseline { score: new.score, ..old.clone() };
        draft.note("forebay.baseline", Some(json(&baseline)));
    }
    let tuned = Compressed { changes: pruned.changes.clone(), draft, beside: pruned.beside };
    Ok((tuned, file.metadata().golden.clone()))
}

/// What each window is to be answered with.
fn targets(before: &Trained, set: &TrainingSet) -> Result<Targets, NetError> {
    if learns_normal(before) {
        return Ok(Targets::None);
    }
    let answers = answers(before, &set.rows)?;
    let of = |output: &str| -> Vec<Vec<f32>> {
        answers.iter().map(|answer| answer.get(output).cloned().unwrap_or_default()).collect()
    };
    if let Task::Classify { .. } = before.network.task {
        let largest = |shares: &Vec<f32>| {
            let most = shares.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            most.map_or(0, |(class, _)| class)
        };
        return Ok(Targets::Classes(of("classes").iter().map(largest).collect()));
    }
    let lives = of("remaining_life");
    Ok(Targets::Values(lives.iter().flatten().map(|life| f64::from(*life)).collect()))
}

/// Where the graph is a network of ours, notes the sizes that its layers have now.
pub(super) fn note_sizes(draft: &mut Draft) {
    let noted = draft.noted("forebay.network");
    let Some(mut network) = noted.and_then(|note| serde_json::from_str::<Network>(&note).ok())
    else {
        return;
    };
    for (at, layer) in network.layers.iter_mut().enumerate() {
        let size = |weight: &str, axis: usize| {
            let found = draft.floats(&format!("m0.l{at}.{weight}"));
            found.and_then(|numbers| numbers.dims.get(axis).copied())
        };
        match layer {
            Layer::Dense { units, .. } => *units = size("weight", 1).unwrap_or(*units),
            Layer::Conv { channels, .. } => *channels = size("weight", 0).unwrap_or(*channels),
            Layer::Encoder { units, .. } => *units = size("wide", 1).unwrap_or(*units),
            _ => {}
        }
    }
    draft.note("forebay.network", Some(json(&network)));
}
