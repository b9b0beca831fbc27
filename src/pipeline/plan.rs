//! From a checked pipeline file to running stages: models opened, names resolved.
//!
//! `node`, `replay`, `train` and `check` call it. What it cannot build is an error with the place in the file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::spec::{AlarmSpec, ModelInput, PipelineSpec, ScoreSpec, StageSpec};
use crate::engine::{Pipeline, Planned};
use crate::model::onnx::{digest, hex};
use crate::model::{Host, HostError};
use crate::schema::Schema;
use crate::schema::expression::ExpressionError;
use crate::stage::Stage;
use crate::stage::alarm::{Alarm, SAMPLES_MAX};
use crate::stage::clean::Clean;
use crate::stage::drift::Drift;
use crate::stage::emit::Emit;
use crate::stage::resample::Resample;
use crate::stage::score::{Loader, ScoreError, ScoreStage};
use crate::stage::window::{Window, WindowInput};
use crate::time::{Span, Step};

/// How a pipeline is to run.
#[derive(Clone, Copy, Debug)]
pub struct PlanOptions<'a> {
    /// Folder from which model files are named.
    pub base: &'a Path,
    /// Whether input comes as it happens (checked against the clock) or from a recording.
    pub live: bool,
    /// Most assets.
    pub asset_limit: usize,
    /// Models that take the place of the pipeline's own.
    pub models: &'a [OtherModel],
    /// How this machine runs models.
    pub host: &'a Host,
    /// By score: why its model is not to be used. A score goes on without a model then, and where its file cannot be used by
    /// now; `None`: that is an error.
    pub refused: Option<&'a BTreeMap<String, String>>,
    /// Stop after the window stage and keep its windows (`Engine::take_windows`): what training needs.
    pub features_only: bool,
}

impl<'a> PlanOptions<'a> {
    /// For a recording: the pipeline as it is written, of any number of assets.
    pub fn of(base: &'a Path, host: &'a Host) -> PlanOptions<'a> {
        PlanOptions {
            base,
            live: false,
            asset_limit: usize::MAX,
            models: &[],
            host,
            refused: None,
            features_only: false,
        }
    }
}

/// A model that takes the place of one in the pipeline file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherModel {
    /// Of which score; of the first one where it does not say.
    pub output: Option<String>,
    /// Its file.
    pub path: PathBuf,
}

/// Why a pipeline cannot run.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Its stages do not fit together; `check` says where.
    #[error("pipeline `{pipeline}`: {reason}; run `forebay check` for the place")]
    Stage {
        /// The pipeline.
        pipeline: String,
        /// What does not fit.
        reason: String,
    },
    /// A model cannot be opened.
    #[error("pipeline `{pipeline}`: {source}")]
    Model {
        /// The pipeline.
        pipeline: String,
        /// Why.
        source: Box<HostError>,
    },
    /// A model does not fit.
    #[error("pipeline `{pipeline}`: {}: {source}", path.display())]
    Fit {
        /// The pipeline.
        pipeline: String,
        /// The model's file.
        path: PathBuf,
        /// Why.
        source: Box<ScoreError>,
    },
}

/// The form in which stages after the window save their memory: what an earlier version saved is left behind.
const MEMORY: &str = "4";

/// The name of a pipeline's door: the same for pipelines that take the same readings in the same way.
pub fn route(spec: &PipelineSpec) -> String {
    let mut digest = Sha256::new();
    for part in [
        serde_json::to_vec(&spec.schema),
        serde_json::to_vec(&spec.topics),
        serde_json::to_vec(&spec.format),
    ] {
        digest.update(part.unwrap_or_default());
        digest.update([0]);
    }
    format!("{}@{}", spec.schema, &hex(&digest.finalize())[..8])
}

/// Builds the stages of a pipeline.
pub fn plan(
    spec: &PipelineSpec,
    schema: &Schema,
    options: PlanOptions<'_>,
) -> Result<Pipeline, PlanError> {
    let mut builder = Builder::new(spec, schema, options);
    if !matches!(spec.stages.first(), Some(StageSpec::Clean(_))) {
        builder.add(&StageSpec::Clean(super::spec::CleanSpec::default()))?;
    }
    for stage in &spec.stages {
        builder.add(stage)?;
        if options.features_only && matches!(stage, StageSpec::Window(_)) {
            break;
        }
    }
    let mut pipeline =
        Pipeline::new(spec.name.clone(), route(spec), builder.stages, options.asset_limit);
    pipeline.keep_windows = options.features_only;
    Ok(pipeline)
}

struct Builder<'a> {
    spec: &'a PipelineSpec,
    schema: &'a Schema,
    options: PlanOptions<'a>,
    stages: Vec<Planned>,
    signals: Vec<String>,
    /// Settings so far of what shapes the flow: a stage's memory fits only the same.
    lineage: String,
    step: Option<Step>,
    /// Of windows: how long they are, and how often one starts.
    length: Span,
    every: Span,
    /// Names of the features, once there are windows.
    features: Vec<String>,
    /// Samples and channels of a window.
    sequence: (usize, Vec<String>),
    models: Vec<OtherModel>,
}

impl<'a> Builder<'a> {
    fn new(spec: &'a PipelineSpec, schema: &'a Schema, options: PlanOptions<'a>) -> Builder<'a> {
        let lineage = [serde_json::to_string(schema), serde_json::to_string(&spec.time)];
        Builder {
            spec,
            schema,
            options,
            stages: Vec::new(),
            signals: schema.signals.iter().map(|s| s.name.clone()).collect(),
            lineage: lineage.into_iter().map(Result::unwrap_or_default).collect(),
            step: None,
            length: Span::ZERO,
            every: Span::ZERO,
            features: Vec::new(),
            sequence: (0, Vec::new()),
            models: options.models.to_vec(),
        }
    }

    fn unfit(&self, reason: impl Into<String>) -> PlanError {
        PlanError::Stage { pipeline: self.spec.name.clone(), reason: reason.into() }
    }

    fn add(&mut self, stage: &StageSpec) -> Result<(), PlanError> {
        let text = serde_json::to_string(stage).unwrap_or_default();
        let shapes =
            matches!(stage, StageSpec::Clean(_) | StageSpec::Resample(_) | StageSpec::Window(_));
        let learns = match stage {
            StageSpec::Alarm(alarm) => alarm.adapt.is_some(),
            other => matches!(other, StageSpec::Drift(_)),
        };
        if shapes {
            self.lineage.push_str(&text);
        }
        let stage: Box<dyn Stage> = match stage {
            StageSpec::Clean(clean) => {
                Box::new(Clean::new(clean, &self.spec.time, self.schema, self.options.live))
            }
            StageSpec::Resample(resample) => {
                self.step = Some(resample.every);
                let unfit = |error: ExpressionError| self.unfit(error.to_string());
                Box::new(Resample::new(resample, self.schema).map_err(unfit)?)
            }
            StageSpec::Window(window) => Box::new(self.window(window)?),
            StageSpec::Score(score) => Box::new(self.score(score)?),
            StageSpec::Alarm(alarm) => {
                let channels = self.sequence.1.clone();
                Box::new(Alarm::new(alarm.clone(), (self.length, self.every), channels))
            }
            StageSpec::Drift(drift) => Box::new(Drift::new(drift.clone(), self.length, self.every)),
            StageSpec::Emit(emit) => Box::new(Emit::new(emit.lane, self.signals.clone())),
        };
        // What was learned of windows fits only the same.
        let key = if shapes {
            self.lineage.clone()
        } else if learns {
            format!("{MEMORY}{}{text}", self.lineage)
        } else {
            format!("{MEMORY}{text}")
        };
        let fingerprint = digest(key.as_bytes())[..16].to_owned();
        self.stages.push(Planned { stage, fingerprint });
        Ok(())
    }

    fn window(&mut self, window: &super::spec::WindowSpec) -> Result<Window, PlanError> {
        let step = self.step.ok_or_else(|| self.unfit("`window` needs a `resample` before it"))?;
        let wants_sequence =
            |s: &StageSpec| s.score().is_some_and(|score| score.input != ModelInput::Features);
        let channels = window.signals.clone().unwrap_or_else(|| self.signals.clone());
        let steps = step.count(window.length) as usize;
        // What is measured when an alarm is raised is kept for a verdict, where it is not too much.
        let is_small = steps * channels.len() <= SAMPLES_MAX;
        let is_kept = |s: &StageSpec| matches!(s, StageSpec::Alarm(_)) && is_small;
        let mut stages = self.spec.stages.iter();
        let sequence =
            stages.any(|s| wants_sequence(s) || (is_kept(s) && !self.options.features_only));
        let input = WindowInput { signals: &self.schema.signals, step, sequence };
        let stage = Window::new(window, &input).map_err(|reason| self.unfit(reason))?;
        self.length = window.length;
        self.every = window.every.unwrap_or(window.length);
        self.features = super::names::feature_names(self.schema, window);
        self.sequence = (steps, channels);
        Ok(stage)
    }

    fn score(&mut self, score: &ScoreSpec) -> Result<ScoreStage, PlanError> {
        if self.sequence.0 == 0 {
            return Err(self.unfit("`score` needs a `window` before it"));
        }
        let other = |m: &OtherModel| m.output.as_ref().is_none_or(|output| *output == score.output);
        let path = match self.models.iter().position(other) {
            Some(index) => self.models.remove(index).path,
            None => self.options.base.join(&score.model),
        };
        let pipeline = self.spec.name.clone();
        // Statistics say how far from normal a window is; an alarm for low numbers would take that for the opposite.
        let is_low = |alarm: &AlarmSpec| alarm.below && alarm.on == score.output;
        let has_low = self.spec.stages.iter().filter_map(StageSpec::alarm).any(is_low);
        let spec = ScoreSpec { fallback: score.fallback && !has_low, ..score.clone() };
        let features = self.features.clone();
        let (sequence, host) = (self.sequence.clone(), self.options.host.clone());
        let loader = Loader::new(spec, features, sequence, host).of_signals(&self.schema.signals);
        let known = self.options.refused.and_then(|refused| refused.get(&score.output));
        let opened = match known {
            Some(reason) => loader.absent(reason),
            None => loader.open(&path).or_else(|error| match self.options.refused {
                Some(_) => loader.absent(&error.to_string()),
                None => Err(error),
            }),
        };
        match opened {
            Ok(model) => Ok(ScoreStage::of(loader, model)),
            Err(ScoreError::Host(source)) => {
                Err(PlanError::Model { pipeline, source: source.into() })
            }
            Err(source) => Err(PlanError::Fit { pipeline, path, source: source.into() }),
        }
    }
}
