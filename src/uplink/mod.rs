//! The way out: takes parcels from the outbox, sends them over a link that comes and goes, settles them.
//!
//! `node` runs [`run`] as a task of its own, one for each target. It promises that a record leaves the outbox only after
//! the far side has acknowledged it (or refused it for good, which puts it into quarantine); that alarms go first, and
//! fresh records do not wait for a backlog; that a parcel whose fate is unknown is sent again as it was, under the same
//! id; that one record the far side cannot take holds up no other; and that rate and budget are kept. It does not decide
//! what is stored or dropped: the ledger does.

pub mod allowance;
pub mod http;
pub mod link;
pub mod mqtt;
mod order;
mod pace;
mod sender;
mod suspicion;
pub mod wire;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::command::quarantine::Inquiry;
use crate::config::{BudgetConfig, UplinkConfig};
use crate::link::LinkStatus;
use crate::store::{Committed, Outbox, StoreError};
use crate::time::{Span, Timestamp};

pub use http::HttpUplink;
pub use link::{Disposition, LinkError, Outcome, Uplink};
pub use mqtt::MqttUplink;

use sender::{Picked, Sender, Sent};

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
}

impl UplinkCounts {
    /// When the next budget begins, if this one is used up.
    pub fn saving_until(&self) -> Option<Timestamp> {
        Some(self.saving_until.load(Ordering::Relaxed)).filter(|at| *at != 0).map(Timestamp)
    }
}

/// How the uplink goes about it.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Most bytes of a parcel.
    pub parcel_bytes: usize,
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
    /// As the config says.
    pub fn new(config: &UplinkConfig) -> Terms {
        Terms {
            parcel_bytes: usize::try_from(config.parcel.as_u64()).unwrap_or(usize::MAX).max(1),
            retry_max: config.retry_max,
            drain_for: config.drain_for,
            rate: config.rate.map(|rate| rate.as_u64()),
            gather: config.gather,
            fresh: config.fresh,
            budget: config.budget.clone(),
        }
    }
}

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
    loop {
        let upto = *committed.borrow_and_update();
        if stop.is_cancelled() {
            sender.hurry();
        }
        while let Ok(inquiry) = inquiries.try_recv() {
            sender.answer(inquiry).await?;
        }
        let parcel = match sender.pick(upto).await? {
            Picked::Parcel(parcel) => parcel,
            // With the budget used up, too: the outbox keeps what is left.
            Picked::Nothing if stop.is_cancelled() => break,
            Picked::Nothing => {
                tokio::select! {
                    changed = committed.changed() => if changed.is_err() { break },
                    Some(inquiry) = inquiries.recv() => sender.answer(inquiry).await?,
                    () = stop.cancelled() => {}
                    // A new day may bring a new budget.
                    () = tokio::time::sleep(sender::LOOK_AGAIN) => {}
                }
                continue;
            }
            Picked::Later(when) => {
                tokio::select! {
                    // What was committed meanwhile may be an alarm; an error means that nothing more will be.
                    Ok(()) = committed.changed() => {}
                    () = tokio::time::sleep_until(when.into()) => {}
                    () = stop.cancelled(), if !stop.is_cancelled() => {}
                    () = &mut deadline => break,
                }
                continue;
            }
        };
        match sender.send(parcel, &mut deadline).await? {
            Sent::Settled => {}
            Sent::OutOfTime => break,
            Sent::Failed(wait) => {
                // A link that is down when the node stops is not waited for: the outbox keeps what is left.
                let mut wait = std::pin::pin!(tokio::time::sleep(wait));
                loop {
                    tokio::select! {
                        () = &mut wait => break,
                        () = stop.cancelled() => return sender.end().await,
                        Some(inquiry) = inquiries.recv() => sender.answer(inquiry).await?,
                    }
                }
                sender.probing();
            }
        }
    }
    sender.end().await
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
