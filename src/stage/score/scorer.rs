//! A model fitted to what a pipeline gives: batches gathered from windows, run, and read.
//!
//! The stage has one or two of them. It promises one value a window, in order; a window with a missing input has none.
//! What a model remembers of each asset is kept here. It knows nothing of who speaks: that is the stage's.

mod apart;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::recalibrate::{Ended, Followed, Recalibration};
use super::{Health, ScoreError};
use crate::frame::{Shares, Speaker, Windows};
use crate::model::session::Output;
use crate::model::{Given, Mismatch, Model, ModelError, Wanted, lay_out};
use crate::pipeline::spec::{ModelInput, ScoreSpec};
use crate::stage::of_asset;

/// See the module.
#[derive(Debug)]
pub struct Scorer {
    pub(super) model: Model,
    pub(super) speaker: Speaker,
    pub(super) health: Health,
    /// By asset: what the model remembers of it.
    pub(super) memories: Vec<Vec<f64>>,
    /// Where each asset's inputs lie, where that is followed.
    pub(super) recalibration: Option<Recalibration>,
    /// What of it there is to tell of the last batch.
    pub(super) ended: Vec<Ended>,
    /// Whether the last batch was answered, or at least that of one asset, and for which assets it was not.
    pub(super) has_answered: bool,
    pub(super) failed: Vec<u32>,
    /// Assets that were named in the log since it had an answer for them.
    named: BTreeSet<u32>,
    input: ModelInput,
    /// Shape of a batch; the rows are filled in.
    shape: Vec<usize>,
    /// What is read: the score, and the contributions where there are some.
    wanted: Vec<Wanted>,
    /// Names of what a score is divided among: features, or channels.
    pub(super) parts: Arc<[String]>,
    batch: Vec<f64>,
    rows: Vec<usize>,
    outputs: Vec<Output>,
}

/// How long a model may take over made-up windows.
const PATIENCE: Duration = Duration::from_secs(5);
/// Made-up windows that a model is tried on.
const TRIED: usize = 3;
/// How far two answers to the same window may be apart, of the larger one: batches of another size are added up in
/// another order, and a quantised model rounds.
const APART: f64 = 0.02;

impl Scorer {
    /// `model`, asked about what the pipeline gives; refuses a model that does not fit, with everything that does not.
    pub(super) fn new(
        spec: &ScoreSpec,
        mut model: Model,
        given: Given<'_>,
    ) -> Result<Scorer, ScoreError> {
        model.most_rows = usize::from(spec.batch.max(1));
        let declared = if spec.state.is_empty() {
            Ok(())
        } else {
            Arc::make_mut(&mut model.signature).remember(&spec.state)
        };
        let mut mismatches: Vec<Mismatch> = declared.err().into_iter().collect();
        mismatches.extend(model.check_given(given));
        let score = model
            .score_output(spec.tensor.as_deref(), &spec.output, spec.class.as_deref())
            .map_err(|mismatch| mismatches.push(mismatch));
        let (Ok(score), true) = (score, mismatches.is_empty()) else {
            return Err(ScoreError::Fit(mismatches));
        };
        model.try_shape(&given.shape(1))?;
        let contributions = model.signature.output("contributions").map(Wanted::all);
        let apart = contributions.filter(|wanted| wanted.output != score.output);
        let wanted = std::iter::once(score).chain(apart).collect();
        let mut scorer = Scorer::asking(spec, model, given, wanted);
        if let Some(spec) = &spec.recalibrate {
            let channels = given.names().len();
            let width: usize = given.shape(1).iter().product();
            let is_first = scorer.input == ModelInput::ChannelsFirst;
            let each = if is_first { width / channels.max(1) } else { 1 };
            let made = Recalibration::new(spec, &scorer.speaker, (channels, each));
            scorer.recalibration = Some(made.map_err(|m| ScoreError::Fit(vec![m]))?);
        }
        scorer.try_outputs()?;
        Ok(scorer)
    }

    /// `model`, asked which class each window is of, with the names of the classes; the values are their places, -1 where
    /// it is none of them. Classes that the model does not name are looked for under `names`. `None` where it tells no
    /// classes apart. That it fits has been checked.
    pub fn of_classes(
        spec: &ScoreSpec,
        mut model: Model,
        given: Given<'_>,
        names: &[String],
    ) -> Option<(Scorer, Vec<String>)> {
        model.most_rows = usize::from(spec.batch.max(1));
        if !spec.state.is_empty() {
            Arc::make_mut(&mut model.signature).remember(&spec.state).ok()?;
        }
        let class = spec.class.as_deref();
        let score = model.score_output(spec.tensor.as_deref(), &spec.output, class).ok()?;
        let (wanted, names) = model.classes(&score, class, names)?;
        Some((Scorer::asking(spec, model, given, vec![wanted]), names))
    }

    pub(super) fn asking(
        spec: &ScoreSpec,
        model: Model,
        given: Given<'_>,
        wanted: Vec<Wanted>,
    ) -> Scorer {
        let speaker = Speaker {
            model: model.name(),
            version: model.version(),
            digest: model.digest.clone(),
            threshold: spec.threshold.or(model.metadata.threshold),
            baseline: model.metadata.baseline.clone().map(Arc::new),
        };
        Scorer {
            recalibration: None,
            ended: Vec::new(),
            has_answered: false,
            failed: Vec::new(),
            named: BTreeSet::new(),
            speaker,
            health: Health::default(),
            input: spec.input,
            shape: given.shape(1),
            wanted,
            parts: given.names().into(),
            batch: Vec::new(),
            rows: Vec::new(),
            outputs: Vec::new(),
            memories: Vec::new(),
            model,
        }
    }

    /// Reads the wanted outputs of several windows once, so that one of a wrong width is found before the first window.
    fn try_outputs(&mut self) -> Result<(), ScoreError> {
        let width = self.shape.iter().product();
        self.trial(&vec![0.0; TRIED * width])?;
        self.check_widths(width)
    }

    /// What is odd about its scores of made-up windows. Nothing where it does not take them, or not in time: they are not
    /// what it was made for, and it may never come back from them.
    pub(super) fn doubt(&mut self) -> Option<String> {
        self.model.deadline = Some(PATIENCE);
        let width: usize = self.shape.iter().product();
        // They differ in level, and column by column.
        let number = |at: usize| {
            let (row, column) = (at / width.max(1), at % width.max(1));
            [1.0, 3.0, 0.3][row % TRIED] * ((column * 79 + row * 37) % 101) as f64 / 101.0
        };
        let windows: Vec<f64> = (0..TRIED * width).map(number).collect();
        let together = self.trial(&windows).ok()?;
        if together.iter().all(|score| score.is_nan()) {
            return Some("it gives no number for any of three made-up windows".into());
        }
        if differs(&together, &self.trial(&windows).ok()?) {
            return Some("it gives another score for the same windows every time".into());
        }
        let mut alone = Vec::new();
        for window in windows.chunks_exact(width.max(1)) {
            alone.extend(self.trial(window).ok()?);
        }
        differs(&together, &alone).then(|| {
            "a window's score depends on those that come with it; `batch = 1` keeps them apart"
                .into()
        })
    }

    /// The scores of these windows.
    fn trial(&mut self, windows: &[f64]) -> Result<Vec<f64>, ModelError> {
        let mut shape = self.shape.clone();
        if let Some(rows) = shape.first_mut() {
            *rows = windows.len() / self.shape.iter().product::<usize>().max(1);
        }
        self.model.run(windows, &shape, &self.wanted, &mut self.outputs)?;
        let each =
            |output: &Output| output.values.iter().step_by(output.width.max(1)).copied().collect();
        Ok(self.outputs.first().map_or_else(Vec::new, each))
    }

    fn check_widths(&self, width: usize) -> Result<(), ScoreError> {
        let names: Vec<String> = self
            .wanted
            .iter()
            .filter_map(|wanted| self.model.signature.outputs.get(wanted.output))
            .map(|port| port.name.clone())
            .collect();
        let whole = if self.input == ModelInput::ChannelsFirst { self.parts.len() } else { width };
        let allowed = [vec![1], vec![self.parts.len(), whole]];
        for ((name, output), allowed) in names.iter().zip(&self.outputs).zip(allowed) {
            if !allowed.contains(&output.width) {
                let expected: Vec<String> = allowed.iter().map(ToString::to_string).collect();
                return Err(ScoreError::Fit(vec![Mismatch {
                    what: format!("numbers a window in output `{name}`"),
                    expected: expected.join(" or "),
                    found: output.width.to_string(),
                }]));
            }
        }
        Ok(())
    }

    /// What is read as the score.
    pub(super) fn wanted(&self) -> Option<&Wanted> {
        self.wanted.first()
    }

    /// The name of the output that is the score.
    pub(super) fn output(&self) -> Option<&str> {
        let index = self.wanted.first()?.output;
        self.model.signature.outputs.get(index).map(|port| port.name.as_str())
    }

    /// SHA-256 of the model, in hex; empty where there is none.
    pub fn digest(&self) -> &str {
        &self.model.digest
    }

    /// Fills the batch with the windows whose input is whole, and runs the model on it; whether there were any.
    pub fn run(&mut self, windows: &Windows) -> Result<bool, ModelError> {
        self.rest();
        self.gather(windows)?;
        if !self.rows.is_empty()
            && let Err(error) = self.run_rows(windows)
        {
            self.rest();
            return Err(error);
        }
        self.has_answered = true;
        if !self.named.is_empty() {
            self.named.retain(|asset| !windows.asset.contains(asset));
        }
        Ok(!self.rows.is_empty())
    }

    fn run_rows(&mut self, windows: &Windows) -> Result<(), ModelError> {
        if self.recalibration.is_some() {
            self.run_recalibrating(windows)
        } else {
            self.run_gathered(windows)
        }
    }

    /// Runs the model on what was gathered.
    fn run_gathered(&mut self, windows: &Windows) -> Result<(), ModelError> {
        if let Some(rows) = self.shape.first_mut() {
            *rows = self.rows.len();
        }
        if self.model.signature.states.is_empty() {
            self.model.run(&self.batch, &self.shape, &self.wanted, &mut self.outputs)
        } else {
            self.run_remembering(&windows.asset)
        }
    }

    /// Runs a model whose inputs are moved back by what was learned of each asset: every asset's windows of one block,
    /// then those of the next, which are moved by what the first have taught. A batch that fails has taught nothing.
    fn run_recalibrating(&mut self, windows: &Windows) -> Result<(), ModelError> {
        let Some(mut recalibration) = self.recalibration.take() else { return Ok(()) };
        let touched: BTreeSet<u32> = self.rows.iter().map(|&row| windows.asset[row]).collect();
        let before: Vec<(u32, Option<Followed>)> =
            touched.into_iter().map(|asset| (asset, recalibration.of(asset))).collect();
        let (ended, memories) = (self.ended.len(), self.memories.clone());
        let ran = self.run_blocks(windows, &mut recalibration);
        if ran.is_err() {
            self.ended.truncate(ended);
            self.memories = memories;
            for (asset, was) in before {
                recalibration.restore(asset, was);
            }
        }
        self.recalibration = Some(recalibration);
        ran
    }

    fn run_blocks(
        &mut self,
        windows: &Windows,
        recalibration: &mut Recalibration,
    ) -> Result<(), ModelError> {
        let width: usize = self.shape.iter().skip(1).product();
        let (rows, batch) = (std::mem::take(&mut self.rows), std::mem::take(&mut self.batch));
        let mut whole = vec![Output::default(); self.wanted.len()];
        let mut left: Vec<usize> = (0..rows.len()).collect();
        while !left.is_empty() {
            let mut blocks: BTreeMap<u32, i64> = BTreeMap::new();
            let (now, later): (Vec<usize>, Vec<usize>) = left.into_iter().partition(|&at| {
                let block = recalibration.block(windows.end[rows[at]]);
                *blocks.entry(windows.asset[rows[at]]).or_insert(block) == block
            });
            left = later;
            self.rows = now.iter().map(|&at| rows[at]).collect();
            self.batch.clear();
            for &at in &now {
                let (asset, end) = (windows.asset[rows[at]], windows.end[rows[at]]);
                self.ended.extend(recalibration.begin(asset, end));
                self.batch.extend_from_slice(&batch[at * width..(at + 1) * width]);
                let from = self.batch.len() - width;
                recalibration.move_back(asset, &mut self.batch[from..]);
            }
            self.run_gathered(windows)?;
            let scores = self.outputs.first().map_or(&[][..], |output| &output.values);
            for ((&row, moved), score) in
                self.rows.iter().zip(self.batch.chunks_exact(width.max(1))).zip(scores)
            {
                let span = (windows.start[row], windows.end[row]);
                recalibration.learn(windows.asset[row], span, moved, *score);
            }
            put(&mut whole, &self.outputs, &now, rows.len());
        }
        (self.rows, self.batch, self.outputs) = (rows, batch, whole);
        Ok(())
    }

    /// Forgets the last batch: there is no answer for any window.
    pub(super) fn rest(&mut self) {
        self.rows.clear();
        self.failed.clear();
        self.has_answered = false;
    }

    fn gather(&mut self, windows: &Windows) -> Result<(), ModelError> {
        self.batch.clear();
        self.rows.clear();
        let width: usize = self.shape.iter().skip(1).product();
        let values = match self.input {
            ModelInput::Features => &windows.features,
            ModelInput::Sequence | ModelInput::ChannelsFirst => &windows.sequence,
        };
        if values.len() != windows.len() * width {
            let reason = format!("{} numbers for {} windows", values.len(), windows.len());
            return Err(ModelError::Run { model: self.speaker.model.clone(), reason });
        }
        for index in 0..windows.len() {
            if lay_out(self.input, windows, index, &mut self.batch) {
                self.rows.push(index);
            }
        }
        Ok(())
    }

    /// Runs a model that remembers: the first window of every asset in this tick, then the second ones, and so on. Where
    /// it fails at any of them, no asset remembers anything of this tick: a replay only knows that it failed.
    fn run_remembering(&mut self, assets: &[u32]) -> Result<(), ModelError> {
        let width: usize = self.shape.iter().skip(1).product();
        let (mut shape, mut part) = (self.shape.clone(), Vec::new());
        self.outputs = vec![Output::default(); self.wanted.len()];
        let mut left: Vec<usize> = (0..self.rows.len()).collect();
        let mut learned: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
        while !left.is_empty() {
            let mut seen = BTreeSet::new();
            let (now, later): (Vec<usize>, Vec<usize>) =
                left.into_iter().partition(|&at| seen.insert(assets[self.rows[at]]));
            left = later;
            let batch: Vec<f64> = now
                .iter()
                .flat_map(|at| &self.batch[at * width..(at + 1) * width])
                .copied()
                .collect();
            shape[0] = now.len();
            let asset = |at: &usize| assets[self.rows[*at]];
            let known = |asset: u32| {
                let known = learned.get(&asset).or_else(|| self.memories.get(asset as usize));
                known.cloned().unwrap_or_else(|| self.model.fresh_memory())
            };
            let mut memories: Vec<Vec<f64>> = now.iter().map(|at| known(asset(at))).collect();
            self.model.run_with(&batch, &shape, &mut memories, &self.wanted, &mut part)?;
            learned.extend(now.iter().map(asset).zip(memories));
            put(&mut self.outputs, &part, &now, self.rows.len());
        }
        for (asset, memory) in learned {
            *of_asset(&mut self.memories, asset, || self.model.fresh_memory()) = memory;
        }
        Ok(())
    }

    /// The last batch's answers, one a window. One beyond all float32 is the largest of them, not none: a score that
    /// overflows is that of the worst windows.
    pub fn values(&self, windows: usize) -> Vec<Option<f64>> {
        let mut values = vec![None; windows];
        if let Some(scores) = self.outputs.first() {
            for (&row, &value) in self.rows.iter().zip(&scores.values) {
                let bounded = value.clamp(f64::from(f32::MIN), f64::from(f32::MAX));
                values[row] = (!bounded.is_nan()).then_some(bounded);
            }
        }
        values
    }

    /// What the last batch's scores are divided among; nothing where the model does not say.
    pub(super) fn shares(&self, windows: usize) -> Shares {
        let mut shares = Shares::default();
        let Some(output) = self.outputs.get(1).filter(|_| !self.rows.is_empty()) else {
            return shares;
        };
        shares.parts = Arc::clone(&self.parts);
        shares.width = output.width;
        shares.values = vec![f32::NAN; windows * output.width];
        let rows = output.values.chunks_exact(output.width.max(1));
        for (&row, given) in self.rows.iter().zip(rows) {
            let into = &mut shares.values[row * output.width..][..output.width];
            into.iter_mut().zip(given).for_each(|(into, &share)| *into = share as f32);
        }
        shares
    }

    /// Takes over what was remembered of assets for a model of this digest; for another one it means nothing.
    pub(super) fn recall(&mut self, digest: &str, assets: Vec<Option<Followed>>) {
        if let Some(recalibration) = &mut self.recalibration {
            recalibration.remember(if digest == self.model.digest { assets } else { Vec::new() });
        }
    }

    /// Takes over what a model of this digest remembered; what another one remembered means nothing to this one.
    pub(super) fn remember(&mut self, digest: &str, memories: Vec<Vec<f64>>) {
        let size = self.model.fresh_memory().len();
        let is_ours =
            digest == self.model.digest && memories.iter().all(|memory| memory.len() == size);
        self.memories = if is_ours { memories } else { Vec::new() };
    }
}

/// Whether any two scores of a window are not about the same.
fn differs(some: &[f64], others: &[f64]) -> bool {
    some.iter().zip(others).any(|(one, other)| {
        let scale = one.abs().max(other.abs());
        (one - other).abs() > APART * scale + 1e-6
    })
}

/// Puts the answers to some rows in their places among those to all `rows`.
fn put(whole: &mut [Output], part: &[Output], places: &[usize], rows: usize) {
    for (output, part) in whole.iter_mut().zip(part) {
        output.width = part.width;
        output.values.resize(rows * part.width, f64::NAN);
        for (at, values) in places.iter().zip(part.values.chunks_exact(part.width.max(1))) {
            output.values[at * part.width..][..part.width].copy_from_slice(values);
        }
    }
}
