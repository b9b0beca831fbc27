//! What a broker can do to a node, and how each ends: the table "What a broker may do" in README.md.
//!
//! Real brokers where they can be brought to it; else a broker of bytes, which says exactly what it should.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

mod edge;
mod node_kit;

use std::sync::atomic::Ordering::Relaxed;

use edge::bytes::{BytesBroker, publish_packet};
use edge::door::{Door, Engine};
use edge::{Mosquitto, PATIENCE, publish, publish_retained, until};
use forebay::config::{MqttConfig, MqttVersion};
use forebay::time::{Span, monotonic, now};
use node_kit::brokers::{Local, VERSIONS};
use node_kit::{Node, Site, broker};
use rumqttc::QoS;

const V311: MqttVersion = MqttVersion::V311;
const V5: MqttVersion = MqttVersion::V5;
const PLAIN: &str = "allow_anonymous true\npersistence false\nmax_queued_messages 0";

/// For a broker of one client: the feed is another.
const ALONE: &str = "mqtt = false";

/// A pump's message as the shipped pipeline reads it.
fn message(pump: usize, ts: i64) -> (String, Vec<u8>) {
    let payload = format!(r#"{{"ts":{},"flow":55.0,"speed":1270}}"#, ts / 1000);
    (format!("plant/north/pump/pump-{pump}/telemetry"), payload.into_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_with_one_client_id_are_named_and_do_not_fight_for_ever() {
    for (local, version) in Local::all().iter().flat_map(|l| VERSIONS.map(|v| (l, v))) {
        let id = edge::unique("twin");
        let url = local.url(version);
        let config =
            MqttConfig { client_id: Some(id.clone()), url, version, ..MqttConfig::default() };
        let first = Door::open(config.clone(), &["plant/#"], Engine::Releases);
        first.up().await;
        let second = Door::open(config, &["plant/#"], Engine::Releases);
        let named = |door: &Door| {
            let error = door.status.borrow().error().unwrap_or_default();
            error.contains(&format!("client id `{id}`")) && error.contains("of its own")
        };
        until("it is named", || named(&first) || named(&second)).await;
        for door in [&first, &second] {
            let made = door.counts.connections.load(Relaxed);
            assert!(made <= 8, "{made} connections: that is a fight");
        }
        second.close().await;
        first.up().await;
        publish(local.port(), QoS::AtLeastOnce, vec![("plant/a".into(), b"1".to_vec())]).await;
        until("the other goes on", || first.payloads().contains(&"1".to_owned())).await;
        first.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_of_one_name_say_so_and_leave_the_broker_in_peace() {
    let Some(mosquitto) = Mosquitto::start(&format!("{PLAIN}\nlog_type all")) else { return };
    let sites = [Site::new(), Site::new()];
    for site in &sites {
        site.config(&broker(&mosquitto.client(V5).url, V5), "");
    }
    let nodes = [0, 1].map(|n| Node::start(&sites[n]));
    let named = |node: &Node| node.has_logged("does another client have the client id");
    until("both say it", || nodes.iter().all(named)).await;
    let log = std::fs::read_to_string(mosquitto.dir.path().join("log")).unwrap();
    for client in ["forebay-test-node", "forebay-test-node-feed"] {
        let made = log.matches(&format!(" as {client} (")).count();
        assert!((2..=16).contains(&made), "{client} came {made} times");
    }
    for node in nodes {
        assert!(node.logged("feed is down") <= 1, "{}", node.log());
        node.stop().await.fine();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_says_who_took_the_session_is_believed_at_once() {
    let mut fake = BytesBroker::start(V5).await;
    let config = MqttConfig { url: fake.url(), ..MqttConfig::default() };
    let door = Door::open(config, &["t"], Engine::Releases);
    // Mosquitto leaves out the last byte, the length of no properties, and rumqttc then hears nothing.
    fake.accept(false, &[1], vec![0xE0, 2, 0x8E, 0]).await;
    until("it is named", || {
        let error = door.status.borrow().error().unwrap_or_default();
        error.contains("has taken this node's session over")
    })
    .await;
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_retained_messages_is_taken_as_what_it_is() {
    // rumqttd never sends more than its first hundred.
    let Some(local) = Local::mosquitto() else { return };
    let old = now().minus(Span::seconds(24 * 3600)).0;
    let pumps = 2000;
    let kept = (0..pumps).map(|pump| message(pump, old)).collect();
    publish_retained(local.port(), kept).await;
    let undated = ("plant/north/pump/undated/telemetry".to_owned(), b"{\"flow\":5}".to_vec());
    publish_retained(local.port(), vec![undated]).await;

    let site = Site::new();
    site.config(&broker(&local.url(V5), V5), "");
    let mut node = Node::start(&site);
    node.ready(200).await;
    until("all are taken", || node.messages() == pumps as u64 + 1).await;
    until("one has no time", || node.refused("retained") == 1).await;
    until("the others are used", || node.count("readings_received") == 2 * pumps as u64).await;
    // What is new finds its place behind what is old.
    let fresh = (0..pumps).map(|pump| message(pump, now().0)).collect();
    publish(local.port(), QoS::AtLeastOnce, fresh).await;
    until("new ones too", || node.count("readings_received") == 4 * pumps as u64).await;
    assert_eq!((node.count("readings_late"), node.count("readings_duplicates")), (0, 0));
    node.stop().await.fine();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_again_is_used_once_and_counted_also_after_a_kill() {
    let start = now().minus(Span::seconds(60)).0;
    let packet = |n: usize, again: bool| {
        let (topic, payload) = message(1, start + 1_000_000 * n as i64);
        publish_packet(V311, n as u16 + 1, &topic, &payload, again)
    };
    let batch = |numbers: std::ops::Range<usize>, again| {
        numbers.flat_map(|n| packet(n, again)).collect::<Vec<u8>>()
    };
    let mut fake = BytesBroker::start(V311).await;
    let site = Site::new();
    site.config(&broker(&fake.url(), V311), ALONE);
    let mut node = Node::start(&site);
    fake.accept(false, &[1], batch(0..20, false)).await;
    fake.acknowledged(20).await;
    // It had the acknowledgements, and does not know.
    fake.cut();
    fake.accept(true, &[1], batch(0..20, true)).await;
    fake.acknowledged(20).await;
    until("they are duplicates", || node.count("readings_duplicates") == 40).await;
    node.kill();
    let node = Node::start(&site);
    fake.accept(true, &[1], batch(0..21, true)).await;
    fake.acknowledged(21).await;
    until("they still are", || node.count("readings_duplicates") == 80).await;
    assert_eq!((node.count("readings_received"), node.count("readings_late")), (122, 0));
    node.stop().await.fine();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_or_an_outage_of_any_length_makes_nothing_late() {
    tokio::join!(nothing_is_late(true), nothing_is_late(false));
}

/// What waits for its watermark waits for longer than `idle`, while the node is stopped or the broker away; what the
/// broker still has belongs before it.
async fn nothing_is_late(stopped: bool) {
    let mut fake = BytesBroker::start(V311).await;
    let site = Site::new();
    site.config(&broker(&fake.url(), V311), ALONE);
    let path = site.path("pipelines/pump.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace(r#"idle = "10m""#, r#"idle = "8s""#)).unwrap();
    let start = now().minus(Span::seconds(60)).0;
    let packet = |tenths: i64| {
        let (topic, payload) = message(1, start + 100_000 * tenths);
        publish_packet(V311, tenths as u16, &topic, &payload, false)
    };
    let node = Node::start(&site);
    fake.accept(false, &[1], [packet(10), packet(20), packet(35)].concat()).await;
    fake.acknowledged(3).await;
    fake.cut();
    let since = now();
    let long = until("it is long", || now().since(since) > Span::seconds(9));
    let node = if stopped {
        node.stop().await.fine();
        long.await;
        Node::start(&site)
    } else {
        long.await;
        node
    };
    fake.accept(true, &[1], packet(25)).await;
    fake.acknowledged(1).await;
    until("it is counted", || node.count("readings_received") == 8).await;
    assert_eq!(node.count("readings_late"), 0);
    // Once the broker is heard, silence counts again.
    let pending = || node.metric("forebay_readings_pending{pipeline=\"pump\"}");
    until("what waits is taken as complete", || pending() == 0).await;
    node.stop().await.fine();
}

#[tokio::test(flavor = "multi_thread")]
async fn packet_ids_that_start_again_acknowledge_nothing_else() {
    for version in VERSIONS {
        let mut fake = BytesBroker::start(version).await;
        let packets = |from: usize| {
            let packet = |n: usize| {
                let payload = (from + n).to_string();
                publish_packet(version, n as u16 + 1, "t", payload.as_bytes(), false)
            };
            (0..5).flat_map(packet).collect::<Vec<u8>>()
        };
        let config = MqttConfig { url: fake.url(), version, ..MqttConfig::default() };
        let door = Door::open(config, &["t"], Engine::Sleeps);
        fake.accept(false, &[1], packets(0)).await;
        until("five came", || door.counts.received.load(Relaxed) == 5).await;
        fake.cut();
        fake.accept(true, &[1], packets(5)).await;
        until("five others came", || door.counts.received.load(Relaxed) == 10).await;
        let counts = door.counts.clone();
        assert_eq!(door.close().await.len(), 10);
        assert_eq!((counts.stale.load(Relaxed), counts.acknowledged.load(Relaxed)), (5, 5));
        assert_eq!(fake.acknowledged(5).await, [1, 2, 3, 4, 5], "each once, in order");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_kept_alive_while_the_engine_is_behind() {
    let Some(broker) = Mosquitto::start(&format!("{PLAIN}\nlog_type all")) else { return };
    let config = MqttConfig { keep_alive: Span::seconds(5), in_flight: 50, ..broker.client(V5) };
    let door = Door::open(config, &["plant/#"], Engine::Sleeps);
    door.up().await;
    let messages = (0..500).map(|n: u32| ("plant/a".into(), n.to_string().into_bytes())).collect();
    publish(broker.port, QoS::AtLeastOnce, messages).await;
    until("the window is full", || door.counts.received.load(Relaxed) >= 50).await;
    let id = door.config.client_id.clone().unwrap();
    let log = broker.dir.path().join("log");
    let pings = || {
        let log = std::fs::read_to_string(&log).unwrap();
        log.matches(&format!("Received PINGREQ from {id}")).count()
    };
    until("it says that it lives", || pings() >= 2).await;
    assert_eq!(door.counts.received.load(Relaxed), 50, "the window is kept");
    assert_eq!(door.counts.connections.load(Relaxed), 1);
    assert!(door.status.borrow().is_ready());
    door.stop.cancel();
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_ignores_the_window_costs_the_connection_and_no_memory() {
    let mut fake = BytesBroker::start(V311).await;
    let config = MqttConfig {
        url: fake.url(),
        version: V311,
        keep_alive: Span::seconds(5),
        ..MqttConfig::default()
    };
    let door = Door::open(config, &["t"], Engine::Sleeps);
    let large = vec![b'x'; 1 << 20];
    let packets = (1..=60).flat_map(|id| publish_packet(V311, id, "t", &large, false)).collect();
    fake.accept(false, &[1], packets).await;
    until("it is given up", || {
        door.status.borrow().error().is_some_and(|error| error.contains("the node is behind"))
    })
    .await;
    assert!(door.counts.received.load(Relaxed) < 60);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_brokers_terms_cost_is_said() {
    let mut fake = BytesBroker::start(V5).await;
    // A session of 60 s, 10 publishes under way, QoS 0, packets of 300 bytes.
    fake.properties = &[0x11, 0, 0, 0, 60, 0x21, 0, 10, 0x24, 0, 0x27, 0, 0, 1, 44];
    let site = Site::new();
    site.config(&broker(&fake.url(), V5), ALONE);
    let node = Node::start(&site);
    fake.accept(false, &[0x87], Vec::new()).await;
    let costs = [
        "it keeps this node's session for 1m, not",
        "it takes 10 publishes before",
        "it knows QoS 0 only",
        "it takes packets up to 300 bytes",
    ];
    until("its terms are told", || costs.iter().all(|cost| node.has_logged(cost))).await;
    until("a refused subscription is too", || {
        node.has_logged("the broker refused a subscription") && node.has_logged("not authorized")
    })
    .await;
    until("it is not ready", || node.readiness() == 503).await;
    fake.cut();
    fake.accept(false, &[1], Vec::new()).await;
    until("it is ready", || node.readiness() == 200).await;
    fake.cut();
    fake.accept(false, &[1], Vec::new()).await;
    until("a lost session is told", || node.has_logged("has forgotten this node's session")).await;
    assert_eq!(node.logged("the broker's terms cost something"), 4, "once");
    node.stop().await.fine();

    // Whatever a client says, rumqttd has no more than a hundred under way.
    let local = Local::rumqttd();
    site.config(&broker(&local.url(V5), V5), "");
    let mut node = Node::start(&site);
    node.ready(200).await;
    let (start, due) = (now().minus(Span::seconds(3600)).0, monotonic() + PATIENCE);
    let told = || node.logged("share one sync of the disk");
    for round in 0.. {
        let messages = (0..1000).map(|n| message(n % 50, start + 1000 * (round * 1000 + n) as i64));
        publish(local.port(), QoS::AtLeastOnce, messages.collect()).await;
        if told() > 0 {
            break;
        }
        assert!(monotonic() < due, "the broker's window was not told");
    }
    assert_eq!(told(), 1);
    node.stop().await.fine();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_speaks_is_alive_though_its_answer_is_far_behind() {
    let with = |version| async move {
        let mut fake = BytesBroker::start(version).await;
        fake.answers_pings = false;
        let keep_alive = Span::seconds(5);
        let config = MqttConfig { url: fake.url(), version, keep_alive, ..MqttConfig::default() };
        let door = Door::open(config, &["t"], Engine::Releases);
        fake.accept(false, &[1], Vec::new()).await;
        until("it has asked twice", || {
            fake.say(publish_packet(version, 1, "t", b"1", false));
            fake.pings() == 2
        })
        .await;
        assert_eq!(door.counts.failures.load(Relaxed), 0);
        // One that says nothing at all is given up.
        until("it is given up", || door.status.borrow().error().is_some()).await;
        door.close().await;
    };
    tokio::join!(with(V311), with(V5));
}
