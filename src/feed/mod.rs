//! (being written)

pub mod mqtt;
