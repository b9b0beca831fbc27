//! Bad input at every door of the running product: one clear message that says what, where, found and expected; a counter
//! or an exit code; and everything else goes on, or nothing has started.
//!
//! Only what the whole shows. Every single fault has its test where it is found: payloads in `decode.rs` and
//! `decode_laws.rs`, recordings in `recordings.rs`, mistakes in files in `check.rs` (with its messages as snapshots), models
//! in `model.rs`, brokers in `mqtt.rs`, full and sick disks in the tests of the store.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod edge;
mod node_kit;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Output;

use axum::body::Bytes;
use edge::{free_port, until};
use forebay::config::MqttVersion;
use forebay::record::Record;
use forebay::time::{Span, now};
use node_kit::brokers::Local;
use node_kit::shift::{Shift, assert_same, publisher, send};
use node_kit::{Ended, Far, Node, Site, broker, forebay};

const V5: MqttVersion = MqttVersion::V5;

/// Messages that are wrong, each with the reason it is counted under and how much is counted.
fn wrong_messages() -> Vec<(String, Vec<u8>, &'static str)> {
    let ms = now().0 / 1000;
    let nested = |open: &str, close: &str| {
        format!("{{\"ts\":{ms},\"flow\":{}1{}}}", open.repeat(1000), close.repeat(1000))
    };
    let on = |payload: Vec<u8>, reason| {
        ("plant/north/pump/pump-99/telemetry".to_owned(), payload, reason)
    };
    vec![
        on(b"pump 7 is fine, thanks".to_vec(), "not_json"),
        on(format!("{{\"ts\":{ms},\"flow\":").into_bytes(), "not_json"),
        on(format!("{{\"ts\":{ms},\"flow\":NaN}}").into_bytes(), "not_json"),
        // A number past f64.
        on(format!("{{\"ts\":{ms},\"flow\":-1e999}}").into_bytes(), "not_json"),
        on(nested("[", "]").into_bytes(), "wrong_type"),
        on(nested("{\"a\":", "}").into_bytes(), "wrong_type"),
        on(vec![b'x'; 10 << 20], "too_large"),
        on(Vec::new(), "empty"),
        on(b" \n ".to_vec(), "empty"),
        on(b"{\"ts\":1,\"flow\":\xff}".to_vec(), "not_utf8"),
        on(b"17.5".to_vec(), "wrong_type"),
        on(format!("{{\"ts\":{ms},\"flow\":\"fast\"}}").into_bytes(), "wrong_type"),
        on(format!("{{\"ts\":{ms},\"flow\":[1,2]}}").into_bytes(), "wrong_type"),
        on(b"{\"ts\":\"yesterday\",\"flow\":1}".to_vec(), "time"),
        // Seconds, microseconds and nanoseconds where milliseconds are due.
        on(format!("{{\"ts\":{},\"flow\":1}}", ms / 1000).into_bytes(), "time"),
        on(format!("{{\"ts\":{ms}000,\"flow\":1}}").into_bytes(), "time"),
        on(format!("{{\"ts\":{ms}000000,\"flow\":1}}").into_bytes(), "time"),
        ("plant/north/pump//telemetry".to_owned(), b"{\"flow\":1}".to_vec(), "no_route"),
    ]
}

/// Readings that are wrong, each with the reason it is taken out for.
fn wrong_readings() -> Vec<(Vec<u8>, &'static str)> {
    let ms = now().0 / 1000;
    let at = |ms: i64, value: &str| format!("{{\"ts\":{ms},\"flow\":{value}}}").into_bytes();
    vec![
        (at(ms, "\"NaN\""), "not_finite"),
        (at(ms, "1e300"), "out_of_range"),
        (at(0, "1"), "past"),
        (at(4_102_444_800_000, "1"), "future"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_messages_are_counted_and_the_good_ones_between_them_are_scored() {
    let shift = Shift::of(2, 300, 21);
    let (messages, readings) = (wrong_messages(), wrong_readings());
    for local in Local::all() {
        let (site, far) = (Site::new(), Far::start().await);
        let replay = shift.replay(&site);
        site.config(&broker(&local.url(V5), V5), &far.uplink());
        let mut node = Node::start(&site);
        node.ready(200).await;
        let mut good = publisher(&local.url(V5), V5).await;
        let mut bad = publisher(&local.url(V5), V5).await;
        let topic = "plant/north/pump/pump-98/telemetry";
        let unknown = format!("{{\"ts\":{},\"flwo\":1.0}}", now().0 / 1000);
        let parts = shift.messages.chunks(shift.messages.len() / messages.len() + 1);
        for (index, part) in parts.enumerate() {
            if let Some((topic, payload, _)) = messages.get(index) {
                bad.send(topic.clone(), Bytes::from(payload.clone())).await.unwrap();
            }
            if let Some((payload, _)) = readings.get(index) {
                bad.send(topic.into(), Bytes::from(payload.clone())).await.unwrap();
            }
            bad.send(topic.into(), Bytes::from(unknown.clone())).await.unwrap();
            send(&mut good, part).await;
        }
        bad.drain().await.unwrap();
        assert_same(&far.records(replay.records.len(), &node).await, &replay);
        let all = shift.messages.len() + messages.len() + readings.len() + messages.len();
        until("all has come in", || node.messages() == all as u64).await;
        let kinds: BTreeSet<_> = messages.iter().map(|m| m.2).collect();
        let counted: u64 = kinds.iter().map(|reason| node.refused(reason)).sum();
        assert_eq!(counted, messages.len() as u64 + shift.totals.malformed);
        for reason in ["too_large", "wrong_type", "time", "no_route"] {
            let ours = messages.iter().filter(|m| m.2 == reason).count() as u64;
            assert_eq!(node.refused(reason), ours, "{reason}");
        }
        for reason in readings.iter().map(|r| r.1).collect::<BTreeSet<_>>() {
            let ours = readings.iter().filter(|r| r.1 == reason).count() as u64;
            let all = match reason {
                "not_finite" => ours + shift.totals.not_finite,
                "out_of_range" => ours + shift.totals.out_of_range,
                _ => ours,
            };
            until(reason, || node.rejected(reason) == all).await;
        }
        assert_eq!(node.readiness(), 200);
        // Each kind is told once, not once a message.
        assert_eq!(node.logged("a message was rejected"), kinds.len(), "{}", node.log());
        assert_eq!(node.logged("flwo"), 1, "{}", node.log());
        assert!(node.log().lines().count() < 25, "{}", node.log());
        assert!(!node.has_logged("ERROR"), "{}", node.log());
        node.stop().await.fine();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_new_assets_does_not_disturb_those_that_are_known() {
    const FLOOD: usize = 25_000;
    const LIMIT: usize = 50;
    let shift = Shift::of(2, 300, 22);
    let (site, far, local) = (Site::new(), Far::start().await, Local::rumqttd());
    let replay = shift.replay(&site);
    let limits = format!("{}[limits]\nassets = {LIMIT}\n", far.uplink());
    site.config(&broker(&local.url(V5), V5), &limits);
    let mut node = Node::start(&site);
    node.ready(200).await;
    let mut known = publisher(&local.url(V5), V5).await;
    let (first, rest) = shift.messages.split_at(100);
    send(&mut known, first).await;
    until("they are known", || node.count("readings_received") > 0).await;
    let url = local.url(V5);
    let flood = tokio::spawn(async move {
        let mut stranger = publisher(&url, V5).await;
        for number in 0..FLOOD {
            let topic = format!("plant/north/pump/stranger-{number}/telemetry");
            let payload = format!("{{\"ts\":{},\"flow\":1.0}}", now().0 / 1000);
            stranger.send(topic, Bytes::from(payload)).await.unwrap();
        }
        stranger.drain().await.unwrap();
    });
    for part in rest.chunks(rest.len() / 20 + 1) {
        send(&mut known, part).await;
        tokio::task::yield_now().await;
    }
    flood.await.unwrap();
    let refused = (FLOOD + 2 - LIMIT) as u64;
    until("all strangers are counted", || node.rejected("too_many_assets") == refused).await;
    assert_same(&far.records(replay.records.len(), &node).await, &replay);
    let all = shift.totals.readings + FLOOD as u64;
    until("all readings are counted", || node.count("readings_received") == all).await;
    assert_eq!(node.logged("limits.assets"), 1, "{}", node.log());
    assert!(node.has_logged("stranger-"), "{}", node.log());
    assert_eq!(node.readiness(), 200);
    node.stop().await.fine();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_that_is_no_runtime_is_passed_over_with_a_word() {
    let (site, local) = (Site::new(), Local::rumqttd());
    site.config(&broker(&local.url(V5), V5), "");
    let path = site.path("config.toml");
    let mut node = Node::start_with(&site, &[("ORT_DYLIB_PATH", path.to_str().unwrap())]);
    node.ready(200).await;
    assert!(node.has_logged("it is not a library of this system"), "{}", node.log());
    assert!(!node.has_logged("panicked"), "{}", node.log());
    node.stop().await.fine();
}

/// A node that cannot start: exit code 1, what it says, and nothing of it is there.
async fn does_not_start(site: &Site, told: &[&str]) -> String {
    let Ended { status, log } = Node::start(site).end().await;
    assert_eq!(status.code(), Some(1), "{log}");
    for part in told {
        assert!(log.contains(part), "`{part}` is not in\n{log}");
    }
    assert!(!log.contains("panicked") && !log.contains("error: error"), "{log}");
    assert!(!site.path("data").exists(), "a store was made\n{log}");
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_mistake_in_its_files_does_not_start() {
    let quiet = format!("url = \"mqtt://127.0.0.1:{}\"", free_port());
    let site = Site::new();
    does_not_start(&site, &["`config.toml` cannot be read: it does not exist"]).await;
    let configs = [
        ("urll = \"x\"", "", &["unknown key `urll`", "config.toml:3:1", "write `url`"][..]),
        ("keep_alive = 5", "", &["config.toml:3:14", "found a whole number", "write \"5s\""]),
        ("url = \"mqtt://broker", "", &["config.toml:3:"]),
        (quiet.as_str(), "[uplink]\n", &["target"]),
        (quiet.as_str(), "[onnxruntime]\nlibrary = \"config.toml\"", &["is not a library"]),
        (quiet.as_str(), "[onnxruntime]\nlibrary = \"none.so\"", &["none.so", "does not exist"]),
        ("user = { env = \"FOREBAY_TEST_NOBODY\" }", "", &["`FOREBAY_TEST_NOBODY` is not set"]),
        ("url = \"mqtts://127.0.0.1:1\"\nca = \"no.pem\"", "", &["no.pem", "does not exist"]),
    ];
    for (mqtt, rest, told) in configs {
        site.config(mqtt, rest);
        does_not_start(&site, told).await;
    }
    site.config(&quiet, "");
    let pipeline = fs::read_to_string(site.path("pipelines/pump.toml")).unwrap();
    let edits = [
        ("schema = \"pump\"", "schema = \"pumpe\"", &["there is no schema `pumpe`"][..]),
        ("max_gap = \"5s\"", "max_gab = \"5s\"", &["unknown key `max_gab`", "pump.toml:"]),
        ("pump-anomaly.onnx", "none.onnx", &["`models/none.onnx` does not exist", "pump.toml:"]),
        ("features = [\"mean\", ", "features = [", &["does not fit this pipeline", "found 40"]),
    ];
    for (from, to, told) in edits {
        assert!(pipeline.contains(from));
        site.write("pipelines/pump.toml", pipeline.replace(from, to));
        does_not_start(&site, told).await;
    }
    fs::remove_file(site.path("pipelines/pump.toml")).unwrap();
    does_not_start(&site, &["there is no pipeline in"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_bad_model_does_not_start() {
    let site = Site::new();
    site.config("", "");
    let name = "pipelines/models/pump-anomaly.onnx";
    let good = fs::read(site.path(name)).unwrap();
    let skab = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/models/skab-anomaly.onnx");
    let mut damaged = good.clone();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 200].fill(0xff);
    let cases = [
        (b"not a model".to_vec(), "not a whole ONNX file"),
        (Vec::new(), "not a whole ONNX file"),
        (good[..good.len() / 2].to_vec(), "not a whole ONNX file"),
        (fs::read(skab).unwrap(), "does not fit this pipeline"),
    ];
    for (content, told) in cases {
        site.write(name, content);
        let log =
            does_not_start(&site, &[told, "models/pump-anomaly.onnx", "pump.toml:20:19"]).await;
        assert!(!log.contains("pump-failure-risk.onnx"), "the other model is right\n{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_use_is_left_alone() {
    let port = free_port();
    let mqtt = format!("url = \"mqtt://127.0.0.1:{port}\"");
    let (first, second) = (Site::new(), Site::new());
    first.config(&mqtt, "");
    let mut running = Node::start(&first);
    running.ready(503).await;

    // Its store.
    let shared = first.path("data");
    let text = fs::read_to_string(first.path("config.toml")).unwrap();
    let text = text.replace("\"data\"", &format!("\"{}\"", shared.display()));
    second.write("config.toml", text);
    let told = ["is in use by another forebay", "store.path", shared.to_str().unwrap()];
    does_not_start(&second, &told).await;

    // A port.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    second.config(&mqtt, "");
    let text = fs::read_to_string(second.path("config.toml")).unwrap();
    second.write("config.toml", text.replace("127.0.0.1:0", &address));
    does_not_start(&second, &[&address, "in use", "feed.listen"]).await;

    // Places where no store can be.
    for (path, told) in [("config.toml", "the file"), ("config.toml/data", "config.toml/data")] {
        second.config(&mqtt, "");
        let text = fs::read_to_string(second.path("config.toml")).unwrap();
        second.write("config.toml", text.replace("\"data\"", &format!("\"{path}\"")));
        does_not_start(&second, &[told]).await;
    }
    assert_eq!(running.readiness(), 503);
    assert_eq!(running.log().matches("WARN").count(), 2, "{}", running.log());
    running.stop().await.fine();
}

/// Overwrites a part of every file in a folder of the store.
fn damage(folder: &Path) {
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let mut content = fs::read(&path).unwrap();
            let (from, to) = (content.len() / 4, content.len() / 4 * 3);
            content[from..to].fill(0xa5);
            fs::write(&path, content).unwrap();
            files += 1;
        }
    }
    assert!(files > 0, "{} is empty", folder.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_is_told_and_the_node_goes_on() {
    let shift = Shift::of(2, 240, 23);
    let half = shift.messages.len() / 2;
    // What is logged of it; sled may open a damaged index as an empty one, and then the far side gets repeats.
    for (part, told) in [
        ("lanes", Some("are missing; a loss record says so")),
        ("index", None),
        ("journal", Some("damaged")),
        ("checkpoint", Some("damaged")),
    ] {
        let (site, far, local) = (Site::new(), Far::start().await, Local::rumqttd());
        site.config(&broker(&local.url(V5), V5), &far.uplink());
        far.link.set_up(false).await;
        let mut node = Node::start(&site);
        node.ready(200).await;
        let mut sender = publisher(&local.url(V5), V5).await;
        send(&mut sender, &shift.messages[..half]).await;
        let waiting = "forebay_outbox_records{lane=\"score\"}";
        until("records wait", || node.metric(waiting) > 3 && node.messages() == half as u64).await;
        // A stop makes a checkpoint, so there is no journal to replay; a kill leaves one.
        if part == "journal" {
            node.kill();
        } else {
            node.stop().await.fine();
        }
        let verify = || {
            let mut output = forebay(&["store", "verify", "--store", "data"], site.dir.path(), &[]);
            let output = output.output().unwrap();
            (output.status.code(), String::from_utf8(output.stdout).unwrap())
        };
        if part == "lanes" {
            let (code, text) = verify();
            assert!(code == Some(0) && text.contains("all of it is good"), "{text}");
        }
        damage(&site.path("data").join(part));
        if part == "lanes" {
            let (code, text) = verify();
            assert!(code == Some(1) && text.contains("damaged at byte"), "{text}");
        }
        let mut node = Node::start(&site);
        node.ready(200).await;
        let is_told = told.is_none_or(|told| node.has_logged("WARN") && node.has_logged(told));
        assert!(is_told, "{part}: {}", node.log());
        far.link.set_up(true).await;
        send(&mut sender, &shift.messages[half..]).await;
        until("it scores again", || node.count("scores") > 0).await;
        until("it delivers again", || far.receiver.counts().lanes.score > 3).await;
        if part == "lanes" {
            let records = far.kept();
            let said = records.iter().any(|r| matches!(r, Record::Loss(l) if l.count > 0));
            assert!(said, "the far side is told what it will never get\n{}", node.log());
        }
        node.stop().await.fine();
    }
}

fn replay(site: &Site, file: &str) -> Output {
    let arguments = [
        "replay",
        "--pipeline",
        "pipelines/skab.toml",
        "--asset",
        "v",
        "--out",
        "out.ndjson",
        file,
    ];
    forebay(&arguments, site.dir.path(), &[]).output().unwrap()
}

/// A site with the testbed's pipeline and a recording of it, to be spoilt.
fn recording() -> (Site, String) {
    let site = Site::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["pipelines/skab.toml", "schemas/skab.toml", "pipelines/models/skab-anomaly.onnx"] {
        fs::copy(root.join(name), site.path(name)).unwrap();
    }
    let mut csv = "datetime;Accelerometer1RMS;Accelerometer2RMS;Current;Pressure;Temperature;\
                   Thermocouple;Voltage;Volume Flow RateRMS\n"
        .to_owned();
    let start: forebay::time::Timestamp = "2026-03-09T10:00:00Z".parse().unwrap();
    for second in 0..100 {
        let text = start.plus(Span::seconds(second)).to_string();
        let time = text.trim_end_matches('Z').replace('T', " ");
        let flow = 32.0 + (second % 7) as f64 / 10.0;
        writeln!(csv, "{time};0.026;0.040;1.33;0.05;79.3;26.0;233.06;{flow}").unwrap();
    }
    (site, csv)
}

#[test]
fn recordings_in_any_dress_give_the_same_records() {
    let (site, good) = recording();
    let latin = {
        let mut bytes = Vec::new();
        for (number, line) in good.lines().enumerate() {
            bytes.extend(line.bytes());
            bytes.extend(if number == 0 { b";town\n" as &[u8] } else { b";K\xf6ln\n" });
        }
        bytes
    };
    let mut expected = None;
    for (name, content) in [
        ("good.csv", good.clone().into_bytes()),
        ("bom.csv", [b"\xef\xbb\xbf", good.as_bytes()].concat()),
        ("crlf.csv", good.replace('\n', "\r\n").into_bytes()),
        ("latin.csv", latin),
        ("ragged.csv", good.replacen("2026-03-09", "not a row;1\n2026-03-09", 1).into_bytes()),
    ] {
        site.write(name, content);
        let output = replay(&site, name);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{name}: {told}");
        let records = fs::read_to_string(site.path("out.ndjson")).unwrap();
        assert!(records.lines().count() > 50, "{name}: {told}");
        assert_eq!(&records, expected.get_or_insert_with(|| records.clone()), "{name}");
        let skipped = told.contains("1 ragged rows skipped") && told.contains(name);
        assert_eq!(skipped, name == "ragged.csv", "{name}: {told}");
    }
}

#[test]
fn recordings_that_cannot_be_read_leave_no_results() {
    let (site, good) = recording();
    fs::create_dir(site.path("folder.csv")).unwrap();
    let header = good.lines().next().unwrap().to_owned();
    for (name, content, told) in [
        ("empty.csv", Some(String::new()), "is empty"),
        ("header.csv", Some(header), "has a header and no rows"),
        ("comma.csv", Some(good.replace(';', ",")), "it looks like \",\""),
        ("timeless.csv", Some(good.replace("datetime", "when")), "`datetime`, which is missing"),
        ("folder.csv", None, "is a folder"),
        ("nothing.csv", None, "No such file"),
        ("noise.csv.gz", Some("no gzip".into()), "noise.csv.gz"),
    ] {
        if let Some(content) = content {
            site.write(name, content);
        }
        let output = replay(&site, name);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}: {error}");
        assert!(error.starts_with("error: ") && error.contains(told), "{name}: {error}");
        assert!(error.contains(name) && error.lines().count() == 1, "{name}: {error}");
        let left: Vec<_> = fs::read_dir(site.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains("out.ndjson"))
            .collect();
        assert_eq!(left, Vec::<String>::new(), "{name}");
    }
}
