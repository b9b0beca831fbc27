//! A real store that is fed, and an uplink that runs on it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use forebay::command::quarantine::Desks;
use forebay::config::{BudgetConfig, StoreConfig};
use forebay::link::LinkStatus;
use forebay::record::{Outgoing, Step};
use forebay::store::{Committed, Ledger, Meter, Outbox, Receipts, Store, StoreError, StoreOptions};
use forebay::time::{Span, Tick, Timestamp, monotonic};
use forebay::uplink::{Terms, Uplink, UplinkCounts, run};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::PATIENCE;

/// A real store in a folder of its own, and the ids of all that was put into it.
pub struct Feeding {
    ledger: Ledger,
    seq: u64,
    pub ids: BTreeSet<String>,
    committed: watch::Sender<Committed>,
    pub meter: Meter,
    dir: tempfile::TempDir,
}

impl Feeding {
    pub fn new() -> (Feeding, Outbox) {
        Feeding::on(tempfile::tempdir().unwrap())
    }

    /// In this folder, with no regard to what is free on its disk.
    pub fn on(dir: tempfile::TempDir) -> (Feeding, Outbox) {
        let config = config(&dir);
        let mut store = Store::open(&StoreOptions::new(&config, "gw", Timestamp(0))).unwrap();
        let resumed = store.ledger.finish_recovery().unwrap();
        let outbox = store.outboxes.pop().unwrap();
        let meter = outbox.meter();
        let (committed, _) = watch::channel(resumed.committed);
        let ids = BTreeSet::new();
        (Feeding { ledger: store.ledger, seq: 0, ids, committed, meter, dir }, outbox)
    }

    /// Stops the uplink and gives the outbox of the store as a new process would find it.
    pub async fn restart(&mut self, running: Running) -> Outbox {
        running.end().await;
        self.reopen()
    }

    /// The same after a kill of what is on its way; what was settled is durable.
    pub async fn restart_after_kill(&mut self, running: Running) -> Outbox {
        running.task.abort();
        // An abort is an error.
        let _ = running.task.await;
        self.reopen()
    }

    fn reopen(&mut self) -> Outbox {
        let config = config(&self.dir);
        // Both halves have to be gone before the store can be opened again.
        let elsewhere = tempfile::tempdir().unwrap();
        let aside = StoreConfig { path: elsewhere.path().into(), ..StoreConfig::default() };
        let other = Store::open(&StoreOptions::new(&aside, "gw", Timestamp(0))).unwrap();
        drop(std::mem::replace(&mut self.ledger, other.ledger));
        drop(other.outboxes);
        let options = StoreOptions::new(&config, "gw", Timestamp(0));
        // What was killed may hold it a moment longer.
        let due = monotonic() + PATIENCE;
        let mut store = loop {
            match Store::open(&options) {
                Err(StoreError::Locked { .. }) if monotonic() < due => std::thread::yield_now(),
                opened => break opened.unwrap(),
            }
        };
        store.recovered.entries.by_ref().for_each(drop);
        let resumed = store.ledger.finish_recovery().unwrap();
        let outbox = store.outboxes.pop().unwrap();
        self.meter = outbox.meter();
        self.committed = watch::channel(resumed.committed).0;
        self.ledger = store.ledger;
        outbox
    }

    pub fn put(&mut self, records: Vec<Outgoing>) {
        self.seq += 1;
        self.ids.extend(records.iter().map(|outgoing| outgoing.record.id().to_owned()));
        let tick = Tick { seq: self.seq, now: Timestamp(self.seq as i64) };
        let step = Step { tick, input: Vec::new(), records };
        let (committed, _) = self.ledger.commit(&step, &mut Receipts::default()).unwrap();
        self.committed.send_replace(committed);
    }
}

fn config(dir: &tempfile::TempDir) -> StoreConfig {
    let free_floor = bytesize::ByteSize::b(0);
    StoreConfig { path: dir.path().into(), free_floor, ..StoreConfig::default() }
}

/// How long an uplink that was told to stop goes on: longer than any test should take.
pub const DRAIN_FOR: Span = Span::seconds(60);

/// A running uplink.
pub struct Running {
    pub status: watch::Receiver<LinkStatus>,
    pub counts: Arc<UplinkCounts>,
    pub desks: Desks,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), StoreError>>,
}

impl Running {
    pub fn start(
        uplink: impl Uplink + 'static,
        outbox: Outbox,
        feeding: &Feeding,
        bytes: usize,
    ) -> Running {
        let terms = Terms {
            parcel_bytes: bytes,
            in_flight: 8,
            retry_max: Span::millis(100),
            drain_for: DRAIN_FOR,
            rate: None,
            gather: Span::ZERO,
            fresh: 0.5,
            budget: BudgetConfig::default(),
        };
        Running::start_on(uplink, outbox, feeding, terms)
    }

    /// On terms of its own.
    pub fn start_on(
        uplink: impl Uplink + 'static,
        outbox: Outbox,
        feeding: &Feeding,
        terms: Terms,
    ) -> Running {
        let (status_writer, status) = watch::channel(LinkStatus::Connecting);
        let counts = Arc::new(UplinkCounts::default());
        let stop = CancellationToken::new();
        let committed = feeding.committed.subscribe();
        let mut desks = Desks::default();
        let inquiries = desks.add("uplink");
        let running = run(
            uplink,
            outbox,
            committed,
            status_writer,
            counts.clone(),
            terms,
            inquiries,
            stop.clone(),
        );
        Running { status, counts, desks, stop, task: tokio::spawn(running) }
    }

    pub fn left(&self) -> u64 {
        self.counts.records.load(Relaxed) + self.counts.refused.load(Relaxed)
    }

    /// Ends it as a kill does.
    pub fn abort(&self) {
        self.task.abort();
    }

    pub async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap().unwrap();
        assert_eq!(*self.status.borrow(), LinkStatus::Stopped);
    }
}
