//! What an operator asks of an alarm, or of the model behind a score, and why it may be refused.
//!
//! `feed` and `node` make commands, `frame::Input` carries them into the engine and the journal like readings, and
//! the stages carry them out. A command is complete in itself: the moment at which a shelving ends is in it, and a model
//! is named by its digest, so that a replay needs neither clock nor network.

pub mod models;
pub mod quarantine;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// One thing to do to one alarm of one asset, or to the model behind one score of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The pipeline.
    pub pipeline: String,
    /// The asset; of a model, nothing.
    pub asset: String,
    /// The alarm's name in the pipeline file; of a model, the score's (`output`).
    pub alarm: String,
    /// What to do.
    pub action: Action,
    /// Who asks, as they said it themselves: it is written down, not proved.
    pub by: Option<String>,
}

/// What to do to an alarm, after ISA-18.2, or to a model. New ones come last: their order is the journal's format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Somebody has seen it.
    Acknowledge,
    /// Silent until then, whatever happens.
    Shelve {
        /// The first moment at which it speaks again.
        until: Timestamp,
        /// Why.
        reason: Option<String>,
    },
    /// Speak again now.
    Unshelve,
    /// Something to do to a model.
    Model(ModelAction),
    /// Whether an alarm was right.
    Judge {
        /// Whether there was something wrong with the machine.
        verdict: Verdict,
        /// The moment at which the alarm was raised that is meant. Absent: the last one.
        raised: Option<Timestamp>,
        /// What was wrong.
        fault: Option<String>,
        /// What else is to be said.
        note: Option<String>,
    },
}

/// What an operator says of an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// There was something wrong.
    True,
    /// There was nothing wrong: a false alarm.
    False,
    /// Nobody knows.
    Unsure,
}

/// What to do to the model behind a score. A new model goes from shadow over canary to promoted and settled, or is
/// withdrawn on the way. Every order names the model that it means: one that comes late, or twice, hits no other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModelAction {
    /// This model scores every window beside the one in use; only that one speaks. *Shadow*.
    Offer {
        /// SHA-256 of the model, in hex: its place on the node's shelf.
        digest: String,
    },
    /// The new one speaks for some assets. *Canary*.
    Canary {
        /// The new one.
        digest: String,
        /// For how many of a thousand; for one at least.
        permille: u16,
    },
    /// The new one speaks for all assets; the old one goes on beside it.
    Promote {
        /// The new one.
        digest: String,
    },
    /// The old one is let go.
    Settle {
        /// The new one.
        digest: String,
    },
    /// A model is let go: the new one, or the one in use, and the one before it returns.
    Withdraw {
        /// Which.
        digest: String,
        /// Why.
        reason: String,
    },
    /// Not asked by anybody: the engine writes into the journal that a model had no answer in this tick, or none in
    /// time, so that a replay has none either.
    Failed {
        /// Which model.
        digest: String,
        /// Why.
        reason: String,
    },
    /// Not asked by anybody either: a restart was to go on with this model, and its copy cannot be used.
    Lost {
        /// Which model.
        digest: String,
        /// Why.
        reason: String,
    },
    /// As `Failed`, of a batch of several assets: it was asked about each of them alone, and had no answer for these.
    FailedFor {
        /// Which model.
        digest: String,
        /// Why.
        reason: String,
        /// Which assets; maybe none.
        assets: Vec<String>,
    },
}

impl Action {
    /// Its name in logs.
    pub fn name(&self) -> &'static str {
        match self {
            Action::Acknowledge => "acknowledge",
            Action::Shelve { .. } => "shelve",
            Action::Unshelve => "unshelve",
            Action::Model(action) => match action {
                ModelAction::Offer { .. } => "offer",
                ModelAction::Canary { .. } => "canary",
                ModelAction::Promote { .. } => "promote",
                ModelAction::Settle { .. } => "settle",
                ModelAction::Withdraw { .. } => "withdraw",
                ModelAction::Failed { .. } | ModelAction::FailedFor { .. } => "failed",
                ModelAction::Lost { .. } => "lost",
            },
            Action::Judge { .. } => "judge",
        }
    }
}

/// Why a command is not carried out. It then changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such pipeline.
    #[error("no pipeline `{0}` runs on this node")]
    NoPipeline(String),
    /// No such asset.
    #[error("pipeline `{pipeline}` has seen no asset `{asset}`")]
    NoAsset {
        /// The pipeline.
        pipeline: String,
        /// The asset.
        asset: String,
    },
    /// No alarm of that name.
    #[error("pipeline `{pipeline}` has no alarm `{alarm}`; it has {known}")]
    UnknownAlarm {
        /// The pipeline.
        pipeline: String,
        /// The alarm.
        alarm: String,
        /// The names there are.
        known: String,
    },
    /// The alarm has had nothing to judge.
    #[error("pipeline `{pipeline}` has judged no alarm `{alarm}` on asset `{asset}`")]
    NoAlarm {
        /// The pipeline.
        pipeline: String,
        /// The asset.
        asset: String,
        /// The alarm.
        alarm: String,
    },
    /// Only an alarm that waits for it can be acknowledged.
    #[error("alarm `{alarm}` is {state}: there is nothing to acknowledge")]
    NothingToAcknowledge {
        /// The alarm.
        alarm: String,
        /// Its state.
        state: &'static str,
    },
    /// Only a shelved alarm can be unshelved.
    #[error("alarm `{alarm}` is {state}, not shelved")]
    NotShelved {
        /// The alarm.
        alarm: String,
        /// Its state.
        state: &'static str,
    },
    /// An alarm that was judged often enough.
    #[error("alarm `{alarm}` was judged {times} times since it was raised: that is the most")]
    JudgedEnough {
        /// The alarm.
        alarm: String,
        /// How often.
        times: u8,
    },
    /// An alarm that was not raised at that moment, or never, cannot be judged.
    #[error("alarm `{alarm}` was {last}: there is nothing to judge")]
    NothingToJudge {
        /// The alarm.
        alarm: String,
        /// When it was raised last, in words.
        last: String,
    },
    /// The shelving would be over before it begins: the node's clock was set back since.
    #[error("the shelving would end at {until}, before the node's last tick; is its clock right?")]
    EndsInThePast {
        /// When it would end.
        until: Timestamp,
    },
    /// No such score.
    #[error("pipeline `{pipeline}` has no score `{score}`")]
    NoScore {
        /// The pipeline.
        pipeline: String,
        /// The score.
        score: String,
    },
    /// A model cannot be had, or does not fit.
    #[error("the model cannot be used: {0}")]
    Unfit(String),
    /// It is what runs already.
    #[error("this model is {0} already")]
    Already(&'static str),
    /// It was meant for a model that is not there any more.
    #[error("score `{score}` has another model by now; look at what it has, and ask again")]
    OtherModel {
        /// The score.
        score: String,
    },
    /// There is nothing that could be promoted or withdrawn.
    #[error("score `{score}` has no {what}")]
    NoModel {
        /// The score.
        score: String,
        /// What there is none of: a model on trial, or one before the present.
        what: &'static str,
    },
    /// The pipeline failed in the tick that was to carry it out.
    #[error("pipeline `{0}` failed and has lost what it remembered; its alarms start anew")]
    Failed(String),
}

impl Refusal {
    /// Whether there is no such thing at all, rather than one in another state.
    pub fn is_unknown(&self) -> bool {
        matches!(
            self,
            Refusal::NoPipeline(_)
                | Refusal::NoAsset { .. }
                | Refusal::UnknownAlarm { .. }
                | Refusal::NoAlarm { .. }
                | Refusal::NoScore { .. }
        )
    }
}
