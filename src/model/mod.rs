//! Models: finding a runtime, opening ONNX files, checking them against a pipeline, running and training them.
//!
//! `stage/score` runs models, `cli` trains and checks them, `node` and `doctor` find the runtime. The only module that
//! knows `ort` and tract; the modules stand in reading order. It opens model files, keeps them on the shelf, and touches no
//! other; [`weigh`] starts this program anew; the clock it reads for how long a batch takes, and for nothing that is
//! computed.

// a model's file: what it says of itself, who made it, what it must answer, what it remembers, what lies beside it
pub mod element;
mod labels;
pub mod golden;
pub mod metadata;
pub mod onnx;
pub mod signature;
pub mod state;
pub mod weights;
pub mod file;
// a model that runs: which library does the work and on what device, not for too long, kept, weighed, as this machine does it
mod provider;
pub mod runtime;
mod loaded;
mod deadline;
pub mod session;
pub mod shelf;
pub mod host;
pub mod weigh;
// whether it fits a pipeline
pub mod fit;
// training: what is given, where a score begins to mean a fault, and the trainers
pub mod training;
mod judged;
pub mod threshold;
mod linear;
pub mod logistic;
pub mod pca;
pub mod tree;
pub mod boost;
pub mod trees;
pub mod net;
pub mod running;
// writing a graph, and making one smaller
pub mod build;
pub mod compress;

pub use file::ModelFile;
pub use fit::{Given, Mismatch, OtherUnit, lay_out, whole_row};
pub use host::{Host, HostError};
pub use runtime::Runtime;
pub use session::{Model, Wanted};
pub use shelf::Shelf;
pub use signature::Trust;

use std::path::PathBuf;

use bytesize::ByteSize;

/// Why a model could not be opened or run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file cannot be read.
    #[error("model {} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file, or what lies beside it, is too large.
    #[error(
        "model {} has {found} bytes; at most {limit} are taken; the weights of a large model belong beside its file",
        path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// It is larger than this node allows.
    #[error(
        "model {} takes {} with its weights; `models.largest` allows {}",
        path.display(), ByteSize::b(*found), ByteSize::b(*limit)
    )]
    OverBudget {
        /// The file.
        path: PathBuf,
        /// Its size.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// The file is not an ONNX model, or it is damaged.
    #[error("model {} is not a whole ONNX file: {reason}", path.display())]
    NotOnnx {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The weights are in other files, and there is only this one.
    #[error("model {} keeps its weights in other files; save it with its weights inside", path.display())]
    External {
        /// The file.
        path: PathBuf,
    },
    /// A folder that is not one model.
    #[error("model {} is a folder with {found} ONNX files; a model's folder holds one, and its weights", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// How many there are.
        found: usize,
    },
    /// Its signature is wrong, or it has none where one is required.
    #[error("model {} {reason}", path.display())]
    Untrusted {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Its golden vectors make no sense.
    #[error("model {} has golden vectors that cannot be run: {reason}; make the file again", path.display())]
    BadGolden {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It does not give the answers that its file says it must.
    #[error(
        "model {} does not give its golden answers on {runtime}: output `{}`, row {}: expected {}, found {}; the file was changed, or this runtime computes it wrongly",
        path.display(), difference.output, difference.row, difference.expected, difference.found
    )]
    NotGolden {
        /// The file.
        path: PathBuf,
        /// The runtime.
        runtime: String,
        /// The first answer that is off.
        difference: golden::Difference,
    },
    /// The runtime does not take the model.
    #[error("model {} cannot be loaded by {runtime}: {reason}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// The runtime.
        runtime: String,
        /// What it said.
        reason: String,
    },
    /// It does not come to an end.
    #[error("model {} was not loaded and tried within {longest:?}", path.display())]
    Endless {
        /// The file.
        path: PathBuf,
        /// How long it may take.
        longest: std::time::Duration,
    },
    /// The model was loaded but does not run on a trial input.
    #[error("model {} does not run on a trial input of shape {shape:?}: {reason}", path.display())]
    Trial {
        /// The file.
        path: PathBuf,
        /// The shape that was tried.
        shape: Vec<usize>,
        /// What the runtime said.
        reason: String,
    },
    /// The input has not the shape it was said to have.
    #[error("model `{model}` takes {expected} but was given {found} numbers as {shape:?}")]
    Input {
        /// The model.
        model: String,
        /// The shape it takes.
        expected: String,
        /// The shape it was given.
        shape: Vec<usize>,
        /// How many numbers came.
        found: usize,
    },
    /// The runtime failed on an input.
    #[error("model `{model}` failed: {reason}")]
    Run {
        /// The model.
        model: String,
        /// What the runtime said.
        reason: String,
    },
    /// It took too long.
    #[error(
        "model `{model}` took {took:.1?} for {rows} windows, its `deadline` is {deadline:?}; give it a smaller `batch`, \
         `onnxruntime.threads`, or a smaller model"
    )]
    Late {
        /// The model.
        model: String,
        /// Windows in the batch.
        rows: usize,
        /// How long it took.
        took: std::time::Duration,
        /// How long it may take.
        deadline: std::time::Duration,
    },
    /// An output is not what the file promised.
    #[error("model `{model}`: output `{output}` {reason}")]
    Output {
        /// The model.
        model: String,
        /// The output.
        output: String,
        /// What is wrong with it.
        reason: String,
    },
}
