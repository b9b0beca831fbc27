//! A model's contract, as its file notes it in `metadata_props` under keys that start with `forebay.`.
//!
//! `onnx` reads it with the file, `fit` compares it with a pipeline, `golden` tries what it promises, the trainers write
//! it ([`Notes`]). A bare ONNX file has none of it and runs with what the pipeline says. It promises that a note which
//! cannot be read counts as absent and is named. Signatures are in `signature`: they are about the file, not in it.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tract_onnx::pb;

use super::build::Graph;
use super::golden::Golden;
use crate::time::Timestamp;

pub use crate::frame::Baseline;

/// The version of the keys.
pub const SCHEMA: &str = "1";

/// What an output means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "means", rename_all = "snake_case")]
pub enum Meaning {
    /// How unlike normal running a window is: more is worse.
    Score,
    /// The chance that it comes to a failure, 0 to 1.
    Probability {
        /// Within this time, where that is known ("7d").
        #[serde(default, skip_serializing_if = "Option::is_none")]
        horizon: Option<String>,
    },
    /// How long the machine will still run.
    RemainingLife {
        /// In this unit ("h", "cycles").
        unit: String,
    },
    /// The input as the model would have it.
    Reconstruction,
    /// One of several.
    Class {
        /// Their names, in the order of the output's numbers.
        labels: Vec<String>,
    },
    /// What a score is divided among: the inputs.
    Contributions,
    /// A number that goes into the score.
    Part,
}

/// The contract. Every field is the note of the same name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    /// How it was made (`pca`, `logistic`, …).
    pub kind: Option<String>,
    /// Its name in records.
    pub name: Option<String>,
    /// Its version in records. Absent: the digest of its file.
    pub version: Option<String>,
    /// Its place in the order in which models of this name were given out, for people: nothing is refused for it.
    pub serial: Option<u64>,
    /// Names of its input columns, in order (a JSON array).
    pub features: Option<Vec<String>>,
    /// Names of the columns of its input sequence, in order (a JSON array).
    pub channels: Option<Vec<String>>,
    /// Samples in its input sequence.
    pub steps: Option<usize>,
    /// Units of its input columns, in order (a JSON array).
    pub units: Option<Vec<String>>,
    /// Length of the windows it was trained on.
    pub window: Option<String>,
    /// How often they started.
    pub every: Option<String>,
    /// Step of the grid under them.
    pub step: Option<String>,
    /// How its input is brought to scale, for people: the scaling itself is in the graph.
    pub scaler: Option<String>,
    /// What its outputs mean, by name (a JSON object).
    pub outputs: Option<BTreeMap<String, Meaning>>,
    /// The output that is the score.
    pub output: Option<String>,
    /// Inputs that are fed with what an output gave for the asset's window before: input to output (a JSON object).
    pub state: Option<BTreeMap<String, String>>,
    /// At or above it a window is abnormal.
    pub threshold: Option<f64>,
    /// How the threshold was chosen.
    pub threshold_by: Option<String>,
    /// First event time of the data it was trained on.
    pub data_start: Option<Timestamp>,
    /// Last event time of the data it was trained on, which is also its training time: the clock is not asked, so that
    /// the same data gives the same bytes.
    pub data_end: Option<Timestamp>,
    /// SHA-256 of the windows it was trained on, in hex.
    pub data_digest: Option<String>,
    /// How the training data was distributed.
    pub baseline: Option<Baseline>,
    /// Inputs with the outputs they must give.
    pub golden: Option<Golden>,
    /// SHA-256 of the model that it was compressed from, in hex.
    pub parent: Option<String>,
    /// How it was compressed, for people.
    pub compressed: Option<String>,
    /// SHA-256 of the files beside it that hold its weights, by name, as they were when it was signed (a JSON object).
    pub beside: Option<BTreeMap<String, String>>,
    /// Keys whose value cannot be read.
    pub unreadable: Vec<String>,
    /// Keys of ours that nothing here asks for, without `forebay.`.
    pub unasked: Vec<String>,
    /// Everything in `metadata_props`, as it is.
    pub all: BTreeMap<String, String>,
}

impl Metadata {
    pub(super) fn read(proto: &pb::ModelProto) -> Metadata {
        let all: BTreeMap<String, String> =
            proto.metadata_props.iter().map(|e| (e.key.clone(), e.value.clone())).collect();
        let (mut unreadable, mut asked) = (Vec::new(), BTreeSet::new());
        let mut notes = Reading { all: &all, unreadable: &mut unreadable, asked: &mut asked };
        let metadata = Metadata {
            kind: notes.text("kind"),
            name: notes.text("name"),
            version: notes.text("version"),
            serial: notes.parsed("serial", |v| v.parse().ok()),
            features: notes.json("features"),
            channels: notes.json("channels"),
            steps: notes.parsed("steps", |v| v.parse().ok()),
            units: notes.json("units"),
            window: notes.text("window"),
            every: notes.text("every"),
            step: notes.text("step"),
            scaler: notes.text("scaler"),
            outputs: notes.json("outputs"),
            output: notes.text("output"),
            state: notes.json("state"),
            threshold: notes
                .parsed("threshold", |v| v.parse().ok().filter(|value: &f64| value.is_finite())),
            threshold_by: notes.text("threshold_by"),
            data_start: notes.parsed("data_start", |v| v.parse().ok()),
            data_end: notes.parsed("data_end", |v| v.parse().ok()),
            data_digest: notes.text("data_digest"),
            baseline: notes.parsed("baseline", |value| {
                serde_json::from_str(value).ok().filter(Baseline::is_in_order)
            }),
            golden: notes.json("golden"),
            parent: notes.text("parent"),
            compressed: notes.text("compressed"),
            beside: notes.json("beside"),
            ..Metadata::default()
        };
        let ours = all.keys().filter_map(|key| key.strip_prefix("forebay."));
        let unasked = ours.filter(|key| !asked.contains(*key)).map(str::to_owned).collect();
        Metadata { unreadable, unasked, all, ..metadata }
    }
}

struct Reading<'a> {
    all: &'a BTreeMap<String, String>,
    unreadable: &'a mut Vec<String>,
    asked: &'a mut BTreeSet<&'static str>,
}

impl Reading<'_> {
    fn text(&mut self, key: &'static str) -> Option<String> {
        self.asked.insert(key);
        self.all.get(&format!("forebay.{key}")).cloned().filter(|value| !value.is_empty())
    }

    fn parsed<T>(&mut self, key: &'static str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        self.asked.insert(key);
        let key = format!("forebay.{key}");
        let value = read(self.all.get(&key)?);
        if value.is_none() {
            self.unreadable.push(key);
        }
        value
    }

    fn json<T: DeserializeOwned>(&mut self, key: &'static str) -> Option<T> {
        self.parsed(key, |value| serde_json::from_str(value).ok())
    }
}

/// What a trainer notes of the model itself; [`super::training::TrainingSet`] notes the data.
#[derive(Clone, Debug)]
pub(super) struct Notes {
    pub(super) kind: &'static str,
    pub(super) outputs: BTreeMap<String, Meaning>,
    /// Not a number where there is none.
    pub(super) threshold: f64,
    pub(super) threshold_by: String,
    pub(super) baseline: Baseline,
    pub(super) golden: Golden,
}

impl Notes {
    pub(super) fn write(&self, graph: &mut Graph) {
        graph.note("forebay.schema", SCHEMA);
        graph.note("forebay.kind", self.kind);
        let scaler = match self.kind {
            super::trees::KIND => "none: trees compare values as they are",
            _ => "(value - mean) * factor, in the graph",
        };
        graph.note("forebay.scaler", scaler);
        let first = self.outputs.keys().next().map_or("score", String::as_str);
        let output = if self.outputs.contains_key("score") { "score" } else { first };
        graph.note("forebay.output", output);
        // Of a number there is none.
        if self.threshold.is_finite() {
            graph.note("forebay.threshold", self.threshold.to_string());
        }
        graph.note("forebay.threshold_by", self.threshold_by.as_str());
        graph.note("forebay.outputs", json(&self.outputs));
        graph.note("forebay.baseline", json(&self.baseline));
        graph.note("forebay.golden", json(&self.golden));
    }
}

/// Plain data as JSON.
pub(super) fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("invariant: plain data with text keys is JSON")
}
