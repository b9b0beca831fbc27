//! Networks: described, trained, and written as ONNX files with their whole contract.
//!
//! `cli/train` trains with it; `compress` and the suite may. In reading order: [`layer`] (what they are made of),
//! [`kind`] (usual ones, by name), [`options`] (how to learn), `samples` (windows as the layers take them), `forward`
//! (layers in burn), `loss`, `optimise`, [`learn`] (epochs, early stopping, checkpoints), `answer` (scores from what
//! the layers give), `export` (the same as ONNX operators), [`train`](fn@train) (all of that), `read` (a file of ours, read back).
//!
//! The only module that knows burn. The same windows, options and seed give the same bytes on one machine's
//! processor. It reads no clock and no file: the caller stops it and keeps its checkpoints.

mod answer;
mod export;
mod forward;
pub mod kind;
pub mod layer;
pub mod learn;
mod loss;
mod optimise;
pub mod options;
mod read;
mod samples;
mod scale;
mod train;

pub use answer::{Answer, answers};
pub use kind::{Kind, Size};
pub use layer::{Activation, Layer, Shape};
pub use learn::{Checkpoint, Epoch};
pub use options::{Device, Loss, Optimiser, Options};
pub use read::read;
pub use samples::Targets;
pub use scale::Scale;
pub use train::{NetReport, train};

use serde::{Deserialize, Serialize};

use super::training::{Scaler, TrainError};
use layer::Need;

/// Most networks that are averaged.
pub const MEMBERS_MAX: usize = 16;

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The windows are not enough, or not right.
    #[error(transparent)]
    Data(#[from] TrainError),
    /// A layer does not fit what goes into it.
    #[error("layer {layer} does not fit: {reason}")]
    Layer {
        /// The layer.
        layer: String,
        /// Why.
        reason: String,
    },
    /// What comes out is not what the task needs.
    #[error("the last layer gives {found} numbers a window, but {needed} are needed")]
    Width {
        /// What it gives.
        found: usize,
        /// What is needed.
        needed: usize,
    },
    /// The targets do not fit the task or the windows.
    #[error("{0}")]
    Targets(String),
    /// There is nothing to learn.
    #[error(
        "all layers of the network that learn are frozen, so nothing is left to learn; freeze fewer (`--freeze`)"
    )]
    Frozen,
    /// The loss is not a number any more.
    #[error(
        "the loss was no number any more in epoch {epoch}; choose a smaller learning rate than {learning_rate}, or clip gradients more"
    )]
    Diverged {
        /// In which epoch.
        epoch: usize,
        /// The learning rate.
        learning_rate: f64,
    },
    /// There is no such device in this build.
    #[error(
        "this forebay was built without CUDA; build it with libtorch and `--features cuda` (docs/models.md says how), or use `--device cpu`"
    )]
    NoCuda,
    /// There is none on this machine.
    #[cfg(feature = "cuda")]
    #[error(
        "libtorch finds no CUDA device here: install NVIDIA's driver, see whether `nvidia-smi` lists a device, and use a libtorch with CUDA (not PyTorch's `+cpu`), or use `--device cpu`"
    )]
    NoDevice,
    /// It does not compute.
    #[cfg(feature = "cuda")]
    #[error(
        "the CUDA device does not compute: {0}; install a driver of NVIDIA that is as new as libtorch's CUDA, or use `--device cpu`"
    )]
    BadDevice(String),
    /// The checkpoint is of another training.
    #[error(
        "the checkpoint is of other data, another network or other options; train without `--resume`, or as it was begun"
    )]
    Foreign,
    /// Stopped before there was anything.
    #[error("training was stopped before its first epoch was over; give it more time")]
    TooShort,
    /// The file is no network that this trainer wrote.
    #[error("this is no network that `forebay train` wrote: {0}")]
    NotOurs(String),
    /// The network of the file takes something else.
    #[error("the model to start from takes {expected}, but these windows are {found}")]
    OtherInput {
        /// What it takes.
        expected: String,
        /// What is there.
        found: String,
    },
}

/// What a network is for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Give back what went in; what it cannot give back is unlike normal running.
    Reconstruct,
    /// Give the last step from those before it.
    Forecast,
    /// Say which class a window is of; the first is normal.
    Classify {
        /// Their names.
        labels: Vec<String>,
    },
    /// Say how long the machine will still run.
    RemainingLife {
        /// Longer lives count as this long.
        cap: f64,
        /// In this unit.
        unit: String,
    },
    /// Give the score that another model gave.
    Imitate(Scale),
}

/// A stack of layers, and what it is for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// What the pipeline gives it: a window's samples, or its features as one step.
    pub input: Shape,
    /// Whether that is a window's samples.
    pub sequence: bool,
    /// In order.
    pub layers: Vec<Layer>,
    /// What it is for.
    pub task: Task,
    /// So many are trained from different starts, and their outputs averaged.
    pub members: usize,
}

impl Network {
    /// What goes into the first layer.
    fn fed(&self) -> Shape {
        match self.task {
            Task::Forecast => Shape { steps: self.input.steps.saturating_sub(1), ..self.input },
            _ => self.input,
        }
    }

    /// How many numbers the last layer must give for a window.
    fn wanted(&self) -> usize {
        match &self.task {
            Task::Reconstruct => self.input.size(),
            Task::Forecast => self.input.width,
            Task::Classify { labels } => labels.len(),
            Task::RemainingLife { .. } | Task::Imitate(_) => 1,
        }
    }

    /// The weights of one member, each with its name, and whether one of the first `frozen` layers that have any has it.
    fn needs(&self, frozen: usize) -> Result<Vec<(String, Need, bool)>, NetError> {
        let (mut shape, mut found, mut layers) = (self.fed(), Vec::new(), 0);
        for (at, layer) in self.layers.iter().enumerate() {
            let next = layer.shape(shape)?;
            let (needs, keeps) = (layer.needs(shape), layers < frozen);
            layers += usize::from(!needs.is_empty());
            found.extend(
                needs.into_iter().map(|need| (format!("l{at}.{}", need.name), need, keeps)),
            );
            shape = next;
        }
        let (found_width, needed) = (shape.size(), self.wanted());
        if found_width != needed {
            return Err(NetError::Width { found: found_width, needed });
        }
        Ok(found)
    }

    /// How many weights it has, all members together.
    pub fn parameters(&self) -> Result<usize, NetError> {
        let needs = self.needs(0)?;
        let one: usize = needs.iter().map(|(_, need, _)| need.dims.iter().product::<usize>()).sum();
        Ok(one * self.members)
    }
}

/// A tensor of weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weight {
    /// As the ONNX file calls it: `m0.l2.weight`.
    pub name: String,
    /// Its size.
    pub dims: Vec<usize>,
    /// Row-major.
    pub values: Vec<f32>,
}

/// All weights: member by member, layer by layer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Weights {
    /// In order.
    pub tensors: Vec<Weight>,
}

/// A network that has learned.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// What it is.
    pub network: Network,
    /// What it learned.
    pub weights: Weights,
    /// How what goes in is brought to scale, channel by channel.
    pub scaler: Scaler,
    /// The error at the edge of normal, where it has one.
    pub limit: f64,
}
