//! How a network learns: what `forebay train` takes from the command line. Plain settings; nothing is computed here.

use serde::{Deserialize, Serialize};

/// What is made small.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Squared error.
    Mse,
    /// Squared up to `delta`, then in proportion (Huber, Annals of Mathematical Statistics 35, 1964).
    Huber {
        /// In units of what is learned, once scaled.
        delta: f64,
    },
    /// Cross-entropy of classes, those that are already right counting less by the power `focal` (Lin et al., ICCV 2017);
    /// 0 is plain cross-entropy.
    CrossEntropy {
        /// The power.
        focal: f64,
    },
}

/// How weights follow their gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Optimiser {
    /// Stochastic gradient descent.
    Sgd,
    /// The same with momentum 0.9.
    Momentum,
    /// Adam (Kingma and Ba, ICLR 2015).
    Adam,
    /// Adam whose weight decay is apart from the gradient (Loshchilov and Hutter, ICLR 2019).
    AdamW,
}

/// Where it is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// On this machine's processor.
    #[default]
    Cpu,
    /// On its first CUDA device; needs a build with the feature `cuda`.
    Cuda,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// Most passes over the windows; the learning rate falls to nothing over them, along a cosine.
    pub epochs: usize,
    /// Windows of one step.
    pub batch: usize,
    /// Learning rate at the start.
    pub learning_rate: f64,
    /// How weights follow their gradients.
    pub optimiser: Optimiser,
    /// By how much weights shrink, as a share of the learning rate.
    pub weight_decay: f64,
    /// What is made small.
    pub loss: Loss,
    /// Of a remaining life: how much more an answer counts that is too long than one that is too short.
    pub late: f64,
    /// Epochs without a better held-out loss after which training ends.
    pub patience: usize,
    /// Where random numbers start.
    pub seed: u64,
    /// Longest gradient that is followed; a longer one is shortened to it.
    pub clip: f64,
    /// Share that is held out: the last windows of each asset, for a remaining life whole assets. 0 to 0.5; 0 holds
    /// out nothing, and training then runs through all its epochs.
    pub holdout: f64,
    /// Quantile of the error that is the edge of normal.
    pub quantile: f64,
    /// How far above the edge of normal the threshold lies, as a factor on the error; at least 1.
    pub margin: f64,
    /// So many layers from the input keep the weights that they start with.
    pub freeze: usize,
    /// Whether rare classes count as much as frequent ones.
    pub class_weights: bool,
    /// Whether windows of rare classes are repeated until they are as many as of the most frequent.
    pub oversample: bool,
    /// Where it is computed.
    pub device: Device,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            epochs: 50,
            batch: 64,
            learning_rate: 2e-3,
            optimiser: Optimiser::AdamW,
            weight_decay: 1e-4,
            loss: Loss::Mse,
            late: 1.0,
            patience: 10,
            seed: 1,
            clip: 1.0,
            holdout: 0.25,
            quantile: 0.999,
            margin: 2.0,
            freeze: 0,
            class_weights: false,
            oversample: false,
            device: Device::Cpu,
        }
    }
}
