//! Golden vectors: inputs that a model's file carries with the outputs they must give.
//!
//! A trainer computes them on its own, without a runtime; `session` runs them whenever a model is opened, on the
//! runtime that will score with it. A runtime that gets an operator wrong, or a file that was changed on its way, is
//! found before the first window. It does not say whether a model is good.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Most rows that are run.
pub const MAX_ROWS: usize = 64;

/// Inputs with the outputs they must give.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Golden {
    /// The shape of one row of input: `[features]`, or `[steps, channels]`.
    pub shape: Vec<usize>,
    /// The numbers of each row.
    pub input: Vec<Vec<f64>>,
    /// By output: the numbers for each row.
    pub outputs: BTreeMap<String, Vec<Vec<f64>>>,
    /// How far an answer may be off, as a share of one plus its size.
    pub tolerance: f64,
}

/// An answer that is not the golden one.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The output.
    pub output: String,
    /// Which row, from 0.
    pub row: usize,
    /// What it must be.
    pub expected: f64,
    /// What the model gave.
    pub found: f64,
}

/// The number that a float32 holds of `value`, with no more digits than tell it from its neighbours.
pub(super) fn short(value: f64) -> f64 {
    let rounded = value as f32;
    rounded.to_string().parse().unwrap_or(f64::from(rounded))
}

impl Golden {
    /// What is wrong with the vectors themselves, before anything is run.
    pub(super) fn fault(&self) -> Option<String> {
        let size = self.shape.iter().try_fold(1_usize, |size, dim| size.checked_mul(*dim));
        let width = size.unwrap_or(usize::MAX);
        let rows = self.input.len();
        if rows == 0 || rows > MAX_ROWS {
            return Some(format!("{rows} rows; there may be 1 to {MAX_ROWS}"));
        }
        if let Some(row) = self.input.iter().find(|row| row.len() != width) {
            return Some(format!("a row of {} numbers in the shape {:?}", row.len(), self.shape));
        }
        let short = self.outputs.iter().find(|(_, answers)| answers.len() != rows);
        short.map(|(name, answers)| {
            format!("{} answers of output `{name}` for {rows} rows", answers.len())
        })
    }

    /// The rows as one batch, and its shape.
    pub(super) fn batch(&self) -> (Vec<f64>, Vec<usize>) {
        let mut shape = vec![self.input.len()];
        shape.extend_from_slice(&self.shape);
        (self.input.concat(), shape)
    }

    /// The first answer that is off. `found` are the model's numbers for all rows, `width` for each.
    pub(super) fn compare(&self, output: &str, found: &[f64], width: usize) -> Option<Difference> {
        let expected = self.outputs.get(output)?;
        for (row, expected) in expected.iter().enumerate() {
            let found = found.get(row * width..(row + 1) * width).unwrap_or_default();
            for place in 0..expected.len().max(width) {
                let at = |numbers: &[f64]| numbers.get(place).copied().unwrap_or(f64::NAN);
                let (expected, found) = (at(expected), at(found));
                let near = (expected - found).abs() <= self.tolerance * (1.0 + expected.abs());
                if !near {
                    return Some(Difference { output: output.to_owned(), row, expected, found });
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden() -> Golden {
        Golden {
            shape: vec![2],
            input: vec![vec![1.0, 2.0], vec![3.0, 4.0]],
            outputs: BTreeMap::from([("score".to_owned(), vec![vec![0.5], vec![100.0]])]),
            tolerance: 1e-3,
        }
    }

    #[test]
    fn an_answer_may_be_off_by_a_share_of_its_size() {
        let golden = golden();
        assert_eq!(golden.fault(), None);
        assert_eq!(golden.compare("score", &[0.501, 100.1], 1), None);
        let off = golden.compare("score", &[0.5, 100.2], 1).unwrap();
        assert_eq!((off.row, off.expected, off.found), (1, 100.0, 100.2));
        for bad in [&[0.5, f64::NAN][..], &[0.5], &[]] {
            assert!(golden.compare("score", bad, 1).is_some(), "{bad:?}");
        }
        assert!(golden.compare("score", &[0.5, 0.0, 100.0, 0.0], 2).is_some(), "wider");
    }

    #[test]
    fn vectors_that_make_no_sense_are_told() {
        let told = |change: fn(&mut Golden)| {
            let mut golden = golden();
            change(&mut golden);
            golden.fault().unwrap()
        };
        assert!(told(|g| g.input.clear()).contains("0 rows"));
        assert!(told(|g| g.input = vec![vec![0.0; 2]; 65]).contains("65 rows"));
        assert!(told(|g| g.input[1].clear()).contains("a row of 0 numbers"));
        assert!(told(|g| drop(g.outputs.insert("x".into(), Vec::new()))).contains("0 answers"));
    }
}
