//! A record that is too large for the far broker: it goes into quarantine, and holds up no other.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod edge;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;

use edge::feeding::{Feeding, Running};
use edge::records::{alarm, score};
use edge::{Mosquitto, PATIENCE, Proxy, subscribe, unique, until};
use forebay::config::{MqttConfig, MqttVersion, UplinkMqttConfig};
use forebay::record::{Lane, Outgoing, Record};
use forebay::uplink::MqttUplink;

fn mqtt(port: u16, version: MqttVersion) -> MqttUplink {
    let broker = MqttConfig {
        url: format!("mqtt://127.0.0.1:{port}"),
        version,
        client_id: Some(unique("uplink")),
        ..MqttConfig::default()
    };
    MqttUplink::new(&UplinkMqttConfig::records(broker, "cloud/{asset}"), "gw").unwrap()
}

/// The same record, as large as a record gets with a tag that somebody put a document into.
fn swollen(mut outgoing: Outgoing) -> Outgoing {
    let tags = match &mut outgoing.record {
        Record::Score(record) => &mut record.tags,
        Record::Alarm(record) => &mut record.tags,
        other => panic!("{other:?}"),
    };
    tags.insert("note".into(), "x".repeat(20_000));
    outgoing
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_too_large_for_the_broker_is_quarantined_and_the_others_arrive() {
    // A limit that MQTT 5 announces and 3.1.1 enforces by hanging up, and one that MQTT 5 answers with a reason.
    let limits = [
        ("max_packet_size 10000", MqttVersion::V311),
        ("max_packet_size 10000", MqttVersion::V5),
        ("message_size_limit 10000", MqttVersion::V5),
    ];
    for (limit, version) in limits {
        let config = format!("allow_anonymous true\npersistence false\n{limit}");
        let Some(broker) = Mosquitto::start(&config) else { return };
        let mut received = subscribe(broker.port, "cloud/#").await;
        let (mut feeding, outbox) = Feeding::new();
        let meter = feeding.meter.clone();
        feeding
            .put((0..5).map(score).chain([swollen(score(5))]).chain((6..40).map(score)).collect());
        // Alone on the lane that goes first: nothing else may have to wait for it.
        feeding.put(vec![swollen(alarm(0))]);
        let uplink = mqtt(broker.port, version);
        let running = Running::start(uplink, outbox, &feeding, 64 * 1024);
        until(&format!("all have left: {limit}, {version:?}"), || running.left() == 41).await;
        assert_eq!(running.counts.refused.load(Relaxed), 2, "{limit}, {version:?}");
        let mut ids = BTreeSet::new();
        while ids.len() < 39 {
            let (_, line, _) =
                tokio::time::timeout(PATIENCE, received.recv()).await.unwrap().unwrap();
            let record: Record = serde_json::from_slice(&line).unwrap();
            ids.insert(record.id().to_owned());
        }
        assert!(!ids.contains("score-5") && !ids.contains("alarm-0"));
        running.end().await;
        for (lane, refused) in [(Lane::Alarm, 1), (Lane::Score, 1)] {
            let stats = meter.read().lane(lane);
            assert_eq!((stats.queued, stats.refused), (0, refused), "{lane:?} {stats:?}");
            assert_eq!(stats.found + stats.made, stats.delivered + stats.refused);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_cut_again_and_again_puts_nothing_into_quarantine() {
    let config = "allow_anonymous true\npersistence false";
    let Some(broker) = Mosquitto::start(config) else { return };
    let proxy = Proxy::to(broker.port).await;
    let (mut feeding, outbox) = Feeding::new();
    feeding.put((0..200).map(|n| if n % 7 == 0 { swollen(score(n)) } else { score(n) }).collect());
    let running = Running::start(mqtt(proxy.port, MqttVersion::V311), outbox, &feeding, 64 * 1024);
    // Cut as soon as something has come through, so that the link is bad and not useless.
    for round in 0..40 {
        let before = running.left();
        until("some have come through", || running.left() > before || running.left() == 200).await;
        proxy.cut();
        proxy.set_up(round % 2 == 0);
        proxy.set_up(true);
    }
    until("all are delivered", || running.left() == 200).await;
    assert_eq!(running.counts.refused.load(Relaxed), 0);
    running.end().await;
}
