//! What goes when an outage outlasts the disk, against a plain model: lanes that are thinned, that keep their oldest or
//! have a maximum age, two targets, kills and power cuts in any order. Whatever happens, every record is where the model
//! says, has left, or is counted in a notice of loss; a reading is in one interval at most, and in one exactly where the
//! notices say that it was thinned; and of what was thinned the worst window of each interval is there.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod store_kit;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use forebay::record::{Lane, LossRecord, Record};
use forebay::store::{
    Committed, Kv, MemKv, Receipts, Retention, Store, StoreError, StoreOptions, inspect, tear,
};
use forebay::time::{Span, Timestamp};
use proptest::prelude::*;

use store_kit::{Wish, check_books, input, options, recover, step, tick, waiting_for};

const LIMITS: [u64; 4] = [64 << 10, 20 << 10, 12 << 10, 12 << 10];
/// Ten ticks.
const THIN: Span = Span::seconds(1);
/// The second time.
const THIN_AGAIN: Span = Span::seconds(10);
const MAX_AGE: Span = Span::seconds(4);

#[derive(Clone, Debug)]
enum Op {
    /// So many ticks with these records.
    Commit(Vec<Wish>, usize),
    /// A commit during which the index fails after so many writes; then the power goes, or it is tried again.
    Break(Vec<Wish>, u64, Option<u64>),
    Settle(usize, usize),
    /// What was taken is acknowledged after another commit.
    SettleLate(usize, usize, Vec<Wish>, u64),
    Checkpoint,
    Crash(u64),
}

fn wishes() -> impl Strategy<Value = Vec<Wish>> {
    let size = prop_oneof![8 => 0_usize..300, 1 => 1000_usize..4_000];
    prop::collection::vec((0_usize..4, size), 0..24)
}

fn op() -> impl Strategy<Value = Op> {
    let budget = || prop_oneof![1_usize..2_000, 2_000_usize..30_000];
    prop_oneof![
        10 => (wishes(), 1_usize..6).prop_map(|(w, n)| Op::Commit(w, n)),
        4 => (wishes(), 0_u64..24, any::<Option<u64>>()).prop_map(|(w, n, s)| Op::Break(w, n, s)),
        2 => (0_usize..2, budget()).prop_map(|(t, b)| Op::Settle(t, b)),
        2 => (0_usize..2, budget(), wishes(), any::<u64>())
            .prop_map(|(t, b, w, m)| Op::SettleLate(t, b, w, m)),
        2 => Just(Op::Checkpoint),
        3 => any::<u64>().prop_map(Op::Crash),
    ]
}

/// What a target waits for, by lane and id.
type There = [BTreeMap<String, Record>; 4];

fn readings(record: &Record) -> u64 {
    match record {
        Record::Raw(raw) => raw.signals.values().map(|list| list.len() as u64).sum(),
        Record::Aggregate(one) => one.signals.values().flatten().map(|cell| cell.count).sum(),
        _ => 0,
    }
}

struct Bed {
    kv: Arc<MemKv>,
    options: StoreOptions,
    store: Option<Store>,
    committed: Committed,
    seq: u64,
    /// By target.
    waits: [There; 2],
    /// What left and may not be durable: it may wait again after a crash.
    left: [BTreeSet<String>; 2],
    /// Ids of notices that were seen.
    said: BTreeSet<String>,
    reasons: BTreeMap<String, u64>,
}

impl Bed {
    fn new(path: &Path) -> Bed {
        let mut options = options(path, LIMITS);
        options.targets = vec!["near".into(), "far".into()];
        let thin = Some(THIN);
        options.retention[1] = Retention { keep_oldest: true, thin, ..Retention::default() };
        options.retention[2] = Retention { max_age: Some(MAX_AGE), thin, ..Retention::default() };
        options.retention[3] = Retention { thin, ..Retention::default() };
        let kv = Arc::new(MemKv::new());
        let mut store = Store::open_on(Arc::clone(&kv) as Arc<dyn Kv>, &options).unwrap();
        let committed = recover(&mut store).committed;
        Bed {
            kv,
            options,
            store: Some(store),
            committed,
            seq: 0,
            waits: Default::default(),
            left: Default::default(),
            said: BTreeSet::new(),
            reasons: BTreeMap::new(),
        }
    }

    fn store(&mut self) -> &mut Store {
        self.store.as_mut().expect("open between operations")
    }

    fn there(&mut self, target: usize) -> There {
        let upto = self.committed;
        Lane::ALL.map(|lane| {
            let all = waiting_for(self.store(), target, lane, upto);
            let count = all.len();
            let all: BTreeMap<_, _> =
                all.into_iter().map(|(_, record)| (record.id().to_owned(), record)).collect();
            assert_eq!(all.len(), count, "no id waits twice");
            all
        })
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Commit(wishes, times) => (0..times).for_each(|_| self.commit(&wishes)),
            Op::Break(wishes, writes, seed) => self.break_in(&wishes, writes, seed),
            Op::Settle(target, budget) => self.settle(target, budget, None),
            Op::SettleLate(target, budget, wishes, mask) => {
                self.settle(target, budget, Some((&wishes, mask)));
            }
            Op::Checkpoint => {
                let seq = self.seq;
                self.store().ledger.checkpoint(&store_kit::checkpoint(seq)).unwrap();
                self.left = Default::default();
            }
            Op::Crash(seed) => self.crash(seed, None),
        }
        let committed = self.committed;
        check_books(self.store(), committed);
    }

    /// One commit.
    fn commit(&mut self, wishes: &[Wish]) {
        self.seq += 1;
        let step = step(tick(self.seq), input(wishes));
        self.committed = self.store().ledger.commit(&step, &mut Receipts::new()).unwrap().0;
        self.add(wishes);
        self.compare(true);
    }

    fn add(&mut self, wishes: &[Wish]) {
        for out in step(tick(self.seq), input(wishes)).records {
            for waits in &mut self.waits {
                waits[out.lane as usize].insert(out.record.id().to_owned(), out.record.clone());
            }
        }
    }

    /// Compares what waits with the model, and takes over what the notices allow. `exact`: right after a commit.
    fn compare(&mut self, exact: bool) {
        let there = [self.there(0), self.there(1)];
        let mut new: BTreeMap<String, LossRecord> = BTreeMap::new();
        for record in there.iter().flat_map(|there| there[0].values()) {
            let Record::Loss(loss) = record else { continue };
            assert_ne!(loss.reason, "damaged", "nothing was damaged: {loss:?}");
            assert_eq!(loss.unread, 0, "{loss:?}");
            if !self.said.contains(&loss.id) {
                new.insert(loss.id.clone(), loss.clone());
            }
        }
        for loss in new.values() {
            *self.reasons.entry(format!("{} {}", loss.lane.name(), loss.reason)).or_default() += 1;
        }
        self.said.extend(new.keys().cloned());
        for (target, there) in there.iter().enumerate() {
            for lane in Lane::ALL {
                let losses: Vec<_> = new.values().filter(|loss| loss.lane == lane).collect();
                let waits = std::mem::take(&mut self.waits[target][lane as usize]);
                law(&waits, &there[lane as usize], &losses, &self.left[target], exact);
                self.waits[target][lane as usize] = there[lane as usize].clone();
            }
        }
        if exact {
            // The count is that of the target that lost most.
            for lane in Lane::ALL {
                let of = new.values().filter(|loss| loss.lane == lane);
                let said: u64 = of.map(|loss| loss.count).sum();
                assert!(said == 0 || lane != Lane::Alarm, "alarms never go");
            }
        }
    }

    fn break_in(&mut self, wishes: &[Wish], writes: u64, seed: Option<u64>) {
        self.kv.fail_after(writes);
        let step = step(tick(self.seq + 1), input(wishes));
        let mut committed = self.store().ledger.commit(&step, &mut Receipts::new());
        if seed.is_none() {
            self.kv.fail_after(u64::MAX);
            if matches!(committed, Err(StoreError::Full { .. })) {
                committed = self.store().ledger.commit(&step, &mut Receipts::new());
            }
        }
        match committed {
            Ok((committed, _)) => {
                self.committed = committed;
                self.seq += 1;
                self.add(wishes);
                if let Some(seed) = seed { self.crash(seed, None) } else { self.compare(false) }
            }
            Err(error) => {
                assert!(matches!(error, StoreError::Full { .. }), "{error}");
                self.crash(seed.unwrap_or_default(), Some(wishes));
            }
        }
    }

    fn settle(&mut self, target: usize, budget: usize, late: Option<(&[Wish], u64)>) {
        let committed = self.committed;
        let next = self.store().outboxes[target].next(committed, budget).unwrap();
        let Some(parcel) = next else { return };
        let sent: BTreeSet<String> = parcel
            .records()
            .map(|(_, line)| serde_json::from_slice::<Record>(line).unwrap().id().to_owned())
            .collect();
        let mut acked = parcel.acked();
        if let Some((wishes, mask)) = late {
            self.commit(wishes);
            let keys = parcel.records().map(|(key, _)| key).enumerate();
            let some = keys.filter(|(i, _)| mask >> (i % 64) & 1 == 1).map(|(_, key)| key);
            acked = parcel.acked_keys(some.collect::<Vec<_>>());
        }
        let all = acked.len() == parcel.len();
        self.store().outboxes[target].settle(acked).unwrap();
        let there = self.there(target);
        let lane = parcel.lane as usize;
        for (index, there) in there.iter().enumerate() {
            let waits = &self.waits[target][index];
            let left: BTreeSet<_> = waits.keys().filter(|id| !there.contains_key(*id)).collect();
            let is_right = index == lane && left.iter().all(|id| sent.contains(*id));
            assert!(left.is_empty() || is_right, "only what was acknowledged leaves: {left:?}");
            assert!(late.is_some() || !all || index != lane || left.len() == sent.len());
            self.left[target].extend(left.into_iter().cloned());
        }
        self.waits[target] = there;
    }

    fn crash(&mut self, seed: u64, broken: Option<&[Wish]>) {
        let unsynced = self.store().ledger.unsynced();
        self.store = None;
        let mut random = fastrand::Rng::with_seed(seed);
        self.kv.crash(&mut |n| random.usize(..n));
        tear(&unsynced, &mut |n| random.usize(..n)).unwrap();
        let mut store = Store::open_on(Arc::clone(&self.kv) as Arc<dyn Kv>, &self.options).unwrap();
        let last = store.recovered.last_tick;
        assert!(last == self.seq || (broken.is_some() && last == self.seq + 1));
        let resumed = recover(&mut store);
        assert_eq!(resumed.changed, 0);
        self.committed = resumed.committed;
        self.store = Some(store);
        if let (Some(wishes), true) = (broken, last == self.seq + 1) {
            // Its number is used up; its records are there if its entry was.
            self.seq = last;
            let id = format!("{last}-0");
            if (0..2).any(|target| self.there(target).iter().any(|lane| lane.contains_key(&id))) {
                self.add(wishes);
            }
        }
        self.compare(false);
        // What was forgotten of the targets' numbers is durable now, as it is.
        self.left = Default::default();
    }
}

/// What must hold of a lane for a target: what waited, what waits, what was said of it in between, what may be back.
fn law(
    waits: &BTreeMap<String, Record>,
    there: &BTreeMap<String, Record>,
    losses: &[&LossRecord],
    left: &BTreeSet<String>,
    exact: bool,
) {
    let missing: Vec<&Record> =
        waits.iter().filter(|(id, _)| !there.contains_key(*id)).map(|(_, r)| r).collect();
    let new: Vec<&Record> =
        there.iter().filter(|(id, _)| !waits.contains_key(*id)).map(|(_, r)| r).collect();
    for record in &new {
        let is_made = matches!(record, Record::Aggregate(_) | Record::Loss(_));
        assert!(is_made || left.contains(record.id()), "{} is back", record.id());
    }
    let said: u64 = losses.iter().map(|loss| loss.count).sum();
    let count = missing.len() as u64;
    assert!(count <= said, "{count} are gone and {said} are said: {losses:?} {:?}", missing[0]);
    let made = new.iter().filter(|record| matches!(record, Record::Aggregate(_)));
    let made: u64 = made.map(|record| readings(record)).sum();
    let gone: u64 = missing.iter().map(|record| readings(record)).sum();
    if exact {
        assert!(made <= gone, "{made} readings are in intervals, {gone} are gone: {losses:?}");
    }
    let only_thinned = losses.iter().all(|loss| loss.reason == "thinned");
    if only_thinned && left.is_empty() {
        assert_eq!(made, gone, "what is thinned is in intervals: {losses:?}");
    }
    for record in missing {
        let (asset, at) = subject(record);
        let names = |loss: &&&LossRecord| {
            loss.assets.contains(&asset)
                && loss.from.is_some_and(|from| from <= at)
                && loss.to.is_some_and(|to| at <= to)
        };
        assert!(losses.iter().any(|loss| names(&loss)), "{} is in no notice", record.id());
        let Record::Score(score) = record else { continue };
        let Some(Some(risk)) = score.scores.get("risk") else { continue };
        if only_thinned {
            let keeps = |one: &Record| match one {
                Record::Score(other) => {
                    let same = other.asset == asset
                        && other.window_end.floor(THIN_AGAIN) == at.floor(THIN_AGAIN);
                    same && other.scores["risk"].is_some_and(|kept| kept >= *risk)
                }
                _ => false,
            };
            assert!(there.values().any(keeps), "the peak {risk} of {asset} at {at} is gone");
        }
    }
}

fn subject(record: &Record) -> (String, Timestamp) {
    match record {
        Record::Raw(raw) => (raw.asset.clone(), raw.signals["s"][0].0),
        Record::Aggregate(one) => (one.asset.clone(), one.signals["s"][0].last_at),
        Record::Score(score) => (score.asset.clone(), score.window_end),
        _ => panic!("{record:?} is gone"),
    }
}

fn play(ops: Vec<Op>) -> BTreeMap<String, u64> {
    let folder = folder();
    let mut bed = Bed::new(folder.path());
    for op in ops {
        bed.run(op);
    }
    bed.run(Op::Crash(1));
    for target in 0..2 {
        while bed.waits[target].iter().any(|lane| !lane.is_empty()) {
            bed.settle(target, 5_000, None);
        }
    }
    bed.run(Op::Checkpoint);
    let stats = bed.store().ledger.stats();
    assert_eq!(stats.sum(|lane| lane.queued_bytes), 0, "{stats:?}");
    bed.reasons
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_goes_is_said_and_what_is_thinned_is_kept(ops in prop::collection::vec(op(), 1..40)) {
        play(ops);
    }
}

/// The same with what surely happens: the test above must not pass because nothing was ever thinned.
#[test]
fn every_way_of_losing_records_occurs() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut ops = Vec::new();
    for round in 0..60 {
        let wishes = (0..12).map(|_| (random.usize(..4), random.usize(..400))).collect();
        ops.push(Op::Commit(wishes, 3));
        if round % 9 == 0 {
            ops.push(Op::Crash(round));
        }
    }
    let reasons = play(ops);
    for reason in ["raw thinned", "score thinned", "score lane limit", "feature max age"] {
        assert!(reasons.contains_key(reason), "{reason}: {reasons:?}");
    }
    assert!(reasons.contains_key("raw lane limit"), "{reasons:?}");
}

/// Where the index is lost, nobody knows which numbers have no record any more: that is found out block by block.
#[test]
fn a_thinned_store_whose_index_is_lost_still_counts_each_reading_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path(), LIMITS);
    options.retention[3] = Retention { thin: Some(THIN), ..Retention::default() };
    let mut store = Store::open(&options).unwrap();
    let mut made = 0;
    let mut committed = recover(&mut store).committed;
    // Three segments: what is gone of the first alone is what has left.
    while store_kit::losses(&store, committed).len() < 3 {
        made += 3;
        committed = store_kit::commit(&mut store, made / 3, &[(3, 300); 3]);
    }
    store.ledger.checkpoint(&store_kit::checkpoint(made / 3)).unwrap();
    drop(store);
    let parts = inspect(folder.path()).unwrap();
    assert!(parts.iter().all(|part| part.damage.is_empty()), "{parts:?}");
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    let mut store = Store::open(&options).unwrap();
    let committed = recover(&mut store).committed;
    check_books(&store, committed);
    let there = waiting_for(&store, 0, Lane::Raw, committed);
    assert!(there.iter().any(|(_, record)| matches!(record, Record::Aggregate(_))));
    assert_eq!(there.iter().map(|(_, record)| readings(record)).sum::<u64>(), made);
}

/// What was on its way while it was thinned is not what now has its numbers: the far side has not got that.
#[test]
fn an_acknowledgement_of_what_was_thinned_meanwhile_settles_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path(), LIMITS);
    options.retention[3] = Retention { thin: Some(THIN), ..Retention::default() };
    let mut store = Store::open(&options).unwrap();
    let mut committed = recover(&mut store).committed;
    let mut sent = None;
    for seq in 1.. {
        sent = store.outboxes[0].peek(Lane::Raw, committed, usize::MAX, 0).unwrap().or(sent);
        committed = store_kit::commit(&mut store, seq, &[(3, 300); 3]);
        if store.ledger.stats().lane(Lane::Raw).evicted > 0 {
            break;
        }
    }
    let thinned = store.ledger.stats().lane(Lane::Raw).evicted;
    store.outboxes[0].settle(sent.unwrap().acked()).unwrap();
    check_books(&store, committed);
    let there = waiting_for(&store, 0, Lane::Raw, committed);
    let is_made = |record: &&Record| matches!(record, Record::Aggregate(_));
    let made = there.iter().map(|(_, record)| record).filter(is_made).map(readings);
    assert_eq!(made.sum::<u64>(), thinned);
    assert_eq!(there.len() as u64 - 3, there.iter().filter(|(_, r)| is_made(&r)).count() as u64);
}

/// A thinning that ends at any write of the index, with what was not flushed kept by the disk or lost.
#[test]
fn a_power_cut_anywhere_in_a_thinning_leaves_it_done_or_not_begun() {
    let mut outcomes = BTreeSet::new();
    for (writes, is_kept) in (0..8).flat_map(|writes| [(writes, true), (writes, false)]) {
        let folder = folder();
        let mut options = options(folder.path(), LIMITS);
        options.retention[3] = Retention { thin: Some(THIN), ..Retention::default() };
        let kv = Arc::new(MemKv::new());
        let open = || Store::open_on(Arc::clone(&kv) as Arc<dyn Kv>, &options).unwrap();
        let mut store = open();
        recover(&mut store);
        let mut seq = 0;
        let thinned = loop {
            kv.fail_after(writes);
            let step = step(tick(seq + 1), input(&[(3, 300); 3]));
            let committed = store.ledger.commit(&step, &mut Receipts::new());
            kv.fail_after(u64::MAX);
            if committed.is_err() {
                break false;
            }
            seq += 1;
            if store.ledger.stats().lane(Lane::Raw).evicted > 0 {
                break true;
            }
        };
        drop(store);
        kv.crash(&mut |n| if is_kept { n - 1 } else { 0 });
        let mut store = open();
        let committed = recover(&mut store).committed;
        check_books(&store, committed);
        let there = waiting_for(&store, 0, Lane::Raw, committed);
        let said: u64 = store_kit::losses(&store, committed).iter().map(|loss| loss.count).sum();
        assert_eq!(there.iter().map(|(_, record)| readings(record)).sum::<u64>(), seq * 3);
        let whole = there.iter().filter(|(_, record)| matches!(record, Record::Raw(_))).count();
        assert_eq!(whole as u64 + said, seq * 3, "after {writes} writes, kept: {is_kept}");
        outcomes.insert((thinned, said > 0));
    }
    // It came to its end; it was begun and is finished by the start; it was not begun.
    assert_eq!(
        outcomes.into_iter().collect::<Vec<_>>(),
        [(false, false), (false, true), (true, true)]
    );
}

fn folder() -> tempfile::TempDir {
    // Every commit syncs: in memory, where there is such a file system.
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    folder.unwrap()
}
