//! What has to go when a lane, the store or the disk is full.
//!
//! `room` calls [`needs`] in every commit, before it writes anything, and `leave` evicts whole segments. Lanes drop
//! their own records first, from the end that their [`Retention`] says; only when the store as a whole is over its limits, or the disk is down to the space
//! that must stay free, do the lower lanes go. Alarms never go. More goes than has to, so that a long outage gives one
//! notice of loss a sixteenth of a lane and not one a tick.

use crate::record::Lane;
use crate::time::Span;

/// What a lane gives up when it is full, and before. Of alarms nothing goes, whatever it says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Whether the oldest records stay and new ones go, instead of the other way round.
    pub keep_oldest: bool,
    /// Records committed longer ago go, although there is room.
    pub max_age: Option<Span>,
    /// The intervals in which records are thinned before any is evicted. `None`: they are not.
    pub thin: Option<Span>,
}

/// Lanes in the order in which they are dropped for others.
const LOWEST_FIRST: [Lane; 3] = [Lane::Raw, Lane::Feature, Lane::Score];

/// What must be freed on one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Need {
    pub(super) lane: Lane,
    pub(super) bytes: u64,
    pub(super) reason: &'static str,
}

/// What must be freed, given what waits, what comes in and the limits (all in bytes, by lane). `disk_full`: what
/// comes in must take the place of something.
pub(super) fn needs(
    queued: [u64; 4],
    incoming: [u64; 4],
    limits: [u64; 4],
    disk_full: bool,
) -> Vec<Need> {
    let mut left = queued;
    let mut needs: Vec<Need> = Vec::new();
    for lane in [Lane::Score, Lane::Feature, Lane::Raw] {
        let index = lane as usize;
        let (queued, incoming, limit) = (queued[index], incoming[index], limits[index]);
        if queued > 0 && queued + incoming > limit {
            let bytes = (queued + incoming - limit + limit / 16).min(queued);
            left[index] -= bytes;
            needs.push(Need { lane, bytes, reason: "lane limit" });
        }
    }
    let total: u64 = left.iter().sum::<u64>() + incoming.iter().sum::<u64>();
    let allowed = limits.iter().fold(0, |sum: u64, limit| sum.saturating_add(*limit));
    let mut over = if total > allowed { total - allowed + limits[0] / 16 } else { 0 };
    let freed: u64 = needs.iter().map(|need| need.bytes).sum();
    if disk_full {
        let room = incoming.iter().sum::<u64>().saturating_sub(freed);
        // A floor under each eviction, for the same reason as the sixteenth of a lane.
        over = over.max(if room > 0 { room.max(256 << 10) } else { 0 });
    }
    for lane in LOWEST_FIRST {
        let bytes = over.min(left[lane as usize]);
        if bytes == 0 {
            continue;
        }
        over -= bytes;
        match needs.iter_mut().find(|need| need.lane == lane) {
            Some(need) => {
                need.bytes += bytes;
                need.reason = "store limit";
            }
            None => needs.push(Need { lane, bytes, reason: "store limit" }),
        }
    }
    needs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_over_its_limit_drops_its_own_oldest() {
        let got = needs([0, 100, 0, 160], [0, 0, 0, 10], [160; 4], false);
        assert_eq!(got, [Need { lane: Lane::Raw, bytes: 20, reason: "lane limit" }]);
    }

    #[test]
    fn alarms_push_out_lower_lanes_and_never_go() {
        let limits = [16, 100, 100, 100];
        // Too many alarms, room elsewhere: nothing goes.
        assert_eq!(needs([200, 0, 0, 50], [10, 0, 0, 0], limits, false), []);
        // No room: raw rows go, then features, then scores.
        let got = needs([250, 40, 10, 10], [10, 0, 0, 0], limits, false);
        let store = |lane, bytes| Need { lane, bytes, reason: "store limit" };
        assert_eq!(got, [store(Lane::Raw, 5)]);
        let got = needs([400, 40, 10, 10], [10, 0, 0, 0], limits, false);
        assert_eq!(got, [store(Lane::Raw, 10), store(Lane::Feature, 10), store(Lane::Score, 40)]);
    }

    #[test]
    fn a_full_disk_makes_room_for_what_comes() {
        let got = needs([10, 1 << 20, 0, 0], [0, 5, 0, 0], [u64::MAX; 4], true);
        assert_eq!(got, [Need { lane: Lane::Score, bytes: 256 << 10, reason: "store limit" }]);
        assert_eq!(needs([10, 0, 0, 0], [0; 4], [u64::MAX; 4], true), []);
    }
}
