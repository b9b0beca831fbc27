//! The way out: takes parcels from the outbox, sends them over a link that comes and goes, settles them.
//!
//! `node` runs [`run`] as a task of its own, one for each target. It promises that a record leaves the outbox only after
//! the far side has acknowledged it (or refused it for good, which puts it into quarantine); that alarms go first, and
//! fresh records do not wait for a backlog; that a parcel whose fate is unknown is sent again as it was, under the same
//! id; that one record the far side cannot take holds up no other; and that rate and budget are kept. Several parcels are on
//! the way at once where a round trip is long, and may arrive in another order than they left. It does not decide what is
//! stored or dropped: the ledger does.

pub mod allowance;
mod courier;
mod flight;
pub mod http;
mod inquiry;
pub mod link;
pub mod mqtt;
mod order;
mod pace;
mod sender;
mod suspicion;
pub mod wire;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::command::quarantine::Inquiry;
use crate::config::{BudgetConfig, UplinkConfig};
use crate::link::LinkStatus;
use crate::store::{Committed, Outbox, StoreError};
use crate::time::{Span, Timestamp, monotonic};

pub use http::HttpUplink;
pub use link::{Disposition, LinkError, Outcome, Sending, Uplink};
pub use mqtt::MqttUplink;

use sender::{Next, Sender};

/// What was sent, counted since the start.
#[derive(Debug, Default)]
pub struct UplinkCounts {
    /// Parcels acknowledged.
    pub parcels: AtomicU64,
    /// Records in them.
    pub records: AtomicU64,
    /// Their bytes, before compression.
    pub bytes: AtomicU64,
    /// Bytes on the wire, of sends that failed too.
    pub wire: AtomicU64,
    /// Records refused for good.
    pub refused: AtomicU64,
    /// Sends that failed.
    pub failures: AtomicU64,
    /// Times the link went from up to down.
    pub outages: AtomicU64,
    /// When the used-up budget gives way to a new one, in microseconds since 1970; 0: none is used up.
    saving_until: AtomicI64,
    /// Whether a full disk keeps what the far side has from being written down.
    is_behind: AtomicBool,
}

impl UplinkCounts {
    /// When the next budget begins, if this one is used up.
    pub fn saving_until(&self) -> Option<Timestamp> {
        Some(self.saving_until.load(Ordering::Relaxed)).filter(|at| *at != 0).map(Timestamp)
    }

    /// Whether a full disk keeps what the far side has from being written down.
    pub fn is_behind(&self) -> bool {
        self.is_behind.load(Ordering::Relaxed)
    }
}

/// How the uplink goes about it.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Most bytes of a parcel.
    pub parcel_bytes: usize,
    /// Most parcels on the way at once, beside as many of alarms. 1: one, whatever it holds.
    pub in_flight: usize,
    /// Longest wait between two tries.
    pub retry_max: Span,
    /// How long it goes on after it was told to stop.
    pub drain_for: Span,
    /// Most bytes a second on the wire.
    pub rate: Option<u64>,
    /// How long records other than alarms are gathered.
    pub gather: Span,
    /// Share of the link that fresh records have while a backlog drains.
    pub fresh: f64,
    /// Most bytes on the wire in a day and a month.
    pub budget: BudgetConfig,
}

impl Terms {
    /// As the config says; `in_flight` is the target's.
    pub fn new(config: &UplinkConfig, in_flight: usize) -> Terms {
        Terms {
            parcel_bytes: usize::try_from(config.parcel.as_u64()).unwrap_or(usize::MAX).max(1),
            in_flight,
            retry_max: config.retry_max,
            drain_for: config.drain_for,
            rate: config.rate.map(|rate| rate.as_u64()),
            gather: config.gather,
            fresh: config.fresh,
            budget: config.budget.clone(),
        }
    }
}

/// How often an idle uplink looks whether there is a new budget.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// How often a full disk is looked at again.
const CATCH_UP_EVERY: Duration = Duration::from_secs(1);

/// When a stopping uplink gives up.
type Deadline = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Sends what is committed until `stop`, and then what is left for [`Terms::drain_for`], as long as the link works.
///
/// Meanwhile it answers inquiries about what was refused.
///
/// # Errors
/// The outbox cannot be read or written; the node has to end.
#[expect(clippy::too_many_arguments, reason = "a task's ends, each of another kind")]
pub async fn run(
    uplink: impl Uplink,
    outbox: Outbox,
    mut committed: watch::Receiver<Committed>,
    status: watch::Sender<LinkStatus>,
    counts: Arc<UplinkCounts>,
    terms: Terms,
    mut inquiries: mpsc::Receiver<Inquiry>,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    let mut deadline: Deadline = {
        let (stop, drain_for) = (stop.clone(), terms.drain_for.to_std());
        Box::pin(async move {
            stop.cancelled().await;
            tokio::time::sleep(drain_for).await;
        })
    };
    let mut sender = Sender::new(uplink, outbox, status, counts, terms).await?;
    let mut is_open = true;
    loop {
        let upto = *committed.borrow_and_update();
        let is_stopping = stop.is_cancelled();
        if is_stopping {
            sender.hurry();
        }
        while let Ok(inquiry) = inquiries.try_recv() {
            sender.answer(inquiry).await?;
        }
        sender.catch_up().await?;
        let next = sender.fill(upto).await?;
        // A link that is down when the node stops is not waited for: the outbox keeps what is left. With the budget used
        // up, too.
        let is_done = matches!(next, Next::Committed) && sender.is_idle();
        if (is_stopping && sender.rests()) || (is_done && (is_stopping || !is_open)) {
            break;
        }
        let wake = match next {
            Next::At(when) => when,
            // A new day may bring a new budget.
            Next::Back | Next::Committed if sender.is_behind() => monotonic() + CATCH_UP_EVERY,
            Next::Back | Next::Committed => monotonic() + LOOK_AGAIN,
        };
        tokio::select! {
            (flight, outcome) = sender.back() => sender.landed(flight, outcome).await?,
            changed = committed.changed(), if is_open => is_open = changed.is_ok(),
            Some(inquiry) = inquiries.recv() => sender.answer(inquiry).await?,
            () = stop.cancelled(), if !is_stopping => {}
            () = tokio::time::sleep_until(wake.into()) => {}
            () = &mut deadline => break,
        }
    }
    sender.end().await
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
