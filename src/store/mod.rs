//! What must not be lost: the journal of ticks, the checkpoints, and the records that wait for the far side.
//!
//! `node` opens a [`Store`] and takes it apart: the engine loop keeps the [`Ledger`], the uplink the [`Outbox`].
//! Opening is recovery, and there is no other start: newest good checkpoint, replay of the journal behind it,
//! `reconcile` for each entry, `finish_recovery`.
//!
//! ```text
//! PATH/lock          held while the store is open
//! PATH/journal/      journal.rs     one entry a tick: time and input
//! PATH/checkpoint/   checkpoint.rs  the engine's state, two generations
//! PATH/outbox/       kv.rs (sled)   records, marks, rejected messages
//! PATH/quarantine-T/                what was damaged at time T, for a person
//! ```

mod checkpoint;
mod codec;
mod columns;
mod error;
mod evict;
mod journal;
mod kv;
mod ledger;
mod marks;
mod mem;
mod meter;
mod open;
mod outbox;
mod parcel;
mod quarantine;
mod receipt;
mod survey;
mod survey_journal;

pub use codec::{Key, VALUE_MAX};
pub use error::StoreError;
pub use kv::{Kv, Pair, SledKv};
pub use ledger::{Committed, Ledger, Resumed};
pub use mem::MemKv;
pub use meter::{LaneStats, Meter, StoreStats};
pub use open::{Recovered, Store, StoreOptions};
pub use outbox::Outbox;
pub use parcel::{Acked, Parcel, Refused};
pub use quarantine::Quarantined;
pub use receipt::{Receipt, Receipts, Released};
pub use survey_journal::Entries;
