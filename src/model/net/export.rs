//! A network as an ONNX graph: scaling, layers and score, of operators that ONNX Runtime and tract both run.
//!
//! `train` calls [`write`]. It follows `forward` and `answer` operator by operator; opening the file runs golden answers
//! that the trainer computed, and tests compare random ones on both runtimes.

use super::answer::TINY as SMALLEST;
use super::forward::{TINY, repeats};
use super::layer::{Activation, Layer, Shape};
use super::{NetError, Task, Trained};
use crate::model::build::{Dim, Graph, Kind};

/// The graph of `trained`, without notes.
pub(super) fn write(trained: &Trained) -> Result<Graph, NetError> {
    let network = &trained.network;
    let mut writer = Writer { graph: Graph::new("network"), values: 0 };
    let Shape { steps, width } = network.input;
    let input = if network.sequence {
        let dims = [Dim::Batch, Dim::Fixed(steps), Dim::Fixed(width)];
        writer.graph.input("samples", Kind::Float32, &dims);
        trained.scaler.write(&mut writer.graph, "samples").to_owned()
    } else {
        writer.graph.input("features", Kind::Float32, &[Dim::Batch, Dim::Fixed(width)]);
        let scaled = trained.scaler.write(&mut writer.graph, "features");
        let axis = writer.integers(&[1]);
        writer.node("Unsqueeze", &[scaled, &axis])
    };
    let (fed, wanted) = match network.task {
        Task::Forecast => {
            (writer.slice(&input, 0, steps - 1), Some(writer.slice(&input, steps - 1, steps)))
        }
        Task::Reconstruct => (input.clone(), Some(input.clone())),
        _ => (input.clone(), None),
    };
    let each = network.needs(0)?.len();
    let mut sum: Option<String> = None;
    for weights in trained.weights.tensors.chunks_exact(each.max(1)) {
        let (mut x, mut shape, mut from) = (fed.clone(), network.fed(), 0);
        for tensor in weights {
            let values: Vec<f64> = tensor.values.iter().map(|value| f64::from(*value)).collect();
            writer.graph.weights(&tensor.name, &tensor.dims, &values);
        }
        for layer in &network.layers {
            let (next, needs) = (layer.shape(shape)?, layer.needs(shape).len());
            let names: Vec<&str> =
                weights[from..from + needs].iter().map(|w| w.name.as_str()).collect();
            x = writer.layer(layer, shape, next, &names, &x);
            (shape, from) = (next, from + needs);
        }
        sum = Some(match sum {
            Some(sum) => writer.node("Add", &[&sum, &x]),
            None => x,
        });
    }
    let mut raw = sum.ok_or(NetError::TooShort)?;
    if network.members > 1 {
        raw = writer.times(&raw, 1.0 / network.members as f64);
    }
    writer.finish(trained, &raw, wanted.as_deref());
    Ok(writer.graph)
}

struct Writer {
    graph: Graph,
    /// Values named so far.
    values: usize,
}

impl Writer {
    fn fresh(&mut self) -> String {
        self.values += 1;
        format!("v{}", self.values)
    }

    fn node(&mut self, operator: &str, inputs: &[&str]) -> String {
        let name = self.fresh();
        self.graph.node(operator, inputs, &name);
        name
    }

    fn integers(&mut self, values: &[usize]) -> String {
        let name = self.fresh();
        let values: Vec<i64> = values.iter().map(|value| *value as i64).collect();
        self.graph.integers(&name, &values);
        name
    }

    fn constant(&mut self, dims: &[usize], values: &[f64]) -> String {
        let name = self.fresh();
        self.graph.weights(&name, dims, values);
        name
    }

    fn times(&mut self, x: &str, factor: f64) -> String {
        let factor = self.constant(&[], &[factor]);
        self.node("Mul", &[x, &factor])
    }

    fn plus(&mut self, x: &str, more: f64) -> String {
        let more = self.constant(&[], &[more]);
        self.node("Add", &[x, &more])
    }

    /// Steps `from` to `to`.
    fn slice(&mut self, x: &str, from: usize, to: usize) -> String {
        let (from, to, axis) = (self.integers(&[from]), self.integers(&[to]), self.integers(&[1]));
        self.node("Slice", &[x, &from, &to, &axis])
    }

    fn reshape(&mut self, x: &str, rest: &[usize]) -> String {
        // 0 is what is there: the number of rows.
        let shape = self.integers(&[&[0], rest].concat());
        self.node("Reshape", &[x, &shape])
    }

    fn transpose(&mut self, x: &str, order: &[i64]) -> String {
        let name = self.node("Transpose", &[x]);
        self.graph.attributes("perm", order);
        name
    }

    fn mean(&mut self, x: &str, axis: i64, keep: bool) -> String {
        let name = self.node("ReduceMean", &[x]);
        self.graph.attributes("axes", &[axis]);
        self.graph.attribute("keepdims", i64::from(keep));
        name
    }

    fn activate(&mut self, x: String, with: Activation) -> String {
        match with {
            Activation::None => x,
            Activation::Relu => self.node("Relu", &[&x]),
            Activation::Tanh => self.node("Tanh", &[&x]),
            Activation::Sigmoid => self.node("Sigmoid", &[&x]),
        }
    }

    fn dense(&mut self, x: &str, weight: &str, bias: &str) -> String {
        let product = self.node("MatMul", &[x, weight]);
        self.node("Add", &[&product, bias])
    }

    fn layer(&mut self, layer: &Layer, shape: Shape, next: Shape, w: &[&str], x: &str) -> String {
        match *layer {
            Layer::Dense { activation, .. } => {
                let y = self.dense(x, w[0], w[1]);
                self.activate(y, activation)
            }
            Layer::Conv { kernel, stride, activation, .. } => {
                let turned = self.transpose(x, &[0, 2, 1]);
                let y = self.node("Conv", &[&turned, w[0], w[1]]);
                let around = (kernel / 2) as i64;
                self.graph.attributes("pads", &[around, around]);
                self.graph.attributes("strides", &[stride as i64]);
                self.graph.attributes("kernel_shape", &[kernel as i64]);
                let y = self.activate(y, activation);
                self.transpose(&y, &[0, 2, 1])
            }
            Layer::Gru { units, every } => self.gru((shape.width, units), every, w, x),
            Layer::Upsample { steps } => {
                let places = self.integers(&repeats(shape.steps, steps));
                let name = self.node("Gather", &[x, &places]);
                self.graph.attribute("axis", 1);
                name
            }
            Layer::Flatten | Layer::Split { .. } => self.reshape(x, &[next.steps, next.width]),
            Layer::Position => self.node("Add", &[x, w[0]]),
            Layer::Encoder { heads, .. } => self.encoder(heads, shape, w, x),
            Layer::Last => self.slice(x, shape.steps - 1, shape.steps),
            Layer::Mean => self.mean(x, 1, true),
        }
    }

    fn gru(&mut self, (width, units): (usize, usize), every: bool, w: &[&str], x: &str) -> String {
        let by_step = self.transpose(x, &[1, 0, 2]);
        // tract wants to be given the memory at the start where the number of rows may vary: zeros, one set a row.
        let zeros = self.constant(&[width, units], &vec![0.0; width * units]);
        let rows = self.mean(&by_step, 0, true);
        let start = self.node("MatMul", &[&rows, &zeros]);
        let (all, last) = (self.fresh(), self.fresh());
        self.graph.node_with("GRU", &[&by_step, w[0], w[1], w[2], "", &start], &[&all, &last]);
        self.graph.attribute("hidden_size", units as i64);
        self.graph.attribute("linear_before_reset", 1);
        if every {
            // [steps, 1, rows, units]
            let axis = self.integers(&[1]);
            let all = self.node("Squeeze", &[&all, &axis]);
            self.transpose(&all, &[1, 0, 2])
        } else {
            self.transpose(&last, &[1, 0, 2])
        }
    }

    fn normalised(&mut self, x: &str, gain: &str, shift: &str) -> String {
        let mean = self.mean(x, 2, true);
        let centred = self.node("Sub", &[x, &mean]);
        let squares = self.node("Mul", &[&centred, &centred]);
        let variance = self.mean(&squares, 2, true);
        let variance = self.plus(&variance, f64::from(TINY));
        let deviation = self.node("Sqrt", &[&variance]);
        let normal = self.node("Div", &[&centred, &deviation]);
        let scaled = self.node("Mul", &[&normal, gain]);
        self.node("Add", &[&scaled, shift])
    }

    fn encoder(&mut self, heads: usize, shape: Shape, w: &[&str], x: &str) -> String {
        let Shape { steps, width } = shape;
        let part = width / heads;
        let normal = self.normalised(x, w[0], w[1]);
        let mut seen = |at: usize, order: &[i64]| {
            let all = self.dense(&normal, w[at], w[at + 1]);
            let parts = self.reshape(&all, &[steps, heads, part]);
            self.transpose(&parts, order)
        };
        let (query, key, value) =
            (seen(2, &[0, 2, 1, 3]), seen(4, &[0, 2, 3, 1]), seen(6, &[0, 2, 1, 3]));
        let alike = self.node("MatMul", &[&query, &key]);
        let alike = self.times(&alike, 1.0 / (part as f64).sqrt());
        let share = self.node("Softmax", &[&alike]);
        self.graph.attribute("axis", 3);
        let mixed = self.node("MatMul", &[&share, &value]);
        let mixed = self.transpose(&mixed, &[0, 2, 1, 3]);
        let mixed = self.reshape(&mixed, &[steps, width]);
        let out = self.dense(&mixed, w[8], w[9]);
        let x = self.node("Add", &[x, &out]);
        let normal = self.normalised(&x, w[10], w[11]);
        let wide = self.dense(&normal, w[12], w[13]);
        let wide = self.node("Relu", &[&wide]);
        let narrow = self.dense(&wide, w[14], w[15]);
        self.node("Add", &[&x, &narrow])
    }

    /// From the layers' answer `raw` to the outputs. `wanted` is what it is compared with.
    fn finish(&mut self, trained: &Trained, raw: &str, wanted: Option<&str>) {
        let width = trained.network.input.width;
        match &trained.network.task {
            Task::Reconstruct | Task::Forecast => {
                self.unlike(raw, wanted.unwrap_or(raw), width, trained.limit);
            }
            Task::Classify { labels } => {
                let logits = self.mean(raw, 1, false);
                self.graph.node("Softmax", &[&logits], "classes");
                self.graph.attribute("axis", 1);
                let mut faulty = vec![1.0; labels.len()];
                faulty[0] = 0.0;
                let faulty = self.constant(&[labels.len()], &faulty);
                self.graph.node("MatMul", &["classes", &faulty], "score");
                self.graph.output("score", Kind::Float32, &[Dim::Batch]);
                self.graph.output(
                    "classes",
                    Kind::Float32,
                    &[Dim::Batch, Dim::Fixed(labels.len())],
                );
            }
            Task::RemainingLife { cap, .. } => {
                let one = self.single(raw);
                let life = self.times(&one, *cap);
                self.clip(&life, (0.0, *cap), "remaining_life");
                self.graph.output("remaining_life", Kind::Float32, &[Dim::Batch]);
            }
            Task::Imitate(scale) => {
                let one = self.single(raw);
                let wide = self.times(&one, scale.spread);
                let score = self.plus(&wide, scale.middle);
                match scale.range {
                    None => drop(self.graph.node("Sigmoid", &[&score], "score")),
                    Some(range) => self.clip(&score, range, "score"),
                }
                self.graph.output("score", Kind::Float32, &[Dim::Batch]);
            }
        }
    }

    fn clip(&mut self, x: &str, (least, most): (f64, f64), output: &str) {
        let (least, most) = (self.constant(&[], &[least]), self.constant(&[], &[most]));
        self.graph.node("Clip", &[x, &least, &most], output);
    }

    /// The one number of each row, by itself.
    fn single(&mut self, raw: &str) -> String {
        let row = self.mean(raw, 2, false);
        self.mean(&row, 1, false)
    }

    fn unlike(&mut self, raw: &str, wanted: &str, width: usize, limit: f64) {
        let error = self.node("Sub", &[wanted, raw]);
        let squares = self.node("Mul", &[&error, &error]);
        let parts = self.mean(&squares, 1, false);
        let mean = self.mean(&parts, 1, false);
        let index = self.times(&mean, 1.0 / limit);
        let more = self.plus(&index, 1.0);
        self.graph.node("Div", &[&index, &more], "score");
        let ones = self.constant(&[width, 1], &vec![1.0; width]);
        let whole = self.node("MatMul", &[&parts, &ones]);
        let whole = self.plus(&whole, f64::from(SMALLEST));
        self.graph.node("Div", &[&parts, &whole], "contributions");
        self.graph.output("score", Kind::Float32, &[Dim::Batch]);
        self.graph.output("contributions", Kind::Float32, &[Dim::Batch, Dim::Fixed(width)]);
    }
}
