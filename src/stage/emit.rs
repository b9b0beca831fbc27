//! `emit`: makes records of what has been computed so far, and passes it on unchanged.
//!
//! After `clean` or `resample` it sends readings, after `window` it sends windows with their features and scores.
//! A record's id names what it is about, not when it was computed: a recomputation gives the same id.

use std::collections::BTreeMap;

use super::{Around, Effects, Flow, Stage, StageError};
use crate::frame::{Grid, Readings, Scored, Windows};
use crate::record::{
    Contribution, Lane, ModelRef, Outgoing, RawReading, RawRecord, Record, ScoreRecord,
};

/// The stage: a lane, and the signals' names for readings.
pub struct Emit {
    lane: Lane,
    signals: Vec<String>,
}

impl Emit {
    /// Sends on `lane`; `signals` names the schema's signals.
    pub fn new(lane: Lane, signals: Vec<String>) -> Emit {
        Emit { lane, signals }
    }

    fn readings(&self, readings: &Readings, around: &Around<'_>, effects: &mut Effects) {
        let mut at = 0;
        while at < readings.len() {
            let asset = readings.asset[at];
            let end = at + readings.asset[at..].iter().take_while(|a| **a == asset).count();
            let mut signals: BTreeMap<String, Vec<RawReading>> = BTreeMap::new();
            for index in at..end {
                let name = &self.signals[readings.signal[index] as usize];
                let reading = RawReading(readings.ts[index], readings.value[index]);
                match signals.get_mut(name) {
                    Some(list) => list.push(reading),
                    None => drop(signals.insert(name.clone(), vec![reading])),
                }
            }
            self.raw(asset, signals, around, effects);
            at = end;
        }
    }

    fn grid(&self, grid: &Grid, around: &Around<'_>, effects: &mut Effects) {
        let mut at = 0;
        while at < grid.ts.len() {
            let asset = grid.asset[at];
            let end = at + grid.asset[at..].iter().take_while(|a| **a == asset).count();
            let mut signals = BTreeMap::new();
            for (channel, name) in self.signals.iter().enumerate() {
                let value = |row: usize| grid.values[row * grid.channels + channel];
                let known = (at..end).filter(|row| !value(*row).is_nan());
                let list: Vec<_> = known.map(|row| RawReading(grid.ts[row], value(row))).collect();
                if !list.is_empty() {
                    signals.insert(name.clone(), list);
                }
            }
            self.raw(asset, signals, around, effects);
            at = end;
        }
    }

    fn raw(
        &self,
        asset: u32,
        signals: BTreeMap<String, Vec<RawReading>>,
        around: &Around<'_>,
        effects: &mut Effects,
    ) {
        let asset = &around.assets[asset as usize];
        // A tick's readings of one asset: the journal keeps ticks, so a recomputation has the same number.
        let id =
            format!("{}/{}/{}/raw/{}", around.node, around.pipeline, asset.id, around.tick.seq);
        let record = RawRecord {
            id,
            node: around.node.to_owned(),
            pipeline: around.pipeline.to_owned(),
            asset: asset.id.clone(),
            tags: asset.tags.clone(),
            signals,
        };
        effects.records.push(Outgoing { lane: self.lane, record: Record::Raw(record) });
    }

    fn windows(&self, windows: &Windows, around: &Around<'_>, effects: &mut Effects) {
        for index in 0..windows.len() {
            let asset = &around.assets[windows.asset[index] as usize];
            let end = windows.end[index];
            let first = windows.scores.first();
            let speaker = first.and_then(|s| s.speaker(index));
            let known = |value: f64| (!value.is_nan()).then_some(value);
            let features = windows.names.iter().zip(windows.row(index));
            let scores = windows.scores.iter().map(|s| (s.output.clone(), s.values[index]));
            let record = ScoreRecord {
                id: format!(
                    "{}/{}/{}/{}/{}",
                    around.node,
                    around.pipeline,
                    asset.id,
                    self.lane.name(),
                    end.0
                ),
                node: around.node.to_owned(),
                pipeline: around.pipeline.to_owned(),
                asset: asset.id.clone(),
                tags: asset.tags.clone(),
                window_start: windows.start[index],
                window_end: end,
                features: features.map(|(name, value)| (name.clone(), known(*value))).collect(),
                scores: scores.collect(),
                threshold: speaker.and_then(|s| s.threshold),
                coverage: windows.coverage[index],
                model: speaker.map(|s| s.model.clone()),
                model_version: speaker.map(|s| s.version.clone()),
                models: models(&windows.scores, index),
                contributions: first.map_or_else(Vec::new, |s| contributions(s, index)),
            };
            effects.records.push(Outgoing { lane: self.lane, record: Record::Score(record) });
        }
    }
}

/// The models, where there are several.
fn models(scores: &[Scored], index: usize) -> Vec<ModelRef> {
    if scores.len() < 2 {
        return Vec::new();
    }
    let model = |s: &Scored| {
        let speaker = s.speaker(index)?;
        Some(ModelRef {
            output: s.output.clone(),
            model: speaker.model.clone(),
            model_version: speaker.version.clone(),
            threshold: speaker.threshold,
        })
    };
    scores.iter().filter_map(model).collect()
}

fn contributions(score: &Scored, index: usize) -> Vec<Contribution> {
    let parts = score.shares.largest(index).into_iter();
    parts.map(|(name, value)| Contribution { name: name.to_owned(), value }).collect()
}

impl Stage for Emit {
    fn name(&self) -> &'static str {
        "emit"
    }

    fn apply(
        &mut self,
        input: Flow,
        around: &Around<'_>,
        effects: &mut Effects,
    ) -> Result<Flow, StageError> {
        match &input {
            Flow::Readings(readings, _) => self.readings(readings, around, effects),
            Flow::Grid(grid) => self.grid(grid, around, effects),
            Flow::Windows(windows) => self.windows(windows, around, effects),
        }
        Ok(input)
    }
}
