//! The store's books: what waits, what left and how, what was written.
//!
//! `ledger` and `outbox` count into one [`Meter`] from their own threads; `metrics`, the feed and the demo read it.
//! The law since the start of the process: `found + made = queued + delivered + refused + evicted`, on every lane.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::record::Lane;

/// One lane's books. Records, unless it says bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneStats {
    /// Waiting for the far side.
    pub queued: u64,
    /// Bytes that they take up, as stored.
    pub queued_bytes: u64,
    /// Waiting already when the store was opened.
    pub found: u64,
    /// Put since then, loss records among them.
    pub made: u64,
    /// Acknowledged by the far side.
    pub delivered: u64,
    /// Refused by the far side and set aside.
    pub refused: u64,
    /// Dropped because of a limit; a loss record says so.
    pub evicted: u64,
}

/// The store's books at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// By lane, in order of sending.
    pub lanes: [LaneStats; 4],
    /// Bytes that the journal takes up now.
    pub journal_bytes: u64,
    /// Bytes written by the store since its opening: journal, checkpoints, and what sled was given (it writes more).
    pub written_bytes: u64,
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
    // Signed: a settle on the other thread may be counted before the put it belongs to.
    queued: AtomicI64,
    queued_bytes: AtomicI64,
    found: AtomicU64,
    made: AtomicU64,
    delivered: AtomicU64,
    refused: AtomicU64,
    evicted: AtomicU64,
}

#[derive(Debug, Default)]
struct Counters {
    lanes: [LaneCounters; 4],
    journal_bytes: AtomicU64,
    written_bytes: AtomicU64,
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
    /// The books now. Counts of one lane may be one commit apart from each other.
    pub fn read(&self) -> StoreStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let positive = |counter: &AtomicI64| counter.load(Ordering::Relaxed).max(0) as u64;
        StoreStats {
            lanes: self.0.lanes.each_ref().map(|lane| LaneStats {
                queued: positive(&lane.queued),
                queued_bytes: positive(&lane.queued_bytes),
                found: count(&lane.found),
                made: count(&lane.made),
                delivered: count(&lane.delivered),
                refused: count(&lane.refused),
                evicted: count(&lane.evicted),
            }),
            journal_bytes: count(&self.0.journal_bytes),
            written_bytes: count(&self.0.written_bytes),
        }
    }

    fn lane(&self, lane: Lane) -> &LaneCounters {
        let [alarm, score, feature, raw] = &self.0.lanes;
        match lane {
            Lane::Alarm => alarm,
            Lane::Score => score,
            Lane::Feature => feature,
            Lane::Raw => raw,
        }
    }

    /// Records that were in the store when it was opened.
    pub(super) fn found(&self, lane: Lane, records: u64, bytes: u64) {
        let lane = self.lane(lane);
        lane.found.fetch_add(records, Ordering::Relaxed);
        lane.queued.fetch_add(records as i64, Ordering::Relaxed);
        lane.queued_bytes.fetch_add(bytes as i64, Ordering::Relaxed);
    }

    /// Records that were put.
    pub(super) fn made(&self, lane: Lane, records: u64, bytes: u64) {
        self.wrote(bytes);
        let lane = self.lane(lane);
        lane.made.fetch_add(records, Ordering::Relaxed);
        lane.queued.fetch_add(records as i64, Ordering::Relaxed);
        lane.queued_bytes.fetch_add(bytes as i64, Ordering::Relaxed);
    }

    /// Records that left the queue, and the bytes that this freed.
    pub(super) fn gone(&self, lane: Lane, how: Gone, records: u64, bytes: u64) {
        let lane = self.lane(lane);
        lane.queued.fetch_sub(records as i64, Ordering::Relaxed);
        lane.queued_bytes.fetch_sub(bytes as i64, Ordering::Relaxed);
        let counter = match how {
            Gone::Delivered => &lane.delivered,
            Gone::Refused => &lane.refused,
            Gone::Evicted => &lane.evicted,
        };
        counter.fetch_add(records, Ordering::Relaxed);
    }

    /// Bytes that the journal takes up.
    pub(super) fn journal(&self, bytes: u64) {
        self.0.journal_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Bytes that were written.
    pub(super) fn wrote(&self, bytes: u64) {
        self.0.written_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}
