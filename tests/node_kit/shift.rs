//! A shift of the simulated plant: its messages as they are sent, dirt included, and what an undisturbed replay in this
//! process makes of them. Whatever happens to a node that gets the same messages, its records must be these.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Bytes;
use forebay::config::MqttVersion;
use forebay::decode::Rows;
use forebay::demo::fault::FaultPlan;
use forebay::demo::plant::{Plant, PlantOptions};
use forebay::demo::sender::{Sender, SenderOptions};
use forebay::demo::telemetry::{Dirt, Message, Telemetry, Totals};
use forebay::pipeline::load::load_pipeline;
use forebay::pipeline::plan::PlanOptions;
use forebay::record::Record;
use forebay::stage::Account;
use forebay::time::{Span, now};

use super::{NODE, Site};
use crate::edge::{PATIENCE, unique};

/// Messages of some minutes of some pumps.
pub struct Shift {
    pub messages: Vec<Message>,
    pub totals: Totals,
}

/// What a replay makes of them.
pub struct Replay {
    pub records: Vec<Record>,
    pub account: Account,
}

impl Shift {
    /// So many seconds of a plant with faults, which ends now.
    pub fn of(pumps: usize, seconds: i64, seed: u64) -> Shift {
        let length = Span::seconds(seconds);
        let faults = FaultPlan::schedule(length, pumps, seed);
        let plant = Plant::new(PlantOptions { seed, pumps, faults });
        let start = now().minus(length);
        // Far more dirt than usual, so that a short shift has some of each kind.
        let dirt = Dirt { malformed: 2e-3, late_beyond: 3e-3, ..Dirt::default() };
        let mut telemetry = Telemetry::new(plant, pumps, start, dirt, seed);
        let mut messages = Vec::new();
        while telemetry.plant().elapsed() < length {
            telemetry.step(&mut messages);
        }
        telemetry.finish(&mut messages);
        Shift { messages, totals: telemetry.totals() }
    }

    /// Decodes and computes everything here, undisturbed. The input does not end: a live node does not know that
    /// nothing more will come.
    pub fn replay(&self, site: &Site) -> Replay {
        let path = site.path("pipelines/pump.toml");
        let loaded = load_pipeline(&path, None).unwrap_or_else(|e| panic!("{e}"));
        let host = forebay::model::Host::default();
        let usual = PlanOptions::of(loaded.base(), &host);
        let options = PlanOptions { live: true, asset_limit: 10_000, ..usual };
        let mut engine = loaded.engine(NODE, options).unwrap();
        let decoder = loaded.decoder().unwrap();
        let mut rows = Rows::new(decoder.route().to_owned());
        let mut records = Vec::new();
        for tick in self.messages.chunks(700) {
            for message in tick {
                // What cannot be decoded is dirt of the plant's own.
                drop(decoder.decode(&message.topic, &message.payload, now(), &mut rows));
            }
            let step = engine.step(vec![rows.take()], now());
            records.extend(step.records.into_iter().map(|outgoing| outgoing.record));
        }
        Replay { records, account: engine.pipelines()[0].account().clone() }
    }
}

/// A publisher of QoS 1: at the broker with this address, for MQTT 3.1.1.
pub async fn publisher(url: &str, version: MqttVersion) -> Sender {
    let options = SenderOptions {
        url: url.to_owned(),
        version,
        client_id: unique("plant"),
        window: 50,
        give_up: PATIENCE,
    };
    Sender::connect(options).await.unwrap()
}

/// Sends messages; returns when the broker has acknowledged them all.
pub async fn send(sender: &mut Sender, messages: &[Message]) {
    for message in messages {
        let payload = Bytes::from(message.payload.clone());
        sender.send(message.topic.clone(), payload).await.unwrap();
    }
    tokio::time::timeout(Duration::from_mins(1), sender.drain()).await.unwrap().unwrap();
}

/// Fails unless the far side got exactly what the replay made: the same ids, each once, with the same numbers.
pub fn assert_same(got: &[Record], replay: &Replay) {
    let by_id = |records: &[Record]| -> BTreeMap<String, Record> {
        records.iter().map(|r| (r.id().to_owned(), r.clone())).collect()
    };
    let (ours, theirs) = (by_id(&replay.records), by_id(got));
    assert_eq!(ours.len(), replay.records.len(), "ids are unique");
    let missing: Vec<&String> = ours.keys().filter(|id| !theirs.contains_key(*id)).collect();
    let strange: Vec<&String> = theirs.keys().filter(|id| !ours.contains_key(*id)).collect();
    assert!(missing.is_empty() && strange.is_empty(), "missing {missing:?}, strange {strange:?}");
    for (id, expected) in &ours {
        assert_near(&numbers(expected), &numbers(&theirs[id]), id);
    }
}

/// The numbers of a record, by name, and its fixed parts as text.
fn numbers(record: &Record) -> (BTreeMap<String, f64>, String) {
    let mut numbers = BTreeMap::new();
    match record {
        Record::Score(score) => {
            let all = score.features.iter().chain(&score.scores);
            for (name, value) in all {
                numbers.insert(name.clone(), value.unwrap_or(f64::NAN));
            }
            numbers.insert("coverage".into(), score.coverage);
            (numbers, format!("{} {:?} {:?}", score.asset, score.tags, score.model_version))
        }
        Record::Alarm(alarm) => {
            numbers.insert("value".into(), alarm.value.unwrap_or(f64::NAN));
            numbers.insert("limit".into(), alarm.limit);
            (numbers, format!("{} {:?} {:?}", alarm.asset, alarm.tags, alarm.state))
        }
        other => panic!("the pump pipeline makes no {other:?}"),
    }
}

fn assert_near(
    ours: &(BTreeMap<String, f64>, String),
    theirs: &(BTreeMap<String, f64>, String),
    id: &str,
) {
    assert_eq!(ours.1, theirs.1, "{id}");
    assert!(ours.0.keys().eq(theirs.0.keys()), "{id}");
    for (name, a) in &ours.0 {
        let b = theirs.0[name];
        let near = (a - b).abs() <= 1e-9 * a.abs().max(1.0) || (a.is_nan() && b.is_nan());
        assert!(near, "{id}: {name} is {b}, a replay gives {a}");
    }
}
