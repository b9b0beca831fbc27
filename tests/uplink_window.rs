//! Several parcels on the way at once: a link with a long round trip is used, and nothing that holds for one is lost.
//!
//! `FOREBAY_MEASURE=1 cargo test --test uplink_window -- --nocapture` prints how much of several links is used.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

mod edge;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use edge::feeding::{Feeding, Running};
use edge::records::score;
use forebay::config::{BudgetConfig, HttpConfig};
use forebay::demo::link::{Link, LinkOptions, Weather};
use forebay::record::{Outgoing, Record};
use forebay::time::{Span, monotonic};
use forebay::uplink::{HttpUplink, Terms};
use tokio_util::sync::CancellationToken;

/// A far side that takes everything and looks at nothing: what is measured is the way there.
#[derive(Default)]
struct Sink {
    parcels: AtomicU64,
    bytes: AtomicU64,
}

async fn sink() -> (std::net::SocketAddr, Arc<Sink>) {
    let sink = Arc::new(Sink::default());
    let take = async |State(sink): State<Arc<Sink>>, body: Bytes| {
        sink.parcels.fetch_add(1, Relaxed);
        sink.bytes.fetch_add(body.len() as u64, Relaxed);
        StatusCode::NO_CONTENT
    };
    let app = Router::new().route("/in", post(take)).with_state(Arc::clone(&sink));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (addr, sink)
}

fn random_score(n: u64) -> Outgoing {
    let mut outgoing = score(n);
    if let Record::Score(score) = &mut outgoing.record {
        score.features.values_mut().for_each(|value| *value = Some(fastrand::f64()));
    }
    outgoing
}

#[derive(Clone, Copy)]
struct Case {
    round_trip: Duration,
    bytes_per_s: u64,
    measure: Duration,
}

/// Drains a backlog over a link and says which share of it was used, once it was known.
async fn share(case: Case) -> f64 {
    let stop = CancellationToken::new();
    let (addr, sink) = sink().await;
    let link = Link::start(LinkOptions::to(addr), stop.clone()).await.unwrap();
    let weather = Weather {
        latency: case.round_trip / 2,
        bytes_per_s: Some(case.bytes_per_s),
        ..Weather::default()
    };
    link.set_weather(weather);
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
    let warm = Duration::from_secs(12).max(case.round_trip * 25);
    let wire = case.bytes_per_s as f64 * (warm + case.measure).as_secs_f64();
    // A record is about 150 bytes on the wire.
    let records = (wire / 130.0) as u64;
    for tick in 0..=records / 2000 {
        feeding.put((tick * 2000..tick * 2000 + 2000).map(random_score).collect());
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
    tokio::time::sleep(warm).await;
    let (before, parcels, from) =
        (sink.bytes.load(Relaxed), sink.parcels.load(Relaxed), monotonic());
    tokio::time::sleep(case.measure).await;
    let sent = sink.bytes.load(Relaxed) - before;
    let parcels = sink.parcels.load(Relaxed) - parcels;
    let share = sent as f64 / from.elapsed().as_secs_f64() / case.bytes_per_s as f64;
    let left = feeding.ids.len() as u64 - running.left();
    println!(
        "{:?}, {} kB/s: {:.0} % used, {} bytes a parcel, {} B a record; {left} left",
        case.round_trip,
        case.bytes_per_s / 1000,
        share * 100.0,
        sent / parcels.max(1),
        running.counts.wire.load(Relaxed) / running.left().max(1),
    );
    stop.cancel();
    running.abort();
    share
}

#[tokio::test(flavor = "multi_thread")]
async fn measured() {
    if std::env::var_os("FOREBAY_MEASURE").is_none() {
        return;
    }
    for (round_trip, kb, seconds) in [(600, 1000, 20), (200, 200, 20), (50, 10_000, 4)] {
        share(Case {
            round_trip: Duration::from_millis(round_trip),
            bytes_per_s: kb * 1000,
            measure: Duration::from_secs(seconds),
        })
        .await;
    }
}
