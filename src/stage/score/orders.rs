//! Orders to a score's models: carried out in their tick, each with a record.
//!
//! `engine` brings the orders, `node` gives them and prepares their models. An order for a model that was not supplied
//! opens it from the shelf: that is how a replay carries it out. It promises that a refused order changes nothing.

use serde::Serialize;
use tracing::{info, warn};

use super::rollout::{Rollout, RolloutState, Trial};
use super::{ScoreStage, Scorer};
use crate::command::{Command, ModelAction, Refusal};
use crate::record::{Lane, ModelPhase, ModelRecord, Outgoing, Record};
use crate::stage::{Around, Effects};
use crate::time::Timestamp;

/// Digests of models of the past that are remembered.
const REMEMBERED: usize = 16;

/// The models of a score, to look at.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct View {
    /// The score.
    pub output: String,
    /// The model in use.
    pub model: String,
    /// Its version.
    pub version: String,
    /// Its digest; empty: there is none.
    pub digest: String,
    /// Until when it is left alone, because it failed; absent: it is asked.
    pub quarantined_until: Option<Timestamp>,
    /// Windows it was run on since the start, and how long that took a window.
    pub cost: crate::model::session::Cost,
    /// What runs it.
    pub runs_on: String,
    /// The digest of the model before it.
    pub previous: Option<String>,
    /// Digests of the models that were withdrawn, the latest last.
    pub withdrawn: Vec<String>,
    /// Digests of the models that another one has replaced, the latest last.
    pub retired: Vec<String>,
    /// The model on trial.
    pub candidate: Option<Candidate>,
}

/// A model on trial, to look at.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// Its name.
    pub model: String,
    /// Its version.
    pub version: String,
    /// Its digest.
    pub digest: String,
    /// How far it is.
    pub phase: ModelPhase,
    /// Whether it is left alone.
    pub quarantined_until: Option<Timestamp>,
    /// Windows it was run on since the start, and how long that took a window.
    pub cost: crate::model::session::Cost,
    /// Whether either model has a threshold.
    pub has_threshold: bool,
    /// How it compares.
    #[serde(skip)]
    pub trial: Trial,
}

impl ScoreStage {
    /// Its models.
    pub fn view(&self) -> View {
        let current = &self.current;
        let candidate = self.rollout.as_ref().map(|rollout| {
            let candidate = &rollout.candidate;
            let thresholds = [current.speaker.threshold, candidate.speaker.threshold];
            Candidate {
                model: candidate.speaker.model.clone(),
                version: candidate.speaker.version.clone(),
                digest: candidate.digest().to_owned(),
                phase: rollout.state.phase,
                quarantined_until: candidate.health.until,
                cost: candidate.model.cost,
                has_threshold: thresholds.iter().any(Option::is_some),
                trial: rollout.state.trial.clone(),
            }
        });
        View {
            output: self.loader.output().to_owned(),
            model: current.speaker.model.clone(),
            version: current.speaker.version.clone(),
            digest: current.digest().to_owned(),
            quarantined_until: current.health.until,
            cost: current.model.cost,
            runs_on: current.model.runs_on(),
            previous: self.previous.clone(),
            withdrawn: self.withdrawn.clone(),
            retired: self.retired.clone(),
            candidate,
        }
    }

    /// Digests of the models that it may still need.
    pub fn needed(&self) -> Vec<String> {
        let candidate = self.rollout.as_ref().map(|rollout| rollout.candidate.digest().to_owned());
        let mut needed = vec![self.current.digest().to_owned(), self.own.clone()];
        needed.extend(self.previous.iter().cloned().chain(candidate));
        needed.extend(self.past.iter().flatten().cloned());
        needed
    }

    /// A checkpoint is durable. The journal reaches back to the one before it, and no further.
    pub fn checkpointed(&mut self) {
        self.past.rotate_left(1);
        self.past[1].clear();
    }

    /// Digests of models that a restart was to go on with and could not, and why.
    pub fn lost(&self) -> &[(String, String)] {
        &self.lost
    }

    /// Whether there is a model on trial.
    pub fn is_on_trial(&self) -> bool {
        self.rollout.is_some()
    }

    /// The digest of the model that an order needs and that is still to be opened.
    pub fn awaits(&self, action: &ModelAction) -> Option<String> {
        let is_back = matches!(action, ModelAction::Withdraw { .. }) && self.rollout.is_none();
        let previous = self.previous.as_ref().filter(|_| is_back)?;
        let is_here = self.supplied.iter().any(|scorer| scorer.digest() == previous);
        (!is_here).then(|| previous.clone())
    }

    /// Hands over a model that was opened for an order of the next tick.
    pub fn supply(&mut self, scorer: Scorer) {
        self.supplied.push(scorer);
    }

    /// Whether an order can be carried out.
    pub fn judge_order(&self, action: &ModelAction) -> Result<(), Refusal> {
        let score = || self.loader.output().to_owned();
        let none = |what| Refusal::NoModel { score: score(), what };
        let phase = self.rollout.as_ref().map(|rollout| rollout.state.phase);
        let on_trial = self.rollout.as_ref().map(|rollout| rollout.candidate.digest());
        match action {
            ModelAction::Offer { digest } if digest == self.current.digest() => {
                Err(Refusal::Already("in use"))
            }
            ModelAction::Offer { digest } => {
                if on_trial == Some(digest) {
                    return Err(Refusal::Already("on trial"));
                }
                match self.supplied.iter().find(|scorer| scorer.digest() == digest) {
                    Some(scorer) => self.is_newer(scorer),
                    None => Ok(()),
                }
            }
            ModelAction::Canary { .. } | ModelAction::Promote { .. } if phase.is_none() => {
                Err(none("model on trial"))
            }
            ModelAction::Settle { .. } if phase != Some(ModelPhase::Promoted) => {
                Err(none("promoted model"))
            }
            ModelAction::Withdraw { .. } if phase.is_none() && self.previous.is_none() => {
                Err(none("model on trial, and none before the one in use"))
            }
            ModelAction::Canary { digest, .. }
            | ModelAction::Promote { digest }
            | ModelAction::Settle { digest }
            | ModelAction::Withdraw { digest, .. }
                if digest != on_trial.unwrap_or(self.current.digest()) =>
            {
                Err(Refusal::OtherModel { score: score() })
            }
            ModelAction::Promote { .. } if phase == Some(ModelPhase::Promoted) => {
                Err(Refusal::Already("promoted"))
            }
            ModelAction::Canary { .. }
            | ModelAction::Promote { .. }
            | ModelAction::Settle { .. }
            | ModelAction::Withdraw { .. }
            | ModelAction::Failed { .. }
            | ModelAction::FailedFor { .. }
            | ModelAction::Lost { .. } => Ok(()),
        }
    }

    /// Where models must be signed, one that was given out before those in use and on trial is refused: an old fault must
    /// not come back with a good signature.
    fn is_newer(&self, scorer: &Scorer) -> Result<(), Refusal> {
        let new = &scorer.model.metadata;
        let on_trial = self.rollout.as_ref().map(|rollout| &rollout.candidate);
        let known = std::iter::once(&self.current).chain(on_trial).map(|s| &s.model.metadata);
        let latest = known.filter(|old| old.name == new.name).filter_map(|old| old.serial).max();
        match latest.filter(|_| self.loader.host().trust.requires()) {
            Some(old) if new.serial.is_none_or(|new| new < old) => {
                let found = new.serial.map_or_else(|| "none".into(), |new| new.to_string());
                Err(Refusal::Unfit(format!(
                    "its serial is {found}, and a model in use or on trial has {old}: older ones are refused"
                )))
            }
            _ => Ok(()),
        }
    }

    /// Carries an order out.
    pub fn obey_order(
        &mut self,
        command: &Command,
        action: &ModelAction,
        around: &Around<'_>,
        effects: &mut Effects,
    ) -> Result<ModelPhase, Refusal> {
        if matches!(action, ModelAction::Failed { .. } | ModelAction::FailedFor { .. }) {
            self.told.push(action.clone());
            return Ok(ModelPhase::Quarantined);
        }
        self.judge_order(action)?;
        let by = command.by.clone();
        if let ModelAction::Lost { digest, reason } = action {
            self.lost.retain(|(lost, _)| lost != digest);
            let short: String = digest.chars().take(12).collect();
            let (phase, reason) = (ModelPhase::Withdrawn, Some(reason.clone()));
            // Its name went with its file.
            let names = ["unknown", &short, digest];
            self.record_of(names, phase, reason, by, around, effects);
            return Ok(phase);
        }
        let phase = match action {
            ModelAction::Offer { digest } => self.offer(digest, by.as_ref(), around, effects)?,
            ModelAction::Canary { permille, .. } => {
                self.advance(ModelPhase::Canary, *permille, around)
            }
            ModelAction::Promote { .. } => self.advance(ModelPhase::Promoted, 1000, around),
            ModelAction::Settle { .. } => self.settle(),
            ModelAction::Withdraw { reason, .. } => {
                return self.withdraw(reason, by, around, effects);
            }
            ModelAction::Failed { .. }
            | ModelAction::FailedFor { .. }
            | ModelAction::Lost { .. } => ModelPhase::Quarantined,
        };
        let scorer = self.rollout.as_ref().map_or(&self.current, |rollout| &rollout.candidate);
        self.record(scorer, phase, None, by, around, effects);
        let speaker = &scorer.speaker;
        info!(
            pipeline = around.pipeline,
            score = self.loader.output(),
            model = speaker.model,
            version = speaker.version,
            "the model is {}",
            phase.name()
        );
        Ok(phase)
    }

    fn offer(
        &mut self,
        digest: &str,
        by: Option<&String>,
        around: &Around<'_>,
        effects: &mut Effects,
    ) -> Result<ModelPhase, Refusal> {
        let candidate = self.supplied(digest)?;
        self.is_newer(&candidate)?;
        let why = "another model is offered";
        match self.rollout.as_ref().map(|rollout| rollout.state.phase) {
            // It is heard everywhere: who is heard does not change because something new is looked at.
            Some(ModelPhase::Promoted) => {
                let (phase, why) = (self.settle(), Some(why.to_owned()));
                self.record(&self.current, phase, why, by.cloned(), around, effects);
            }
            Some(_) => drop(self.withdraw(why, by.cloned(), around, effects)?),
            None => (),
        }
        // Whoever put it into the pipeline's file has been heard.
        self.has_new_file &= digest != self.own;
        // Offered again, it is none of the past any more.
        self.withdrawn.retain(|withdrawn| withdrawn != digest);
        self.retired.retain(|retired| retired != digest);
        let trial = Trial::begins(around.tick.now);
        let state = RolloutState { phase: ModelPhase::Shadow, permille: 0, trial };
        self.rollout = Some(Rollout { candidate, state });
        Ok(ModelPhase::Shadow)
    }

    /// The model with this digest: one that was handed over, or, in a replay, the one on the shelf.
    fn supplied(&mut self, digest: &str) -> Result<Scorer, Refusal> {
        let place = self.supplied.iter().position(|scorer| scorer.digest() == digest);
        let mut scorer = match place {
            Some(place) => self.supplied.remove(place),
            None => self.loader.shelved(digest).map_err(Refusal::Unfit)?,
        };
        scorer.model.deadline = self.current.model.deadline;
        Ok(scorer)
    }

    fn advance(&mut self, phase: ModelPhase, permille: u16, around: &Around<'_>) -> ModelPhase {
        if let Some(rollout) = &mut self.rollout {
            let trial = Trial::begins(around.tick.now);
            rollout.state = RolloutState { phase, permille, trial };
        }
        phase
    }

    fn settle(&mut self) -> ModelPhase {
        if let Some(rollout) = self.rollout.take() {
            let old = std::mem::replace(&mut self.current, rollout.candidate);
            remember(&mut self.retired, old.digest());
            let previous = old.is_there().then(|| old.digest().to_owned());
            self.past[1].extend(std::mem::replace(&mut self.previous, previous));
        }
        ModelPhase::Settled
    }

    fn withdraw(
        &mut self,
        reason: &str,
        by: Option<String>,
        around: &Around<'_>,
        effects: &mut Effects,
    ) -> Result<ModelPhase, Refusal> {
        let gone = if let Some(rollout) = self.rollout.take() {
            rollout.candidate
        } else {
            let digest = self.previous.clone().unwrap_or_default();
            let back = self.supplied(&digest)?;
            self.previous = None;
            std::mem::replace(&mut self.current, back)
        };
        remember(&mut self.withdrawn, gone.digest());
        self.past[1].push(gone.digest().to_owned());
        let phase = ModelPhase::Withdrawn;
        self.record(&gone, phase, Some(reason.to_owned()), by, around, effects);
        let (model, version) = (&gone.speaker.model, &gone.speaker.version);
        warn!(pipeline = around.pipeline, model, version, reason, "the model is withdrawn");
        Ok(phase)
    }

    /// Makes the record of a change.
    pub(super) fn record(
        &self,
        scorer: &Scorer,
        phase: ModelPhase,
        reason: Option<String>,
        by: Option<String>,
        around: &Around<'_>,
        effects: &mut Effects,
    ) {
        let names = [&scorer.speaker.model, &scorer.speaker.version, scorer.digest()];
        self.record_of(names, phase, reason, by, around, effects);
    }

    /// The same, of a model with this name, version and digest.
    fn record_of(
        &self,
        [model, version, digest]: [&str; 3],
        phase: ModelPhase,
        reason: Option<String>,
        by: Option<String>,
        around: &Around<'_>,
        effects: &mut Effects,
    ) {
        let output = self.loader.output();
        let number = effects.records.len();
        let is_other = digest != self.current.digest();
        let record = ModelRecord {
            // Orders stand in the journal: a recomputation has the same tick.
            id: format!(
                "{}/{}/model/{output}/{}/{number}",
                around.node, around.pipeline, around.tick.seq
            ),
            node: around.node.to_owned(),
            pipeline: around.pipeline.to_owned(),
            output: output.to_owned(),
            phase,
            model: model.to_owned(),
            model_version: version.to_owned(),
            digest: digest.to_owned(),
            beside: is_other.then(|| self.current.speaker.version.clone()),
            reason,
            by,
            at: around.tick.now,
        };
        effects.records.push(Outgoing { lane: Lane::Alarm, record: Record::Model(record) });
    }
}

/// Adds a digest to those that are remembered, as the latest; where there was no model, none.
fn remember(past: &mut Vec<String>, digest: &str) {
    if digest.is_empty() {
        return;
    }
    past.retain(|other| other != digest);
    past.push(digest.to_owned());
    if past.len() > REMEMBERED {
        past.remove(0);
    }
}
