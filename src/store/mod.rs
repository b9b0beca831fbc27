//! (being written)
mod receipt;
pub use receipt::{Receipt, Receipts, Released};
