//! Pipelines: from file to running stages.

pub mod spec;
