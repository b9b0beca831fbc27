//! A pipeline file exactly as it was typed: what comes in, what is done with it, in which order.
//!
//! `pipeline::load` reads it, `pipeline::plan` turns it into running stages. These types are also the JSON Schema
//! `schemas/json/pipeline.json`, from which editors complete and `check` finds mistakes.

mod adapt;
mod bearing;
mod stages;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use adapt::{AdaptSpec, DriftSpec, RecalibrateSpec};
pub use bearing::{BearingSpec, GeometrySpec, OrdersSpec, SpeedSpec};

use crate::record::{Lane, Severity};
use crate::time::{Span, Step, Timestamp};

/// One pipeline: a file in `pipelines/`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PipelineSpec {
    /// Its name in records, metrics and topics.
    pub name: String,
    /// What it is for, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The asset schema: a `name` in `schemas/`.
    pub schema: String,
    /// MQTT topics. `{asset}` names the machine, `{signal}` the signal, other names become tags; `+` and `#` match
    /// what needs no name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<String>,
    /// How payloads are written.
    #[serde(default)]
    pub format: FormatSpec,
    /// How recordings are written (`replay`, `train`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<RecordingSpec>,
    /// How event time is followed.
    #[serde(default)]
    pub time: TimeSpec,
    /// What is done, in this order.
    #[serde(rename = "stage", default)]
    pub stages: Vec<StageSpec>,
}

/// How the payload of a message is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FormatSpec {
    /// JSON objects, or arrays of them.
    Json(JsonFormat),
    /// One bare value a message; the topic names the signal.
    Scalar(ScalarFormat),
}

impl Default for FormatSpec {
    fn default() -> Self {
        FormatSpec::Json(JsonFormat::default())
    }
}

/// JSON payloads. Paths are names joined by dots (`data.values`); a literal dot is written `\.`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JsonFormat {
    /// Path of the time. Absent: the time of arrival, and marked so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// How the time is written.
    pub unit: TimeUnit,
    /// Path of an array of readings, each with its own values and time. Absent: the payload (or each element of a
    /// payload that is an array) is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub each: Option<String>,
    /// Path of the object whose fields are signals. Absent: the object itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<String>,
    /// Signal to path, where payload and schema do not agree on names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub signals: BTreeMap<String, String>,
    /// Path of the signal's name, for payloads with one reading an object (`{"name": "temp", "value": 3}`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Path of the value, with `signal` or with `{signal}` in the topic (absent: `value`). Else, where signals are
    /// objects (`{"temp": {"value": 3}}`), the path within those.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Path of the asset's id, where the topic does not name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asset: Option<String>,
    /// Path of the quality: true or false, GOOD / UNCERTAIN / BAD, or a number (an OPC UA status code; 192 is good).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<String>,
    /// What a field means that the schema does not know.
    pub unknown: Unknown,
}

/// Bare values: `21.5`, `"21.5"`, `true`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ScalarFormat {
    /// The signal, where the topic does not name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
}

/// What to do with a signal that the schema does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unknown {
    /// Pass over it (payloads often carry more than is needed); it is named once in the log.
    #[default]
    Ignore,
    /// Count it as rejected.
    Reject,
}

/// How a time is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimeUnit {
    /// Text is RFC 3339 (UTC where it has no offset); a number is taken for s, ms, µs or ns by its size.
    #[default]
    Auto,
    /// RFC 3339 text.
    Rfc3339,
    /// Seconds since 1970.
    S,
    /// Milliseconds since 1970.
    Ms,
    /// Microseconds since 1970.
    Us,
    /// Nanoseconds since 1970.
    Ns,
}

/// How a CSV, NDJSON or Parquet recording is written. The command line overrides each.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RecordingSpec {
    /// Column separator of CSV, one character. Absent: found out from the header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<String>,
    /// Column (or field) of the time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// Format of the time, as in strptime (`%Y-%m-%d %H:%M:%S`). Absent: RFC 3339, the same with a space, or a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_format: Option<String>,
    /// Unit of a time that is a number.
    pub unit: TimeUnit,
    /// Time zone of times without one (`Europe/Berlin`). Absent: UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Column (or field) of the asset's id. Absent: `--asset`, else the file's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asset: Option<String>,
    /// Column of the signal's name, for long recordings (one reading a row), with `value`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Column of the value, for long recordings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Signal to column, where recording and schema do not agree on names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub signals: BTreeMap<String, String>,
}

/// How event time is followed, for each asset by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TimeSpec {
    /// How long to wait for readings that come out of order. An asset's watermark is its latest event time, or the
    /// clock if that is behind it, less this.
    pub lateness: Span,
    /// After this long without a reading, an asset's waiting readings are taken as complete. Only time in which
    /// the broker can be heard counts.
    pub idle: Span,
    /// A reading further ahead of the clock than this is rejected: the device's clock is wrong. One less far ahead
    /// waits until the clock has come to it.
    pub max_ahead: Span,
    /// A reading before this is rejected: the device's clock was never set.
    pub earliest: Timestamp,
}

impl Default for TimeSpec {
    fn default() -> Self {
        TimeSpec {
            lateness: Span::seconds(2),
            idle: Span::seconds(30),
            max_ahead: Span::seconds(600),
            earliest: Timestamp(946_684_800_000_000), // 2000-01-01T00:00:00Z
        }
    }
}

/// One step of a pipeline, written `[[stage]]` and then its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StageSpec {
    /// Takes out what cannot be true.
    Clean(CleanSpec),
    /// Brings an asset's signals onto one grid of times.
    Resample(ResampleSpec),
    /// Cuts the grid into windows and describes each with features.
    Window(WindowSpec),
    /// Asks a model.
    Score(ScoreSpec),
    /// Watches whether what a model sees is still what it was trained on.
    Drift(DriftSpec),
    /// Watches a score or a feature.
    Alarm(AlarmSpec),
    /// Sends what has been computed so far.
    Emit(EmitSpec),
}

/// Which of several readings with one time is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Duplicates {
    /// The one that came first.
    #[default]
    First,
    /// The one that came last.
    Last,
}

/// What happens to a reading that fails a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFail {
    /// It is taken out and counted.
    #[default]
    Drop,
    /// It stays, with quality `uncertain`, and is counted.
    Mark,
    /// It is moved to the nearest allowed value, with quality `uncertain`, and is counted.
    Clamp,
}

/// `clean`: every check has a policy and a counter. Readings that are not finite, come twice or come too late are
/// always taken out (and counted).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CleanSpec {
    /// Which of several readings with one time is kept.
    pub duplicates: Duplicates,
    /// A value outside the schema's `min` and `max`.
    pub out_of_range: OnFail,
    /// A change faster than the schema's `max_rate`.
    pub too_fast: OnFail,
    /// A reading whose quality is bad.
    pub bad_quality: OnFail,
    /// A single value far from its neighbours. Absent: not looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spikes: Option<SpikeSpec>,
    /// A value that does not change for this long: the sensor is stuck. Absent: not looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stuck_after: Option<Span>,
    /// What happens to the readings of a stuck sensor.
    pub stuck: OnFail,
    /// Signal to the unit in which it arrives, where that is not the schema's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub units: BTreeMap<String, String>,
}

impl Default for CleanSpec {
    fn default() -> Self {
        CleanSpec {
            duplicates: Duplicates::First,
            out_of_range: OnFail::Drop,
            too_fast: OnFail::Drop,
            bad_quality: OnFail::Drop,
            spikes: None,
            stuck_after: None,
            stuck: OnFail::Drop,
            units: BTreeMap::new(),
        }
    }
}

/// How spikes are found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SpikeSpec {
    /// Hampel identifier: further than `sigmas` scaled median deviations from the median of the last `width` values.
    Hampel(HampelSpec),
}

/// Settings of the Hampel identifier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HampelSpec {
    /// How many values to look at, the newest among them; 3 to 99.
    #[serde(default = "hampel_width")]
    pub width: usize,
    /// How many scaled median absolute deviations are still normal.
    #[serde(default = "hampel_sigmas")]
    pub sigmas: f64,
}

fn hampel_width() -> usize {
    7
}

fn hampel_sigmas() -> f64 {
    4.0
}

/// How the grid is filled between readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fill {
    /// On the line between the readings before and after.
    #[default]
    Linear,
    /// The last reading.
    Previous,
    /// The next reading.
    Next,
    /// The mean of the readings in the step that starts here.
    Mean,
}

/// `resample`: one row every `every`, a value for each signal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResampleSpec {
    /// Step of the grid, counted from 1970: a length of time, or a fraction of one (`"1s/12000"` is 12 kHz).
    pub every: Step,
    /// How the grid is filled between readings.
    #[serde(default)]
    pub fill: Fill,
    /// Across a longer gap nothing is invented. Absent: three steps; of a signal that the schema says is measured more
    /// rarely, three times its `every`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_gap: Option<Span>,
}

/// `window`: intervals of each asset's event time, and numbers that describe them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WindowSpec {
    /// How long a window is.
    pub length: Span,
    /// How often one starts. Absent: when the last ends (tumbling).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Span>,
    /// What to compute of each signal: mean, std, min, max, range, rms, slope, skewness, kurtosis, crest, last, first,
    /// coverage, quantiles `p1` to `p99` (`p50` is the median), rms between two frequencies in Hz (`rms_10_1000`), and
    /// fault lines of `bearing`: bpfo, bpfi, bsf, ftf.
    #[serde(default)]
    pub features: Vec<String>,
    /// The signals that windows look at. Absent: all of the schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signals: Option<Vec<String>>,
    /// The bearing that the signals are taken at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearing: Option<BearingSpec>,
    /// Windows with a smaller share of known points are not scored but counted as sparse; 0 to 1.
    #[serde(default = "min_coverage")]
    pub min_coverage: f64,
}

fn min_coverage() -> f64 {
    0.8
}

/// What a model is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModelInput {
    /// The window's features: `[windows, features]`.
    #[default]
    Features,
    /// The window's samples: `[windows, steps, channels]`, oldest first.
    Sequence,
    /// The same, channel by channel: `[windows, channels, steps]`, as convolutions take them.
    ChannelsFirst,
}

/// `score`: one answer of a model for every window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScoreSpec {
    /// The ONNX file, from the pipeline file's folder.
    pub model: String,
    /// The name of the answer in records and alarms (`anomaly`, `failure_risk`).
    pub output: String,
    /// What the model is given.
    #[serde(default)]
    pub input: ModelInput,
    /// The ONNX output to read, where the model has several. Absent: `score`, else `output`'s name, else the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensor: Option<String>,
    /// Of a classifier: the class whose chance is the score, by its label, or by its place from 0 where the model has no
    /// labels; of an output that is a label, the label that scores 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Most windows that the model is given at once, 1 to 4096. Fewer take less memory, of large models much less.
    #[serde(default = "most_windows")]
    pub batch: u16,
    /// Of a model that remembers: its inputs that are fed with what an output gave for the asset's window before, each
    /// with that output. Absent: what the model says of itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub state: BTreeMap<String, String>,
    /// At or above it a window is abnormal. Absent: what the model says of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// How long the model may take for a batch. One that takes longer is broken off between two operators, or left to a
    /// thread of its own where it cannot be, and its windows count as unanswered. Absent: 30 s, and no model is weighed
    /// against that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Span>,
    /// Whether statistics of the features answer where the model cannot: when it fails, is too slow, or is left alone
    /// because it failed three times in a row. Only for scores that say how abnormal a window is.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub fallback: bool,
    /// Whether what the model is given follows where each asset's inputs lie, slowly and within bounds. Absent: it does
    /// not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recalibrate: Option<RecalibrateSpec>,
}

fn most_windows() -> u16 {
    256
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_yes(value: &bool) -> bool {
    *value
}

/// `alarm`: watches a score or a feature; states after ISA-18.2, one record a change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AlarmSpec {
    /// Its name in records.
    pub name: String,
    /// What it watches: a score's `output`, or a feature (`vibration_rms.max`).
    pub on: String,
    /// Raised at or above this. Absent: the score's threshold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raise: Option<f64>,
    /// Cleared below this. Absent: nine tenths of `raise`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clear: Option<f64>,
    /// Whether it is the small values that are wrong: raised at or below `raise`, cleared above `clear`.
    #[serde(default)]
    pub below: bool,
    /// It must last this long before the alarm is raised.
    #[serde(default)]
    pub on_delay: Span,
    /// It must be over this long before the alarm is cleared.
    #[serde(default)]
    pub off_delay: Span,
    /// How much it matters.
    #[serde(default)]
    pub severity: Severity,
    /// Whether it stays (as `returned`) until someone acknowledges it.
    #[serde(default)]
    pub latch: bool,
    /// How `raise` (or the score's threshold) follows each asset. Absent: it stays where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapt: Option<AdaptSpec>,
}

/// `emit`: records of what has been computed so far: cleaned readings after `clean`, windows after `window`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmitSpec {
    /// The lane they leave on.
    pub lane: Lane,
}
