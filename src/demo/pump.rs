//! One centrifugal pump: what its eight sensors would read, step by step.
//!
//! `plant` steps it with the process's demand and the weather. Speed follows demand; flow, head and power follow speed
//! by the affinity laws (∝ n, n², n³) along a pump curve; temperatures follow with their thermal lag. Values are in
//! the units of `schemas/pump.toml`. The same seed gives the same values: nothing here reads a clock.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

/// The sensors of a pump, in the order of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// Vibration velocity, mm/s.
    VibrationRms,
    /// Bearing temperature, degC.
    BearingTemperature,
    /// Motor current, A.
    MotorCurrent,
    /// Pressure before the pump, bar.
    SuctionPressure,
    /// Pressure behind the pump, bar.
    DischargePressure,
    /// Flow, m3/h.
    Flow,
    /// Speed, rpm.
    Speed,
    /// Casing temperature, degC.
    CasingTemperature,
}

impl Signal {
    /// All signals, in the order of the schema.
    pub const ALL: [Signal; 8] = [
        Signal::VibrationRms,
        Signal::BearingTemperature,
        Signal::MotorCurrent,
        Signal::SuctionPressure,
        Signal::DischargePressure,
        Signal::Flow,
        Signal::Speed,
        Signal::CasingTemperature,
    ];

    /// Its name in payloads and in the schema.
    pub fn name(self) -> &'static str {
        self.sensor().name
    }

    /// How often it is measured, in milliseconds.
    pub fn period_ms(self) -> i64 {
        self.sensor().period_ms
    }

    /// Decimals that its transmitter sends.
    pub fn decimals(self) -> usize {
        self.sensor().decimals
    }

    /// How far a spike of a loose contact jumps.
    pub(super) fn spike(self) -> f64 {
        self.sensor().spike
    }

    fn sensor(self) -> &'static Sensor {
        &SENSORS[self as usize]
    }
}

/// A transmitter: how it samples, rounds and disturbs what it measures.
struct Sensor {
    name: &'static str,
    period_ms: i64,
    decimals: usize,
    noise: f64,
    spike: f64,
}

const fn sensor(
    name: &'static str,
    period_ms: i64,
    decimals: usize,
    noise: f64,
    spike: f64,
) -> Sensor {
    Sensor { name, period_ms, decimals, noise, spike }
}

const SENSORS: [Sensor; 8] = [
    sensor("vibration_rms", 100, 3, 0.04, 9.0),
    sensor("bearing_temperature", 1000, 2, 0.05, 30.0),
    sensor("motor_current", 200, 2, 0.15, 25.0),
    sensor("suction_pressure", 200, 3, 0.006, 0.8),
    sensor("discharge_pressure", 200, 3, 0.02, 2.5),
    sensor("flow", 500, 2, 0.4, 40.0),
    sensor("speed", 500, 1, 0.8, 300.0),
    sensor("casing_temperature", 1000, 2, 0.05, 20.0),
];

/// What is wrong with a machine, each from 0 (nothing) to 1 (fully grown).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PumpFault {
    /// Worn bearing.
    pub wear: f64,
    /// Cavitation.
    pub cavitation: f64,
    /// Blocked suction filter.
    pub blocked: f64,
}

/// What a pump finds around it.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings {
    /// What the process asks for, as a share of the rated flow.
    pub demand: f64,
    /// Temperature around the machine, degC.
    pub ambient: f64,
}

/// How this pump differs from its sisters.
#[derive(Clone, Copy, Debug)]
struct Character {
    speed: f64,
    flow: f64,
    head: f64,
    current: f64,
    idle_current: f64,
    suction: f64,
    vibration: f64,
    bearing_rise: f64,
    casing_rise: f64,
}

/// Noise with a memory (Ornstein-Uhlenbeck), with standard deviation 1.
#[derive(Clone, Copy, Debug, Default)]
struct Drift {
    value: f64,
}

impl Drift {
    fn step(&mut self, dt: f64, tau: f64, rng: &mut ChaCha8Rng) -> f64 {
        let keep = (-dt / tau).exp();
        self.value = self.value * keep + (1.0 - keep * keep).sqrt() * normal(rng);
        self.value
    }
}

/// A running pump.
#[derive(Clone, Debug)]
pub struct Pump {
    character: Character,
    rng: ChaCha8Rng,
    /// Speed as a share of the rated speed.
    ratio: f64,
    bearing: f64,
    casing: f64,
    started: bool,
    demand: Drift,
    flow: Drift,
    level: Drift,
    load: Drift,
    roughness: Drift,
}

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    rng.sample(StandardNormal)
}

impl Pump {
    /// A pump with a character of its own, drawn from `rng`, which it keeps for its noise.
    pub fn new(mut rng: ChaCha8Rng) -> Pump {
        let mut about = |middle: f64, share: f64| middle * (1.0 + rng.random_range(-share..share));
        let character = Character {
            speed: about(1480.0, 0.004),
            flow: about(125.0, 0.05),
            head: about(5.0, 0.04),
            current: about(58.0, 0.05),
            idle_current: about(19.0, 0.05),
            suction: about(1.9, 0.04),
            vibration: about(2.0, 0.12),
            bearing_rise: about(26.0, 0.06),
            casing_rise: about(17.0, 0.06),
        };
        Pump {
            character,
            rng,
            ratio: 0.85,
            bearing: 0.0,
            casing: 0.0,
            started: false,
            demand: Drift::default(),
            flow: Drift::default(),
            level: Drift::default(),
            load: Drift::default(),
            roughness: Drift::default(),
        }
    }

    /// Runs for `dt` seconds and reads all sensors, in the order of [`Signal::ALL`].
    ///
    /// It draws the same number of random numbers whatever is wrong, so that a healthy and a faulty run of one seed
    /// differ by the fault alone.
    pub fn step(&mut self, dt: f64, around: Surroundings, fault: PumpFault) -> [f64; 8] {
        let wanted =
            (around.demand + 0.012 * self.demand.step(dt, 40.0, &mut self.rng)).clamp(0.55, 1.06);
        if !self.started {
            self.ratio = wanted;
        }
        self.ratio += (wanted - self.ratio) * (1.0 - (-dt / 7.0).exp());
        let mut values = self.hydraulics(dt, fault);
        self.temperatures(dt, around.ambient, values[Signal::MotorCurrent as usize], fault);
        values[Signal::BearingTemperature as usize] = self.bearing;
        values[Signal::CasingTemperature as usize] = self.casing;
        for (value, sensor) in values.iter_mut().zip(&SENSORS) {
            *value = (*value + sensor.noise * normal(&mut self.rng)).max(0.0);
        }
        values
    }

    fn hydraulics(&mut self, dt: f64, fault: PumpFault) -> [f64; 8] {
        let c = self.character;
        let r = self.ratio;
        let rng = &mut self.rng;
        // Collapsing bubbles: fast, without memory, and gone as they come.
        let (burst, surge) = (normal(rng), normal(rng));
        let starved = 0.26 * fault.blocked + 0.09 * fault.cavitation;
        let flow = c.flow
            * r
            * (1.0 - starved)
            * (1.0 + 0.008 * self.flow.step(dt, 5.0, rng) + 0.05 * fault.cavitation * surge);
        let share = flow / c.flow;
        let suction = c.suction + 0.04 * self.level.step(dt, 300.0, rng)
            - 0.22 * share * share
            - 0.85 * fault.blocked
            - 0.75 * fault.cavitation
            + 0.03 * fault.cavitation * burst;
        let head = c.head
            * (1.25 * r * r - 0.25 * share * share)
            * (1.0 - 0.05 * fault.cavitation + 0.035 * fault.cavitation * surge);
        let power = r.powi(3) * (0.45 + 0.55 * share / r.max(0.1));
        let load = c.current * power * (1.0 + 0.008 * self.load.step(dt, 4.0, rng));
        let rough = 1.0 + 0.06 * self.roughness.step(dt, 3.0, rng);
        // A pump away from its best point shakes more; wear multiplies what is there.
        let off_point = 1.0 + 1.5 * (share / r.max(0.1) - 1.0).powi(2);
        let vibration =
            c.vibration * (0.45 + 0.55 * r * r) * off_point * rough * (1.75 * fault.wear).exp()
                + fault.cavitation * (2.1 + 1.1 * burst.abs());
        let mut values = [0.0; 8];
        values[Signal::VibrationRms as usize] = vibration;
        values[Signal::MotorCurrent as usize] = load.hypot(c.idle_current);
        values[Signal::SuctionPressure as usize] = suction;
        values[Signal::DischargePressure as usize] = suction + head;
        values[Signal::Flow as usize] = flow;
        values[Signal::Speed as usize] = c.speed * r;
        values
    }

    fn temperatures(&mut self, dt: f64, ambient: f64, current: f64, fault: PumpFault) {
        let c = self.character;
        let heat = (current / c.current.hypot(c.idle_current)).powi(2);
        let bearing = ambient + c.bearing_rise * (0.4 + 0.6 * self.ratio) + 32.0 * fault.wear;
        let casing = ambient + c.casing_rise * heat;
        if !self.started {
            (self.bearing, self.casing, self.started) = (bearing, casing, true);
        }
        self.bearing += (bearing - self.bearing) * (1.0 - (-dt / 120.0).exp());
        self.casing += (casing - self.casing) * (1.0 - (-dt / 240.0).exp());
    }
}
