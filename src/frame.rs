//! What stages take and give: columns of readings, of resampled rows, and of windows.
//!
//! Decoders fill [`Readings`]; `stage/*` turn one kind into the next; the journal keeps [`Input`]. All are plain
//! column vectors: a tick holds a few hundred rows, and a polars frame for each would cost more than the work.
//! polars comes in where the columns are long: a window's samples (`stage/features`) and files (`ingest/replay`).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::command::Command;
use crate::time::Timestamp;

/// How far a value can be trusted, after OPC UA Part 8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Quality {
    /// As measured.
    #[default]
    Good,
    /// Usable with care.
    Uncertain,
    /// Not to be used.
    Bad,
}

/// An asset as the door knows it: its id, and what else the topic said of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Asset {
    /// The asset's id.
    pub id: String,
    /// The other names in the topic pattern, with their values (`site` = `north`).
    pub tags: BTreeMap<String, String>,
}

/// Readings in arrival order. All columns have one length.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Readings {
    /// Index into the owner's table of assets.
    pub asset: Vec<u32>,
    /// Index into the schema's signals.
    pub signal: Vec<u16>,
    /// Event time.
    pub ts: Vec<Timestamp>,
    /// The value; NaN and infinities may come in here and are rejected by `clean`.
    pub value: Vec<f64>,
    /// The quality that came with it.
    pub quality: Vec<Quality>,
}

impl Readings {
    /// How many readings.
    pub fn len(&self) -> usize {
        self.ts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ts.is_empty()
    }

    /// Adds one reading.
    pub fn push(&mut self, asset: u32, signal: u16, ts: Timestamp, value: f64, quality: Quality) {
        self.asset.push(asset);
        self.signal.push(signal);
        self.ts.push(ts);
        self.value.push(value);
        self.quality.push(quality);
    }

    /// Keeps the first `len` readings: how a decoder takes back a payload that failed half way.
    pub fn truncate(&mut self, len: usize) {
        self.asset.truncate(len);
        self.signal.truncate(len);
        self.ts.truncate(len);
        self.value.truncate(len);
        self.quality.truncate(len);
    }
}

/// What one door brought in one tick: readings, and the assets that their `asset` column points into; or, from the
/// operators' door, commands; or nothing but that the broker could not be heard. Complete in itself, so that a journal
/// entry needs nothing before it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// The route's name: schema, topics and format as one string (`pipeline::Route`).
    pub route: String,
    /// The assets seen in this tick.
    pub assets: Vec<Asset>,
    /// Their readings.
    pub readings: Readings,
    /// What operators asked for, in order. Carried out before the tick's readings are looked at.
    pub commands: Vec<Command>,
}

impl Input {
    /// The name of the operators' door.
    pub const OPERATORS: &str = "operators";

    /// The name of the door through which the node says that it could not hear its broker.
    pub const DEAF: &str = "deaf";

    /// The input of a tick before which the broker could not be heard, for all or a part of the time: the node was
    /// stopped, or had no connection. What the stages wait for may stand in the broker's queue.
    pub fn of_deafness() -> Input {
        Input { route: Input::DEAF.into(), ..Input::default() }
    }

    /// The time of its newest reading.
    pub fn latest(&self) -> Timestamp {
        self.readings.ts.iter().max().copied().unwrap_or(Timestamp::MIN)
    }

    /// The input of a tick's commands.
    pub fn of_commands(commands: Vec<Command>) -> Input {
        Input { route: Input::OPERATORS.into(), commands, ..Input::default() }
    }
}

/// How a resampled point came to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Origin {
    /// Nothing near enough: the value is NaN.
    #[default]
    Missing,
    /// Measured at this very time, or the mean of readings in the bin.
    Measured,
    /// On the line between two readings.
    Interpolated,
    /// The last (or next) reading, held.
    Held,
}

/// Rows on the common grid of each asset: for every asset in time order, one row an instant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Grid {
    /// Index into the pipeline's assets, one a row.
    pub asset: Vec<u32>,
    /// The grid time, one a row.
    pub ts: Vec<Timestamp>,
    /// Values, row after row: `rows * channels`, NaN where [`Origin::Missing`].
    pub values: Vec<f64>,
    /// Origins, laid out as `values`.
    pub origins: Vec<Origin>,
    /// Columns in each row.
    pub channels: usize,
}

/// Who gives a score.
#[derive(Clone, Debug, PartialEq)]
pub struct Speaker {
    /// The model's name.
    pub model: String,
    /// The model's version.
    pub version: String,
    /// SHA-256 of the model, in hex: two models may have one version. Empty where statistics stand in for a model.
    pub digest: String,
    /// At or above it, the model calls the window abnormal. `None` where the model has none.
    pub threshold: Option<f64>,
    /// How the model's training data was distributed, where it says so.
    pub baseline: Option<Arc<Baseline>>,
}

/// How a model's training data was distributed: what later data is compared with to see drift. Of each column the values
/// that divide it into ten equal parts, least and most included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// Windows that it was taken from.
    pub windows: usize,
    /// Assets that they are of. Of several together it is wider than of any one.
    #[serde(default = "one")]
    pub assets: usize,
    /// Of each input column.
    pub inputs: Vec<[f32; 11]>,
    /// Of the score.
    pub score: [f32; 11],
}

impl Baseline {
    /// Whether its tenths are numbers that do not fall.
    pub fn is_in_order(&self) -> bool {
        let mut all = self.inputs.iter().chain([&self.score]);
        all.all(|tenths| tenths.iter().all(|v| v.is_finite()) && tenths.is_sorted())
    }
}

fn one() -> usize {
    1
}

/// The answer for every window of a [`Windows`].
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// The name under which pipelines and records know it (`anomaly`).
    pub output: String,
    /// Who answers, the model in use first.
    pub speakers: Vec<Speaker>,
    /// Who gave each window's value, as a place in `speakers`; empty: the first one all.
    pub spoke: Vec<u8>,
    /// One value a window; `None` where an input was missing or the model failed on it.
    pub values: Vec<Option<f64>>,
    /// How much of each window's score each part of it explains; nothing where the model does not say.
    pub shares: Shares,
}

impl Scored {
    /// Who spoke of window `index`.
    pub fn speaker(&self, index: usize) -> Option<&Speaker> {
        let place = self.spoke.get(index).copied().unwrap_or(0);
        self.speakers.get(usize::from(place))
    }
}

/// Most parts of a score that are told.
const PARTS: usize = 5;

/// Shares that the parts of a window (features, or channels) have in its score, as a model gave them. Looked into only
/// for what is told: a record, an alarm.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shares {
    /// The parts' names.
    pub parts: Arc<[String]>,
    /// Numbers a window: one a part, or one a part of each sample of a sequence.
    pub width: usize,
    /// The numbers, window after window; NaN where a window has no score.
    pub values: Vec<f32>,
}

impl Shares {
    /// The largest positive shares of window `index`, by name, largest first; those of a sequence's samples are added
    /// up for each channel.
    pub fn largest(&self, index: usize) -> Vec<(&str, f64)> {
        let row = index * self.width..(index + 1) * self.width;
        let Some(row) = self.values.get(row).filter(|row| !row.is_empty()) else {
            return Vec::new();
        };
        let mut sums = vec![0.0; self.parts.len()];
        for sample in row.chunks_exact(self.parts.len().max(1)) {
            sums.iter_mut().zip(sample).for_each(|(sum, share)| *sum += share);
        }
        let mut top: Vec<(usize, f32)> = Vec::with_capacity(PARTS + 1);
        for (part, &share) in sums.iter().enumerate() {
            let least = if top.len() < PARTS { 0.0 } else { top.last().map_or(0.0, |t| t.1) };
            // Also false for NaN.
            if share > least && share.is_finite() {
                let place = top.partition_point(|(_, other)| *other >= share);
                top.insert(place, (part, share));
                top.truncate(PARTS);
            }
        }
        let name =
            |(part, share): (usize, f32)| Some((self.parts.get(part)?.as_str(), f64::from(share)));
        top.into_iter().filter_map(name).collect()
    }
}

/// Closed windows and what is known of them so far. All columns have one length.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Windows {
    /// Index into the pipeline's assets.
    pub asset: Vec<u32>,
    /// First instant of the window.
    pub start: Vec<Timestamp>,
    /// First instant after it.
    pub end: Vec<Timestamp>,
    /// Share of the window's points that were measured, interpolated or held: 0 to 1.
    pub coverage: Vec<f64>,
    /// Names of the features, `signal.feature`, in model order.
    pub names: Vec<String>,
    /// Feature values, window after window: `windows * names`, NaN where there was nothing to compute from.
    pub features: Vec<f64>,
    /// The samples themselves where a model asked for them: `windows * steps * channels`, oldest first.
    pub sequence: Vec<f64>,
    /// Samples a window in `sequence`.
    pub steps: usize,
    /// Channels a sample in `sequence`.
    pub channels: usize,
    /// Scores so far, one a score stage.
    pub scores: Vec<Scored>,
}

impl Windows {
    /// How many windows.
    pub fn len(&self) -> usize {
        self.end.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.end.is_empty()
    }

    /// The features of window `index`.
    pub fn row(&self, index: usize) -> &[f64] {
        let width = self.names.len();
        self.features.get(index * width..(index + 1) * width).unwrap_or_default()
    }

    /// The samples of window `index`, oldest first.
    pub fn samples(&self, index: usize) -> &[f64] {
        let width = self.steps * self.channels;
        self.sequence.get(index * width..(index + 1) * width).unwrap_or_default()
    }

    /// Adds windows of the same pipeline behind these, without their scores.
    pub fn append(&mut self, more: Windows) {
        self.names = more.names;
        self.steps = more.steps;
        self.channels = more.channels;
        self.asset.extend(more.asset);
        self.start.extend(more.start);
        self.end.extend(more.end);
        self.coverage.extend(more.coverage);
        self.features.extend(more.features);
        self.sequence.extend(more.sequence);
    }

    /// Some of these windows, in this order, without their scores.
    #[must_use]
    pub fn picked(&self, windows: impl IntoIterator<Item = usize>) -> Windows {
        let (names, steps, channels) = (self.names.clone(), self.steps, self.channels);
        let mut some = Windows { names, steps, channels, ..Windows::default() };
        for at in windows {
            some.asset.push(self.asset[at]);
            some.start.push(self.start[at]);
            some.end.push(self.end[at]);
            some.coverage.push(self.coverage[at]);
            some.features.extend_from_slice(self.row(at));
            some.sequence.extend_from_slice(self.samples(at));
        }
        some
    }
}
