//! The store against a plain model: whatever is committed, settled and lost to a power cut, in whatever order, what
//! waits is what the model says.
//!
//! First on a storage engine that loses and tears unflushed keys one by one, then the same list of operations on
//! sled.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod store_kit;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use forebay::record::{Lane, Record};
use forebay::store::{Committed, Key, Kv, MemKv, Receipts, Store, StoreError, StoreOptions, tear};
use proptest::prelude::*;

use store_kit::{Wish, check_books, input, options, recover, step, tick, waiting};

/// Small, so that evictions happen.
const LIMITS: [u64; 4] = [64 << 10, 24 << 10, 12 << 10, 12 << 10];

#[derive(Clone, Debug)]
enum Op {
    Commit(Vec<Wish>),
    /// A commit during which the storage engine fails after so many writes; then the power goes.
    Break(Vec<Wish>, u64, u64),
    Settle(usize),
    /// Only some of a parcel, as MQTT acknowledges.
    SettleSome(usize, u64),
    Refuse(usize),
    Flush,
    Checkpoint,
    /// The power goes; the number decides what survives.
    Crash(u64),
    Restart,
}

fn wishes() -> impl Strategy<Value = Vec<Wish>> {
    let size = prop_oneof![8 => 0_usize..300, 1 => 4000_usize..20_000];
    prop::collection::vec((0_usize..4, size), 0..24)
}

fn op() -> impl Strategy<Value = Op> {
    let budget = || prop_oneof![1_usize..2_000, 2_000_usize..60_000];
    prop_oneof![
        8 => wishes().prop_map(Op::Commit),
        2 => (wishes(), 0_u64..12, any::<u64>()).prop_map(|(w, n, s)| Op::Break(w, n, s)),
        4 => budget().prop_map(Op::Settle),
        3 => (budget(), any::<u64>()).prop_map(|(b, mask)| Op::SettleSome(b, mask)),
        1 => budget().prop_map(Op::Refuse),
        1 => Just(Op::Flush),
        2 => Just(Op::Checkpoint),
        3 => any::<u64>().prop_map(Op::Crash),
        1 => Just(Op::Restart),
    ]
}

/// The plain model: keys and ids by lane.
#[derive(Default)]
struct Model {
    queued: [BTreeMap<Key, String>; 4],
    /// What left, and whether that was made durable since.
    left: [BTreeMap<Key, bool>; 4],
    checkpoint: u64,
    seq: u64,
    /// A tick that may be in the journal or not.
    broken: Option<(u64, Vec<Wish>)>,
}

impl Model {
    fn flushed(&mut self) {
        for flushed in self.left.iter_mut().flat_map(BTreeMap::values_mut) {
            *flushed = true;
        }
    }

    fn leave(&mut self, lane: Lane, keys: &[Key]) {
        for key in keys {
            self.queued[lane as usize].remove(key).expect("only what waits is handed out");
        }
        self.left[lane as usize].extend(keys.iter().map(|key| (*key, false)));
    }

    /// Whether a record that left may wait again after a power cut.
    fn may_return(&self, key: Key) -> bool {
        self.left[key.lane as usize].get(&key).is_some_and(|flushed| !flushed)
    }
}

/// How the storage engine is opened, and how it loses power.
enum Engine {
    Mem(Arc<MemKv>),
    Sled,
}

struct Bed<'a> {
    engine: Engine,
    options: StoreOptions,
    store: Option<Store>,
    committed: Committed,
    model: Model,
    _path: &'a Path,
}

impl<'a> Bed<'a> {
    fn new(engine: Engine, path: &'a Path) -> Bed<'a> {
        let options = options(path, LIMITS);
        let mut store = open(&engine, &options);
        let committed = recover(&mut store).committed;
        Bed { engine, options, store: Some(store), committed, model: Model::default(), _path: path }
    }

    fn store(&mut self) -> &mut Store {
        self.store.as_mut().expect("open between operations")
    }

    fn there(&mut self) -> [BTreeMap<Key, Record>; 4] {
        let upto = self.committed;
        Lane::ALL.map(|lane| waiting(self.store(), lane, upto).into_iter().collect())
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Commit(wishes) => self.commit(&wishes),
            Op::Break(wishes, writes, seed) => self.break_in(&wishes, writes, seed),
            Op::Settle(budget) => self.settle(budget, u64::MAX),
            Op::SettleSome(budget, mask) => self.settle(budget, mask),
            Op::Refuse(budget) => self.refuse(budget),
            Op::Flush => {
                self.store().outboxes[0].flush().unwrap();
                self.model.flushed();
            }
            Op::Checkpoint => self.checkpoint(),
            Op::Crash(seed) => self.restart(Some(seed)),
            Op::Restart => self.restart(None),
        }
        let committed = self.committed;
        check_books(self.store(), committed);
    }

    fn commit(&mut self, wishes: &[Wish]) {
        self.model.seq += 1;
        let seq = self.model.seq;
        let step = step(tick(seq), input(wishes));
        let (committed, _) = self.store().ledger.commit(&step, &mut Receipts::new()).unwrap();
        self.committed = committed;
        self.add(seq, wishes);
        self.take_evictions(Some(seq));
    }

    fn add(&mut self, seq: u64, wishes: &[Wish]) {
        for (index, (lane, _)) in wishes.iter().enumerate() {
            let key = Key { lane: Lane::ALL[*lane], seq, ordinal: index as u32 };
            self.model.queued[*lane].insert(key, format!("{seq}-{index}"));
        }
    }

    /// What is missing must be a lane's oldest, and notices of loss must say so: exactly, if the tick is given.
    fn take_evictions(&mut self, said_at: Option<u64>) {
        let there = self.there();
        let mut said: BTreeMap<Lane, u64> = BTreeMap::new();
        let mut notices = Vec::new();
        for (key, record) in &there[0] {
            let Record::Loss(loss) = record else { continue };
            assert_ne!(loss.reason, "damaged", "nothing was damaged: {loss:?}");
            let new = self.model.queued[0].insert(*key, loss.id.clone()).is_none();
            notices.push(loss.clone());
            if new {
                assert!(said_at.is_none_or(|seq| seq == key.seq), "{loss:?} comes late");
                *said.entry(loss.lane).or_default() += loss.count;
            }
        }
        for (lane, there) in Lane::ALL.into_iter().zip(&there) {
            let queued = &mut self.model.queued[lane as usize];
            let before = queued.len();
            let missing: Vec<Key> =
                queued.keys().copied().filter(|key| !there.contains_key(key)).collect();
            let oldest: Vec<Key> = queued.keys().copied().take(missing.len()).collect();
            assert_eq!(missing, oldest, "eviction takes the oldest");
            queued.retain(|key, _| there.contains_key(key));
            let evicted = (before - queued.len()) as u64;
            if said_at.is_some() {
                assert_eq!(evicted, said.get(&lane).copied().unwrap_or(0), "{lane:?}");
            }
            for key in missing {
                let covers = notices.iter().any(|loss| {
                    loss.lane == lane && (loss.first_tick..=loss.last_tick).contains(&key.seq)
                });
                assert!(covers, "{key:?} is gone and nothing says so");
            }
        }
    }

    fn break_in(&mut self, wishes: &[Wish], writes: u64, seed: u64) {
        let Engine::Mem(kv) = &self.engine else { return self.commit(wishes) };
        kv.fail_after(writes);
        let seq = self.model.seq + 1;
        let step = step(tick(seq), input(wishes));
        match self.store().ledger.commit(&step, &mut Receipts::new()) {
            Ok((committed, _)) => {
                self.committed = committed;
                self.model.seq = seq;
                self.add(seq, wishes);
            }
            Err(error) => {
                assert!(matches!(error, StoreError::Full { .. }), "{error}");
                self.model.broken = Some((seq, wishes.to_vec()));
            }
        }
        self.restart(Some(seed));
    }

    fn settle(&mut self, budget: usize, mask: u64) {
        let committed = self.committed;
        let Some(parcel) = self.store().outboxes[0].next(committed, budget).unwrap() else {
            assert!(self.model.queued.iter().all(BTreeMap::is_empty), "something waits");
            return;
        };
        let keys: Vec<Key> = parcel.records().map(|(key, _)| key).collect();
        let oldest = self.model.queued[parcel.lane as usize].keys().copied().take(keys.len());
        assert_eq!(keys, oldest.collect::<Vec<_>>(), "the oldest go first");
        assert!(parcel.bytes() <= budget || keys.len() == 1, "the budget is kept");
        let again = self.store().outboxes[0].next(committed, budget).unwrap();
        assert_eq!(again.as_ref().map(|p| &p.id), Some(&parcel.id), "same records, same id");
        let chosen: Vec<Key> = keys
            .iter()
            .enumerate()
            .filter(|(i, _)| mask >> (i % 64) & 1 == 1)
            .map(|p| *p.1)
            .collect();
        self.store().outboxes[0].settle(parcel.acked_keys(chosen.iter().copied())).unwrap();
        self.model.leave(parcel.lane, &chosen);
        self.take_evictions(None);
    }

    fn refuse(&mut self, budget: usize) {
        let committed = self.committed;
        let Some(parcel) = self.store().outboxes[0].next(committed, budget).unwrap() else {
            return;
        };
        self.store().outboxes[0].refuse(parcel.refused("400: no such field")).unwrap();
        let kept = self.store().outboxes[0].refused(1).unwrap();
        assert_eq!(kept[0].why, "400: no such field");
        let keys: Vec<Key> = parcel.records().map(|(key, _)| key).collect();
        self.model.leave(parcel.lane, &keys);
    }

    fn checkpoint(&mut self) {
        let seq = self.model.seq;
        self.store().ledger.checkpoint(&store_kit::checkpoint(seq)).unwrap();
        self.model.checkpoint = seq;
        self.model.flushed();
    }

    fn restart(&mut self, seed: Option<u64>) {
        let (before, books) = (self.there(), self.store().outboxes[0].stats());
        let unsynced = self.store().ledger.unsynced();
        self.store = None;
        if let (Engine::Mem(kv), Some(seed)) = (&self.engine, seed) {
            let mut random = fastrand::Rng::with_seed(seed);
            kv.crash(&mut |n| random.usize(..n));
            tear(&unsynced, &mut |n| random.usize(..n)).unwrap();
        }
        let mut store = open(&self.engine, &self.options);
        let broken = self.model.broken.take();
        let last = store.recovered.last_tick;
        assert!(last == self.model.seq || broken.as_ref().is_some_and(|(seq, _)| last == *seq));
        self.model.seq = last;
        let checkpoint = store.recovered.checkpoint.as_ref().map_or(0, |c| c.tick.seq);
        assert_eq!(checkpoint, self.model.checkpoint);
        let resumed = recover(&mut store);
        self.committed = resumed.committed;
        assert_eq!(resumed.changed, 0);
        self.store = Some(store);
        let (after, books_after) = (self.there(), self.store().outboxes[0].stats());
        if let Some((seq, wishes)) = broken
            && after.iter().flatten().any(|(key, _)| key.seq == seq && key.ordinal == 0)
        {
            self.add(seq, &wishes);
        }
        for lane in Lane::ALL {
            if seed.is_none() && before[lane as usize] == after[lane as usize] {
                let bytes = books_after.lane(lane).queued_bytes;
                // A start drops what everybody has.
                assert!(bytes <= books.lane(lane).queued_bytes, "the bytes are counted alike");
            }
        }
        self.take_back();
        self.take_evictions(None);
        self.model.flushed();
    }

    /// What waits again after a start and did not before must be a permitted repeat.
    fn take_back(&mut self) {
        for (lane, there) in Lane::ALL.into_iter().zip(self.there()) {
            for (key, record) in there {
                if matches!(record, Record::Loss(_)) {
                    continue;
                }
                if !self.model.queued[lane as usize].contains_key(&key) {
                    assert!(self.model.may_return(key), "{key:?} had left and is back");
                    self.model.queued[lane as usize].insert(key, record.id().to_owned());
                }
                assert_eq!(self.model.queued[lane as usize][&key], record.id());
            }
        }
    }
}

fn open(engine: &Engine, options: &StoreOptions) -> Store {
    match engine {
        Engine::Mem(kv) => Store::open_on(Arc::clone(kv) as Arc<dyn Kv>, options).unwrap(),
        Engine::Sled => Store::open(options).unwrap(),
    }
}

fn play(engine: Engine, ops: Vec<Op>) {
    let folder = tempfile::tempdir().unwrap();
    let mut bed = Bed::new(engine, folder.path());
    for op in ops {
        bed.run(op);
    }
    bed.run(Op::Restart);
    // Drained, nothing is left over in any key space of the outbox.
    loop {
        let committed = bed.committed;
        let Some(parcel) = bed.store().outboxes[0].next(committed, 5_000).unwrap() else { break };
        let keys: BTreeSet<Key> = parcel.records().map(|(key, _)| key).collect();
        bed.store().outboxes[0].settle(parcel.acked()).unwrap();
        bed.model.leave(parcel.lane, &keys.into_iter().collect::<Vec<_>>());
    }
    assert!(bed.model.queued.iter().all(BTreeMap::is_empty), "{:?}", bed.model.queued);
    // With the next checkpoint nothing is left on the disk either.
    bed.run(Op::Checkpoint);
    let stats = bed.store().ledger.stats();
    assert_eq!(stats.sum(|lane| lane.queued_bytes), 0, "{stats:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_waits_is_what_was_committed_and_has_not_left(ops in prop::collection::vec(op(), 1..40)) {
        play(Engine::Mem(Arc::new(MemKv::new())), ops);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_same_holds_on_sled(ops in prop::collection::vec(op(), 1..40)) {
        play(Engine::Sled, ops);
    }
}
