//! (being written)

pub mod broker;
