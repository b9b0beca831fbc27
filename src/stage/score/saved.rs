//! What a score remembers over a restart: which models are in use and on trial, what they remember of each asset, the
//! statistics that stand in for them.

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::fallback::Fallback;
use super::recalibrate::Followed;
use super::rollout::{Rollout, RolloutState};
use super::{Health, ScoreStage, Scorer};
use crate::stage::{StageError, load_state, save_state};

/// What is saved.
#[derive(Default, Serialize, Deserialize)]
struct Saved {
    digest: String,
    memories: Vec<Vec<f64>>,
    places: Vec<Option<Followed>>,
    own: String,
    previous: Option<String>,
    withdrawn: Vec<String>,
    retired: Vec<String>,
    health: Health,
    fallback: Option<Fallback>,
    rollout: Option<SavedRollout>,
    threshold: Option<f64>,
}

impl Saved {
    /// Whether the score has, or had, the model with this digest.
    fn has_had(&self, digest: &String) -> bool {
        let is_on_trial = self.rollout.as_ref().is_some_and(|rollout| rollout.digest == *digest);
        let is_past = self.withdrawn.contains(digest) || self.retired.contains(digest);
        [&self.own, &self.digest].contains(&digest) || is_on_trial || is_past
    }
}

#[derive(Serialize, Deserialize)]
struct SavedRollout {
    digest: String,
    memories: Vec<Vec<f64>>,
    places: Vec<Option<Followed>>,
    health: Health,
    state: RolloutState,
}

impl ScoreStage {
    /// What it remembers, as bytes.
    pub(super) fn saved(&self) -> Result<Vec<u8>, StageError> {
        let places = |scorer: &Scorer| -> Vec<Option<Followed>> {
            scorer.recalibration.as_ref().map_or_else(Vec::new, |r| r.assets().to_vec())
        };
        let rollout = self.rollout.as_ref().map(|rollout| SavedRollout {
            digest: rollout.candidate.digest().to_owned(),
            memories: rollout.candidate.memories.clone(),
            places: places(&rollout.candidate),
            health: rollout.candidate.health.clone(),
            state: rollout.state.clone(),
        });
        let saved = Saved {
            digest: self.current.digest().to_owned(),
            memories: self.current.memories.clone(),
            places: places(&self.current),
            own: self.own.clone(),
            previous: self.previous.clone(),
            withdrawn: self.withdrawn.clone(),
            retired: self.retired.clone(),
            health: self.current.health.clone(),
            fallback: self.fallback.clone(),
            rollout,
            threshold: self.current.speaker.threshold,
        };
        save_state("score", &saved)
    }

    /// Goes on with those bytes.
    pub(super) fn recall(&mut self, state: &[u8]) -> Result<(), StageError> {
        if state.is_empty() {
            self.forget();
        } else {
            self.take_up(load_state("score", state)?);
        }
        Ok(())
    }

    /// Where there is no model, statistics go on on the scale of the one there was.
    fn scale(&mut self, threshold: Option<f64>) {
        if !self.current.is_there() {
            let known = &mut self.current.speaker.threshold;
            *known = known.or(threshold);
        }
    }

    /// Forgets what it has seen, and not which models are in use: how it goes on after a failure.
    fn forget(&mut self) {
        let scorers = std::iter::once(&mut self.current);
        let candidate = self.rollout.iter_mut().map(|rollout| &mut rollout.candidate);
        for scorer in scorers.chain(candidate) {
            scorer.memories.clear();
            if let Some(recalibration) = &mut scorer.recalibration {
                recalibration.remember(Vec::new());
            }
        }
        if let Some(fallback) = &mut self.fallback {
            fallback.clear();
        }
    }

    /// Goes on with what was saved, whatever lies in the pipeline's model file by now: what comes out of the journal again
    /// must come from the models that it came from before. A file that was changed since, and holds none of the models
    /// that this score has had, is the wish of whoever changed it, for `node` to offer. Where there was no model, any is new.
    fn take_up(&mut self, saved: Saved) {
        let is_new = saved.digest.is_empty() || !saved.has_had(&self.own);
        self.has_new_file = is_new && !self.own.is_empty();
        // Where the file cannot be used, what was saved says whether statistics may speak.
        if self.fallback.is_some() || (self.own.is_empty() && self.loader.spec.fallback) {
            self.fallback = saved.fallback.or(self.fallback.take());
        }
        if saved.digest != self.current.digest() {
            match self.loader.shelved(&saved.digest) {
                Ok(scorer) => self.current = scorer,
                Err(reason) => {
                    self.has_new_file = false;
                    let model = &self.current.speaker.model;
                    warn!(
                        model,
                        reason, "the model that was in use is gone; the pipeline's own is"
                    );
                    self.lost.push((saved.digest.clone(), reason));
                }
            }
        }
        self.scale(saved.threshold);
        self.current.remember(&saved.digest, saved.memories);
        self.current.recall(&saved.digest, saved.places);
        if saved.digest == self.current.digest() {
            self.current.health = saved.health;
        }
        self.previous = saved.previous.filter(|previous| previous != self.current.digest());
        self.withdrawn = saved.withdrawn;
        self.retired = saved.retired;
        // Where the model in use is gone, the pipeline's own may be the one that was on trial.
        let on_trial = saved.rollout.filter(|rollout| rollout.digest != self.current.digest());
        if let Some(SavedRollout { digest, memories, places, health, state }) = on_trial {
            match self.loader.shelved(&digest) {
                Ok(mut candidate) => {
                    candidate.remember(&digest, memories);
                    candidate.recall(&digest, places);
                    candidate.health = health;
                    self.rollout = Some(Rollout { candidate, state });
                }
                Err(reason) => {
                    warn!(digest, reason, "the model on trial is gone");
                    self.lost.push((digest, reason));
                }
            }
        }
    }
}
