//! Windows as layers take them: brought to scale, in float32, with what is to be learned of each.
//!
//! `train` makes them once; `learn` takes batches of them.

use burn_tensor::{Device as Place, Tensor, TensorData};

use super::{NetError, Network, Task};
use crate::model::training::{Scaler, TrainingSet};

/// What is to be learned of each window.
#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    /// Nothing but itself.
    None,
    /// Its class.
    Classes(Vec<usize>),
    /// A number: its remaining life, or another model's score.
    Values(Vec<f64>),
}

impl Targets {
    /// Whether they are what `task` needs, one for each of `windows`.
    pub(super) fn check(&self, task: &Task, windows: usize) -> Result<(), NetError> {
        let wrong = |text: &str| Err(NetError::Targets(text.to_owned()));
        match (task, self) {
            (Task::Reconstruct | Task::Forecast, _) => Ok(()),
            (Task::Classify { labels }, Targets::Classes(classes)) => {
                let mut found: Vec<usize> = classes.clone();
                found.sort_unstable();
                found.dedup();
                match found.as_slice() {
                    _ if classes.len() != windows => wrong("there is not one class a window"),
                    [] | [_] => wrong("all windows have one class: label those with a fault too"),
                    [.., last] if *last >= labels.len() => {
                        wrong("a window has a class without a name")
                    }
                    _ => Ok(()),
                }
            }
            (Task::RemainingLife { .. } | Task::Imitate(_), Targets::Values(values)) => {
                let least = if matches!(task, Task::Imitate(_)) { f64::MIN } else { 0.0 };
                match values.iter().all(|value| value.is_finite() && *value >= least) {
                    _ if values.len() != windows => {
                        wrong("there is not one number to learn a window")
                    }
                    true => Ok(()),
                    false => wrong("a number to learn is missing or below 0"),
                }
            }
            (Task::Classify { .. }, _) => {
                wrong("windows need labels: name their column with `--label`")
            }
            _ => wrong("windows need a number to learn, each"),
        }
    }
}

/// See the module.
pub(super) struct Samples {
    input: (usize, usize),
    task: Task,
    /// `rows * steps * width`.
    values: Vec<f32>,
    /// `rows * wide`; empty where a row is its own target.
    targets: Vec<f32>,
    wide: usize,
    /// How much each row counts.
    weights: Vec<f32>,
}

impl Samples {
    /// All windows of `set`; those with missing values are never asked for.
    pub(super) fn new(
        set: &TrainingSet,
        targets: &Targets,
        network: &Network,
        scaler: &Scaler,
    ) -> Samples {
        let rows = (0..set.len()).flat_map(|index| scaler.apply(set.row(index)));
        let wide = network.wanted();
        let learned = match (&network.task, targets) {
            (Task::Classify { .. }, Targets::Classes(classes)) => classes
                .iter()
                .flat_map(|class| (0..wide).map(move |at| f32::from(u8::from(at == *class))))
                .collect(),
            (Task::RemainingLife { cap, .. }, Targets::Values(values)) => {
                values.iter().map(|value| (value.min(*cap) / cap) as f32).collect()
            }
            (Task::Imitate(scale), Targets::Values(values)) => {
                values.iter().map(|value| scale.place(*value) as f32).collect()
            }
            _ => Vec::new(),
        };
        Samples {
            input: (network.input.steps, network.input.width),
            task: network.task.clone(),
            values: rows.map(|value| value as f32).collect(),
            targets: learned,
            wide,
            weights: vec![1.0; set.len()],
        }
    }

    /// How many classes there are among `rows`, each with its number of rows. Empty where there are none.
    fn counts(&self, rows: &[usize]) -> Vec<usize> {
        if !matches!(self.task, Task::Classify { .. }) {
            return Vec::new();
        }
        let mut counts = vec![0; self.wide];
        for row in rows {
            counts[self.class(*row)] += 1;
        }
        counts
    }

    /// The class of a row.
    pub(super) fn class(&self, row: usize) -> usize {
        let of = self.targets.get(row * self.wide..(row + 1) * self.wide).unwrap_or_default();
        of.iter().position(|one| *one > 0.5).unwrap_or_default()
    }

    /// Makes each class among `rows` count as much as every other.
    pub(super) fn weigh(&mut self, rows: &[usize]) {
        let counts = self.counts(rows);
        let present = counts.iter().filter(|count| **count > 0).count().max(1);
        for &row in rows {
            if let Some(count) = counts.get(self.class(row)) {
                self.weights[row] = rows.len() as f32 / (present * count) as f32;
            }
        }
    }

    /// `rows`, those of rare classes repeated until they are as many as of the most frequent.
    pub(super) fn repeated(&self, rows: &[usize]) -> Vec<usize> {
        let counts = self.counts(rows);
        let most = counts.iter().copied().max().unwrap_or_default();
        let mut all = rows.to_vec();
        for (class, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let of: Vec<usize> =
                rows.iter().copied().filter(|row| self.class(*row) == class).collect();
            all.extend(of.iter().cycle().take(most - count));
        }
        all
    }

    /// What goes into the first layer for these rows.
    pub(super) fn input(&self, rows: &[usize], place: &Place) -> Tensor<3> {
        let (steps, width) = self.input;
        let fed = if self.task == Task::Forecast { steps - 1 } else { steps };
        let values = Self::gather(&self.values, rows, steps * width, 0..fed * width);
        Tensor::from_data(TensorData::new(values, [rows.len(), fed, width]), place)
    }

    /// What is to come out for these rows.
    pub(super) fn target(&self, rows: &[usize], place: &Place) -> Tensor<2> {
        let (steps, width) = self.input;
        let size = steps * width;
        let values = match self.task {
            Task::Reconstruct => Self::gather(&self.values, rows, size, 0..size),
            Task::Forecast => Self::gather(&self.values, rows, size, size - width..size),
            _ => Self::gather(&self.targets, rows, self.wide, 0..self.wide),
        };
        Tensor::from_data(TensorData::new(values, [rows.len(), self.wide]), place)
    }

    /// How much these rows count.
    pub(super) fn weight(&self, rows: &[usize], place: &Place) -> Tensor<2> {
        let values = Self::gather(&self.weights, rows, 1, 0..1);
        Tensor::from_data(TensorData::new(values, [rows.len(), 1]), place)
    }

    fn gather(from: &[f32], rows: &[usize], size: usize, part: std::ops::Range<usize>) -> Vec<f32> {
        let mut values = Vec::with_capacity(rows.len() * part.len());
        for row in rows {
            values.extend_from_slice(&from[row * size + part.start..row * size + part.end]);
        }
        values
    }
}
