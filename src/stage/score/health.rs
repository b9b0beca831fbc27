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
    /// Batches without an answer, in a row.
    pub failures: u32,
    /// Left alone until then.
    pub until: Option<Timestamp>,
    /// For how long it was left alone the last time.
    span: Option<Span>,
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
    /// Whether it is asked at `now`.
    pub fn is_asked(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| until <= now)
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

    /// It has not.
    pub fn failed(&mut self, now: Timestamp) -> Change {
        self.failures += 1;
        // The first try after a quarantine decides alone.
        if self.failures < FAILURES && self.until.is_none() {
            return if self.failures == 1 { Change::Fails } else { Change::None };
        }
        let was_quarantined = self.until.is_some();
        let span = self.span.map_or(FIRST, |span| Span(span.0 * 2).min(LONGEST));
        self.span = Some(span);
        self.until = Some(now.plus(span));
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
        assert_eq!(health.failed(at(0)), Change::Fails);
        assert_eq!(health.failed(at(1)), Change::None);
        assert!(health.is_asked(at(1)));
        assert_eq!(health.failed(at(2)), Change::Quarantined);
        assert!(!health.is_asked(at(61)));
        assert!(health.is_asked(at(62)));
        assert_eq!(health.failed(at(62)), Change::None);
        assert!(!health.is_asked(at(181)), "twice as long");
        assert!(health.is_asked(at(182)));
        for _ in 0..20 {
            health.failed(at(200));
        }
        assert_eq!(health.until, Some(at(3800)), "an hour at most");
        assert_eq!(health.answered(), Change::Restored);
        assert_eq!(health, Health::default());
        assert_eq!(health.failed(at(4000)), Change::Fails);
        assert_eq!(health.answered(), Change::Answers);
        assert_eq!(health.answered(), Change::None);
    }
}
