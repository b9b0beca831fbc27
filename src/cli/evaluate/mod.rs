//! `forebay evaluate`: how good a pipeline's answers are, on recordings with labels, or on public benchmarks.

mod pipeline;
mod suite;

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::Outcome;
use super::args::OfflineArgs;
use super::screen::Screen;
use crate::time::Span;

/// `forebay evaluate`.
#[derive(Clone, Debug, Args)]
#[command(
    group = ArgGroup::new("what").required(true).args(["suite", "pipeline"]),
    group = ArgGroup::new("truth").args(["labels", "life", "runs_to_failure"]),
    after_help = "Examples:\n  forebay evaluate --pipeline pipelines/skab.toml --data 0.csv --labels anomaly --skip-rows 400 --html report.html\n  forebay evaluate --suite benchmarks --only skab"
)]
pub struct EvaluateArgs {
    /// The pipeline file.
    #[arg(long, short, value_name = "FILE", requires = "truth")]
    pub pipeline: Option<PathBuf>,
    /// Recordings that the model has not learned from: CSV, NDJSON or Parquet, also gzipped.
    #[arg(long, num_args = 1.., value_name = "FILE", requires = "pipeline", required_unless_present = "suite")]
    pub data: Vec<PathBuf>,
    /// When machines were faulty: a column of the recordings (0 or `normal` is normal, other numbers
    /// and words are kinds of faults), or a file: CSV with
    /// the columns asset, from, to and perhaps fault, or JSON as the Numenta benchmark has it.
    #[arg(long, value_name = "COLUMN|FILE", requires = "pipeline")]
    pub labels: Option<String>,
    /// The label of normal running, where it is not 0 or `normal`; also what a model's class of that name is called.
    #[arg(long, value_name = "LABEL", requires = "labels")]
    pub normal: Option<String>,
    /// Instead of faults: the column of the recordings that holds the remaining life, in the model's unit.
    #[arg(long, value_name = "COLUMN", requires = "pipeline")]
    pub life: Option<String>,
    /// Instead of faults: each machine failed at its last row of each recording; remaining life is the time until then.
    #[arg(long, requires = "pipeline")]
    pub runs_to_failure: bool,
    /// With `--runs-to-failure`: they failed where this column is not 0, and not at the end of a recording.
    #[arg(long, value_name = "COLUMN", requires = "runs_to_failure")]
    pub failures: Option<String>,
    /// The unit of the remaining life, with `--runs-to-failure`. Absent: the model's, where that is a time, else `1h`.
    #[arg(long, value_name = "TIME")]
    pub life_unit: Option<Span>,
    /// Count remaining life also against truth with nothing above this.
    #[arg(long, value_name = "N")]
    pub life_cap: Option<f64>,
    /// Leave out the first so many rows of each asset (windows, where labels are times): the model was trained on them.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub skip_rows: usize,
    /// The score to look at. Absent: the pipeline's first.
    #[arg(long, value_name = "OUTPUT")]
    pub output: Option<String>,
    /// Use this model instead of the pipeline's. With several scores: `OUTPUT=FILE`, once for each.
    #[arg(long, value_name = "[OUTPUT=]FILE")]
    pub model: Vec<String>,
    /// Run the public benchmarks that lie in this folder instead, each in one of its own (skab, nab, …).
    #[arg(long, value_name = "DIR", conflicts_with = "pipeline")]
    pub suite: Option<PathBuf>,
    /// Of the benchmarks, only this one; once for each.
    #[arg(long, value_name = "NAME", requires = "suite")]
    pub only: Vec<String>,
    /// Print one JSON object to standard output.
    #[arg(long)]
    pub json: bool,
    /// Write the report here: one HTML page with plots, which needs nothing beside it.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Where schemas and runtime are, and how the recordings are written.
    #[command(flatten)]
    pub offline: OfflineArgs,
}

/// Evaluates.
pub(super) fn evaluate(args: &EvaluateArgs, screen: &Screen) -> anyhow::Result<Outcome> {
    match (&args.suite, &args.pipeline) {
        (Some(folder), _) => suite::evaluate(args, folder, screen),
        (None, Some(file)) => pipeline::evaluate(args, file, screen),
        (None, None) => anyhow::bail!("give `--pipeline FILE` or `--suite DIR`"),
    }
}

/// Most lines of a table in the terminal.
const LINES: usize = 60;

/// Rows in columns as wide as what stands in them, the first to the left, numbers to the right.
fn columns(rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let all = rows.iter().filter_map(|row| row.get(column));
        all.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len)).map(width).collect();
    let mut text = String::new();
    for row in rows.iter().take(LINES + 1) {
        let padded = row.iter().zip(&widths).enumerate().map(|(at, (cell, width))| match at {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        text.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    if rows.len() > LINES + 1 {
        let _ =
            writeln!(text, "and {} more; `--json` and `--html` have all", rows.len() - LINES - 1);
    }
    text
}
