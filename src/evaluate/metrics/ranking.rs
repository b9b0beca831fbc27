//! Scores against labels, whatever the threshold: ROC and precision-recall, their areas, their points.
//!
//! A row whose score is NaN counts as the least suspicious of all.

use serde::Serialize;

/// A point of a curve: what a threshold comes to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Operating {
    /// Alarm at or above it.
    pub threshold: f64,
    /// Share of the faulty rows that are alarmed (recall, true positive rate).
    pub recall: f64,
    /// Share of the normal rows that are alarmed (false positive rate).
    pub false_alarm_rate: f64,
    /// Share of the alarmed rows that are faulty.
    pub precision: f64,
}

/// Every threshold that makes a difference, strictest first; `None` without both kinds.
pub fn operating_points(scores: &[f64], labels: &[bool]) -> Option<Vec<Operating>> {
    let ordered = ordered(scores, labels);
    let positives = ordered.iter().filter(|(_, label)| *label).count();
    let negatives = ordered.len() - positives;
    if positives == 0 || negatives == 0 {
        return None;
    }
    let (mut hits, mut alarms) = (0, 0);
    let points = ordered.chunk_by(|a, b| a.0 == b.0).map(|group| {
        hits += group.iter().filter(|(_, label)| *label).count();
        alarms += group.len();
        Operating {
            threshold: group[0].0,
            recall: hits as f64 / positives as f64,
            false_alarm_rate: (alarms - hits) as f64 / negatives as f64,
            precision: hits as f64 / alarms as f64,
        }
    });
    Some(points.collect())
}

/// The chance that a faulty row scores above a normal one (ties count half): the area under the ROC curve; `None`
/// without both kinds.
pub fn roc_auc(scores: &[f64], labels: &[bool]) -> Option<f64> {
    let points = operating_points(scores, labels)?;
    let (mut area, mut before) = (0.0, (0.0, 0.0));
    for point in points {
        area += (point.false_alarm_rate - before.0) * (point.recall + before.1) / 2.0;
        before = (point.false_alarm_rate, point.recall);
    }
    Some(area)
}

/// Average precision, the area under the precision-recall curve as a sum of steps, without interpolation: what
/// scikit-learn's `average_precision_score` computes. `None` without both kinds. Its floor is the share of faulty rows.
pub fn average_precision(scores: &[f64], labels: &[bool]) -> Option<f64> {
    let points = operating_points(scores, labels)?;
    let (mut area, mut before) = (0.0, 0.0);
    for point in points {
        area += (point.recall - before) * point.precision;
        before = point.recall;
    }
    Some(area)
}

/// Highest score first.
fn ordered(scores: &[f64], labels: &[bool]) -> Vec<(f64, bool)> {
    let known = |score: &f64| if score.is_nan() { f64::NEG_INFINITY } else { *score };
    let mut order: Vec<(f64, bool)> =
        scores.iter().map(known).zip(labels.iter().copied()).collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0));
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn auc_is_the_share_of_pairs_in_order(
            cases in prop::collection::vec((0_u8..8, any::<bool>()), 2..40),
        ) {
            let scores: Vec<f64> = cases.iter().map(|c| f64::from(c.0)).collect();
            let labels: Vec<bool> = cases.iter().map(|c| c.1).collect();
            let (mut won, mut pairs) = (0.0, 0.0);
            for (positive, _) in scores.iter().zip(&labels).filter(|c| *c.1) {
                for (negative, _) in scores.iter().zip(&labels).filter(|c| !*c.1) {
                    pairs += 1.0;
                    won += if positive > negative { 1.0 } else if positive == negative { 0.5 } else { 0.0 };
                }
            }
            let auc = roc_auc(&scores, &labels);
            prop_assert_eq!(auc.is_none(), pairs == 0.0);
            prop_assert!(auc.is_none_or(|auc| (auc - won / pairs).abs() < 1e-12));
        }
    }

    #[test]
    fn a_row_without_a_score_is_never_suspicious() {
        let labels = [true, false, true];
        assert_eq!(roc_auc(&[0.9, 0.1, f64::NAN], &labels), Some(0.5));
        assert_eq!(roc_auc(&[0.9, 0.1], &[true, true]), None);
        assert_eq!(average_precision(&[], &[]), None);
    }
}
