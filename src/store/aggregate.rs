//! Readings as intervals: what is kept of raw records when their lane is full.
//!
//! `thin` hands in raw records, or what an earlier pass made of them, and takes the records that come of it. Pure.

use std::collections::BTreeMap;

use crate::record::{Aggregate, AggregateRecord, RawReading, RawRecord};
use crate::time::{Span, Timestamp};

/// Intervals in one record, unless there are too few places for so many records.
const INTERVALS_MAX: usize = 256;

/// The readings of one asset and pipeline, in intervals.
#[derive(Debug, Default)]
pub(super) struct Intervals {
    node: String,
    tags: BTreeMap<String, String>,
    signals: BTreeMap<String, BTreeMap<Timestamp, Aggregate>>,
    /// Intervals of all signals.
    len: usize,
    /// Records that went in.
    pub(super) records: usize,
}

impl Intervals {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Takes in the readings of a record.
    pub(super) fn take_raw(&mut self, raw: RawRecord, every: Span) {
        self.records += 1;
        (self.node, self.tags) = (raw.node, raw.tags);
        for (signal, readings) in raw.signals {
            for RawReading(at, value) in readings {
                let (min, max, mean, last) = (value, value, value, value);
                let one = Aggregate { start: at, count: 1, min, max, mean, last, last_at: at };
                self.add(&signal, one, every);
            }
        }
    }

    /// Takes in intervals that are shorter, or as long.
    pub(super) fn take_aggregate(&mut self, record: AggregateRecord, every: Span) {
        self.records += 1;
        (self.node, self.tags) = (record.node, record.tags);
        for (signal, intervals) in record.signals {
            for one in intervals {
                self.add(&signal, one, every);
            }
        }
    }

    fn add(&mut self, signal: &str, one: Aggregate, every: Span) {
        let start = one.start.floor(every);
        if !self.signals.contains_key(signal) {
            self.signals.insert(signal.to_owned(), BTreeMap::new());
        }
        let Some(intervals) = self.signals.get_mut(signal) else { return };
        let Some(all) = intervals.get_mut(&start) else {
            intervals.insert(start, Aggregate { start, ..one });
            self.len += 1;
            return;
        };
        let count = all.count + one.count;
        all.mean += (one.mean - all.mean) * (one.count as f64 / count as f64);
        all.count = count;
        all.min = all.min.min(one.min);
        all.max = all.max.max(one.max);
        if one.last_at >= all.last_at {
            (all.last, all.last_at) = (one.last, one.last_at);
        }
    }

    /// The records, at most as many as went in. `place`: what makes their ids unique.
    pub(super) fn into_records(
        self,
        pipeline: &str,
        asset: &str,
        every: Span,
        place: &str,
    ) -> Vec<AggregateRecord> {
        let most = INTERVALS_MAX.max(self.len.div_ceil(self.records.max(1)));
        let mut records: Vec<AggregateRecord> = Vec::new();
        let mut room = 0;
        for (signal, intervals) in self.signals {
            for one in intervals.into_values() {
                if room == 0 {
                    let (node, n) = (&self.node, records.len());
                    let id = format!("{node}/{pipeline}/{asset}/aggregate/{place}/{n}");
                    records.push(AggregateRecord {
                        id,
                        node: self.node.clone(),
                        pipeline: pipeline.to_owned(),
                        asset: asset.to_owned(),
                        tags: self.tags.clone(),
                        every,
                        signals: BTreeMap::new(),
                    });
                    room = most;
                }
                room -= 1;
                if let Some(record) = records.last_mut() {
                    record.signals.entry(signal.clone()).or_default().push(one);
                }
            }
        }
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(readings: &[(i64, f64)]) -> RawRecord {
        let list = readings.iter().map(|(at, v)| RawReading(Timestamp(*at), *v)).collect();
        RawRecord {
            id: "r".into(),
            node: "n".into(),
            pipeline: "p".into(),
            asset: "a".into(),
            tags: BTreeMap::new(),
            signals: BTreeMap::from([("s".to_owned(), list)]),
        }
    }

    #[test]
    fn intervals_of_intervals_are_those_of_the_readings() {
        let (short, long) = (Span(10), Span(100));
        let mut random = fastrand::Rng::with_seed(5);
        let readings: Vec<_> = (0..500).map(|at| (at, random.f64() * 9.0)).collect();
        let mut direct = Intervals::default();
        let mut first = Intervals::default();
        for part in readings.chunks(7) {
            direct.take_raw(raw(part), long);
            first.take_raw(raw(part), short);
        }
        let mut second = Intervals::default();
        for record in first.into_records("p", "a", short, "1") {
            second.take_aggregate(record, long);
        }
        let direct = direct.into_records("p", "a", long, "1");
        let second = second.into_records("p", "a", long, "1");
        assert_eq!((direct.len(), second.len()), (1, 1));
        let (direct, second) = (&direct[0].signals["s"], &second[0].signals["s"]);
        assert_eq!((direct.len(), second.len()), (5, 5));
        for (a, b) in direct.iter().zip(second) {
            assert!((a.mean - b.mean).abs() < 1e-9);
            assert_eq!((a.start, a.count, a.min, a.max), (b.start, b.count, b.min, b.max));
            let last = readings.iter().rfind(|r| Timestamp(r.0).floor(long) == a.start).unwrap();
            assert_eq!((a.last, a.last_at.0, b.last), (last.1, last.0, last.1));
        }
    }

    #[test]
    fn no_more_records_come_out_than_went_in() {
        let readings: Vec<_> = (0..3_000).map(|at| (at * 10, 1.0)).collect();
        let mut intervals = Intervals::default();
        intervals.take_raw(raw(&readings[..2_000]), Span(10));
        intervals.take_raw(raw(&readings[2_000..]), Span(10));
        let records = intervals.into_records("p", "a", Span(10), "1");
        assert_eq!(records.len(), 2);
        let all = records.iter().flat_map(|r| r.signals.values()).flatten();
        assert_eq!(all.map(|one| one.count).sum::<u64>(), 3_000);
    }
}
