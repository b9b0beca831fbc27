//! What `forebay train` takes for networks besides what it takes for every kind.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::cli::args::TrainArgs;
use crate::model::net::{Activation, Device, Optimiser};
use crate::time::Span;

/// What is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TrainKind {
    /// Principal components with T² and Q, in closed form: seconds, and the first to try.
    #[default]
    Pca,
    /// Gradient-boosted trees: with `--label` they tell classes apart, else they say how long a machine still runs.
    Trees,
    /// A network that squeezes a window through a narrow code and back.
    DenseAutoencoder,
    /// The same with convolutions along time; needs samples (`input = "sequence"`).
    ConvAutoencoder,
    /// The same with recurrent layers; needs samples.
    GruAutoencoder,
    /// A recurrent network that says the next sample; needs samples.
    Forecaster,
    /// A transformer's encoder: with `--label` a classifier, else an autoencoder; needs samples.
    Transformer,
    /// A network that tells classes apart; needs `--label`.
    Classifier,
    /// A network that says how long a machine still runs; every recording ends with a failure, or `--failures` says where
    /// they are.
    RemainingLife,
}

/// What the inner layers end with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ActivationArg {
    /// Negative numbers become 0.
    Relu,
    /// Hyperbolic tangent.
    Tanh,
    /// The logistic function.
    Sigmoid,
}

impl From<ActivationArg> for Activation {
    fn from(arg: ActivationArg) -> Activation {
        match arg {
            ActivationArg::Relu => Activation::Relu,
            ActivationArg::Tanh => Activation::Tanh,
            ActivationArg::Sigmoid => Activation::Sigmoid,
        }
    }
}

/// What is made small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LossArg {
    /// Squared error.
    Mse,
    /// Squared error up to one tenth of the scale, then in proportion.
    Huber,
    /// Cross-entropy, for classes.
    CrossEntropy,
}

/// How weights follow their gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OptimiserArg {
    /// Stochastic gradient descent.
    Sgd,
    /// The same with momentum.
    Momentum,
    /// Adam.
    Adam,
    /// Adam with weight decay apart from the gradient.
    Adamw,
}

impl From<OptimiserArg> for Optimiser {
    fn from(arg: OptimiserArg) -> Optimiser {
        match arg {
            OptimiserArg::Sgd => Optimiser::Sgd,
            OptimiserArg::Momentum => Optimiser::Momentum,
            OptimiserArg::Adam => Optimiser::Adam,
            OptimiserArg::Adamw => Optimiser::AdamW,
        }
    }
}

/// Where it is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceArg {
    /// On this machine's processor.
    Cpu,
    /// On its first CUDA device; needs a build with the feature `cuda`.
    Cuda,
}

impl From<DeviceArg> for Device {
    fn from(arg: DeviceArg) -> Device {
        match arg {
            DeviceArg::Cpu => Device::Cpu,
            DeviceArg::Cuda => Device::Cuda,
        }
    }
}

/// Options of boosted trees; `--holdout`, `--label`, `--classes`, `--life-unit`, `--cap`, `--late`,
/// `--class-weights`, `--patience` and `--seed` count too.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Trees")]
pub struct TreeArgs {
    /// Most rounds; each grows a tree, or one for each of several classes.
    #[arg(long, default_value_t = 500, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rounds: u32,
    /// Most divisions between a tree's root and a leaf.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    pub tree_depth: u32,
    /// What each tree's answer is multiplied by: smaller learns slower and needs more rounds.
    #[arg(long, default_value_t = 0.05, value_name = "FACTOR")]
    pub tree_rate: f64,
}

/// Options of networks.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Networks")]
pub struct NetArgs {
    /// Column of the recordings that says what is known of each row: 0 for normal, 1, 2, … for classes of faults (a
    /// window has the largest number within it); or words, of which `normal`, or the first of `--classes`, is normal.
    #[arg(long, value_name = "COLUMN")]
    pub label: Option<String>,
    /// Names of the classes, in the order of their numbers. Absent: `normal`, `fault`, or `fault-1`, `fault-2`, ….
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub classes: Vec<String>,
    /// Remaining lives longer than this count as this long.
    #[arg(long, default_value_t = 125.0, value_name = "N")]
    pub cap: f64,
    /// For remaining lives: the column that is not 0 where a machine has failed or is being mended. A run ends there, and not
    /// at the end of a recording; what follows the last failure is left out.
    #[arg(long, value_name = "COLUMN")]
    pub failures: Option<String>,
    /// What remaining lives are counted in. Absent: the time from one window to the next.
    #[arg(long, value_name = "TIME")]
    pub life_unit: Option<Span>,
    /// Most passes over the windows.
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub epochs: u32,
    /// End training after this long, with the best so far.
    #[arg(long, value_name = "TIME")]
    pub time_budget: Option<Span>,
    /// End training after so many epochs without a better loss of what is held out.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub patience: u32,
    /// Windows of one step.
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub batch: u32,
    /// Learning rate at the start; it falls to nothing along a cosine.
    #[arg(long, default_value_t = 2e-3, value_name = "RATE")]
    pub learning_rate: f64,
    /// How weights follow their gradients.
    #[arg(long, value_enum, default_value = "adamw")]
    pub optimiser: OptimiserArg,
    /// By how much weights shrink, as a share of the learning rate.
    #[arg(long, default_value_t = 1e-4, value_name = "SHARE")]
    pub weight_decay: f64,
    /// What is made small. Absent: squared error, of classes cross-entropy.
    #[arg(long, value_enum)]
    pub loss: Option<LossArg>,
    /// Focal loss: windows that are already told apart count less, by this power.
    #[arg(long, default_value_t = 0.0, value_name = "POWER")]
    pub focal: f64,
    /// How much more a remaining life counts that is too long than one that is too short.
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
    pub late: f64,
    /// Rare classes count as much as frequent ones.
    #[arg(long)]
    pub class_weights: bool,
    /// Windows of rare classes are repeated until they are as many as of the most frequent.
    #[arg(long, conflicts_with = "class_weights")]
    pub oversample: bool,
    /// Numbers inside a layer.
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub units: u32,
    /// Numbers of an autoencoder's code.
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub code: u32,
    /// Layers one after the other, where a kind has several alike.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=64))]
    pub depth: u32,
    /// What the inner layers end with.
    #[arg(long, value_enum, default_value = "relu")]
    pub activation: ActivationArg,
    /// Networks that are trained from different starts, and averaged.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    pub members: u32,
    /// Where random numbers start: the same seed, the same model.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Where it is computed.
    #[arg(long, value_enum, default_value = "cpu")]
    pub device: DeviceArg,
    /// Start from this model of `forebay train`, which takes the same, instead of from nothing: its network, its weights,
    /// its scale.
    #[arg(long, value_name = "MODEL")]
    pub from: Option<PathBuf>,
    /// So many layers from the input, of those that have weights, keep those of `--from`.
    #[arg(long, default_value_t = 0, value_name = "N", requires = "from")]
    pub freeze: u32,
    /// Where training is written down as it goes, for `--resume`. Absent: the model's name and `.checkpoint`. It is removed
    /// when training is over.
    #[arg(long, value_name = "FILE")]
    pub checkpoint: Option<PathBuf>,
    /// Go on from that file, where training was stopped.
    #[arg(long)]
    pub resume: bool,
}

/// Options of principal components alone.
const OF_PCA: [&str; 4] = ["variance", "drift", "shrink", "follow"];
/// Options of networks that count for trees, too.
const OF_TREES: [&str; 9] = [
    "label",
    "classes",
    "life_unit",
    "cap",
    "late",
    "failures",
    "class_weights",
    "patience",
    "seed",
];

/// Whether every option that was written counts for what is trained: one that does nothing would be taken for done.
pub(super) fn count(args: &TrainArgs) -> anyhow::Result<()> {
    let of = |command: clap::Command| -> Vec<String> {
        command.get_arguments().map(|option| option.get_id().to_string()).collect()
    };
    let of_nets = of(NetArgs::augment_args(clap::Command::new("")));
    let of_trees = of(TreeArgs::augment_args(clap::Command::new("")));
    for option in &args.given {
        let (is_net, is_tree) = (of_nets.contains(option), of_trees.contains(option));
        let is_pca = OF_PCA.contains(&option.as_str());
        let counts = match args.kind {
            TrainKind::Pca => {
                !is_tree && (!is_net || ["label", "classes"].contains(&option.as_str()))
            }
            TrainKind::Trees => !is_pca && (!is_net || OF_TREES.contains(&option.as_str())),
            _ => !is_tree && !is_pca,
        };
        let kind = args.kind.to_possible_value();
        anyhow::ensure!(
            counts,
            "`--{}` does nothing for `--kind {}`: leave it out, or choose another kind",
            option.replace('_', "-"),
            kind.as_ref().map_or("", |kind| kind.get_name())
        );
    }
    Ok(())
}
