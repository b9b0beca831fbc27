//! What an operator asks about records that a far side refused: to see them, to send them once more, to drop them.
//!
//! `feed` makes inquiries of requests, the target's uplink answers them, `node` gives each its end of the queue. They
//! change nothing that is computed, so they need no journal.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

/// Inquiries that may wait for an uplink.
const WAITING: usize = 16;

/// A refused record.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Held {
    /// Its number among the refused ones of its target.
    pub number: u64,
    /// Why it was refused.
    pub why: String,
    /// Lane, tick and place in the tick.
    pub key: String,
    /// Its size.
    pub bytes: u64,
    /// The record; null where it was too large to be kept whole.
    pub record: Option<Value>,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The newest so many, newest first.
    List(usize),
    /// Send these once more; what the far side takes is off the list.
    Retry(Vec<u64>),
    /// Drop these for good.
    Drop(Vec<u64>),
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// What was asked for, of a list.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<Held>,
    /// Numbers that are off the list now.
    pub done: Vec<u64>,
    /// Numbers that are not, each with the reason.
    pub failed: BTreeMap<u64, String>,
}

/// An ask on its way, and where its answer goes; an error says that the store failed.
#[derive(Debug)]
pub struct Inquiry {
    /// What is asked.
    pub ask: Ask,
    /// Its answer.
    pub answer: oneshot::Sender<Outcome>,
}

/// The uplinks, by target.
#[derive(Clone, Debug, Default)]
pub struct Desks(BTreeMap<String, mpsc::Sender<Inquiry>>);

impl Desks {
    /// Adds a target; gives the end that its uplink reads.
    pub fn add(&mut self, target: &str) -> mpsc::Receiver<Inquiry> {
        let (sender, receiver) = mpsc::channel(WAITING);
        self.0.insert(target.to_owned(), sender);
        receiver
    }

    /// The targets.
    pub fn targets(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Asks a target's uplink. `None`: there is no such target, or its uplink is busy or has ended.
    pub async fn ask(&self, target: &str, ask: Ask) -> Option<Outcome> {
        let (answer, answered) = oneshot::channel();
        self.0.get(target)?.try_send(Inquiry { ask, answer }).ok()?;
        answered.await.ok()
    }
}
