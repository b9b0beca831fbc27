//! The outbox: the half of the store that hands records out until the far side has them.
//!
//! The uplink's task owns it. [`Outbox::next`] gives the oldest records of the most urgent lane that has any, never
//! past what is committed; [`Outbox::settle`] makes durable how far the far side has them, then removes them. What was
//! acknowledged out of order is only marked, which a power cut may undo: that costs a repeat, which the far side knows
//! by its id. Calls wait for the disk: from async code, make them where that is allowed.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::Arc;

use crate::record::Lane;

use super::codec::{self, Block, Entry, Key};
use super::error::StoreError;
use super::kv::Kv;
use super::ledger::Committed;
use super::marks;
use super::meter::{Gone, Meter, StoreStats};
use super::parcel::{Acked, Parcel, Refused, Waiting};
use super::quarantine::{Quarantined, Shelf};

/// Refused records kept to look into.
const REFUSED_MAX: usize = 1000;

/// Hands out records. See the module.
pub struct Outbox {
    kv: Arc<dyn Kv>,
    meter: Meter,
    refused: Shelf,
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
        let outbox = Outbox { kv, meter, refused, _lock: lock };
        for lane in Lane::ALL {
            outbox.pass(lane, marks::floor(&*outbox.kv, lane)?, Gone::Delivered)?;
        }
        Ok(outbox)
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
    #[expect(clippy::needless_pass_by_value, reason = "an acknowledgement is used up")]
    pub fn settle(&mut self, acked: Acked) -> Result<(), StoreError> {
        self.leave(&acked, Gone::Delivered)
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
        self.leave(&parcel.acked(), Gone::Refused)
    }

    fn leave(&mut self, acked: &Acked, how: Gone) -> Result<(), StoreError> {
        for block in acked.rest.chunk_by(|(a, x), (b, y)| a.seq == b.seq && x == y) {
            let Some((key, first)) = block.first() else { continue };
            let start = Key { ordinal: *first, ..*key };
            let ordinals: BTreeSet<u32> = block.iter().map(|(key, _)| key.ordinal).collect();
            // Absent: the ledger evicted it, and counted it so.
            if let Some(first) = self.kv.get(&start.bytes(0))? {
                self.mark(start, &first, how, |_, ordinal| ordinals.contains(&ordinal))?;
            }
        }
        acked.upto.map_or(Ok(()), |number| self.pass(acked.lane, number, how))
    }

    /// Raises a lane's mark to a record that left with all before it, and on over what had left out of order; then
    /// removes all that.
    fn pass(&self, lane: Lane, number: u64, how: Gone) -> Result<(), StoreError> {
        let mut reached = number;
        for block in self.blocks(lane) {
            let (_, _, block) = block?;
            // Not over a gap: what is missing there may be about to be made again.
            if block.numbers().start > reached + 1 {
                break;
            }
            let waits = |(each, entry): &(u64, &Entry)| !entry.settled && *each > reached;
            let waiting = block.numbers().zip(block.entries()).find(waits);
            reached = reached.max(waiting.map_or(block.numbers().end, |(each, _)| each) - 1);
            if waiting.is_some() {
                break;
            }
        }
        if marks::settled(&*self.kv, lane)? < reached {
            marks::put_settled(&*self.kv, lane, reached)?;
            self.kv.flush()?;
        }
        for block in self.blocks(lane) {
            let (start, first, block) = block?;
            if block.numbers().start > reached {
                break;
            }
            if block.numbers().end <= reached + 1 {
                self.remove(start, &block, how)?;
            } else {
                self.mark(start, &first, how, |each, _| each <= reached)?;
            }
        }
        Ok(())
    }

    /// A lane's blocks: key, first part, head.
    fn blocks(
        &self,
        lane: Lane,
    ) -> impl Iterator<Item = Result<(Key, Vec<u8>, Block), StoreError>> + '_ {
        let (from, to) = Key::range(lane, 0, u64::MAX);
        self.kv.scan(&from, &to).filter_map(|pair| match pair {
            Ok((bytes, first)) => match (Key::parse(&bytes), Block::glance(&first)) {
                (Some((key, 0)), Some(block)) => Some(Ok((key, first, block))),
                _ => None,
            },
            Err(error) => Some(Err(error)),
        })
    }

    /// Marks records of a block that others keep.
    fn mark(
        &self,
        start: Key,
        first: &[u8],
        how: Gone,
        is_settled: impl FnMut(u64, u32) -> bool,
    ) -> Result<(), StoreError> {
        let parts = Block::parts(first).unwrap_or(1);
        let mut joined = first.to_vec();
        for part in 1..parts {
            joined.extend(self.kv.get(&start.bytes(part))?.unwrap_or_default());
        }
        // Unreadable: its other parts are gone already, with the ledger that is evicting it.
        let Ok(mut block) = Block::parse(&joined) else { return Ok(()) };
        let left = block.settle(is_settled);
        let bytes = block.to_bytes().map_err(|e| StoreError::Encode {
            what: "a record",
            seq: start.seq,
            reason: e.to_string(),
        })?;
        // A mark changes one byte a record and the checksum, all in the first part and none longer than before.
        let bytes = bytes.get(..first.len()).unwrap_or(&bytes);
        if left > 0 && self.kv.swap(&start.bytes(0), first, bytes)? {
            self.meter.gone(start.lane, how, left, 0);
            self.meter.wrote(bytes.len() as u64);
        }
        Ok(())
    }

    fn remove(&self, start: Key, block: &Block, how: Gone) -> Result<(), StoreError> {
        // Whoever gets the first part counts it: the ledger may be evicting it now.
        let Some(first) = self.kv.remove(&start.bytes(0))? else { return Ok(()) };
        let parts = Block::parts(&first).unwrap_or(1);
        let mut bytes = first.len();
        for part in 1..parts {
            bytes += self.kv.remove(&start.bytes(part))?.map_or(0, |value| value.len());
        }
        self.meter.gone(start.lane, how, block.waiting(), codec::stored(bytes, usize::from(parts)));
        Ok(())
    }

    /// Makes what was acknowledged out of order durable too: at the end of a drain, so that it is not sent again.
    pub fn flush(&mut self) -> Result<(), StoreError> {
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
    let records = block.numbers().zip(block.entries()).zip(lines);
    Ok(records
        .filter(|((_, entry), _)| !entry.settled)
        .map(|((number, entry), line)| Waiting {
            key: Key { ordinal: entry.ordinal, ..key },
            number,
            block: key.ordinal,
            line,
        })
        .collect())
}

fn damaged(key: Key, reason: &str) -> StoreError {
    let what = format!("a record of tick {} on lane `{}`", key.seq, key.lane.name());
    StoreError::Damaged { what, reason: reason.to_owned() }
}
