//! Envelope spectra: what a bearing's fault does to the vibration of a machine.
//!
//! `features` calls it for `bpfo` and its like. A fault that is rolled over strikes at a known multiple of the shaft's
//! speed, and each strike rings at a resonance far above it. So: band-pass, magnitude of the analytic signal (Hilbert),
//! less its mean, spectrum (Randall and Antoni, "Rolling element bearing diagnostics", Mechanical Systems and Signal
//! Processing 25, 2011; ISO 13373-3). A peak's height is the amplitude of a sinusoid there.
//! It knows nothing of windows with missing samples: the caller gives whole ones.

use rustfft::FftPlanner;
use rustfft::num_complex::Complex;

/// The magnitude of the analytic signal of what lies in `band` (Hz) of `samples`, taken `rate` times a second, less its
/// mean.
pub fn envelope(samples: &[f64], rate: f64, band: [f64; 2]) -> Vec<f64> {
    let count = samples.len();
    let mut values: Vec<Complex<f64>> =
        samples.iter().map(|&value| Complex::new(value, 0.0)).collect();
    let mut planner = FftPlanner::new();
    planner.plan_fft_forward(count).process(&mut values);
    for (bin, value) in values.iter_mut().enumerate() {
        let frequency = bin as f64 * rate / count as f64;
        // Twice the positive frequencies and no negative ones: the analytic signal.
        let weight = if bin == 0 || bin * 2 == count { 1.0 } else { 2.0 };
        let inside = (band[0]..=band[1]).contains(&frequency) && bin * 2 <= count;
        *value *= if inside { weight / count as f64 } else { 0.0 };
    }
    planner.plan_fft_inverse(count).process(&mut values);
    let envelope: Vec<f64> = values.iter().map(|value| value.norm()).collect();
    let mean = envelope.iter().sum::<f64>() / count.max(1) as f64;
    envelope.into_iter().map(|value| value - mean).collect()
}

/// A spectrum of amplitudes, from 0 Hz to half the rate.
#[derive(Clone, Debug, PartialEq)]
pub struct Spectrum {
    /// Hz from one line to the next.
    pub line: f64,
    /// By line.
    pub amplitudes: Vec<f64>,
}

impl Spectrum {
    /// Of samples taken `rate` times a second, behind a Hann window.
    pub fn of(samples: &[f64], rate: f64) -> Spectrum {
        let count = samples.len();
        let hann =
            |at: usize| 0.5 - 0.5 * (2.0 * std::f64::consts::PI * at as f64 / count as f64).cos();
        let mut values: Vec<Complex<f64>> = samples
            .iter()
            .enumerate()
            .map(|(at, &value)| Complex::new(value * hann(at), 0.0))
            .collect();
        FftPlanner::new().plan_fft_forward(count).process(&mut values);
        // The window lets half of a sinusoid through, and its spectrum has half on either side.
        let scale = 4.0 / count.max(1) as f64;
        let amplitudes =
            values.iter().take(count / 2 + 1).map(|value| value.norm() * scale).collect();
        Spectrum { line: rate / count.max(1) as f64, amplitudes }
    }

    /// The lines between two frequencies, each its frequency and amplitude; `None` where the spectrum ends before.
    fn lines(&self, from: f64, to: f64) -> Option<impl Iterator<Item = (f64, f64)>> {
        let (first, last) = ((from / self.line).ceil() as usize, (to / self.line).floor() as usize);
        let lines = self.amplitudes.get(first..=last)?.iter().enumerate();
        Some(lines.map(move |(at, &amplitude)| ((first + at) as f64 * self.line, amplitude)))
    }

    /// The greatest amplitude between two frequencies, and its frequency; `None` where there is no line between them.
    pub fn peak(&self, from: f64, to: f64) -> Option<(f64, f64)> {
        self.lines(from, to)?.max_by(|a, b| a.1.total_cmp(&b.1))
    }
}

/// How far the frequency of a bearing's fault may be from its multiple of the speed, as a share: balls slip.
pub const SLIP: f64 = 0.02;
/// Harmonics that are looked at.
pub const HARMONICS: usize = 3;
/// Turns of the shaft that a window must hold: fewer, and a fault's lines cannot be told from the shaft's.
pub const TURNS: f64 = 20.0;

/// A bearing whose fault lines are looked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Bearing {
    /// Multiples of the shaft's speed at which faults strike: outer race, inner race, ball, cage.
    pub orders: [f64; 4],
    /// Where strikes ring, in Hz. `None`: the upper two thirds of what the sampling rate lets through.
    pub band: Option<[f64; 2]>,
}

impl Bearing {
    /// How far each fault's line stands out of the envelope's spectrum of `samples`, taken `rate` times a second, while the
    /// shaft turned `speed` times a second; in dB, as [`prominence`] has it.
    pub fn lines(&self, samples: &[f64], rate: f64, speed: f64) -> [Option<f64>; 4] {
        let turns = speed * samples.len() as f64 / rate;
        if turns.is_nan() || turns < TURNS {
            return [None; 4];
        }
        // A sensor that stands still has a spectrum, of rounding.
        if is_flat(samples) {
            return [None; 4];
        }
        let band = self.band.unwrap_or([rate / 6.0, rate / 2.0]);
        let spectrum = Spectrum::of(&envelope(samples, rate, band), rate);
        self.orders.map(|order| prominence(&spectrum, order * speed, speed))
    }
}

/// How far `frequency` and its next two harmonics stand out, in dB, as a mean over them: the highest line within
/// [`SLIP`], over what the highest of as many lines of noise comes to. 0 where there is only noise. Multiples of `shaft`
/// are left out: every shaft has those. `None` where the spectrum is too short or too coarse.
pub fn prominence(spectrum: &Spectrum, frequency: f64, shaft: f64) -> Option<f64> {
    let is_shaft = |at: f64| (at - (at / shaft).round() * shaft).abs() <= 1.5 * spectrum.line;
    let mut heights = Vec::with_capacity(HARMONICS);
    for harmonic in 1..=HARMONICS {
        let centre = frequency * harmonic as f64;
        let reach = (centre * SLIP).max(spectrum.line);
        let near = spectrum.lines(centre - reach, centre + reach)?.filter(|line| !is_shaft(line.0));
        let (count, highest) = near.fold((0, 0.0_f64), |(n, most), line| (n + 1, most.max(line.1)));
        let around = spectrum.lines(centre * 0.7, centre * 1.3)?.filter(|line| !is_shaft(line.0));
        let ground = median(around.map(|line| line.1).collect());
        if let Some(ground) = ground.filter(|ground| count > 0 && *ground > 0.0) {
            // Lines of noise are distributed after Rayleigh: of n, this is how far the highest lies above the median.
            let noise = f64::from(count + 1).log2().sqrt();
            heights.push(20.0 * (highest / ground / noise).log10());
        }
    }
    (!heights.is_empty()).then(|| heights.iter().sum::<f64>() / heights.len() as f64)
}

/// Whether the samples are the same number but for its last digits.
pub(super) fn is_flat(samples: &[f64]) -> bool {
    let (low, high) = samples
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(*v), high.max(*v)));
    high - low <= 1e-12 * low.abs().max(high.abs())
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Root of the mean square of what lies from `from` to `to` Hz in `samples`, both included, by Parseval's theorem.
pub fn band_rms(samples: &[f64], rate: f64, from: f64, to: f64) -> f64 {
    let count = samples.len();
    let mut values: Vec<Complex<f64>> =
        samples.iter().map(|&value| Complex::new(value, 0.0)).collect();
    FftPlanner::new().plan_fft_forward(count).process(&mut values);
    let inside = |bin: usize| (from..=to).contains(&(bin as f64 * rate / count as f64));
    // Each frequency but the first and, of an even number, the last stands in the spectrum twice.
    let times = |bin: usize| if bin == 0 || bin * 2 == count { 1.0 } else { 2.0 };
    let bins = values.iter().enumerate().take(count / 2 + 1).filter(|(bin, _)| inside(*bin));
    let power: f64 = bins.map(|(bin, value)| times(bin) * value.norm_sqr()).sum();
    power.sqrt() / count.max(1) as f64
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const RATE: f64 = 12_000.0;
    const BAND: [f64; 2] = [2000.0, 6000.0];

    /// Strikes `fault` times a second that ring at 3.1 kHz, beneath a shaft's harmonics at 30 Hz and noise.
    fn bearing(seconds: f64, fault: f64) -> Vec<f64> {
        let mut random = ChaCha8Rng::seed_from_u64(5);
        (0..(seconds * RATE) as usize)
            .map(|at| {
                let t = at as f64 / RATE;
                let since = t.rem_euclid(1.0 / fault);
                let ring = (-since * 800.0).exp() * (since * 3100.0 * std::f64::consts::TAU).sin();
                let shaft = (t * 30.0 * std::f64::consts::TAU).sin();
                ring + 2.0 * shaft + random.random_range(-0.3..0.3)
            })
            .collect()
    }

    #[test]
    fn the_highest_peak_of_the_envelope_is_the_fault() {
        for fault in [87.3, 107.4, 162.2] {
            let samples = bearing(2.0, fault);
            let spectrum = Spectrum::of(&envelope(&samples, RATE, BAND), RATE);
            let (found, _) = spectrum.peak(10.0, 500.0).unwrap();
            assert!((found - fault).abs() <= 0.5, "{found} is not {fault}");
            let orders = [1.0, 0.89, 1.13, 0.41].map(|share| fault * share / 30.0);
            let bearing = Bearing { orders, band: None };
            let [fault, others @ ..] = bearing.lines(&samples, RATE, 30.0).map(Option::unwrap);
            assert!(fault > 20.0 && others.iter().all(|other| *other < 6.0), "{fault}: {others:?}");
        }
        let plain = Spectrum::of(&bearing(2.0, 107.4), RATE);
        let (found, height) = plain.peak(10.0, 500.0).unwrap();
        assert!((found - 30.0).abs() < 0.5 && (height - 2.0).abs() < 0.05, "{found}: {height}");
    }

    #[test]
    fn an_envelope_is_the_modulation() {
        // 3 kHz with amplitude 1 + 0.5 cos(50 Hz), beside 100 Hz that the corner takes away.
        let wave = |at: usize| {
            let t = at as f64 / RATE * std::f64::consts::TAU;
            (1.0 + 0.5 * (50.0 * t).cos()) * (3000.0 * t).sin() + 7.0 * (100.0 * t).sin()
        };
        let samples: Vec<f64> = (0..12_000).map(wave).collect();
        let found = envelope(&samples, RATE, BAND);
        for (at, value) in found.iter().enumerate() {
            let expected = 0.5 * (50.0 * at as f64 / RATE * std::f64::consts::TAU).cos();
            assert!((value - expected).abs() < 1e-9, "{at}: {value} is not {expected}");
        }
    }

    #[test]
    fn what_is_too_short_has_no_peak() {
        let empty = Spectrum::of(&[], RATE);
        assert_eq!(empty.peak(1.0, 2.0), None);
        let short = Spectrum::of(&[0.0; 100], RATE);
        assert_eq!((short.peak(1.0, 2.0), prominence(&short, 3000.0, 30.0)), (None, None));
        assert!(envelope(&[], RATE, BAND).is_empty());
        let bearing = Bearing { orders: [3.6, 5.4, 4.7, 0.4], band: None };
        for speed in [9.9, 0.0, -30.0, f64::NAN] {
            assert_eq!(bearing.lines(&vec![1.0; 24_000], RATE, speed), [None; 4], "{speed}");
        }
    }
}
