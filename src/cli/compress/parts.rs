//! Which windows may choose and which judge.
//!
//! [`super::evidence`] and [`super::teach`] cut by it. It promises that nothing which chooses shares an instant with what
//! judges, of the same asset.

use std::collections::BTreeMap;

use crate::frame::Windows;
use crate::time::Timestamp;

/// What a window is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// It may choose.
    Chooses,
    /// It shares samples with some that judge.
    Between,
    /// It judges.
    Judges,
}

/// The second half of each asset's windows judges, those of the first that end before it begins choose.
pub(super) fn divided(windows: &Windows) -> Vec<Part> {
    let mut counts = BTreeMap::new();
    for asset in &windows.asset {
        *counts.entry(*asset).or_insert(0_usize) += 1;
    }
    let mut seen = BTreeMap::new();
    let half = |asset: &u32| {
        let before = seen.entry(*asset).or_insert(0_usize);
        *before += 1;
        if *before * 2 > counts[asset] { Part::Judges } else { Part::Chooses }
    };
    let mut parts: Vec<Part> = windows.asset.iter().map(half).collect();
    let until = first_of(windows, &parts);
    for (at, part) in parts.iter_mut().enumerate() {
        if *part == Part::Chooses && windows.end[at] > until[&windows.asset[at]] {
            *part = Part::Between;
        }
    }
    parts
}

/// Of each asset where its first window begins that judges.
pub(super) fn first_of(windows: &Windows, parts: &[Part]) -> BTreeMap<u32, Timestamp> {
    let mut first = BTreeMap::new();
    for at in (0..windows.len()).filter(|at| parts[*at] == Part::Judges) {
        first.entry(windows.asset[at]).or_insert(windows.start[at]);
    }
    first
}

/// Those of `windows` that end before their asset's windows begin that judge.
pub(super) fn before(windows: &Windows, until: &BTreeMap<u32, Timestamp>) -> Windows {
    let ends_before =
        |at: &usize| until.get(&windows.asset[*at]).is_some_and(|until| windows.end[*at] <= *until);
    windows.picked((0..windows.len()).filter(ends_before))
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Windows of two assets, each its own time, so many samples long and so often.
    fn windows(count: usize, length: i64, every: i64) -> Windows {
        let mut random = ChaCha8Rng::seed_from_u64(count as u64);
        let mut all = Windows { names: vec!["a".into()], ..Windows::default() };
        let mut next = [0, 1000];
        for _ in 0..count {
            let asset = random.random_range(0..2_usize);
            let start = next[asset];
            next[asset] += every * random.random_range(1..3);
            all.asset.push(asset as u32);
            all.start.push(Timestamp(start));
            all.end.push(Timestamp(start + length));
            all.coverage.push(1.0);
            all.features.push(start as f64);
        }
        all
    }

    #[test]
    fn nothing_that_chooses_or_teaches_shares_an_instant_with_what_judges() {
        for (count, length, every) in [(2, 10, 10), (40, 10, 10), (81, 64, 8), (200, 10, 3)] {
            let all = windows(count, length, every);
            let parts = divided(&all);
            let until = first_of(&all, &parts);
            let closer = windows(count * 3, length, 1);
            let taught = before(&closer, &until);
            assert!(count < 40 || (parts.contains(&Part::Chooses) && !taught.is_empty()));
            for judge in (0..count).filter(|at| parts[*at] == Part::Judges) {
                let apart = |asset: u32, start: Timestamp, end: Timestamp| {
                    asset != all.asset[judge] || end <= all.start[judge] || start >= all.end[judge]
                };
                for at in (0..count).filter(|at| parts[*at] == Part::Chooses) {
                    assert!(apart(all.asset[at], all.start[at], all.end[at]), "{at}, {judge}");
                }
                for at in 0..taught.len() {
                    assert!(apart(taught.asset[at], taught.start[at], taught.end[at]), "{at}");
                }
            }
            // Half of the windows judge, however many lie between.
            let judging = parts.iter().filter(|part| **part == Part::Judges).count();
            assert!(judging >= count / 2 && judging <= count / 2 + 2, "{judging} of {count}");
        }
    }
}
