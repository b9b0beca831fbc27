//! What leaves the engine: scored windows, features, alarms, raw rows, notices of loss.
//!
//! `stage/emit` and `stage/alarm` make them, the outbox keeps them, uplink, feeds and `replay` send them: one
//! shape everywhere, with a JSON Schema in `schemas/json/record.json`.

mod notice;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use notice::{DriftKind, NoticeKind, NoticeRecord, VerdictRecord};

use crate::time::{Span, Timestamp};

/// A class of records with its own limits and its own place in the order of sending. Smaller goes first.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Lane {
    /// Alarm changes and notices of loss.
    Alarm = 0,
    /// Scored windows.
    Score = 1,
    /// Windows with features alone.
    Feature = 2,
    /// Cleaned readings.
    Raw = 3,
}

impl Lane {
    /// All lanes, in order of sending.
    pub const ALL: [Lane; 4] = [Lane::Alarm, Lane::Score, Lane::Feature, Lane::Raw];

    /// Its name in configs, metrics and records.
    pub fn name(self) -> &'static str {
        match self {
            Lane::Alarm => "alarm",
            Lane::Score => "score",
            Lane::Feature => "feature",
            Lane::Raw => "raw",
        }
    }
}

/// A record as it is stored, sent and shown: flat JSON with a `type`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Record {
    /// A window with its features and, after a `score` stage, its scores.
    Score(ScoreRecord),
    /// A change of an alarm's state.
    Alarm(AlarmRecord),
    /// Cleaned readings of one asset.
    Raw(RawRecord),
    /// What became of cleaned readings of one asset when their lane was full.
    Aggregate(AggregateRecord),
    /// Something that a limit or a policy had to drop.
    Loss(LossRecord),
    /// A change of the model behind a score.
    Model(ModelRecord),
    /// Something that the node noticed of a model on an asset, or changed by itself.
    Notice(NoticeRecord),
    /// What an operator says of an alarm, with what was measured when it was raised.
    Verdict(VerdictRecord),
}

/// A scored window of one asset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScoreRecord {
    /// Unique and the same on every recomputation, so that a receiver can drop repeats.
    pub id: String,
    /// The node that computed it.
    pub node: String,
    /// The pipeline that computed it.
    pub pipeline: String,
    /// The asset.
    pub asset: String,
    /// What else the topic said of the asset.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// First instant of the window.
    pub window_start: Timestamp,
    /// First instant after it.
    pub window_end: Timestamp,
    /// Feature name to value; null where there was nothing to compute it from.
    pub features: BTreeMap<String, Option<f64>>,
    /// Score name to value; null where an input was missing.
    pub scores: BTreeMap<String, Option<f64>>,
    /// At or above it the first model calls the window abnormal.
    pub threshold: Option<f64>,
    /// Share of the window's points that were measured, interpolated or held: 0 to 1.
    pub coverage: f64,
    /// Name of the first model.
    pub model: Option<String>,
    /// Version of the first model.
    pub model_version: Option<String>,
    /// All models, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ModelRef>,
    /// What explains the first score most, largest share first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contributions: Vec<Contribution>,
}

/// One of several models behind a score record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelRef {
    /// The score it gave.
    pub output: String,
    /// Its name.
    pub model: String,
    /// Its version.
    pub model_version: String,
    /// Its threshold.
    pub threshold: Option<f64>,
}

/// A part's share of a score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Contribution {
    /// A signal or a feature.
    pub name: String,
    /// Its share, in the model's own measure.
    pub value: f64,
}

/// The state of an alarm, after ISA-18.2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AlarmState {
    /// Nothing to say.
    #[default]
    Normal,
    /// Raised, and nobody has acknowledged it.
    Unacknowledged,
    /// Raised and acknowledged.
    Acknowledged,
    /// Over, and nobody acknowledged it while it was on (latched alarms wait here).
    Returned,
    /// Silenced by an operator for a time.
    Shelved,
}

impl AlarmState {
    /// Its name, as in records.
    pub fn name(self) -> &'static str {
        match self {
            AlarmState::Normal => "normal",
            AlarmState::Unacknowledged => "unacknowledged",
            AlarmState::Acknowledged => "acknowledged",
            AlarmState::Returned => "returned",
            AlarmState::Shelved => "shelved",
        }
    }
}

/// How much an alarm matters.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// For information.
    Low,
    /// Look into it today.
    #[default]
    Medium,
    /// Act this shift.
    High,
    /// Act now.
    Critical,
}

/// A change of an alarm's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AlarmRecord {
    /// Unique and the same on every recomputation.
    pub id: String,
    /// The node that raised it.
    pub node: String,
    /// The pipeline that raised it.
    pub pipeline: String,
    /// The asset.
    pub asset: String,
    /// What else the topic said of the asset.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// The alarm's name in the pipeline file.
    pub name: String,
    /// The state it changed to.
    pub state: AlarmState,
    /// How much it matters.
    pub severity: Severity,
    /// Event time of the change; of what an operator did, and of the end of a shelving, the node's clock.
    pub at: Timestamp,
    /// What the alarm watches (a score or a feature).
    pub on: String,
    /// Its value at the change, or the last one before it.
    pub value: Option<f64>,
    /// The limit that it crossed, or would cross next.
    pub limit: f64,
    /// Who asked for the change, as they said it themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why it was shelved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When the shelving ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// What explains the score most, largest share first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contributions: Vec<Contribution>,
}

/// Cleaned readings of one asset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RawRecord {
    /// Unique and the same on every recomputation.
    pub id: String,
    /// The node.
    pub node: String,
    /// The pipeline.
    pub pipeline: String,
    /// The asset.
    pub asset: String,
    /// What else the topic said of the asset.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Signal name to its readings.
    pub signals: BTreeMap<String, Vec<RawReading>>,
}

/// One cleaned reading.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RawReading(pub Timestamp, pub f64);

/// What is kept of an asset's cleaned readings when their lane was full: each signal by intervals of event time.
///
/// The raw records that it takes the place of are counted in a loss record with reason `thinned`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AggregateRecord {
    /// Unique: made of what it is about and the place that it has on its lane.
    pub id: String,
    /// The node.
    pub node: String,
    /// The pipeline.
    pub pipeline: String,
    /// The asset.
    pub asset: String,
    /// What else the topic said of the asset.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// How long each interval is; it starts at a multiple of that, counted from 1970.
    pub every: Span,
    /// Signal name to its intervals, oldest first; those without readings are left out. One interval may come in several
    /// records, each with other readings of it.
    pub signals: BTreeMap<String, Vec<Aggregate>>,
}

/// The readings of one signal in one interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Aggregate {
    /// First instant of the interval.
    pub start: Timestamp,
    /// How many readings.
    pub count: u64,
    /// The lowest value.
    pub min: f64,
    /// The highest.
    pub max: f64,
    /// The mean of the values.
    pub mean: f64,
    /// The value of the last reading.
    pub last: f64,
    /// When that was.
    pub last_at: Timestamp,
}

/// Records or readings that are gone, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LossRecord {
    /// Unique.
    pub id: String,
    /// The node.
    pub node: String,
    /// The lane that lost them.
    pub lane: Lane,
    /// How many.
    pub count: u64,
    /// First lost key's tick.
    pub first_tick: u64,
    /// Last lost key's tick.
    pub last_tick: u64,
    /// Why: `thinned` (something is kept of it), `lane limit`, `store limit`, `max age`, `damaged`.
    pub reason: String,
    /// The earliest event time among what is lost; absent where nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// The latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Timestamp>,
    /// The assets that lost something: the first 20 by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assets: Vec<String>,
    /// How many more assets did.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_assets: u64,
    /// How many of the records could not be read when they went: time and assets are without them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unread: u64,
    /// When it was noticed.
    pub at: Timestamp,
}

/// What a model is to a score, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ModelPhase {
    /// It scores every window, and nobody hears it.
    Shadow,
    /// It speaks for some assets.
    Canary,
    /// It speaks for all assets, watched beside the one before.
    Promoted,
    /// It alone is in use.
    Settled,
    /// It was taken back, by somebody or by the node itself.
    Withdrawn,
    /// It failed too often and is left alone for a time.
    Quarantined,
    /// It answers again.
    Restored,
}

impl ModelPhase {
    /// Its name, as in records.
    pub fn name(self) -> &'static str {
        match self {
            ModelPhase::Shadow => "shadow",
            ModelPhase::Canary => "canary",
            ModelPhase::Promoted => "promoted",
            ModelPhase::Settled => "settled",
            ModelPhase::Withdrawn => "withdrawn",
            ModelPhase::Quarantined => "quarantined",
            ModelPhase::Restored => "restored",
        }
    }
}

/// A change of the model behind a score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelRecord {
    /// Unique and the same on every recomputation.
    pub id: String,
    /// The node.
    pub node: String,
    /// The pipeline.
    pub pipeline: String,
    /// The score (`output` in the pipeline file).
    pub output: String,
    /// What the model is now.
    pub phase: ModelPhase,
    /// The model's name.
    pub model: String,
    /// Its version.
    pub model_version: String,
    /// SHA-256 of it, in hex.
    pub digest: String,
    /// Version of the model that speaks where this one does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who asked for it, as they said it themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// When: the time of the tick.
    pub at: Timestamp,
}

/// What something is after a command that was for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Now {
    /// An alarm.
    Alarm(AlarmState),
    /// A model.
    Model(ModelPhase),
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Record {
    /// The lane that records of its kind go out on, unless a pipeline says otherwise.
    pub fn lane(&self) -> Lane {
        match self {
            Record::Alarm(_)
            | Record::Loss(_)
            | Record::Model(_)
            | Record::Notice(_)
            | Record::Verdict(_) => Lane::Alarm,
            Record::Score(score) if score.scores.is_empty() => Lane::Feature,
            Record::Score(_) => Lane::Score,
            Record::Raw(_) | Record::Aggregate(_) => Lane::Raw,
        }
    }

    /// Its id: the idempotency key of one record.
    pub fn id(&self) -> &str {
        match self {
            Record::Score(r) => &r.id,
            Record::Alarm(r) => &r.id,
            Record::Raw(r) => &r.id,
            Record::Aggregate(r) => &r.id,
            Record::Loss(r) => &r.id,
            Record::Model(r) => &r.id,
            Record::Notice(r) => &r.id,
            Record::Verdict(r) => &r.id,
        }
    }
}

/// A record with the lane it goes out on.
#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    /// The lane.
    pub lane: Lane,
    /// The record.
    pub record: Record,
}

/// What one tick came to: what the ledger commits.
#[derive(Clone, Debug)]
pub struct Step {
    /// Which tick.
    pub tick: crate::time::Tick,
    /// What came in, as the journal keeps it.
    pub input: Vec<crate::frame::Input>,
    /// What goes out. The n-th record's key is (lane, tick, n).
    pub records: Vec<Outgoing>,
}

/// The whole engine's state after a tick, as bytes that only the engine reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// After which tick.
    pub tick: crate::time::Tick,
    /// Every pipeline's state.
    pub state: Vec<u8>,
}
