//! The way out: takes parcels from the outbox, sends them over a link that comes and goes, settles them.
//!
//! `node` runs [`run`] as a task of its own. It promises that a record leaves the outbox only after the far side
//! has acknowledged it (or refused it for good, which puts it into quarantine); that alarms go first; that a
//! parcel whose fate is unknown is sent again as it was, under the same id; and that one record the far side
//! cannot take holds up no other. It does not decide what is stored or dropped: the ledger does.

pub mod http;
pub mod link;
pub mod mqtt;
mod suspicion;
pub mod wire;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::UplinkConfig;
use crate::link::{Backoff, LinkStatus};
use crate::record::Lane;
use crate::store::{Acked, Committed, Outbox, Parcel, StoreError};
use crate::time::{Span, Timestamp, now};

pub use http::HttpUplink;
pub use link::{Disposition, LinkError, Outcome, Uplink};
pub use mqtt::MqttUplink;

/// Longest time that a far side's Retry-After is obeyed.
const RETRY_AFTER_MAX: Span = Span::seconds(3600);
/// Tries of one lane's parcel before another lane has its turn: the fault may be in the parcel and not in the link.
const SAME_LANE_TRIES: u64 = 8;

/// What was sent, counted since the start.
#[derive(Debug, Default)]
pub struct UplinkCounts {
    /// Parcels acknowledged.
    pub parcels: AtomicU64,
    /// Records in them.
    pub records: AtomicU64,
    /// Their bytes, before compression.
    pub bytes: AtomicU64,
    /// Records refused for good.
    pub refused: AtomicU64,
    /// Sends that failed.
    pub failures: AtomicU64,
    /// Times the link went from up to down.
    pub outages: AtomicU64,
}

/// How the uplink goes about it.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Most bytes of a parcel.
    pub parcel_bytes: usize,
    /// Longest wait between two tries.
    pub retry_max: Span,
    /// How long it goes on after it was told to stop.
    pub drain_for: Span,
}

impl Pace {
    /// As the config says.
    pub fn new(config: &UplinkConfig) -> Pace {
        Pace {
            parcel_bytes: usize::try_from(config.parcel.as_u64()).unwrap_or(usize::MAX).max(1),
            retry_max: config.retry_max,
            drain_for: config.drain_for,
        }
    }
}

/// Sends what is committed until `stop`, and then what is left for [`Pace::drain_for`], as long as the link works.
///
/// # Errors
/// The outbox cannot be read or written; the node has to end.
pub async fn run(
    uplink: impl Uplink,
    outbox: Outbox,
    mut committed: watch::Receiver<Committed>,
    status: watch::Sender<LinkStatus>,
    counts: Arc<UplinkCounts>,
    pace: Pace,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    let deadline = {
        let stop = stop.clone();
        async move {
            stop.cancelled().await;
            tokio::time::sleep(pace.drain_for.to_std()).await;
        }
    };
    let mut sender = Sender {
        uplink,
        outbox: Some(outbox),
        status,
        counts,
        pace,
        budget: pace.parcel_bytes,
        held: BTreeMap::new(),
        backoff: Backoff::new(pace.retry_max),
        down: None,
    };
    let mut deadline: Deadline = Box::pin(deadline);
    loop {
        let upto = *committed.borrow_and_update();
        let Some(parcel) = sender.pick(upto).await? else {
            if stop.is_cancelled() {
                break;
            }
            tokio::select! {
                changed = committed.changed() => if changed.is_err() { break },
                () = stop.cancelled() => {}
            }
            continue;
        };
        match sender.send(parcel, &mut deadline).await? {
            Sent::Settled => {}
            Sent::OutOfTime => break,
            Sent::Failed(wait) => {
                // A link that is down when the node stops is not waited for: the outbox keeps what is left.
                if tokio::time::timeout(wait, stop.cancelled()).await.is_ok() {
                    break;
                }
                sender.probing();
            }
        }
    }
    let flushed = sender.with_outbox(Outbox::flush).await;
    sender.status.send_replace(LinkStatus::Stopped);
    flushed
}

type Deadline = Pin<Box<dyn Future<Output = ()> + Send>>;

enum Sent {
    Settled,
    Failed(Duration),
    OutOfTime,
}

struct Sender<U> {
    uplink: U,
    /// Only absent while a blocking task has it.
    outbox: Option<Outbox>,
    status: watch::Sender<LinkStatus>,
    counts: Arc<UplinkCounts>,
    pace: Pace,
    /// Halved while the far side refuses a parcel of several records, to find the one it means.
    budget: usize,
    /// A lane's parcel whose fate is not known. It goes out again as it was, so that its id means the same.
    held: BTreeMap<Lane, Parcel>,
    backoff: Backoff,
    down: Option<(Timestamp, String, u64)>,
}

impl<U: Uplink> Sender<U> {
    // The most urgent parcel: the outbox gives the first lane that has something.
    async fn pick(&mut self, upto: Committed) -> Result<Option<Parcel>, StoreError> {
        let budget = self.budget;
        let turn = self.down.as_ref().map_or(0, |(_, _, retries)| retries / SAME_LANE_TRIES);
        let next = self.with_outbox(move |outbox| next(outbox, upto, budget, turn)).await?;
        let Some(next) = next else {
            // Whatever was held has been evicted meanwhile, and counted there.
            self.held.clear();
            return Ok(None);
        };
        let first = |parcel: &Parcel| parcel.records().next().map(|(key, _)| key);
        Ok(Some(match self.held.remove(&next.lane) {
            Some(held) if first(&held) == first(&next) => held,
            _ => next,
        }))
    }

    async fn send(&mut self, parcel: Parcel, deadline: &mut Deadline) -> Result<Sent, StoreError> {
        let Outcome { acked, error } = tokio::select! {
            outcome = self.uplink.send(&parcel) => outcome,
            () = deadline => return Ok(Sent::OutOfTime),
        };
        let partly = !acked.is_empty();
        if partly {
            self.delivered(&parcel, acked).await?;
        }
        let Some(error) = error else {
            self.budget = self.budget.saturating_mul(2).min(self.pace.parcel_bytes);
            self.up();
            return Ok(Sent::Settled);
        };
        match error.disposition() {
            Disposition::Refused { reason } => {
                // The far side answers, so the link is up.
                self.up();
                self.refused(&parcel, &reason).await?;
                Ok(Sent::Settled)
            }
            Disposition::Retry { after } => {
                if !partly {
                    self.held.insert(parcel.lane, parcel);
                }
                Ok(Sent::Failed(self.failed(&error, after)))
            }
        }
    }

    async fn delivered(&mut self, parcel: &Parcel, acked: Acked) -> Result<(), StoreError> {
        let bytes = if acked.len() == parcel.len() { parcel.bytes() } else { 0 };
        add(&self.counts.parcels, u64::from(bytes > 0));
        add(&self.counts.records, acked.len() as u64);
        add(&self.counts.bytes, bytes as u64);
        self.with_outbox(move |outbox| outbox.settle(acked)).await
    }

    // A parcel of several is halved until the record that is meant stands alone; that one goes into quarantine.
    async fn refused(&mut self, parcel: &Parcel, reason: &str) -> Result<(), StoreError> {
        if parcel.len() > 1 {
            self.budget = (parcel.bytes() / 2).max(1);
            return Ok(());
        }
        let target = self.uplink.target();
        tracing::warn!(target, parcel = parcel.id, reason, "a record was refused for good");
        add(&self.counts.refused, 1);
        let refused = parcel.refused(reason);
        self.with_outbox(move |outbox| outbox.refuse(refused)).await
    }

    fn up(&mut self) {
        self.backoff.reset();
        let since = now();
        if let Some((down_since, _, retries)) = self.down.take() {
            let away = since.since(down_since);
            tracing::info!(target = self.uplink.target(), %away, retries, "the uplink works again");
        }
        let known = matches!(*self.status.borrow(), LinkStatus::Up { .. });
        if !known {
            let refused = Vec::new();
            self.status.send_replace(LinkStatus::Up { since, session_present: false, refused });
        }
    }

    // Notes a failure and says how long to wait.
    fn failed(&mut self, error: &LinkError, after: Option<Span>) -> Duration {
        add(&self.counts.failures, 1);
        let error = error.to_string();
        let (since, retries) = if let Some((since, _, retries)) = &self.down {
            (*since, retries + 1)
        } else {
            add(&self.counts.outages, 1);
            tracing::warn!(
                target = self.uplink.target(),
                error,
                "the uplink is down; records are kept"
            );
            (now(), 0)
        };
        self.down = Some((since, error.clone(), retries));
        self.status.send_replace(LinkStatus::Down { since, error, retries });
        let wait = self.backoff.wait();
        match after {
            Some(after) => wait.max(after.min(RETRY_AFTER_MAX).to_std()),
            None => wait,
        }
    }

    fn probing(&self) {
        if let Some((since, error, retries)) = self.down.clone() {
            self.status.send_replace(LinkStatus::Probing { since, error, retries });
        }
    }

    // The outbox waits for the disk, so it is used where waiting is allowed.
    async fn with_outbox<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Outbox) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let mut outbox = self.outbox.take().expect("invariant: every use puts it back");
        let (outbox, result) = tokio::task::spawn_blocking(move || {
            let result = work(&mut outbox);
            (outbox, result)
        })
        .await
        .expect("invariant: the outbox returns its errors");
        self.outbox = Some(outbox);
        result
    }
}

/// The next parcel: of the first lane that has any, or, by the turn, of one after it.
fn next(
    outbox: &mut Outbox,
    upto: Committed,
    budget: usize,
    turn: u64,
) -> Result<Option<Parcel>, StoreError> {
    if turn == 0 {
        return outbox.next(upto, budget);
    }
    let mut parcels = Vec::new();
    for lane in Lane::ALL {
        parcels.extend(outbox.peek(lane, upto, budget, 0)?);
    }
    let place = turn % (parcels.len().max(1) as u64);
    Ok(parcels.into_iter().nth(place as usize))
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
