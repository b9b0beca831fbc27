//! What stands on the disk of each lane, and how far each target has it: shared by the ledger and the outboxes.
//!
//! The ledger adds segments and evicts them, outboxes settle records; both under one lock, so that a record that is
//! evicted while it is on its way is counted once. A segment is deleted when every target has all of it, after that
//! was made durable. Not held here: files that are being written (`log`) and read (`scan`).

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::record::{Lane, Step};

use super::error::StoreError;
use super::evict::Need;
use super::kv::Kv;
use super::marks::{self, Evicted, LOSS_ORDINAL, Loss};
use super::meter::{Gone, Meter};
use super::settled::Settled;

/// A file of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    /// The first number that it covers, and the first after it.
    pub(super) first: u64,
    pub(super) end: u64,
    /// The tick of its first record.
    pub(super) tick: u64,
    /// Bytes of it that count.
    pub(super) len: u64,
    /// Whether the ledger still appends to it.
    pub(super) is_open: bool,
}

/// Numbers of a lane that cannot be read any more; both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) lane: Lane,
    pub(super) from: u64,
    pub(super) to: u64,
    /// The ticks around it.
    pub(super) ticks: (u64, u64),
}

#[derive(Default)]
struct State {
    segments: VecDeque<Segment>,
    /// By target.
    settled: Vec<Settled>,
}

/// The shared books. See the module.
pub(super) struct Lanes {
    kv: Arc<dyn Kv>,
    meter: Meter,
    targets: Vec<String>,
    state: Mutex<[State; 4]>,
    /// Damage that a reader met, until the ledger has said it.
    met: Mutex<Vec<Gap>>,
}

/// Where a reader finds the next record.
pub(super) struct Place {
    pub(super) number: u64,
    pub(super) segment: Segment,
}

impl Lanes {
    /// The lanes as `survey` found them: segments, and what each target has. `targets` may hold more than the
    /// configured ones: what a target that was removed has not got is kept for it.
    pub(super) fn new(
        kv: Arc<dyn Kv>,
        meter: Meter,
        targets: Vec<String>,
        found: [(Vec<Segment>, Vec<Settled>); 4],
    ) -> Lanes {
        let state = found.map(|(segments, settled)| State { segments: segments.into(), settled });
        Lanes { kv, meter, targets, state: Mutex::new(state), met: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, [State; 4]> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The target of that name.
    pub(super) fn target(&self, name: &str) -> Option<usize> {
        self.targets.iter().position(|target| target == name)
    }

    /// A new segment, which the ledger appends to; the one before it is closed.
    pub(super) fn open_segment(&self, lane: Lane, segment: Segment) {
        let state = &mut self.lock()[lane as usize];
        if let Some(last) = state.segments.back_mut() {
            last.is_open = false;
        }
        self.meter.took_up(lane, segment.len);
        state.segments.push_back(segment);
    }

    /// The open segment grew by so many bytes, up to number `end` (excluded), of which the last are records.
    pub(super) fn grew(&self, lane: Lane, bytes: u64, end: u64, records: u64) {
        let state = &mut self.lock()[lane as usize];
        if let Some(last) = state.segments.back_mut() {
            last.len += bytes;
            last.end = end;
        }
        self.meter.made(lane, records, bytes);
        // After a start a target may have records already that were made again.
        for (target, settled) in state.settled.iter().enumerate() {
            let has = records - settled.open_in(end - records, end - 1);
            self.meter.gone(target, lane, Gone::Delivered, has);
        }
    }

    /// Closes the open segment: nothing more is appended to it.
    pub(super) fn close(&self, lane: Lane) {
        if let Some(last) = self.lock()[lane as usize].segments.back_mut() {
            last.is_open = false;
        }
    }

    /// Bytes of the open segment; `None`: there is none.
    pub(super) fn open_len(&self, lane: Lane) -> Option<u64> {
        let state = &self.lock()[lane as usize];
        state.segments.back().filter(|last| last.is_open).map(|last| last.len)
    }

    /// Where the first record from `from` on is that `target` has not got.
    pub(super) fn place(&self, target: usize, lane: Lane, from: u64) -> Option<Place> {
        let state = &self.lock()[lane as usize];
        let number = state.settled.get(target)?.next_open(from);
        let index = state.segments.partition_point(|segment| segment.end <= number);
        let segment = state.segments.get(index)?.clone();
        Some(Place { number: number.max(segment.first), segment })
    }

    /// The number up to which every target has a lane.
    pub(super) fn floor(&self, lane: Lane) -> u64 {
        let state = &self.lock()[lane as usize];
        state.settled.iter().map(Settled::upto).min().unwrap_or(0)
    }

    /// Which numbers `target` has of a lane.
    pub(super) fn settled(&self, target: usize, lane: Lane) -> Settled {
        self.lock()[lane as usize].settled.get(target).cloned().unwrap_or_default()
    }

    /// The number of the lane's last record on the disk.
    pub(super) fn last(&self, lane: Lane) -> u64 {
        self.lock()[lane as usize].segments.back().map_or(0, |last| last.end - 1)
    }

    /// A target has these numbers, or will never take them. Not durable before the next flush; on a full disk not written
    /// either, but known all the same.
    pub(super) fn settle(
        &self,
        target: usize,
        lane: Lane,
        ranges: &[(u64, u64)],
        how: Gone,
    ) -> Result<(), StoreError> {
        let mut lanes = self.lock();
        let state = &mut lanes[lane as usize];
        let Some(settled) = state.settled.get_mut(target) else { return Ok(()) };
        let new = ranges.iter().map(|(from, to)| settled.insert(*from, *to)).sum();
        self.meter.gone(target, lane, how, new);
        self.put(target, lane, settled)
    }

    /// Writes down once more what a target has: a full disk may have kept it off.
    pub(super) fn write_down(&self, target: usize) -> Result<(), StoreError> {
        let lanes = self.lock();
        for (lane, state) in Lane::ALL.into_iter().zip(lanes.iter()) {
            if let Some(settled) = state.settled.get(target) {
                self.put(target, lane, settled)?;
            }
        }
        Ok(())
    }

    fn put(&self, target: usize, lane: Lane, settled: &Settled) -> Result<(), StoreError> {
        let name = self.targets.get(target).map_or("", String::as_str);
        let bytes = marks::put_settled(&*self.kv, name, lane, settled)?;
        self.meter.wrote_index(bytes);
        Ok(())
    }

    /// Deletes the closed segments that every target has; says whether there were any. Then everything settled
    /// before is durable.
    pub(super) fn drop_settled(&self, lane: Lane) -> Result<bool, StoreError> {
        let done = |state: &State, segment: &Segment| {
            let has = |settled: &Settled| settled.open_in(segment.first, segment.end - 1) == 0;
            !segment.is_open && state.settled.iter().all(has)
        };
        let has_some = {
            let state = &self.lock()[lane as usize];
            state.segments.iter().any(|segment| done(state, segment))
        };
        if !has_some {
            return Ok(false);
        }
        // What is settled is never unsettled, so this covers all that is found done below.
        self.kv.flush()?;
        let mut gone = Vec::new();
        {
            let state = &mut self.lock()[lane as usize];
            let kept = std::mem::take(&mut state.segments);
            let (drop, keep) = kept.into_iter().partition(|segment| done(state, segment));
            state.segments = keep;
            gone.extend::<VecDeque<Segment>>(drop);
        }
        self.delete(lane, &gone)?;
        Ok(true)
    }

    fn delete(&self, lane: Lane, segments: &[Segment]) -> Result<(), StoreError> {
        for segment in segments {
            match fs::remove_file(&segment.path) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(StoreError::io("delete", &segment.path, error)),
            }
            self.meter.freed(lane, segment.len);
        }
        Ok(())
    }

    /// Marks a lane's oldest closed segments as evicted until `bytes` are free: nothing is gone before
    /// [`Lanes::carry_out`]. `before` is the mark of the same tick that this one goes on from; number `number` on the
    /// alarm lane is for its notice. `None`: there is nothing to evict that anybody waits for.
    pub(super) fn mark(
        &self,
        need: Need,
        number: u64,
        step: &Step,
        before: Option<&Evicted>,
    ) -> Result<Option<Evicted>, StoreError> {
        let Need { lane, bytes, reason } = need;
        let mut lanes = self.lock();
        let state = &mut lanes[lane as usize];
        let mut freed = 0;
        let closed = state.segments.iter().take_while(|segment| {
            let more = !segment.is_open && freed < bytes;
            freed += segment.len;
            more
        });
        let gone: Vec<Segment> = closed.cloned().collect();
        let (Some(first), Some(last)) = (gone.first(), gone.last()) else { return Ok(None) };
        let (from, to) = (first.first, last.end - 1);
        let open = |settled: &Settled| settled.open_in(from, to);
        let count = state.settled.iter().map(open).max().unwrap_or(0);
        let next = state.segments.get(gone.len());
        let loss = Loss {
            said_at: step.tick.seq,
            ordinal: LOSS_ORDINAL + lane as u32,
            number,
            lane,
            count: count + before.map_or(0, |mark| mark.loss.count),
            first_tick: before.map_or(first.tick, |mark| mark.loss.first_tick),
            last_tick: next.map_or(step.tick.seq, |next| next.tick),
            reason: reason.to_owned(),
            at: step.tick.now,
        };
        let mark = Evicted { lane, upto: to, loss };
        if count == 0 {
            // Everybody has it: it goes without a word, once that is durable.
            self.kv.flush()?;
            state.segments.drain(..gone.len());
            drop(lanes);
            self.delete(lane, &gone)?;
            return Ok(None);
        }
        // Under the lock: an outbox must not make the eviction durable before its mark is.
        self.meter.wrote_index(marks::put_evicted(&*self.kv, &mark)?);
        Ok(Some(mark))
    }

    /// Does what a mark says, once that is durable. Doing it again does no harm.
    pub(super) fn carry_out(&self, mark: &Evicted) -> Result<(), StoreError> {
        let lane = mark.lane;
        self.kv.flush()?;
        let mut gone = Vec::new();
        {
            let state = &mut self.lock()[lane as usize];
            while let Some(segment) = state.segments.pop_front_if(|s| s.end <= mark.upto + 1) {
                gone.push(segment);
            }
            for (target, settled) in state.settled.iter_mut().enumerate() {
                let new = settled.insert(1, mark.upto);
                self.meter.gone(target, lane, Gone::Evicted, new);
                self.put(target, lane, settled)?;
            }
        }
        self.delete(lane, &gone)
    }

    /// A reader could not read these numbers. They are passed over, and settled once the ledger has said so.
    pub(super) fn met(&self, gap: Gap) {
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        if !met.contains(&gap) {
            met.push(gap);
        }
    }

    /// Damage that nobody has said yet.
    pub(super) fn take_met(&self) -> Vec<Gap> {
        std::mem::take(&mut *self.met.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many of a gap's records some target still waits for.
    pub(super) fn missed(&self, gap: &Gap) -> u64 {
        let state = &self.lock()[gap.lane as usize];
        let open = |settled: &Settled| settled.open_in(gap.from, gap.to);
        state.settled.iter().map(open).max().unwrap_or(0)
    }

    /// Nobody waits for a gap's records any more: its loss was said, or they never were.
    pub(super) fn pass_over(&self, gap: &Gap) -> Result<(), StoreError> {
        let mut lanes = self.lock();
        let state = &mut lanes[gap.lane as usize];
        for (target, settled) in state.settled.iter_mut().enumerate() {
            let new = settled.insert(gap.from, gap.to);
            self.meter.gone(target, gap.lane, Gone::Evicted, new);
            self.put(target, gap.lane, settled)?;
        }
        Ok(())
    }

    /// Numbers that no record has: they wait for nobody and count nowhere.
    pub(super) fn never_made(&self, lane: Lane, from: u64, to: u64) -> Result<(), StoreError> {
        let mut lanes = self.lock();
        for (target, settled) in lanes[lane as usize].settled.iter_mut().enumerate() {
            settled.insert(from, to);
            self.put(target, lane, settled)?;
        }
        Ok(())
    }

    /// All segments of a lane, oldest first.
    pub(super) fn segments(&self, lane: Lane) -> Vec<Segment> {
        self.lock()[lane as usize].segments.iter().cloned().collect()
    }
}
