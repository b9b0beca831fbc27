//! From windows to an ONNX file: scale, learn, choose the threshold, note the contract.
//!
//! `cli/train`, `compress` and the suite call [`train`].

use std::collections::BTreeMap;

use serde::Serialize;

use super::answer::{Answer, answers};
use super::learn::{Checkpoint, Epoch, Lesson, learn, place};
use super::options::Options;
use super::samples::{Samples, Targets};
use super::{MEMBERS_MAX, NetError, Network, Shape, Task, Trained, export};
use crate::evaluate::metrics::regression::{best_constant_rmse, rmse};
use crate::model::golden::{Golden, short};
use crate::model::judged::edge as edge_between;
use crate::model::metadata::{Meaning, Notes, json};
use crate::model::onnx::digest;
use crate::model::threshold::best_f1;
use crate::model::training::{
    Scaler, TrainError, TrainingSet, can_be_told_apart, quantile, version_of,
};

/// Fewest windows that can be learned from.
const MIN_ROWS: usize = 16;

/// How far an answer may be off its golden one.
const TOLERANCE: f64 = 1e-3;

/// What was learned.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NetReport {
    /// Windows that were learned from.
    pub fitted: usize,
    /// Windows that were held out.
    pub held_out: usize,
    /// Windows left out because a number was missing.
    pub skipped: usize,
    /// Features or channels that never changed, and are ignored.
    pub constant: Vec<String>,
    /// Weights.
    pub parameters: usize,
    /// All epochs, network by network.
    pub epochs: Vec<Epoch>,
    /// Best loss of the held-out windows, of each network.
    pub best: Vec<f64>,
    /// At or above it a window is abnormal. None of a remaining life.
    pub threshold: Option<f64>,
    /// How that was chosen.
    pub threshold_by: String,
    /// How good it is on the held-out windows, by measure.
    pub held_out_measures: BTreeMap<&'static str, f64>,
    /// The model's version.
    pub version: String,
}

/// Where the edge is, and how it was found.
struct Edge {
    threshold: f64,
    by: String,
    measures: BTreeMap<&'static str, f64>,
}

/// Trains `network` on `set` and `targets`; gives the bytes of an ONNX file. With `from`, weights whose names and sizes
/// agree start from there, and so does the scale. `resume` is a checkpoint of the same training. `watch` sees every
/// epoch, and ends training by `false`.
pub fn train(
    set: &TrainingSet,
    targets: &Targets,
    network: &Network,
    from: Option<&Trained>,
    options: &Options,
    resume: Option<Checkpoint>,
    watch: &mut dyn FnMut(&Epoch, &Checkpoint) -> bool,
) -> Result<(Vec<u8>, NetReport), NetError> {
    targets.check(&network.task, set.len())?;
    fits(set, network, from, options.freeze)?;
    place(options.device)?;
    let usable = set.usable(MIN_ROWS)?;
    let is_of_normal = matches!(network.task, Task::Reconstruct | Task::Forecast);
    let (usable, faults) =
        if is_of_normal { set.apart(usable, MIN_ROWS)? } else { (usable, Vec::new()) };
    let (fit, held) = divide(set, &usable, &network.task, options.holdout);
    if let (Task::Classify { labels }, Targets::Classes(classes)) = (&network.task, targets) {
        can_be_told_apart(labels, |row| classes.get(row).copied(), (&usable, &fit))?;
    }
    let scaler = from.map_or_else(|| Scaler::learn(set, &fit), |from| from.scaler.clone());
    let constant = scaler.constant(&set.names);
    if constant.len() == set.names.len() {
        return Err(TrainError::Constant { features: constant.len() }.into());
    }
    let mut samples = Samples::new(set, targets, network, &scaler);
    if options.class_weights {
        samples.weigh(&fit);
    }
    let of = digest(
        json(&(set.digest(), digest_of(targets), network, options, from.map(|f| &f.weights)))
            .as_bytes(),
    );
    let mut checkpoint = match resume {
        Some(checkpoint) if checkpoint.of != of => return Err(NetError::Foreign),
        Some(checkpoint) => checkpoint,
        None => Checkpoint::new(of),
    };
    let rows = (fit.as_slice(), held.as_slice());
    let start = from.map(|from| &from.weights);
    let mut lesson = Lesson { network, samples: &samples, rows, options, from: start, watch };
    let weights = learn(&mut lesson, &mut checkpoint)?;
    let members = checkpoint.done.len();
    let network = Network { members, ..network.clone() };
    let mut trained = Trained { network, weights, scaler, limit: 1.0 };
    let edge = edge(&mut trained, set, targets, (&fit, &held, &faults), options)?;
    let used = [fit.as_slice(), &held].concat();
    let bytes = write(&trained, set, &used, &edge)?;
    let best = (0..members).map(|member| {
        let of = checkpoint.epochs.iter().filter(|epoch| epoch.member == member);
        of.map(|epoch| epoch.held_out).fold(f64::INFINITY, f64::min)
    });
    let report = NetReport {
        fitted: fit.len(),
        held_out: held.len(),
        skipped: set.len() - usable.len() - faults.len(),
        constant,
        parameters: trained.network.parameters()?,
        best: best.collect(),
        epochs: checkpoint.epochs,
        threshold: edge.threshold.is_finite().then_some(edge.threshold),
        threshold_by: edge.by,
        held_out_measures: edge.measures,
        version: version_of(&bytes),
    };
    Ok((bytes, report))
}

fn digest_of(targets: &Targets) -> String {
    match targets {
        Targets::None => String::new(),
        Targets::Classes(classes) => digest(json(classes).as_bytes()),
        Targets::Values(values) => digest(json(values).as_bytes()),
    }
}

/// Whether network and start take what the windows are, and something is left to learn beside the first `frozen` layers.
fn fits(
    set: &TrainingSet,
    network: &Network,
    from: Option<&Trained>,
    frozen: usize,
) -> Result<(), NetError> {
    let found = Shape { steps: set.steps.max(1), width: set.names.len() };
    let told = |shape: Shape| format!("{} steps of {} numbers", shape.steps, shape.width);
    let starts = from.map_or(network.input, |from| from.network.input);
    for expected in [network.input, starts] {
        if expected != found || network.sequence != (set.steps > 0) {
            return Err(NetError::OtherInput { expected: told(expected), found: told(found) });
        }
    }
    if network.members == 0 || network.members > MEMBERS_MAX {
        return Err(NetError::Targets(format!(
            "{} networks; 1 to {MEMBERS_MAX} are averaged",
            network.members
        )));
    }
    let needs = network.needs(frozen)?;
    let learns = needs.iter().any(|(.., is_frozen)| !is_frozen);
    learns.then_some(()).ok_or(NetError::Frozen)
}

/// What is learned from, and what is held out: the end of each asset's windows; of machines that run to their end, machines.
fn divide(
    set: &TrainingSet,
    usable: &[usize],
    task: &Task,
    share: f64,
) -> (Vec<usize>, Vec<usize>) {
    let share = share.clamp(0.0, 0.9);
    if share == 0.0 {
        return (usable.to_vec(), Vec::new());
    }
    match task {
        Task::RemainingLife { .. } => set.split_lives(usable, share),
        _ => set.split(usable, share),
    }
}

/// The answers to some windows.
fn of(trained: &Trained, set: &TrainingSet, rows: &[usize]) -> Result<Vec<Answer>, NetError> {
    let values: Vec<f64> = rows.iter().flat_map(|&index| set.row(index).iter().copied()).collect();
    answers(trained, &values)
}

fn only(answers: &[Answer], output: &str) -> Vec<f64> {
    answers
        .iter()
        .map(|answer| answer.get(output).map_or(f64::NAN, |values| f64::from(values[0])))
        .collect()
}

/// Sets the edge of normal, or the threshold of a classifier, and measures what was held out.
fn edge(
    trained: &mut Trained,
    set: &TrainingSet,
    targets: &Targets,
    (fit, held, faults): (&[usize], &[usize], &[usize]),
    options: &Options,
) -> Result<Edge, NetError> {
    let judged = if held.is_empty() { fit } else { held };
    let kind = if held.is_empty() { "fitted" } else { "held-out" };
    match &trained.network.task {
        Task::Reconstruct | Task::Forecast => {
            let errors = |rows: &[usize]| -> Result<Vec<f64>, NetError> {
                let scores = only(&of(trained, set, rows)?, "score");
                Ok(scores.iter().map(|score| score / (1.0 - score).max(1e-9)).collect())
            };
            let confirmed = errors(&set.confirmed(&[fit, held].concat()))?;
            let (fitted, rows) = (errors(fit)?, judged);
            let (judged, faults) = (errors(judged)?, errors(faults)?);
            let q = options.quantile.clamp(0.5, 1.0);
            let limit = quantile(&fitted, q).max(quantile(&judged, q)).max(1e-6);
            let of = |errors: &[f64]| -> Vec<f64> { errors.iter().map(|e| e / limit).collect() };
            let terms = (q, options.margin);
            let edge = edge_between(&of(&judged), &of(&confirmed), terms, &of(&faults));
            trained.limit = limit;
            let mean = judged.iter().sum::<f64>() / judged.len().max(1) as f64;
            let mut measures = BTreeMap::from([("mean_squared_error", mean)]);
            if trained.network.task == Task::Forecast {
                measures.insert("last_value_mean_squared_error", last_value(trained, set, rows));
            }
            Ok(Edge { threshold: edge.index / (1.0 + edge.index), by: edge.told(kind), measures })
        }
        Task::Classify { .. } => {
            let Targets::Classes(classes) = targets else { return Err(NetError::TooShort) };
            Ok(of_classes(
                &of(trained, set, judged)?,
                &judged.iter().map(|row| classes[*row]).collect::<Vec<_>>(),
                kind,
            ))
        }
        Task::RemainingLife { cap, .. } => {
            let Targets::Values(values) = targets else { return Err(NetError::TooShort) };
            let found = only(&of(trained, set, judged)?, "remaining_life");
            let truth: Vec<f64> = judged.iter().map(|row| values[*row].min(*cap)).collect();
            let root = rmse(&found, &truth).unwrap_or_default();
            let constant = best_constant_rmse(&truth).unwrap_or(root);
            let measures = BTreeMap::from([
                ("root_mean_squared_error", root),
                ("best_constant_root_mean_squared_error", constant),
            ]);
            Ok(Edge { threshold: f64::NAN, by: "none: a remaining life".into(), measures })
        }
        Task::Imitate(_) => Ok(Edge {
            threshold: 0.5,
            by: "given: the middle of the score".into(),
            measures: BTreeMap::new(),
        }),
    }
}

/// The mean squared error of saying that the last step is as the one before it, on the network's scale: what a forecast
/// has to be better than.
fn last_value(trained: &Trained, set: &TrainingSet, rows: &[usize]) -> f64 {
    let width = trained.network.input.width;
    let error = |index: &usize| {
        let row = trained.scaler.apply(set.row(*index));
        let (before, last) = row[row.len() - 2 * width..].split_at(width);
        before.iter().zip(last).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / width as f64
    };
    rows.iter().map(error).sum::<f64>() / rows.len().max(1) as f64
}

fn of_classes(answers: &[Answer], classes: &[usize], kind: &str) -> Edge {
    let scores = only(answers, "score");
    let faulty: Vec<bool> = classes.iter().map(|class| *class > 0).collect();
    let most = |answer: &Answer| {
        let classes = answer.get("classes").into_iter().flatten().enumerate();
        classes.max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(class, _)| class)
    };
    let right =
        answers.iter().zip(classes).filter(|(answer, class)| most(answer) == **class).count();
    let mut counts = BTreeMap::new();
    for class in classes {
        *counts.entry(class).or_insert(0_u32) += 1;
    }
    let most = f64::from(counts.into_values().max().unwrap_or(0));
    let share = |count: f64| count / classes.len().max(1) as f64;
    let mut measures = BTreeMap::from([
        ("accuracy", share(right as f64)),
        ("most_frequent_accuracy", share(most)),
    ]);
    let (threshold, by) = match best_f1(&scores, &faulty) {
        Some((threshold, f1)) => {
            measures.insert("f1", f1);
            (threshold, format!("the best F1 score on {} {kind} windows", classes.len()))
        }
        None => (0.5, format!("the middle: all {} {kind} windows are of one kind", classes.len())),
    };
    Edge { threshold, by, measures }
}

/// What the outputs mean.
fn meanings(task: &Task) -> BTreeMap<String, Meaning> {
    let named =
        |all: Vec<(&str, Meaning)>| all.into_iter().map(|(name, m)| (name.to_owned(), m)).collect();
    match task {
        Task::Reconstruct | Task::Forecast => {
            named(vec![("score", Meaning::Score), ("contributions", Meaning::Contributions)])
        }
        Task::Classify { labels } => named(vec![
            ("score", Meaning::Probability { horizon: None }),
            ("classes", Meaning::Class { labels: labels.clone() }),
        ]),
        Task::RemainingLife { unit, .. } => {
            named(vec![("remaining_life", Meaning::RemainingLife { unit: unit.clone() })])
        }
        Task::Imitate(_) => named(vec![("score", Meaning::Score)]),
    }
}

fn kind(task: &Task) -> &'static str {
    match task {
        Task::Reconstruct => "autoencoder",
        Task::Forecast => "forecaster",
        Task::Classify { .. } => "classifier",
        Task::RemainingLife { .. } => "remaining-life",
        Task::Imitate(_) => "student",
    }
}

/// The file, with its whole contract.
fn write(
    trained: &Trained,
    set: &TrainingSet,
    used: &[usize],
    edge: &Edge,
) -> Result<Vec<u8>, NetError> {
    let mut graph = export::write(trained)?;
    let task = &trained.network.task;
    let output =
        if matches!(task, Task::RemainingLife { .. }) { "remaining_life" } else { "score" };
    let notes = Notes {
        kind: kind(task),
        outputs: meanings(task),
        threshold: edge.threshold,
        threshold_by: edge.by.clone(),
        baseline: set.baseline(used, &only(&of(trained, set, used)?, output)),
        golden: golden(trained, set, used)?,
    };
    set.note(&mut graph, &notes);
    graph.note("forebay.network", json(&trained.network));
    graph.note("forebay.limit", trained.limit.to_string());
    Ok(graph.finish())
}

/// Golden vectors: the rows that every trainer takes, and what this network answers to them.
fn golden(trained: &Trained, set: &TrainingSet, used: &[usize]) -> Result<Golden, NetError> {
    let mut golden = set.golden(used, &trained.scaler, |_| Vec::new());
    golden.tolerance = TOLERANCE;
    for answer in answers(trained, &golden.input.concat())? {
        for (output, values) in answer {
            golden
                .outputs
                .entry(output.to_owned())
                .or_default()
                .push(values.into_iter().map(|v| short(v.into())).collect());
        }
    }
    Ok(golden)
}
