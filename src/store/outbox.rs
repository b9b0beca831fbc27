//! The outbox: the half of the store that hands records out until the far side has them.
//!
//! The uplink's task owns it. [`Outbox::next`] gives the oldest records of the most urgent lane that has any, never
//! past what is committed; [`Outbox::settle`] removes what was acknowledged. Removals are made durable by the next
//! commit, or by themselves when many have come together: losing one costs a repeat, which the far side knows by its
//! id. Calls may wait for the disk: from async code, make them where that is allowed.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::Arc;

use crate::record::Lane;

use super::codec::{self, Block, Key};
use super::error::StoreError;
use super::kv::Kv;
use super::ledger::Committed;
use super::marks;
use super::meter::{Gone, Meter, StoreStats};
use super::parcel::{Acked, Parcel, Refused, Waiting};
use super::quarantine::{Quarantined, Shelf};

/// Bytes of settled records after which their removal is made durable without a commit.
const UNFLUSHED_MAX: u64 = 1 << 20;

/// Refused records kept to look into.
const REFUSED_MAX: usize = 1000;

/// Hands out records. See the module.
pub struct Outbox {
    kv: Arc<dyn Kv>,
    meter: Meter,
    refused: Shelf,
    unflushed: u64,
    /// Held as long as anything of the store is.
    _lock: Arc<File>,
}

impl Outbox {
    pub(super) fn open(
        kv: Arc<dyn Kv>,
        meter: Meter,
        lock: Arc<File>,
    ) -> Result<Outbox, StoreError> {
        let refused = Shelf::open(Arc::clone(&kv), b'r')?;
        Ok(Outbox { kv, meter, refused, unflushed: 0, _lock: lock })
    }

    /// The next records to send: of the first lane that has any, oldest first, with at most `budget_bytes` of lines
    /// (but at least one record). `None`: everything up to `upto` is settled.
    pub fn next(&self, upto: Committed, budget_bytes: usize) -> Result<Option<Parcel>, StoreError> {
        for lane in Lane::ALL {
            if let Some(parcel) = self.peek(lane, upto, budget_bytes)? {
                return Ok(Some(parcel));
            }
        }
        Ok(None)
    }

    /// The next records of one lane.
    pub fn peek(
        &self,
        lane: Lane,
        upto: Committed,
        budget_bytes: usize,
    ) -> Result<Option<Parcel>, StoreError> {
        let (from, to) = Key::range(lane, 0, upto.0);
        let mut waiting: Vec<Waiting> = Vec::new();
        let mut bytes = 0;
        let mut pairs = self.kv.scan(&from, &to);
        while let Some(pair) = pairs.next() {
            let (key, first) = pair?;
            let Some((key, 0)) = Key::parse(&key) else { continue };
            let Some(block) = self.block(key, first, &mut pairs)? else { continue };
            let records = waiting_in(key, &block)?;
            let size: usize = records.iter().map(|record| record.line.len() + 1).sum();
            if bytes + size > budget_bytes && !waiting.is_empty() {
                // A block is better settled whole than in two.
                break;
            }
            for record in records {
                bytes += record.line.len() + 1;
                if bytes > budget_bytes && !waiting.is_empty() {
                    break;
                }
                waiting.push(record);
            }
            if bytes >= budget_bytes {
                break;
            }
        }
        Ok((!waiting.is_empty()).then(|| Parcel::new(lane, waiting)))
    }

    /// Reads a block's other parts. `None`: the ledger evicted it meanwhile.
    fn block(
        &self,
        key: Key,
        first: Vec<u8>,
        pairs: &mut dyn Iterator<Item = Result<super::kv::Pair, StoreError>>,
    ) -> Result<Option<Block>, StoreError> {
        let parts = Block::parts(&first).unwrap_or(1);
        let mut joined = first;
        for pair in pairs.take(usize::from(parts) - 1) {
            joined.extend_from_slice(&pair?.1);
        }
        match Block::parse(&joined) {
            Ok(block) => Ok(Some(block)),
            Err(_) if self.kv.get(&key.bytes(0))?.is_none() => Ok(None),
            Err(reason) => Err(damaged(key, reason)),
        }
    }

    /// Removes what the far side has.
    pub fn settle(&mut self, acked: Acked) -> Result<(), StoreError> {
        let Acked { lane, records, upto } = acked;
        self.leave(lane, &records, upto, Gone::Delivered)
    }

    /// Moves what the far side will never take to the quarantine.
    pub fn refuse(&mut self, refused: Refused) -> Result<(), StoreError> {
        let Refused { parcel, why } = refused;
        // Beyond the shelf's size only the last ones would stay on it.
        for record in parcel.waiting().iter().rev().take(REFUSED_MAX).rev() {
            let Key { lane, seq, ordinal } = record.key;
            let name = format!("{}/{seq}/{ordinal}", lane.name());
            self.refused.add(&why, &name, &record.line, REFUSED_MAX)?;
        }
        let Acked { lane, records, upto } = parcel.acked();
        self.leave(lane, &records, upto, Gone::Refused)
    }

    fn leave(
        &mut self,
        lane: Lane,
        records: &[(Key, u32)],
        upto: Option<Key>,
        how: Gone,
    ) -> Result<(), StoreError> {
        for block in records.chunk_by(|(a, x), (b, y)| a.seq == b.seq && x == y) {
            let Some((key, first)) = block.first() else { continue };
            let start = Key { ordinal: *first, ..*key };
            let ordinals: BTreeSet<u32> = block.iter().map(|(key, _)| key.ordinal).collect();
            self.leave_block(start, &ordinals, how)?;
        }
        if let Some(upto) = upto
            && marks::settled(&*self.kv, lane)?.is_none_or(|before| before < upto)
        {
            marks::put_settled(&*self.kv, upto)?;
        }
        if self.unflushed > UNFLUSHED_MAX {
            self.flush()?;
        }
        Ok(())
    }

    /// Takes records out of one block, and the block away with its last one.
    fn leave_block(
        &mut self,
        start: Key,
        ordinals: &BTreeSet<u32>,
        how: Gone,
    ) -> Result<(), StoreError> {
        // Gone already: the ledger evicted it, and counted it so.
        let Some(first) = self.kv.get(&start.bytes(0))? else { return Ok(()) };
        let parts = Block::parts(&first).unwrap_or(1);
        if parts > 1 {
            return self.remove(start, parts, 1, how);
        }
        let mut block = Block::parse(&first).map_err(|reason| damaged(start, reason))?;
        let before = block.waiting();
        block.settle(|ordinal| ordinals.contains(&ordinal));
        let left = before - block.waiting();
        if block.waiting() == 0 {
            return self.remove(start, 1, left, how);
        }
        let bytes = block.to_bytes().map_err(|e| StoreError::Encode {
            what: "a record",
            seq: start.seq,
            reason: e.to_string(),
        })?;
        // Settling changes one byte a record, so the block takes the same space as before.
        if self.kv.swap(&start.bytes(0), &first, &bytes)? {
            self.meter.gone(start.lane, how, left, 0);
            self.meter.wrote(bytes.len() as u64);
        }
        Ok(())
    }

    fn remove(
        &mut self,
        start: Key,
        parts: u16,
        records: u64,
        how: Gone,
    ) -> Result<(), StoreError> {
        // Whoever gets the first part counts it: the ledger may be evicting it now.
        let Some(first) = self.kv.remove(&start.bytes(0))? else { return Ok(()) };
        let mut bytes = first.len();
        for part in 1..parts {
            bytes += self.kv.remove(&start.bytes(part))?.map_or(0, |value| value.len());
        }
        let stored = codec::stored(bytes, usize::from(parts));
        self.meter.gone(start.lane, how, records, stored);
        self.unflushed += stored;
        Ok(())
    }

    /// Makes what was settled durable now: at the end of a long drain, so that nothing is sent twice.
    pub fn flush(&mut self) -> Result<(), StoreError> {
        self.unflushed = 0;
        self.kv.flush()
    }

    /// The newest refused records, newest first.
    pub fn refused(&self, limit: usize) -> Result<Vec<Quarantined>, StoreError> {
        self.refused.newest(limit)
    }

    /// The books, shared with the ledger.
    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }

    /// The books now.
    pub fn stats(&self) -> StoreStats {
        self.meter.read()
    }
}

fn waiting_in(key: Key, block: &Block) -> Result<Vec<Waiting>, StoreError> {
    let lines = block.lines().map_err(|reason| damaged(key, reason))?;
    let records = block.entries().iter().zip(lines).filter(|(entry, _)| !entry.settled);
    Ok(records
        .map(|(entry, line)| Waiting {
            key: Key { ordinal: entry.ordinal, ..key },
            block: key.ordinal,
            line,
        })
        .collect())
}

fn damaged(key: Key, reason: &str) -> StoreError {
    let what = format!("a record of tick {} on lane `{}`", key.seq, key.lane.name());
    StoreError::Damaged { what, reason: reason.to_owned() }
}
