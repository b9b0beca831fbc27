//! `forebay evaluate`: how good a pipeline's answers are, on recordings with labels, or on public benchmarks.

mod suite;

use std::path::PathBuf;

use clap::Args;

use super::Outcome;
use super::screen::Screen;

/// `forebay evaluate`.
#[derive(Clone, Debug, Args)]
pub struct EvaluateArgs {
    /// Run the public benchmarks that lie in this folder, each in one of its own (skab, …).
    #[arg(long, value_name = "DIR")]
    pub suite: PathBuf,
    /// Of the benchmarks, only this one; once for each.
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// Print one JSON object to standard output.
    #[arg(long)]
    pub json: bool,
    /// No progress.
    #[arg(long)]
    pub quiet: bool,
    /// The ONNX Runtime library to use. Absent: the one that is found.
    #[arg(long, value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
}

/// Evaluates.
pub(super) fn evaluate(args: &EvaluateArgs, screen: &Screen) -> anyhow::Result<Outcome> {
    suite::evaluate(args, screen)
}
