//! How records leave a lane before the targets have them: chosen, marked, and only then gone.
//!
//! `room` decides what has to go. [`Lanes::mark`] writes down, durably and under the lock, what goes and the notice that
//! says it; [`Lanes::carry_out`] does it, as often as it is asked to. A start finds the mark and goes on from there.

use std::fs;
use std::path::Path;

use crate::record::Lane;
use crate::time::{Tick, Timestamp};

use super::error::StoreError;
use super::lanes::{Lanes, Segment, State};
use super::log;
use super::lost::Lost;
use super::marks::{self, LOSS_ORDINAL, Loss, Mark, Swap, Why};
use super::meter::Gone;
use super::scan::{Found, Scan};
use super::settled::Settled;
use super::thin::{LEVELS, Thinned};

/// Segments that are thinned together at most.
const TOGETHER_MAX: usize = 16;

/// Segments that are to go or to be thinned, and what each target had of the lane when they were chosen.
pub(super) struct Chosen {
    pub(super) lane: Lane,
    pub(super) segments: Vec<Segment>,
    pub(super) settled: Vec<Settled>,
}

/// What becomes of them.
pub(super) enum Leaving {
    /// They go.
    Evicted { why: Why, keep_oldest: bool },
    /// This takes their place.
    Thinned(Thinned),
}

impl Leaving {
    pub(super) fn why(&self) -> Why {
        match self {
            Leaving::Evicted { why, .. } => *why,
            Leaving::Thinned(_) => Why::Thinned,
        }
    }
}

/// What a mark says besides.
pub(super) struct Said<'a> {
    pub(super) tick: Tick,
    /// The number of the notice on the alarm lane, and its place among the tick's notices.
    pub(super) number: u64,
    pub(super) place: u32,
    pub(super) reason: &'static str,
    pub(super) lost: Lost,
    /// The mark of the same tick that this one goes on from.
    pub(super) before: Option<&'a Mark>,
}

impl Said<'_> {
    fn loss(&self, lane: Lane, count: u64, ticks: (u64, u64)) -> Loss {
        let (mut lost, mut count, mut ticks) = (self.lost.to_keep(), count, ticks);
        if let Some(before) = self.before {
            lost.add(&before.loss.lost);
            count += before.loss.count;
            ticks.0 = ticks.0.min(before.loss.first_tick);
            ticks.1 = ticks.1.max(before.loss.last_tick);
        }
        Loss {
            said_at: self.tick.seq,
            ordinal: LOSS_ORDINAL + self.place,
            number: self.number,
            lane,
            count,
            first_tick: ticks.0,
            last_tick: ticks.1,
            reason: self.reason.to_owned(),
            at: self.tick.now,
            lost,
        }
    }
}

/// What came of marking.
pub(super) enum Marked {
    /// To be carried out.
    Mark(Box<Mark>),
    /// Everybody had it: it is gone without a word.
    Done,
    /// The targets took of it meanwhile: nothing was done.
    Changed,
}

impl Lanes {
    /// Closed segments from one end of a lane, as many as hold `bytes`.
    pub(super) fn choose(&self, lane: Lane, bytes: u64, keep_oldest: bool) -> Chosen {
        let state = &self.lock()[lane as usize];
        let mut freed = 0;
        let more = |segment: &&Segment| {
            let more = !segment.is_open && freed < bytes;
            freed += segment.len;
            more
        };
        let mut segments: Vec<Segment> = if keep_oldest {
            state.segments.iter().rev().take_while(more).cloned().collect()
        } else {
            state.segments.iter().take_while(more).cloned().collect()
        };
        segments.sort_by_key(|segment| segment.first);
        Chosen { lane, segments, settled: state.settled.clone() }
    }

    /// The oldest closed segments whose records were all committed before `limit`.
    pub(super) fn older(&self, lane: Lane, limit: Timestamp) -> Result<Chosen, StoreError> {
        let mut segments = Vec::new();
        loop {
            let mut state = self.lock();
            let state = &mut state[lane as usize];
            let next = state.segments.get_mut(segments.len()).filter(|next| !next.is_open);
            let old = match next {
                Some(segment) => {
                    if segment.times.is_none() {
                        // Once for each segment that an earlier process left.
                        segment.times = times(segment)?;
                    }
                    segment.times.is_some_and(|(_, last)| last < limit).then(|| segment.clone())
                }
                None => None,
            };
            match old {
                Some(segment) => segments.push(segment),
                None => return Ok(Chosen { lane, segments, settled: state.settled.clone() }),
            }
        }
    }

    /// What is to be thinned next: the oldest of what was thinned least. Small segments are thinned together, up to
    /// `most` bytes.
    pub(super) fn thinnable(&self, lane: Lane, most: u64) -> Option<Chosen> {
        let state = &self.lock()[lane as usize];
        let closed: Vec<&Segment> = state.segments.iter().filter(|one| !one.is_open).collect();
        for level in 0..LEVELS {
            let Some(at) = closed.iter().position(|one| one.level == level) else { continue };
            let mut bytes = 0;
            let more = |one: &&&Segment| {
                bytes += one.len;
                one.level == level && bytes <= most
            };
            let together = if level == 0 { 1 } else { TOGETHER_MAX };
            let run = closed.get(at..).unwrap_or_default().iter().take(together);
            let mut segments: Vec<Segment> =
                run.take_while(more).map(|one| (*one).clone()).collect();
            if segments.is_empty() {
                segments.extend(closed.get(at).map(|one| (*one).clone()));
            }
            return Some(Chosen { lane, segments, settled: state.settled.clone() });
        }
        None
    }

    /// Nothing is won by thinning these once more.
    pub(super) fn leave_as_is(&self, chosen: &Chosen) {
        let mut lanes = self.lock();
        for segment in &mut lanes[chosen.lane as usize].segments {
            if chosen.segments.iter().any(|one| one.path == segment.path) {
                segment.level += 1;
            }
        }
    }

    /// Marks what goes: nothing is gone before [`Lanes::carry_out`].
    pub(super) fn mark(
        &self,
        chosen: &Chosen,
        leaving: &Leaving,
        said: &Said<'_>,
    ) -> Result<Marked, StoreError> {
        // What the mark before this one says must be durable by itself; and so must what `chosen` says.
        self.flush()?;
        let (Some(first), Some(last)) = (chosen.segments.first(), chosen.segments.last()) else {
            return Ok(Marked::Done);
        };
        let lane = chosen.lane;
        let mut lanes = self.lock();
        let state = &mut lanes[lane as usize];
        let next = state.segments.iter().find(|next| next.first >= last.end);
        let last_tick = next.map_or(said.tick.seq, |next| next.tick);
        let (why, gone, swap) = match leaving {
            Leaving::Evicted { why, keep_oldest } => {
                let from = if *keep_oldest { first.first } else { 1 };
                (*why, vec![(from, last.end - 1)], None)
            }
            Leaving::Thinned(thinned) => {
                if !state.is_as(chosen) {
                    return Ok(Marked::Changed);
                }
                state.renew(chosen);
                (Why::Thinned, thinned.holes.clone(), Some(swap(chosen, thinned)))
            }
        };
        let made = swap.as_ref().map_or(&[][..], |swap| &swap.made);
        let lost = gone.iter().chain(made);
        let open =
            |settled: &Settled| lost.clone().map(|(from, to)| settled.open_in(*from, *to)).sum();
        let count: u64 = state.settled.iter().map(open).max().unwrap_or(0);
        if count == 0 && swap.is_none() {
            // What they had since the flush above may not be durable yet.
            self.write_down(&lanes)?;
            self.kv.flush()?;
            let state = &mut lanes[lane as usize];
            let is_gone =
                |segment: &Segment| chosen.segments.iter().any(|one| one.path == segment.path);
            state.segments.retain(|segment| !is_gone(segment));
            drop(lanes);
            self.delete(lane, &chosen.segments)?;
            return Ok(Marked::Done);
        }
        let loss = said.loss(lane, count, (first.tick, last_tick));
        let mark = Mark { lane, why, gone, thinned: swap, loss };
        // Under the lock: an outbox must not make the loss durable before its mark is.
        self.meter.wrote_index(marks::put_mark(&*self.kv, &mark)?);
        Ok(Marked::Mark(Box::new(mark)))
    }

    /// Does what a mark says, once that is durable. Doing it again does no harm.
    pub(super) fn carry_out(&self, mark: &Mark, store: &Path) -> Result<(), StoreError> {
        let lane = mark.lane;
        let folder = log::folder(store, lane);
        self.kv.flush()?;
        if let Some(swap) = &mark.thinned {
            swap.put_in_place(&folder)?;
        }
        let mut gone = Vec::new();
        {
            let state = &mut self.lock()[lane as usize];
            let mut made: &[(u64, u64)] = &[];
            if let Some(swap) = &mark.thinned
                && let Some((before, bytes)) = state.swap(swap, &folder)?
            {
                self.meter.took_up(lane, bytes);
                self.meter.rewrote(bytes);
                self.meter.freed(lane, before);
                made = &swap.made;
            }
            for (target, settled) in state.settled.iter_mut().enumerate() {
                let new: u64 = made.iter().map(|(from, to)| settled.open_in(*from, *to)).sum();
                let went: u64 = mark.gone.iter().map(|(from, to)| settled.insert(*from, *to)).sum();
                self.meter.gone(target, lane, Gone::Evicted, went + new);
                self.meter.made_of_others(target, lane, new);
            }
            for (target, settled) in state.settled.iter().enumerate() {
                self.put(target, lane, settled)?;
            }
            if mark.thinned.is_none() {
                let is_gone =
                    |one: &Segment| !one.is_open && mark.gone.iter().any(|range| one.covers(range));
                gone.extend(state.segments.iter().filter(|one| is_gone(one)).cloned());
                state.segments.retain(|one| !is_gone(one));
            }
        }
        if let Some(swap) = &mark.thinned {
            return swap.clear(&folder);
        }
        self.delete(lane, &gone)
    }
}

impl State {
    /// Whether the chosen segments are there, and the targets have of them what they had.
    fn is_as(&self, chosen: &Chosen) -> bool {
        let is_there = |one: &Segment| self.segments.iter().any(|there| there.path == one.path);
        let has = |one: &Segment| {
            let mut pairs = self.settled.iter().zip(&chosen.settled);
            pairs.all(|(now, then)| {
                now.open_in(one.first, one.end - 1) == then.open_in(one.first, one.end - 1)
            })
        };
        chosen.segments.iter().all(|one| is_there(one) && has(one))
    }

    /// What is handed out of these from here on is not what their numbers will stand for.
    fn renew(&mut self, chosen: &Chosen) {
        self.renewals += 1;
        for segment in &mut self.segments {
            if chosen.segments.iter().any(|one| one.path == segment.path) {
                segment.renewed = self.renewals;
            }
        }
    }

    /// Puts the new segment in the place of the old ones; gives their bytes and its own. `None`: that was done before.
    fn swap(&mut self, swap: &Swap, folder: &Path) -> Result<Option<(u64, u64)>, StoreError> {
        let is_old = |one: &Segment| swap.old.contains(&one.file_name());
        let Some(at) = self.segments.iter().position(is_old) else { return Ok(None) };
        let old: Vec<Segment> = self.segments.iter().filter(|one| is_old(one)).cloned().collect();
        let (Some(first), Some(last)) = (old.first(), old.last()) else { return Ok(None) };
        let path = folder.join(&swap.named);
        let len = fs::metadata(&path).map_err(StoreError::on("read", &path))?.len();
        let Some(name) = log::parse_name(&path) else { return Ok(None) };
        self.renewals += 1;
        let new = Segment {
            times: first.times.zip(last.times).map(|(first, last)| (first.0, last.1)),
            renewed: self.renewals,
            ..Segment::closed(path, name, last.end, len)
        };
        self.segments.retain(|one| !is_old(one));
        self.segments.insert(at, new);
        Ok(Some((old.iter().map(|one| one.len).sum(), len)))
    }
}

fn swap(chosen: &Chosen, thinned: &Thinned) -> Swap {
    let name = |path: &Path| {
        path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    };
    Swap {
        written: name(&thinned.written),
        named: name(&thinned.named),
        old: chosen.segments.iter().map(Segment::file_name).collect(),
        made: thinned.made.clone(),
    }
}

/// When a segment's first and last record were committed, as far as it can be read.
fn times(segment: &Segment) -> Result<Option<(Timestamp, Timestamp)>, StoreError> {
    let Some(mut scan) = Scan::open(&segment.path, 0, segment.len)? else { return Ok(None) };
    let mut times: Option<(Timestamp, Timestamp)> = None;
    while let Some(found) = scan.next()? {
        let Found::Block { block, .. } = found else { continue };
        let now = block.head.tick.now;
        times = Some((times.map_or(now, |(first, _)| first), now));
    }
    Ok(times)
}
