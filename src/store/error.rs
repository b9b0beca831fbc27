//! What can go wrong in the store, said to the operator.
//!
//! Every file of `store` returns [`StoreError`]. The engine loop waits where a disk is full; all others end the node,
//! and mean, apart from a store that is in use: the disk is not what it should be, nothing more is stored.

use std::io;
use std::path::{Path, PathBuf};

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process holds it.
    #[error(
        "store `{path}` is in use by another forebay: stop that one, or give this node its own `store.path`"
    )]
    Locked {
        /// Its folder.
        path: PathBuf,
    },
    /// The folder cannot be made or written.
    #[error(
        "store folder `{path}` cannot be used: {source}; check that it is a folder this user may write, or change `store.path`"
    )]
    Unusable {
        /// Its folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is none where one was to be looked into.
    #[error("there is no store in `{path}`: name the folder of one with `--store`")]
    Absent {
        /// The folder.
        path: PathBuf,
    },
    /// No space is left.
    #[error(
        "no space left on the disk of `{path}`: free some, or lower the limits under `[store]`"
    )]
    Full {
        /// What was written.
        path: PathBuf,
    },
    /// The system refused to read or write.
    #[error("cannot {action} `{path}`: {source}; check the disk, then restart the node")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The storage engine refused.
    #[error("the index in `{path}` failed: {reason}; check the disk, then restart the node")]
    Engine {
        /// Its folder.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
    /// What was read is not what was written.
    #[error("{what} is damaged ({reason}): restart the node, which sets it aside and goes on")]
    Damaged {
        /// What it is.
        what: String,
        /// How that was seen.
        reason: String,
    },
    /// Written by another version.
    #[error(
        "`{path}` has format {found}, this forebay reads {expected}: use the version that wrote it, or another `store.path`"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u16,
        /// Ours.
        expected: u16,
    },
    /// Ticks must count up.
    #[error("tick {seq} cannot follow tick {last}: restart the node")]
    OutOfOrder {
        /// What was committed.
        seq: u64,
        /// What was committed before it.
        last: u64,
    },
    /// A value does not fit its format.
    #[error(
        "{what} of tick {seq} is too large to store ({bytes} bytes): lower `store.tick_readings`"
    )]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// Which tick.
        seq: u64,
        /// Its size.
        bytes: usize,
    },
    /// A value cannot be turned into bytes.
    #[error("{what} of tick {seq} cannot be encoded: {reason}")]
    Encode {
        /// What it is.
        what: &'static str,
        /// Which tick.
        seq: u64,
        /// Why.
        reason: String,
    },
    /// A write failed earlier: what is on the disk is only known after a new start.
    #[error("an earlier write to the store failed, nothing more is stored: restart the node")]
    Poisoned,
}

impl StoreError {
    /// An I/O error with what was tried on what; a full disk gets its own message.
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> StoreError {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { path },
            _ => StoreError::Io { action, path, source },
        }
    }

    /// For `map_err`: [`StoreError::io`] with its first arguments.
    pub(super) fn on(action: &'static str, path: &Path) -> impl Fn(io::Error) -> StoreError {
        move |source| StoreError::io(action, path, source)
    }
}
