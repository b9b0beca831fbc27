//! The parts of the simulated device's world.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(unreachable_pub, reason = "a test's own parts")]

pub mod broker;
pub mod far;
pub mod node;
pub mod plant;
pub mod world;
