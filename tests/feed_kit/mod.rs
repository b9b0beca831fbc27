//! A site with dashboards and no engine: the feed's server on a real port, and a plant's records made up from a seed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(unreachable_pub, reason = "a module of two test binaries")]
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod works;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use forebay::feed::command::{self, Orders};
use forebay::feed::{Hub, HubHandle, LinkView, NodeStatus, PipelineView, http};
use forebay::metrics::{LaneCounts, Metrics, PipelineCounts};
use forebay::record::AlarmState::{Normal, Returned, Unacknowledged};
use forebay::record::{
    AlarmRecord, AlarmState, Contribution, Lane, ModelRef, Record, ScoreRecord, Severity,
};
use forebay::time::{self, Span, Timestamp};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// No test waits longer for anything.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The feed, served.
pub struct Site {
    pub address: SocketAddr,
    pub hub: Hub,
    pub handle: HubHandle,
    pub status: watch::Sender<NodeStatus>,
    pub metrics: Arc<Metrics>,
    pub stop: CancellationToken,
    /// What operators asked for, until somebody takes it to answer.
    pub orders: Option<Orders>,
    /// Rings when a command has come.
    pub bell: Arc<tokio::sync::Notify>,
    pub served: Option<tokio::task::JoinHandle<std::io::Result<()>>>,
    pub runtime: tokio::runtime::Runtime,
    published: u64,
}

/// An HTTP answer.
pub struct Reply {
    pub code: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Reply {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

impl Site {
    pub fn start(status: NodeStatus) -> Site {
        Site::start_at("127.0.0.1:0", status)
    }

    pub fn start_at(address: &str, status: NodeStatus) -> Site {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (hub, handle, keeper) = Hub::new(720);
        runtime.spawn(keeper.run());
        let listener = runtime.block_on(tokio::net::TcpListener::bind(address)).unwrap();
        let address = listener.local_addr().unwrap();
        let (status, seen) = watch::channel(status);
        let metrics = Arc::new(Metrics::new("0.1.0", "tract"));
        let stop = CancellationToken::new();
        let bell = Arc::new(tokio::sync::Notify::new());
        let rung = Arc::clone(&bell);
        let (operators, orders) =
            command::open(move || rung.notify_one(), &["gateway.plant".to_owned()]);
        let operators = status.borrow().commands.then_some(operators);
        let served = runtime.spawn(http::serve(
            listener,
            hub.clone(),
            Arc::clone(&metrics),
            seen,
            http::Doors { operators, ..http::Doors::default() },
            stop.clone(),
        ));
        let (served, orders) = (Some(served), Some(orders));
        Site {
            address,
            hub,
            handle,
            status,
            metrics,
            stop,
            orders,
            bell,
            served,
            runtime,
            published: 0,
        }
    }

    /// Publishes, and waits until the hub has it.
    pub fn publish(&mut self, records: Vec<Record>) {
        self.published += records.len() as u64;
        self.handle.publish(records);
        let (hub, wanted) = (self.hub.clone(), self.published);
        self.until("the hub takes what was published", || hub.seq() >= wanted);
    }

    /// Polls `done` until it holds.
    pub fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let start = time::monotonic();
        while !done() {
            assert!(start.elapsed() < DEADLINE, "waited too long until {what}");
            self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(2)).await });
        }
    }

    pub fn request(&self, method: &str, path: &str) -> Reply {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(DEADLINE))
            .build()
            .into();
        let url = format!("http://{}{path}", self.address);
        let request = ureq::http::Request::builder().method(method).uri(url).body(()).unwrap();
        let mut answer = agent.run(request).unwrap();
        let text = |v: &ureq::http::HeaderValue| v.to_str().unwrap().to_owned();
        Reply {
            code: answer.status().as_u16(),
            headers: answer.headers().iter().map(|(k, v)| (k.to_string(), text(v))).collect(),
            body: answer.body_mut().with_config().limit(64 << 20).read_to_string().unwrap(),
        }
    }

    pub fn get(&self, path: &str) -> Reply {
        self.request("GET", path)
    }

    /// Stops serving; another may then have the port.
    pub fn end(mut self) {
        self.stop.cancel();
        let served = self.served.take().unwrap();
        let ended = self.runtime.block_on(async { tokio::time::timeout(DEADLINE, served).await });
        ended.expect("the server stops").unwrap().unwrap();
        self.runtime.shutdown_timeout(Duration::from_secs(1));
    }
}

/// Posts JSON, byte by byte as these headers say; a header given here takes the place of the usual one.
pub fn post(address: SocketAddr, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let (host, length) = (address.to_string(), body.len().to_string());
    let mut all = BTreeMap::from([
        ("host", host.as_str()),
        ("content-type", "application/json"),
        ("content-length", length.as_str()),
        ("connection", "close"),
    ]);
    all.extend(headers.iter().copied());
    let head: Vec<String> = all.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let head = head.join("\r\n");
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(stream, "POST {path} HTTP/1.1\r\n{head}\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
    let mut lines = head.lines();
    let code = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let fields = lines.filter_map(|line| line.split_once(": "));
    let headers = fields.map(|(k, v)| (k.to_lowercase(), v.to_owned())).collect();
    Reply { code, headers, body: body.to_owned() }
}

/// A node with everything up.
pub fn status() -> NodeStatus {
    let now = time::now();
    let link = |target: &str| LinkView {
        target: target.into(),
        up: true,
        since: now,
        detail: String::new(),
    };
    let mut account = PipelineCounts { received: 1_250_340, used: 1_248_011, ..Default::default() };
    account.rejected.insert("spike", 17);
    NodeStatus {
        node: "gateway-3".into(),
        version: "0.1.0".into(),
        started: now,
        runtime: "onnxruntime 1.24.1".into(),
        ingest: link("mqtt://10.0.4.2:1883"),
        uplink: Some(link("https://history.example/ingest")),
        lanes: [
            (Lane::Alarm, LaneCounts { records: 9, delivered: 9, ..Default::default() }),
            (
                Lane::Score,
                LaneCounts {
                    records: 9128,
                    delivered: 9100,
                    waiting: 28,
                    waiting_bytes: 41_000,
                    ..Default::default()
                },
            ),
        ]
        .into(),
        outages: 2,
        pipelines: vec![PipelineView {
            name: "pump-health".into(),
            description: Some("condition of the pumps in hall 3".into()),
            schema: "pump".into(),
            topics: vec!["plant/{site}/pump/{asset}/telemetry".into()],
            stages: vec!["clean".into(), "window 60s".into(), "score anomaly".into()],
            account,
        }],
        commands: true,
        beats: 1,
        ..Default::default()
    }
}

const SIGNALS: [&str; 8] = [
    "vibration_rms",
    "bearing_temp",
    "suction_pressure",
    "discharge_pressure",
    "flow",
    "motor_current",
    "speed",
    "oil_temp",
];

/// Repeatable noise in -1..1.
fn noise(seed: u64) -> f64 {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x ^= x >> 29;
    x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x ^= x >> 32;
    (x >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
}

/// Window number `n` (10 s each) before `end` of an asset; `fault` grows the scores.
pub fn score(asset: &str, end: Timestamp, seed: u64, fault: f64) -> ScoreRecord {
    let load = (end.0 as f64 / 1e6 / 900.0).sin();
    let mut features = BTreeMap::new();
    for (s, signal) in SIGNALS.iter().enumerate() {
        let base = 2.0 + 7.0 * s as f64 + load + 0.2 * noise(seed + s as u64) + fault;
        for (k, feature) in ["mean", "std", "rms", "crest", "kurtosis", "p95"].iter().enumerate() {
            let value = base / (1.0 + k as f64);
            features.insert(format!("{signal}.{feature}"), Some(value));
        }
    }
    let anomaly = 0.28 + 0.06 * load + 0.05 * noise(seed) + fault;
    let risk = (0.05 + 0.01 * noise(seed + 99) + 0.6 * fault).clamp(0.0, 1.0);
    let reference = |output: &str, threshold: f64| ModelRef {
        output: output.into(),
        model: format!("pump-{output}"),
        model_version: "9f2c41d0a7be".into(),
        threshold: Some(threshold),
    };
    ScoreRecord {
        id: format!("{asset}-{}", end.0),
        node: "gateway-3".into(),
        pipeline: "pump-health".into(),
        asset: asset.into(),
        tags: [("site".to_owned(), "hall-3".to_owned())].into(),
        window_start: end.minus(Span::seconds(60)),
        window_end: end,
        features,
        scores: [("anomaly".to_owned(), Some(anomaly)), ("failure_risk".to_owned(), Some(risk))]
            .into(),
        threshold: Some(0.9),
        coverage: 0.97,
        model: Some("pump-anomaly".into()),
        model_version: Some("9f2c41d0a7be".into()),
        models: vec![reference("anomaly", 0.9), reference("failure_risk", 0.5)],
        contributions: [
            "vibration_rms.kurtosis",
            "vibration_rms.rms",
            "bearing_temp.mean",
            "flow.std",
        ]
        .iter()
        .enumerate()
        .map(|(n, name)| Contribution { name: (*name).into(), value: 3.1 / (1.0 + n as f64) })
        .collect(),
    }
}

/// A change of an alarm.
pub fn alarm(
    asset: &str,
    name: &str,
    state: AlarmState,
    severity: Severity,
    at: Timestamp,
) -> Record {
    Record::Alarm(AlarmRecord {
        id: format!("{asset}-{name}-{}", at.0),
        node: "gateway-3".into(),
        pipeline: "pump-health".into(),
        asset: asset.into(),
        tags: BTreeMap::new(),
        name: name.into(),
        state,
        severity,
        at,
        on: "anomaly".into(),
        value: Some(1.234),
        limit: 0.9,
        by: None,
        reason: None,
        until: None,
        contributions: Vec::new(),
    })
}

/// An hour and a half of twelve pumps, of which some have faults; ends now.
pub fn plant(site: &mut Site) {
    let now = time::now();
    for pump in 1..=12_u64 {
        let asset = format!("pump-{pump:02}");
        let mut records = Vec::new();
        for n in 0..540_u64 {
            let end = now.minus(Span::seconds(10 * (539 - n as i64)));
            let fault = match (pump, n) {
                (4, 400..) => (n - 400) as f64 * 0.009,
                (7, 200..260) => 0.9,
                (9, 520..) => 0.72,
                _ => 0.0,
            };
            if pump == 6 && (300..360).contains(&n) {
                continue;
            }
            let mut one = score(&asset, end, pump * 10_000 + n, fault);
            if pump == 11 && n > 530 {
                one.scores.values_mut().for_each(|v| *v = None);
            }
            records.push(Record::Score(one));
        }
        site.publish(records);
    }
    let ago = |minutes: i64| now.minus(Span::seconds(60 * minutes));
    site.publish(vec![
        alarm("pump-07", "pump anomaly", Unacknowledged, Severity::High, ago(56)),
        alarm("pump-07", "pump anomaly", Normal, Severity::High, ago(46)),
        alarm("pump-02", "seal leak", Unacknowledged, Severity::Medium, ago(31)),
        alarm("pump-02", "seal leak", Returned, Severity::Medium, ago(29)),
        alarm("pump-04", "pump anomaly", Unacknowledged, Severity::High, ago(11)),
        alarm("pump-04", "failure risk", Unacknowledged, Severity::Critical, ago(4)),
    ]);
}
