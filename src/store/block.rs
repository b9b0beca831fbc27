//! Records as bytes: the blocks that a lane's segments are made of.
//!
//! `log` encodes the records of one tick and lane into blocks, `scan` finds and checks them again. A block is
//! `FBLK | len u32 | crc u32 | head | body` (little-endian; the checksum is over head and body, the head in postcard,
//! the lines zstd-compressed where that helps). A record has a key, which says where it was made, and a number,
//! counted up for each lane over its whole life: a gap in the numbers is how a lost block is noticed. A block may
//! cover numbers that it holds no record of: those were never made, or were thinned.

use serde::{Deserialize, Serialize};

use crate::record::Lane;
use crate::time::Tick;

use super::error::StoreError;

/// What every block starts with: how the next one is found behind damage.
pub(super) const MARK: &[u8; 4] = b"FBLK";
/// Bytes before a block's head.
pub(super) const START: usize = 12;
/// Bytes of lines in a block, unless a single one is longer: what is unpacked at once.
const LINES_MAX: usize = 256 << 10;
/// zstd's level for records: they are few beside the readings, and wait long.
const LEVEL: i32 = 3;

/// Where a record was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// Its lane.
    pub lane: Lane,
    /// The tick that made it.
    pub seq: u64,
    /// Its place among the tick's records.
    pub ordinal: u32,
}

/// One record of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Its number less that of the block's first.
    pub(super) offset: u32,
    /// Its place among the tick's records.
    pub(super) ordinal: u32,
    /// Bytes of its line.
    pub(super) len: u32,
}

/// What stands before a block's lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// The tick that made the records; of a block that several made, the last.
    pub(super) tick: Tick,
    /// The first number that it covers.
    pub(super) first: u64,
    /// How many numbers it covers.
    pub(super) span: u64,
    compressed: bool,
    pub(super) entries: Vec<Entry>,
}

impl Head {
    /// The first number after it.
    pub(super) fn end(&self) -> u64 {
        self.first.saturating_add(self.span)
    }
}

/// A block as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) head: Head,
    body: Vec<u8>,
}

impl Block {
    /// How long the block at the start of `bytes` says it is; `None` where no block starts.
    pub(super) fn announced(bytes: &[u8]) -> Option<usize> {
        let rest = bytes.strip_prefix(MARK)?;
        let (len, _) = rest.split_first_chunk::<4>()?;
        Some(START + u32::from_le_bytes(*len) as usize)
    }

    /// Reads the block that is all of `bytes`; `None` where they are damaged.
    pub(super) fn parse(bytes: &[u8]) -> Option<Block> {
        let (start, rest) = bytes.split_first_chunk::<START>()?;
        let [.., c0, c1, c2, c3] = start;
        if crc32fast::hash(rest) != u32::from_le_bytes([*c0, *c1, *c2, *c3]) {
            return None;
        }
        let (head, body) = postcard::take_from_bytes::<Head>(rest).ok()?;
        Some(Block { head, body: body.to_vec() })
    }

    /// The lines, one an entry; `None` where they do not come out as long as they were.
    pub(super) fn lines(&self) -> Option<Vec<Vec<u8>>> {
        let entries = &self.head.entries;
        let total: usize = entries.iter().map(|entry| entry.len as usize).sum();
        let unpacked;
        let mut rest: &[u8] = &self.body;
        if self.head.compressed {
            unpacked = zstd::bulk::decompress(&self.body, total).ok()?;
            rest = &unpacked;
        }
        let mut lines = Vec::with_capacity(entries.len());
        for entry in entries {
            let (line, after) = rest.split_at_checked(entry.len as usize)?;
            lines.push(line.to_vec());
            rest = after;
        }
        Some(lines)
    }
}

/// A line on its way into a block: its number, its place among the tick's records, its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) number: u64,
    pub(super) ordinal: u32,
    pub(super) bytes: Vec<u8>,
}

/// Turns lines into blocks.
pub(super) struct Packer(zstd::bulk::Compressor<'static>);

impl Packer {
    pub(super) fn new() -> std::io::Result<Packer> {
        zstd::bulk::Compressor::new(LEVEL).map(Packer)
    }

    /// Appends to `to` the blocks of `lines` (numbers rising), which together cover the numbers `cover`.
    pub(super) fn pack(
        &mut self,
        to: &mut Vec<u8>,
        tick: Tick,
        cover: std::ops::Range<u64>,
        mut lines: &[Line],
    ) -> Result<(), StoreError> {
        let mut first = cover.start;
        loop {
            let mut bytes = 0;
            let fits = |line: &&Line| {
                bytes += line.bytes.len();
                bytes <= LINES_MAX
            };
            let taken = lines.iter().take_while(fits).count().max(1).min(lines.len());
            let (these, rest) = lines.split_at(taken);
            let end = rest.first().map_or(cover.end, |line| line.number);
            self.block(to, tick, first..end, these)?;
            first = end;
            lines = rest;
            if lines.is_empty() {
                return Ok(());
            }
        }
    }

    fn block(
        &mut self,
        to: &mut Vec<u8>,
        tick: Tick,
        cover: std::ops::Range<u64>,
        lines: &[Line],
    ) -> Result<(), StoreError> {
        const WHAT: &str = "a record";
        let seq = tick.seq;
        let failed = |reason: String| StoreError::Encode { what: WHAT, seq, reason };
        let too_large = |bytes: usize| StoreError::TooLarge { what: WHAT, seq, bytes };
        let mut entries = Vec::with_capacity(lines.len());
        let mut plain = Vec::new();
        for line in lines {
            let bytes = line.bytes.len();
            entries.push(Entry {
                offset: u32::try_from(line.number - cover.start).map_err(|_| too_large(bytes))?,
                ordinal: line.ordinal,
                len: u32::try_from(bytes).map_err(|_| too_large(bytes))?,
            });
            plain.extend_from_slice(&line.bytes);
        }
        let smaller = self.0.compress(&plain).map_err(|e| failed(e.to_string()))?;
        let compressed = smaller.len() < plain.len();
        let (first, span) = (cover.start, cover.end - cover.start);
        let head = Head { tick, first, span, compressed, entries };
        let start = to.len();
        to.extend_from_slice(MARK);
        to.extend_from_slice(&[0; 8]);
        let mut bytes =
            postcard::to_extend(&head, std::mem::take(to)).map_err(|e| failed(e.to_string()))?;
        bytes.extend_from_slice(if compressed { &smaller } else { &plain });
        let len = bytes.len() - start - START;
        let len = u32::try_from(len).map_err(|_| too_large(len))?;
        let crc = crc32fast::hash(&bytes[start + START..]);
        bytes[start + 4..start + 8].copy_from_slice(&len.to_le_bytes());
        bytes[start + 8..start + START].copy_from_slice(&crc.to_le_bytes());
        *to = bytes;
        Ok(())
    }
}
