//! The device: engine, ledger and outbox, put together as `node` does it, with a clock that is a number.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fastrand::Rng;

use super::broker::Broker;
use super::far::Far;
use super::{SimulatedError, ensure, plant};
use crate::engine::{Engine, Pipeline};
use crate::record::{Lane, Step};
use crate::store::{
    Committed, Durability, Kv, Ledger, MemKv, Outbox, Parcel, Receipt, Receipts, Released,
    Retention, Store, StoreError, StoreOptions,
};
use crate::time::Timestamp;

/// The far sides: each has its own queue, and none knows of the other.
pub(super) const TARGETS: [&str; 2] = ["far", "farther"];

pub(super) struct Device {
    engine: Engine,
    ledger: Ledger,
    committed: Committed,
    /// One a target, with the parcels that are on the way.
    outboxes: Vec<(Outbox, Vec<Parcel>)>,
    /// A tick that is not durable yet.
    open: Option<(Step, Receipts)>,
    /// In which tick windows and alarms were made, by id.
    pub(super) made: Vec<(String, u64)>,
}

/// Parcels that may be on the way to a target at once.
const ON_THE_WAY: usize = 3;

/// What becomes of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Send {
    NotArrived,
    /// The far side has it, and the answer is lost.
    NotAnswered,
    Answered,
    /// Only some of it was, as MQTT acknowledges.
    AnsweredPartly,
}

pub(super) fn options(
    path: &Path,
    lane_limits: [u64; 4],
    retention: [Retention; 4],
    now: Timestamp,
) -> StoreOptions {
    StoreOptions {
        path: path.to_path_buf(),
        node: "simulated".into(),
        targets: TARGETS.map(str::to_owned).into(),
        lane_limits,
        retention,
        free_floor: 0,
        durability: Durability::Tick,
        now,
    }
}

impl Device {
    /// Recovery, the only start there is.
    pub(super) fn start(kv: &Arc<MemKv>, options: &StoreOptions) -> Result<Device, SimulatedError> {
        let kv = Arc::clone(kv) as Arc<dyn Kv>;
        let Store { mut ledger, outboxes, mut recovered } = Store::open_on(kv, options)?;
        let mut engine = plant::engine()?;
        if let Some(checkpoint) = &recovered.checkpoint {
            let notes = engine.restore(checkpoint);
            ensure(notes.as_ref().is_ok_and(Vec::is_empty), || format!("{notes:?}"))?;
        }
        for entry in recovered.entries.by_ref() {
            let (tick, input) = entry?;
            ledger.reconcile(&engine.replay(tick, input))?;
        }
        engine.resume_after(recovered.last_tick);
        let resumed = ledger.finish_recovery()?;
        ensure(resumed.changed == 0, || "a replay made other records".into())?;
        let outboxes: Vec<_> = outboxes.into_iter().map(|outbox| (outbox, Vec::new())).collect();
        ensure(outboxes.len() == TARGETS.len(), || format!("{} outboxes", outboxes.len()))?;
        let (committed, open, made) = (resumed.committed, None, Vec::new());
        Ok(Device { engine, ledger, committed, outboxes, open, made })
    }

    /// Computes and commits a tick of these deliveries. Its receipts are not given back yet.
    pub(super) fn commit(
        &mut self,
        broker: &Broker,
        deliveries: &[(u64, u64)],
        now: Timestamp,
    ) -> Result<Released, StoreError> {
        let messages: Vec<u64> = deliveries.iter().map(|(_, message)| *message).collect();
        let mut receipts = Receipts::new();
        for (token, _) in deliveries {
            receipts.push(Receipt { connection: broker.connection, token: *token });
        }
        let step = self.engine.step(plant::input(&messages), now);
        let windows = step.records.iter().filter(|out| out.lane != Lane::Raw);
        self.made.extend(windows.map(|out| (out.record.id().to_owned(), step.tick.seq)));
        self.open = Some((step, receipts));
        self.commit_again()
    }

    /// Commits the tick that found the disk full.
    pub(super) fn commit_again(&mut self) -> Result<Released, StoreError> {
        let (step, receipts) = self.open.as_mut().expect("invariant: only a tick that is open");
        let (committed, released) = self.ledger.commit(step, receipts)?;
        self.committed = committed;
        self.open = None;
        Ok(released)
    }

    /// A tick. What is durable is acknowledged, unless the connection is lost meanwhile.
    pub(super) fn tick(
        &mut self,
        broker: &mut Broker,
        deliveries: &[(u64, u64)],
        now: Timestamp,
        random: &mut Rng,
    ) -> Result<(), SimulatedError> {
        let released = self.commit(broker, deliveries, now)?;
        Device::acknowledge(broker, &released, random)
    }

    /// Acknowledges what is durable, as far as the connection holds.
    pub(super) fn acknowledge(
        broker: &mut Broker,
        released: &Released,
        random: &mut Rng,
    ) -> Result<(), SimulatedError> {
        let count = released.iter().count();
        let lost_after = if random.u8(..20) == 0 { random.usize(..=count) } else { usize::MAX };
        for (place, receipt) in released.iter().enumerate() {
            if place == lost_after {
                broker.reconnect(random);
            }
            broker.acknowledge(receipt.connection, receipt.token)?;
        }
        Ok(())
    }

    pub(super) fn checkpoint(&mut self) -> Result<(), SimulatedError> {
        let checkpoint = self.engine.checkpoint();
        let checkpoint = checkpoint.map_err(|e| SimulatedError::Broken(e.to_string()))?;
        Ok(self.ledger.checkpoint(&checkpoint)?)
    }

    /// Sends another parcel to a target, and learns of one that is on the way; `false`: nothing waits. One whose answer is
    /// lost is sent again as it is, or given up, and then its records are picked again.
    pub(super) fn send(
        &mut self,
        target: usize,
        far: &mut Far,
        how: Send,
        budget: usize,
        random: &mut Rng,
    ) -> Result<bool, SimulatedError> {
        let (outbox, on_the_way) = &mut self.outboxes[target];
        if on_the_way.len() < ON_THE_WAY
            && let Some(next) = outbox.next(self.committed, budget)?
        {
            outbox.sets_out(&next);
            on_the_way.push(next);
        }
        if on_the_way.is_empty() {
            return Ok(false);
        }
        let parcel = on_the_way.swap_remove(random.usize(..on_the_way.len()));
        let keys: Vec<_> = parcel.records().map(|(key, _)| key).collect();
        let some = if how == Send::AnsweredPartly { keys.len() / 2 } else { keys.len() };
        if how != Send::NotArrived {
            parcel.records().take(some.max(1)).try_for_each(|(_, line)| far.take(line))?;
        }
        let is_lost = matches!(how, Send::NotArrived | Send::NotAnswered);
        if is_lost && random.bool() {
            on_the_way.push(parcel);
            return Ok(true);
        }
        outbox.is_back(&parcel);
        if !is_lost {
            outbox.settle(parcel.acked_keys(keys.into_iter().take(some)))?;
        }
        Ok(true)
    }

    pub(super) fn flush(&mut self) -> Result<(), SimulatedError> {
        self.outboxes.iter_mut().try_for_each(|(outbox, _)| Ok(outbox.flush()?))
    }

    /// Files that are not durable to their end, and how much of each is.
    pub(super) fn unsynced(&self) -> Vec<(PathBuf, u64)> {
        self.ledger.unsynced()
    }

    /// Readings used, where the books of both pipelines close.
    pub(super) fn used(&self) -> Result<u64, SimulatedError> {
        let accounts = self.engine.pipelines().iter().map(Pipeline::account);
        for account in accounts.clone() {
            ensure(account.gap() == 0, || format!("{account:?}"))?;
        }
        Ok(accounts.map(|account| account.used).min().unwrap_or_default())
    }
}
