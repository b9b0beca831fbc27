//! What a compressed model loses: its scores held against the original's, window by window.
//!
//! `cli compress` asks, and throws away what loses too much. Arithmetic on columns of one length; whoever calls has
//! taken care that both were scored on the same windows by the same runtime.

use serde::Serialize;

use crate::evaluate::metrics::binary::Confusion;
use crate::evaluate::metrics::ranking::{average_precision, operating_points};

/// Of windows without labels and without a threshold, this share with the highest scores counts as abnormal.
const HIGHEST: f64 = 0.1;

/// What the curve of precision over recall was taken against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Against {
    /// Labels that came with the data.
    Labels,
    /// What the original finds abnormal at its threshold.
    OriginalVerdicts,
    /// The tenth of the windows that the original scores highest: it has no threshold, or none of them is above it.
    OriginalHighest,
}

/// F1 at the threshold may always fall by this share: a few windows near it decide.
const VERDICTS_LOST: f64 = 0.1;

/// A compressed model beside its original.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Comparison {
    /// Windows that the original gave a score for.
    pub(super) windows: usize,
    /// Of these, windows that the compressed model gives none for.
    pub(super) unscored: usize,
    /// Mean size of the difference between scores.
    pub(super) mean_difference: f64,
    /// Largest.
    pub(super) most_difference: f64,
    /// Pearson's correlation of the scores; `None` where one of them never changes.
    pub(super) correlation: Option<f64>,
    /// Share of windows with the same verdict, each model at its own threshold.
    pub(super) agreement: Option<f64>,
    /// What is abnormal.
    pub(super) against: Against,
    /// Area under the curve of precision over recall, of the original.
    pub(super) pr_auc_original: Option<f64>,
    /// The same of the compressed model.
    pub(super) pr_auc: Option<f64>,
    /// How much of it is lost, as a share of the original's; `None` where nothing is abnormal.
    pub(super) loss: Option<f64>,
    /// F1 of the original at its threshold; `None` where it has none, or finds nothing.
    pub(super) f1_original: Option<f64>,
    /// F1 of the compressed model at its own.
    pub(super) f1: Option<f64>,
    /// What the report draws.
    #[serde(skip)]
    pub(super) drawn: Drawn,
}

/// Curves of the two, for people.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Drawn {
    /// Precision over recall, of the original.
    pub(super) original: Vec<(f64, f64)>,
    /// The same of the compressed model.
    pub(super) result: Vec<(f64, f64)>,
    /// Scores of each window: the original's, the compressed model's.
    pub(super) scores: Vec<(f64, f64)>,
}

/// Scores of a model, one a window, and its threshold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scores<'a> {
    /// The scores.
    pub(super) values: &'a [Option<f64>],
    /// At or above it a window is abnormal.
    pub(super) threshold: Option<f64>,
}

/// Compares. `labels` say of each window whether it was abnormal, where that is known.
pub(super) fn compare(
    original: Scores<'_>,
    result: Scores<'_>,
    labels: Option<&[bool]>,
) -> Comparison {
    let pairs: Vec<(f64, Option<f64>, Option<bool>)> = (original.values.iter().zip(result.values))
        .enumerate()
        .filter_map(|(at, (a, b))| Some(((*a)?, *b, labels.and_then(|l| l.get(at)).copied())))
        .collect();
    let before: Vec<f64> = pairs.iter().map(|pair| pair.0).collect();
    // A window without a score is ranked below all others.
    let after: Vec<f64> = pairs.iter().map(|pair| pair.1.unwrap_or(f64::NEG_INFINITY)).collect();
    let both: Vec<(f64, f64)> = pairs.iter().filter_map(|pair| Some((pair.0, pair.1?))).collect();
    let differences = both.iter().map(|(a, b)| (a - b).abs());
    let same = |(t, u): (f64, f64)| {
        let agreed = pairs.iter().filter(|p| p.1.is_some_and(|b| (p.0 >= t) == (b >= u)));
        agreed.count() as f64 / pairs.len().max(1) as f64
    };
    let given: Option<Vec<bool>> = pairs.iter().map(|pair| pair.2).collect();
    let (against, abnormal) = abnormal(given, &before, original.threshold);
    let curve = |scores: &[f64]| -> Vec<(f64, f64)> {
        let points = operating_points(scores, &abnormal).unwrap_or_default();
        points.iter().map(|point| (point.recall, point.precision)).collect()
    };
    let f1 = |scores: &[f64], threshold: Option<f64>| -> Option<f64> {
        let alarmed: Vec<bool> = scores.iter().map(|score| Some(*score) >= threshold).collect();
        threshold.map(|_| Confusion::of(&alarmed, &abnormal).f1())
    };
    let pr_auc_original = average_precision(&before, &abnormal);
    let pr_auc = average_precision(&after, &abnormal);
    Comparison {
        windows: pairs.len(),
        unscored: pairs.len() - both.len(),
        mean_difference: differences.clone().sum::<f64>() / both.len().max(1) as f64,
        most_difference: differences.fold(0.0, f64::max),
        correlation: correlation(&both),
        agreement: original.threshold.zip(result.threshold).map(same),
        against,
        pr_auc_original,
        pr_auc,
        f1_original: f1(&before, original.threshold).filter(|f1| *f1 > 0.0),
        f1: f1(&after, result.threshold),
        loss: pr_auc_original.zip(pr_auc).map(|(a, b)| (a - b) / a),
        drawn: Drawn { original: curve(&before), result: curve(&after), scores: both },
    }
}

impl Comparison {
    /// Whether no more is lost than may be: `most` of the area under the curve, and of F1 at the thresholds as much or a tenth,
    /// since a curve says nothing of a threshold that is never reached.
    pub(super) fn is_near(&self, most: f64) -> bool {
        self.loss.is_some_and(|loss| loss <= most) && self.has_verdicts(most)
    }

    /// The second of the two.
    pub(super) fn has_verdicts(&self, most: f64) -> bool {
        // A hundredth on top: of next to nothing a tenth is chance.
        let least = self.f1_original.map_or(0.0, |f1| f1 * (1.0 - most.max(VERDICTS_LOST)) - 0.01);
        self.f1_original.is_none() || self.f1.is_some_and(|f1| f1 >= least)
    }
}

/// Which windows are abnormal, and who says so.
fn abnormal(
    labels: Option<Vec<bool>>,
    scores: &[f64],
    threshold: Option<f64>,
) -> (Against, Vec<bool>) {
    if let Some(labels) = labels.filter(|labels| labels.contains(&true) && labels.contains(&false))
    {
        return (Against::Labels, labels);
    }
    let above = |threshold: f64| -> Vec<bool> { scores.iter().map(|s| *s >= threshold).collect() };
    let verdicts = threshold.map(above).filter(|v| v.contains(&true) && v.contains(&false));
    if let Some(verdicts) = verdicts {
        return (Against::OriginalVerdicts, verdicts);
    }
    let mut sorted = scores.to_vec();
    sorted.sort_by(f64::total_cmp);
    let first = (sorted.len() as f64 * (1.0 - HIGHEST)).floor() as usize;
    let least = sorted.get(first).copied().unwrap_or(f64::INFINITY);
    (Against::OriginalHighest, above(least))
}

/// The threshold for `result` under which as many windows are abnormal as under `threshold` for `original`: between its
/// last score that is and its first that is not. `None` where all windows are abnormal or none is, or where they cannot
/// be told apart so.
pub(super) fn moved(
    original: &[Option<f64>],
    result: &[Option<f64>],
    threshold: f64,
) -> Option<f64> {
    let above = original.iter().flatten().filter(|score| **score >= threshold).count();
    let mut sorted: Vec<f64> = result.iter().flatten().copied().collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let (last, first) = (sorted.get(above.checked_sub(1)?)?, sorted.get(above)?);
    (last > first).then(|| first + (last - first) / 2.0)
}

fn correlation(pairs: &[(f64, f64)]) -> Option<f64> {
    let count = pairs.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / count;
    let (a, b) = (mean(|pair| pair.0), mean(|pair| pair.1));
    let sum =
        |of: &dyn Fn(f64, f64) -> f64| pairs.iter().map(|(x, y)| of(x - a, y - b)).sum::<f64>();
    let spread = (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt();
    (spread > 0.0).then(|| sum(&|x, y| x * y) / spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_that_never_reaches_its_threshold_is_not_near_however_it_ranks() {
        let values: Vec<Option<f64>> = (0..40).map(|at| Some(f64::from(at) / 40.0)).collect();
        let abnormal: Vec<bool> = (0..40).map(|at| at >= 30).collect();
        let of = |threshold: f64| {
            let [original, result] =
                [0.75, threshold].map(|at| Scores { values: &values, threshold: Some(at) });
            compare(original, result, Some(&abnormal))
        };
        assert!(of(0.75).is_near(0.01) && of(0.77).is_near(0.01), "one window of ten is missed");
        let deaf = of(2.0);
        assert_eq!((deaf.loss, deaf.f1_original, deaf.f1), (Some(0.0), Some(1.0), Some(0.0)));
        assert!(!deaf.is_near(0.01) && deaf.is_near(1.0));
    }
}
