//! Messages that could not be read, told in the log: the first of each kind at once, further ones once a minute.
//!
//! The engine thread calls it for each. A device that sends rubbish ten times a second must be seen, and must not fill
//! the disk with log lines.

use std::collections::BTreeMap;

use crate::time::{Span, Timestamp};

/// The same kind is told at most this often.
const EVERY: Span = Span::seconds(60);

/// What has been told.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    kinds: BTreeMap<&'static str, Kind>,
}

#[derive(Debug)]
struct Kind {
    told: Timestamp,
    /// Since then.
    more: u64,
}

impl Refusals {
    /// Takes note of a message refused at `now`; says how many of its kind to tell of, this one among them.
    fn count(&mut self, name: &'static str, now: Timestamp) -> Option<u64> {
        let Some(kind) = self.kinds.get_mut(name) else {
            self.kinds.insert(name, Kind { told: now, more: 0 });
            return Some(1);
        };
        kind.more += 1;
        // A clock that was set back does not keep it silent.
        if (Span::ZERO..EVERY).contains(&now.since(kind.told)) {
            return None;
        }
        kind.told = now;
        Some(std::mem::take(&mut kind.more))
    }

    /// Tells of a refused message, unless its kind was told of just now.
    pub(super) fn tell(&mut self, name: &'static str, topic: &str, why: &str, now: Timestamp) {
        if let Some(count) = self.count(name, now) {
            tracing::warn!(topic, why, count, "a message was rejected");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_once_a_minute_with_its_count() {
        let mut refusals = Refusals::default();
        let told: Vec<_> = (0..180)
            .filter_map(|second| refusals.count("not_json", Timestamp(second * 1_000_000)))
            .collect();
        assert_eq!(told, [1, 60, 60]);
        assert_eq!(refusals.count("time", Timestamp(0)), Some(1));
        assert_eq!(refusals.count("not_json", Timestamp(0)), Some(60), "the clock was set back");
    }
}
