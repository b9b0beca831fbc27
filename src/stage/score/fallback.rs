//! What scores a window when its model cannot: statistics of each feature of each asset.
//!
//! It watches all the while and learns from the windows that the model calls normal, so that it is ready when it is
//! needed. Of every feature it knows a median and a median absolute deviation (of the first [`WARM`] normal windows; Huber
//! 1981, §5), which then follow slowly, and it keeps four charts of the deviation z from them in units of σ:
//! - a *spike*: |z| against [`SPIKE`];
//! - *EWMA* (Roberts 1959; NIST/SEMATECH e-Handbook, §6.3.2.4): the exponentially weighted mean of z, λ = 0.2, against
//!   [`EWMA_LIMIT`] of its own deviation √(λ / (2 − λ));
//! - *CUSUM* (Page 1954; e-Handbook, §6.3.2.3), both sides, k = 1 and h = [`CUSUM_LIMIT`];
//! - *stuck*: the very same number for [`STUCK`] windows, of a feature that does not repeat itself in normal running.
//!
//! Of a feature that has never moved it says nothing.
//!
//! Its answer is the largest of them, each divided by its limit: at or above 1 a window is abnormal. The limits are wide,
//! because there are many features and a fallback must not flood anybody. It is no match for a good model.

use serde::{Deserialize, Serialize};

use crate::stage::checks::{median, median_distance};
use crate::stage::of_asset;

/// Its name as a model, in records.
pub const NAME: &str = "statistics";
/// Its version.
pub const VERSION: &str = "1";

/// Normal windows after which it speaks.
const WARM: usize = 32;
/// A single value so many σ away is abnormal.
const SPIKE: f32 = 8.0;
const LAMBDA: f32 = 0.2;
/// In deviations of the mean.
const EWMA_LIMIT: f32 = 6.0;
const CUSUM_SLACK: f32 = 1.0;
const CUSUM_LIMIT: f32 = 15.0;
const STUCK: u16 = 30;
/// In place of a count: the feature repeats itself in normal running, as a setpoint does, and is never stuck.
const REPEATS: u16 = u16::MAX;
/// Beyond this a value says no more than that it is far away.
const FAR: f32 = 10.0;
/// How fast median and deviation follow: a hundredth of what is new a window.
const FOLLOW: f32 = 0.01;

/// What is known of all features of all assets, by asset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Fallback(Vec<Vec<Track>>);

/// One feature of one asset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Track {
    /// The first normal values, until there are enough.
    first: Vec<f32>,
    median: f32,
    sigma: f32,
    ewma: f32,
    up: f32,
    down: f32,
    last: f32,
    same: u16,
}

impl Fallback {
    /// Takes a window's features into account and says how abnormal they are; `None` while it knows too little.
    /// `is_normal`: whether they may be learned from.
    pub fn watch(&mut self, asset: u32, features: &[f64], is_normal: bool) -> Option<f64> {
        let tracks = of_asset(&mut self.0, asset, Vec::new);
        tracks.resize_with(features.len(), Track::default);
        let mut worst: Option<f32> = None;
        for (track, &value) in tracks.iter_mut().zip(features) {
            if !(value as f32).is_finite() {
                continue;
            }
            if let Some(found) = track.watch(value as f32, is_normal) {
                worst = Some(worst.map_or(found, |worst| worst.max(found)));
            }
        }
        worst.map(f64::from)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl Track {
    fn watch(&mut self, value: f32, is_normal: bool) -> Option<f32> {
        if self.first.len() < WARM && self.sigma == 0.0 {
            if is_normal {
                self.first.push(value);
            }
            if self.first.len() == WARM {
                self.settle();
            }
            return None;
        }
        let z = ((value - self.median) / self.sigma).clamp(-FAR, FAR);
        if self.same != REPEATS {
            let again = self.same.saturating_add(1).min(2 * STUCK);
            self.same = if value == self.last { again } else { 0 };
        }
        self.last = value;
        self.ewma += LAMBDA * (z - self.ewma);
        self.up = (self.up + z - CUSUM_SLACK).clamp(0.0, 2.0 * CUSUM_LIMIT);
        self.down = (self.down - z - CUSUM_SLACK).clamp(0.0, 2.0 * CUSUM_LIMIT);
        let ewma = self.ewma.abs() / (LAMBDA / (2.0 - LAMBDA)).sqrt();
        let charts = [
            z.abs() / SPIKE,
            ewma / EWMA_LIMIT,
            self.up.max(self.down) / CUSUM_LIMIT,
            if self.same == REPEATS { 0.0 } else { f32::from(self.same) / f32::from(STUCK) },
        ];
        if is_normal {
            // Winsorised: one wild value moves nothing far.
            self.median += FOLLOW * z.clamp(-2.0, 2.0) * self.sigma;
            let wider = 1.0 + FOLLOW * ((z * z).min(25.0) - 1.0) / 2.0;
            self.sigma = (self.sigma * wider).max(f32::MIN_POSITIVE);
        }
        Some(charts.into_iter().fold(0.0, f32::max))
    }

    /// Median and deviation of the first values; of one that mostly stands still its standard deviation. Of a feature that
    /// never moved nothing is known: it waits for others.
    fn settle(&mut self) {
        let first = std::mem::take(&mut self.first);
        self.last = first.last().copied().unwrap_or_default();
        self.same = if first.windows(2).any(|two| two[0] == two[1]) { REPEATS } else { 0 };
        let mut sorted: Vec<f64> = first.into_iter().map(f64::from).collect();
        sorted.sort_by(f64::total_cmp);
        let middle = median(&sorted);
        self.median = middle as f32;
        // Of a normal distribution the median absolute deviation is 0.6745 σ.
        let mut sigma = median_distance(&sorted, middle) / 0.6745;
        if sigma == 0.0 {
            let squares: f64 = sorted.iter().map(|value| (value - middle).powi(2)).sum();
            sigma = (squares / sorted.len() as f64).sqrt();
        }
        self.sigma = sigma as f32;
        if self.sigma > 0.0 {
            self.sigma = self.sigma.max(self.median.abs() * 1e-3);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Numbers about 50 with σ = 2, and what is said of them after `change`.
    fn said(windows: usize, change: impl Fn(usize, f64) -> f64) -> Vec<f64> {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let mut fallback = Fallback::default();
        let mut said = Vec::new();
        for at in 0..windows {
            // The sum of twelve uniform numbers is nearly normal.
            let noise: f64 = (0..12).map(|_| random.random::<f64>() - 0.5).sum();
            let value = change(at, 50.0 + 2.0 * noise);
            let found = fallback.watch(0, &[value], at < 400);
            assert_eq!(found.is_none(), at < WARM, "window {at}");
            said.extend(found);
        }
        said
    }

    #[test]
    fn normal_running_stays_far_below_one() {
        let said = said(20_000, |_, value| value);
        let abnormal = said.iter().filter(|found| **found >= 1.0).count();
        assert!(abnormal <= 2, "{abnormal} of {}", said.len());
    }

    #[test]
    fn spike_step_drift_and_stuck_are_each_found() {
        let spike = said(500, |at, value| if at == 450 { 100.0 } else { value });
        assert!(spike[450 - WARM] >= 1.0 && spike[440 - WARM] < 1.0);
        let step = said(500, |at, value| if at < 450 { value } else { value + 6.0 });
        assert!(step[460 - WARM..].iter().any(|found| *found >= 1.0));
        let drift = said(700, |at, value| value + 0.05 * at.saturating_sub(450) as f64);
        assert!(drift[600 - WARM..].iter().any(|found| *found >= 1.0));
        let stuck = said(520, |at, value| if at < 450 { value } else { 50.5 });
        assert!(stuck[485 - WARM] >= 1.0, "{:?}", &stuck[470 - WARM..]);
    }

    #[test]
    fn what_always_stood_still_is_not_stuck_and_a_missing_number_is_passed_over() {
        let mut fallback = Fallback::default();
        for _ in 0..200 {
            assert_eq!(fallback.watch(0, &[3.0], true), None);
        }
        assert_eq!(fallback.watch(0, &[4.0], true), None, "it is new that this one moves");
        assert_eq!(fallback.watch(3, &[f64::NAN, f64::INFINITY], true), None);
    }

    #[test]
    fn a_setpoint_that_was_changed_once_is_not_stuck() {
        let mut fallback = Fallback::default();
        let change = |at: usize| if at < 20 { 40.0 } else { 45.0 };
        let found: Vec<f64> =
            (0..2000).filter_map(|at| fallback.watch(0, &[change(at)], true)).collect();
        assert!(found.len() > 1900 && found.iter().all(|found| *found < 1.0), "{found:?}");
    }

    #[test]
    fn what_is_mostly_constant_may_move_as_it_did() {
        let mut fallback = Fallback::default();
        let found: Vec<f64> = (0..500)
            .filter_map(|at| fallback.watch(0, &[f64::from(u8::from(at % 7 == 3))], true))
            .collect();
        assert!(found.len() > 400 && found.iter().all(|found| *found < 1.0), "{found:?}");
    }
}
