//! How good a pipeline's answers are, on recordings with labels: through the same engine, never looking ahead.
//!
//! `cli evaluate` calls it. [`metrics`] are the measures, pure, and used by the trainers too; [`stream`] puts recordings
//! through a pipeline and keeps a verdict a window; [`labels`] reads what was true; [`floors`] are the detectors that
//! know nothing, which every number stands beside; [`suite`] runs public benchmarks by their published protocols.
//! It writes no file and prints nothing.

// what was said and what was true
pub mod stream;
pub mod labels;
// how good it is
pub mod metrics;
pub mod floors;
pub mod detection;
pub mod classes;
pub mod life;
// how it is told
pub mod rows;
pub mod plot;
pub mod report;
// public benchmarks
pub mod suite;
