//! Readings of one route, gathered over one tick: where messages become columns.
//!
//! The engine's inbox owns one [`Rows`] a route and hands it to [`super::Decoder::decode`] message by message; at the
//! tick's end [`Rows::take`] gives the journal its [`Input`]. What it remembers from tick to tick (which asset a topic
//! is of) only saves work: it is bounded, and can be thrown away at any time.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Words;
use crate::frame::{Asset, Input, Quality, Readings};
use crate::time::Timestamp;

/// Topics and assets remembered from tick to tick; a flood of new ones empties the memory instead of filling it.
const REMEMBERED_MAX: usize = 20_000;
/// Unknown signals remembered, so that each is named once.
const UNKNOWN_MAX: usize = 256;

/// Readings of one route in one tick.
#[derive(Debug)]
pub struct Rows {
    route: String,
    assets: Vec<Asset>,
    pub(super) readings: Readings,
    /// For each of `assets`, which of `known` it is.
    placed: Vec<u32>,
    tick: u64,
    known: Vec<Known>,
    by_asset: BTreeMap<Asset, u32>,
    topics: Vec<TopicEntry>,
    by_topic: HashMap<String, u32>,
    remembered: usize,
    unknown: BTreeSet<String>,
    unknown_new: Vec<String>,
    /// Words that are taken for numbers; none of a message.
    pub(crate) words: Words,
}

/// An asset, and its index in `assets` if it was placed there in tick `tick`.
#[derive(Debug)]
struct Known {
    asset: Asset,
    tick: u64,
    index: u32,
}

/// What a topic says of its messages.
#[derive(Debug)]
pub(super) struct TopicEntry {
    /// The asset without its id where the topic names none.
    pub(super) asset: Asset,
    /// The signal, where the topic names one.
    pub(super) signal: TopicSignal,
    known: Option<u32>,
    /// Assets named by payloads on this topic.
    inner: HashMap<String, u32>,
}

/// The signal that a topic names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TopicSignal {
    /// It names none.
    None,
    /// One of the schema.
    Known(u16),
    /// One that the schema does not know.
    Unknown,
}

/// How far [`Rows`] was filled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filled {
    readings: usize,
    assets: usize,
}

impl Rows {
    /// Nothing yet, for this route.
    pub fn new(route: String) -> Rows {
        Rows {
            route,
            assets: Vec::new(),
            readings: Readings::default(),
            placed: Vec::new(),
            tick: 1,
            known: Vec::new(),
            by_asset: BTreeMap::new(),
            topics: Vec::new(),
            by_topic: HashMap::new(),
            remembered: 0,
            unknown: BTreeSet::new(),
            unknown_new: Vec::new(),
            words: Words::default(),
        }
    }

    /// How many readings.
    pub fn len(&self) -> usize {
        self.readings.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.readings.is_empty()
    }

    /// What was gathered; the next tick starts empty, with room for as much again.
    pub fn take(&mut self) -> Input {
        self.tick += 1;
        self.placed.clear();
        let size = self.readings.len();
        let room = Readings {
            asset: Vec::with_capacity(size),
            signal: Vec::with_capacity(size),
            ts: Vec::with_capacity(size),
            value: Vec::with_capacity(size),
            quality: Vec::with_capacity(size),
        };
        Input {
            route: self.route.clone(),
            assets: std::mem::take(&mut self.assets),
            readings: std::mem::replace(&mut self.readings, room),
            commands: Vec::new(),
        }
    }

    /// Names of signals that the schema does not know, each given out once. After some hundred, no more are named.
    pub fn unknown_signals(&mut self) -> Vec<String> {
        std::mem::take(&mut self.unknown_new)
    }

    pub(super) fn note_unknown(&mut self, name: &str) {
        if self.unknown.len() < UNKNOWN_MAX && !self.unknown.contains(name) {
            self.unknown.insert(name.to_owned());
            self.unknown_new.push(name.to_owned());
        }
    }

    pub(super) fn filled(&self) -> Filled {
        Filled { readings: self.readings.len(), assets: self.assets.len() }
    }

    /// Takes back all that came after `filled`.
    pub(super) fn roll_back(&mut self, filled: Filled) {
        self.readings.truncate(filled.readings);
        self.assets.truncate(filled.assets);
        for known in self.placed.drain(filled.assets..) {
            if let Some(known) = self.known.get_mut(known as usize) {
                known.tick = 0;
            }
        }
    }

    /// What is known of `topic`; `resolve` says it where it is new.
    pub(super) fn topic(
        &mut self,
        topic: &str,
        resolve: impl FnOnce() -> Option<(Asset, TopicSignal)>,
    ) -> Option<u32> {
        if let Some(&entry) = self.by_topic.get(topic) {
            return Some(entry);
        }
        let (asset, signal) = resolve()?;
        if self.remembered >= REMEMBERED_MAX {
            self.forget();
        }
        self.remembered += 1;
        let entry = self.topics.len() as u32;
        self.topics.push(TopicEntry { asset, signal, known: None, inner: HashMap::new() });
        self.by_topic.insert(topic.to_owned(), entry);
        Some(entry)
    }

    pub(super) fn topic_signal(&self, entry: u32) -> TopicSignal {
        self.topics.get(entry as usize).map_or(TopicSignal::None, |t| t.signal)
    }

    /// Index of the asset that the topic names.
    pub(super) fn topic_asset(&mut self, entry: u32) -> Option<u32> {
        let topic = self.topics.get_mut(entry as usize)?;
        if topic.asset.id.is_empty() {
            return None;
        }
        let known = *topic
            .known
            .get_or_insert_with(|| learn(&mut self.known, &mut self.by_asset, topic.asset.clone()));
        self.place(known)
    }

    /// Index of the asset that a payload on this topic names; it has the topic's tags.
    pub(super) fn payload_asset(&mut self, entry: u32, id: &str) -> Option<u32> {
        let topic = self.topics.get_mut(entry as usize)?;
        let known = if let Some(&known) = topic.inner.get(id) {
            known
        } else {
            let asset = Asset { id: id.to_owned(), tags: topic.asset.tags.clone() };
            let known = learn(&mut self.known, &mut self.by_asset, asset);
            topic.inner.insert(id.to_owned(), known);
            self.remembered += 1;
            known
        };
        self.place(known)
    }

    fn place(&mut self, index: u32) -> Option<u32> {
        let known = self.known.get_mut(index as usize)?;
        if known.tick != self.tick {
            known.tick = self.tick;
            known.index = self.assets.len() as u32;
            self.assets.push(known.asset.clone());
            self.placed.push(index);
        }
        Some(known.index)
    }

    /// Between two messages only: indices of this tick's assets stay valid, but an asset may be placed again.
    fn forget(&mut self) {
        self.known.clear();
        self.by_asset.clear();
        self.topics.clear();
        self.by_topic.clear();
        self.placed.fill(u32::MAX);
        self.remembered = 0;
    }

    /// Adds a reading; time, asset and signal may be holes that [`Rows::fill`] and [`Rows::settle`] see to.
    pub(super) fn push(&mut self, signal: u16, value: f64, around: &Common) {
        self.readings.push(around.asset, signal, around.ts, value, around.quality);
    }

    /// Fills holes from `start` on with what their surroundings say; of two qualities the worse counts.
    pub(super) fn fill(&mut self, start: usize, around: &Common) {
        let rows = &mut self.readings;
        if around.ts != Common::NO_TIME {
            rows.ts[start..]
                .iter_mut()
                .filter(|ts| **ts == Common::NO_TIME)
                .for_each(|ts| *ts = around.ts);
        }
        if around.asset != Common::NO_ASSET {
            rows.asset[start..]
                .iter_mut()
                .filter(|asset| **asset == Common::NO_ASSET)
                .for_each(|asset| *asset = around.asset);
        }
        if around.signal != Common::NO_SIGNAL {
            rows.signal[start..]
                .iter_mut()
                .filter(|signal| **signal == Common::NO_SIGNAL)
                .for_each(|signal| *signal = around.signal);
        }
        if around.quality != Quality::Good {
            for quality in &mut rows.quality[start..] {
                *quality = (*quality).max(around.quality);
            }
        }
    }

    /// Gives readings without a time `arrival` (or removes them where that is `None`), and removes those whose asset or
    /// signal nobody named. Says how many got the time and what was removed.
    pub(super) fn settle(&mut self, start: usize, arrival: Option<Timestamp>) -> Settled {
        let mut settled = Settled::default();
        let lost = |rows: &Readings, i: usize| {
            rows.asset[i] == Common::NO_ASSET
                || rows.signal[i] >= Common::UNKNOWN_SIGNAL
                || (arrival.is_none() && rows.ts[i] == Common::NO_TIME)
        };
        if (start..self.readings.len()).any(|i| lost(&self.readings, i)) {
            self.compact(start, arrival.is_none(), &mut settled);
        }
        // Only now, so that none that was removed is counted.
        if let Some(arrival) = arrival {
            for ts in self.readings.ts[start..].iter_mut().filter(|ts| **ts == Common::NO_TIME) {
                *ts = arrival;
                settled.undated += 1;
            }
        }
        settled
    }

    fn compact(&mut self, start: usize, needs_time: bool, settled: &mut Settled) {
        let tail = Readings {
            asset: self.readings.asset.split_off(start),
            signal: self.readings.signal.split_off(start),
            ts: self.readings.ts.split_off(start),
            value: self.readings.value.split_off(start),
            quality: self.readings.quality.split_off(start),
        };
        for i in 0..tail.len() {
            match (tail.asset[i], tail.signal[i], tail.ts[i]) {
                (_, _, Common::NO_TIME) if needs_time => settled.no_time += 1,
                (Common::NO_ASSET, _, _) => settled.no_asset += 1,
                (_, Common::NO_SIGNAL, _) => settled.no_signal += 1,
                (_, Common::UNKNOWN_SIGNAL, _) => settled.unknown += 1,
                (asset, signal, ts) => {
                    self.readings.push(asset, signal, ts, tail.value[i], tail.quality[i]);
                }
            }
        }
    }
}

fn learn(known: &mut Vec<Known>, by_asset: &mut BTreeMap<Asset, u32>, asset: Asset) -> u32 {
    if let Some(&index) = by_asset.get(&asset) {
        return index;
    }
    let index = known.len() as u32;
    by_asset.insert(asset.clone(), index);
    known.push(Known { asset, tick: 0, index: 0 });
    index
}

/// What readings of one object have in common, as far as it has been read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Common {
    pub(super) ts: Timestamp,
    pub(super) quality: Quality,
    pub(super) asset: u32,
    pub(super) signal: u16,
}

impl Common {
    /// No time read (yet).
    pub(super) const NO_TIME: Timestamp = Timestamp::MIN;
    /// No asset read (yet).
    pub(super) const NO_ASSET: u32 = u32::MAX;
    /// No signal's name read (yet).
    pub(super) const NO_SIGNAL: u16 = u16::MAX;
    /// A signal's name that the schema does not know.
    pub(super) const UNKNOWN_SIGNAL: u16 = u16::MAX - 1;

    pub(super) fn nothing() -> Common {
        Common {
            ts: Common::NO_TIME,
            quality: Quality::Good,
            asset: Common::NO_ASSET,
            signal: Common::NO_SIGNAL,
        }
    }
}

/// What [`Rows::settle`] came to, in readings.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Settled {
    pub(super) undated: usize,
    pub(super) no_time: usize,
    pub(super) no_asset: usize,
    pub(super) no_signal: usize,
    pub(super) unknown: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_topics_does_not_fill_the_memory() {
        let mut rows = Rows::new("r".into());
        let mut around = Common::nothing();
        for i in 0..3 * REMEMBERED_MAX {
            let topic = format!("t/{i}");
            let asset = Asset { id: format!("a{i}"), ..Asset::default() };
            let entry = rows.topic(&topic, || Some((asset, TopicSignal::None))).unwrap();
            around.asset = rows.topic_asset(entry).unwrap();
            rows.push(0, i as f64, &around);
            around.asset = rows.payload_asset(entry, "inner").unwrap();
            rows.push(1, i as f64, &around);
            assert!(rows.topics.len().max(rows.by_topic.len()) <= REMEMBERED_MAX);
            assert!(rows.known.len().max(rows.by_asset.len()) <= REMEMBERED_MAX + 1);
            if i % 7000 == 6999 {
                let input = rows.take();
                for (k, asset) in input.readings.asset.iter().enumerate() {
                    let id = &input.assets[*asset as usize].id;
                    let expected = format!("a{}", input.readings.value[k]);
                    let inner = input.readings.signal[k] == 1;
                    assert_eq!(*id, if inner { "inner".to_owned() } else { expected });
                }
            }
        }
        for i in 0..2 * UNKNOWN_MAX {
            rows.note_unknown(&format!("u{i}"));
        }
        assert_eq!(rows.unknown_signals().len(), UNKNOWN_MAX);
    }
}
