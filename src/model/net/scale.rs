//! On which scale a score is imitated: where its differences are neither crowded nor far apart, and bounds are kept.
//!
//! `compress` makes one of the scores that a teacher gave; `samples`, `answer` and `export` go there and back by it.

use serde::{Deserialize, Serialize};

use crate::model::training::quantile;

/// A share nearer to 0 or 1 than this is taken to be as near: its log odds would go beyond all bounds.
const NEAREST: f64 = 1e-4;
/// How far beyond the scores that were seen others may lie, as a share of their range.
const MARGIN: f64 = 0.1;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Scale {
    /// What becomes 0: a score, or of shares its log odds.
    pub middle: f64,
    /// What becomes 1, from there.
    pub spread: f64,
    /// The least and the highest score there may be. `None`: scores are shares from 0 to 1, and what is learned is
    /// their log odds.
    pub range: Option<(f64, f64)>,
}

impl Scale {
    /// The scale for `scores`. `None` where all are the same.
    pub fn of(scores: &[f64]) -> Option<Scale> {
        let shares = scores.iter().all(|score| (0.0..=1.0).contains(score));
        let scores: Vec<f64> = if shares {
            scores.iter().map(|share| odds(*share)).collect()
        } else {
            scores.to_vec()
        };
        let between = |share: f64| quantile(&scores, 1.0 - share) - quantile(&scores, share);
        let (middle, whole) = (quantile(&scores, 0.5), between(0.0));
        // The middle nine tenths are as wide as 4 standard deviations of a normal distribution nearly are.
        let spread = if between(0.05) > 0.0 { between(0.05) } else { whole } / 4.0;
        let margin = MARGIN * whole;
        let range = (quantile(&scores, 0.0) - margin, quantile(&scores, 1.0) + margin);
        (spread > 0.0).then_some(Scale { middle, spread, range: (!shares).then_some(range) })
    }

    /// Where `score` lies on the scale.
    pub fn place(&self, score: f64) -> f64 {
        let score = if self.range.is_none() { odds(score) } else { score };
        (score - self.middle) / self.spread
    }

    /// The score at this place, in float32 as the file has it.
    pub(super) fn score(&self, place: f32) -> f32 {
        let score = place * self.spread as f32 + self.middle as f32;
        match self.range {
            Some((least, most)) => score.clamp(least as f32, most as f32),
            None => 1.0 / (1.0 + (-score).exp()),
        }
    }
}

/// The log odds of a share.
fn odds(share: f64) -> f64 {
    let share = share.clamp(NEAREST, 1.0 - NEAREST);
    (share / (1.0 - share)).ln()
}
