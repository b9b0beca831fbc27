//! What the tests of the store share: an engine small enough to predict, and ways to look into a store.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(dead_code, reason = "each test uses its part")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use forebay::frame::{Input, Quality};
use forebay::record::{
    Checkpoint, Lane, LossRecord, Outgoing, RawReading, RawRecord, Record, ScoreRecord, Step,
};
use forebay::store::{
    Committed, Durability, Key, Receipts, Resumed, Retention, Store, StoreOptions,
};
use forebay::time::{Tick, Timestamp};

/// One wished-for record: its lane, and bytes of text in it.
pub(crate) type Wish = (usize, usize);

/// Ids by lane.
pub(crate) type Ids = [Vec<String>; 4];

/// An input that makes the engine below give these records.
pub(crate) fn input(wishes: &[Wish]) -> Vec<Input> {
    let mut input = Input { route: "wishes".into(), ..Input::default() };
    for (index, (lane, size)) in wishes.iter().enumerate() {
        let ts = Timestamp(index as i64);
        input.readings.push(0, *lane as u16, ts, *size as f64, Quality::Good);
    }
    vec![input]
}

/// The engine: one record a reading, made of nothing but the tick and the reading. Scored windows on lane 1, windows
/// without scores on lane 2, raw readings on the others; always of one of three assets, and at the time of the tick.
pub(crate) fn step(tick: Tick, input: Vec<Input>) -> Step {
    let mut records = Vec::new();
    for readings in input.iter().map(|input| &input.readings) {
        for (index, (lane, size)) in readings.signal.iter().zip(&readings.value).enumerate() {
            let id = format!("{}-{index}", tick.seq);
            let record = record(tick, index, usize::from(*lane), *size, id);
            records.push(Outgoing { lane: Lane::ALL[usize::from(*lane)], record });
        }
    }
    Step { tick, input, records }
}

fn record(tick: Tick, index: usize, lane: usize, size: f64, id: String) -> Record {
    let (node, pipeline) = ("n".to_owned(), "p".to_owned());
    let asset = format!("a{}", index % 3);
    let tags = BTreeMap::from([("noise".to_owned(), noise(&id, size as usize))]);
    if lane == 0 || lane == 3 {
        let signals = BTreeMap::from([("s".to_owned(), vec![RawReading(tick.now, size)])]);
        return Record::Raw(RawRecord { id, node, pipeline, asset, tags, signals });
    }
    let scores = BTreeMap::from([("risk".to_owned(), Some(size))]);
    Record::Score(ScoreRecord {
        id,
        node,
        pipeline,
        asset,
        tags,
        window_start: tick.now,
        window_end: tick.now,
        features: BTreeMap::new(),
        scores: if lane == 1 { scores } else { BTreeMap::new() },
        threshold: None,
        coverage: 1.0,
        model: (lane == 1).then(|| "m".to_owned()),
        model_version: (lane == 1).then(|| "1".to_owned()),
        models: Vec::new(),
        contributions: Vec::new(),
    })
}

/// Text that does not compress well, the same for the same id.
fn noise(id: &str, size: usize) -> String {
    let mut state = id.bytes().fold(7_u64, |all, byte| all.wrapping_mul(31) + u64::from(byte));
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'0' + (state >> 40) as u8 % 75)
    };
    (0..size).map(|_| next()).filter(|c| *c != '\\').collect()
}

pub(crate) fn tick(seq: u64) -> Tick {
    Tick { seq, now: Timestamp(seq as i64 * 100_000) }
}

pub(crate) fn options(path: &Path, lane_limits: [u64; 4]) -> StoreOptions {
    StoreOptions {
        path: path.to_path_buf(),
        node: "n".into(),
        lane_limits,
        retention: [Retention::default(); 4],
        targets: vec!["far".into()],
        free_floor: 0,
        durability: Durability::Tick,
        now: Timestamp(1),
    }
}

pub(crate) const NO_LIMITS: [u64; 4] = [1 << 40; 4];

/// Commits the next tick.
pub(crate) fn commit(store: &mut Store, seq: u64, wishes: &[Wish]) -> Committed {
    store.ledger.commit(&step(tick(seq), input(wishes)), &mut Receipts::new()).unwrap().0
}

pub(crate) fn checkpoint(seq: u64) -> Checkpoint {
    Checkpoint { tick: tick(seq), state: seq.to_le_bytes().to_vec() }
}

/// The loop that every start goes through.
pub(crate) fn recover(store: &mut Store) -> Resumed {
    for entry in store.recovered.entries.by_ref() {
        let (tick, input) = entry.unwrap();
        store.ledger.reconcile(&step(tick, input)).unwrap();
    }
    store.ledger.finish_recovery().unwrap()
}

/// All records of a lane that wait, in order of sending.
pub(crate) fn waiting(store: &Store, lane: Lane, upto: Committed) -> Vec<(Key, Record)> {
    waiting_for(store, 0, lane, upto)
}

/// The same for one of several targets.
pub(crate) fn waiting_for(
    store: &Store,
    target: usize,
    lane: Lane,
    upto: Committed,
) -> Vec<(Key, Record)> {
    let Some(parcel) = store.outboxes[target].peek(lane, upto, usize::MAX, 0).unwrap() else {
        return Vec::new();
    };
    parcel.records().map(|(key, line)| (key, serde_json::from_slice(line).unwrap())).collect()
}

/// The ids of all records that wait, by lane.
pub(crate) fn ids(store: &Store, upto: Committed) -> Ids {
    Lane::ALL.map(|lane| {
        let all = waiting(store, lane, upto);
        all.iter().map(|(_, record)| record.id().to_owned()).collect()
    })
}

/// The books close, and say what is there, for every target.
pub(crate) fn check_books(store: &Store, upto: Committed) {
    for target in 0..store.outboxes.len() {
        let name = store.outboxes[target].target();
        for lane in Lane::ALL {
            // Reading first: it may find what was forgotten.
            let there = waiting_for(store, target, lane, upto);
            let stats = store.outboxes[0].stats();
            let books = stats.targets.iter().find(|(known, _)| known == name).unwrap().1;
            let books = books[lane as usize];
            assert_eq!(books.queued, there.len() as u64, "{name} {lane:?} {books:?}");
            assert!(books.queued == 0 || books.queued_bytes > 0, "{lane:?} {books:?}");
            assert_eq!(
                books.found + books.made,
                books.queued + books.delivered + books.refused + books.evicted,
                "{name} {lane:?} {books:?}"
            );
            assert!(there.is_sorted_by(|a, b| a.0 < b.0), "{name} {lane:?} is out of order");
        }
    }
}

/// Records on all lanes.
pub(crate) const MIXED: [(usize, usize); 5] = [(0, 50), (1, 200), (1, 90), (2, 40), (3, 300)];

pub(crate) fn opened(options: &StoreOptions) -> (Store, Committed) {
    let mut store = Store::open(options).unwrap();
    let committed = recover(&mut store).committed;
    (store, committed)
}

/// A store with ticks `1..=last` committed and closed.
pub(crate) fn filled(options: &StoreOptions, last: u64, checkpoints: &[u64]) {
    filled_on(options, 1..=last, checkpoints);
}

pub(crate) fn filled_on(
    options: &StoreOptions,
    ticks: std::ops::RangeInclusive<u64>,
    checkpoints: &[u64],
) {
    let (mut store, _) = opened(options);
    for seq in ticks {
        commit(&mut store, seq, &MIXED);
        if checkpoints.contains(&seq) {
            store.ledger.checkpoint(&checkpoint(seq)).unwrap();
        }
    }
}

pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

pub(crate) fn quarantine(folder: &Path) -> Vec<PathBuf> {
    let aside = |path: &PathBuf| path.to_string_lossy().contains("quarantine-");
    files(folder).into_iter().filter(aside).flat_map(|path| files(&path)).collect()
}

pub(crate) fn losses(store: &Store, upto: Committed) -> Vec<LossRecord> {
    let all = waiting(store, Lane::Alarm, upto).into_iter();
    all.filter_map(|(_, record)| match record {
        Record::Loss(loss) => Some(loss),
        _ => None,
    })
    .collect()
}

pub(crate) fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x40;
    fs::write(path, bytes).unwrap();
}
