//! The tail of a distribution: peaks over a level and the generalised Pareto distribution that they follow, so that one
//! can say which value is passed once in so many windows, beyond anything seen.
//!
//! `threshold` keeps one for each asset. After Siffer, Fouque, Termier, Largouët: "Anomaly Detection in Streams with
//! Extreme Value Theory" (KDD 2017), with four changes. Peaks that lie close together count as one (runs declustering;
//! Coles, "An Introduction to Statistical Modeling of Extreme Values", 2001, section 5.3.2), because windows that share
//! samples are not independent. What passed the threshold is not learned, but that it did is: as an *open* peak, of at
//! least that height (censored, in statistics). Without it every fit sees a tail that was cut off, and the threshold sinks
//! from fit to fit. Only the newest [`PEAKS_MAX`] are kept, and the windows since the oldest of them are what they are
//! counted against. And nothing is said of peaks that are too few or take too few values. It promises the same answer
//! for the same values in the same order; it never judges a value.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Most peaks that are remembered.
pub const PEAKS_MAX: usize = 256;
/// Fewer say nothing.
const PEAKS_MIN: usize = 20;
/// Fewer different values are a discrete score, which has no such tail.
const DISTINCT_MIN: usize = 10;
/// At most one peak in so many is open.
const OPEN_ONE_IN: usize = 5;
/// The distribution is fitted again after so many new peaks.
const REFIT: u32 = 8;
/// Places at which roots are looked for, on each side of 0.
const GRID: u32 = 20;
/// Halvings of an interval that holds a root.
const HALVINGS: u32 = 36;

/// A generalised Pareto distribution of excesses: `P(Y > y) = (1 + shape y / scale)^(-1 / shape)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pareto {
    /// Below 0 the tail ends, at 0 it is exponential, above it is heavy.
    pub shape: f64,
    /// Above 0.
    pub scale: f64,
}

impl Pareto {
    /// The distribution that fits `excesses` best, and `open` ones of which only the least is known; `None` where there are
    /// no excesses, or not all above 0.
    ///
    /// Grimshaw's trick ("Computing Maximum Likelihood Estimates for the Generalized Pareto Distribution",
    /// Technometrics 35, 1993): with `x = shape / scale` the two equations become one, and each of its roots is a
    /// candidate; so is the exponential. Where there is no root, the method of moments gives the other candidate. The
    /// likeliest is taken. Open excesses count with the chance to be passed: the shape is then the sum of `ln(1 + xY)`
    /// over all, divided by the number of those that are not open.
    pub fn fit(excesses: &[f64], open: &[f64]) -> Option<Pareto> {
        let all = || excesses.iter().chain(open).copied();
        let count = excesses.len() as f64;
        let mean = all().sum::<f64>() / count;
        let least = all().fold(f64::INFINITY, f64::min);
        let most = all().fold(0.0, f64::max);
        if excesses.is_empty() || least <= 0.0 || !mean.is_finite() {
            return None;
        }
        let exponential = Pareto { shape: 0.0, scale: mean };
        let of_root = |x: f64| {
            let shape = all().map(|y| (x * y).ln_1p()).sum::<f64>() / count;
            Pareto { shape, scale: shape / x }
        };
        let roots = roots(excesses, open, (least, mean, most));
        let mut candidates: Vec<Pareto> = roots.into_iter().map(of_root).collect();
        if candidates.is_empty() {
            let mean = excesses.iter().sum::<f64>() / count;
            let variance = excesses.iter().map(|y| (y - mean).powi(2)).sum::<f64>() / count;
            let ratio = mean * mean / variance;
            let scale = mean * (1.0 + ratio) / 2.0;
            candidates.push(Pareto { shape: (1.0 - ratio) / 2.0, scale });
        }
        candidates.push(exponential);
        candidates
            .into_iter()
            .filter(|p| p.shape.is_finite() && p.scale.is_finite() && p.scale > 0.0)
            .map(|p| (p.likelihood(excesses, open), p))
            .filter(|(likelihood, _)| !likelihood.is_nan())
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, p)| p)
    }

    /// The logarithm of the likelihood of `excesses` and of `open` ones; minus infinity where one cannot be.
    pub fn likelihood(&self, excesses: &[f64], open: &[f64]) -> f64 {
        let Pareto { shape, scale } = *self;
        let density = -(excesses.len() as f64) * scale.ln();
        if shape == 0.0 {
            return density - excesses.iter().chain(open).sum::<f64>() / scale;
        }
        let of =
            |values: &[f64]| -> f64 { values.iter().map(|y| (shape * y / scale).ln_1p()).sum() };
        let (sum, open) = (of(excesses), of(open));
        let likelihood = density - sum - (sum + open) / shape;
        if likelihood.is_nan() { f64::NEG_INFINITY } else { likelihood }
    }

    /// The excess that is passed with probability `p`.
    pub fn excess(&self, p: f64) -> f64 {
        if self.shape.abs() < 1e-9 {
            return -self.scale * p.ln();
        }
        self.scale / self.shape * (p.powf(-self.shape) - 1.0)
    }
}

/// The roots of Grimshaw's equation but for 0, which always is one: looked for where they can be, from `-1 / most` to
/// `2 (mean - least) / least²`. It is the derivative of the likelihood along `x` with the best shape for each `x`.
fn roots(excesses: &[f64], open: &[f64], (least, mean, most): (f64, f64, f64)) -> Vec<f64> {
    let count = excesses.len() as f64;
    let w = |x: f64| {
        let bent = |values: &[f64]| -> f64 { values.iter().map(|y| x * y / (1.0 + x * y)).sum() };
        let logs = |values: &[f64]| -> f64 { values.iter().map(|y| (x * y).ln_1p()).sum() };
        let (known, shape) = (bent(excesses), (logs(excesses) + logs(open)) / count);
        (count - known) * shape - (known + bent(open))
    };
    let far = (2.0 * (mean - least) / (least * least)).min(1e4 / mean);
    let near = 1e-4 / mean;
    // Towards -1 / most in steps of the distance that is left, away from 0 in steps of a factor.
    let below = (0..=GRID).map(|k| {
        let share = f64::from(k) / f64::from(GRID);
        -(near + (1.0 / most - near) * (1.0 - (1e-6_f64).powf(share)))
    });
    let above = (0..=GRID).map(|k| {
        let share = f64::from(k) / f64::from(GRID);
        near * (far / near).powf(share)
    });
    let mut found = Vec::new();
    let sides: [Vec<f64>; 2] =
        [below.collect(), if far > near { above.collect() } else { Vec::new() }];
    for side in sides {
        let values: Vec<f64> = side.iter().map(|x| w(*x)).collect();
        for (x, value) in side.windows(2).zip(values.windows(2)) {
            let [(mut from, to), (at_from, at_to)] = [(x[0], x[1]), (value[0], value[1])];
            if at_from.is_nan() || at_to.is_nan() || (at_from < 0.0) == (at_to < 0.0) {
                continue;
            }
            let mut to = to;
            for _ in 0..HALVINGS {
                let middle = f64::midpoint(from, to);
                if (w(middle) < 0.0) == (at_from < 0.0) { from = middle } else { to = middle }
            }
            found.push(f64::midpoint(from, to));
        }
    }
    found
}

/// One peak.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Peak {
    /// Which value it was.
    number: u64,
    /// By how much it passed the level; by how much at least, if it is open.
    excess: f64,
    is_open: bool,
}

/// Peaks over a level, and what they follow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tail {
    /// What is above it belongs to the tail.
    level: f64,
    /// Values so far.
    seen: u64,
    /// Values that came before those that the peaks are counted against.
    before: u64,
    /// Oldest first.
    peaks: VecDeque<Peak>,
    /// The last value of a run above the level that may go on, and the run's greatest excess.
    run: Option<(u64, f64)>,
    /// Peaks since the last fit.
    new: u32,
    fitted: Option<Pareto>,
}

impl Tail {
    /// The tail of the `seen` values of which `top` are the largest, each with its number from 1, in any order: what is
    /// above the least of them is a peak. Peaks no more than `gap` values apart are one.
    pub fn of_largest(seen: u64, mut top: Vec<(u64, f64)>, gap: u64) -> Tail {
        top.sort_by_key(|(number, _)| *number);
        let level = top.iter().map(|(_, value)| *value).fold(f64::INFINITY, f64::min);
        let mut tail = Tail {
            level,
            seen: 0,
            before: 0,
            peaks: VecDeque::new(),
            run: None,
            new: 0,
            fitted: None,
        };
        for (number, value) in top {
            tail.seen = number - 1;
            tail.take(value, gap);
        }
        tail.seen = seen;
        tail.fit();
        tail
    }

    /// Learns from one more value. Says whether there is a new fit.
    pub fn take(&mut self, value: f64, gap: u64) -> bool {
        self.seen += 1;
        let excess = value - self.level;
        if let Some((last, _)) = self.run
            && self.seen - last > gap
        {
            self.end_run();
        }
        if excess > 0.0 {
            let most = self.run.map_or(excess, |(_, most)| most.max(excess));
            self.run = Some((self.seen, most));
            if gap == 0 {
                self.end_run();
            }
        }
        if self.new < REFIT {
            return false;
        }
        self.fit();
        true
    }

    fn end_run(&mut self) {
        if let Some((number, excess)) = self.run.take() {
            self.push(Peak { number, excess, is_open: false });
        }
    }

    fn push(&mut self, peak: Peak) {
        if self.peaks.len() == PEAKS_MAX
            && let Some(oldest) = self.peaks.pop_front()
        {
            self.before = oldest.number;
        }
        self.peaks.push_back(peak);
        self.new += 1;
    }

    /// A value has passed `limit` and is not learned: nothing but that it did. Only so many as are one in five peaks.
    pub fn take_open(&mut self, limit: f64) {
        self.seen += 1;
        self.run = None;
        let open = self.peaks.iter().filter(|peak| peak.is_open).count();
        let excess = limit - self.level;
        if excess > 0.0 && open * OPEN_ONE_IN < self.peaks.len() {
            self.push(Peak { number: self.seen, excess, is_open: true });
        }
    }

    /// The newest open peak was a fault, or it was normal and this high: it is forgotten, or no longer open.
    pub fn close(&mut self, value: Option<f64>) {
        let newest = self.peaks.iter().rposition(|peak| peak.is_open);
        let open = newest.and_then(|at| self.peaks.remove(at));
        let excess = value.map(|value| value - self.level).filter(|excess| *excess > 0.0);
        if let Some(excess) = excess {
            let number = open.map_or(self.seen, |open| open.number);
            self.push(Peak { number, excess, is_open: false });
        }
        self.fit();
    }

    fn excesses(&self, is_open: bool) -> Vec<f64> {
        let peaks = self.peaks.iter().filter(|peak| peak.is_open == is_open);
        let mut excesses: Vec<f64> = peaks.map(|peak| peak.excess).collect();
        excesses.sort_by(f64::total_cmp);
        excesses
    }

    /// Fits the distribution to the peaks, where they can say something.
    pub fn fit(&mut self) {
        self.new = 0;
        let (excesses, open) = (self.excesses(false), self.excesses(true));
        let distinct = excesses.chunk_by(|a, b| a == b).count();
        let enough = excesses.len() >= PEAKS_MIN && distinct >= DISTINCT_MIN;
        self.fitted = if enough { Pareto::fit(&excesses, &open) } else { None };
    }

    /// How many peaks there are, and how many different heights they have.
    pub fn peaks(&self) -> (usize, usize) {
        let excesses = self.excesses(false);
        (self.peaks.len(), excesses.chunk_by(|a, b| a == b).count())
    }

    /// The value that a run passes once in `1 / q` values, never below the level; `None` where the peaks say nothing.
    pub fn value_passed(&self, q: f64) -> Option<f64> {
        let fitted = self.fitted?;
        let rate = self.peaks.len() as f64 / self.seen.saturating_sub(self.before).max(1) as f64;
        let excess = fitted.excess((q / rate).min(1.0));
        excess.is_finite().then_some(self.level + excess.max(0.0))
    }
}
