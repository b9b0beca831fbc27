//! What dashboards see: each asset's last windows, the alarms that are on, and what changed lately.
//!
//! The hub's keeper calls [`Live::take`] for every record; `api`, `chart` and `page` read. It is bounded: so many
//! assets, so many windows in all, so many alarms and changes; what is refused is counted.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::command::Verdict;
use crate::feed::history::{History, main_score, threshold_of};
use crate::feed::is_active;
use crate::record::{
    AlarmRecord, AlarmState, LossRecord, Record, ScoreRecord, Severity, VerdictRecord,
};
use crate::time::{Span, Timestamp};

/// Most (pipeline, asset) pairs; further ones are not shown.
pub const ASSETS_MAX: usize = 10_000;
/// Most windows of all assets together: with many assets each keeps fewer.
const WINDOWS_MAX: usize = 32_768;
/// Windows that each asset keeps however many there are.
const WINDOWS_MIN: usize = 4;
/// Alarm changes of all assets.
const CHANGES_MAX: usize = 500;
/// Alarm changes of one asset.
const ASSET_CHANGES_MAX: usize = 64;
/// Alarms that are on.
const ACTIVE_MAX: usize = 10_000;
/// Notices of loss.
const LOSSES_MAX: usize = 50;
/// An asset is silent after so many of its usual intervals without a window, and never before a minute.
const SILENT_AFTER: u32 = 5;

type Key = (String, String);

/// The dashboards' state.
#[derive(Debug)]
pub struct Live {
    history: usize,
    assets: BTreeMap<Key, AssetLive>,
    active: BTreeMap<(String, String, String), ActiveAlarm>,
    changes: VecDeque<AlarmRecord>,
    losses: VecDeque<LossRecord>,
    /// Records of assets or alarms beyond the limits.
    pub refused: u64,
}

/// One asset in one pipeline.
#[derive(Debug)]
pub struct AssetLive {
    /// Its newest window.
    pub last: Option<ScoreRecord>,
    /// When that came in, by the wall clock.
    pub seen: Timestamp,
    seen_at: Instant,
    every: Option<Span>,
    /// Its windows.
    pub history: History,
    /// Its alarm changes, oldest first.
    pub changes: VecDeque<AlarmRecord>,
}

/// An alarm that is not normal.
#[derive(Clone, Debug, Serialize)]
pub struct ActiveAlarm {
    /// Its last change.
    #[serde(flatten)]
    pub record: AlarmRecord,
    /// Event time at which it was raised.
    pub since: Timestamp,
    /// What an operator said of it last, since it was raised and this process started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
}

/// How an asset is, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// An alarm wants somebody's eye.
    Alarm,
    /// A score is at or above its threshold, and no alarm is on (yet).
    Above,
    /// No window for much longer than usual.
    Silent,
    /// The last window could not be scored.
    Unscored,
    /// Nothing to say.
    Normal,
}

/// An asset as lists show it.
#[derive(Clone, Debug, Serialize)]
pub struct AssetView {
    /// The pipeline.
    pub pipeline: String,
    /// The asset.
    pub asset: String,
    /// What else the topic said of it.
    pub tags: BTreeMap<String, String>,
    /// How it is.
    pub state: State,
    /// The most severe alarm that is on.
    pub severity: Option<Severity>,
    /// Names of the alarms that are on.
    pub alarms: Vec<String>,
    /// Newest scores.
    pub scores: Vec<ScoreView>,
    /// End of the newest window.
    pub window_end: Option<Timestamp>,
    /// Share of its points that were known.
    pub coverage: Option<f64>,
    /// When it came in, by the wall clock.
    pub seen: Timestamp,
    /// Seconds since then.
    pub age_seconds: f64,
    /// Seconds between its windows, where two were seen.
    pub every_seconds: Option<f64>,
    /// Windows remembered.
    pub windows: usize,
}

/// One of an asset's newest scores.
#[derive(Clone, Debug, Serialize)]
pub struct ScoreView {
    /// Its name; the first model's comes first.
    pub name: String,
    /// Its value; null where an input was missing.
    pub value: Option<f64>,
    /// At or above it the model calls the window abnormal.
    pub threshold: Option<f64>,
}

impl Live {
    /// Nothing seen yet; each asset keeps up to `history` windows.
    pub fn new(history: usize) -> Live {
        Live {
            history: history.max(2),
            assets: BTreeMap::new(),
            active: BTreeMap::new(),
            changes: VecDeque::new(),
            losses: VecDeque::new(),
            refused: 0,
        }
    }

    /// Takes in one record at wall time `now` and monotonic time `at`.
    pub fn take(&mut self, record: &Record, now: Timestamp, at: Instant) {
        match record {
            Record::Score(score) => self.take_score(score, now, at),
            Record::Alarm(alarm) => self.take_alarm(alarm, now, at),
            Record::Loss(loss) => push(&mut self.losses, loss.clone(), LOSSES_MAX),
            Record::Verdict(verdict) => self.take_verdict(verdict),
            Record::Raw(_) | Record::Aggregate(_) | Record::Model(_) | Record::Notice(_) => {}
        }
    }

    fn entry(&mut self, key: Key, now: Timestamp, at: Instant) -> Option<&mut AssetLive> {
        if self.assets.len() >= ASSETS_MAX && !self.assets.contains_key(&key) {
            self.refused += 1;
            return None;
        }
        Some(self.assets.entry(key).or_insert_with(|| AssetLive {
            last: None,
            seen: now,
            seen_at: at,
            every: None,
            history: History::default(),
            changes: VecDeque::new(),
        }))
    }

    fn take_score(&mut self, score: &ScoreRecord, now: Timestamp, at: Instant) {
        let limit = self.history.min((WINDOWS_MAX / (self.assets.len() + 1)).max(WINDOWS_MIN));
        let key = (score.pipeline.clone(), score.asset.clone());
        let Some(asset) = self.entry(key, now, at) else { return };
        if let Some(last) = &asset.last {
            let step = score.window_end.since(last.window_end);
            asset.every = if step > Span::ZERO { Some(step) } else { asset.every };
        }
        asset.history.push(score, limit);
        asset.last = Some(score.clone());
        (asset.seen, asset.seen_at) = (now, at);
    }

    fn take_alarm(&mut self, alarm: &AlarmRecord, now: Timestamp, at: Instant) {
        push(&mut self.changes, alarm.clone(), CHANGES_MAX);
        let key = (alarm.pipeline.clone(), alarm.asset.clone());
        if let Some(asset) = self.entry(key, now, at) {
            push(&mut asset.changes, alarm.clone(), ASSET_CHANGES_MAX);
        }
        let key = (alarm.pipeline.clone(), alarm.asset.clone(), alarm.name.clone());
        let since = match self.active.get(&key) {
            // Raised, or raised again.
            _ if alarm.state == AlarmState::Unacknowledged => alarm.at,
            Some(on) => on.since,
            None => alarm.at,
        };
        self.list(alarm.clone(), since);
    }

    /// Notes what was said of an alarm that is on; it may also be about the time before this.
    fn take_verdict(&mut self, said: &VerdictRecord) {
        let key = (said.pipeline.clone(), said.asset.clone(), said.name.clone());
        if let Some(on) = self.active.get_mut(&key)
            && said.window_start < on.since
            && on.since <= said.window_end
        {
            on.verdict = Some(said.verdict);
        }
    }

    /// Puts an alarm on the list, or takes it off.
    fn list(&mut self, record: AlarmRecord, since: Timestamp) {
        let key = (record.pipeline.clone(), record.asset.clone(), record.name.clone());
        if record.state == AlarmState::Normal {
            self.active.remove(&key);
        } else if self.active.len() >= ACTIVE_MAX && !self.active.contains_key(&key) {
            self.refused += 1;
        } else {
            let before = self.active.get(&key).filter(|before| before.since == since);
            let verdict = before.and_then(|before| before.verdict);
            self.active.insert(key, ActiveAlarm { record, since, verdict });
        }
    }

    /// Takes in an alarm that was on before this start.
    pub fn recall(&mut self, alarm: AlarmRecord, since: Timestamp, now: Timestamp, at: Instant) {
        self.entry((alarm.pipeline.clone(), alarm.asset.clone()), now, at);
        self.list(alarm, since);
    }

    /// One asset.
    pub fn asset(&self, pipeline: &str, asset: &str) -> Option<&AssetLive> {
        self.assets.get(&(pipeline.to_owned(), asset.to_owned()))
    }

    /// All assets, by pipeline and name.
    pub fn assets(&self) -> impl Iterator<Item = (&str, &str, &AssetLive)> {
        self.assets
            .iter()
            .map(|((pipeline, asset), live)| (pipeline.as_str(), asset.as_str(), live))
    }

    /// How many there are.
    pub fn asset_count(&self) -> usize {
        self.assets.len()
    }

    /// An asset as lists show it, at monotonic time `at`.
    pub fn view(&self, pipeline: &str, asset: &str, live: &AssetLive, at: Instant) -> AssetView {
        let alarms = self.alarms_of(pipeline, asset).filter(|a| is_active(a.record.state));
        let alarms: Vec<&ActiveAlarm> = alarms.collect();
        let scores = live.last.as_ref().map(scores_of).unwrap_or_default();
        AssetView {
            state: state_of(!alarms.is_empty(), &scores, live, at),
            severity: alarms.iter().map(|a| a.record.severity).max(),
            alarms: alarms.iter().map(|a| a.record.name.clone()).collect(),
            tags: live.last.as_ref().map(|r| r.tags.clone()).unwrap_or_default(),
            window_end: live.last.as_ref().map(|r| r.window_end),
            coverage: live.last.as_ref().map(|r| r.coverage),
            seen: live.seen,
            age_seconds: at.saturating_duration_since(live.seen_at).as_secs_f64(),
            every_seconds: live.every.map(Span::as_seconds),
            windows: live.history.len(),
            pipeline: pipeline.to_owned(),
            asset: asset.to_owned(),
            scores,
        }
    }

    /// The alarms of one asset that are on.
    pub fn alarms_of(&self, pipeline: &str, asset: &str) -> impl Iterator<Item = &ActiveAlarm> {
        let first = (pipeline.to_owned(), asset.to_owned(), String::new());
        let (pipeline, asset) = (first.0.clone(), first.1.clone());
        let same = move |key: &(String, String, String)| key.0 == pipeline && key.1 == asset;
        self.active.range(first..).take_while(move |(key, _)| same(key)).map(|(_, alarm)| alarm)
    }

    /// The alarms that are not normal, most severe first, then newest first; shelved ones last.
    pub fn active(&self) -> Vec<&ActiveAlarm> {
        let mut alarms: Vec<&ActiveAlarm> = self.active.values().collect();
        let rank = |a: &ActiveAlarm| (is_active(a.record.state), a.record.severity, a.since);
        alarms.sort_by_key(|a| std::cmp::Reverse(rank(a)));
        alarms
    }

    /// How many alarms want somebody's eye: all but the shelved ones.
    pub fn active_count(&self) -> usize {
        self.active.values().filter(|a| is_active(a.record.state)).count()
    }

    /// The latest alarm changes, newest first.
    pub fn changes(&self) -> impl Iterator<Item = &AlarmRecord> {
        self.changes.iter().rev()
    }

    /// The latest notices of loss, newest first.
    pub fn losses(&self) -> impl Iterator<Item = &LossRecord> {
        self.losses.iter().rev()
    }

    /// How many alarms of each severity want somebody's eye.
    pub fn active_by_severity(&self) -> [(Severity, usize); 4] {
        [Severity::Low, Severity::Medium, Severity::High, Severity::Critical].map(|severity| {
            let wanted = |a: &&ActiveAlarm| a.record.severity == severity;
            let active = self.active.values().filter(|a| is_active(a.record.state));
            (severity, active.filter(wanted).count())
        })
    }
}

fn scores_of(record: &ScoreRecord) -> Vec<ScoreView> {
    let main = main_score(record);
    let mut scores: Vec<ScoreView> = record
        .scores
        .iter()
        .map(|(name, &value)| ScoreView {
            name: name.clone(),
            value,
            threshold: threshold_of(record, name),
        })
        .collect();
    scores.sort_by_key(|s| Some(s.name.as_str()) != main);
    scores
}

fn state_of(alarmed: bool, scores: &[ScoreView], live: &AssetLive, at: Instant) -> State {
    let usual = live.every.map_or(Duration::ZERO, |every| every.to_std() * SILENT_AFTER);
    let silent = at.saturating_duration_since(live.seen_at) > usual.max(Duration::from_mins(1));
    let above = |s: &ScoreView| matches!((s.value, s.threshold), (Some(v), Some(t)) if v >= t);
    if alarmed {
        State::Alarm
    } else if silent {
        State::Silent
    } else if scores.iter().any(above) {
        State::Above
    } else if scores.iter().any(|s| s.value.is_none()) {
        State::Unscored
    } else {
        State::Normal
    }
}

fn push<T>(ring: &mut VecDeque<T>, one: T, limit: usize) {
    if ring.len() >= limit {
        ring.pop_front();
    }
    ring.push_back(one);
}
