//! Topic patterns: `plant/{site}/pump/{asset}/telemetry`.
//!
//! `pipeline` parses them when it checks a file, `ingest` subscribes to their [`TopicPattern::filter`], and
//! [`super::Decoder`] asks them which asset a message is of. A name in braces is always a whole level, so the filter
//! a broker is given and the pattern here accept the same topics, but for one case: a level with a name may not
//! be empty.

use std::fmt;

/// A parsed topic pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPattern {
    text: String,
    levels: Vec<Level>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    Literal(String),
    Any,
    Rest,
    Name(String),
}

impl Level {
    fn as_filter(&self) -> &str {
        match self {
            Level::Literal(text) => text,
            Level::Any | Level::Name(_) => "+",
            Level::Rest => "#",
        }
    }
}

/// Why a topic pattern cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// There is nothing in it.
    #[error("the topic is empty; write one such as \"plant/{{site}}/pump/{{asset}}/telemetry\"")]
    Empty,
    /// MQTT carries at most 65,535 bytes of topic.
    #[error("the topic has {size} bytes; MQTT allows 65535")]
    TooLong {
        /// Its size in bytes.
        size: usize,
    },
    /// A name or a wildcard that shares its level with other text.
    #[error(
        "topic `{topic}`: level {level} is `{text}`; {what} must be a whole level between slashes"
    )]
    PartOfLevel {
        /// The pattern.
        topic: String,
        /// Which level, from 1.
        level: usize,
        /// What stands there.
        text: String,
        /// What must stand alone.
        what: &'static str,
    },
    /// A name with characters that names do not have.
    #[error("topic `{topic}`: `{{{name}}}` is no name; use letters, digits and _")]
    BadName {
        /// The pattern.
        topic: String,
        /// The name.
        name: String,
    },
    /// The same name twice.
    #[error(
        "topic `{topic}`: `{{{name}}}` stands there twice; use `+` for the level that needs no name"
    )]
    Twice {
        /// The pattern.
        topic: String,
        /// The name.
        name: String,
    },
    /// `#` before the end.
    #[error("topic `{topic}`: `#` may only be the last level; use `+` for one level")]
    RestNotLast {
        /// The pattern.
        topic: String,
    },
}

impl TopicPattern {
    /// Reads a pattern. Errors name the level and what may stand there.
    pub fn parse(text: &str) -> Result<TopicPattern, TopicError> {
        if text.is_empty() {
            return Err(TopicError::Empty);
        }
        if text.len() > usize::from(u16::MAX) {
            return Err(TopicError::TooLong { size: text.len() });
        }
        let mut levels: Vec<Level> = Vec::new();
        for (index, part) in text.split('/').enumerate() {
            if levels.last() == Some(&Level::Rest) {
                return Err(TopicError::RestNotLast { topic: text.into() });
            }
            let level = parse_level(text, index + 1, part)?;
            if let Level::Name(name) = &level
                && levels.contains(&level)
            {
                return Err(TopicError::Twice { topic: text.into(), name: name.clone() });
            }
            levels.push(level);
        }
        Ok(TopicPattern { text: text.into(), levels })
    }

    /// The names in braces, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.levels.iter().filter_map(|level| match level {
            Level::Name(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// The MQTT subscription: every name becomes `+`.
    pub fn filter(&self) -> String {
        self.levels.iter().map(Level::as_filter).collect::<Vec<&str>>().join("/")
    }

    /// Whether `topic` fits. If so, `captures` holds what stood for each of [`TopicPattern::names`], in their order.
    /// As in MQTT, a wildcard on the first level does not see topics that start with `$`.
    pub fn matches<'t>(&self, topic: &'t str, captures: &mut Vec<&'t str>) -> bool {
        captures.clear();
        if topic.starts_with('$') && !matches!(self.levels.first(), Some(Level::Literal(_))) {
            return false;
        }
        let mut parts = topic.split('/');
        for level in &self.levels {
            if *level == Level::Rest {
                return true;
            }
            let Some(part) = parts.next() else { return false };
            match level {
                Level::Literal(text) if text != part => return false,
                Level::Name(_) if part.is_empty() => return false,
                Level::Name(_) => captures.push(part),
                _ => {}
            }
        }
        parts.next().is_none()
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn parse_level(topic: &str, level: usize, part: &str) -> Result<Level, TopicError> {
    let alone =
        |what| TopicError::PartOfLevel { topic: topic.into(), level, text: part.into(), what };
    match part {
        "+" => return Ok(Level::Any),
        "#" => return Ok(Level::Rest),
        _ => {}
    }
    if let Some(name) = part.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        if name.contains(['{', '}']) {
            return Err(alone("a name in braces"));
        }
        let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        if !first || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(TopicError::BadName { topic: topic.into(), name: name.into() });
        }
        return Ok(Level::Name(name.into()));
    }
    if part.contains(['{', '}']) {
        return Err(alone("a name in braces"));
    }
    if part.contains(['+', '#']) {
        return Err(alone("a wildcard"));
    }
    Ok(Level::Literal(part.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, topic: &str) -> Option<Vec<String>> {
        let pattern = TopicPattern::parse(pattern).unwrap();
        let mut captures = Vec::new();
        pattern
            .matches(topic, &mut captures)
            .then(|| captures.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn names_are_captured_and_wildcards_are_mqtts() {
        let pattern = "plant/{site}/pump/{asset}/telemetry";
        assert_eq!(TopicPattern::parse(pattern).unwrap().filter(), "plant/+/pump/+/telemetry");
        assert_eq!(
            matches(pattern, "plant/north/pump/p-7/telemetry").unwrap(),
            ["north", "p-7"],
            "in the order of the pattern"
        );
        assert!(matches(pattern, "plant/north/pump/p-7").is_none());
        assert!(matches(pattern, "plant/north/pump/p-7/telemetry/x").is_none());
        assert!(matches(pattern, "plant/north/pump//telemetry").is_none(), "no empty names");
        assert!(matches("a/+/#", "a/b").is_some(), "# is also the parent level");
        assert!(matches("a/+/#", "a/b/c/d").is_some());
        assert!(matches("a/#", "a").is_some());
        assert!(matches("#", "$SYS/broker").is_none());
        assert!(matches("{x}/broker", "$SYS/broker").is_none());
        assert!(matches("$SYS/#", "$SYS/broker").is_some());
    }

    #[test]
    fn every_mistake_is_named() {
        let why = |text: &str| TopicPattern::parse(text).unwrap_err().to_string();
        assert!(why("").contains("empty"));
        assert!(why("a/pump-{asset}").contains("level 2 is `pump-{asset}`"));
        assert!(why("a/{b}{c}").contains("whole level"));
        assert!(why("a/b+").contains("a wildcard must be a whole level"));
        assert!(why("a/{as set}").contains("`{as set}` is no name"));
        assert!(why("a/{}").contains("no name"));
        assert!(why("{a}/{a}").contains("twice"));
        assert!(why("a/#/b").contains("last level"));
        assert!(why(&"a".repeat(70_000)).contains("70000 bytes"));
    }
}
