//! The MQTT feed on the site's broker: retained, flat, and never in anybody's way.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

mod edge;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use edge::bytes::BytesBroker;
use edge::{PATIENCE, subscribe, until};
use forebay::command::Verdict;
use forebay::config::{MqttConfig, MqttVersion};
use forebay::demo::broker::Broker;
use forebay::feed::mqtt::{FeedCounts, MqttFeed};
use forebay::link::LinkStatus;
use forebay::record::{
    AlarmRecord, AlarmState, Contribution, NoticeKind, NoticeRecord, RawReading, Record,
    ScoreRecord, Severity, VerdictRecord,
};
use forebay::time::{Timestamp, monotonic};
use serde_json::Value;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

const TOPIC: &str = "forebay/{node}/{pipeline}/{asset}/{type}";

fn score(asset: &str, n: i64) -> Arc<Record> {
    Arc::new(Record::Score(ScoreRecord {
        id: format!("s{n}"),
        node: "gw".into(),
        pipeline: "pumps".into(),
        asset: asset.into(),
        tags: BTreeMap::new(),
        window_start: Timestamp(0),
        window_end: Timestamp(n * 1_000_000),
        features: BTreeMap::from([("flow.mean".into(), Some(1.5))]),
        scores: BTreeMap::from([("anomaly".into(), Some(0.25))]),
        threshold: Some(0.9),
        coverage: 1.0,
        model: None,
        model_version: None,
        models: Vec::new(),
        contributions: Vec::new(),
    }))
}

fn alarm(asset: &str, name: &str, state: AlarmState) -> Arc<Record> {
    Arc::new(Record::Alarm(AlarmRecord {
        id: "a".into(),
        node: "gw".into(),
        pipeline: "pumps".into(),
        asset: asset.into(),
        tags: BTreeMap::new(),
        name: name.into(),
        state,
        severity: Severity::High,
        at: Timestamp(5_000_000),
        on: "anomaly".into(),
        value: Some(0.95),
        limit: 0.9,
        by: None,
        reason: None,
        until: None,
        contributions: Vec::new(),
    }))
}

fn notice(asset: &str, name: &str, kind: NoticeKind) -> Arc<Record> {
    Arc::new(Record::Notice(NoticeRecord {
        id: "n".into(),
        node: "gw".into(),
        pipeline: "pumps".into(),
        asset: asset.into(),
        tags: BTreeMap::from([("site".into(), "north".into())]),
        kind,
        name: name.into(),
        at: Timestamp(5_000_000),
        since: None,
        before: Some(0.5),
        value: Some(0.75),
        drift: None,
        contributions: vec![Contribution { name: "flow.mean".into(), value: 0.75 }],
        retrain: false,
        model_version: None,
        reason: "peaks put it there".into(),
    }))
}

fn verdict(asset: &str) -> Arc<Record> {
    Arc::new(Record::Verdict(VerdictRecord {
        id: "v".into(),
        node: "gw".into(),
        pipeline: "pumps".into(),
        asset: asset.into(),
        tags: BTreeMap::new(),
        name: "wear".into(),
        verdict: Verdict::False,
        fault: None,
        note: Some("cleaned".into()),
        by: None,
        given: Timestamp(7_000_000),
        on: "anomaly".into(),
        peak: 0.95,
        limit: 0.9,
        model_version: None,
        window_start: Timestamp(0),
        window_end: Timestamp(5_000_000),
        peak_start: Timestamp(0),
        features: BTreeMap::from([("flow.mean".into(), Some(1.5)), ("flow.std".into(), None)]),
        signals: BTreeMap::from([("flow".into(), vec![RawReading(Timestamp(0), 1.5)])]),
    }))
}

struct Feed {
    events: broadcast::Sender<Arc<Record>>,
    status: watch::Receiver<LinkStatus>,
    counts: Arc<FeedCounts>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn start(config: &MqttConfig, waiting: usize) -> Feed {
    let (events, receiver) = broadcast::channel(waiting);
    let (writer, status) = watch::channel(LinkStatus::Connecting);
    let counts = Arc::new(FeedCounts::default());
    let stop = CancellationToken::new();
    let feed = MqttFeed::new(config, "gw", TOPIC, counts.clone()).unwrap();
    let task = tokio::spawn(feed.run(receiver, |record| record, writer, stop.clone()));
    Feed { events, status, counts, stop, task }
}

async fn next(received: &mut mpsc::Receiver<(String, Vec<u8>, bool)>) -> (String, Value, bool) {
    let (topic, payload, retained) =
        tokio::time::timeout(PATIENCE, received.recv()).await.unwrap().unwrap();
    (topic, serde_json::from_slice(&payload).unwrap(), retained)
}

#[tokio::test(flavor = "multi_thread")]
async fn scores_and_alarms_are_flat_and_kept_for_dashboards_that_come_later() {
    for version in [MqttVersion::V311, MqttVersion::V5] {
        let broker = Broker::start(None).unwrap();
        let feed = start(&broker.client(version), 100);
        feed.events.send(score("pump-1", 1)).unwrap();
        feed.events.send(score("pump-1", 2)).unwrap();
        feed.events.send(alarm("a/b+", "wear", AlarmState::Unacknowledged)).unwrap();
        feed.events.send(alarm("a/b+", "leak/#", AlarmState::Returned)).unwrap();
        until("all are published", || feed.counts.published.load(Relaxed) == 6).await;
        feed.stop.cancel();
        feed.task.await.unwrap();

        let mut found = BTreeMap::new();
        let mut received = subscribe(broker.ports().0, "forebay/#").await;
        while found.len() < 4 {
            let (topic, value, retained) = next(&mut received).await;
            assert!(retained, "{topic}");
            found.insert(topic, value);
        }
        let score = &found["forebay/gw/pumps/pump-1/score"];
        assert_eq!(score["time"], 2000, "the newest one is kept");
        assert_eq!((&score["anomaly"], &score["flow.mean"]), (&0.25.into(), &1.5.into()));
        let alarm = &found["forebay/gw/pumps/a_b_/alarm"];
        assert_eq!((&alarm["name"], &alarm["asset"]), (&"leak/#".into(), &"a/b+".into()));
        let states = ["wear", "leak__"].map(|name| {
            let alarm = &found[&format!("forebay/gw/pumps/a_b_/alarm/{name}")];
            (alarm["state"].clone(), alarm["active"].clone())
        });
        assert_eq!(states[0], ("unacknowledged".into(), true.into()), "no alarm hides another");
        assert_eq!(states[1], ("returned".into(), false.into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn notices_and_verdicts_are_kept_each_under_what_it_is_about() {
    let broker = Broker::start(None).unwrap();
    let feed = start(&broker.client(MqttVersion::V5), 100);
    feed.events.send(notice("pump-1", "anomaly", NoticeKind::Threshold)).unwrap();
    feed.events.send(notice("pump-1", "anomaly", NoticeKind::Drift)).unwrap();
    feed.events.send(verdict("pump-1")).unwrap();
    until("all are published", || feed.counts.published.load(Relaxed) == 6).await;
    feed.stop.cancel();
    feed.task.await.unwrap();
    let mut found = BTreeMap::new();
    let mut received = subscribe(broker.ports().0, "forebay/#").await;
    while found.len() < 5 {
        let (topic, value, retained) = next(&mut received).await;
        assert!(retained, "{topic}");
        let fields = value.as_object().unwrap();
        assert!(fields.values().all(|value| !value.is_object() && !value.is_array()), "{value}");
        found.insert(topic, value);
    }
    let of = |below: &str| &found[&format!("forebay/gw/pumps/pump-1/{below}")];
    assert_eq!(of("notice")["kind"], "drift", "the last one");
    let threshold = of("notice/threshold/anomaly");
    assert_eq!((&threshold["time"], &threshold["value"]), (&5000.into(), &0.75.into()));
    assert_eq!((&threshold["site"], &threshold["name"]), (&"north".into(), &"anomaly".into()));
    assert_eq!(of("verdict"), of("verdict/wear"));
    let verdict = of("verdict");
    assert_eq!((&verdict["verdict"], &verdict["time"]), (&"false".into(), &7000.into()));
    assert_eq!(verdict["flow.mean"], 1.5);
    assert!(verdict.get("flow.std").is_none() && verdict.get("fault").is_none(), "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_costs_old_events_and_leaves_no_stale_alarm() {
    let broker = Broker::start(None).unwrap();
    let (v4, v5) = broker.ports();
    let feed = start(&broker.client(MqttVersion::V311), 8);
    feed.events.send(alarm("pump-1", "wear", AlarmState::Unacknowledged)).unwrap();
    until("it is published", || feed.counts.published.load(Relaxed) == 2).await;
    drop(broker);
    until("it is down", || feed.status.borrow().error().is_some()).await;
    for n in 0..100 {
        feed.events.send(score("pump-1", n)).unwrap();
    }
    let due = monotonic() + PATIENCE;
    let broker = loop {
        match Broker::start_on(v4, v5, None) {
            Ok(broker) => break broker,
            Err(error) => assert!(monotonic() < due, "{error}"),
        }
    };
    let mut received = subscribe(broker.ports().0, "forebay/#").await;
    let (mut newest, mut alarm_again) = (false, false);
    while !(newest && alarm_again) {
        let (topic, value, _) = next(&mut received).await;
        newest |= value["time"] == 99_000;
        alarm_again |= topic.ends_with("/alarm/wear");
    }
    assert!(feed.counts.skipped.load(Relaxed) >= 80, "what was skipped is counted");
    feed.stop.cancel();
    feed.task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_for_the_broker_is_skipped_and_costs_no_connection() {
    let mut fake = BytesBroker::start(MqttVersion::V5).await;
    fake.properties = &[0x27, 0, 0, 2, 0]; // packets of 512 bytes
    let feed = start(&MqttConfig { url: fake.url(), ..MqttConfig::default() }, 100);
    fake.accept(false, &[], Vec::new()).await;
    let large = "x".repeat(300);
    for name in [large.as_str(), "wear", large.as_str(), "leak"] {
        feed.events.send(alarm("pump-1", name, AlarmState::Unacknowledged)).unwrap();
    }
    until("the others are published", || feed.counts.published.load(Relaxed) == 4).await;
    assert_eq!(feed.counts.skipped.load(Relaxed), 2);
    assert!(feed.status.borrow().is_ready());
    feed.stop.cancel();
    feed.task.await.unwrap();
}
