//! Models with a memory: a state that goes in, and comes out for the next time.
//!
//! `onnx` finds the states that a model notes, `session` runs with them, `stage/score` keeps one memory an asset. In a
//! batch the states of several assets lie beside each other along one axis, which need not be the first (recurrent
//! layers have `[layers, n, width]`). It promises that what is packed comes back the same, whatever the axis.

use super::element::Element;
use super::fit::{Mismatch, mismatch};
use super::onnx::{Port, Signature};

/// Largest state of one asset, in numbers: all assets' states are in memory, and in every checkpoint.
const MAX_SIZE: usize = 1 << 14;

/// An input that is fed with what an output gave before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The input, by index.
    pub input: usize,
    /// The output, by index.
    pub output: usize,
    /// Its shape for one asset.
    dims: Vec<usize>,
    /// Along which axis several lie.
    axis: usize,
    /// Whether it takes one asset at a time.
    is_single: bool,
}

impl State {
    /// The state that goes in as `input` and comes out as `output`.
    pub(super) fn find(
        signature: &Signature,
        input: &str,
        output: &str,
    ) -> Result<State, Mismatch> {
        let names = |ports: &[Port]| {
            let names: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
            names.join(", ")
        };
        let missing = |ports: &[Port], name: &str| {
            mismatch("state", format!("one of {}", names(ports)), format!("`{name}`"))
        };
        let place = |ports: &[Port], name: &str| {
            let found = ports.iter().position(|port| port.name == name);
            found.ok_or_else(|| missing(ports, name))
        };
        let (input, output) =
            (place(&signature.inputs, input)?, place(&signature.outputs, output)?);
        let port = &signature.inputs[input];
        let what = || format!("state `{}`", port.name);
        if !port.element.is_some_and(Element::is_number) {
            let found = port.element.map_or("no tensor".into(), |e| e.to_string());
            return Err(mismatch(what(), "numbers", found));
        }
        let varying: Vec<usize> =
            (0..port.dims.len()).filter(|&d| port.dims[d].is_none()).collect();
        let (axis, is_single) = match varying.as_slice() {
            [] => (0, true),
            [axis] => (*axis, false),
            _ => {
                let expected = "one dimension that varies, the number of assets";
                return Err(mismatch(what(), expected, port.shape()));
            }
        };
        let dims: Vec<usize> = port.dims.iter().map(|dim| dim.unwrap_or(1)).collect();
        let size = dims.iter().try_fold(1_usize, |size, dim| size.checked_mul(*dim));
        if size.is_none_or(|size| size > MAX_SIZE) {
            let expected = format!("at most {MAX_SIZE} numbers an asset");
            return Err(mismatch(what(), expected, port.shape()));
        }
        Ok(State { input, output, dims, axis, is_single })
    }

    /// Numbers of one asset's state.
    pub fn size(&self) -> usize {
        self.dims.iter().product()
    }

    /// Whether it takes one asset at a time.
    pub(super) fn is_single(&self) -> bool {
        self.is_single
    }

    /// The shape for so many assets.
    pub(super) fn shape(&self, rows: usize) -> Vec<usize> {
        let mut dims = self.dims.clone();
        if let Some(dim) = dims.get_mut(self.axis).filter(|_| !self.is_single) {
            *dim = rows;
        }
        dims
    }

    /// Numbers of one asset that lie together.
    fn run(&self) -> usize {
        self.dims.iter().skip(self.axis + 1).product()
    }

    /// The states of several assets as one tensor; each is `size` numbers of a memory, from `from` on.
    pub(super) fn pack(&self, memories: &[Vec<f64>], from: usize) -> Vec<f64> {
        let (run, size) = (self.run().max(1), self.size());
        let mut packed = Vec::with_capacity(size * memories.len());
        for start in (0..size).step_by(run) {
            for memory in memories {
                let at = from + start;
                packed.extend_from_slice(memory.get(at..at + run).unwrap_or_default());
            }
        }
        packed
    }

    /// Puts what a tensor holds back into the memories.
    pub(super) fn unpack(&self, packed: &[f64], memories: &mut [Vec<f64>], from: usize) {
        let run = self.run().max(1);
        let rows = memories.len().max(1);
        for (place, numbers) in packed.chunks_exact(run).enumerate() {
            let (start, row) = (place / rows * run, place % rows);
            let at = from + start;
            let into = memories.get_mut(row).and_then(|memory| memory.get_mut(at..at + run));
            if let Some(into) = into {
                into.copy_from_slice(numbers);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(dims: &[usize], axis: usize) -> State {
        State { input: 0, output: 0, dims: dims.to_vec(), axis, is_single: false }
    }

    #[test]
    fn assets_lie_beside_each_other_along_the_axis() {
        let memories = [vec![9.0, 1.0, 2.0, 3.0, 4.0], vec![9.0, 5.0, 6.0, 7.0, 8.0]];
        let first = state(&[1, 4], 0);
        assert_eq!(first.shape(2), [2, 4]);
        assert_eq!(first.pack(&memories, 1), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        let middle = state(&[2, 1, 2], 1);
        assert_eq!(middle.shape(2), [2, 2, 2]);
        assert_eq!(middle.pack(&memories, 1), [1.0, 2.0, 5.0, 6.0, 3.0, 4.0, 7.0, 8.0]);
        let last = state(&[4, 1], 1);
        assert_eq!(last.pack(&memories, 1), [1.0, 5.0, 2.0, 6.0, 3.0, 7.0, 4.0, 8.0]);
    }

    #[test]
    fn a_state_has_a_limit_and_one_axis_for_assets() {
        let port = |name: &str, dims: &[Option<usize>]| Port {
            name: name.into(),
            element: Some(Element::Float32),
            dims: dims.to_vec(),
            ..Port::default()
        };
        let told = |dims: &[Option<usize>]| {
            let (inputs, outputs) = (vec![port("h", dims)], vec![port("after", dims)]);
            let signature = Signature { inputs, outputs, states: Vec::new() };
            State::find(&signature, "h", "after").map_err(|mismatch| mismatch.to_string())
        };
        assert_eq!(told(&[None, Some(MAX_SIZE)]).unwrap().size(), MAX_SIZE);
        assert!(told(&[None, Some(MAX_SIZE + 1)]).unwrap_err().contains("at most 16384 numbers"));
        assert!(told(&[None, None]).unwrap_err().contains("one dimension that varies"));
    }

    #[test]
    fn what_is_packed_comes_back() {
        let memories: Vec<Vec<f64>> =
            (0..3).map(|row| (0..13).map(|i| f64::from(row * 100 + i)).collect()).collect();
        for (dims, axis) in [(vec![1, 12], 0), (vec![2, 1, 6], 1), (vec![3, 2, 2, 1], 3)] {
            let state = state(&dims, axis);
            let mut back = vec![vec![0.0; 13]; 3];
            state.unpack(&state.pack(&memories, 1), &mut back, 1);
            let expected: Vec<Vec<f64>> =
                memories.iter().map(|m| [&[0.0], &m[1..]].concat()).collect();
            assert_eq!(back, expected, "{dims:?}");
        }
    }
}
