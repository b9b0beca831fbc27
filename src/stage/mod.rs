//! The contract of computation: what goes in, what comes out, what is remembered.
//!
//! `engine` runs a pipeline's stages in order. A stage is a deterministic function of its configuration, its state
//! and its input: no clock, no I/O, no randomness. Its state can be saved and loaded; whoever does so after any tick
//! and goes on gets the same output (the law of resumption, `tests/laws.rs`).

pub mod alarm;
mod checks;
pub mod clean;
mod condition;
pub mod drift;
pub mod emit;
pub mod envelope;
pub mod features;
pub mod resample;
pub mod score;
pub mod tail;
pub mod threshold;
pub mod window;

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::command::{Command, Refusal};
use crate::frame::{Asset, Grid, Readings, Windows};
use crate::record::{AlarmRecord, AlarmState, Outgoing};
use crate::time::{Tick, Timestamp};

/// What flows between stages.
#[derive(Clone, Debug, PartialEq)]
pub enum Flow {
    /// Readings. Before `clean` in arrival order; after it sorted by (asset, signal, time) and complete up to the
    /// asset's watermark.
    Readings(Readings, Vec<Mark>),
    /// Resampled rows.
    Grid(Grid),
    /// Closed windows.
    Windows(Windows),
}

/// Up to where an asset's readings are complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Index into the pipeline's assets.
    pub asset: u32,
    /// No reading before this will follow.
    pub watermark: Timestamp,
}

/// One step of computation.
pub trait Stage: Send {
    /// Its name in errors and metrics.
    fn name(&self) -> &'static str;

    /// Takes what came in this tick and gives what goes on; records and counts go into `effects`.
    fn apply(
        &mut self,
        input: Flow,
        around: &Around<'_>,
        effects: &mut Effects,
    ) -> Result<Flow, StageError>;

    /// Whether an operator's command can be carried out at `now`; `None`: it is for no alarm of this stage. `asset` is
    /// the index of the command's asset.
    fn judge(
        &self,
        _command: &Command,
        _asset: u32,
        _now: Timestamp,
    ) -> Option<Result<(), Refusal>> {
        None
    }

    /// Carries an operator's command out, before the tick's input is applied; says the alarm's state after it, or
    /// why nothing was done. `None`: it is for no alarm of this stage.
    fn obey(
        &mut self,
        _order: Order<'_>,
        _around: &Around<'_>,
        _effects: &mut Effects,
    ) -> Option<Result<AlarmState, Refusal>> {
        None
    }

    /// The name of its alarm, where it has one.
    fn alarm(&self) -> Option<&str> {
        None
    }

    /// The stage itself, where it is a score, whose models can be swapped.
    fn score(&self) -> Option<&score::ScoreStage> {
        None
    }

    /// The same, to carry out an order.
    fn score_mut(&mut self) -> Option<&mut score::ScoreStage> {
        None
    }

    /// The alarms that are not normal, each with its last change.
    fn standing(&self, _around: &Around<'_>) -> Vec<Standing> {
        Vec::new()
    }

    /// Adds how many assets have drifted now, by kind.
    fn drifting(&self, _counts: &mut BTreeMap<&'static str, u64>) {}

    /// Its memory, as bytes that [`Stage::load`] understands. Stages without memory give none.
    fn save(&self) -> Result<Vec<u8>, StageError> {
        Ok(Vec::new())
    }

    /// Replaces its memory by what [`Stage::save`] gave.
    fn load(&mut self, _state: &[u8]) -> Result<(), StageError> {
        Ok(())
    }

    /// The next moment at which it must be called even if no reading comes.
    fn wake_at(&self) -> Option<Timestamp> {
        None
    }
}

/// A command in its place.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// What is asked.
    pub command: &'a Command,
    /// Its number among all commands of the tick.
    pub number: usize,
    /// The index of its asset.
    pub asset: u32,
}

/// An alarm that is not normal.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Its last change.
    pub record: AlarmRecord,
    /// When it was raised, or shelved if it was not.
    pub since: Timestamp,
}

/// Where a stage finds itself: read-only.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    /// The node's name.
    pub node: &'a str,
    /// The pipeline's name.
    pub pipeline: &'a str,
    /// The pipeline's assets, by index.
    pub assets: &'a [Asset],
    /// The step.
    pub tick: Tick,
    /// Whether the broker could not be heard before this tick: silence then says nothing of the machines.
    pub deaf: bool,
    /// Whether the input has ended: every watermark is at its end.
    pub ended: bool,
}

impl<'a> Around<'a> {
    /// An asset's id; nothing where there is no such asset.
    pub fn id(&self, asset: u32) -> &'a str {
        self.assets.get(asset as usize).map_or("", |asset| asset.id.as_str())
    }
}

/// What a stage does besides its output.
#[derive(Debug, Default)]
pub struct Effects {
    /// Records to store and send.
    pub records: Vec<Outgoing>,
    /// What was counted.
    pub account: Account,
}

/// Why a reading was taken out (or marked).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// NaN or infinite.
    NotFinite,
    /// Its quality was bad.
    BadQuality,
    /// Outside the schema's limits.
    OutOfRange,
    /// Faster than the schema's `max_rate`.
    TooFast,
    /// A spike.
    Spike,
    /// The sensor is stuck.
    Stuck,
    /// Its time is ahead of the clock.
    Future,
    /// Its time is before `earliest`.
    Past,
    /// The node's limit on assets was reached.
    TooManyAssets,
    /// A stage failed on the frame that held it.
    Quarantined,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Reason; 10] = [
        Reason::NotFinite,
        Reason::BadQuality,
        Reason::OutOfRange,
        Reason::TooFast,
        Reason::Spike,
        Reason::Stuck,
        Reason::Future,
        Reason::Past,
        Reason::TooManyAssets,
        Reason::Quarantined,
    ];

    /// Its name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Reason::NotFinite => "not_finite",
            Reason::BadQuality => "bad_quality",
            Reason::OutOfRange => "out_of_range",
            Reason::TooFast => "too_fast",
            Reason::Spike => "spike",
            Reason::Stuck => "stuck",
            Reason::Future => "future",
            Reason::Past => "past",
            Reason::TooManyAssets => "too_many_assets",
            Reason::Quarantined => "quarantined",
        }
    }
}

/// A pipeline's books. The law: `received = used + rejected + duplicates + late + pending`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Account {
    /// Readings that came in.
    pub received: u64,
    /// Readings that passed `clean`.
    pub used: u64,
    /// Readings taken out, by [`Reason`].
    pub rejected: [u64; 10],
    /// Readings kept but marked or clamped, by [`Reason`].
    pub marked: [u64; 10],
    /// Readings that came again.
    pub duplicates: u64,
    /// Readings that came after their time was complete.
    pub late: u64,
    /// Readings that wait for their watermark.
    pub pending: u64,
    /// Resampled rows.
    pub rows: u64,
    /// Windows closed.
    pub windows: u64,
    /// Windows with too few known points.
    pub sparse: u64,
    /// Scores given.
    pub scores: u64,
    /// Scores not given: an input was missing, or the model failed.
    pub unscored: u64,
    /// Alarms raised, shelved ones too.
    pub alarms_raised: u64,
    /// Alarms cleared, shelved ones too.
    pub alarms_cleared: u64,
    /// Records made.
    pub records: u64,
    /// Frames that a stage failed on.
    pub failures: u64,
}

impl Account {
    /// Counts one reading taken out.
    pub fn reject(&mut self, why: Reason) {
        if let Some(count) = self.rejected.get_mut(why as usize) {
            *count += 1;
        }
    }

    /// Counts one reading kept but marked.
    pub fn mark(&mut self, why: Reason) {
        if let Some(count) = self.marked.get_mut(why as usize) {
            *count += 1;
        }
    }

    /// All readings taken out.
    pub fn rejected(&self) -> u64 {
        self.rejected.iter().sum()
    }

    /// Adds one tick's counts; `pending` is a level, not a count, and is taken over.
    pub fn absorb(&mut self, tick: &Account) {
        for (sum, count) in self.rejected.iter_mut().zip(tick.rejected) {
            *sum += count;
        }
        for (sum, count) in self.marked.iter_mut().zip(tick.marked) {
            *sum += count;
        }
        self.pending = tick.pending;
        self.received += tick.received;
        self.used += tick.used;
        self.duplicates += tick.duplicates;
        self.late += tick.late;
        self.rows += tick.rows;
        self.windows += tick.windows;
        self.sparse += tick.sparse;
        self.scores += tick.scores;
        self.unscored += tick.unscored;
        self.alarms_raised += tick.alarms_raised;
        self.alarms_cleared += tick.alarms_cleared;
    }

    /// Readings not accounted for: 0, or there is a bug.
    pub fn gap(&self) -> i64 {
        self.received as i64
            - (self.used + self.rejected() + self.duplicates + self.late + self.pending) as i64
    }
}

/// Why a stage could not take a frame. The frame is quarantined for this pipeline; others go on.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// It was given another kind of input: the plan should have found that.
    #[error("stage `{stage}` takes {expected}")]
    WrongInput {
        /// The stage.
        stage: &'static str,
        /// What it takes.
        expected: &'static str,
    },
    /// The saved state is not this stage's.
    #[error("saved state of stage `{stage}` cannot be read: {reason}")]
    State {
        /// The stage.
        stage: &'static str,
        /// Why.
        reason: String,
    },
}

/// Memory of a stage as bytes.
pub(crate) fn save_state<T: Serialize>(
    stage: &'static str,
    state: &T,
) -> Result<Vec<u8>, StageError> {
    postcard::to_stdvec(state).map_err(|e| StageError::State { stage, reason: e.to_string() })
}

/// Memory of a stage from bytes; none from none.
pub(crate) fn load_state<T: for<'de> Deserialize<'de> + Default>(
    stage: &'static str,
    state: &[u8],
) -> Result<T, StageError> {
    if state.is_empty() {
        return Ok(T::default());
    }
    postcard::from_bytes(state).map_err(|e| StageError::State { stage, reason: e.to_string() })
}

/// What is remembered of `asset`; of one that is new, `fresh`.
pub(crate) fn of_asset<T>(all: &mut Vec<T>, asset: u32, fresh: impl FnMut() -> T) -> &mut T {
    let index = asset as usize;
    if all.len() <= index {
        all.resize_with(index + 1, fresh);
    }
    &mut all[index]
}

/// Asset ids to indices, in the order of first sight.
#[derive(Clone, Debug, Default)]
pub(crate) struct AssetTable {
    /// By index.
    pub(crate) assets: Vec<Asset>,
    by_id: HashMap<String, u32>,
}

impl AssetTable {
    /// The index of `asset`; new assets are taken in up to `limit`.
    pub(crate) fn intern(&mut self, asset: &Asset, limit: usize) -> Option<u32> {
        if let Some(&index) = self.by_id.get(&asset.id) {
            return Some(index);
        }
        if self.assets.len() >= limit {
            return None;
        }
        let index = self.assets.len() as u32;
        self.by_id.insert(asset.id.clone(), index);
        self.assets.push(asset.clone());
        Some(index)
    }

    /// The index of an asset that is known.
    pub(crate) fn index(&self, id: &str) -> Option<u32> {
        self.by_id.get(id).copied()
    }

    /// A table of these assets.
    pub(crate) fn from_assets(assets: Vec<Asset>) -> AssetTable {
        let by_id = assets.iter().enumerate().map(|(i, a)| (a.id.clone(), i as u32)).collect();
        AssetTable { assets, by_id }
    }
}
