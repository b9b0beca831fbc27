//! How weights follow their gradients. `learn` calls it once a batch; what it remembers is in the checkpoint.

use burn_tensor::Tensor;

use super::options::{Optimiser, Options};

const MOMENTUM: f64 = 0.9;
/// Of Adam: how long means of gradients and of their squares reach back.
const BETAS: (f64, f64) = (0.9, 0.999);
const EPSILON: f64 = 1e-8;

/// One tensor of weights, and what is remembered of its gradients.
pub(super) struct Moving {
    pub(super) value: Tensor<1>,
    pub(super) first: Tensor<1>,
    pub(super) second: Tensor<1>,
    /// Whether it stays as it is.
    pub(super) frozen: bool,
    /// Whether it shrinks: biases and gains do not.
    pub(super) decays: bool,
}

impl Moving {
    /// Takes step number `step` (from 1) along `gradient`.
    pub(super) fn follow(&mut self, gradient: Tensor<1>, step: u64, rate: f64, options: &Options) {
        let decay = if self.decays { options.weight_decay } else { 0.0 };
        let value = self.value.clone();
        let apart = options.optimiser == Optimiser::AdamW;
        let gradient =
            if decay > 0.0 && !apart { gradient + value.clone() * decay } else { gradient };
        let change = match options.optimiser {
            Optimiser::Sgd => gradient,
            Optimiser::Momentum => {
                self.first = self.first.clone() * MOMENTUM + gradient;
                self.first.clone()
            }
            Optimiser::Adam | Optimiser::AdamW => {
                let (a, b) = BETAS;
                self.first = self.first.clone() * a + gradient.clone() * (1.0 - a);
                self.second = self.second.clone() * b + gradient.clone() * gradient * (1.0 - b);
                let unbiased =
                    |mean: &Tensor<1>, beta: f64| mean.clone() / (1.0 - beta.powf(step as f64));
                unbiased(&self.first, a) / (unbiased(&self.second, b).sqrt() + EPSILON)
            }
        };
        let kept = if decay > 0.0 && apart { value * (1.0 - rate * decay) } else { value };
        self.value = kept - change * rate;
    }
}
