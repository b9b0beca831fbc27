//! Verdicts against labels: how often alarms and faults went together, and the rates made of it.

use serde::Serialize;

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
    /// Of two columns of one length.
    pub fn of(alarmed: &[bool], faulty: &[bool]) -> Confusion {
        let mut confusion = Confusion::default();
        alarmed.iter().zip(faulty).for_each(|(alarmed, faulty)| confusion.count(*alarmed, *faulty));
        confusion
    }

    /// Counts one case.
    pub fn count(&mut self, alarmed: bool, faulty: bool) {
        match (alarmed, faulty) {
            (true, true) => self.true_alarms += 1,
            (true, false) => self.false_alarms += 1,
            (false, false) => self.true_quiet += 1,
            (false, true) => self.missed += 1,
        }
    }

    /// Cases.
    pub fn total(&self) -> u64 {
        self.true_alarms + self.false_alarms + self.true_quiet + self.missed
    }

    /// Share of the cases that are faulty.
    pub fn prevalence(&self) -> f64 {
        ratio(self.true_alarms + self.missed, self.total())
    }

    /// Share of the cases that are right.
    pub fn accuracy(&self) -> f64 {
        ratio(self.true_alarms + self.true_quiet, self.total())
    }

    /// Share of the alarmed cases that are faulty; 0 without an alarm.
    pub fn precision(&self) -> f64 {
        ratio(self.true_alarms, self.true_alarms + self.false_alarms)
    }

    /// Share of the faulty cases that were alarmed; 0 without a fault.
    pub fn recall(&self) -> f64 {
        ratio(self.true_alarms, self.true_alarms + self.missed)
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

    /// Cohen's kappa: agreement beyond what chance gives (Cohen, Educational and Psychological Measurement 20, 1960);
    /// `None` where chance alone agrees always.
    pub fn kappa(&self) -> Option<f64> {
        let all = self.total() as f64;
        let (alarmed, faulty) =
            (self.true_alarms + self.false_alarms, self.true_alarms + self.missed);
        let (alarmed, faulty) = (alarmed as f64 / all, faulty as f64 / all);
        let chance = alarmed * faulty + (1.0 - alarmed) * (1.0 - faulty);
        (all > 0.0 && chance < 1.0).then(|| (self.accuracy() - chance) / (1.0 - chance))
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_shares_of_their_own_kind() {
        let alarmed = [true, true, false, false, false];
        let confusion = Confusion::of(&alarmed, &[true, false, false, false, true]);
        assert_eq!(confusion.f1(), 0.5);
        assert_eq!(confusion.false_alarm_rate(), 1.0 / 3.0);
        assert_eq!(confusion.missed_alarm_rate(), 0.5);
        assert_eq!(Confusion::default().f1(), 0.0);
        assert_eq!(Confusion::default().kappa(), None);
    }

    /// With half of the cases faulty and more, "always on" has a fine F1: why it stands beside every other.
    #[test]
    fn always_on_is_as_good_as_faults_are_frequent() {
        let faulty: Vec<bool> = (0..1000).map(|row| row < 537).collect();
        let always = Confusion::of(&[true; 1000], &faulty);
        assert!((always.f1() - 0.698_764).abs() < 1e-6, "{}", always.f1());
        assert_eq!((always.false_alarm_rate(), always.missed_alarm_rate()), (1.0, 0.0));
        assert_eq!(always.kappa(), Some(0.0));
    }
}
