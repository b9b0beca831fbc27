//! Epochs: batches in a shuffled order, gradients, a held-out loss, and when to stop.
//!
//! `train` calls [`learn`]. What an epoch does follows from the seed, its number and what the checkpoint holds, so that
//! training which was stopped and resumed ends with the same bytes as training which was not. Time and files are the
//! caller's: it is shown every epoch with a checkpoint, and may say that it is enough.

use burn_tensor::{Device as Place, Tensor, TensorData};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::forward::forward;
use super::layer::Start;
use super::loss::loss;
use super::optimise::Moving;
use super::options::{Device, Options};
use super::samples::Samples;
use super::{NetError, Network, Weight, Weights};

/// Rows that are looked at together where nothing is learned.
const LOOK: usize = 256;

/// What an epoch came to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Of which network, from 0.
    pub member: usize,
    /// Which epoch, from 1.
    pub epoch: usize,
    /// Mean loss of the windows that are learned from, as they came.
    pub loss: f64,
    /// Mean loss of the held-out windows after it; of the former where none are held out.
    pub held_out: f64,
    /// Learning rate at its end.
    pub learning_rate: f64,
}

/// Everything that training needs to go on: what it is of, networks that are done, and the one under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Digest of the data, the network and the options.
    pub(super) of: String,
    /// Weights of the networks that are done, each tensor flat.
    pub(super) done: Vec<Vec<Vec<f32>>>,
    /// All epochs so far.
    pub(super) epochs: Vec<Epoch>,
    pub(super) under_way: Option<UnderWay>,
}

/// The network that is learning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct UnderWay {
    epoch: usize,
    step: u64,
    /// Weights, and means of gradients and of their squares.
    values: Vec<Vec<f32>>,
    first: Vec<Vec<f32>>,
    second: Vec<Vec<f32>>,
    best: Vec<Vec<f32>>,
    best_loss: f64,
    /// Epochs since then.
    since: usize,
}

impl Checkpoint {
    pub(super) fn new(of: String) -> Checkpoint {
        Checkpoint { of, done: Vec::new(), epochs: Vec::new(), under_way: None }
    }

    /// As bytes, for a file.
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("invariant: plain data is always encoded")
    }

    /// Back from them. An error where they are damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Checkpoint, NetError> {
        postcard::from_bytes(bytes).map_err(|_| NetError::Foreign)
    }

    /// Epochs so far.
    pub fn epochs(&self) -> &[Epoch] {
        &self.epochs
    }
}

/// Where burn computes.
pub(super) fn place(device: Device) -> Result<Place, NetError> {
    match device {
        Device::Cpu => Ok(Place::flex()),
        #[cfg(feature = "cuda")]
        Device::Cuda => cuda(),
        #[cfg(not(feature = "cuda"))]
        Device::Cuda => Err(NetError::NoCuda),
    }
}

/// libtorch's first CUDA device, once it has been seen to compute: what is missing for that is a panic in burn.
#[cfg(feature = "cuda")]
fn cuda() -> Result<Place, NetError> {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::OnceLock;

    use crate::model::onnx::{first_line, panic_text};

    static TRIED: OnceLock<Result<(), String>> = OnceLock::new();
    let found = Place::enumerate(burn_tensor::DeviceType::LibTorch).into_iter().next();
    let place = found.ok_or(NetError::NoDevice)?;
    // A product (cuBLAS), functions and a mean: of log(exp(A·A)), where all of A is 1, it is 4.
    let tried = TRIED.get_or_init(|| {
        let mean = catch_unwind(AssertUnwindSafe(|| {
            let ones = Tensor::<2>::ones([4, 4], &place);
            numbers(ones.clone().matmul(ones).exp().log().mean())
        }));
        match mean.as_deref() {
            Ok([mean]) if (mean - 4.0).abs() < 1e-3 => Ok(()),
            Ok(mean) => Err(format!("of four times 1 it says {mean:?}")),
            Err(panic) => Err(first_line(&panic_text(&**panic))),
        }
    });
    tried.clone().map_err(NetError::BadDevice)?;
    Ok(place)
}

/// What is learned, from what, and who watches.
pub(super) struct Lesson<'a> {
    pub(super) network: &'a Network,
    pub(super) samples: &'a Samples,
    /// Rows to learn from, and rows that are held out.
    pub(super) rows: (&'a [usize], &'a [usize]),
    pub(super) options: &'a Options,
    /// Weights to start from, where names and sizes agree.
    pub(super) from: Option<&'a Weights>,
    /// Is shown every epoch; `false` ends training.
    pub(super) watch: &'a mut dyn FnMut(&Epoch, &Checkpoint) -> bool,
}

/// Trains all members. `checkpoint` is where it starts, and then holds all epochs.
pub(super) fn learn(
    lesson: &mut Lesson<'_>,
    checkpoint: &mut Checkpoint,
) -> Result<Weights, NetError> {
    while checkpoint.done.len() < lesson.network.members {
        let go_on = member(lesson, checkpoint)?;
        if !go_on {
            break;
        }
    }
    let needs = lesson.network.needs(0)?;
    let mut tensors = Vec::new();
    for (member, values) in checkpoint.done.iter().enumerate() {
        for ((name, need, _), values) in needs.iter().zip(values) {
            let (name, dims) = (format!("m{member}.{name}"), need.dims.clone());
            tensors.push(Weight { name, dims, values: values.clone() });
        }
    }
    if tensors.is_empty() {
        return Err(NetError::TooShort);
    }
    Ok(Weights { tensors })
}

/// Trains the next member to its end; `false` where whoever watches has had enough.
fn member(lesson: &mut Lesson<'_>, checkpoint: &mut Checkpoint) -> Result<bool, NetError> {
    let (member, options) = (checkpoint.done.len(), lesson.options);
    let place = place(options.device)?;
    let mut state = match checkpoint.under_way.take() {
        Some(state) => state,
        None => begin(lesson, member)?,
    };
    let mut moving = lesson.moving(&state, &place)?;
    let (fit, held) = lesson.rows;
    let rows = if options.oversample { lesson.samples.repeated(fit) } else { fit.to_vec() };
    let mut go_on = true;
    while go_on
        && state.epoch < options.epochs
        && (held.is_empty() || state.since < options.patience)
    {
        let learned = epoch(lesson, &mut moving, &mut state, &rows, member, &place)?;
        state.epoch += 1;
        let values: Vec<Tensor<1>> = moving.iter().map(|m| m.value.clone()).collect();
        let held_out = match held {
            [] => learned,
            held => held_out(lesson, &values, held, &place)?,
        };
        let learning_rate = rate(options, state.epoch as f64);
        if !held_out.is_finite() || !learned.is_finite() {
            return Err(NetError::Diverged {
                epoch: state.epoch,
                learning_rate: options.learning_rate,
            });
        }
        state.keep(&moving);
        // Without held-out windows nothing says that an earlier epoch was better.
        if held.is_empty() || held_out < state.best_loss {
            (state.best_loss, state.since) = (held_out, 0);
            state.best.clone_from(&state.values);
        } else {
            state.since += 1;
        }
        let done = Epoch { member, epoch: state.epoch, loss: learned, held_out, learning_rate };
        checkpoint.epochs.push(done);
        checkpoint.under_way = Some(state);
        go_on = (lesson.watch)(&done, checkpoint);
        state = checkpoint.under_way.take().expect("invariant: it was put there two lines above");
    }
    checkpoint.done.push(state.best);
    Ok(go_on)
}

/// Weights at their start: those of `from` that fit, else random ones.
fn begin(lesson: &Lesson<'_>, member: usize) -> Result<UnderWay, NetError> {
    let mut random = ChaCha8Rng::seed_from_u64(lesson.options.seed);
    random.set_stream(member as u64 * 2);
    let mut values = Vec::new();
    for (name, need, _) in lesson.network.needs(0)? {
        let size = need.dims.iter().product();
        let fresh: Vec<f32> = match need.start {
            Start::All(value) => vec![value as f32; size],
            Start::Within(reach) => {
                (0..size).map(|_| random.random_range(-reach..=reach) as f32).collect()
            }
        };
        let given = lesson.from.and_then(|from| {
            let named = |member: usize| {
                let name = format!("m{member}.{name}");
                from.tensors.iter().find(|tensor| tensor.name == name && tensor.dims == need.dims)
            };
            named(member).or_else(|| named(0))
        });
        values.push(given.map_or(fresh, |tensor| tensor.values.clone()));
    }
    let zeros: Vec<Vec<f32>> = values.iter().map(|values| vec![0.0; values.len()]).collect();
    Ok(UnderWay {
        epoch: 0,
        step: 0,
        best: values.clone(),
        values,
        first: zeros.clone(),
        second: zeros,
        best_loss: f64::INFINITY,
        since: 0,
    })
}

impl UnderWay {
    /// Takes what was learned from where it was computed.
    fn keep(&mut self, moving: &[Moving]) {
        let host =
            |of: fn(&Moving) -> &Tensor<1>| moving.iter().map(|m| numbers(of(m).clone())).collect();
        self.values = host(|m| &m.value);
        self.first = host(|m| &m.first);
        self.second = host(|m| &m.second);
    }
}

impl Lesson<'_> {
    fn moving(&self, state: &UnderWay, place: &Place) -> Result<Vec<Moving>, NetError> {
        let needs = self.network.needs(self.options.freeze)?;
        let all = needs.iter().zip(&state.values).zip(&state.first).zip(&state.second);
        let moving = all.map(|((((_, need, frozen), value), first), second)| Moving {
            value: flat(value, place),
            first: flat(first, place),
            second: flat(second, place),
            frozen: *frozen,
            decays: matches!(need.start, Start::Within(_)),
        });
        Ok(moving.collect())
    }
}

/// One tensor of weights on a device.
pub(super) fn flat(values: &[f32], place: &Place) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), place)
}

/// A tensor's numbers.
pub(super) fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec::<f32>().expect("invariant: every tensor here is float32")
}

/// The learning rate after `epochs` epochs: half a cosine down to nothing (Loshchilov and Hutter, ICLR 2017).
fn rate(options: &Options, epochs: f64) -> f64 {
    let share = (epochs / options.epochs.max(1) as f64).min(1.0);
    options.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * share).cos())
}

/// One pass over `rows`; the mean loss.
fn epoch(
    lesson: &Lesson<'_>,
    moving: &mut [Moving],
    state: &mut UnderWay,
    rows: &[usize],
    member: usize,
    place: &Place,
) -> Result<f64, NetError> {
    let options = lesson.options;
    let mut random = ChaCha8Rng::seed_from_u64(options.seed);
    random.set_stream(member as u64 * 2 + 1);
    random.set_word_pos((state.epoch as u128) << 40);
    let mut order = rows.to_vec();
    order.shuffle(&mut random);
    let batches = order.len().div_ceil(options.batch.max(1));
    let mut sum = 0.0;
    for (at, batch) in order.chunks(options.batch.max(1)).enumerate() {
        state.step += 1;
        let rate = rate(options, state.epoch as f64 + at as f64 / batches as f64);
        let lost = step(lesson, moving, batch, (state.step, rate), place)?;
        if !lost.is_finite() {
            let (epoch, learning_rate) = (state.epoch + 1, options.learning_rate);
            return Err(NetError::Diverged { epoch, learning_rate });
        }
        sum += lost * batch.len() as f64;
    }
    Ok(sum / order.len().max(1) as f64)
}

/// One batch: its loss, and all weights moved.
fn step(
    lesson: &Lesson<'_>,
    moving: &mut [Moving],
    batch: &[usize],
    (step, rate): (u64, f64),
    place: &Place,
) -> Result<f64, NetError> {
    let Lesson { network, samples, options, .. } = lesson;
    let tracked = |moving: &Moving| {
        let tensor = Tensor::from_inner(moving.value.clone());
        if moving.frozen { tensor } else { tensor.require_grad() }
    };
    let weights: Vec<Tensor<1>> = moving.iter().map(tracked).collect();
    let output = forward(network, &weights, Tensor::from_inner(samples.input(batch, place)))?;
    let output = output.reshape([batch.len(), network.wanted()]);
    let target = Tensor::from_inner(samples.target(batch, place));
    let counts = Tensor::from_inner(samples.weight(batch, place));
    let lost = loss(&network.task, options, output, target, counts);
    let value = f64::from(numbers(lost.clone().inner()).first().copied().unwrap_or(f32::NAN));
    if !value.is_finite() {
        return Ok(value);
    }
    let gradients = lost.backward();
    let gradients: Vec<Option<Tensor<1>>> =
        weights.iter().map(|weight| weight.grad(&gradients)).collect();
    let squares = gradients.iter().flatten().map(|g| (g.clone() * g.clone()).sum());
    let Some(length) = squares.reduce(|a, b| a + b) else { return Ok(value) };
    let length = f64::from(numbers(length.sqrt()).first().copied().unwrap_or(f32::NAN));
    if !length.is_finite() {
        return Ok(f64::NAN);
    }
    let shorter = if length > options.clip { options.clip / length } else { 1.0 };
    for (moving, gradient) in moving.iter_mut().zip(gradients) {
        if let Some(gradient) = gradient {
            moving.follow(gradient * shorter, step, rate, options);
        }
    }
    Ok(value)
}

/// The mean loss of rows that are not learned from.
fn held_out(
    lesson: &Lesson<'_>,
    weights: &[Tensor<1>],
    rows: &[usize],
    place: &Place,
) -> Result<f64, NetError> {
    let Lesson { network, samples, options, .. } = lesson;
    let mut sum = 0.0;
    for rows in rows.chunks(LOOK) {
        let output = forward(network, weights, samples.input(rows, place))?;
        let output = output.reshape([rows.len(), network.wanted()]);
        let all = Tensor::ones([rows.len(), 1], place);
        let lost = loss(&network.task, options, output, samples.target(rows, place), all);
        sum += f64::from(numbers(lost).first().copied().unwrap_or(f32::NAN)) * rows.len() as f64;
    }
    Ok(sum / rows.len().max(1) as f64)
}
