//! Where an asset's inputs lie is learned slowly while it runs, and what a model is given is moved back by as much.
//!
//! Part of `scorer`. Machines differ, wear and have seasons; a model's scale is that of its training data. Only the place of
//! each input is followed, never its spread: most faults begin as a wider spread. What is compared are means of values held
//! within the middle eight tenths of the training data, so that no value, however wild, counts for more than their edge.
//!
//! Event time is divided into blocks of an eighth of the half-life. Within one, what the model is given is moved by the
//! same, so how windows are cut into ticks changes nothing. What guards it against learning a fault:
//! only windows teach whose score lies in the lower half of the way from normal to the threshold; a block in which more
//! than one in ten does not is not learned, nor is the one before it, which may hold the fault's beginning, since each
//! block waits until the next one has ended; nothing moves further than `most` standard deviations of the training data,
//! and what would asks for a new training.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{ScoreStage, Scorer};
use crate::frame::Speaker;
use crate::model::Mismatch;
use crate::model::metadata::Baseline;
use crate::pipeline::spec::RecalibrateSpec;
use crate::record::{Contribution, Lane, NoticeKind, NoticeRecord, Outgoing, Record};
use crate::stage::{Around, Effects, of_asset};
use crate::time::{Span, Timestamp};

/// Blocks in a half-life.
const BLOCKS: i64 = 8;
/// A block with more windows than one in so many that are not calm is not learned.
const ONE_IN: u32 = 10;
/// It is told when an input has moved by so many standard deviations.
const STEP: f64 = 0.25;
/// Inputs that a record names.
const PARTS: usize = 5;
/// A normal distribution's ninth decile less its first, in standard deviations.
const DECILES: f64 = 2.563;

/// How one model's inputs are followed.
#[derive(Clone, Debug)]
pub(super) struct Recalibration {
    half_life: Span,
    most: f64,
    /// Below this score a window is calm.
    calm: f64,
    places: Vec<Place>,
    /// Numbers of a window that follow each other and are of one input.
    each: usize,
    /// By asset.
    assets: Vec<Option<Followed>>,
}

/// Where an input of the training data lies.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Its first and ninth decile.
    low: f64,
    high: f64,
    /// Mean of its values held between them.
    mean: f64,
    /// Its standard deviation; 0 where it never changed.
    deviation: f64,
}

impl Place {
    fn of(tenths: &[f32; 11]) -> Place {
        let edge = |k: usize| f64::from(tenths[k]);
        let (low, high) = (edge(1), edge(9));
        // A tenth lies below the first edge, a tenth above the last, and a tenth evenly between each two.
        let between = (1..9).map(|k| f64::midpoint(edge(k), edge(k + 1)));
        let mean = (low + high + between.sum::<f64>()) / 10.0;
        Place { low, high, mean, deviation: (high - low) / DECILES }
    }
}

/// What is remembered of an asset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Followed {
    /// Number of the block under way.
    block: i64,
    /// End of the last window.
    last: Timestamp,
    seen: u32,
    calm: u32,
    /// Time that calm windows stand for.
    covered: Span,
    /// Sums of how far calm windows' values lie from where the training data's do.
    sums: Vec<f64>,
    /// The block before, which waits: its time and its means.
    waits: Option<(Span, Vec<f64>)>,
    /// By how much each input is moved back.
    shift: Vec<f64>,
    /// The same as it was told last.
    told: Vec<f64>,
    /// Whether something was held at the most that it may move when that was told.
    told_held: bool,
}

/// A block of an asset that is over, and how far its inputs are moved back from then on.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ended {
    asset: u32,
    at: Timestamp,
    shift: Vec<f64>,
}

/// What there is to tell.
struct Moved {
    /// The furthest move before and now, in standard deviations.
    before: f64,
    now: f64,
    /// Inputs and how far they are moved, in standard deviations, the furthest first.
    parts: Vec<(usize, f64)>,
    is_held: bool,
}

impl Recalibration {
    /// For a model whose contract says where its training data lay, in as many inputs as `columns`, of which each has
    /// `each` numbers in a row.
    pub(super) fn new(
        spec: &RecalibrateSpec,
        speaker: &Speaker,
        (columns, each): (usize, usize),
    ) -> Result<Recalibration, Mismatch> {
        let misfit = |what: &str, expected: &str, found: String| Mismatch {
            what: format!("{what} for `recalibrate`"),
            expected: expected.to_owned(),
            found,
        };
        let baseline: Option<&Baseline> = speaker.baseline.as_ref().map(Arc::as_ref);
        let Some(baseline) = baseline.filter(|baseline| baseline.inputs.len() == columns) else {
            let found = baseline.map_or("none".into(), |b| format!("{} inputs", b.inputs.len()));
            let expected = format!("a `forebay.baseline` of {columns} inputs, as `train` notes it");
            return Err(misfit("distribution of the training data", &expected, found));
        };
        let normal = f64::from(baseline.score[5]);
        let Some(threshold) = speaker.threshold.filter(|threshold| *threshold > normal) else {
            let found = speaker.threshold.map_or("none".into(), |threshold| threshold.to_string());
            let expected = format!("one above {normal}, the middle of the training data's scores");
            return Err(misfit("threshold", &expected, found));
        };
        Ok(Recalibration {
            half_life: spec.half_life,
            most: spec.most,
            calm: f64::midpoint(normal, threshold),
            places: baseline.inputs.iter().map(Place::of).collect(),
            each: each.max(1),
            assets: Vec::new(),
        })
    }

    /// The input that a number of a window is of.
    fn column(&self, at: usize) -> usize {
        at / self.each % self.places.len().max(1)
    }

    /// The block that a window with this end lies in.
    pub(super) fn block(&self, end: Timestamp) -> i64 {
        end.0.div_euclid((self.half_life.0 / BLOCKS).max(1))
    }

    /// What is remembered of all assets.
    pub(super) fn assets(&self) -> &[Option<Followed>] {
        &self.assets
    }

    /// Goes on with what was remembered, where it is of as many inputs.
    pub(super) fn remember(&mut self, assets: Vec<Option<Followed>>) {
        let fits = |f: &Followed| f.shift.len() == self.places.len();
        self.assets = if assets.iter().flatten().all(fits) { assets } else { Vec::new() };
    }

    /// What is remembered of an asset, and back to that: a batch that failed has taught nothing.
    pub(super) fn of(&self, asset: u32) -> Option<Followed> {
        self.assets.get(asset as usize).cloned().flatten()
    }

    pub(super) fn restore(&mut self, asset: u32, followed: Option<Followed>) {
        if let Some(place) = self.assets.get_mut(asset as usize) {
            *place = followed;
        }
    }

    /// Begins with a window that ends at `end`; a block that is over is worked off first.
    pub(super) fn begin(&mut self, asset: u32, end: Timestamp) -> Option<Ended> {
        let block = self.block(end);
        let columns = self.places.len();
        let fresh = || Followed {
            block,
            last: end,
            seen: 0,
            calm: 0,
            covered: Span::ZERO,
            sums: vec![0.0; columns],
            waits: None,
            shift: vec![0.0; columns],
            told: vec![0.0; columns],
            told_held: false,
        };
        let followed = of_asset(&mut self.assets, asset, || None);
        let followed = followed.get_or_insert_with(fresh);
        if block <= followed.block {
            return None;
        }
        followed.end_block(block, &self.places, self.half_life, self.most);
        Some(Ended { asset, at: end, shift: followed.shift.clone() })
    }

    /// What there is to tell of an asset whose inputs are moved by `shift`.
    fn moved(&mut self, asset: u32, shift: &[f64]) -> Option<Moved> {
        let followed = self.assets.get_mut(asset as usize)?.as_mut()?;
        followed.moved(shift, &self.places, self.most)
    }

    /// Moves a window's numbers back: its features, or its samples, input by input.
    pub(super) fn move_back(&self, asset: u32, row: &mut [f64]) {
        let Some(Some(followed)) = self.assets.get(asset as usize) else { return };
        for (at, value) in row.iter_mut().enumerate() {
            *value -= followed.shift[self.column(at)];
        }
    }

    /// Learns from a window that was scored: `row` as the model was given it.
    pub(super) fn learn(
        &mut self,
        asset: u32,
        (start, end): (Timestamp, Timestamp),
        row: &[f64],
        score: f64,
    ) {
        let columns = self.places.len();
        let Some(Some(followed)) = self.assets.get_mut(asset as usize) else { return };
        followed.seen += 1;
        // After a gap a window stands for no more than itself.
        let since = end.since(followed.last).clamp(Span::ZERO, end.since(start));
        followed.last = end;
        if score >= self.calm || !score.is_finite() {
            return;
        }
        followed.calm += 1;
        followed.covered = Span(followed.covered.0 + since.0);
        let samples = (row.len() / columns.max(1)).max(1) as f64;
        for (at, value) in row.iter().enumerate() {
            let column = at / self.each % columns;
            let place = &self.places[column];
            let held = value.clamp(place.low, place.high);
            followed.sums[column] += (held - place.mean) / samples;
        }
    }
}

impl Followed {
    /// The block under way is over: what waited is learned, what was learned of the block waits; or, if much of it was not
    /// calm, neither.
    fn end_block(&mut self, next: i64, places: &[Place], half_life: Span, most: f64) {
        let restless = self.seen - self.calm;
        if restless * ONE_IN > self.seen {
            self.waits = None;
        } else if self.calm > 0 {
            let count = f64::from(self.calm);
            let means = self.sums.iter().map(|sum| sum / count).collect();
            let before = self.waits.replace((self.covered, means));
            if let Some((covered, means)) = before {
                let share = 1.0 - (-(covered.0 as f64 / half_life.0 as f64)).exp2();
                for ((shift, mean), place) in self.shift.iter_mut().zip(means).zip(places) {
                    let furthest = most * place.deviation;
                    *shift = (*shift + share * mean).clamp(-furthest, furthest);
                }
            }
        }
        (self.block, self.seen, self.calm, self.covered) = (next, 0, 0, Span::ZERO);
        self.sums.fill(0.0);
    }

    /// What there is to tell since the last time.
    fn moved(&mut self, shift: &[f64], places: &[Place], most: f64) -> Option<Moved> {
        let deviations = |shift: &[f64]| -> Vec<f64> {
            let each = shift.iter().zip(places);
            each.map(|(s, p)| if p.deviation > 0.0 { s / p.deviation } else { 0.0 }).collect()
        };
        let (now, before) = (deviations(shift), deviations(&self.told));
        let is_held = now.iter().any(|moved| moved.abs() >= most * (1.0 - 1e-9));
        let is_far = now.iter().zip(&before).any(|(now, before)| (now - before).abs() >= STEP);
        if !is_far && (!is_held || self.told_held) {
            return None;
        }
        self.told = shift.to_vec();
        self.told_held = is_held;
        let furthest = |moved: &[f64]| moved.iter().map(|m| m.abs()).fold(0.0, f64::max);
        let (before, largest) = (furthest(&before), furthest(&now));
        let mut order: Vec<usize> = (0..now.len()).collect();
        order.sort_by(|a, b| now[*b].abs().total_cmp(&now[*a].abs()));
        let parts = order.iter().take(PARTS).map(|at| (*at, now[*at])).collect();
        Some(Moved { before, now: largest, parts, is_held })
    }
}

impl ScoreStage {
    /// The records of inputs that have moved, of the model that speaks for the asset. Of the other one they are told once it
    /// does.
    pub(super) fn tell_moved(&mut self, around: &Around<'_>, effects: &mut Effects) {
        let name = self.loader.output();
        let rollout = self.rollout.as_mut();
        let chosen = rollout.as_ref().map_or_else(Vec::new, |r| r.state.chosen(around.assets));
        let is_chosen = |asset: u32| chosen.get(asset as usize).copied().unwrap_or(false);
        self.current.tell_moved(name, |asset| !is_chosen(asset), around, effects);
        if let Some(rollout) = rollout {
            rollout.candidate.tell_moved(name, is_chosen, around, effects);
        }
    }
}

impl Scorer {
    fn tell_moved(
        &mut self,
        name: &str,
        is_heard: impl Fn(u32) -> bool,
        around: &Around<'_>,
        effects: &mut Effects,
    ) {
        for Ended { asset, at, shift } in std::mem::take(&mut self.ended) {
            let followed = self.recalibration.as_mut().filter(|_| is_heard(asset));
            let Some(moved) = followed.and_then(|r| r.moved(asset, &shift)) else { continue };
            let asset = &around.assets[asset as usize];
            let part =
                |(at, value): (usize, f64)| Contribution { name: self.parts[at].clone(), value };
            let (node, pipeline) = (around.node, around.pipeline);
            let record = NoticeRecord {
                id: format!("{node}/{pipeline}/{}/notice/recalibration/{name}/{}", asset.id, at.0),
                node: node.to_owned(),
                pipeline: pipeline.to_owned(),
                asset: asset.id.clone(),
                tags: asset.tags.clone(),
                kind: NoticeKind::Recalibration,
                name: name.to_owned(),
                at,
                since: None,
                before: Some(moved.before),
                value: Some(moved.now),
                drift: None,
                contributions: moved.parts.into_iter().map(part).collect(),
                retrain: moved.is_held,
                model_version: Some(self.speaker.version.clone()),
                reason: if moved.is_held {
                    "inputs lie further from the training data than `most` allows: train with this asset's data".into()
                } else {
                    "what the model is given is moved back, by so many standard deviations of the training data".into()
                },
            };
            effects.records.push(Outgoing { lane: Lane::Alarm, record: Record::Notice(record) });
        }
    }
}
