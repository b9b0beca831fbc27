//! One target's sending: picks parcels, sends them, settles what comes back, and keeps rate, budget and the state of the
//! link.
//!
//! `uplink::run` drives it. What it promises stands there.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::allowance::{Allowance, Exhausted};
use super::flight::{Flight, Flights};
use super::order::{Class, Order, Wish};
use super::pace::Pace;
use super::{Disposition, LinkError, Outcome, Terms, Uplink, UplinkCounts, add};
use crate::link::{Backoff, LinkStatus};
use crate::record::Lane;
use crate::store::{Acked, Committed, Outbox, Parcel, StoreError};
use crate::time::{Span, Timestamp, monotonic, now};

/// Longest time that a far side's Retry-After is obeyed.
const RETRY_AFTER_MAX: Span = Span::seconds(3600);
/// Tries of one lane's parcel before another lane has its turn: the fault may be in the parcel and not in the link.
const SAME_LANE_TRIES: u64 = 8;

/// A link that held this long works.
const STEADY: Duration = Duration::from_mins(2);

/// When there is something to do again.
pub(super) enum Next {
    /// At this moment, or when something comes back or is committed.
    At(Instant),
    /// When something comes back.
    Back,
    /// When something is committed.
    Committed,
}

/// See the module.
pub(super) struct Sender<U> {
    pub(super) uplink: U,
    /// Only absent while a blocking task has it.
    outbox: Option<Outbox>,
    status: watch::Sender<LinkStatus>,
    counts: Arc<UplinkCounts>,
    pub(super) pace: Pace,
    order: Order,
    flights: Flights,
    in_flight: usize,
    allowance: Allowance,
    exhausted: Option<Exhausted>,
    /// By lane, most bytes of lines; halved while the far side refuses a parcel of several records, to find the one it
    /// means.
    limits: [usize; 4],
    limit_max: usize,
    /// Parcels whose fate is not known. They go out again as they were, so that their ids mean the same. No more of a
    /// lane are there than were on their way at once: nothing else of it goes before them.
    held: Vec<Arc<Parcel>>,
    backoff: Backoff,
    /// Since when the link is down, why, tries since, and when the next one is due.
    down: Option<Down>,
    failures: u64,
    /// What the last outage that was told was about, and when the last one ended.
    told: Option<(String, Instant)>,
}

struct Down {
    since: Timestamp,
    error: String,
    retries: u64,
    rests_until: Instant,
    is_told: bool,
}

impl<U: Uplink> Sender<U> {
    pub(super) async fn new(
        uplink: U,
        outbox: Outbox,
        status: watch::Sender<LinkStatus>,
        counts: Arc<UplinkCounts>,
        terms: Terms,
    ) -> Result<Sender<U>, StoreError> {
        let Terms { parcel_bytes, in_flight, rate, gather, .. } = terms;
        let mut sender = Sender {
            uplink,
            outbox: Some(outbox),
            status,
            counts,
            pace: Pace::new(parcel_bytes, in_flight, rate, gather),
            order: Order::new(terms.fresh),
            flights: Flights::default(),
            in_flight: in_flight.max(1),
            allowance: Allowance::new(&terms.budget, None),
            exhausted: None,
            limits: [parcel_bytes; 4],
            limit_max: parcel_bytes,
            held: Vec::new(),
            backoff: Backoff::new(terms.retry_max),
            down: None,
            failures: 0,
            told: None,
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

    /// Whether a full disk keeps what was settled from being written down.
    pub(super) fn is_behind(&self) -> bool {
        self.counts.is_behind()
    }

    /// Whether nothing is on the way.
    pub(super) fn is_idle(&self) -> bool {
        self.flights.is_empty()
    }

    /// Whether the link is down and the next try not due.
    pub(super) fn rests(&self) -> bool {
        self.down.as_ref().is_some_and(|down| down.rests_until > monotonic())
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

    /// Sends all that may go now.
    pub(super) async fn fill(&mut self, upto: Committed) -> Result<Next, StoreError> {
        loop {
            let now = monotonic();
            if let Some(down) = self.down.as_ref().filter(|down| down.rests_until > now) {
                return Ok(Next::At(down.rests_until));
            }
            let was_exhausted = self.exhausted.is_some();
            let free_at = self.pace.free_at(now);
            let lanes = self.lanes(free_at, now);
            if was_exhausted && self.exhausted.is_none() {
                self.mark().await?;
            }
            let is_shut = lanes.is_empty();
            if let Some((parcel, class)) = self.pick(upto, lanes).await? {
                self.start(parcel, class);
                continue;
            }
            if self.flights.is_empty() && free_at.is_none() && self.exhausted.is_none() {
                // Whatever was held has been evicted meanwhile, and counted there.
                self.held.clear();
            }
            return Ok(match free_at {
                _ if is_shut => Next::Back,
                Some(when) => Next::At(when),
                None => Next::Committed,
            });
        }
    }

    /// The most urgent parcel of these lanes.
    async fn pick(
        &mut self,
        upto: Committed,
        lanes: Vec<(Lane, usize)>,
    ) -> Result<Option<(Arc<Parcel>, Class)>, StoreError> {
        if lanes.is_empty() {
            return Ok(None);
        }
        let turn = self.down.as_ref().map_or(0, |down| down.retries / SAME_LANE_TRIES);
        let busy = self.flights.all().map(|flight| (flight.class, flight.parcel.lane)).collect();
        let least = self.pace.parcel_bytes(u64::MAX) / 2;
        let (order, ask) = (self.order.clone(), Wish { upto, lanes, turn, busy, least });
        let mut held = std::mem::take(&mut self.held);
        let (next, held) = self
            .with_outbox(move |outbox| {
                let next = match order.next(outbox, &ask)? {
                    Some((parcel, class)) => {
                        let parcel = again(outbox, upto, &mut held, parcel)?;
                        outbox.sets_out(&parcel);
                        Some((parcel, class))
                    }
                    None => None,
                };
                Ok((next, held))
            })
            .await?;
        self.held = held;
        Ok(next)
    }

    fn start(&mut self, parcel: Arc<Parcel>, class: Class) {
        let wire = self.pace.wire_bytes(parcel.bytes());
        let now = monotonic();
        let is_other = |flight: &Flight| flight.class != Class::Alarm;
        let is_alone = class != Class::Alarm && !self.flights.all().any(is_other);
        self.pace.starts(wire, is_alone, now);
        self.pace.spent(wire, now);
        if class != Class::Alarm {
            self.pace.gather(parcel.bytes(), now);
        }
        self.order.sent(class, wire);
        if let Some(Down { since, error, retries, .. }) = &self.down {
            let (since, error, retries) = (*since, error.clone(), *retries);
            self.status.send_replace(LinkStatus::Probing { since, error, retries });
        }
        let sending = self.uplink.send(Arc::clone(&parcel), self.pace.level());
        let flight = Flight::new(parcel, class, self.failures, wire);
        self.flights.start(flight, sending, self.pace.together());
    }

    /// The lanes that may go, each with most bytes of lines.
    fn lanes(&mut self, free_at: Option<Instant>, at: Instant) -> Vec<(Lane, usize)> {
        let (alarms, others) = self.places(at);
        let on_the_way = self.flights.wire();
        let mut lanes = Vec::with_capacity(Lane::ALL.len());
        let mut exhausted = None;
        for lane in Lane::ALL {
            let has_place = if lane == Lane::Alarm { alarms } else { others && free_at.is_none() };
            let limit = self.limits.get(lane as usize).copied().unwrap_or(self.limit_max);
            let is_away = |flight: &Flight| flight.parcel.lane == lane;
            // A lane in which a record is looked for sends one parcel at a time.
            let waits = limit < self.limit_max && self.flights.all().any(is_away);
            match self.allowance.left(lane, &on_the_way, now()) {
                Ok(left) if has_place && left > 0 && !waits => {
                    lanes.push((lane, self.pace.parcel_bytes(left).min(limit)));
                }
                Ok(_) => {}
                Err(why) => exhausted = Some(why),
            }
        }
        self.tell_budget(exhausted);
        lanes
    }

    /// Whether there are places for alarms, and for others. Alarms have as many of their own, so that none waits until
    /// something comes back; but a link that is down is tried with one parcel, and where there is one place there is one.
    fn places(&self, at: Instant) -> (bool, bool) {
        let tried = self.flights.all().filter(|flight| flight.failures == self.failures);
        let (alarms, others): (Vec<_>, Vec<_>) =
            tried.partition(|flight| flight.class == Class::Alarm);
        let all = alarms.len() + others.len();
        if self.down.is_some() || self.in_flight == 1 {
            return (all == 0, all == 0);
        }
        let room = if self.pace.wants_alone(at) { 1 } else { self.pace.together() };
        let has_room = others.len() < room;
        (alarms.len() < self.in_flight, has_room)
    }

    fn tell_budget(&mut self, exhausted: Option<Exhausted>) {
        if self.exhausted == exhausted {
            return;
        }
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

    /// The next parcel that comes back. May be dropped.
    pub(super) async fn back(&mut self) -> (Flight, Outcome) {
        self.flights.next().await
    }

    /// Settles what the far side has of a parcel that came back.
    pub(super) async fn landed(
        &mut self,
        flight: Flight,
        outcome: Outcome,
    ) -> Result<(), StoreError> {
        let Outcome { acked, error, wire } = outcome;
        let parcel = Arc::clone(&flight.parcel);
        self.pace.corrected(flight.wire, wire);
        self.spend(parcel.lane, wire).await?;
        let partly = !acked.is_empty();
        self.delivered(&parcel, acked).await?;
        // One that started before the link failed says nothing of it now.
        let is_late = flight.failures != self.failures;
        let disposition = error.as_ref().map(LinkError::disposition);
        match (error, disposition) {
            (Some(error), Some(Disposition::Retry { after })) => {
                if !partly {
                    self.held.push(parcel);
                }
                if is_late {
                    add(&self.counts.failures, 1);
                } else {
                    self.failed(&error, after);
                }
            }
            (_, Some(Disposition::Refused { reason, is_size })) => {
                // The far side answers, so the link is up.
                self.up(is_late).await?;
                if is_size && parcel.len() > 1 {
                    self.pace.too_large(parcel.bytes());
                }
                self.refused(&parcel, &reason).await?;
            }
            _ => {
                if !flight.is_beside {
                    self.pace.sent(self.flights.trip(&flight, wire));
                }
                if let Some(limit) = self.limits.get_mut(parcel.lane as usize)
                    && parcel.bytes() <= *limit
                {
                    *limit = limit.saturating_mul(2).min(self.limit_max);
                }
                self.up(is_late).await?;
            }
        }
        Ok(())
    }

    /// Counts what was on the wire.
    pub(super) async fn spend(&mut self, lane: Lane, wire: u64) -> Result<(), StoreError> {
        add(&self.counts.wire, wire);
        self.allowance.charge(lane, wire, now());
        if self.allowance.is_limited() && wire > 0 {
            let note = self.allowance.to_bytes();
            self.with_outbox(move |outbox| outbox.keep_note(&note)).await?;
        }
        Ok(())
    }

    async fn delivered(&mut self, parcel: &Arc<Parcel>, acked: Acked) -> Result<(), StoreError> {
        let bytes = if acked.len() == parcel.len() { parcel.bytes() } else { 0 };
        add(&self.counts.parcels, u64::from(bytes > 0));
        add(&self.counts.records, acked.len() as u64);
        add(&self.counts.bytes, bytes as u64);
        let parcel = Arc::clone(parcel);
        self.with_outbox(move |outbox| {
            outbox.is_back(&parcel);
            outbox.settle(acked)
        })
        .await
    }

    /// A parcel of several is halved until the record that is meant stands alone; that one goes into quarantine.
    async fn refused(&mut self, parcel: &Parcel, reason: &str) -> Result<(), StoreError> {
        if parcel.len() > 1 {
            if let Some(limit) = self.limits.get_mut(parcel.lane as usize) {
                *limit = (parcel.bytes() / 2).max(1);
            }
            return Ok(());
        }
        let refused = parcel.refused(reason);
        match self.with_outbox(move |outbox| outbox.refuse(refused)).await {
            // It could not be kept to look into, so it stays where it is, and is refused once more.
            Err(full @ StoreError::Full { .. }) => {
                self.failed(&LinkError::Lost(full.to_string()), None);
                return Ok(());
            }
            other => other?,
        }
        let target = self.uplink.target();
        tracing::warn!(target, parcel = parcel.id, reason, "a record was refused for good");
        add(&self.counts.refused, 1);
        Ok(())
    }

    /// What a full disk kept from being written down is tried again.
    pub(super) async fn catch_up(&mut self) -> Result<(), StoreError> {
        if self.counts.is_behind.load(Ordering::Relaxed) {
            self.with_outbox(Outbox::flush).await?;
        }
        Ok(())
    }

    async fn up(&mut self, is_late: bool) -> Result<(), StoreError> {
        if is_late {
            return Ok(());
        }
        self.backoff.reset();
        let since = now();
        if let Some(Down { since: down_since, retries, is_told, .. }) = self.down.take() {
            let away = since.since(down_since);
            if is_told {
                tracing::info!(target = self.uplink.target(), %away, retries, "the uplink works again");
            }
            self.told = self.told.take().map(|(error, _)| (error, monotonic()));
            self.mark().await?;
        }
        let known = matches!(*self.status.borrow(), LinkStatus::Up { .. });
        if !known {
            let refused = Vec::new();
            self.status.send_replace(LinkStatus::Up { since, session_present: false, refused });
        }
        Ok(())
    }

    /// Notes a failure, and when to try again.
    fn failed(&mut self, error: &LinkError, after: Option<Span>) {
        add(&self.counts.failures, 1);
        self.failures += 1;
        self.pace.failed();
        let error = error.to_string();
        let (since, retries, is_told) = if let Some(down) = &self.down {
            (down.since, down.retries + 1, down.is_told)
        } else {
            add(&self.counts.outages, 1);
            // One that comes and goes for the same reason is told once.
            let is_old = |(told, at): &(String, Instant)| *told == error && at.elapsed() < STEADY;
            let is_told = !self.told.as_ref().is_some_and(is_old);
            if is_told {
                tracing::warn!(
                    target = self.uplink.target(),
                    error,
                    "the uplink is down; records are kept"
                );
                self.told = Some((error.clone(), monotonic()));
            }
            (now(), 0, is_told)
        };
        let wait = self.backoff.wait();
        let after = after.map_or(wait, |after| wait.max(after.min(RETRY_AFTER_MAX).to_std()));
        let rests_until = monotonic() + after;
        self.down = Some(Down { since, error: error.clone(), retries, rests_until, is_told });
        self.status.send_replace(LinkStatus::Down { since, error, retries });
    }

    /// Makes durable what was settled.
    pub(super) async fn end(mut self) -> Result<(), StoreError> {
        let flushed = self.with_outbox(Outbox::flush).await;
        self.status.send_replace(LinkStatus::Stopped);
        flushed
    }

    // The outbox waits for the disk, so it is used where waiting is allowed.
    pub(super) async fn with_outbox<T: Send + 'static>(
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
        let is_behind = outbox.is_behind();
        if self.counts.is_behind.swap(is_behind, Ordering::Relaxed) != is_behind {
            let target = self.uplink.target();
            if is_behind {
                tracing::error!(
                    target,
                    "the disk is full: what the far side has cannot be written down; sending goes on, and after a crash it is sent again"
                );
            } else {
                tracing::info!(
                    target,
                    "there is space on the disk again; what the far side has is written down"
                );
            }
        }
        self.outbox = Some(outbox);
        result
    }
}

/// A lane's parcel whose fate is not known goes before any other of the lane: its records must not go out under another
/// id. One that is no longer there was evicted, and is forgotten.
fn again(
    outbox: &Outbox,
    upto: Committed,
    held: &mut Vec<Arc<Parcel>>,
    next: Parcel,
) -> Result<Arc<Parcel>, StoreError> {
    while let Some(place) = held.iter().position(|held| held.lane == next.lane) {
        let old = held.remove(place);
        let now = outbox.peek(old.lane, upto, 1, old.first())?;
        if now.is_some_and(|now| now.first() == old.first()) {
            return Ok(old);
        }
    }
    Ok(Arc::new(next))
}
