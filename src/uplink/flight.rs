//! What is on its way: each parcel with all that must be known when it comes back.
//!
//! `sender` owns one. Sends are tasks, so that each goes on whatever the others wait for; dropping [`Flights`] gives them
//! up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::{Id, JoinSet};

use super::allowance::Lanes;
use super::link::{LinkError, Outcome, Sending};
use super::order::Class;
use super::pace::Trip;
use crate::record::Lane;
use crate::store::Parcel;
use crate::time::monotonic;

/// A parcel on its way.
pub(super) struct Flight {
    pub(super) parcel: Arc<Parcel>,
    pub(super) class: Class,
    /// How often the link had failed before it started.
    pub(super) failures: u64,
    /// Bytes on the wire that it was thought to take.
    pub(super) wire: u64,
    started: Instant,
    /// Bytes on the wire that were acknowledged before it started.
    before: u64,
    /// Nothing else was on the way since, but alarms: there is hardly anything to them, and they come at any time.
    is_alone: bool,
    /// An alarm beside others: its time says nothing of the link.
    pub(super) is_beside: bool,
    /// There was no place for another.
    is_full: bool,
}

/// All that is on its way.
#[derive(Default)]
pub(super) struct Flights {
    tasks: JoinSet<Outcome>,
    away: HashMap<Id, Flight>,
    /// Bytes on the wire that were acknowledged, of all that came back.
    acknowledged: u64,
}

impl Flights {
    /// A parcel sets out. `together`: how many may be on the way.
    pub(super) fn start(&mut self, mut flight: Flight, sending: Sending, together: usize) {
        let is_alarm = flight.class == Class::Alarm;
        let others = self.all().filter(|other| other.class != Class::Alarm).count();
        flight.is_beside = is_alarm && others > 0;
        flight.is_alone = if is_alarm { self.is_empty() } else { others == 0 };
        flight.is_full = others + 1 >= together;
        let is_disturbed = |other: &&mut Flight| !is_alarm || other.class == Class::Alarm;
        self.away.values_mut().filter(is_disturbed).for_each(|other| other.is_alone = false);
        flight.before = self.acknowledged;
        self.away.insert(self.tasks.spawn(sending).id(), flight);
    }

    /// The next one that comes back; waits for ever where there is none. May be dropped.
    pub(super) async fn next(&mut self) -> (Flight, Outcome) {
        loop {
            let (id, outcome) = match self.tasks.join_next_with_id().await {
                Some(Ok((id, outcome))) => (id, Ok(outcome)),
                Some(Err(error)) => (error.id(), Err(error.to_string())),
                None => std::future::pending().await,
            };
            if let Some(flight) = self.away.remove(&id) {
                let lost = |why| Outcome {
                    acked: flight.parcel.acked_keys([]),
                    error: Some(LinkError::Lost(why)),
                    wire: 0,
                };
                let outcome = outcome.unwrap_or_else(lost);
                if outcome.error.is_none() {
                    self.acknowledged += outcome.wire;
                }
                return (flight, outcome);
            }
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Flight> {
        self.away.values()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.away.is_empty()
    }

    /// Bytes on the wire by lane, as far as one can know.
    pub(super) fn wire(&self) -> Lanes {
        let of = |lane: Lane| {
            let of_lane = self.all().filter(|flight| flight.parcel.lane == lane);
            of_lane.map(|flight| flight.wire).sum()
        };
        Lane::ALL.map(of)
    }

    /// How the send of one that has come back went.
    pub(super) fn trip(&self, flight: &Flight, wire: u64) -> Trip {
        Trip {
            lines: flight.parcel.bytes(),
            wire,
            took: flight.started.elapsed(),
            meanwhile: self.acknowledged - flight.before,
            is_alone: flight.is_alone,
            is_full: flight.is_full,
        }
    }
}

impl Flight {
    pub(super) fn new(parcel: Arc<Parcel>, class: Class, failures: u64, wire: u64) -> Flight {
        let started = monotonic();
        let (before, is_alone, is_beside, is_full) = (0, true, false, true);
        Flight { parcel, class, failures, wire, started, before, is_alone, is_beside, is_full }
    }
}
