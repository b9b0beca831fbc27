//! The step of a grid: a length of time, or a fraction of one.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Span, Timestamp};

/// From one instant of a grid to the next: a length of time (`"1s"`), or a fraction of one, because few sampling rates
/// have a period of whole microseconds: `"1s/12000"` is 12 kHz. Instants count from 1970; those between two microseconds
/// are taken for the earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    span: Span,
    /// Into how many steps the span is divided; at least 1.
    parts: i64,
}

impl From<Span> for Step {
    fn from(span: Span) -> Step {
        Step { span, parts: 1 }
    }
}

impl Step {
    /// The number of the latest instant that is not after `ts`.
    pub fn number(self, ts: Timestamp) -> i64 {
        if self.parts == 1 {
            return ts.0.div_euclid(self.span.0);
        }
        let (span, parts) = (i128::from(self.span.0), i128::from(self.parts));
        narrow(((i128::from(ts.0) + 1) * parts - 1).div_euclid(span))
    }

    fn instant(self, number: i64) -> Timestamp {
        let span = i128::from(number) * i128::from(self.span.0);
        Timestamp(narrow(span.div_euclid(i128::from(self.parts))))
    }

    /// The latest instant that is not after `ts`.
    pub fn floor(self, ts: Timestamp) -> Timestamp {
        self.instant(self.number(ts))
    }

    /// The instant that follows the instant `at`.
    pub fn next(self, at: Timestamp) -> Timestamp {
        if self.parts == 1 {
            return at.plus(self.span);
        }
        self.instant(self.number(at).saturating_add(1))
    }

    /// Instants a second.
    pub fn rate(self) -> f64 {
        self.parts as f64 / self.span.as_seconds()
    }

    /// To the next whole microsecond.
    pub fn span(self) -> Span {
        self.times(1)
    }

    /// How long so many steps are, to the next whole microsecond.
    pub fn times(self, count: i64) -> Span {
        Span(self.span.0.saturating_mul(count).div_euclid(self.parts) + self.rest(count))
    }

    fn rest(self, count: i64) -> i64 {
        i64::from(self.span.0.saturating_mul(count) % self.parts != 0)
    }

    /// How many whole steps lie in a length of time.
    pub fn count(self, length: Span) -> i64 {
        let span = i128::from(self.span.0.max(1));
        narrow(i128::from(length.0) * i128::from(self.parts) / span)
    }

    /// The shortest length of time that is both whole steps and whole microseconds.
    pub fn whole(self) -> Span {
        let (mut a, mut b) = (self.span.0, self.parts);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        Span(self.span.0 / a.max(1))
    }
}

fn narrow(wide: i128) -> i64 {
    wide.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts {
            1 => self.span.fmt(f),
            parts => write!(f, "{}/{parts}", self.span),
        }
    }
}

impl FromStr for Step {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((span, parts)) = text.split_once('/') else {
            return Ok(Step::from(text.parse::<Span>()?));
        };
        let whole =
            parts.trim().parse::<i64>().ok().filter(|parts| (1..=1_000_000_000).contains(parts));
        let parts = whole.ok_or_else(|| format!("`{text}` is not a fraction like \"1s/12000\""))?;
        Ok(Step { span: span.trim().parse()?, parts })
    }
}

impl Serialize for Step {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Step {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Step {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Step".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "step-text",
            "pattern": "^[0-9]+(\\.[0-9]+)? *[a-zµ]+( *[0-9]+(\\.[0-9]+)? *[a-zµ]+)*( */ *[0-9]+)?$",
            "description": "a length of time with its unit, or a fraction of one: \"250ms\", \"1s\", \"1s/12000\" (12 kHz)"
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Of any moment: the instants around it, found by counting them all.
        #[test]
        fn instants_are_multiples_of_the_exact_step(
            span in 1..3_000_000_i64, parts in 1..60_000_i64, number in -50_000..50_000_i64, off in 0..50_i64,
        ) {
            prop_assume!(span / parts >= 2); // two instants never fall on one microsecond
            let step = Step { span: Span(span), parts };
            let exact = |number: i64| Timestamp((span as f64 * number as f64 / parts as f64 + 1e-9).floor() as i64);
            let (at, next) = (exact(number), exact(number + 1));
            prop_assert_eq!((step.number(at), step.floor(at), step.next(at)), (number, at, next));
            let between = Timestamp((at.0 + off).min(next.0 - 1));
            prop_assert_eq!(step.floor(between), at);
            prop_assert_eq!(step.text_and_back(), step);
        }
    }

    impl Step {
        fn text_and_back(self) -> Step {
            self.to_string().parse().unwrap()
        }
    }

    #[test]
    fn rates_divide_seconds() {
        let step: Step = "1s/12000".parse().unwrap();
        assert_eq!(step.number(Timestamp(1_772_366_400_000_000)), 1_772_366_400 * 12_000);
        assert_eq!(
            (step.count(Span::seconds(2)), step.times(3), step.span()),
            (24_000, Span(250), Span(84))
        );
        assert_eq!(
            (step.whole(), Step::from(Span::seconds(1)).whole()),
            (Span(250), Span::seconds(1))
        );
        let end = step.next(Timestamp::MAX);
        assert!(end.0 > i64::MAX - 100, "{end:?}");
        for wrong in ["1s/0", "1s/x", "/5", "1s/-3", "1s/1e3"] {
            assert!(wrong.parse::<Step>().is_err(), "{wrong}");
        }
    }
}
