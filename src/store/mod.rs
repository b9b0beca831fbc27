//! (being written)
mod error;
mod ledger;
mod outbox;
pub use ledger::Ledger;
mod receipt;
pub use error::StoreError;
pub use outbox::{Acked, Committed, Key, Outbox, Parcel, Refused};
pub use receipt::{Receipt, Receipts, Released};
