//! What networks are made of: layers by name and size, the shapes between them, and the weights that each needs.
//!
//! `forward` computes them for training, `export` writes them as ONNX; both go by this file. Every value between two
//! layers has the shape `[rows, steps, width]`; features are one step. Nothing is computed here but sizes.

use serde::{Deserialize, Serialize};

use super::NetError;

/// Most numbers that one layer may give for a row, and most weights of one layer.
const MOST: usize = 1 << 26;

/// What one row is between two layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Steps of time.
    pub steps: usize,
    /// Numbers a step.
    pub width: usize,
}

impl Shape {
    /// Numbers of a row.
    pub fn size(self) -> usize {
        self.steps.saturating_mul(self.width)
    }
}

/// What is done to each number at the end of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// Negative ones become 0.
    Relu,
    /// Hyperbolic tangent.
    Tanh,
    /// The logistic function.
    Sigmoid,
}

/// One layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Layer {
    /// Every step by itself: `activation(x W + b)`.
    Dense {
        /// Numbers that come out.
        units: usize,
        /// At the end.
        activation: Activation,
    },
    /// Convolution along time, zeros beyond both ends: `ceil(steps / stride)` steps come out.
    Conv {
        /// Numbers that come out of each step.
        channels: usize,
        /// Steps that are looked at together; odd.
        kernel: usize,
        /// Steps from one to the next.
        stride: usize,
        /// At the end.
        activation: Activation,
    },
    /// Gated recurrent unit (Cho et al., EMNLP 2014; the reset gate after the product, as cuDNN and ONNX's
    /// `linear_before_reset` have it).
    Gru {
        /// Numbers that it remembers.
        units: usize,
        /// Whether its memory after every step comes out, or only the last.
        every: bool,
    },
    /// Steps are repeated until there are so many.
    Upsample {
        /// That come out.
        steps: usize,
    },
    /// All steps side by side become one.
    Flatten,
    /// One step is divided into so many.
    Split {
        /// That come out.
        steps: usize,
    },
    /// A learned number is added to each place, so that layers which look at all steps alike can tell them apart.
    Position,
    /// A transformer's encoder: attention of every step to every other, then two dense layers, each added to what
    /// went in and fed with it normalised (Vaswani et al., NeurIPS 2017; Xiong et al., ICML 2020).
    Encoder {
        /// Parts that attend on their own; they divide the width.
        heads: usize,
        /// Numbers between the two dense layers.
        units: usize,
    },
    /// The last step alone.
    Last,
    /// The mean of all steps.
    Mean,
}

/// How weights start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Start {
    /// Evenly between minus and plus this.
    Within(f64),
    /// All the same.
    All(f64),
}

/// A tensor of weights that a layer needs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Need {
    pub(super) name: &'static str,
    pub(super) dims: Vec<usize>,
    pub(super) start: Start,
}

fn need(name: &'static str, dims: &[usize], start: Start) -> Need {
    Need { name, dims: dims.to_vec(), start }
}

impl Layer {
    /// The shape that comes out where `input` goes in.
    pub(super) fn shape(&self, input: Shape) -> Result<Shape, NetError> {
        let Shape { steps, width } = input;
        let fault = |reason: &str| NetError::Layer {
            layer: format!("{self:?}"),
            reason: reason.to_owned(),
        };
        let out = match *self {
            Layer::Dense { units, .. } => Shape { steps, width: units },
            Layer::Conv { channels, kernel, stride, .. } => {
                if kernel % 2 == 0 || stride == 0 {
                    return Err(fault("its kernel must be odd and its stride at least 1"));
                }
                Shape { steps: steps.div_ceil(stride), width: channels }
            }
            Layer::Gru { units, every } => {
                Shape { steps: if every { steps } else { 1 }, width: units }
            }
            Layer::Upsample { steps } => Shape { steps, width },
            Layer::Flatten => Shape { steps: 1, width: input.size() },
            Layer::Split { steps: parts } => {
                if parts == 0 || input.size() % parts != 0 {
                    return Err(fault("its steps must divide the numbers that go in"));
                }
                Shape { steps: parts, width: input.size() / parts }
            }
            Layer::Encoder { heads, .. } => {
                if heads == 0 || width % heads != 0 {
                    return Err(fault("its heads must divide the width that goes in"));
                }
                input
            }
            Layer::Position => input,
            Layer::Last | Layer::Mean => Shape { steps: 1, width },
        };
        let weights: usize =
            self.needs(input).iter().map(|n| n.dims.iter().product::<usize>()).sum();
        if out.size() == 0 || out.size() > MOST || weights > MOST {
            return Err(fault("nothing comes out of it, or it is too large"));
        }
        Ok(out)
    }

    /// The weights that it needs where `input` goes in, in the order in which `forward` and `export` take them.
    pub(super) fn needs(&self, Shape { steps, width }: Shape) -> Vec<Need> {
        let within = |fan: usize| Start::Within(1.0 / (fan.max(1) as f64).sqrt());
        // Glorot and Bengio (AISTATS 2010); He et al. (ICCV 2015) where half of what comes out is cut away.
        let glorot = |into: usize, out: usize, activation: Activation| match activation {
            Activation::Relu => Start::Within((6.0 / into.max(1) as f64).sqrt()),
            _ => Start::Within((6.0 / (into + out).max(1) as f64).sqrt()),
        };
        match *self {
            Layer::Dense { units, activation } => vec![
                need("weight", &[width, units], glorot(width, units, activation)),
                need("bias", &[units], Start::All(0.0)),
            ],
            Layer::Conv { channels, kernel, activation, .. } => vec![
                need(
                    "weight",
                    &[channels, width, kernel],
                    glorot(width * kernel, channels * kernel, activation),
                ),
                need("bias", &[channels], Start::All(0.0)),
            ],
            // Gates in the order update, reset, hidden.
            Layer::Gru { units, .. } => vec![
                need("weight", &[1, 3 * units, width], within(units)),
                need("recurrent", &[1, 3 * units, units], within(units)),
                need("bias", &[1, 6 * units], within(units)),
            ],
            Layer::Position => vec![need("place", &[steps, width], Start::Within(0.02))],
            Layer::Encoder { units, .. } => {
                let square = || glorot(width, width, Activation::None);
                vec![
                    need("gain1", &[width], Start::All(1.0)),
                    need("shift1", &[width], Start::All(0.0)),
                    need("query", &[width, width], square()),
                    need("query_bias", &[width], Start::All(0.0)),
                    need("key", &[width, width], square()),
                    need("key_bias", &[width], Start::All(0.0)),
                    need("value", &[width, width], square()),
                    need("value_bias", &[width], Start::All(0.0)),
                    need("out", &[width, width], square()),
                    need("out_bias", &[width], Start::All(0.0)),
                    need("gain2", &[width], Start::All(1.0)),
                    need("shift2", &[width], Start::All(0.0)),
                    need("wide", &[width, units], glorot(width, units, Activation::Relu)),
                    need("wide_bias", &[units], Start::All(0.0)),
                    need("narrow", &[units, width], glorot(units, width, Activation::None)),
                    need("narrow_bias", &[width], Start::All(0.0)),
                ]
            }
            _ => Vec::new(),
        }
    }
}
