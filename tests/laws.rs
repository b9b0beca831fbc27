//! Laws that every pipeline obeys, whatever comes in: how input is cut into ticks, where a run was interrupted and
//! in which order readings came within their lateness changes nothing; and every reading is accounted for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;

use common::{Reading, account, engine, input, live, run, sorted, spec};
use forebay::engine::Engine;
use forebay::frame::Input;
use forebay::model::pca::{self, PcaOptions};
use forebay::model::training::TrainingSet;
use forebay::pipeline::spec::PipelineSpec;
use forebay::record::{Outgoing, Record};
use forebay::time::{Span, Timestamp};
use proptest::prelude::*;

/// Pipelines that between them use every stage and every way to fill and to judge.
const PIPELINES: [&str; 7] = [
    r#"
    stage = [
      { clean = { spikes = { hampel = { width = 5, sigmas = 4.0 } }, stuck_after = "20s" } },
      { resample = { every = "1s", fill = "linear", max_gap = "4s" } },
      { window = { length = "10s", every = "5s", features = ["mean", "std", "slope", "p90", "kurtosis"], min_coverage = 0.3 } },
      { emit = { lane = "feature" } },
      { alarm = { name = "high", on = "a.mean", raise = 5.0, clear = 1.0, on_delay = "5s", off_delay = "5s" } },
    ]"#,
    r#"
    stage = [
      { clean = { out_of_range = "clamp", too_fast = "mark", duplicates = "last" } },
      { resample = { every = "500ms", fill = "previous", max_gap = "3s" } },
      { window = { length = "10s", features = ["min", "max", "range", "last", "first"], signals = ["c", "a"], min_coverage = 0.0 } },
      { emit = { lane = "score" } },
      { alarm = { name = "low", on = "c.min", below = true, raise = -5.0, latch = true } },
    ]"#,
    r#"
    stage = [
      { resample = { every = "2s", fill = "mean" } },
      { window = { length = "20s", every = "4s", features = ["rms", "crest", "skewness", "coverage"], min_coverage = 0.5 } },
      { emit = { lane = "feature" } },
    ]"#,
    r#"
    stage = [
      { clean = { stuck_after = "3s", stuck = "mark" } },
      { resample = { every = "1s", fill = "next", max_gap = "2s" } },
      { window = { length = "6s", every = "4s", features = ["mean", "p50"], min_coverage = 0.2 } },
      { emit = { lane = "feature" } },
    ]"#,
    r#"
    stage = [
      { clean = {} },
      { emit = { lane = "raw" } },
      { resample = { every = "1s" } },
      { window = { length = "3s", every = "1s", features = ["mean"], min_coverage = 0.0 } },
      { emit = { lane = "feature" } },
    ]"#,
    r#"
    stage = [
      { clean = {} },
      { resample = { every = "1s", max_gap = "10s" } },
      { window = { length = "8s", every = "2s", features = ["mean", "std"], signals = ["a", "b"], min_coverage = 0.0 } },
      { score = { model = "MODEL", output = "anomaly" } },
      { drift = { on = "anomaly", over = "1m" } },
      { emit = { lane = "score" } },
      { alarm = { name = "odd", on = "anomaly", raise = 0.6, clear = 0.5, on_delay = "2s" } },
    ]"#,
    r#"
    stage = [
      { clean = { too_fast = "mark" } },
      { resample = { every = "1s/7", max_gap = "3s" } },
      { window = { length = "12s", every = "3s", signals = ["a"], features = ["mean", "slope", "rms_0_3", "bpfo", "ftf"], min_coverage = 0.1, bearing = { speed = { signal = "c" }, orders = { bpfo = 0.08, bpfi = 0.1, bsf = 0.04, ftf = 0.03 } } } },
      { emit = { lane = "feature" } },
    ]"#,
];

/// A pipeline of [`PIPELINES`], with a model where it asks for one.
fn pipeline(which: usize) -> PipelineSpec {
    spec(&PIPELINES[which].replace("MODEL", model().to_str().unwrap()))
}

/// An anomaly model for the windows above, learned from noise.
fn model() -> &'static Path {
    static MODEL: OnceLock<tempfile::TempPath> = OnceLock::new();
    MODEL.get_or_init(|| {
        let names = ["a.mean", "a.std", "b.mean", "b.std"].map(String::from).to_vec();
        let mut set = TrainingSet { name: "odd".into(), names, ..TrainingSet::default() };
        set.units = vec![String::new(); 4];
        for n in 0..200_u32 {
            let noise = |k: u32| f64::from((n * k) % 17) / 4.0 - 2.0;
            set.rows.extend([noise(5), noise(3).abs(), noise(7) + noise(5), noise(11).abs()]);
            set.assets.push(0);
            set.starts.push(Timestamp(i64::from(n) * 8_000_000));
            set.ends.push(Timestamp(i64::from(n + 1) * 8_000_000));
        }
        let (bytes, _) = pca::train(&set, &PcaOptions::default()).unwrap();
        let mut file = tempfile::Builder::new().suffix(".onnx").tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        file.into_temp_path()
    })
}

/// A recording: two assets, three signals, jumps in time, repeats, impossible values.
fn recording() -> impl Strategy<Value = Vec<Reading>> {
    let step = prop_oneof![
        20 => 0..800_000_i64,       // up to 0.8 s on
        4 => -1_900_000..0_i64,     // back within the lateness
        1 => -9_000_000..0_i64,     // back beyond it
        1 => 5_000_000..60_000_000_i64,
        1 => Just(86_400_000_000_000_i64), // a thousand days: a clock that jumped
    ];
    let value = prop_oneof![
        20 => (-100..100_i32).prop_map(|v| f64::from(v) / 10.0),
        2 => Just(3.0),
        1 => Just(f64::NAN),
        1 => Just(1e6),
        1 => Just(f64::NEG_INFINITY),
    ];
    let reading = (0..2_u32, 0..3_u16, step, value);
    prop::collection::vec(reading, 1..400).prop_map(|list| {
        let mut ts = 1_700_000_000_000_000_i64;
        let mut place = |step: i64| {
            ts += step;
            // Whole tenths of a second, so that some fall on the grid and some twice on one time.
            ts - ts % 100_000
        };
        list.into_iter()
            .map(|(asset, signal, step, value)| Reading { asset, signal, ts: place(step), value })
            .collect()
    })
}

/// A recording and a second order of it in which nothing comes later than the lateness allows.
fn reordered() -> impl Strategy<Value = (Vec<Reading>, Vec<Reading>)> {
    let reading = (0..2_u32, 0..3_u16, 1..900_000_i64, -100..100_i32, 0..2_000_000_i64);
    prop::collection::vec(reading, 1..300).prop_map(|list| {
        let mut ts = 1_700_000_000_000_000_i64;
        let mut keyed = Vec::new();
        for (asset, signal, step, value, delay) in list {
            ts += step; // no time twice: which of two would win is a matter of order
            let reading = Reading { asset, signal, ts, value: f64::from(value) / 10.0 };
            keyed.push((ts + delay, reading));
        }
        let straight = keyed.iter().map(|k| k.1).collect();
        keyed.sort_by_key(|k| k.0);
        (straight, keyed.into_iter().map(|k| k.1).collect())
    })
}

fn ticks(
    spec: &PipelineSpec,
    readings: &[Reading],
    cuts: &[usize],
) -> Vec<Vec<forebay::frame::Input>> {
    let mut ticks = Vec::new();
    let mut rest = readings;
    let mut cuts = cuts.iter().cycle();
    while !rest.is_empty() {
        let at = cuts.next().copied().unwrap_or(1).clamp(1, rest.len());
        let (now, later) = rest.split_at(at);
        ticks.push(input(spec, now));
        rest = later;
    }
    ticks
}

fn once(
    spec: &PipelineSpec,
    readings: &[Reading],
    cuts: &[usize],
) -> (Vec<String>, forebay::stage::Account) {
    let mut engine = engine(spec);
    let records = run(&mut engine, &ticks(spec, readings, cuts));
    assert!(engine.take_failures().is_empty());
    let mut account = account(&engine);
    account.records = 0; // raw records are cut by ticks
    (texts(records), account)
}

/// A record as text. What a model says depends in its last digits on how many windows it was asked about at once.
fn in_text(record: &Record) -> String {
    let round = |value: f64| (value * 1e4).round() / 1e4;
    let mut record = record.clone();
    match &mut record {
        Record::Score(score) => {
            score.contributions.clear();
            score.scores.values_mut().flatten().for_each(|value| *value = round(*value));
        }
        Record::Alarm(alarm) => {
            alarm.contributions.clear();
            alarm.value = alarm.value.map(round);
        }
        _ => {}
    }
    serde_json::to_string(&record).unwrap()
}

/// The readings in ticks as a node would close them: each with the clock, which is right.
fn clocked(
    spec: &PipelineSpec,
    readings: &[Reading],
    cuts: &[usize],
) -> Vec<(Vec<Input>, Timestamp)> {
    let mut now = Timestamp::MIN;
    let with_clock = |tick: Vec<Input>| {
        now = now.max(tick[0].readings.ts.iter().copied().max().unwrap());
        (tick, now)
    };
    ticks(spec, readings, cuts).into_iter().map(with_clock).collect()
}

fn texts(records: Vec<Outgoing>) -> Vec<String> {
    sorted(records).iter().map(in_text).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn ticks_may_be_cut_anywhere(
        readings in recording(),
        cuts in prop::collection::vec(1..40_usize, 1..20),
        which in 0..PIPELINES.len(),
    ) {
        let spec = pipeline(which);
        let whole = once(&spec, &readings, &[readings.len()]);
        prop_assert_eq!(&whole, &once(&spec, &readings, &cuts));
        prop_assert_eq!(&whole, &once(&spec, &readings, &[1]));
    }

    #[test]
    fn a_run_may_be_interrupted_anywhere(
        readings in recording(),
        cuts in prop::collection::vec(1..40_usize, 1..20),
        stop in any::<prop::sample::Index>(),
        which in 0..PIPELINES.len(),
    ) {
        let spec = pipeline(which);
        let ticks = ticks(&spec, &readings, &cuts);
        let mut straight = engine(&spec);
        let expected = run(&mut straight, &ticks);

        let (before, after) = ticks.split_at(stop.index(ticks.len()));
        let mut first = engine(&spec);
        let mut records = Vec::new();
        for tick in before {
            records.extend(first.step(tick.clone(), Timestamp(0)).records);
        }
        let checkpoint = first.checkpoint().unwrap();
        let mut second: Engine = engine(&spec);
        prop_assert_eq!(second.restore(&checkpoint).unwrap(), Vec::<String>::new());
        prop_assert_eq!(&second.checkpoint().unwrap(), &checkpoint);
        records.extend(run(&mut second, after));
        prop_assert_eq!(format!("{records:?}"), format!("{expected:?}"));
        prop_assert_eq!(account(&second), account(&straight));
    }

    #[test]
    fn a_stop_may_last_any_time(
        (_, readings) in reordered(),
        cuts in prop::collection::vec(1..40_usize, 1..20),
        (stop, saved) in any::<(prop::sample::Index, prop::sample::Index)>(),
        which in 0..PIPELINES.len(),
    ) {
        let spec = pipeline(which);
        let ticks = clocked(&spec, &readings, &cuts);
        let mut straight = live(&spec);
        let mut expected = Vec::new();
        for (tick, now) in ticks.clone() {
            expected.extend(straight.step(tick, now).records);
        }
        expected.extend(straight.finish().records);

        // Far longer than `idle`, killed some ticks after a checkpoint; then the broker sends the rest.
        let (stop, pause) = (stop.index(ticks.len()), Span::seconds(3600));
        let (before, after) = ticks.split_at(stop);
        let mut first = live(&spec);
        let mut journal = Vec::new();
        let mut records = Vec::new();
        let mut checkpoint = first.checkpoint().unwrap();
        for (tick, now) in before.iter().cloned() {
            let step = first.step(tick, now);
            records.extend(step.records);
            journal.push((step.tick, step.input));
            if journal.len() == saved.index(stop) {
                checkpoint = first.checkpoint().unwrap();
            }
        }
        let mut second = live(&spec);
        second.restore(&checkpoint).unwrap();
        for (tick, input) in journal.iter().filter(|entry| entry.0.seq > checkpoint.tick.seq) {
            second.replay(*tick, input.clone());
        }
        let last = before.last().map_or(ticks[0].1, |tick| tick.1);
        let start = (vec![Input::of_deafness()], last);
        for (tick, now) in std::iter::once(start).chain(after.iter().cloned()) {
            let step = second.step(tick, now.plus(pause));
            records.extend(step.records);
            journal.push((step.tick, step.input));
        }
        records.extend(second.finish().records);
        prop_assert_eq!(texts(records), texts(expected));
        prop_assert_eq!(account(&second).late, 0);

        // Whoever has nothing but the journal comes to the same.
        let mut third = live(&spec);
        for (tick, input) in journal {
            third.replay(tick, input);
        }
        third.finish();
        prop_assert_eq!(account(&third), account(&second));
    }

    #[test]
    fn a_reading_ahead_of_the_clock_makes_no_other_late(
        (_, readings) in reordered(),
        (at, signal) in (any::<prop::sample::Index>(), 0..3_u16),
        ahead in 1..=600_000_000_i64,
    ) {
        let spec = pipeline(0);
        let mut engine = live(&spec);
        let at = at.index(readings.len());
        let (mut now, mut given) = (Timestamp::MIN, 0);
        for (place, reading) in readings.iter().enumerate() {
            now = now.max(Timestamp(reading.ts));
            let wrong = Reading { signal, ts: now.0 + ahead, ..*reading };
            let tick = if place == at { &[*reading, wrong][..] } else { &[*reading] };
            engine.step(input(&spec, tick), now);
            given += tick.len() as u64;
        }
        // Neither while the asset speaks, nor after it was silent.
        let asset = readings[at].asset;
        now = now.plus(Span::seconds(40));
        engine.step(Vec::new(), now);
        engine.step(input(&spec, &[Reading { asset, signal: 0, ts: now.0, value: 1.0 }]), now);
        let books = account(&engine);
        prop_assert_eq!((books.received, books.late, books.gap()), (given + 1, 0, 0));
        // And it does not wait for ever, nor is the engine woken in vain.
        for _ in 0..3 {
            let Some(wake) = engine.wake_at() else { break };
            let before = account(&engine).pending;
            prop_assert!(wake > now);
            now = wake;
            engine.step(Vec::new(), now);
            prop_assert!(account(&engine).pending < before);
        }
        prop_assert_eq!(account(&engine).pending, 0);
    }

    #[test]
    fn order_within_the_lateness_does_not_matter((straight, shuffled) in reordered(), which in 0..PIPELINES.len()) {
        let spec = pipeline(which);
        let (records, books) = once(&spec, &straight, &[7]);
        prop_assert_eq!(books.late, 0);
        prop_assert_eq!((records, books), once(&spec, &shuffled, &[5]));
    }

    #[test]
    fn every_reading_is_accounted_for(readings in recording(), which in 0..PIPELINES.len()) {
        let spec = pipeline(which);
        let (_, books) = once(&spec, &readings, &[9]);
        prop_assert_eq!(books.received, readings.len() as u64);
        prop_assert_eq!(books.pending, 0);
        prop_assert_eq!(books.gap(), 0);
    }

    #[test]
    fn one_asset_never_changes_another(readings in recording(), which in 0..PIPELINES.len()) {
        let spec = pipeline(which);
        let of = |records: Vec<String>| -> Vec<String> {
            records.into_iter().filter(|r| r.contains("\"asset\":\"m0\"")).collect()
        };
        let alone: Vec<Reading> = readings.iter().copied().filter(|r| r.asset == 0).collect();
        prop_assert_eq!(of(once(&spec, &readings, &[11]).0), of(once(&spec, &alone, &[11]).0));
    }
}

#[test]
fn a_thousand_days_of_gap_cost_nothing() {
    let spec = pipeline(0);
    let at = |ts| Reading { asset: 0, signal: 0, ts, value: 1.0 };
    let readings =
        [at(1_000_000_000_000_000), at(1_000_000_001_000_000), at(1_900_000_000_000_000)];
    let (_, books) = once(&spec, &readings, &[3]);
    assert_eq!(books.rows, 3);
}
