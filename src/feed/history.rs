//! Recent scored windows of one asset, small enough to keep hundreds.
//!
//! `live` holds one a (pipeline, asset). A record is mostly names that never change; they are kept once, and of each
//! window only its numbers. What is given back is the record as it was.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::record::{Contribution, ScoreRecord};
use crate::time::Timestamp;

/// A ring of scored windows, in order of arrival.
#[derive(Debug, Default)]
pub struct History {
    kept: VecDeque<Kept>,
}

/// One window: its numbers, and what it has in common with its neighbours.
#[derive(Debug)]
struct Kept {
    /// A record of which only the names are meant.
    common: Arc<ScoreRecord>,
    id: Box<str>,
    window_start: Timestamp,
    window_end: Timestamp,
    coverage: f64,
    /// Features, then scores, in the order of their names; NaN stands for null.
    values: Box<[f64]>,
    contributions: Box<[Contribution]>,
}

impl History {
    /// Adds a window, and forgets the oldest beyond `limit`. A repeat of the newest replaces it.
    pub fn push(&mut self, record: &ScoreRecord, limit: usize) {
        let common = match self.kept.back() {
            Some(last) if alike(&last.common, record) => Arc::clone(&last.common),
            _ => Arc::new(common_part(record)),
        };
        if self.kept.back().is_some_and(|last| *last.id == *record.id) {
            self.kept.pop_back();
        }
        let values = record.features.values().chain(record.scores.values());
        self.kept.push_back(Kept {
            common,
            id: record.id.as_str().into(),
            window_start: record.window_start,
            window_end: record.window_end,
            coverage: record.coverage,
            values: values.map(|v| v.unwrap_or(f64::NAN)).collect(),
            contributions: record.contributions.as_slice().into(),
        });
        while self.kept.len() > limit.max(1) {
            self.kept.pop_front();
        }
    }

    /// How many windows are kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The newest `limit` windows that end within `from..=to`, oldest first.
    pub fn between(&self, from: Timestamp, to: Timestamp, limit: usize) -> Vec<ScoreRecord> {
        let wanted = self.kept.iter().rev().filter(|k| (from..=to).contains(&k.window_end));
        let mut records: Vec<ScoreRecord> = wanted.take(limit).map(Kept::record).collect();
        records.reverse();
        records
    }

    /// The end and value of each window since `from`, for the score (or else the feature) of this name, with the
    /// score's threshold. Empty where no window has it.
    pub fn series(&self, name: &str, from: Timestamp) -> Vec<Point> {
        let wanted = self.kept.iter().filter(|k| k.window_end >= from);
        wanted.filter_map(|kept| kept.point(name)).collect()
    }
}

/// A point of a chart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// The window's end.
    pub at: Timestamp,
    /// The score or feature; `None` where it could not be computed.
    pub value: Option<f64>,
    /// The score's threshold.
    pub threshold: Option<f64>,
}

impl Kept {
    fn record(&self) -> ScoreRecord {
        let mut values = self.values.iter().map(|v| if v.is_nan() { None } else { Some(*v) });
        let mut fill = |names: &BTreeMap<String, Option<f64>>| -> BTreeMap<String, Option<f64>> {
            names.keys().map(|name| (name.clone(), values.next().flatten())).collect()
        };
        let features = fill(&self.common.features);
        let scores = fill(&self.common.scores);
        ScoreRecord {
            id: self.id.to_string(),
            window_start: self.window_start,
            window_end: self.window_end,
            coverage: self.coverage,
            contributions: self.contributions.to_vec(),
            features,
            scores,
            ..ScoreRecord::clone(&self.common)
        }
    }

    fn point(&self, name: &str) -> Option<Point> {
        let index = self.common.scores.keys().position(|n| n == name);
        let index = match index {
            Some(index) => self.common.features.len() + index,
            None => self.common.features.keys().position(|n| n == name)?,
        };
        let value = self.values.get(index).copied().filter(|v| v.is_finite());
        Some(Point { at: self.window_end, value, threshold: threshold_of(&self.common, name) })
    }
}

/// The threshold of one of a record's scores; features have none.
pub fn threshold_of(record: &ScoreRecord, score: &str) -> Option<f64> {
    if !record.scores.contains_key(score) {
        return None;
    }
    match record.models.iter().find(|m| m.output == score) {
        Some(model) => model.threshold,
        None if main_score(record) == Some(score) => record.threshold,
        None => None,
    }
}

/// The name of a record's first score: the first model's.
pub fn main_score(record: &ScoreRecord) -> Option<&str> {
    match record.models.first() {
        Some(model) => Some(&model.output),
        None => record.scores.keys().next().map(String::as_str),
    }
}

fn alike(a: &ScoreRecord, b: &ScoreRecord) -> bool {
    a.features.keys().eq(b.features.keys())
        && a.scores.keys().eq(b.scores.keys())
        && a.node == b.node
        && a.tags == b.tags
        && a.threshold == b.threshold
        && a.model == b.model
        && a.model_version == b.model_version
        && a.models == b.models
}

fn common_part(record: &ScoreRecord) -> ScoreRecord {
    let names =
        |map: &BTreeMap<String, Option<f64>>| map.keys().map(|k| (k.clone(), None)).collect();
    ScoreRecord {
        id: String::new(),
        features: names(&record.features),
        scores: names(&record.scores),
        contributions: Vec::new(),
        ..record.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ModelRef;

    pub(crate) fn record(n: i64, scores: &[(&str, Option<f64>)]) -> ScoreRecord {
        let value = |name: &str, v: Option<f64>| (name.to_owned(), v);
        ScoreRecord {
            id: format!("id-{n}"),
            node: "n".into(),
            pipeline: "p".into(),
            asset: "a".into(),
            tags: BTreeMap::new(),
            window_start: Timestamp(n),
            window_end: Timestamp(n + 1),
            features: [value("x.mean", Some(n as f64)), value("x.std", None)].into(),
            scores: scores.iter().map(|(name, v)| value(name, *v)).collect(),
            threshold: Some(0.9),
            coverage: 1.0,
            model: None,
            model_version: None,
            models: Vec::new(),
            contributions: vec![Contribution { name: "x".into(), value: n as f64 }],
        }
    }

    #[test]
    fn records_come_back_as_they_were_also_when_their_names_change() {
        let mut history = History::default();
        let given: Vec<ScoreRecord> = (0..6)
            .map(|n| match n % 3 {
                0 => record(n, &[("anomaly", Some(0.1))]),
                1 => record(n, &[("anomaly", None)]),
                _ => record(n, &[("anomaly", Some(0.2)), ("risk", Some(0.5))]),
            })
            .collect();
        for one in &given {
            history.push(one, 5);
        }
        assert_eq!(history.between(Timestamp::MIN, Timestamp::MAX, 100), given[1..]);
        assert_eq!(history.between(Timestamp(3), Timestamp(5), 2), given[3..5]);
        history.push(&given[5], 5);
        assert_eq!(history.len(), 5, "a repeat is not kept twice");
    }

    #[test]
    fn a_series_has_the_threshold_of_its_own_model() {
        let mut history = History::default();
        let mut both = record(1, &[("anomaly", Some(0.2)), ("risk", Some(0.5))]);
        for (output, threshold) in [("risk", 0.6), ("anomaly", 0.9)] {
            both.models.push(ModelRef {
                output: output.into(),
                model: "m".into(),
                model_version: "1".into(),
                threshold: Some(threshold),
            });
        }
        history.push(&both, 5);
        let threshold = |name: &str| history.series(name, Timestamp::MIN)[0].threshold;
        assert_eq!(threshold("risk"), Some(0.6));
        assert_eq!(threshold("anomaly"), Some(0.9));
        assert_eq!(threshold("x.mean"), None);
        assert!(history.series("nope", Timestamp::MIN).is_empty());
    }
}
