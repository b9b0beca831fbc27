//! Two uplinks with one client id at one broker: each is told what is wrong, and nothing is lost.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod edge;

use std::collections::BTreeSet;
use std::time::Duration;

use edge::feeding::{Feeding, Running};
use edge::records::score;
use edge::{Mosquitto, PATIENCE, subscribe, unique};
use forebay::config::{MqttConfig, MqttVersion, UplinkMqttConfig};
use forebay::time::monotonic;
use forebay::uplink::MqttUplink;

#[tokio::test(flavor = "multi_thread")]
async fn another_client_with_the_same_id_is_told_and_costs_no_record() {
    for version in [MqttVersion::V311, MqttVersion::V5] {
        let Some(broker) = Mosquitto::start("allow_anonymous true") else { return };
        let id = unique("twin");
        let mut received = subscribe(broker.port, "cloud/#").await;
        let uplink = || {
            let broker = MqttConfig { client_id: Some(id.clone()), ..broker.client(version) };
            let topic = "cloud/{node}/{pipeline}/{asset}/{type}";
            MqttUplink::new(&UplinkMqttConfig::records(broker, topic), "gw").unwrap()
        };
        let (mut one, outbox) = Feeding::new();
        let first = Running::start(uplink(), outbox, &one, 4096);
        let (mut other, outbox) = Feeding::new();
        let second = Running::start(uplink(), outbox, &other, 4096);
        let due = monotonic() + PATIENCE * 2;
        let mut n = 0;
        let mut told = [false, false];
        while told != [true, true] {
            assert!(monotonic() < due, "{version:?}: told {told:?} after {n} records");
            one.put(vec![score(n)]);
            other.put(vec![score(1_000_000 + n)]);
            n += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
            for (told, running) in told.iter_mut().zip([&first, &second]) {
                let error = running.status.borrow().error().unwrap_or_default();
                *told |= error.contains(&id) && error.contains("`client_id` of its own");
            }
        }
        // With one of them gone, the other has the broker to itself, and all goes.
        let outbox = other.restart_after_kill(second).await;
        edge::until("the first has sent all", || first.left() == n).await;
        first.end().await;
        let second = Running::start(uplink(), outbox, &other, 4096);
        let ids: BTreeSet<String> = &one.ids | &other.ids;
        let mut known = BTreeSet::new();
        while known != ids {
            let next = tokio::time::timeout(PATIENCE, received.recv()).await;
            let (_, line, _) = next.expect("all records come").unwrap();
            let record: forebay::record::Record = serde_json::from_slice(&line).unwrap();
            known.insert(record.id().to_owned());
        }
        second.end().await;
    }
}
