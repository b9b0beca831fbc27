//! Several parcels on the way at once: a link with a long round trip is used, and nothing that holds for one is lost.
//!
//! `FOREBAY_MEASURE=1 cargo test --test uplink_window -- --nocapture` prints how much of several links is used.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

mod edge;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use edge::feeding::{Feeding, Running};
use edge::records::{alarm, random_score, score};
use edge::until;
use forebay::config::{BudgetConfig, HttpConfig};
use forebay::demo::link::{Link, LinkOptions, Weather};
use forebay::link::LinkStatus;
use forebay::record::Lane;
use forebay::time::{Span, monotonic};
use forebay::uplink::{HttpUplink, Terms, wire};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What the far side does with a parcel.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Manner {
    /// Answers after a while, as at the end of a long link.
    Slow,
    /// Takes parcels of scores, and answers when it is told to do something else.
    HoldsScores,
    /// The same, but only with this record in it.
    Holds(&'static str),
    /// Answers 503, after a while.
    Fails,
}

/// A far side that notes what comes, and how many wait for their answer.
struct Far {
    manner: watch::Sender<Manner>,
    /// Keys and ids of the records, as they came.
    came: Mutex<Vec<(String, Vec<String>)>>,
    /// Those that were answered with 200.
    taken: Mutex<BTreeMap<String, Vec<String>>>,
    poison: Mutex<BTreeSet<String>>,
    waiting: AtomicUsize,
    /// Of these, parcels of scores.
    scores: AtomicUsize,
    most: AtomicUsize,
}

impl Far {
    async fn start() -> (SocketAddr, Arc<Far>) {
        let far = Arc::new(Far {
            manner: watch::channel(Manner::Slow).0,
            came: Mutex::default(),
            taken: Mutex::default(),
            poison: Mutex::default(),
            waiting: AtomicUsize::new(0),
            scores: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        });
        let app = Router::new().route("/in", post(take)).with_state(Arc::clone(&far));
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        (addr, far)
    }

    /// How often each record was taken, by the key of its parcel.
    fn effects(&self) -> BTreeMap<String, usize> {
        let mut effects = BTreeMap::new();
        for id in self.taken.lock().unwrap().values().flatten() {
            *effects.entry(id.clone()).or_default() += 1;
        }
        effects
    }

    /// All of these, each once.
    fn assert_once(&self, ids: &BTreeSet<String>) {
        let effects = self.effects();
        assert_eq!(&effects.keys().cloned().collect::<BTreeSet<_>>(), ids);
        assert!(effects.values().all(|times| *times == 1), "a record under two keys");
    }

    fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }
}

async fn take(State(far): State<Arc<Far>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let key = headers["idempotency-key"].to_str().unwrap().to_owned();
    let lines = wire::unpack(&body).unwrap();
    let ids: Vec<String> =
        wire::records(&lines).unwrap().iter().map(|(record, _)| record.id().to_owned()).collect();
    far.came.lock().unwrap().push((key.clone(), ids.clone()));
    let most = far.waiting.fetch_add(1, Relaxed) + 1;
    far.most.fetch_max(most, Relaxed);
    let scores = usize::from(key.starts_with("score"));
    far.scores.fetch_add(scores, Relaxed);
    let mut manner = far.manner.subscribe();
    let is_held = |manner: &Manner| match manner {
        Manner::HoldsScores => key.starts_with("score"),
        Manner::Holds(id) => ids.iter().any(|each| each == id),
        Manner::Slow | Manner::Fails => false,
    };
    let now = *manner.wait_for(|manner| !is_held(manner)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(60)).await;
    far.scores.fetch_sub(scores, Relaxed);
    far.waiting.fetch_sub(1, Relaxed);
    if far.poison.lock().unwrap().iter().any(|id| ids.contains(id)) {
        return StatusCode::UNPROCESSABLE_ENTITY;
    }
    if now == Manner::Fails {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    far.taken.lock().unwrap().insert(key, ids);
    StatusCode::OK
}

fn http(addr: SocketAddr, in_flight: usize) -> HttpUplink {
    let usual = HttpConfig::to(format!("http://{addr}/in"));
    HttpUplink::new(&HttpConfig { in_flight, ..usual }).unwrap()
}

/// Parcels small enough that a backlog takes many.
fn terms(in_flight: usize) -> Terms {
    Terms {
        parcel_bytes: 16 << 10,
        in_flight,
        retry_max: Span::millis(100),
        drain_for: Span::seconds(30),
        rate: None,
        gather: Span::ZERO,
        fresh: 0.5,
        budget: BudgetConfig::default(),
    }
}

fn put_scores(feeding: &mut Feeding, from: u64, to: u64) {
    for first in (from..to).step_by(500) {
        feeding.put((first..to.min(first + 500)).map(score).collect());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_link_has_several_parcels_on_it_or_one_where_that_is_asked_for() {
    for in_flight in [8, 1] {
        let (addr, far) = Far::start().await;
        let (mut feeding, outbox) = Feeding::new();
        put_scores(&mut feeding, 0, 3000);
        // With one place, alarms have none of their own.
        if in_flight == 1 {
            feeding.put((0..5).map(alarm).collect());
        }
        let all = feeding.ids.len() as u64;
        let running = Running::start_on(http(addr, in_flight), outbox, &feeding, terms(in_flight));
        until("all is there", || running.left() == all).await;
        let most = far.most.load(Relaxed);
        assert!(if in_flight == 1 { most == 1 } else { (2..=8).contains(&most) }, "{most}");
        far.assert_once(&feeding.ids);
        running.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_finds_a_place_where_all_others_wait() {
    let (addr, far) = Far::start().await;
    let (mut feeding, outbox) = Feeding::new();
    put_scores(&mut feeding, 0, 6000);
    let running = Running::start_on(http(addr, 4), outbox, &feeding, terms(4));
    far.manner.send_replace(Manner::Slow);
    until("there are several", || far.waiting() > 1).await;
    far.manner.send_replace(Manner::HoldsScores);
    // With a backlog, whatever place there is for it is taken.
    until("several wait", || far.waiting() > 1).await;
    for n in 0..3 {
        feeding.put(vec![alarm(n)]);
        until("the alarm is there", || far.effects().contains_key(&format!("alarm-{n}"))).await;
    }
    assert!(far.waiting() > 1, "the others wait");
    far.manner.send_replace(Manner::Slow);
    until("all is there", || running.left() == 6003).await;
    far.assert_once(&feeding.ids);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn alarms_that_never_cease_do_not_keep_the_others_to_one() {
    let (addr, far) = Far::start().await;
    let (mut feeding, outbox) = Feeding::new();
    put_scores(&mut feeding, 0, 20_000);
    let running = Running::start_on(http(addr, 8), outbox, &feeding, terms(8));
    // From the first parcel on there is always one on the way.
    let mut alarms = 0;
    until("there are several others", || {
        if far.waiting() < far.scores.load(Relaxed) + 3 {
            feeding.put(vec![alarm(alarms)]);
            alarms += 1;
        }
        far.scores.load(Relaxed) > 1
    })
    .await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parcels_come_back_in_any_order_and_a_kill_repeats_what_has_not() {
    let (addr, far) = Far::start().await;
    let (mut feeding, outbox) = Feeding::new();
    put_scores(&mut feeding, 0, 3000);
    far.manner.send_replace(Manner::Holds("score-1000"));
    let running = Running::start_on(http(addr, 8), outbox, &feeding, terms(8));
    // What comes after the one that is held is acknowledged and settled.
    until("most of the rest is there", || running.left() > 2500 && far.waiting() == 1).await;
    let outbox = feeding.restart_after_kill(running).await;
    let queued = feeding.meter.read().lane(Lane::Score).queued;
    assert!((1..500).contains(&queued), "{queued} are left");
    far.manner.send_replace(Manner::Slow);
    let running = Running::start_on(http(addr, 8), outbox, &feeding, terms(8));
    until("what was left is there", || running.left() == queued).await;
    assert_eq!(far.effects().keys().cloned().collect::<BTreeSet<_>>(), feeding.ids);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_of_several_is_one_outage_and_each_goes_again_as_it_was() {
    let (addr, far) = Far::start().await;
    let (mut feeding, outbox) = Feeding::new();
    put_scores(&mut feeding, 0, 3000);
    let running = Running::start_on(http(addr, 8), outbox, &feeding, terms(8));
    until("there are several", || far.waiting() > 2).await;
    far.manner.send_replace(Manner::Fails);
    until("it is down", || running.status.borrow().error().is_some()).await;
    until("all have failed", || running.counts.failures.load(Relaxed) > 2).await;
    // Those that set out before the link was known to be down are no tries of their own.
    let status = running.status.borrow().clone();
    let (LinkStatus::Down { retries, .. } | LinkStatus::Probing { retries, .. }) = status else {
        panic!("{status:?}")
    };
    let failures = running.counts.failures.load(Relaxed);
    assert!(failures >= retries + 3, "{failures} failures, {retries} retries");
    let before = far.came.lock().unwrap().len();
    far.manner.send_replace(Manner::Slow);
    until("all is there", || running.left() == 3000).await;
    assert_eq!(running.counts.outages.load(Relaxed), 1);
    far.assert_once(&feeding.ids);
    // Each key stands for the same records, however often it came.
    let came = far.came.lock().unwrap().clone();
    let mut by_key: BTreeMap<&String, &Vec<String>> = BTreeMap::new();
    for (key, ids) in &came {
        assert_eq!(*by_key.entry(key).or_insert(ids), ids);
    }
    let again = came[before..].iter().filter(|(key, _)| came[..before].iter().any(|b| b.0 == *key));
    assert!(again.count() > 1, "what had failed comes again under its key");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_record_is_found_among_several_parcels() {
    let (addr, far) = Far::start().await;
    let (mut feeding, outbox) = Feeding::new();
    put_scores(&mut feeding, 0, 3000);
    let poison: BTreeSet<String> =
        ["score-700", "score-701", "score-1200", "score-2999"].map(String::from).into();
    far.poison.lock().unwrap().clone_from(&poison);
    let running = Running::start_on(http(addr, 8), outbox, &feeding, terms(8));
    until("all have left", || running.left() == 3000).await;
    assert_eq!(running.counts.refused.load(Relaxed), 4);
    assert!(far.most.load(Relaxed) > 1);
    far.assert_once(&(&feeding.ids - &poison));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fill_a_parcel_waits_for_the_one_before_it() {
    let (addr, far) = Far::start().await;
    let (mut feeding, outbox) = Feeding::new();
    put_scores(&mut feeding, 0, 3000);
    let running = Running::start_on(http(addr, 8), outbox, &feeding, terms(8));
    until("the link is known", || running.left() == 3000).await;
    assert!(far.most.load(Relaxed) > 1);
    far.manner.send_replace(Manner::HoldsScores);
    let before = far.came.lock().unwrap().len();
    feeding.put(vec![score(3000)]);
    until("the first is on its way", || far.waiting() == 1).await;
    for n in 3001..3006 {
        feeding.put(vec![score(n)]);
    }
    // It is looked for places when this comes, too, and there are.
    feeding.put(vec![alarm(1)]);
    until("the alarm is there", || far.effects().contains_key("alarm-1")).await;
    far.manner.send_replace(Manner::Slow);
    until("all is there", || running.left() == 3007).await;
    let came = far.came.lock().unwrap().len() - before;
    assert_eq!(came, 3, "one record, the alarm, and all that came meanwhile");
    running.end().await;
}

/// A far side that takes everything and looks at nothing: what is measured is the way there.
#[derive(Default)]
struct Sink {
    parcels: AtomicU64,
    bytes: AtomicU64,
}

async fn sink() -> (SocketAddr, Arc<Sink>) {
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

#[derive(Clone, Copy)]
struct Case {
    round_trip: Duration,
    bytes_per_s: u64,
    in_flight: usize,
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
    let uplink = http(link.addr(), case.in_flight);
    let (mut feeding, outbox) = Feeding::new();
    let warm = Duration::from_secs(10);
    let wire = case.bytes_per_s as f64 * (warm + case.measure).as_secs_f64();
    // A record is about 95 bytes on the wire.
    let records = (wire / 85.0) as u64;
    for tick in 0..=records / 2000 {
        feeding.put((tick * 2000..tick * 2000 + 2000).map(random_score).collect());
    }
    let terms = Terms { parcel_bytes: 512 << 10, ..terms(case.in_flight) };
    let running = Running::start_on(uplink, outbox, &feeding, terms);
    tokio::time::sleep(warm).await;
    let (before, parcels, from) =
        (sink.bytes.load(Relaxed), sink.parcels.load(Relaxed), monotonic());
    tokio::time::sleep(case.measure).await;
    let sent = sink.bytes.load(Relaxed) - before;
    let parcels = sink.parcels.load(Relaxed) - parcels;
    let share = sent as f64 / from.elapsed().as_secs_f64() / case.bytes_per_s as f64;
    let left = feeding.ids.len() as u64 - running.left();
    println!(
        "{:?}, {} kB/s, {} on the way at most: {:.0} % used, {} bytes a parcel, {} B a record; {left} left",
        case.round_trip,
        case.bytes_per_s / 1000,
        case.in_flight,
        share * 100.0,
        sent / parcels.max(1),
        running.counts.wire.load(Relaxed) / running.left().max(1),
    );
    stop.cancel();
    running.abort();
    share
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_of_links_are_measured() {
    if std::env::var_os("FOREBAY_MEASURE").is_none() {
        return;
    }
    for (round_trip, kb, seconds) in [(600, 1000, 20), (200, 200, 20), (50, 10_000, 3)] {
        for in_flight in [1, 8] {
            share(Case {
                round_trip: Duration::from_millis(round_trip),
                bytes_per_s: kb * 1000,
                in_flight,
                measure: Duration::from_secs(seconds),
            })
            .await;
        }
    }
}
