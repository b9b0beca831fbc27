//! The demo without its wires: the plant's messages through the shipped pipeline with the shipped models. The books
//! close to the reading, every fault is noticed, and healthy pumps are left alone.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::path::Path;

use forebay::decode::{Decoder, Rows};
use forebay::demo::detect::Detections;
use forebay::demo::fault::FaultPlan;
use forebay::demo::plant::{Plant, PlantOptions};
use forebay::demo::telemetry::{Dirt, Telemetry, Totals};
use forebay::engine::Engine;
use forebay::pipeline::load::{LoadedPipeline, load_pipeline};
use forebay::pipeline::plan::PlanOptions;
use forebay::record::Record;
use forebay::stage::{Account, Reason};
use forebay::time::{Span, Timestamp};

const PUMPS: usize = 12;
const START: Timestamp = Timestamp(1_780_000_000_000_000);

struct Outcome {
    detections: Detections,
    account: Account,
    totals: Totals,
    refused: u64,
}

fn pipeline() -> (LoadedPipeline, Engine, Decoder) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/pump.toml");
    let loaded = load_pipeline(&file, None).unwrap();
    let host = forebay::model::Host::default();
    let options = PlanOptions { live: true, ..PlanOptions::of(loaded.base(), &host) };
    let engine = loaded.engine("demo", options).unwrap();
    let decoder = loaded.decoder().unwrap();
    (loaded, engine, decoder)
}

/// Half an hour of plant time, in ticks as long as those of a demo at 30 times real time.
fn run(seed: u64, faults: FaultPlan) -> Outcome {
    let (_, mut engine, decoder) = pipeline();
    let length = Span::seconds(1800);
    let mut detections = Detections::new(&faults, START);
    let plant = Plant::new(PlantOptions { seed, pumps: PUMPS, faults });
    let mut telemetry = Telemetry::new(plant, PUMPS, START, Dirt::default(), seed);
    let mut rows = Rows::new(decoder.route().to_owned());
    let mut refused = 0;
    let mut messages = Vec::new();
    while telemetry.plant().elapsed() < length {
        (0..30).for_each(|_| telemetry.step(&mut messages));
        let now = START.plus(telemetry.plant().elapsed());
        if telemetry.plant().elapsed() >= length {
            telemetry.finish(&mut messages);
        }
        for message in messages.drain(..) {
            let decoded = decoder.decode(&message.topic, &message.payload, now, &mut rows);
            refused += u64::from(decoded.is_err());
        }
        let step = engine.step(vec![rows.take()], now);
        for outgoing in &step.records {
            if let Record::Alarm(alarm) = &outgoing.record {
                detections.alarm(alarm);
            }
        }
        let rejected = &engine.pipelines()[0].account().rejected;
        detections.taken_out(now, rejected[Reason::TooFast as usize]);
    }
    assert!(engine.take_failures().is_empty());
    let account = engine.pipelines()[0].account().clone();
    Outcome { detections, account, totals: telemetry.totals(), refused }
}

fn books_close(outcome: &Outcome) {
    let (account, totals) = (&outcome.account, &outcome.totals);
    assert_eq!(account.gap(), 0, "{account:?}");
    assert_eq!(account.received, totals.readings);
    assert_eq!(outcome.refused, totals.malformed);
    assert_eq!(account.duplicates, totals.duplicates);
    assert_eq!(account.late, totals.late);
    assert_eq!(account.rejected[Reason::NotFinite as usize], totals.not_finite);
    assert_eq!(account.rejected[Reason::OutOfRange as usize], totals.out_of_range);
    assert!(account.scores > 4_000 && account.unscored * 50 < account.scores, "{account:?}");
}

#[test]
fn every_fault_is_noticed_and_the_books_close() {
    for seed in [1, 2] {
        let outcome = run(seed, FaultPlan::schedule(Span::seconds(1800), PUMPS, seed));
        books_close(&outcome);
        let noticed = outcome.detections.summary(outcome.totals.elapsed);
        assert_eq!(noticed.len(), 5);
        assert!(
            noticed.iter().all(|d| d.detected_after_s.is_some_and(|s| s < 600.0)),
            "{noticed:?}"
        );
        assert_eq!(outcome.detections.false_alarms(), 0);
        assert!(outcome.account.alarms_raised >= 4 && outcome.account.alarms_cleared >= 3);
    }
}

#[test]
fn a_healthy_plant_raises_nothing() {
    let outcome = run(3, FaultPlan::healthy());
    books_close(&outcome);
    assert_eq!(outcome.account.alarms_raised, 0);
    assert_eq!(outcome.account.rejected[Reason::TooFast as usize], 0);
    assert_eq!(outcome.account.marked[Reason::Stuck as usize], 0);
}
