//! What changes in place, in sled: how far each target has each lane, and what went from a lane last.
//!
//! `lanes` writes both, `Store::open` reads them. A damaged value is none: targets get records again, which they know
//! by their ids. The mark of what goes carries the notice of loss that belongs to it, and is durable before anything is
//! deleted or takes the place of anything: a power cut cannot keep the loss and lose the notice. A mark takes the place of
//! the lane's last one for the same reason only when what that one says is durable in the targets' numbers.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::record::{Lane, LossRecord, Outgoing, Record};
use crate::time::Timestamp;

use super::error::StoreError;
use super::journal::sync_folder;
use super::kv::Kv;
use super::lost::Lost;
use super::settled::Settled;

/// Ordinals from here on are notices of loss: no tick makes so many records.
pub(super) const LOSS_ORDINAL: u32 = 0xFFFF_FF00;

/// What an eviction, thinning or damage took from a lane.
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
    pub(super) lost: Lost,
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
            from: self.lost.span.map(|(from, _)| from),
            to: self.lost.span.map(|(_, to)| to),
            assets: self.lost.assets.iter().cloned().collect(),
            more_assets: self.lost.more_assets,
            unread: self.lost.unread,
            at: self.at,
        });
        Outgoing { lane: Lane::Alarm, record }
    }
}

/// Why records go. Each has a mark of its own on each lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub(super) enum Why {
    /// A lane, the store or the disk is full.
    Full = 0,
    /// They are too old.
    Age = 1,
    /// Something else takes their place.
    Thinned = 2,
}

impl Why {
    const ALL: [Why; 3] = [Why::Full, Why::Age, Why::Thinned];
}

/// What went from a lane last for some reason, and what was said about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    pub(super) lane: Lane,
    pub(super) why: Why,
    /// Numbers that no target waits for any more, both ends included.
    pub(super) gone: Vec<(u64, u64)>,
    /// The segment that takes the place of others.
    pub(super) thinned: Option<Swap>,
    pub(super) loss: Loss,
}

/// A segment that takes the place of others; all are names of files in the lane's folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Swap {
    /// The new one, under the name that it was written, and the one that it gets.
    pub(super) written: String,
    pub(super) named: String,
    /// The old ones.
    pub(super) old: Vec<String>,
    /// Numbers that have a new record.
    pub(super) made: Vec<(u64, u64)>,
}

impl Swap {
    /// Puts the new segment in its place. Doing it again does no harm: numbers never come again, so neither do names.
    pub(super) fn put_in_place(&self, folder: &Path) -> Result<(), StoreError> {
        let (from, to) = (folder.join(&self.written), folder.join(&self.named));
        if !from.exists() {
            return Ok(());
        }
        fs::rename(&from, &to).map_err(StoreError::on("write", &to))?;
        sync_folder(folder).map_err(StoreError::on("sync", folder))
    }

    /// Deletes the old ones for good: two segments of the same numbers are nothing that a start could tell apart.
    pub(super) fn clear(&self, folder: &Path) -> Result<(), StoreError> {
        let mut was_there = false;
        for name in &self.old {
            let path = folder.join(name);
            match fs::remove_file(&path) {
                Ok(()) => was_there = true,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(StoreError::io("delete", &path, error)),
            }
        }
        if !was_there {
            return Ok(());
        }
        sync_folder(folder).map_err(StoreError::on("sync", folder))
    }
}

/// Writes a mark; gives the bytes.
pub(super) fn put_mark(kv: &dyn Kv, mark: &Mark) -> Result<u64, StoreError> {
    put(kv, &[b'g', mark.lane as u8, mark.why as u8], mark)
}

/// What went from a lane last, for each reason.
pub(super) fn marks(kv: &dyn Kv, lane: Lane) -> Result<Vec<Mark>, StoreError> {
    let mut marks: Vec<Mark> = Vec::new();
    for why in Why::ALL {
        let bytes = kv.get(&[b'g', lane as u8, why as u8])?;
        marks.extend(bytes.and_then(|bytes| unseal(&bytes)));
    }
    Ok(marks)
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
