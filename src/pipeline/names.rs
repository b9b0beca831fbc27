//! Names of what a window stage computes, in model order.

use super::spec::WindowSpec;
use crate::schema::Schema;

/// `signal.feature` for every signal looked at and every feature listed.
pub fn feature_names(schema: &Schema, window: &WindowSpec) -> Vec<String> {
    let all: Vec<String> = schema.signals.iter().map(|s| s.name.clone()).collect();
    let signals = window.signals.as_ref().unwrap_or(&all);
    signals.iter().flat_map(|s| window.features.iter().map(move |f| format!("{s}.{f}"))).collect()
}
