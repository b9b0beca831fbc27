//! How much to send at once: enough to use the link, little enough that an alarm soon has its turn.
//!
//! The uplink's loop asks it before every parcel and tells it how every send went. A straight line through the last
//! sends, bytes against time, says what a send costs whatever its size (the round trip) and what a byte costs; a parcel
//! is made so large that its bytes take [`ON_THE_WIRE`]. It also keeps the configured rate.

use std::time::{Duration, Instant};

use crate::time::Span;

/// How long a parcel's bytes may take: what an alarm waits for at most, beside round trips.
const ON_THE_WIRE: Duration = Duration::from_millis(250);
/// Bytes of lines of the first parcel.
const FIRST: f64 = 4096.0;
/// How much of a send's weight is left with the next one: the last twenty or so count.
const MEMORY: f64 = 0.95;
/// One parcel in so many is small: a line needs points that lie apart.
const SMALL_EVERY: u64 = 16;
/// Sends after which a far side that refused large parcels is offered one again.
const FORGET_SIZE_AFTER: u64 = 1000;
/// Below so many bytes a second on the wire, a byte is worth more of the processor.
const SLOW: f64 = 5_000_000.0;
const VERY_SLOW: f64 = 50_000.0;

/// A link, as its sends show it.
#[derive(Debug)]
pub(super) struct Pace {
    /// Most bytes of lines, as configured.
    most: usize,
    /// Most that the far side takes, where it has refused more, and the send after which that is tried again.
    takes: Option<(usize, u64)>,
    /// Configured bytes a second.
    rate: Option<f64>,
    /// How long records are gathered for the next parcel.
    gather: Duration,
    line: Line,
    /// Measured bytes a second on the wire.
    speed: Option<f64>,
    /// Bytes on the wire of a byte of lines.
    ratio: f64,
    /// What the next parcel may have, in bytes of lines.
    size: f64,
    sends: u64,
    /// When the configured rate allows the next parcel.
    free_at: Option<Instant>,
}

/// Sums for a straight line through points that fade.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    n: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

impl Line {
    fn add(&mut self, x: f64, y: f64) {
        let fade = |sum: f64, new: f64| sum * MEMORY + new;
        self.n = fade(self.n, 1.0);
        self.x = fade(self.x, x);
        self.y = fade(self.y, y);
        self.xx = fade(self.xx, x * x);
        self.xy = fade(self.xy, x * y);
    }

    /// How much `y` grows with `x`. `None`: not at all, or nobody knows.
    fn slope(&self) -> Option<f64> {
        let spread = self.n * self.xx - self.x * self.x;
        if spread < 1e-6 * self.n * self.xx {
            return None;
        }
        Some((self.n * self.xy - self.x * self.y) / spread).filter(|slope| *slope > 1e-12)
    }
}

impl Pace {
    pub(super) fn new(most: usize, rate: Option<u64>, gather: Span) -> Pace {
        let rate = rate.map(|rate| rate.max(1) as f64);
        Pace {
            most: most.max(1),
            takes: None,
            rate,
            gather: gather.to_std(),
            line: Line::default(),
            speed: None,
            ratio: 0.3,
            size: FIRST,
            sends: 0,
            free_at: None,
        }
    }

    /// Bytes of lines of the next parcel, of which `wire` bytes on the wire may be used.
    pub(super) fn parcel_bytes(&self, wire: u64) -> usize {
        let mut size = self.size;
        if self.sends % SMALL_EVERY == SMALL_EVERY - 1 {
            size /= 4.0;
        }
        if let Some(rate) = self.rate {
            size = size.min(rate * ON_THE_WIRE.as_secs_f64() / self.ratio);
        }
        size = size.min(wire as f64 / self.ratio);
        let takes = self.takes.filter(|(_, until)| self.sends < *until);
        (size as usize).clamp(1, takes.map_or(self.most, |(size, _)| size.min(self.most)))
    }

    /// Notes that a parcel of so many bytes of lines is more than the far side takes.
    pub(super) fn too_large(&mut self, bytes: usize) {
        self.takes = Some(((bytes / 2).max(1), self.sends + FORGET_SIZE_AFTER));
    }

    /// How hard to compress, as a level of zstd.
    pub(super) fn level(&self) -> i32 {
        let speed = self.speed.unwrap_or(f64::MAX).min(self.rate.unwrap_or(f64::MAX));
        if speed < VERY_SLOW {
            19
        } else if speed < SLOW {
            9
        } else {
            3
        }
    }

    /// Notes a send that was acknowledged: bytes of lines, bytes on the wire, how long it took.
    pub(super) fn sent(&mut self, lines: usize, wire: u64, took: Duration) {
        self.sends += 1;
        let (lines, wire) = (lines.max(1) as f64, wire.max(1) as f64);
        self.ratio += (wire / lines - self.ratio) * 0.2;
        self.line.add(wire, took.as_secs_f64());
        self.speed = self.line.slope().map(|seconds| 1.0 / seconds);
        let fits = self.speed.map(|speed| speed * ON_THE_WIRE.as_secs_f64() / self.ratio);
        // Where time does not grow with bytes, there is room.
        let grown = if lines >= self.size / 2.0 { self.size * 2.0 } else { self.size };
        self.size = fits.map_or(grown, |fits| grown.min(fits)).clamp(64.0, self.most as f64);
    }

    /// Notes a send that was not: the link may be another one when it comes back.
    pub(super) fn failed(&mut self) {
        self.size = (self.size / 2.0).clamp(FIRST.min(self.most as f64), self.most as f64);
    }

    /// Keeps the rate: after so many bytes on the wire, the next parcel has to wait.
    pub(super) fn spent(&mut self, wire: u64, now: Instant) {
        if let Some(rate) = self.rate {
            let from = self.free_at.map_or(now, |free| free.max(now));
            // No parcel waits longer than an hour, whatever the numbers say.
            let wait = (wire as f64 / rate).min(3600.0);
            self.free_at = Some(from + Duration::from_secs_f64(wait));
        }
    }

    /// After a parcel that was not full, the next one waits until it has something to carry.
    pub(super) fn gather(&mut self, lines: usize, now: Instant) {
        if !self.gather.is_zero() && lines < self.parcel_bytes(u64::MAX) / 2 {
            let gathered = now + self.gather;
            self.free_at = Some(self.free_at.map_or(gathered, |free| free.max(gathered)));
        }
    }

    /// Waits for nothing but the rate from now on.
    pub(super) fn hurry(&mut self) {
        if !std::mem::take(&mut self.gather).is_zero() {
            self.free_at = None;
        }
    }

    /// When the next parcel may go, if not now.
    pub(super) fn free_at(&self, now: Instant) -> Option<Instant> {
        self.free_at.filter(|free| *free > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::monotonic;

    /// Sends a backlog over a link and says what the parcels took and how much of the link was used, once it has settled.
    fn drain(pace: &mut Pace, speed: f64, round_trip: Duration) -> (Duration, f64) {
        let (mut longest, mut bytes, mut time) = (Duration::ZERO, 0.0, Duration::ZERO);
        for send in 0..400 {
            let lines = pace.parcel_bytes(u64::MAX);
            let wire = 300.0 + lines as f64 * 0.25;
            let took = round_trip + Duration::from_secs_f64(wire / speed);
            pace.sent(lines, wire as u64, took);
            if send >= 50 {
                longest = longest.max(took);
                bytes += wire;
                time += took;
            }
        }
        (longest, bytes / time.as_secs_f64() / speed)
    }

    #[test]
    fn parcels_fill_a_link_and_leave_room_for_alarms() {
        let cases = [
            (1_500.0, 400, 0.3),
            (10_000.0, 100, 0.6),
            (100_000.0, 50, 0.7),
            (1_000_000.0, 30, 0.6),
            (20_000_000.0, 2, 0.5),
        ];
        for (speed, round_trip, used_least) in cases {
            let round_trip = Duration::from_millis(round_trip);
            let mut pace = Pace::new(256 << 10, None, Span::ZERO);
            let (longest, used) = drain(&mut pace, speed, round_trip);
            let limit = round_trip + ON_THE_WIRE * 2;
            assert!(longest < limit, "{speed} B/s: a parcel took {longest:?}");
            assert!(used > used_least, "{speed} B/s: {:.0} % were used", used * 100.0);
        }
    }

    #[test]
    fn a_link_that_changes_is_learned_anew() {
        let mut pace = Pace::new(256 << 10, None, Span::ZERO);
        drain(&mut pace, 20_000_000.0, Duration::from_millis(2));
        assert_eq!(pace.level(), 3);
        let (longest, _) = drain(&mut pace, 5_000.0, Duration::from_millis(600));
        // A parcel or two before that is known took long; they are over.
        assert!(longest < Duration::from_secs(2), "{longest:?}");
        assert_eq!(pace.level(), 19);
        drain(&mut pace, 20_000_000.0, Duration::from_millis(2));
        assert_eq!(pace.level(), 3);
        assert!(pace.parcel_bytes(u64::MAX) > 200_000);
        assert!(pace.parcel_bytes(1000) < 5000, "the rest of a budget is not overspent");
    }

    #[test]
    fn a_rate_is_kept_by_small_parcels_and_waits() {
        let mut pace = Pace::new(64 << 10, Some(1000), Span::ZERO);
        drain(&mut pace, 1e6, Duration::from_millis(5));
        assert!(pace.parcel_bytes(u64::MAX) < 2000);
        let start = monotonic();
        assert_eq!(pace.free_at(start), None);
        pace.spent(500, start);
        pace.spent(500, start);
        assert_eq!(pace.free_at(start), Some(start + Duration::from_secs(1)));
        assert_eq!(pace.free_at(start + Duration::from_secs(1)), None);
    }
}
