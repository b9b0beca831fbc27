//! An alarm on a slow link: it goes before a backlog that drains, and soon.
//!
//! Prints how long alarms took; `cargo test --test uplink_alarm -- --nocapture` shows it. What is asserted is the order.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

mod edge;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use edge::feeding::{Feeding, Running};
use edge::records::{alarm, score};
use edge::until;
use forebay::config::{BudgetConfig, HttpConfig};
use forebay::demo::link::{Link, LinkOptions, Weather};
use forebay::demo::receiver::Receiver;
use forebay::time::{Span, monotonic};
use forebay::uplink::{HttpUplink, Terms};
use tokio_util::sync::CancellationToken;

/// Alarms raised while the backlog drains.
const ALARMS: u64 = 60;

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_waits_for_a_parcel_and_not_for_the_backlog() {
    let stop = CancellationToken::new();
    let receiver = Receiver::start(stop.clone()).await.unwrap();
    let link = Link::start(LinkOptions::to(receiver.addr()), stop.clone()).await.unwrap();
    let latency = Duration::from_millis(25);
    link.set_weather(Weather { latency, bytes_per_s: Some(200_000), ..Weather::default() });
    let uplink = HttpUplink::new(&HttpConfig {
        url: format!("http://{}/in", link.addr()),
        token: None,
        headers: BTreeMap::new(),
        ca: None,
        timeout: Span::seconds(30),
        dictionary: false,
        in_flight: 8,
    });
    let (mut feeding, outbox) = Feeding::new();
    // The size of a campaign's backlog can be given; what the test needs is that it does not end first.
    let ticks = std::env::var("FOREBAY_BACKLOG_TICKS").ok().and_then(|n| n.parse().ok());
    for tick in 0..ticks.unwrap_or(60) {
        let random = |n: u64| {
            let mut outgoing = score(n);
            if let forebay::record::Record::Score(score) = &mut outgoing.record {
                score.features.values_mut().for_each(|value| *value = Some(fastrand::f64()));
            }
            outgoing
        };
        feeding.put((tick * 2000..tick * 2000 + 2000).map(random).collect());
    }
    let terms = Terms {
        parcel_bytes: 256 << 10,
        in_flight: 8,
        retry_max: Span::millis(100),
        drain_for: Span::ZERO,
        rate: None,
        gather: Span::ZERO,
        fresh: 0.5,
        budget: BudgetConfig::default(),
    };
    let running = Running::start_on(uplink.unwrap(), outbox, &feeding, terms);
    until("the link is known", || running.counts.parcels.load(Relaxed) > 20).await;
    let mut counts = receiver.watch();
    let mut delays = Vec::new();
    for n in 1..=ALARMS {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(50..300))).await;
        let (started, before) = (monotonic(), receiver.counts().parcels);
        feeding.put(vec![alarm(n)]);
        let there = counts.wait_for(|counts| counts.by_lane[0] == n).await.unwrap().clone();
        delays.push(started.elapsed());
        // The parcel that was on its way, one that was picked just then, and its own.
        assert!(there.parcels - before <= 4, "{} parcels first", there.parcels - before);
    }
    let left = feeding.ids.len() as u64 - running.left();
    assert!(left > 1000, "the backlog should not have ended: {left}");
    delays.sort();
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize];
    let lines = running.counts.bytes.load(Relaxed);
    let wire = running.counts.wire.load(Relaxed);
    println!(
        "{ALARMS} alarms on 200 kB/s, 50 ms: median {:?}, p99 {:?}, longest {:?}; {} MB of lines in {} MB on the wire, {left} records left",
        at(0.5),
        at(0.99),
        at(1.0),
        lines / 1_000_000,
        wire / 1_000_000
    );
    running.end().await;
}
