//! The uplink's economy: parcels over MQTT, rate, budget, and fresh records beside a backlog.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod edge;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use bytesize::ByteSize;
use edge::feeding::{Feeding, Running};
use edge::records::{alarm, random_score, score};
use edge::{Mosquitto, unique, until};
use forebay::config::{
    BudgetConfig, HttpConfig, LaneBudgetConfig, MqttConfig, MqttEncoding, MqttVersion,
    UplinkMqttConfig,
};
use forebay::demo::broker::Broker;
use forebay::receive::{ReceiveOptions, Receiver};
use forebay::record::Record;
use forebay::time::{Span, monotonic};
use forebay::uplink::{HttpUplink, MqttUplink, Terms};
use tokio_util::sync::CancellationToken;

fn terms() -> Terms {
    Terms {
        parcel_bytes: 64 * 1024,
        in_flight: 8,
        retry_max: Span::millis(100),
        drain_for: Span::seconds(5),
        rate: None,
        gather: Span::ZERO,
        fresh: 0.5,
        budget: BudgetConfig::default(),
    }
}

fn http(receiver: &Receiver, dictionary: bool) -> HttpUplink {
    let usual = HttpConfig::to(format!("http://{}/in", receiver.address().unwrap()));
    let config = HttpConfig { timeout: Span::seconds(5), dictionary, ..usual };
    HttpUplink::new(&config).unwrap()
}

/// The ids that the far side keeps, in the order in which they came.
fn order(folder: &Path) -> Vec<String> {
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().flatten().map(|e| e.path()).collect();
    files.sort();
    let text = |path| std::fs::read_to_string(path).unwrap();
    let lines =
        files.iter().filter(|p| p.extension().is_some_and(|e| e == "ndjson" || e == "open"));
    let lines: String = lines.map(text).collect();
    let id = |line| serde_json::from_str::<Record>(line).unwrap().id().to_owned();
    lines.lines().map(id).collect()
}

async fn parcels_arrive(client: impl Fn() -> MqttConfig) {
    let folder = tempfile::tempdir().unwrap();
    let prefix = unique("cloud");
    let broker = Some((client(), vec![format!("{prefix}/#")]));
    let options =
        ReceiveOptions { listen: None, broker, ..ReceiveOptions::on_loopback(folder.path()) };
    let stop = CancellationToken::new();
    let receiver = Receiver::start(options, stop.clone()).await.unwrap();
    let config = UplinkMqttConfig {
        broker: client(),
        encoding: MqttEncoding::Parcels,
        topic: Some(format!("{prefix}/{{node}}/{{lane}}")),
        dictionary: true,
        in_flight: 8,
    };
    let uplink = MqttUplink::new(&config, "gw").unwrap();
    let (mut feeding, outbox) = Feeding::new();
    feeding.put((0..2000).map(score).chain([alarm(1)]).collect());
    let running = Running::start_on(uplink, outbox, &feeding, terms());
    // Before the receiver has subscribed nobody keeps what is published: then it is sent once more.
    until("the broker has them", || running.left() == 2001).await;
    let mut round = 1;
    while receiver.counts().records < 2000 {
        let before = running.left();
        feeding.put((round * 2000..round * 2000 + 2000).map(score).collect());
        round += 1;
        until("the broker has more", || running.left() == before + 2000).await;
    }
    let wire = running.counts.wire.load(Relaxed);
    let lines = running.counts.bytes.load(Relaxed);
    assert!(wire * 5 < lines, "{wire} bytes on the wire for {lines} of lines");
    running.end().await;
    stop.cancel();
    let counts = receiver.join().await.unwrap();
    assert_eq!((counts.repeats, counts.unreadable), (0, 0), "{counts:?}");
    assert!(counts.records > counts.parcels * 20, "many in each: {counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn parcels_over_mqtt_are_a_fifth_of_the_bytes_and_arrive() {
    for version in [MqttVersion::V311, MqttVersion::V5] {
        let broker = Broker::start(None).unwrap();
        parcels_arrive(|| MqttConfig { client_id: Some(unique("c")), ..broker.client(version) })
            .await;
        let Some(broker) = Mosquitto::start("allow_anonymous true") else { continue };
        parcels_arrive(|| MqttConfig { client_id: Some(unique("c")), ..broker.client(version) })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parcels_too_large_for_the_broker_are_made_smaller() {
    for version in [MqttVersion::V311, MqttVersion::V5] {
        // Less than the smallest parcel that the uplink makes of itself, and more than a record.
        let limit = "allow_anonymous true\nmax_packet_size 900";
        let Some(broker) = Mosquitto::start(limit) else { return };
        let config = UplinkMqttConfig {
            broker: broker.client(version),
            encoding: MqttEncoding::Parcels,
            topic: None,
            dictionary: false,
            in_flight: 8,
        };
        let uplink = MqttUplink::new(&config, "gw").unwrap();
        let (mut feeding, outbox) = Feeding::new();
        feeding.put((0..300).map(random_score).collect());
        let running = Running::start_on(uplink, outbox, &feeding, terms());
        until("all have left", || running.left() == 300).await;
        assert_eq!(running.counts.refused.load(Relaxed), 0, "{version:?}");
        running.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_up_budget_lets_alarms_through_and_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    let receiver =
        Receiver::start(ReceiveOptions::on_loopback(folder.path()), stop.clone()).await.unwrap();
    let (mut feeding, mut outbox) = Feeding::new();
    let day = Some(ByteSize::kb(20));
    let score_day = LaneBudgetConfig { day: Some(ByteSize::kb(10)), month: None };
    let budgets = [
        BudgetConfig { day, ..BudgetConfig::default() },
        BudgetConfig { score: score_day, ..BudgetConfig::default() },
    ];
    let mut sent = 0;
    for (round, budget) in budgets.into_iter().enumerate() {
        let round = round as u64;
        feeding.put((round * 2000..round * 2000 + 2000).map(score).collect());
        let terms = Terms { budget, ..terms() };
        let running = Running::start_on(http(&receiver, false), outbox, &feeding, terms);
        until("the budget is used up", || running.counts.saving_until().is_some()).await;
        let until_when = running.counts.saving_until().unwrap();
        assert_eq!(until_when.0 % 86_400_000_000, 0, "midnight: {until_when}");
        sent += running.counts.wire.load(Relaxed);
        if round == 0 {
            assert!((18_000..24_000).contains(&sent), "{sent} bytes on the wire");
        } else {
            // The first round has used up this lane's smaller budget, too.
            assert_eq!(running.counts.wire.load(Relaxed), 0);
        }
        let before = receiver.counts().records;
        feeding.put(vec![alarm(round)]);
        until("the alarm is there", || receiver.counts().lanes.alarm == round + 1).await;
        assert_eq!(receiver.counts().records, before + 1, "nothing but the alarm");
        outbox = feeding.restart(running).await;
    }
    // Without a budget the rest goes.
    let running = Running::start_on(http(&receiver, true), outbox, &feeding, terms());
    until("all is there", || receiver.counts().records == 4002).await;
    assert!(running.counts.saving_until().is_none());
    running.end().await;
    stop.cancel();
    receiver.join().await.unwrap();
    assert_eq!(order(folder.path()).into_iter().collect::<BTreeSet<_>>(), feeding.ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn fresh_records_share_the_link_with_a_backlog_and_alarms_go_before_both() {
    let folder = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    let receiver =
        Receiver::start(ReceiveOptions::on_loopback(folder.path()), stop.clone()).await.unwrap();
    let (mut feeding, outbox) = Feeding::new();
    for tick in 0..30 {
        feeding.put((tick * 100..tick * 100 + 100).map(score).collect());
    }
    // One parcel at a time: several on the way may come in any order.
    let terms = Terms { rate: Some(40_000), in_flight: 1, ..terms() };
    let running = Running::start_on(http(&receiver, false), outbox, &feeding, terms);
    until("the backlog drains", || receiver.counts().records > 100).await;
    let before = receiver.counts().records;
    // Fresh scores for a while, and an alarm behind them. The backlog goes on while they are put there, however long that takes.
    feeding.put((10_000..10_300).map(score).chain([alarm(7)]).collect());
    let at = receiver.counts().records;
    until("all is there", || receiver.counts().records == 3301).await;
    running.end().await;
    stop.cancel();
    receiver.join().await.unwrap();
    let order = order(folder.path());
    let place = |id: &str| order.iter().position(|each| each == id).unwrap() as u64;
    assert!(place("alarm-7") < at + 300, "{} after {at}", place("alarm-7"));
    let last_fresh = place("score-10299");
    let backlog_before = order[..last_fresh as usize]
        .iter()
        .filter(|id| id.starts_with("score-") && id.len() < "score-10000".len())
        .count() as u64
        - before;
    assert!(last_fresh < 3000, "before the end of the backlog: {last_fresh}");
    assert!(backlog_before > 50, "the backlog went on meanwhile: {backlog_before}");
    let backlog: Vec<&String> = order.iter().filter(|id| id.len() < "score-10000".len()).collect();
    let numbers = backlog.iter().filter_map(|id| id.strip_prefix("score-")?.parse::<u64>().ok());
    assert!(numbers.is_sorted(), "each in its order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    let receiver =
        Receiver::start(ReceiveOptions::on_loopback(folder.path()), stop.clone()).await.unwrap();
    let (mut feeding, outbox) = Feeding::new();
    feeding.put((0..500).map(score).collect());
    let started = monotonic();
    let terms = Terms { rate: Some(10_000), ..terms() };
    let running = Running::start_on(http(&receiver, false), outbox, &feeding, terms);
    until("all is there", || receiver.counts().records == 500).await;
    let seconds = started.elapsed().as_secs_f64();
    let wire = running.counts.wire.load(Relaxed) as f64;
    // The last parcel does not wait for what it cost.
    assert!(wire / seconds < 10_000.0 + 4_000.0 / seconds, "{wire} bytes in {seconds} s");
    running.end().await;
    stop.cancel();
    receiver.join().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_gathered_and_alarms_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    let receiver =
        Receiver::start(ReceiveOptions::on_loopback(folder.path()), stop.clone()).await.unwrap();
    let (mut feeding, outbox) = Feeding::new();
    let terms = Terms { gather: Span::seconds(3600), ..terms() };
    feeding.put(vec![score(0)]);
    let running = Running::start_on(http(&receiver, false), outbox, &feeding, terms);
    until("the first goes", || receiver.counts().records == 1).await;
    for n in 1..20 {
        feeding.put(vec![score(n)]);
    }
    feeding.put(vec![alarm(1)]);
    until("the alarm goes", || receiver.counts().lanes.alarm == 1).await;
    assert_eq!(receiver.counts().records, 2, "the scores wait");
    // A stop does not wait for more to gather.
    running.end().await;
    stop.cancel();
    let counts = receiver.join().await.unwrap();
    assert_eq!(counts.records, 21);
    assert!(counts.parcels < 10, "{counts:?}");
}
