//! How much to have on the way: enough to use the link, little enough that an alarm soon has its turn.
//!
//! The sender asks it before every parcel and tells it how every one went. What is on the way together is to come back
//! within a round trip and [`ON_THE_WIRE`], which is then all that an alarm waits for. Two things have to be known for
//! that. A parcel that had the link to itself is a point of a straight line, bytes against time: it says what a send costs
//! whatever its size (the round trip) and what a byte costs. Parcels that shared the link say nothing of a round trip, and
//! their time is not theirs alone; they are points of no line. But all that was acknowledged while one was on its way,
//! over the time it took, is what the link carries, provided that no more could be sent. If that time is longer than
//! it should be, less is sent together, and more if it is shorter. Now and then a parcel goes alone, so that the round trip
//! stays known. It also keeps the configured rate.

use std::time::{Duration, Instant};

use crate::time::Span;

/// How long the bytes on the way may take beside the round trip: what an alarm waits for at most.
const ON_THE_WIRE: Duration = Duration::from_millis(250);
/// Bytes of lines of the first parcel.
const FIRST: f64 = 4096.0;
/// How much of a send's weight is left with the next one: the last twenty or so count.
const MEMORY: f64 = 0.95;
/// One parcel in so many that go alone is small: a line needs points that lie apart.
const SMALL_EVERY: u64 = 16;
/// Parcels that go alone before there may be two.
const ALONE_FIRST: u64 = 4;
/// How often one goes alone after that.
const ALONE_EVERY: Duration = Duration::from_mins(1);
/// A send that took so many times as long as it should does not fit to what is known.
const SURPRISE: f64 = 3.0;
/// Sends after which a far side that refused large parcels is offered one again.
const FORGET_SIZE_AFTER: u64 = 1000;
/// Below so many bytes a second on the wire, a byte is worth more of the processor.
const SLOW: f64 = 5_000_000.0;
const VERY_SLOW: f64 = 50_000.0;

/// A link, as its sends show it.
#[derive(Debug)]
pub(super) struct Pace {
    /// Most bytes of lines of a parcel, as configured.
    most: usize,
    /// Most parcels on the way, as configured.
    most_together: usize,
    /// Most that the far side takes, where it has refused more, and the send after which that is tried again.
    takes: Option<(usize, u64)>,
    /// Configured bytes a second.
    rate: Option<f64>,
    /// How long records are gathered for the next parcel.
    gather: Duration,
    line: Line,
    /// Bytes a second on the wire. `None`: more than was ever sent.
    speed: Option<f64>,
    /// What a send costs whatever its size, in seconds.
    round_trip: f64,
    /// Bytes on the wire of a byte of lines.
    ratio: f64,
    /// What the next parcel may have, in bytes of lines.
    size: f64,
    /// How many may be on the way.
    together: usize,
    sends: u64,
    /// Parcels that went alone, and when one last did.
    alone: u64,
    alone_at: Option<Instant>,
    /// When the configured rate allows the next parcel.
    free_at: Option<Instant>,
    /// When the bytes of the last parcel have nearly left.
    left_at: Option<Instant>,
}

/// A send that was acknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trip {
    /// Bytes of lines.
    pub(super) lines: usize,
    /// Bytes on the wire.
    pub(super) wire: u64,
    pub(super) took: Duration,
    /// Bytes on the wire of all that was acknowledged meanwhile, itself among them.
    pub(super) meanwhile: u64,
    /// Whether nothing else was on the way.
    pub(super) is_alone: bool,
    /// Whether no more might be sent when it started.
    pub(super) is_full: bool,
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

    /// `y` where `x` is nothing, for this slope.
    fn start(&self, slope: f64) -> f64 {
        ((self.y - slope * self.x) / self.n).max(0.0)
    }
}

impl Pace {
    pub(super) fn new(most: usize, most_together: usize, rate: Option<u64>, gather: Span) -> Pace {
        let rate = rate.map(|rate| rate.max(1) as f64);
        Pace {
            most: most.max(1),
            most_together: most_together.max(1),
            takes: None,
            rate,
            gather: gather.to_std(),
            line: Line::default(),
            speed: None,
            round_trip: 0.0,
            ratio: 0.3,
            size: FIRST,
            together: 1,
            sends: 0,
            alone: 0,
            alone_at: None,
            free_at: None,
            left_at: None,
        }
    }

    /// Bytes of lines of the next parcel, of which `wire` bytes on the wire may be used.
    pub(super) fn parcel_bytes(&self, wire: u64) -> usize {
        let mut size = self.size;
        if self.together == 1 && self.sends % SMALL_EVERY == SMALL_EVERY - 1 {
            size /= 4.0;
        }
        if let Some(rate) = self.rate {
            size = size.min(rate * ON_THE_WIRE.as_secs_f64() / self.ratio);
        }
        size = size.min(wire as f64 / self.ratio);
        let takes = self.takes.filter(|(_, until)| self.sends < *until);
        (size as usize).clamp(1, takes.map_or(self.most, |(size, _)| size.min(self.most)))
    }

    /// Bytes on the wire of so many bytes of lines, as far as one can know beforehand.
    pub(super) fn wire_bytes(&self, lines: usize) -> u64 {
        (lines as f64 * self.ratio) as u64
    }

    /// How many parcels may be on the way now.
    pub(super) fn together(&self) -> usize {
        self.together
    }

    /// Whether the next parcel should have the link to itself.
    pub(super) fn wants_alone(&self, now: Instant) -> bool {
        let is_due = |at: Instant| now.saturating_duration_since(at) >= ALONE_EVERY;
        self.together > 1 && self.alone_at.is_none_or(is_due)
    }

    /// Notes that a parcel of so many bytes on the wire starts. The next one waits until they have nearly left: else all
    /// that may be on the way would stand before the link at once, and an alarm behind it.
    pub(super) fn starts(&mut self, wire: u64, is_alone: bool, now: Instant) {
        if is_alone {
            self.alone_at = Some(now);
        }
        let leaving = self.speed.filter(|_| self.together > 1).map(|speed| wire as f64 / speed);
        let from = self.left_at.map_or(now, |left| left.max(now));
        self.left_at =
            leaving.map(|seconds| from + Duration::from_secs_f64(seconds.min(1.0) * 0.8));
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

    /// Notes a send that was acknowledged.
    pub(super) fn sent(&mut self, trip: Trip) {
        self.sends += 1;
        let (lines, wire) = (trip.lines.max(1) as f64, trip.wire.max(1) as f64);
        self.ratio += (wire / lines - self.ratio) * 0.2;
        let took = trip.took.as_secs_f64().max(1e-6);
        if self.together > 1 && took > SURPRISE * (self.round_trip + ON_THE_WIRE.as_secs_f64()) {
            // Another link than it was.
            (self.together, self.alone, self.line) = (1, 0, Line::default());
            self.speed = Some(trip.meanwhile as f64 / took);
        } else if trip.is_alone {
            self.learn_alone(wire, took);
        } else {
            self.learn_shared(&trip, took);
        }
        // Where time does not grow with bytes, there is room.
        let grown = if lines >= self.size / 2.0 { self.size * 2.0 } else { self.size };
        let (together, fits) = self.fits();
        self.size = grown.min(fits).clamp(64.0, self.most as f64);
        let more = self.together + usize::from(trip.is_full && self.alone >= ALONE_FIRST);
        self.together = more.min(together);
    }

    fn learn_alone(&mut self, wire: f64, took: f64) {
        self.alone += 1;
        self.line.add(wire, took);
        let slope = self.line.slope();
        if self.line.n > 1.0 {
            self.speed = slope.map(|seconds| 1.0 / seconds);
            self.round_trip = self.line.start(slope.unwrap_or(0.0));
        } else {
            // The first for a while; the parcels before it said what the link carries.
            let bytes = self.speed.map_or(0.0, |speed| wire / speed);
            self.round_trip += ((took - bytes).max(0.0) - self.round_trip) * 0.5;
        }
    }

    fn learn_shared(&mut self, trip: &Trip, took: f64) {
        self.line = Line::default();
        if !trip.is_full {
            return;
        }
        let carried = trip.meanwhile as f64 / took;
        let has_room = took < self.round_trip + ON_THE_WIRE.as_secs_f64() / 2.0;
        self.speed = match self.speed {
            speed if has_room => speed.map(|speed| (speed * 1.1).max(carried).min(1e12)),
            Some(speed) => Some(speed + (carried - speed) * 0.3),
            None => Some(carried),
        };
    }

    /// How many parcels together use the link, and how large each is then, in bytes of lines: the others' bytes leave
    /// while one's answer comes back.
    fn fits(&self) -> (usize, f64) {
        let Some(speed) = self.speed else { return (self.most_together, f64::MAX) };
        let on_the_wire = ON_THE_WIRE.as_secs_f64();
        let speed = speed.min(self.rate.unwrap_or(f64::MAX));
        let bytes = speed * (self.round_trip + on_the_wire);
        // A twentieth of the time unused is not worth a second parcel.
        let count = 1.0 + (self.round_trip / on_the_wire - 0.05).ceil().max(0.0);
        let count = count.min(self.most_together as f64);
        let each = (bytes / count).min(speed * on_the_wire) / self.ratio;
        let count = count.max((bytes / self.ratio / each.min(self.most as f64)).ceil());
        ((count as usize).clamp(1, self.most_together), each)
    }

    /// Notes a send that was not: the link may be another one when it comes back.
    pub(super) fn failed(&mut self) {
        self.size = (self.size / 2.0).clamp(FIRST.min(self.most as f64), self.most as f64);
        self.together = 1;
    }

    /// Keeps the rate: with so many bytes on the wire, the next parcel has to wait.
    pub(super) fn spent(&mut self, wire: u64, now: Instant) {
        if let Some(rate) = self.rate {
            let from = self.free_at.map_or(now, |free| free.max(now));
            // No parcel waits longer than an hour, whatever the numbers say.
            let wait = (wire as f64 / rate).min(3600.0);
            self.free_at = Some(from + Duration::from_secs_f64(wait));
        }
    }

    /// What was noted as spent has come to other than was thought.
    pub(super) fn corrected(&mut self, was: u64, is: u64) {
        if let (Some(rate), Some(free)) = (self.rate, self.free_at) {
            let by = Duration::from_secs_f64((was.abs_diff(is) as f64 / rate).min(3600.0));
            self.free_at = if is > was { Some(free + by) } else { free.checked_sub(by) };
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
        self.free_at.max(self.left_at).filter(|free| *free > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::monotonic;

    /// A link that sends one byte after the other, and what is on its way over it.
    struct Wire {
        now: Instant,
        busy_until: Instant,
        /// When each comes back, with all that its trip will be.
        on_the_way: Vec<(Instant, Instant, u64, Trip)>,
        acknowledged: u64,
    }

    /// What a drain came to, once it has settled.
    struct Drained {
        /// The share of the link that was used.
        used: f64,
        /// What an alarm would have waited for at most, beside the round trip.
        waits: Duration,
        /// The most parcels that were on the way.
        together: usize,
    }

    impl Wire {
        fn new() -> Wire {
            let now = monotonic();
            Wire { now, busy_until: now, on_the_way: Vec::new(), acknowledged: 0 }
        }

        fn start(&mut self, pace: &mut Pace, speed: f64, round_trip: Duration) {
            let lines = pace.parcel_bytes(u64::MAX);
            let wire = 300 + lines as u64 / 4;
            self.busy_until =
                self.busy_until.max(self.now) + Duration::from_secs_f64(wire as f64 / speed);
            let is_alone = self.on_the_way.is_empty();
            self.on_the_way.iter_mut().for_each(|each| each.3.is_alone = false);
            pace.starts(wire, is_alone, self.now);
            let is_full = self.on_the_way.len() + 1 >= pace.together();
            let (took, meanwhile) = (Duration::ZERO, 0);
            let trip = Trip { lines, wire, took, meanwhile, is_alone, is_full };
            let back = self.busy_until + round_trip;
            self.on_the_way.push((back, self.now, self.acknowledged, trip));
        }

        fn step(&mut self, pace: &mut Pace) -> u64 {
            let (back, started, before, mut trip) = self.on_the_way.remove(0);
            self.now = back;
            self.acknowledged += trip.wire;
            trip.took = back - started;
            trip.meanwhile = self.acknowledged - before;
            pace.sent(trip);
            trip.wire
        }

        /// Sends a backlog for so many sends, and looks at the last three quarters of them.
        fn drain(
            &mut self,
            pace: &mut Pace,
            speed: f64,
            round_trip: Duration,
            sends: u64,
        ) -> Drained {
            let mut all = Drained { used: 0.0, waits: Duration::ZERO, together: 0 };
            let (mut bytes, mut from) = (0, self.now);
            for send in 0..sends {
                let is_settled = send >= sends / 4;
                if !is_settled {
                    from = self.now;
                }
                loop {
                    let alone = pace.wants_alone(self.now);
                    let room = if alone { 1 } else { pace.together() };
                    if self.on_the_way.len() >= room {
                        break;
                    }
                    if let Some(free_at) = pace.free_at(self.now) {
                        if self.on_the_way.first().is_some_and(|first| first.0 < free_at) {
                            break;
                        }
                        self.now = free_at;
                    }
                    self.start(pace, speed, round_trip);
                    if alone {
                        break;
                    }
                }
                if is_settled {
                    all.waits = all.waits.max(self.busy_until.saturating_duration_since(self.now));
                    all.together = all.together.max(self.on_the_way.len());
                }
                let wire = self.step(pace);
                bytes += if is_settled { wire } else { 0 };
            }
            all.used = bytes as f64 / (self.now - from).as_secs_f64() / speed;
            all
        }
    }

    #[test]
    fn parcels_fill_a_link_and_leave_room_for_alarms() {
        // Bytes a second, round trip in ms, parcels at most; the share used at least.
        let cases = [
            (1_500.0, 400, 1, 0.3),
            (1_500.0, 400, 8, 0.75),
            (10_000.0, 100, 8, 0.85),
            (100_000.0, 50, 1, 0.7),
            (100_000.0, 50, 8, 0.9),
            (200_000.0, 200, 8, 0.9),
            (500_000.0, 600, 1, 0.1),
            (500_000.0, 600, 8, 0.9),
            (1_000_000.0, 30, 8, 0.9),
            (5_000_000.0, 50, 8, 0.9),
            (20_000_000.0, 2, 1, 0.5),
        ];
        for (speed, round_trip, most, used_least) in cases {
            let round_trip = Duration::from_millis(round_trip);
            let mut pace = Pace::new(512 << 10, most, None, Span::ZERO);
            let Drained { used, waits, together } =
                Wire::new().drain(&mut pace, speed, round_trip, 4000);
            let what = format!("{speed} B/s, {round_trip:?}, up to {most}");
            assert!(waits < ON_THE_WIRE * 9 / 4, "{what}: an alarm waits {waits:?}");
            assert!(used > used_least, "{what}: {:.0} % were used", used * 100.0);
            assert!(together <= most, "{what}: {together}");
        }
    }

    #[test]
    fn a_link_that_changes_is_learned_anew() {
        for most in [1, 8] {
            let mut pace = Pace::new(256 << 10, most, None, Span::ZERO);
            let mut wire = Wire::new();
            wire.drain(&mut pace, 20_000_000.0, Duration::from_millis(2), 400);
            assert_eq!(pace.level(), 3);
            let round_trip = Duration::from_millis(600);
            // What was on its way before that is known takes long.
            wire.drain(&mut pace, 5_000.0, round_trip, 100);
            let slow = wire.drain(&mut pace, 5_000.0, round_trip, 400);
            assert!(slow.waits < ON_THE_WIRE * 2, "{:?}", slow.waits);
            assert_eq!(pace.level(), 19);
            wire.drain(&mut pace, 20_000_000.0, Duration::from_millis(2), 400);
            assert_eq!(pace.level(), 3);
            assert!(pace.parcel_bytes(u64::MAX) > 200_000);
            assert!(pace.parcel_bytes(1000) < 5000, "the rest of a budget is not overspent");
        }
    }

    #[test]
    fn a_failure_leaves_one_on_the_way() {
        let mut pace = Pace::new(64 << 10, 8, None, Span::ZERO);
        Wire::new().drain(&mut pace, 1e6, Duration::from_millis(500), 400);
        assert!(pace.together() > 2, "{}", pace.together());
        pace.failed();
        assert_eq!(pace.together(), 1);
    }

    #[test]
    fn a_rate_is_kept_by_small_parcels_and_waits() {
        let mut pace = Pace::new(64 << 10, 8, Some(1000), Span::ZERO);
        Wire::new().drain(&mut pace, 1e6, Duration::from_millis(5), 400);
        assert!(pace.parcel_bytes(u64::MAX) < 2000);
        let start = monotonic() + Duration::from_hours(1);
        assert_eq!(pace.free_at(start), None);
        pace.spent(500, start);
        pace.spent(700, start);
        pace.corrected(700, 500);
        assert_eq!(pace.free_at(start), Some(start + Duration::from_secs(1)));
        assert_eq!(pace.free_at(start + Duration::from_secs(1)), None);
    }
}
