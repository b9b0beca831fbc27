//! The far side, simulated: takes the uplink's parcels over HTTP and knows each record once. Beside `receive` it is there
//! because it can refuse what it is sent, and keeps nothing on disk.
//!
//! `cli/demo` and tests start it. It speaks what `uplink/http` sends: POST of NDJSON, zstd or plain, with an
//! idempotency key. It promises to answer 200 only once a parcel's records are counted, and to count a record that
//! comes again as a repeat, however it comes. It keeps ids and alarms, and the records only if asked to.

use std::collections::{HashSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::DemoError;
use crate::record::{AlarmRecord, Record};
use crate::uplink::wire;

/// Ids remembered to find repeats; the oldest are forgotten.
const MAX_IDS: usize = 2_000_000;
/// Alarms kept to look at; the oldest are forgotten.
const MAX_ALARMS: usize = 10_000;

/// What the far side has taken so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Parcels answered with 200.
    pub parcels: u64,
    /// Of these, parcels whose idempotency key had come before.
    pub repeated_parcels: u64,
    /// Different records.
    pub records: u64,
    /// Records that came again.
    pub repeats: u64,
    /// Different records by lane, in the order of [`Lane::ALL`]; a record's type tells its lane.
    pub by_lane: [u64; 4],
    /// Records that notices of loss speak of.
    pub lost: u64,
    /// Parcels answered with 4xx because they could not be read.
    pub unreadable: u64,
    /// Parcels turned away on purpose ([`Receiver::refuse`]).
    pub refused: u64,
    /// Bytes of parcels as they came.
    pub bytes: u64,
}

/// A running receiver; it ends with its [`CancellationToken`]. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Receiver {
    addr: SocketAddr,
    counts: watch::Receiver<Received>,
    desk: mpsc::Sender<Letter>,
}

/// What the desk, the one owner of all that was received, is asked.
enum Letter {
    Parcel(Parcel, oneshot::Sender<Answer>),
    Refuse(u32, StatusCode, Option<u64>),
    Alarms(oneshot::Sender<Vec<AlarmRecord>>),
    Keep(usize),
    Records(oneshot::Sender<Vec<Record>>),
}

struct Parcel {
    key: Option<String>,
    size: u64,
    records: Result<Vec<Record>, String>,
}

enum Answer {
    Taken,
    Unreadable(String),
    Refused(StatusCode, Option<u64>),
}

impl Receiver {
    /// Opens a port on loopback and takes parcels posted to any path.
    pub async fn start(stop: CancellationToken) -> Result<Receiver, DemoError> {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let failed =
            |source| DemoError::Listen { what: "receiver", addr: addr.to_string(), source };
        let listener = TcpListener::bind(addr).await.map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let (counts_tx, counts) = watch::channel(Received::default());
        let (desk, letters) = mpsc::channel(64);
        tokio::spawn(Desk::default().run(letters, counts_tx));
        let app = Router::new()
            .fallback(routing::post(post))
            .layer(DefaultBodyLimit::max(wire::PARCEL_MAX))
            .with_state(desk.clone());
        tokio::spawn(async move {
            // The accept loop ends with the token; connections still open end with the runtime.
            tokio::select! {
                () = stop.cancelled() => {}
                _ = axum::serve(listener, app) => {}
            }
        });
        Ok(Receiver { addr, counts, desk })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it has taken so far.
    pub fn counts(&self) -> Received {
        self.counts.borrow().clone()
    }

    /// To wait for changes.
    pub fn watch(&self) -> watch::Receiver<Received> {
        self.counts.clone()
    }

    /// Answers the next `count` parcels with `status`, and `retry_after` seconds if given.
    pub async fn refuse(&self, count: u32, status: StatusCode, retry_after: Option<u64>) {
        let _ = self.desk.send(Letter::Refuse(count, status, retry_after)).await;
    }

    /// The alarm records that came, each once, in order of arrival.
    pub async fn alarms(&self) -> Vec<AlarmRecord> {
        let (tx, rx) = oneshot::channel();
        if self.desk.send(Letter::Alarms(tx)).await.is_err() {
            return Vec::new();
        }
        rx.await.unwrap_or_default()
    }

    /// Keeps the different records that come from now on, up to `count` of them.
    pub async fn keep(&self, count: usize) {
        let _ = self.desk.send(Letter::Keep(count)).await;
    }

    /// The records kept so far, each once, in order of arrival.
    pub async fn records(&self) -> Vec<Record> {
        let (tx, rx) = oneshot::channel();
        if self.desk.send(Letter::Records(tx)).await.is_err() {
            return Vec::new();
        }
        rx.await.unwrap_or_default()
    }
}

async fn post(
    State(desk): State<mpsc::Sender<Letter>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let parcel = Parcel {
        key: text("idempotency-key"),
        size: body.len() as u64,
        records: records(&body, text("content-encoding").as_deref()),
    };
    let (tx, rx) = oneshot::channel();
    if desk.send(Letter::Parcel(parcel, tx)).await.is_err() {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    match rx.await {
        Ok(Answer::Taken) => StatusCode::OK.into_response(),
        Ok(Answer::Unreadable(why)) => (StatusCode::BAD_REQUEST, why).into_response(),
        Ok(Answer::Refused(status, retry_after)) => {
            let mut response = status.into_response();
            if let Some(seconds) = retry_after {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            response
        }
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// The records of a parcel, or what is wrong with it.
fn records(body: &[u8], encoding: Option<&str>) -> Result<Vec<Record>, String> {
    if let Some(other) = encoding.filter(|name| !matches!(*name, "zstd" | "identity")) {
        return Err(format!("content encoding `{other}` is not known: use zstd"));
    }
    if encoding == Some("zstd") && !wire::is_zstd(body) {
        return Err("the body says that it is zstd, and is not".to_owned());
    }
    let lines = wire::unpack(body).map_err(|error| error.to_string())?;
    let records = wire::records(&lines).map_err(|error| error.to_string())?;
    Ok(records.into_iter().map(|(record, _)| record).collect())
}

/// Owns what was received.
#[derive(Default)]
struct Desk {
    counts: Received,
    seen: Recent,
    keys: Recent,
    alarms: VecDeque<AlarmRecord>,
    kept_max: usize,
    kept: Vec<Record>,
    refusals: VecDeque<(StatusCode, Option<u64>)>,
}

/// A set that forgets its oldest members.
#[derive(Default)]
struct Recent {
    members: HashSet<String>,
    order: VecDeque<String>,
}

impl Recent {
    /// Whether `id` is new.
    fn insert(&mut self, id: &str) -> bool {
        if !self.members.insert(id.to_owned()) {
            return false;
        }
        self.order.push_back(id.to_owned());
        if self.order.len() > MAX_IDS
            && let Some(oldest) = self.order.pop_front()
        {
            self.members.remove(&oldest);
        }
        true
    }
}

impl Desk {
    async fn run(mut self, mut letters: mpsc::Receiver<Letter>, counts: watch::Sender<Received>) {
        while let Some(letter) = letters.recv().await {
            // Who asked may be gone; the answer is then of no use.
            match letter {
                Letter::Parcel(parcel, reply) => {
                    let answer = self.take(parcel);
                    let _ = counts.send(self.counts.clone());
                    let _ = reply.send(answer);
                }
                Letter::Refuse(count, status, after) => {
                    self.refusals.extend((0..count).map(|_| (status, after)));
                }
                Letter::Alarms(reply) => {
                    let _ = reply.send(self.alarms.iter().cloned().collect());
                }
                Letter::Keep(count) => self.kept_max = count,
                Letter::Records(reply) => {
                    let _ = reply.send(self.kept.clone());
                }
            }
        }
    }

    fn take(&mut self, parcel: Parcel) -> Answer {
        if let Some((status, after)) = self.refusals.pop_front() {
            self.counts.refused += 1;
            return Answer::Refused(status, after);
        }
        let records = match parcel.records {
            Ok(records) => records,
            Err(why) => {
                self.counts.unreadable += 1;
                return Answer::Unreadable(why);
            }
        };
        self.counts.parcels += 1;
        self.counts.bytes += parcel.size;
        if parcel.key.is_some_and(|key| !self.keys.insert(&key)) {
            self.counts.repeated_parcels += 1;
        }
        for record in records {
            self.file(record);
        }
        Answer::Taken
    }

    fn file(&mut self, record: Record) {
        if !self.seen.insert(record.id()) {
            self.counts.repeats += 1;
            return;
        }
        self.counts.records += 1;
        self.counts.by_lane[record.lane() as usize] += 1;
        if self.kept.len() < self.kept_max {
            self.kept.push(record.clone());
        }
        match record {
            Record::Alarm(alarm) => {
                if self.alarms.len() == MAX_ALARMS {
                    self.alarms.pop_front();
                }
                self.alarms.push_back(alarm);
            }
            Record::Loss(loss) => self.counts.lost += loss.count,
            Record::Score(_)
            | Record::Raw(_)
            | Record::Aggregate(_)
            | Record::Model(_)
            | Record::Notice(_)
            | Record::Verdict(_) => {}
        }
    }
}
