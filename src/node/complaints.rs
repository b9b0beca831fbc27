//! Rejected messages in the log: the first of each kind in full, then one line a minute with how many more there were.
//!
//! The engine thread asks for every rejected message; a sender that sends nothing else must not fill the log.

use std::collections::BTreeMap;

use crate::time::{Span, Timestamp};

/// How long the next ones of a kind are only counted.
const QUIET: Span = Span::seconds(60);

/// What has been said, by kind.
#[derive(Debug, Default)]
pub(super) struct Complaints(BTreeMap<&'static str, Said>);

#[derive(Debug)]
struct Said {
    at: Timestamp,
    unsaid: u64,
}

impl Complaints {
    /// Notes one more of `kind`. If it is to be said: how many were not since the last time.
    pub(super) fn one(&mut self, kind: &'static str, at: Timestamp) -> Option<u64> {
        let Some(said) = self.0.get_mut(kind) else {
            self.0.insert(kind, Said { at, unsaid: 0 });
            return Some(0);
        };
        // A clock that was set back does not silence it.
        let waited = at.since(said.at);
        if waited < QUIET && waited >= Span::ZERO {
            said.unsaid += 1;
            return None;
        }
        said.at = at;
        Some(std::mem::take(&mut said.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_said_at_once_and_then_once_a_minute() {
        let mut complaints = Complaints::default();
        let second = |n: i64| Timestamp(n * 1_000_000);
        let said: Vec<(i64, u64)> = (0..=180)
            .filter_map(|n| complaints.one("not_json", second(n)).map(|unsaid| (n, unsaid)))
            .collect();
        assert_eq!(said, [(0, 0), (60, 59), (120, 59), (180, 59)]);
        assert_eq!(complaints.one("empty", second(180)), Some(0), "another kind");
        assert_eq!(complaints.one("empty", second(10)), Some(0), "the clock was set back");
    }
}
