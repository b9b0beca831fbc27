//! `alarm`: one rule's state on every asset, after ISA-18.2; one record a change, never one a window.
//!
//! After `window` (on a feature) or `score` (on a score). Delays run in event time, from window end to window end.
//! A window without the value changes nothing: an alarm is neither raised nor cleared by what is not known. Operators'
//! commands come before the tick's windows; a shelving ends with the first tick at or after its time. Which event does
//! what is `condition`'s table.

use serde::{Deserialize, Serialize};

use super::condition::{Condition, Event, Outcome};
use super::{
    Around, Effects, Flow, Order, Stage, StageError, Standing, load_state, of_asset, save_state,
};
use crate::command::{Action, Command, Refusal};
use crate::frame::{Scored, Windows};
use crate::pipeline::spec::AlarmSpec;
use crate::record::{AlarmRecord, AlarmState, Contribution, Lane, Outgoing, Record};
use crate::time::Timestamp;

/// Without a `clear` limit an alarm is cleared at this share of `raise`: a deadband against chattering.
const CLEAR_SHARE: f64 = 0.9;

/// The stage: a rule and every asset's state.
pub struct Alarm {
    spec: AlarmSpec,
    /// By asset; `None` where there has been nothing to judge.
    assets: Vec<Option<Watched>>,
    /// When the first shelving ends.
    wake: Option<Timestamp>,
}

/// The rule on one asset.
#[derive(Clone, Serialize, Deserialize)]
struct Watched {
    condition: Condition,
    /// Since when the value has been asking for a change.
    asking_since: Option<Timestamp>,
    /// The last value, and the limits it was held against.
    value: f64,
    limits: (f64, f64),
    /// When it was last raised, while the alarm is not normal.
    raised: Option<Timestamp>,
    /// The last change, while the alarm is not normal: what dashboards are told at a start.
    last: Option<Change>,
}

/// What a record says beyond the rule, the asset and the state.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Change {
    /// The end of the record's id: unique for this alarm on this asset.
    id: String,
    at: Timestamp,
    value: f64,
    limit: f64,
    by: Option<String>,
    reason: Option<String>,
    until: Option<Timestamp>,
    contributions: Vec<Contribution>,
}

impl Watched {
    fn new(value: f64, limits: (f64, f64)) -> Watched {
        Watched {
            condition: Condition::default(),
            asking_since: None,
            value,
            limits,
            raised: None,
            last: None,
        }
    }

    /// The event that its value asks for, once it has done so for long enough.
    fn due(&mut self, spec: &AlarmSpec, at: Timestamp) -> Option<Event> {
        let (value, (raise, clear)) = (self.value, self.limits);
        let on = if spec.below { value <= raise } else { value >= raise };
        let off = if spec.below { value > clear } else { value < clear };
        let (asks, delay, event) = if self.condition.is_on() {
            (off, spec.off_delay, Event::Clear)
        } else {
            (on, spec.on_delay, Event::Raise)
        };
        if !asks {
            self.asking_since = None;
            return None;
        }
        let since = *self.asking_since.get_or_insert(at);
        if at.since(since) < delay {
            return None;
        }
        self.asking_since = None;
        Some(event)
    }

    /// A change that nobody's value made.
    fn change(&self, id: String, at: Timestamp) -> Change {
        Change {
            id,
            at,
            value: self.value,
            limit: self.limits.0,
            by: None,
            reason: None,
            until: self.condition.shelved_until(),
            contributions: Vec::new(),
        }
    }
}

impl Alarm {
    /// A rule under which every asset is normal.
    pub fn new(spec: AlarmSpec) -> Alarm {
        Alarm { spec, assets: Vec::new(), wake: None }
    }

    /// The two limits; `None` where the pipeline left `raise` to a model that says nothing.
    fn limits(&self, threshold: Option<f64>) -> Option<(f64, f64)> {
        let raise = self.spec.raise.or(threshold)?;
        let share = if self.spec.below == (raise >= 0.0) { 1.0 / CLEAR_SHARE } else { CLEAR_SHARE };
        Some((raise, self.spec.clear.unwrap_or(raise * share)))
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
        for index in 0..windows.len() {
            let threshold = score.and_then(|s| s.speaker(index)).and_then(|s| s.threshold);
            let Some(limits) = self.limits(threshold) else { continue };
            let value = match (score, feature) {
                (Some(score), _) => score.values[index],
                (None, Some(feature)) => Some(windows.row(index)[feature]).filter(|v| !v.is_nan()),
                (None, None) => None,
            };
            let Some(value) = value else { continue };
            let (asset, at) = (windows.asset[index] as usize, windows.end[index]);
            self.judge_value(asset, (value, limits), (at, score, index), around, effects);
        }
        Ok(())
    }

    /// Holds one window's value against the limits.
    fn judge_value(
        &mut self,
        asset: usize,
        (value, limits): (f64, (f64, f64)),
        (at, score, index): (Timestamp, Option<&Scored>, usize),
        around: &Around<'_>,
        effects: &mut Effects,
    ) {
        let watched = of_asset(&mut self.assets, asset as u32, || None);
        let watched = watched.get_or_insert_with(|| Watched::new(value, limits));
        (watched.value, watched.limits) = (value, limits);
        let Some(event) = watched.due(&self.spec, at) else { return };
        let mut change = watched.change(at.0.to_string(), at);
        if event == Event::Raise {
            effects.account.alarms_raised += 1;
        } else {
            effects.account.alarms_cleared += 1;
            change.limit = limits.1;
        }
        if let Outcome::Says(state) = watched.condition.take(event, self.spec.latch) {
            let parts = score.map_or_else(Vec::new, |s| s.shares.largest(index)).into_iter();
            let part = |(name, value): (&str, f64)| Contribution { name: name.to_owned(), value };
            change.contributions = parts.map(part).collect();
            self.say(asset, state, change, around, effects);
        }
    }

    /// Ends the shelvings whose time has come.
    fn wake_up(&mut self, around: &Around<'_>, effects: &mut Effects) {
        if self.wake.is_none_or(|wake| wake > around.tick.now) {
            return;
        }
        for asset in 0..self.assets.len() {
            let Some(watched) = &mut self.assets[asset] else { continue };
            let Some(until) = watched.condition.shelved_until() else { continue };
            if until > around.tick.now {
                continue;
            }
            if let Outcome::Says(state) = watched.condition.take(Event::Unshelve, self.spec.latch) {
                let change = watched.change(format!("unshelved/{}", until.0), until);
                self.say(asset, state, change, around, effects);
            }
        }
        self.set_wake();
    }

    fn set_wake(&mut self) {
        let watched = self.assets.iter().flatten();
        self.wake = watched.filter_map(|w| w.condition.shelved_until()).min();
    }

    /// Makes the record of a change, and remembers it as long as the alarm is not normal.
    fn say(
        &mut self,
        asset: usize,
        state: AlarmState,
        change: Change,
        around: &Around<'_>,
        effects: &mut Effects,
    ) {
        let record = Record::Alarm(self.record(asset, state, &change, around));
        effects.records.push(Outgoing { lane: Lane::Alarm, record });
        if let Some(watched) = &mut self.assets[asset] {
            match state {
                AlarmState::Unacknowledged => watched.raised = Some(change.at),
                AlarmState::Normal => watched.raised = None,
                _ => {}
            }
            watched.last = (state != AlarmState::Normal).then_some(change);
        }
    }

    fn record(
        &self,
        asset: usize,
        state: AlarmState,
        change: &Change,
        around: &Around<'_>,
    ) -> AlarmRecord {
        let (asset, name) = (&around.assets[asset], &self.spec.name);
        let (node, pipeline) = (around.node, around.pipeline);
        AlarmRecord {
            id: format!("{node}/{pipeline}/{}/alarm/{name}/{}", asset.id, change.id),
            node: node.to_owned(),
            pipeline: pipeline.to_owned(),
            asset: asset.id.clone(),
            tags: asset.tags.clone(),
            name: name.clone(),
            state,
            severity: self.spec.severity,
            at: change.at,
            on: self.spec.on.clone(),
            value: Some(change.value),
            limit: change.limit,
            by: change.by.clone(),
            reason: change.reason.clone(),
            until: change.until,
            contributions: change.contributions.clone(),
        }
    }
}

/// What an action is to an alarm; `None`: nothing.
fn event_of(action: &Action) -> Option<Event> {
    match action {
        Action::Acknowledge => Some(Event::Acknowledge),
        Action::Shelve { until, .. } => Some(Event::Shelve(*until)),
        Action::Unshelve => Some(Event::Unshelve),
        Action::Model(_) => None,
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
        self.wake_up(around, effects);
        self.watch(&windows, around, effects)?;
        Ok(Flow::Windows(windows))
    }

    fn judge(&self, command: &Command, asset: u32, now: Timestamp) -> Option<Result<(), Refusal>> {
        let alarm = &command.alarm;
        if *alarm != self.spec.name {
            return None;
        }
        let Some(Some(watched)) = self.assets.get(asset as usize) else {
            let (pipeline, asset) = (command.pipeline.clone(), command.asset.clone());
            return Some(Err(Refusal::NoAlarm { pipeline, asset, alarm: alarm.clone() }));
        };
        let (alarm, state) = (alarm.clone(), watched.condition.state().name());
        let fits = watched.condition.allows(event_of(&command.action)?);
        Some(match command.action {
            Action::Shelve { until, .. } if until <= now => Err(Refusal::EndsInThePast { until }),
            Action::Acknowledge if !fits => Err(Refusal::NothingToAcknowledge { alarm, state }),
            Action::Unshelve if !fits => Err(Refusal::NotShelved { alarm, state }),
            _ => Ok(()),
        })
    }

    fn obey(
        &mut self,
        order: Order<'_>,
        around: &Around<'_>,
        effects: &mut Effects,
    ) -> Option<Result<AlarmState, Refusal>> {
        let Order { command, number, asset } = order;
        if let Err(refusal) = self.judge(command, asset, around.tick.now)? {
            return Some(Err(refusal));
        }
        let (asset, tick) = (asset as usize, around.tick);
        let watched = self.assets.get_mut(asset)?.as_mut()?;
        let outcome = watched.condition.take(event_of(&command.action)?, self.spec.latch);
        let state = watched.condition.state();
        if outcome == Outcome::Says(state) {
            // Two commands of one tick have one time: the tick and the place in it tell them apart.
            let mut change = watched.change(format!("command/{}.{number}", tick.seq), tick.now);
            change.by.clone_from(&command.by);
            if let Action::Shelve { reason, .. } = &command.action {
                change.reason.clone_from(reason);
            }
            self.say(asset, state, change, around, effects);
        }
        self.set_wake();
        Some(Ok(state))
    }

    fn standing(&self, around: &Around<'_>) -> Vec<Standing> {
        let each = self.assets.iter().enumerate();
        let each = each.filter_map(|(asset, watched)| {
            let watched = watched.as_ref()?;
            let change = watched.last.as_ref()?;
            let record = self.record(asset, watched.condition.state(), change, around);
            Some(Standing { since: watched.raised.unwrap_or(change.at), record })
        });
        each.collect()
    }

    fn save(&self) -> Result<Vec<u8>, StageError> {
        save_state("alarm", &self.assets)
    }

    fn load(&mut self, state: &[u8]) -> Result<(), StageError> {
        self.assets = load_state("alarm", state)?;
        self.set_wake();
        Ok(())
    }

    fn wake_at(&self) -> Option<Timestamp> {
        self.wake
    }
}
