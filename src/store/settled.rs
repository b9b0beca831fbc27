//! Which records of a lane have left, by number: a prefix and, beyond it, ranges.
//!
//! `lanes` keeps one [`Settled`] a target and lane. A far side acknowledges out of order, and fresh records may go
//! before a backlog, so a single number is not enough. Numbers only ever get settled, never the other way round.

use serde::{Deserialize, Serialize};

/// Ranges written down; more would not fit into one value. What is left out costs a repeat after a restart.
const RANGES_MAX: usize = 300;

/// Settled numbers. The first record of a lane is number 1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settled {
    /// Everything up to here.
    upto: u64,
    /// Further ranges, both ends included, in order, never touching each other or `upto`.
    beyond: Vec<(u64, u64)>,
}

impl Settled {
    /// The number up to which everything is settled.
    pub(super) fn upto(&self) -> u64 {
        self.upto
    }

    /// Settles `from..=to`; says how many of them were not.
    pub(super) fn insert(&mut self, from: u64, to: u64) -> u64 {
        let from = from.max(self.upto + 1);
        if from > to {
            return 0;
        }
        let start = self.beyond.partition_point(|range| range.1 + 1 < from);
        let end = self.beyond.partition_point(|range| range.0 <= to.saturating_add(1));
        let touched = self.beyond.get(start..end).unwrap_or_default();
        let known: u64 = touched.iter().map(|range| overlap(*range, (from, to))).sum();
        let first = touched.first().map_or(from, |range| range.0.min(from));
        let last = touched.last().map_or(to, |range| range.1.max(to));
        self.beyond.splice(start..end, [(first, last)]);
        if let Some(&(first, last)) = self.beyond.first()
            && first == self.upto + 1
        {
            self.upto = last;
            self.beyond.remove(0);
        }
        to - from + 1 - known
    }

    /// Whether a number is settled.
    pub(super) fn contains(&self, number: u64) -> bool {
        self.next_open(number) != number
    }

    /// The first number from `from` on that is not settled.
    pub(super) fn next_open(&self, from: u64) -> u64 {
        let from = from.max(self.upto + 1);
        let index = self.beyond.partition_point(|range| range.1 < from);
        match self.beyond.get(index) {
            Some(range) if range.0 <= from => range.1 + 1,
            _ => from,
        }
    }

    /// How many of `from..=to` are not settled.
    pub(super) fn open_in(&self, from: u64, to: u64) -> u64 {
        let from = from.max(self.upto + 1);
        if from > to {
            return 0;
        }
        let known: u64 = self.beyond.iter().map(|range| overlap(*range, (from, to))).sum();
        to - from + 1 - known
    }

    /// What of it is written down.
    pub(super) fn to_keep(&self) -> Settled {
        let beyond = self.beyond.get(..RANGES_MAX).unwrap_or(&self.beyond).to_vec();
        Settled { upto: self.upto, beyond }
    }
}

fn overlap(a: (u64, u64), b: (u64, u64)) -> u64 {
    (a.1.min(b.1) + 1).saturating_sub(a.0.max(b.0))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn it_is_a_set_of_numbers() {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..200 {
            let (mut settled, mut model) = (Settled::default(), BTreeSet::new());
            for _ in 0..30 {
                let from = random.u64(1..60);
                let to = from + random.u64(0..12);
                let new = (from..=to).filter(|n| model.insert(*n)).count() as u64;
                assert_eq!(settled.insert(from, to), new);
                let open = (1..80).find(|n| !model.contains(n)).unwrap_or(80);
                assert_eq!(settled.upto() + 1, open);
                let (a, b) = (random.u64(1..80), random.u64(1..80));
                assert_eq!(settled.contains(a), model.contains(&a));
                let open = (a..=b).filter(|n| !model.contains(n)).count() as u64;
                assert_eq!(settled.open_in(a, b), open);
                assert_eq!(settled.next_open(a), (a..200).find(|n| !model.contains(n)).unwrap());
            }
        }
    }
}
