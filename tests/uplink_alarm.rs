//! An alarm on a slow link: it goes before a backlog that drains, and soon.
//!
//! Prints how long alarms took; `cargo test --test uplink_alarm -- --nocapture` shows it. What is asserted is the order.
//! A campaign drains a larger backlog to its end, with alarms all the while: `FOREBAY_BACKLOG_TICKS=1100` is 1 GB of
//! records, and `FOREBAY_LINK=700000,200` a link of 700 kB/s with a round trip of 200 ms.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

mod edge;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use edge::feeding::{Feeding, Running};
use edge::records::{alarm, random_score};
use edge::until;
use forebay::config::{BudgetConfig, HttpConfig};
use forebay::demo::link::{Link, LinkOptions, Weather};
use forebay::time::{Span, monotonic};
use forebay::uplink::{HttpUplink, Terms, wire};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Alarms raised while the backlog drains, but in a campaign.
const ALARMS: u64 = 60;

/// A far side that reads alarms and counts the rest: reading all of it would take longer than the link.
struct Far {
    alarms: watch::Sender<u64>,
    parcels: AtomicU64,
}

async fn take(State(far): State<Arc<Far>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    far.parcels.fetch_add(1, Relaxed);
    if headers["idempotency-key"].as_bytes().starts_with(b"alarm-") {
        let count = wire::records(&wire::unpack(&body).unwrap()).unwrap().len() as u64;
        far.alarms.send_modify(|alarms| *alarms += count);
    }
    StatusCode::NO_CONTENT
}

/// The far side, and an uplink to it over a link of so many bytes a second and a round trip in milliseconds.
async fn over_a_link(
    speed: u64,
    round_trip: u64,
    stop: &CancellationToken,
) -> (Arc<Far>, Link, HttpUplink) {
    let far = Arc::new(Far { alarms: watch::channel(0).0, parcels: AtomicU64::new(0) });
    let app = Router::new().route("/in", post(take)).with_state(Arc::clone(&far));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let link = Link::start(LinkOptions::to(addr), stop.clone()).await.unwrap();
    let latency = Duration::from_millis(round_trip) / 2;
    link.set_weather(Weather { latency, bytes_per_s: Some(speed), ..Weather::default() });
    let uplink = HttpUplink::new(&HttpConfig::to(format!("http://{}/in", link.addr())));
    (far, link, uplink.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_waits_for_a_parcel_and_not_for_the_backlog() {
    let stop = CancellationToken::new();
    let asked = std::env::var("FOREBAY_LINK").unwrap_or_else(|_| "200000,50".into());
    let (speed, round_trip) = asked.split_once(',').unwrap();
    let (speed, round_trip): (u64, u64) = (speed.parse().unwrap(), round_trip.parse().unwrap());
    let (far, _link, uplink) = over_a_link(speed, round_trip, &stop).await;
    let (mut feeding, outbox) = Feeding::new();
    // The size of a campaign's backlog can be given; what the test needs is that it does not end first.
    let ticks: Option<u64> =
        std::env::var("FOREBAY_BACKLOG_TICKS").ok().and_then(|n| n.parse().ok());
    for tick in 0..ticks.unwrap_or(60) {
        feeding.put((tick * 2000..tick * 2000 + 2000).map(random_score).collect());
    }
    let terms = Terms {
        parcel_bytes: 512 << 10,
        in_flight: 8,
        retry_max: Span::millis(100),
        drain_for: Span::ZERO,
        rate: None,
        gather: Span::ZERO,
        fresh: 0.5,
        budget: BudgetConfig::default(),
    };
    let all = feeding.ids.len() as u64;
    let running = Running::start_on(uplink, outbox, &feeding, terms);
    until("the link is known", || running.counts.parcels.load(Relaxed) > 20).await;
    let mut alarms = far.alarms.subscribe();
    let mut delays = Vec::new();
    let (begun, sent, drained) =
        (monotonic(), running.counts.wire.load(Relaxed), running.counts.bytes.load(Relaxed));
    for n in 1.. {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(50..300))).await;
        let (started, before) = (monotonic(), far.parcels.load(Relaxed));
        feeding.put(vec![alarm(n)]);
        alarms.wait_for(|alarms| *alarms == n).await.unwrap();
        delays.push(started.elapsed());
        // What was on its way, what was picked just then, and its own.
        let parcels = far.parcels.load(Relaxed) - before;
        assert!(parcels <= 10, "{parcels} parcels first");
        let left = all + n - running.left();
        if if ticks.is_some() { left < 4000 } else { n == ALARMS } {
            assert!(left > 0, "the backlog should not have ended");
            break;
        }
    }
    delays.sort();
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize];
    let wire = running.counts.wire.load(Relaxed) - sent;
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{} alarms on {speed} B/s, {round_trip} ms: median {:?}, p99 {:?}, longest {:?}; in {seconds:.0} s {} MB of lines in {} MB on the wire, {:.0} % of the link; {} of {all} records left",
        delays.len(),
        at(0.5),
        at(0.99),
        at(1.0),
        (running.counts.bytes.load(Relaxed) - drained) / 1_000_000,
        wire / 1_000_000,
        wire as f64 / seconds / speed as f64 * 100.0,
        all + delays.len() as u64 - running.left(),
    );
    running.end().await;
}
