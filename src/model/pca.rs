//! A model of normal running in closed form: principal components with Hotelling's T² and the squared prediction
//! error Q.
//!
//! `cli train` calls [`train`] on a recording of normal running. Features are brought to one scale; the components
//! that carry most of their variance span what is normal. T² says how unusual a window is within that space, Q how
//! far it lies outside of it (Jackson and Mudholkar, Technometrics 21, 1979). Each is divided by its limit, and the
//! larger of the two is the index φ: 1 is the edge of what the recording showed. The limits are quantiles, not the
//! formulas of a normal distribution, and the larger of those on the fitted windows and on the held-out tail: with
//! few windows and many features the fitted ones look better than any later window can.
//!
//! `score` is `φ / (1 + φ)`: 0 is the middle of normal, 0.5 its edge, 1 never reached. `contributions` divides a
//! window's T² and Q among the features, for T² by the complete decomposition `(D^½ z)²` of Alcala and Qin
//! (Automatica 45, 2009), which is never negative and sums to T². All of it, scaling too, is inside the graph.
//!
//! Where it is to follow an asset's drift, the graph has a memory: how far the asset's normal running lies from that of
//! the recording, in scaled features. Each calm window moves it a little; one whose index is half the threshold's or
//! more does not, so that a fault is not learned.

use std::collections::BTreeMap;

use serde::Serialize;

use super::build::{Dim, Graph, Kind};
use super::judged::edge;
use super::linear::{Square, eigen};
use super::metadata::{Meaning, Notes, json};
use super::training::{Scaler, TrainError, TrainingSet, quantile, rounded, version_of};
use crate::time::Span;

/// Fewest windows that can be learned from.
pub const MIN_ROWS: usize = 16;

/// Of a limit, for each feature: Q of a window within the components is rounding alone, and must not count.
const FLOOR: f64 = 1e-3;

/// How to learn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PcaOptions {
    /// Share of the variance that the components carry, 0 to 1.
    pub explained: f64,
    /// Share of each asset's windows, the last ones, that are held out to set the limits: 0.1 to 0.5; at 0 none are, and
    /// the limits are those of the windows fitted to, which `quantile` and `margin` have to make up for.
    pub holdout: f64,
    /// Quantile of T² and Q, and then of φ, that is the edge of normal, 0.5 to 1. A single window is no edge: it may be a
    /// fault that nobody saw, or the first, half full.
    pub quantile: f64,
    /// How far above the edge of the held-out windows (of the fitted ones, where none is held out) the threshold lies, as a
    /// factor on φ; at least 1.
    pub margin: f64,
    /// Normal running drifts: what changes within this time as much as it did in the recording is normal. Needs a
    /// recording of at least twice that.
    pub drift: Option<Span>,
    /// How far correlations are taken for chance and shrunk towards none, 0 to 1 (Ledoit and Wolf, Journal of
    /// Multivariate Analysis 88, 2004): with few windows, small differences of features that went together mean little.
    pub shrink: f64,
    /// Time constant with which the middle of normal running follows what each asset's windows come to while they are
    /// calm (an exponentially weighted mean). Absent: it stays that of the recording. Needs to know how far windows are
    /// apart.
    pub follow: Option<Span>,
}

impl Default for PcaOptions {
    fn default() -> Self {
        let (explained, holdout, quantile, margin) = (0.9, 0.25, 0.999, 2.0);
        let (drift, shrink, follow) = (None, 0.0, None);
        PcaOptions { explained, holdout, quantile, margin, drift, shrink, follow }
    }
}

/// What was learned.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainReport {
    /// Windows that the components were fitted to.
    pub fitted: usize,
    /// Windows that the limits were set on besides.
    pub held_out: usize,
    /// Windows left out because a feature was missing.
    pub skipped: usize,
    /// Features.
    pub features: usize,
    /// Features that never changed, and are ignored.
    pub constant: Vec<String>,
    /// Components kept.
    pub components: usize,
    /// Share of the variance that they carry.
    pub explained: f64,
    /// T² at the edge of normal.
    pub t2_limit: f64,
    /// Q at the edge of normal.
    pub q_limit: f64,
    /// At or above it a window is abnormal.
    pub threshold: f64,
    /// How it was chosen.
    pub threshold_by: String,
    /// The model's version.
    pub version: String,
}

/// Windows whose index is below this share of the threshold's are calm.
const CALM: f64 = 0.5;

/// How a model follows drift.
#[derive(Clone, Copy)]
struct Follow {
    /// Share of the way that a window moves the middle.
    gain: f64,
    /// Index below which it does.
    calm: f64,
}

impl Follow {
    /// With windows so far apart, and the threshold at the index `phi`.
    fn of(options: &PcaOptions, every: Option<Span>, phi: f64) -> Option<Follow> {
        let (follow, every) = options.follow.zip(every)?;
        let gain = (every.0 as f64 / follow.0.max(1) as f64).min(1.0);
        Some(Follow { gain, calm: phi * CALM })
    }
}

/// The space of normal running.
struct Subspace {
    /// Turns a scaled row into the parts of its T²: `P Λ^-½ Pᵀ`.
    inside: Square,
    /// Turns a scaled row into what the components do not explain: `I - P Pᵀ`.
    outside: Square,
    components: usize,
    explained: f64,
}

impl Subspace {
    /// The same as the graph has it: in float32.
    fn rounded(&self) -> Subspace {
        let round = |square: &Square| Square { size: square.size, cells: rounded(&square.cells) };
        Subspace { inside: round(&self.inside), outside: round(&self.outside), ..*self }
    }
}

/// What the outputs mean.
fn meanings() -> BTreeMap<String, Meaning> {
    let all = [
        ("score", Meaning::Score),
        ("t2", Meaning::Part),
        ("q", Meaning::Part),
        ("contributions", Meaning::Contributions),
    ];
    all.map(|(name, meaning)| (name.to_owned(), meaning)).into()
}

/// Learns what is normal from `set`; gives the bytes of an ONNX file.
pub fn train(
    set: &TrainingSet,
    options: &PcaOptions,
) -> Result<(Vec<u8>, TrainReport), TrainError> {
    let (usable, faults) = set.apart(set.usable(MIN_ROWS)?, MIN_ROWS)?;
    let (whole, held) = (options.holdout <= 0.0, options.holdout.clamp(0.0, 0.9));
    let (fit, tail) = if whole { (usable.clone(), vec![]) } else { set.split(&usable, held) };
    let scaler = Scaler::learn(set, &fit);
    let constant = scaler.constant(&set.names);
    if constant.len() == set.names.len() {
        return Err(TrainError::Constant { features: constant.len() });
    }
    let space = subspace(set, &fit, &scaler, options);
    let measure = |rows: &[usize]| -> (Vec<f64>, Vec<f64>) {
        rows.iter().map(|&index| distances(&space, &scaler.apply(set.row(index)))).unzip()
    };
    let (fit_t2, fit_q) = measure(&fit);
    let (tail_t2, tail_q) = measure(&tail);
    let q = options.quantile.clamp(0.5, 1.0);
    let limit = |fit: &[f64], tail: &[f64]| quantile(fit, q).max(quantile(tail, q));
    let t2_limit = limit(&fit_t2, &tail_t2).max(FLOOR);
    let q_limit = limit(&fit_q, &tail_q).max(FLOOR * set.names.len() as f64);
    let index = |t2: f64, q: f64| (t2 / t2_limit).max(q / q_limit);
    let phis = |rows: &[usize]| -> Vec<f64> {
        let (t2s, qs) = measure(rows);
        t2s.into_iter().zip(qs).map(|(t2, q)| index(t2, q)).collect()
    };
    let judged = phis(if whole { &fit } else { &tail });
    let edge = edge(&judged, &phis(&set.confirmed(&usable)), (q, options.margin), &phis(&faults));
    let threshold = score(edge.index);
    let used = [fit.as_slice(), &tail].concat();
    let scores: Vec<f64> = phis(&used).into_iter().map(score).collect();
    let (as_written, as_scaled) = (space.rounded(), scaler.rounded());
    let threshold_by = edge.told(if whole { "fitted" } else { "held-out" });
    let notes = Notes {
        kind: "pca",
        outputs: meanings(),
        threshold,
        threshold_by: threshold_by.clone(),
        baseline: set.baseline(&used, &scores),
        golden: set.golden(&used, &scaler, |row| {
            let (t2, q) = distances(&as_written, &as_scaled.apply(row));
            vec![("score", score(index(t2, q))), ("t2", t2), ("q", q)]
        }),
    };
    let follow = Follow::of(options, set.every, edge.index);
    let bytes = write(set, &scaler, &space, (t2_limit, q_limit), follow, &notes);
    let report = TrainReport {
        version: version_of(&bytes),
        fitted: fit.len(),
        held_out: tail.len(),
        skipped: set.len() - usable.len() - faults.len(),
        features: set.names.len(),
        constant,
        components: space.components,
        explained: space.explained,
        t2_limit,
        q_limit,
        threshold,
        threshold_by,
    };
    Ok((bytes, report))
}

fn subspace(set: &TrainingSet, fit: &[usize], scaler: &Scaler, options: &PcaOptions) -> Subspace {
    let width = set.names.len();
    let rows: Vec<Vec<f64>> = fit.iter().map(|&index| scaler.apply(set.row(index))).collect();
    let mut covariance = second_moment(width, rows.iter().cloned());
    if let Some(drift) = options.drift {
        let pairs = apart(set, fit, drift);
        let changes = second_moment(
            width,
            pairs.into_iter().map(|(early, late)| {
                rows[late].iter().zip(&rows[early]).map(|(late, early)| late - early).collect()
            }),
        );
        covariance.cells.iter_mut().zip(&changes.cells).for_each(|(all, drift)| *all += drift);
    }
    for row in 0..width {
        for column in (0..width).filter(|column| *column != row) {
            *covariance.at(row, column) *= 1.0 - options.shrink.clamp(0.0, 1.0);
        }
    }
    let (values, vectors) = eigen(covariance);
    let total: f64 = values.iter().sum();
    let mut components = 0;
    let mut carried = 0.0;
    for value in &values {
        // A direction without variance would divide by nothing; what happens there is Q's to see.
        if carried >= options.explained.clamp(0.0, 1.0) * total || *value <= 1e-6 * total {
            break;
        }
        carried += value;
        components += 1;
    }
    let mut inside = Square::zeros(width);
    let mut outside = Square::identity(width);
    for (k, value) in values.iter().take(components).enumerate() {
        for row in 0..width {
            for column in 0..width {
                let cell = vectors.get(row, k) * vectors.get(column, k);
                *inside.at(row, column) += cell / value.sqrt();
                *outside.at(row, column) -= cell;
            }
        }
    }
    Subspace { inside, outside, components, explained: carried / total }
}

/// The mean of the products of all pairs of features; of rows about nought their covariance.
fn second_moment(width: usize, rows: impl Iterator<Item = Vec<f64>>) -> Square {
    let mut sum = Square::zeros(width);
    let mut count = 0.0;
    for row in rows {
        for (cells, a) in sum.cells.chunks_exact_mut(width).zip(&row) {
            cells.iter_mut().zip(&row).for_each(|(cell, b)| *cell += a * b);
        }
        count += 1.0;
    }
    let count = f64::max(count - 1.0, 1.0);
    sum.cells.iter_mut().for_each(|cell| *cell /= count);
    sum
}

/// Pairs of windows of one asset that end this far apart, as places in `fit`, which has each asset's in time order.
fn apart(set: &TrainingSet, fit: &[usize], by: Span) -> Vec<(usize, usize)> {
    let (mut pairs, mut early) = (Vec::new(), 0);
    for late in 0..fit.len() {
        let same = |early: usize| set.assets[fit[early]] == set.assets[fit[late]];
        let far = |early: usize| set.ends[fit[late]].since(set.ends[fit[early]]) >= by;
        while early < late
            && (!same(early) || (early + 1 < late && same(early + 1) && far(early + 1)))
        {
            early += 1;
        }
        if early < late && same(early) && far(early) {
            pairs.push((early, late));
        }
    }
    pairs
}

/// The index as it is told: below 1, whatever it is.
fn score(phi: f64) -> f64 {
    phi / (1.0 + phi)
}

/// T² and Q of a scaled row.
fn distances(space: &Subspace, row: &[f64]) -> (f64, f64) {
    let norm = |matrix: &Square| -> f64 {
        let sums = matrix.cells.chunks_exact(matrix.size.max(1));
        sums.map(|cells| cells.iter().zip(row).map(|(c, v)| c * v).sum::<f64>().powi(2)).sum()
    };
    (norm(&space.inside), norm(&space.outside))
}

fn write(
    set: &TrainingSet,
    scaler: &Scaler,
    space: &Subspace,
    (t2_limit, q_limit): (f64, f64),
    follow: Option<Follow>,
    notes: &Notes,
) -> Vec<u8> {
    let width = set.names.len();
    let mut graph = Graph::new("pca");
    graph.input("features", Kind::Float32, &[Dim::Batch, Dim::Fixed(width)]);
    let mut scaled = scaler.write(&mut graph, "features");
    if follow.is_some() {
        graph.input("middle", Kind::Float32, &[Dim::Batch, Dim::Fixed(width)]);
        graph.node("Sub", &[scaled, "middle"], "from_middle");
        scaled = "from_middle";
    }
    graph.weights("inside", &[width, width], &space.inside.cells);
    graph.weights("outside", &[width, width], &space.outside.cells);
    graph.weights("ones", &[width], &vec![1.0; width]);
    graph.weights("ones_column", &[width, 1], &vec![1.0; width]);
    graph.weights("t2_factor", &[], &[1.0 / t2_limit]);
    graph.weights("q_factor", &[], &[1.0 / q_limit]);
    graph.weights("one", &[], &[1.0]);
    graph.weights("tiny", &[], &[1e-12]);

    graph.node("MatMul", &[scaled, "inside"], "t");
    graph.node("Mul", &["t", "t"], "t_parts");
    graph.node("MatMul", &["t_parts", "ones"], "t2");
    graph.node("MatMul", &[scaled, "outside"], "e");
    graph.node("Mul", &["e", "e"], "e_parts");
    graph.node("MatMul", &["e_parts", "ones"], "q");

    graph.node("Mul", &["t2", "t2_factor"], "t2_share");
    graph.node("Mul", &["q", "q_factor"], "q_share");
    graph.node("Max", &["t2_share", "q_share"], "phi");
    graph.node("Add", &["phi", "one"], "phi_plus_one");
    graph.node("Div", &["phi", "phi_plus_one"], "score");

    graph.node("Mul", &["t_parts", "t2_factor"], "t_weighed");
    graph.node("Mul", &["e_parts", "q_factor"], "e_weighed");
    graph.node("Add", &["t_weighed", "e_weighed"], "parts");
    graph.node("MatMul", &["parts", "ones_column"], "whole");
    graph.node("Add", &["whole", "tiny"], "whole_plus_tiny");
    graph.node("Div", &["parts", "whole_plus_tiny"], "contributions");

    graph.output("score", Kind::Float32, &[Dim::Batch]);
    graph.output("t2", Kind::Float32, &[Dim::Batch]);
    graph.output("q", Kind::Float32, &[Dim::Batch]);
    graph.output("contributions", Kind::Float32, &[Dim::Batch, Dim::Fixed(width)]);
    if let Some(follow) = follow {
        write_follow(&mut graph, scaled, width, follow);
    }
    set.note(&mut graph, notes);
    graph.finish()
}

/// The memory: where the middle lies after the window.
fn write_follow(graph: &mut Graph, scaled: &str, width: usize, follow: Follow) {
    graph.weights("gain", &[], &[follow.gain]);
    graph.weights("calm", &[], &[follow.calm]);
    graph.weights("nought", &[], &[0.0]);
    graph.node("MatMul", &["t_parts", "ones_column"], "t2_column");
    graph.node("MatMul", &["e_parts", "ones_column"], "q_column");
    graph.node("Mul", &["t2_column", "t2_factor"], "t2_column_share");
    graph.node("Mul", &["q_column", "q_factor"], "q_column_share");
    graph.node("Max", &["t2_column_share", "q_column_share"], "phi_column");
    graph.node("Less", &["phi_column", "calm"], "is_calm");
    graph.node("Mul", &[scaled, "gain"], "step");
    graph.node("Where", &["is_calm", "step", "nought"], "learned");
    graph.node("Add", &["middle", "learned"], "middle_out");
    graph.output("middle_out", Kind::Float32, &[Dim::Batch, Dim::Fixed(width)]);
    let state = BTreeMap::from([("middle", "middle_out")]);
    graph.note("forebay.state", json(&state));
}
