//! What the numbers of a window are called, and in which order models see them.
//!
//! `plan` lays out features by [`feature_names`], `check` compares models with it, `train` writes it into models.

use super::spec::{ModelInput, PipelineSpec, ScoreSpec, WindowSpec};
use crate::model::training::TrainingSet;
use crate::schema::Schema;
use crate::stage::features::Feature;
use crate::time::Step;

pub use crate::stage::features::NAMES as FEATURES;

/// Whether `window` can compute `name`: one of [`FEATURES`], or a quantile `p1` to `p99`. Each has one spelling (no
/// `p05`), because models know features by name.
pub fn is_feature(name: &str) -> bool {
    name.parse::<Feature>().is_ok_and(|feature| feature.to_string() == name)
}

/// The signals that windows look at, in the order in which models see them.
pub fn window_signals(schema: &Schema, window: &WindowSpec) -> Vec<String> {
    match &window.signals {
        Some(signals) => signals.clone(),
        None => schema.signals.iter().map(|s| s.name.clone()).collect(),
    }
}

/// The names of a window's features, `signal.feature`: signal by signal (as the schema or `signals` has them), and
/// for each its features as typed.
pub fn feature_names(schema: &Schema, window: &WindowSpec) -> Vec<String> {
    let of = |signal: String| {
        let names = window.features.iter().map(move |feature| format!("{signal}.{feature}"));
        names.collect::<Vec<_>>()
    };
    window_signals(schema, window).into_iter().flat_map(of).collect()
}

/// What is known of a pipeline's windows before any is made: a set to learn from, without windows. With `samples`, they are
/// samples and not features where the pipeline's first score is given these.
pub fn training_set(
    spec: &PipelineSpec,
    schema: &Schema,
    name: &str,
    samples: bool,
) -> TrainingSet {
    let step = spec.grid().map(|grid| grid.every);
    let mut set = TrainingSet { name: name.to_owned(), ..TrainingSet::default() };
    set.step = step.map(Step::span);
    let Some(window) = spec.window() else { return set };
    set.window = Some(window.length);
    set.every = Some(window.every.unwrap_or(window.length));
    let unit = |signal: &String| {
        let found = schema.signals.iter().find(|s| s.name == *signal);
        found.map_or_else(String::new, |s| s.unit.clone())
    };
    let signals = window_signals(schema, window);
    let is_given = |score: &ScoreSpec| score.input != ModelInput::Features;
    let wants_samples = samples && spec.scores().next().is_some_and(is_given);
    if let Some(step) = step.filter(|_| wants_samples) {
        set.steps = step.count(window.length) as usize;
        set.units = signals.iter().map(unit).collect();
        set.names = signals;
    } else {
        let units = |signal| std::iter::repeat_n(unit(signal), window.features.len());
        set.units = signals.iter().flat_map(units).collect();
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_p1_to_p99() {
        for (name, is) in [
            ("p1", true),
            ("p99", true),
            ("p0", false),
            ("p100", false),
            ("p05", false),
            ("p", false),
            ("p+5", false),
            ("mean", true),
        ] {
            assert_eq!(is_feature(name), is, "{name}");
        }
    }
}
