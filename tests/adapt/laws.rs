//! The laws of `tests/laws.rs`, on runs long enough for a threshold to move and a drift to be told: how input is cut into
//! ticks, where a run is interrupted, and other assets change nothing.

use std::io::Write;

use forebay::engine::Engine;
use forebay::frame::Input;
use forebay::model::pca::{self, PcaOptions};
use forebay::model::training::TrainingSet;
use forebay::pipeline::spec::PipelineSpec;
use forebay::record::{NoticeKind, Outgoing, Record};
use forebay::time::Timestamp;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::common::{Reading, engine, input, run, sorted, spec};

const START: i64 = 1_700_000_000_000_000;

/// A model of the two signals' means when they are normal noise around 0.
pub(crate) fn model() -> tempfile::TempPath {
    model_of(&[0.0])
}

/// The same of several machines, each around a mean of its own.
pub(crate) fn model_of(means: &[f64]) -> tempfile::TempPath {
    let names = ["a.mean", "b.mean"].map(String::from).to_vec();
    let mut set = TrainingSet { name: "odd".into(), names, ..TrainingSet::default() };
    set.units = vec![String::new(); 2];
    let mut random = ChaCha8Rng::seed_from_u64(11);
    for n in 0..4000 {
        let asset = n as usize % means.len();
        let both = means[asset] + noise(&mut random);
        set.rows.extend([both + noise(&mut random) / 2.0, both + noise(&mut random) / 2.0]);
        set.assets.push(asset as u32);
        set.starts.push(Timestamp(n * 1_000_000));
        set.ends.push(Timestamp((n + 1) * 1_000_000));
    }
    let (bytes, _) = pca::train(&set, &PcaOptions::default()).unwrap();
    let mut file = tempfile::Builder::new().suffix(".onnx").tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    file.into_temp_path()
}

/// Nearly normal noise: bounded, from twelve even ones.
pub(crate) fn noise(random: &mut ChaCha8Rng) -> f64 {
    (0..12).map(|_| random.random::<f64>()).sum::<f64>() - 6.0
}

/// The pipeline for that model: a window a second.
pub(crate) fn pipeline(model: &std::path::Path) -> PipelineSpec {
    spec(&format!(
        r#"
        stage = [
          {{ clean = {{}} }},
          {{ resample = {{ every = "1s", fill = "previous" }} }},
          {{ window = {{ length = "1s", features = ["mean"], signals = ["a", "b"], min_coverage = 0.0 }} }},
          {{ score = {{ model = "{}", output = "anomaly" }} }},
          {{ drift = {{ on = "anomaly", over = "5m" }} }},
          {{ alarm = {{ name = "odd", on = "anomaly", adapt = {{ alarms_a_day = 300.0, learn = 400 }} }} }},
          {{ alarm = {{ name = "low", on = "a.mean", below = true, raise = -6.0, adapt = {{ alarms_a_day = 300.0, learn = 400, depth = 20 }} }} }},
        ]"#,
        model.display()
    ))
}

/// Readings of two machines, both signals once a second; the second's `b` moves away after a while.
fn readings(seconds: i64) -> Vec<Reading> {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut list = Vec::new();
    for n in 0..seconds {
        for asset in 0..2 {
            let both = noise(&mut random);
            let away = if asset == 1 && n > seconds / 2 { 1.5 } else { 0.0 };
            for signal in 0..2 {
                let value = both + noise(&mut random) / 2.0 + away * f64::from(signal);
                list.push(Reading { asset, signal, ts: START + n * 1_000_000, value });
            }
        }
    }
    list
}

pub(crate) fn ticks(spec: &PipelineSpec, readings: &[Reading], sizes: &[usize]) -> Vec<Vec<Input>> {
    let (mut ticks, mut rest, mut sizes) = (Vec::new(), readings, sizes.iter().cycle());
    while !rest.is_empty() {
        let (now, later) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
        ticks.push(input(spec, now));
        rest = later;
    }
    ticks
}

/// Records as text. What a model says depends in its last digits on how many windows it was asked about at once, and so
/// does what is learned of it.
pub(crate) fn texts(records: Vec<Outgoing>) -> Vec<String> {
    let round = |value: &mut f64| *value = (*value * 1e3).round() / 1e3;
    let text = |mut record: Record| {
        match &mut record {
            Record::Notice(notice) => {
                notice.value.iter_mut().chain(&mut notice.before).for_each(round);
                notice.contributions.iter_mut().for_each(|part| round(&mut part.value));
            }
            Record::Score(score) => {
                score.scores.values_mut().flatten().for_each(round);
                score.contributions.clear();
            }
            Record::Alarm(alarm) => {
                alarm.contributions.clear();
                alarm.value.iter_mut().for_each(round);
                round(&mut alarm.limit);
            }
            _ => {}
        }
        serde_json::to_string(&record).unwrap()
    };
    sorted(records).into_iter().map(text).collect()
}

#[test]
fn ticks_and_interruptions_and_other_assets_change_nothing() {
    let model = model();
    let spec = pipeline(&model);
    let readings = readings(3000);
    let mut whole = engine(&spec);
    let records = run(&mut whole, &ticks(&spec, &readings, &[8]));
    let notices = |kind: NoticeKind| {
        let of_kind = |o: &&Outgoing| matches!(&o.record, Record::Notice(n) if n.kind == kind);
        records.iter().filter(of_kind).count()
    };
    assert!(notices(NoticeKind::Threshold) >= 3, "{records:?}");
    assert!(notices(NoticeKind::Drift) >= 1, "{records:?}");
    let expected = texts(records.clone());

    for sizes in [&[1, 3, 50][..], &[1000], &[7, 400, 2]] {
        let mut engine = engine(&spec);
        assert_eq!(texts(run(&mut engine, &ticks(&spec, &readings, sizes))), expected, "{sizes:?}");
    }
    let ticks_of_8 = ticks(&spec, &readings, &[8]);
    for stop in [100, 420, 700, 1100] {
        let (before, after) = ticks_of_8.split_at(stop);
        let mut first = engine(&spec);
        let mut records = Vec::new();
        for tick in before {
            records.extend(first.step(tick.clone(), Timestamp(0)).records);
        }
        let checkpoint = first.checkpoint().unwrap();
        let mut second: Engine = engine(&spec);
        assert_eq!(second.restore(&checkpoint).unwrap(), Vec::<String>::new());
        assert_eq!(second.checkpoint().unwrap(), checkpoint);
        records.extend(run(&mut second, after));
        assert_eq!(texts(records), expected, "interrupted after tick {stop}");
        // What is remembered of two assets: a few thousand bytes each.
        assert!(checkpoint.state.len() < 40_000, "{}", checkpoint.state.len());
    }
    let alone: Vec<Reading> = readings.iter().copied().filter(|r| r.asset == 0).collect();
    let mut engine = engine(&spec);
    let found = texts(run(&mut engine, &ticks(&spec, &alone, &[5])));
    let of_first: Vec<String> =
        expected.into_iter().filter(|text| text.contains("\"asset\":\"m0\"")).collect();
    assert_eq!(found, of_first);
}
