//! Which publish makes a broker hang up: a broker of MQTT 3.1.1 has no other way to refuse one that is too large.
//!
//! `uplink/mqtt.rs` asks it. A link that is cut looks the same, so it takes more than one sign: it alone was on the way
//! when the broker closed a connection it had accepted, several times in a row. Several records can then be sent in
//! smaller publishes, and nothing is lost if it was the link after all. A single record is refused only if it is also
//! larger than any that this broker has taken, and there are such: a broker that lets nobody publish would otherwise
//! send the whole outbox into quarantine.

use std::collections::BTreeMap;

use crate::record::Lane;
use crate::store::Key;

/// Connections in a row that brought nothing before publishes go out one by one.
const BARREN_MAX: u32 = 2;
/// Connections that a publish has to end.
const TRIES: u32 = 6;

/// A publish on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Publish {
    /// Of its first record.
    pub(super) first: Key,
    pub(super) records: usize,
    /// Bytes of its payload.
    pub(super) size: usize,
}

/// What speaks against a publish.
#[derive(Debug, Default)]
pub(super) struct Suspicion {
    /// Connections in a row that the broker closed without taking anything.
    barren: u32,
    /// One a lane.
    suspects: BTreeMap<Lane, Suspect>,
    /// Size of the largest publish taken.
    largest: usize,
}

#[derive(Debug)]
struct Suspect {
    publish: Publish,
    tries: u32,
}

impl Suspicion {
    /// Whether publishes should go out one by one, to find the one.
    pub(super) fn is_cautious(&self) -> bool {
        self.barren >= BARREN_MAX || !self.suspects.is_empty()
    }

    /// Why one of these publishes of a lane is refused, if one is.
    pub(super) fn verdict(&mut self, publishes: &[Publish], lane: Lane) -> Option<String> {
        let Suspect { publish, tries } = *self.suspects.get(&lane)?;
        if !publishes.iter().any(|each| each.is(publish)) {
            // Split, quarantined or evicted meanwhile.
            self.clear(lane);
            return None;
        }
        let (Publish { size, records, .. }, largest) = (publish, self.largest);
        let is_guilty = tries >= TRIES && (records > 1 || (largest > 0 && size > largest));
        is_guilty.then(|| {
            format!(
                "the broker closes the connection on a publish of {size} bytes; it has taken up to {largest}"
            )
        })
    }

    fn clear(&mut self, lane: Lane) {
        self.suspects.remove(&lane);
        if self.suspects.is_empty() {
            self.barren = 0;
        }
    }

    /// The broker closed a connection; `alone` was all that was on the way.
    pub(super) fn closed(&mut self, alone: Option<Publish>, brought: bool) {
        self.barren = if brought { 0 } else { self.barren.saturating_add(1) };
        let Some(publish) = alone else { return };
        let suspect = self.suspects.entry(publish.first.lane);
        let suspect = suspect.or_insert(Suspect { publish, tries: 0 });
        if !suspect.publish.is(publish) {
            suspect.tries = 0;
        }
        *suspect = Suspect { publish, tries: suspect.tries + 1 };
    }

    /// The broker took a publish.
    pub(super) fn took(&mut self, publish: Publish) {
        self.largest = self.largest.max(publish.size);
        let suspect = self.suspects.get(&publish.first.lane);
        if suspect.is_none_or(|suspect| suspect.publish.is(publish)) {
            self.clear(publish.first.lane);
        }
    }
}

impl Publish {
    /// Whether it holds the same records. Its size may have changed, with the level of compression.
    fn is(self, other: Publish) -> bool {
        self.first == other.first && self.records == other.records
    }
}
