//! Features and resampling computed a second way, straight from their definitions, and compared with the engine.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::BTreeMap;

use common::{Reading, engine, input, run, spec};
use forebay::pipeline::spec::{BearingSpec, GeometrySpec, SpeedSpec};
use forebay::record::Record;
use forebay::stage::envelope::Bearing;
use forebay::stage::features::{Feature, Scene, describe};
use forebay::time::{Span, Timestamp};
use proptest::prelude::*;
use serde::Deserialize;

/// A feature by its textbook definition, over the known samples and their indices.
fn by_definition(feature: Feature, samples: &[f64], step: f64) -> f64 {
    let known: Vec<(f64, f64)> = samples
        .iter()
        .enumerate()
        .filter(|s| !s.1.is_nan())
        .map(|(i, v)| (i as f64 * step, *v))
        .collect();
    let n = known.len() as f64;
    let values: Vec<f64> = known.iter().map(|k| k.1).collect();
    let mean = values.iter().sum::<f64>() / n;
    let moment = |k: i32| values.iter().map(|v| (v - mean).powi(k)).sum::<f64>() / n;
    let sorted = {
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    };
    let least = sorted.first().copied().unwrap_or(f64::NAN);
    let most = sorted.last().copied().unwrap_or(f64::NAN);
    let rms = (values.iter().map(|v| v.powi(2)).sum::<f64>() / n).sqrt();
    match feature {
        Feature::Mean => mean,
        Feature::Std => (moment(2) * n / (n - 1.0)).sqrt(),
        Feature::Min => least,
        Feature::Max => most,
        Feature::Range => most - least,
        Feature::Rms => rms,
        Feature::Slope => {
            // Normal equations, solved by Cramer's rule: another road than deviations from the mean.
            let (st, sv) = (known.iter().map(|k| k.0).sum::<f64>(), values.iter().sum::<f64>());
            let stt = known.iter().map(|k| k.0 * k.0).sum::<f64>();
            let stv = known.iter().map(|k| k.0 * k.1).sum::<f64>();
            (n * stv - st * sv) / (n * stt - st * st)
        }
        Feature::Skewness => moment(3) / moment(2).powf(1.5),
        Feature::Kurtosis => moment(4) / moment(2).powi(2),
        Feature::Crest => most.abs().max(least.abs()) / rms,
        Feature::First => values.first().copied().unwrap_or(f64::NAN),
        Feature::Last => values.last().copied().unwrap_or(f64::NAN),
        Feature::Coverage => n / samples.len() as f64,
        Feature::Quantile(p) => {
            let place = f64::from(p) / 100.0 * (n - 1.0);
            let below = place.floor() as usize;
            let above = (below + 1).min(sorted.len() - 1);
            sorted[below] + (place - place.floor()) * (sorted[above] - sorted[below])
        }
        other => unreachable!("{other} is in the test of spectra"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn features_are_what_their_definitions_say(
        samples in prop::collection::vec(prop_oneof![9 => -1e3..1e3_f64, 1 => Just(f64::NAN)], 4..120),
        percent in 1..100_u8,
    ) {
        prop_assume!(samples.iter().filter(|v| !v.is_nan()).count() >= 3);
        let names = ["mean", "std", "min", "max", "range", "rms", "slope", "skewness", "kurtosis", "crest", "first", "last", "coverage"];
        let mut features: Vec<Feature> = names.iter().map(|n| n.parse().unwrap()).collect();
        features.push(Feature::Quantile(percent));
        let mut out = Vec::new();
        describe(&samples, Scene { rate: 2.0, bearing: None }, &features, &mut out);
        for (feature, found) in features.iter().zip(out) {
            let expected = by_definition(*feature, &samples, 0.5);
            let error = (found - expected).abs() / expected.abs().max(1.0);
            prop_assert!(error < 1e-9, "{feature}: {found}, by definition {expected}");
        }
    }

    #[test]
    fn windows_over_resampled_readings_are_what_their_definitions_say(
        steps in prop::collection::vec((100_000..2_500_000_i64, -50..50_i32), 3..150),
        fill in prop_oneof![Just("linear"), Just("previous"), Just("next"), Just("mean")],
    ) {
        let mut ts = 1_700_000_000_000_000_i64;
        let readings: Vec<Reading> = steps.iter().map(|(step, value)| {
            ts += step;
            Reading { asset: 0, signal: 0, ts, value: f64::from(*value) }
        }).collect();
        let spec = spec(&format!(r#"
            stage = [
              {{ resample = {{ every = "1s", fill = "{fill}", max_gap = "2s" }} }},
              {{ window = {{ length = "5s", every = "2s", features = ["mean", "coverage"], signals = ["a"], min_coverage = 0.0 }} }},
              {{ emit = {{ lane = "feature" }} }},
            ]"#));
        let mut engine = engine(&spec);
        let records = run(&mut engine, &[input(&spec, &readings)]);
        let mut windows = 0;
        for record in records {
            let Record::Score(record) = record.record else { continue };
            windows += 1;
            let at = |i: i64| record.window_start.plus(Span::seconds(i));
            let samples: Vec<f64> = (0..5).map(|i| point(&readings, at(i), fill)).collect();
            let known: Vec<f64> = samples.into_iter().filter(|v| !v.is_nan()).collect();
            let mean = known.iter().sum::<f64>() / known.len() as f64;
            let found = record.features["a.mean"];
            prop_assert!(found.is_none_or(|f| (f - mean).abs() < 1e-9), "{found:?}, by definition {mean}");
            prop_assert_eq!(found.is_some(), !known.is_empty());
            prop_assert_eq!(record.coverage, known.len() as f64 / 5.0);
        }
        let first = readings[0].ts.div_euclid(2_000_000);
        let last = readings.last().unwrap().ts.div_euclid(2_000_000);
        prop_assert!(windows <= last - first + 3);
        prop_assert!(windows >= 1 || fill != "mean");
    }
}

/// What NumPy and SciPy found in a waveform: `tests/spectra/make.py`.
#[derive(Deserialize)]
struct Case {
    rate: f64,
    count: usize,
    speed: f64,
    strikes: f64,
    strength: f64,
    offset: f64,
    seed: u64,
    band: Option<[f64; 2]>,
    geometry: GeometrySpec,
    found: BTreeMap<String, f64>,
}

impl Case {
    /// Strikes that ring, a shaft, and noise from a linear congruence, as the script makes them.
    fn waveform(&self) -> Vec<f64> {
        let (tau, mut state) = (std::f64::consts::TAU, self.seed);
        let samples = (0..self.count).map(|at| {
            state = (state * 1_664_525 + 1_013_904_223) % (1 << 32);
            let t = at as f64 / self.rate;
            let since = t % (1.0 / self.strikes);
            let ring = (-since * self.rate / 15.0).exp() * (tau * self.rate * 0.26 * since).sin();
            let turn = (tau * self.speed * t).sin();
            let noise = state as f64 / f64::from(1_u32 << 31) - 1.0;
            self.strength * ring + 2.0 * turn + noise + self.offset
        });
        samples.collect()
    }
}

#[test]
fn spectra_are_what_another_program_finds() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("spectra/cases.json")).unwrap();
    assert!(cases.len() >= 4);
    for case in cases {
        let speed = SpeedSpec::Rpm(case.speed * 60.0);
        let geometry = Some(case.geometry.clone());
        let spec = BearingSpec { speed, geometry, orders: None, band: case.band };
        let bearing = Bearing { orders: spec.orders().unwrap(), band: spec.band };
        let scene = Scene { rate: case.rate, bearing: Some((&bearing, case.speed)) };
        for (name, expected) in &case.found {
            let mut out = Vec::new();
            describe(&case.waveform(), scene, &[name.parse().unwrap()], &mut out);
            let error = (out[0] - expected).abs();
            assert!(error < 1e-6, "{name}: {}, found by another program {expected}", out[0]);
        }
        // A sample that is missing makes a spectrum unknown; a mean is known all the same.
        let mut samples = case.waveform();
        samples[case.count / 2] = f64::NAN;
        let mut out = Vec::new();
        let features = ["bpfo", "rms_10_100", "mean"].map(|name| name.parse().unwrap());
        describe(&samples, scene, &features, &mut out);
        assert!(out[0].is_nan() && out[1].is_nan() && !out[2].is_nan(), "{out:?}");
    }
}

/// A point of the grid straight from the readings, NaN where nothing is near enough.
fn point(readings: &[Reading], at: Timestamp, fill: &str) -> f64 {
    let gap = 2_000_000;
    // After the last reading nothing is held: the recording has ended.
    let end = readings.last().unwrap().ts;
    let before = readings.iter().rev().find(|r| r.ts <= at.0);
    let after = readings.iter().find(|r| r.ts >= at.0);
    let value = match fill {
        "mean" => {
            let bin: Vec<f64> = readings
                .iter()
                .filter(|r| r.ts >= at.0 && r.ts < at.0 + 1_000_000)
                .map(|r| r.value)
                .collect();
            (!bin.is_empty()).then(|| bin.iter().sum::<f64>() / bin.len() as f64)
        }
        "previous" => before.filter(|r| at.0 - r.ts <= gap && at.0 <= end).map(|r| r.value),
        "next" => after.filter(|r| r.ts - at.0 <= gap).map(|r| r.value),
        _ => match (before, after) {
            (Some(b), _) if b.ts == at.0 => Some(b.value),
            (Some(b), Some(a)) if a.ts - b.ts <= gap => {
                Some(b.value + (a.value - b.value) * (at.0 - b.ts) as f64 / (a.ts - b.ts) as f64)
            }
            _ => None,
        },
    };
    value.unwrap_or(f64::NAN)
}
