//! The far side: knows each record once, and each reading.

use std::collections::{BTreeMap, BTreeSet};

use forebay::record::{LossRecord, Record};
use forebay::time::Timestamp;

use super::plant;

#[derive(Default)]
pub struct Far {
    ids: BTreeSet<String>,
    /// Message and signal.
    readings: BTreeSet<(u64, usize)>,
    /// By machine and time, the tick of the record that brought a reading.
    ticks: BTreeMap<(String, Timestamp), u64>,
    pub losses: Vec<LossRecord>,
    pub others: BTreeMap<String, Record>,
    pub repeats: u64,
}

impl Far {
    pub fn take(&mut self, line: &[u8]) {
        let record: Record = serde_json::from_slice(line).unwrap();
        if !self.ids.insert(record.id().to_owned()) {
            self.repeats += 1;
            return;
        }
        match record {
            Record::Raw(raw) => {
                let tick: u64 = raw.id.rsplit('/').next().unwrap().parse().unwrap();
                for (name, list) in &raw.signals {
                    let signal = usize::from(name == "b");
                    for reading in list {
                        let message = plant::find(&raw.asset, reading.0).unwrap();
                        assert_eq!(reading.1, plant::value(message, signal), "{}", raw.id);
                        assert!(self.readings.insert((message, signal)), "{message} came twice");
                        self.ticks.insert((raw.asset.clone(), reading.0), tick);
                    }
                }
            }
            Record::Loss(loss) => self.losses.push(loss),
            other => drop(self.others.insert(other.id().to_owned(), other)),
        }
    }

    /// Readings of the first `count` messages that did not come; each must be in a tick that a loss record names.
    pub fn missing(&self, count: u64) -> u64 {
        let all = (0..count).flat_map(|message| [(message, 0), (message, 1)]);
        let missing: Vec<_> = all.filter(|reading| !self.readings.contains(reading)).collect();
        for (message, _) in &missing {
            let (asset, at) = (plant::asset(*message), plant::ts(*message));
            let from = (asset.clone(), Timestamp::MIN)..(asset.clone(), at);
            let to = (asset.clone(), at)..(asset, Timestamp::MAX);
            let first = self.ticks.range(from).next_back().map_or(0, |(_, tick)| *tick);
            let last = self.ticks.range(to).next().map_or(u64::MAX, |(_, tick)| *tick);
            let named = self.losses.iter().any(|loss| {
                loss.lane == forebay::record::Lane::Raw
                    && loss.first_tick <= last
                    && first <= loss.last_tick
            });
            assert!(named, "message {message} (tick {first} to {last}) is gone: {:?}", self.losses);
        }
        missing.len() as u64
    }
}
