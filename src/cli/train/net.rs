//! `forebay train` of networks: options from the command line, progress with loss curves, checkpoints, a check of the
//! file on the runtime that is found.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::ProgressBar;
use tokio_util::sync::CancellationToken;

use super::args::{LossArg, NetArgs};
use super::{Collected, Made, TrainArgs, TrainKind};
use crate::cli::run::{runtime, stop_on_signal};
use crate::cli::screen::{Screen, look};
use crate::cli::write_whole;
use crate::evaluate::report::{Figure, losses};
use crate::model::net::{
    Checkpoint, Epoch, Kind, Loss, NetReport, Network, Options, Shape, Size, Targets, Task,
    Trained, read, train,
};
use crate::time::{Span, monotonic};

/// How often a checkpoint is written at most.
const CHECKPOINT: Duration = Duration::from_secs(1);
/// How often a log is told how far it is.
const NOTE: Duration = Duration::from_secs(30);

/// Trains a network of this kind.
pub(super) fn network(
    kind: Kind,
    args: &TrainArgs,
    collected: &Collected,
    screen: &Screen,
) -> anyhow::Result<Made> {
    let net = &args.net;
    let from = net.from.as_ref().map(|path| {
        let bytes =
            std::fs::read(path).with_context(|| format!("`{}` cannot be read", path.display()))?;
        read(&bytes).with_context(|| format!("`{}` cannot be trained on", path.display()))
    });
    let from = from.transpose()?;
    let (task, targets) = task(kind, net, collected)?;
    let network = described(kind, net, collected, task, from.as_ref())?;
    let options = options(args, &network);
    let checkpoint = net.checkpoint.clone().unwrap_or_else(|| {
        let mut name = args.out.clone().into_os_string();
        name.push(".checkpoint");
        PathBuf::from(name)
    });
    let resume = if net.resume {
        let told = || format!("`{}` cannot be resumed from", checkpoint.display());
        let bytes = std::fs::read(&checkpoint).with_context(told)?;
        Some(Checkpoint::from_bytes(&bytes).with_context(told)?)
    } else {
        None
    };
    let edges = runtime()?;
    let stop = CancellationToken::new();
    let notes = screen.clone();
    let stopping = move || notes.note("stopping after this epoch; once more to stop at once");
    edges.block_on(async { stop_on_signal(stop.clone(), stopping) })?;
    let mut progress = Progress::new(args, &network, checkpoint, screen, stop);
    let set = &collected.set;
    let mut watch = |epoch: &Epoch, state: &Checkpoint| progress.watch(epoch, state);
    let (model, report) =
        train(set, &targets, &network, from.as_ref(), &options, resume, &mut watch)?;
    let stopped = progress.end()?;
    let told = told(kind, &network, &report, stopped.as_deref());
    let figures = curves(&report);
    let report = serde_json::to_value(&report).context("invariant: a report is JSON")?;
    Ok(Made { model, told, report, figures })
}

/// The losses of each network, epoch by epoch.
fn curves(report: &NetReport) -> Vec<Figure> {
    let of = |member: usize| {
        let epochs: Vec<&Epoch> = report.epochs.iter().filter(|e| e.member == member).collect();
        let held_out: Vec<f64> = epochs.iter().map(|epoch| epoch.held_out).collect();
        let learned: Vec<f64> = epochs.iter().map(|epoch| epoch.loss).collect();
        let best = held_out.iter().position(|loss| Some(loss) == report.best.get(member));
        losses(&format!("network {}", member + 1), &held_out, &learned, best.map_or(0, |at| at + 1))
    };
    (0..report.best.len()).map(of).collect()
}

/// What is to be learned, and of each window what.
fn task(
    kind: Kind,
    net: &NetArgs,
    collected: &Collected,
) -> anyhow::Result<(Option<Task>, Targets)> {
    let classes = || -> anyhow::Result<(Option<Task>, Targets)> {
        let classes = collected.classes.clone();
        anyhow::ensure!(
            !classes.is_empty(),
            "a classifier needs labels: name their column with `--label`, or give operators' `--verdicts`"
        );
        let labels = class_names(net, collected)?;
        Ok((Some(Task::Classify { labels }), Targets::Classes(classes)))
    };
    match kind {
        Kind::Classifier => classes(),
        Kind::Transformer if net.label.is_some() => classes(),
        Kind::RemainingLife => {
            anyhow::ensure!(net.cap > 0.0, "`--cap` must be above 0");
            let unit = net.life_unit.or(collected.set.every).unwrap_or(Span::seconds(1));
            anyhow::ensure!(unit > Span::ZERO, "`--life-unit` must be above 0");
            let values = collected.lives(unit);
            Ok((
                Some(Task::RemainingLife { cap: net.cap, unit: unit.to_string() }),
                Targets::Values(values),
            ))
        }
        _ => Ok((None, Targets::None)),
    }
}

/// The names of the classes, two at least: those that the recordings use, those that were given, or ours.
pub(super) fn class_names(net: &NetArgs, collected: &Collected) -> anyhow::Result<Vec<String>> {
    let count = collected.classes.iter().max().map_or(0, |most| most + 1).max(2);
    if !collected.words.is_empty() {
        return Ok(collected.words.clone());
    }
    if net.classes.is_empty() {
        let fault =
            |class: usize| if count == 2 { "fault".into() } else { format!("fault-{class}") };
        return Ok(std::iter::once("normal".to_owned()).chain((1..count).map(fault)).collect());
    }
    anyhow::ensure!(
        net.classes.len() >= count,
        "`--classes` has {} names, but column `{}` has classes up to {}",
        net.classes.len(),
        net.label.as_deref().unwrap_or_default(),
        count - 1
    );
    Ok(net.classes.clone())
}

fn described(
    kind: Kind,
    net: &NetArgs,
    collected: &Collected,
    task: Option<Task>,
    from: Option<&Trained>,
) -> anyhow::Result<Network> {
    let set = &collected.set;
    let sequence = set.steps > 0;
    anyhow::ensure!(
        sequence || !kind.needs_sequence(),
        "a {} looks at a window's samples, and the pipeline's `score` gives features: set its `input = \"sequence\"`",
        kind.name()
    );
    let input = Shape { steps: set.steps.max(1), width: set.names.len() };
    let (units, code, depth) = (net.units as usize, net.code as usize, net.depth as usize);
    let size = Size { units, code, depth, activation: net.activation.into() };
    let own = kind.network(input, sequence, task, size)?;
    Ok(match from {
        // Its layers are those of the file; what they are for must be the same.
        Some(from) => {
            let same =
                std::mem::discriminant(&from.network.task) == std::mem::discriminant(&own.task);
            anyhow::ensure!(
                same,
                "`--from` is no {}: give the kind that it was trained as",
                kind.name()
            );
            Network { task: own.task, ..from.network.clone() }
        }
        None => Network { members: net.members as usize, ..own },
    })
}

fn options(args: &TrainArgs, network: &Network) -> Options {
    let net = &args.net;
    let loss = match net.loss {
        Some(LossArg::Huber) => Loss::Huber { delta: 0.1 },
        Some(LossArg::CrossEntropy) => Loss::CrossEntropy { focal: net.focal },
        None if matches!(network.task, Task::Classify { .. }) => {
            Loss::CrossEntropy { focal: net.focal }
        }
        Some(LossArg::Mse) | None => Loss::Mse,
    };
    Options {
        epochs: net.epochs as usize,
        batch: net.batch as usize,
        learning_rate: net.learning_rate,
        optimiser: net.optimiser.into(),
        weight_decay: net.weight_decay,
        loss,
        late: net.late,
        patience: net.patience as usize,
        seed: net.seed,
        holdout: args.holdout,
        quantile: 1.0 - args.false_alarms,
        margin: args.margin,
        freeze: net.freeze as usize,
        class_weights: net.class_weights,
        oversample: net.oversample,
        device: net.device.into(),
        ..Options::default()
    }
}

/// What is shown and kept while it learns.
struct Progress {
    bar: ProgressBar,
    /// Epochs, of all networks.
    all: u64,
    began: Instant,
    budget: Option<Duration>,
    checkpoint: PathBuf,
    written: Option<Instant>,
    /// Where it is told how far it is, where nothing is drawn; and when it was.
    notes: Option<Screen>,
    noted: Option<Instant>,
    /// Why a checkpoint could not be written.
    failed: Option<anyhow::Error>,
    out_of_time: bool,
    /// Ctrl-C; and whether it has ended the training.
    stop: CancellationToken,
    interrupted: bool,
}

impl Progress {
    fn new(
        args: &TrainArgs,
        network: &Network,
        checkpoint: PathBuf,
        screen: &Screen,
        stop: CancellationToken,
    ) -> Progress {
        let all = u64::from(args.net.epochs) * network.members as u64;
        let bar = if args.offline.quiet {
            ProgressBar::hidden()
        } else {
            screen.line(ProgressBar::new(all))
        };
        bar.set_style(look("epoch {pos}/{len} {msg}, {eta} left"));
        let budget = args.net.time_budget.map(|span| Duration::from_micros(span.0.max(0) as u64));
        let notes = (bar.is_hidden() && !args.offline.quiet).then(|| screen.clone());
        Progress {
            bar,
            all,
            notes,
            noted: None,
            began: monotonic(),
            budget,
            checkpoint,
            written: None,
            failed: None,
            out_of_time: false,
            stop,
            interrupted: false,
        }
    }

    fn watch(&mut self, epoch: &Epoch, state: &Checkpoint) -> bool {
        let epochs = state.epochs();
        let curve: Vec<f64> =
            epochs.iter().filter(|e| e.member == epoch.member).map(|e| e.held_out).collect();
        self.bar.set_position(epochs.len() as u64);
        self.bar.set_message(format!(
            "{} loss {:.4}, held out {:.4}",
            sparkline(&curve, 40),
            epoch.loss,
            epoch.held_out
        ));
        self.out_of_time = self.budget.is_some_and(|budget| self.began.elapsed() >= budget);
        let is_last = epochs.len() as u64 >= self.all;
        self.interrupted = self.stop.is_cancelled() && !is_last;
        let ends = self.out_of_time || self.interrupted;
        if ends || self.written.is_none_or(|at| at.elapsed() >= CHECKPOINT) {
            if let Err(error) = write_whole(&self.checkpoint, &state.to_bytes()) {
                self.failed = Some(error);
                return false;
            }
            self.written = Some(monotonic());
            self.note(epochs.len(), epoch);
        }
        !ends
    }

    /// Says how far it is, for a log. A checkpoint has just been written.
    fn note(&mut self, done: usize, epoch: &Epoch) {
        let Some(screen) = &self.notes else { return };
        if self.noted.is_none_or(|at| at.elapsed() >= NOTE) {
            let (all, checkpoint) = (self.all, self.checkpoint.display());
            screen.note(&format!(
                "epoch {done} of {all}: loss {:.4}, held out {:.4}; if it is stopped, `--resume` goes on from {checkpoint}",
                epoch.loss, epoch.held_out
            ));
            self.noted = Some(monotonic());
        }
    }

    /// It is over: removes the checkpoint, or says where it is.
    fn end(self) -> anyhow::Result<Option<String>> {
        self.bar.finish_and_clear();
        if let Some(error) = self.failed {
            return Err(error.context("training was stopped: its checkpoint cannot be written"));
        }
        let path = self.checkpoint.display();
        if self.out_of_time {
            return Ok(Some(format!("the time budget is over; `--resume` goes on from {path}")));
        }
        anyhow::ensure!(
            !self.interrupted,
            "stopped before its end, so no model was written; `--resume` goes on from {path}"
        );
        if self.written.is_some() {
            std::fs::remove_file(&self.checkpoint)
                .with_context(|| format!("`{path}` cannot be removed"))?;
        }
        Ok(None)
    }
}

fn told(kind: Kind, network: &Network, report: &NetReport, stopped: Option<&str>) -> String {
    let mut lines = Vec::new();
    for member in 0..report.best.len() {
        let of = report.epochs.iter().filter(|epoch| epoch.member == member);
        let curve: Vec<f64> = of.map(|epoch| epoch.held_out).collect();
        lines.push(format!(
            "loss  {}  {:.4} to {:.4} in {} epochs\n",
            sparkline(&curve, 40),
            curve.first().copied().unwrap_or_default(),
            report.best[member],
            curve.len()
        ));
    }
    let measures: Vec<String> = report
        .held_out_measures
        .iter()
        .map(|(name, value)| format!("{} {value:.3}", name.replace('_', " ")))
        .collect();
    lines.push(format!(
        "{} with {} weights on {} windows{}: {}\n",
        kind.name(),
        report.parameters,
        report.fitted,
        match report.held_out {
            0 => String::new(),
            held => format!(", judged on {held} held-out ones"),
        },
        measures.join(", ")
    ));
    if !report.constant.is_empty() {
        lines.push(format!("ignored, for they never change: {}\n", report.constant.join(", ")));
    }
    if let Some(threshold) = report.threshold {
        lines.push(format!("threshold {threshold:.3}: {}\n", report.threshold_by));
    }
    if let Task::RemainingLife { cap, unit } = &network.task {
        lines.push(format!("remaining lives up to {cap} times {unit}\n"));
    }
    lines.extend(stopped.map(|stopped| format!("{stopped}\n")));
    lines.concat()
}

/// Numbers as a line of blocks, at most `most` of them; high is large.
fn sparkline(values: &[f64], most: usize) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let count = values.len().min(most);
    let picked: Vec<f64> =
        (0..count).map(|at| values[at * (values.len() - 1) / (count.max(2) - 1)]).collect();
    let (least, largest) = picked
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), value| (a.min(*value), b.max(*value)));
    let height =
        |value: f64| if largest > least { (value - least) / (largest - least) * 7.0 } else { 0.0 };
    picked.into_iter().map(|value| BLOCKS[(height(value).round() as usize).min(7)]).collect()
}

/// The network of a kind of the command line.
pub(super) fn kind_of(kind: TrainKind) -> Option<Kind> {
    Some(match kind {
        TrainKind::Pca | TrainKind::Trees => return None,
        TrainKind::DenseAutoencoder => Kind::DenseAutoencoder,
        TrainKind::ConvAutoencoder => Kind::ConvAutoencoder,
        TrainKind::GruAutoencoder => Kind::GruAutoencoder,
        TrainKind::Forecaster => Kind::Forecaster,
        TrainKind::Transformer => Kind::Transformer,
        TrainKind::Classifier => Kind::Classifier,
        TrainKind::RemainingLife => Kind::RemainingLife,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_drawn_from_its_first_to_its_last_value() {
        assert_eq!(sparkline(&[8.0, 4.0, 1.0], 40), "█▄▁");
        assert_eq!(sparkline(&[5.0], 40), "▁");
        assert_eq!(sparkline(&[], 40), "");
        let long: Vec<f64> = (0..100).map(f64::from).collect();
        let drawn: Vec<char> = sparkline(&long, 10).chars().collect();
        assert_eq!((drawn.len(), drawn[0], drawn[9]), (10, '▁', '█'));
    }
}
