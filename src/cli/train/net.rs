//! `forebay train` of networks: what the command line asks for, trained with [`Progress`] shown, and told.

use std::path::PathBuf;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::args::{LossArg, NetArgs};
use super::progress::{Progress, sparkline};
use super::{Collected, Made, TrainArgs, TrainKind};
use crate::cli::run::{runtime, stop_on_signal};
use crate::cli::screen::Screen;
use crate::evaluate::report::{Figure, losses};
use crate::model::net::{
    Checkpoint, Epoch, Kind, Loss, NetReport, Network, Options, Shape, Size, Targets, Task,
    Trained, read, train,
};
use crate::time::Span;

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
