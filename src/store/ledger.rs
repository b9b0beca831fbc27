//! The ledger: the half of the store that makes a tick durable.
//!
//! The engine loop owns it. [`Ledger::commit`] writes the tick's input to the journal and syncs it, appends its records
//! to their lanes, and only then are the receipts released and may the uplink read so far. The records are not synced:
//! they follow from the journal, and the next checkpoint syncs them before it lets the journal go. At a start
//! [`Ledger::reconcile`] appends what a crash kept off the disk. What has to go for it, goes first (`room`). On a full
//! disk a commit fails and may be tried again; after any other error nothing more is accepted: what is on the disk is
//! only known after a new start.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::record::{Checkpoint, Lane, Outgoing, Step};
use crate::time::{Tick, Timestamp, monotonic};

use super::block::Line;
use super::checkpoint::{Checkpoints, LaneBooks};
use super::error::StoreError;
use super::evict::Retention;
use super::journal::{Journal, Made};
use super::kv::Kv;
use super::lanes::{Gap, Lanes};
use super::log::Log;
use super::lost::Lost;
use super::marks::{LOSS_ORDINAL, Loss, Mark};
use super::meter::{Meter, StoreStats};
use super::open::StoreOptions;
use super::quarantine::{Quarantined, REJECTED, Shelf};
use super::receipt::{Receipts, Released};
use super::recovery::Recovery;
use super::room::NOTICES_MAX;

/// Rejected messages kept a tick: a flood of them must not become a flood of writes.
const QUARANTINED_A_TICK: u32 = 16;
/// Bytes kept of one.
const QUARANTINED_BYTES: usize = 4096;

/// Ordinals of notices of damage start here, above those of evictions.
const DAMAGE_ORDINAL: u32 = LOSS_ORDINAL + NOTICES_MAX;

/// When what was acknowledged is durable against a power cut. A crash of the process alone loses nothing either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Every tick is synced before it is acknowledged.
    Tick,
    /// The journal is synced once in so long: a power cut loses what was acknowledged since.
    Interval(Duration),
}

/// Up to which tick records are durable. Only the ledger makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Committed(pub(super) u64);

impl Committed {
    /// The tick's number; 0: none yet.
    pub fn tick(self) -> u64 {
        self.0
    }
}

/// What recovery came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// Up to where the uplink may read.
    pub committed: Committed,
    /// Records that were missing and were made again.
    pub put_back: u64,
    /// Ticks whose records came out other than they did before: a pipeline or a model was changed meanwhile.
    pub changed: u64,
}

/// The records of a step on one lane: ordinals and lines.
pub(super) type Lines = Vec<(u32, Vec<u8>)>;

/// Writes ticks. See the module.
pub struct Ledger {
    pub(super) kv: Arc<dyn Kv>,
    pub(super) journal: Journal,
    pub(super) lanes: Arc<Lanes>,
    pub(super) logs: [Log; 4],
    checkpoints: Checkpoints,
    pub(super) meter: Meter,
    rejected: Shelf,
    pub(super) settings: Settings,
    synced: Instant,
    /// The tick whose input is in the journal and whose records are not all on their lanes: the disk was full.
    unfinished: Option<(u64, [Made; 4])>,
    /// What went for this tick, as long as its notice is not on the alarm lane.
    pub(super) notices: Vec<Mark>,
    pub(super) recovery: Recovery,
    rejected_this_tick: u32,
    poisoned: bool,
    /// Held as long as anything of the store is.
    _lock: Arc<File>,
}

/// What of the options the ledger needs.
pub(super) struct Settings {
    pub(super) path: PathBuf,
    pub(super) node: String,
    pub(super) lane_limits: [u64; 4],
    pub(super) retention: [Retention; 4],
    pub(super) free_floor: u64,
    durability: Durability,
    pub(super) now: Timestamp,
}

/// What a ledger is made of.
pub(super) struct Parts {
    pub(super) kv: Arc<dyn Kv>,
    pub(super) journal: Journal,
    pub(super) lanes: Arc<Lanes>,
    pub(super) logs: [Log; 4],
    pub(super) checkpoints: Checkpoints,
    pub(super) meter: Meter,
    pub(super) recovery: Recovery,
}

impl Ledger {
    pub(super) fn new(
        parts: Parts,
        options: &StoreOptions,
        lock: Arc<File>,
    ) -> Result<Ledger, StoreError> {
        Ok(Ledger {
            rejected: Shelf::open(Arc::clone(&parts.kv), REJECTED, QUARANTINED_BYTES)?,
            settings: Settings {
                path: options.path.clone(),
                node: options.node.clone(),
                lane_limits: options.lane_limits,
                retention: options.retention,
                free_floor: options.free_floor,
                durability: options.durability,
                now: options.now,
            },
            kv: parts.kv,
            journal: parts.journal,
            lanes: parts.lanes,
            logs: parts.logs,
            checkpoints: parts.checkpoints,
            meter: parts.meter,
            synced: monotonic(),
            unfinished: None,
            notices: Vec::new(),
            recovery: parts.recovery,
            rejected_this_tick: 0,
            poisoned: false,
            _lock: lock,
        })
    }

    /// Makes a tick durable: its input, its records, and what has to be evicted for them. The receipts come back as
    /// released when that is done, and stay where they are otherwise. Ticks count up; a tick with neither input nor
    /// records costs an entry too, so do not commit it.
    ///
    /// # Errors
    /// [`StoreError::Full`]: nothing is acknowledged; the same tick may be committed again, and no other.
    pub fn commit(
        &mut self,
        step: &Step,
        receipts: &mut Receipts,
    ) -> Result<(Committed, Released), StoreError> {
        self.guarded(|ledger| ledger.write(step))?;
        let receipts = std::mem::take(receipts);
        Ok((Committed(step.tick.seq), Released::after_flush(receipts)))
    }

    fn write(&mut self, step: &Step) -> Result<(), StoreError> {
        let seq = step.tick.seq;
        let lines = encode(step)?;
        let made = match self.unfinished {
            Some((unfinished, made)) if unfinished == seq => made,
            _ => made(step, self.logs.each_ref().map(|log| log.last() + 1)),
        };
        self.make_room(step, &lines, made)?;
        if self.unfinished != Some((seq, made)) {
            let sync = match self.settings.durability {
                Durability::Tick => true,
                Durability::Interval(every) => self.synced.elapsed() >= every,
            };
            let written = self.journal.append(step, made, sync)?;
            if sync {
                self.synced = monotonic();
            }
            self.meter.wrote_journal(written);
            self.meter.journal(self.journal.bytes());
            self.rejected_this_tick = 0;
            self.unfinished = Some((seq, made));
        }
        for ((log, made), lines) in self.logs.iter_mut().zip(made).zip(&lines) {
            // What is there already was appended by a try that failed later on.
            let there = (log.last() + 1).saturating_sub(made.first) as usize;
            let lines = lines.get(there..).unwrap_or_default();
            log.append(step.tick, &numbered(log.last() + 1, lines))?;
        }
        self.say_evictions()?;
        self.unfinished = None;
        let met = self.lanes.take_met();
        self.say_damage(step.tick, &met, None)
    }

    /// Puts a notice of loss on the alarm lane, under its number.
    pub(super) fn say(&mut self, loss: &Loss) -> Result<(), StoreError> {
        let tick = Tick { seq: loss.said_at, now: loss.at };
        let bytes = line(&loss.notice(&self.settings.node), tick.seq)?;
        let [alarms, ..] = &mut self.logs;
        alarms.skip(tick, loss.number - 1)?;
        let number = alarms.last() + 1;
        alarms.append(tick, &[Line { number, ordinal: loss.ordinal, bytes }])
    }

    /// Says what is missing for good, durably, and only then lets the targets pass over it.
    pub(super) fn say_damage(
        &mut self,
        tick: Tick,
        gaps: &[Gap],
        lost_input: Option<(u64, u64, u64)>,
    ) -> Result<(), StoreError> {
        let mut damage: Vec<(Lane, u64, u64, u64)> = Vec::new();
        for gap in gaps {
            let (count, (first, last)) = (self.lanes.missed(gap), gap.ticks);
            match damage.last_mut().filter(|(lane, ..)| *lane == gap.lane) {
                Some((_, counted, _, to)) => (*counted, *to) = (*counted + count, last),
                None => damage.push((gap.lane, count, first, last)),
            }
        }
        damage.retain(|(_, count, ..)| *count > 0);
        damage.extend(lost_input.map(|(count, first, last)| (Lane::Raw, count, first, last)));
        for (index, (lane, count, first_tick, last_tick)) in damage.iter().enumerate() {
            let loss = Loss {
                said_at: tick.seq,
                ordinal: DAMAGE_ORDINAL.saturating_add(index as u32),
                number: self.logs[Lane::Alarm as usize].last() + 1,
                lane: *lane,
                count: *count,
                first_tick: *first_tick,
                last_tick: *last_tick,
                reason: "damaged".to_owned(),
                at: tick.now,
                lost: Lost { unread: *count, ..Lost::default() },
            };
            self.say(&loss)?;
        }
        if !damage.is_empty() {
            self.logs[Lane::Alarm as usize].sync()?;
        }
        for gap in gaps {
            self.lanes.pass_over(gap)?;
        }
        if gaps.is_empty() { Ok(()) } else { self.kv.flush() }
    }

    /// Makes the records and the engine's state durable and drops the part of the journal that is no longer needed.
    /// Two checkpoints are kept, and the journal reaches back to the older.
    ///
    /// # Errors
    /// [`StoreError::Full`]: the journal is kept instead; try again later.
    pub fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        self.guarded(|ledger| {
            ledger.logs.iter_mut().try_for_each(Log::sync)?;
            ledger.lanes.flush()?;
            let books =
                |log: &Log| LaneBooks { floor: ledger.lanes.floor(log.lane()), last: log.last() };
            let books = ledger.logs.each_ref().map(books);
            let written = ledger.checkpoints.write(checkpoint, books)?;
            ledger.journal.raise(checkpoint.tick.seq);
            ledger.journal.trim(ledger.checkpoints.journal_needed_after())?;
            ledger.meter.wrote_checkpoint(written);
            ledger.meter.journal(ledger.journal.bytes());
            for log in &mut ledger.logs {
                if ledger.lanes.floor(log.lane()) >= log.last() {
                    log.close();
                }
                ledger.lanes.drop_settled(log.lane())?;
            }
            Ok(())
        })
    }

    /// Makes durable what [`Durability::Interval`] left for later, if it is time: to be called while nothing comes.
    pub fn sync_due(&mut self) -> Result<(), StoreError> {
        let Durability::Interval(every) = self.settings.durability else { return Ok(()) };
        if self.synced.elapsed() < every {
            return Ok(());
        }
        self.guarded(|ledger| {
            ledger.synced = monotonic();
            ledger.journal.sync().map(|_| ())
        })
    }

    /// Keeps a rejected message to look into: at most `kept_max` of them, and the first few of each tick.
    pub fn quarantine(
        &mut self,
        why: &str,
        topic: &str,
        payload: &[u8],
        kept_max: usize,
    ) -> Result<(), StoreError> {
        if self.rejected_this_tick >= QUARANTINED_A_TICK {
            return Ok(());
        }
        self.rejected_this_tick += 1;
        self.guarded(|ledger| ledger.rejected.add(why, topic, payload, kept_max))
    }

    /// The newest rejected messages, newest first.
    pub fn quarantined(&self, limit: usize) -> Result<Vec<Quarantined>, StoreError> {
        self.rejected.newest(limit)
    }

    /// The last tick that is in the journal.
    pub(super) fn last_tick(&self) -> u64 {
        self.journal.last()
    }

    /// Files that a power cut may cut short now, and how many bytes of each are durable: for tests that cut them.
    pub fn unsynced(&self) -> Vec<(PathBuf, u64)> {
        self.logs.iter().flat_map(Log::unsynced).collect()
    }

    /// The books, shared with the outboxes.
    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }

    /// The books now.
    pub fn stats(&self) -> StoreStats {
        self.meter.read()
    }

    /// Runs a change; after one that failed no other is tried, unless the disk was full.
    pub(super) fn guarded<T>(
        &mut self,
        change: impl FnOnce(&mut Ledger) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if self.poisoned {
            return Err(StoreError::Poisoned);
        }
        let done = change(self);
        self.poisoned = matches!(&done, Err(error) if !matches!(error, StoreError::Full { .. }));
        done
    }
}

pub(super) fn numbered(first: u64, lines: &[(u32, Vec<u8>)]) -> Vec<Line> {
    let numbered = (first..).zip(lines);
    numbered
        .map(|(number, (ordinal, bytes))| Line { number, ordinal: *ordinal, bytes: bytes.clone() })
        .collect()
}

/// The step's records as lines of JSON, by lane. A record's ordinal is its place in the step.
pub(super) fn encode(step: &Step) -> Result<[Lines; 4], StoreError> {
    let mut lanes: [Lines; 4] = Default::default();
    for (ordinal, outgoing) in step.records.iter().enumerate() {
        let line = line(outgoing, step.tick.seq)?;
        lanes[outgoing.lane as usize].push((ordinal as u32, line));
    }
    Ok(lanes)
}

fn line(outgoing: &Outgoing, seq: u64) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(&outgoing.record).map_err(|e| StoreError::Encode {
        what: "a record",
        seq,
        reason: e.to_string(),
    })
}

/// What the journal says that a step made, its records numbered from `first` on.
pub(super) fn made(step: &Step, first: [u64; 4]) -> [Made; 4] {
    let mut made = first.map(|first| Made { first, ..Made::default() });
    for outgoing in &step.records {
        let made = &mut made[outgoing.lane as usize];
        made.count += 1;
        let mut crc = crc32fast::Hasher::new_with_initial(made.crc);
        crc.update(outgoing.record.id().as_bytes());
        crc.update(b"\n");
        made.crc = crc.finalize();
    }
    made
}
