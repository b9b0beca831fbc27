//! `alarm`: one rule's state on every asset, after ISA-18.2; one record a change, never one a window.
//!
//! After `window` (on a feature) or `score` (on a score). Delays run in event time, from window end to window end.
//! A window without the value changes nothing: an alarm is neither raised nor cleared by what is not known.

use serde::{Deserialize, Serialize};

use super::{Around, Effects, Flow, Stage, StageError, load_state, save_state};
use crate::frame::Windows;
use crate::pipeline::spec::AlarmSpec;
use crate::record::{AlarmRecord, AlarmState, Contribution, Lane, Outgoing, Record};
use crate::time::Timestamp;

/// Without a `clear` limit an alarm is cleared at this share of `raise`: a deadband against chattering.
const CLEAR_SHARE: f64 = 0.9;

/// The stage: a rule and every asset's state.
pub struct Alarm {
    spec: AlarmSpec,
    assets: Vec<Condition>,
}

/// The rule's state on one asset.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Condition {
    state: AlarmState,
    /// Since when the value has been asking for a change of state.
    asking_since: Option<Timestamp>,
    /// The change that led to a state other than normal.
    changed: Option<Change>,
}

/// What a change of state was about.
#[derive(Clone, Serialize, Deserialize)]
struct Change {
    at: Timestamp,
    value: f64,
    limit: f64,
    contributions: Vec<(String, f64)>,
}

impl Alarm {
    /// A rule under which every asset is normal.
    pub fn new(spec: AlarmSpec) -> Alarm {
        Alarm { spec, assets: Vec::new() }
    }

    /// The two limits; `None` where the pipeline left `raise` to a model that says nothing.
    fn limits(&self, threshold: Option<f64>) -> Option<(f64, f64)> {
        let raise = self.spec.raise.or(threshold)?;
        let share = if self.spec.below == (raise >= 0.0) { 1.0 / CLEAR_SHARE } else { CLEAR_SHARE };
        Some((raise, self.spec.clear.unwrap_or(raise * share)))
    }

    /// The state that follows when an asset's value is `value` at `at`; `None` if it stays as it is.
    fn next(
        &mut self,
        asset: usize,
        value: f64,
        (raise, clear): (f64, f64),
        at: Timestamp,
    ) -> Option<AlarmState> {
        let (spec, condition) = (&self.spec, &mut self.assets[asset]);
        let on = if spec.below { value <= raise } else { value >= raise };
        let off = if spec.below { value > clear } else { value < clear };
        let raised =
            matches!(condition.state, AlarmState::Unacknowledged | AlarmState::Acknowledged);
        let (asks, delay, to) = match (raised, spec.latch) {
            (false, _) => (on, spec.on_delay, AlarmState::Unacknowledged),
            (true, true) if condition.state == AlarmState::Unacknowledged => {
                (off, spec.off_delay, AlarmState::Returned)
            }
            (true, _) => (off, spec.off_delay, AlarmState::Normal),
        };
        if !asks || condition.state == AlarmState::Shelved {
            condition.asking_since = None;
            return None;
        }
        let since = *condition.asking_since.get_or_insert(at);
        if at.since(since) < delay {
            return None;
        }
        condition.asking_since = None;
        condition.state = to;
        Some(to)
    }

    fn watch(
        &mut self,
        windows: &Windows,
        around: &Around<'_>,
        effects: &mut Effects,
    ) -> Result<(), StageError> {
        let score = windows.scores.iter().find(|s| s.output == self.spec.on);
        let feature = windows.names.iter().position(|name| *name == self.spec.on);
        if score.is_none() && feature.is_none() && !windows.is_empty() {
            return Err(StageError::WrongInput {
                stage: "alarm",
                expected: "windows with what it watches",
            });
        }
        let Some(limits) = self.limits(score.and_then(|s| s.threshold)) else { return Ok(()) };
        for index in 0..windows.len() {
            let value = match (score, feature) {
                (Some(score), _) => score.values[index],
                (None, Some(feature)) => Some(windows.row(index)[feature]).filter(|v| !v.is_nan()),
                (None, None) => None,
            };
            let (Some(value), asset) = (value, windows.asset[index] as usize) else { continue };
            if self.assets.len() <= asset {
                self.assets.resize(asset + 1, Condition::default());
            }
            let Some(state) = self.next(asset, value, limits, windows.end[index]) else { continue };
            let parts = score.map_or_else(Vec::new, |s| s.shares.largest(index)).into_iter();
            let raised = state == AlarmState::Unacknowledged;
            let limit = if raised { limits.0 } else { limits.1 };
            let (at, contributions) =
                (windows.end[index], parts.map(|(name, share)| (name.to_owned(), share)).collect());
            let change = Change { at, value, limit, contributions };
            let record = Record::Alarm(self.record(asset, state, &change, around));
            effects.records.push(Outgoing { lane: Lane::Alarm, record });
            effects.account.alarms_raised += u64::from(raised);
            effects.account.alarms_cleared += u64::from(!raised);
            self.assets[asset].changed = (state != AlarmState::Normal).then_some(change);
        }
        Ok(())
    }

    fn record(
        &self,
        asset: usize,
        state: AlarmState,
        change: &Change,
        around: &Around<'_>,
    ) -> AlarmRecord {
        let (at, asset) = (change.at, &around.assets[asset]);
        let parts = change.contributions.iter();
        let contributions =
            parts.map(|(name, value)| Contribution { name: name.clone(), value: *value });
        AlarmRecord {
            id: format!(
                "{}/{}/{}/alarm/{}/{}",
                around.node, around.pipeline, asset.id, self.spec.name, at.0
            ),
            node: around.node.to_owned(),
            pipeline: around.pipeline.to_owned(),
            asset: asset.id.clone(),
            tags: asset.tags.clone(),
            name: self.spec.name.clone(),
            state,
            severity: self.spec.severity,
            at,
            on: self.spec.on.clone(),
            value: Some(change.value),
            limit: change.limit,
            contributions: contributions.collect(),
        }
    }
}

impl Stage for Alarm {
    fn name(&self) -> &'static str {
        "alarm"
    }

    fn apply(
        &mut self,
        input: Flow,
        around: &Around<'_>,
        effects: &mut Effects,
    ) -> Result<Flow, StageError> {
        let Flow::Windows(windows) = input else {
            return Err(StageError::WrongInput { stage: "alarm", expected: "windows" });
        };
        self.watch(&windows, around, effects)?;
        Ok(Flow::Windows(windows))
    }

    fn standing(&self, around: &Around<'_>) -> Vec<Record> {
        let on = self.assets.iter().enumerate().filter_map(|(asset, condition)| {
            let change = condition.changed.as_ref()?;
            Some(Record::Alarm(self.record(asset, condition.state, change, around)))
        });
        on.collect()
    }

    fn save(&self) -> Result<Vec<u8>, StageError> {
        save_state("alarm", &self.assets)
    }

    fn load(&mut self, state: &[u8]) -> Result<(), StageError> {
        self.assets = if state.is_empty() { Vec::new() } else { load_state("alarm", state)? };
        Ok(())
    }
}
