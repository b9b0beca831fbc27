//! Lengths of time and of bytes as people get them wrong, and what they meant. Used by `walk`.

use bytesize::ByteSize;

use super::nearest::nearest;
use crate::time::{Span, Step, Timestamp};

/// What a length of time looks like.
pub(super) const SPAN: &str = "a length of time with its unit, like \"250ms\", \"5s\" or \"10m\"";
/// What the step of a grid looks like.
pub(super) const STEP: &str =
    "a length of time, or a fraction of one, like \"1s\", \"250ms\" or \"1s/12000\"";
/// What a number of bytes looks like.
pub(super) const SIZE: &str = "a number of bytes with its unit, like \"64KiB\" or \"256MiB\"";
/// What a moment looks like.
pub(super) const MOMENT: &str = "a moment in quotes, like \"2026-01-31T06:00:00Z\"";

/// A wrong text: what is wrong with it, and what it was meant to be.
pub(super) struct Wrong {
    /// The mistake.
    pub(super) message: String,
    /// What to write instead.
    pub(super) suggestion: Option<String>,
}

#[expect(clippy::unnecessary_wraps, reason = "every caller wants it so")]
fn wrong(message: impl Into<String>, suggestion: Option<String>) -> Option<Wrong> {
    Some(Wrong { message: message.into(), suggestion: suggestion.map(|s| format!("\"{s}\"")) })
}

/// What is wrong with `text` as the step of a grid, if anything.
pub(super) fn step(text: &str) -> Option<Wrong> {
    if text.parse::<Step>().is_ok() {
        return None;
    }
    if let Some(rate) = text.strip_suffix("Hz") {
        let (number, unit) = rate.strip_suffix('k').map_or((rate, 1.0), |rate| (rate, 1e3));
        let parts = number.trim().parse::<f64>().ok().map(|number| (number * unit).round());
        let good = parts.filter(|parts| *parts >= 1.0).map(|parts| format!("1s/{parts}"));
        return wrong("this is a rate, not the time from one row to the next", good);
    }
    if text.contains('/') {
        return wrong("this is not a fraction of a length of time", None);
    }
    span(text)
}

/// What is wrong with `text` as a length of time, if anything.
pub(super) fn span(text: &str) -> Option<Wrong> {
    let Err(reason) = text.parse::<Span>() else { return None };
    if text.contains('-') || text.contains("ago") {
        let positive = text.replace(['-', '−'], "").replace("ago", "");
        let good = Some(positive.trim().to_owned()).filter(|t| t.parse::<Span>().is_ok());
        return wrong("a length of time cannot be negative", good);
    }
    if reason.ends_with("too long") {
        return wrong("this length of time is too long to count", None);
    }
    let (number, unit) = split(text);
    if number.is_empty() {
        return wrong("this is not a length of time", None);
    }
    if unit.is_empty() {
        return wrong("this length of time has no unit", Some(format!("{number}s")));
    }
    let hours = |each: f64| {
        let hours = number.parse::<f64>().ok().map(|n| n * each)?;
        Some(format!("{hours}h")).filter(|t| t.parse::<Span>().is_ok())
    };
    match unit.to_lowercase().as_str() {
        "d" | "day" | "days" => wrong("days are written in hours here", hours(24.0)),
        "w" | "week" | "weeks" => wrong("weeks are written in hours here", hours(168.0)),
        other => {
            const UNITS: &[&str] = &[
                "s",
                "ms",
                "us",
                "ns",
                "m",
                "h",
                "min",
                "sec",
                "second",
                "seconds",
                "minute",
                "minutes",
                "hour",
                "hours",
                "milliseconds",
            ];
            let meant = if UNITS.contains(&other) {
                Some(other)
            } else {
                nearest(other, UNITS.iter().copied())
            };
            let good = meant.map(|u| format!("{number}{u}")).filter(|t| t.parse::<Span>().is_ok());
            wrong(format!("`{unit}` is not a unit of time"), good)
        }
    }
}

const SIZES: &[&str] = &["B", "KB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB"];

/// What is wrong with `text` as a number of bytes, if anything.
pub(super) fn size(text: &str) -> Option<Wrong> {
    let (number, unit) = split(text);
    if number.is_empty() {
        let what = if text.trim_start().starts_with('-') {
            "a number of bytes cannot be negative"
        } else {
            "this is not a number of bytes"
        };
        return wrong(what, None);
    }
    if unit.is_empty() {
        return wrong("this number of bytes has no unit", Some(format!("{number}B")));
    }
    if text.parse::<ByteSize>().is_ok() {
        return None;
    }
    let meant = match unit.to_lowercase().chars().next() {
        Some(c @ ('k' | 'm' | 'g' | 't')) => Some(format!("{}iB", c.to_ascii_uppercase())),
        _ => nearest(unit, SIZES.iter().copied()).map(str::to_owned),
    };
    wrong(format!("`{unit}` is not a unit of bytes"), meant.map(|u| format!("{number}{u}")))
}

/// What is wrong with `text` as a moment, if anything.
pub(super) fn moment(text: &str) -> Option<Wrong> {
    if text.parse::<Timestamp>().is_ok() {
        return None;
    }
    let with_zone = format!("{}Z", text.trim().replacen(' ', "T", 1));
    let with_time = format!("{}T00:00:00Z", text.trim());
    let good = [with_zone, with_time].into_iter().find(|t| t.parse::<Timestamp>().is_ok());
    let message = if good.is_some() {
        "this moment does not say its time zone"
    } else {
        "this is not a moment"
    };
    wrong(message, good)
}

/// The number at the start and the unit behind it.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(found: Option<Wrong>) -> Option<String> {
        found.expect("is wrong").suggestion
    }

    #[test]
    fn wrong_lengths_of_time_get_the_right_spelling() {
        for (text, right) in [
            ("5", Some("\"5s\"")),
            ("-5s", Some("\"5s\"")),
            ("2d", Some("\"48h\"")),
            ("1 week", Some("\"168h\"")),
            ("5 S", Some("\"5s\"")),
            ("10 minuts", Some("\"10minutes\"")),
            ("5 parsecs", None),
            ("soon", None),
            ("", None),
            ("99999999999999999999h", None),
        ] {
            assert_eq!(meant(span(text)).as_deref(), right, "{text}");
        }
        assert!(span("1h 30m").is_none());
    }

    #[test]
    fn wrong_sizes_and_moments_get_the_right_spelling() {
        assert_eq!(meant(size("256 megs")).as_deref(), Some("\"256MiB\""));
        assert_eq!(meant(size("65536")).as_deref(), Some("\"65536B\""));
        assert_eq!(meant(size("-3kB")), None);
        assert!(size("1.5 GiB").is_none());
        assert_eq!(meant(moment("2026-01-31")).as_deref(), Some("\"2026-01-31T00:00:00Z\""));
        assert_eq!(
            meant(moment("2026-01-31 06:00:00")).as_deref(),
            Some("\"2026-01-31T06:00:00Z\"")
        );
        assert_eq!(meant(moment("yesterday")), None);
    }
}
