//! Detected changes against true ones, as the Skoltech Anomaly Benchmark scores them.
//!
//! After each true change a window of fixed length opens; where two overlap, the later one begins where the earlier one
//! ends. The first detection in a window earns from `hit` at its beginning down to `false_alarm` at its end along a
//! hyperbolic tangent, as the benchmark has it: in 1000 steps. Everything else costs as in [`super::nab`], whose
//! profiles these are.

use serde::Serialize;

use super::nab::{NabScore, Profile};
use crate::time::{Span, Timestamp};

/// Steps in which the worth of a detection falls.
const STEPS: i64 = 1000;

/// What came of one recording.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Changes {
    /// By profile, in the order in which they were given.
    pub scores: Vec<NabScore>,
    /// True changes that were not detected.
    pub missed: u64,
    /// Detections outside of all windows.
    pub false_alarms: u64,
    /// Delay of each detected change in seconds, from the beginning of its window.
    pub delays_s: Vec<f64>,
}

impl Changes {
    /// Adds another recording.
    pub fn add(&mut self, other: &Changes) {
        self.scores.resize(self.scores.len().max(other.scores.len()), NabScore::default());
        self.scores.iter_mut().zip(&other.scores).for_each(|(all, one)| all.add(one));
        self.missed += other.missed;
        self.false_alarms += other.false_alarms;
        self.delays_s.extend(&other.delays_s);
    }

    /// The mean delay of what was detected, in seconds.
    pub fn mean_delay_s(&self) -> Option<f64> {
        let count = self.delays_s.len();
        (count > 0).then(|| self.delays_s.iter().sum::<f64>() / count as f64)
    }
}

/// The rows at which a verdict changes; never the first.
pub fn changes(verdicts: &[bool]) -> Vec<bool> {
    let mut before = verdicts.first().copied().unwrap_or_default();
    verdicts.iter().map(|now| std::mem::replace(&mut before, *now) != *now).collect()
}

/// Where an alarm is raised, which is when it detects something.
pub fn raised(on: &[bool]) -> Vec<bool> {
    changes(on).iter().zip(on).map(|(turned, on)| *turned && *on).collect()
}

/// Scores the detections of one recording, both columns in order of time.
pub fn score(
    truth: &[Timestamp],
    detected: &[Timestamp],
    width: Span,
    profiles: &[Profile],
) -> Changes {
    let windows = windows(truth, width);
    let inside = |at: &Timestamp, (from, to): &(Timestamp, Timestamp)| from <= at && at <= to;
    let hits: Vec<Option<Timestamp>> =
        windows.iter().map(|w| detected.iter().find(|at| inside(at, w)).copied()).collect();
    let is_false = |at: &&Timestamp| !windows.iter().any(|window| inside(at, window));
    let false_alarms = detected.iter().filter(is_false).count() as u64;
    let missed = hits.iter().filter(|hit| hit.is_none()).count() as u64;
    let scores = profiles.iter().map(|profile| {
        let worth = |(window, hit): (&(Timestamp, Timestamp), &Option<Timestamp>)| {
            hit.map_or(-profile.miss, |at| earned(*window, at, profile))
        };
        let earned: f64 = windows.iter().zip(&hits).map(worth).sum();
        let count = windows.len() as f64;
        NabScore {
            raw: earned - profile.false_alarm * false_alarms as f64,
            null: -profile.miss * count,
            perfect: profile.hit * count,
        }
    });
    let delays_s = windows
        .iter()
        .zip(&hits)
        .filter_map(|((from, _), hit)| hit.map(|at| at.since(*from).as_seconds()));
    Changes { scores: scores.collect(), missed, false_alarms, delays_s: delays_s.collect() }
}

fn windows(truth: &[Timestamp], width: Span) -> Vec<(Timestamp, Timestamp)> {
    let mut windows: Vec<(Timestamp, Timestamp)> = Vec::with_capacity(truth.len());
    for at in truth {
        let from = windows.last().map_or(*at, |(_, to)| (*to).max(*at));
        windows.push((from, at.plus(width).max(from)));
    }
    windows
}

fn earned((from, to): (Timestamp, Timestamp), at: Timestamp, profile: &Profile) -> f64 {
    let (hit, cost) = (profile.hit, -profile.false_alarm);
    let step = (at.since(from).0 * STEPS / to.since(from).0.max(1)).min(STEPS - 1);
    let half = std::f64::consts::FRAC_PI_2;
    let x = -half + 2.0 * half * step as f64 / (STEPS - 1) as f64;
    (hit - cost) / 2.0 * (1.0 - x.tanh() / half.tanh()) + cost
}

#[cfg(test)]
mod tests {
    use super::super::nab::PROFILES;
    use super::*;

    fn seconds(all: &[i64]) -> Vec<Timestamp> {
        all.iter().map(|second| Timestamp(second * 1_000_000)).collect()
    }

    fn scored(truth: &[i64], detected: &[i64]) -> Changes {
        score(&seconds(truth), &seconds(detected), Span::seconds(60), &PROFILES)
    }

    #[test]
    fn never_is_nought_and_at_once_a_hundred() {
        let never = scored(&[100, 300], &[]);
        let perfect = scored(&[100, 300], &[100, 300]);
        for (never, perfect) in never.scores.iter().zip(&perfect.scores) {
            assert_eq!(never.normalised(), Some(0.0));
            assert!((perfect.normalised().unwrap() - 100.0).abs() < 1e-9);
        }
        assert_eq!((never.missed, perfect.missed), (2, 0));
        assert_eq!(perfect.mean_delay_s(), Some(0.0));
    }

    #[test]
    fn the_end_of_a_window_is_worth_a_false_alarm_and_only_the_first_counts() {
        let last = scored(&[100], &[160]);
        assert!((last.scores[0].raw + 0.11).abs() < 1e-12, "{last:?}");
        let middle = scored(&[100], &[130]).scores[0].raw;
        assert!((middle - 0.445).abs() < 2e-3, "{middle}");
        assert_eq!(scored(&[100], &[130, 140, 150]).scores[0].raw, middle);
        let outside = scored(&[100], &[20, 130, 161]);
        assert_eq!(outside.false_alarms, 2);
        assert!((outside.scores[0].raw - (middle - 0.22)).abs() < 1e-12);
        assert!(
            (outside.scores[1].raw - scored(&[100], &[130]).scores[1].raw + 0.44).abs() < 1e-12
        );
    }

    #[test]
    fn where_windows_overlap_the_later_begins_at_the_end_of_the_earlier() {
        let both = scored(&[100, 140], &[150]);
        assert_eq!((both.missed, both.false_alarms), (1, 0));
        let second = scored(&[100, 140], &[170]);
        assert_eq!(second.delays_s, [10.0]);
        let edge = scored(&[100, 140], &[160]);
        assert_eq!((edge.missed, edge.delays_s), (0, vec![60.0, 0.0]));
    }

    #[test]
    fn a_change_is_where_the_verdict_turns() {
        assert_eq!(changes(&[true, true, false, true]), [false, false, true, true]);
        assert!(changes(&[]).is_empty());
    }
}
