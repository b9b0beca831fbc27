//! What a compressed model notes: its original's contract, with what is different about it.
//!
//! Names, units, windows, meaning of outputs, baseline and training data are carried over as they are. New are the
//! digest of the original and how it was compressed, the version, the threshold where one was chosen anew, and golden
//! vectors: the original's answers, with as much tolerance as the compressed model was seen to need. A signature is
//! about the original's bytes and does not survive.

use std::collections::BTreeMap;

use super::Compressed;
use crate::model::ModelFile;
use crate::model::golden::{Golden, short};
use crate::model::metadata::json;

/// What is different about a compressed model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Notes {
    /// How it was compressed, for people.
    pub how: String,
    /// Appended to a version that the original notes.
    pub suffix: &'static str,
    /// The threshold and how it was chosen, where it is another one.
    pub threshold: Option<(f64, String)>,
    /// Inputs with the answers that it must give.
    pub golden: Option<Golden>,
}

impl Compressed {
    /// Notes it all in the compressed model of `original`.
    pub fn note(&mut self, original: &ModelFile, notes: &Notes) {
        let noted = original.metadata();
        let draft = &mut self.draft;
        let before = noted.compressed.as_ref().map(|before| format!("{before}, then "));
        let how = format!("{}{}", before.unwrap_or_default(), notes.how);
        draft.note("forebay.compressed", Some(how));
        draft.note("forebay.parent", Some(original.digest.clone()));
        if let Some(version) = &noted.version {
            draft.note("forebay.version", Some(format!("{version}-{}", notes.suffix)));
        }
        if let Some((threshold, by)) = &notes.threshold {
            draft.note("forebay.threshold", Some(threshold.to_string()));
            draft.note("forebay.threshold_by", Some(by.clone()));
        }
        draft.note("forebay.golden", notes.golden.as_ref().map(json));
    }
}

/// The golden vectors of a compressed model: the original's, with twice the tolerance that its `answers` to them needed.
pub fn loosened(original: &Golden, answers: &BTreeMap<String, Vec<Vec<f64>>>) -> Golden {
    let mut most = 0.0_f64;
    for (name, expected) in &original.outputs {
        let found = answers.get(name).into_iter().flatten().flatten();
        for (expected, found) in expected.iter().flatten().zip(found) {
            most = most.max((expected - found).abs() / (1.0 + expected.abs()));
        }
    }
    Golden { tolerance: original.tolerance.max(rounded_up(2.0 * most)), ..original.clone() }
}

/// The next number with two digits.
fn rounded_up(value: f64) -> f64 {
    if value <= 0.0 || !value.is_finite() {
        return 0.0;
    }
    let unit = 10_f64.powi(value.log10().floor() as i32 - 1);
    // What float32 adds to a round number is not worth another digit, and what the product adds not one in the file.
    short((value / unit * (1.0 - 1e-6)).ceil() * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tolerance_is_what_was_needed_twice_and_never_less_than_before() {
        let outputs = BTreeMap::from([("score".to_owned(), vec![vec![1.0], vec![0.0]])]);
        let golden = Golden { outputs, tolerance: 2e-3, ..Golden::default() };
        let found = |a: f64, b: f64| BTreeMap::from([("score".to_owned(), vec![vec![a], vec![b]])]);
        assert_eq!(loosened(&golden, &found(1.0, 0.001)).tolerance, 2e-3);
        let loose = loosened(&golden, &found(1.0, 0.0123)).tolerance;
        assert!((loose - 0.025).abs() < 1e-6, "{loose}");
    }
}
