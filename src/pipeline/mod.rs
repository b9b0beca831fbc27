//! Pipelines: from file to running stages.

pub mod spec;
pub mod names;
pub mod kind;
pub mod load;
mod rules;
pub mod plan;
