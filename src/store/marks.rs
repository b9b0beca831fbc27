//! What changes in place, in sled: how far each target has each lane, and what was evicted last.
//!
//! `lanes` writes both, `Store::open` reads them. A damaged value is none: targets get records again, which they know
//! by their ids. The mark of an eviction carries the notice of loss that belongs to it, and is durable before anything
//! is deleted: a power cut cannot keep the eviction and lose the notice.

use serde::{Deserialize, Serialize};

use crate::record::{Lane, LossRecord, Outgoing, Record};
use crate::time::Timestamp;

use super::error::StoreError;
use super::kv::Kv;
use super::settled::Settled;

/// Ordinals from here on are notices of loss: no tick makes so many records.
pub(super) const LOSS_ORDINAL: u32 = 0xFFFF_FF00;

/// What an eviction, or damage, took from a lane.
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

/// Up to which number a lane was evicted, and what was said about it last. The oldest go first, so whatever is not
/// higher has left, one way or the other: a mark covers those that it took the place of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Evicted {
    pub(super) lane: Lane,
    pub(super) upto: u64,
    pub(super) loss: Loss,
}

/// Writes which numbers of a lane a target has; gives the bytes.
pub(super) fn put_settled(
    kv: &dyn Kv,
    target: &str,
    lane: Lane,
    settled: &Settled,
) -> Result<u64, StoreError> {
    let mut key = vec![b'c', lane as u8];
    key.extend_from_slice(target.as_bytes());
    put(kv, &key, &settled.to_keep())
}

/// Which numbers of a lane each target has that was ever known.
pub(super) fn settled(kv: &dyn Kv, lane: Lane) -> Result<Vec<(String, Settled)>, StoreError> {
    let mut all = Vec::new();
    for pair in kv.scan(&[b'c', lane as u8], &[b'c', lane as u8 + 1]) {
        let (key, value) = pair?;
        let name = key.get(2..).and_then(|name| String::from_utf8(name.to_vec()).ok());
        all.extend(name.zip(unseal(&value)));
    }
    Ok(all)
}

/// Forgets a target.
pub(super) fn forget(kv: &dyn Kv, target: &str) -> Result<(), StoreError> {
    for lane in Lane::ALL {
        let mut key = vec![b'c', lane as u8];
        key.extend_from_slice(target.as_bytes());
        kv.remove(&key)?;
    }
    Ok(())
}

/// Writes what was evicted; gives the bytes.
pub(super) fn put_evicted(kv: &dyn Kv, mark: &Evicted) -> Result<u64, StoreError> {
    put(kv, &[b'e', mark.lane as u8], mark)
}

/// What was evicted last.
pub(super) fn evicted(kv: &dyn Kv, lane: Lane) -> Result<Option<Evicted>, StoreError> {
    Ok(kv.get(&[b'e', lane as u8])?.and_then(|bytes| unseal(&bytes)))
}

pub(super) fn put<T: Serialize>(kv: &dyn Kv, key: &[u8], mark: &T) -> Result<u64, StoreError> {
    let bytes = seal(mark).map_err(|e| StoreError::Encode {
        what: "a mark",
        seq: 0,
        reason: e.to_string(),
    })?;
    kv.put(key, &bytes)?;
    Ok((key.len() + bytes.len()) as u64)
}

/// A value with a checksum in front.
pub(super) fn seal<T: Serialize>(value: &T) -> Result<Vec<u8>, postcard::Error> {
    let mut bytes = postcard::to_extend(value, vec![0; 4])?;
    let crc = crc32fast::hash(&bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

/// What [`seal`] sealed; `None` where it is damaged.
pub(super) fn unseal<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Option<T> {
    let (crc, rest) = bytes.split_first_chunk::<4>()?;
    if crc32fast::hash(rest) != u32::from_le_bytes(*crc) {
        return None;
    }
    postcard::from_bytes(rest).ok()
}
