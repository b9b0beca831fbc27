//! What the numbers of a window are called, and in which order models see them.
//!
//! `plan` lays out features by [`feature_names`], `check` compares models with it, `train` writes it into models.

use super::spec::WindowSpec;
use crate::schema::Schema;
use crate::stage::features::Feature;

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
