//! The store's books: what waits, what left and how, what was written.
//!
//! `ledger`, `lanes` and the outboxes count into one [`Meter`] from their own threads; `metrics`, the feed and the
//! demo read it. The law since the start of the process, for every target and lane:
//! `found + made = queued + delivered + refused + evicted`.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::record::Lane;

/// One lane's books for one target. Records, unless it says bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneStats {
    /// Waiting for the far side.
    pub queued: u64,
    /// Bytes that the lane takes up on the disk, for all targets together.
    pub queued_bytes: u64,
    /// Waiting already when the store was opened.
    pub found: u64,
    /// Put since then, loss records among them, and what others were thinned to.
    pub made: u64,
    /// Acknowledged by the far side.
    pub delivered: u64,
    /// Refused by the far side and set aside.
    pub refused: u64,
    /// Dropped because of a limit, thinned or damaged; a loss record says so.
    pub evicted: u64,
}

/// What was written since the store was opened, by what it was for, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The journal.
    pub journal: u64,
    /// Records.
    pub records: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// Cursors, marks and what is quarantined: as given to sled, which writes several times that.
    pub index: u64,
}

impl Written {
    /// Each with its name.
    pub fn by_purpose(&self) -> [(&'static str, u64); 4] {
        [
            ("journal", self.journal),
            ("records", self.records),
            ("checkpoints", self.checkpoints),
            ("index", self.index),
        ]
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.by_purpose().iter().map(|(_, bytes)| bytes).sum()
    }
}

/// The store's books at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// By lane, in order of sending: those of the target that has the least.
    pub lanes: [LaneStats; 4],
    /// Of each target.
    pub targets: Vec<(String, [LaneStats; 4])>,
    /// Bytes that the journal takes up now.
    pub journal_bytes: u64,
    /// What was written.
    pub written: Written,
}

impl StoreStats {
    /// The books of one lane.
    pub fn lane(&self, lane: Lane) -> LaneStats {
        self.lanes.get(lane as usize).copied().unwrap_or_default()
    }

    /// One count summed over all lanes.
    pub fn sum(&self, count: impl Fn(&LaneStats) -> u64) -> u64 {
        self.lanes.iter().map(count).sum()
    }
}

#[derive(Debug, Default)]
struct LaneCounters {
    bytes: AtomicI64,
    made: AtomicU64,
}

#[derive(Debug, Default)]
struct TargetCounters {
    name: String,
    lanes: [TargetLane; 4],
}

#[derive(Debug, Default)]
struct TargetLane {
    found: AtomicU64,
    delivered: AtomicU64,
    refused: AtomicU64,
    evicted: AtomicU64,
    /// Made of others that were thinned.
    made: AtomicU64,
}

#[derive(Debug, Default)]
struct Counters {
    lanes: [LaneCounters; 4],
    targets: Vec<TargetCounters>,
    journal_bytes: AtomicU64,
    journal: AtomicU64,
    records: AtomicU64,
    checkpoints: AtomicU64,
    index: AtomicU64,
}

/// Where records went that left the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    Delivered,
    Refused,
    Evicted,
}

/// A handle on the books; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<Counters>);

impl Meter {
    pub(super) fn new(targets: &[String]) -> Meter {
        let named = |name: &String| TargetCounters { name: name.clone(), ..Default::default() };
        let targets = targets.iter().map(named).collect();
        Meter(Arc::new(Counters { targets, ..Counters::default() }))
    }

    /// The books now. Counts of one lane may be one commit apart from each other.
    pub fn read(&self) -> StoreStats {
        let targets: Vec<_> =
            self.0.targets.iter().map(|t| (t.name.clone(), self.read_target(t))).collect();
        let waits = |lanes: &[LaneStats; 4]| lanes.iter().map(|lane| lane.queued).sum::<u64>();
        let slowest = targets.iter().map(|(_, lanes)| lanes).max_by_key(|lanes| waits(lanes));
        StoreStats {
            lanes: slowest.copied().unwrap_or_default(),
            targets,
            journal_bytes: count(&self.0.journal_bytes),
            written: Written {
                journal: count(&self.0.journal),
                records: count(&self.0.records),
                checkpoints: count(&self.0.checkpoints),
                index: count(&self.0.index),
            },
        }
    }

    fn read_target(&self, target: &TargetCounters) -> [LaneStats; 4] {
        Lane::ALL.map(|lane| {
            let (all, own) = (self.lane(lane), target.lane(lane));
            let (found, made) = (count(&own.found), count(&all.made) + count(&own.made));
            let (delivered, refused, evicted) =
                (count(&own.delivered), count(&own.refused), count(&own.evicted));
            LaneStats {
                queued: (found + made).saturating_sub(delivered + refused + evicted),
                queued_bytes: all.bytes.load(Ordering::Relaxed).max(0) as u64,
                found,
                made,
                delivered,
                refused,
                evicted,
            }
        })
    }

    fn lane(&self, lane: Lane) -> &LaneCounters {
        pick(&self.0.lanes, lane)
    }

    /// Records of a target that were in the store when it was opened.
    pub(super) fn found(&self, target: usize, lane: Lane, records: u64) {
        if let Some(target) = self.0.targets.get(target) {
            add(&target.lane(lane).found, records);
        }
    }

    /// Bytes of a lane that records do not account for: what was there already, starts of segments.
    pub(super) fn took_up(&self, lane: Lane, bytes: u64) {
        self.lane(lane).bytes.fetch_add(bytes as i64, Ordering::Relaxed);
    }

    /// Records that were put.
    pub(super) fn made(&self, lane: Lane, records: u64, bytes: u64) {
        add(&self.0.records, bytes);
        let lane = self.lane(lane);
        add(&lane.made, records);
        lane.bytes.fetch_add(bytes as i64, Ordering::Relaxed);
    }

    /// Bytes of a lane that are free again.
    pub(super) fn freed(&self, lane: Lane, bytes: u64) {
        self.lane(lane).bytes.fetch_sub(bytes as i64, Ordering::Relaxed);
    }

    /// Records that left a target's queue.
    pub(super) fn gone(&self, target: usize, lane: Lane, how: Gone, records: u64) {
        let Some(target) = self.0.targets.get(target) else { return };
        let lane = target.lane(lane);
        let counter = match how {
            Gone::Delivered => &lane.delivered,
            Gone::Refused => &lane.refused,
            Gone::Evicted => &lane.evicted,
        };
        add(counter, records);
    }

    /// Records that were made of others which a target had not got.
    pub(super) fn made_of_others(&self, target: usize, lane: Lane, records: u64) {
        let Some(target) = self.0.targets.get(target) else { return };
        add(&target.lane(lane).made, records);
    }

    /// Bytes of records that were written once more.
    pub(super) fn rewrote(&self, bytes: u64) {
        add(&self.0.records, bytes);
    }

    /// Bytes that the journal takes up.
    pub(super) fn journal(&self, bytes: u64) {
        self.0.journal_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn wrote_journal(&self, bytes: u64) {
        add(&self.0.journal, bytes);
    }

    pub(super) fn wrote_checkpoint(&self, bytes: u64) {
        add(&self.0.checkpoints, bytes);
    }

    pub(super) fn wrote_index(&self, bytes: u64) {
        add(&self.0.index, bytes);
    }
}

impl TargetCounters {
    fn lane(&self, lane: Lane) -> &TargetLane {
        pick(&self.lanes, lane)
    }
}

fn pick<T>(lanes: &[T; 4], lane: Lane) -> &T {
    let [alarm, score, feature, raw] = lanes;
    match lane {
        Lane::Alarm => alarm,
        Lane::Score => score,
        Lane::Feature => feature,
        Lane::Raw => raw,
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
