//! The outbox: the half of the store that hands records out until a far side has them. There is one a target.
//!
//! The target's uplink task owns it. [`Outbox::next`] gives the oldest records of the most urgent lane that has any,
//! never past what is committed; [`Outbox::settle`] takes note that the far side has them. That is durable a moment
//! later, so a crash may cost a repeat, which the far side knows by its id. Several parcels may be on the way at once and
//! come back in any order. Damage met on the way is skipped and
//! handed to the ledger, which says it. Calls wait for the disk: from async code, make them where that is allowed.

use std::cell::RefCell;
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::record::Lane;
use crate::time::monotonic;

use super::block::{Block, Key};
use super::error::StoreError;
use super::kv::Kv;
use super::lanes::{Gap, Lanes, Place, Segment};
use super::ledger::Committed;
use super::marks;
use super::meter::{Gone, Meter, StoreStats};
use super::parcel::{Acked, Parcel, Refused, Waiting};
use super::quarantine::{Quarantined, Shelf};
use super::scan::{Found, Scan};
use super::settled::Settled;

/// Why a refused record cannot be handled.
pub const NOT_THERE: &str = "there is no such record on the list";

/// Refused records kept to look into.
const REFUSED_MAX: usize = 1000;
/// Bytes kept of one.
const REFUSED_BYTES: usize = 1 << 20;

/// Longest time that what was settled is not durable while more is settled.
const FLUSH_EVERY: Duration = Duration::from_millis(500);

/// Hands out records. See the module.
pub struct Outbox {
    name: String,
    target: usize,
    kv: Arc<dyn Kv>,
    lanes: Arc<Lanes>,
    meter: Meter,
    refused: Shelf,
    /// What was handed out and has not come back.
    on_the_way: Vec<Acked>,
    /// By lane: where the oldest records were read last, and fresher ones.
    positions: RefCell<[[Option<Position>; 2]; 4]>,
    flushed: Instant,
    /// What was settled could not be written down.
    is_behind: bool,
    /// Held as long as anything of the store is.
    _lock: Arc<File>,
}

/// A block's place: its segment's first number, where it starts, and its first number.
#[derive(Clone, Copy, Debug)]
struct Position {
    segment: u64,
    level: u8,
    at: u64,
    number: u64,
}

/// What one look collects.
struct Pick {
    lane: Lane,
    upto: u64,
    budget: usize,
    /// The next number that is wanted.
    number: u64,
    settled: Settled,
    bytes: usize,
    waiting: Vec<Waiting>,
    position: Option<Position>,
    is_full: bool,
}

impl Outbox {
    pub(super) fn open(
        name: &str,
        target: usize,
        kv: Arc<dyn Kv>,
        lanes: Arc<Lanes>,
        meter: Meter,
        lock: Arc<File>,
    ) -> Result<Outbox, StoreError> {
        let refused = Shelf::open(Arc::clone(&kv), &format!("r{name}"), REFUSED_BYTES)?;
        Ok(Outbox {
            name: name.to_owned(),
            target,
            kv,
            lanes,
            meter,
            refused,
            on_the_way: Vec::new(),
            positions: RefCell::default(),
            flushed: monotonic(),
            is_behind: false,
            _lock: lock,
        })
    }

    /// The name of its target.
    pub fn target(&self) -> &str {
        &self.name
    }

    /// The next records to send: of the first lane that has any, oldest first, with at most `budget_bytes` of lines
    /// (but at least one record). `None`: everything up to `upto` is settled.
    pub fn next(&self, upto: Committed, budget_bytes: usize) -> Result<Option<Parcel>, StoreError> {
        for lane in Lane::ALL {
            if let Some(parcel) = self.peek(lane, upto, budget_bytes, 0)? {
                return Ok(Some(parcel));
            }
        }
        Ok(None)
    }

    /// The next records of one lane that are not on their way, numbered `from` or higher; 0: the oldest.
    pub fn peek(
        &self,
        lane: Lane,
        upto: Committed,
        budget_bytes: usize,
        from: u64,
    ) -> Result<Option<Parcel>, StoreError> {
        let slot = usize::from(from > 0);
        let (mut settled, renewals) = self.lanes.settled(self.target, lane);
        for away in self.on_the_way.iter().filter(|away| away.lane == lane) {
            for (from, to) in &away.ranges {
                settled.insert(*from, *to);
            }
        }
        let mut pick = Pick {
            lane,
            upto: upto.0,
            budget: budget_bytes,
            number: settled.next_open(from),
            settled,
            bytes: 0,
            waiting: Vec::new(),
            position: None,
            is_full: false,
        };
        let mut known = self.positions.borrow()[lane as usize][slot];
        while !pick.is_full
            && let Some(Place { number, segment }) =
                self.lanes.place(self.target, lane, pick.number)
        {
            pick.number = number;
            let known = known.take().filter(|p| {
                p.segment == segment.first && p.level == segment.level && p.number <= number
            });
            if !self.read(&mut pick, &segment, known)? {
                break;
            }
        }
        if pick.position.is_some() {
            self.positions.borrow_mut()[lane as usize][slot] = pick.position;
        }
        Ok((!pick.waiting.is_empty()).then(|| Parcel::new(lane, pick.waiting, renewals)))
    }

    /// Reads a segment from `known` on; says whether the next one may have more.
    fn read(
        &self,
        pick: &mut Pick,
        segment: &Segment,
        known: Option<Position>,
    ) -> Result<bool, StoreError> {
        let start = known.map_or(0, |position| position.at);
        let mut expected = known.map_or(segment.first, |position| position.number);
        let mut tick_before = segment.tick;
        let lane = pick.lane;
        let gap = |from: u64, to: u64, ticks: (u64, u64)| Gap { lane, from, to, ticks };
        let Some(mut scan) = Scan::open(&segment.path, start, segment.len)? else {
            if !self.lanes.is_current(lane, segment) {
                // Evicted or thinned meanwhile: the next look sees what took its place.
                return Ok(true);
            }
            // Deleted by somebody else: then all of it is missed, and said.
            self.met(&gap(segment.first, segment.end - 1, (segment.tick, segment.tick)));
            pick.number = segment.end;
            return Ok(true);
        };
        while let Some(found) = scan.next()? {
            let Found::Block { at, block } = found else { continue };
            if block.head.first > expected {
                let ticks = (tick_before, block.head.tick.seq);
                self.met(&gap(expected, block.head.first - 1, ticks));
            }
            if block.head.tick.seq > pick.upto {
                return Ok(false);
            }
            expected = block.head.end();
            tick_before = block.head.tick.seq;
            if expected <= pick.number {
                continue;
            }
            let (level, number) = (segment.level, block.head.first);
            let position = Position { segment: segment.first, level, at, number };
            if !pick.take(&block, position) {
                self.met(&gap(block.head.first, expected - 1, (tick_before, tick_before)));
            }
            let absent = pick.absent(&block);
            if !absent.is_empty() {
                self.lanes.absent(self.target, lane, &absent)?;
            }
            if pick.is_full {
                return Ok(false);
            }
        }
        if expected < segment.end {
            self.met(&gap(expected, segment.end - 1, (tick_before, tick_before)));
        }
        pick.number = pick.number.max(segment.end);
        Ok(true)
    }

    /// Numbers that cannot be read: skipped here, and said by the ledger if anybody waits for them.
    fn met(&self, gap: &Gap) {
        if self.lanes.missed(gap) > 0 {
            self.lanes.met(*gap);
        }
    }

    /// A parcel is on its way: what is in it is passed over until [`Outbox::is_back`].
    pub fn sets_out(&mut self, parcel: &Parcel) {
        self.on_the_way.push(parcel.acked());
    }

    /// A parcel is no longer on its way, whatever came of it.
    pub fn is_back(&mut self, parcel: &Parcel) {
        let away = parcel.acked();
        if let Some(place) = self.on_the_way.iter().position(|each| *each == away) {
            self.on_the_way.swap_remove(place);
        }
    }

    /// Takes note of what the far side has.
    #[expect(clippy::needless_pass_by_value, reason = "an acknowledgement is used up")]
    pub fn settle(&mut self, acked: Acked) -> Result<(), StoreError> {
        self.leave(&acked, Gone::Delivered)
    }

    /// Moves what the far side will never take to the quarantine.
    ///
    /// # Errors
    /// [`StoreError::Full`]: it stays where it was; try again later.
    pub fn refuse(&mut self, refused: Refused) -> Result<(), StoreError> {
        let Refused { parcel, why } = refused;
        // Beyond the shelf's size only the last ones would stay on it.
        for record in parcel.waiting().iter().rev().take(REFUSED_MAX).rev() {
            let Key { lane, seq, ordinal } = record.key;
            let name = format!("{}/{seq}/{ordinal}", lane.name());
            self.refused.add(&why, &name, &record.line, REFUSED_MAX)?;
        }
        // Durable before the records may go.
        self.kv.flush()?;
        self.leave(&parcel.acked(), Gone::Refused)
    }

    fn leave(&mut self, acked: &Acked, how: Gone) -> Result<(), StoreError> {
        if acked.is_empty() {
            return Ok(());
        }
        let settled = self.lanes.settle(self.target, acked, how);
        self.unless_full(settled)?;
        if self.is_behind {
            return Ok(());
        }
        let dropped = self.lanes.drop_settled(acked.lane);
        let is_flushed = self.unless_full(dropped)?.unwrap_or(true);
        if is_flushed {
            self.flushed = monotonic();
        } else if self.flushed.elapsed() >= FLUSH_EVERY {
            self.flush()?;
        }
        Ok(())
    }

    /// Makes what was settled durable: at the end of a drain, so that it is not sent again. On a full disk it stays
    /// undone: see [`Outbox::is_behind`].
    pub fn flush(&mut self) -> Result<(), StoreError> {
        let flushed = self.lanes.flush();
        if self.unless_full(flushed)?.is_some() {
            self.flushed = monotonic();
            if std::mem::take(&mut self.is_behind) {
                for lane in Lane::ALL {
                    let dropped = self.lanes.drop_settled(lane);
                    self.unless_full(dropped)?;
                }
            }
        }
        Ok(())
    }

    /// Whether a full disk keeps what was settled from being written down. Nothing is lost by that: after a crash it is
    /// sent again, under the same ids. [`Outbox::flush`] tries again.
    pub fn is_behind(&self) -> bool {
        self.is_behind
    }

    fn unless_full<T>(&mut self, done: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
        match done {
            Ok(done) => Ok(Some(done)),
            Err(StoreError::Full { .. }) => {
                self.is_behind = true;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The number of the last record of a lane that is there: what comes later is fresher than all of now.
    pub fn last(&self, lane: Lane) -> u64 {
        self.lanes.last(lane)
    }

    /// What the uplink wrote down with [`Outbox::keep_note`], if it is readable.
    pub fn note(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let bytes = self.kv.get(format!("n{}", self.name).as_bytes())?;
        Ok(bytes.and_then(|bytes| marks::unseal(&bytes)))
    }

    /// Writes something small down for the uplink's next run; durable with the next flush. Left out while the disk is
    /// full.
    pub fn keep_note(&mut self, note: &[u8]) -> Result<(), StoreError> {
        let put = marks::put(&*self.kv, format!("n{}", self.name).as_bytes(), &note);
        self.unless_full(put)?;
        Ok(())
    }

    /// The newest refused records, newest first.
    pub fn refused(&self, limit: usize) -> Result<Vec<Quarantined>, StoreError> {
        self.refused.newest(limit)
    }

    /// A refused record as a parcel of its own, to be tried once more; or why it cannot be.
    pub fn retry(&self, number: u64) -> Result<Result<Parcel, &'static str>, StoreError> {
        let Some(one) = self.refused.get(number)? else { return Ok(Err(NOT_THERE)) };
        if one.payload.len() as u64 != one.bytes {
            return Ok(Err("it was too large to be kept whole; it can only be dropped"));
        }
        let lane =
            Lane::ALL.into_iter().find(|lane| one.topic.split('/').next() == Some(lane.name()));
        let Some(lane) = lane else { return Ok(Err("nobody knows its lane any more")) };
        let key = Key { lane, seq: 0, ordinal: 0 };
        Ok(Ok(Parcel::new(lane, vec![Waiting { key, number: 0, line: one.payload }], 0)))
    }

    /// Drops a refused record; says whether it was there.
    pub fn let_go(&mut self, number: u64) -> Result<bool, StoreError> {
        let was_there = self.refused.remove(number)?;
        self.kv.flush()?;
        Ok(was_there)
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

impl Pick {
    /// Numbers that a block covers, without a record and not settled.
    fn absent(&self, block: &Block) -> Vec<u64> {
        let head = &block.head;
        let there: Vec<u64> =
            head.entries.iter().map(|entry| head.first + u64::from(entry.offset)).collect();
        let open = there.iter().filter(|number| !self.settled.contains(**number)).count();
        if self.settled.open_in(head.first, head.end() - 1) == open as u64 {
            return Vec::new();
        }
        let is_absent =
            |number: &u64| !self.settled.contains(*number) && there.binary_search(number).is_err();
        (head.first..head.end()).filter(is_absent).collect()
    }

    /// Takes what of a block is wanted and fits; `false`: the block cannot be unpacked.
    fn take(&mut self, block: &Block, position: Position) -> bool {
        let head = &block.head;
        let wanted = |number: u64| number >= self.number && !self.settled.contains(number);
        if !head.entries.iter().any(|entry| wanted(head.first + u64::from(entry.offset))) {
            return true;
        }
        let Some(lines) = block.lines() else { return false };
        self.position.get_or_insert(position);
        for (entry, line) in head.entries.iter().zip(lines) {
            let number = head.first + u64::from(entry.offset);
            if number < self.number || self.settled.contains(number) {
                continue;
            }
            self.bytes += line.len() + 1;
            if self.bytes > self.budget && !self.waiting.is_empty() {
                self.is_full = true;
                return true;
            }
            let key = Key { lane: self.lane, seq: head.tick.seq, ordinal: entry.ordinal };
            self.waiting.push(Waiting { key, number, line });
        }
        self.is_full = self.bytes >= self.budget;
        true
    }
}
