//! (being written)
mod error;
mod outbox;
mod receipt;
pub use error::StoreError;
pub use outbox::{Acked, Committed, Key, Outbox, Parcel};
pub use receipt::{Receipt, Receipts, Released};
