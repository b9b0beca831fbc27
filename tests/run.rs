//! The whole product: `forebay run` as a child process, between a broker and a far side.
//!
//! Whatever is done to it (killed, cut off, restarted, started too early), every reading whose sender has seen a PUBACK
//! must be accounted for, and the records at the far side must be those of an undisturbed replay: the same ids, each
//! once, values within 1e-9. Bad input has `bad_input.rs`. Without Mosquitto (Debian: `apt-get install mosquitto`) its
//! part is skipped, and says so.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod edge;
mod node_kit;

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::time::Duration;

use axum::http::StatusCode;
use edge::{PATIENCE, certificates, free_port, subscribe, until};
use forebay::config::MqttVersion;
use forebay::demo::broker::Broker;
use forebay::record::{AlarmState, Record};
use forebay::time::monotonic;
use node_kit::brokers::{Local, VERSIONS, lasting};
use node_kit::shift::{Replay, Shift, assert_same, publisher, send};
use node_kit::{Far, Node, Site, broker};

const V5: MqttVersion = MqttVersion::V5;

/// A stopping node may take this long: its uplink's `drain_for` and some.
const STOPS_WITHIN: Duration = Duration::from_secs(8);

async fn publish(local: &Local, shift: &Shift) {
    let mut sender = publisher(&local.url(MqttVersion::V311), MqttVersion::V311).await;
    send(&mut sender, &shift.messages).await;
    sender.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_scored_shown_counted_and_delivered() {
    let shift = Shift::of(2, 420, 3);
    for local in Local::all() {
        for version in VERSIONS {
            let (site, far) = (Site::new(), Far::start().await);
            let replay = shift.replay(&site);
            site.config(&broker(&local.url(version), version), &far.uplink());
            let mut node = Node::start(&site);
            node.ready(200).await;
            publish(&local, &shift).await;
            let records = far.records(replay.records.len(), &node).await;
            assert_same(&records, &replay);
            assert_eq!(far.receiver.counts().repeats, 0);
            counts_agree(&node, &shift, &replay).await;
            feed_is_retained(local.port(), &replay).await;
            let started = monotonic();
            node.stop().await.fine();
            assert!(started.elapsed() < STOPS_WITHIN);
        }
    }
}

/// `/metrics` says what was sent, and what a replay makes of it.
async fn counts_agree(node: &Node, shift: &Shift, replay: &Replay) {
    let account = &replay.account;
    until("the books are told", || node.count("readings_received") == account.received).await;
    assert_eq!(node.messages(), shift.messages.len() as u64);
    let refused = ["empty", "not_json", "not_utf8"].map(|reason| node.refused(reason));
    assert_eq!(refused.iter().sum::<u64>(), shift.totals.malformed, "{refused:?}");
    assert_eq!(node.count("readings_received"), shift.totals.readings);
    assert_eq!(node.count("readings_used"), account.used);
    assert_eq!(node.count("readings_duplicates"), shift.totals.duplicates);
    assert_eq!(node.count("readings_late"), shift.totals.late);
    assert_eq!(node.rejected("not_finite"), shift.totals.not_finite);
    assert_eq!(node.rejected("out_of_range"), shift.totals.out_of_range);
    assert_eq!(node.metric("forebay_readings_pending{pipeline=\"pump\"}"), account.pending);
    assert_eq!(node.count("windows"), account.windows);
    assert_eq!(node.count("scores"), account.scores);
    assert_eq!(node.count("alarms_raised"), account.alarms_raised);
    until("every record is counted as delivered", || {
        delivered(node) == replay.records.len() as u64
    })
    .await;
    for lane in ["alarm", "score"] {
        let count = |name: &str| node.metric(&format!("forebay_{name}{{lane=\"{lane}\"}}"));
        assert_eq!(count("records_total"), count("delivered_records_total"));
        assert_eq!((count("outbox_records"), count("evicted_total")), (0, 0));
    }
}

fn delivered(node: &Node) -> u64 {
    let lanes = ["alarm", "score", "feature", "raw"];
    lanes
        .map(|lane| node.metric(&format!("forebay_delivered_records_total{{lane=\"{lane}\"}}")))
        .iter()
        .sum()
}

/// Who comes to the broker later finds each asset's last score and last alarm, and the last change of each alarm.
async fn feed_is_retained(port: u16, replay: &Replay) {
    let (mut expected, mut assets) = (BTreeMap::new(), BTreeSet::new());
    for record in &replay.records {
        let (asset, kind, at) = match record {
            Record::Score(score) => (&score.asset, "score", score.window_end),
            Record::Alarm(alarm) => (&alarm.asset, "alarm", alarm.at),
            _ => continue,
        };
        let topic = format!("forebay/test-node/pump/{asset}/{kind}");
        if let Record::Alarm(alarm) = record {
            expected.insert(format!("{topic}/{}", alarm.name), at.0 / 1000);
            assets.insert(topic);
        } else {
            expected.insert(topic, at.0 / 1000);
        }
    }
    assert!(expected.len() >= 4, "some alarm was raised");
    let mut feed = subscribe(port, "forebay/#").await;
    let (mut seen, mut last) = (BTreeMap::new(), BTreeMap::new());
    while seen != expected || last.len() < assets.len() {
        let next = tokio::time::timeout(PATIENCE, feed.recv()).await;
        let (topic, payload, retained) =
            next.unwrap_or_else(|_| panic!("{seen:?} and no more, not {expected:?}")).unwrap();
        assert!(retained, "{topic}");
        let flat: serde_json::Value = serde_json::from_slice(&payload).unwrap();
        assert!(flat.as_object().unwrap().values().all(|v| !v.is_object() && !v.is_array()));
        let of = if assets.contains(&topic) { &mut last } else { &mut seen };
        of.insert(topic, flat["time"].as_i64().unwrap());
    }
    // Which of an asset's alarms changed last depends on how windows fell into ticks.
    for (asset, at) in last {
        let is_of = |(topic, last): (&String, &i64)| topic.starts_with(&asset) && *last == at;
        assert!(expected.iter().any(is_of), "{asset} {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_go_to_a_broker_of_their_own() {
    let shift = Shift::of(2, 300, 4);
    for version in VERSIONS {
        let (site, near, cloud) = (Site::new(), Local::rumqttd(), Local::rumqttd());
        let replay = shift.replay(&site);
        let uplink = format!(
            "[uplink.targets.cloud.mqtt]\ntopic = \"up/{{node}}/{{asset}}/{{type}}\"\nbroker = {{ url = \"{}\", version = \"{}\" }}\n",
            cloud.url(version),
            if version == V5 { "5" } else { "3.1.1" }
        );
        site.config(&broker(&near.url(version), version), &uplink);
        let mut arrived = subscribe(cloud.port(), "up/#").await;
        let mut node = Node::start(&site);
        node.ready(200).await;
        publish(&near, &shift).await;
        let (mut records, mut ids) = (Vec::new(), BTreeSet::new());
        while records.len() < replay.records.len() {
            let next = tokio::time::timeout(PATIENCE, arrived.recv()).await;
            let (topic, payload, _) = next.unwrap_or_else(|_| panic!("{}", node.log())).unwrap();
            let record: Record = serde_json::from_slice(&payload).unwrap();
            assert!(topic.starts_with("up/test-node/pump-0"), "{topic}");
            assert!(ids.insert(record.id().to_owned()), "{} came twice", record.id());
            records.push(record);
        }
        assert_same(&records, &replay);
        node.stop().await.fine();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_and_a_password_come_from_the_environment_or_a_file() {
    let local = Broker::start(Some(("gateway", "s3cret"))).unwrap();
    for version in VERSIONS {
        let site = Site::new();
        let from_env = "user = { env = \"SITE_USER\" }\npassword = { env = \"SITE_PASSWORD\" }";
        site.config(&format!("{}{from_env}", broker(&local.url(version), version)), "");
        let variables = [("SITE_USER", "gateway"), ("SITE_PASSWORD", "s3cret")];
        let mut node = Node::start_with(&site, &variables);
        node.ready(200).await;
        assert!(!node.log().contains("s3cret"), "{}", node.log());
        node.stop().await.fine();

        let from_file = "user = { file = \"user\" }\npassword = { file = \"password\" }";
        site.config(&format!("{}{from_file}", broker(&local.url(version), version)), "");
        site.write("user", "gateway\n");
        site.write("password", "wr0ng\n");
        let mut node = Node::start(&site);
        node.ready(503).await;
        until("it has been refused", || node.has_logged("no connection to the broker")).await;
        assert_eq!(node.readiness(), 503);
        site.write("password", "s3cret\n");
        node.ready(200).await;
        let log = node.stop().await.log;
        assert!(!log.contains("s3cret") && !log.contains("wr0ng"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_with_its_own_certificate_authority() {
    let plain = free_port();
    let started = edge::Mosquitto::start_with(|dir| {
        certificates(dir);
        format!(
            "allow_anonymous true\ncafile {{dir}}/ca.pem\ncertfile {{dir}}/server.pem\nkeyfile {{dir}}/server.key\n\
             max_inflight_messages 1000\nmax_queued_messages 0\nlistener {plain} 127.0.0.1"
        )
    });
    let Some(secure) = started else { return };
    let shift = Shift::of(1, 200, 5);
    for version in VERSIONS {
        let (site, far) = (Site::new(), Far::start().await);
        let replay = shift.replay(&site);
        let ca = secure.dir.path().join("ca.pem");
        let url = format!("mqtts://127.0.0.1:{}", secure.port);
        let mqtt = format!("{}ca = \"{}\"", broker(&url, version), ca.display());
        site.config(&mqtt, &far.uplink());
        let mut node = Node::start(&site);
        node.ready(200).await;
        let mut sender = publisher(&format!("mqtt://127.0.0.1:{plain}"), version).await;
        send(&mut sender, &shift.messages).await;
        assert_same(&far.records(replay.records.len(), &node).await, &replay);
        node.stop().await.fine();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_without_a_broker_without_an_uplink_and_without_both() {
    let shift = Shift::of(2, 300, 6);
    for (broker_away, uplink_away) in [(true, false), (false, true), (true, true)] {
        let (site, far) = (Site::new(), Far::start().await);
        let replay = shift.replay(&site);
        let (v4, v5) = (free_port(), free_port());
        site.config(&broker(&format!("mqtt://127.0.0.1:{v5}"), V5), &far.uplink());
        far.link.set_up(!uplink_away).await;
        let mut local = (!broker_away).then(|| Broker::start_on(v4, v5, None).unwrap());
        let mut node = Node::start(&site);
        if broker_away {
            node.ready(503).await;
            until("the reason is told", || node.get("/readyz").unwrap().1.contains("refused"))
                .await;
            local = Some(Broker::start_on(v4, v5, None).unwrap());
        }
        node.ready(200).await;
        let local = Local::Rumqttd(local.unwrap());
        publish(&local, &shift).await;
        if uplink_away {
            until("all is computed", || node.count("scores") == replay.account.scores).await;
            until("the outage is told", || node.get("/readyz").unwrap().1.contains("uplink")).await;
            assert_eq!((node.readiness(), far.receiver.counts().records), (200, 0));
            let waits = node.metric("forebay_outbox_records{lane=\"score\"}");
            assert!(waits > 0, "{}", node.log());
            far.link.set_up(true).await;
        }
        assert_same(&far.records(replay.records.len(), &node).await, &replay);
        node.stop().await.fine();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_restarts_in_the_middle_costs_nothing() {
    let shift = Shift::of(3, 600, 8);
    for version in VERSIONS {
        let Some(mut local) = lasting() else { return };
        let (site, far) = (Site::new(), Far::start().await);
        let replay = shift.replay(&site);
        let url = format!("mqtt://127.0.0.1:{}", local.port);
        site.config(&broker(&url, version), &far.uplink());
        let mut node = Node::start(&site);
        node.ready(200).await;
        let mut sender = publisher(&url, version).await;
        let (first, rest) = shift.messages.split_at(shift.messages.len() / 2);
        send(&mut sender, first).await;
        for part in rest.chunks(rest.len() / 2 + 1) {
            let ((), ()) = tokio::join!(send(&mut sender, part), async {
                local.stop();
                node.ready(503).await;
                local.go();
                node.ready(200).await;
            });
        }
        assert_same(&far.records(replay.records.len(), &node).await, &replay);
        until("the books close", || node.count("readings_used") == replay.account.used).await;
        node.stop().await.fine();
    }
}

/// Kills the node at random moments while messages and records flow, and once while it recovers.
async fn killed(local: Local, version: MqttVersion, seed: u64) {
    let shift = Shift::of(3, 1200, seed);
    let (site, far) = (Site::new(), Far::start().await);
    let replay = shift.replay(&site);
    site.config(&broker(&local.url(version), version), &far.uplink());
    let mut node = Node::start(&site);
    node.ready(200).await;
    let mut sender = publisher(&local.url(MqttVersion::V311), MqttVersion::V311).await;
    // A part of the shift for each life of the node, so that every kill finds something under way.
    let messages = shift.messages.clone();
    let (go, mut gate) = tokio::sync::mpsc::channel::<()>(1);
    let sending = tokio::spawn(async move {
        for part in messages.chunks(messages.len().div_ceil(6)) {
            gate.recv().await;
            send(&mut sender, part).await;
        }
    });
    let mut random = fastrand::Rng::with_seed(seed);
    let mut interrupted = 0;
    for round in 0..6 {
        if round != 3 {
            node.ready(200).await;
        }
        go.send(()).await.unwrap();
        // The moment is the point: it is never the same twice.
        tokio::time::sleep(Duration::from_millis(random.u64(5..700))).await;
        interrupted += u32::from(far.receiver.counts().records < replay.records.len() as u64);
        node.kill();
        node = Node::start(&site);
    }
    sending.await.unwrap();
    assert!(interrupted >= 2, "the kills came too late to disturb anything");
    let records = far.records(replay.records.len(), &node).await;
    assert_same(&records, &replay);
    let account = &replay.account;
    until("the books close", || {
        let held = node.metric("forebay_readings_pending{pipeline=\"pump\"}");
        (node.count("readings_used"), held) == (account.used, account.pending)
    })
    .await;
    assert!(!node.has_logged("ERROR"), "{}", node.log());
    node.stop().await.fine();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_again_and_again_loses_and_repeats_nothing_on_rumqttd() {
    killed(Local::rumqttd(), V5, 11).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_again_and_again_loses_and_repeats_nothing_on_mosquitto() {
    for (version, seed) in VERSIONS.into_iter().zip([12, 13]) {
        let Some(local) = Local::mosquitto() else { return };
        killed(local, version, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_stopped_under_load_goes_on_where_it_was() {
    let shift = Shift::of(3, 900, 14);
    let (site, far, local) = (Site::new(), Far::start().await, Local::rumqttd());
    let replay = shift.replay(&site);
    site.config(&broker(&local.url(V5), V5), &far.uplink());
    let mut node = Node::start(&site);
    node.ready(200).await;
    let mut sender = publisher(&local.url(V5), V5).await;
    let messages = shift.messages.clone();
    let sending = tokio::spawn(async move { send(&mut sender, &messages).await });
    until("it is under load", || node.messages() > 1000).await;
    let started = monotonic();
    node.stop().await.fine();
    assert!(started.elapsed() < STOPS_WITHIN, "{:?}", started.elapsed());
    // The second time, with nobody there to take the rest.
    far.link.set_up(false).await;
    let mut node = Node::start(&site);
    node.ready(200).await;
    until("it works", || node.messages() > 1000).await;
    let started = monotonic();
    node.stop().await.fine();
    assert!(started.elapsed() < STOPS_WITHIN, "{:?}", started.elapsed());
    far.link.set_up(true).await;
    let node = Node::start(&site);
    assert_same(&far.records(replay.records.len(), &node).await, &replay);
    sending.await.unwrap();
    node.stop().await.fine();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_those_who_do_not_answer() {
    // They take connections, and never say a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, local) = (silent.local_addr().unwrap(), Local::rumqttd());
    let uplink = |to| format!("[uplink.targets.cloud.http]\nurl = \"http://{to}/in\"\n");
    let shift = Shift::of(1, 200, 15);
    for broker_answers in [true, false] {
        let site = Site::new();
        let url = if broker_answers { local.url(V5) } else { format!("mqtt://{address}") };
        site.config(&broker(&url, V5), &uplink(address));
        let mut node = Node::start(&site);
        if broker_answers {
            node.ready(200).await;
            publish(&local, &shift).await;
            let waiting = "forebay_outbox_records{lane=\"score\"}";
            until("records wait", || node.metric(waiting) > 0).await;
        } else {
            node.ready(503).await;
        }
        let started = monotonic();
        node.stop().await.fine();
        assert!(started.elapsed() < STOPS_WITHIN, "{:?}", started.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_hangs_does_not_keep_the_node_from_stopping() {
    let Some(Local::Mosquitto(mosquitto)) = Local::mosquitto() else { return };
    for version in VERSIONS {
        let site = Site::new();
        site.config(&broker(&format!("mqtt://127.0.0.1:{}", mosquitto.port), version), "");
        let mut node = Node::start(&site);
        node.ready(200).await;
        mosquitto.freeze(true);
        let started = monotonic();
        node.stop().await.fine();
        assert!(started.elapsed() < STOPS_WITHIN, "{:?}", started.elapsed());
        mosquitto.freeze(false);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_far_side_refuses_holds_up_nothing_and_is_in_the_books() {
    let shift = Shift::of(1, 300, 16);
    let (site, far, local) = (Site::new(), Far::start().await, Local::rumqttd());
    let replay = shift.replay(&site);
    // So many refusals in a row that halving a parcel comes down to one record, then a far side that is busy.
    far.refuse(1, StatusCode::SERVICE_UNAVAILABLE, Some(1));
    far.refuse(8, StatusCode::UNPROCESSABLE_ENTITY, None);
    site.config(&broker(&local.url(V5), V5), &far.uplink());
    let mut node = Node::start(&site);
    node.ready(200).await;
    publish(&local, &shift).await;
    let count = |node: &Node, name: &str| -> u64 {
        let lane = |lane| node.metric(&format!("forebay_{name}_total{{lane=\"{lane}\"}}"));
        lane("alarm") + lane("score")
    };
    let all = replay.records.len() as u64;
    until("every record has left", || {
        count(&node, "delivered_records") + count(&node, "refused_records") == all
    })
    .await;
    let refused = count(&node, "refused_records");
    assert!(refused > 0 && refused < all, "{refused}");
    assert_eq!(count(&node, "records"), all);
    until("the far side has the rest", || far.receiver.counts().records == all - refused).await;
    assert_eq!(node.logged("refused for good") as u64, refused);
    node.stop().await.fine();
}

#[tokio::test(flavor = "multi_thread")]
async fn alarms_that_are_on_are_shown_after_a_restart() {
    let shift = Shift::of(3, 600, 7);
    let (site, local) = (Site::new(), Local::rumqttd());
    let replay = shift.replay(&site);
    let mut on = BTreeMap::new();
    for record in &replay.records {
        if let Record::Alarm(alarm) = record {
            let key = (alarm.asset.clone(), alarm.name.clone());
            match alarm.state {
                AlarmState::Normal => drop(on.remove(&key)),
                _ => drop(on.insert(key, alarm.id.clone())),
            }
        }
    }
    assert!(!on.is_empty(), "an alarm is still on at the end");
    let expected: BTreeSet<String> = on.into_values().collect();
    site.config(&broker(&local.url(V5), V5), "");
    let shown = |node: &Node| -> BTreeSet<String> {
        let Some((200, body)) = node.get("/api/v1/alarms?active=true") else {
            return BTreeSet::new();
        };
        let all: serde_json::Value = serde_json::from_str(&body).unwrap();
        all.as_array()
            .unwrap()
            .iter()
            .map(|alarm| alarm["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let mut node = Node::start(&site);
    node.ready(200).await;
    publish(&local, &shift).await;
    until("they are on", || shown(&node) == expected).await;
    // Killed, so that some of it is in the checkpoint and some in the journal; then stopped, so that all is in one.
    node.kill();
    let mut node = Node::start(&site);
    node.ready(200).await;
    until("they are on after a kill", || shown(&node) == expected).await;
    node.stop().await.fine();
    let node = Node::start(&site);
    until("they are on after a stop", || shown(&node) == expected).await;
}
