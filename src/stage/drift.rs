//! `drift`: whether what a model sees is still what it was trained on; told for each asset, with what has moved since when.
//!
//! After `score`; it passes windows on unchanged. Each asset's windows of a time (`over`) are counted by the tenths of the
//! model's baseline, feature by feature, and so are the scores ([`Tenths`]); [`Adwin`] follows the score's place in the
//! baseline. At the end of the time they are compared, and a change of the verdict is a record. The kinds are those of
//! Moreno-Torres et al., "A unifying view on dataset shift in classification" (2012), as far as they can be told without
//! labels; the rule that tells a regime is ours:
//!
//! - *input*: features have moved. The model is asked about what it has not seen.
//! - *score*: the score has moved and no feature has: they go together in another way. A fault, or a model that is out of
//!   date.
//! - *regime*: features of two signals or more have moved at once, within one such time and from where nothing had moved,
//!   and the score has not: another product or load. Not a reason to retrain by itself.
//! - *missing*: features could not be computed, oftener than is allowed. Beside the others.
//!
//! A baseline of several assets is wider than each of them, so there an asset must also be off what was usual for it in the
//! first such time.
//!
//! Memory is ten counts a feature, ten for the score and the buckets of ADWIN; nothing of it grows with time but these by
//! its logarithm. Another model's baseline starts it anew. A model without a baseline is not followed.

mod adwin;
mod tenths;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use adwin::Adwin;
pub use tenths::{Distance, Tenths, rank};

use super::{Around, Effects, Flow, Stage, StageError, load_state, of_asset, save_state};
use crate::frame::{Baseline, Scored, Windows};
use crate::pipeline::spec::DriftSpec;
use crate::record::{Contribution, DriftKind, Lane, NoticeKind, NoticeRecord, Outgoing, Record};
use crate::time::{Span, Timestamp};

/// Fewer windows are not compared: the time goes on until there are so many.
const WINDOWS_MIN: u32 = 100;
/// PSI below this is no change at all.
const QUIET: f64 = 0.1;
/// The mean place of the score in the baseline, 0.5 in training, counts as moved from here on.
const RANK_MOVED: f64 = 0.1;
/// Features that a record names.
const PARTS: usize = 5;

/// The stage.
pub struct Drift {
    spec: DriftSpec,
    /// Windows that share samples count as one.
    overlap: u32,
    /// By asset: what is known with the model that speaks for it, and with the one that did before, which may return.
    assets: Vec<Option<(Followed, Option<Followed>)>>,
}

/// What is known of an asset.
#[derive(Clone, Serialize, Deserialize)]
struct Followed {
    /// The model's digest: another model has another baseline.
    model: String,
    /// First instant of the time that is counted.
    start: Timestamp,
    /// Windows in it, and those of them at or above the threshold.
    windows: u32,
    above: u32,
    inputs: Vec<Tenths>,
    missing: Vec<u32>,
    score: Tenths,
    adwin: Adwin,
    /// Scores that share samples, on the way to ADWIN as their mean.
    waiting: (u32, f64),
    /// The last change that ADWIN has seen in it.
    cut: Option<Timestamp>,
    /// What each feature was before.
    past: Vec<Past>,
    score_since: Option<Timestamp>,
    /// What was usual for it in the first time that was compared: its inputs, and its score.
    usual: Option<(Vec<Tenths>, Tenths)>,
    standing: Standing,
}

/// A feature's state after the last time that was compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Past {
    /// Since when it has moved.
    since: Option<Timestamp>,
    /// Whether it moved at once, and not little by little.
    at_once: bool,
    /// How many times ago it had not moved at all; nothing where it always had.
    calm: Option<u8>,
}

/// What has been told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Standing {
    drift: Option<DriftKind>,
    /// The features, or the score, in which the last comparison found it.
    parts: Vec<String>,
    /// Whether a new training was recommended.
    retrain: bool,
    missing: bool,
}

/// What the comparison of a time gave.
struct Found {
    drift: Option<DriftKind>,
    since: Option<Timestamp>,
    /// Features, or the score, with the largest PSI first; and the names of all.
    parts: Vec<Contribution>,
    names: Vec<String>,
    moved: usize,
    is_score_moved: bool,
    missing: Vec<Contribution>,
    /// Whether the asset was in alarm for most of the time.
    is_abnormal: bool,
}

impl Followed {
    fn new(model: &str, features: usize, start: Timestamp) -> Followed {
        Followed {
            model: model.to_owned(),
            start,
            windows: 0,
            above: 0,
            inputs: vec![Tenths::default(); features],
            missing: vec![0; features],
            score: Tenths::default(),
            adwin: Adwin::default(),
            waiting: (0, 0.0),
            cut: None,
            past: vec![Past::default(); features],
            score_since: None,
            usual: None,
            standing: Standing::default(),
        }
    }

    /// Counts a window.
    fn count(&mut self, seen: &Seen<'_>, spec: &DriftSpec, overlap: u32) {
        let Seen { baseline, features, score, threshold, end, .. } = *seen;
        self.windows += 1;
        for ((edges, value), (tenths, missing)) in
            baseline.inputs.iter().zip(features).zip(self.inputs.iter_mut().zip(&mut self.missing))
        {
            if value.is_finite() {
                tenths.count(edges, *value);
            } else {
                *missing += 1;
            }
        }
        let Some(score) = score else { return };
        self.score.count(&baseline.score, score);
        self.above += u32::from(threshold.is_some_and(|threshold| score >= threshold));
        self.waiting.0 += 1;
        self.waiting.1 += rank(&baseline.score, score);
        if self.waiting.0 >= overlap {
            let (count, sum) = std::mem::take(&mut self.waiting);
            let cut = self.adwin.take(sum / f64::from(count), end, spec.delta);
            self.cut = cut.or(self.cut);
        }
    }

    /// Compares what was counted with the baseline, and starts anew at `end`.
    fn compare(
        &mut self,
        seen: &Seen<'_>,
        names: &[String],
        spec: &DriftSpec,
        overlap: u32,
    ) -> Found {
        let (baseline, start) = (seen.baseline, self.start);
        let overlap = f64::from(overlap);
        let usual = self.usual.as_ref();
        let far = |tenths, edges, usual| distance(tenths, (baseline, edges), usual, overlap);
        let mut parts = Vec::new();
        for (at, edges) in baseline.inputs.iter().enumerate().take(self.inputs.len()) {
            let usual = usual.and_then(|usual| usual.0.get(at));
            let distance = far(&self.inputs[at], edges, usual);
            let has_moved = distance.is_sure && distance.psi >= spec.psi;
            let past = &mut self.past[at];
            if has_moved && past.since.is_none() {
                // One time between may have held both what was and what is.
                (past.since, past.at_once) = (Some(start), past.calm.is_some_and(|n| n <= 1));
            } else if !has_moved {
                past.since = None;
                let is_calm = !distance.is_sure || distance.psi < QUIET;
                past.calm = if is_calm { Some(0) } else { past.calm.map(|n| n.saturating_add(1)) };
            }
            if has_moved {
                parts.push(Contribution { name: names[at].clone(), value: distance.psi });
            }
        }
        let distance = far(&self.score, &baseline.score, usual.map(|usual| &usual.1));
        let is_far = (self.adwin.mean() - 0.5).abs() >= RANK_MOVED;
        let by_adwin = is_far && (self.cut.is_some() || self.score_since.is_some());
        let is_score_moved = by_adwin || (distance.is_sure && distance.psi >= spec.psi);
        self.score_since = is_score_moved.then(|| self.score_since.or(self.cut).unwrap_or(start));
        let drift = self.kind(&parts, names, is_score_moved);
        let since = match drift {
            Some(DriftKind::Score) => self.score_since,
            _ => self.past.iter().filter_map(|past| past.since).min(),
        };
        let moved = parts.len();
        if drift == Some(DriftKind::Score) {
            parts.push(Contribution { name: spec.on.clone(), value: distance.psi });
        }
        parts.sort_by(|a, b| b.value.total_cmp(&a.value));
        let all: Vec<String> = parts.iter().map(|part| part.name.clone()).collect();
        parts.truncate(PARTS);
        let missing = self.lacking(names, spec);
        let is_abnormal = self.above * 2 > self.windows;
        if baseline.assets > 1 && self.usual.is_none() {
            self.usual = Some((self.inputs.clone(), self.score));
        }
        self.begin(seen.end);
        Found { drift, since, parts, names: all, moved, is_score_moved, missing, is_abnormal }
    }

    /// Features that could not be computed oftener than is allowed, with how often.
    fn lacking(&self, names: &[String], spec: &DriftSpec) -> Vec<Contribution> {
        let windows = f64::from(self.windows);
        let lacks = self.missing.iter().zip(names).map(|(count, name)| Contribution {
            name: name.clone(),
            value: f64::from(*count) / windows,
        });
        lacks.filter(|lack| lack.value > spec.missing).take(PARTS).collect()
    }

    /// What kind of drift it is that these features have moved, and whether the score has.
    fn kind(
        &self,
        parts: &[Contribution],
        names: &[String],
        is_score_moved: bool,
    ) -> Option<DriftKind> {
        if parts.is_empty() {
            return is_score_moved.then_some(DriftKind::Score);
        }
        let signal =
            |name: &str| name.rsplit_once('.').map_or(name, |(signal, _)| signal).to_owned();
        let mut signals: Vec<String> = parts.iter().map(|part| signal(&part.name)).collect();
        signals.dedup();
        let moved = || {
            names
                .iter()
                .zip(&self.past)
                .filter_map(|(_, past)| past.since.map(|at| (at, past.at_once)))
        };
        let first = moved().map(|(at, _)| at).min();
        let at_once = moved().filter(|(at, at_once)| *at_once && Some(*at) == first).count();
        // Most of what has moved did so together; a feature may follow later.
        let together = at_once * 3 >= moved().count() * 2;
        let is_regime = !is_score_moved && signals.len() >= 2 && together;
        Some(if is_regime { DriftKind::Regime } else { DriftKind::Input })
    }

    /// A new time to count starts at `start`.
    fn begin(&mut self, start: Timestamp) {
        self.start = start;
        (self.windows, self.above, self.cut) = (0, 0, None);
        self.inputs.fill(Tenths::default());
        self.missing.fill(0);
        self.score = Tenths::default();
    }
}

/// How far what was counted is from the baseline. What several assets do together is wider than what each of them does, and
/// one of them always off it: there it is no further than from what is usual for it, once that is known.
fn distance(
    counted: &Tenths,
    (baseline, edges): (&Baseline, &[f32; 11]),
    usual: Option<&Tenths>,
    overlap: f64,
) -> Distance {
    let far = counted.distance(edges, baseline.windows, overlap);
    if baseline.assets <= 1 {
        return far;
    }
    let own = usual.map(|usual| counted.distance_from(usual, overlap)).unwrap_or_default();
    if own.psi < far.psi { own } else { far }
}

/// A window, as far as it matters here.
#[derive(Clone, Copy)]
struct Seen<'a> {
    baseline: &'a Baseline,
    features: &'a [f64],
    score: Option<f64>,
    threshold: Option<f64>,
    start: Timestamp,
    end: Timestamp,
}

impl Drift {
    /// A stage that has seen nothing, of windows of `length` that start `every` so often.
    pub fn new(spec: DriftSpec, length: Span, every: Span) -> Drift {
        let overlap = (length.0 + every.0 - 1).max(1) / every.0.max(1);
        Drift {
            spec,
            overlap: u32::try_from(overlap).unwrap_or(u32::MAX).max(1),
            assets: Vec::new(),
        }
    }

    fn window(
        &mut self,
        windows: &Windows,
        scored: &Scored,
        index: usize,
        around: &Around<'_>,
        effects: &mut Effects,
    ) {
        let Some(speaker) = scored.speaker(index) else { return };
        let Some(baseline) = speaker.baseline.as_ref().map(Arc::as_ref) else { return };
        // A model of sequences has no baseline of features; its score is followed alone.
        let known = baseline.inputs.len() == windows.names.len();
        let seen = Seen {
            baseline,
            features: if known { windows.row(index) } else { &[] },
            score: scored.values[index],
            threshold: speaker.threshold,
            start: windows.start[index],
            end: windows.end[index],
        };
        let features = if known { windows.names.len() } else { 0 };
        let followed = of_asset(&mut self.assets, windows.asset[index], || None);
        let fresh = || Followed::new(&speaker.digest, features, seen.start);
        let is_of = |one: &Followed| one.model == speaker.digest && one.inputs.len() == features;
        let (followed, before) = followed.get_or_insert_with(|| (fresh(), None));
        if !is_of(followed) {
            let next = before.take().filter(is_of).unwrap_or_else(fresh);
            let last = std::mem::replace(followed, next);
            // What was told of the asset stands until something else is found.
            followed.standing = last.standing.clone();
            *before = Some(last);
        }
        followed.count(&seen, &self.spec, self.overlap);
        let is_over = seen.end.since(followed.start) >= self.spec.over;
        if is_over && followed.windows >= WINDOWS_MIN {
            let found = followed.compare(&seen, &windows.names, &self.spec, self.overlap);
            let asset = windows.asset[index] as usize;
            let notices = notices(&mut followed.standing, &found);
            for notice in notices {
                let at = (seen.end, speaker.version.as_str());
                let record = self.record(notice, asset, at, around);
                effects.records.push(Outgoing { lane: Lane::Alarm, record });
            }
        }
    }

    fn record(
        &self,
        notice: Notice,
        asset: usize,
        (at, version): (Timestamp, &str),
        around: &Around<'_>,
    ) -> Record {
        let (asset, name) = (&around.assets[asset], &self.spec.on);
        let (node, pipeline) = (around.node, around.pipeline);
        let kind = if notice.is_missing { "missing" } else { "drift" };
        Record::Notice(NoticeRecord {
            id: format!("{node}/{pipeline}/{}/notice/{kind}/{name}/{}", asset.id, at.0),
            node: node.to_owned(),
            pipeline: pipeline.to_owned(),
            asset: asset.id.clone(),
            tags: asset.tags.clone(),
            kind: NoticeKind::Drift,
            name: name.clone(),
            at,
            since: notice.since,
            before: None,
            value: None,
            drift: notice.drift,
            contributions: notice.parts,
            retrain: notice.retrain,
            model_version: Some(version.to_owned()),
            reason: notice.reason,
        })
    }
}

/// What is told, without where.
struct Notice {
    drift: Option<DriftKind>,
    since: Option<Timestamp>,
    parts: Vec<Contribution>,
    retrain: bool,
    is_missing: bool,
    reason: String,
}

/// What is new. A drift that is there twice running, in the same feature, and no fault, asks for a new training.
fn notices(standing: &mut Standing, found: &Found) -> Vec<Notice> {
    let mut notices = Vec::new();
    let stays = found.names.iter().any(|name| standing.parts.contains(name));
    let again = standing.drift.is_some() && standing.drift == found.drift && stays;
    let is_due =
        again && !standing.retrain && !found.is_abnormal && found.drift != Some(DriftKind::Regime);
    if standing.drift != found.drift || is_due {
        notices.push(Notice {
            drift: found.drift,
            since: found.since,
            parts: found.parts.clone(),
            retrain: is_due,
            is_missing: false,
            reason: reason(found, is_due),
        });
    }
    standing.retrain = again && (standing.retrain || is_due);
    standing.drift = found.drift;
    standing.parts.clone_from(&found.names);
    let missing = !found.missing.is_empty();
    if missing != standing.missing {
        let reason = if missing {
            "features could not be computed: readings are missing".into()
        } else {
            "all features are there again".into()
        };
        notices.push(Notice {
            drift: missing.then_some(DriftKind::Missing),
            since: None,
            parts: found.missing.clone(),
            retrain: false,
            is_missing: true,
            reason,
        });
        standing.missing = missing;
    }
    notices
}

fn reason(found: &Found, retrain: bool) -> String {
    let moved = found.moved;
    let features =
        if moved == 1 { "1 feature has".into() } else { format!("{moved} features have") };
    let what = match found.drift {
        None => return "inputs and score are as in training again".into(),
        Some(DriftKind::Input) if found.is_score_moved => {
            format!("{features} moved from the training data, and so has the score")
        }
        Some(DriftKind::Input) => format!("{features} moved from the training data"),
        Some(DriftKind::Score) => "the score has moved and no feature has".into(),
        Some(DriftKind::Regime) => {
            format!(
                "{features} moved at once and the score has not: another product or load; train with both if it stays"
            )
        }
        Some(DriftKind::Missing) => String::new(),
    };
    if found.is_abnormal {
        format!("{what}; most windows were above the threshold: look at the machine first")
    } else if retrain {
        format!("{what}, and stays: train the model again with data from then on")
    } else {
        what
    }
}

impl Stage for Drift {
    fn name(&self) -> &'static str {
        "drift"
    }

    fn apply(
        &mut self,
        input: Flow,
        around: &Around<'_>,
        effects: &mut Effects,
    ) -> Result<Flow, StageError> {
        let Flow::Windows(windows) = input else {
            return Err(StageError::WrongInput { stage: "drift", expected: "windows" });
        };
        if let Some(scored) = windows.scores.iter().find(|s| s.output == self.spec.on) {
            for index in 0..windows.len() {
                self.window(&windows, scored, index, around, effects);
            }
        }
        Ok(Flow::Windows(windows))
    }

    fn drifting(&self, counts: &mut BTreeMap<&'static str, u64>) {
        let mut count =
            |kind: DriftKind, n: usize| *counts.entry(kind.name()).or_default() += n as u64;
        let standing = || self.assets.iter().flatten().map(|(followed, _)| &followed.standing);
        for kind in [DriftKind::Input, DriftKind::Score, DriftKind::Regime] {
            count(kind, standing().filter(|s| s.drift == Some(kind)).count());
        }
        count(DriftKind::Missing, standing().filter(|s| s.missing).count());
    }

    fn save(&self) -> Result<Vec<u8>, StageError> {
        save_state("drift", &self.assets)
    }

    fn load(&mut self, state: &[u8]) -> Result<(), StageError> {
        self.assets = load_state("drift", state)?;
        Ok(())
    }
}
