//! Where a classifier's score begins to mean a fault: chosen on held-out windows. Nothing is learned here.

/// The threshold at which the F1 score of `scores` against `faulty` is best, and that score: half way between the
/// neighbours on its two sides. `None` where either kind is missing.
pub fn best_f1(scores: &[f64], faulty: &[bool]) -> Option<(f64, f64)> {
    let mut order: Vec<(f64, bool)> = scores.iter().copied().zip(faulty.iter().copied()).collect();
    let positives = order.iter().filter(|(_, faulty)| *faulty).count();
    if positives == 0 || positives == order.len() {
        return None;
    }
    order.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut found, mut best) = (0, (0.0, f64::NEG_INFINITY));
    for (at, (score, faulty)) in order.iter().enumerate() {
        found += usize::from(*faulty);
        let next = order.get(at + 1).map(|(score, _)| *score);
        if next == Some(*score) {
            continue;
        }
        // F1 = 2 TP / (alarms + faults)
        let f1 = 2.0 * found as f64 / (at + 1 + positives) as f64;
        if f1 > best.1 {
            best = (next.map_or(*score, |next| f64::midpoint(*score, next)), f1);
        }
    }
    Some(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn f1(threshold: f64, scores: &[f64], faulty: &[bool]) -> f64 {
        let count = |alarm: bool, fault: bool| {
            let pairs = scores.iter().zip(faulty);
            pairs.filter(|(s, f)| (**s >= threshold) == alarm && **f == fault).count() as f64
        };
        let (hit, false_alarm, missed) =
            (count(true, true), count(true, false), count(false, true));
        2.0 * hit / (2.0 * hit + false_alarm + missed)
    }

    proptest! {
        #[test]
        fn no_other_threshold_is_better(
            pairs in prop::collection::vec((0_u32..20, any::<bool>()), 2..40),
        ) {
            let scores: Vec<f64> = pairs.iter().map(|(s, _)| f64::from(*s)).collect();
            let faulty: Vec<bool> = pairs.iter().map(|(_, f)| *f).collect();
            let Some((threshold, best)) = best_f1(&scores, &faulty) else {
                prop_assert!(faulty.iter().all(|f| *f == faulty[0]));
                return Ok(());
            };
            prop_assert!((f1(threshold, &scores, &faulty) - best).abs() < 1e-12);
            for other in 0..=40 {
                prop_assert!(f1(f64::from(other) / 2.0, &scores, &faulty) <= best + 1e-12);
            }
        }
    }
}
