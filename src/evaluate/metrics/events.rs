//! Times of faults against times of alarms: what an operator counts, whom rows do not interest.

use serde::Serialize;

use crate::time::{Span, Timestamp};

/// A time during which something was so: `[from, to]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Interval {
    /// First instant.
    pub from: Timestamp,
    /// Last instant.
    pub to: Timestamp,
}

impl Interval {
    /// Whether both share an instant.
    pub fn meets(&self, other: &Interval) -> bool {
        self.from <= other.to && other.from <= self.to
    }

    /// Whether an instant lies in it.
    pub fn holds(&self, at: Timestamp) -> bool {
        self.from <= at && at <= self.to
    }
}

/// The intervals during which a column of rows is true, rows in order of time.
pub fn intervals(times: &[Timestamp], on: &[bool]) -> Vec<Interval> {
    let mut all: Vec<Interval> = Vec::new();
    let mut before = false;
    for (at, on) in times.iter().zip(on) {
        match (before, on, all.last_mut()) {
            (true, true, Some(open)) => open.to = *at,
            (false, true, _) => all.push(Interval { from: *at, to: *at }),
            _ => {}
        }
        before = *on;
    }
    all
}

/// How alarms met faults.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Events {
    /// Faults.
    pub faults: u64,
    /// Faults during which an alarm was on.
    pub found: u64,
    /// Of each fault that was found: how long after its beginning an alarm was on first, in seconds.
    pub delays_s: Vec<f64>,
    /// Alarms.
    pub alarms: u64,
    /// Alarms that met no fault.
    pub false_alarms: u64,
    /// How long was watched, in days.
    pub days: f64,
}

impl Events {
    /// Of one asset, watched for `watched`. A fault that had begun before `looked_from` has no delay.
    pub fn of(
        faults: &[Interval],
        alarms: &[Interval],
        watched: Span,
        looked_from: Timestamp,
    ) -> Events {
        let first = |fault: &Interval| alarms.iter().find(|alarm| alarm.meets(fault));
        let delay = |fault: &Interval| {
            first(fault).map(|alarm| alarm.from.since(fault.from).as_seconds().max(0.0))
        };
        let begun = faults.iter().filter(|fault| fault.from >= looked_from);
        let is_false = |alarm: &&Interval| !faults.iter().any(|fault| fault.meets(alarm));
        Events {
            faults: faults.len() as u64,
            found: faults.iter().filter_map(first).count() as u64,
            delays_s: begun.filter_map(delay).collect(),
            alarms: alarms.len() as u64,
            false_alarms: alarms.iter().filter(is_false).count() as u64,
            days: watched.as_seconds() / 86_400.0,
        }
    }

    /// Adds another asset's.
    pub fn add(&mut self, other: &Events) {
        self.faults += other.faults;
        self.found += other.found;
        self.delays_s.extend(&other.delays_s);
        self.alarms += other.alarms;
        self.false_alarms += other.false_alarms;
        self.days += other.days;
    }

    /// Share of the faults that were found; `None` without a fault.
    pub fn recall(&self) -> Option<f64> {
        (self.faults > 0).then(|| self.found as f64 / self.faults as f64)
    }

    /// Alarms a day and machine; `None` where no time was watched.
    pub fn alarms_a_day(&self) -> Option<f64> {
        (self.days > 0.0).then(|| self.alarms as f64 / self.days)
    }

    /// False alarms a day and machine; `None` where no time was watched.
    pub fn false_alarms_a_day(&self) -> Option<f64> {
        (self.days > 0.0).then(|| self.false_alarms as f64 / self.days)
    }

    /// The median delay in seconds; `None` where nothing was found.
    pub fn median_delay_s(&self) -> Option<f64> {
        let mut sorted = self.delays_s.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let upper = *sorted.get(middle)?;
        if sorted.len() % 2 == 1 {
            return Some(upper);
        }
        Some(f64::midpoint(upper, *sorted.get(middle.checked_sub(1)?)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(from: i64, to: i64) -> Interval {
        Interval { from: Timestamp(from * 1_000_000), to: Timestamp(to * 1_000_000) }
    }

    #[test]
    fn rows_become_intervals() {
        let times: Vec<Timestamp> = (0..7).map(|s| Timestamp(s * 1_000_000)).collect();
        let on = [true, true, false, false, true, false, true];
        assert_eq!(intervals(&times, &on), [interval(0, 1), interval(4, 4), interval(6, 6)]);
        assert!(intervals(&[], &[]).is_empty());
    }

    #[test]
    fn an_alarm_that_was_on_before_has_no_delay_and_one_in_between_is_false() {
        let faults = [interval(10, 20), interval(40, 50), interval(80, 90)];
        let alarms = [interval(5, 12), interval(30, 35), interval(46, 60)];
        let mut events = Events::of(&faults, &alarms, Span::seconds(43_200), Timestamp::MIN);
        assert_eq!((events.faults, events.found, events.false_alarms), (3, 2, 1));
        assert_eq!(events.delays_s, [0.0, 6.0]);
        assert_eq!(events.median_delay_s(), Some(3.0));
        assert_eq!(events.alarms_a_day(), Some(6.0));
        let half_a_day = Span::seconds(43_200);
        events.add(&Events::of(&[interval(0, 9)], &[interval(9, 9)], half_a_day, Timestamp::MIN));
        assert_eq!(events.median_delay_s(), Some(6.0));
        assert_eq!(events.recall(), Some(0.75));
        assert_eq!(events.false_alarms_a_day(), Some(1.0));
        assert_eq!(Events::default().recall(), None);
        assert_eq!(Events::default().alarms_a_day(), None);
        assert_eq!(Events::default().median_delay_s(), None);
    }
}
