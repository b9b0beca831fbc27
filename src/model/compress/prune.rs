//! `pruned`: whole units taken out of layers, so that the graph is smaller and everything runs it faster.
//!
//! Of each layer the units go that matter least to what takes them: how much a unit varies over the calibration windows,
//! times the norm of the weights that take it (without windows: the norm of the weights that make it instead). What a unit
//! gave on average stays, as a bias of what took it. After Li et al., Pruning Filters for Efficient ConvNets (ICLR 2017),
//! and Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Inference (ICLR 2017).

use std::collections::BTreeMap;

use super::draft::{Draft, Numbers, is, operator};
use super::units::{self, Cut, Taker, Units};
use super::{Changes, CompressError, retrain};

/// What values were in calibration windows: place by place their sum, and that of their squares.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Activity(BTreeMap<String, Places>);

#[derive(Clone, Debug, Default, PartialEq)]
struct Places {
    windows: usize,
    sums: Vec<f64>,
    squares: Vec<f64>,
}

impl Activity {
    /// Takes what `value` was in one window.
    pub fn take(&mut self, value: &str, numbers: &[f64]) {
        let places = self.0.entry(value.to_owned()).or_default();
        places.windows += 1;
        places.sums.resize(numbers.len(), 0.0);
        places.squares.resize(numbers.len(), 0.0);
        for ((sum, square), number) in places.sums.iter_mut().zip(&mut places.squares).zip(numbers)
        {
            *sum += number;
            *square += number.powi(2);
        }
    }

    /// Mean and standard deviation of each unit.
    fn units(&self, taker: &Taker, units: &Units) -> Option<Vec<(f64, f64)>> {
        let places = self.0.get(&taker.value)?;
        let count = units.count;
        let length = places.sums.len();
        let run = (length / count.max(1)).max(1);
        let unit = |at: usize| if taker.blocks { at / run } else { at % count };
        let mut sums = vec![(0.0, 0.0); count];
        for (at, (sum, square)) in places.sums.iter().zip(&places.squares).enumerate() {
            let unit = sums.get_mut(unit(at))?;
            unit.0 += sum;
            unit.1 += square;
        }
        let seen = (places.windows * run) as f64;
        let of = |(sum, square): (f64, f64)| {
            let mean = sum / seen;
            (mean, (square / seen - mean * mean).max(0.0).sqrt())
        };
        Some(sums.into_iter().map(of).collect())
    }
}

/// The values to watch for [`Activity`].
pub(super) fn watched(draft: &mut Draft) -> impl Iterator<Item = String> + use<> {
    draft.unshare();
    units::find(draft).into_iter().flat_map(|units| units.takers).map(|taker| taker.value)
}

/// Takes out units until the share `keep` of each layer is left. Says what.
pub(super) fn units_out(
    draft: &mut Draft,
    activity: &Activity,
    keep: f64,
) -> Result<Changes, CompressError> {
    draft.need(6, "pruned")?;
    let mut changes = Changes::default();
    let copies = draft.unshare();
    // From the last layer to the first: what a layer gets as a bias then has its channels already.
    for units in units::find(draft).into_iter().rev() {
        let left = ((units.count as f64 * keep).ceil() as usize).clamp(1, units.count);
        let mut order: Vec<(usize, f64)> =
            importance(draft, activity, &units).into_iter().enumerate().collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut stay: Vec<usize> = order.iter().take(left).map(|(unit, _)| *unit).collect();
        stay.sort_unstable();
        if left == units.count {
            continue;
        }
        for taker in &units.takers {
            if let Some(means) = activity.units(taker, &units) {
                keep_mean(draft, taker, &stay, &means);
            }
        }
        let takers = units.takers.iter().map(|taker| &taker.weight);
        for cut in std::iter::once(&units.maker).chain(&units.with).chain(takers) {
            changes.numbers += cut_out(draft, cut, &stay, units.count);
            changes.tensors += 1;
        }
    }
    draft.share(&copies);
    retrain::note_sizes(draft);
    // Shapes of what is between are others now.
    draft.graph.value_info.clear();
    Ok(changes)
}

/// How much each unit matters.
fn importance(draft: &Draft, activity: &Activity, units: &Units) -> Vec<f64> {
    let mut scores = vec![0.0; units.count];
    let made = norms(draft, &units.maker, units.count);
    for taker in &units.takers {
        let taken = norms(draft, &taker.weight, units.count);
        let varies = activity.units(taker, units);
        for (unit, score) in scores.iter_mut().enumerate() {
            let size = varies.as_ref().map_or(made[unit], |of| of[unit].1);
            *score += taken[unit] * size;
        }
    }
    scores
}

/// The unit that the number at `at` of a tensor belongs to.
fn unit_of(numbers: &Numbers, cut: &Cut, at: usize) -> usize {
    let inner: usize = numbers.dims.iter().skip(cut.axis + 1).product();
    (at / inner.max(1)) % numbers.dims[cut.axis] / cut.block.max(1)
}

/// The Euclidean norm of each unit's weights.
fn norms(draft: &Draft, cut: &Cut, count: usize) -> Vec<f64> {
    let mut squares = vec![0.0; count];
    if let Some(numbers) = draft.floats(&cut.tensor) {
        for (at, value) in numbers.values.iter().enumerate() {
            squares[unit_of(&numbers, cut, at)] += f64::from(*value).powi(2);
        }
    }
    squares.into_iter().map(f64::sqrt).collect()
}

/// Leaves of a tensor only the units that stay. Says how many numbers are gone.
fn cut_out(draft: &mut Draft, cut: &Cut, stay: &[usize], count: usize) -> usize {
    let Some(mut numbers) = draft.floats(&cut.tensor) else { return 0 };
    let mut stays = vec![false; count];
    for unit in stay {
        stays[*unit] = true;
    }
    let before = numbers.values.len();
    let kept = (numbers.values.iter().enumerate())
        .filter(|(at, _)| stays[unit_of(&numbers, cut, *at)])
        .map(|(_, value)| *value)
        .collect();
    numbers.values = kept;
    numbers.dims[cut.axis] = stay.len() * cut.block;
    draft.replace(&cut.tensor, &numbers);
    before - numbers.values.len()
}

/// Adds to what `taker` gives what the units that go gave it on average.
fn keep_mean(draft: &mut Draft, taker: &Taker, stay: &[usize], means: &[(f64, f64)]) {
    let Some(weight) = draft.floats(&taker.weight.tensor) else { return };
    let own = 1 - taker.weight.axis;
    let channels = weight.dims[own];
    let inner: usize = weight.dims.iter().skip(own + 1).product();
    let mut given = vec![0.0_f64; channels];
    for (at, value) in weight.values.iter().enumerate() {
        let unit = unit_of(&weight, &taker.weight, at);
        if stay.binary_search(&unit).is_err() {
            given[(at / inner.max(1)) % channels] += f64::from(*value) * means[unit].0;
        }
    }
    let given: Vec<f32> = given.into_iter().map(|value| value as f32).collect();
    if let Some(name) = bias_of(draft, taker, channels)
        && let Some(mut bias) = draft.floats(&name)
    {
        bias.values.iter_mut().zip(given).for_each(|(bias, given)| *bias += given);
        return draft.replace(&name, &bias);
    }
    // Behind a convolution the channels are the second axis, and its kernel's axes follow.
    let mut dims = vec![channels];
    dims.extend(std::iter::repeat_n(1, weight.dims.len() - 2));
    let mean = draft.floats_of(&taker.output, "mean", &dims, &given);
    let whole = draft.fresh(&taker.output, "part");
    let place = draft.graph.node.iter().position(|node| node.output.contains(&taker.output));
    if let Some(place) = place {
        draft.graph.node[place].output[0].clone_from(&whole);
        draft.graph.node.insert(place + 1, operator("Add", &[&whole, &mean], &taker.output));
    }
}

/// The bias that `taker` has already, one number for each of its `channels`: its own, or that of the `Add` behind a
/// product which alone takes what it gives.
fn bias_of(draft: &Draft, taker: &Taker, channels: usize) -> Option<String> {
    let node = draft.graph.node.iter().find(|node| node.output.contains(&taker.output))?;
    let own = node.input.get(2).filter(|name| !name.is_empty());
    let mut takers = draft.graph.node.iter().filter(|node| node.input.contains(&taker.output));
    let seen = draft.graph.output.iter().any(|port| port.name == taker.output);
    let added = match (takers.next(), takers.next()) {
        (Some(add), None) if is(add, "Add") && is(node, "MatMul") && !seen => {
            add.input.iter().find(|name| **name != taker.output)
        }
        _ => None,
    };
    let name = own.or(added)?;
    (draft.floats(name)?.dims == [channels]).then(|| name.clone())
}
