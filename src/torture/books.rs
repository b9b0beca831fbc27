//! The books of a campaign: what has come to the far side, reading by reading and record by record, and at the end what
//! became of everything that was acknowledged.
//!
//! `finish` fills them with what a receiver kept, and closes them against the undisturbed run. Every reading ends in exactly one
//! of: delivered, set aside as in the undisturbed run, named in a loss record, unaccounted.

use std::collections::BTreeMap;

use super::numbers::{Numbers, SIGNALS};
use super::undisturbed::{Expected, readings};
use crate::record::{Lane, LossRecord, Record};
use crate::time::Timestamp;

/// Things gone wrong that are told one by one; more are only counted.
const TOLD: usize = 20;

/// What has come.
#[derive(Debug)]
pub(super) struct Books {
    numbers: Numbers,
    /// For each message, which of its readings have come.
    came: Vec<u8>,
    /// Readings that are in two different records, and records that are there twice.
    twice: u64,
    /// Readings whose value, or whose very existence, is not what was sent.
    strange: u64,
    records: BTreeMap<String, Record>,
    losses: BTreeMap<String, LossRecord>,
    /// By asset and event time: the tick of the record that brought it. Says where what is missing would have been.
    ticks: BTreeMap<(String, Timestamp), u64>,
    told: Vec<String>,
}

/// What became of everything.
#[derive(Debug, Default)]
pub(super) struct Closed {
    pub(super) delivered: u64,
    pub(super) set_aside: u64,
    pub(super) in_loss_records: u64,
    pub(super) unaccounted: u64,
    pub(super) twice: u64,
    pub(super) strange: u64,
    pub(super) records_expected: u64,
    pub(super) records_delivered: u64,
    pub(super) records_in_loss_records: u64,
    pub(super) records_unaccounted: u64,
    pub(super) records_strange: u64,
    /// By lane and reason, what notices of loss speak of.
    pub(super) losses: BTreeMap<String, u64>,
    /// The first things gone wrong.
    pub(super) told: Vec<String>,
}

impl Books {
    pub(super) fn new(numbers: Numbers) -> Books {
        Books {
            numbers,
            came: Vec::new(),
            twice: 0,
            strange: 0,
            records: BTreeMap::new(),
            losses: BTreeMap::new(),
            ticks: BTreeMap::new(),
            told: Vec::new(),
        }
    }

    /// Takes a record that was kept.
    pub(super) fn take(&mut self, record: Record) {
        match record {
            Record::Raw(raw) => {
                let tick = raw.id.rsplit('/').next().and_then(|tick| tick.parse().ok());
                let times = raw.signals.values().flatten().map(|reading| reading.0);
                let (first, last) = (times.clone().min(), times.max());
                for at in [first, last].into_iter().flatten() {
                    self.ticks.insert((raw.asset.clone(), at), tick.unwrap_or_default());
                }
                let numbers = self.numbers.clone();
                for (number, signal, is_same) in readings(&numbers, &raw) {
                    self.reading(number, signal, is_same, &raw.id);
                }
            }
            // What it takes the place of is named in a loss record.
            Record::Aggregate(_) => {}
            Record::Loss(loss) => {
                let id = loss.id.clone();
                let before = self.losses.insert(id.clone(), loss);
                self.once(before.is_none(), &id);
            }
            other => {
                let id = other.id().to_owned();
                let before = self.records.insert(id.clone(), other);
                self.once(before.is_none(), &id);
            }
        }
    }

    fn once(&mut self, is_new: bool, id: &str) {
        if !is_new {
            self.twice += 1;
            self.tell(|| format!("{id} was kept twice"));
        }
    }

    fn reading(&mut self, number: Option<u64>, signal: usize, is_same: bool, id: &str) {
        let Some(number) = number.filter(|_| is_same) else {
            self.strange += 1;
            return self.tell(|| {
                format!("{id}: signal {signal} of message {number:?} is not what was sent")
            });
        };
        let number = number as usize;
        if self.came.len() <= number {
            self.came.resize(number + 1, 0);
        }
        let bit = 1 << signal;
        if self.came[number] & bit != 0 {
            self.twice += 1;
            self.tell(|| format!("{id}: signal {signal} of message {number} was there before"));
        }
        self.came[number] |= bit;
    }

    fn tell(&mut self, what: impl FnOnce() -> String) {
        if self.told.len() < TOLD {
            self.told.push(what());
        }
    }

    /// Closes the books on the first `count` messages.
    pub(super) fn close(mut self, expected: &Expected, count: u64) -> Closed {
        let mut closed = Closed { twice: self.twice, strange: self.strange, ..Closed::default() };
        for number in 0..count {
            self.close_message(expected, number, &mut closed);
        }
        self.close_records(expected, &mut closed);
        for loss in self.losses.values() {
            let name = format!("{} lane, {}", loss.lane.name(), loss.reason);
            *closed.losses.entry(name).or_default() += loss.count;
        }
        closed.told = self.told;
        closed
    }

    fn close_message(&mut self, expected: &Expected, number: u64, closed: &mut Closed) {
        let came = self.came.get(number as usize).copied().unwrap_or_default();
        let wanted = expected.used.get(number as usize).copied().unwrap_or_default();
        closed.delivered += u64::from((came & wanted).count_ones());
        let strange = u64::from((came & !wanted).count_ones());
        if strange > 0 {
            closed.strange += strange;
            self.tell(|| {
                format!("{strange} readings of message {number} came and should not have")
            });
        }
        closed.set_aside += SIGNALS as u64 - u64::from(wanted.count_ones()) - strange;
        let missing = u64::from((wanted & !came).count_ones());
        if missing == 0 {
            return;
        }
        if self.is_named_lost(number) {
            closed.in_loss_records += missing;
        } else {
            closed.unaccounted += missing;
            let (topic, ts) = (self.numbers.topic(number), self.numbers.ts(number));
            self.tell(|| {
                format!("{missing} readings of message {number} ({topic} at {ts}) are gone")
            });
        }
    }

    /// Whether a notice of loss speaks of the tick in which a missing reading was: between those of its neighbours.
    fn is_named_lost(&self, number: u64) -> bool {
        let topic = self.numbers.topic(number);
        let asset = topic.split('/').nth(3).unwrap_or_default();
        let at = (asset.to_owned(), self.numbers.ts(number));
        let same = |key: &(String, Timestamp)| key.0 == asset;
        let before = self.ticks.range(..at.clone()).next_back().filter(|(key, _)| same(key));
        let after = self.ticks.range(at..).next().filter(|(key, _)| same(key));
        let (first, last) =
            (before.map_or(0, |(_, tick)| *tick), after.map_or(u64::MAX, |(_, tick)| *tick));
        self.losses.values().any(|loss| {
            loss.lane == Lane::Raw && loss.first_tick <= last && first <= loss.last_tick
        })
    }

    fn close_records(&mut self, expected: &Expected, closed: &mut Closed) {
        closed.records_expected = expected.records.len() as u64;
        let mut missing: BTreeMap<Lane, Vec<&String>> = BTreeMap::new();
        let mut told = Vec::new();
        for (id, wanted) in &expected.records {
            match self.records.get(id) {
                None => missing.entry(wanted.lane()).or_default().push(id),
                Some(came) if is_near(wanted, came) => closed.records_delivered += 1,
                Some(came) => {
                    closed.records_strange += 1;
                    told.push(format!("{id} is {came:?}, undisturbed {wanted:?}"));
                }
            }
        }
        for id in self.records.keys().filter(|id| !expected.records.contains_key(*id)) {
            closed.records_strange += 1;
            told.push(format!("{id} came, and an undisturbed run does not make it"));
        }
        for (lane, ids) in missing {
            let lost = self.losses.values().filter(|loss| loss.lane == lane);
            let named = lost.map(|loss| loss.count).sum::<u64>().min(ids.len() as u64);
            closed.records_in_loss_records += named;
            closed.records_unaccounted += ids.len() as u64 - named;
            if named < ids.len() as u64 {
                told.extend(ids.iter().map(|id| format!("{id} is gone")));
            }
        }
        for what in told {
            self.tell(|| what);
        }
    }
}

/// Whether two records say the same: numbers within 1e-9, everything else to the letter. A table knows no difference
/// between a number that is null and one that is not there.
fn is_near(ours: &Record, theirs: &Record) -> bool {
    let value = |record: &Record| serde_json::to_value(record).unwrap_or_default();
    near(&value(ours), &value(theirs))
}

fn near(a: &serde_json::Value, b: &serde_json::Value) -> bool {
    use serde_json::Value::{Array, Number, Object};
    match (a, b) {
        (Number(a), Number(b)) => match (a.as_f64(), b.as_f64()) {
            (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * a.abs().max(1.0),
            _ => a == b,
        },
        (Array(a), Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| near(a, b)),
        (Object(a), Object(b)) => {
            let none = serde_json::Value::Null;
            a.iter().all(|(k, v)| near(v, b.get(k).unwrap_or(&none)))
                && b.iter().all(|(k, v)| v.is_null() || a.contains_key(k))
        }
        _ => a == b,
    }
}
