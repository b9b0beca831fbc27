//! Each stage of the shipped pump pipeline alone, on what the stages before it gave: 50 pumps with 8 signals at 10 Hz,
//! in ticks of 100 ms. Readings a second is what `elem/s` says, for every stage, so that the figures can be compared.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use forebay::stage::{Around, Effects, Flow};
use forebay::time::{Tick, Timestamp};

mod common;

/// Ticks of a run: a minute until the first windows are full, and half a minute of windows.
const TICKS: i64 = 900;

fn stages(c: &mut Criterion) {
    let loaded = common::shipped();
    let first = common::tick(&loaded, 0);
    let around = |seq: i64| Around {
        node: "bench",
        pipeline: "pump",
        assets: &first.assets,
        tick: Tick { seq: seq as u64, now: Timestamp(0) },
        deaf: false,
        ended: false,
    };
    let mut flows: Vec<Flow> = (0..TICKS)
        .map(|step| Flow::Readings(common::tick(&loaded, step).readings, Vec::new()))
        .collect();
    let mut group = c.benchmark_group("stage");
    group.sample_size(10).throughput(Throughput::Elements(TICKS as u64 * common::READINGS));
    for index in 0..common::pipeline(&loaded).stages.len() {
        // A fresh pipeline for every run: stages remember.
        let stage = || common::pipeline(&loaded).stages.swap_remove(index).stage;
        let mut before = stage();
        let name = format!("{:02} {}", index + 1, before.name());
        group.bench_function(&name, |b| {
            b.iter_batched(
                || (stage(), flows.clone()),
                |(mut stage, flows)| {
                    let mut effects = Effects::default();
                    for (step, flow) in (1..).zip(flows) {
                        stage.apply(flow, &around(step), &mut effects).expect("it takes its input");
                    }
                    (stage, effects)
                },
                BatchSize::LargeInput,
            );
        });
        for (step, flow) in (1..).zip(&mut flows) {
            let taken = std::mem::replace(
                flow,
                Flow::Readings(forebay::frame::Readings::default(), Vec::new()),
            );
            let given = before.apply(taken, &around(step), &mut Effects::default());
            *flow = given.expect("it takes its input");
        }
    }
    group.finish();
}

criterion_group!(benches, stages);
criterion_main!(benches);
