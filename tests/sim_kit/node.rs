//! The device: engine, ledger and outbox, put together as `node` does it, with a clock that is a number.

use std::path::Path;
use std::sync::Arc;

use fastrand::Rng;
use forebay::engine::{Engine, Pipeline};
use forebay::store::{
    Committed, Durability, Kv, Ledger, MemKv, Outbox, Parcel, Receipt, Receipts, Store, StoreError,
    StoreOptions,
};
use forebay::time::Timestamp;

use super::broker::Broker;
use super::far::Far;
use super::plant;

pub struct Node {
    engine: Engine,
    pub ledger: Ledger,
    outbox: Outbox,
    committed: Committed,
    /// A parcel that may have arrived.
    held: Option<Parcel>,
}

/// What becomes of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Send {
    NotArrived,
    /// The far side has it, and the answer is lost.
    NotAnswered,
    Answered,
    /// Only some of it was, as MQTT acknowledges.
    AnsweredPartly,
}

pub fn options(path: &Path, lane_limits: [u64; 4], now: Timestamp) -> StoreOptions {
    StoreOptions {
        path: path.to_path_buf(),
        node: "sim".into(),
        targets: vec!["far".into()],
        lane_limits,
        free_floor: 0,
        durability: Durability::Tick,
        now,
    }
}

impl Node {
    /// Recovery, the only start there is.
    pub fn start(kv: &Arc<MemKv>, options: &StoreOptions) -> Node {
        let kv = Arc::clone(kv) as Arc<dyn Kv>;
        let mut store = Store::open_on(kv, options).unwrap();
        let mut engine = plant::engine();
        if let Some(checkpoint) = &store.recovered.checkpoint {
            assert!(engine.restore(checkpoint).unwrap().is_empty());
        }
        for entry in store.recovered.entries.by_ref() {
            let (tick, input) = entry.unwrap();
            let step = engine.replay(tick, input);
            store.ledger.reconcile(&step).unwrap();
        }
        engine.resume_after(store.recovered.last_tick);
        let resumed = store.ledger.finish_recovery().unwrap();
        assert_eq!(resumed.changed, 0, "a replay made other records");
        let Store { ledger, mut outboxes, .. } = store;
        let outbox = outboxes.pop().unwrap();
        Node { engine, ledger, outbox, committed: resumed.committed, held: None }
    }

    /// A tick of these deliveries. What is durable is acknowledged, unless the connection has been lost meanwhile.
    pub fn tick(
        &mut self,
        broker: &mut Broker,
        deliveries: &[(u64, u64)],
        now: Timestamp,
        random: &mut Rng,
    ) -> Result<(), StoreError> {
        let messages: Vec<u64> = deliveries.iter().map(|(_, message)| *message).collect();
        let mut receipts = Receipts::new();
        for (token, _) in deliveries {
            receipts.push(Receipt { connection: broker.connection, token: *token });
        }
        let step = self.engine.step(plant::input(&messages), now);
        let (committed, released) = self.ledger.commit(&step, &mut receipts)?;
        self.committed = committed;
        let lost_after =
            if random.u8(..20) == 0 { random.usize(..=deliveries.len()) } else { usize::MAX };
        for (place, receipt) in released.iter().enumerate() {
            if place == lost_after {
                broker.reconnect(random);
            }
            broker.acknowledge(receipt.connection, receipt.token);
        }
        Ok(())
    }

    pub fn checkpoint(&mut self) -> Result<(), StoreError> {
        self.ledger.checkpoint(&self.engine.checkpoint().unwrap())
    }

    /// Sends a parcel; `false`: nothing waits.
    pub fn send(&mut self, far: &mut Far, how: Send, budget: usize) -> Result<bool, StoreError> {
        let Some(next) = self.outbox.next(self.committed, budget)? else { return Ok(false) };
        let first = |parcel: &Parcel| parcel.records().next().map(|(key, _)| key);
        let parcel = match self.held.take() {
            Some(held) if first(&held) == first(&next) => held,
            _ => next,
        };
        let keys: Vec<_> = parcel.records().map(|(key, _)| key).collect();
        let some = if how == Send::AnsweredPartly { keys.len() / 2 } else { keys.len() };
        if how != Send::NotArrived {
            parcel.records().take(some.max(1)).for_each(|(_, line)| far.take(line));
        }
        match how {
            Send::Answered => self.outbox.settle(parcel.acked())?,
            Send::AnsweredPartly => {
                self.outbox.settle(parcel.acked_keys(keys.into_iter().take(some)))?;
            }
            Send::NotArrived | Send::NotAnswered => self.held = Some(parcel),
        }
        Ok(true)
    }

    /// The books of both pipelines close, and say how many readings were used.
    pub fn used(&self) -> u64 {
        let accounts = self.engine.pipelines().iter().map(Pipeline::account);
        for account in accounts.clone() {
            assert_eq!(account.gap(), 0, "{account:?}");
        }
        accounts.map(|account| account.used).min().unwrap()
    }
}
