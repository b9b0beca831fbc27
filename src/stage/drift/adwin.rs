//! ADWIN: a window of the newest values that is as long as their mean has stayed the same.
//!
//! `drift` gives it a score's place in the training data, 0 to 1. After Bifet and Gavaldà, "Learning from Time-Changing
//! Data with Adaptive Windowing" (SDM 2007): values in buckets of 1, 2, 4, …, at most [`ROW`] of each, so that memory
//! grows with the logarithm of the window; wherever two parts of it differ by more than chance allows, the older goes.
//! It promises bounded memory and the same answer for the same values; it knows nothing of what they are.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// Most buckets of one size.
const ROW: usize = 5;
/// Rows of buckets: 5 · 2^31 values and more.
const ROWS: usize = 32;
/// It looks for a change after so many values.
const CLOCK: u64 = 32;
/// Fewer values are no part to compare.
const PART_MIN: f64 = 5.0;
/// Fewer values in all are not looked at.
const GRACE: f64 = 10.0;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Adwin {
    /// Row `k` holds buckets of `2^k` values, oldest first.
    rows: Vec<VecDeque<Bucket>>,
    seen: u64,
    count: f64,
    total: f64,
    /// Sum of squared distances from the mean.
    spread: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Bucket {
    total: f64,
    spread: f64,
    /// When its last value was.
    last: Timestamp,
}

/// The spread that two parts have together beyond their own.
fn between(count: f64, mean: f64, other: f64, other_mean: f64) -> f64 {
    count * other * (mean - other_mean).powi(2) / (count + other)
}

impl Adwin {
    /// Takes in one value; where the mean has changed, since when. `delta` is the chance to see a change where none is.
    pub fn take(&mut self, value: f64, at: Timestamp, delta: f64) -> Option<Timestamp> {
        self.seen += 1;
        if self.count > 0.0 {
            self.spread += between(self.count, self.total / self.count, 1.0, value);
        }
        self.count += 1.0;
        self.total += value;
        self.push(0, Bucket { total: value, spread: 0.0, last: at });
        let mut since = None;
        if self.seen.is_multiple_of(CLOCK) && self.count > GRACE {
            while let Some(cut) = self.find_cut(delta) {
                since = Some(cut);
                self.drop_oldest();
            }
        }
        since
    }

    /// The mean of the window.
    pub fn mean(&self) -> f64 {
        if self.count > 0.0 { self.total / self.count } else { 0.0 }
    }

    /// How many values the window has.
    pub fn len(&self) -> u64 {
        self.count as u64
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.count == 0.0
    }

    /// Adds a bucket; two of a full row become one of the next.
    fn push(&mut self, row: usize, bucket: Bucket) {
        if self.rows.len() == row {
            self.rows.push(VecDeque::new());
        }
        let Some(buckets) = self.rows.get_mut(row) else { return };
        buckets.push_back(bucket);
        if buckets.len() <= ROW || row + 1 >= ROWS {
            return;
        }
        let (Some(a), Some(b)) = (buckets.pop_front(), buckets.pop_front()) else { return };
        let size = size_of_row(row);
        let apart = between(size, a.total / size, size, b.total / size);
        let spread = a.spread + b.spread + apart;
        self.push(row + 1, Bucket { total: a.total + b.total, spread, last: b.last });
    }

    /// The last time of the older part, at the first place where the parts differ.
    fn find_cut(&self, delta: f64) -> Option<Timestamp> {
        let chance = (2.0 * self.count.ln() / delta).ln();
        let variance = self.spread / self.count;
        let (mut before, mut total) = (0.0, 0.0);
        for (row, buckets) in self.rows.iter().enumerate().rev() {
            for bucket in buckets {
                before += size_of_row(row);
                total += bucket.total;
                let after = self.count - before;
                if before < PART_MIN || after < PART_MIN {
                    continue;
                }
                let apart = (total / before - (self.total - total) / after).abs();
                let harmonic = 1.0 / (before - PART_MIN + 1.0) + 1.0 / (after - PART_MIN + 1.0);
                let allowed =
                    (2.0 * harmonic * variance * chance).sqrt() + 2.0 / 3.0 * chance * harmonic;
                if apart > allowed {
                    return Some(bucket.last);
                }
            }
        }
        None
    }

    fn drop_oldest(&mut self) {
        let Some(row) = self.rows.iter().rposition(|buckets| !buckets.is_empty()) else { return };
        let Some(bucket) = self.rows.get_mut(row).and_then(VecDeque::pop_front) else { return };
        let size = size_of_row(row);
        self.count -= size;
        self.total -= bucket.total;
        let apart = between(size, bucket.total / size, self.count, self.mean());
        self.spread = (self.spread - bucket.spread - apart).max(0.0);
    }
}

/// Values in a bucket of row `row`.
fn size_of_row(row: usize) -> f64 {
    (1_u64 << row.min(ROWS)) as f64
}
