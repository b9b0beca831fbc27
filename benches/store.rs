//! The store alone, on a real disk: commits of ticks of 400 readings (100 ms of 400 series at 10 Hz) and of 8,000,
//! each with the score records that such a tick makes, and sending them off again. `elem/s` is readings a second;
//! bytes on disk a reading are printed after each.
#![allow(clippy::print_stderr, reason = "criterion has no place for a figure that is not a time")]

use std::collections::BTreeMap;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use forebay::frame::{Asset, Input, Quality};
use forebay::record::{Checkpoint, Lane, Outgoing, Record, ScoreRecord, Step};
use forebay::store::{Committed, Durability, Receipts, Retention, Store, StoreOptions};
use forebay::time::{Tick, Timestamp};

const SIGNALS: u16 = 8;

/// How values come: as typed with two decimals, or with all the digits that an f64 has.
#[derive(Clone, Copy, PartialEq)]
enum Digits {
    Two,
    All,
}

/// Messages of 8 signals from `readings / 8` assets, with values that wander a little.
fn input(seq: u64, readings: usize, digits: Digits) -> Vec<Input> {
    let assets = readings / usize::from(SIGNALS);
    let mut input = Input { route: "plant/{site}/pump/{asset}".into(), ..Input::default() };
    let mut random = fastrand::Rng::with_seed(seq);
    for asset in 0..assets {
        let tags = BTreeMap::from([("site".to_owned(), "north".to_owned())]);
        input.assets.push(Asset { id: format!("pump-{asset:04}"), tags });
        let ts = Timestamp(1_800_000_000_000_000 + seq as i64 * 100_000 + random.i64(..20_000));
        for signal in 0..SIGNALS {
            let base = f64::from(signal + 1) * 12.5 + (seq as f64 / 300.0).sin();
            let value = base + random.f64() - 0.5;
            let value = if digits == Digits::Two { (value * 100.0).round() / 100.0 } else { value };
            input.readings.push(asset as u32, signal, ts, value, Quality::Good);
        }
    }
    vec![input]
}

/// A record with 48 features, as a window of 8 signals gives.
fn record(seq: u64, index: usize) -> Outgoing {
    let mut random = fastrand::Rng::with_seed(seq ^ index as u64);
    let kinds = ["mean", "std", "min", "max", "rms", "last"];
    let names = (0..SIGNALS).flat_map(|signal| kinds.map(|kind| format!("signal{signal}.{kind}")));
    let features = names.map(|name| (name, Some(random.f64() * 100.0))).collect();
    let record = Record::Score(ScoreRecord {
        id: format!("edge-1:pumps:{seq}:{index}"),
        node: "edge-1".into(),
        pipeline: "pumps".into(),
        asset: format!("pump-{index:04}"),
        tags: BTreeMap::from([("site".to_owned(), "north".to_owned())]),
        window_start: Timestamp(1_800_000_000_000_000 + seq as i64 * 100_000),
        window_end: Timestamp(1_800_000_060_000_000 + seq as i64 * 100_000),
        features,
        scores: BTreeMap::from([("anomaly".to_owned(), Some(random.f64()))]),
        threshold: Some(0.9),
        coverage: 1.0,
        model: Some("pump-anomaly".into()),
        model_version: Some("3f2a9c".into()),
        models: Vec::new(),
        contributions: Vec::new(),
    });
    Outgoing { lane: Lane::Score, record }
}

/// Windows of 60 s every 10 s: each asset gives a record every hundredth tick.
fn step(seq: u64, readings: usize, digits: Digits) -> Step {
    let assets = readings / usize::from(SIGNALS);
    let closing = (0..assets).filter(|asset| asset % 100 == seq as usize % 100);
    Step {
        tick: Tick { seq, now: Timestamp(1_800_000_000_000_000 + seq as i64 * 100_000) },
        input: input(seq, readings, digits),
        records: closing.map(|asset| record(seq, asset)).collect(),
    }
}

fn open(path: &Path) -> (Store, Committed) {
    let options = StoreOptions {
        path: path.to_path_buf(),
        node: "edge-1".into(),
        lane_limits: [32 << 20, 64 << 20, 64 << 20, 64 << 20],
        retention: [Retention::default(); 4],
        targets: vec!["far".into()],
        free_floor: 0,
        durability: Durability::Tick,
        now: Timestamp(0),
    };
    let mut store = Store::open(&options).expect("the store opens");
    let committed = store.ledger.finish_recovery().expect("there is nothing to recover").committed;
    (store, committed)
}

/// What this process had written to the disk.
fn disk_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}

fn commits(c: &mut Criterion) {
    let mut group = c.benchmark_group("commit");
    group.sample_size(20);
    for (readings, digits) in
        [(400, Digits::Two), (400, Digits::All), (8_000, Digits::Two), (8_000, Digits::All)]
    {
        let folder =
            tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder on the disk");
        let (mut store, _) = open(folder.path());
        let mut steps: Vec<Step> = (1..=200).map(|seq| step(seq, readings, digits)).collect();
        let (mut seq, before) = (0, disk_bytes());
        group.throughput(Throughput::Elements(readings as u64));
        let name = if digits == Digits::Two { "two decimals" } else { "all digits" };
        group.bench_function(format!("{readings} readings, {name}"), |b| {
            b.iter(|| {
                seq += 1;
                let step = &mut steps[seq as usize % 200];
                step.tick.seq = seq;
                store.ledger.commit(step, &mut Receipts::new()).expect("it commits");
                // Every 30 s of ticks, as the node does.
                if seq % 300 == 0 {
                    let checkpoint = Checkpoint { tick: step.tick, state: vec![7; 100_000] };
                    store.ledger.checkpoint(&checkpoint).expect("it is kept");
                }
            });
        });
        let stats = store.ledger.stats();
        let each = |bytes: u64| bytes as f64 / (seq * readings as u64).max(1) as f64;
        let records = stats.lane(Lane::Score);
        eprintln!(
            "{readings} readings, {name}: {seq} ticks; bytes a reading: {:.2} handed over, {:.2} on the disk; stored record: {:.0} bytes",
            each(stats.written.total()),
            each(disk_bytes() - before),
            records.queued_bytes as f64 / records.queued.max(1) as f64,
        );
    }
    group.finish();
}

fn drain(c: &mut Criterion) {
    let mut group = c.benchmark_group("drain");
    group.sample_size(20);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder on the disk");
    let (store, mut committed) = open(folder.path());
    let Store { mut ledger, mut outboxes, recovered: _ } = store;
    let outbox = &mut outboxes[0];
    group.throughput(Throughput::Bytes(64 << 10));
    group.bench_function("parcel of 64 KiB: next and settle", |b| {
        b.iter_batched(
            || {
                // One tick of 60 records refills what a parcel took.
                let tick = Tick { seq: committed.tick() + 1, now: Timestamp(0) };
                let records = (0..60).map(|index| record(tick.seq, index)).collect();
                let step = Step { tick, input: Vec::new(), records };
                committed = ledger.commit(&step, &mut Receipts::new()).expect("it commits").0;
                committed
            },
            |committed| {
                let parcel = outbox.next(committed, 64 << 10).expect("it reads");
                let parcel = parcel.expect("there is enough");
                outbox.settle(parcel.acked()).expect("it settles");
            },
            criterion::BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, commits, drain);
criterion_main!(benches);
