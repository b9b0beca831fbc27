//! The simulated world keeps its word: same seed same bytes, exact totals, faults that show, a far side that knows each
//! record once, a link that is down when it says so.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::{HashMap, HashSet};

use forebay::demo::fault::{Fault, FaultKind, FaultPlan};
use forebay::demo::plant::{Plant, PlantOptions, STEP, Sample};
use forebay::demo::pump::Signal;
use forebay::demo::telemetry::{Dirt, LATENESS, Mark, Message, Telemetry, Totals};
use forebay::schema::Schema;
use forebay::time::{Span, Timestamp};

const PUMPS: usize = 12;
const START: Timestamp = Timestamp(1_780_000_000_000_000);

fn plant(seed: u64, faults: FaultPlan) -> Plant {
    Plant::new(PlantOptions { seed, pumps: PUMPS, faults })
}

/// Two pumps are enough where one is looked at.
fn pair(seed: u64, faults: FaultPlan) -> Plant {
    Plant::new(PlantOptions { seed, pumps: 2, faults })
}

fn sent(seed: u64, dirt: Dirt, length: Span) -> (Vec<Message>, Totals) {
    let faults = FaultPlan::schedule(length, PUMPS, seed);
    let mut telemetry = Telemetry::new(plant(seed, faults), PUMPS, START, dirt, seed);
    let mut messages = Vec::new();
    while telemetry.plant().elapsed() < length {
        telemetry.step(&mut messages);
    }
    telemetry.finish(&mut messages);
    (messages, telemetry.totals())
}

fn read(mut plant: Plant, length: Span) -> Vec<Sample> {
    let mut samples = Vec::new();
    while plant.elapsed() < length {
        plant.step(&mut samples);
    }
    samples
}

/// The values of one signal of one pump with their times, in seconds.
fn series(samples: &[Sample], pump: usize, signal: Signal) -> Vec<(f64, f64)> {
    let of_pump = samples.iter().filter(|sample| sample.pump == pump);
    of_pump.filter_map(|s| Some((s.at.as_seconds(), s.values[signal as usize]?))).collect()
}

fn mean(series: &[(f64, f64)], from: f64, to: f64) -> f64 {
    let part: Vec<f64> = series.iter().filter(|p| p.0 >= from && p.0 < to).map(|p| p.1).collect();
    assert!(!part.is_empty());
    part.iter().sum::<f64>() / part.len() as f64
}

/// How much it jumps from one reading to the next.
fn jump(series: &[(f64, f64)], from: f64, to: f64) -> f64 {
    let jumps: Vec<_> = series.windows(2).map(|p| (p[1].0, (p[1].1 - p[0].1).powi(2))).collect();
    mean(&jumps, from, to).sqrt()
}

fn std(series: &[(f64, f64)], from: f64, to: f64) -> f64 {
    let middle = mean(series, from, to);
    let squares: Vec<_> = series.iter().map(|p| (p.0, (p.1 - middle).powi(2))).collect();
    mean(&squares, from, to).sqrt()
}

#[test]
fn same_seed_same_bytes() {
    let length = Span::seconds(120);
    let (one, totals) = sent(7, Dirt::default(), length);
    let (two, again) = sent(7, Dirt::default(), length);
    assert_eq!(one, two);
    assert_eq!(totals, again);
    let (other, _) = sent(8, Dirt::default(), length);
    assert_ne!(one, other);
}

#[test]
fn dirt_does_not_change_what_the_sensors_read() {
    let (clean, totals) = sent(3, Dirt::NONE, Span::seconds(120));
    assert_eq!(
        totals,
        Totals {
            messages: totals.messages,
            readings: totals.readings,
            spikes: totals.spikes,
            elapsed: totals.elapsed,
            ..Totals::default()
        }
    );
    let known: HashSet<_> = clean.iter().map(|m| (&m.topic, &m.payload)).collect();
    // Silence and duplicates take and add whole messages, so every message is one of the clean ones.
    let dirt = Dirt { silence: 0.01, duplicate: 0.05, ..Dirt::NONE };
    let (dirty, _) = sent(3, dirt, Span::seconds(120));
    assert!(dirty.len() < clean.len() && dirty.len() > clean.len() / 4);
    assert!(dirty.iter().all(|m| known.contains(&(&m.topic, &m.payload))));
}

/// Counts the messages as a node would, from their bytes alone.
fn count(messages: &[Message]) -> Totals {
    let mut totals = Totals::default();
    let mut seen = HashSet::new();
    let mut newest: HashMap<&str, i64> = HashMap::new();
    for message in messages {
        totals.messages += 1;
        let parsed: Result<serde_json::Value, _> = serde_json::from_slice(&message.payload);
        let Ok(serde_json::Value::Object(object)) = parsed else {
            totals.malformed += 1;
            continue;
        };
        let ts = object["ts"].as_i64().unwrap();
        let newest = newest.entry(&message.topic).or_insert(ts);
        for (name, value) in object.iter().filter(|(name, _)| *name != "ts") {
            totals.readings += 1;
            if value.is_string() {
                assert!(!value.as_str().unwrap().parse::<f64>().unwrap().is_finite());
                totals.not_finite += 1;
            } else if !(0.0..10_000.0).contains(&value.as_f64().unwrap()) {
                totals.out_of_range += 1;
            } else if ts < *newest - LATENESS.0 / 1000 {
                totals.late += 1;
            } else if !seen.insert((message.topic.clone(), name.clone(), ts)) {
                totals.duplicates += 1;
            } else if ts < *newest {
                totals.out_of_order += 1;
            }
        }
        *newest = (*newest).max(ts);
    }
    totals
}

#[test]
fn totals_are_exact() {
    for seed in [1, 2] {
        let (messages, totals) = sent(seed, Dirt::default(), Span::seconds(900));
        let counted = count(&messages);
        assert_eq!(counted, Totals { spikes: 0, missing: 0, elapsed: Span::ZERO, ..totals });
        // Every kind of dirt is there, and most readings are clean.
        for (name, kind) in [
            ("malformed", totals.malformed),
            ("duplicates", totals.duplicates),
            ("late", totals.late),
            ("not finite", totals.not_finite),
            ("out of range", totals.out_of_range),
            ("out of order", totals.out_of_order),
            ("missing", totals.missing),
            ("spikes", totals.spikes),
        ] {
            assert!(kind > 0 && kind < totals.readings / 20, "{name}: {totals:?}");
        }
        let made = read(plant(seed, FaultPlan::healthy()), Span::seconds(900));
        let made: usize = made.iter().map(|s| s.values.iter().flatten().count()).sum();
        assert_eq!(made as u64, totals.readings - totals.duplicates + totals.missing);
    }
}

#[test]
fn a_silent_pump_makes_nobody_late() {
    let dirt = Dirt { silence: 0.01, late_within: 0.05, ..Dirt::NONE };
    let (messages, totals) = sent(5, dirt, Span::seconds(300));
    assert_eq!(totals.late, 0);
    assert!(totals.out_of_order > 0);
    assert_eq!(count(&messages).late, 0);
    assert!(messages.iter().any(|m| m.mark == Mark::Delayed));
}

/// One fault of pump 0 from 300 s to 900 s, and what the same pump does without it.
fn compare(kind: FaultKind, signal: Option<Signal>, ramp: i64) -> (Vec<Sample>, Vec<Sample>) {
    let fault = Fault {
        pump: 0,
        kind,
        signal,
        start: Span::seconds(300),
        ramp: Span::seconds(ramp),
        end: Span::seconds(900),
    };
    let length = Span::seconds(960);
    let ill = read(pair(11, FaultPlan { faults: vec![fault] }), length);
    (read(pair(11, FaultPlan::healthy()), length), ill)
}

/// Mean of the ill pump over that of the healthy one while the fault is fully grown.
fn ratio(healthy: &[Sample], ill: &[Sample], signal: Signal) -> f64 {
    mean(&series(ill, 0, signal), 800.0, 900.0) / mean(&series(healthy, 0, signal), 800.0, 900.0)
}

#[test]
fn a_fault_changes_its_pump_alone_and_nothing_before_it() {
    for kind in FaultKind::ALL {
        let signal = (!kind.of_the_pump()).then_some(Signal::MotorCurrent);
        let (healthy, ill) = compare(kind, signal, 60);
        let start = Span::seconds(300);
        for (a, b) in healthy.iter().zip(&ill) {
            assert!(a == b || (a.pump == 0 && a.at >= start), "{kind:?} at {}", a.at);
        }
        assert!(healthy.iter().zip(&ill).any(|(a, b)| a != b), "{kind:?}");
    }
}

#[test]
fn bearing_wear_shakes_and_heats() {
    let (healthy, ill) = compare(FaultKind::BearingWear, None, 300);
    assert!(ratio(&healthy, &ill, Signal::VibrationRms) > 2.0);
    let hot =
        |samples: &[Sample]| mean(&series(samples, 0, Signal::BearingTemperature), 800.0, 900.0);
    assert!(hot(&ill) > hot(&healthy) + 15.0);
    assert!((ratio(&healthy, &ill, Signal::Flow) - 1.0).abs() < 0.01);
    // Exponential: each third of the ramp multiplies by about the same.
    let vibration = series(&ill, 0, Signal::VibrationRms);
    let healthy = series(&healthy, 0, Signal::VibrationRms);
    let at = |t: f64| mean(&vibration, t, t + 20.0) / mean(&healthy, t, t + 20.0);
    let (first, second) = (at(390.0) / at(300.0), at(480.0) / at(390.0));
    assert!((first / second - 1.0).abs() < 0.1, "{first} {second}");
}

#[test]
fn cavitation_is_noisy_and_starves_the_inlet() {
    let (healthy, ill) = compare(FaultKind::Cavitation, None, 30);
    assert!(ratio(&healthy, &ill, Signal::VibrationRms) > 2.0);
    assert!(ratio(&healthy, &ill, Signal::SuctionPressure) < 0.7);
    for signal in [Signal::Flow, Signal::DischargePressure, Signal::VibrationRms] {
        let noise = |samples: &[Sample]| jump(&series(samples, 0, signal), 800.0, 900.0);
        assert!(noise(&ill) > 2.0 * noise(&healthy), "{signal:?}");
    }
}

#[test]
fn a_blocked_filter_takes_suction_flow_and_current() {
    let (healthy, ill) = compare(FaultKind::BlockedFilter, None, 360);
    assert!(ratio(&healthy, &ill, Signal::SuctionPressure) < 0.7);
    assert!(ratio(&healthy, &ill, Signal::Flow) < 0.85);
    assert!(ratio(&healthy, &ill, Signal::MotorCurrent) < 0.95);
    assert!((ratio(&healthy, &ill, Signal::Speed) - 1.0).abs() < 0.001);
}

#[test]
fn a_stuck_sensor_does_not_move_at_all() {
    let (healthy, ill) = compare(FaultKind::StuckSensor, Some(Signal::Flow), 0);
    let flow = series(&ill, 0, Signal::Flow);
    assert_eq!(std(&flow, 301.0, 900.0), 0.0);
    assert!(std(&flow, 0.0, 300.0) > 0.0 && std(&flow, 900.5, 960.0) > 0.0);
    let power = |samples: &[Sample]| series(samples, 0, Signal::MotorCurrent);
    assert_eq!(power(&healthy), power(&ill));
}

#[test]
fn spikes_are_single_and_counted() {
    let (healthy, ill) = compare(FaultKind::SpikeTrain, Some(Signal::DischargePressure), 0);
    let pairs = series(&healthy, 0, Signal::DischargePressure).into_iter().zip(series(
        &ill,
        0,
        Signal::DischargePressure,
    ));
    let times: Vec<f64> = pairs.filter(|(a, b)| b.1 - a.1 > 1.0).map(|(a, _)| a.0).collect();
    assert!(times.len() > 40, "{}", times.len());
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 7.0));
    assert_eq!(times.len(), ill.iter().filter(|sample| sample.spike).count());
}

fn schema() -> Schema {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/pump.toml");
    toml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

#[test]
fn the_plant_sends_what_the_schema_says() {
    let schema = schema();
    let names: Vec<&str> = schema.signals.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, Signal::ALL.map(Signal::name));
    for (signal, described) in Signal::ALL.into_iter().zip(&schema.signals) {
        assert_eq!(described.every, Some(Span::millis(signal.period_ms())), "{signal:?}");
    }
}

#[test]
fn healthy_signals_stay_inside_the_limits_and_the_rates() {
    let schema = schema();
    for seed in [1, 21, 31] {
        let samples = read(plant(seed, FaultPlan::healthy()), Span::seconds(600));
        for pump in 0..PUMPS {
            for (signal, limits) in Signal::ALL.into_iter().zip(&schema.signals) {
                let series = series(&samples, pump, signal);
                let (min, max) = (limits.min.unwrap(), limits.max.unwrap());
                assert!(series.iter().all(|p| p.1 > min && p.1 < max), "{signal:?} of {pump}");
                let rate =
                    |pair: &[(f64, f64)]| (pair[1].1 - pair[0].1).abs() / (pair[1].0 - pair[0].0);
                let fastest = series.windows(2).map(rate).fold(0.0, f64::max);
                assert!(fastest < limits.max_rate.unwrap(), "{signal:?} of {pump}: {fastest}/s");
                // No sensor looks stuck: the noise shows.
                let still = series.windows(60).any(|run| run.iter().all(|p| p.1 == run[0].1));
                assert!(!still, "{signal:?} of {pump}");
            }
        }
    }
}

#[test]
fn every_impossible_value_is_outside_the_limits_and_every_spike_is_too_fast() {
    let schema = schema();
    let (messages, _) = sent(1, Dirt { out_of_range: 0.2, ..Dirt::NONE }, Span::seconds(60));
    let wrong = messages.iter().filter(|m| m.mark == Mark::OutOfRange);
    let outside = wrong.map(|message| {
        let object: serde_json::Map<_, _> = serde_json::from_slice(&message.payload).unwrap();
        let readings = object.iter().filter_map(|(name, v)| Some((schema.position(name)?, v)));
        readings
            .filter(|(index, value)| {
                let (signal, value) = (&schema.signals[*index], value.as_f64().unwrap());
                value < signal.min.unwrap() || value > signal.max.unwrap()
            })
            .count()
    });
    assert!(outside.into_iter().all(|count| count == 1));
    for signal in [Signal::MotorCurrent, Signal::DischargePressure, Signal::VibrationRms] {
        let (_, ill) = compare(FaultKind::SpikeTrain, Some(signal), 0);
        let limit = schema.signals[signal as usize].max_rate.unwrap();
        let spikes = ill.iter().filter(|sample| sample.spike && sample.pump == 0);
        let times: HashSet<i64> = spikes.map(|sample| sample.at.0).collect();
        let pairs = series(&ill, 0, signal);
        for pair in pairs.windows(2) {
            if times.contains(&((pair[1].0 * 1e6).round() as i64)) {
                assert!((pair[1].1 - pair[0].1) / (pair[1].0 - pair[0].0) > limit, "{signal:?}");
            }
        }
    }
}

#[test]
fn a_pump_does_not_depend_on_how_many_others_there_are() {
    let length = Span::seconds(60);
    let many = read(plant(9, FaultPlan::healthy()), length);
    let two = read(pair(9, FaultPlan::healthy()), length);
    assert!(many.into_iter().filter(|sample| sample.pump < 2).eq(two));
}

#[test]
fn the_rate_of_the_plant_is_known() {
    let samples = read(plant(1, FaultPlan::healthy()), Span::seconds(10));
    let per_second: i64 = Signal::ALL.iter().map(|s| 1000 / s.period_ms()).sum();
    assert_eq!(per_second, 31);
    let readings: usize = samples.iter().map(|s| s.values.iter().flatten().count()).sum();
    assert_eq!(readings as i64, per_second * 10 * PUMPS as i64);
    assert_eq!(samples.len() as i64, 10_000_000 / STEP.0 * PUMPS as i64);
}
