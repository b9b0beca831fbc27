//! Envelope spectra: what a bearing's fault does to the vibration of a machine.
//!
//! `window` calls it for the features `env_…`, and the suite's CWRU. A fault that is rolled over strikes at a known
//! multiple of the shaft's speed, and each strike rings at a resonance far above it. So: high-pass at a corner, magnitude
//! of the analytic signal (Hilbert), less its mean, spectrum (Randall and Antoni, "Rolling element bearing diagnostics",
//! Mechanical Systems and Signal Processing 25, 2011; ISO 13373-3). A peak's height is the amplitude of a sinusoid there.
//! It knows nothing of windows with missing samples: the caller gives whole ones.

use rustfft::FftPlanner;
use rustfft::num_complex::Complex;

/// The magnitude of the analytic signal of what lies above `corner` Hz in `samples`, taken `rate` times a second, less
/// its mean.
pub fn envelope(samples: &[f64], rate: f64, corner: f64) -> Vec<f64> {
    let count = samples.len();
    let mut values: Vec<Complex<f64>> =
        samples.iter().map(|&value| Complex::new(value, 0.0)).collect();
    let mut planner = FftPlanner::new();
    planner.plan_fft_forward(count).process(&mut values);
    for (bin, value) in values.iter_mut().enumerate() {
        let frequency = bin as f64 * rate / count as f64;
        let above = frequency >= corner && bin * 2 < count;
        // Twice the positive frequencies and no negative ones: the analytic signal.
        *value *= if above { 2.0 / count as f64 } else { 0.0 };
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

    /// The greatest amplitude between two frequencies, and its frequency; `None` where there is no line between them.
    pub fn peak(&self, from: f64, to: f64) -> Option<(f64, f64)> {
        let first = (from / self.line).ceil().max(0.0) as usize;
        let last = ((to / self.line).floor() as usize).min(self.amplitudes.len().checked_sub(1)?);
        let lines = first..=last;
        let (at, amplitude) =
            lines.map(|at| (at, self.amplitudes[at])).max_by(|a, b| a.1.total_cmp(&b.1))?;
        Some((at as f64 * self.line, amplitude))
    }

    /// The median amplitude between two frequencies: what is there without peaks.
    pub fn ground(&self, from: f64, to: f64) -> Option<f64> {
        let (first, last) = ((from / self.line).ceil() as usize, (to / self.line).floor() as usize);
        let mut lines = self.amplitudes.get(first..=last)?.to_vec();
        lines.sort_by(f64::total_cmp);
        lines.get(lines.len() / 2).copied()
    }
}

/// How far the frequency of a bearing's fault may be from its multiple of the speed, as a share: balls slip.
pub const SLIP: f64 = 0.02;
/// Harmonics that are looked at.
pub const HARMONICS: usize = 3;

/// Mean height over the ground of the first three harmonics of `frequency`, as natural logarithm: 0 where nothing stands
/// out. `None` where the spectrum is too short or too coarse for them.
pub fn prominence(spectrum: &Spectrum, frequency: f64) -> Option<f64> {
    let mut sum = 0.0;
    for harmonic in 1..=HARMONICS {
        let centre = frequency * harmonic as f64;
        let reach = (centre * SLIP).max(spectrum.line);
        let (_, peak) = spectrum.peak(centre - reach, centre + reach)?;
        let ground = spectrum.ground(centre * 0.7, centre * 1.3)?;
        sum += (peak / ground.max(f64::MIN_POSITIVE)).ln();
    }
    Some(sum / HARMONICS as f64)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const RATE: f64 = 12_000.0;

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
            let spectrum = Spectrum::of(&envelope(&bearing(2.0, fault), RATE, 2000.0), RATE);
            let (found, _) = spectrum.peak(10.0, 500.0).unwrap();
            assert!((found - fault).abs() <= 0.5, "{found} is not {fault}");
            assert!(prominence(&spectrum, fault).unwrap() > 2.0);
            assert!(prominence(&spectrum, fault * 1.13).unwrap() < 2.0);
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
        let found = envelope(&samples, RATE, 2000.0);
        for (at, value) in found.iter().enumerate() {
            let expected = 0.5 * (50.0 * at as f64 / RATE * std::f64::consts::TAU).cos();
            assert!((value - expected).abs() < 1e-9, "{at}: {value} is not {expected}");
        }
    }

    #[test]
    fn what_is_too_short_has_no_peak() {
        let empty = Spectrum::of(&[], RATE);
        assert_eq!((empty.peak(1.0, 2.0), empty.ground(1.0, 2.0)), (None, None));
        let short = Spectrum::of(&[0.0; 100], RATE);
        assert_eq!((short.peak(1.0, 2.0), prominence(&short, 3000.0)), (None, None));
        assert!(envelope(&[], RATE, 2000.0).is_empty());
    }
}
