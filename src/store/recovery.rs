//! The ledger at a start: what a crash kept off the disk is appended, what is gone for good is said.
//!
//! The node replays the journal through the engine and hands each step to [`Ledger::reconcile`]; the numbers that the
//! journal promised decide what a lane lacks, so a record is there once however often that is done.

use std::collections::BTreeMap;

use crate::record::{Lane, Step};
use crate::time::Tick;

use super::error::StoreError;
use super::journal::Made;
use super::lanes::Gap;
use super::ledger::{Committed, Ledger, Resumed, encode, made, numbered};
use super::log::Log;
use super::marks::Loss;

/// What is done once the journal is replayed.
#[derive(Default)]
pub(super) struct Recovery {
    /// What the journal promises for the ticks to be replayed.
    pub(super) promised: BTreeMap<u64, [Made; 4]>,
    /// Notices of evictions, by their number on the alarm lane: it may lack them.
    pub(super) notices: BTreeMap<u64, Loss>,
    /// The highest tick that a mark speaks of.
    pub(super) used: u64,
    /// Up to which number each lane must go on counting, since targets know of such numbers.
    pub(super) known: [u64; 4],
    /// Records that are missing for good.
    pub(super) gaps: Vec<Gap>,
    /// Readings that are missing for good: count, first tick, last tick.
    pub(super) lost_input: Option<(u64, u64, u64)>,
    put_back: u64,
    changed: u64,
}

impl Ledger {
    /// At a start, for each entry of the journal: appends the records that its lanes lack, from the step that the
    /// engine made of the entry again.
    ///
    /// # Errors
    /// [`StoreError::Full`]: the same step may be handed over again, and no other.
    pub fn reconcile(&mut self, step: &Step) -> Result<(), StoreError> {
        self.guarded(|ledger| {
            let Some(promised) = ledger.recovery.promised.get(&step.tick.seq).copied() else {
                return Ok(());
            };
            let lines = encode(step)?;
            for ((lane, promised), lines) in Lane::ALL.into_iter().zip(promised).zip(lines) {
                ledger.fill(step.tick, lane, promised.first - 1)?;
                let log = &mut ledger.logs[lane as usize];
                let there = (log.last() + 1).saturating_sub(promised.first) as usize;
                // More than was promised would take the numbers of the next tick.
                let lines = lines.get(..promised.count as usize).unwrap_or(&lines);
                let lines = lines.get(there..).unwrap_or_default();
                log.append(step.tick, &numbered(log.last() + 1, lines))?;
                ledger.recovery.put_back += lines.len() as u64;
            }
            if promised != made(step, promised.map(|made| made.first)) {
                ledger.recovery.changed += 1;
            }
            ledger.recovery.promised.remove(&step.tick.seq);
            Ok(())
        })
    }

    /// Goes on to number `upto` of a lane: with notices of evictions where they are known, with nothing otherwise.
    fn fill(&mut self, tick: Tick, lane: Lane, upto: u64) -> Result<(), StoreError> {
        if lane == Lane::Alarm {
            while let Some((&number, _)) = self.recovery.notices.first_key_value()
                && number <= upto
            {
                let Some(loss) = self.recovery.notices.get(&number).cloned() else { break };
                if number > self.logs[lane as usize].last() {
                    self.say(&loss)?;
                }
                self.recovery.notices.remove(&number);
            }
        }
        self.logs[lane as usize].skip(tick, upto)
    }

    /// At a start, after the last entry of the journal: makes what was put back durable, says what is missing, and
    /// up to where the uplink may read. The next tick is one more than that.
    ///
    /// # Errors
    /// [`StoreError::Full`]: try again later.
    pub fn finish_recovery(&mut self) -> Result<Resumed, StoreError> {
        self.guarded(|ledger| {
            // Looks for space before anything is said that would be said again.
            ledger.kv.flush()?;
            let tick = Tick { seq: ledger.journal.last(), now: ledger.settings.now };
            let last_notice = ledger.recovery.notices.last_key_value().map_or(0, |(n, _)| *n);
            let mut known = ledger.recovery.known;
            known[Lane::Alarm as usize] = known[Lane::Alarm as usize].max(last_notice);
            for (lane, upto) in Lane::ALL.into_iter().zip(known) {
                ledger.fill(tick, lane, upto)?;
            }
            let recovery = std::mem::take(&mut ledger.recovery);
            ledger.say_damage(tick, &recovery.gaps, recovery.lost_input)?;
            ledger.logs.iter_mut().try_for_each(Log::sync)?;
            ledger.kv.flush()?;
            Ok(Resumed {
                committed: Committed(tick.seq),
                put_back: recovery.put_back,
                changed: recovery.changed,
            })
        })
    }
}
