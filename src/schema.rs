//! What the data means: one schema an asset type, with its signals, units and limits.
//!
//! Read from `schemas/*.toml` by `pipeline`; everybody looks signals up here. Nothing is computed here but units and,
//! in [`expression`], calculated signals.

pub mod expression;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time::Span;

/// An asset type as its file says it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Schema {
    /// The name that pipelines refer to.
    pub name: String,
    /// What kind of machine this is, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The measured quantities, in the order in which frames and models see them.
    #[serde(rename = "signal")]
    pub signals: Vec<Signal>,
}

/// One measured quantity of an asset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Signal {
    /// Its name in pipelines, models and records.
    pub name: String,
    /// The unit of its values once cleaned (`mm/s`, `degC`, `bar`, `1`).
    pub unit: String,
    /// What it measures, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Other names under which payloads may carry it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Least possible value, in `unit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// Greatest possible value, in `unit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// Fastest possible change, in `unit` a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rate: Option<f64>,
    /// Smallest change that means anything, in `unit`: below it a value counts as unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolution: Option<f64>,
    /// Calculated instead of measured, on every row of the grid: an expression of signals that stand before this one
    /// (`torque * speed * 2 * pi / 60`). Numbers, `+ - * / ^`, comparisons (`< <= > >= == !=`), `&& || !` (true is 1),
    /// parentheses, `pi`, and abs, sqrt, exp, ln, log10, sin, cos, floor, ceil, round(x) or round(x, digits),
    /// min(a, b), max(a, b), if(condition, a, b). Where a signal in it is missing, so is this one. A name with other
    /// characters than letters, digits and `_` stands in backticks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// How often it is measured: longer gaps are bridged where it is rarely (`max_gap` of `resample`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Span>,
}

impl Schema {
    /// Index of the measured signal that a payload calls `name` (its name or an alias).
    pub fn position(&self, name: &str) -> Option<usize> {
        let called = |s: &Signal| s.name == name || s.aliases.iter().any(|a| a == name);
        self.measured().find(|(_, signal)| called(signal)).map(|(index, _)| index)
    }

    /// The signals that payloads and recordings carry, with their indices: those that are not calculated.
    pub fn measured(&self) -> impl Iterator<Item = (usize, &Signal)> {
        self.signals.iter().enumerate().filter(|(_, signal)| signal.from.is_none())
    }

    /// Name (and alias) to index, for decoders that look up many.
    pub fn lookup(&self) -> BTreeMap<&str, u16> {
        let mut map = BTreeMap::new();
        for (index, signal) in self.measured() {
            map.insert(signal.name.as_str(), index as u16);
            for alias in &signal.aliases {
                map.insert(alias, index as u16);
            }
        }
        map
    }
}

/// How to turn a value in one unit into another: `value * scale + offset`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conversion {
    /// Factor.
    pub scale: f64,
    /// Added after scaling.
    pub offset: f64,
}

impl Conversion {
    /// The converted value.
    pub fn apply(self, value: f64) -> f64 {
        value.mul_add(self.scale, self.offset)
    }
}

/// Units that can be converted, each with its dimension and how it maps to that dimension's base unit.
/// Factors are the exact definitions of NIST SP 811, appendix B.
const UNITS: &[(&str, &str, f64, f64)] = &[
    ("degC", "temperature", 1.0, 0.0),
    ("degF", "temperature", 5.0 / 9.0, -160.0 / 9.0),
    ("K", "temperature", 1.0, -273.15),
    ("bar", "pressure", 1e5, 0.0),
    ("mbar", "pressure", 100.0, 0.0),
    ("Pa", "pressure", 1.0, 0.0),
    ("kPa", "pressure", 1e3, 0.0),
    ("MPa", "pressure", 1e6, 0.0),
    ("psi", "pressure", 6_894.757_293_168, 0.0),
    ("mm/s", "velocity", 1e-3, 0.0),
    ("m/s", "velocity", 1.0, 0.0),
    ("in/s", "velocity", 0.0254, 0.0),
    ("m/s2", "acceleration", 1.0, 0.0),
    ("g", "acceleration", 9.806_65, 0.0),
    ("rpm", "rotation", 1.0 / 60.0, 0.0),
    ("Hz", "rotation", 1.0, 0.0),
    ("W", "power", 1.0, 0.0),
    ("kW", "power", 1e3, 0.0),
    ("hp", "power", 745.699_871_582_270_2, 0.0),
    ("A", "current", 1.0, 0.0),
    ("mA", "current", 1e-3, 0.0),
    ("V", "voltage", 1.0, 0.0),
    ("mV", "voltage", 1e-3, 0.0),
    ("m3/h", "flow", 1.0 / 3600.0, 0.0),
    ("m3/s", "flow", 1.0, 0.0),
    ("l/min", "flow", 1e-3 / 60.0, 0.0),
    ("l/s", "flow", 1e-3, 0.0),
    ("%", "ratio", 0.01, 0.0),
    ("1", "ratio", 1.0, 0.0),
];

/// How to turn values in `from` into `to`; `None` where the two do not measure the same thing or are not known.
pub fn convert(from: &str, to: &str) -> Option<Conversion> {
    if from == to {
        return Some(Conversion { scale: 1.0, offset: 0.0 });
    }
    let unit = |name: &str| UNITS.iter().find(|u| u.0 == name);
    let (from, to) = (unit(from)?, unit(to)?);
    (from.1 == to.1).then(|| Conversion { scale: from.2 / to.2, offset: (from.3 - to.3) / to.2 })
}

/// Names of the units that [`convert`] knows.
pub fn known_units() -> impl Iterator<Item = &'static str> {
    UNITS.iter().map(|u| u.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_convert() {
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} is not {b}");
        near(convert("degF", "degC").unwrap().apply(212.0), 100.0);
        near(convert("K", "degC").unwrap().apply(0.0), -273.15);
        near(convert("degC", "degF").unwrap().apply(-40.0), -40.0);
        near(convert("in/s", "mm/s").unwrap().apply(1.0), 25.4);
        assert!(convert("bar", "degC").is_none());
    }
}
