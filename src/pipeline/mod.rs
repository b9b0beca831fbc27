//! Pipelines: from file to running stages.

pub mod kind;
pub mod load;
pub mod names;
mod rules;
pub mod spec;
