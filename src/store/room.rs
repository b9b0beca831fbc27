//! Room for a tick: what is thinned, evicted and let go of before anything of it is written.
//!
//! `ledger` calls [`Ledger::make_room`] in every commit. Nothing here deletes or rewrites what is not marked and said:
//! see `leave`. A lane that is nearly full is thinned, a segment a tick; only one that is full and has nothing left to
//! thin loses records.

use crate::record::{Lane, Step};
use crate::time::Span;

use super::error::StoreError;
use super::evict::{self, Need};
use super::journal::Made;
use super::kv::free_space;
use super::leave::{Chosen, Leaving, Marked, Said};
use super::ledger::{Ledger, Lines};
use super::lost::Lost;
use super::marks::Why;
use super::thin;

/// Space on the disk that is never written to, at most: what sled needs to go on while nothing else can be stored.
const RESERVE_MAX: u64 = 16 << 20;
/// A lane with a maximum age begins a new segment in so many parts of it: what is too old goes by segments.
const PARTS_OF_AGE: i64 = 16;

/// Places for notices of one tick: one for each lane and reason.
pub(super) const NOTICES_MAX: u32 = 16;

/// Lanes that may lose records: all but that of alarms.
const MAY_GO: [Lane; 3] = [Lane::Raw, Lane::Feature, Lane::Score];

impl Ledger {
    /// Makes room for the tick. The notices' numbers follow those of the tick's own alarms.
    pub(super) fn make_room(
        &mut self,
        step: &Step,
        lines: &[Lines; 4],
        made: [Made; 4],
    ) -> Result<(), StoreError> {
        let incoming: [u64; 4] =
            lines.each_ref().map(|lines| lines.iter().map(|(_, l)| l.len() as u64).sum());
        // What a try that failed has marked goes first.
        let path = self.settings.path.clone();
        self.notices.iter().try_for_each(|mark| self.lanes.carry_out(mark, &path))?;
        self.expire(step, made)?;
        let free = free_space(&path)?;
        if incoming.iter().any(|bytes| *bytes > 0) {
            let full = free < self.settings.free_floor;
            if !full {
                self.thin_lanes(incoming, step, made)?;
            }
            let mut needs =
                evict::needs(self.queued_bytes(), incoming, self.settings.lane_limits, full);
            needs.sort_by_key(|need| need.lane);
            for need in needs {
                self.evict(need, step, made)?;
            }
        }
        if free < RESERVE_MAX.min(self.settings.free_floor / 4) {
            return Err(StoreError::Full { path });
        }
        Ok(())
    }

    fn queued_bytes(&self) -> [u64; 4] {
        self.meter.read().lanes.map(|lane| lane.queued_bytes)
    }

    /// Lets go of what is too old, although there is room.
    fn expire(&mut self, step: &Step, made: [Made; 4]) -> Result<(), StoreError> {
        for lane in MAY_GO {
            let Some(age) = self.settings.retention[lane as usize].max_age else { continue };
            let part = Span(age.0 / PARTS_OF_AGE);
            let since = self.lanes.open_since(lane);
            if since.is_some_and(|since| since < step.tick.now.minus(part)) {
                self.logs[lane as usize].close();
            }
            let chosen = self.lanes.older(lane, step.tick.now.minus(age))?;
            if !chosen.segments.is_empty() {
                let leaving = Leaving::Evicted { why: Why::Age, keep_oldest: false };
                self.leave(&chosen, &leaving, "max age", step, made)?;
            }
        }
        Ok(())
    }

    /// Thins lanes that are nearly full: one segment, and more only while the tick does not fit.
    fn thin_lanes(
        &mut self,
        incoming: [u64; 4],
        step: &Step,
        made: [Made; 4],
    ) -> Result<(), StoreError> {
        for lane in MAY_GO {
            let limit = self.settings.lane_limits[lane as usize];
            let Some(every) = self.settings.retention[lane as usize].thin else { continue };
            let waiting =
                |ledger: &Ledger| ledger.queued_bytes()[lane as usize] + incoming[lane as usize];
            while waiting(self) > limit - limit / 16
                && self.thin(lane, every, step, made)?
                && waiting(self) > limit
            {}
        }
        Ok(())
    }

    /// Thins what is to be thinned next of a lane; says whether there may be more.
    fn thin(
        &mut self,
        lane: Lane,
        every: Span,
        step: &Step,
        made: [Made; 4],
    ) -> Result<bool, StoreError> {
        let log = &mut self.logs[lane as usize];
        let Some(chosen) = self.lanes.thinnable(lane, log.segment_bytes()) else {
            return Ok(false);
        };
        // What takes the place of others is durable; a tear in front of it would take it along.
        log.sync()?;
        let level = chosen.segments.first().map_or(0, |segment| segment.level) + 1;
        let every = thin::interval(every, level);
        let thinned = match thin::thin(&chosen.segments, &chosen.settled, every, level) {
            Ok(Some(thinned)) => thinned,
            Ok(None) => {
                self.lanes.leave_as_is(&chosen);
                return Ok(true);
            }
            // There is no room to make room: what is full is evicted.
            Err(StoreError::Full { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        let written = thinned.written.clone();
        let is_done = self.leave(&chosen, &Leaving::Thinned(thinned), "thinned", step, made)?;
        if !is_done {
            std::fs::remove_file(&written).map_err(StoreError::on("delete", &written))?;
        }
        Ok(is_done)
    }

    /// Evicts from a lane: from the end that its policy gives up.
    fn evict(&mut self, need: Need, step: &Step, made: [Made; 4]) -> Result<(), StoreError> {
        let Need { lane, bytes, reason } = need;
        let keep_oldest = self.settings.retention[lane as usize].keep_oldest;
        self.logs[lane as usize].close();
        let chosen = self.lanes.choose(lane, bytes, keep_oldest);
        let leaving = Leaving::Evicted { why: Why::Full, keep_oldest };
        self.leave(&chosen, &leaving, reason, step, made).map(drop)
    }

    /// Marks what goes, and does it; `false`: it changed meanwhile, and nothing was done. A tick says each reason on each
    /// lane in one notice, however often it was tried.
    fn leave(
        &mut self,
        chosen: &Chosen,
        leaving: &Leaving,
        reason: &'static str,
        step: &Step,
        made: [Made; 4],
    ) -> Result<bool, StoreError> {
        let (lane, why) = (chosen.lane, leaving.why());
        let lost = Lost::read(&chosen.segments, &chosen.settled);
        let [alarms, ..] = made;
        let own = alarms.first + u64::from(alarms.count);
        let after = own.max(self.logs[Lane::Alarm as usize].last() + 1);
        let known = self.notices.iter().position(|mark| (mark.lane, mark.why) == (lane, why));
        let before = known.and_then(|at| self.notices.get(at)).cloned();
        let next = after + self.notices.len() as u64;
        let number = before.as_ref().map_or(next, |mark| mark.loss.number);
        // The lane's last mark for this reason is about to go: its notice must be durable by itself.
        self.logs[Lane::Alarm as usize].sync()?;
        let place = (number - own).min(u64::from(NOTICES_MAX - 1)) as u32;
        let said = Said { tick: step.tick, number, place, reason, lost, before: before.as_ref() };
        let mark = match self.lanes.mark(chosen, leaving, &said)? {
            Marked::Mark(mark) => *mark,
            Marked::Done => return Ok(true),
            Marked::Changed => return Ok(false),
        };
        match known.and_then(|at| self.notices.get_mut(at)) {
            Some(known) => known.clone_from(&mark),
            None => self.notices.push(mark.clone()),
        }
        self.lanes.carry_out(&mark, &self.settings.path)?;
        Ok(true)
    }

    /// Puts the notices of what went on the alarm lane.
    pub(super) fn say_evictions(&mut self) -> Result<(), StoreError> {
        while let Some(mark) = self.notices.first() {
            let loss = mark.loss.clone();
            self.say(&loss)?;
            self.notices.remove(0);
        }
        Ok(())
    }
}
