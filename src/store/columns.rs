//! Readings as few bytes: the form in which the journal keeps a tick's input.
//!
//! `journal` calls [`pack`] and [`unpack`]; what comes back is equal to what went in, bit for bit (NaN too). The
//! columns are turned into what zstd is good at: differences of times, runs of qualities, whole numbers for values
//! that were typed with a few decimals, and otherwise the bytes of the values plane by plane.

use serde::{Deserialize, Serialize};

use crate::command::Command;
use crate::frame::{Asset, Input, Quality, Readings};
use crate::time::Timestamp;

/// One door's input, packed.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Packed {
    route: String,
    assets: Vec<Asset>,
    asset: Vec<u32>,
    signal: Vec<u16>,
    /// Each time less the one before it.
    steps: Vec<i64>,
    values: Values,
    /// Qualities and how often each repeats.
    quality: Vec<(Quality, u32)>,
    commands: Vec<Command>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Values {
    /// `value * 10^decimals`, where that is a whole number for every value.
    Whole { decimals: u8, numbers: Vec<i64> },
    /// All first bytes, then all second bytes, and so on.
    Planes(Vec<u8>),
}

/// Most decimals tried before values are kept as they are.
const DECIMALS_MAX: u8 = 6;

/// Numbers up to this are whole and exact in an f64.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

pub(super) fn pack(input: &Input) -> Packed {
    let readings = &input.readings;
    let mut before = 0_i64;
    let steps =
        readings.ts.iter().map(|ts| ts.0.wrapping_sub(std::mem::replace(&mut before, ts.0)));
    let steps = steps.collect();
    let mut quality: Vec<(Quality, u32)> = Vec::new();
    for &q in &readings.quality {
        match quality.last_mut() {
            Some((last, run)) if *last == q => *run += 1,
            _ => quality.push((q, 1)),
        }
    }
    Packed {
        route: input.route.clone(),
        assets: input.assets.clone(),
        asset: readings.asset.clone(),
        signal: readings.signal.clone(),
        steps,
        values: pack_values(&readings.value),
        quality,
        commands: input.commands.clone(),
    }
}

/// What [`pack`] packed; `None` where the columns do not fit together.
pub(super) fn unpack(packed: Packed) -> Option<Input> {
    let len = packed.steps.len();
    let mut at = 0_i64;
    let ts = packed.steps.iter().map(|step| {
        at = at.wrapping_add(*step);
        Timestamp(at)
    });
    let ts = ts.collect();
    let mut quality = Vec::with_capacity(len);
    for (q, run) in packed.quality {
        let run = run as usize;
        if run > len - quality.len() {
            return None;
        }
        quality.resize(quality.len() + run, q);
    }
    let value = unpack_values(packed.values, len)?;
    let fits = [packed.asset.len(), packed.signal.len(), quality.len(), value.len()] == [len; 4];
    let readings = Readings { asset: packed.asset, signal: packed.signal, ts, value, quality };
    let Packed { route, assets, commands, .. } = packed;
    fits.then_some(Input { route, assets, readings, commands })
}

fn pack_values(values: &[f64]) -> Values {
    let mut decimals = 0;
    for &value in values {
        while whole(value, decimals).is_none() {
            if decimals == DECIMALS_MAX {
                return Values::Planes(planes(values));
            }
            decimals += 1;
        }
    }
    match values.iter().map(|&value| whole(value, decimals)).collect() {
        Some(numbers) => Values::Whole { decimals, numbers },
        None => Values::Planes(planes(values)),
    }
}

/// `value` as a whole number of the last of `decimals` decimals, where nothing is lost by it.
fn whole(value: f64, decimals: u8) -> Option<i64> {
    let scale = 10_f64.powi(i32::from(decimals));
    let number = (value * scale).round();
    // Compared as it will be read back: a whole number has no -0.
    let back = number as i64 as f64 / scale;
    (number.abs() < EXACT_MAX && back.to_bits() == value.to_bits()).then_some(number as i64)
}

fn planes(values: &[f64]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(values.len() * 8);
    for shift in (0..64).step_by(8) {
        bytes.extend(values.iter().map(|value| (value.to_bits() >> shift) as u8));
    }
    bytes
}

fn unpack_values(values: Values, len: usize) -> Option<Vec<f64>> {
    match values {
        Values::Whole { decimals, numbers } => {
            let scale = 10_f64.powi(i32::from(decimals));
            Some(numbers.into_iter().map(|number| number as f64 / scale).collect())
        }
        Values::Planes(bytes) => {
            let mut bits = vec![0_u64; len];
            if bytes.len() != len * 8 {
                return None;
            }
            for (index, byte) in bytes.into_iter().enumerate() {
                let (plane, at) = (index / len, index % len);
                if let Some(value) = bits.get_mut(at) {
                    *value |= u64::from(byte) << (8 * plane);
                }
            }
            Some(bits.into_iter().map(f64::from_bits).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn readings() -> impl Strategy<Value = Readings> {
        let value = prop_oneof![
            3 => (-1_000_000_i64..1_000_000).prop_map(|n| n as f64 / 1000.0),
            1 => any::<f64>(),
            1 => prop::sample::select(vec![f64::NAN, f64::INFINITY, -0.0, 0.1 + 0.2, 1e300, 5e-324]),
        ];
        let quality = prop::sample::select(vec![Quality::Good, Quality::Uncertain, Quality::Bad]);
        let reading = (any::<u32>(), any::<u16>(), any::<i64>(), value, quality);
        prop::collection::vec(reading, 0..60).prop_map(|all| {
            let mut readings = Readings::default();
            for (asset, signal, ts, value, quality) in all {
                readings.push(asset, signal, Timestamp(ts), value, quality);
            }
            readings
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_packed_comes_back_bit_for_bit(readings in readings()) {
            let (route, assets) = ("r".into(), vec![Asset::default()]);
            let input = Input { route, assets, readings, ..Input::default() };
            let bytes = postcard::to_stdvec(&pack(&input)).unwrap();
            let back = unpack(postcard::from_bytes(&bytes).unwrap()).unwrap();
            let bits = |r: &Readings| r.value.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&back.readings), bits(&input.readings));
            prop_assert_eq!(&back.readings.ts, &input.readings.ts);
            prop_assert_eq!(&back.readings.asset, &input.readings.asset);
            prop_assert_eq!(&back.readings.quality, &input.readings.quality);
            prop_assert_eq!(back.assets, input.assets);
        }
    }

    #[test]
    fn columns_of_different_lengths_are_refused() {
        let mut readings = Readings::default();
        readings.push(0, 0, Timestamp(1), f64::NAN, Quality::Good);
        let input = Input { readings, ..Input::default() };
        let mut short = pack(&input);
        short.asset.clear();
        assert!(unpack(short).is_none());
        let mut long = pack(&input);
        long.quality = vec![(Quality::Good, u32::MAX)];
        assert!(unpack(long).is_none());
    }
}
