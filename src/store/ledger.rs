//! The ledger: the half of the store that makes a tick durable.
//!
//! The engine loop owns it. [`Ledger::commit`] writes the tick's input to the journal and syncs it, puts its records
//! into the outbox and flushes that once; only then are the receipts released and may the uplink read so far. A
//! record is in the outbox only if its input is in the journal, so a crash in between is mended at the next start by
//! replaying: [`Ledger::reconcile`] puts back what is missing. Evictions happen in here and nowhere else. After an
//! error nothing more is accepted: what is on the disk is only known after a new start.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use crate::record::{Checkpoint, Lane, Outgoing, Step};

use super::checkpoint::{Checkpoints, LaneBooks};
use super::codec::{Block, Key, Packed, Packer};
use super::error::StoreError;
use super::evict::{self, Plan};
use super::journal::{Journal, Made};
use super::kv::Kv;
use super::marks;
use super::meter::{Meter, StoreStats};
use super::open::StoreOptions;
use super::quarantine::{Quarantined, Shelf};
use super::receipt::{Receipts, Released};
use super::survey;

/// Rejected messages kept a tick: a flood of them must not become a flood of writes.
const QUARANTINED_A_TICK: u32 = 16;

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
type Lines = Vec<(u32, Vec<u8>)>;

/// Writes ticks. See the module.
pub struct Ledger {
    pub(super) kv: Arc<dyn Kv>,
    pub(super) journal: Journal,
    /// The number of each lane's last record.
    pub(super) last: [u64; 4],
    /// Up to which number each lane had left when the store was opened.
    pub(super) floors: [u64; 4],
    checkpoints: Checkpoints,
    packer: Packer,
    meter: Meter,
    rejected: Shelf,
    settings: Settings,
    /// What the journal promises for the ticks to be replayed.
    promised: BTreeMap<u64, [Made; 4]>,
    put_back: u64,
    changed: u64,
    rejected_this_tick: u32,
    poisoned: bool,
    /// Held as long as anything of the store is.
    _lock: Arc<File>,
}

/// What of the options the ledger needs.
struct Settings {
    path: PathBuf,
    node: String,
    lane_limits: [u64; 4],
    free_floor: u64,
}

/// What a ledger is made of.
pub(super) struct Parts {
    pub(super) kv: Arc<dyn Kv>,
    pub(super) journal: Journal,
    pub(super) checkpoints: Checkpoints,
    pub(super) meter: Meter,
    /// What the journal promises for the ticks to be replayed.
    pub(super) promised: BTreeMap<u64, [Made; 4]>,
    /// By lane: the number of the last record, and that up to which all have left.
    pub(super) last: [u64; 4],
    pub(super) floors: [u64; 4],
}

impl Ledger {
    pub(super) fn new(
        parts: Parts,
        options: &StoreOptions,
        lock: Arc<File>,
    ) -> Result<Ledger, StoreError> {
        Ok(Ledger {
            packer: Packer::new().map_err(StoreError::on("prepare", &options.path))?,
            rejected: Shelf::open(Arc::clone(&parts.kv), b'q')?,
            settings: Settings {
                path: options.path.clone(),
                node: options.node.clone(),
                lane_limits: options.lane_limits,
                free_floor: options.free_floor,
            },
            kv: parts.kv,
            journal: parts.journal,
            checkpoints: parts.checkpoints,
            meter: parts.meter,
            promised: parts.promised,
            last: parts.last,
            floors: parts.floors,
            put_back: 0,
            changed: 0,
            rejected_this_tick: 0,
            poisoned: false,
            _lock: lock,
        })
    }

    /// Makes a tick durable: its input, its records, and what has to be evicted for them. The receipts come back when
    /// that is done. Ticks count up; a tick with neither input nor records costs an entry too, so do not commit it.
    pub fn commit(
        &mut self,
        step: &Step,
        receipts: Receipts,
    ) -> Result<(Committed, Released), StoreError> {
        self.guarded(|ledger| ledger.write(step))?;
        Ok((Committed(step.tick.seq), Released::after_flush(receipts)))
    }

    fn write(&mut self, step: &Step) -> Result<(), StoreError> {
        let lines = encode(step)?;
        let made = made(step, self.last);
        let written = self.journal.append(step, made)?;
        self.meter.wrote(written);
        self.meter.journal(self.journal.bytes());
        self.rejected_this_tick = 0;
        let blocks = self.pack(step.tick.seq, made, &lines)?;
        let mut plans = self.plan_evictions(step, &blocks)?;
        for block in &blocks {
            self.put(block)?;
        }
        for plan in &mut plans {
            plan.mark.loss.number = self.next_number(Lane::Alarm);
            self.say(&plan.mark.loss)?;
            marks::put_evicted(&*self.kv, &plan.mark)?;
        }
        if !blocks.is_empty() || !plans.is_empty() {
            self.kv.flush()?;
        }
        // Until here a power cut leaves the old records in place; from here on the notice of their loss is durable.
        plans.iter().try_for_each(|plan| evict::carry_out(&*self.kv, &self.meter, plan))
    }

    /// Packs all lanes and takes up the numbers of their records.
    fn pack(
        &mut self,
        seq: u64,
        made: [Made; 4],
        lines: &[Lines; 4],
    ) -> Result<Vec<Packed>, StoreError> {
        let mut blocks = Vec::new();
        for ((lane, made), lines) in Lane::ALL.into_iter().zip(made).zip(lines) {
            blocks.extend(self.packer.pack(lane, seq, made.first, lines)?);
            self.last[lane as usize] += u64::from(made.count);
        }
        Ok(blocks)
    }

    /// The number of a lane's next record, taken up.
    pub(super) fn next_number(&mut self, lane: Lane) -> u64 {
        self.last[lane as usize] += 1;
        self.last[lane as usize]
    }

    fn plan_evictions(&self, step: &Step, blocks: &[Packed]) -> Result<Vec<Plan>, StoreError> {
        if blocks.is_empty() {
            return Ok(Vec::new());
        }
        let queued = self.meter.read().lanes.map(|lane| lane.queued_bytes);
        let mut incoming = [0; 4];
        for block in blocks {
            incoming[block.key.lane as usize] += block.stored();
        }
        let full = self.disk_free()? < self.settings.free_floor;
        let mut needs = evict::needs(queued, incoming, self.settings.lane_limits, full);
        // In the order of their notices' keys, so that these are numbered in order.
        needs.sort_by_key(|need| need.lane);
        let plans = needs.into_iter().map(|need| evict::plan(&*self.kv, need, step));
        Ok(plans.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    fn disk_free(&self) -> Result<u64, StoreError> {
        let path = &self.settings.path;
        let disk = rustix::fs::statvfs(path)
            .map_err(|e| StoreError::io("look at the disk of", path, e.into()))?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Puts a block. The later parts go first, so that a first part is never alone for long.
    fn put(&self, block: &Packed) -> Result<(), StoreError> {
        for (part, value) in block.values.iter().enumerate().rev() {
            self.kv.put(&block.key.bytes(part as u16), value)?;
        }
        self.meter.made(block.key.lane, block.records, block.stored());
        Ok(())
    }

    /// Puts a notice of loss where its key says.
    pub(super) fn say(&mut self, loss: &marks::Loss) -> Result<(), StoreError> {
        let seq = loss.said_at;
        let line = line(&loss.notice(&self.settings.node), seq)?;
        for block in self.packer.pack(Lane::Alarm, seq, loss.number, &[(loss.ordinal, line)])? {
            self.put(&block)?;
        }
        Ok(())
    }

    /// At a start, for each entry of the journal: puts back the records that the outbox lacks, from the step that
    /// the engine made of the entry again.
    pub fn reconcile(&mut self, step: &Step) -> Result<(), StoreError> {
        self.guarded(|ledger| {
            let seq = step.tick.seq;
            let Some(promised) = ledger.promised.remove(&seq) else { return Ok(()) };
            if promised != made(step, promised.map(|made| made.first - 1)) {
                ledger.changed += 1;
            }
            let lines = encode(step)?;
            for ((lane, promised), lines) in Lane::ALL.into_iter().zip(promised).zip(lines) {
                // More than was promised would take the numbers of the next tick.
                let lines = lines.get(..promised.count as usize).unwrap_or(&lines);
                if !lines.is_empty() {
                    ledger.put_back(lane, seq, promised.first, lines)?;
                }
            }
            Ok(())
        })
    }

    fn put_back(
        &mut self,
        lane: Lane,
        seq: u64,
        first: u64,
        lines: &[(u32, Vec<u8>)],
    ) -> Result<(), StoreError> {
        let floor = self.floors[lane as usize];
        let (from, to) = Key::range(lane, seq, seq);
        let mut there = BTreeSet::new();
        for pair in self.kv.scan(&from, &to) {
            let (bytes, value) = pair?;
            let Some((_, 0)) = Key::parse(&bytes) else { continue };
            there.extend(Block::glance(&value).into_iter().flat_map(|block| block.numbers()));
        }
        let lacks = |number: u64| number > floor && !there.contains(&number);
        let numbered: Vec<(u64, &(u32, Vec<u8>))> = (first..).zip(lines).collect();
        // Runs without a gap: a block's records have consecutive numbers.
        for run in numbered.chunk_by(|(a, _), (b, _)| lacks(*a) == lacks(*b)) {
            let Some((number, _)) = run.first().filter(|(number, _)| lacks(*number)) else {
                continue;
            };
            let lines: Lines = run.iter().map(|(_, line)| (*line).clone()).collect();
            self.put_back += lines.len() as u64;
            for block in self.packer.pack(lane, seq, *number, &lines)? {
                self.put(&block)?;
            }
        }
        Ok(())
    }

    /// At a start, after the last entry of the journal: makes what was put back durable, and says up to where the
    /// uplink may read. The next tick is one more than that.
    pub fn finish_recovery(&mut self) -> Result<Resumed, StoreError> {
        self.guarded(|ledger| {
            let alarm = ledger.last[Lane::Alarm as usize];
            survey::accept_gaps(&*ledger.kv, Lane::Alarm, alarm)?;
            ledger.kv.flush()?;
            ledger.promised.clear();
            Ok(Resumed {
                committed: Committed(ledger.journal.last()),
                put_back: ledger.put_back,
                changed: ledger.changed,
            })
        })
    }

    /// Makes the engine's state durable and drops the part of the journal that is no longer needed. Two checkpoints
    /// are kept, and the journal reaches back to the older.
    pub fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        self.guarded(|ledger| {
            let mut lanes = [LaneBooks::default(); 4];
            for ((books, lane), last) in lanes.iter_mut().zip(Lane::ALL).zip(ledger.last) {
                *books = LaneBooks { floor: marks::floor(&*ledger.kv, lane)?, last };
            }
            let written = ledger.checkpoints.write(checkpoint, lanes)?;
            ledger.journal.raise(checkpoint.tick.seq);
            ledger.journal.trim(ledger.checkpoints.journal_needed_after())?;
            ledger.meter.wrote(written);
            ledger.meter.journal(ledger.journal.bytes());
            Ok(())
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

    /// The books, shared with the outbox.
    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }

    /// The books now.
    pub fn stats(&self) -> StoreStats {
        self.meter.read()
    }

    /// Runs a change; after one that failed no other is tried.
    fn guarded<T>(
        &mut self,
        change: impl FnOnce(&mut Ledger) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if self.poisoned {
            return Err(StoreError::Poisoned);
        }
        let done = change(self);
        self.poisoned = done.is_err();
        done
    }
}

/// The step's records as lines of JSON, by lane. A record's ordinal is its place in the step.
fn encode(step: &Step) -> Result<[Lines; 4], StoreError> {
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

/// What the journal says that a step made, after records of these numbers.
fn made(step: &Step, last: [u64; 4]) -> [Made; 4] {
    let mut made = last.map(|last| Made { first: last + 1, ..Made::default() });
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
