//! `forebay compress`: a smaller, faster model, kept only if it answers nearly the same.
//!
//! The result is made in a folder of its own, opened by the same runtime as the original and held against it on the same
//! windows ([`evidence`], [`compare`]): what loses more than `--max-loss` is gone again, and nothing was written.
//! Latency and memory are [`measure`]d, and everything is told side by side ([`report`]).

mod compare;
mod evidence;
mod made_up;
mod measure;
mod parts;
mod report;
mod teach;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use tempfile::TempDir;

use super::args::OfflineArgs;
use super::screen::Screen;
use super::{Outcome, print, values, write_whole};
use crate::model::compress::calibrate::{self, Calibration, Ranges, Watch};
use crate::model::compress::notes::{Notes, loosened};
use crate::model::compress::prune::Activity;
use crate::model::compress::{self, Changes, CompressError, Compressed, Method, retrain, student};
use crate::model::golden::Golden;
use crate::model::net::Epoch;
use crate::model::{Host, Model, ModelFile, Trust};
use crate::stage::score::ScoreStage;
use crate::time::{Span, monotonic};
use compare::{Comparison, Scores};
use evidence::Evidence;
use measure::Latency;
use report::{FineTuning, Report, Side};

/// How a model is made smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum To {
    /// Weights of one byte; what they are multiplied with is quantised while the model runs
    Int8Weights,
    /// Weights of one byte, and what they are multiplied with in ranges that the recordings have: the same every time
    Int8,
    /// Units taken out of layers (of dense layers and transformers' feed-forward parts; channels of convolutions), and a
    /// network of `forebay train` trained on from there
    Pruned,
    /// A small network that learns the model's scores on the recordings, whatever the model is
    Student,
    /// Weights of two bytes, all arithmetic as before
    Float16,
}

impl To {
    fn name(self) -> &'static str {
        match self {
            To::Int8Weights => "int8-weights",
            To::Int8 => "int8",
            To::Pruned => "pruned",
            To::Student => "student",
            To::Float16 => "float16",
        }
    }
}

/// How ranges are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Calibrate {
    /// From the least number seen to the largest
    MinMax,
    /// Without the 5 of 10,000 numbers of a window that are furthest out
    Percentile,
}

/// `forebay compress`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Example:\n  forebay compress models/pump.onnx --to int8-weights -o models/pump-int8.onnx --pipeline pipelines/pump.toml --data week.csv\n\n\
Both models are run on the recordings' windows, the loss is taken on the half that chose nothing, and a result that loses more than --max-loss is not written (exit code 1)."
)]
pub struct CompressArgs {
    /// The model: an ONNX file of any origin, or a folder with one and its weights.
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// How.
    #[arg(long, value_enum, value_name = "METHOD")]
    pub to: To,
    /// The model to write. Its weights are written beside it (FILE.DIGEST.data) where the original has its own beside it.
    #[arg(long, short, value_name = "FILE")]
    pub out: PathBuf,
    /// The pipeline file whose windows the model scores. Absent: the models are compared on made-up input, drawn from
    /// the model's own baseline where it has one.
    #[arg(long, short, value_name = "FILE", requires = "data")]
    pub pipeline: Option<PathBuf>,
    /// Recordings, of normal running and better of faults too.
    #[arg(long, num_args = 1.., value_name = "FILE", requires = "pipeline")]
    pub data: Vec<PathBuf>,
    /// When something was wrong: a column of the recordings (above 0 there), or a file of times as `evaluate` takes it. A
    /// window is abnormal if any of it is. Absent: what the original finds abnormal is what the result has to find.
    #[arg(long, value_name = "COLUMN|FILE", requires = "data")]
    pub labels: Option<String>,
    /// Which of the pipeline's scores the model gives. Absent: the first.
    #[arg(long, value_name = "OUTPUT")]
    pub score: Option<String>,
    /// Use only the first so many rows of each recording.
    #[arg(long, value_name = "N")]
    pub rows: Option<usize>,
    /// Most that may be lost of the area under the curve of precision over recall, as a share of the original's.
    #[arg(long, default_value = "1%", value_name = "SHARE", value_parser = values::share)]
    pub max_loss: f64,
    /// Use all 8 bits of weights, not 7: a little nearer to the original, and wrong on x86 processors without VNNI.
    #[arg(long)]
    pub full_range: bool,
    /// Of each layer that can be pruned, the share of units that stays.
    #[arg(long, default_value = "50%", value_name = "SHARE", value_parser = values::share)]
    pub keep: f64,
    /// Numbers inside a student's layers.
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub units: u16,
    /// How long a student may be taught, half of it for asking the original.
    #[arg(long, default_value = "10m", value_name = "TIME")]
    pub time_budget: Span,
    /// How `int8` finds the ranges of what flows through the model.
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Calibrate::MinMax)]
    pub calibrate: Calibrate,
    /// Print one JSON object to standard output.
    #[arg(long)]
    pub json: bool,
    /// Write the report here, whether the result is kept or not: one HTML page with plots, which needs nothing beside it.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Where schemas and runtime are, and how the recordings are written.
    #[command(flatten)]
    pub offline: OfflineArgs,
}

/// Compresses a model, and keeps what is near enough to it.
pub(super) fn compress(args: &CompressArgs, screen: &Screen) -> anyhow::Result<Outcome> {
    let host = args.offline.host();
    let original = ModelFile::read(&args.model, &Trust::default())?;
    anyhow::ensure!(
        !same_file(&original.path, &args.out),
        "`{}` is the original: give the result another name",
        args.out.display()
    );
    let name = args.out.file_name().and_then(|name| name.to_str()).context("`--out` is no file")?;
    let evidence = Evidence::gather(args, &original, screen)?;
    let workshop = workshop(&args.out)?;
    let mut model = host.open(&original.path)?;
    let golden = evidence.golden(&mut model);
    let mut before = evidence.stage(model)?;
    let scores_before = evidence.scores(&mut before, "original", screen)?;
    let mut job = Job { args, original, evidence, host, workshop, screen };
    let (mut compressed, golden, tuning) = match args.to {
        To::Student => {
            let (student, golden, taught) = job.student(&mut before, &scores_before)?;
            (student, golden, Some(taught))
        }
        To::Pruned => {
            let (pruned, tuned, tuning) = job.pruned(&scores_before, before.threshold())?;
            (pruned, tuned.or(golden), Some(tuning))
        }
        _ => (job.compressed()?, golden, None),
    };
    let out = job.workshop.path().join(name);

    // As it is made, to see what it answers; then again with what is noted of that.
    write(job.workshop.path(), name, &compressed)?;
    let mut model = job.host.open(&out)?;
    let golden = golden.map(|golden| loosened(&golden, &evidence::answers(&mut model, &golden)));
    let mut after = job.stage(model)?;
    let scores_after = job.evidence.scores(&mut after, "compressed", screen)?;
    let moved = job.evidence.moved_threshold(before.threshold(), &scores_before, &scores_after);
    compressed.note(&job.original, &job.notes(golden, moved.as_ref(), tuning.as_ref()));
    drop(after);
    let names = write(job.workshop.path(), name, &compressed)?;
    let mut after = job.stage(job.host.open(&out)?)?;

    let evidence = &mut job.evidence;
    let comparison = compare::compare(
        Scores { values: &evidence.judged(&scores_before), threshold: before.threshold() },
        Scores { values: &evidence.judged(&scores_after), threshold: after.threshold() },
        evidence.labels().as_deref(),
    );
    let latency = measure::latency(evidence, &mut before, &mut after)?;
    let thresholds = (before.threshold(), after.threshold());
    let made = (compressed.changes, tuning);
    let report = job.report(&out, made, comparison, thresholds, latency)?;
    if let Some(path) = &args.html {
        write_whole(path, report.html().as_bytes())?;
    }
    if report.accepted {
        keep(job.workshop.path(), &args.out, &names)?;
    }
    print(&if args.json { report.json()? } else { report.text() })?;
    anyhow::ensure!(report.accepted, refusal(&report));
    Ok(Outcome::Fine)
}

/// What a compression works with.
struct Job<'a> {
    args: &'a CompressArgs,
    original: ModelFile,
    evidence: Evidence,
    host: Host,
    workshop: TempDir,
    screen: &'a Screen,
}

impl Job<'_> {
    /// The original, compressed; what the method needs to know of it is looked for first.
    fn compressed(&self) -> anyhow::Result<Compressed> {
        let (args, full_range) = (self.args, self.args.full_range);
        let compressed = |method: Method<'_>| Ok(compress::compress(&self.original, method)?);
        match args.to {
            To::Int8 => {
                let how = match args.calibrate {
                    Calibrate::MinMax => Calibration::MinMax,
                    Calibrate::Percentile => Calibration::Percentile,
                };
                let mut ranges = Ranges::default();
                self.watch(Watch::Ranges, |value, numbers| ranges.take(value, numbers, how))?;
                compressed(Method::Int8 { ranges: &ranges, full_range })
            }
            To::Pruned => {
                let mut activity = Activity::default();
                self.watch(Watch::Units, |value, numbers| activity.take(value, numbers))?;
                compressed(Method::Pruned { activity: &activity, keep: args.keep })
            }
            To::Float16 => compressed(Method::Float16),
            To::Int8Weights | To::Student => compressed(Method::Int8Weights { full_range }),
        }
    }

    /// Runs the original on windows that may choose, and gives `take` what is inside it.
    fn watch(&self, what: Watch, take: impl FnMut(&str, &[f64])) -> anyhow::Result<()> {
        let watched = calibrate::watch(&self.original, what)?;
        self.evidence.watch(&watched, &self.host, self.workshop.path(), self.screen, take)
    }

    /// A student of the original, which is asked in `stage` and gave `scores`.
    fn student(
        &self,
        stage: &mut ScoreStage,
        scores: &[Option<f64>],
    ) -> anyhow::Result<(Compressed, Option<Golden>, FineTuning)> {
        let (began, time) = (monotonic(), self.args.time_budget.to_std());
        let (set, scores) = if stage.model().signature.states.is_empty() {
            self.evidence.taught(self.args, stage, time / 2, self.screen)?
        } else {
            // What it remembers goes with the pipeline's own windows, in their order.
            self.evidence.lesson(scores, None)
        };
        anyhow::ensure!(
            !scores.is_empty(),
            "the original scores no window of the first half of the recordings that ends before the second begins: \
             give longer ones"
        );
        let bar = self.evidence.bar("student learns", student::EPOCHS, self.screen);
        let (units, mut epochs) = (usize::from(self.args.units), 0);
        let mut watch = |epoch: &Epoch| {
            epochs = epoch.epoch;
            bar.set_position(epochs as u64);
            began.elapsed() < time
        };
        let (made, golden) = student::student(&self.original, &set, &scores, units, &mut watch)?;
        bar.finish_and_clear();
        Ok((made, golden, FineTuning::Taught { windows: set.len(), epochs }))
    }

    /// The original, which gave `scores`, with fewer units; trained on from there where it is one of ours.
    fn pruned(
        &self,
        scores: &[Option<f64>],
        threshold: Option<f64>,
    ) -> anyhow::Result<(Compressed, Option<Golden>, FineTuning)> {
        let pruned = self.compressed()?;
        let not = |because: String| FineTuning::NotDone { because };
        let ours = match retrain::ours(&self.original) {
            Ok(ours) => ours,
            Err(error) => return Ok((pruned, None, not(error.to_string()))),
        };
        if self.args.pipeline.is_none() {
            let because = "it needs recordings to learn from: give --pipeline and --data";
            return Ok((pruned, None, not(because.into())));
        }
        let below = retrain::learns_normal(&ours).then(|| threshold.unwrap_or(f64::INFINITY));
        let (set, _) = self.evidence.lesson(scores, below);
        let epochs = retrain::EPOCHS * ours.network.members;
        let bar = self.evidence.bar("fine-tuning", epochs, self.screen);
        let mut epochs = 0;
        let tuned = retrain::fine_tuned(&self.original, &ours, &pruned, &set, &mut |_| {
            epochs += 1;
            bar.inc(1);
        });
        bar.finish_and_clear();
        match tuned {
            Ok((tuned, golden)) => {
                Ok((tuned, golden, FineTuning::Done { windows: set.len(), epochs }))
            }
            Err(CompressError::Training(error)) => Ok((pruned, None, not(error.to_string()))),
            Err(error) => Err(error.into()),
        }
    }

    /// The stage that asks the result.
    fn stage(&self, model: Model) -> anyhow::Result<ScoreStage> {
        match self.args.to {
            To::Student => self.evidence.stage_of_student(model),
            _ => self.evidence.stage(model),
        }
    }

    fn notes(
        &self,
        golden: Option<Golden>,
        moved: Option<&evidence::Moved>,
        tuning: Option<&FineTuning>,
    ) -> Notes {
        let (name, windows) = (self.args.to.name(), self.evidence.calibrating());
        let tuning = tuning.map_or_else(String::new, |tuning| format!(", {}", tuning.told()));
        let detail = match self.args.to {
            To::Int8Weights | To::Int8 if self.args.full_range => ", 8 bits".to_owned(),
            To::Int8Weights | To::Int8 => ", 7 bits: right on every processor".to_owned(),
            To::Pruned => format!(", {} of the units stay{tuning}", self.args.keep),
            To::Student => format!(" of {} units{tuning}", self.args.units),
            To::Float16 => String::new(),
        };
        let threshold = moved.map(|moved| {
            let by = self.original.metadata().threshold_by.clone();
            let by = by.map_or_else(String::new, |by| format!("{by}; "));
            let from = moved.from;
            let how = format!("{by}moved from {from} so that as many of {windows} windows reach it as with the original");
            (moved.to, how)
        });
        Notes { how: format!("{name}{detail}"), suffix: name, threshold, golden }
    }

    fn report(
        &self,
        out: &Path,
        (changes, fine_tuning): (Changes, Option<FineTuning>),
        comparison: Comparison,
        thresholds: (Option<f64>, Option<f64>),
        latency: (Vec<Latency>, Vec<Latency>),
    ) -> anyhow::Result<Report> {
        let args = self.args;
        let file = ModelFile::read(out, &Trust::default())?;
        let side = |file: &ModelFile, threshold, latency| -> Side {
            let memory = measure::peak_memory(&file.path, args.offline.onnxruntime.as_deref());
            Side { bytes: file.size(), memory, threshold, latency }
        };
        let smaller = file.size() < self.original.size();
        let accepted = smaller && comparison.is_near(args.max_loss);
        Ok(Report {
            model: args.model.clone(),
            out: args.out.clone(),
            method: args.to.name(),
            runtime: self.host.runtime()?.name(),
            was_signed: self.original.signed_with.is_some(),
            evaluated_on: self.evidence.told(),
            changes,
            fine_tuning,
            original: side(&self.original, thresholds.0, latency.0),
            result: side(&file, thresholds.1, latency.1),
            comparison,
            max_loss: args.max_loss,
            accepted,
        })
    }
}

fn refusal(report: &Report) -> String {
    let lost = match report.comparison.loss {
        Some(loss)
            if loss <= report.max_loss && report.comparison.has_verdicts(report.max_loss) =>
        {
            "it is not smaller than the original".to_owned()
        }
        Some(loss) if loss <= report.max_loss => format!(
            "at its threshold its F1 is {:.3}, the original's {:.3}",
            report.comparison.f1.unwrap_or_default(),
            report.comparison.f1_original.unwrap_or_default()
        ),
        Some(loss) => {
            let (loss, most) = (loss * 1e2, report.max_loss * 1e2);
            format!("it loses {loss:.2} % and may lose {most:.2} %; allow more with --max-loss")
        }
        None => "no window has a score to compare it by".to_owned(),
    };
    format!("{} was not written: {lost}. Another method may do better", report.out.display())
}

/// A folder on the disk of `out`, for files that may never get there.
fn workshop(out: &Path) -> anyhow::Result<TempDir> {
    let absolute = std::path::absolute(out)?;
    let folder = absolute.ancestors().skip(1).find(|folder| folder.is_dir());
    let folder = folder.with_context(|| format!("`{}` is in no folder", out.display()))?;
    tempfile::Builder::new()
        .prefix(".forebay-compress-")
        .tempdir_in(folder)
        .with_context(|| format!("`{}` cannot be written to", folder.display()))
}

/// Writes the files it is made of, and gives their names: the model's last.
fn write(folder: &Path, name: &str, compressed: &Compressed) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for (name, bytes) in compressed.files(name) {
        let path = folder.join(&name);
        std::fs::write(&path, bytes)
            .with_context(|| format!("`{}` cannot be written", path.display()))?;
        names.push(name);
    }
    Ok(names)
}

/// Moves what is good into its place: the weights first, the model that needs them last.
fn keep(workshop: &Path, out: &Path, names: &[String]) -> anyhow::Result<()> {
    let folder = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = || format!("`{}` cannot be written", out.display());
    let sync = |path: &Path| std::fs::File::open(path).and_then(|file| file.sync_all());
    std::fs::create_dir_all(folder).with_context(failed)?;
    for name in names {
        let made = workshop.join(name);
        sync(&made).with_context(failed)?;
        std::fs::rename(made, folder.join(name)).with_context(failed)?;
        sync(folder).with_context(failed)?;
    }
    Ok(())
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

/// The model's own answers to golden inputs, by output.
type Answers = std::collections::BTreeMap<String, Vec<Vec<f64>>>;

/// What `model` answers to `rows` of `shape`, by output; empty where it cannot be asked so.
fn ask(model: &mut Model, rows: &[Vec<f64>], shape: &[usize]) -> Answers {
    let dims: Vec<usize> = std::iter::once(rows.len()).chain(shape.iter().copied()).collect();
    let outputs = model.run_all(&rows.concat(), &dims).unwrap_or_default();
    let split = |width: usize, values: &[f64]| -> Vec<Vec<f64>> {
        values.chunks(width.max(1)).map(<[f64]>::to_vec).collect()
    };
    outputs.into_iter().map(|(name, output)| (name, split(output.width, &output.values))).collect()
}
