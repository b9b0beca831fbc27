//! What a model is given follows where an asset's inputs lie: slowly, within bounds, the same however ticks are cut and
//! runs interrupted, and no fault is learned.

use std::collections::BTreeMap;
use std::path::Path;

use forebay::pipeline::spec::PipelineSpec;
use forebay::record::{AlarmState, NoticeKind, NoticeRecord, Outgoing, Record};
use forebay::time::Timestamp;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::common::{Reading, engine, run, spec};
use crate::laws::{model, noise, texts, ticks};

const START: i64 = 1_700_000_000_000_000;
/// Windows an hour, which is the half-life.
const HOUR: i64 = 360;
/// Standard deviation of each signal in training.
const SIGMA: f64 = 1.118;

/// A window every ten seconds, with these settings of `recalibrate`.
fn pipeline(model: &Path, recalibrate: &str) -> PipelineSpec {
    spec(&format!(
        r#"
        stage = [
          {{ clean = {{}} }},
          {{ resample = {{ every = "10s", fill = "previous", max_gap = "20s" }} }},
          {{ window = {{ length = "10s", features = ["mean"], signals = ["a", "b"], min_coverage = 0.0 }} }},
          {{ score = {{ model = "{}", output = "anomaly"{recalibrate} }} }},
          {{ emit = {{ lane = "score" }} }},
          {{ alarm = {{ name = "odd", on = "anomaly" }} }},
        ]"#,
        model.display()
    ))
}

const FOLLOWS: &str = ", recalibrate = { half_life = \"1h\", most = 2.0 }";

/// So many windows of one machine; `away` says how far both signals lie from where they were in training.
fn readings(windows: i64, away: impl Fn(i64) -> [f64; 2]) -> Vec<Reading> {
    let mut random = ChaCha8Rng::seed_from_u64(21);
    let mut list = Vec::new();
    for n in 0..windows {
        let both = noise(&mut random);
        for (signal, away) in (0..).zip(away(n)) {
            let value = both + noise(&mut random) / 2.0 + away;
            list.push(Reading { asset: 0, signal, ts: START + n * 10_000_000, value });
        }
    }
    list
}

fn notices(records: &[Outgoing]) -> Vec<&NoticeRecord> {
    fn notice(outgoing: &Outgoing) -> Option<&NoticeRecord> {
        match &outgoing.record {
            Record::Notice(notice) => Some(notice),
            _ => None,
        }
    }
    let all = records.iter().filter_map(notice);
    all.filter(|notice| notice.kind == NoticeKind::Recalibration).collect()
}

/// Scores by the end of their windows.
fn scores(records: &[Outgoing]) -> BTreeMap<Timestamp, f64> {
    let score = |o: &Outgoing| match &o.record {
        Record::Score(score) => Some((score.window_end, score.scores["anomaly"]?)),
        _ => None,
    };
    records.iter().filter_map(score).collect()
}

fn mean_of_last(records: &[Outgoing], windows: usize) -> f64 {
    let scores: Vec<f64> = scores(records).into_values().collect();
    scores[scores.len() - windows..].iter().sum::<f64>() / windows as f64
}

fn first_alarm(records: &[Outgoing]) -> Option<i64> {
    records.iter().find_map(|o| match &o.record {
        Record::Alarm(alarm) if alarm.state == AlarmState::Unacknowledged => {
            Some((alarm.at.0 - START) / 10_000_000)
        }
        _ => None,
    })
}

fn run_of(spec: &PipelineSpec, readings: &[Reading]) -> Vec<Outgoing> {
    run(&mut engine(spec), &ticks(spec, readings, &[500]))
}

#[test]
fn ticks_and_interruptions_change_nothing() {
    let model = model();
    let spec = pipeline(&model, FOLLOWS);
    let readings = readings(5 * HOUR, |_| [0.6, 0.6]);
    let records = run(&mut engine(&spec), &ticks(&spec, &readings, &[8]));
    assert!(!notices(&records).is_empty());
    let expected = texts(records);
    for sizes in [&[1, 3, 50][..], &[100_000], &[7, 400, 2]] {
        let found = texts(run(&mut engine(&spec), &ticks(&spec, &readings, sizes)));
        assert!(found == expected, "{sizes:?}");
    }
    let all = ticks(&spec, &readings, &[8]);
    for stop in [40, 97, 200, 310] {
        let (before, after) = all.split_at(stop);
        let mut first = engine(&spec);
        let mut records = Vec::new();
        for tick in before {
            records.extend(first.step(tick.clone(), Timestamp(0)).records);
        }
        let checkpoint = first.checkpoint().unwrap();
        let mut second = engine(&spec);
        assert_eq!(second.restore(&checkpoint).unwrap(), Vec::<String>::new());
        assert_eq!(second.checkpoint().unwrap(), checkpoint);
        records.extend(run(&mut second, after));
        assert!(texts(records) == expected, "interrupted after tick {stop}");
    }
}

#[test]
fn a_slow_shift_is_followed_and_said() {
    let model = model();
    let away = |n: i64| [(n as f64 / (24 * HOUR) as f64).min(1.0) * 1.5 * SIGMA; 2];
    let readings = readings(36 * HOUR, away);
    let [with, without] = [FOLLOWS, ""].map(|text| run_of(&pipeline(&model, text), &readings));
    let normal =
        mean_of_last(&run_of(&pipeline(&model, ""), &self::readings(HOUR * 4, |_| [0.0; 2])), 1000);
    let [followed, left] = [&with, &without].map(|records| mean_of_last(records, 1000));
    assert!(left > normal + 0.1, "{left} {normal}");
    assert!((followed - normal).abs() < 0.02, "{followed} {normal}");
    let notices = notices(&with);
    let last = notices.last().unwrap();
    assert!((last.value.unwrap() - 1.5).abs() < 0.25, "{last:?}");
    assert!(notices.len() >= 5 && notices.iter().all(|n| !n.retrain), "{notices:?}");
    assert_eq!(last.contributions.len(), 2);
    // What is normal moves nothing.
    let still = run_of(&pipeline(&model, FOLLOWS), &self::readings(48 * HOUR, |_| [0.0; 2]));
    assert_eq!(self::notices(&still), Vec::<&NoticeRecord>::new());
}

#[test]
fn a_fault_is_not_learned_however_long_it_lasts() {
    let model = model();
    // Six hours of normal running; then `b` leaves for six standard deviations and more, and stays there for ten hours.
    for (hours, late, off) in [(1, 6, 0.02), (2, 12, 0.04)] {
        let ramp = |n: i64| (n - 6 * HOUR) as f64 / (hours * HOUR) as f64;
        let readings = readings((16 + hours) * HOUR, |n| [0.0, ramp(n).clamp(0.0, 1.0) * 7.0]);
        let [with, without] = [FOLLOWS, ""].map(|text| run_of(&pipeline(&model, text), &readings));
        let [followed, left] = [&with, &without].map(|records| first_alarm(records).unwrap());
        assert_eq!(notices(&with), Vec::<&NoticeRecord>::new());
        let (with, without) = (scores(&with), scores(&without));
        let furthest = with.iter().map(|(at, score)| (score - without[at]).abs());
        let furthest = furthest.fold(0.0, f64::max);
        println!(
            "a ramp of {hours} h: raised {} windows later, scores off by {furthest:.3}",
            followed - left
        );
        assert!(followed - left <= late && furthest < off, "{followed} {left} {furthest}");
    }
}

#[test]
fn nothing_moves_further_than_it_may_and_that_asks_for_a_training() {
    let model = model();
    let text = ", recalibrate = { half_life = \"1h\", most = 0.5 }";
    let records = run_of(&pipeline(&model, text), &readings(24 * HOUR, |_| [1.0 * SIGMA; 2]));
    let notices = notices(&records);
    let last = notices.last().unwrap();
    assert!(last.retrain && (last.value.unwrap() - 0.5).abs() < 1e-6, "{last:?}");
    assert_eq!(notices.iter().filter(|n| n.retrain).count(), 1, "{notices:?}");
}
