//! What training makes small, in burn's terms. `learn` calls it; a row's loss is the mean over its numbers, and the
//! loss of a batch the mean over rows by their weights.

use burn_tensor::{Tensor, activation};

use super::Task;
use super::options::{Loss, Options};

/// The loss of a batch: `output` and `target` `[rows, numbers]`, `weights` `[rows, 1]`.
pub(super) fn loss(
    task: &Task,
    options: &Options,
    output: Tensor<2>,
    target: Tensor<2>,
    weights: Tensor<2>,
) -> Tensor<1> {
    let each = match task {
        Task::Classify { .. } => {
            let focal = match options.loss {
                Loss::CrossEntropy { focal } => focal,
                _ => 0.0,
            };
            return weighted(cross_entropy(output, target, focal), weights);
        }
        Task::RemainingLife { .. } if options.late != 1.0 => {
            let error = output - target;
            let late = error.clone().greater_elem(0.0).float() * (options.late - 1.0) + 1.0;
            errors(options.loss, error) * late
        }
        _ => errors(options.loss, output - target),
    };
    weighted(each.mean_dim(1), weights)
}

/// Of each number. A loss for classes counts as squared error where there are none.
fn errors(loss: Loss, error: Tensor<2>) -> Tensor<2> {
    match loss {
        Loss::Huber { delta } => {
            let size = error.abs();
            let near = size.clone().clamp_max(delta);
            near.clone() * near.clone() * 0.5 + (size - near) * delta
        }
        Loss::Mse | Loss::CrossEntropy { .. } => error.clone() * error,
    }
}

/// Of each row, whose target is 1 at its class.
fn cross_entropy(logits: Tensor<2>, target: Tensor<2>, focal: f64) -> Tensor<2> {
    let log = activation::log_softmax(logits, 1);
    let missed = if focal > 0.0 {
        // A probability of exactly 1 would make the gradient of a power below 1 infinite.
        let rest = (log.clone().exp() * -1.0 + 1.0).clamp_min(1e-6);
        rest.powf_scalar(focal) * log
    } else {
        log
    };
    (missed * target * -1.0).sum_dim(1)
}

fn weighted(each: Tensor<2>, weights: Tensor<2>) -> Tensor<1> {
    (each * weights.clone()).sum() / weights.sum()
}
