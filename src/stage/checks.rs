//! The checks of `clean` on one series: unit, range, rate of change, spikes, a stuck sensor.
//!
//! `clean` calls them with the readings in event-time order. What they remember is a [`History`].

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{Account, Reason};
use crate::frame::Quality;
use crate::pipeline::spec::{CleanSpec, HampelSpec, OnFail, SpikeSpec};
use crate::schema::{Conversion, Signal, convert};
use crate::time::{Span, Timestamp};

/// Median absolute deviation to standard deviation, for normal noise: 1 / (the 0.75 quantile of the normal law).
const MAD_TO_SIGMA: f64 = 1.482_602_218_505_602;

/// A window of values up to this width is sorted on the stack.
const ON_STACK: usize = 32;

/// The checks on one signal, ready to run.
pub(super) struct Checks {
    conversion: Option<Conversion>,
    min: f64,
    max: f64,
    max_rate: Option<f64>,
    resolution: f64,
    hampel: Option<HampelSpec>,
    stuck_after: Option<Span>,
    pub(super) on_range: OnFail,
    on_rate: OnFail,
    on_stuck: OnFail,
}

/// What the checks remember of one series.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct History {
    /// The last reading that passed.
    last: Option<(Timestamp, f64)>,
    /// The last values, spikes included, oldest first.
    values: VecDeque<f64>,
    /// The value that has not changed, since when, and when it was last seen.
    unchanged: Option<Unchanged>,
}

/// A run of equal values.
#[derive(Serialize, Deserialize)]
struct Unchanged {
    since: Timestamp,
    seen: Timestamp,
    value: f64,
}

impl Checks {
    /// The checks that a pipeline's `clean` asks for on a signal.
    pub(super) fn new(spec: &CleanSpec, signal: &Signal) -> Checks {
        let conversion = spec.units.get(&signal.name).and_then(|from| convert(from, &signal.unit));
        Checks {
            conversion: conversion.filter(|c| (c.scale, c.offset) != (1.0, 0.0)),
            min: signal.min.unwrap_or(f64::NEG_INFINITY),
            max: signal.max.unwrap_or(f64::INFINITY),
            max_rate: signal.max_rate,
            resolution: signal.resolution.unwrap_or(0.0),
            hampel: spec.spikes.as_ref().map(|SpikeSpec::Hampel(hampel)| hampel.clone()),
            stuck_after: spec.stuck_after,
            on_range: spec.out_of_range,
            on_rate: spec.too_fast,
            on_stuck: spec.stuck,
        }
    }

    /// The value in the schema's unit.
    pub(super) fn convert(&self, value: f64) -> f64 {
        self.conversion.map_or(value, |c| c.apply(value))
    }

    /// The nearest allowed value, if this one is not allowed.
    pub(super) fn out_of_range(&self, value: f64) -> Option<f64> {
        (value < self.min || value > self.max).then(|| value.clamp(self.min, self.max))
    }

    /// The quality with which a reading passes; `None` if it is taken out. Readings must come in order of time.
    pub(super) fn judge(
        &self,
        history: &mut History,
        ts: Timestamp,
        value: f64,
        quality: Quality,
        account: &mut Account,
    ) -> Option<Quality> {
        let failed = [
            (self.is_stuck(history, ts, value), Reason::Stuck, self.on_stuck),
            (self.is_too_fast(history, ts, value), Reason::TooFast, self.on_rate),
            (self.is_spike(history, value), Reason::Spike, OnFail::Drop),
        ];
        let mut quality = quality;
        for (_, why, policy) in failed.into_iter().filter(|f| f.0) {
            if policy == OnFail::Drop {
                account.reject(why);
                return None;
            }
            account.mark(why);
            quality = quality.max(Quality::Uncertain);
        }
        history.last = Some((ts, value));
        Some(quality)
    }

    fn is_stuck(&self, history: &mut History, ts: Timestamp, value: f64) -> bool {
        let Some(limit) = self.stuck_after else { return false };
        match &mut history.unchanged {
            // A silence is no proof: a sensor that only reports changes says nothing while there is none.
            Some(run)
                if (value - run.value).abs() <= self.resolution && ts.since(run.seen) < limit =>
            {
                run.seen = ts;
                ts.since(run.since) >= limit
            }
            _ => {
                history.unchanged = Some(Unchanged { since: ts, seen: ts, value });
                false
            }
        }
    }

    fn is_too_fast(&self, history: &History, ts: Timestamp, value: f64) -> bool {
        let (Some(max_rate), Some((before, last))) = (self.max_rate, history.last) else {
            return false;
        };
        // A step as small as the resolution is not a change, however soon it comes.
        (value - last).abs() > max_rate * ts.since(before).as_seconds() + self.resolution
    }

    /// Hampel identifier on the last values (F. R. Hampel, JASA 69, 1974): causal, so a step passes once it fills
    /// half the window.
    fn is_spike(&self, history: &mut History, value: f64) -> bool {
        let Some(hampel) = &self.hampel else { return false };
        if history.values.len() >= hampel.width {
            history.values.pop_front();
        }
        history.values.push_back(value);
        if history.values.len() < hampel.width {
            return false;
        }
        let (first, second) = history.values.as_slices();
        let mut buffer = [0.0; ON_STACK];
        let mut long = Vec::new();
        let sorted = if let Some(sorted) = buffer.get_mut(..hampel.width) {
            sorted
        } else {
            long.resize(hampel.width, 0.0);
            long.as_mut_slice()
        };
        sorted[..first.len()].copy_from_slice(first);
        sorted[first.len()..].copy_from_slice(second);
        sorted.sort_unstable_by(f64::total_cmp);
        let median = median(sorted);
        let sigma = MAD_TO_SIGMA * median_distance(sorted, median);
        // Noise below the resolution cannot be seen, so it is never taken for zero.
        let floor = self.resolution.max(median.abs() * 1e-9);
        (value - median).abs() > hampel.sigmas * sigma.max(floor)
    }
}

/// The median of sorted values.
pub(super) fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The median of the distances of sorted values from `middle`: they grow to both sides, so the smaller half of them is
/// merged, and nothing is sorted again.
pub(super) fn median_distance(sorted: &[f64], middle: f64) -> f64 {
    let mut right = sorted.partition_point(|value| *value < middle);
    let mut left = right;
    let (mut before, mut last) = (f64::NAN, f64::NAN);
    for _ in 0..=sorted.len() / 2 {
        let below = left.checked_sub(1).map_or(f64::INFINITY, |index| middle - sorted[index]);
        let above = sorted.get(right).map_or(f64::INFINITY, |value| value - middle);
        before = last;
        if below < above {
            (last, left) = (below, left - 1);
        } else {
            (last, right) = (above, right + 1);
        }
    }
    if sorted.len() % 2 == 1 { last } else { f64::midpoint(before, last) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_median_distance_is_that_of_the_sorted_distances(
            mut values in prop::collection::vec((-20_i32..20).prop_map(|n| f64::from(n) / 4.0), 1..40)
        ) {
            values.sort_unstable_by(f64::total_cmp);
            let middle = median(&values);
            let mut distances: Vec<f64> = values.iter().map(|v| (v - middle).abs()).collect();
            distances.sort_unstable_by(f64::total_cmp);
            prop_assert_eq!(median_distance(&values, middle), median(&distances));
        }
    }
}
