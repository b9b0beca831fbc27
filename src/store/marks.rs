//! How far each lane was sent and how far it was evicted: what must not come back after a start.
//!
//! `outbox` raises the settled mark, `ledger` the evicted one, each in a key of its own, so that neither overwrites
//! the other's. Both are numbers of records, both only rise, and both are durable before a record is removed because
//! of them. The higher of the two is the lane's floor: what is still found at or below it at a start was on its way
//! out, and what is missing above it was lost. The evicted mark carries the notice of loss that belongs to it, in the
//! same key: so a power cut cannot keep the eviction and lose the notice.

use serde::{Deserialize, Serialize};

use crate::record::{Lane, LossRecord, Outgoing, Record};
use crate::time::Timestamp;

use super::codec::{self, Key};
use super::error::StoreError;
use super::kv::Kv;

/// Ordinals from here on are notices of loss: no tick makes so many records.
pub(super) const LOSS_ORDINAL: u32 = 0xFFFF_FF00;

/// What an eviction, or damage found at a start, took from a lane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Loss {
    /// The tick whose commit says it.
    pub(super) said_at: u64,
    /// Place and number of the notice on the alarm lane.
    pub(super) ordinal: u32,
    pub(super) number: u64,
    pub(super) lane: Lane,
    pub(super) count: u64,
    pub(super) first_tick: u64,
    pub(super) last_tick: u64,
    pub(super) reason: String,
    pub(super) at: Timestamp,
}

impl Loss {
    /// Where its notice stands in the outbox.
    pub(super) fn key(&self) -> Key {
        Key { lane: Lane::Alarm, seq: self.said_at, ordinal: self.ordinal }
    }

    /// Its notice. The id is made of what the loss is, so it is the same however often it is written.
    pub(super) fn notice(&self, node: &str) -> Outgoing {
        let lane = self.lane.name();
        let id = format!("{node}:loss:{lane}:{}:{}:{}", self.said_at, self.number, self.at.0);
        let record = Record::Loss(LossRecord {
            id,
            node: node.to_owned(),
            lane: self.lane,
            count: self.count,
            first_tick: self.first_tick,
            last_tick: self.last_tick,
            reason: self.reason.clone(),
            at: self.at,
        });
        Outgoing { lane: Lane::Alarm, record }
    }
}

/// Up to which number a lane was evicted, and what was said about it last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Evicted {
    pub(super) lane: Lane,
    pub(super) upto: u64,
    pub(super) loss: Loss,
}

/// Numbers that are known to be missing: from, to.
pub(super) type Gap = (u64, u64);

/// Gaps remembered a lane; more damage than that is reported again at the next start.
const GAPS_MAX: usize = 200;

/// Writes up to which number a lane was settled.
pub(super) fn put_settled(kv: &dyn Kv, lane: Lane, upto: u64) -> Result<(), StoreError> {
    put(kv, b'u', lane, &upto)
}

/// Up to which number a lane was settled; 0: not at all. A damaged mark is none.
pub(super) fn settled(kv: &dyn Kv, lane: Lane) -> Result<u64, StoreError> {
    Ok(get(kv, b'u', lane)?.unwrap_or(0))
}

/// Writes how far a lane was evicted.
pub(super) fn put_evicted(kv: &dyn Kv, mark: &Evicted) -> Result<(), StoreError> {
    put(kv, b'e', mark.lane, mark)
}

/// How far a lane was evicted.
pub(super) fn evicted(kv: &dyn Kv, lane: Lane) -> Result<Option<Evicted>, StoreError> {
    get(kv, b'e', lane)
}

/// The number up to which every record of the lane has left.
pub(super) fn floor(kv: &dyn Kv, lane: Lane) -> Result<u64, StoreError> {
    Ok(settled(kv, lane)?.max(evicted(kv, lane)?.map_or(0, |mark| mark.upto)))
}

/// Writes which numbers of a lane are missing and were reported.
pub(super) fn put_gaps(kv: &dyn Kv, lane: Lane, gaps: &[Gap]) -> Result<(), StoreError> {
    put(kv, b'd', lane, &gaps.get(..GAPS_MAX).unwrap_or(gaps))
}

/// Which numbers of a lane are missing and were reported.
pub(super) fn gaps(kv: &dyn Kv, lane: Lane) -> Result<Vec<Gap>, StoreError> {
    Ok(get(kv, b'd', lane)?.unwrap_or_default())
}

fn put<T: Serialize>(kv: &dyn Kv, space: u8, lane: Lane, mark: &T) -> Result<(), StoreError> {
    let bytes = codec::seal(mark).map_err(|e| StoreError::Encode {
        what: "a mark",
        seq: 0,
        reason: e.to_string(),
    })?;
    kv.put(&[space, lane as u8], &bytes)
}

fn get<T: for<'de> Deserialize<'de>>(
    kv: &dyn Kv,
    space: u8,
    lane: Lane,
) -> Result<Option<T>, StoreError> {
    Ok(kv.get(&[space, lane as u8])?.and_then(|bytes| codec::unseal(&bytes)))
}
