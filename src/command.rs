//! What an operator asks of an alarm, and why it may be refused.
//!
//! `feed` makes commands of requests, `frame::Input` carries them into the engine and the journal like readings, and
//! the alarm stage carries them out. A command is complete in itself: the moment at which a shelving ends is in it, so
//! that a replay needs no clock.

pub mod quarantine;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// One thing to do to one alarm of one asset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The pipeline.
    pub pipeline: String,
    /// The asset.
    pub asset: String,
    /// The alarm's name in the pipeline file.
    pub alarm: String,
    /// What to do.
    pub action: Action,
    /// Who asks, as they said it themselves: it is written down, not proved.
    pub by: Option<String>,
}

/// What to do to an alarm, after ISA-18.2.
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
    /// Whether it was right.
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

impl Action {
    /// Its name in logs.
    pub fn name(&self) -> &'static str {
        match self {
            Action::Acknowledge => "acknowledge",
            Action::Shelve { .. } => "shelve",
            Action::Unshelve => "unshelve",
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
    /// No such alarm, or it has had nothing to judge.
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
    /// The pipeline failed in the tick that was to carry it out.
    #[error("pipeline `{0}` failed and has lost what it remembered; its alarms start anew")]
    Failed(String),
}

impl Refusal {
    /// Whether there is no such alarm at all, rather than one in another state.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Refusal::NoPipeline(_) | Refusal::NoAsset { .. } | Refusal::NoAlarm { .. })
    }
}
