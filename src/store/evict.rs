//! What has to go when a lane, the store or the disk is full.
//!
//! `ledger` calls [`plan`] in every commit, before it puts anything. Lanes drop their own oldest records first; only
//! when the store as a whole is over its limits, or the disk is down to the space that must stay free, do the lower
//! lanes go, and alarms as the last resort. More goes than has to, so that a long outage gives one notice of loss a
//! sixteenth of a lane and not one a tick.

use crate::record::{Lane, Step};

use super::codec::{self, Block, Key};
use super::error::StoreError;
use super::kv::Kv;
use super::marks::{Evicted, LOSS_ORDINAL, Loss};
use super::meter::{Gone, Meter};

/// Lanes in the order in which they are dropped for others.
const LOWEST_FIRST: [Lane; 4] = [Lane::Raw, Lane::Feature, Lane::Score, Lane::Alarm];

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

/// What goes from one lane.
pub(super) struct Plan {
    /// The mark that says so; its notice has no number yet.
    pub(super) mark: Evicted,
    /// The blocks: key and number of parts.
    blocks: Vec<(Key, u16)>,
}

/// Chooses a lane's oldest blocks until `need` is met; `None` where there is nothing.
pub(super) fn plan(kv: &dyn Kv, need: Need, step: &Step) -> Result<Option<Plan>, StoreError> {
    let lane = need.lane;
    let (from, to) = Key::range(lane, 0, step.tick.seq - 1);
    let mut freed = 0;
    let mut count = 0;
    let mut blocks: Vec<(Key, u16)> = Vec::new();
    let mut upto = 0;
    for pair in kv.scan(&from, &to) {
        let (bytes, value) = pair?;
        let Some((key, part)) = Key::parse(&bytes) else { continue };
        if part == 0 {
            if freed >= need.bytes {
                break;
            }
            let Some(block) = Block::glance(&value) else { continue };
            count += block.waiting();
            upto = block.numbers().end - 1;
            blocks.push((key, Block::parts(&value).unwrap_or(1)));
        }
        freed += codec::stored(value.len(), 1);
    }
    let (Some((first, _)), Some((last, _))) = (blocks.first(), blocks.last()) else {
        return Ok(None);
    };
    let loss = Loss {
        said_at: step.tick.seq,
        ordinal: LOSS_ORDINAL + lane as u32,
        number: 0,
        lane,
        count,
        first_tick: first.seq,
        last_tick: last.seq,
        reason: need.reason.to_owned(),
        at: step.tick.now,
    };
    Ok(Some(Plan { mark: Evicted { lane, upto, loss }, blocks }))
}

/// Removes what a plan chose, after its mark and its notice are durable. What the uplink settled meanwhile is gone
/// already and is not counted here.
pub(super) fn carry_out(kv: &dyn Kv, meter: &Meter, plan: &Plan) -> Result<(), StoreError> {
    for (key, parts) in &plan.blocks {
        let Some(first) = kv.remove(&key.bytes(0))? else { continue };
        let mut bytes = first.len();
        for part in 1..*parts {
            bytes += kv.remove(&key.bytes(part))?.map_or(0, |value| value.len());
        }
        let waiting = Block::glance(&first).map_or(0, |block| block.waiting());
        meter.gone(key.lane, Gone::Evicted, waiting, codec::stored(bytes, usize::from(*parts)));
    }
    Ok(())
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
    fn alarms_push_out_lower_lanes_and_go_last() {
        let limits = [16, 100, 100, 100];
        // Too many alarms, room elsewhere: nothing goes.
        assert_eq!(needs([200, 0, 0, 50], [10, 0, 0, 0], limits, false), []);
        // No room: raw rows go, then features, scores, and alarms only then.
        let got = needs([250, 40, 10, 10], [10, 0, 0, 0], limits, false);
        let store = |lane, bytes| Need { lane, bytes, reason: "store limit" };
        assert_eq!(got, [store(Lane::Raw, 5)]);
        let got = needs([400, 40, 10, 10], [10, 0, 0, 0], limits, false);
        assert_eq!(
            got,
            [
                store(Lane::Raw, 10),
                store(Lane::Feature, 10),
                store(Lane::Score, 40),
                store(Lane::Alarm, 95)
            ]
        );
    }

    #[test]
    fn a_full_disk_makes_room_for_what_comes() {
        let got = needs([10, 1 << 20, 0, 0], [0, 5, 0, 0], [u64::MAX; 4], true);
        assert_eq!(got, [Need { lane: Lane::Score, bytes: 256 << 10, reason: "store limit" }]);
        assert_eq!(needs([10, 0, 0, 0], [0; 4], [u64::MAX; 4], true), []);
    }
}
