//! What must not be lost: the journal of ticks, the checkpoints, and the records that wait for the far side.
//!
//! `node` opens a [`Store`] and takes it apart: the engine loop keeps the [`Ledger`], each target's uplink its [`Outbox`].
//! Opening is recovery, and there is no other start: newest good checkpoint, replay of the journal behind it,
//! `reconcile` for each entry, `finish_recovery`.
//!
//! ```text
//! PATH/lock          held while the store is open
//! PATH/journal/      journal.rs     one entry a tick: time and input
//! PATH/checkpoint/   checkpoint.rs  the engine's state, two generations
//! PATH/lanes/NAME/   log.rs         the records of a lane, in segments that only grow
//! PATH/index/        kv.rs (sled)   how far each target has each lane, marks of what went, what is quarantined
//! PATH/reserve        kv.rs          space that the index may take when the disk is full
//! PATH/quarantine-T/                what was damaged at time T, for a person
//! ```

mod error;
// a start
mod open;
mod targets;
mod survey_journal;
mod survey;
mod scan;
mod recovery;
// a tick made durable
mod ledger;
mod receipt;
mod journal;
mod columns;
mod checkpoint;
mod lanes;
mod log;
mod block;
// sent, and settled
mod outbox;
mod parcel;
mod settled;
mod meter;
// what a limit takes, and what is said of it
mod room;
mod evict;
mod thin;
mod aggregate;
mod leave;
mod lost;
// the index
mod kv;
mod mem;
mod marks;
mod quarantine;
// for a person
mod inspect;

pub use block::Key;
pub use error::StoreError;
pub use evict::Retention;
pub use inspect::{Part, drop_rejected, export, has_run, inspect, rejected};
pub use kv::{Kv, Pair, SledKv};
pub use ledger::{Committed, Durability, Ledger, Resumed};
pub use mem::{MemKv, tear};
pub use meter::{LaneStats, Meter, StoreStats, Written};
pub use open::{Recovered, Store, StoreOptions};
pub use outbox::{NOT_THERE, Outbox};
pub use parcel::{Acked, Parcel, Refused};
pub use quarantine::Quarantined;
pub use receipt::{Receipt, Receipts, Released};
pub use survey_journal::Entries;
