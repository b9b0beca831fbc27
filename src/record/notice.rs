//! Records about models in use: what the node notices of them by itself, and what operators say of their alarms.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Contribution, RawReading};
use crate::command::Verdict;
use crate::time::Timestamp;

/// What a notice is about.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum NoticeKind {
    /// An alarm's threshold, which follows its asset, has moved, or cannot.
    Threshold,
    /// What a model sees is no longer what it was trained on, or is again.
    Drift,
    /// What a model is given of an asset is moved back to where its training data lay, by more or less than before.
    Recalibration,
}

impl NoticeKind {
    /// Its name in metrics and records.
    pub fn name(self) -> &'static str {
        match self {
            NoticeKind::Threshold => "threshold",
            NoticeKind::Drift => "drift",
            NoticeKind::Recalibration => "recalibration",
        }
    }
}

/// What has moved away from a model's training data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DriftKind {
    /// Features.
    Input,
    /// The score, and no feature.
    Score,
    /// Features of several signals at once, and not the score: another product or load.
    Regime,
    /// Features that cannot be computed, oftener than is allowed.
    Missing,
}

impl DriftKind {
    /// Its name in metrics and records.
    pub fn name(self) -> &'static str {
        match self {
            DriftKind::Input => "input",
            DriftKind::Score => "score",
            DriftKind::Regime => "regime",
            DriftKind::Missing => "missing",
        }
    }
}

/// Something that the node noticed of a model on an asset, or changed by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NoticeRecord {
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
    /// What it is about.
    pub kind: NoticeKind,
    /// The alarm's name, or the score's.
    pub name: String,
    /// End of the window with which it was noticed.
    pub at: Timestamp,
    /// Since when it has been so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The value before, of what has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<f64>,
    /// The value now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// Of a drift: which kind it is now; absent where there is none any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<DriftKind>,
    /// Of a drift: what has moved, largest first, with its population stability index; of what is missing, its share.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contributions: Vec<Contribution>,
    /// Whether a new training is recommended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retrain: bool,
    /// Version of the model, where it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_version: Option<String>,
    /// Why, in words.
    pub reason: String,
}

/// What an operator says of an alarm, with what was measured when it was worst: an example to train with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VerdictRecord {
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
    /// The alarm's name in the pipeline file.
    pub name: String,
    /// Whether there was something wrong with the machine.
    pub verdict: Verdict,
    /// What was wrong, in the site's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// What else is to be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Who says so, in their own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// When it was said, by the node's clock.
    pub given: Timestamp,
    /// What the alarm watches (a score or a feature).
    pub on: String,
    /// The largest (or smallest) value while the alarm was on.
    pub peak: f64,
    /// The limit with which it was raised.
    pub limit: f64,
    /// Version of the model, where it watches a score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_version: Option<String>,
    /// First instant of the window that raised the alarm.
    pub window_start: Timestamp,
    /// First instant after the last window with which the alarm was on: from `window_start` on, the verdict is about this
    /// time.
    pub window_end: Timestamp,
    /// First instant of the window with the `peak`.
    pub peak_start: Timestamp,
    /// The features of that window; null where there was nothing to compute one from.
    #[serde(default)]
    pub features: BTreeMap<String, Option<f64>>,
    /// Its rows, signal by signal; nothing where the window is too long to be kept.
    #[serde(default)]
    pub signals: BTreeMap<String, Vec<RawReading>>,
}
