//! One target's sending: picks a parcel, sends it, settles it, and keeps rate, budget and the state of the link.
//!
//! `uplink::run` drives it. What it promises stands there.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::allowance::{Allowance, Exhausted};
use super::order::{Class, Order, Wish};
use super::pace::Pace;
use super::{Deadline, Disposition, LinkError, Outcome, Terms, Uplink, UplinkCounts, add};
use crate::command::quarantine::{self, Ask, Held, Inquiry};
use crate::link::{Backoff, LinkStatus};
use crate::record::Lane;
use crate::store::{Acked, Committed, NOT_THERE, Outbox, Parcel, Quarantined, StoreError};
use crate::time::{Span, Timestamp, monotonic, now};

/// Longest time that a far side's Retry-After is obeyed.
const RETRY_AFTER_MAX: Span = Span::seconds(3600);
/// Tries of one lane's parcel before another lane has its turn: the fault may be in the parcel and not in the link.
const SAME_LANE_TRIES: u64 = 8;
/// How often an idle uplink looks whether there is a new budget.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Parcels whose fate is not known that are kept as they were; there is one a lane and class at most.
const HELD_MAX: usize = 8;

/// What there is to do.
pub(super) enum Picked {
    /// Send this.
    Parcel(Parcel),
    /// Nothing may go before this moment but alarms, and there are none.
    Later(Instant),
    /// Wait for records.
    Nothing,
}

/// What came of it.
pub(super) enum Sent {
    Settled,
    Failed(Duration),
    OutOfTime,
}

/// See the module.
pub(super) struct Sender<U> {
    uplink: U,
    /// Only absent while a blocking task has it.
    outbox: Option<Outbox>,
    status: watch::Sender<LinkStatus>,
    counts: Arc<UplinkCounts>,
    pace: Pace,
    order: Order,
    class: Class,
    allowance: Allowance,
    exhausted: Option<Exhausted>,
    /// Most bytes of lines; halved while the far side refuses a parcel of several records, to find the one it means.
    limit: usize,
    limit_max: usize,
    /// Parcels whose fate is not known. They go out again as they were, so that their ids mean the same.
    held: Vec<Parcel>,
    backoff: Backoff,
    down: Option<(Timestamp, String, u64)>,
}

impl<U: Uplink> Sender<U> {
    pub(super) async fn new(
        uplink: U,
        outbox: Outbox,
        status: watch::Sender<LinkStatus>,
        counts: Arc<UplinkCounts>,
        terms: Terms,
    ) -> Result<Sender<U>, StoreError> {
        let mut sender = Sender {
            uplink,
            outbox: Some(outbox),
            status,
            counts,
            pace: Pace::new(terms.parcel_bytes, terms.rate, terms.gather),
            order: Order::new(terms.fresh),
            class: Class::Alarm,
            allowance: Allowance::new(&terms.budget, None),
            exhausted: None,
            limit: terms.parcel_bytes,
            limit_max: terms.parcel_bytes,
            held: Vec::new(),
            backoff: Backoff::new(terms.retry_max),
            down: None,
        };
        let spent = sender.with_outbox(|outbox| outbox.note()).await?;
        sender.allowance = Allowance::new(&terms.budget, spent.as_deref());
        sender.mark().await?;
        Ok(sender)
    }

    /// Gathers no more: the node stops.
    pub(super) fn hurry(&mut self) {
        self.pace.hurry();
    }

    /// All that waits now is a backlog.
    async fn mark(&mut self) -> Result<(), StoreError> {
        let mut order = self.order.clone();
        self.order = self
            .with_outbox(move |outbox| {
                order.mark(outbox);
                Ok(order)
            })
            .await?;
        Ok(())
    }

    /// The most urgent parcel that may go.
    pub(super) async fn pick(&mut self, upto: Committed) -> Result<Picked, StoreError> {
        let was_exhausted = self.exhausted.is_some();
        let free_at = self.pace.free_at(monotonic());
        let lanes = self.lanes(free_at.is_some());
        if was_exhausted && self.exhausted.is_none() {
            self.mark().await?;
        }
        let turn = self.down.as_ref().map_or(0, |(_, _, retries)| retries / SAME_LANE_TRIES);
        let (order, ask) = (self.order.clone(), Wish { upto, lanes, turn });
        let mut held = std::mem::take(&mut self.held);
        let (next, held) = self
            .with_outbox(move |outbox| {
                let next = order.next(outbox, &ask)?;
                let next =
                    next.map(|(parcel, class)| again(outbox, upto, &mut held, parcel, class));
                Ok((next.transpose()?, held))
            })
            .await?;
        self.held = held;
        let Some((next, class)) = next else {
            if let Some(when) = free_at {
                return Ok(Picked::Later(when));
            }
            if self.exhausted.is_none() {
                // Whatever was held has been evicted meanwhile, and counted there.
                self.held.clear();
            }
            return Ok(Picked::Nothing);
        };
        self.class = class;
        Ok(Picked::Parcel(next))
    }

    /// The lanes that may go, each with most bytes of lines.
    fn lanes(&mut self, only_alarms: bool) -> Vec<(Lane, usize)> {
        let mut lanes = Vec::with_capacity(Lane::ALL.len());
        let mut exhausted = None;
        for lane in Lane::ALL {
            match self.allowance.left(lane, now()) {
                Ok(left) if lane == Lane::Alarm || !only_alarms => {
                    lanes.push((lane, self.pace.parcel_bytes(left).min(self.limit)));
                }
                Ok(_) => {}
                Err(why) => exhausted = Some(why),
            }
        }
        if self.exhausted != exhausted {
            let target = self.uplink.target();
            if let Some(Exhausted { period, until }) = exhausted {
                tracing::warn!(target, %until, "the uplink's budget of the {period} is used up; what has no budget left waits, alarms go on");
            } else {
                tracing::info!(target, "the uplink has a new budget");
            }
            let until = exhausted.map_or(0, |why| why.until.0);
            self.counts.saving_until.store(until, Ordering::Relaxed);
            self.exhausted = exhausted;
        }
        lanes
    }

    /// Sends a parcel and settles what the far side has of it.
    pub(super) async fn send(
        &mut self,
        parcel: Parcel,
        deadline: &mut Deadline,
    ) -> Result<Sent, StoreError> {
        let started = monotonic();
        let Outcome { acked, error, wire } = tokio::select! {
            outcome = self.uplink.send(&parcel, self.pace.level()) => outcome,
            () = deadline => return Ok(Sent::OutOfTime),
        };
        self.spend(parcel.lane, wire).await?;
        let partly = !acked.is_empty();
        if partly {
            self.delivered(&parcel, acked).await?;
        }
        let Some(error) = error else {
            self.pace.sent(parcel.bytes(), wire, started.elapsed());
            if self.class != Class::Alarm {
                self.pace.gather(parcel.bytes(), monotonic());
            }
            self.order.sent(self.class, wire);
            self.limit = self.limit.saturating_mul(2).min(self.limit_max);
            self.up().await?;
            return Ok(Sent::Settled);
        };
        match error.disposition() {
            Disposition::Refused { reason, is_size } => {
                // The far side answers, so the link is up.
                self.up().await?;
                if is_size && parcel.len() > 1 {
                    self.pace.too_large(parcel.bytes());
                }
                self.refused(&parcel, &reason).await?;
                Ok(Sent::Settled)
            }
            Disposition::Retry { after } => {
                self.pace.failed();
                if !partly && self.held.len() < HELD_MAX {
                    self.held.push(parcel);
                }
                Ok(Sent::Failed(self.failed(&error, after)))
            }
        }
    }

    /// Counts what was on the wire.
    async fn spend(&mut self, lane: Lane, wire: u64) -> Result<(), StoreError> {
        add(&self.counts.wire, wire);
        self.pace.spent(wire, monotonic());
        self.allowance.charge(lane, wire, now());
        if self.allowance.is_limited() && wire > 0 {
            let note = self.allowance.to_bytes();
            self.with_outbox(move |outbox| outbox.keep_note(&note)).await?;
        }
        Ok(())
    }

    async fn delivered(&mut self, parcel: &Parcel, acked: Acked) -> Result<(), StoreError> {
        let bytes = if acked.len() == parcel.len() { parcel.bytes() } else { 0 };
        add(&self.counts.parcels, u64::from(bytes > 0));
        add(&self.counts.records, acked.len() as u64);
        add(&self.counts.bytes, bytes as u64);
        self.with_outbox(move |outbox| outbox.settle(acked)).await
    }

    /// A parcel of several is halved until the record that is meant stands alone; that one goes into quarantine.
    async fn refused(&mut self, parcel: &Parcel, reason: &str) -> Result<(), StoreError> {
        if parcel.len() > 1 {
            self.limit = (parcel.bytes() / 2).max(1);
            return Ok(());
        }
        let target = self.uplink.target();
        tracing::warn!(target, parcel = parcel.id, reason, "a record was refused for good");
        add(&self.counts.refused, 1);
        let refused = parcel.refused(reason);
        self.with_outbox(move |outbox| outbox.refuse(refused)).await
    }

    async fn up(&mut self) -> Result<(), StoreError> {
        self.backoff.reset();
        let since = now();
        if let Some((down_since, _, retries)) = self.down.take() {
            let away = since.since(down_since);
            tracing::info!(target = self.uplink.target(), %away, retries, "the uplink works again");
            self.mark().await?;
        }
        let known = matches!(*self.status.borrow(), LinkStatus::Up { .. });
        if !known {
            let refused = Vec::new();
            self.status.send_replace(LinkStatus::Up { since, session_present: false, refused });
        }
        Ok(())
    }

    /// Notes a failure and says how long to wait.
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

    /// Says that a try is under way.
    pub(super) fn probing(&self) {
        if let Some((since, error, retries)) = self.down.clone() {
            self.status.send_replace(LinkStatus::Probing { since, error, retries });
        }
    }

    /// Makes durable what was settled.
    pub(super) async fn end(mut self) -> Result<(), StoreError> {
        let flushed = self.with_outbox(Outbox::flush).await;
        self.status.send_replace(LinkStatus::Stopped);
        flushed
    }

    /// Answers for what was refused.
    pub(super) async fn answer(&mut self, inquiry: Inquiry) -> Result<(), StoreError> {
        let Inquiry { ask, answer } = inquiry;
        let mut outcome = quarantine::Outcome::default();
        match ask {
            Ask::List(limit) => {
                let refused = self.with_outbox(move |outbox| outbox.refused(limit)).await?;
                outcome.held = refused.into_iter().map(held).collect();
            }
            Ask::Retry(numbers) => {
                for number in numbers {
                    match self.retry(number).await? {
                        Ok(()) => outcome.done.push(number),
                        Err(why) => drop(outcome.failed.insert(number, why)),
                    }
                }
            }
            Ask::Drop(numbers) => {
                for number in numbers {
                    if self.with_outbox(move |outbox| outbox.let_go(number)).await? {
                        outcome.done.push(number);
                    } else {
                        outcome.failed.insert(number, NOT_THERE.into());
                    }
                }
            }
        }
        // Who asked may be gone.
        let _ = answer.send(outcome);
        Ok(())
    }

    /// Sends a refused record once more; it stays refused in the books.
    async fn retry(&mut self, number: u64) -> Result<Result<(), String>, StoreError> {
        let parcel = match self.with_outbox(move |outbox| outbox.retry(number)).await? {
            Ok(parcel) => parcel,
            Err(why) => return Ok(Err(why.to_owned())),
        };
        let Outcome { error, wire, .. } = self.uplink.send(&parcel, self.pace.level()).await;
        self.spend(parcel.lane, wire).await?;
        if let Some(error) = error {
            return Ok(Err(error.to_string()));
        }
        tracing::info!(
            target = self.uplink.target(),
            parcel = parcel.id,
            "a refused record was taken"
        );
        self.with_outbox(move |outbox| outbox.let_go(number)).await?;
        Ok(Ok(()))
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

fn held(one: Quarantined) -> Held {
    let Quarantined { number, why, topic, payload, bytes } = one;
    let is_whole = payload.len() as u64 == bytes;
    let record = is_whole.then(|| serde_json::from_slice(&payload).ok()).flatten();
    Held { number, why, key: topic, bytes, record }
}

/// A lane's parcel whose fate is not known goes before any other of the lane: its records must not go out under another
/// id. One that is no longer there was evicted, and is forgotten.
fn again(
    outbox: &Outbox,
    upto: Committed,
    held: &mut Vec<Parcel>,
    next: Parcel,
    class: Class,
) -> Result<(Parcel, Class), StoreError> {
    while let Some(place) = held.iter().position(|held| held.lane == next.lane) {
        let old = held.remove(place);
        let now = outbox.peek(old.lane, upto, 1, old.first())?;
        if now.is_some_and(|now| now.first() == old.first()) {
            return Ok((old, class));
        }
    }
    Ok((next, class))
}
