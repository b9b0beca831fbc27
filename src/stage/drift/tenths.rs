//! Values counted by the tenths of a baseline, and how far they are from it.
//!
//! `drift` keeps ten counts for each feature and for the score. It promises that counts are all that is kept, so that
//! memory does not grow with time; what lies within a tenth is not told apart.

use serde::{Deserialize, Serialize};

/// The share that an empty part counts as (the usual guard against a logarithm of 0).
const LEAST: f64 = 1e-4;
/// The 99.9 % quantile of chi-square with 9 degrees of freedom.
const CHI_SQUARE: f64 = 27.877;
/// The 95 % quantile of Kolmogorov's distribution.
const KOLMOGOROV: f64 = 1.358;
/// A smaller distance is not worth a word, however sure it is.
const DISTANCE_MIN: f64 = 0.1;

/// How many values fell into each tenth of the training data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenths([u32; 10]);

/// How far counted values are from the baseline.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Distance {
    /// Population stability index: `sum((a - e) ln(a / e))`.
    pub psi: f64,
    /// The greatest difference of the two distributions at the tenths' edges: Kolmogorov and Smirnov's D, or less.
    pub ks: f64,
    /// Whether it is more than so few values can have by chance, and more than is worth a word.
    pub is_sure: bool,
}

/// The tenth of `edges` that a value is in: 0 to 9, also beyond the ends.
fn place(edges: &[f32; 11], value: f64) -> usize {
    // Edges are float32: what was one of them must be found in its place.
    let value = value as f32;
    edges[1..10].iter().filter(|edge| **edge <= value).count()
}

/// The share of the training data below a value, 0 to 1, in proportion between edges.
pub fn rank(edges: &[f32; 11], value: f64) -> f64 {
    let below = edges.iter().filter(|edge| f64::from(**edge) < value).count();
    let upto = edges.iter().filter(|edge| f64::from(**edge) <= value).count();
    if upto > below {
        // On one edge, or on several that are the same: the middle of what they span.
        return (below + upto - 1) as f64 / 20.0;
    }
    match (below.checked_sub(1).and_then(|at| edges.get(at)), edges.get(below)) {
        (Some(low), Some(high)) => {
            let (low, high) = (f64::from(*low), f64::from(*high));
            ((below - 1) as f64 + (value - low) / (high - low)) / 10.0
        }
        (None, _) => 0.0,
        (_, None) => 1.0,
    }
}

impl Tenths {
    /// Counts a value.
    pub fn count(&mut self, edges: &[f32; 11], value: f64) {
        if let Some(count) = self.0.get_mut(place(edges, value)) {
            *count = count.saturating_add(1);
        }
    }

    /// How many were counted.
    pub fn total(&self) -> u32 {
        self.0.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// How far the counted values are from a baseline of `windows` values with these edges. `overlap` windows share
    /// samples and count as one.
    pub fn distance(&self, edges: &[f32; 11], windows: usize, overlap: f64) -> Distance {
        // A tenth without width holds nothing: what is due to it lies on its edge, in the next one that has some.
        let is_closed = |tenth: usize| tenth + 1 < 10 && edges[tenth] == edges[tenth + 1];
        let mut expected = [0.0; 10];
        let mut due = 0.0;
        for (tenth, share) in expected.iter_mut().enumerate() {
            due += 0.1;
            if !is_closed(tenth) {
                *share = std::mem::take(&mut due);
            }
        }
        self.far(expected, windows as f64, is_closed, overlap)
    }

    /// How far they are from others that were counted by the same tenths.
    pub fn distance_from(&self, others: &Tenths, overlap: f64) -> Distance {
        self.far(others.shares(), f64::from(others.total()), |_| false, overlap)
    }

    fn shares(&self) -> [f64; 10] {
        let total = f64::from(self.total().max(1));
        self.0.map(|count| f64::from(count) / total)
    }

    /// PSI of unchanged data is `chi-square / n` (Yurdakul, "Statistical Properties of Population Stability Index",
    /// 2018): less than its 99.9 % quantile is chance; so is a D below Kolmogorov's 95 % quantile.
    fn far(
        &self,
        expected: [f64; 10],
        windows: f64,
        is_closed: impl Fn(usize) -> bool,
        overlap: f64,
    ) -> Distance {
        let total = f64::from(self.total());
        if total == 0.0 || windows == 0.0 {
            return Distance::default();
        }
        let (mut psi, mut ks, mut sum_a, mut sum_e) = (0.0, 0.0_f64, 0.0, 0.0);
        for (tenth, (a, e)) in self.shares().into_iter().zip(expected).enumerate() {
            (sum_a, sum_e) = (sum_a + a, sum_e + e);
            if !is_closed(tenth) {
                ks = ks.max((sum_a - sum_e).abs());
            }
            let (a, e) = (a.max(LEAST), e.max(LEAST));
            psi += (a - e) * (a / e).ln();
        }
        let chance = overlap / total + overlap / windows;
        let is_sure =
            psi > CHI_SQUARE * chance && ks >= DISTANCE_MIN.max(KOLMOGOROV * chance.sqrt());
        Distance { psi, ks, is_sure }
    }
}
