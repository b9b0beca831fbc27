//! What a notice of loss says of records that go: which assets, and from when to when.
//!
//! `room` and `lanes` fill a [`Lost`] before anything is deleted; `marks` keeps what it came to. Segments are read once,
//! a block at a time, and of each line only what is asked for. What cannot be read is counted, and fails nothing.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::time::Timestamp;

use super::lanes::Segment;
use super::scan::{Found, Scan};
use super::settled::Settled;

/// Assets named in a notice; more are counted.
const NAMED_MAX: usize = 20;
/// Longest name that is written down: the whole has to fit into one value of the index.
const NAME_BYTES: usize = 120;
/// Different assets that are told apart.
const ASSETS_MAX: usize = 20_000;

/// What is lost, but for the count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lost {
    /// Earliest and latest event time.
    pub(super) span: Option<(Timestamp, Timestamp)>,
    pub(super) assets: BTreeSet<String>,
    pub(super) more_assets: u64,
    /// Records that could not be read.
    pub(super) unread: u64,
}

impl Lost {
    /// What goes with these segments, of which `settled` (by target) says who has what.
    pub(super) fn read(segments: &[Segment], settled: &[Settled]) -> Lost {
        let mut lost = Lost::default();
        for segment in segments {
            lost.read_segment(segment, settled);
        }
        lost
    }

    fn read_segment(&mut self, segment: &Segment, settled: &[Settled]) {
        let is_missed = |number: u64| settled.iter().any(|settled| !settled.contains(number));
        let missed = |from: u64, to: u64| {
            settled.iter().map(|settled| settled.open_in(from, to)).max().unwrap_or(0)
        };
        let Ok(Some(mut scan)) = Scan::open(&segment.path, 0, segment.len) else {
            self.unread += missed(segment.first, segment.end - 1);
            return;
        };
        let mut expected = segment.first;
        while let Ok(Some(found)) = scan.next() {
            let Found::Block { block, .. } = found else { continue };
            let head = &block.head;
            self.unread += missed(expected, head.first.saturating_sub(1));
            expected = head.end();
            let number = |offset: u32| head.first + u64::from(offset);
            if !head.entries.iter().any(|entry| is_missed(number(entry.offset))) {
                continue;
            }
            let Some(lines) = block.lines() else {
                self.unread += missed(head.first, expected - 1);
                continue;
            };
            for (entry, line) in head.entries.iter().zip(&lines) {
                if is_missed(number(entry.offset)) {
                    self.see(line);
                }
            }
        }
        self.unread += missed(expected, segment.end - 1);
    }

    /// Takes note of a record.
    pub(super) fn see(&mut self, line: &[u8]) {
        let Ok(glance) = serde_json::from_slice::<Glance<'_>>(line) else {
            self.unread += 1;
            return;
        };
        if let Some(asset) = &glance.asset
            && self.assets.len() < ASSETS_MAX
            && !self.assets.contains(asset.as_ref())
        {
            self.assets.insert(asset.clone().into_owned());
        }
        let singles = [glance.window_start, glance.window_end, glance.at];
        let times = singles.into_iter().flatten().chain(glance.signals.0);
        for at in times {
            let (from, to) = self.span.unwrap_or((at, at));
            self.span = Some((from.min(at), to.max(at)));
        }
    }

    /// What is written down of it: some names, and how many more there are.
    pub(super) fn to_keep(&self) -> Lost {
        let short = self.assets.iter().filter(|name| name.len() <= NAME_BYTES);
        let assets: BTreeSet<String> = short.take(NAMED_MAX).cloned().collect();
        let more_assets = self.more_assets + (self.assets.len() - assets.len()) as u64;
        Lost { span: self.span, assets, more_assets, unread: self.unread }
    }

    /// Adds what was written down of another loss. Assets that neither names may be counted twice.
    pub(super) fn add(&mut self, other: &Lost) {
        self.span = match (self.span, other.span) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
            (a, b) => a.or(b),
        };
        self.assets.extend(other.assets.iter().cloned());
        self.more_assets += other.more_assets;
        self.unread += other.unread;
        *self = self.to_keep();
    }
}

/// What is looked at of a record.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Glance<'a> {
    #[serde(borrow)]
    asset: Option<Cow<'a, str>>,
    window_start: Option<Timestamp>,
    window_end: Option<Timestamp>,
    at: Option<Timestamp>,
    signals: Ends,
}

/// First and last times of all signals: each list is in order.
#[derive(Default)]
struct Ends(Vec<Timestamp>);

impl<'de> Deserialize<'de> for Ends {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Ends, D::Error> {
        deserializer.deserialize_map(EndsVisitor)
    }
}

struct EndsVisitor;

impl<'de> Visitor<'de> for EndsVisitor {
    type Value = Ends;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("signals with their readings or intervals")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ends, A::Error> {
        let mut ends = Vec::new();
        while let Some((IgnoredAny, list)) = map.next_entry::<IgnoredAny, List>()? {
            ends.extend(list.0.into_iter().flatten());
        }
        Ok(Ends(ends))
    }
}

/// First and last time of a list of readings or intervals.
struct List([Option<Timestamp>; 2]);

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<List, D::Error> {
        deserializer.deserialize_seq(ListVisitor)
    }
}

struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = List;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("readings or intervals")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List, A::Error> {
        let (mut first, mut last): (Option<Moment<'de>>, Option<Moment<'de>>) = (None, None);
        while let Some(moment) = seq.next_element()? {
            first = first.or(Some(moment));
            last = Some(moment);
        }
        let start = first.and_then(|moment| moment.text().0.parse().ok());
        Ok(List([start, last.and_then(|moment| moment.text().1.parse().ok())]))
    }
}

/// When a reading was, or an interval: as text, since only two of a list are wanted.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Moment<'a> {
    #[serde(borrow)]
    Reading((&'a str, IgnoredAny)),
    Interval {
        start: &'a str,
        last_at: &'a str,
    },
}

impl<'a> Moment<'a> {
    fn text(self) -> (&'a str, &'a str) {
        match self {
            Moment::Reading((at, _)) => (at, at),
            Moment::Interval { start, last_at } => (start, last_at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn every_kind_of_record_says_its_asset_and_its_time() {
        let mut lost = Lost::default();
        lost.see(br#"{"type":"raw","asset":"p-1","signals":{"a":[["2026-01-01T00:00:03Z",1.0],["2026-01-01T00:00:05.5Z",2.0]]}}"#);
        assert_eq!(lost.span, Some((at("2026-01-01T00:00:03Z"), at("2026-01-01T00:00:05.5Z"))));
        lost.see(br#"{"type":"score","asset":"p-2","window_start":"2026-01-01T00:00:00Z","window_end":"2026-01-01T00:00:04Z"}"#);
        lost.see(br#"{"type":"aggregate","asset":"p-1","signals":{"a":[{"start":"2026-01-01T00:01:00Z","count":2,"min":1.0,"max":2.0,"mean":1.5,"last":2.0,"last_at":"2026-01-01T00:01:07Z"}]}}"#);
        assert_eq!(lost.span, Some((at("2026-01-01T00:00:00Z"), at("2026-01-01T00:01:07Z"))));
        assert_eq!(lost.assets.iter().collect::<Vec<_>>(), ["p-1", "p-2"]);
        lost.see(b"{");
        assert_eq!(lost.unread, 1);
        for n in 0..30 {
            lost.see(format!(r#"{{"type":"alarm","asset":"q-{n:02}"}}"#).as_bytes());
        }
        let kept = lost.to_keep();
        assert_eq!((kept.assets.len(), kept.more_assets), (20, 12));
    }
}
