//! What the numbers of a window are called, and in which order models see them.
//!
//! `plan` lays out features by [`feature_names`], `check` compares models with it, `train` writes it into models.

use super::spec::WindowSpec;
use crate::schema::Schema;

/// The features that `window` knows, quantiles aside.
pub const FEATURES: [&str; 13] = [
    "mean", "std", "min", "max", "range", "rms", "slope", "skewness", "kurtosis", "crest", "first",
    "last", "coverage",
];

/// Whether `window` can compute `name`: one of [`FEATURES`], or a quantile `p1` to `p99`.
pub fn is_feature(name: &str) -> bool {
    FEATURES.contains(&name) || quantile(name).is_some()
}

/// The quantile that `name` asks for, from 0 to 1 (`p50` is 0.5).
pub fn quantile(name: &str) -> Option<f64> {
    let digits = name.strip_prefix('p').filter(|d| !d.starts_with('0'))?;
    let digits = digits.bytes().all(|b| b.is_ascii_digit()).then_some(digits)?;
    digits.parse::<u32>().ok().filter(|p| (1..=99).contains(p)).map(|p| f64::from(p) / 100.0)
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
