//! The score of the Numenta Anomaly Benchmark: early detection within a window of labelled time earns, each false one
//! costs.
//!
//! After the repository's scorer and its paper (Lavin and Ahmad, ICMLA 2015): a detection's worth falls from the left
//! edge of a window to its right along a sigmoid; only the best within a window counts; one outside costs the more the
//! longer after the last window it comes; a window without any costs. The first rows of a file are a probation, in which
//! nothing counts.

use serde::Serialize;

/// What a hit earns, and what a false one and a miss cost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Profile {
    /// Its name.
    pub name: &'static str,
    /// A hit at the very left edge of a window.
    pub hit: f64,
    /// A detection far from any window.
    pub false_alarm: f64,
    /// A window without detection.
    pub miss: f64,
}

/// The three profiles of the benchmark.
pub const PROFILES: [Profile; 3] = [
    Profile { name: "standard", hit: 1.0, false_alarm: 0.11, miss: 1.0 },
    Profile { name: "low FP", hit: 1.0, false_alarm: 0.22, miss: 1.0 },
    Profile { name: "low FN", hit: 1.0, false_alarm: 0.11, miss: 2.0 },
];

/// What a file came to, by one profile. Adds up over files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct NabScore {
    /// Earned and paid.
    pub raw: f64,
    /// What never detecting comes to.
    pub null: f64,
    /// What detecting each window at its left edge, and nothing else, comes to.
    pub perfect: f64,
}

impl NabScore {
    /// Adds another file.
    pub fn add(&mut self, other: &NabScore) {
        self.raw += other.raw;
        self.null += other.null;
        self.perfect += other.perfect;
    }

    /// On the scale on which never detecting is 0 and perfection 100; `None` without a window.
    pub fn normalised(&self) -> Option<f64> {
        let whole = self.perfect - self.null;
        (whole > 0.0).then(|| 100.0 * (self.raw - self.null) / whole)
    }
}

/// Rows of a file at its beginning in which nothing counts: 15 %, at most 750.
pub fn probation(rows: usize) -> usize {
    (rows * 15 / 100).min(750)
}

/// Scores one file: whether each row is a detection, and the windows as first and last row, in order, apart from each
/// other. A window that lies in the probation altogether does not count.
pub fn score(detected: &[bool], windows: &[(usize, usize)], profile: &Profile) -> NabScore {
    let first = probation(detected.len());
    let counts = |window: &&(usize, usize)| window.1 >= first;
    let mut best: Vec<Option<f64>> = vec![None; windows.len()];
    let mut paid = 0.0;
    for row in (first..detected.len()).filter(|&row| detected[row]) {
        if let Some(at) = windows.iter().position(|(left, right)| (*left..=*right).contains(&row)) {
            let (left, right) = windows[at];
            let place = -((right - row + 1) as f64) / (right - left + 1) as f64;
            let worth = sigmoid(place) * profile.hit / sigmoid(-1.0);
            best[at] = Some(best[at].map_or(worth, |before| before.max(worth)));
        } else {
            let last = windows.iter().rfind(|(_, right)| *right < row);
            // A window of a single row has no width to measure with: a false alarm after it is far from it.
            let past =
                |(left, right): &(usize, usize)| (row - right) as f64 / (right - left) as f64;
            paid += profile.false_alarm * sigmoid(last.map_or(3.0, past));
        }
    }
    let scored = windows.iter().zip(&best).filter(|(window, _)| counts(window));
    let earned: f64 = scored.map(|(_, best)| best.unwrap_or(-profile.miss)).sum();
    let count = windows.iter().filter(counts).count() as f64;
    NabScore { raw: earned + paid, null: -profile.miss * count, perfect: profile.hit * count }
}

/// From 1 (long before the right edge) over 0 (at it) to -1 (well behind it), in widths of the window.
fn sigmoid(place: f64) -> f64 {
    if place >= 3.0 { -1.0 } else { 2.0 / (1.0 + (5.0 * place).exp()) - 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(rows: usize, found: &[usize]) -> Vec<bool> {
        (0..rows).map(|row| found.contains(&row)).collect()
    }

    #[test]
    fn never_is_nought_and_the_left_edge_of_each_window_a_hundred() {
        let windows = [(300, 399), (600, 699)];
        for profile in &PROFILES {
            let never = score(&at(1000, &[]), &windows, profile);
            assert_eq!(never.normalised(), Some(0.0));
            let perfect = score(&at(1000, &[300, 600]), &windows, profile);
            assert!((perfect.normalised().unwrap() - 100.0).abs() < 1e-9, "{perfect:?}");
            // More detections in a window change nothing: the best counts.
            let more = score(&at(1000, &[300, 301, 399, 600, 650]), &windows, profile);
            assert_eq!(more.raw, perfect.raw);
        }
        assert_eq!(score(&at(1000, &[]), &[], &PROFILES[0]).normalised(), None);
    }

    #[test]
    fn a_false_alarm_costs_more_the_longer_after_a_window() {
        let cost = |row: usize| score(&at(1000, &[row]), &[(300, 399)], &PROFILES[0]).raw + 1.0;
        assert!((cost(200) + 0.11).abs() < 1e-12, "before any window it costs all");
        assert!((cost(900) + 0.11).abs() < 1e-12, "so it does far behind one");
        let near = cost(409);
        assert!(near < 0.0 && near > -0.11 && cost(449) < near);
        assert_eq!(cost(100), 0.0, "in the probation nothing counts");
    }

    #[test]
    fn a_late_hit_earns_less_and_probation_is_at_most_750_rows() {
        let raw = |row: usize| score(&at(1000, &[row]), &[(300, 399)], &PROFILES[0]).raw;
        let half = (2.0 / (1.0 + (-2.5_f64).exp()) - 1.0) / (2.0 / (1.0 + (-5.0_f64).exp()) - 1.0);
        assert!((raw(350) - half).abs() < 1e-12);
        assert!(raw(300) > raw(350) && raw(350) > raw(399) && raw(399) > 0.0);
        assert_eq!((probation(100), probation(22_695)), (15, 750));
    }
}
