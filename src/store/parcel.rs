//! What the uplink sends at once, and the proof that it arrived.
//!
//! The outbox makes a [`Parcel`]; the uplink sends it and turns it into [`Acked`] or [`Refused`], which is the only
//! way to make one: what was never handed out cannot be settled.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use crate::record::Lane;

use super::block::Key;

/// A record that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) key: Key,
    /// Its number among all records of its lane.
    pub(super) number: u64,
    pub(super) line: Vec<u8>,
}

/// Records of one lane, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parcel {
    /// Their lane.
    pub lane: Lane,
    /// Idempotency key: made of the records, so the same records have the same id, and other records another.
    pub id: String,
    records: Vec<Waiting>,
    /// How often segments of its lane had taken the place of others when it was read.
    renewals: u64,
}

impl Parcel {
    pub(super) fn new(lane: Lane, records: Vec<Waiting>, renewals: u64) -> Parcel {
        let mut digest = Sha256::new();
        for record in &records {
            digest.update((record.line.len() as u64).to_le_bytes());
            digest.update(&record.line);
        }
        let digest = digest.finalize();
        let short = digest.iter().take(16).fold(0_u128, |all, byte| all << 8 | u128::from(*byte));
        let id = format!("{}-{short:032x}", lane.name());
        Parcel { lane, id, records, renewals }
    }

    /// How many records.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none. The outbox never hands out such a parcel.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The records, each with its key and its line of JSON (without a line break).
    pub fn records(&self) -> impl Iterator<Item = (Key, &[u8])> {
        self.records.iter().map(|record| (record.key, record.line.as_slice()))
    }

    /// The number of the first record, counted up over the lane's whole life.
    pub fn first(&self) -> u64 {
        self.records.first().map_or(0, |record| record.number)
    }

    /// Bytes of all lines, each with a line break.
    pub fn bytes(&self) -> usize {
        self.records.iter().map(|record| record.line.len() + 1).sum()
    }

    /// The lines as NDJSON, each with a line break.
    pub fn ndjson(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.bytes());
        for record in &self.records {
            all.extend_from_slice(&record.line);
            all.push(b'\n');
        }
        all
    }

    /// The far side has all of it.
    pub fn acked(&self) -> Acked {
        self.acked_of(self.records.iter().map(|record| record.number))
    }

    /// The far side has these records; keys that are not in the parcel are passed over. One call for many keys
    /// costs less than many calls.
    pub fn acked_keys(&self, keys: impl IntoIterator<Item = Key>) -> Acked {
        let keys: BTreeSet<Key> = keys.into_iter().collect();
        let has = self.records.iter().filter(|record| keys.contains(&record.key));
        self.acked_of(has.map(|record| record.number))
    }

    /// The far side will never take these records (a 4xx): they go to the quarantine and out of the way.
    pub fn refused(&self, why: &str) -> Refused {
        Refused { parcel: self.clone(), why: why.to_owned() }
    }

    pub(super) fn waiting(&self) -> &[Waiting] {
        &self.records
    }
}

/// Records that the far side has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acked {
    pub(super) lane: Lane,
    /// Their numbers: from, to.
    pub(super) ranges: Vec<(u64, u64)>,
    pub(super) renewals: u64,
}

impl Parcel {
    fn acked_of(&self, numbers: impl Iterator<Item = u64>) -> Acked {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for number in numbers {
            match ranges.last_mut() {
                Some(range) if range.1 + 1 == number => range.1 = number,
                _ => ranges.push((number, number)),
            }
        }
        Acked { lane: self.lane, ranges, renewals: self.renewals }
    }
}

impl Acked {
    /// How many records.
    pub fn len(&self) -> usize {
        self.ranges.iter().map(|(from, to)| (to - from + 1) as usize).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

/// Records that the far side will never take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub(super) parcel: Parcel,
    pub(super) why: String,
}
