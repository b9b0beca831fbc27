//! How good a model's answers are, against labels.
//!
//! `cli train`, the demo and the tests call it. All of it is arithmetic on two columns of one length.

use serde::Serialize;

/// The chance that a faulty window scores above a normal one (ties count half); `None` without both kinds.
pub fn roc_auc(scores: &[f64], labels: &[bool]) -> Option<f64> {
    let mut order: Vec<(f64, bool)> = scores.iter().copied().zip(labels.iter().copied()).collect();
    let positives = order.iter().filter(|(_, label)| *label).count();
    let negatives = order.len() - positives;
    if positives == 0 || negatives == 0 {
        return None;
    }
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut ranks = 0.0;
    let mut first = 0;
    for group in order.chunk_by(|a, b| a.0 == b.0) {
        // All of a tie have the mean of the ranks that they take together.
        let rank = first as f64 + (group.len() + 1) as f64 / 2.0;
        ranks += rank * group.iter().filter(|(_, label)| *label).count() as f64;
        first += group.len();
    }
    let least = (positives * (positives + 1)) as f64 / 2.0;
    Some((ranks - least) / (positives * negatives) as f64)
}

/// How often alarms and faults went together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Confusion {
    /// Faulty, and alarmed.
    pub true_alarms: u64,
    /// Normal, but alarmed.
    pub false_alarms: u64,
    /// Normal, and quiet.
    pub true_quiet: u64,
    /// Faulty, but quiet.
    pub missed: u64,
}

impl Confusion {
    /// Counts one case.
    pub fn count(&mut self, alarmed: bool, faulty: bool) {
        match (alarmed, faulty) {
            (true, true) => self.true_alarms += 1,
            (true, false) => self.false_alarms += 1,
            (false, false) => self.true_quiet += 1,
            (false, true) => self.missed += 1,
        }
    }

    /// The harmonic mean of precision and recall, 0 to 1.
    pub fn f1(&self) -> f64 {
        ratio(2 * self.true_alarms, 2 * self.true_alarms + self.false_alarms + self.missed)
    }

    /// Share of the normal cases that were alarmed.
    pub fn false_alarm_rate(&self) -> f64 {
        ratio(self.false_alarms, self.false_alarms + self.true_quiet)
    }

    /// Share of the faulty cases that were not.
    pub fn missed_alarm_rate(&self) -> f64 {
        ratio(self.missed, self.missed + self.true_alarms)
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
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
    fn rates_are_shares_of_their_own_kind() {
        let mut confusion = Confusion::default();
        for (alarmed, faulty) in
            [(true, true), (true, false), (false, false), (false, false), (false, true)]
        {
            confusion.count(alarmed, faulty);
        }
        assert_eq!(confusion.f1(), 0.5);
        assert_eq!(confusion.false_alarm_rate(), 1.0 / 3.0);
        assert_eq!(confusion.missed_alarm_rate(), 0.5);
        assert_eq!(Confusion::default().f1(), 0.0);
    }
}
