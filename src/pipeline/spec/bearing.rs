//! The part of a pipeline file that is about a rolling bearing whose faults are listened for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A rolling bearing with a resting outer ring, for the features bpfo, bpfi, bsf and ftf.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BearingSpec {
    /// How fast the shaft turns.
    pub speed: SpeedSpec,
    /// The bearing's measures, from which its fault lines follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub geometry: Option<GeometrySpec>,
    /// The fault lines themselves, as catalogues give them, instead of `geometry`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orders: Option<OrdersSpec>,
    /// From where to where strikes ring, in Hz: a resonance, far above the shaft and its gears. Absent: the upper two
    /// thirds of what the grid can show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub band: Option<[f64; 2]>,
}

/// How fast a shaft turns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SpeedSpec {
    /// Always as fast, in turns a minute.
    Rpm(f64),
    /// As this signal says (in rpm or Hz), as a mean over the window.
    Signal(String),
}

/// A bearing's measures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GeometrySpec {
    /// How many balls or rollers one row has.
    pub balls: u32,
    /// Diameter of a ball, in the unit of `pitch`.
    pub ball: f64,
    /// Diameter of the circle on which the balls' centres run.
    pub pitch: f64,
    /// Contact angle in degrees.
    #[serde(default)]
    pub angle: f64,
}

/// Frequencies of faults as multiples of the shaft's speed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OrdersSpec {
    /// A fault of the outer race.
    pub bpfo: f64,
    /// Of the inner race.
    pub bpfi: f64,
    /// Spin of a ball. Its fault strikes twice as often.
    pub bsf: f64,
    /// Turns of the cage.
    pub ftf: f64,
}

impl BearingSpec {
    /// How often faults of outer race, inner race, ball and cage strike, as multiples of the shaft's speed.
    pub fn orders(&self) -> Option<[f64; 4]> {
        let given = self.orders.as_ref().map(|o| [o.bpfo, o.bpfi, 2.0 * o.bsf, o.ftf]);
        given.or_else(|| self.geometry.as_ref().map(GeometrySpec::orders))
    }
}

impl GeometrySpec {
    /// Balls that roll without slipping (Randall and Antoni 2011, equations 1 to 4).
    fn orders(&self) -> [f64; 4] {
        let ratio = self.ball / self.pitch * self.angle.to_radians().cos();
        let balls = f64::from(self.balls);
        let spin = self.pitch / self.ball / 2.0 * (1.0 - ratio * ratio);
        [balls / 2.0 * (1.0 - ratio), balls / 2.0 * (1.0 + ratio), 2.0 * spin, 0.5 * (1.0 - ratio)]
    }
}
