//! Times as payloads and recordings write them, brought to UTC microseconds.
//!
//! Called by [`super::json`] for every message and by `ingest/replay` for every row. Whether a time is plausible is
//! judged later, in `clean`; only a time that is plausible in another unit is refused here, because no reading of
//! such a message could ever be used and the operator needs to hear which unit to set.

use jiff::civil::DateTime;
use jiff::fmt::strtime::{self, BrokenDownTime};
use jiff::tz::TimeZone;

use crate::pipeline::spec::TimeUnit;
use crate::time::Timestamp;

const SECOND: i64 = 1_000_000;
/// 0001-01-01 and 10000-01-01: outside, no calendar can write the time.
const RANGE: std::ops::Range<i64> = -62_135_596_800 * SECOND..253_402_300_800 * SECOND;
/// 1990 to 2100: a time in here is taken as it is.
const LIKELY: std::ops::Range<i64> = 631_152_000 * SECOND..4_102_444_800 * SECOND;
/// 2000 to 2100: a time that another unit would bring in here was written in that unit.
const MEANT: std::ops::Range<i64> = 946_684_800 * SECOND..4_102_444_800 * SECOND;

/// How times are written, prepared for reading many.
#[derive(Clone, Debug)]
pub(crate) struct TimeFormat {
    unit: TimeUnit,
    pattern: Option<String>,
    zone: TimeZone,
    /// Whether times that fit another unit better are refused. Not for recordings, whose clock may start at zero.
    guard_unit: bool,
}

/// Why something is not a time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeFault {
    /// Not written as expected.
    #[error("found {found}, expected {expected}")]
    NotATime {
        /// What is there.
        found: String,
        /// What the format asks for.
        expected: String,
    },
    /// A number that only makes sense in another unit.
    #[error(
        "found {found}, which as {unit} is far off; it looks like {looks_like}; set unit = \"{set}\""
    )]
    WrongUnit {
        /// The number.
        found: String,
        /// The unit that was set.
        unit: &'static str,
        /// The unit that fits, for people.
        looks_like: &'static str,
        /// The unit that fits, as it is typed.
        set: &'static str,
    },
    /// No calendar has it.
    #[error("found {found}, which as {unit} is outside the years 1 to 9999")]
    OutOfRange {
        /// The number.
        found: String,
        /// The unit that was set.
        unit: &'static str,
    },
}

/// Why a format of times cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeFormatError {
    /// The zone is not in the tz database.
    #[error("time zone `{zone}` is not known; write one such as \"Europe/Berlin\"")]
    Zone {
        /// What was set.
        zone: String,
    },
    /// The pattern is no strptime pattern.
    #[error("time format `{pattern}` cannot be used: {reason}")]
    Pattern {
        /// What was set.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl TimeFormat {
    /// For payloads: text without an offset is UTC.
    pub(crate) fn payload(unit: TimeUnit) -> TimeFormat {
        TimeFormat { unit, pattern: None, zone: TimeZone::UTC, guard_unit: true }
    }

    /// For recordings: `pattern` as in strptime; text without an offset is in `zone`.
    pub(crate) fn recording(
        unit: TimeUnit,
        pattern: Option<&str>,
        zone: Option<&str>,
    ) -> Result<TimeFormat, TimeFormatError> {
        let zone = match zone {
            None => TimeZone::UTC,
            Some(name) => {
                TimeZone::get(name).map_err(|_| TimeFormatError::Zone { zone: name.to_owned() })?
            }
        };
        if let Some(pattern) = pattern {
            let sample = jiff::Timestamp::UNIX_EPOCH.to_zoned_datetime(TimeZone::UTC);
            strtime::format(pattern, &sample).map_err(|e| TimeFormatError::Pattern {
                pattern: pattern.to_owned(),
                reason: e.to_string(),
            })?;
        }
        Ok(TimeFormat { unit, pattern: pattern.map(str::to_owned), zone, guard_unit: false })
    }

    /// A whole number.
    pub(crate) fn integer(&self, number: i64) -> Result<Timestamp, TimeFault> {
        let unit = self.unit_of(number as f64)?;
        let micros = match unit {
            TimeUnit::S => number.checked_mul(SECOND),
            TimeUnit::Ms => number.checked_mul(1000),
            TimeUnit::Ns => Some(number.div_euclid(1000)),
            _ => Some(number),
        };
        self.accept(micros, unit, number as f64)
    }

    /// A number with a fraction.
    pub(crate) fn float(&self, number: f64) -> Result<Timestamp, TimeFault> {
        let unit = self.unit_of(number)?;
        let micros = (number * micros_of(unit)).round();
        // Past the range of i64 the cast would stick at its end.
        let micros = (micros.abs() < 9e18).then_some(micros as i64);
        self.accept(micros, unit, number)
    }

    /// Text: by the pattern, or RFC 3339, or a number.
    pub(crate) fn text(&self, text: &str) -> Result<Timestamp, TimeFault> {
        let text = text.trim();
        if let Some(pattern) = &self.pattern {
            return self.by_pattern(pattern, text).ok_or_else(|| self.not_a_time(quoted(text)));
        }
        if self.unit != TimeUnit::Rfc3339 {
            if let Ok(number) = text.parse::<i64>() {
                return self.integer(number);
            }
            if let Ok(number) = text.parse::<f64>() {
                return self.float(number);
            }
        }
        if !matches!(self.unit, TimeUnit::Auto | TimeUnit::Rfc3339) {
            return Err(self.not_a_time(quoted(text)));
        }
        self.calendar(text).ok_or_else(|| self.not_a_time(quoted(text)))
    }

    /// A calendar time that is written as if it were UTC, and is in the recording's zone.
    pub(crate) fn civil(&self, written: Timestamp) -> Option<Timestamp> {
        if self.zone == TimeZone::UTC {
            return Some(written);
        }
        let utc = jiff::Timestamp::from_microsecond(written.0).ok()?;
        self.in_zone(TimeZone::UTC.to_datetime(utc))
    }

    /// The fault of something that can be no time at all, such as an object.
    pub(crate) fn not_a_time(&self, found: String) -> TimeFault {
        let expected = match (&self.pattern, self.unit) {
            (Some(pattern), _) => format!("text in the format \"{pattern}\""),
            (None, TimeUnit::Auto) => "a time such as \"2026-01-02T03:04:05Z\" or a number".into(),
            (None, TimeUnit::Rfc3339) => "RFC 3339 such as \"2026-01-02T03:04:05Z\"".into(),
            (None, unit) => format!("a number of {} since 1970", plural(unit)),
        };
        TimeFault::NotATime { found, expected }
    }

    /// The unit a number is in; [`TimeUnit::Auto`] goes by its size, which tells the units apart for all years from
    /// 1973 to 5138.
    fn unit_of(&self, number: f64) -> Result<TimeUnit, TimeFault> {
        match self.unit {
            TimeUnit::Auto => Ok(by_size(number)),
            TimeUnit::Rfc3339 => Err(self.not_a_time(format!("the number {number}"))),
            unit => Ok(unit),
        }
    }

    fn accept(
        &self,
        micros: Option<i64>,
        unit: TimeUnit,
        number: f64,
    ) -> Result<Timestamp, TimeFault> {
        if let Some(micros) = micros
            && (LIKELY.contains(&micros) || (!self.guard_unit && RANGE.contains(&micros)))
        {
            return Ok(Timestamp(micros));
        }
        let meant = by_size(number);
        if meant != unit && MEANT.contains(&((number * micros_of(meant)) as i64)) {
            return Err(TimeFault::WrongUnit {
                found: format!("the number {number}"),
                unit: plural(unit),
                looks_like: plural(meant),
                set: typed(meant),
            });
        }
        match micros {
            Some(micros) if RANGE.contains(&micros) => Ok(Timestamp(micros)),
            _ => Err(TimeFault::OutOfRange {
                found: format!("the number {number}"),
                unit: plural(unit),
            }),
        }
    }

    fn calendar(&self, text: &str) -> Option<Timestamp> {
        // Behind the date, a sign or a Z can only be the offset.
        let offset = text.get(10..).is_some_and(|rest| rest.contains(['Z', 'z', '+', '-']));
        if offset {
            let ts: jiff::Timestamp = text.parse().ok()?;
            return Some(Timestamp(ts.as_microsecond()));
        }
        self.in_zone(text.parse().ok()?)
    }

    fn by_pattern(&self, pattern: &str, text: &str) -> Option<Timestamp> {
        let parts = BrokenDownTime::parse(pattern, text).ok()?;
        if parts.offset().is_some() || parts.timestamp().is_some() {
            return Some(Timestamp(parts.to_timestamp().ok()?.as_microsecond()));
        }
        let civil = match parts.hour() {
            Some(_) => parts.to_datetime().ok()?,
            None => parts.to_date().ok()?.at(0, 0, 0, 0),
        };
        self.in_zone(civil)
    }

    /// Whether clocks change where times are from, as far as is known.
    pub(crate) fn is_local(&self) -> bool {
        self.zone != TimeZone::UTC
    }

    /// When the local time of `ts` comes again, where it is the first of two.
    pub(crate) fn again(&self, ts: Timestamp) -> Option<Timestamp> {
        let first = jiff::Timestamp::from_microsecond(ts.0).ok()?;
        let both = self.zone.to_ambiguous_timestamp(self.zone.to_datetime(first));
        let second = Timestamp(both.later().ok()?.as_microsecond());
        (second > ts).then_some(second)
    }

    /// An hour that a clock change repeats is taken as its first, one that it skips is moved behind the gap.
    fn in_zone(&self, civil: DateTime) -> Option<Timestamp> {
        let ts = self.zone.to_timestamp(civil).ok()?;
        Some(Timestamp(ts.as_microsecond()))
    }
}

fn by_size(number: f64) -> TimeUnit {
    match number.abs() {
        size if size < 1e11 => TimeUnit::S,
        size if size < 1e14 => TimeUnit::Ms,
        size if size < 1e17 => TimeUnit::Us,
        _ => TimeUnit::Ns,
    }
}

fn micros_of(unit: TimeUnit) -> f64 {
    match unit {
        TimeUnit::S => 1e6,
        TimeUnit::Ms => 1e3,
        TimeUnit::Ns => 1e-3,
        _ => 1.0,
    }
}

fn plural(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Auto => "a time",
        TimeUnit::Rfc3339 => "RFC 3339",
        TimeUnit::S => "seconds",
        TimeUnit::Ms => "milliseconds",
        TimeUnit::Us => "microseconds",
        TimeUnit::Ns => "nanoseconds",
    }
}

fn typed(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Auto => "auto",
        TimeUnit::Rfc3339 => "rfc3339",
        TimeUnit::S => "s",
        TimeUnit::Ms => "ms",
        TimeUnit::Us => "us",
        TimeUnit::Ns => "ns",
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", super::shown(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ts(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn one_moment_in_every_unit() {
        let expected = ts("2026-01-02T03:04:05.678Z");
        let micros = expected.0;
        for unit in [TimeUnit::Auto, TimeUnit::Ms] {
            assert_eq!(TimeFormat::payload(unit).integer(micros / 1000), Ok(expected));
        }
        for unit in [TimeUnit::Auto, TimeUnit::Us] {
            assert_eq!(TimeFormat::payload(unit).integer(micros), Ok(expected));
        }
        for unit in [TimeUnit::Auto, TimeUnit::Ns] {
            assert_eq!(TimeFormat::payload(unit).integer(micros * 1000), Ok(expected));
        }
        for unit in [TimeUnit::Auto, TimeUnit::S] {
            let format = TimeFormat::payload(unit);
            assert_eq!(format.float(micros as f64 / 1e6), Ok(expected));
            assert_eq!(format.text(" 1767323045.678 "), Ok(expected));
        }
        for text in
            ["2026-01-02T03:04:05.678Z", "2026-01-02T04:04:05.678+01:00", "2026-01-02 03:04:05.678"]
        {
            assert_eq!(TimeFormat::payload(TimeUnit::Auto).text(text), Ok(expected), "{text}");
            assert_eq!(TimeFormat::payload(TimeUnit::Rfc3339).text(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_wrong_unit_is_named() {
        let why = |unit, number| TimeFormat::payload(unit).integer(number).unwrap_err().to_string();
        assert!(why(TimeUnit::S, 1_767_323_045_678).contains("set unit = \"ms\""));
        assert!(why(TimeUnit::Ms, 1_767_323_045).contains("looks like seconds"));
        assert!(why(TimeUnit::Us, 1_767_323_045_678_000_000).contains("set unit = \"ns\""));
        assert!(why(TimeUnit::Ns, 1_767_323_045).contains("set unit = \"s\""));
        assert!(why(TimeUnit::S, i64::MAX).contains("years 1 to 9999"));
        assert!(why(TimeUnit::Rfc3339, 5).contains("expected RFC 3339"));
        // A clock that was never set, or runs ahead, is for `clean` to judge.
        assert!(TimeFormat::payload(TimeUnit::S).integer(12).is_ok());
        assert!(TimeFormat::payload(TimeUnit::S).integer(5_000_000_000).is_ok());
        // A recording may count from zero.
        let relative = TimeFormat::recording(TimeUnit::Ms, None, None).unwrap();
        assert_eq!(relative.integer(1_767_323_045), Ok(Timestamp(1_767_323_045_000)));
    }

    #[test]
    fn recordings_have_patterns_and_zones() {
        let berlin =
            TimeFormat::recording(TimeUnit::Auto, Some("%d %m %Y %H:%M"), Some("Europe/Berlin"))
                .unwrap();
        assert_eq!(berlin.text("01 07 2026 12:30"), Ok(ts("2026-07-01T10:30:00Z")));
        assert!(berlin.text("2026-07-01").unwrap_err().to_string().contains("%d %m %Y %H:%M"));
        let day = TimeFormat::recording(TimeUnit::Auto, Some("%Y-%m-%d"), None).unwrap();
        assert_eq!(day.text("2026-07-01"), Ok(ts("2026-07-01T00:00:00Z")));
        let offset = TimeFormat::recording(TimeUnit::Auto, Some("%Y%m%d%H%M%z"), None).unwrap();
        assert_eq!(offset.text("202607011230+0200"), Ok(ts("2026-07-01T10:30:00Z")));
        assert!(TimeFormat::recording(TimeUnit::Auto, None, Some("Europe/Atlantis")).is_err());
        assert!(TimeFormat::recording(TimeUnit::Auto, Some("%Q%!"), None).is_err());
    }
}
