//! Which records go next: alarms, then fresh ones and the backlog in turn.
//!
//! `sender` asks it for every parcel. A backlog is what waited when the link came up; what came later is fresh. It
//! promises that alarms go before all, that within a class lanes go in their order and a lane's records in theirs, and
//! that while both are there, fresh records have their share of the bytes. Of what is on the way it takes no second, small
//! parcel: with the next ones it costs less, and it is not there sooner alone.

use crate::record::Lane;
use crate::store::{Committed, Outbox, Parcel, StoreError};

/// A class of records of one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Alarm,
    Fresh,
    Backlog,
}

/// What decides the order.
#[derive(Clone, Debug)]
pub(super) struct Order {
    /// By lane, the number of the last record of the backlog.
    marks: [u64; 4],
    /// Share of fresh records, 0 to 1.
    share: f64,
    /// Bytes sent of each class since both had something.
    fresh: f64,
    backlog: f64,
}

/// What is looked for.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) upto: Committed,
    /// Lanes that may go, with most bytes of lines of a parcel.
    pub(super) lanes: Vec<(Lane, usize)>,
    /// 0: the most urgent parcel; more: one of those after it.
    pub(super) turn: u64,
    /// What has a parcel on the way: there, less than `least` bytes of lines wait for company.
    pub(super) busy: Vec<(Class, Lane)>,
    pub(super) least: usize,
}

impl Order {
    pub(super) fn new(share: f64) -> Order {
        Order { marks: [0; 4], share: share.clamp(0.0, 1.0), fresh: 0.0, backlog: 0.0 }
    }

    /// All that is there now is the backlog.
    pub(super) fn mark(&mut self, outbox: &Outbox) {
        self.marks = Lane::ALL.map(|lane| outbox.last(lane));
        (self.fresh, self.backlog) = (0.0, 0.0);
    }

    fn mark_of(&self, lane: Lane) -> u64 {
        self.marks.get(lane as usize).copied().unwrap_or(0)
    }

    /// The next parcel and its class.
    pub(super) fn next(
        &self,
        outbox: &Outbox,
        ask: &Wish,
    ) -> Result<Option<(Parcel, Class)>, StoreError> {
        let mut found = Vec::new();
        for (class, lane, bytes) in self.places(ask) {
            let mark = self.mark_of(lane);
            let parcel = match class {
                Class::Alarm => outbox.peek(lane, ask.upto, bytes, 0)?,
                Class::Fresh => outbox.peek(lane, ask.upto, bytes, mark + 1)?,
                Class::Backlog if mark == 0 => None,
                Class::Backlog => {
                    outbox.peek(lane, ask.upto, bytes, 0)?.filter(|parcel| parcel.first() <= mark)
                }
            };
            let may_go = |parcel: &Parcel| {
                class == Class::Alarm
                    || parcel.bytes() >= ask.least
                    || !ask.busy.contains(&(class, lane))
            };
            found.extend(parcel.filter(may_go).map(|parcel| (parcel, class)));
            if ask.turn == 0 && !found.is_empty() {
                break;
            }
        }
        let place = ask.turn % (found.len().max(1) as u64);
        Ok(found.into_iter().nth(place as usize))
    }

    /// Where to look, in order.
    fn places(&self, ask: &Wish) -> Vec<(Class, Lane, usize)> {
        let fresh_first = self.fresh * (1.0 - self.share) <= self.backlog * self.share;
        let classes = if fresh_first && self.share > 0.0 {
            [Class::Fresh, Class::Backlog]
        } else {
            [Class::Backlog, Class::Fresh]
        };
        let alarms = ask.lanes.iter().filter(|(lane, _)| *lane == Lane::Alarm);
        let mut places: Vec<_> =
            alarms.map(|(lane, bytes)| (Class::Alarm, *lane, *bytes)).collect();
        for class in classes {
            let others = ask.lanes.iter().filter(|(lane, _)| *lane != Lane::Alarm);
            places.extend(others.map(|(lane, bytes)| (class, *lane, *bytes)));
        }
        places
    }

    /// Notes what goes. A class that had nothing when it was its turn is owed nothing.
    pub(super) fn sent(&mut self, class: Class, bytes: u64) {
        let fresh_first = self.fresh * (1.0 - self.share) <= self.backlog * self.share;
        let sum = match (class, fresh_first) {
            (Class::Alarm, _) => return,
            (Class::Fresh, true) => &mut self.fresh,
            (Class::Backlog, false) => &mut self.backlog,
            _ => return (self.fresh, self.backlog) = (0.0, 0.0),
        };
        *sum += bytes as f64;
    }
}
