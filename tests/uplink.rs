//! The uplink over links that fail in every way: each record has its effect on the far side exactly once.
//!
//! The far side here does what a good one does: it knows a parcel by its idempotency key and a record by its id.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

mod edge;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use edge::feeding::{DRAIN_FOR, Feeding, Running};
use edge::records::{alarm, score};
use edge::{Mosquitto, PATIENCE, Proxy, free_port, subscribe, unique, until};
use forebay::command::quarantine::{Ask, Held};
use forebay::config::{HttpConfig, MqttConfig, MqttVersion, Secret, UplinkMqttConfig};
use forebay::demo::broker::Broker;
use forebay::record::{Lane, Record};
use forebay::time::{Span, monotonic};
use forebay::uplink::{HttpUplink, MqttUplink};

/// What the far side does with the next request.
#[derive(Clone, Copy, Debug)]
enum Answer {
    Status(u16),
    /// Takes it, but the answer never arrives.
    TakesAndHangsUp,
    RetryAfter(u64),
}

#[derive(Default)]
struct FarSide {
    script: Mutex<VecDeque<Answer>>,
    keys: Mutex<BTreeSet<String>>,
    /// Effects of each record id.
    effects: Mutex<BTreeMap<String, u32>>,
    order: Mutex<Vec<String>>,
    requests: Mutex<Vec<(Instant, String)>>,
    poison: Mutex<BTreeSet<String>>,
}

impl FarSide {
    fn take(&self, key: &str, lines: &[u8]) {
        if !self.keys.lock().unwrap().insert(key.to_owned()) {
            return;
        }
        let mut effects = self.effects.lock().unwrap();
        for line in lines.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
            let record: Record = serde_json::from_slice(line).unwrap();
            let count = effects.entry(record.id().to_owned()).or_default();
            *count += 1;
            self.order.lock().unwrap().push(record.id().to_owned());
        }
    }

    fn known(&self) -> BTreeSet<String> {
        self.effects.lock().unwrap().keys().cloned().collect()
    }

    fn is_exactly_once(&self) -> bool {
        self.effects.lock().unwrap().values().all(|&count| count == 1)
    }
}

async fn receive(State(far): State<Arc<FarSide>>, headers: HeaderMap, body: Bytes) -> Response {
    let header = |name: &str| headers.get(name).unwrap().to_str().unwrap().to_owned();
    assert_eq!(header("content-encoding"), "zstd");
    assert_eq!(header("content-type"), "application/x-ndjson");
    assert_eq!(header("x-site"), "north");
    if header("authorization") != "Bearer t0ken" {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let key = header("idempotency-key");
    far.requests.lock().unwrap().push((monotonic(), key.clone()));
    let lines = zstd::decode_all(&body[..]).unwrap();
    let text = String::from_utf8(lines.clone()).unwrap();
    let poison = far.poison.lock().unwrap().clone();
    if poison.iter().any(|id| text.contains(&format!("\"{id}\""))) {
        return (StatusCode::UNPROCESSABLE_ENTITY, "bad record\nin this parcel").into_response();
    }
    let answer = far.script.lock().unwrap().pop_front().unwrap_or(Answer::Status(200));
    match answer {
        Answer::Status(status) if (200..300).contains(&status) => {
            far.take(&key, &lines);
            StatusCode::from_u16(status).unwrap().into_response()
        }
        Answer::Status(302) => (StatusCode::FOUND, [("location", "/login")]).into_response(),
        Answer::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Answer::RetryAfter(seconds) => {
            (StatusCode::TOO_MANY_REQUESTS, [("retry-after", seconds.to_string())]).into_response()
        }
        Answer::TakesAndHangsUp => {
            far.take(&key, &lines);
            std::future::pending().await
        }
    }
}

async fn serve(port: u16, far: &Arc<FarSide>) -> tokio::task::JoinHandle<()> {
    let app = Router::new()
        .route("/in", post(receive))
        .route("/login", axum::routing::any(|| async { "please log in" }))
        .with_state(Arc::clone(far));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() })
}

fn http(port: u16, token: &std::path::Path) -> HttpUplink {
    HttpUplink::new(&HttpConfig {
        token: Some(Secret::File(token.to_owned())),
        headers: BTreeMap::from([("x-site".into(), "north".into())]),
        timeout: Span::millis(700),
        ..HttpConfig::to(format!("http://127.0.0.1:{port}/in"))
    })
    .unwrap()
}

fn token() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "t0ken\n").unwrap();
    (dir, path)
}

#[tokio::test(flavor = "multi_thread")]
async fn http_delivers_each_record_once_whatever_the_far_side_answers() {
    let (_dir, token) = token();
    let far = Arc::new(FarSide::default());
    let port = free_port();
    let server = serve(port, &far).await;
    far.script.lock().unwrap().extend([
        Answer::Status(503),
        Answer::Status(200),
        Answer::TakesAndHangsUp,
        Answer::Status(500),
        Answer::Status(302),
        Answer::Status(404),
        Answer::Status(408),
        Answer::Status(202),
        Answer::TakesAndHangsUp,
        Answer::Status(204),
    ]);
    let (mut feeding, outbox) = Feeding::new();
    for tick in 0..20 {
        feeding.put((tick * 10..tick * 10 + 10).map(score).collect());
    }
    let running = Running::start(http(port, &token), outbox, &feeding, 4096);
    until("all are delivered", || running.left() == 200).await;
    assert_eq!(far.known(), feeding.ids);
    assert!(far.is_exactly_once(), "a parcel whose answer was lost goes out again under its key");
    assert_eq!(running.counts.refused.load(Relaxed), 0);
    assert!(running.counts.failures.load(Relaxed) >= 7);
    assert!(running.counts.outages.load(Relaxed) >= 3);
    assert!(running.status.borrow().is_ready());
    running.end().await;
    server.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parcel_whose_fate_is_unknown_goes_out_again_as_it_was() {
    let (_dir, token) = token();
    let far = Arc::new(FarSide::default());
    let port = free_port();
    let server = serve(port, &far).await;
    far.script.lock().unwrap().extend([Answer::TakesAndHangsUp, Answer::Status(503)]);
    let (mut feeding, outbox) = Feeding::new();
    feeding.put((0..3).map(score).collect());
    let running = Running::start(http(port, &token), outbox, &feeding, 64 * 1024);
    until("the far side has taken it", || far.known().len() == 3).await;
    // There is room for more in the parcel, but with them it would be another, and its records would count twice.
    feeding.put((3..6).map(score).collect());
    until("all are delivered", || running.left() == 6).await;
    assert_eq!(far.known(), feeding.ids);
    assert!(far.is_exactly_once());
    running.end().await;
    server.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn http_waits_as_long_as_the_far_side_asks() {
    let (_dir, token) = token();
    let far = Arc::new(FarSide::default());
    let port = free_port();
    let server = serve(port, &far).await;
    far.script.lock().unwrap().push_back(Answer::RetryAfter(2));
    let (mut feeding, outbox) = Feeding::new();
    feeding.put(vec![score(1)]);
    let running = Running::start(http(port, &token), outbox, &feeding, 4096);
    until("it is told to wait", || running.status.borrow().error().is_some()).await;
    assert!(running.status.borrow().error().unwrap().contains("429"));
    until("it is delivered", || running.left() == 1).await;
    let requests = far.requests.lock().unwrap().clone();
    assert_eq!(requests.len(), 2);
    assert!(requests[1].0.duration_since(requests[0].0) >= Duration::from_secs(2));
    assert_eq!(requests[0].1, requests[1].1, "the same parcel under the same key");
    running.end().await;
    server.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn http_quarantines_the_one_record_that_is_refused_and_delivers_the_rest() {
    let (_dir, token) = token();
    let far = Arc::new(FarSide::default());
    let port = free_port();
    let server = serve(port, &far).await;
    let poison: BTreeSet<String> = ["score-3", "score-17", "score-18"].map(String::from).into();
    far.poison.lock().unwrap().clone_from(&poison);
    let (mut feeding, outbox) = Feeding::new();
    feeding.put((0..40).map(score).collect());
    let meter = feeding.meter.clone();
    let running = Running::start(http(port, &token), outbox, &feeding, 64 * 1024);
    until("all have left", || running.left() == 40).await;
    assert_eq!(running.counts.refused.load(Relaxed), 3);
    assert_eq!(&far.known() | &poison, feeding.ids);
    assert!(far.is_exactly_once());
    running.end().await;
    server.abort();
    let stats = meter.read().lane(Lane::Score);
    assert_eq!((stats.queued, stats.delivered, stats.refused), (0, 37, 3), "{stats:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_is_seen_tried_again_and_dropped() {
    let (_dir, token) = token();
    let far = Arc::new(FarSide::default());
    let port = free_port();
    let server = serve(port, &far).await;
    *far.poison.lock().unwrap() = ["score-3", "score-7"].map(String::from).into();
    let (mut feeding, outbox) = Feeding::new();
    feeding.put((0..10).map(score).collect());
    let running = Running::start(http(port, &token), outbox, &feeding, 64 * 1024);
    until("all have left", || running.left() == 10).await;
    let ask = async |ask| running.desks.ask("uplink", ask).await.unwrap();
    let held = ask(Ask::List(10)).await.held;
    let id = |held: &Held| held.record.as_ref().unwrap()["id"].as_str().unwrap().to_owned();
    assert_eq!(held.iter().map(id).collect::<Vec<_>>(), ["score-7", "score-3"]);
    assert!(held[0].why.contains("422") && held[0].key.starts_with("score/"), "{held:?}");
    let (seven, three) = (held[0].number, held[1].number);
    // One of them is mended at the far side.
    far.poison.lock().unwrap().remove("score-3");
    let outcome = ask(Ask::Retry(vec![three, seven, 99])).await;
    assert_eq!(outcome.done, [three]);
    assert!(outcome.failed[&seven].contains("422") && outcome.failed[&99].contains("no such"));
    assert!(far.known().contains("score-3") && far.is_exactly_once());
    assert_eq!(ask(Ask::Drop(vec![seven, three])).await.done, [seven]);
    assert!(ask(Ask::List(10)).await.held.is_empty());
    running.end().await;
    server.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn alarms_go_first_and_overtake_a_backlog() {
    let (_dir, token) = token();
    let far = Arc::new(FarSide::default());
    let port = free_port();
    let (mut feeding, outbox) = Feeding::new();
    for tick in 0..30 {
        feeding.put((tick * 10..tick * 10 + 10).map(score).collect());
    }
    // The link is down first, with a score parcel on its way; then an alarm comes.
    let running = Running::start(http(port, &token), outbox, &feeding, 2048);
    until("it is down", || running.status.borrow().error().is_some()).await;
    feeding.put(vec![alarm(1)]);
    let server = serve(port, &far).await;
    until("all are delivered", || running.left() == 301).await;
    let place = far.order.lock().unwrap().iter().position(|id| id == "alarm-1").unwrap();
    assert!(place < 10, "the alarm came as number {place}");
    assert!(far.is_exactly_once());
    running.end().await;
    server.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_refuses_no_record_and_a_right_one_needs_no_restart() {
    let (_dir, token) = token();
    std::fs::write(&token, "wr0ng").unwrap();
    let far = Arc::new(FarSide::default());
    let port = free_port();
    let server = serve(port, &far).await;
    let (mut feeding, outbox) = Feeding::new();
    feeding.put((0..10).map(score).collect());
    let running = Running::start(http(port, &token), outbox, &feeding, 2048);
    until("it is down", || running.status.borrow().error().is_some()).await;
    let error = running.status.borrow().error().unwrap();
    assert!(error.contains("401") && error.contains("credentials"), "{error}");
    assert!(!error.contains("wr0ng"));
    std::fs::write(&token, "t0ken").unwrap();
    until("all are delivered", || running.left() == 10).await;
    assert_eq!(running.counts.refused.load(Relaxed), 0);
    running.end().await;
    server.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_sends_what_is_left_over_a_link_that_works_and_does_not_wait_for_one_that_does_not()
{
    let (_dir, token) = token();
    let far = Arc::new(FarSide::default());
    let port = free_port();
    let server = serve(port, &far).await;
    let (mut feeding, outbox) = Feeding::new();
    let running = Running::start(http(port, &token), outbox, &feeding, 2048);
    for tick in 0..20 {
        feeding.put((tick * 10..tick * 10 + 10).map(score).collect());
    }
    running.end().await;
    assert_eq!(far.known(), feeding.ids, "drained at the stop");
    server.abort();

    let (mut feeding, outbox) = Feeding::new();
    feeding.put(vec![score(1)]);
    let running = Running::start(http(free_port(), &token), outbox, &feeding, 2048);
    until("it is down", || running.status.borrow().error().is_some()).await;
    let started = monotonic();
    running.end().await;
    assert!(started.elapsed() < DRAIN_FOR.to_std() / 2, "a link that is down is waited for");
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_delivers_every_record_over_a_link_that_flaps() {
    for version in [MqttVersion::V311, MqttVersion::V5] {
        let broker = Broker::start(None).unwrap();
        let (v4, v5) = broker.ports();
        let mut received = subscribe(v4, "cloud/#").await;
        let proxy = Proxy::to(if version == MqttVersion::V5 { v5 } else { v4 }).await;
        let (mut feeding, outbox) = Feeding::new();
        let uplink = mqtt(proxy.port, version);
        let running = Running::start(uplink, outbox, &feeding, 16 * 1024);
        let mut ids = BTreeSet::new();
        let mut repeats = 0;
        for round in 0..20 {
            for tick in 0..5 {
                let first = (round * 5 + tick) * 20;
                feeding.put((first..first + 20).map(score).collect());
            }
            proxy.set_up(round % 3 != 1);
            let due = monotonic() + Duration::from_millis(40);
            while let Ok(Some((topic, line, _))) =
                tokio::time::timeout(due.saturating_duration_since(monotonic()), received.recv())
                    .await
            {
                repeats += u32::from(!check(&topic, &line, &mut ids));
            }
            proxy.cut();
        }
        proxy.set_up(true);
        until("all have left the outbox", || running.left() == 2000).await;
        while ids.len() < 2000 {
            let (topic, line, _) =
                tokio::time::timeout(PATIENCE, received.recv()).await.unwrap().unwrap();
            repeats += u32::from(!check(&topic, &line, &mut ids));
        }
        assert_eq!(ids, feeding.ids);
        println!("{version:?}: 2000 records, {repeats} repeats");
        running.end().await;
    }
}

/// Whether the record is new.
fn check(topic: &str, line: &[u8], ids: &mut BTreeSet<String>) -> bool {
    let record: Record = serde_json::from_slice(line).unwrap();
    let Record::Score(score) = &record else { panic!("{record:?}") };
    assert_eq!(topic, format!("cloud/gw/pumps/{}/score", score.asset.replace('/', "_")));
    ids.insert(score.id.clone())
}

fn mqtt(port: u16, version: MqttVersion) -> MqttUplink {
    let broker = MqttConfig {
        url: format!("mqtt://127.0.0.1:{port}"),
        version,
        client_id: Some(unique("uplink")),
        ..MqttConfig::default()
    };
    let topic = "cloud/{node}/{pipeline}/{asset}/{type}";
    MqttUplink::new(&UplinkMqttConfig::records(broker, topic), "gw").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_keeps_the_records_while_the_broker_is_away() {
    let config = "allow_anonymous true\npersistence false\nmax_queued_messages 0";
    let Some(mut broker) = Mosquitto::start(config) else { return };
    let (mut feeding, outbox) = Feeding::new();
    broker.stop();
    feeding.put((0..50).map(score).collect());
    let running = Running::start(mqtt(broker.port, MqttVersion::V5), outbox, &feeding, 4096);
    until("it is down", || running.status.borrow().error().is_some()).await;
    assert_eq!(running.left(), 0);
    broker.go();
    until("all have left the outbox", || running.left() == 50).await;
    // Idle, then away and back: the next record notices nothing.
    broker.stop();
    broker.go();
    let mut received = subscribe(broker.port, "cloud/#").await;
    feeding.put(vec![score(50)]);
    let (_, line, _) = tokio::time::timeout(PATIENCE, received.recv()).await.unwrap().unwrap();
    assert!(String::from_utf8(line).unwrap().contains("score-50"));
    running.end().await;
}

#[test]
fn wrong_settings_are_refused_before_anything_is_sent() {
    let good = HttpConfig::to("https://example.org/in");
    let header = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
    let wrong = [
        (HttpConfig { url: "example.org/in".into(), ..good.clone() }, "http://"),
        (HttpConfig { url: "ftp://example.org".into(), ..good.clone() }, "http://"),
        (HttpConfig { url: "https://u:p4ss@example.org".into(), ..good.clone() }, "token"),
        (
            HttpConfig { token: Some(Secret::Env("NOT_SET_AT_ALL".into())), ..good.clone() },
            "NOT_SET_AT_ALL",
        ),
        (HttpConfig { headers: header("a b", "c"), ..good.clone() }, "a b"),
        (HttpConfig { headers: header("x-key", "s3cret\n"), ..good.clone() }, "x-key"),
        (HttpConfig { ca: Some("/no/such/ca.pem".into()), ..good }, "/no/such/ca.pem"),
    ];
    for (config, named) in wrong {
        let error = HttpUplink::new(&config).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
        assert!(!error.contains("s3cret") && !error.contains("p4ss"), "{error}");
    }
    let topic = "cloud/{asset}/{sensor}";
    let config = UplinkMqttConfig::records(MqttConfig::default(), topic);
    assert!(MqttUplink::new(&config, "gw").unwrap_err().to_string().contains("{sensor}"));
}
