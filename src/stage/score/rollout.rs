//! A new model on its way into use, beside the one it is to replace.
//!
//! Both score every window; the phase says who is heard. The counts of the trial are what `node` decides by: on to the
//! next phase, or back. They are part of the stage's memory, so that a restart changes nothing.

use serde::{Deserialize, Serialize};

use super::scorer::Scorer;
use crate::frame::Asset;
use crate::record::ModelPhase;
use crate::time::Timestamp;

/// See the module.
#[derive(Debug)]
pub struct Rollout {
    pub(super) candidate: Scorer,
    pub(super) state: RolloutState,
}

/// Everything of it but the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutState {
    /// `Shadow`, `Canary` or `Promoted`.
    pub phase: ModelPhase,
    /// As a canary: for how many assets of a thousand it speaks.
    pub permille: u16,
    /// Of this phase.
    pub trial: Trial,
}

/// How two models compare since a phase began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// When the phase began.
    pub since: Timestamp,
    /// Windows that the old model answered.
    pub windows: u64,
    /// Those of them that the new one did not.
    pub unanswered: u64,
    /// Windows that the new model answered.
    pub answered: u64,
    /// Windows that both answered, and how many of them each called abnormal.
    pub both: u64,
    /// Of the old model.
    pub above_old: u64,
    /// Of the new model.
    pub above_new: u64,
    /// Of the old model's scores.
    pub old: Moments,
    /// Of the new model's scores.
    pub new: Moments,
}

/// Sums from which a mean and a deviation follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    count: u64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Welford 1962.
    fn add(&mut self, value: f64) {
        self.count += 1;
        let off = value - self.mean;
        self.mean += off / self.count as f64;
        self.squares += off * (value - self.mean);
    }

    /// The mean.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// The standard deviation.
    pub fn deviation(&self) -> f64 {
        if self.count < 2 { 0.0 } else { (self.squares / (self.count - 1) as f64).sqrt() }
    }
}

impl Trial {
    /// A trial that begins now.
    pub(super) fn begins(since: Timestamp) -> Trial {
        Trial { since, ..Trial::default() }
    }

    /// Counts a window's two answers; `limits` are the models' thresholds.
    pub(super) fn count(&mut self, old: Option<f64>, new: Option<f64>, limits: [Option<f64>; 2]) {
        self.answered += u64::from(new.is_some());
        let Some(old) = old else { return };
        self.windows += 1;
        let Some(new) = new else {
            self.unanswered += 1;
            return;
        };
        self.both += 1;
        // A score that went beyond all numbers has no part in a mean.
        if old.abs().max(new.abs()) < f64::from(f32::MAX) {
            self.old.add(old);
            self.new.add(new);
        }
        let is_above = |value: f64, limit: Option<f64>| limit.is_some_and(|limit| value >= limit);
        self.above_old += u64::from(is_above(old, limits[0]));
        self.above_new += u64::from(is_above(new, limits[1]));
    }
}

impl RolloutState {
    /// Of each asset: whether the new model speaks for it.
    pub(super) fn chosen(&self, assets: &[Asset]) -> Vec<bool> {
        match self.phase {
            ModelPhase::Canary => {}
            phase => return vec![phase == ModelPhase::Promoted; assets.len()],
        }
        let lots: Vec<u32> =
            assets.iter().map(|asset| crc32fast::hash(asset.id.as_bytes())).collect();
        let least = lots.iter().copied().min();
        let limit = u64::from(self.permille) * u64::from(u32::MAX) / 1000;
        // One at least, or a small fleet would have no canary at all.
        lots.iter().map(|&lot| u64::from(lot) < limit || Some(lot) == least).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(permille: u16, assets: usize) -> usize {
        let phase = ModelPhase::Canary;
        let state = RolloutState { phase, permille, trial: Trial::default() };
        let asset = |n| Asset { id: format!("pump-{n:02}"), ..Asset::default() };
        let assets: Vec<Asset> = (0..assets).map(asset).collect();
        state.chosen(&assets).into_iter().filter(|is_chosen| *is_chosen).count()
    }

    #[test]
    fn a_canary_is_about_its_share_and_one_asset_at_least() {
        assert_eq!(chosen(1, 3), 1);
        assert_eq!(chosen(0, 1), 1);
        assert_eq!(chosen(100, 0), 0);
        let tenth = chosen(100, 1000);
        assert!((70..130).contains(&tenth), "{tenth}");
        assert_eq!(chosen(1000, 50), 50);
    }

    #[test]
    fn moments_are_those_of_the_textbook() {
        let mut moments = Moments::default();
        for value in [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0] {
            moments.add(value);
        }
        assert_eq!(moments.mean(), 5.0);
        assert!((moments.deviation() - (32.0_f64 / 7.0).sqrt()).abs() < 1e-12);
    }
}
