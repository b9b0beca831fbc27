//! What a commit costs: the journal entry of a tick with its sync, alone and with score records in the outbox. On the
//! disk of the folder for temporary files, whose sync is most of it.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use forebay::config::StoreConfig;
use forebay::engine::Engine;
use forebay::record::{Outgoing, Step};
use forebay::store::{Receipts, Store, StoreOptions};
use forebay::time::{Tick, Timestamp};

mod common;

/// Score records of the pump pipeline: some of those of its first windows.
fn records(wanted: usize) -> Vec<Outgoing> {
    let loaded = common::shipped();
    let mut engine = Engine::new("bench".into(), vec![common::pipeline(&loaded)]);
    let mut records = Vec::new();
    for step in 0.. {
        records.extend(engine.step(vec![common::tick(&loaded, step)], Timestamp(0)).records);
        if records.len() >= wanted {
            break;
        }
    }
    records.truncate(wanted);
    records
}

fn commits(c: &mut Criterion) {
    let loaded = common::shipped();
    let mut group = c.benchmark_group("commit");
    group.sample_size(20);
    for (name, ticks, made) in [
        ("400 readings", 1, 0),
        ("4,000 readings", 10, 0),
        ("400 readings, 5 score records", 1, 5),
        ("400 readings, 50 score records", 1, 50),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let config = StoreConfig { path: folder.path().join("store"), ..StoreConfig::default() };
        let options = StoreOptions::new(&config, "bench", Timestamp(0));
        let mut store = Store::open(&options).expect("a fresh store");
        store.ledger.finish_recovery().expect("nothing to recover");
        let input = (0..ticks).map(|step| common::tick(&loaded, step)).collect();
        let tick = Tick { seq: 0, now: Timestamp(0) };
        let mut step = Step { tick, input, records: records(made) };
        group.throughput(Throughput::Elements(ticks as u64 * common::READINGS));
        group.bench_function(name, |b| {
            b.iter(|| {
                step.tick.seq += 1;
                store.ledger.commit(&step, Receipts::new()).expect("the disk has room")
            });
        });
    }
    group.finish();
}

criterion_group!(benches, commits);
criterion_main!(benches);
