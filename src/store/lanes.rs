//! What stands on the disk of each lane, and how far each target has it: shared by the ledger and the outboxes.
//!
//! The ledger adds segments and evicts them, outboxes settle records; both under one lock, so that a record that is
//! evicted while it is on its way is counted once. A segment is deleted when every target has all of it, after that
//! was made durable. What goes for other reasons, and what is thinned, stands in `leave`. Not held here: files that are
//! being written (`log`) and read (`scan`).

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::record::Lane;
use crate::time::Timestamp;

use super::error::StoreError;
use super::kv::Kv;
use super::log::Name;
use super::marks;
use super::meter::{Gone, Meter};
use super::parcel::Acked;
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
    /// How often its records were thinned.
    pub(super) level: u8,
    /// When its first and its last record were committed; `None`: nobody has looked yet.
    pub(super) times: Option<(Timestamp, Timestamp)>,
    /// What was handed out up to here is not what its numbers stand for.
    pub(super) renewed: u64,
}

impl Segment {
    /// One that is there and closed, of which nobody knows more than this.
    pub(super) fn closed(path: PathBuf, name: Name, end: u64, len: u64) -> Segment {
        let Name { first, tick, level } = name;
        let (times, renewed) = (None, 0);
        Segment { path, first, end, tick, len, is_open: false, level, times, renewed }
    }

    pub(super) fn covers(&self, range: &(u64, u64)) -> bool {
        range.0 <= self.first && self.end - 1 <= range.1
    }

    pub(super) fn file_name(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }
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

/// One lane.
#[derive(Default)]
pub(super) struct State {
    pub(super) segments: VecDeque<Segment>,
    /// By target.
    pub(super) settled: Vec<Settled>,
    /// How often segments took the place of others.
    pub(super) renewals: u64,
}

/// The shared books. See the module.
pub(super) struct Lanes {
    pub(super) kv: Arc<dyn Kv>,
    pub(super) meter: Meter,
    targets: Vec<String>,
    state: Mutex<[State; 4]>,
    /// Damage that a reader met, until the ledger has said it.
    met: Mutex<Vec<Gap>>,
    /// Lanes and targets of which more is settled than a full disk let be written.
    unwritten: Mutex<BTreeSet<(Lane, usize)>>,
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
        let state = found.map(|(segments, settled)| State {
            segments: segments.into(),
            settled,
            renewals: 0,
        });
        let (state, met, unwritten) = (Mutex::new(state), Mutex::default(), Mutex::default());
        Lanes { kv, meter, targets, state, met, unwritten }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, [State; 4]> {
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
    pub(super) fn grew(&self, lane: Lane, bytes: u64, end: u64, records: u64, now: Timestamp) {
        let state = &mut self.lock()[lane as usize];
        if let Some(last) = state.segments.back_mut() {
            last.len += bytes;
            last.end = end;
            last.times = Some((last.times.map_or(now, |(first, _)| first), now));
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

    /// Which numbers `target` has of a lane, and how often segments of it took the place of others so far.
    pub(super) fn settled(&self, target: usize, lane: Lane) -> (Settled, u64) {
        let state = &self.lock()[lane as usize];
        (state.settled.get(target).cloned().unwrap_or_default(), state.renewals)
    }

    /// Whether a segment is there as the reader knows it.
    pub(super) fn is_current(&self, lane: Lane, segment: &Segment) -> bool {
        self.lock()[lane as usize].segments.iter().any(|one| one.path == segment.path)
    }

    /// The number of the lane's last record on the disk.
    pub(super) fn last(&self, lane: Lane) -> u64 {
        self.lock()[lane as usize].segments.back().map_or(0, |last| last.end - 1)
    }

    /// A target has these numbers, or will never take them. Not durable before the next flush; on a full disk not written
    /// either, but known all the same. Numbers that have another record since they were handed out stay open.
    pub(super) fn settle(&self, target: usize, acked: &Acked, how: Gone) -> Result<(), StoreError> {
        let lane = acked.lane;
        let mut lanes = self.lock();
        let state = &mut lanes[lane as usize];
        let Some(settled) = state.settled.get_mut(target) else { return Ok(()) };
        let renewed = state.segments.iter().filter(|segment| segment.renewed > acked.renewals);
        let renewed: Vec<(u64, u64)> = renewed.map(|one| (one.first, one.end - 1)).collect();
        let ranges = acked.ranges.iter().flat_map(|range| without(*range, &renewed));
        let new = ranges.map(|(from, to)| settled.insert(from, to)).sum();
        self.meter.gone(target, lane, how, new);
        self.put(target, lane, settled)
    }

    /// Numbers that a reader found no record under, where there is a block: they went earlier, and that was forgotten.
    pub(super) fn absent(
        &self,
        target: usize,
        lane: Lane,
        numbers: &[u64],
    ) -> Result<(), StoreError> {
        let mut lanes = self.lock();
        let Some(settled) = lanes[lane as usize].settled.get_mut(target) else { return Ok(()) };
        let new = numbers.iter().map(|number| settled.insert(*number, *number)).sum();
        self.meter.gone(target, lane, Gone::Evicted, new);
        self.put(target, lane, settled)
    }

    /// Everything settled before is durable, also what a full disk kept from being written.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        self.write_down(&self.lock())?;
        self.kv.flush()
    }

    /// Writes what a full disk kept from being written.
    pub(super) fn write_down(&self, lanes: &[State; 4]) -> Result<(), StoreError> {
        let unwritten = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (lane, target) in unwritten {
            if let Some(settled) = lanes[lane as usize].settled.get(target) {
                self.put(target, lane, settled)?;
            }
        }
        Ok(())
    }

    pub(super) fn put(
        &self,
        target: usize,
        lane: Lane,
        settled: &Settled,
    ) -> Result<(), StoreError> {
        let name = self.targets.get(target).map_or("", String::as_str);
        let put = marks::put_settled(&*self.kv, name, lane, settled);
        let mut unwritten = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner);
        match &put {
            Ok(_) => unwritten.remove(&(lane, target)),
            Err(_) => unwritten.insert((lane, target)),
        };
        self.meter.wrote_index(put?);
        Ok(())
    }

    /// Deletes the closed segments that every target has; says whether there were any. Then everything settled
    /// before is durable.
    pub(super) fn drop_settled(&self, lane: Lane) -> Result<bool, StoreError> {
        let done: Vec<PathBuf> = {
            let state = &self.lock()[lane as usize];
            let has = |one: &Segment| {
                state.settled.iter().all(|settled| settled.open_in(one.first, one.end - 1) == 0)
            };
            let done = state.segments.iter().filter(|one| !one.is_open && has(one));
            done.map(|one| one.path.clone()).collect()
        };
        if done.is_empty() {
            return Ok(false);
        }
        // Those alone: what is found done later may not be durable.
        self.flush()?;
        let mut gone = Vec::new();
        {
            let state = &mut self.lock()[lane as usize];
            let kept = std::mem::take(&mut state.segments);
            let (drop, keep) = kept.into_iter().partition(|one| done.contains(&one.path));
            state.segments = keep;
            gone.extend::<VecDeque<Segment>>(drop);
        }
        self.delete(lane, &gone)?;
        Ok(true)
    }

    pub(super) fn delete(&self, lane: Lane, segments: &[Segment]) -> Result<(), StoreError> {
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

    /// The open segment's first commit.
    pub(super) fn open_since(&self, lane: Lane) -> Option<Timestamp> {
        let lanes = self.lock();
        let open = lanes[lane as usize].segments.back().filter(|last| last.is_open)?;
        open.times.map(|(first, _)| first)
    }

    /// All segments of a lane, oldest first.
    pub(super) fn segments(&self, lane: Lane) -> Vec<Segment> {
        self.lock()[lane as usize].segments.iter().cloned().collect()
    }
}

/// What of a range is in none of the others, which are in order.
fn without(range: (u64, u64), others: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let (mut from, to) = range;
    let mut parts = Vec::new();
    for (first, last) in others.iter().filter(|other| other.1 >= range.0 && other.0 <= to) {
        if from < *first {
            parts.push((from, first - 1));
        }
        from = from.max(last + 1);
    }
    if from <= to {
        parts.push((from, to));
    }
    parts
}
