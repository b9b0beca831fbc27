//! Readings with numbers: what is published, and which number a reading has that comes out again.
//!
//! `publisher` sends them, `books` finds them again, `undisturbed` computes with them. Everything is a function of the
//! seed and the number, so nothing has to be remembered. The assets' clocks are wrong on purpose: each is off by its
//! hours, and at random moments jumps back, or ahead and back, which makes readings late.

use std::fmt::Write;

use crate::demo::plant::{asset_id, site_of};
use crate::demo::pump::Signal;
use crate::time::{Span, Timestamp};

/// Assets that send, in turn.
pub(super) const ASSETS: usize = 4;
/// Readings in a message.
pub(super) const SIGNALS: usize = Signal::ALL.len();

/// Event time between two messages of an asset.
const STEP: Span = Span::millis(250);
/// Event times start so far back that none is ever ahead of the clock.
const BACK: Span = Span::seconds(96 * 3600);
/// How far an asset's clock is behind that of the one before it.
const APART: Span = Span::seconds(3600);
/// Messages of an asset from one wrong stretch of its clock to the next, and how many are in it.
const STRETCH: (u64, u64) = (600, 24);
/// How wrong: not at all; back; ahead. No multiple of a step, so that no time comes twice.
const WRONG: [Span; 3] = [Span::ZERO, Span::millis(-19_963), Span::millis(5_037)];
/// Messages of an asset in good and in bad condition.
const CONDITION: u64 = 600;

/// All readings of a campaign.
#[derive(Clone, Debug)]
pub(super) struct Numbers {
    seed: u64,
    start: Timestamp,
    assets: Vec<String>,
}

impl Numbers {
    /// Those of a seed, with event times that end before `now`.
    pub(super) fn new(seed: u64, now: Timestamp) -> Numbers {
        let start = now.minus(BACK).floor(Span::seconds(60));
        Numbers { seed, start, assets: (0..ASSETS).map(asset_id).collect() }
    }

    /// Messages that there are before event times would be ahead of the clock.
    pub(super) fn most() -> u64 {
        ((BACK.0 - APART.0) / STEP.0) as u64 * ASSETS as u64
    }

    /// The topic of message `number`.
    pub(super) fn topic(&self, number: u64) -> String {
        let asset = asset(number);
        format!("plant/{}/pump/{}/telemetry", site_of(asset), self.assets[asset])
    }

    /// Its payload, as the pump pipeline expects it.
    pub(super) fn payload(&self, number: u64) -> String {
        let mut text = format!("{{\"ts\":{}", self.ts(number).0 / 1000);
        for signal in Signal::ALL {
            write!(text, ",\"{}\":{}", signal.name(), self.text(number, signal))
                .expect("invariant: writing to a string does not fail");
        }
        text + "}"
    }

    /// The event time of its readings.
    pub(super) fn ts(&self, number: u64) -> Timestamp {
        let (asset, step) = (asset(number), number / ASSETS as u64);
        self.begin(asset).plus(Span(STEP.0 * step as i64)).plus(self.wrong(asset, step))
    }

    /// The value of one of its readings.
    pub(super) fn value(&self, number: u64, signal: Signal) -> Option<f64> {
        self.text(number, signal).parse().ok()
    }

    /// The message that a reading came in.
    pub(super) fn find(&self, asset: &str, ts: Timestamp) -> Option<u64> {
        let asset = self.assets.iter().position(|a| a == asset)?;
        WRONG.into_iter().find_map(|wrong| {
            let since = u64::try_from(ts.since(self.begin(asset).plus(wrong)).0).ok()?;
            let number = since / STEP.0 as u64 * ASSETS as u64 + asset as u64;
            (self.ts(number) == ts).then_some(number)
        })
    }

    fn begin(&self, asset: usize) -> Timestamp {
        self.start.minus(Span(APART.0 * asset as i64))
    }

    fn wrong(&self, asset: usize, step: u64) -> Span {
        let at = step + 211 * asset as u64;
        let (stretch, within) = (at / STRETCH.0, at % STRETCH.0);
        // The first one is right, so that there is something to be late after.
        if within >= STRETCH.1 || stretch == 0 {
            return Span::ZERO;
        }
        let draw = fastrand::Rng::with_seed(self.seed ^ (stretch << 8) ^ asset as u64).usize(..);
        WRONG[draw % WRONG.len()]
    }

    /// As it stands in the message: within the schema's limits, never jumping, and the vibration is bad now and then.
    fn text(&self, number: u64, signal: Signal) -> String {
        let middle = match signal {
            Signal::VibrationRms => 2.0,
            Signal::BearingTemperature => 48.0,
            Signal::MotorCurrent => 55.0,
            Signal::SuctionPressure => 1.7,
            Signal::DischargePressure => 6.4,
            Signal::Flow => 108.0,
            Signal::Speed => 1270.0,
            Signal::CasingTemperature => 36.0,
        };
        let (asset, step) = (asset(number), number / ASSETS as u64);
        let is_bad = (step / CONDITION + asset as u64) % 3 == 1;
        let worse = if is_bad && signal == Signal::VibrationRms { 2.8 } else { 1.0 };
        let turn = step as f64 * (3.0 + signal as usize as f64) / 512.0 + self.seed as f64 * 0.37;
        let value = middle * worse * (1.0 + 0.02 * (turn * std::f64::consts::TAU).sin());
        format!("{value:.*}", signal.decimals())
    }
}

fn asset(number: u64) -> usize {
    (number % ASSETS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reading_is_found_again_and_no_time_comes_twice() {
        let numbers = Numbers::new(7, Timestamp(1_790_000_000_000_000));
        let mut times = std::collections::BTreeSet::new();
        let mut wrong = 0;
        for number in 0..80_000 {
            let (ts, asset) = (numbers.ts(number), asset_id(asset(number)));
            assert_eq!(numbers.find(&asset, ts), Some(number));
            assert_eq!(numbers.find(&asset, ts.plus(Span(1))), None);
            let in_step = ts.since(numbers.start).0 % STEP.0 == 0;
            wrong += u64::from(!in_step);
            assert!(times.insert((asset, ts)));
        }
        assert!(wrong > 500, "{wrong}");
        assert_eq!(numbers.find("pump-99", numbers.ts(0)), None);
    }
}
