//! What goes wrong in the simulated plant, and when: a schedule that is known before the first reading.
//!
//! `plant` asks it at every step how far each fault has come; the demo prints it and measures how long the node took
//! to notice. It promises the same schedule for the same seed, and every kind at least once in any length. Wear that
//! takes weeks in a real pump takes minutes here: shapes are true to life, spans are not.

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::pump::{PumpFault, Signal};
use crate::time::Span;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Vibration grows exponentially, the bearing gets hot.
    BearingWear,
    /// Suction pressure falls below what the liquid needs; vibration becomes broadband, flow and pressure unsteady.
    Cavitation,
    /// The suction filter fills: suction pressure and flow fall slowly, and with them the current.
    BlockedFilter,
    /// One sensor repeats its last value for ever.
    StuckSensor,
    /// Isolated spikes on one signal: a loose contact.
    SpikeTrain,
}

impl FaultKind {
    /// All kinds.
    pub const ALL: [FaultKind; 5] = [
        FaultKind::BearingWear,
        FaultKind::Cavitation,
        FaultKind::BlockedFilter,
        FaultKind::StuckSensor,
        FaultKind::SpikeTrain,
    ];

    /// Its name in summaries.
    pub fn name(self) -> &'static str {
        match self {
            FaultKind::BearingWear => "bearing_wear",
            FaultKind::Cavitation => "cavitation",
            FaultKind::BlockedFilter => "blocked_filter",
            FaultKind::StuckSensor => "stuck_sensor",
            FaultKind::SpikeTrain => "spike_train",
        }
    }

    /// Whether the pump is at fault (its windows look different) and not a sensor.
    pub fn of_the_pump(self) -> bool {
        matches!(self, FaultKind::BearingWear | FaultKind::Cavitation | FaultKind::BlockedFilter)
    }
}

/// One fault of one pump. Times are counted from the plant's start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// Index of the pump, from 0.
    pub pump: usize,
    /// What happens.
    pub kind: FaultKind,
    /// The signal whose sensor is at fault, where it is a sensor.
    pub signal: Option<Signal>,
    /// When it begins.
    pub start: Span,
    /// How long it takes to grow to its full strength.
    pub ramp: Span,
    /// When it has been repaired.
    pub end: Span,
}

impl Fault {
    /// How strong it is at `at`: 0 before and after, 1 once grown.
    pub fn severity(&self, at: Span) -> f64 {
        if at < self.start || at >= self.end {
            return 0.0;
        }
        if self.ramp <= Span::ZERO {
            return 1.0;
        }
        ((at.0 - self.start.0) as f64 / self.ramp.0 as f64).min(1.0)
    }

    /// Whether it is there at `at`.
    pub fn active(&self, at: Span) -> bool {
        at >= self.start && at < self.end
    }
}

/// All faults of a plant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FaultPlan {
    /// By start.
    pub faults: Vec<Fault>,
}

/// A plan longer than this is made of rounds of this length, each with every kind.
const ROUND: Span = Span::seconds(45 * 60);

impl FaultPlan {
    /// A plant in which nothing goes wrong.
    pub fn healthy() -> FaultPlan {
        FaultPlan::default()
    }

    /// Every kind once in a round of at most 45 minutes, each on a pump of its own. The first fault starts after 15 %
    /// of the round and the last has ended by 90 %, so that there is normal running before and after.
    ///
    /// Below about 20 minutes the faults are too short for windows of one minute.
    pub fn schedule(length: Span, pumps: usize, seed: u64) -> FaultPlan {
        FaultPlan::of_kinds(&FaultKind::ALL, length, pumps, seed)
    }

    /// As [`FaultPlan::schedule`], with these kinds alone: for training on some and testing on others.
    pub fn of_kinds(kinds: &[FaultKind], length: Span, pumps: usize, seed: u64) -> FaultPlan {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(u64::MAX);
        let rounds = (length.0 / ROUND.0).max(1);
        let round = Span(length.0 / rounds);
        let mut faults = Vec::new();
        for number in 0..rounds {
            let begin = Span(round.0 * number);
            let mut order: Vec<usize> = (0..pumps).collect();
            order.shuffle(&mut rng);
            for (slot, (&kind, &pump)) in kinds.iter().zip(&order).enumerate() {
                faults.push(fault_in(kind, pump, begin, round, slot, kinds.len(), &mut rng));
            }
        }
        faults.sort_by_key(|fault| (fault.start, fault.pump));
        FaultPlan { faults }
    }

    /// What is wrong with the machine `pump` at `at`; faults of sensors are not in it.
    pub fn effects(&self, pump: usize, at: Span) -> PumpFault {
        let mut effects = PumpFault::default();
        for fault in self.faults.iter().filter(|fault| fault.pump == pump) {
            let severity = fault.severity(at);
            match fault.kind {
                FaultKind::BearingWear => effects.wear = effects.wear.max(severity),
                FaultKind::Cavitation => effects.cavitation = effects.cavitation.max(severity),
                FaultKind::BlockedFilter => effects.blocked = effects.blocked.max(severity),
                FaultKind::StuckSensor | FaultKind::SpikeTrain => {}
            }
        }
        effects
    }

    /// The sensor faults of `pump` that are there at `at`.
    pub fn sensors(&self, pump: usize, at: Span) -> impl Iterator<Item = (FaultKind, Signal)> {
        self.faults
            .iter()
            .filter(move |fault| fault.pump == pump && fault.active(at))
            .filter_map(|fault| fault.signal.map(|signal| (fault.kind, signal)))
    }
}

/// The fault of one slot of a round.
fn fault_in(
    kind: FaultKind,
    pump: usize,
    begin: Span,
    round: Span,
    slot: usize,
    slots: usize,
    rng: &mut ChaCha8Rng,
) -> Fault {
    let share = |part: f64| Span((round.0 as f64 * part) as i64);
    let spread = if slots > 1 { 0.32 * slot as f64 / (slots - 1) as f64 } else { 0.0 };
    let start = share(0.15 + spread + rng.random_range(0.0..0.02));
    let lasts = share(rng.random_range(0.36..0.40));
    let ramp = match kind {
        FaultKind::BearingWear | FaultKind::BlockedFilter => Span(lasts.0 * 6 / 10),
        FaultKind::Cavitation => Span(lasts.0 * 15 / 100),
        FaultKind::StuckSensor | FaultKind::SpikeTrain => Span::ZERO,
    };
    let pick = rng.random_range(0..3);
    let signal = match kind {
        FaultKind::StuckSensor => {
            Some([Signal::DischargePressure, Signal::Flow, Signal::MotorCurrent][pick])
        }
        FaultKind::SpikeTrain => {
            Some([Signal::MotorCurrent, Signal::DischargePressure, Signal::VibrationRms][pick])
        }
        _ => None,
    };
    let start = Span(begin.0 + start.0);
    Fault { pump, kind, signal, start, ramp, end: Span(start.0 + lasts.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_appears_in_any_length_and_ends_before_it() {
        for seconds in [300, 1800, 7200, 24 * 3600] {
            for seed in 0..20 {
                let length = Span::seconds(seconds);
                let plan = FaultPlan::schedule(length, 12, seed);
                assert_eq!(plan, FaultPlan::schedule(length, 12, seed));
                for kind in FaultKind::ALL {
                    assert!(plan.faults.iter().any(|f| f.kind == kind), "{kind:?} in {seconds} s");
                }
                for fault in &plan.faults {
                    assert!(fault.start.0 * 10 >= length.0.min(ROUND.0), "{fault:?}");
                    assert!(fault.start < fault.end && fault.end < length, "{fault:?}");
                    assert!(fault.start.0 + fault.ramp.0 < fault.end.0, "{fault:?}");
                }
            }
        }
    }

    #[test]
    fn severity_grows_over_the_ramp_and_ends() {
        let fault = Fault {
            pump: 0,
            kind: FaultKind::BearingWear,
            signal: None,
            start: Span::seconds(10),
            ramp: Span::seconds(10),
            end: Span::seconds(30),
        };
        let at = |seconds| fault.severity(Span::seconds(seconds));
        assert_eq!([at(9), at(10), at(15), at(20), at(29), at(30)], [0.0, 0.0, 0.5, 1.0, 1.0, 0.0]);
    }
}
