//! `score`: a model's answer for every window.
//!
//! All windows that close in a tick, of all assets, go to the model as one batch. It promises one value a window,
//! in order; a window with a missing input, or on which the model fails, has none and is counted as unscored. A
//! model that fails does not stop the frame: features and other scores go on, and the failure is told once.
//! It has no memory that outlives a tick, unless its model has: a model's state is kept for each asset, and belongs to
//! that model alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tracing::{error, info};

use super::{Around, Effects, Flow, Stage, StageError, load_state, of_asset, save_state};
use crate::frame::{Baseline, Scored, Shares, Speaker, Windows};
use crate::model::session::Output;
use crate::model::{Given, Mismatch, Model, ModelError, Wanted};
use crate::pipeline::spec::{ModelInput, ScoreSpec};

/// Why a model cannot be used in a pipeline.
#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    /// It does not fit.
    #[error("model does not fit the pipeline: {}", list(.0))]
    Fit(Vec<Mismatch>),
    /// It does not run on what the pipeline gives.
    #[error(transparent)]
    Model(#[from] ModelError),
}

fn list(mismatches: &[Mismatch]) -> String {
    let texts: Vec<String> = mismatches.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

/// The stage.
#[derive(Debug)]
pub struct ScoreStage {
    output: String,
    input: ModelInput,
    model: Model,
    name: String,
    version: String,
    threshold: Option<f64>,
    baseline: Option<Arc<Baseline>>,
    /// Shape of a batch; the rows are filled in.
    shape: Vec<usize>,
    /// What is read: the score, and the contributions where there are some.
    wanted: Vec<Wanted>,
    /// Names of what a score is divided among: features, or channels.
    parts: Arc<[String]>,
    /// Whether the last batch failed.
    failing: bool,
    batch: Vec<f32>,
    rows: Vec<usize>,
    outputs: Vec<Output>,
    /// By asset: what the model remembers of it.
    memories: Vec<Vec<f32>>,
}

/// What is saved: memories, and of which model they are.
#[derive(Default, Serialize, Deserialize)]
struct Saved {
    digest: String,
    memories: Vec<Vec<f32>>,
}

impl ScoreStage {
    /// A stage that asks `model` about what the pipeline gives; refuses a model that does not fit, with everything
    /// that does not.
    pub fn new(
        spec: &ScoreSpec,
        mut model: Model,
        given: Given<'_>,
    ) -> Result<ScoreStage, ScoreError> {
        model.most_rows = usize::from(spec.batch.max(1));
        let declared =
            if spec.state.is_empty() { Ok(()) } else { model.signature.remember(&spec.state) };
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
        let mut stage = ScoreStage {
            output: spec.output.clone(),
            input: spec.input,
            name: model.name(),
            version: model.version(),
            threshold: spec.threshold.or(model.metadata.threshold),
            baseline: model.metadata.baseline.clone().map(Arc::new),
            shape: given.shape(1),
            wanted,
            parts: given.names().into(),
            failing: false,
            batch: Vec::new(),
            rows: Vec::new(),
            outputs: Vec::new(),
            memories: Vec::new(),
            model,
        };
        stage.try_outputs()?;
        Ok(stage)
    }

    /// The threshold in force: the pipeline's, else the model's.
    pub fn threshold(&self) -> Option<f64> {
        self.threshold
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Reads the wanted outputs once, so that one of a wrong width is found before the first window.
    fn try_outputs(&mut self) -> Result<(), ScoreError> {
        let width = self.shape.iter().product();
        let zeros = vec![0.0; width];
        self.model.run(&zeros, &self.shape, &self.wanted, &mut self.outputs)?;
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

    /// Fills the batch with the windows whose input is whole.
    fn gather(&mut self, windows: &Windows) -> Result<(), StageError> {
        let width: usize = self.shape.iter().skip(1).product();
        let values = match self.input {
            ModelInput::Features => &windows.features,
            ModelInput::Sequence | ModelInput::ChannelsFirst => &windows.sequence,
        };
        if values.len() != windows.len() * width {
            let reason = format!("{} numbers for {} windows", values.len(), windows.len());
            return Err(StageError::Model { model: self.name.clone(), reason });
        }
        self.batch.clear();
        self.rows.clear();
        for (index, row) in values.chunks_exact(width.max(1)).enumerate() {
            let before = self.batch.len();
            if self.input == ModelInput::ChannelsFirst {
                let channels = self.parts.len().max(1);
                let of = |channel| row.iter().skip(channel).step_by(channels);
                self.batch.extend((0..channels).flat_map(of).map(|&value| value as f32));
            } else {
                self.batch.extend(row.iter().map(|&value| value as f32));
            }
            // Without an early end, so that several are looked at at once: nearly always all are fine.
            if self.batch[before..].iter().fold(true, |all, value| all & value.is_finite()) {
                self.rows.push(index);
            } else {
                self.batch.truncate(before);
            }
        }
        Ok(())
    }

    /// Runs the model on the batch; tells a failure when it starts and when it ends.
    fn run(&mut self, windows: &Windows, around: &Around<'_>) -> bool {
        if self.rows.is_empty() {
            return true;
        }
        if let Some(rows) = self.shape.first_mut() {
            *rows = self.rows.len();
        }
        let ran = if self.model.signature.states.is_empty() {
            self.model.run(&self.batch, &self.shape, &self.wanted, &mut self.outputs)
        } else {
            self.run_remembering(&windows.asset)
        };
        match (&ran, self.failing) {
            (Err(reason), false) => {
                error!(pipeline = around.pipeline, %reason, "windows stay unscored");
            }
            (Ok(()), true) => info!(pipeline = around.pipeline, model = self.name, "scores again"),
            _ => {}
        }
        self.failing = ran.is_err();
        ran.is_ok()
    }

    /// Runs a model that remembers: the first window of every asset in this tick, then the second ones, and so on. Where
    /// it fails, no asset of that batch remembers anything of it.
    fn run_remembering(&mut self, assets: &[u32]) -> Result<(), ModelError> {
        let width: usize = self.shape.iter().skip(1).product();
        let (mut shape, mut part) = (self.shape.clone(), Vec::new());
        self.outputs = vec![Output::default(); self.wanted.len()];
        let mut left: Vec<usize> = (0..self.rows.len()).collect();
        while !left.is_empty() {
            let mut seen = BTreeSet::new();
            let (now, later): (Vec<usize>, Vec<usize>) =
                left.into_iter().partition(|&at| seen.insert(assets[self.rows[at]]));
            left = later;
            let batch: Vec<f32> = now
                .iter()
                .flat_map(|at| &self.batch[at * width..(at + 1) * width])
                .copied()
                .collect();
            shape[0] = now.len();
            let asset = |at: &usize| assets[self.rows[*at]];
            let fresh = || self.model.fresh_memory();
            let mut memories: Vec<Vec<f32>> = now
                .iter()
                .map(|at| of_asset(&mut self.memories, asset(at), fresh).clone())
                .collect();
            self.model.run_with(&batch, &shape, &mut memories, &self.wanted, &mut part)?;
            for (at, memory) in now.iter().zip(memories) {
                self.memories[asset(at) as usize] = memory;
            }
            for (output, part) in self.outputs.iter_mut().zip(&part) {
                output.width = part.width;
                output.values.resize(self.rows.len() * part.width, f32::NAN);
                for (at, values) in now.iter().zip(part.values.chunks_exact(part.width.max(1))) {
                    output.values[at * part.width..][..part.width].copy_from_slice(values);
                }
            }
        }
        Ok(())
    }

    fn scored(&mut self, windows: usize) -> Scored {
        let mut values = vec![None; windows];
        let mut shares = Shares::default();
        let mut outputs = self.outputs.iter_mut();
        if let Some(scores) = outputs.next() {
            for (&row, &value) in self.rows.iter().zip(&scores.values) {
                values[row] = value.is_finite().then_some(f64::from(value));
            }
        }
        if let Some(output) = outputs.next().filter(|_| !self.rows.is_empty()) {
            shares.parts = Arc::clone(&self.parts);
            shares.width = output.width;
            if self.rows.len() == windows {
                shares.values = std::mem::take(&mut output.values);
            } else {
                shares.values = vec![f32::NAN; windows * output.width];
                let rows = output.values.chunks_exact(output.width.max(1));
                for (&row, given) in self.rows.iter().zip(rows) {
                    shares.values[row * output.width..][..output.width].copy_from_slice(given);
                }
            }
        }
        Scored {
            output: self.output.clone(),
            speakers: vec![Speaker {
                model: self.name.clone(),
                version: self.version.clone(),
                threshold: self.threshold,
                baseline: self.baseline.clone(),
            }],
            spoke: Vec::new(),
            values,
            shares,
        }
    }
}

impl Stage for ScoreStage {
    fn name(&self) -> &'static str {
        "score"
    }

    fn apply(
        &mut self,
        input: Flow,
        around: &Around<'_>,
        effects: &mut Effects,
    ) -> Result<Flow, StageError> {
        let Flow::Windows(mut windows) = input else {
            return Err(StageError::WrongInput { stage: "score", expected: "windows" });
        };
        self.gather(&windows)?;
        if !self.run(&windows, around) {
            self.rows.clear();
        }
        let scored = self.scored(windows.len());
        let scores = scored.values.iter().flatten().count() as u64;
        effects.account.scores += scores;
        effects.account.unscored += windows.len() as u64 - scores;
        windows.scores.push(scored);
        Ok(Flow::Windows(windows))
    }

    fn save(&self) -> Result<Vec<u8>, StageError> {
        if self.memories.is_empty() {
            return Ok(Vec::new());
        }
        let (digest, memories) = (self.model.digest.clone(), self.memories.clone());
        save_state("score", &Saved { digest, memories })
    }

    fn load(&mut self, state: &[u8]) -> Result<(), StageError> {
        let saved: Saved = load_state("score", state)?;
        // What another model remembered means nothing to this one.
        let size = self.model.fresh_memory().len();
        let is_ours = saved.digest == self.model.digest
            && saved.memories.iter().all(|memory| memory.len() == size);
        self.memories = if is_ours { saved.memories } else { Vec::new() };
        Ok(())
    }
}
