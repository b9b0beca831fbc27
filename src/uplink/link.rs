//! The contract between the uplink's loop and a way to the far side, and the one question an error answers.
//!
//! `uplink/mod.rs` runs it; `http` and `mqtt` implement it. A parcel counts as delivered only through
//! [`Acked`], which a sender makes from the far side's own acknowledgement.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::link::SetupError;
use crate::store::{Acked, Parcel};
use crate::time::Span;

/// A parcel on its way; ends with the far side's acknowledgement, or without.
pub type Sending = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// A way to the far side.
pub trait Uplink: Send {
    /// Sends a parcel. Several may be on the way at once, and come back in any order. One may be dropped half way; it is
    /// then sent again, so the far side can get a record twice, never not at all. `level` says how hard to compress it.
    fn send(&mut self, parcel: Arc<Parcel>, level: i32) -> Sending;

    /// Where to, without secrets.
    fn target(&self) -> &str;
}

/// What came of a send.
#[derive(Debug)]
pub struct Outcome {
    /// What the far side has acknowledged: all, a part, or nothing.
    pub acked: Acked,
    /// Why it was not all.
    pub error: Option<LinkError>,
    /// Bytes that went over the link, both ways, as far as this side can know: what carries them is not counted.
    pub wire: u64,
}

/// What to do after an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The same parcel again after a wait; the far side may have said how long.
    Retry {
        /// The far side's own wish.
        after: Option<Span>,
    },
    /// Never again: the far side will not take this parcel.
    Refused {
        /// Why.
        reason: String,
        /// Whether a smaller one would do.
        is_size: bool,
    },
}

/// Why a parcel was not delivered.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No connection, a lost one, or no answer in time. The far side may or may not have the parcel.
    #[error("{0}")]
    Lost(String),
    /// Another client seems to have the same client id at the broker.
    #[error("{what}")]
    Rival {
        /// For people.
        what: String,
        /// How long to leave the broker to the other.
        after: Span,
    },
    /// The far side cannot take anything just now.
    #[error("the far side is busy ({answer})")]
    Busy {
        /// What it said.
        answer: String,
        /// How long it asked to be left alone.
        after: Option<Span>,
    },
    /// The far side does not want this node: address or credentials are wrong, the records are not at fault.
    #[error(
        "the far side does not let this node in ({answer}); check the address and the credentials of the uplink"
    )]
    Unwelcome {
        /// What it said.
        answer: String,
    },
    /// The far side does not want these records.
    #[error("the far side refused the records ({answer})")]
    Refused {
        /// What it said.
        answer: String,
    },
    /// The far side does not take so much at once.
    #[error("the parcel is too large for the far side ({answer})")]
    TooLarge {
        /// What it said.
        answer: String,
    },
    /// A secret or a certificate has gone since the start.
    #[error(transparent)]
    Setup(#[from] SetupError),
}

impl LinkError {
    /// What to do.
    pub fn disposition(&self) -> Disposition {
        match self {
            LinkError::Refused { answer } => {
                Disposition::Refused { reason: answer.clone(), is_size: false }
            }
            LinkError::TooLarge { answer } => {
                Disposition::Refused { reason: answer.clone(), is_size: true }
            }
            LinkError::Busy { after, .. } => Disposition::Retry { after: *after },
            LinkError::Rival { after, .. } => Disposition::Retry { after: Some(*after) },
            LinkError::Lost(_) | LinkError::Unwelcome { .. } | LinkError::Setup(_) => {
                Disposition::Retry { after: None }
            }
        }
    }
}
