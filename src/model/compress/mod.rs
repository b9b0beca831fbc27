//! Smaller models: an ONNX file in, a smaller and faster one out that answers nearly the same.
//!
//! `cli compress` calls it, compares what comes out with the original and throws away what lost too much.
//! One file a method: [`int8`] (weights of one byte, inputs of each product quantised row by row as they come),
//! [`qdq`] (`int8`: both in ranges that [`calibrate`] finds beforehand), [`prune`] (units taken out that [`units`] finds;
//! [`retrain`] trains what is left, where it is ours), [`student`] (a small network that imitates), [`float16`] (weights of two
//! bytes). [`draft`] is a graph being changed, [`slots`] says which inputs of which
//! operators are weights, [`notes`] carries the contract over. Any ONNX file will do, ours or not, its weights inside or
//! beside it. The same file gives the same bytes. Nothing is run here, and nothing written.

pub mod calibrate;
mod draft;
mod float16;
mod int8;
pub mod notes;
pub mod prune;
mod qdq;
pub mod retrain;
mod slots;
pub mod student;
mod units;

use super::ModelFile;
use calibrate::Ranges;
use draft::Draft;
use prune::Activity;

/// Weights with fewer numbers stay as they are: what would be saved is less than the operators that it costs.
const LEAST: usize = 256;

/// How a model is made smaller.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method<'a> {
    /// Weights of one byte; what they are multiplied with is quantised while the model runs.
    Int8Weights {
        /// All 8 bits of the weights instead of 7. Processors without VNNI (AVX2 and AVX-512 alone) then add pairs of
        /// products that do not fit into 16 bits, and answer wrongly; ARM does not.
        full_range: bool,
    },
    /// Weights of one byte, and what they are multiplied with in ranges that were found beforehand.
    Int8 {
        /// The ranges.
        ranges: &'a Ranges,
        /// As for `Int8Weights`.
        full_range: bool,
    },
    /// Units taken out.
    Pruned {
        /// What units did in calibration windows; empty where there were none.
        activity: &'a Activity,
        /// The share of each layer's units that stays.
        keep: f64,
    },
    /// Weights of two bytes.
    Float16,
}

impl Method<'_> {
    /// Its name, on the command line and in what the model notes.
    pub fn name(self) -> &'static str {
        match self {
            Method::Int8Weights { .. } => "int8-weights",
            Method::Int8 { .. } => "int8",
            Method::Pruned { .. } => "pruned",
            Method::Float16 => "float16",
        }
    }
}

/// Why a model was not compressed.
#[derive(Debug, thiserror::Error)]
pub enum CompressError {
    /// The graph's operators are of too old a version.
    #[error(
        "the model uses operators of ONNX opset {found}; {method} needs {needed}: \
         convert it (onnx.version_converter) or export it anew"
    )]
    Opset {
        /// What it uses.
        found: i64,
        /// What the method needs.
        needed: i64,
        /// The method.
        method: &'static str,
    },
    /// There is nothing to make smaller.
    #[error(
        "nothing of the model can be made smaller by {method}: it has no float32 weights of {LEAST} numbers or more \
         that it could change (in products, convolutions, tables, recurrent cells; to be pruned, in a layer whose \
         units only other layers take)"
    )]
    Nothing {
        /// The method.
        method: &'static str,
    },
    /// The file cannot be read as a graph.
    #[error("the model cannot be changed: {0}")]
    Broken(String),
    /// Weights beside it cannot be read.
    #[error(transparent)]
    Weights(#[from] super::ModelError),
    /// The student, or what was pruned, did not learn.
    #[error(transparent)]
    Training(#[from] super::net::NetError),
}

/// What was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Changes {
    /// Weight tensors that are smaller now.
    pub tensors: usize,
    /// Numbers in them.
    pub numbers: usize,
    /// Numbers in weights that stay as they were.
    pub kept: usize,
}

/// A compressed model, not yet compared with its original.
#[derive(Clone, Debug)]
pub struct Compressed {
    /// What was changed.
    pub changes: Changes,
    draft: Draft,
    beside: bool,
}

/// Compresses the model in `file`.
pub fn compress(file: &ModelFile, method: Method<'_>) -> Result<Compressed, CompressError> {
    let mut draft = Draft::of(file)?;
    let nothing = CompressError::Nothing { method: method.name() };
    if !slots::any(&draft) {
        return Err(nothing);
    }
    let changes = match method {
        Method::Int8Weights { full_range } => int8::weights(&mut draft, full_range)?,
        Method::Int8 { ranges, full_range } => qdq::weights(&mut draft, ranges, full_range)?,
        Method::Pruned { activity, keep } => prune::units_out(&mut draft, activity, keep)?,
        Method::Float16 => float16::weights(&mut draft)?,
    };
    if changes.tensors == 0 {
        return Err(nothing);
    }
    draft.tidy();
    Ok(Compressed { changes, draft, beside: !file.beside().is_empty() })
}

impl Compressed {
    /// The files it is made of when it is called `name`: the model, and its weights beside it where the original had them
    /// there, or where one file would be too large.
    pub fn files(&self, name: &str) -> Vec<(String, Vec<u8>)> {
        self.draft.files(name, self.beside)
    }
}
