//! The whole device, simulated: engine, ledger and outbox on a store that tears what was not synced, between a broker
//! that redelivers and reorders and a far side that accepts and then times out.
//!
//! The clock is a number, the faults come from a seed, and the same seed does the same: `tests/sim.rs` lives thousands
//! of lives, and a campaign with power cuts lives some where it may not cut a disk off its power. Each is some dozen
//! ticks long, with kills, power cuts and failing disks in it. At its end every reading that was published must have
//! come out exactly once or be named in a loss record, and windows and alarms must be those of an undisturbed run.

mod broker;
mod device;
mod far;
mod plant;
mod tear;
mod world;

pub use world::{Told, live};

use crate::store::StoreError;

/// What a life may end with.
#[derive(Debug, thiserror::Error)]
pub enum SimulatedError {
    /// The store fails, and nothing had been done to it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The simulation itself cannot be set up or go on.
    #[error("the simulation cannot use its folder: {0}")]
    Io(#[from] std::io::Error),
    /// Something that must hold does not.
    #[error("{0}")]
    Broken(String),
}

/// Fails with `what` unless it holds.
fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), SimulatedError> {
    if holds { Ok(()) } else { Err(SimulatedError::Broken(what())) }
}
