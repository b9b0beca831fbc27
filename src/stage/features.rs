//! The numbers that describe one signal in one window, computed by polars' kernels on its known samples.
//!
//! `window` calls them; the names are what pipeline files list and models are trained on.

use std::fmt;
use std::str::FromStr;

use polars::prelude::{
    ChunkAgg, ChunkQuantile, ChunkVar, ChunkedArray, Float64Type, IntoSeries, MomentSeries,
    NewChunkedArray, PlSmallStr, QuantileMethod,
};

use super::envelope::{Bearing, band_rms, is_flat};

/// A feature of one signal over one window. `x` are the known samples, `n` their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Arithmetic mean.
    Mean,
    /// Sample standard deviation (divisor n - 1).
    Std,
    /// Least value.
    Min,
    /// Greatest value.
    Max,
    /// Greatest less least value.
    Range,
    /// Root of the mean square.
    Rms,
    /// Change a second: slope of the least-squares line.
    Slope,
    /// Third standardised moment, biased (Fisher-Pearson g1).
    Skewness,
    /// Fourth standardised moment, biased, not in excess: 3 for normal noise.
    Kurtosis,
    /// Greatest magnitude over rms (ISO 13373-3).
    Crest,
    /// First known value.
    First,
    /// Last known value.
    Last,
    /// Share of the window's samples that are known.
    Coverage,
    /// How far a fault of the outer race stands out of the envelope's spectrum, in dB ([`super::envelope`]).
    Bpfo,
    /// The same of the inner race.
    Bpfi,
    /// The same of a ball or roller, which strikes both races each turn: twice its spin.
    Bsf,
    /// The same of the cage.
    Ftf,
    /// Quantile in percent, linear between samples (Hyndman and Fan type 7).
    Quantile(u8),
    /// Root of the mean square of what lies between two frequencies, in Hz.
    BandRms(u32, u32),
}

/// The names, in the order of the manual; quantiles are `p1` to `p99`, bands `rms_10_1000`.
pub const NAMES: [&str; 17] = [
    "mean", "std", "min", "max", "range", "rms", "slope", "skewness", "kurtosis", "crest", "first",
    "last", "coverage", "bpfo", "bpfi", "bsf", "ftf",
];

const PLAIN: [Feature; 17] = [
    Feature::Mean,
    Feature::Std,
    Feature::Min,
    Feature::Max,
    Feature::Range,
    Feature::Rms,
    Feature::Slope,
    Feature::Skewness,
    Feature::Kurtosis,
    Feature::Crest,
    Feature::First,
    Feature::Last,
    Feature::Coverage,
    Feature::Bpfo,
    Feature::Bpfi,
    Feature::Bsf,
    Feature::Ftf,
];

impl Feature {
    /// Whether it is about a bearing.
    pub fn is_of_bearing(self) -> bool {
        matches!(self, Feature::Bpfo | Feature::Bpfi | Feature::Bsf | Feature::Ftf)
    }
}

impl FromStr for Feature {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let plain = NAMES.iter().zip(PLAIN).find(|(n, _)| **n == name).map(|(_, f)| f);
        let quantile = || {
            let percent = name.strip_prefix('p')?.parse::<u8>().ok()?;
            (1..=99).contains(&percent).then_some(Feature::Quantile(percent))
        };
        let band = || {
            let (from, to) = name.strip_prefix("rms_")?.split_once('_')?;
            let (from, to) = (from.parse().ok()?, to.parse().ok()?);
            (from < to).then_some(Feature::BandRms(from, to))
        };
        plain.or_else(quantile).or_else(band).ok_or_else(|| format!("`{name}` is no feature"))
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Feature::Quantile(percent) => write!(f, "p{percent}"),
            Feature::BandRms(from, to) => write!(f, "rms_{from}_{to}"),
            plain => {
                let name = NAMES.iter().zip(PLAIN).find(|(_, f)| f == plain).map_or("", |(n, _)| n);
                f.write_str(name)
            }
        }
    }
}

/// What is known of a window besides its samples.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// Samples a second.
    pub rate: f64,
    /// The bearing that is listened to, and how many times a second its shaft turned.
    pub bearing: Option<(&'a Bearing, f64)>,
}

/// Computes `features` of one signal's samples, NaN where unknown, and appends them to `out`. A feature that is not
/// defined (no known sample, no variance; of spectra, a sample that is missing) is NaN.
pub fn describe(samples: &[f64], scene: Scene<'_>, features: &[Feature], out: &mut Vec<f64>) {
    let known: Vec<f64>;
    let values = if samples.iter().any(|v| v.is_nan()) {
        known = samples.iter().copied().filter(|v| !v.is_nan()).collect();
        &known
    } else {
        samples
    };
    let is_whole = values.len() == samples.len();
    let is_flat = is_flat(values);
    let mut lines = None;
    let mut line = |at: usize| {
        let (bearing, speed) = scene.bearing.filter(|_| is_whole)?;
        lines.get_or_insert_with(|| bearing.lines(samples, scene.rate, speed))[at]
    };
    let column = ChunkedArray::<Float64Type>::from_slice(PlSmallStr::EMPTY, values);
    for feature in features {
        let value = match feature {
            Feature::Mean => column.mean(),
            Feature::Std if is_flat => column.std(1).map(|_| 0.0),
            Feature::Std => column.std(1),
            Feature::Min => column.min(),
            Feature::Max => column.max(),
            Feature::Range => column.min_max().map(|(min, max)| max - min),
            Feature::Rms => rms(values),
            Feature::Slope => slope(samples, scene.rate),
            Feature::Skewness | Feature::Kurtosis if is_flat => None,
            Feature::Skewness => column.clone().into_series().skew(true).ok().flatten(),
            Feature::Kurtosis => column.clone().into_series().kurtosis(false, true).ok().flatten(),
            Feature::Crest => crest(values),
            Feature::First => values.first().copied(),
            Feature::Last => values.last().copied(),
            Feature::Coverage => Some(values.len() as f64 / samples.len().max(1) as f64),
            Feature::Bpfo => line(0),
            Feature::Bpfi => line(1),
            Feature::Bsf => line(2),
            Feature::Ftf => line(3),
            Feature::BandRms(from, to) => {
                is_whole.then(|| band_rms(samples, scene.rate, f64::from(*from), f64::from(*to)))
            }
            Feature::Quantile(percent) => {
                column.quantile(f64::from(*percent) / 100.0, QuantileMethod::Linear).ok().flatten()
            }
        };
        out.push(value.filter(|v| v.is_finite()).unwrap_or(f64::NAN));
    }
}

fn rms(values: &[f64]) -> Option<f64> {
    let squares: f64 = values.iter().map(|v| v * v).sum();
    (!values.is_empty()).then(|| (squares / values.len() as f64).sqrt())
}

fn crest(values: &[f64]) -> Option<f64> {
    let peak = values.iter().fold(0.0_f64, |peak, v| peak.max(v.abs()));
    rms(values).filter(|rms| *rms > 0.0).map(|rms| peak / rms)
}

/// Least squares over the known samples against their own times.
fn slope(samples: &[f64], rate: f64) -> Option<f64> {
    let known = || samples.iter().enumerate().filter(|(_, v)| !v.is_nan());
    let count = known().count() as f64;
    if count < 2.0 {
        return None;
    }
    let mean_t = known().map(|(i, _)| i as f64).sum::<f64>() / count;
    let mean_v = known().map(|(_, v)| v).sum::<f64>() / count;
    let (mut tv, mut tt) = (0.0, 0.0);
    for (i, v) in known() {
        let t = i as f64 - mean_t;
        tv += t * (v - mean_v);
        tt += t * t;
    }
    Some(tv / tt * rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_sensor_that_stands_still_neither_shape_nor_fault_lines_are_told() {
        let bearing = Bearing { orders: [3.58, 5.42, 2.36, 0.4], band: None };
        let names = ["std", "skewness", "kurtosis", "bpfo", "bpfi", "bsf", "ftf"];
        let features = names.map(|name| name.parse().unwrap());
        // 0.1 is no sum of powers of two, 0.25 is one.
        for value in [0.1, 0.25, 23.4, -7.3e8, 0.0] {
            let (samples, mut found) = (vec![value; 24_000], Vec::new());
            let scene = Scene { rate: 12_000.0, bearing: Some((&bearing, 30.0)) };
            describe(&samples, scene, &features, &mut found);
            assert_eq!(found[0], 0.0, "{value}");
            assert!(found[1..].iter().all(|feature| feature.is_nan()), "{value}: {found:?}");
        }
    }
}
