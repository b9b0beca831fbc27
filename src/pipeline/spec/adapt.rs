//! The part of a pipeline file that is about models which grow old: thresholds that follow their assets, and drift.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time::Span;

/// A threshold that follows each asset by itself: by peaks over threshold, to a budget of false alarms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdaptSpec {
    /// How many false alarms a day are acceptable on each asset; delays and hysteresis make it fewer.
    pub alarms_a_day: f64,
    /// Windows of normal running that are learned from before it moves; 400 to 20000.
    #[serde(default = "learn")]
    pub learn: u32,
    /// It may go so many times as far from the normal level as it was, or come as many times nearer; above 1, to 10.
    #[serde(default = "reach")]
    pub reach: f64,
    /// Where normal values wander, the windows whose mean is followed (DSPOT), up to 1000. 0: none.
    #[serde(default)]
    pub depth: u16,
}

fn learn() -> u32 {
    1000
}

fn reach() -> f64 {
    2.0
}

/// Inputs that are moved back to where the model's training data lay, asset by asset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecalibrateSpec {
    /// After so long half of a lasting change is made up for; 1h to 8760h, a year.
    #[serde(default = "week")]
    pub half_life: Span,
    /// Nothing moves further than so many standard deviations of the training data; above 0, to 5.
    #[serde(default = "most")]
    pub most: f64,
}

fn week() -> Span {
    Span::seconds(7 * 24 * 3600)
}

fn most() -> f64 {
    1.0
}

/// `drift`: compares each asset's windows with those that the model was trained on; a record when that changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DriftSpec {
    /// The score (`output`) whose model is meant.
    pub on: String,
    /// Time whose windows are compared at once, from 1m to 30d; longer than the rhythm of the plant, or every shift is a
    /// drift.
    #[serde(default = "day")]
    pub over: Span,
    /// Population stability index from which on a feature, or the score, has moved: above 0.1, to 10. Below 0.1 nothing
    /// has, above 0.25 it is much.
    #[serde(default = "psi")]
    pub psi: f64,
    /// Chance with which ADWIN sees a change of the score where none is, above 0, to 0.1.
    #[serde(default = "delta")]
    pub delta: f64,
    /// Share of windows in which a feature may be missing, 0 to 1.
    #[serde(default = "missing")]
    pub missing: f64,
}

fn day() -> Span {
    Span::seconds(24 * 3600)
}

fn psi() -> f64 {
    0.25
}

fn delta() -> f64 {
    0.002
}

fn missing() -> f64 {
    0.1
}
