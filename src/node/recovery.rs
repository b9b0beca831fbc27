//! The only way a node starts: newest good checkpoint, the journal behind it, and what the outbox lacks.
//!
//! `node` calls it once, before anything else touches the store. Afterwards engine and ledger stand where the last
//! acknowledged reading left them. What had to be repaired, set aside or left behind is logged. A full disk is waited for.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::NodeError;
use crate::engine::Engine;
use crate::store::{Committed, Ledger, Outbox, Store, StoreError, StoreOptions};
use crate::time::monotonic;

/// How long a full disk is left alone between two tries.
const FULL_WAIT: Duration = Duration::from_millis(500);

/// A store whose past has been replayed.
pub(super) struct Ready {
    pub(super) ledger: Ledger,
    pub(super) outboxes: Vec<Outbox>,
    pub(super) committed: Committed,
}

/// Waits where the disk is full, and says so; until `stop`.
pub(super) struct Patience {
    /// What the start waits for; empty: nothing.
    pub(super) waits_for: watch::Sender<String>,
    pub(super) stop: CancellationToken,
}

impl Patience {
    /// Tries until the disk is not full.
    fn with<T>(&self, mut work: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
        loop {
            match work() {
                Err(error @ StoreError::Full { .. }) if !self.stop.is_cancelled() => {
                    if self.waits_for.borrow().is_empty() {
                        tracing::error!(%error, "the start waits until there is space on the disk");
                        let why = "the disk is full: the node starts when there is space";
                        self.waits_for.send_replace(why.to_owned());
                    }
                    std::thread::park_timeout(FULL_WAIT);
                }
                done => return done,
            }
        }
    }
}

/// Opens the store and brings the engine to where it was.
pub(super) fn recover(
    mut engine: Engine,
    options: &StoreOptions,
    patience: &Patience,
) -> Result<(Engine, Ready), NodeError> {
    let started = monotonic();
    let Store { mut ledger, outboxes, recovered } = patience.with(|| Store::open(options))?;
    for note in &recovered.notes {
        tracing::warn!("{note}");
    }
    if let Some(checkpoint) = &recovered.checkpoint {
        match engine.restore(checkpoint) {
            Ok(notes) => notes.iter().for_each(|note| tracing::warn!("{note}")),
            Err(error) => tracing::error!("{error}; pipelines start without memory"),
        }
    }
    let mut replayed = 0_u64;
    for entry in recovered.entries {
        let (tick, input) = entry?;
        let step = engine.replay(tick, input);
        patience.with(|| ledger.reconcile(&step))?;
        replayed += 1;
    }
    for failure in engine.take_failures() {
        tracing::error!(
            pipeline = failure.pipeline,
            reason = failure.reason,
            "failed on the journal"
        );
    }
    engine.resume_after(recovered.last_tick);
    let resumed = patience.with(|| ledger.finish_recovery())?;
    tracing::info!(
        ticks_replayed = replayed,
        records_made_again = resumed.put_back,
        took_ms = started.elapsed().as_millis() as u64,
        "recovered"
    );
    Ok((engine, Ready { ledger, outboxes, committed: resumed.committed }))
}
