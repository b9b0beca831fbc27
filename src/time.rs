//! When things happen: event times, lengths of time, ticks, and the one place that reads a clock.
//!
//! Everybody uses the types. Only the edges (L2, L3) call [`now`] and [`monotonic`]: the core is given its
//! time with every [`Tick`], so that a replay of the journal sees the same time.

mod step;

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use step::Step;

/// A moment in UTC, in microseconds since 1970-01-01T00:00:00Z. Written as RFC 3339.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Before every reading.
    pub const MIN: Timestamp = Timestamp(i64::MIN);
    /// After every reading: the watermark of an input that has ended.
    pub const MAX: Timestamp = Timestamp(i64::MAX);

    /// This moment moved by `span` (which may be negative); stays at the ends of the range.
    #[must_use]
    pub fn plus(self, span: Span) -> Timestamp {
        Timestamp(self.0.saturating_add(span.0))
    }

    /// This moment moved back by `span`; stays at the ends of the range.
    #[must_use]
    pub fn minus(self, span: Span) -> Timestamp {
        Timestamp(self.0.saturating_sub(span.0))
    }

    /// The latest multiple of `step` (counted from 1970) that is not after this moment.
    #[must_use]
    pub fn floor(self, step: Span) -> Timestamp {
        Timestamp(self.0.div_euclid(step.0).saturating_mul(step.0))
    }

    /// How long after `earlier` this is.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(ts) => write!(f, "{ts}"),
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}

impl FromStr for Timestamp {
    type Err = jiff::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<jiff::Timestamp>().map(|ts| Timestamp(ts.as_microsecond()))
    }
}

// RFC 3339 where a person reads it (JSON, TOML), the bare number where only we do (journal, checkpoint).
impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_i64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
        } else {
            i64::deserialize(deserializer).map(Timestamp)
        }
    }
}

impl JsonSchema for Timestamp {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time", "description": "a moment, RFC 3339" })
    }
}

/// A length of time in microseconds. Written with its unit: `"250ms"`, `"5s"`, `"1h 30m"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub i64);

impl Span {
    /// No time at all.
    pub const ZERO: Span = Span(0);

    /// A number of whole seconds.
    pub const fn seconds(seconds: i64) -> Span {
        Span(seconds * 1_000_000)
    }

    /// A number of whole milliseconds.
    pub const fn millis(millis: i64) -> Span {
        Span(millis * 1_000)
    }

    /// In seconds.
    pub fn as_seconds(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// As the standard library's type; a negative span is zero.
    pub fn to_std(self) -> std::time::Duration {
        std::time::Duration::from_micros(self.0.max(0) as u64)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", SignedDuration::from_micros(self.0))
    }
}

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let duration: SignedDuration = text.parse().map_err(|_| {
            let hours =
                ["d", "day", "days", "w", "week", "weeks"].iter().any(|u| text.ends_with(u));
            let hint = if hours { "; days are written in hours, like \"24h\"" } else { "" };
            format!("`{text}` is not a length of time like \"250ms\", \"5s\" or \"10m\"{hint}")
        })?;
        if duration.is_negative() {
            return Err(format!("`{text}` is negative"));
        }
        i64::try_from(duration.as_micros()).map(Span).map_err(|_| format!("`{text}` is too long"))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_i64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
        } else {
            i64::deserialize(deserializer).map(Span)
        }
    }
}

impl JsonSchema for Span {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Span".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "duration-text",
            "pattern": "^[0-9]+(\\.[0-9]+)? *[a-zµ]+( *[0-9]+(\\.[0-9]+)? *[a-zµ]+)*$",
            "description": "a length of time with its unit: \"250ms\", \"5s\", \"10m\", \"1h 30m\""
        })
    }
}

/// One step of the engine: its number, and the time it was given. Both are written to the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tick {
    /// Counts up by one from 1, over restarts too.
    pub seq: u64,
    /// The wall clock when the tick closed; in a replay, the latest event time seen.
    pub now: Timestamp,
}

/// The wall clock.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn now() -> Timestamp {
    let since =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let right = Timestamp(since.as_micros() as i64);
    SKEW.get().map_or(right, |(began, skew)| right.plus(skew.after(began.elapsed())))
}

/// The clock that never jumps, for measuring and waiting.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
pub fn monotonic() -> Instant {
    Instant::now()
}

/// How wrong this process's wall clock is on purpose, and since when. Only a campaign sets it.
static SKEW: OnceLock<(Instant, Skew)> = OnceLock::new();

/// A wall clock that is wrong and jumps once: written in milliseconds, `FIRST,THEN,AFTER`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skew {
    /// How far it is ahead of the right time; behind it where negative.
    pub first: Span,
    /// How far after the jump.
    pub then: Span,
    /// When it jumps, counted from [`Skew::begin`].
    pub jump: Duration,
}

impl Skew {
    /// From now on [`now`] is wrong in this process, whatever another call says later.
    pub fn begin(self) {
        // A second one changes nothing.
        let _ = SKEW.set((monotonic(), self));
    }

    fn after(self, elapsed: Duration) -> Span {
        if elapsed < self.jump { self.first } else { self.then }
    }
}

impl fmt::Display for Skew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, then) = (self.first.0 / 1000, self.then.0 / 1000);
        write!(f, "{first},{then},{}", self.jump.as_millis())
    }
}

impl FromStr for Skew {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let why = "write three numbers of milliseconds: \"-3600000,60000,500\"";
        let parts: Option<Vec<i64>> = text.split(',').map(|part| part.parse().ok()).collect();
        match parts.as_deref() {
            Some(&[first, then, jump]) if jump >= 0 => Ok(Skew {
                first: Span(first.saturating_mul(1000)),
                then: Span(then.saturating_mul(1000)),
                jump: Duration::from_millis(jump as u64),
            }),
            _ => Err(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skew_reads_back_what_it_writes_and_jumps_once() {
        let skew: Skew = "-3600000,250,800".parse().unwrap();
        assert_eq!(skew.to_string(), "-3600000,250,800");
        assert_eq!(skew.after(Duration::from_millis(799)), Span::seconds(-3600));
        assert_eq!(skew.after(Duration::from_millis(800)), Span::millis(250));
        for wrong in ["", "1,2", "1,2,-3", "1,2,3,4", "1h,2,3"] {
            assert!(wrong.parse::<Skew>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_and_spans_read_back_what_they_write() {
        let ts: Timestamp = "2026-01-02T03:04:05.678901Z".parse().unwrap();
        assert_eq!(ts.to_string(), "2026-01-02T03:04:05.678901Z");
        for text in ["250ms", "5s", "10m", "1h30m", "1.5s"] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.to_string().parse::<Span>().unwrap(), span, "{text}");
        }
        assert!("5".parse::<Span>().is_err());
        assert_eq!(Timestamp(-1).floor(Span(10)), Timestamp(-10));
    }
}
