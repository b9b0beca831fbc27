//! The only way a node starts: newest good checkpoint, the journal behind it, and what the outbox lacks.
//!
//! `node` calls it once, before anything else touches the store. Afterwards engine and ledger stand where the last
//! acknowledged reading left them. What had to be repaired, set aside or left behind is logged.

use super::NodeError;
use crate::engine::Engine;
use crate::store::{Committed, Ledger, Outbox, Store, StoreOptions};
use crate::time::monotonic;

/// A store whose past has been replayed.
pub(super) struct Ready {
    pub(super) ledger: Ledger,
    pub(super) outboxes: Vec<Outbox>,
    pub(super) committed: Committed,
}

/// Opens the store and brings the engine to where it was.
pub(super) fn recover(
    mut engine: Engine,
    options: &StoreOptions,
) -> Result<(Engine, Ready), NodeError> {
    let started = monotonic();
    let Store { mut ledger, outboxes, recovered } = Store::open(options)?;
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
        ledger.reconcile(&step)?;
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
    let resumed = ledger.finish_recovery()?;
    tracing::info!(
        ticks_replayed = replayed,
        records_made_again = resumed.put_back,
        took_ms = started.elapsed().as_millis() as u64,
        "recovered"
    );
    Ok((engine, Ready { ledger, outboxes, committed: resumed.committed }))
}
