//! What a target may cost: bytes on the wire, by day and by month (UTC), all together and by lane.
//!
//! The uplink asks before it takes a parcel, and charges what a send put on the wire, whether it arrived or not. Alarms
//! count, but always go. It promises that a restart forgets nothing that was written down with [`Allowance::to_bytes`];
//! it does not know what the carrier adds: TCP, TLS, retransmissions.

use jiff::civil::Date;
use jiff::tz::Offset;
use serde::{Deserialize, Serialize};

use crate::config::{BudgetConfig, LaneBudgetConfig};
use crate::record::Lane;
use crate::time::Timestamp;

/// Bytes by lane.
pub type Lanes = [u64; 4];

/// What was spent, and on which day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Spent {
    /// Year, month and day, as one number: 20260301.
    day: u32,
    of_day: Lanes,
    of_month: Lanes,
}

/// A target's budget and what was spent of it.
#[derive(Clone, Debug)]
pub struct Allowance {
    budget: BudgetConfig,
    spent: Spent,
}

/// Why a lane has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// `day` or `month`.
    pub period: &'static str,
    /// When there is a new one.
    pub until: Timestamp,
}

impl Allowance {
    /// A budget, and what [`Allowance::to_bytes`] wrote down of an earlier run. What cannot be read counts as nothing.
    pub fn new(budget: &BudgetConfig, spent: Option<&[u8]>) -> Allowance {
        let spent = spent.and_then(|bytes| postcard::from_bytes(bytes).ok()).unwrap_or_default();
        Allowance { budget: budget.clone(), spent }
    }

    /// Whether there is a budget at all.
    pub fn is_limited(&self) -> bool {
        self.budget != BudgetConfig::default()
    }

    /// To write down.
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(&self.spent).unwrap_or_default()
    }

    /// Bytes spent since midnight and since the first of the month, UTC.
    pub fn spent(&mut self, now: Timestamp) -> (u64, u64) {
        self.turn(now);
        (self.spent.of_day.iter().sum(), self.spent.of_month.iter().sum())
    }

    /// Notes what a send put on the wire.
    pub fn charge(&mut self, lane: Lane, bytes: u64, now: Timestamp) {
        self.turn(now);
        let Spent { of_day, of_month, .. } = &mut self.spent;
        for spent in [of_day, of_month] {
            if let Some(spent) = spent.get_mut(lane as usize) {
                *spent = spent.saturating_add(bytes);
            }
        }
    }

    /// How many bytes of a lane may still go now, beside those that are on the way.
    ///
    /// # Errors
    /// None: since a budget is used up.
    pub fn left(
        &mut self,
        lane: Lane,
        on_the_way: &Lanes,
        now: Timestamp,
    ) -> Result<u64, Exhausted> {
        self.turn(now);
        if lane == Lane::Alarm {
            return Ok(u64::MAX);
        }
        let of_lane = match lane {
            Lane::Alarm => LaneBudgetConfig::default(),
            Lane::Score => self.budget.score,
            Lane::Feature => self.budget.feature,
            Lane::Raw => self.budget.raw,
        };
        let (day, month) = (&self.spent.of_day, &self.spent.of_month);
        let of = |spent: &Lanes| spent.get(lane as usize).copied().unwrap_or_default();
        let limits = [
            ("month", self.budget.month, month.iter().sum(), on_the_way.iter().sum()),
            ("month", of_lane.month, of(month), of(on_the_way)),
            ("day", self.budget.day, day.iter().sum(), on_the_way.iter().sum()),
            ("day", of_lane.day, of(day), of(on_the_way)),
        ];
        let mut left = u64::MAX;
        for (period, limit, spent, on_the_way) in limits {
            let Some(limit) = limit else { continue };
            if spent >= limit.as_u64() {
                return Err(Exhausted { period, until: next(period, now) });
            }
            left = left.min((limit.as_u64() - spent).saturating_sub(on_the_way));
        }
        Ok(left)
    }

    /// A new day or month starts from nothing. A clock that goes back does not give anything back.
    fn turn(&mut self, now: Timestamp) {
        let date = date(now);
        let day = u32::from(date.year().unsigned_abs()) * 10_000
            + u32::from(date.month().unsigned_abs()) * 100
            + u32::from(date.day().unsigned_abs());
        if day <= self.spent.day {
            return;
        }
        self.spent.of_day = Lanes::default();
        if day / 100 != self.spent.day / 100 {
            self.spent.of_month = Lanes::default();
        }
        self.spent.day = day;
    }
}

fn date(now: Timestamp) -> Date {
    let now = jiff::Timestamp::from_microsecond(now.0).unwrap_or_default();
    Offset::UTC.to_datetime(now).date()
}

/// When the next day or month begins.
fn next(period: &str, now: Timestamp) -> Timestamp {
    let today = date(now);
    let last = if period == "month" { today.last_of_month() } else { today };
    let begins = last.tomorrow().and_then(|date| Offset::UTC.to_timestamp(date.at(0, 0, 0, 0)));
    begins.map_or(Timestamp::MAX, |begins| Timestamp(begins.as_microsecond()))
}

#[cfg(test)]
mod tests {
    use bytesize::ByteSize;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn left(allowance: &mut Allowance, lane: Lane, now: Timestamp) -> Result<u64, Exhausted> {
        allowance.left(lane, &[0; 4], now)
    }

    #[test]
    fn what_is_on_the_way_is_not_there_to_be_spent() {
        let raw = LaneBudgetConfig { day: Some(ByteSize::b(50)), month: None };
        let budget = BudgetConfig { day: Some(ByteSize::b(100)), raw, ..BudgetConfig::default() };
        let mut allowance = Allowance::new(&budget, None);
        let now = at("2026-02-27T12:00:00Z");
        allowance.charge(Lane::Score, 10, now);
        let [score, raw] = [[0, 30, 0, 0], [0, 0, 0, 30]];
        assert_eq!(allowance.left(Lane::Score, &score, now), Ok(60));
        assert_eq!(allowance.left(Lane::Raw, &score, now), Ok(50), "its own is smaller");
        assert_eq!(allowance.left(Lane::Raw, &raw, now), Ok(20));
        // Used up only when it was spent.
        assert_eq!(allowance.left(Lane::Raw, &[0, 100, 0, 0], now), Ok(0));
        allowance.charge(Lane::Raw, 50, now);
        assert!(allowance.left(Lane::Raw, &[0; 4], now).is_err());
    }

    #[test]
    fn a_used_up_budget_stops_all_but_alarms_until_the_next_day_or_month() {
        let budget = BudgetConfig {
            day: Some(ByteSize::b(100)),
            month: Some(ByteSize::b(150)),
            raw: LaneBudgetConfig { day: Some(ByteSize::b(10)), month: None },
            ..BudgetConfig::default()
        };
        let mut allowance = Allowance::new(&budget, None);
        let noon = at("2026-02-27T12:00:00Z");
        assert_eq!(left(&mut allowance, Lane::Score, noon), Ok(100));
        assert_eq!(left(&mut allowance, Lane::Raw, noon), Ok(10));
        allowance.charge(Lane::Raw, 10, noon);
        allowance.charge(Lane::Alarm, 30, noon);
        let day = Exhausted { period: "day", until: at("2026-02-28T00:00:00Z") };
        assert_eq!(left(&mut allowance, Lane::Raw, noon), Err(day));
        assert_eq!(left(&mut allowance, Lane::Score, noon), Ok(60));
        allowance.charge(Lane::Score, 61, noon);
        assert_eq!(left(&mut allowance, Lane::Score, noon), Err(day));
        assert_eq!(left(&mut allowance, Lane::Alarm, noon), Ok(u64::MAX));
        // Written down, read again, and the next day.
        let mut allowance = Allowance::new(&budget, Some(&allowance.to_bytes()));
        assert_eq!(left(&mut allowance, Lane::Feature, noon), Err(day));
        let next = at("2026-02-28T00:00:01Z");
        assert_eq!(left(&mut allowance, Lane::Score, next), Ok(49));
        allowance.charge(Lane::Score, 49, next);
        let month = Exhausted { period: "month", until: at("2026-03-01T00:00:00Z") };
        assert_eq!(left(&mut allowance, Lane::Score, next), Err(month));
        assert_eq!(allowance.spent(next), (49, 150));
        // A clock that was set back does not open it again; the new month does.
        assert_eq!(left(&mut allowance, Lane::Score, noon).unwrap_err().period, "month");
        assert_eq!(left(&mut allowance, Lane::Score, at("2026-03-01T00:00:00Z")), Ok(100));
    }

    #[test]
    fn a_lane_has_a_month_of_its_own() {
        let raw = LaneBudgetConfig { day: None, month: Some(ByteSize::b(50)) };
        let mut allowance = Allowance::new(&BudgetConfig { raw, ..BudgetConfig::default() }, None);
        let noon = at("2026-02-27T12:00:00Z");
        allowance.charge(Lane::Raw, 40, noon);
        let next = at("2026-02-28T12:00:00Z");
        assert_eq!(left(&mut allowance, Lane::Raw, next), Ok(10), "the next day changes nothing");
        allowance.charge(Lane::Raw, 10, next);
        let month = Exhausted { period: "month", until: at("2026-03-01T00:00:00Z") };
        assert_eq!(left(&mut allowance, Lane::Raw, next), Err(month));
        assert_eq!(left(&mut allowance, Lane::Score, next), Ok(u64::MAX));
        assert_eq!(left(&mut allowance, Lane::Raw, month.until), Ok(50));
    }

    #[test]
    fn nothing_is_limited_unless_told() {
        let mut allowance = Allowance::new(&BudgetConfig::default(), Some(b"\xff\xff"));
        allowance.charge(Lane::Raw, u64::MAX, Timestamp(0));
        allowance.charge(Lane::Raw, 1, Timestamp(0));
        assert!(!allowance.is_limited());
        assert_eq!(left(&mut allowance, Lane::Raw, Timestamp(0)), Ok(u64::MAX));
    }
}
