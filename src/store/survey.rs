//! Reading the outbox at a start: what waits, what was on its way out, what is damaged.
//!
//! `Store::open` calls [`survey`] before anybody else touches the outbox. A block at or below its lane's floor is
//! removed: it was settled or evicted. A damaged block of a tick that the journal still holds is removed too, since
//! the replay makes it again; any other damaged block is a loss, which is said before the block is removed.

use std::fmt;

use crate::record::Lane;

use super::codec::{self, Block, Key};
use super::error::StoreError;
use super::kv::Kv;
use super::marks;
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
            "lane `{}`: at least {} records or readings of ticks {} to {} were lost to damage; a loss record says so",
            self.lane.name(),
            self.count,
            self.first_tick,
            self.last_tick
        )
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The highest tick of any record or mark.
    pub(super) last: u64,
    /// By lane, as far as there is any.
    pub(super) damage: Vec<Damage>,
    /// Keys to remove once the damage has been said.
    pub(super) condemned: Vec<Vec<u8>>,
}

/// A block as its parts come in.
struct Group {
    key: Key,
    keys: Vec<Vec<u8>>,
    first: Vec<u8>,
    joined: Vec<u8>,
    in_order: bool,
}

/// Reads all lanes, tidies them, and counts what waits. `replayed` says which ticks the journal will make again.
pub(super) fn survey(
    kv: &dyn Kv,
    meter: &Meter,
    replayed: &dyn Fn(u64) -> bool,
) -> Result<Found, StoreError> {
    let mut found = Found::default();
    for lane in Lane::ALL {
        let floor = marks::floor(kv, lane)?;
        found.last = found.last.max(floor.map_or(0, |key| key.seq));
        let mut damage: Option<Damage> = None;
        let (from, to) = Key::range(lane, 0, u64::MAX);
        let mut pairs = kv.scan(&from, &to).peekable();
        while let Some(group) = next_group(&mut pairs)? {
            found.last = found.last.max(group.key.seq);
            match whole(&group) {
                Ok(block) => tidy(kv, meter, &group, block, floor)?,
                Err(_) if floor.is_some_and(|floor| group.key <= floor) => remove(kv, &group)?,
                Err(_) if replayed(group.key.seq) => remove(kv, &group)?,
                Err(_) => {
                    let seq = group.key.seq;
                    let damage = damage.get_or_insert(Damage {
                        lane,
                        count: 0,
                        first_tick: seq,
                        last_tick: seq,
                    });
                    // How many records it held cannot be known; it was at least one.
                    damage.count += 1;
                    damage.last_tick = seq;
                    found.condemned.extend(group.keys);
                }
            }
        }
        found.damage.extend(damage);
    }
    Ok(found)
}

type Pairs<'a> =
    std::iter::Peekable<Box<dyn Iterator<Item = Result<super::kv::Pair, StoreError>> + 'a>>;

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
    floor: Option<Key>,
) -> Result<(), StoreError> {
    let Key { lane, seq, .. } = group.key;
    let before = block.waiting();
    block.settle(|ordinal| floor.is_some_and(|floor| Key { lane, seq, ordinal } <= floor));
    if block.waiting() == 0 {
        return remove(kv, group);
    }
    if block.waiting() < before {
        // Blocks of several records have one part, so this is one atomic write.
        let bytes = block.to_bytes().map_err(|e| StoreError::Encode {
            what: "a record",
            seq,
            reason: e.to_string(),
        })?;
        kv.put(&group.key.bytes(0), &bytes)?;
    }
    meter.found(lane, block.waiting(), codec::stored(group.joined.len(), group.keys.len()));
    Ok(())
}

/// The first part goes first: without it the others are known to be left over.
fn remove(kv: &dyn Kv, group: &Group) -> Result<(), StoreError> {
    for key in &group.keys {
        kv.remove(key)?;
    }
    Ok(())
}
