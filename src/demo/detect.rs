//! Which of the plant's faults the node has noticed, and how soon.
//!
//! `cli/demo` shows it alarm records (as they arrive at the far side or on the feed) and one of the cleaner's counters. A fault of
//! a pump counts as noticed by an alarm of that pump on a score, a stuck sensor by an alarm of that pump on that signal, a
//! spike train by the readings that `clean` took out: it leaves nothing to raise an alarm on. All times are event times.

use serde::Serialize;

use super::fault::{Fault, FaultKind, FaultPlan};
use super::plant::asset_id;
use crate::record::{AlarmRecord, AlarmState};
use crate::time::{Span, Timestamp};

/// An alarm so long after a fault is still about it: windows and delays reach back.
const AFTER: Span = Span::seconds(180);
/// An alarm so long after a repair may still be about its warm bearing.
const COOLING: Span = Span::seconds(900);
/// So many readings must have been taken out as too fast: a repair alone takes one or two.
const SPIKES: u64 = 5;

/// A fault and when it was noticed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Detection {
    /// The pump.
    pub asset: String,
    /// What was wrong.
    pub kind: FaultKind,
    /// When it began.
    pub start: Timestamp,
    /// Seconds of plant time from its begin to the alarm; `None` if it was missed.
    pub detected_after_s: Option<f64>,
}

/// Keeps count of what was noticed.
#[derive(Clone, Debug)]
pub struct Detections {
    start: Timestamp,
    faults: Vec<Watched>,
    false_alarms: u64,
}

#[derive(Clone, Debug)]
struct Watched {
    fault: Fault,
    noticed: Option<Timestamp>,
    /// Readings taken out as too fast before it began.
    before: Option<u64>,
}

impl Detections {
    /// Nothing noticed yet, of a plant that starts at `start`.
    pub fn new(plan: &FaultPlan, start: Timestamp) -> Detections {
        let watched = |fault: &Fault| Watched { fault: fault.clone(), noticed: None, before: None };
        Detections { start, faults: plan.faults.iter().map(watched).collect(), false_alarms: 0 }
    }

    /// Takes in a change of an alarm; each record once.
    pub fn alarm(&mut self, record: &AlarmRecord) {
        if record.state != AlarmState::Unacknowledged {
            return;
        }
        let at = record.at.since(self.start);
        let mut explained = false;
        for watched in &mut self.faults {
            let fault = &watched.fault;
            if asset_id(fault.pump) != record.asset || at < fault.start {
                continue;
            }
            explained |= at.0 <= fault.end.0 + COOLING.0;
            if at.0 <= fault.end.0 + AFTER.0 && about(fault, record) {
                let noticed = watched.noticed.get_or_insert(record.at);
                *noticed = (*noticed).min(record.at);
            }
        }
        self.false_alarms += u64::from(!explained);
    }

    /// Takes in how many readings `clean` has taken out as too fast (`too_fast` in the pipeline's books) when plant time
    /// is `now`: call it from the start on, at least once in a few seconds of plant time.
    pub fn taken_out(&mut self, now: Timestamp, taken_out: u64) {
        let at = now.since(self.start);
        for watched in &mut self.faults {
            if watched.fault.kind != FaultKind::SpikeTrain || at >= watched.fault.end {
                continue;
            }
            if at < watched.fault.start {
                watched.before = Some(taken_out);
            } else if taken_out >= *watched.before.get_or_insert(taken_out) + SPIKES {
                watched.noticed.get_or_insert(now);
            }
        }
    }

    /// Alarms raised where nothing was wrong.
    pub fn false_alarms(&self) -> u64 {
        self.false_alarms
    }

    /// All faults that have begun once the plant has run for `elapsed`, with what was noticed of them.
    pub fn summary(&self, elapsed: Span) -> Vec<Detection> {
        let begun = self.faults.iter().filter(|w| w.fault.start <= elapsed);
        let detection = |watched: &Watched| {
            let start = self.start.plus(watched.fault.start);
            Detection {
                asset: asset_id(watched.fault.pump),
                kind: watched.fault.kind,
                start,
                detected_after_s: watched.noticed.map(|noticed| noticed.since(start).as_seconds()),
            }
        };
        begun.map(detection).collect()
    }
}

/// Whether an alarm of the same pump tells of this fault.
fn about(fault: &Fault, alarm: &AlarmRecord) -> bool {
    match (fault.kind, fault.signal) {
        (FaultKind::SpikeTrain, _) => false,
        (FaultKind::StuckSensor, Some(signal)) => {
            alarm.on.split_once('.').is_some_and(|(name, _)| name == signal.name())
        }
        // Scores have no dot in their names, features do.
        _ => !alarm.on.contains('.'),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::demo::pump::Signal;
    use crate::record::Severity;

    const START: Timestamp = Timestamp(1_780_000_000_000_000);

    fn alarm(asset: &str, on: &str, seconds: i64, state: AlarmState) -> AlarmRecord {
        AlarmRecord {
            id: format!("{asset}{on}{seconds}"),
            node: "n".into(),
            pipeline: "pump".into(),
            asset: asset.into(),
            tags: BTreeMap::new(),
            name: on.into(),
            state,
            severity: Severity::Low,
            at: START.plus(Span::seconds(seconds)),
            on: on.into(),
            value: None,
            limit: 1.0,
            by: None,
            reason: None,
            until: None,
            contributions: Vec::new(),
        }
    }

    fn fault(pump: usize, kind: FaultKind, signal: Option<Signal>) -> Fault {
        let seconds = Span::seconds;
        Fault { pump, kind, signal, start: seconds(100), ramp: Span::ZERO, end: seconds(500) }
    }

    fn after(detections: &Detections) -> Vec<Option<f64>> {
        let all = detections.summary(Span(i64::MAX));
        all.into_iter().map(|detection| detection.detected_after_s).collect()
    }

    #[test]
    fn an_alarm_counts_for_its_own_pump_and_its_own_signal_only() {
        let raised = AlarmState::Unacknowledged;
        let plan = FaultPlan {
            faults: vec![
                fault(0, FaultKind::Cavitation, None),
                fault(1, FaultKind::StuckSensor, Some(Signal::Flow)),
            ],
        };
        let mut detections = Detections::new(&plan, START);
        detections.alarm(&alarm("pump-01", "anomaly", 90, raised));
        detections.alarm(&alarm("pump-03", "anomaly", 200, raised));
        detections.alarm(&alarm("pump-01", "flow.std", 200, raised));
        detections.alarm(&alarm("pump-02", "speed.std", 200, raised));
        detections.alarm(&alarm("pump-02", "anomaly", 200, raised));
        detections.alarm(&alarm("pump-01", "anomaly", 200, AlarmState::Normal));
        detections.alarm(&alarm("pump-01", "anomaly", 900, raised));
        assert_eq!(after(&detections), [None, None]);
        assert_eq!(detections.false_alarms(), 2);
        detections.alarm(&alarm("pump-01", "failure_risk", 180, raised));
        detections.alarm(&alarm("pump-01", "anomaly", 160, raised));
        detections.alarm(&alarm("pump-02", "flow.std", 210, raised));
        assert_eq!(after(&detections), [Some(60.0), Some(110.0)]);
        assert!(detections.summary(Span::ZERO).is_empty());
    }

    #[test]
    fn a_spike_train_is_noticed_by_what_was_taken_out() {
        let plan =
            FaultPlan { faults: vec![fault(0, FaultKind::SpikeTrain, Some(Signal::MotorCurrent))] };
        let mut detections = Detections::new(&plan, START);
        let mut at = |seconds: i64, too_fast: u64| {
            detections.taken_out(START.plus(Span::seconds(seconds)), too_fast);
            after(&detections)
        };
        assert_eq!(at(99, 7), [None]);
        assert_eq!(at(110, 11), [None]);
        assert_eq!(at(130, 12), [Some(30.0)]);
        assert_eq!(at(200, 90), [Some(30.0)]);
    }
}
