//! What the plant sends: JSON messages, with the dirt that real ones have, each piece of it counted.
//!
//! `publisher` sends them, tests read them. It promises exact totals: every published reading is in
//! [`Totals::readings`], every one that a node must refuse is in one more counter, no reading in two. Dirt does not
//! change the plant: with other rates the sensors read the same.

use std::collections::VecDeque;
use std::fmt::Write;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::plant::{Plant, Sample, asset_id, site_of};
use super::pump::Signal;
use crate::time::{Span, Timestamp};

/// The lateness that the shipped pump pipeline waits for.
pub const LATENESS: Span = Span::seconds(2);

/// How often something goes wrong on the way, each as a share of messages (`missing`: of readings).
#[derive(Clone, Copy, Debug)]
pub struct Dirt {
    /// Readings that were never sent.
    pub missing: f64,
    /// A pump's transmitter falls silent for 2 to 8 s.
    pub silence: f64,
    /// Messages that come twice.
    pub duplicate: f64,
    /// Messages that come up to 1.5 s late.
    pub late_within: f64,
    /// Messages that come 20 to 40 s late: further than a tick of a fast demo is long.
    pub late_beyond: f64,
    /// Messages that are not JSON.
    pub malformed: f64,
    /// Messages with a value like `"NaN"`.
    pub not_finite: f64,
    /// Messages with an impossible value.
    pub out_of_range: f64,
}

impl Dirt {
    /// None at all.
    pub const NONE: Dirt = Dirt {
        missing: 0.0,
        silence: 0.0,
        duplicate: 0.0,
        late_within: 0.0,
        late_beyond: 0.0,
        malformed: 0.0,
        not_finite: 0.0,
        out_of_range: 0.0,
    };
}

impl Default for Dirt {
    fn default() -> Self {
        Dirt {
            missing: 2e-3,
            silence: 1.5e-4,
            duplicate: 4e-3,
            late_within: 4e-3,
            late_beyond: 8e-4,
            malformed: 1e-4,
            not_finite: 6e-4,
            out_of_range: 6e-4,
        }
    }
}

/// What was sent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Messages, malformed ones too.
    pub messages: u64,
    /// Messages that cannot be decoded: one rejection each, at the door. Their readings count as `missing`.
    pub malformed: u64,
    /// Readings in the other messages.
    pub readings: u64,
    /// Of these, readings that came before with the same time and value.
    pub duplicates: u64,
    /// Of these, readings more than [`LATENESS`] behind the newest of their pump.
    pub late: u64,
    /// Of these, readings that are not finite.
    pub not_finite: u64,
    /// Of these, readings outside the schema's limits.
    pub out_of_range: u64,
    /// Of these, readings with a spike from a spike train.
    pub spikes: u64,
    /// Of these, readings that are out of order but within [`LATENESS`]; they must be used.
    pub out_of_order: u64,
    /// Readings that the plant made but that were not sent (or only in a malformed message).
    pub missing: u64,
    /// How far plant time has come. A broker or a machine that is too slow holds the plant back, so the clock does not
    /// tell.
    pub elapsed: Span,
}

/// What is special about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Nothing.
    Clean,
    /// It was sent before.
    Duplicate,
    /// It is out of order.
    Delayed,
    /// It cannot be decoded.
    Malformed,
    /// One of its values is not finite.
    NotFinite,
    /// One of its values is impossible.
    OutOfRange,
}

/// One MQTT message.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Index of the pump, from 0.
    pub pump: usize,
    /// Its topic.
    pub topic: String,
    /// Its payload.
    pub payload: Vec<u8>,
    /// Event time of its readings.
    pub ts: Timestamp,
    /// How many readings are in it; 0 if it cannot be decoded.
    pub readings: u32,
    /// What is special about it.
    pub mark: Mark,
    spike: bool,
}

/// A plant with its cables: gives messages in the order in which they are to be sent.
#[derive(Clone, Debug)]
pub struct Telemetry {
    plant: Plant,
    start: Timestamp,
    dirt: Dirt,
    rng: ChaCha8Rng,
    /// On their way, by due time.
    delayed: VecDeque<(Span, Message)>,
    silent_until: Vec<Span>,
    newest: Vec<Timestamp>,
    totals: Totals,
    samples: Vec<Sample>,
}

impl Telemetry {
    /// Event times count from `start`; the dirt has a seed of its own.
    pub fn new(plant: Plant, pumps: usize, start: Timestamp, dirt: Dirt, seed: u64) -> Telemetry {
        Telemetry {
            plant,
            start,
            dirt,
            rng: ChaCha8Rng::seed_from_u64(seed ^ 0x00d1_27d1_27d1_27d1),
            delayed: VecDeque::new(),
            silent_until: vec![Span::ZERO; pumps],
            newest: vec![Timestamp::MIN; pumps],
            totals: Totals::default(),
            samples: Vec::new(),
        }
    }

    /// The plant behind it.
    pub fn plant(&self) -> &Plant {
        &self.plant
    }

    /// What has been given out so far.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Runs the plant for one step and adds the messages that are due.
    pub fn step(&mut self, out: &mut Vec<Message>) {
        let mut samples = std::mem::take(&mut self.samples);
        self.plant.step(&mut samples);
        for sample in samples.drain(..) {
            self.send(&sample, out);
        }
        self.samples = samples;
        let now = self.plant.elapsed();
        self.totals.elapsed = now;
        while self.delayed.front().is_some_and(|(due, _)| *due <= now) {
            self.give_delayed(out);
        }
    }

    /// Adds what is still on its way: call it once, at the end.
    pub fn finish(&mut self, out: &mut Vec<Message>) {
        while !self.delayed.is_empty() {
            self.give_delayed(out);
        }
    }

    fn give_delayed(&mut self, out: &mut Vec<Message>) {
        if let Some((_, message)) = self.delayed.pop_front() {
            self.count(&message);
            out.push(message);
        }
    }

    /// At most one kind of dirt a message, so that each reading is in one counter.
    fn send(&mut self, sample: &Sample, out: &mut Vec<Message>) {
        let mut values = sample.values;
        let dirt = self.dirt;
        for value in &mut values {
            if value.is_some() && self.rng.random_bool(dirt.missing) {
                *value = None;
                self.totals.missing += 1;
            }
        }
        let readings = values.iter().flatten().count() as u32;
        // Every sample draws the same numbers, whatever becomes of it.
        let (what, how): (f64, u32) = (self.rng.random(), self.rng.random());
        let silenced = self.rng.random_bool(dirt.silence);
        if silenced {
            self.silent_until[sample.pump] =
                Span(sample.at.0 + i64::from(how % 6_000 + 2_000) * 1000);
        }
        if readings == 0 || sample.at < self.silent_until[sample.pump] {
            self.totals.missing += u64::from(readings);
            return;
        }
        let message = self.message(sample, &values, readings);
        self.dispatch(message, sample, &values, pick(what, &dirt), how, out);
    }

    fn dispatch(
        &mut self,
        mut message: Message,
        sample: &Sample,
        values: &[Option<f64>; 8],
        fate: Fate,
        how: u32,
        out: &mut Vec<Message>,
    ) {
        let later =
            |from: u32, to: u32| Span(sample.at.0 + i64::from(from + how % (to - from)) * 1000);
        match fate {
            Fate::Sent => {}
            Fate::Twice => {
                let mut again = message.clone();
                again.mark = Mark::Duplicate;
                self.delay(later(20, 1_000), again);
            }
            Fate::LateWithin | Fate::LateBeyond => {
                message.mark = Mark::Delayed;
                let due = if fate == Fate::LateWithin {
                    later(300, 1_500)
                } else {
                    later(20_000, 40_000)
                };
                self.delay(due, message);
                return;
            }
            Fate::Malformed => {
                self.totals.missing += u64::from(message.readings);
                (message.mark, message.readings) = (Mark::Malformed, 0);
                damage(&mut message.payload, how);
            }
            Fate::NotFinite => {
                message.mark = Mark::NotFinite;
                let wrong =
                    ["\"NaN\"", "\"Infinity\"", "\"-Infinity\"", "\"nan\""][how as usize % 4];
                message.payload = self.payload(sample, values, Some(wrong));
            }
            Fate::OutOfRange => {
                message.mark = Mark::OutOfRange;
                let wrong = ["-9999", "999999.9", "65535000"][how as usize % 3];
                message.payload = self.payload(sample, values, Some(wrong));
            }
        }
        self.count(&message);
        out.push(message);
    }

    fn delay(&mut self, due: Span, message: Message) {
        let place = self.delayed.partition_point(|(other, _)| *other <= due);
        self.delayed.insert(place, (due, message));
    }

    fn count(&mut self, message: &Message) {
        let totals = &mut self.totals;
        let readings = u64::from(message.readings);
        totals.messages += 1;
        totals.readings += readings;
        let newest = &mut self.newest[message.pump];
        let spikes = u64::from(message.spike);
        match message.mark {
            Mark::Clean => totals.spikes += spikes,
            Mark::Duplicate => totals.duplicates += readings,
            Mark::Delayed if message.ts < newest.minus(LATENESS) => totals.late += readings,
            Mark::Delayed => {
                totals.out_of_order += readings;
                totals.spikes += spikes;
            }
            Mark::Malformed => {
                totals.malformed += 1;
                return;
            }
            Mark::NotFinite => totals.not_finite += 1,
            Mark::OutOfRange => totals.out_of_range += 1,
        }
        *newest = (*newest).max(message.ts);
    }

    fn message(&self, sample: &Sample, values: &[Option<f64>; 8], readings: u32) -> Message {
        let asset = asset_id(sample.pump);
        Message {
            pump: sample.pump,
            topic: format!("plant/{}/pump/{asset}/telemetry", site_of(sample.pump)),
            payload: self.payload(sample, values, None),
            ts: self.start.plus(sample.at),
            readings,
            mark: Mark::Clean,
            spike: sample.spike,
        }
    }

    /// The payload; `wrong` is written in place of its first value.
    fn payload(&self, sample: &Sample, values: &[Option<f64>; 8], wrong: Option<&str>) -> Vec<u8> {
        let ms = self.start.plus(sample.at).0 / 1000;
        let mut text = format!("{{\"ts\":{ms}");
        let mut wrong = wrong;
        for (signal, value) in Signal::ALL.into_iter().zip(values) {
            let Some(value) = value else { continue };
            let written = match wrong.take() {
                Some(wrong) => write!(text, ",\"{}\":{wrong}", signal.name()),
                None => write!(text, ",\"{}\":{value:.*}", signal.name(), signal.decimals()),
            };
            written.expect("invariant: writing to a string does not fail");
        }
        text.push('}');
        text.into_bytes()
    }
}

/// What becomes of a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Sent,
    Twice,
    LateWithin,
    LateBeyond,
    Malformed,
    NotFinite,
    OutOfRange,
}

fn pick(what: f64, dirt: &Dirt) -> Fate {
    let shares = [
        (dirt.duplicate, Fate::Twice),
        (dirt.late_within, Fate::LateWithin),
        (dirt.late_beyond, Fate::LateBeyond),
        (dirt.malformed, Fate::Malformed),
        (dirt.not_finite, Fate::NotFinite),
        (dirt.out_of_range, Fate::OutOfRange),
    ];
    let mut rest = what;
    for (share, fate) in shares {
        if rest < share {
            return fate;
        }
        rest -= share;
    }
    Fate::Sent
}

/// Makes a payload undecodable: cut off, replaced, emptied, or no longer UTF-8.
fn damage(payload: &mut Vec<u8>, how: u32) {
    match how % 4 {
        0 => payload.truncate(payload.len() / 2),
        1 => *payload = b"ERR 17: sensor bus timeout".to_vec(),
        2 => payload.clear(),
        _ => payload[0] = 0xff,
    }
}
