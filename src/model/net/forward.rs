//! Layers as burn computes them, forwards; burn finds the gradients.
//!
//! `learn` calls it with weights that want gradients, `answer` with weights that do not. It follows [`super::layer`] to
//! the number; `export` writes the same sums as ONNX operators, and tests hold the two together.

use burn_tensor::ops::ConvOptions;
use burn_tensor::{Int, Tensor, TensorData, activation, module};

use super::layer::{Activation, Layer, Shape};
use super::{NetError, Network};

/// What is added to a variance before its root is taken, in an encoder.
pub(super) const TINY: f32 = 1e-5;

/// Runs one member's layers on rows. `weights` are flat, in the order of [`Network::needs`].
pub(super) fn forward(
    network: &Network,
    weights: &[Tensor<1>],
    input: Tensor<3>,
) -> Result<Tensor<3>, NetError> {
    let (mut x, mut shape, mut from) = (input, network.fed(), 0);
    for layer in &network.layers {
        let next = layer.shape(shape)?;
        let needs = layer.needs(shape).len();
        x = one(layer, shape, next, weights.get(from..from + needs).unwrap_or_default(), x);
        (shape, from) = (next, from + needs);
    }
    Ok(x)
}

fn one(layer: &Layer, shape: Shape, next: Shape, weights: &[Tensor<1>], x: Tensor<3>) -> Tensor<3> {
    let rows = x.dims()[0];
    let Shape { steps, width } = shape;
    match *layer {
        Layer::Dense { units, activation } => {
            let flat = x.reshape([rows * steps, width]);
            activate(dense(flat, &weights[0], &weights[1], units), activation)
                .reshape([rows, steps, units])
        }
        Layer::Conv { channels, kernel, stride, activation } => {
            let options = ConvOptions::new([stride], [kernel / 2], [1], 1);
            let weight = weights[0].clone().reshape([channels, width, kernel]);
            let y = module::conv1d(x.swap_dims(1, 2), weight, Some(weights[1].clone()), options);
            activate(y, activation).swap_dims(1, 2)
        }
        Layer::Gru { units, every } => gru(units, every, shape, weights, x),
        Layer::Upsample { steps: to } => {
            let places: Vec<i32> =
                repeats(steps, to).into_iter().map(|place| place as i32).collect();
            let places = Tensor::<1, Int>::from_data(TensorData::new(places, [to]), &x.device());
            x.select(1, places)
        }
        Layer::Flatten | Layer::Split { .. } => x.reshape([rows, next.steps, next.width]),
        Layer::Position => x + weights[0].clone().reshape([1, steps, width]),
        Layer::Encoder { heads, units } => encoder(heads, units, shape, weights, x),
        Layer::Last => x.slice([0..rows, steps - 1..steps]),
        Layer::Mean => x.mean_dim(1),
    }
}

/// Which step each of `to` steps is a copy of.
pub(super) fn repeats(steps: usize, to: usize) -> Vec<usize> {
    (0..to).map(|place| place * steps / to).collect()
}

fn dense(x: Tensor<2>, weight: &Tensor<1>, bias: &Tensor<1>, units: usize) -> Tensor<2> {
    let width = x.dims()[1];
    x.matmul(weight.clone().reshape([width, units])) + bias.clone().reshape([1, units])
}

fn activate<const D: usize>(x: Tensor<D>, with: Activation) -> Tensor<D> {
    match with {
        Activation::None => x,
        Activation::Relu => activation::relu(x),
        Activation::Tanh => activation::tanh(x),
        Activation::Sigmoid => activation::sigmoid(x),
    }
}

fn gru(units: usize, every: bool, shape: Shape, weights: &[Tensor<1>], x: Tensor<3>) -> Tensor<3> {
    let (rows, Shape { steps, width }) = (x.dims()[0], shape);
    let wide = 3 * units;
    let weight = weights[0].clone().reshape([wide, width]).transpose();
    let recurrent = weights[1].clone().reshape([wide, units]).transpose();
    let biases = weights[2].clone().reshape([2, wide]);
    let (of_input, of_memory) = (biases.clone().slice([0..1]), biases.slice([1..2]));
    let mut memory: Option<Tensor<2>> = None;
    let mut all = Vec::new();
    for step in 0..steps {
        // Each step's product by itself: a slice of one product of all steps would cost its whole gradient each time.
        let now = x.clone().slice([0..rows, step..step + 1]).reshape([rows, width]);
        let now = now.matmul(weight.clone()) + of_input.clone();
        let before = match &memory {
            Some(memory) => memory.clone().matmul(recurrent.clone()) + of_memory.clone(),
            None => of_memory.clone().repeat_dim(0, rows),
        };
        let gate =
            |from: &Tensor<2>, range: std::ops::Range<usize>| from.clone().slice([0..rows, range]);
        let gates = activation::sigmoid(gate(&now, 0..2 * units) + gate(&before, 0..2 * units));
        let (update, reset) = (gate(&gates, 0..units), gate(&gates, units..2 * units));
        let fresh =
            activation::tanh(gate(&now, 2 * units..wide) + reset * gate(&before, 2 * units..wide));
        let next = match memory {
            Some(memory) => fresh.clone() + update * (memory - fresh),
            None => fresh.clone() - update * fresh,
        };
        if every {
            all.push(next.clone().reshape([rows, 1, units]));
        }
        memory = Some(next);
    }
    match memory {
        Some(last) if !every => last.reshape([rows, 1, units]),
        _ => Tensor::cat(all, 1),
    }
}

fn encoder(heads: usize, units: usize, shape: Shape, w: &[Tensor<1>], x: Tensor<3>) -> Tensor<3> {
    let (rows, Shape { steps, width }) = (x.dims()[0], shape);
    let part = width / heads;
    let normal = normalised(x.clone(), &w[0], &w[1]).reshape([rows * steps, width]);
    let seen = |at: usize| {
        dense(normal.clone(), &w[at], &w[at + 1], width)
            .reshape([rows, steps, heads, part])
            .swap_dims(1, 2)
    };
    let (query, key, value) = (seen(2), seen(4), seen(6));
    let alike = query.matmul(key.swap_dims(2, 3)) * (1.0 / (part as f32).sqrt());
    let mixed =
        activation::softmax(alike, 3).matmul(value).swap_dims(1, 2).reshape([rows * steps, width]);
    let x = x + dense(mixed, &w[8], &w[9], width).reshape([rows, steps, width]);
    let normal = normalised(x.clone(), &w[10], &w[11]).reshape([rows * steps, width]);
    let wide = activation::relu(dense(normal, &w[12], &w[13], units));
    x + dense(wide, &w[14], &w[15], width).reshape([rows, steps, width])
}

/// Each step with mean 0 and variance 1, then scaled and shifted by what was learned.
fn normalised(x: Tensor<3>, gain: &Tensor<1>, shift: &Tensor<1>) -> Tensor<3> {
    let width = x.dims()[2];
    let centred = x.clone() - x.mean_dim(2);
    let variance = (centred.clone() * centred.clone()).mean_dim(2);
    let normal = centred / (variance + TINY).sqrt();
    normal * gain.clone().reshape([1, 1, width]) + shift.clone().reshape([1, 1, width])
}
