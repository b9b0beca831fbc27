//! What is asked of a node about its models that is no command yet: to take one in.
//!
//! `feed` and the broker's door make inquiries, `node` answers them: it reads the file, checks that it fits, puts it on
//! the shelf, and gives the order that stands in the journal.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::Refusal;

/// Inquiries that may wait: each may hold a model.
pub const WAITING: usize = 4;

/// Most files of one upload.
pub const FILES: usize = 16;

/// Characters of the name of an upload or of one of its files.
pub const NAME_MAX: usize = 64;

/// Whether an upload, or one of its files, may be called so: a file's name and nothing else.
pub fn is_plain(name: &str) -> bool {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || ['.', '-', '_'].contains(&c);
    (1..=NAME_MAX).contains(&name.len()) && !name.starts_with('.') && name.chars().all(is_fine)
}

/// A model that is to come into use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The pipeline; `None`: the one that has the score.
    pub pipeline: Option<String>,
    /// The score; `None`: the only one.
    pub score: Option<String>,
    /// The model's file, or the folder of it and its weights.
    pub path: PathBuf,
    /// Who offers it.
    pub by: Option<String>,
    /// Whether nobody asked for it just now: a message that the broker may have kept. What was withdrawn or replaced
    /// before does not come back that way.
    pub by_itself: bool,
}

/// A model that was taken in: it is in shadow now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Taken {
    /// The pipeline.
    pub pipeline: String,
    /// The score.
    pub score: String,
    /// The model's digest.
    pub digest: String,
}

/// An offer on its way, and where its answer goes.
#[derive(Debug)]
pub struct Inquiry {
    /// What is offered.
    pub offer: Offer,
    /// What became of it.
    pub answer: oneshot::Sender<Result<Taken, Refusal>>,
}

/// The door for models.
#[derive(Clone, Debug)]
pub struct ModelDoor {
    /// Where files come in.
    pub incoming: PathBuf,
    /// Most bytes of all files of a model.
    pub largest: u64,
    /// Whoever has it may write: uploads come in one at a time, so that none takes the room that another was promised.
    pub turn: Arc<tokio::sync::Mutex<()>>,
    /// To whom they are offered.
    pub desk: mpsc::Sender<Inquiry>,
}
