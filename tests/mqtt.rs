//! The source against real brokers: rumqttd in the process always, Mosquitto where it is installed.
//!
//! What must hold: a message is acknowledged only when it was released; what was not comes again; a broker that
//! restarts, forgets, refuses or floods costs nothing but time; and every fault says what it is.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

mod edge;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use edge::bytes::{BytesBroker, publish_packet};
use edge::door::{Door, Engine};
use edge::{Mosquitto, PATIENCE, certificates, publish, until};
use forebay::config::{MqttConfig, MqttVersion, Secret};
use forebay::demo::broker::Broker;
use forebay::link::LinkStatus;
use forebay::time::{Span, monotonic};
use rumqttc::QoS;

const VERSIONS: [MqttVersion; 2] = [MqttVersion::V311, MqttVersion::V5];

fn numbered(topic: &str, range: std::ops::Range<usize>) -> Vec<(String, Vec<u8>)> {
    range.map(|n| (topic.to_owned(), n.to_string().into_bytes())).collect()
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

/// A broker of either kind, and the port that a plain MQTT 3.1.1 client uses.
enum Any {
    Rumqttd(Broker),
    Mosquitto(Mosquitto),
}

impl Any {
    fn all() -> Vec<Any> {
        let plain = "allow_anonymous true\npersistence false\nmax_queued_messages 0";
        let installed = Mosquitto::start(plain).map(Any::Mosquitto);
        [Any::Rumqttd(Broker::start(None).unwrap())].into_iter().chain(installed).collect()
    }

    fn client(&self, version: MqttVersion) -> MqttConfig {
        match self {
            Any::Rumqttd(broker) => broker.client(version),
            Any::Mosquitto(broker) => broker.client(version),
        }
    }

    fn port(&self) -> u16 {
        match self {
            Any::Rumqttd(broker) => broker.ports().0,
            Any::Mosquitto(broker) => broker.port,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_published_comes_in_order_and_is_acknowledged() {
    for broker in Any::all() {
        for version in VERSIONS {
            let door = Door::open(broker.client(version), &["plant/#"], Engine::Releases);
            door.up().await;
            publish(broker.port(), QoS::AtLeastOnce, numbered("plant/a", 0..3000)).await;
            until("all came", || door.seen.lock().unwrap().len() >= 3000).await;
            let counts = door.counts.clone();
            assert_eq!(door.close().await, numbers(0..3000));
            assert_eq!(
                counts.acknowledged.load(Relaxed),
                3000,
                "what is released last is acknowledged too"
            );
            assert_eq!(counts.stale.load(Relaxed), 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_released_comes_again_and_what_was_does_not() {
    for broker in Any::all() {
        for version in VERSIONS {
            let first = Door::open(broker.client(version), &["plant/#"], Engine::Releases);
            first.up().await;
            let config = first.config.clone();
            publish(broker.port(), QoS::AtLeastOnce, numbered("plant/a", 0..10)).await;
            until("the first came", || first.seen.lock().unwrap().len() == 10).await;
            first.close().await;

            let second = Door::open(config.clone(), &["plant/#"], Engine::KeepsReceipts);
            second.up().await;
            publish(broker.port(), QoS::AtLeastOnce, numbered("plant/a", 10..30)).await;
            until("the second took all", || second.seen.lock().unwrap().len() == 20).await;
            assert_eq!(second.counts.acknowledged.load(Relaxed), 0);
            second.kill();
            until("it is dead", || second.source.is_finished()).await;

            let third = Door::open(config, &["plant/#"], Engine::Releases);
            until("they came again", || third.distinct() == 20).await;
            let again: BTreeSet<_> = third.close().await.into_iter().collect();
            assert_eq!(again, numbers(10..30).into_iter().collect());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_restarts_and_keeps_its_sessions_loses_nothing() {
    let config = "allow_anonymous true\npersistence true\npersistence_location {dir}/\nmax_queued_messages 0";
    for version in VERSIONS {
        let Some(mut broker) = Mosquitto::start(config) else { return };
        let door = Door::open(broker.client(version), &["plant/#"], Engine::Releases);
        door.up().await;
        publish(broker.port, QoS::AtLeastOnce, numbered("plant/a", 0..500)).await;
        broker.stop();
        until("the door has noticed", || !door.status.borrow().is_ready()).await;
        broker.go();
        publish(broker.port, QoS::AtLeastOnce, numbered("plant/a", 500..1000)).await;
        until("all came", || door.distinct() == 1000).await;
        until("it is up with its session", || {
            matches!(&*door.status.borrow(), LinkStatus::Up { session_present: true, .. })
        })
        .await;
        door.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_forgets_the_session_is_subscribed_to_again() {
    for version in VERSIONS {
        let broker = Broker::start(None).unwrap();
        let (v4, v5) = broker.ports();
        let door = Door::open(broker.client(version), &["plant/#", "site/+/x"], Engine::Releases);
        door.up().await;
        drop(broker);
        until("the door has noticed", || door.status.borrow().error().is_some()).await;
        let due = monotonic() + PATIENCE;
        let broker = loop {
            match Broker::start_on(v4, v5, None) {
                Ok(broker) => break broker,
                Err(error) => assert!(monotonic() < due, "{error}"),
            }
        };
        door.up().await;
        assert!(matches!(&*door.status.borrow(), LinkStatus::Up { session_present: false, .. }));
        publish(broker.ports().0, QoS::AtLeastOnce, numbered("plant/a", 0..10)).await;
        publish(broker.ports().0, QoS::AtLeastOnce, numbered("site/1/x", 10..20)).await;
        until("all came", || door.distinct() == 20).await;
        door.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_says_so_and_the_right_one_works() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        Some(Secret::File(dir.path().join(name)))
    };
    let broker = Mosquitto::start_with(|dir| {
        let made = std::process::Command::new("mosquitto_passwd")
            .args(["-b", "-c", dir.join("users").to_str().unwrap(), "gateway", "s3cret"])
            .status();
        assert!(made.unwrap().success());
        "allow_anonymous false\npassword_file {dir}/users".to_owned()
    });
    let Some(broker) = broker else { return };
    for version in VERSIONS {
        let mut config = broker.client(version);
        config.user = file("user", "gateway\n");
        config.password = file("password", "wr0ng\n");
        let door = Door::open(config, &["plant/#"], Engine::Releases);
        until("it is refused", || door.status.borrow().error().is_some()).await;
        let error = door.status.borrow().error().unwrap();
        assert!(
            error.contains("refused the connection") && error.contains("`password`"),
            "{error}"
        );
        assert!(!error.contains("wr0ng"), "{error}");
        // The secret is read again at every connection: putting it right needs no restart.
        file("password", "s3cret\n");
        door.up().await;
        door.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_in_process_broker_lets_only_its_user_in() {
    for version in VERSIONS {
        let broker = Broker::start(Some(("gateway", "s3cret"))).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("user"), "gateway").unwrap();
        std::fs::write(dir.path().join("password"), "wr0ng").unwrap();
        let mut config = broker.client(version);
        config.user = Some(Secret::File(dir.path().join("user")));
        config.password = Some(Secret::File(dir.path().join("password")));
        let door = Door::open(config, &["plant/#"], Engine::Releases);
        until("it is refused", || door.status.borrow().error().is_some()).await;
        std::fs::write(dir.path().join("password"), "s3cret").unwrap();
        door.up().await;
        door.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_trusts_the_given_authority_and_no_other() {
    let own = "allow_anonymous true\ncafile {dir}/ca.pem\ncertfile {dir}/server.pem\nkeyfile {dir}/server.key\nrequire_certificate true";
    let broker = Mosquitto::start_with(|dir| {
        certificates(dir);
        own.to_owned()
    });
    let Some(broker) = broker else { return };
    let other = tempfile::tempdir().unwrap();
    certificates(other.path());
    let dir = broker.dir.path();
    for version in VERSIONS {
        let good = MqttConfig {
            url: format!("mqtts://127.0.0.1:{}", broker.port),
            ca: Some(dir.join("ca.pem")),
            certificate: Some(dir.join("client.pem")),
            key: Some(dir.join("client.key")),
            ..broker.client(version)
        };
        let door = Door::open(good.clone(), &["plant/#"], Engine::Releases);
        door.up().await;
        door.close().await;

        let stranger = MqttConfig { ca: Some(other.path().join("ca.pem")), ..good.clone() };
        let door = Door::open(stranger, &["plant/#"], Engine::Releases);
        until("it is refused", || door.status.borrow().error().is_some()).await;
        let error = door.status.borrow().error().unwrap();
        assert!(error.contains("certificate"), "{error}");
        door.close().await;

        let nobody = MqttConfig { certificate: None, key: None, ..good };
        let door = Door::open(nobody, &["plant/#"], Engine::Releases);
        until("it is refused", || door.status.borrow().error().is_some()).await;
        door.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_limit_is_counted_acknowledged_and_stops_nothing() {
    for broker in Any::all() {
        for version in VERSIONS {
            let door = Door::open(broker.client(version), &["plant/#"], Engine::Releases);
            door.up().await;
            let mut messages = numbered("plant/a", 0..3);
            messages.insert(1, ("plant/big".into(), vec![b'x'; 10 << 20]));
            publish(broker.port(), QoS::AtLeastOnce, messages).await;
            until("all came", || door.seen.lock().unwrap().len() == 4).await;
            until("all are acknowledged", || door.counts.acknowledged.load(Relaxed) == 4).await;
            let seen = door.seen.lock().unwrap().clone();
            assert_eq!(seen[1].oversize, Some(10 << 20));
            assert!(seen[1].payload.is_empty() && seen[1].receipt.is_some());
            assert_eq!(door.counts.oversize.load(Relaxed), 1);
            assert_eq!(door.counts.connections.load(Relaxed), 1, "the connection held");
            door.close().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_too_large_to_be_read_does_not_come_for_ever() {
    let config = "allow_anonymous true\npersistence false\nmax_queued_messages 0";
    let Some(broker) = Mosquitto::start(config) else { return };
    // With MQTT 5 the broker knows what is too large, and does not send it.
    for (version, sessions_dropped) in [(MqttVersion::V311, 1), (MqttVersion::V5, 0)] {
        let door = Door::open(broker.client(version), &["plant/#"], Engine::Releases);
        let counts = door.counts.clone();
        door.up().await;
        let huge = vec![("plant/huge".into(), vec![b'x'; 17 << 20])];
        publish(broker.port, QoS::AtLeastOnce, huge).await;
        until("the session was given up", || {
            counts.sessions_dropped.load(Relaxed) == sessions_dropped
        })
        .await;
        door.up().await;
        publish(broker.port, QoS::AtLeastOnce, numbered("plant/a", 0..10)).await;
        until("the rest comes", || door.distinct() == 10).await;
        assert_eq!(counts.sessions_dropped.load(Relaxed), sessions_dropped);
        door.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_qos_0_is_dropped_and_counted_and_qos_1_still_fits() {
    let version = MqttVersion::V311;
    let packet = |n: u16| {
        publish_packet(version, n.saturating_sub(9_999), "t", n.to_string().as_bytes(), false)
    };
    let packets = (0..5000).chain(10_000..10_040).flat_map(packet).collect();
    let mut fake = BytesBroker::start(version).await;
    let config = MqttConfig { url: fake.url(), version, in_flight: 50, ..MqttConfig::default() };
    let door = Door::open(config, &["t"], Engine::Sleeps);
    fake.accept(false, &[1], packets).await;
    let (counts, status) = (door.counts.clone(), door.status.clone());
    until("everything was read", || {
        counts.received.load(Relaxed) + counts.dropped.load(Relaxed) == 5040
    })
    .await;
    assert!(status.borrow().is_ready());
    assert!(counts.dropped.load(Relaxed) > 0);
    fake.cut();
    let seen: BTreeSet<_> = door.close().await.into_iter().collect();
    let first_kept = numbers(0..1000).iter().all(|n| seen.contains(n));
    let qos_1_kept = numbers(10_000..10_040).iter().all(|n| seen.contains(n));
    assert!(first_kept && qos_1_kept, "QoS 1 is never dropped");
    assert_eq!(seen.len() as u64 + counts.dropped.load(Relaxed), 5040, "every loss is counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_with_a_small_window_does_not_slow_ticks_down_to_their_time() {
    // rumqttd stops at 100 unacknowledged messages, whatever a client says. With ticks of 200 ms, waiting every one
    // out would take 10 s for 5,000 messages.
    let broker = Broker::start(None).unwrap();
    let config = broker.client(MqttVersion::V5);
    let door = Door::open_with(config, &["plant/#"], Engine::Releases, Span::millis(200));
    door.up().await;
    let started = monotonic();
    publish(broker.ports().0, QoS::AtLeastOnce, numbered("plant/a", 0..5000)).await;
    until("all came", || door.seen.lock().unwrap().len() == 5000).await;
    let took = started.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_subscription_is_named_and_the_others_work() {
    let version = MqttVersion::V311;
    let mut fake = BytesBroker::start(version).await;
    let config = MqttConfig { url: fake.url(), version, ..MqttConfig::default() };
    let door = Door::open(config, &["a/one", "a/two"], Engine::Releases);
    fake.accept(false, &[1, 0x80], publish_packet(version, 0, "t", b"42", false)).await;
    until("the refusal is named", || {
        door.status.borrow().error().is_some_and(|error| error.contains("`a/two`"))
    })
    .await;
    assert!(!door.status.borrow().is_ready());
    until("the other filter works", || door.payloads() == ["42"]).await;
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_is_waited_for_and_a_stop_does_not_wait() {
    for version in VERSIONS {
        let port = edge::free_port();
        let config = MqttConfig {
            url: format!("mqtt://127.0.0.1:{port}"),
            version,
            ..MqttConfig::default()
        };
        let door = Door::open(config, &["plant/#"], Engine::Releases);
        until("it is down", || matches!(&*door.status.borrow(), LinkStatus::Down { .. })).await;
        until(
            "it tries again",
            || matches!(&*door.status.borrow(), LinkStatus::Down { retries, .. } if *retries >= 2),
        )
        .await;
        let started = monotonic();
        door.close().await;
        assert!(started.elapsed() < Duration::from_secs(2));
    }
}
