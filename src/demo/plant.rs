//! The simulated plant: pumps at two sites, the demand they follow, the weather around them, the faults they have.
//!
//! `telemetry` turns its samples into messages, `train` into feature rows. It promises the same samples for the same
//! options; a pump's samples do not depend on how many others there are. It knows no clock: time is what has been
//! stepped.

use std::f64::consts::TAU;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::fault::{FaultKind, FaultPlan};
use super::pump::{Pump, Signal, Surroundings};
use crate::time::Span;

/// The plant's step: the period of its fastest sensor.
pub const STEP: Span = Span::millis(100);

/// What a plant is made of.
#[derive(Clone, Debug)]
pub struct PlantOptions {
    /// Everything random comes from it.
    pub seed: u64,
    /// How many pumps.
    pub pumps: usize,
    /// What goes wrong.
    pub faults: FaultPlan,
}

/// What the sensors of one pump read at one time.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Index of the pump, from 0.
    pub pump: usize,
    /// Time since the plant's start.
    pub at: Span,
    /// A value for each sensor that was due, in the order of [`Signal::ALL`].
    pub values: [Option<f64>; 8],
    /// Whether a loose contact has put a spike on one of them.
    pub spike: bool,
}

/// A running plant.
#[derive(Clone, Debug)]
pub struct Plant {
    faults: FaultPlan,
    sites: [Site; 2],
    pumps: Vec<Unit>,
    steps: i64,
}

/// A pump with its sensors and cables.
#[derive(Clone, Debug)]
struct Unit {
    pump: Pump,
    rng: ChaCha8Rng,
    /// Transmitters of different pumps do not sample at one instant.
    phase: Span,
    last: [f64; 8],
    /// The value at which a sensor is stuck.
    stuck: Option<(Signal, f64)>,
    next_spike: Span,
}

/// What the pumps of one site have in common.
#[derive(Clone, Debug)]
struct Site {
    rng: ChaCha8Rng,
    phases: [f64; 3],
    batch: f64,
    batch_until: f64,
    weather: f64,
}

impl Site {
    fn new(mut rng: ChaCha8Rng) -> Site {
        let phases = [0; 3].map(|_: i32| rng.random_range(0.0..TAU));
        Site { rng, phases, batch: 0.0, batch_until: 0.0, weather: 0.0 }
    }

    /// Demand swings with the process, in two rhythms and by the batch; the air follows the sun and the clouds.
    fn step(&mut self, t: f64) -> Surroundings {
        if t >= self.batch_until {
            self.batch = self.rng.random_range(-0.06..0.06);
            self.batch_until = t + self.rng.random_range(120.0..300.0);
        }
        self.weather += self.rng.random_range(-0.003..0.003) - 0.000_05 * self.weather;
        let [fast, slow, day] = self.phases;
        let demand = 0.86
            + 0.06 * (TAU * t / 430.0 + fast).sin()
            + 0.05 * (TAU * t / 1130.0 + slow).sin()
            + self.batch;
        Surroundings {
            demand,
            ambient: 22.0 + 5.0 * (TAU * t / 86_400.0 + day).sin() + self.weather,
        }
    }
}

/// The asset id of a pump.
pub fn asset_id(pump: usize) -> String {
    format!("pump-{:02}", pump + 1)
}

/// The site of a pump.
pub fn site_of(pump: usize) -> &'static str {
    if pump.is_multiple_of(2) { "north" } else { "south" }
}

impl Plant {
    /// A plant that has not run yet.
    pub fn new(options: PlantOptions) -> Plant {
        let stream = |number: u64| {
            let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
            rng.set_stream(number);
            rng
        };
        let units = (0..options.pumps as u64).map(|index| Unit {
            pump: Pump::new(stream(100 + 2 * index)),
            rng: stream(101 + 2 * index),
            phase: Span::millis(index as i64 * 37 % 100),
            last: [0.0; 8],
            stuck: None,
            next_spike: Span::ZERO,
        });
        Plant {
            pumps: units.collect(),
            sites: [Site::new(stream(1)), Site::new(stream(2))],
            faults: options.faults,
            steps: 0,
        }
    }

    /// How long it has run.
    pub fn elapsed(&self) -> Span {
        Span(STEP.0 * self.steps)
    }

    /// What goes wrong in it.
    pub fn faults(&self) -> &FaultPlan {
        &self.faults
    }

    /// Runs for one [`STEP`] and adds what the sensors that were due have read, pump by pump.
    pub fn step(&mut self, out: &mut Vec<Sample>) {
        let at = self.elapsed();
        let ms = at.0 / 1000;
        let around = [0, 1].map(|site: usize| self.sites[site].step(at.as_seconds()));
        for (index, unit) in self.pumps.iter_mut().enumerate() {
            let fault = self.faults.effects(index, at);
            let read = unit.pump.step(STEP.as_seconds(), around[index % 2], fault);
            let mut values = [None; 8];
            for (signal, value) in Signal::ALL.into_iter().zip(read) {
                if ms % signal.period_ms() == 0 {
                    values[signal as usize] = Some(round(value, signal.decimals()));
                }
            }
            let spike = unit.sensors(&self.faults, index, at, &mut values);
            out.push(Sample { pump: index, at: Span(at.0 + unit.phase.0), values, spike });
        }
        self.steps += 1;
    }
}

impl Unit {
    /// Lets the sensor faults change what was read; says whether there is a spike.
    fn sensors(
        &mut self,
        faults: &FaultPlan,
        pump: usize,
        at: Span,
        values: &mut [Option<f64>; 8],
    ) -> bool {
        let mut spike = false;
        let mut stuck = None;
        for (kind, signal) in faults.sensors(pump, at) {
            let slot = &mut values[signal as usize];
            let Some(value) = slot else {
                stuck = stuck.or(self.stuck);
                continue;
            };
            if kind == FaultKind::StuckSensor {
                let (_, held) = *self.stuck.get_or_insert((signal, self.last[signal as usize]));
                *value = held;
                stuck = self.stuck;
            } else if at >= self.next_spike {
                *value = round(*value + signal.spike(), signal.decimals());
                self.next_spike = Span(at.0 + self.rng.random_range(7_000_000..14_000_000));
                spike = true;
            }
        }
        self.stuck = stuck;
        for (last, value) in self.last.iter_mut().zip(values.iter()) {
            *last = value.unwrap_or(*last);
        }
        spike
    }
}

/// As a transmitter with so many decimals sends it.
fn round(value: f64, decimals: usize) -> f64 {
    let scale = 10f64.powi(decimals as i32);
    (value * scale).round() / scale
}
