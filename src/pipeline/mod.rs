//! Pipelines: from file to running stages.

pub mod names;
pub mod plan;
pub mod spec;
