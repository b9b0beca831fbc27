//! A node cut down to its door: a source, a real ledger, and acknowledgements in between.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytesize::ByteSize;
use forebay::config::{MqttConfig, StoreConfig};
use forebay::ingest::{Acks, Closing, Delivery, Inbox, IngestCounts, Limits, MqttSource, open};
use forebay::link::LinkStatus;
use forebay::record::Step;
use forebay::store::{Ledger, Receipts, Released, Store, StoreOptions};
use forebay::time::{Span, Tick, Timestamp};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{PATIENCE, unique, until};

/// A node cut down to its door: a source, and an engine thread that makes every tick durable and releases it.
pub struct Door {
    pub config: MqttConfig,
    pub status: watch::Receiver<LinkStatus>,
    pub counts: Arc<IngestCounts>,
    pub stop: CancellationToken,
    pub source: tokio::task::JoinHandle<()>,
    pub engine: Option<JoinHandle<()>>,
    pub seen: Arc<std::sync::Mutex<Vec<Delivery>>>,
}

/// What the engine thread does with a tick.
#[derive(Clone, Copy, PartialEq)]
pub enum Engine {
    Releases,
    KeepsReceipts,
    /// Until it is told to stop; then it releases everything.
    Sleeps,
}

/// A real store in a folder of its own.
struct Durable {
    ledger: Ledger,
    seq: u64,
    _dir: tempfile::TempDir,
}

impl Durable {
    fn new() -> Durable {
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig { path: dir.path().into(), ..StoreConfig::default() };
        let mut store = Store::open(&StoreOptions::new(&config, "test", Timestamp(0))).unwrap();
        store.ledger.finish_recovery().unwrap();
        Durable { ledger: store.ledger, seq: 0, _dir: dir }
    }

    fn commit(&mut self, mut receipts: Receipts) -> Released {
        self.seq += 1;
        let tick = Tick { seq: self.seq, now: Timestamp(self.seq as i64) };
        let step = Step { tick, input: Vec::new(), records: Vec::new() };
        self.ledger.commit(&step, &mut receipts).unwrap().1
    }
}

fn engine_loop(
    mut inbox: Inbox,
    acks: &Acks,
    what: Engine,
    stop: &CancellationToken,
    seen: &std::sync::Mutex<Vec<Delivery>>,
) {
    let mut durable = Durable::new();
    while what == Engine::Sleeps && !stop.is_cancelled() {
        std::thread::yield_now();
    }
    while let Some(batch) = inbox.next_batch(None) {
        seen.lock().unwrap().extend(batch.deliveries);
        if what != Engine::KeepsReceipts {
            acks.release(&durable.commit(batch.receipts));
        }
    }
}

impl Door {
    pub fn open(config: MqttConfig, filters: &[&str], what: Engine) -> Door {
        Door::open_with(config, filters, what, Span::millis(20))
    }

    pub fn open_with(mut config: MqttConfig, filters: &[&str], what: Engine, tick: Span) -> Door {
        config.client_id.get_or_insert_with(|| unique("door"));
        let filters = filters.iter().map(|&f| f.to_owned()).collect();
        let source = MqttSource::new(&config, "test", filters, ByteSize::mib(1)).unwrap();
        let closing = Closing::new(tick, 10_000, config.in_flight);
        let opened = open(Limits::new(config.in_flight), closing);
        let stop = CancellationToken::new();
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let engine = std::thread::spawn({
            let (stop, seen, inbox, acks) = (stop.clone(), seen.clone(), opened.inbox, opened.acks);
            move || engine_loop(inbox, &acks, what, &stop, &seen)
        });
        Door {
            config,
            status: opened.status,
            counts: opened.counts,
            source: tokio::spawn(source.run(opened.door, stop.clone())),
            stop,
            engine: Some(engine),
            seen,
        }
    }

    pub async fn up(&self) {
        until("the door is up", || self.status.borrow().is_ready()).await;
    }

    pub fn payloads(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        seen.iter().map(|d| String::from_utf8_lossy(&d.payload).into_owned()).collect()
    }

    pub fn distinct(&self) -> usize {
        self.payloads().into_iter().collect::<BTreeSet<_>>().len()
    }

    /// Stops in the direction of the data, as a node does.
    pub async fn close(mut self) -> Vec<String> {
        self.stop.cancel();
        let engine = self.engine.take().unwrap();
        tokio::task::spawn_blocking(move || engine.join().unwrap()).await.unwrap();
        tokio::time::timeout(PATIENCE, &mut self.source).await.unwrap().unwrap();
        assert_eq!(*self.status.borrow(), LinkStatus::Stopped);
        self.payloads()
    }

    /// Dies as a process does: no goodbye, nothing more acknowledged.
    pub fn kill(&self) {
        self.source.abort();
    }
}
