//! What operators said of windows, in the training of a model of normal running.
//!
//! `pca` and `net` call it. A confirmed fault is not learned; what was confirmed as normal counts where the edge of normal
//! is set; and the threshold does not rise past a confirmed fault that lies above all that is normal. Windows are judged
//! in [`TrainingSet::judged`].

use super::training::{TrainError, TrainingSet};

/// Where a window begins to be abnormal, on a scale on which 1 is the edge of normal.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Edge {
    /// The threshold.
    pub(super) index: f64,
    /// What confirmed faults had to do with it; empty where there are none.
    pub(super) by: String,
}

impl TrainingSet {
    /// `usable` without confirmed faults, of which at least `needed` must be left; and those.
    pub(super) fn apart(
        &self,
        usable: Vec<usize>,
        needed: usize,
    ) -> Result<(Vec<usize>, Vec<usize>), TrainError> {
        let is_fault = |index: &usize| self.judged.get(index) == Some(&true);
        let (faults, normal): (Vec<usize>, Vec<usize>) = usable.into_iter().partition(is_fault);
        match normal.len() {
            found if found < needed => {
                Err(TrainError::TooFewRows { found, skipped: self.len() - found, needed })
            }
            _ => Ok((normal, faults)),
        }
    }

    /// Those of `rows` that were confirmed as normal.
    pub(super) fn confirmed(&self, rows: &[usize]) -> Vec<usize> {
        rows.iter().copied().filter(|index| self.judged.get(index) == Some(&false)).collect()
    }
}

/// The threshold: `margin` times the `worst` of normal windows; where a confirmed fault lies between the two, half way to
/// it as a ratio.
pub(super) fn edge(worst: f64, margin: f64, faults: &[f64]) -> Edge {
    let wanted = worst * margin.max(1.0);
    let nearest = faults.iter().copied().filter(|fault| *fault > worst).fold(wanted, f64::min);
    let index = if nearest < wanted { (worst * nearest).sqrt() } else { wanted };
    let missed = faults.iter().filter(|fault| **fault < index).count();
    let by = match (faults.len(), nearest < wanted) {
        (0, _) => String::new(),
        (_, true) => format!(", lowered for the nearest of {} confirmed faults", faults.len()),
        (_, false) => format!("; {} faults were confirmed", faults.len()),
    };
    let by = match missed {
        0 => by,
        missed => format!("{by}, {missed} of them below it"),
    };
    Edge { index, by }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confirmed_fault_bounds_the_threshold_where_it_lies_above_what_is_normal() {
        let index = |faults: &[f64]| edge(2.0, 4.0, faults).index;
        assert_eq!(index(&[]), 8.0);
        assert_eq!(index(&[20.0]), 8.0);
        assert_eq!(index(&[4.5, 20.0]), 3.0, "the middle of 2 and 4.5");
        assert_eq!(index(&[1.5]), 8.0, "one like normal running changes nothing");
        assert!(edge(2.0, 4.0, &[1.5, 4.5]).by.contains("1 of them below"));
    }
}
