//! Which record makes a broker hang up: a broker of MQTT 3.1.1 has no other way to refuse one that is too large.
//!
//! `uplink/mqtt.rs` asks it. A link that is cut looks the same, so it takes more than one sign: the record alone was on
//! the way when the broker closed a connection it had accepted, several times in a row; and it is larger than any that
//! this broker has taken, and there are such. A broker that lets nobody publish would otherwise send the whole outbox
//! into quarantine.

use std::collections::BTreeMap;

use crate::record::Lane;
use crate::store::{Key, Parcel};

/// Connections in a row that brought nothing before records go out one by one.
const BARREN_MAX: u32 = 2;
/// Connections that a record has to end.
const TRIES: u32 = 6;

/// A record on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) key: Key,
    /// Bytes of its payload.
    pub(super) size: usize,
}

/// What speaks against a record.
#[derive(Debug, Default)]
pub(super) struct Suspicion {
    /// Connections in a row that the broker closed without taking anything.
    barren: u32,
    /// One a lane.
    suspects: BTreeMap<Lane, Suspect>,
    /// Size of the largest record taken.
    largest: usize,
}

#[derive(Debug)]
struct Suspect {
    record: Sent,
    tries: u32,
}

impl Suspicion {
    /// Whether records should go out one by one, to find the one.
    pub(super) fn is_cautious(&self) -> bool {
        self.barren >= BARREN_MAX || !self.suspects.is_empty()
    }

    /// Why a record of this parcel is refused, if one is.
    pub(super) fn verdict(&mut self, parcel: &Parcel) -> Option<String> {
        let Suspect { record: Sent { key, size }, tries } = *self.suspects.get(&parcel.lane)?;
        if !parcel.records().any(|(each, _)| each == key) {
            // Quarantined or evicted meanwhile.
            self.clear(parcel.lane);
            return None;
        }
        let largest = self.largest;
        (tries >= TRIES && largest > 0 && size > largest).then(|| {
            format!(
                "the broker closes the connection on this record of {size} bytes, and takes others of up to {largest}"
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
    pub(super) fn closed(&mut self, alone: Option<Sent>, brought: bool) {
        self.barren = if brought { 0 } else { self.barren.saturating_add(1) };
        let Some(record) = alone else { return };
        let lane = record.key.lane;
        let suspect = self.suspects.entry(lane).or_insert(Suspect { record, tries: 0 });
        if suspect.record != record {
            *suspect = Suspect { record, tries: 0 };
        }
        suspect.tries += 1;
    }

    /// The broker took a record.
    pub(super) fn took(&mut self, record: Sent) {
        self.largest = self.largest.max(record.size);
        let suspect = self.suspects.get(&record.key.lane);
        if suspect.is_none_or(|suspect| suspect.record == record) {
            self.clear(record.key.lane);
        }
    }
}
