//! Reading the outbox at a start: what waits, what was on its way out, what is missing.
//!
//! `Store::open` calls [`survey`] before anybody else touches the outbox. A record at or below its lane's floor is
//! removed: it was settled or evicted. A block that is damaged, or that the storage engine lost without a word, leaves
//! a gap in the lane's numbers. Where the journal is replayed the gap is filled; anywhere else it is a loss, which is
//! said before the gap is remembered as known.

use std::fmt;

use crate::record::Lane;

use super::checkpoint::LaneBooks;
use super::codec::{self, Block, Key};
use super::error::StoreError;
use super::kv::{Kv, Pair};
use super::marks::{self, Gap};
use super::meter::Meter;

/// Damage to a lane that no replay makes good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) lane: Lane,
    pub(super) count: u64,
    pub(super) first_tick: u64,
    pub(super) last_tick: u64,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "lane `{}`: {} records or readings of ticks {} to {} were lost to damage; a loss record says so",
            self.lane.name(),
            self.count,
            self.first_tick,
            self.last_tick
        )
    }
}

/// What was found on one lane.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) lane: Lane,
    /// The number up to which every record has left.
    pub(super) floor: u64,
    /// The highest number of any record or mark.
    pub(super) last: u64,
    /// The highest tick of any record.
    pub(super) last_tick: u64,
    /// Missing records that were not reported before.
    pub(super) damage: Option<Damage>,
    /// All missing records: to be remembered once the damage was reported.
    pub(super) gaps: Vec<Gap>,
}

impl Found {
    /// After the damage was reported: remembers it.
    pub(super) fn remember(&self, kv: &dyn Kv) -> Result<(), StoreError> {
        if self.damage.is_some() {
            marks::put_gaps(kv, self.lane, &self.gaps)?;
        }
        Ok(())
    }
}

/// A block as its parts come in.
struct Group {
    key: Key,
    keys: Vec<Vec<u8>>,
    first: Vec<u8>,
    joined: Vec<u8>,
    in_order: bool,
}

/// Reads a lane, tidies it, and counts what waits. `books`: how far it was after tick `upto`; all later ticks will
/// be replayed.
pub(super) fn survey(
    kv: &dyn Kv,
    meter: &Meter,
    lane: Lane,
    books: LaneBooks,
    upto: u64,
) -> Result<Found, StoreError> {
    let floor = marks::floor(kv, lane)?.max(books.floor);
    let known = marks::gaps(kv, lane)?;
    let mut found = Found {
        lane,
        floor,
        last: floor.max(books.last),
        last_tick: 0,
        damage: None,
        gaps: Vec::new(),
    };
    let mut expected = floor + 1;
    let mut tick_before = 0;
    let (from, to) = Key::range(lane, 0, u64::MAX);
    let mut pairs = kv.scan(&from, &to).peekable();
    while let Some(group) = next_group(&mut pairs)? {
        found.last_tick = found.last_tick.max(group.key.seq);
        let Ok(block) = whole(&group) else {
            // Half removed, or half written, or damaged. If it was needed, the gap that it leaves will tell.
            remove(kv, &group)?;
            continue;
        };
        let numbers = block.numbers();
        found.last = found.last.max(numbers.end - 1);
        found.missing(
            &known,
            (expected, numbers.start.saturating_sub(1)),
            books,
            (tick_before, group.key.seq),
        );
        expected = expected.max(numbers.end);
        tick_before = group.key.seq;
        tidy(kv, meter, &group, block, floor)?;
    }
    found.missing(&known, (expected, books.last), books, (tick_before, upto));
    Ok(found)
}

impl Found {
    /// Takes note of a gap, as far as no replay fills it and it was not reported before.
    fn missing(&mut self, known: &[Gap], gap: Gap, books: LaneBooks, ticks: (u64, u64)) {
        let (from, to) = (gap.0, gap.1.min(books.last));
        if from > to {
            return;
        }
        self.gaps.push((from, to));
        let overlap = |known: &Gap| (known.1.min(to) + 1).saturating_sub(known.0.max(from));
        let new = (to - from + 1).saturating_sub(known.iter().map(overlap).sum());
        if new > 0 {
            let (lane, (first_tick, last_tick)) = (self.lane, ticks);
            let none = Damage { lane, count: 0, first_tick, last_tick };
            let damage = self.damage.get_or_insert(none);
            damage.count += new;
            damage.last_tick = last_tick;
        }
    }
}

/// Remembers the gaps of a lane as they are, up to `last`: after the replay nothing is missing any more but notices of
/// evictions that a power cut undid together with their notice.
pub(super) fn accept_gaps(kv: &dyn Kv, lane: Lane, last: u64) -> Result<(), StoreError> {
    let mut gaps = Vec::new();
    let mut expected = marks::floor(kv, lane)? + 1;
    let (from, to) = Key::range(lane, 0, u64::MAX);
    for pair in kv.scan(&from, &to) {
        let (bytes, value) = pair?;
        let (Some((_, 0)), Some(block)) = (Key::parse(&bytes), Block::glance(&value)) else {
            continue;
        };
        let numbers = block.numbers();
        if numbers.start > expected {
            gaps.push((expected, numbers.start - 1));
        }
        expected = expected.max(numbers.end);
    }
    if expected <= last {
        gaps.push((expected, last));
    }
    if gaps == marks::gaps(kv, lane)? { Ok(()) } else { marks::put_gaps(kv, lane, &gaps) }
}

type Pairs<'a> = std::iter::Peekable<Box<dyn Iterator<Item = Result<Pair, StoreError>> + 'a>>;

/// The next block's parts.
fn next_group(pairs: &mut Pairs<'_>) -> Result<Option<Group>, StoreError> {
    let mut group: Option<Group> = None;
    while let Some(pair) = pairs.next_if(|pair| {
        let same = |bytes: &[u8]| {
            let key = Key::parse(bytes).map(|(key, _)| key);
            group.as_ref().is_none_or(|group| Some(group.key) == key)
        };
        pair.as_ref().map_or(true, |(bytes, _)| same(bytes))
    }) {
        let (bytes, value) = pair?;
        let Some((key, part)) = Key::parse(&bytes) else { continue };
        let group = group.get_or_insert_with(|| Group {
            key,
            keys: Vec::new(),
            first: value.clone(),
            joined: Vec::new(),
            in_order: true,
        });
        group.in_order &= usize::from(part) == group.keys.len();
        group.keys.push(bytes);
        group.joined.extend_from_slice(&value);
    }
    Ok(group)
}

fn whole(group: &Group) -> Result<Block, &'static str> {
    let parts = Block::parts(&group.first).ok_or("head cannot be read")?;
    if !group.in_order || usize::from(parts) != group.keys.len() {
        return Err("a part is missing");
    }
    Block::parse(&group.joined)
}

/// Counts a good block, or removes what of it is at or below the floor.
fn tidy(
    kv: &dyn Kv,
    meter: &Meter,
    group: &Group,
    mut block: Block,
    floor: u64,
) -> Result<(), StoreError> {
    if block.numbers().end <= floor + 1 {
        return remove(kv, group);
    }
    if block.settle(|number, _| number <= floor) > 0 {
        // Blocks of several records have one part, so this is one atomic write.
        let bytes = block.to_bytes().map_err(|e| StoreError::Encode {
            what: "a record",
            seq: group.key.seq,
            reason: e.to_string(),
        })?;
        kv.put(&group.key.bytes(0), &bytes)?;
    }
    let stored = codec::stored(group.joined.len(), group.keys.len());
    meter.found(group.key.lane, block.waiting(), stored);
    Ok(())
}

fn remove(kv: &dyn Kv, group: &Group) -> Result<(), StoreError> {
    group.keys.iter().try_for_each(|key| kv.remove(key).map(|_| ()))
}
