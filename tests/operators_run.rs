//! Operators at the whole product: what `forebay run` has said yes to holds, whenever it is killed after that.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod edge;
mod node_kit;

use std::collections::BTreeMap;

use edge::{PATIENCE, publish, publish_retained, subscribe, until};
use forebay::command::Verdict;
use forebay::config::MqttVersion;
use forebay::demo::broker::Broker;
use forebay::demo::sender::Sender;
use forebay::record::AlarmState::{self, Normal, Returned, Shelved, Unacknowledged};
use forebay::record::{AlarmRecord, Record};
use forebay::time;
use node_kit::brokers::Local;
use node_kit::shift::publisher;
use node_kit::{Far, Node, Site, broker};
use rumqttc::QoS;
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
    let mut alarms: Vec<AlarmRecord> = records
        .into_iter()
        .map(|record| match record {
            Record::Alarm(alarm) => alarm,
            other => panic!("{other:?}"),
        })
        .collect();
    // Of parcels that are on their way together any may be the first; a kill came in between.
    alarms.sort_by_key(|alarm| alarm.at);
    let states: Vec<AlarmState> = alarms.iter().map(|a| a.state).collect();
    assert_eq!(states, [Unacknowledged, Returned, Shelved, Returned, Normal]);
    let by: Vec<Option<&str>> = alarms.iter().map(|a| a.by.as_deref()).collect();
    assert_eq!(by, [None, None, Some("anna"), Some("anna"), Some("anna")]);
    node.stop().await.fine();
}

fn ask(more: &Value) -> Value {
    let mut body = json!({ "pipeline": "pump", "asset": "pump-1", "alarm": "vibration" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// What cannot be done, by the `id` that it had or the topic of its answer: status and a part of the error.
type Refused = [(&'static str, u16, &'static str); 7];

/// What is sent, by topic and body, and what of it is refused.
fn orders() -> (Vec<(String, Vec<u8>)>, Refused) {
    let judge = |id: &str, more: Value| {
        let mut body = ask(&more);
        body["id"] = id.into();
        (topic("judge"), body.to_string().into_bytes())
    };
    let said = json!({ "verdict": "false", "by": "anna", "note": "it was cleaned" });
    let messages = vec![
        judge("right", said),
        judge("nothing", json!({})),
        judge("unknown", json!({ "verdict": "true", "asset": "pump-9" })),
        judge("misspelt", json!({ "verdict": "wrong" })),
        judge("field", json!({ "verdict": "true", "colour": "red" })),
        (topic("dance"), ask(&json!({ "id": "verb" })).to_string().into()),
        (topic("judge"), b"{".to_vec()),
    ];
    let refused = [
        ("nothing", 400, "`verdict` is missing"),
        ("unknown", 404, "no asset `pump-9`"),
        ("misspelt", 400, "is \"wrong\"; it is a text"),
        ("field", 400, "unknown field `colour`"),
        ("verb", 400, "`dance` is no command"),
        ("forebay/test-node/answers/judge", 400, "EOF"),
        ("forebay/test-node/answers/shelve", 400, "had kept this command"),
    ];
    (messages, refused)
}

fn topic(verb: &str) -> String {
    format!("forebay/test-node/commands/{verb}")
}

type Heard = tokio::sync::mpsc::Receiver<(String, Vec<u8>, bool)>;

/// The next message of a subscription.
async fn heard(messages: &mut Heard, node: &Node) -> (String, Value) {
    let next = tokio::time::timeout(PATIENCE, messages.recv()).await;
    let Ok(Some((topic, payload, retained))) = next else { panic!("{}", node.log()) };
    assert!(!retained, "{topic}");
    (topic, serde_json::from_slice(&payload).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn verdicts_come_over_the_broker_and_are_answered_there() {
    for (local, version) in Local::all().into_iter().zip([MqttVersion::V5, MqttVersion::V311]) {
        let (site, far, port) = (Site::new(), Far::start().await, local.port());
        site.write("pipelines/pump.toml", PIPELINE);
        let rest = format!("mqtt_commands = true\n{}", far.uplink());
        site.config(&broker(&local.url(version), version), &rest);
        // What the broker had kept may be of last year.
        let kept = ask(&json!({ "for": "1h" })).to_string();
        publish_retained(port, vec![(topic("shelve"), kept.into())]).await;
        let mut answers = subscribe(port, "forebay/test-node/answers/+").await;
        let mut shown = subscribe(port, "forebay/test-node/pump/pump-1/verdict/+").await;
        let mut node = Node::start(&site);
        node.ready(200).await;
        let mut sender = publisher(&local.url(MqttVersion::V311), MqttVersion::V311).await;
        shake(&mut sender).await;
        until("the alarm is over and waits", || {
            listed(&node).first().is_some_and(|alarm| alarm["state"] == "returned")
        })
        .await;
        let (messages, refused) = orders();
        publish(port, QoS::AtLeastOnce, messages).await;
        let seen = ask(&json!({ "id": "seen" })).to_string().into();
        publish(port, QoS::AtMostOnce, vec![(topic("ack"), seen)]).await;
        let mut found = BTreeMap::new();
        while found.len() < refused.len() + 2 {
            let (topic, answer) = heard(&mut answers, &node).await;
            found.insert(answer["id"].as_str().map_or(topic, str::to_owned), answer);
        }
        for (id, state) in [("right", "returned"), ("seen", "normal")] {
            let answer = &found[id];
            assert_eq!((&answer["status"], &answer["state"]), (&200.into(), &state.into()));
        }
        for (id, status, error) in refused {
            let answer = &found[id];
            assert_eq!(answer["status"], status, "{answer}");
            assert!(answer["error"].as_str().unwrap().contains(error), "{answer}");
            assert!(answer["expected"].is_string(), "{answer}");
        }
        assert_eq!(node.refused("command"), 6, "what could not be read");
        let (shown_on, flat) = heard(&mut shown, &node).await;
        assert_eq!(shown_on, "forebay/test-node/pump/pump-1/verdict/vibration");
        assert_eq!((&flat["verdict"], &flat["by"]), (&"false".into(), &"anna".into()));
        assert!(flat["vibration_rms.mean"].as_f64().unwrap() >= 10.0, "{flat}");
        // What was answered is durable.
        let node = killed_and_started(node, &site).await;
        let records = far.records(4, &node).await;
        let verdicts = records.iter().filter_map(|record| match record {
            Record::Verdict(verdict) => Some(verdict),
            _ => None,
        });
        let verdicts: Vec<_> = verdicts.collect();
        assert_eq!((verdicts.len(), verdicts[0].verdict), (1, Verdict::False));
        assert!(!verdicts[0].signals["vibration_rms"].is_empty());
        node.stop().await.fine();
    }
}
