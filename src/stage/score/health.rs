//! Whether a model may be asked: after several failures in a row it is left alone for a time.
//!
//! A circuit breaker, with the time of the ticks. What failed when is written into the journal by the engine, so that
//! a replay quarantines in the same tick.

use serde::{Deserialize, Serialize};

use crate::time::{Span, Timestamp};

/// Failures in a row after which a model is left alone.
const FAILURES: u32 = 3;
/// For so long at first, twice as long every further time,
const FIRST: Span = Span::seconds(60);
/// and never longer than this.
const LONGEST: Span = Span::seconds(3600);

/// What has become of a model's answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Batches without an answer, in a row. Those of one and the same asset count once.
    pub failures: u32,
    /// The asset whose batch was the last of them, where it was of one of several.
    only: Option<u32>,
    /// Left alone until then.
    pub until: Option<Timestamp>,
    /// For how long it was left alone the last time.
    span: Option<Span>,
    /// The last batch while it is left alone, and how many came since then without time having passed.
    last: Timestamp,
    still: i64,
}

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing that anybody has to know.
    None,
    /// The first failure in a row.
    Fails,
    /// It is left alone from now on.
    Quarantined,
    /// It answers again, after having been left alone.
    Restored,
    /// It answers again.
    Answers,
}

impl Health {
    /// Whether it is asked about a batch at `now`. After a clock that was ahead, the time of the ticks stands still, for as
    /// long as it was ahead: then each batch counts as a second.
    pub fn is_asked(&mut self, now: Timestamp) -> bool {
        let Some(until) = self.until else { return true };
        self.still += i64::from(now == self.last);
        self.last = now;
        until <= now.plus(Span::seconds(self.still))
    }

    /// It has answered.
    pub fn answered(&mut self) -> Change {
        let before = std::mem::take(self);
        match (before.until, before.failures) {
            (Some(_), _) => Change::Restored,
            (None, 0) => Change::None,
            (None, _) => Change::Answers,
        }
    }

    /// It has not; `only`: in a batch of this one of several assets.
    pub fn failed(&mut self, now: Timestamp, only: Option<u32>) -> Change {
        if self.failures > 0 && only.is_some() && self.only == only {
            return Change::None;
        }
        self.only = only;
        self.failures += 1;
        // The first try after a quarantine decides alone.
        if self.failures < FAILURES && self.until.is_none() {
            return if self.failures == 1 { Change::Fails } else { Change::None };
        }
        let was_quarantined = self.until.is_some();
        let span = self.span.map_or(FIRST, |span| Span(span.0 * 2).min(LONGEST));
        self.span = Some(span);
        self.until = Some(now.plus(span));
        (self.last, self.still) = (now, 0);
        if was_quarantined { Change::None } else { Change::Quarantined }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_left_alone_for_longer_and_longer_and_forgiven_at_once() {
        let at = |seconds: i64| Timestamp(seconds * 1_000_000);
        let mut health = Health::default();
        assert_eq!(health.failed(at(0), None), Change::Fails);
        assert_eq!(health.failed(at(1), None), Change::None);
        assert!(health.is_asked(at(1)));
        assert_eq!(health.failed(at(2), None), Change::Quarantined);
        assert!(!health.is_asked(at(61)));
        assert!(health.is_asked(at(62)));
        assert_eq!(health.failed(at(62), None), Change::None);
        assert!(!health.is_asked(at(181)), "twice as long");
        assert!(health.is_asked(at(182)));
        for _ in 0..20 {
            health.failed(at(200), None);
        }
        assert_eq!(health.until, Some(at(3800)), "an hour at most");
        assert_eq!(health.answered(), Change::Restored);
        assert_eq!(health, Health::default());
        assert_eq!(health.failed(at(4000), None), Change::Fails);
        assert_eq!(health.answered(), Change::Answers);
        assert_eq!(health.answered(), Change::None);
    }

    #[test]
    fn a_quarantine_ends_though_time_stands_still() {
        let at = Timestamp(0);
        let mut health = Health::default();
        for _ in 0..3 {
            health.failed(at, None);
        }
        assert_eq!((0..100).position(|_| health.is_asked(at)), Some(59));
        health.failed(at, None);
        assert_eq!((0..200).position(|_| health.is_asked(at)), Some(119), "twice as long");
        let mut health = Health::default();
        for _ in 0..3 {
            health.failed(at, None);
        }
        let asked = |tenths: i64| health.is_asked(Timestamp(tenths * 100_000));
        assert_eq!((1..1000).map(asked).position(|is_asked| is_asked), Some(599), "a minute");
    }

    #[test]
    fn one_asset_takes_a_model_from_no_other() {
        let (at, mut health) = (Timestamp(0), Health::default());
        assert_eq!(health.failed(at, Some(7)), Change::Fails);
        (0..9).for_each(|_| assert_eq!(health.failed(at, Some(7)), Change::None));
        assert!(health.is_asked(at));
        assert_eq!(health.failed(at, Some(3)), Change::None);
        assert_eq!(health.failed(at, Some(7)), Change::Quarantined, "of several it is the model");
        let until = health.until;
        assert_eq!(health.failed(at.plus(Span::seconds(90)), Some(7)), Change::None);
        assert_eq!(health.until, until);
    }
}
