//! Detectors that know nothing: what a number is worth shows only beside theirs.

use super::metrics::binary::Confusion;

/// Most steps in which the clock's interval is looked for.
pub(super) const STEPS: usize = 400;

/// An alarm that is always on.
pub fn always_on(labels: &[bool]) -> Confusion {
    Confusion::of(&vec![true; labels.len()], labels)
}

/// An alarm that never comes.
pub fn never(labels: &[bool]) -> Confusion {
    Confusion::of(&vec![false; labels.len()], labels)
}

/// An alarm by the clock alone: on in one and the same interval of rows of every recording, the one with the best F1,
/// looked up in the labels. What it scores is what the recordings' common timetable gives away. `None` with fewer than
/// two recordings, whose timetable cannot be common.
pub fn clock_only(recordings: &[Vec<bool>]) -> Option<Confusion> {
    let longest = recordings.iter().map(Vec::len).max().filter(|rows| *rows > 0)?;
    if recordings.len() < 2 {
        return None;
    }
    let wide = longest.div_ceil(STEPS);
    let bins = longest.div_ceil(wide);
    // Faulty and normal rows before each step.
    let mut before = vec![(0_u64, 0_u64); bins + 1];
    for (row, faulty) in recordings.iter().flat_map(|labels| labels.iter().enumerate()) {
        let (faults, normals) = &mut before[row / wide + 1];
        *faults += u64::from(*faulty);
        *normals += u64::from(!*faulty);
    }
    for step in 1..=bins {
        before[step].0 += before[step - 1].0;
        before[step].1 += before[step - 1].1;
    }
    let (faults, normals) = before[bins];
    let of = |from: usize, to: usize| {
        let (hits, wrong) = (before[to].0 - before[from].0, before[to].1 - before[from].1);
        Confusion {
            true_alarms: hits,
            false_alarms: wrong,
            true_quiet: normals - wrong,
            missed: faults - hits,
        }
    };
    let all = (0..bins).flat_map(|from| (from + 1..=bins).map(move |to| (from, to)));
    all.map(|(from, to)| of(from, to)).max_by(|a, b| a.f1().total_cmp(&b.f1()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Experiments by one timetable: the clock finds nearly all of them, though it looks at nothing.
    #[test]
    fn the_clock_knows_a_common_timetable() {
        let labels = |shift: usize| -> Vec<bool> {
            (0..750).map(|row| (170 + shift..570 + shift).contains(&row)).collect()
        };
        let recordings: Vec<Vec<bool>> = (0..8).map(|n| labels(n * 2)).collect();
        let clock = clock_only(&recordings).unwrap();
        let flat: Vec<bool> = recordings.concat();
        assert!(clock.f1() > 0.97 && clock.false_alarm_rate() < 0.05, "{clock:?}");
        assert_eq!(clock.total(), flat.len() as u64);
        assert!(clock.f1() > always_on(&flat).f1());
        assert_eq!(never(&flat).f1(), 0.0);
        assert_eq!(clock_only(&recordings[..1]), None);
        assert_eq!(clock_only(&[Vec::new(), Vec::new()]), None);
    }

    #[test]
    fn where_there_is_no_timetable_the_clock_is_always_on() {
        let recordings = [vec![true, false, true, false], vec![false, true, false, true]];
        assert_eq!(clock_only(&recordings).unwrap().f1(), always_on(&recordings.concat()).f1());
    }
}
