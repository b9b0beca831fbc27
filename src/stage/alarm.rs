//! `alarm`: one rule's state on every asset, after ISA-18.2; one record a change, never one a window.
//!
//! After `window` (on a feature) or `score` (on a score). Delays run in event time, from window end to window end.
//! A window without the value changes nothing: an alarm is neither raised nor cleared by what is not known. Operators'
//! commands come before the tick's windows; a shelving ends with the first tick at or after its time. Which event does
//! what is `condition`'s table.

mod follow;
mod judged;

use serde::{Deserialize, Serialize};

use judged::Moment;
pub use judged::SAMPLES_MAX;

use super::condition::{Condition, Event, Outcome};
use super::threshold::{Terms, Threshold};
use super::{
    Around, Effects, Flow, Order, Stage, StageError, Standing, load_state, of_asset, save_state,
};
use crate::command::{Action, Command, Refusal};
use crate::frame::{Scored, Windows};
use crate::pipeline::spec::AlarmSpec;
use crate::record::{AlarmRecord, AlarmState, Contribution, Lane, Outgoing, Record};
use crate::time::{Span, Timestamp};

/// Without a `clear` limit an alarm is cleared at this share of `raise`: a deadband against chattering.
const CLEAR_SHARE: f64 = 0.9;

/// The stage: a rule and every asset's state.
pub struct Alarm {
    spec: AlarmSpec,
    /// How thresholds follow their assets, where they do.
    terms: Option<Terms>,
    /// How long windows are, and the signals that they look at.
    length: Span,
    channels: Vec<String>,
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
    /// Whether it was on with the last window.
    was_on: bool,
    /// The last alarm, over or not.
    moment: Option<Moment>,
    /// Where `raise` follows the asset.
    threshold: Option<Threshold>,
    /// Digest of the model whose scores the threshold was learned from.
    learned_of: Option<String>,
    /// The threshold of the model that spoke before, which may return.
    learned_before: Option<(Option<String>, Threshold)>,
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
            was_on: false,
            moment: None,
            threshold: None,
            learned_of: None,
            learned_before: None,
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
    /// A rule under which every asset is normal, on windows of `length` that start `every` so often and look at the
    /// signals `channels`.
    pub fn new(spec: AlarmSpec, (length, every): (Span, Span), channels: Vec<String>) -> Alarm {
        let terms = spec.adapt.as_ref().map(|adapt| Terms::new(adapt, length, every));
        Alarm { spec, terms, length, channels, assets: Vec::new(), wake: None }
    }

    /// The two limits. Of a threshold that has moved, and from where values are `normal`, the distance between the two is
    /// what it was, but no more than a quarter of the way: else the alarm might never clear.
    fn limits(&self, raise: f64, normal: Option<f64>) -> (f64, f64) {
        let share = if self.spec.below == (raise >= 0.0) { 1.0 / CLEAR_SHARE } else { CLEAR_SHARE };
        let clear = match (self.spec.clear, self.spec.raise) {
            (Some(clear), Some(typed)) => clear + raise - typed,
            (Some(clear), None) if self.spec.below => clear.max(raise),
            (Some(clear), None) => clear.min(raise),
            (None, _) => raise * share,
        };
        let Some(normal) = normal else { return (raise, clear) };
        let most = (raise - normal).abs() / 4.0;
        (raise, clear.clamp(raise - most, raise + most))
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
            let speaker = score.and_then(|s| s.speaker(index));
            let asset = windows.asset[index] as usize;
            let value = match (score, feature) {
                (Some(score), _) => score.values[index],
                (None, Some(feature)) => Some(windows.row(index)[feature]).filter(|v| !v.is_nan()),
                (None, None) => None,
            };
            let Some(value) = value else { continue };
            // Statistics that stand in for a model teach its threshold nothing.
            let stands_in = speaker.is_some_and(|s| s.digest.is_empty());
            let followed = if stands_in { None } else { self.threshold_of(asset, speaker) };
            let threshold = followed.or(self.spec.raise).or(speaker.and_then(|s| s.threshold));
            let normal = followed.and(self.normal_of(asset));
            let Some(limits) = threshold.map(|raise| self.limits(raise, normal)) else { continue };
            let at = windows.end[index];
            self.judge_value(asset, (value, limits), (at, score, index), around, effects);
            self.remember(asset, (value, limits.0), (windows, index), speaker);
            if followed.is_some() {
                self.follow(asset, (value, at), speaker, around, effects);
            }
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

/// What an action does to the alarm's state; nothing where it only says something, or is for a model.
fn event_of(action: &Action) -> Option<Event> {
    match action {
        Action::Acknowledge => Some(Event::Acknowledge),
        Action::Shelve { until, .. } => Some(Event::Shelve(*until)),
        Action::Unshelve => Some(Event::Unshelve),
        Action::Judge { .. } | Action::Model(_) => None,
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

    fn alarm(&self) -> Option<&str> {
        Some(&self.spec.name)
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
        if matches!(command.action, Action::Model(_)) {
            return None;
        }
        let fits = event_of(&command.action).is_none_or(|event| watched.condition.allows(event));
        Some(match command.action {
            Action::Judge { raised, .. } => self.can_judge(command, asset as usize, raised),
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
        let Some(event) = event_of(&command.action) else {
            let state = watched.condition.state();
            self.keep_verdict(order, around, effects);
            return Some(Ok(state));
        };
        let outcome = watched.condition.take(event, self.spec.latch);
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
