//! What adapts to an asset: thresholds, drift, verdicts. Formulas are held against what scipy, numpy and river make of
//! random cases (`tests/adapt/oracle.py` writes them), budgets against simulated years.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

#[path = "adapt/budget.rs"]
mod budget;
#[path = "adapt/drifts.rs"]
mod drifts;
#[path = "adapt/laws.rs"]
mod laws;
#[path = "adapt/oracle.rs"]
mod oracle;
#[path = "adapt/recalibrate.rs"]
mod recalibrate;
#[path = "adapt/verdicts.rs"]
mod verdicts;
