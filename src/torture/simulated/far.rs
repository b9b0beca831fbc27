//! The far side: knows each record once, and each reading.

use std::collections::{BTreeMap, BTreeSet};

use super::{SimulatedError, ensure, plant};
use crate::record::{AggregateRecord, Lane, LossRecord, Record};
use crate::time::{Span, Timestamp};

#[derive(Default)]
pub(super) struct Far {
    ids: BTreeSet<String>,
    /// Message and signal.
    readings: BTreeSet<(u64, usize)>,
    /// By machine and time, the tick of the record that brought a reading.
    ticks: BTreeMap<(String, Timestamp), u64>,
    losses: Vec<LossRecord>,
    /// By machine, signal, length of the intervals and the longest that they are in: how many readings came in intervals.
    /// What arrived and was not heard of is thinned once more, to longer ones.
    thinned: BTreeMap<(String, String, Span, Timestamp), u64>,
    others: BTreeMap<String, Record>,
    pub(super) repeats: u64,
}

impl Far {
    pub(super) fn take(&mut self, line: &[u8]) -> Result<(), SimulatedError> {
        let record: Record = serde_json::from_slice(line)
            .map_err(|e| SimulatedError::Broken(format!("no record was sent: {e}")))?;
        if !self.ids.insert(record.id().to_owned()) {
            self.repeats += 1;
            return Ok(());
        }
        match record {
            Record::Raw(raw) => {
                let tick = raw.id.rsplit('/').next().and_then(|tick| tick.parse().ok());
                for (name, list) in &raw.signals {
                    let signal = usize::from(name == "b");
                    for reading in list {
                        let at = (raw.asset.clone(), reading.0);
                        let message = plant::find(&at.0, at.1);
                        let sent = message.map(|message| plant::value(message, signal));
                        ensure(sent == Some(reading.1), || format!("{}: {at:?} is wrong", raw.id))?;
                        let new = self.readings.insert((message.unwrap_or_default(), signal));
                        ensure(new, || format!("{}: {at:?} came twice", raw.id))?;
                        self.ticks.insert(at, tick.unwrap_or_default());
                    }
                }
            }
            Record::Aggregate(aggregate) => self.intervals(&aggregate)?,
            Record::Loss(loss) => self.losses.push(loss),
            other => drop(self.others.insert(other.id().to_owned(), other)),
        }
        Ok(())
    }

    /// An interval says what can be said of readings in it.
    fn intervals(&mut self, record: &AggregateRecord) -> Result<(), SimulatedError> {
        let longest = Span(plant::THIN.0 * 10);
        for (name, list) in &record.signals {
            let signal = usize::from(name == "b");
            for one in list {
                let all = plant::between(&record.asset, one.start, one.start.plus(record.every));
                let values = all.iter().map(|message| plant::value(*message, signal));
                let (low, high) =
                    values.fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
                let last = plant::find(&record.asset, one.last_at);
                let last = last.map(|message| plant::value(message, signal));
                let is_right = one.count <= all.len() as u64
                    && low <= one.min
                    && one.min <= one.mean
                    && one.mean <= one.max
                    && one.max <= high
                    && last == Some(one.last);
                ensure(is_right, || format!("{}: {name} {one:?} is wrong", record.id))?;
                let start = one.start.floor(longest);
                let all = plant::between(&record.asset, start, start.plus(longest));
                let key = (record.asset.clone(), name.clone(), record.every, start);
                let count = self.thinned.entry(key).or_default();
                *count += one.count;
                ensure(*count <= all.len() as u64, || {
                    format!("{}: readings are in two intervals: {one:?}", record.id)
                })?;
            }
        }
        Ok(())
    }

    /// How many readings of the first `count` messages came in an interval and not by themselves. Where nothing but
    /// thinning took any, that is all that did not come.
    pub(super) fn thinned(&self, count: u64) -> Result<u64, SimulatedError> {
        let all = (0..count).flat_map(|message| [(message, 0), (message, 1)]);
        let missing = all.filter(|reading| !self.readings.contains(reading)).count() as u64;
        let thinned: u64 = self.thinned.values().sum();
        let mut raw = self.losses.iter().filter(|loss| loss.lane == Lane::Raw);
        ensure(thinned >= missing || raw.any(|loss| loss.reason != "thinned"), || {
            format!("{missing} readings did not come, {thinned} are in intervals")
        })?;
        Ok(thinned.min(missing))
    }

    /// Readings of the first `count` messages that did not come; each must be in a tick that a loss record names.
    pub(super) fn missing(&self, count: u64) -> Result<u64, SimulatedError> {
        let all = (0..count).flat_map(|message| [(message, 0), (message, 1)]);
        let missing: Vec<_> = all.filter(|reading| !self.readings.contains(reading)).collect();
        for (message, _) in &missing {
            let (asset, at) = (plant::asset(*message), plant::ts(*message));
            let before = (asset.clone(), Timestamp::MIN)..(asset.clone(), at);
            let behind = (asset.clone(), at)..(asset, Timestamp::MAX);
            let first = self.ticks.range(before).next_back().map_or(0, |(_, tick)| *tick);
            let last = self.ticks.range(behind).next().map_or(u64::MAX, |(_, tick)| *tick);
            let names = |loss: &LossRecord| {
                loss.lane == Lane::Raw && loss.first_tick <= last && first <= loss.last_tick
            };
            ensure(self.losses.iter().any(names), || {
                format!("message {message} (tick {first} to {last}) is gone: {:?}", self.losses)
            })?;
        }
        Ok(missing.len() as u64)
    }

    /// Windows and alarms are those of an undisturbed run, or loss records count them and name the ticks that they were
    /// `made` in; and nothing was damaged.
    pub(super) fn compare(
        &self,
        expected: &[Record],
        made: &BTreeMap<String, u64>,
    ) -> Result<(), SimulatedError> {
        for lane in [Lane::Alarm, Lane::Feature] {
            let on = |record: &&Record| matches!(record, Record::Alarm(_)) == (lane == Lane::Alarm);
            let missing = |record: &&Record| !self.others.contains_key(record.id());
            let missing = expected.iter().filter(on).filter(missing).map(Record::id);
            let missing: Vec<(&str, u64)> =
                missing.map(|id| (id, made.get(id).copied().unwrap_or_default())).collect();
            let losses: Vec<_> = self.losses.iter().filter(|loss| loss.lane == lane).collect();
            let lost: u64 = losses.iter().map(|loss| loss.count).sum();
            let is_named =
                |tick| losses.iter().any(|loss| (loss.first_tick..=loss.last_tick).contains(&tick));
            let named = missing.iter().all(|(_, tick)| is_named(*tick));
            ensure(named && missing.len() as u64 <= lost, || {
                format!("lane {} lacks {missing:?}, and named are {losses:?}", lane.name())
            })?;
        }
        for record in self.others.values() {
            let same = expected.iter().find(|e| e.id() == record.id());
            ensure(same == Some(record), || format!("{record:?}, undisturbed {same:?}"))?;
        }
        let damaged = self.losses.iter().any(|loss| loss.reason == "damaged");
        ensure(!damaged, || format!("nothing was damaged: {:?}", self.losses))
    }
}
