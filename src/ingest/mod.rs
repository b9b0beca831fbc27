//! The way in: messages from a broker, through a bounded queue, to the engine thread, and acknowledgements back.
//!
//! `node` opens it: [`mqtt::MqttSource`] runs on the async side, [`Inbox`] and [`Acks`] are used by the engine
//! thread. It promises that a message is acknowledged only when the store has released its receipt, on the
//! connection it came over, in the order of arrival; that nothing here grows without a limit; and that what it
//! drops (QoS 0 only) is counted. It does not look into payloads.

pub mod inbox;
pub mod mqtt;
pub mod replay;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::link::LinkStatus;
use crate::link::mqtt::Client;
use crate::store::{Receipt, Released};
use crate::time::{Timestamp, monotonic};

pub use inbox::{Batch, Closing, Inbox};
pub use mqtt::MqttSource;

/// A message as it came, not looked into.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// Its topic.
    pub topic: String,
    /// Its payload; empty where it was `oversize`.
    pub payload: Bytes,
    /// The QoS it came with.
    pub qos: u8,
    /// Whether it is an old one that the broker kept for new subscribers.
    pub retained: bool,
    /// When it came.
    pub received: Timestamp,
    /// The right to acknowledge it. QoS 0 has none.
    pub receipt: Option<Receipt>,
    /// The payload's size where it was larger than the limit and therefore dropped. To be counted as rejected.
    pub oversize: Option<usize>,
}

/// What passed, counted since the start.
#[derive(Debug, Default)]
pub struct IngestCounts {
    /// Messages taken from the broker and handed to the engine.
    pub received: AtomicU64,
    /// Their payload bytes.
    pub received_bytes: AtomicU64,
    /// QoS 0 messages dropped because the engine was behind.
    pub dropped: AtomicU64,
    /// Messages with a payload over the limit.
    pub oversize: AtomicU64,
    /// Acknowledgements sent.
    pub acknowledged: AtomicU64,
    /// Receipts of connections that had ended; the broker sends their messages again.
    pub stale: AtomicU64,
    /// Connections made.
    pub connections: AtomicU64,
    /// Tries that failed, and connections that were lost.
    pub failures: AtomicU64,
    /// Sessions given up because of a message too large to be read; what the broker still held in them is lost.
    pub sessions_dropped: AtomicU64,
}

impl IngestCounts {
    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

/// How much may wait for the engine.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Messages that the broker may have sent and that are not yet acknowledged.
    pub in_flight: u16,
    /// QoS 0 messages that may wait; more are dropped and counted.
    pub unacknowledged_max: usize,
    /// Payload bytes that may wait; more QoS 0 is dropped, QoS 1 is left in the socket.
    pub bytes_max: usize,
}

impl Limits {
    /// As many QoS 0 messages as the window holds, at least 1,000, and 32 MiB.
    pub fn new(in_flight: u16) -> Limits {
        let unacknowledged_max = usize::from(in_flight).max(1000);
        Limits { in_flight, unacknowledged_max, bytes_max: 32 << 20 }
    }
}

// What waits in the queue just now. Raised by the source, lowered by the inbox.
#[derive(Debug, Default)]
struct Waiting {
    unacknowledged: AtomicUsize,
    bytes: AtomicUsize,
}

/// The source's end of the queue.
#[derive(Debug)]
pub struct Door {
    deliveries: Arc<SyncSender<Vec<Delivery>>>,
    current: watch::Sender<Current>,
    status: watch::Sender<LinkStatus>,
    counts: Arc<IngestCounts>,
    waiting: Arc<Waiting>,
    limits: Limits,
}

/// What the rest of the node holds of a source.
#[derive(Debug)]
pub struct Opened {
    /// For the source.
    pub door: Door,
    /// For the engine thread: what came.
    pub inbox: Inbox,
    /// For the engine thread: what is durable.
    pub acks: Acks,
    /// For whoever has something else for the engine thread.
    pub bell: Bell,
    /// For `/readyz` and the live status.
    pub status: watch::Receiver<LinkStatus>,
    /// For metrics.
    pub counts: Arc<IngestCounts>,
}

/// Makes the queue between a source and the engine thread.
pub fn open(limits: Limits, closing: Closing) -> Opened {
    // Each slot holds at least one message, so this many slots take everything the limits let in.
    let slots = usize::from(limits.in_flight) + limits.unacknowledged_max;
    let (deliveries, receiver) = sync_channel(slots);
    let deliveries = Arc::new(deliveries);
    let (current, current_reader) = watch::channel(None);
    let (status, status_reader) = watch::channel(LinkStatus::Connecting);
    let counts = Arc::new(IngestCounts::default());
    let waiting = Arc::new(Waiting::default());
    Opened {
        inbox: Inbox::new(receiver, Arc::clone(&waiting), closing),
        acks: Acks { current: current_reader, counts: Arc::clone(&counts) },
        bell: Bell(Arc::downgrade(&deliveries)),
        status: status_reader,
        counts: Arc::clone(&counts),
        door: Door { deliveries, current, status, counts, waiting, limits },
    }
}

/// Closes the tick that is open, or has an empty one made, so that the engine thread looks around at once. It does not
/// keep the queue open: once the source has ended it does nothing.
#[derive(Clone, Debug)]
pub struct Bell(Weak<SyncSender<Vec<Delivery>>>);

impl Bell {
    /// Never waits. With a full queue the engine thread comes round anyway.
    pub fn ring(&self) {
        if let Some(deliveries) = self.0.upgrade() {
            drop(deliveries.try_send(Vec::new()));
        }
    }
}

/// The connection that acknowledgements go out on: its number, and its client.
type Current = Option<(u64, Client)>;

/// The way back: what may be acknowledged. Dropping it says that nothing more will be.
#[derive(Debug)]
pub struct Acks {
    current: watch::Receiver<Current>,
    counts: Arc<IngestCounts>,
}

impl Acks {
    /// Acknowledges what is durable, in the order of arrival. Never waits. Receipts of a connection that has ended
    /// are dropped: the broker sends their messages again. Even a connection that ends just now cannot take
    /// another's receipt, since each has a client of its own.
    pub fn release(&self, released: &Released) {
        let current = self.current.borrow().clone();
        let (mut fresh, mut stale) = (0, 0);
        for receipt in released.iter() {
            let sent = match &current {
                Some((connection, client)) if *connection == receipt.connection => {
                    client.acknowledge(receipt.token as u16).is_ok()
                }
                _ => false,
            };
            fresh += u64::from(sent);
            stale += u64::from(!sent);
        }
        IngestCounts::add(&self.counts.acknowledged, fresh);
        IngestCounts::add(&self.counts.stale, stale);
    }
}

/// Puts messages into the queue, a handful at a time: one wake-up of the engine thread for all that one read from
/// the socket brought.
#[derive(Debug)]
struct Hand {
    deliveries: Arc<SyncSender<Vec<Delivery>>>,
    handful: Vec<Delivery>,
    waiting: Arc<Waiting>,
    counts: Arc<IngestCounts>,
    limits: Limits,
}

impl Hand {
    fn take(&mut self, delivery: Delivery) {
        let bytes = delivery.payload.len();
        if delivery.receipt.is_none() {
            let waiting = self.waiting.unacknowledged.load(Ordering::Relaxed);
            let full = self.waiting.bytes.load(Ordering::Relaxed) + bytes > self.limits.bytes_max;
            if waiting >= self.limits.unacknowledged_max || full {
                if self.counts.dropped.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::warn!(
                        topic = delivery.topic,
                        "the node is behind and drops QoS 0 messages, from now on counted only; what must not be lost \
                         is published at QoS 1"
                    );
                }
                return;
            }
            self.waiting.unacknowledged.fetch_add(1, Ordering::Relaxed);
        }
        self.waiting.bytes.fetch_add(bytes, Ordering::Relaxed);
        IngestCounts::add(&self.counts.received, 1);
        IngestCounts::add(&self.counts.received_bytes, bytes as u64);
        self.handful.push(delivery);
    }

    /// Passes the handful on. Waits only where a broker sends more than the window it was told (Mosquitto 2.0 does, once
    /// it has a queue: every acknowledgement lets it send a whole window), or the window holds more bytes than the
    /// limit; the engine empties the queue whatever happens here. It waits no longer than `patience`: meanwhile the
    /// connection is not looked after.
    async fn pass(&mut self, stop: &CancellationToken, patience: Duration) -> Passed {
        if self.handful.is_empty() {
            return Passed::On;
        }
        let due = monotonic() + patience;
        let mut handful = std::mem::take(&mut self.handful);
        loop {
            handful = match self.deliveries.try_send(handful) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(handful)) => {
                    self.give_up(&handful);
                    return Passed::NoFurther;
                }
                Err(TrySendError::Full(handful)) => handful,
            };
            let (stopped, late) = (pause(stop).await, monotonic() >= due);
            if stopped || late {
                self.give_up(&handful);
                return if stopped { Passed::NoFurther } else { Passed::TooLate };
            }
        }
        while self.waiting.bytes.load(Ordering::Relaxed) > self.limits.bytes_max {
            if pause(stop).await {
                break;
            }
            if monotonic() >= due {
                return Passed::TooLate;
            }
        }
        Passed::On
    }

    // Nobody takes these. What has a receipt comes again; the rest is lost and counted.
    fn give_up(&self, handful: &[Delivery]) {
        let lost = handful.iter().filter(|delivery| delivery.receipt.is_none()).count();
        let bytes = handful.iter().map(|delivery| delivery.payload.len()).sum();
        IngestCounts::add(&self.counts.dropped, lost as u64);
        self.waiting.unacknowledged.fetch_sub(lost, Ordering::Relaxed);
        self.waiting.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What became of a handful.
enum Passed {
    /// The engine thread has it, or will.
    On,
    /// The engine thread was behind for too long.
    TooLate,
    /// Nobody takes messages any more.
    NoFurther,
}

// A short wait for the engine thread; `true`: told to stop.
async fn pause(stop: &CancellationToken) -> bool {
    tokio::time::timeout(Duration::from_millis(2), stop.cancelled()).await.is_ok()
}
