//! Live dashboards: what the site sees without the uplink.
//!
//! The engine thread publishes each committed tick's records through a [`HubHandle`], which never waits. The
//! [`Keeper`] task takes them into the [`live::Live`] state, and hands them to whoever listens ([`Hub::subscribe`]).
//! `http` serves pages, API, server-sent events and `/metrics`; `mqtt` publishes on the site's broker. A feed may drop
//! anything and slows nothing; what it drops is counted. The one thing that goes the other way is an operator's
//! command (`command`): it is handed to the engine thread like any other input.

pub mod api;
pub mod chart;
pub mod command;
pub mod history;
pub mod http;
pub mod live;
mod models;
pub mod mqtt;
pub mod page;
pub mod quarantine;
pub mod sse;
pub mod status;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use serde_json::Value;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{broadcast, mpsc, watch};

use crate::record::{AlarmRecord, AlarmState, Record};
use crate::time::{self, Timestamp};
use live::Live;

pub use status::{LinkView, NodeStatus, PipelineView, StoreView, TargetView};

/// Batches that may wait for the keeper.
const BATCHES: usize = 256;
/// Events that may wait for the slowest listener.
const EVENTS: usize = 1024;
/// Alarm changes and losses held back while the keeper's queue is full.
const HELD: usize = 4096;

/// A record on its way to dashboards.
#[derive(Debug)]
pub struct LiveEvent {
    /// Counts up by one from 1 since the node started.
    pub seq: u64,
    /// The record.
    pub record: Record,
    full: OnceLock<String>,
    brief: OnceLock<String>,
}

impl LiveEvent {
    /// The record's JSON, the same as everywhere; made once for all listeners.
    pub fn json(&self) -> &str {
        self.full.get_or_init(|| to_json(&self.record))
    }

    /// The record's JSON without features and contributions, for lists of many assets.
    pub fn brief_json(&self) -> &str {
        self.brief.get_or_init(|| match &self.record {
            Record::Score(_) => {
                let mut value = serde_json::to_value(&self.record).unwrap_or(Value::Null);
                if let Some(fields) = value.as_object_mut() {
                    fields.remove("features");
                    fields.remove("contributions");
                }
                value.to_string()
            }
            other => to_json(other),
        })
    }

    /// `score`, `alarm`, `loss`, `model`, `raw`, `aggregate`, `notice` or `verdict`: the event's name in the stream.
    pub fn kind(&self) -> &'static str {
        match &self.record {
            Record::Score(_) => "score",
            Record::Alarm(_) => "alarm",
            Record::Raw(_) => "raw",
            Record::Aggregate(_) => "aggregate",
            Record::Loss(_) => "loss",
            Record::Model(_) => "model",
            Record::Notice(_) => "notice",
            Record::Verdict(_) => "verdict",
        }
    }

    /// Pipeline and asset, where the record is about one.
    pub fn subject(&self) -> Option<(&str, &str)> {
        match &self.record {
            Record::Score(r) => Some((&r.pipeline, &r.asset)),
            Record::Alarm(r) => Some((&r.pipeline, &r.asset)),
            Record::Raw(r) => Some((&r.pipeline, &r.asset)),
            Record::Aggregate(r) => Some((&r.pipeline, &r.asset)),
            Record::Notice(r) => Some((&r.pipeline, &r.asset)),
            Record::Verdict(r) => Some((&r.pipeline, &r.asset)),
            Record::Loss(_) | Record::Model(_) => None,
        }
    }
}

fn to_json(record: &Record) -> String {
    serde_json::to_string(record).expect("invariant: records have string keys only")
}

/// The dashboards' side of the hub: cheap to clone.
#[derive(Clone, Debug)]
pub struct Hub {
    live: watch::Sender<Live>,
    events: broadcast::Sender<Arc<LiveEvent>>,
    skipped: Arc<AtomicU64>,
    seq: Arc<AtomicU64>,
}

/// The engine thread's side of the hub.
#[derive(Debug)]
pub struct HubHandle {
    batches: mpsc::Sender<Vec<Record>>,
    held: VecDeque<Record>,
    skipped: Arc<AtomicU64>,
}

/// The task that keeps the live state; it ends when the [`HubHandle`] is dropped.
#[derive(Debug)]
pub struct Keeper {
    batches: mpsc::Receiver<Vec<Record>>,
    hub: Hub,
}

impl Hub {
    /// A hub that remembers up to `history` scored windows of each asset. [`Keeper::run`] must be spawned.
    pub fn new(history: usize) -> (Hub, HubHandle, Keeper) {
        let (batches, inbox) = mpsc::channel(BATCHES);
        let skipped = Arc::new(AtomicU64::new(0));
        let hub = Hub {
            live: watch::Sender::new(Live::new(history)),
            events: broadcast::Sender::new(EVENTS),
            skipped: Arc::clone(&skipped),
            seq: Arc::new(AtomicU64::new(0)),
        };
        let handle = HubHandle { batches, held: VecDeque::new(), skipped };
        let keeper = Keeper { batches: inbox, hub: hub.clone() };
        (hub, handle, keeper)
    }

    /// What was on before this start, each alarm's last change and since when it has been on: to be told once, before
    /// anything is published.
    pub fn recall(&self, alarms: Vec<(AlarmRecord, Timestamp)>) {
        let (now, at) = (time::now(), time::monotonic());
        self.live.send_modify(|live| {
            for (record, since) in alarms {
                live.recall(record, since, now, at);
            }
        });
    }

    /// The state now. Keep the borrow short: the keeper waits for it.
    pub fn live(&self) -> watch::Ref<'_, Live> {
        self.live.borrow()
    }

    /// Every record from now on. A receiver that is slow loses the oldest, and is told how many.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<LiveEvent>> {
        self.events.subscribe()
    }

    /// The number of the last event.
    pub fn seq(&self) -> u64 {
        self.seq.load(Relaxed)
    }

    /// Records that no dashboard could be shown, because the hub was behind or full.
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Relaxed) + self.live().refused
    }
}

impl HubHandle {
    /// Offers one tick's records. Never waits: what does not fit is dropped and counted, but alarm changes and
    /// notices of loss are held back for the next call, so that no dashboard shows an alarm that is over.
    pub fn publish(&mut self, records: Vec<Record>) {
        let mut batch: Vec<Record> = self.held.drain(..).collect();
        batch.extend(records.into_iter().filter(|r| !matches!(r, Record::Raw(_))));
        if batch.is_empty() {
            return;
        }
        let refused = match self.batches.try_send(batch) {
            Ok(()) => return,
            Err(TrySendError::Full(batch) | TrySendError::Closed(batch)) => batch,
        };
        let mut skipped = 0;
        for record in refused {
            let precious = record.lane() == crate::record::Lane::Alarm;
            if precious && self.held.len() < HELD && !self.batches.is_closed() {
                self.held.push_back(record);
            } else {
                skipped += 1;
            }
        }
        self.skipped.fetch_add(skipped, Relaxed);
    }
}

impl Keeper {
    /// Takes in what is published until the [`HubHandle`] is gone.
    pub async fn run(mut self) {
        while let Some(batch) = self.batches.recv().await {
            self.take(batch);
        }
    }

    /// The state first, then the listeners: who asks the API after an event finds it there.
    fn take(&mut self, batch: Vec<Record>) {
        let (now, at) = (time::now(), time::monotonic());
        self.hub.live.send_modify(|live| {
            for record in &batch {
                live.take(record, now, at);
            }
        });
        if self.hub.events.receiver_count() == 0 {
            self.hub.seq.fetch_add(batch.len() as u64, Relaxed);
            return;
        }
        for record in batch {
            let event = LiveEvent {
                seq: self.hub.seq.fetch_add(1, Relaxed) + 1,
                record,
                full: OnceLock::new(),
                brief: OnceLock::new(),
            };
            // No listener is no error: the last one may just have left.
            let _ = self.hub.events.send(Arc::new(event));
        }
    }
}

/// Whether an alarm in this state wants somebody's eye. A shelved one is listed, but asks for nothing.
pub(crate) fn is_active(state: AlarmState) -> bool {
    !matches!(state, AlarmState::Normal | AlarmState::Shelved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Lane, LossRecord};

    fn loss(n: u64) -> Record {
        Record::Loss(LossRecord {
            id: n.to_string(),
            node: "n".into(),
            lane: Lane::Raw,
            count: n,
            first_tick: n,
            last_tick: n,
            reason: "lane limit".into(),
            from: None,
            to: None,
            assets: Vec::new(),
            more_assets: 0,
            unread: 0,
            at: Timestamp(n as i64),
        })
    }

    #[test]
    fn a_stuck_keeper_costs_the_publisher_nothing_and_precious_records_wait() {
        let (hub, mut handle, mut keeper) = Hub::new(8);
        for n in 0..2 * BATCHES as u64 {
            handle.publish(vec![loss(n)]);
        }
        assert_eq!(handle.held.len(), BATCHES, "held back, not dropped");
        for n in 0..2 * HELD as u64 {
            handle.publish(vec![loss(n)]);
        }
        assert_eq!(handle.held.len(), HELD);
        assert_eq!(hub.skipped(), (2 * BATCHES + 2 * HELD - BATCHES - HELD) as u64);
        let batch = keeper.batches.try_recv().unwrap();
        keeper.take(batch);
        handle.publish(Vec::new());
        assert_eq!(handle.held.len(), 0, "sent as soon as there is room");
    }
}
