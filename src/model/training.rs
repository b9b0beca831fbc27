//! What the trainers are given: windows with their features, and how they are divided and scaled.
//!
//! `cli train` and the demo fill a [`TrainingSet`] from a pipeline's windows; `pca` and `logistic` learn from it.
//! The clock is never asked: the same windows give the same model, to the byte.

use std::collections::{BTreeMap, BTreeSet};

use super::build::Graph;
use super::golden::{Golden, short};
use super::metadata::{Baseline, Notes, json};
use super::onnx::digest;
use crate::frame::Windows;
use crate::time::{Span, Timestamp};

/// Why nothing could be learned.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrainError {
    /// Not enough windows.
    #[error(
        "{found} windows have all their features, {skipped} do not; \
         at least {needed} are needed: give a longer recording, shorter windows, or windows more often"
    )]
    TooFewRows {
        /// Windows that can be used.
        found: usize,
        /// Windows with a missing feature.
        skipped: usize,
        /// How many are needed.
        needed: usize,
    },
    /// No feature ever changes.
    #[error(
        "none of the {features} features ever changes in this recording: there is nothing to learn"
    )]
    Constant {
        /// How many there are.
        features: usize,
    },
    /// The columns do not have one length.
    #[error("the training set has {rows} numbers for {windows} windows of {features} features")]
    Columns {
        /// Numbers.
        rows: usize,
        /// Windows.
        windows: usize,
        /// Features.
        features: usize,
    },
    /// There is nothing to tell apart.
    #[error(
        "all {found} windows to learn from have the same label, and both normal and faulty ones are needed; what is held \
         out is the end of each asset's recording (`--holdout`)"
    )]
    OneLabel {
        /// Windows.
        found: usize,
    },
    /// A class of which nothing is learned.
    #[error(
        "no window of `{class}` is among those to learn from: all are held out; hold out less (`--holdout`), or \
         record more of it"
    )]
    Unseen {
        /// Its name.
        class: String,
    },
    /// The labels are not one a window.
    #[error("{labels} labels were given for {windows} windows")]
    Labels {
        /// Labels.
        labels: usize,
        /// Windows.
        windows: usize,
    },
    /// A label that is no class.
    #[error(
        "a window has the class number {found}, and there are {classes} classes: give each its name"
    )]
    Class {
        /// The number.
        found: usize,
        /// How many there are.
        classes: usize,
    },
    /// The equations have no solution.
    #[error("the features are so nearly the same that no weights can be found; raise `l2`")]
    Singular,
}

/// Windows to learn from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainingSet {
    /// The model's name in records.
    pub name: String,
    /// Names of the features, in the order in which the pipeline gives them.
    pub names: Vec<String>,
    /// Their units, one each; empty text where not known.
    pub units: Vec<String>,
    /// Length of the windows.
    pub window: Option<Span>,
    /// How often they start.
    pub every: Option<Span>,
    /// Step of the grid under them.
    pub step: Option<Span>,
    /// Samples of a window, where its samples are learned from and not its features: `names` are then the channels.
    pub steps: usize,
    /// Feature values, window after window; or samples, `steps * names` a window, oldest first.
    pub rows: Vec<f64>,
    /// Asset of each window, by any number.
    pub assets: Vec<u32>,
    /// First instant of each window.
    pub starts: Vec<Timestamp>,
    /// First instant after each window.
    pub ends: Vec<Timestamp>,
    /// Windows of which operators said what they were: whether there was a fault.
    pub judged: BTreeMap<usize, bool>,
}

impl TrainingSet {
    /// Adds windows that a pipeline made: their samples where this set has `steps`, else their features. Names of
    /// features become this set's where it has none yet.
    pub fn push(&mut self, windows: &Windows) {
        if self.names.is_empty() {
            self.names.clone_from(&windows.names);
        }
        let rows = if self.steps > 0 { &windows.sequence } else { &windows.features };
        self.rows.extend_from_slice(rows);
        self.assets.extend_from_slice(&windows.asset);
        self.starts.extend_from_slice(&windows.start);
        self.ends.extend_from_slice(&windows.end);
    }

    /// Some of its windows, in this order, without what operators said of them.
    #[must_use]
    pub fn picked(&self, windows: &[usize]) -> TrainingSet {
        TrainingSet {
            rows: windows.iter().flat_map(|&at| self.row(at)).copied().collect(),
            assets: windows.iter().map(|&at| self.assets[at]).collect(),
            starts: windows.iter().map(|&at| self.starts[at]).collect(),
            ends: windows.iter().map(|&at| self.ends[at]).collect(),
            judged: BTreeMap::new(),
            ..self.clone()
        }
    }

    /// How many windows.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Numbers of a window.
    pub fn width(&self) -> usize {
        self.names.len() * self.steps.max(1)
    }

    /// The numbers of window `index`.
    pub fn row(&self, index: usize) -> &[f64] {
        let width = self.width();
        self.rows.get(index * width..(index + 1) * width).unwrap_or_default()
    }

    /// Windows that have all their features, each asset's in time order, one asset after the other.
    pub(super) fn usable(&self, needed: usize) -> Result<Vec<usize>, TrainError> {
        let windows = self.len();
        let features = self.names.len();
        let same = self.assets.len() == windows && self.starts.len() == windows;
        if !same || features == 0 || self.rows.len() != windows * self.width() {
            return Err(TrainError::Columns { rows: self.rows.len(), windows, features });
        }
        let whole = |&index: &usize| self.row(index).iter().all(|value| value.is_finite());
        let mut usable: Vec<usize> = (0..windows).filter(whole).collect();
        if usable.len() < needed {
            let skipped = windows - usable.len();
            return Err(TrainError::TooFewRows { found: usable.len(), skipped, needed });
        }
        usable.sort_by_key(|&index| (self.assets[index], self.ends[index]));
        Ok(usable)
    }

    /// Divides `usable` into what is fitted and the tail that is held out: the last `share` of each asset's windows, and
    /// of those that were judged either way, which are few and of any asset. Windows of the tail that share samples with fitted ones are left out where enough others remain.
    pub(super) fn split(&self, usable: &[usize], share: f64) -> (Vec<usize>, Vec<usize>) {
        let mut groups: BTreeMap<(Option<bool>, u32), Vec<usize>> = BTreeMap::new();
        for &index in usable {
            let said = self.judged.get(&index).copied();
            let asset = if said.is_some() { 0 } else { self.assets[index] };
            groups.entry((said, asset)).or_default().push(index);
        }
        let (mut fit, mut tail) = (Vec::new(), Vec::new());
        for rows in groups.values() {
            let held = (rows.len() as f64 * share).ceil() as usize;
            let (before, after) = rows.split_at(rows.len() - held.min(rows.len() - 1));
            let boundary = before.last().map_or(Timestamp::MIN, |&index| self.ends[index]);
            let apart: Vec<usize> =
                after.iter().copied().filter(|&index| self.starts[index] >= boundary).collect();
            fit.extend_from_slice(before);
            tail.extend_from_slice(if apart.len() * 2 >= after.len() { &apart } else { after });
        }
        (fit, tail)
    }

    /// Divides `usable`, windows of machines that run to their end, by machines: the end of each machine's windows would be
    /// the end of all lives. The last `share` of the machines is held out, of a single one nothing.
    pub(super) fn split_lives(&self, usable: &[usize], share: f64) -> (Vec<usize>, Vec<usize>) {
        let machines: BTreeSet<u32> = usable.iter().map(|&index| self.assets[index]).collect();
        let held = (machines.len() as f64 * share).round() as usize;
        let held = held.max(1).min(machines.len().saturating_sub(1));
        let held: BTreeSet<u32> = machines.into_iter().rev().take(held).collect();
        usable.iter().copied().partition(|&index| !held.contains(&self.assets[index]))
    }

    /// Writes what every model notes: of itself, and of the data it was trained on.
    pub(super) fn note(&self, graph: &mut Graph, notes: &Notes) {
        notes.write(graph);
        graph.note("forebay.name", self.name.as_str());
        if self.steps > 0 {
            graph.note("forebay.channels", json(&self.names));
            graph.note("forebay.steps", self.steps.to_string());
        } else {
            graph.note("forebay.features", json(&self.names));
        }
        if self.units.len() == self.names.len() {
            graph.note("forebay.units", json(&self.units));
        }
        let spans =
            [("window", self.window), ("every", self.every), ("step", self.step)].into_iter();
        for (key, span) in spans.filter_map(|(key, span)| Some((key, span?))) {
            graph.note(&format!("forebay.{key}"), span.to_string());
        }
        if let (Some(start), Some(end)) = (self.starts.iter().min(), self.ends.iter().max()) {
            graph.note("forebay.data_start", start.to_string());
            graph.note("forebay.data_end", end.to_string());
        }
        graph.note("forebay.data_digest", self.digest());
    }

    /// SHA-256 of all windows: their names, ends and numbers.
    pub(super) fn digest(&self) -> String {
        let names = self.names.iter().flat_map(|name| name.bytes().chain([0]));
        let ends = self.ends.iter().flat_map(|end| end.0.to_le_bytes());
        let rows = self.rows.iter().flat_map(|value| value.to_le_bytes());
        let judged = self.judged.iter();
        let judged =
            judged.flat_map(|(at, said)| (*at as u64 * 2 + u64::from(*said)).to_le_bytes());
        digest(&names.chain(ends).chain(rows).chain(judged).collect::<Vec<u8>>())
    }

    /// How the windows `used` are distributed (of samples the last ones), with a score for each of them.
    pub(super) fn baseline(&self, used: &[usize], scores: &[f64]) -> Baseline {
        let last = self.width() - self.names.len();
        let column = |c: usize| tenths(used.iter().map(|&index| self.row(index)[last + c]));
        let assets: BTreeSet<u32> =
            used.iter().filter_map(|&at| self.assets.get(at)).copied().collect();
        Baseline {
            windows: used.len(),
            assets: assets.len().max(1),
            inputs: (0..self.names.len()).map(column).collect(),
            score: tenths(scores.iter().copied()),
        }
    }

    /// Golden vectors: windows from all over `used`, and one that is unlike all of them. `answer` is what the trainer
    /// makes of a row as float32 has it.
    pub(super) fn golden(
        &self,
        used: &[usize],
        scaler: &Scaler,
        answer: impl Fn(&[f64]) -> Vec<(&'static str, f64)>,
    ) -> Golden {
        let one = |(name, value)| (name, vec![value]);
        self.golden_rows(used, scaler, |row| answer(row).into_iter().map(one).collect())
    }

    /// The same, of outputs with several numbers a row.
    pub(super) fn golden_rows(
        &self,
        used: &[usize],
        scaler: &Scaler,
        answer: impl Fn(&[f64]) -> Vec<(&'static str, Vec<f64>)>,
    ) -> Golden {
        let places = (0..4).map(|k| used[k * (used.len() - 1) / 3]);
        let mut rows: Vec<Vec<f64>> = places.map(|index| self.row(index).to_vec()).collect();
        let far = |(c, (mean, factor)): (usize, (&f64, &f64))| {
            let sigmas = if c % 2 == 0 { 6.0 } else { -6.0 };
            if *factor > 0.0 { mean + sigmas / factor } else { *mean }
        };
        let unlike: Vec<f64> =
            scaler.means.iter().zip(&scaler.factors).enumerate().map(far).collect();
        rows.push(unlike.repeat(self.steps.max(1)));
        let mut shape = vec![self.names.len()];
        if self.steps > 0 {
            shape.insert(0, self.steps);
        }
        let mut golden = Golden { shape, tolerance: 2e-3, ..Golden::default() };
        for row in rows {
            let rounded: Vec<f64> = row.iter().map(|value| f64::from(*value as f32)).collect();
            for (name, values) in answer(&rounded) {
                let answers = golden.outputs.entry(name.to_owned()).or_default();
                answers.push(values.into_iter().map(short).collect());
            }
            golden.input.push(rounded.into_iter().map(short).collect());
        }
        golden
    }
}

/// The values that divide `values` into ten equal parts, least and most included.
fn tenths(values: impl Iterator<Item = f64>) -> [f32; 11] {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    std::array::from_fn(|k| quantile_of(&sorted, k as f64 / 10.0) as f32)
}

/// The version of a model without a version of its own: the start of its digest.
pub(super) fn version_of(bytes: &[u8]) -> String {
    digest(bytes).chars().take(12).collect()
}

/// How features, or channels, are brought to one scale: `(value - mean) * factor`, held within [`Scaler::REACH`].
#[derive(Clone, Debug, PartialEq)]
pub struct Scaler {
    /// Of each.
    pub means: Vec<f64>,
    /// One over the standard deviation; 0 for a feature that never changed, which is thereby ignored.
    pub factors: Vec<f64>,
}

impl Scaler {
    /// A value further than so many standard deviations from the mean counts as this far, so that no input, however
    /// wild, makes a score that is not a number.
    pub(super) const REACH: f64 = 1e4;

    /// Learns the scale of the rows `fit`.
    pub(super) fn learn(set: &TrainingSet, fit: &[usize]) -> Scaler {
        let width = set.names.len().max(1);
        let count = (fit.len() * set.steps.max(1)) as f64;
        let steps = || fit.iter().flat_map(|&index| set.row(index).chunks_exact(width));
        let mut means = vec![0.0; width];
        for step in steps() {
            means.iter_mut().zip(step).for_each(|(mean, value)| *mean += value / count);
        }
        let mut squares = vec![0.0; width];
        for step in steps() {
            for ((square, mean), value) in squares.iter_mut().zip(&means).zip(step) {
                *square += (value - mean).powi(2) / (count - 1.0).max(1.0);
            }
        }
        let factors = means.iter().zip(squares).map(|(mean, square)| {
            let deviation = square.sqrt();
            // Below this a float32 input cannot carry the change anyway.
            if deviation > 1e-6 * mean.abs().max(1e-6) { 1.0 / deviation } else { 0.0 }
        });
        let factors = factors.collect();
        Scaler { means, factors }
    }

    /// The same as the graph has it: in float32.
    pub(super) fn rounded(&self) -> Scaler {
        Scaler { means: rounded(&self.means), factors: rounded(&self.factors) }
    }

    /// A row brought to scale, all its steps.
    pub(super) fn apply(&self, row: &[f64]) -> Vec<f64> {
        let scale = || self.means.iter().zip(&self.factors);
        let scaled = row.iter().zip(scale().cycle()).map(|(v, (mean, f))| ((v, mean), f));
        scaled.map(|((v, mean), f)| ((v - mean) * f).clamp(-Self::REACH, Self::REACH)).collect()
    }

    /// Names of the features that never changed.
    pub(super) fn constant(&self, names: &[String]) -> Vec<String> {
        let pairs = names.iter().zip(&self.factors);
        pairs.filter(|(_, factor)| **factor == 0.0).map(|(name, _)| name.clone()).collect()
    }

    /// Writes the scaling of the value `input` into `graph`; gives the name of the result.
    pub(super) fn write(&self, graph: &mut Graph, input: &str) -> &'static str {
        let width = self.means.len();
        graph.weights("mean", &[width], &self.means);
        graph.weights("factor", &[width], &self.factors);
        graph.weights("least", &[], &[-Self::REACH]);
        graph.weights("most", &[], &[Self::REACH]);
        graph.node("Sub", &[input, "mean"], "centred");
        graph.node("Mul", &["centred", "factor"], "unbounded");
        graph.node("Clip", &["unbounded", "least", "most"], "scaled")
    }
}

/// Numbers as float32 has them.
pub(super) fn rounded(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value as f32)).collect()
}

/// Refuses to learn to tell apart what is not there: where the windows `fit` are all of one class, or a class of the `usable`
/// ones is not among them, which a model would then never say.
pub(super) fn can_be_told_apart(
    names: &[String],
    of: impl Fn(usize) -> Option<usize>,
    (usable, fit): (&[usize], &[usize]),
) -> Result<(), TrainError> {
    let classes =
        |rows: &[usize]| -> BTreeSet<usize> { rows.iter().filter_map(|&row| of(row)).collect() };
    let learned = classes(fit);
    if learned.len() < 2 {
        return Err(TrainError::OneLabel { found: fit.len() });
    }
    let unseen = classes(usable).difference(&learned).next().copied();
    unseen.map_or(Ok(()), |class| {
        Err(TrainError::Unseen { class: names.get(class).cloned().unwrap_or_default() })
    })
}

/// The value below which the share `q` of `values` lies, between neighbours in proportion; 0 where there are none.
pub(super) fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile_of(&sorted, q)
}

fn quantile_of(sorted: &[f64], q: f64) -> f64 {
    let place = q.clamp(0.0, 1.0) * sorted.len().saturating_sub(1) as f64;
    let (low, share) = (place.floor() as usize, place.fract());
    let below = sorted.get(low).copied().unwrap_or_default();
    let above = sorted.get(low + 1).copied().unwrap_or(below);
    below + (above - below) * share
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(windows: usize) -> TrainingSet {
        let time = |seconds: usize| Timestamp(seconds as i64 * 1_000_000);
        TrainingSet {
            names: vec!["a.mean".into(), "b.mean".into()],
            rows: (0..windows * 2).map(|i| i as f64).collect(),
            assets: (0..windows).map(|i| (i % 2) as u32).collect(),
            starts: (0..windows).map(time).collect(),
            ends: (0..windows).map(|i| time(i + 4)).collect(),
            ..TrainingSet::default()
        }
    }

    #[test]
    fn the_tail_is_the_end_of_each_asset_and_shares_no_samples_with_the_rest() {
        let set = set(80);
        let usable = set.usable(10).unwrap();
        let (fit, tail) = set.split(&usable, 0.25);
        for asset in 0..2 {
            let of = |rows: &[usize]| -> Vec<usize> {
                rows.iter().copied().filter(|&i| set.assets[i] == asset).collect()
            };
            let (fit, tail) = (of(&fit), of(&tail));
            assert_eq!(fit.len(), 30);
            assert_eq!(tail.len(), 9);
            let last = fit.iter().map(|&i| set.ends[i]).max().unwrap();
            assert!(tail.iter().all(|&i| set.starts[i] >= last));
        }
    }

    #[test]
    fn of_lives_whole_machines_are_held_out() {
        let mut set = set(80);
        let usable = set.usable(10).unwrap();
        let (fit, held) = set.split_lives(&usable, 0.25);
        assert_eq!((fit.len(), held.len()), (40, 40));
        assert!(
            held.iter().all(|&at| set.assets[at] == 1) && fit.iter().all(|&at| set.assets[at] == 0)
        );
        set.assets.fill(0);
        assert_eq!(set.split_lives(&usable, 0.25), (usable.clone(), Vec::new()), "of one nothing");
    }

    #[test]
    fn windows_with_a_missing_feature_are_not_used() {
        let mut set = set(12);
        set.rows[5] = f64::NAN;
        set.rows[8] = f64::INFINITY;
        assert_eq!(set.usable(10).unwrap().len(), 10);
        let error = set.usable(11).unwrap_err();
        assert_eq!(error, TrainError::TooFewRows { found: 10, skipped: 2, needed: 11 });
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        let values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(quantile(&values, 0.0), 1.0);
        assert_eq!(quantile(&values, 0.5), 2.5);
        assert_eq!(quantile(&values, 1.0), 4.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
