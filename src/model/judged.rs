//! Where normal ends, in the training of a model of normal running, and what operators' words have to do with it.
//!
//! `pca` and `net` call it. A confirmed fault is not learned; what was confirmed as normal counts where the edge of normal
//! is set; and the threshold does not rise past a confirmed fault that lies above all that is normal. Windows are judged
//! in [`TrainingSet::judged`].

use super::training::{TrainError, TrainingSet, quantile};

/// Where a window begins to be abnormal, on a scale on which 1 is the edge of normal.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Edge {
    /// The threshold.
    pub(super) index: f64,
    margin: f64,
    /// Share of the windows that are within the edge, how many there were, and how many lie beyond the threshold.
    share: f64,
    windows: usize,
    beyond: usize,
    /// What confirmed faults had to do with it; empty where there are none.
    by: String,
}

impl Edge {
    /// How it was chosen, of windows of this kind.
    pub(super) fn told(&self, kind: &str) -> String {
        let Edge { margin, windows, beyond, by, .. } = self;
        let share = (self.share * 1e6).round() / 1e4;
        let beyond = match beyond {
            0 => String::new(),
            beyond => format!(", {beyond} of them beyond it"),
        };
        format!("{margin} times the edge of {share} % of {windows} {kind} windows{beyond}{by}")
    }
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

/// The threshold: `margin` times what the share `q` of the windows `judged` keeps, and all that were confirmed as `normal`;
/// where a confirmed fault lies between the two, half way to it as a ratio.
pub(super) fn edge(
    judged: &[f64],
    normal: &[f64],
    (q, margin): (f64, f64),
    faults: &[f64],
) -> Edge {
    let margin = margin.max(1.0);
    let kept = quantile(judged, q).max(1.0);
    let worst = normal.iter().copied().fold(kept, f64::max);
    let wanted = worst * margin;
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
    let by =
        if worst > kept { format!(", raised by what was confirmed as normal{by}") } else { by };
    let beyond = judged.iter().filter(|judged| **judged >= index).count();
    Edge { index, margin, share: q, windows: judged.len(), beyond, by }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confirmed_fault_bounds_the_threshold_where_it_lies_above_what_is_normal() {
        let edge = |faults: &[f64]| edge(&[0.5, 2.0], &[], (1.0, 4.0), faults);
        let index = |faults: &[f64]| edge(faults).index;
        assert_eq!(index(&[]), 8.0);
        assert_eq!(index(&[20.0]), 8.0);
        assert_eq!(index(&[4.5, 20.0]), 3.0, "the middle of 2 and 4.5");
        assert_eq!(index(&[1.5]), 8.0, "one like normal running changes nothing");
        assert!(edge(&[1.5, 4.5]).by.contains("1 of them below"));
    }

    #[test]
    fn one_wild_window_is_not_the_edge_of_normal_but_told() {
        let mut judged = vec![0.9; 2000];
        judged[7] = 500.0;
        let edge = |normal: &[f64]| edge(&judged, normal, (0.999, 2.0), &[]);
        assert_eq!(edge(&[]).index, 2.0);
        let told = edge(&[]).told("held-out");
        let expected = "2 times the edge of 99.9 % of 2000 held-out windows, 1 of them beyond it";
        assert_eq!(told, expected);
        assert_eq!(edge(&[6.0]).index, 12.0, "what an operator called normal is");
    }
}
