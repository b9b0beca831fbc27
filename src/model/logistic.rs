//! A model that tells faulty windows from normal ones: logistic regression.
//!
//! The demo trains its failure-risk model with it, on windows of machines with known faults; a site with labels can
//! do the same. `score` is the estimated chance that a window is faulty. `contributions` is what each feature adds
//! to the log-odds. Both classes weigh the same, however rare faults are, so 0.5 is the natural threshold. Fitted
//! by Newton's method with a penalty on the weights, so it is closed, quick and the same every time.

use std::collections::BTreeMap;

use serde::Serialize;

use super::build::{Dim, Graph, Kind};

use super::linear::{Square, solve};
use super::metadata::{Meaning, Notes};
use super::training::{Scaler, TrainError, TrainingSet, rounded, version_of};
use crate::evaluate::metrics::ranking::roc_auc;

/// Fewest windows that can be learned from.
pub const MIN_ROWS: usize = 16;

/// How to learn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogisticOptions {
    /// Weight of the penalty on large weights, above 0: more is smoother.
    pub l2: f64,
    /// At or above it a window is abnormal, 0 to 1.
    pub threshold: f64,
}

impl Default for LogisticOptions {
    fn default() -> Self {
        LogisticOptions { l2: 1.0, threshold: 0.5 }
    }
}

/// What was learned.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LogisticReport {
    /// Windows learned from.
    pub fitted: usize,
    /// Faulty ones among them.
    pub faulty: usize,
    /// Windows left out because a feature was missing.
    pub skipped: usize,
    /// Features that never changed, and are ignored.
    pub constant: Vec<String>,
    /// Steps it took.
    pub steps: usize,
    /// Area under the ROC curve on the windows learned from: an upper bound for any others.
    pub roc_auc: f64,
    /// The model's version.
    pub version: String,
}

/// Learns to tell the windows of `set` with a true label from the others; gives the bytes of an ONNX file.
pub fn train(
    set: &TrainingSet,
    labels: &[bool],
    options: &LogisticOptions,
) -> Result<(Vec<u8>, LogisticReport), TrainError> {
    if labels.len() != set.len() {
        return Err(TrainError::Labels { labels: labels.len(), windows: set.len() });
    }
    let usable = set.usable(MIN_ROWS)?;
    let scaler = Scaler::learn(set, &usable);
    let constant = scaler.constant(&set.names);
    if constant.len() == set.names.len() {
        return Err(TrainError::Constant { features: constant.len() });
    }
    let labels: Vec<bool> = usable.iter().map(|&index| labels[index]).collect();
    let faulty = labels.iter().filter(|label| **label).count();
    if faulty == 0 || faulty == labels.len() {
        return Err(TrainError::OneLabel { found: labels.len() });
    }
    // The last column is the constant term.
    let rows: Vec<Vec<f64>> = usable
        .iter()
        .map(|&index| {
            let mut row = scaler.apply(set.row(index));
            row.push(1.0);
            row
        })
        .collect();
    let problem = Problem::new(&rows, &labels, options.l2.max(1e-9));
    let (weights, steps) = problem.minimise()?;
    let scores: Vec<f64> = rows.iter().map(|row| dot(row, &weights)).collect();
    let chance = |odds: f64| 1.0 / (1.0 + (-odds).exp());
    let chances: Vec<f64> = scores.iter().map(|odds| chance(*odds)).collect();
    let (as_written, as_scaled) = (rounded(&weights), scaler.rounded());
    let notes = Notes {
        kind: "logistic",
        outputs: BTreeMap::from([
            ("score".to_owned(), Meaning::Probability { horizon: None }),
            ("contributions".to_owned(), Meaning::Contributions),
        ]),
        threshold: options.threshold,
        threshold_by: "given; both classes weigh the same, so 0.5 is the natural one".into(),
        baseline: set.baseline(&usable, &chances),
        golden: set.golden(&usable, &scaler, |row| {
            let mut row = as_scaled.apply(row);
            row.push(1.0);
            vec![("score", chance(dot(&row, &as_written)))]
        }),
    };
    let bytes = write(set, &scaler, &weights, &notes);
    let report = LogisticReport {
        fitted: labels.len(),
        faulty,
        skipped: set.len() - usable.len(),
        constant,
        steps,
        roc_auc: roc_auc(&scores, &labels).unwrap_or_default(),
        version: version_of(&bytes),
    };
    Ok((bytes, report))
}

struct Problem<'a> {
    rows: &'a [Vec<f64>],
    labels: &'a [bool],
    l2: f64,
    /// What one faulty and one normal row count, so that both classes weigh the same.
    shares: [f64; 2],
}

impl<'a> Problem<'a> {
    fn new(rows: &'a [Vec<f64>], labels: &'a [bool], l2: f64) -> Problem<'a> {
        let count = labels.len() as f64;
        let faulty = labels.iter().filter(|label| **label).count() as f64;
        Problem {
            rows,
            labels,
            l2,
            shares: [count / (2.0 * faulty), count / (2.0 * (count - faulty))],
        }
    }

    fn cases(&self) -> impl Iterator<Item = (&[f64], f64, f64)> {
        self.rows.iter().zip(self.labels).map(|(row, &faulty)| {
            let share = if faulty { self.shares[0] } else { self.shares[1] };
            (row.as_slice(), if faulty { 1.0 } else { 0.0 }, share)
        })
    }

    /// The penalised negative log-likelihood.
    fn loss(&self, weights: &[f64]) -> f64 {
        let misfit: f64 = self
            .cases()
            .map(|(row, target, share)| {
                let odds = dot(row, weights);
                // ln(1 + e^x) without overflow.
                share * (odds.max(0.0) + (-odds.abs()).exp().ln_1p() - target * odds)
            })
            .sum();
        let penalised = weights.split_last().map_or(&[][..], |(_, rest)| rest);
        misfit + 0.5 * self.l2 * penalised.iter().map(|w| w * w).sum::<f64>()
    }

    /// Newton's method; a step that does not help is halved.
    fn minimise(&self) -> Result<(Vec<f64>, usize), TrainError> {
        let width = self.rows.first().map_or(0, Vec::len);
        let mut weights = vec![0.0; width];
        let mut loss = self.loss(&weights);
        for step in 1..=100 {
            let (curvature, gradient) = self.slope(&weights);
            let direction = solve(curvature, &gradient).ok_or(TrainError::Singular)?;
            let mut length = 1.0;
            let (next, next_loss) = loop {
                let next: Vec<f64> =
                    weights.iter().zip(&direction).map(|(w, d)| w - length * d).collect();
                let next_loss = self.loss(&next);
                if next_loss <= loss || length < 1e-6 {
                    break (next, next_loss);
                }
                length /= 2.0;
            };
            let gain = loss - next_loss;
            if gain <= 1e-10 * loss.abs().max(1e-10) {
                return Ok((weights, step));
            }
            (weights, loss) = (next, next_loss);
        }
        Ok((weights, 100))
    }

    /// Second and first derivatives of the loss.
    fn slope(&self, weights: &[f64]) -> (Square, Vec<f64>) {
        let width = weights.len();
        let mut curvature = Square::zeros(width);
        let mut gradient = vec![0.0; width];
        for (row, target, share) in self.cases() {
            let chance = 1.0 / (1.0 + (-dot(row, weights)).exp());
            let bend = share * chance * (1.0 - chance);
            for ((cells, a), g) in
                curvature.cells.chunks_exact_mut(width).zip(row).zip(&mut gradient)
            {
                *g += share * (chance - target) * a;
                cells.iter_mut().zip(row).for_each(|(cell, b)| *cell += bend * a * b);
            }
        }
        for (i, g) in gradient.iter_mut().enumerate() {
            // The constant term is not penalised, but kept from being free altogether.
            let l2 = if i + 1 == width { 1e-9 } else { self.l2 };
            *g += l2 * weights[i];
            *curvature.at(i, i) += l2;
        }
        (curvature, gradient)
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn write(set: &TrainingSet, scaler: &Scaler, weights: &[f64], notes: &Notes) -> Vec<u8> {
    let width = set.names.len();
    let (constant, weights) = weights.split_last().map_or((0.0, &[][..]), |(c, w)| (*c, w));
    let mut graph = Graph::new("logistic");
    graph.input("features", Kind::Float32, &[Dim::Batch, Dim::Fixed(width)]);
    let scaled = scaler.write(&mut graph, "features");
    graph.weights("weights", &[width], weights);
    graph.weights("ones", &[width], &vec![1.0; width]);
    graph.weights("constant", &[], &[constant]);
    graph.node("Mul", &[scaled, "weights"], "contributions");
    graph.node("MatMul", &["contributions", "ones"], "sum");
    graph.node("Add", &["sum", "constant"], "log_odds");
    graph.node("Sigmoid", &["log_odds"], "score");
    graph.output("score", Kind::Float32, &[Dim::Batch]);
    graph.output("contributions", Kind::Float32, &[Dim::Batch, Dim::Fixed(width)]);
    set.note(&mut graph, notes);
    graph.finish()
}
