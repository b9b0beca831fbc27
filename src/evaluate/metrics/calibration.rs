//! Chances against what happened: are 7 of 10 cases with a chance of 0.7 really faulty?

use serde::Serialize;

/// Cases of like chance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bin {
    /// Chances from here on,
    pub from: f64,
    /// up to here; the last bin includes its end.
    pub to: f64,
    /// How many cases.
    pub cases: u64,
    /// The mean chance that was given.
    pub chance: f64,
    /// The share that was faulty.
    pub faulty: f64,
}

/// Mean squared difference of chance and outcome (Brier, Monthly Weather Review 78, 1950); `None` without a case.
pub fn brier(chances: &[f64], labels: &[bool]) -> Option<f64> {
    let outcome = |label: bool| if label { 1.0 } else { 0.0 };
    let pairs = chances.iter().zip(labels);
    let sum: f64 = pairs.map(|(chance, label)| (chance - outcome(*label)).powi(2)).sum();
    let count = chances.len().min(labels.len());
    (count > 0).then(|| sum / count as f64)
}

/// The reliability table: `bins` of equal width, those without a case left out. Only chances from 0 to 1 are counted.
pub fn reliability(chances: &[f64], labels: &[bool], bins: usize) -> Vec<Bin> {
    let mut sums = vec![(0_u64, 0.0, 0.0); bins.max(1)];
    let width = 1.0 / sums.len() as f64;
    for (chance, label) in chances.iter().zip(labels) {
        if (0.0..=1.0).contains(chance) {
            let place = ((chance / width) as usize).min(sums.len() - 1);
            let (cases, given, faulty) = &mut sums[place];
            *cases += 1;
            *given += chance;
            *faulty += if *label { 1.0 } else { 0.0 };
        }
    }
    let bins = sums.iter().enumerate().filter(|(_, (cases, ..))| *cases > 0);
    let bins = bins.map(|(place, (cases, given, faulty))| Bin {
        from: place as f64 * width,
        to: (place + 1) as f64 * width,
        cases: *cases,
        chance: given / *cases as f64,
        faulty: faulty / *cases as f64,
    });
    bins.collect()
}

/// Expected calibration error: the mean distance of given chance and found share, weighed by cases, in `bins` of equal
/// width (Naeini, Cooper and Hauskrecht, AAAI 2015). `None` without a case.
pub fn expected_error(chances: &[f64], labels: &[bool], bins: usize) -> Option<f64> {
    let table = reliability(chances, labels, bins);
    let all: u64 = table.iter().map(|bin| bin.cases).sum();
    let sum: f64 = table.iter().map(|bin| bin.cases as f64 * (bin.chance - bin.faulty).abs()).sum();
    (all > 0).then(|| sum / all as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_that_come_true_have_no_error() {
        let chances = [0.25, 0.25, 0.25, 0.25, 1.0];
        let labels = [true, false, false, false, true];
        assert_eq!(expected_error(&chances, &labels, 10), Some(0.0));
        assert_eq!(expected_error(&[0.9, 0.9], &[false, false], 10), Some(0.9));
        assert_eq!(reliability(&chances, &labels, 10).len(), 2);
        assert!(reliability(&[f64::NAN, 7.0], &[true, true], 10).is_empty());
        assert_eq!(brier(&[], &[]), None);
    }
}
