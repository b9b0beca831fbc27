//! What one pipeline's trouble costs the others: nothing. And what a change of settings costs its own memory.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{Reading, engine, input, pipeline, run, spec};
use forebay::engine::{Engine, Planned};
use forebay::frame::{Asset, Input};
use forebay::record::Record;
use forebay::stage::{Around, Effects, Flow, Reason, Stage, StageError};
use forebay::time::Timestamp;

const STAGES: &str = r#"
    stage = [
      { clean = {} },
      { resample = { every = "1s" } },
      { window = { length = "4s", features = ["mean"], signals = ["a"], min_coverage = 0.0 } },
      { emit = { lane = "feature" } },
    ]"#;

fn readings(seconds: std::ops::Range<i64>, value: f64) -> Vec<Reading> {
    let at =
        |s: i64| Reading { asset: 0, signal: 0, ts: 1_700_000_000_000_000 + s * 1_000_000, value };
    seconds.map(at).collect()
}

/// Fails on the tick whose readings hold this value.
struct Trap {
    at: f64,
    panics: bool,
}

impl Stage for Trap {
    fn name(&self) -> &'static str {
        "trap"
    }

    fn apply(&mut self, input: Flow, _: &Around<'_>, _: &mut Effects) -> Result<Flow, StageError> {
        match &input {
            Flow::Readings(readings, _) if readings.value.contains(&self.at) => {
                assert!(!self.panics, "the trap snapped");
                Err(StageError::WrongInput { stage: "trap", expected: "other readings" })
            }
            _ => Ok(input),
        }
    }
}

#[test]
fn a_stage_that_fails_costs_one_pipeline_one_frame() {
    for panics in [false, true] {
        let spec = spec(STAGES);
        let mut trapped = pipeline(&spec);
        trapped.name = "trapped".into();
        let trap =
            Planned { stage: Box::new(Trap { at: 13.0, panics }), fingerprint: "trap".into() };
        trapped.stages.insert(0, trap);
        let mut both = Engine::new("node".into(), vec![trapped, pipeline(&spec)]);
        let ticks = [
            input(&spec, &readings(0..20, 1.0)),
            input(&spec, &readings(20..40, 13.0)),
            input(&spec, &readings(40..60, 2.0)),
        ];
        let mut windows = [0, 0];
        for tick in ticks {
            for outgoing in both.step(tick, Timestamp(0)).records {
                let Record::Score(record) = outgoing.record else { continue };
                windows[usize::from(record.pipeline != "trapped")] += 1;
            }
        }
        let failures = both.take_failures();
        assert_eq!(failures.len(), 1);
        assert_eq!(failures[0].pipeline, "trapped");
        assert!(failures[0].reason.contains("trap"), "{}", failures[0].reason);
        let [trapped, healthy] = both.pipelines() else { panic!("two pipelines") };
        // The frame that failed and what waited for its watermark are gone, and the books say so.
        assert_eq!(trapped.account().rejected[Reason::Quarantined as usize], 23);
        assert_eq!((trapped.account().gap(), healthy.account().gap()), (0, 0));
        assert_eq!(healthy.account().rejected(), 0);
        assert_eq!(windows, [8, 14]);
    }
}

#[test]
fn assets_beyond_the_limit_are_refused_and_counted() {
    let spec = spec(STAGES);
    let mut small = pipeline(&spec);
    small.asset_limit = 1;
    let mut engine = Engine::new("node".into(), vec![small]);
    let mut all = readings(0..10, 1.0);
    all.extend(readings(0..10, 2.0).into_iter().map(|r| Reading { asset: 1, ..r }));
    engine.step(input(&spec, &all), Timestamp(0));
    let books = engine.pipelines()[0].account();
    assert_eq!(books.rejected[Reason::TooManyAssets as usize], 10);
    assert_eq!((books.received, books.gap()), (20, 0));
    assert_eq!(engine.pipelines()[0].assets().len(), 1);
}

#[test]
fn memory_returns_to_the_same_settings_only() {
    let same = spec(STAGES);
    let mut before = engine(&same);
    before.step(input(&same, &readings(0..11, 1.0)), Timestamp(0));
    let checkpoint = before.checkpoint().unwrap();

    let other = spec(&STAGES.replace("\"4s\"", "\"5s\""));
    let mut after = engine(&other);
    let notes = after.restore(&checkpoint).unwrap();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("`window`"), "{notes:?}");
    // What waited in `clean` is still there: nothing is lost by a change of windows.
    assert_eq!(after.pipelines()[0].account().pending, 3);
    run(&mut after, &[input(&other, &readings(11..20, 1.0))]);
}

#[test]
fn readings_that_come_again_are_used_once_and_the_last_32_are_known_as_such() {
    let spec = spec(STAGES);
    let mut engine = engine(&spec);
    for _ in 0..2 {
        engine.step(input(&spec, &readings(0..60, 1.0)), Timestamp(0));
    }
    engine.finish();
    // The last three waited for their watermark, and were known whatever their number.
    let books = engine.pipelines()[0].account();
    assert_eq!((books.received, books.used, books.gap()), (120, 60, 0));
    assert_eq!((books.duplicates, books.late), (32 + 3, 25));
}

#[test]
fn readings_of_other_routes_are_left_alone() {
    let spec = spec(STAGES);
    let mut engine = engine(&spec);
    let foreign = Input {
        route: "another".into(),
        commands: Vec::new(),
        assets: vec![Asset::default()],
        readings: input(&spec, &readings(0..5, 1.0)).remove(0).readings,
    };
    engine.step(vec![foreign], Timestamp(0));
    assert_eq!(engine.pipelines()[0].account().received, 0);
}
