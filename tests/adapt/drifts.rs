//! Drift, kind by kind: what is told, of which features, since when, and that normal running tells nothing.

use std::collections::BTreeMap;

use forebay::record::{DriftKind, NoticeKind, NoticeRecord, Record};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::common::{Reading, engine, input, run};
use crate::laws::{model, model_of, noise, pipeline};

/// A multiple of five minutes.
const START: i64 = 1_700_000_100_000_000;

/// What is told of drift while signals `a` and `b` are what `shape` makes of their common and own noise, second by second; and
/// how many assets have drifted at the end, by kind.
fn told(
    seconds: i64,
    shape: impl FnMut(i64, f64, [f64; 2]) -> [f64; 2],
) -> (Vec<NoticeRecord>, BTreeMap<&'static str, u64>) {
    told_by(&model(), seconds, shape)
}

/// The same by this model.
fn told_by(
    model: &std::path::Path,
    seconds: i64,
    mut shape: impl FnMut(i64, f64, [f64; 2]) -> [f64; 2],
) -> (Vec<NoticeRecord>, BTreeMap<&'static str, u64>) {
    let spec = pipeline(model);
    let mut random = ChaCha8Rng::seed_from_u64(21);
    let mut ticks = Vec::new();
    for n in 0..seconds {
        let both = noise(&mut random);
        let own = [noise(&mut random) / 2.0, noise(&mut random) / 2.0];
        let values = shape(n, both, own);
        let reading =
            |(signal, value)| Reading { asset: 0, signal, ts: START + n * 1_000_000, value };
        let values: Vec<(u16, f64)> = (0..).zip(values).filter(|(_, v)| !v.is_nan()).collect();
        ticks.push(input(&spec, &values.into_iter().map(reading).collect::<Vec<_>>()));
    }
    let mut engine = engine(&spec);
    let notice = |record| match record {
        Record::Notice(notice) if notice.kind == NoticeKind::Drift => Some(notice),
        _ => None,
    };
    let records = run(&mut engine, &ticks).into_iter().filter_map(|o| notice(o.record));
    (records.collect(), engine.pipelines()[0].drifting())
}

fn minutes(notice: &NoticeRecord) -> i64 {
    (notice.since.unwrap().0 - START) / 60_000_000
}

fn names(notice: &NoticeRecord) -> Vec<&str> {
    notice.contributions.iter().map(|part| part.name.as_str()).collect()
}

#[test]
fn normal_running_tells_nothing() {
    let (told, drifting) = told(4 * 3600, |_, both, own| [both + own[0], both + own[1]]);
    assert!(told.is_empty(), "{told:?}");
    assert_eq!(drifting.values().sum::<u64>(), 0, "{drifting:?}");
    assert_eq!(drifting.len(), 4);
}

#[test]
fn one_of_several_machines_is_held_against_itself() {
    let model = model_of(&[-2.0, 2.0]);
    let (calm, _) =
        told_by(&model, 3 * 3600, |_, both, own| [both + own[0] - 2.0, both + own[1] - 2.0]);
    assert!(calm.is_empty(), "it is only one of two that differ: {calm:?}");
    let (told, _) = told_by(&model, 3600, |n, both, own| {
        let away = if n > 1800 { 1.5 } else { 0.0 };
        [both + own[0] - 2.0 - away, both + own[1] - 2.0]
    });
    assert!(told.iter().any(|notice| notice.drift == Some(DriftKind::Input)), "{told:?}");
    assert!(minutes(&told[0]) >= 25, "{told:?}");
}

#[test]
fn a_signal_that_wanders_off_is_input_drift_and_asks_for_a_training() {
    let (told, drifting) = told(3600, |n, both, own| {
        let away = ((n - 1200) as f64 / 1200.0).clamp(0.0, 1.0);
        [both + own[0] + 1.1 * away, both + own[1] + 0.55 * away]
    });
    let first = &told[0];
    assert_eq!((first.drift, first.retrain), (Some(DriftKind::Input), false), "{told:?}");
    assert_eq!(names(first)[0], "a.mean");
    assert!((15..=35).contains(&minutes(first)), "{}", minutes(first));
    let second = &told[1];
    assert_eq!((second.drift, second.retrain), (Some(DriftKind::Input), true), "{told:?}");
    assert_eq!(second.since, first.since);
    assert!(second.reason.contains("train the model again"), "{}", second.reason);
    assert_eq!(drifting["input"], 1);
}

#[test]
fn signals_that_no_longer_go_together_are_score_drift() {
    // Each signal is distributed as before; that they share their noise is over after half an hour.
    let (told, drifting) = told(3600, |n, both, own| {
        let apart = own[1] * 5.0_f64.sqrt();
        [both + own[0], if n < 1800 { both + own[1] } else { apart }]
    });
    let first = &told[0];
    assert_eq!(first.drift, Some(DriftKind::Score), "{told:?}");
    assert_eq!(names(first), ["anomaly"]);
    assert!((28..=36).contains(&minutes(first)), "{}", minutes(first));
    assert_eq!(drifting["score"], 1);
}

#[test]
fn signals_that_move_at_once_without_the_score_are_another_regime_and_may_return() {
    // Along the line on which the model lets them move: both by 0.75 of a deviation.
    let (told, drifting) = told(5400, |n, both, own| {
        let step = if (1800..3600).contains(&n) { 1.0 } else { 0.0 };
        let both = both * (1.0 - 0.35 * step) + step;
        [both + own[0], both + own[1]]
    });
    let kinds: Vec<Option<DriftKind>> = told.iter().map(|notice| notice.drift).collect();
    assert_eq!(kinds, [Some(DriftKind::Regime), None], "{told:?}");
    assert_eq!(names(&told[0]).len(), 2);
    assert_eq!(minutes(&told[0]), 30);
    assert!(told.iter().all(|notice| !notice.retrain), "{told:?}");
    assert_eq!(drifting.values().sum::<u64>(), 0);
}

#[test]
fn features_that_are_missing_are_told_beside() {
    let (told, drifting) = told(3600, |n, both, own| {
        // A sensor that is there three seconds of six; the grid bridges less than that.
        let gone = n > 1200 && n % 12 < 9;
        [if gone { f64::NAN } else { both + own[0] }, both + own[1]]
    });
    let missing = told.iter().find(|n| n.drift == Some(DriftKind::Missing)).unwrap();
    assert_eq!(names(missing), ["a.mean"]);
    assert_eq!(drifting["missing"], 1);
}
