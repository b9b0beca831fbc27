//! Forebay: sensor readings in over MQTT, scored windows, alarms and records out, nothing lost on the way.
//!
//! The modules stand in the order in which a reading passes them. What follows is the map, ARCHITECTURE.md.
#![doc = include_str!("../ARCHITECTURE.md")]

// words
pub mod time;
pub mod schema;
pub mod command;
pub mod frame;
pub mod record;
pub mod usage;
pub mod metrics;
// what the edges share
pub mod link;
// in
pub mod ingest;
pub mod decode;
// core
pub mod engine;
pub mod stage;
pub mod model;
// durable
pub mod store;
// out
pub mod uplink;
pub mod feed;
// assembly
pub mod config;
pub mod diagnose;
pub mod pipeline;
pub mod evaluate;
pub mod node;
pub mod receive;
pub mod demo;
pub mod torture;
pub mod cli;
