//! What can be wrong with a message, and with the settings of its format.

use super::time::{TimeFault, TimeFormatError};
use super::topic::TopicError;

/// Why a message was rejected, or a format cannot be used. Each says what, where, found and expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A topic pattern is wrong.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// A format of times is wrong.
    #[error(transparent)]
    TimeFormat(#[from] TimeFormatError),
    /// A path in the format is wrong.
    #[error(
        "{setting} = \"{path}\" is not a path; write names joined by dots, a literal dot as \\."
    )]
    BadPath {
        /// The setting.
        setting: &'static str,
        /// What was typed.
        path: String,
    },
    /// Two settings read one place, or one reads through the other.
    #[error(
        "{setting} reads `{path}`, which another setting reads already; give each its own path"
    )]
    PathTaken {
        /// The setting.
        setting: String,
        /// The path.
        path: String,
    },
    /// Two settings that exclude each other.
    #[error("format.json: {one} and {other} cannot both be set: {why}")]
    Conflict {
        /// A setting.
        one: &'static str,
        /// Another.
        other: &'static str,
        /// Why not both.
        why: &'static str,
    },
    /// The format speaks of a signal that the schema does not have.
    #[error(
        "{setting} names the signal `{signal}`, which schema `{schema}` does not have{nearest}"
    )]
    NoSuchSignal {
        /// The setting.
        setting: &'static str,
        /// What was typed.
        signal: String,
        /// The schema.
        schema: String,
        /// The nearest right spelling, as the end of the sentence.
        nearest: String,
    },
    /// Nothing says which asset a message is of.
    #[error(
        "topic `{topic}` does not name the asset; write {{asset}} for the level that does, or set format.json.asset"
    )]
    AssetNowhere {
        /// The pattern.
        topic: String,
    },
    /// Nothing says which signal a bare value is.
    #[error(
        "topic `{topic}` does not name the signal; write {{signal}} for the level that does, or set format.scalar.signal"
    )]
    SignalNowhere {
        /// The pattern.
        topic: String,
    },
    /// The topic fits none of the route's patterns.
    #[error("topic `{topic}` fits none of {patterns}")]
    NoRoute {
        /// The topic.
        topic: String,
        /// What would have fitted.
        patterns: String,
    },
    /// Larger than the limit.
    #[error("message on `{topic}` has {size} bytes; limits.message allows {limit}")]
    TooLarge {
        /// The topic.
        topic: String,
        /// Bytes found.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Nothing in it.
    #[error("message on `{topic}` is empty; expected {expected}")]
    Empty {
        /// The topic.
        topic: String,
        /// What the format asks for.
        expected: &'static str,
    },
    /// Not text.
    #[error(
        "message on `{topic}` is not UTF-8: byte {offset} is 0x{byte:02x}; expected {expected}"
    )]
    NotUtf8 {
        /// The topic.
        topic: String,
        /// The first wrong byte's place, from 0.
        offset: usize,
        /// That byte.
        byte: u8,
        /// What the format asks for.
        expected: &'static str,
    },
    /// Text, but not JSON.
    #[error("message on `{topic}` is not JSON: {reason} at byte {offset} (`{near}`){hint}")]
    NotJson {
        /// The topic.
        topic: String,
        /// Where, from 0.
        offset: usize,
        /// What stands there.
        near: String,
        /// What the parser says.
        reason: String,
        /// What to do about it, as the end of the sentence.
        hint: &'static str,
    },
    /// JSON, but of another shape.
    #[error("message on `{topic}`: {path} is {found}; expected {expected}")]
    WrongType {
        /// The topic.
        topic: String,
        /// Where.
        path: String,
        /// What is there.
        found: String,
        /// What the format asks for.
        expected: &'static str,
    },
    /// Something that the format needs is not there.
    #[error("message on `{topic}`: {what} is missing; expected it {path}")]
    Missing {
        /// The topic.
        topic: String,
        /// What is missing.
        what: &'static str,
        /// Where it should be.
        path: String,
    },
    /// An old message without a time.
    #[error(
        "message on `{topic}` was kept by the broker (retained) and has no time of its own: how old it is, nobody knows"
    )]
    Retained {
        /// The topic.
        topic: String,
    },
    /// A signal that the schema does not know, where the format refuses those.
    #[error(
        "message on `{topic}`: {path} is not a signal of the schema; add it there, or set unknown = \"ignore\""
    )]
    UnknownSignal {
        /// The topic.
        topic: String,
        /// Where, or the name.
        path: String,
    },
    /// The time cannot be read.
    #[error("message on `{topic}`: {path}: {fault}")]
    Time {
        /// The topic.
        topic: String,
        /// Where.
        path: String,
        /// What is wrong with it.
        fault: TimeFault,
    },
}

impl DecodeError {
    /// A short name for counters.
    pub fn name(&self) -> &'static str {
        match self {
            DecodeError::Topic(_)
            | DecodeError::TimeFormat(_)
            | DecodeError::BadPath { .. }
            | DecodeError::PathTaken { .. }
            | DecodeError::Conflict { .. }
            | DecodeError::NoSuchSignal { .. }
            | DecodeError::AssetNowhere { .. }
            | DecodeError::SignalNowhere { .. } => "format",
            DecodeError::NoRoute { .. } => "no_route",
            DecodeError::TooLarge { .. } => "too_large",
            DecodeError::Empty { .. } => "empty",
            DecodeError::NotUtf8 { .. } => "not_utf8",
            DecodeError::NotJson { .. } => "not_json",
            DecodeError::WrongType { .. } => "wrong_type",
            DecodeError::Missing { .. } => "missing",
            DecodeError::Retained { .. } => "retained",
            DecodeError::UnknownSignal { .. } => "unknown_signal",
            DecodeError::Time { .. } => "time",
        }
    }

    /// What is wrong with a message that the broker had kept: no other may not take the time of its arrival.
    pub(super) fn of_retained(&mut self) {
        if let DecodeError::Missing { topic, what: "the time", .. } = self {
            *self = DecodeError::Retained { topic: std::mem::take(topic) };
        }
    }

    /// The sentence without the topic, for recordings, whose lines have none.
    pub(crate) fn fact(&self) -> String {
        let text = self.to_string();
        let rest = text.strip_prefix("message on `").and_then(|rest| rest.split_once('`'));
        let rest = rest.map_or(text.as_str(), |(_, rest)| rest);
        rest.trim_start_matches([':', ' ']).to_owned()
    }
}
