//! Gradient-boosted trees: they tell faulty windows from normal ones, tell classes apart, or estimate a number.
//!
//! `cli train` and the suite of `cli evaluate` train with it. `boost` grows the trees; here a [`TrainingSet`] is divided
//! into what is learned from and what stops the learning and chooses the threshold, and the result becomes an ONNX
//! file. It promises the same bytes for the same windows and options. It does not choose options by trying several.
//!
//! The graph has one `TreeEnsembleClassifier` whatever is learned: it is the only operator of trees that ONNX Runtime
//! and tract both run. It gives bare sums, one for each of at least three "classes" (with two, runtimes disagree on what
//! is asked); plain operators after it add what the sums start with and make chances of them.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::boost::{BoostOptions, Cases, Ensemble, Objective, boost};
use super::build::{Attribute, Dim, Graph, Kind};
use super::metadata::{Meaning, Notes};
use super::threshold::best_f1;
use super::training::{Scaler, TrainError, TrainingSet, can_be_told_apart, version_of};
use super::tree::Node;

/// What the file notes as its kind.
pub const KIND: &str = "trees";

/// Fewest windows that can be learned from.
pub const MIN_ROWS: usize = 16;

/// What is learned of each window.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// A number, such as remaining life.
    Number {
        /// By window.
        values: &'a [f64],
        /// What it means.
        meaning: &'a Meaning,
    },
    /// Whether it is faulty.
    Faulty(&'a [bool]),
    /// Which of three or more classes it is. The first is normal running: the score is the chance of any other.
    Classes {
        /// By window: the number of its class.
        of: &'a [usize],
        /// The classes' names.
        names: &'a [String],
    },
}

/// Which windows are held out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Split {
    /// The last of each asset: for windows of one machine, which are like their neighbours.
    #[default]
    Last,
    /// A random share of each class, drawn from the seed: for rows that have nothing to do with each other.
    Random,
}

/// How to learn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TreesOptions {
    /// How to boost.
    pub boost: BoostOptions,
    /// Share of the windows that is held out, 0 to 0.9: it stops the learning and chooses the threshold.
    pub holdout: f64,
    /// Which windows those are.
    pub split: Split,
    /// Whether all classes weigh the same, however rare.
    pub balanced: bool,
    /// At or above it a window is abnormal. Absent: where F1 is greatest on the windows held out, 0.5 without such.
    pub threshold: Option<f64>,
}

impl Default for TreesOptions {
    fn default() -> Self {
        TreesOptions {
            boost: BoostOptions::default(),
            holdout: 0.2,
            split: Split::Last,
            balanced: false,
            threshold: None,
        }
    }
}

/// What was learned.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TreesReport {
    /// Windows learned from.
    pub fitted: usize,
    /// Windows held out.
    pub held_out: usize,
    /// Windows left out because a feature was missing.
    pub skipped: usize,
    /// Rounds kept.
    pub rounds: usize,
    /// Loss on the windows held out after each round that was tried.
    pub losses: Vec<f64>,
    /// The threshold; none of a number.
    pub threshold: Option<f64>,
    /// How it was chosen.
    pub threshold_by: String,
    /// By feature, most used first: how many divisions look at it.
    pub used: Vec<(String, usize)>,
    /// The model's version.
    pub version: String,
}

/// Learns `target` of the windows of `set`; gives the bytes of an ONNX file.
pub fn train(
    set: &TrainingSet,
    target: Target<'_>,
    options: &TreesOptions,
) -> Result<(Vec<u8>, TreesReport), TrainError> {
    let (objective, targets) = targets(set, target)?;
    let usable = set.usable(MIN_ROWS)?;
    let (fit, held) = divide(set, &usable, &targets, objective, options);
    match target {
        Target::Number { .. } => {}
        Target::Faulty(labels) => {
            let of = |row: usize| labels.get(row).map(|label| usize::from(*label));
            can_be_told_apart(&[], of, (&usable, &fit))?;
        }
        Target::Classes { of, names } => {
            can_be_told_apart(names, |row| of.get(row).copied(), (&usable, &fit))?;
        }
    }
    let rows: Vec<f32> = set.rows.iter().map(|&value| value as f32).collect();
    let weights = weights(&targets, &fit, objective, options.balanced);
    let width = set.names.len();
    let cases = Cases { rows: &rows, width, targets: &targets, weights: &weights };
    let ensemble = boost(&cases, objective, &fit, &held, &options.boost);
    let row = |index: usize| &rows[index * width..(index + 1) * width];
    let score = |index: &usize| score(&ensemble, row(*index));
    let (threshold, threshold_by) = threshold(&held, &targets, objective, options, &score);
    let bytes = {
        let scores: Vec<f64> = fit.iter().map(score).collect();
        let notes = notes(set, target, &ensemble, &fit, &scores, threshold, &threshold_by);
        write(set, &ensemble, &notes)
    };
    let report = TreesReport {
        fitted: fit.len(),
        held_out: held.len(),
        skipped: set.len() - usable.len(),
        rounds: ensemble.trees.len() / objective.outputs(),
        losses: ensemble.losses.clone(),
        threshold: (objective != Objective::Number).then_some(threshold),
        threshold_by,
        used: used(&ensemble, &set.names),
        version: version_of(&bytes),
    };
    Ok((bytes, report))
}

/// What is learned, as numbers, one a window.
fn targets(set: &TrainingSet, target: Target<'_>) -> Result<(Objective, Vec<f64>), TrainError> {
    let (objective, targets): (Objective, Vec<f64>) = match target {
        Target::Number { values, .. } => (Objective::Number, values.to_vec()),
        Target::Faulty(labels) => {
            (Objective::Chance, labels.iter().map(|&label| f64::from(label)).collect())
        }
        Target::Classes { of, names } => {
            if let Some(&found) = of.iter().find(|&&class| class >= names.len()) {
                return Err(TrainError::Class { found, classes: names.len() });
            }
            let classes = Objective::Classes(names.len());
            (classes, of.iter().map(|&class| class as f64).collect())
        }
    };
    if targets.len() != set.len() {
        return Err(TrainError::Labels { labels: targets.len(), windows: set.len() });
    }
    Ok((objective, targets))
}

/// The windows learned from, and those held out.
fn divide(
    set: &TrainingSet,
    usable: &[usize],
    targets: &[f64],
    objective: Objective,
    options: &TreesOptions,
) -> (Vec<usize>, Vec<usize>) {
    let share = options.holdout.clamp(0.0, 0.9);
    if share == 0.0 {
        return (usable.to_vec(), Vec::new());
    }
    match (options.split, objective) {
        (Split::Last, Objective::Number) => return set.split_lives(usable, share),
        (Split::Last, _) => return set.split(usable, share),
        _ => {}
    }
    let mut classes: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for &index in usable {
        let class = if objective == Objective::Number { 0.0 } else { targets[index] };
        classes.entry(class as u64).or_default().push(index);
    }
    let mut random = ChaCha8Rng::seed_from_u64(options.boost.seed);
    let (mut fit, mut held) = (Vec::new(), Vec::new());
    for mut class in classes.into_values() {
        class.shuffle(&mut random);
        let out = (class.len() as f64 * share).round() as usize;
        held.extend_from_slice(&class[..out]);
        fit.extend_from_slice(&class[out..]);
    }
    fit.sort_unstable();
    held.sort_unstable();
    (fit, held)
}

/// How much each window counts: the same, or every class of `fit` the same.
fn weights(targets: &[f64], fit: &[usize], objective: Objective, balanced: bool) -> Vec<f64> {
    if !balanced || objective == Objective::Number {
        return vec![1.0; targets.len()];
    }
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    for &index in fit {
        *counts.entry(targets[index] as u64).or_default() += 1;
    }
    let classes = counts.len() as f64;
    let weight = |target: &f64| {
        let count = counts.get(&(*target as u64)).copied().unwrap_or(1);
        fit.len() as f64 / (classes * count as f64)
    };
    targets.iter().map(weight).collect()
}

/// The score of a row: a number, or the chance of what is not normal.
fn score(ensemble: &Ensemble, row: &[f32]) -> f64 {
    let answer = ensemble.answer(row);
    match ensemble.objective {
        Objective::Number | Objective::Chance => answer[0],
        Objective::Classes(_) => 1.0 - answer[0],
    }
}

fn threshold(
    held: &[usize],
    targets: &[f64],
    objective: Objective,
    options: &TreesOptions,
    score: &dyn Fn(&usize) -> f64,
) -> (f64, String) {
    if let Some(given) = options.threshold {
        return (given, "given".into());
    }
    if objective == Objective::Number {
        return (f64::INFINITY, "none: the score is a number, not a chance".into());
    }
    let scores: Vec<f64> = held.iter().map(score).collect();
    let faulty: Vec<bool> = held.iter().map(|index| targets[*index] > 0.5).collect();
    match best_f1(&scores, &faulty) {
        Some((best, _)) => {
            let (all, faulty) = (faulty.len(), faulty.iter().filter(|is| **is).count());
            (best, format!("greatest F1 on {all} windows held out, {faulty} faulty"))
        }
        None => (0.5, "no faulty window was held out, so 0.5".into()),
    }
}

fn used(ensemble: &Ensemble, names: &[String]) -> Vec<(String, usize)> {
    let mut counts = vec![0_usize; names.len()];
    for node in ensemble.trees.iter().flat_map(|(_, tree)| &tree.nodes) {
        if let Node::Split { feature, .. } = node {
            counts[*feature] += 1;
        }
    }
    let mut used: Vec<(String, usize)> =
        names.iter().cloned().zip(counts).filter(|(_, count)| *count > 0).collect();
    used.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    used
}

fn notes(
    set: &TrainingSet,
    target: Target<'_>,
    ensemble: &Ensemble,
    fit: &[usize],
    scores: &[f64],
    threshold: f64,
    threshold_by: &str,
) -> Notes {
    let outputs = match target {
        Target::Number { meaning, .. } => BTreeMap::from([("score".to_owned(), meaning.clone())]),
        Target::Faulty(_) => {
            BTreeMap::from([("score".to_owned(), Meaning::Probability { horizon: None })])
        }
        Target::Classes { names, .. } => BTreeMap::from([
            ("score".to_owned(), Meaning::Probability { horizon: None }),
            ("classes".to_owned(), Meaning::Class { labels: names.to_vec() }),
        ]),
    };
    let golden = set.golden_rows(fit, &Scaler::learn(set, fit), |row| {
        let row: Vec<f32> = row.iter().map(|&value| value as f32).collect();
        let mut answers = vec![("score", vec![score(ensemble, &row)])];
        if matches!(target, Target::Classes { .. }) {
            answers.push(("classes", ensemble.answer(&row)));
        }
        answers
    });
    Notes {
        kind: KIND,
        outputs,
        threshold,
        threshold_by: threshold_by.into(),
        baseline: set.baseline(fit, scores),
        golden,
    }
}

fn write(set: &TrainingSet, ensemble: &Ensemble, notes: &Notes) -> Vec<u8> {
    let width = set.names.len();
    let outputs = ensemble.base.len();
    let mut graph = Graph::new(KIND);
    graph.input("features", Kind::Float32, &[Dim::Batch, Dim::Fixed(width)]);
    write_trees(&mut graph, ensemble, outputs.max(3));
    let base: Vec<f64> = ensemble.base.iter().map(|base| f64::from(*base)).collect();
    match ensemble.objective {
        Objective::Classes(_) => {
            graph.weights("base", &[outputs], &base);
            graph.node("Add", &["trees", "base"], "sums");
            graph.node("Softmax", &["sums"], "classes");
            let mut not_normal = vec![1.0; outputs];
            not_normal[0] = 0.0;
            graph.weights("not_normal", &[outputs], &not_normal);
            graph.node("MatMul", &["classes", "not_normal"], "score");
            graph.output("score", Kind::Float32, &[Dim::Batch]);
            graph.output("classes", Kind::Float32, &[Dim::Batch, Dim::Fixed(outputs)]);
        }
        Objective::Number | Objective::Chance => {
            graph.weights("first", &[3], &[1.0, 0.0, 0.0]);
            graph.weights("base", &[], &base);
            graph.node("MatMul", &["trees", "first"], "sum");
            let is_chance = ensemble.objective == Objective::Chance;
            graph.node("Add", &["sum", "base"], if is_chance { "log_odds" } else { "score" });
            if is_chance {
                graph.node("Sigmoid", &["log_odds"], "score");
            }
            graph.output("score", Kind::Float32, &[Dim::Batch]);
        }
    }
    set.note(&mut graph, notes);
    graph.finish()
}

/// The trees' bare sums as the value `trees`, `[n, classes]`.
fn write_trees(graph: &mut Graph, ensemble: &Ensemble, classes: usize) {
    let (mut tree_ids, mut node_ids, mut features, mut modes) = (vec![], vec![], vec![], vec![]);
    let (mut cuts, mut below, mut above, mut missing) = (vec![], vec![], vec![], vec![]);
    let (mut leaf_trees, mut leaf_nodes, mut leaf_classes, mut leaves) =
        (vec![], vec![], vec![], vec![]);
    for (tree_id, (output, tree)) in ensemble.trees.iter().enumerate() {
        for (node_id, node) in tree.nodes.iter().enumerate() {
            let parts = match *node {
                Node::Split { feature, cut, missing_below, below, above } => {
                    ("BRANCH_LEQ", feature, cut, below, above, missing_below)
                }
                Node::Leaf(value) => {
                    leaf_trees.push(tree_id as i64);
                    leaf_nodes.push(node_id as i64);
                    leaf_classes.push(*output as i64);
                    leaves.push(value);
                    ("LEAF", 0, 0.0, 0, 0, false)
                }
            };
            tree_ids.push(tree_id as i64);
            node_ids.push(node_id as i64);
            modes.push(parts.0);
            features.push(parts.1 as i64);
            cuts.push(parts.2);
            below.push(parts.3 as i64);
            above.push(parts.4 as i64);
            missing.push(i64::from(parts.5));
        }
    }
    let attributes = vec![
        ("nodes_treeids", Attribute::Integers(tree_ids)),
        ("nodes_nodeids", Attribute::Integers(node_ids)),
        ("nodes_featureids", Attribute::Integers(features)),
        ("nodes_modes", Attribute::Texts(modes)),
        ("nodes_values", Attribute::Floats(cuts)),
        ("nodes_truenodeids", Attribute::Integers(below)),
        ("nodes_falsenodeids", Attribute::Integers(above)),
        ("nodes_missing_value_tracks_true", Attribute::Integers(missing)),
        ("class_treeids", Attribute::Integers(leaf_trees)),
        ("class_nodeids", Attribute::Integers(leaf_nodes)),
        ("class_ids", Attribute::Integers(leaf_classes)),
        ("class_weights", Attribute::Floats(leaves)),
        ("classlabels_int64s", Attribute::Integers((0..classes as i64).collect())),
        ("post_transform", Attribute::Text("NONE")),
    ];
    graph.learned_node("TreeEnsembleClassifier", "features", &["class", "trees"], attributes);
}
