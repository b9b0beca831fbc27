//! Operators at the whole product: what `forebay run` has said yes to holds, whenever it is killed after that.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod edge;
mod node_kit;

use edge::until;
use forebay::config::MqttVersion;
use forebay::demo::broker::Broker;
use forebay::demo::sender::Sender;
use forebay::record::AlarmState::{self, Normal, Returned, Shelved, Unacknowledged};
use forebay::record::{AlarmRecord, Record};
use forebay::time;
use node_kit::shift::publisher;
use node_kit::{Far, Node, Site, broker};
use serde_json::{Value, json};

const PIPELINE: &str = r#"
name = "pump"
schema = "pump"
topics = ["plant/{site}/pump/{asset}/telemetry"]
format = { json = { time = "ts", unit = "ms" } }
time = { lateness = "100ms", idle = "10m", max_ahead = "10m" }
[[stage]]
resample = { every = "1s", fill = "linear", max_gap = "5s" }
[[stage]]
window = { length = "2s", features = ["mean"], signals = ["vibration_rms"], min_coverage = 0.0 }
[[stage]]
alarm = { name = "vibration", on = "vibration_rms.mean", raise = 10.0, clear = 5.0, latch = true, severity = "high" }
"#;

/// The pump shakes for ten seconds, a minute ago, and is calm again.
async fn shake(sender: &mut Sender) {
    let start = time::now().0 / 1000 - 60_000;
    for n in 0..60_i64 {
        let value = if (20..40).contains(&n) { 20.0 } else { 2.0 };
        let payload = json!({ "ts": start + 500 * n, "vibration_rms": value }).to_string();
        let topic = "plant/north/pump/pump-1/telemetry".to_owned();
        sender.send(topic, payload.into()).await.unwrap();
    }
    sender.drain().await.unwrap();
}

fn listed(node: &Node) -> Vec<Value> {
    let (_, body) = node.get("/api/v1/alarms?active=true").unwrap_or_default();
    serde_json::from_str(&body).unwrap_or_default()
}

/// Asks for a change, and gives the state after it.
fn order(node: &Node, verb: &str, more: &Value) -> Value {
    let mut body =
        json!({ "pipeline": "pump", "asset": "pump-1", "alarm": "vibration", "by": "anna" });
    let fields = body.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    let (code, answer) = node.post(&format!("/api/v1/alarms/{verb}"), &body).unwrap();
    assert_eq!(code, 200, "{verb}: {answer}\n{}", node.log());
    serde_json::from_str::<Value>(&answer).unwrap()["state"].clone()
}

async fn killed_and_started(mut node: Node, site: &Site) -> Node {
    node.kill();
    let mut node = Node::start(site);
    node.ready(200).await;
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_was_told_holds_after_a_kill() {
    let broker_v5 = Broker::start(None).unwrap();
    let (site, far) = (Site::new(), Far::start().await);
    site.write("pipelines/pump.toml", PIPELINE);
    let url = broker_v5.url(MqttVersion::V5);
    site.config(&broker(&url, MqttVersion::V5), &far.uplink());
    let mut node = Node::start(&site);
    node.ready(200).await;
    let mut sender = publisher(&broker_v5.url(MqttVersion::V311), MqttVersion::V311).await;
    shake(&mut sender).await;
    until("the alarm is over and waits", || {
        listed(&node).first().is_some_and(|alarm| alarm["state"] == "returned")
    })
    .await;

    let more = json!({ "for": "1h", "reason": "bearing is changed" });
    assert_eq!(order(&node, "shelve", &more), "shelved");
    let node = killed_and_started(node, &site).await;
    let after = listed(&node);
    assert_eq!(after.len(), 1, "{}", node.log());
    for (key, value) in [("state", "shelved"), ("by", "anna"), ("reason", "bearing is changed")] {
        assert_eq!(after[0][key], value, "{}", after[0]);
    }
    assert_eq!(order(&node, "unshelve", &json!({})), "returned");
    assert_eq!(order(&node, "ack", &json!({})), "normal");
    let node = killed_and_started(node, &site).await;
    assert_eq!(listed(&node), Vec::<Value>::new());

    let records = far.records(5, &node).await;
    let alarms: Vec<AlarmRecord> = records
        .into_iter()
        .map(|record| match record {
            Record::Alarm(alarm) => alarm,
            other => panic!("{other:?}"),
        })
        .collect();
    let states: Vec<AlarmState> = alarms.iter().map(|a| a.state).collect();
    assert_eq!(states, [Unacknowledged, Returned, Shelved, Returned, Normal]);
    let by: Vec<Option<&str>> = alarms.iter().map(|a| a.by.as_deref()).collect();
    assert_eq!(by, [None, None, Some("anna"), Some("anna"), Some("anna")]);
    node.stop().await.fine();
}
