//! How far each lane was sent and how far it was evicted: what must not come back after a start.
//!
//! `outbox` raises the settled mark, `ledger` the evicted one, each in a key of its own, so that neither overwrites
//! the other's. Both only rise. The higher of the two is the lane's floor: a record at or below it that is still
//! found at a start was on its way out. The evicted mark carries the notice of loss that belongs to it, in the same
//! key: so a power cut cannot keep the eviction and lose the notice.

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
    pub(super) ordinal: u32,
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
        let id = format!("{node}:loss:{lane}:{}:{}:{}", self.said_at, self.ordinal, self.at.0);
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

/// Up to where a lane was evicted, and what was said about it last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Evicted {
    pub(super) upto: Key,
    pub(super) loss: Loss,
}

/// Writes how far a lane was settled.
pub(super) fn put_settled(kv: &dyn Kv, upto: Key) -> Result<(), StoreError> {
    let bytes = codec::seal(&upto).map_err(|e| unsealable(upto.seq, &e))?;
    kv.put(&[b'u', upto.lane as u8], &bytes)
}

/// How far a lane was settled. A damaged mark is none: it costs repeats, nothing else.
pub(super) fn settled(kv: &dyn Kv, lane: Lane) -> Result<Option<Key>, StoreError> {
    Ok(kv.get(&[b'u', lane as u8])?.and_then(|bytes| codec::unseal(&bytes)))
}

/// Writes how far a lane was evicted.
pub(super) fn put_evicted(kv: &dyn Kv, mark: &Evicted) -> Result<(), StoreError> {
    let bytes = codec::seal(mark).map_err(|e| unsealable(mark.upto.seq, &e))?;
    kv.put(&[b'e', mark.upto.lane as u8], &bytes)
}

/// How far a lane was evicted.
pub(super) fn evicted(kv: &dyn Kv, lane: Lane) -> Result<Option<Evicted>, StoreError> {
    Ok(kv.get(&[b'e', lane as u8])?.and_then(|bytes| codec::unseal(&bytes)))
}

/// The higher of a lane's marks.
pub(super) fn floor(kv: &dyn Kv, lane: Lane) -> Result<Option<Key>, StoreError> {
    Ok(settled(kv, lane)?.max(evicted(kv, lane)?.map(|mark| mark.upto)))
}

fn unsealable(seq: u64, error: &postcard::Error) -> StoreError {
    StoreError::Encode { what: "a mark", seq, reason: error.to_string() }
}
