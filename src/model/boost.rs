//! Gradient boosting: many small trees, each fitted to what those before it leave over.
//!
//! `trees` trains with it and writes the result. Friedman, "Greedy function approximation" (Annals of Statistics 29,
//! 2001), with second derivatives (Chen and Guestrin 2016). Squared error for numbers, where what is too large may weigh
//! more (expectiles; Newey and Powell, Econometrica 55, 1987), log loss for two classes, softmax for more. Rows have
//! weights; rows and features can be sampled; it stops early by the loss on rows that are not learned from. The same rows
//! and the same seed give the same trees; one thread.

use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;

use super::tree::{Binned, Grower, Limits, Tree};

/// How to boost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoostOptions {
    /// Most rounds; a round grows a tree for each output. At most 10,000.
    pub rounds: usize,
    /// What a tree's answer is multiplied by: smaller learns slower and needs more rounds.
    pub learning_rate: f64,
    /// Most divisions between the root and a leaf, 1 to 16.
    pub depth: usize,
    /// Fewest rows in a leaf.
    pub leaf_rows: usize,
    /// Penalty on the leaves' squares: more is smoother.
    pub l2: f64,
    /// Share of the rows that each round looks at, above 0 to 1.
    pub subsample: f64,
    /// Share of the features that each tree looks at, above 0 to 1.
    pub columns: f64,
    /// Most bins a feature: up to so many different values are told apart exactly. More is slower.
    pub bins: usize,
    /// Stop after so many rounds without a lower loss on the rows held out.
    pub patience: usize,
    /// Of a number: how much more an answer counts that is too large than one that is too small.
    pub late: f64,
    /// Of the samples.
    pub seed: u64,
}

impl Default for BoostOptions {
    fn default() -> Self {
        BoostOptions {
            rounds: 500,
            learning_rate: 0.05,
            depth: 5,
            leaf_rows: 5,
            l2: 1.0,
            subsample: 0.8,
            columns: 0.8,
            bins: 1024,
            patience: 50,
            late: 1.0,
            seed: 0,
        }
    }
}

/// What is learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objective {
    /// A number: squared error.
    Number,
    /// Whether: log loss.
    Chance,
    /// Which of so many: softmax.
    Classes(usize),
}

impl Objective {
    /// How many sums of trees there are.
    pub fn outputs(self) -> usize {
        match self {
            Objective::Number | Objective::Chance => 1,
            Objective::Classes(classes) => classes,
        }
    }
}

/// Rows to learn from. `targets` are numbers, 0 or 1, or class numbers.
#[derive(Clone, Copy, Debug)]
pub struct Cases<'a> {
    /// Features, row after row; NaN is missing.
    pub rows: &'a [f32],
    /// Features of a row.
    pub width: usize,
    /// By row.
    pub targets: &'a [f64],
    /// By row: how much it counts.
    pub weights: &'a [f64],
}

impl Cases<'_> {
    fn row(&self, index: usize) -> &[f32] {
        &self.rows[index * self.width..(index + 1) * self.width]
    }
}

/// What was learned.
#[derive(Clone, Debug, PartialEq)]
pub struct Ensemble {
    /// What its sums mean.
    pub objective: Objective,
    /// By output: what the sum starts with.
    pub base: Vec<f32>,
    /// The trees, each with its output.
    pub trees: Vec<(usize, Tree)>,
    /// Loss on the rows held out after each round; without such rows on those learned from.
    pub losses: Vec<f64>,
}

impl Ensemble {
    /// The sums of `row`, by output, as a runtime adds them up.
    pub fn sums(&self, row: &[f32]) -> Vec<f32> {
        let mut sums = vec![0.0_f32; self.base.len()];
        for (output, tree) in &self.trees {
            sums[*output] += tree.value(row);
        }
        sums.iter().zip(&self.base).map(|(sum, base)| sum + base).collect()
    }

    /// The answer for `row`: a number, the chance, or the chance of each class.
    pub fn answer(&self, row: &[f32]) -> Vec<f64> {
        let sums: Vec<f64> = self.sums(row).into_iter().map(f64::from).collect();
        answer(self.objective, &sums)
    }
}

fn answer(objective: Objective, sums: &[f64]) -> Vec<f64> {
    match objective {
        Objective::Number => sums.to_vec(),
        Objective::Chance => sums.iter().map(|sum| 1.0 / (1.0 + (-sum).exp())).collect(),
        Objective::Classes(_) => {
            let most = sums.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let powers: Vec<f64> = sums.iter().map(|sum| (sum - most).exp()).collect();
            let whole: f64 = powers.iter().sum();
            powers.iter().map(|power| power / whole).collect()
        }
    }
}

/// Learns from the rows `fit`; `held` are looked at to stop early, and never learned from.
pub fn boost(
    cases: &Cases<'_>,
    objective: Objective,
    fit: &[usize],
    held: &[usize],
    options: &BoostOptions,
) -> Ensemble {
    let fitted: Vec<f32> = fit.iter().flat_map(|&index| cases.row(index)).copied().collect();
    let data = Binned::of(&fitted, cases.width, options.bins);
    let base = base(cases, objective, fit);
    let outputs = objective.outputs();
    let start: Vec<f64> = base.iter().map(|base| f64::from(*base)).collect();
    let mut sums: Vec<f64> = start.repeat(fit.len());
    let mut seen: Vec<f64> = start.repeat(held.len());
    let mut random = ChaCha8Rng::seed_from_u64(options.seed);
    let mut ensemble = Ensemble { objective, base, trees: Vec::new(), losses: Vec::new() };
    let late = options.late;
    let watched = |sums: &[f64], seen: &[f64]| {
        let (rows, sums) = if held.is_empty() { (fit, sums) } else { (held, seen) };
        loss(cases, (objective, late), rows, sums)
    };
    let (mut best, mut best_rounds) = (watched(&sums, &seen), 0);
    let limits = Limits {
        depth: options.depth.clamp(1, 16),
        leaf_rows: options.leaf_rows,
        l2: options.l2.max(0.0),
        rate: options.learning_rate,
    };
    for round in 1..=options.rounds.min(10_000) {
        let sampled = sample(&mut random, fit.len(), options.subsample);
        let slopes = slopes(cases, (objective, late), fit, &sums);
        for output in 0..outputs {
            let features = sample(&mut random, cases.width, options.columns);
            let mut features: Vec<usize> = features.into_iter().map(|f| f as usize).collect();
            // Of features that divide the rows alike, the one that says least else is taken.
            features.sort_by_key(|&feature| data.bins(feature));
            let slopes = &slopes[output * fit.len()..(output + 1) * fit.len()];
            let grower = Grower { data: &data, limits, slopes, features: &features };
            let tree = grower.grow(&mut sampled.clone());
            for (at, &index) in fit.iter().enumerate() {
                sums[at * outputs + output] += f64::from(tree.value(cases.row(index)));
            }
            for (at, &index) in held.iter().enumerate() {
                seen[at * outputs + output] += f64::from(tree.value(cases.row(index)));
            }
            ensemble.trees.push((output, tree));
        }
        let now = watched(&sums, &seen);
        ensemble.losses.push(now);
        if now < best {
            (best, best_rounds) = (now, round);
        } else if !held.is_empty() && round - best_rounds >= options.patience.max(1) {
            break;
        }
    }
    // One tree at least: an ensemble without any is no graph.
    ensemble.trees.truncate(best_rounds.max(1) * outputs);
    ensemble
}

/// A sorted sample without repetition; all where the share is 1.
fn sample(random: &mut ChaCha8Rng, count: usize, share: f64) -> Vec<u32> {
    let wanted = (count as f64 * share.clamp(0.0, 1.0)).ceil().max(1.0) as usize;
    if wanted >= count {
        return (0..count as u32).collect();
    }
    let mut sampled: Vec<u32> =
        index::sample(random, count, wanted).into_iter().map(|at| at as u32).collect();
    sampled.sort_unstable();
    sampled
}

/// The best constant answer, as a sum.
fn base(cases: &Cases<'_>, objective: Objective, fit: &[usize]) -> Vec<f32> {
    let whole: f64 = fit.iter().map(|&index| cases.weights[index]).sum();
    let share = |counts: &dyn Fn(f64) -> f64| {
        let sum: f64 = fit.iter().map(|&i| cases.weights[i] * counts(cases.targets[i])).sum();
        sum / whole.max(f64::MIN_POSITIVE)
    };
    let within = |share: f64| share.clamp(1e-6, 1.0 - 1e-6);
    match objective {
        Objective::Number => vec![share(&|target| target) as f32],
        Objective::Chance => {
            let chance = within(share(&|target| target));
            vec![(chance / (1.0 - chance)).ln() as f32]
        }
        Objective::Classes(classes) => (0..classes)
            .map(|class| within(share(&|t| f64::from(t as usize == class))).ln() as f32)
            .collect(),
    }
}

/// First and second derivatives of the loss, output after output, row after row.
fn slopes(
    cases: &Cases<'_>,
    (objective, late): (Objective, f64),
    fit: &[usize],
    sums: &[f64],
) -> Vec<(f64, f64)> {
    let outputs = objective.outputs();
    let mut slopes = vec![(0.0, 0.0); fit.len() * outputs];
    // As many curvatures as there are classes share one degree of freedom too many (Friedman 2001, section 4.6).
    let factor = if outputs > 1 { outputs as f64 / (outputs as f64 - 1.0) } else { 1.0 };
    for (at, &index) in fit.iter().enumerate() {
        let (target, weight) = (cases.targets[index], cases.weights[index]);
        let answers = answer(objective, &sums[at * outputs..(at + 1) * outputs]);
        for (output, answer) in answers.into_iter().enumerate() {
            let (gradient, curvature) = match objective {
                Objective::Number => {
                    let counts = if answer > target { late } else { 1.0 };
                    (counts * (answer - target), counts)
                }
                Objective::Chance => (answer - target, answer * (1.0 - answer)),
                Objective::Classes(_) => {
                    let is = f64::from(target as usize == output);
                    (answer - is, factor * answer * (1.0 - answer))
                }
            };
            slopes[output * fit.len() + at] = (weight * gradient, weight * curvature.max(1e-12));
        }
    }
    slopes
}

/// The weighted mean loss of rows with these sums.
fn loss(
    cases: &Cases<'_>,
    (objective, late): (Objective, f64),
    rows: &[usize],
    sums: &[f64],
) -> f64 {
    let outputs = objective.outputs();
    let (mut loss, mut whole) = (0.0, 0.0);
    for (at, &index) in rows.iter().enumerate() {
        let (target, weight) = (cases.targets[index], cases.weights[index]);
        let answers = answer(objective, &sums[at * outputs..(at + 1) * outputs]);
        let one = match objective {
            Objective::Number => {
                let over = answers[0] - target;
                over.powi(2) * if over > 0.0 { late } else { 1.0 }
            }
            Objective::Chance => {
                let right = if target > 0.5 { answers[0] } else { 1.0 - answers[0] };
                -right.max(1e-15).ln()
            }
            Objective::Classes(_) => -answers[target as usize].max(1e-15).ln(),
        };
        loss += weight * one;
        whole += weight;
    }
    loss / f64::max(whole, f64::MIN_POSITIVE)
}
