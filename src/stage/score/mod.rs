//! `score`: a model's answer for every window.
//!
//! All windows that close in a tick, of all assets, go to the model as one batch. It promises one value a window,
//! in order; a window with a missing input has none and is counted as unscored. Where the model fails, or is left alone
//! because it failed too often, [`fallback`] answers. Features and other scores go on.
//!
//! A new model can take the place of the one in use while windows come: an order names it, and it scores beside the old
//! one until it is heard ([`rollout`]). Orders stand in the journal, and so does a model's failure, which no replay could
//! know. What is remembered: which models are in use, what they remember, the trial, the statistics.

pub mod fallback;
mod health;
mod loader;
mod orders;
mod recalibrate;
pub mod rollout;
mod saved;
mod scorer;

use std::time::Duration;

use tracing::{error, info};

pub use self::health::Health;
pub use self::loader::Loader;
pub use self::orders::{Candidate, View};
pub use self::scorer::Scorer;

use self::fallback::Fallback;
use self::health::Change;
use self::rollout::Rollout;
use super::{Around, Effects, Flow, Stage, StageError};
use crate::command::ModelAction;
use crate::frame::{Scored, Shares, Speaker, Windows};
use crate::model::metadata::Meaning;
use crate::model::{Given, Host, HostError, Mismatch, Model, ModelError};
use crate::pipeline::spec::ScoreSpec;
use crate::record::ModelPhase;
use crate::time::Span;

/// Why a model cannot be used in a pipeline.
#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    /// It cannot be had.
    #[error(transparent)]
    Host(#[from] HostError),
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

/// How long a batch may take where the pipeline does not say.
const LONGEST: Duration = Duration::from_secs(30);

/// The stage.
#[derive(Debug)]
pub struct ScoreStage {
    loader: Loader,
    current: Scorer,
    /// The digest of the pipeline's own model, as it was opened; empty where it could not be used.
    own: String,
    rollout: Option<Rollout>,
    /// The digest of the model that was in use before.
    previous: Option<String>,
    /// Digests of models that were withdrawn, the latest last.
    withdrawn: Vec<String>,
    /// Digests of models that another one has replaced, the latest last.
    retired: Vec<String>,
    /// Whether the pipeline's own model file is one that it has never had: a wish that nobody has met yet.
    has_new_file: bool,
    /// Digests of models that were let go, before the last checkpoint and since: a replay may still go through them.
    past: [Vec<String>; 2],
    /// Digests of models that a restart was to go on with and could not, and why; until the journal knows.
    lost: Vec<(String, String)>,
    /// Models that were opened for an order to come.
    supplied: Vec<Scorer>,
    /// Statistics that stand in for a model; `None`: not for this kind of score, or not wanted.
    fallback: Option<Fallback>,
    /// Failures of this tick that the journal knows of.
    told: Vec<ModelAction>,
    /// Failures of this tick that it does not.
    faults: Vec<ModelAction>,
}

impl ScoreStage {
    /// A stage that asks `model` about what the pipeline gives; refuses a model that does not fit, with everything
    /// that does not. Without a shelf, it takes no other model.
    pub fn new(spec: &ScoreSpec, model: Model, given: Given<'_>) -> Result<ScoreStage, ScoreError> {
        let (features, steps, channels) = match given {
            Given::Features(names) => (names.to_vec(), 0, Vec::new()),
            Given::Sequence { steps, channels } | Given::ChannelsFirst { steps, channels } => {
                (Vec::new(), steps, channels.to_vec())
            }
        };
        let loader = Loader::new(spec.clone(), features, (steps, channels), Host::default());
        let current = loader.fit(model)?;
        Ok(ScoreStage::of(loader, current))
    }

    /// A stage whose first model is `current`, and whose others come from `loader`.
    pub fn of(loader: Loader, current: Scorer) -> ScoreStage {
        // Of a model that is not there nobody knows what its score means.
        let fits = current.is_there() && loader.spec.fallback && current.is_of_anomalies();
        ScoreStage {
            fallback: fits.then(Fallback::default),
            own: current.digest().to_owned(),
            rollout: None,
            previous: None,
            withdrawn: Vec::new(),
            retired: Vec::new(),
            has_new_file: false,
            past: Default::default(),
            lost: Vec::new(),
            supplied: Vec::new(),
            told: Vec::new(),
            faults: Vec::new(),
            loader,
            current,
        }
    }

    /// The threshold in force: the pipeline's, else the model's.
    pub fn threshold(&self) -> Option<f64> {
        self.current.speaker.threshold
    }

    /// The model in use.
    pub fn model(&self) -> &Model {
        &self.current.model
    }

    /// What is odd about the answers of the model in use to made-up windows. It may not be asked for anything else
    /// afterwards: it may not come back from them.
    pub fn doubt(mut self) -> Option<String> {
        self.current.doubt()
    }

    /// Whether the score is a class, while the model gives numbers, too.
    pub fn scores_a_label(&self) -> bool {
        let wanted = self.current.wanted();
        wanted.is_some_and(|wanted| self.current.model.is_label_beside_numbers(wanted))
    }

    /// The digest of the pipeline's own model, as it was opened; empty where it could not be used.
    pub fn own(&self) -> &str {
        &self.own
    }

    /// Whether the pipeline's own model was put there while the node was stopped and waits to be offered.
    pub fn has_new_file(&self) -> bool {
        self.has_new_file
    }

    /// What opens models for it.
    pub fn loader(&self) -> &Loader {
        &self.loader
    }

    /// Whether a batch may take too long from now on: not in a replay, where the journal says which did.
    pub fn enforce_deadline(&mut self) {
        let deadline = Some(self.loader.spec.deadline.map_or(LONGEST, Span::to_std));
        self.current.model.deadline = deadline;
        if let Some(rollout) = &mut self.rollout {
            rollout.candidate.model.deadline = deadline;
        }
    }

    /// Failures of the last tick that the journal does not know of yet. Models that the tick's orders did not take are let
    /// go.
    pub fn take_faults(&mut self) -> Vec<ModelAction> {
        self.supplied.clear();
        std::mem::take(&mut self.faults)
    }

    /// Asks one of the models; what that changed, and why it has no answer, where it has none.
    fn ask(
        scorer: &mut Scorer,
        windows: &Windows,
        around: &Around<'_>,
        told: &[ModelAction],
        faults: &mut Vec<ModelAction>,
    ) -> (Change, String) {
        if windows.is_empty() || !scorer.health.is_asked(around.tick.now) {
            scorer.rest();
            return (Change::None, String::new());
        }
        let is_of = |action: &&ModelAction| match action {
            ModelAction::Failed { digest, .. } | ModelAction::FailedFor { digest, .. } => {
                digest == scorer.digest()
            }
            _ => false,
        };
        let reason = match told.iter().find(is_of) {
            Some(ModelAction::FailedFor { reason, assets, .. }) => {
                let is_named = |asset: &u32| assets.iter().any(|id| id == around.id(*asset));
                scorer.run_each(windows, is_named);
                reason.clone()
            }
            Some(ModelAction::Failed { reason, .. }) => {
                scorer.rest();
                reason.clone()
            }
            _ => match scorer.run(windows) {
                Ok(false) => return (Change::None, String::new()),
                Ok(true) => return (scorer.health.answered(), String::new()),
                Err(error) => {
                    let reason: String = error.to_string().chars().take(300).collect();
                    faults.push(scorer.retry(windows, &error, reason.clone(), around));
                    reason
                }
            },
        };
        if scorer.has_answered {
            return (scorer.health.answered(), String::new());
        }
        // What fails for one asset of several may be that asset's fault.
        let only = match scorer.failed.as_slice() {
            [asset] if around.assets.len() > 1 && scorer.is_there() => Some(*asset),
            _ => None,
        };
        (scorer.health.failed(around.tick.now, only), reason)
    }

    /// Asks the models about the windows and puts their answers together.
    fn answer(&mut self, windows: &Windows, around: &Around<'_>, effects: &mut Effects) -> Scored {
        let told = std::mem::take(&mut self.told);
        let count = windows.len();
        let (change, reason) =
            ScoreStage::ask(&mut self.current, windows, around, &told, &mut self.faults);
        self.tell(false, change, &reason, around, effects);
        let mut answers = Answers {
            values: self.current.values(count),
            shares: self.current.shares(count),
            spoke: Vec::new(),
        };
        let mut speakers = vec![self.current.speaker.clone()];
        if let Some(rollout) = &mut self.rollout {
            let candidate = &mut rollout.candidate;
            let (change, reason) =
                ScoreStage::ask(candidate, windows, around, &told, &mut self.faults);
            let (values, shares) = (candidate.values(count), candidate.shares(count));
            speakers.push(candidate.speaker.clone());
            let limits = [self.current.speaker.threshold, candidate.speaker.threshold];
            for (old, new) in answers.values.iter().zip(&values) {
                rollout.state.trial.count(*old, *new, limits);
            }
            let chosen = rollout.state.chosen(around.assets);
            answers.mix(&windows.asset, &chosen, &values, &shares);
            self.tell(true, change, &reason, around, effects);
        }
        self.tell_moved(around, effects);
        self.stand_in(windows, &mut answers, &mut speakers);
        Scored {
            output: self.loader.spec.output.clone(),
            speakers,
            spoke: answers.spoke,
            values: answers.values,
            shares: answers.shares,
        }
    }

    /// Lets the statistics watch, and speak where no model has.
    fn stand_in(&mut self, windows: &Windows, answers: &mut Answers, speakers: &mut Vec<Speaker>) {
        let Some(fallback) = &mut self.fallback else { return };
        // Without a threshold nobody knows what its numbers mean.
        let limit = self.current.speaker.threshold.filter(|limit| *limit > 0.0);
        let place = speakers.len() as u8;
        let is_chance = self.current.is_a_chance();
        for index in 0..windows.len() {
            let value = answers.values[index];
            let spoke = answers.spoke.get(index).copied().unwrap_or_default();
            let threshold = speakers[usize::from(spoke)].threshold;
            let is_normal = value.is_some_and(|v| threshold.is_none_or(|limit| v < limit));
            let found = fallback.watch(windows.asset[index], windows.row(index), is_normal);
            if value.is_some() || self.current.has_answered_for(windows.asset[index]) {
                continue;
            }
            // On the model's own scale, so that alarms mean the same.
            let scaled = found.zip(limit).map(|(found, limit)| found * limit);
            answers.values[index] = scaled.map(|v| if is_chance { v.min(1.0) } else { v });
            answers.speak(index, place, windows.len());
        }
        if answers.spoke.contains(&place) {
            speakers.push(Speaker {
                model: fallback::NAME.into(),
                version: fallback::VERSION.into(),
                digest: String::new(),
                threshold: limit,
                baseline: None,
            });
        }
    }

    /// Says what has changed about one of the models.
    fn tell(
        &self,
        is_candidate: bool,
        change: Change,
        reason: &str,
        around: &Around<'_>,
        effects: &mut Effects,
    ) {
        let scorer = match &self.rollout {
            Some(rollout) if is_candidate => &rollout.candidate,
            _ => &self.current,
        };
        let (pipeline, model) = (around.pipeline, scorer.speaker.model.as_str());
        let version = scorer.speaker.version.as_str();
        let phase = match change {
            Change::None => return,
            Change::Fails => {
                error!(pipeline, model, version, reason, "the model has no answer");
                return;
            }
            Change::Answers => {
                info!(pipeline, model, version, "the model answers again");
                return;
            }
            Change::Quarantined => {
                error!(pipeline, model, version, reason, "the model is left alone for a time");
                ModelPhase::Quarantined
            }
            Change::Restored => {
                info!(pipeline, model, version, "the model answers again and is back in use");
                ModelPhase::Restored
            }
        };
        let reason = (!reason.is_empty()).then(|| reason.to_owned());
        self.record(scorer, phase, reason, None, around, effects);
    }
}

/// What is said of a tick's windows.
struct Answers {
    values: Vec<Option<f64>>,
    shares: Shares,
    spoke: Vec<u8>,
}

impl Answers {
    /// Notes who speaks of a window.
    fn speak(&mut self, index: usize, place: u8, windows: usize) {
        self.spoke.resize(windows, 0);
        self.spoke[index] = place;
    }

    /// Takes the new model's answers for the assets for which it speaks.
    fn mix(&mut self, assets: &[u32], chosen: &[bool], values: &[Option<f64>], shares: &Shares) {
        let windows = assets.len();
        let is_chosen = |asset: u32| chosen.get(asset as usize).copied().unwrap_or(false);
        if self.shares.values.is_empty() && !shares.values.is_empty() {
            self.shares = Shares { values: vec![f32::NAN; shares.values.len()], ..shares.clone() };
        }
        let width = self.shares.width;
        for index in 0..windows {
            if !is_chosen(assets[index]) || values[index].is_none() {
                continue;
            }
            self.values[index] = values[index];
            self.speak(index, 1, windows);
            let row = index * width..(index + 1) * width;
            let Some(mine) = self.shares.values.get_mut(row.clone()) else { continue };
            match shares.values.get(row).filter(|_| shares.width == width) {
                Some(theirs) => mine.copy_from_slice(theirs),
                None => mine.fill(f32::NAN),
            }
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
        let scored = self.answer(&windows, around, effects);
        let scores = scored.values.iter().flatten().count() as u64;
        effects.account.scores += scores;
        effects.account.unscored += windows.len() as u64 - scores;
        windows.scores.push(scored);
        Ok(Flow::Windows(windows))
    }

    fn score(&self) -> Option<&ScoreStage> {
        Some(self)
    }

    fn score_mut(&mut self) -> Option<&mut ScoreStage> {
        Some(self)
    }

    fn save(&self) -> Result<Vec<u8>, StageError> {
        self.saved()
    }

    fn load(&mut self, state: &[u8]) -> Result<(), StageError> {
        self.recall(state)
    }
}

impl Scorer {
    /// Whether there is a model.
    fn is_there(&self) -> bool {
        !self.digest().is_empty()
    }

    /// Whether its score says how unlike normal running a window is: what statistics can say, too.
    fn is_of_anomalies(&self) -> bool {
        self.meaning().is_none_or(|meaning| {
            let is_score = *meaning == Meaning::Score;
            is_score || matches!(meaning, Meaning::Probability { .. })
        })
    }

    fn is_a_chance(&self) -> bool {
        self.meaning().is_some_and(|meaning| matches!(meaning, Meaning::Probability { .. }))
    }

    fn meaning(&self) -> Option<&Meaning> {
        self.model.metadata.outputs.as_ref()?.get(self.output()?)
    }
}
