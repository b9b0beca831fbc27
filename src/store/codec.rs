//! How records become keys and values: the bytes of the outbox.
//!
//! `ledger` packs the records of one tick and lane into blocks, `outbox` and `survey` read them back. sled writes
//! some eight bytes for each byte of a small value, so records share a value as long as it stays below
//! [`VALUE_MAX`]; one record that does not fit has several values of its own. Every block carries a checksum over
//! everything in it, and says how many values it has, so a part that is missing or cut short is seen.
//!
//! A block is `crc u32 | head | lines`, the head in postcard, the lines zstd-compressed where that helps. Its key is
//! `'o' | lane u8 | tick u64 | ordinal u32 | part u16`, big-endian, so keys sort in order of sending. The ordinal is
//! that of its first record. Every record also has a number, counted up for each lane over its whole life: a gap in
//! the numbers is how lost records are noticed that the storage engine says nothing about.

use serde::{Deserialize, Serialize};

use crate::record::Lane;

use super::error::StoreError;

/// Largest value handed to the storage engine, in bytes: above 7 KB sled 0.34.7 makes files it never syncs.
pub const VALUE_MAX: usize = 6 * 1024;

/// Where a block should end up: a little under one value.
const VALUE_AIM: usize = 5 * 1024 + 512;

/// zstd's level for records: they are few beside the readings, and wait long.
const LEVEL: i32 = 3;

const KEY_LEN: usize = 16;

/// Where a record stands in the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// Its lane.
    pub lane: Lane,
    /// The tick that made it.
    pub seq: u64,
    /// Its number among the tick's records.
    pub ordinal: u32,
}

impl Key {
    /// The storage key of part `part` of the block that starts here.
    pub(super) fn bytes(self, part: u16) -> [u8; KEY_LEN] {
        let mut bytes = [0; KEY_LEN];
        bytes[0] = b'o';
        bytes[1] = self.lane as u8;
        bytes[2..10].copy_from_slice(&self.seq.to_be_bytes());
        bytes[10..14].copy_from_slice(&self.ordinal.to_be_bytes());
        bytes[14..].copy_from_slice(&part.to_be_bytes());
        bytes
    }

    /// The block and the part that a storage key names.
    pub(super) fn parse(bytes: &[u8]) -> Option<(Key, u16)> {
        let bytes: &[u8; KEY_LEN] = bytes.try_into().ok()?;
        let [b'o', lane, rest @ ..] = bytes else { return None };
        let (seq, rest) = rest.split_first_chunk::<8>()?;
        let (ordinal, rest) = rest.split_first_chunk::<4>()?;
        let (part, _) = rest.split_first_chunk::<2>()?;
        let key = Key {
            lane: *Lane::ALL.get(usize::from(*lane))?,
            seq: u64::from_be_bytes(*seq),
            ordinal: u32::from_be_bytes(*ordinal),
        };
        Some((key, u16::from_be_bytes(*part)))
    }

    /// The storage keys of ticks `from..=to` of a lane: first, and first after.
    pub(super) fn range(lane: Lane, from: u64, to: u64) -> ([u8; KEY_LEN], [u8; KEY_LEN]) {
        let first = Key { lane, seq: from, ordinal: 0 };
        let mut end = Key { lane, seq: to, ordinal: u32::MAX }.bytes(u16::MAX);
        if to < u64::MAX {
            end = Key { lane, seq: to + 1, ordinal: 0 }.bytes(0);
        }
        (first.bytes(0), end)
    }
}

/// One record of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Its number among the tick's records.
    pub(super) ordinal: u32,
    /// Bytes of its line.
    pub(super) len: u32,
    /// Whether the far side has it while others of the block still wait.
    pub(super) settled: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Head {
    parts: u16,
    compressed: bool,
    /// The number of the first record among all that its lane ever had; the others follow.
    first: u64,
    entries: Vec<Entry>,
}

/// A block as read: its records, and its lines still packed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Block {
    head: Head,
    body: Vec<u8>,
}

impl Block {
    /// Reads a block from its parts, joined; the error says what is wrong with it.
    pub(super) fn parse(joined: &[u8]) -> Result<Block, &'static str> {
        let (crc, rest) = joined.split_first_chunk::<4>().ok_or("too short")?;
        if crc32fast::hash(rest) != u32::from_le_bytes(*crc) {
            return Err("checksum does not match");
        }
        let (head, body) =
            postcard::take_from_bytes::<Head>(rest).map_err(|_| "head cannot be read")?;
        Ok(Block { head, body: body.to_vec() })
    }

    /// How many parts the block has, read from its first part alone.
    pub(super) fn parts(first: &[u8]) -> Option<u16> {
        let (parts, _) = postcard::take_from_bytes::<u16>(first.get(4..)?).ok()?;
        (parts > 0).then_some(parts)
    }

    /// Reads the head alone, from a block's first part and without its checksum: enough to count what is dropped.
    pub(super) fn glance(first: &[u8]) -> Option<Block> {
        let (head, _) = postcard::take_from_bytes::<Head>(first.get(4..)?).ok()?;
        Some(Block { head, body: Vec::new() })
    }

    /// Numbers of its records among all that the lane ever had: the first, and the first after.
    pub(super) fn numbers(&self) -> std::ops::Range<u64> {
        self.head.first..self.head.first + self.head.entries.len() as u64
    }

    /// Its records, in order.
    pub(super) fn entries(&self) -> &[Entry] {
        &self.head.entries
    }

    /// How many of its records still wait.
    pub(super) fn waiting(&self) -> u64 {
        self.head.entries.iter().filter(|entry| !entry.settled).count() as u64
    }

    /// Marks the records that `is_settled` says, by number and ordinal; says how many of them waited.
    pub(super) fn settle(&mut self, mut is_settled: impl FnMut(u64, u32) -> bool) -> u64 {
        let before = self.waiting();
        for (number, entry) in (self.head.first..).zip(&mut self.head.entries) {
            entry.settled |= is_settled(number, entry.ordinal);
        }
        before - self.waiting()
    }

    /// The lines, one an entry.
    pub(super) fn lines(&self) -> Result<Vec<Vec<u8>>, &'static str> {
        let total: usize = self.head.entries.iter().map(|entry| entry.len as usize).sum();
        let unpacked;
        let mut rest: &[u8] = &self.body;
        if self.head.compressed {
            unpacked =
                zstd::bulk::decompress(&self.body, total).map_err(|_| "cannot be unpacked")?;
            rest = &unpacked;
        }
        let mut lines = Vec::with_capacity(self.head.entries.len());
        for entry in &self.head.entries {
            let (line, after) = rest.split_at_checked(entry.len as usize).ok_or("lines missing")?;
            lines.push(line.to_vec());
            rest = after;
        }
        Ok(lines)
    }

    /// Its bytes, not yet cut into parts.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, postcard::Error> {
        let mut bytes = postcard::to_extend(&self.head, vec![0; 4])?;
        bytes.extend_from_slice(&self.body);
        let crc = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        Ok(bytes)
    }
}

/// A block ready to be put: its key and its values.
#[derive(Debug)]
pub(super) struct Packed {
    /// The key of its first record.
    pub(super) key: Key,
    /// How many records it holds.
    pub(super) records: u64,
    /// One a part; none above [`VALUE_MAX`].
    pub(super) values: Vec<Vec<u8>>,
}

impl Packed {
    /// Bytes of keys and values: what counts against a lane's limit.
    pub(super) fn stored(&self) -> u64 {
        stored(self.values.iter().map(Vec::len).sum(), self.values.len())
    }
}

/// What a block costs: its values and their keys, in bytes.
pub(super) fn stored(value_bytes: usize, parts: usize) -> u64 {
    (value_bytes + parts * KEY_LEN) as u64
}

/// Packs lines into blocks; remembers for each lane how well it compresses.
pub(super) struct Packer {
    zstd: zstd::bulk::Compressor<'static>,
    /// Bytes of lines that made a good block last time, by lane.
    aim: [usize; 4],
}

impl Packer {
    pub(super) fn new() -> std::io::Result<Packer> {
        Ok(Packer { zstd: zstd::bulk::Compressor::new(LEVEL)?, aim: [4 * VALUE_AIM; 4] })
    }

    /// Packs records of one tick and lane: their ordinals and lines, in order. `number` is that of the first one
    /// among all that the lane ever had.
    pub(super) fn pack(
        &mut self,
        lane: Lane,
        seq: u64,
        mut number: u64,
        mut records: &[(u32, Vec<u8>)],
    ) -> Result<Vec<Packed>, StoreError> {
        let mut blocks = Vec::new();
        while let Some((first, _)) = records.first() {
            let key = Key { lane, seq, ordinal: *first };
            let (taken, values) = self.pack_one(lane, seq, number, records)?;
            blocks.push(Packed { key, records: taken as u64, values });
            number += taken as u64;
            records = records.get(taken..).unwrap_or_default();
        }
        Ok(blocks)
    }

    /// Packs as many of the records as fit into one value, at least one; says how many.
    fn pack_one(
        &mut self,
        lane: Lane,
        seq: u64,
        number: u64,
        records: &[(u32, Vec<u8>)],
    ) -> Result<(usize, Vec<Vec<u8>>), StoreError> {
        let aim = self.aim.get(lane as usize).copied().unwrap_or(VALUE_AIM);
        let mut raw = 0;
        let within = records.iter().take_while(|(_, line)| {
            raw += line.len();
            raw <= aim
        });
        let mut take = within.count().max(1);
        loop {
            let some = records.get(..take).unwrap_or(records);
            let bytes = self.encode(seq, number, some)?;
            let raw: usize = some.iter().map(|(_, line)| line.len()).sum();
            if bytes.len() <= VALUE_MAX || take == 1 {
                // Only a block that had to stop says how much fits into the next one.
                if take < records.len() && take > 1 {
                    self.learn(lane, raw, bytes.len());
                }
                return Ok((take, bytes.chunks(VALUE_MAX).map(<[u8]>::to_vec).collect()));
            }
            self.learn(lane, raw, bytes.len());
            take = (take * VALUE_AIM / bytes.len()).clamp(1, take - 1);
        }
    }

    fn learn(&mut self, lane: Lane, raw: usize, packed: usize) {
        if let Some(aim) = self.aim.get_mut(lane as usize) {
            *aim = (raw * VALUE_AIM / packed.max(1)).clamp(VALUE_AIM, 40 * VALUE_AIM);
        }
    }

    fn encode(
        &mut self,
        seq: u64,
        first: u64,
        records: &[(u32, Vec<u8>)],
    ) -> Result<Vec<u8>, StoreError> {
        const WHAT: &str = "a record";
        let mut lines = Vec::new();
        let mut entries = Vec::with_capacity(records.len());
        for (ordinal, line) in records {
            let bytes = line.len();
            let len = u32::try_from(bytes).map_err(|_| StoreError::TooLarge {
                what: WHAT,
                seq,
                bytes,
            })?;
            entries.push(Entry { ordinal: *ordinal, len, settled: false });
            lines.extend_from_slice(line);
        }
        let failed = |reason: String| StoreError::Encode { what: WHAT, seq, reason };
        let smaller = self.zstd.compress(&lines).map_err(|e| failed(e.to_string()))?;
        let compressed = smaller.len() < lines.len();
        let body = if compressed { smaller } else { lines };
        // The number of parts is written before the size is known; two bytes more do not change it often.
        let mut block = Block { head: Head { parts: 1, compressed, first, entries }, body };
        loop {
            let bytes = block.to_bytes().map_err(|e| failed(e.to_string()))?;
            let parts = u16::try_from(bytes.len().div_ceil(VALUE_MAX))
                .map_err(|_| StoreError::TooLarge { what: WHAT, seq, bytes: bytes.len() })?;
            if parts <= block.head.parts {
                return Ok(bytes);
            }
            block.head.parts = parts;
        }
    }
}

/// A small value with a checksum in front: marks, quarantined input.
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
