//! Forebay: sensor readings in over MQTT, scored windows, alarms and records out, nothing lost on the way.
//!
//! The modules stand in the order in which a reading passes them.

// words
pub mod frame;
pub mod metrics;
pub mod record;
pub mod schema;
pub mod time;
// what the edges share
pub mod link;
// in
pub mod decode;
pub mod ingest;
// core
pub mod engine;
pub mod model;
pub mod stage;
// durable
pub mod store;
// out
pub mod feed;
pub mod uplink;
// assembly
pub mod cli;
pub mod config;
pub mod demo;
pub mod node;
pub mod pipeline;
