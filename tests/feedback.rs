//! From an operator's verdict on a node that runs to a model that knows better: what was called a false alarm raises none
//! any more, and a fault that was confirmed still does.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod edge;
mod node_kit;

use std::fmt::Write as _;
use std::process::Output;

use edge::until;
use forebay::config::MqttVersion;
use forebay::demo::broker::Broker;
use forebay::demo::sender::Sender;
use forebay::record::Record;
use forebay::time::{Timestamp, now};
use node_kit::shift::publisher;
use node_kit::{Far, Node, Site, broker, forebay};
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
window = { length = "30s", every = "10s", features = ["mean"], signals = ["vibration_rms", "flow"] }
[[stage]]
score = { model = "models/odd.onnx", output = "anomaly" }
[[stage]]
alarm = { name = "odd", on = "anomaly" }
"#;

/// Seconds of the recording before the pump is cleaned, which shakes it for two minutes; and before its bearing fails.
const CLEANED: i64 = 600;
const FAILS: i64 = 1000;

/// What the sensors read in a second: waves of unlike lengths, which is noise enough for a model.
fn pump(second: i64) -> [f64; 2] {
    let t = second as f64;
    let vibration = 2.0 + 0.3 * (t / 7.1).sin() + 0.2 * (t * 1.7).sin() + 0.1 * (t / 311.0).sin();
    let flow = 120.0 + 4.0 * (t / 173.0).sin() + 0.5 * (t * 2.3).sin();
    let shakes = match second {
        CLEANED..720 => 2.0,
        FAILS..1150 => 8.0,
        _ => 0.0,
    };
    [vibration + shakes, flow]
}

/// A recording that begins at `start`.
fn recording(start: Timestamp, seconds: i64, pump: impl Fn(i64) -> [f64; 2]) -> String {
    let mut text = "time,vibration_rms,flow\n".to_owned();
    for second in 0..seconds {
        let [vibration, flow] = pump(second);
        let at = Timestamp(start.0 + second * 1_000_000);
        writeln!(text, "{at},{vibration:.3},{flow:.2}").unwrap();
    }
    text
}

async fn send(sender: &mut Sender, start: Timestamp, seconds: std::ops::Range<i64>) {
    for second in seconds {
        let [vibration, flow] = pump(second);
        let body = json!({ "ts": start.0 / 1000 + second * 1000, "vibration_rms": vibration, "flow": flow });
        let topic = "plant/north/pump/pump-1/telemetry".to_owned();
        sender.send(topic, body.to_string().into()).await.unwrap();
    }
    sender.drain().await.unwrap();
}

fn run(site: &Site, arguments: &str) -> Output {
    let words: Vec<&str> = arguments.split(' ').collect();
    forebay(&words, site.dir.path(), &[]).output().unwrap()
}

fn fine(site: &Site, arguments: &str) -> String {
    let output = run(site, arguments);
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Seconds of the recording at which a replay of this pipeline with this model raises alarms.
fn alarms(site: &Site, start: Timestamp, (pipeline, model): (&str, &str)) -> Vec<i64> {
    let told = fine(
        site,
        &format!("replay --pipeline {pipeline} --quiet --asset pump-1 --model {model} day.csv"),
    );
    let raised = |line: &str| {
        let record: Value = serde_json::from_str(line).unwrap();
        let at = (record["state"] == "unacknowledged")
            .then(|| record["at"].as_str().unwrap().to_owned())?;
        Some((at.parse::<Timestamp>().unwrap().0 - start.0) / 1_000_000)
    };
    told.lines().filter_map(raised).collect()
}

/// The last alarm is over: then an operator says what it was.
async fn judged(node: &Node, count: u64, said: Value) {
    until("the alarm is over", || node.count("alarms_cleared") == count).await;
    let mut body = json!({ "pipeline": "pump", "asset": "pump-1", "alarm": "odd", "by": "anna" });
    body.as_object_mut().unwrap().extend(said.as_object().unwrap().clone());
    let (code, answer) = node.post("/api/v1/alarms/judge", &body).unwrap();
    assert_eq!(code, 200, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_said_makes_a_model_that_raises_no_such_alarm_again() {
    let local = Broker::start(None).unwrap();
    let (site, far) = (Site::new(), Far::start().await);
    site.write("pipelines/pump.toml", PIPELINE);
    let start = Timestamp((now().0 / 10_000_000 - 150) * 10_000_000);
    let before = Timestamp(start.0 - 3_600_000_000);
    site.write("normal.csv", recording(before, 2400, |second| pump(second + 2000)));
    site.write("day.csv", recording(start, 1200, pump));
    let train = "train --pipeline pipelines/pump.toml --quiet --asset pump-1 --data normal.csv";
    fine(&site, &format!("{train} --out pipelines/models/odd.onnx"));
    let pipeline = "pipelines/pump.toml";
    let as_shipped = alarms(&site, start, (pipeline, "pipelines/models/odd.onnx"));
    assert_eq!(as_shipped.len(), 2, "{as_shipped:?}");

    site.config(&broker(&local.url(MqttVersion::V5), MqttVersion::V5), &far.uplink());
    let mut node = Node::start(&site);
    node.ready(200).await;
    let mut sender = publisher(&local.url(MqttVersion::V311), MqttVersion::V311).await;
    send(&mut sender, start, 0..800).await;
    judged(&node, 1, json!({ "verdict": "false", "note": "it was cleaned" })).await;
    send(&mut sender, start, 800..1200).await;
    judged(&node, 2, json!({ "verdict": "true", "fault": "bearing" })).await;
    let records = far.records(6, &node).await;
    node.stop().await.fine();
    let verdicts = records.iter().filter(|record| matches!(record, Record::Verdict(_))).count();
    assert_eq!(verdicts, 2, "{records:?}");
    let lines = records.iter().map(|record| serde_json::to_string(record).unwrap() + "\n");
    site.write("records.ndjson", lines.collect::<String>());

    // From the verdicts' own rows.
    let network = "--kind dense-autoencoder --epochs 20 --units 8 --code 2";
    for kind in ["", network] {
        let command = format!("{train} --verdicts records.ndjson --out learned.onnx {kind}");
        let learned = fine(&site, command.trim());
        assert!(learned.contains("1 windows are known as normal, and 1 as faulty"), "{learned}");
        let after = alarms(&site, start, (pipeline, "learned.onnx"));
        assert!(after.len() == 1 && after[0] > FAILS, "{after:?}\n{learned}");
    }
    // With the recording of that day, in which there was a fault, too; for windows of other features than when the alarms
    // were raised.
    let (pipeline, before) = ("pipelines/spread.toml", "pipelines/models/odd.onnx");
    site.write(pipeline, PIPELINE.replace(r#"["mean"]"#, r#"["mean", "std"]"#));
    let train = train.replace("pump.toml", "spread.toml");
    fine(&site, &format!("{train} --out {before}"));
    assert_eq!(alarms(&site, start, (pipeline, before)).len(), 2);
    let day = train.replace("normal.csv", "normal.csv day.csv");
    fine(&site, &format!("{day} --out ignorant.onnx"));
    fine(&site, &format!("{day} --verdicts records.ndjson --out learned.onnx"));
    assert_eq!(
        alarms(&site, start, (pipeline, "ignorant.onnx")),
        [] as [i64; 0],
        "the fault was learned"
    );
    let after = alarms(&site, start, (pipeline, "learned.onnx"));
    assert!(after.len() == 1 && after[0] > FAILS, "{after:?}");
    // What was confirmed is what these look for; and a folder is as good as its files.
    let kept = std::fs::read_to_string(site.path("records.ndjson")).unwrap();
    std::fs::create_dir(site.path("kept")).unwrap();
    site.write("kept/records-00000001.ndjson", kept);
    site.write("kept/records-00000001.ids", "no records");
    for (kind, extra) in [("trees", "--rounds 20"), ("classifier", "--class-weights --epochs 20")] {
        let command =
            format!("{train} --kind {kind} {extra} --verdicts kept --out {kind}.onnx --json");
        let report: Value = serde_json::from_str(&fine(&site, &command)).unwrap();
        assert_eq!(report["verdicts"], json!({ "normal": 1, "faults": 1 }), "{report}");
    }
}

#[test]
fn verdicts_that_cannot_be_learned_from_are_refused_with_their_place() {
    let site = Site::new();
    site.write("pipelines/pump.toml", PIPELINE);
    site.write("normal.csv", recording(Timestamp(1_772_366_400_000_000), 1200, |s| pump(s + 2000)));
    site.write("no.ndjson", "{\"type\":\"score\"}\n\nnot json\n");
    site.write("odd.ndjson", "{\"type\":\"verdict\",\"pipeline\":\"pump\"}\n");
    site.write("other.ndjson", "{\"type\":\"score\"}\n");
    let train = "train --pipeline pipelines/pump.toml --quiet --asset pump-1 --data normal.csv --out m.onnx";
    for (more, parts) in [
        ("--verdicts no.ndjson", &["`no.ndjson`, line 3", "expected NDJSON"][..]),
        ("--verdicts odd.ndjson", &["`odd.ndjson`, line 1", "missing field"]),
        ("--verdicts other.ndjson", &["nothing to learn", "pipeline `pump`"]),
        ("--verdicts none.ndjson", &["`none.ndjson` cannot be read"]),
        ("--verdicts pipelines", &["folder `pipelines`", "`receive --format ndjson`"]),
        ("--kind remaining-life --verdicts other.ndjson", &["how long a machine still runs"]),
    ] {
        let output = run(&site, &format!("{train} {more}"));
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(parts.iter().all(|part| told.contains(part)), "{more}: {told}");
    }
}
