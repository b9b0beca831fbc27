//! The engine alone on one core: 400 series at 10 Hz, windows of 60 s every 10 s with 6 features, in ticks of 100 ms
//! of data (as live) and of 30 s (as in a replay). Readings a second is what `elem/s` says.

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use forebay::engine::{Engine, Pipeline};
use forebay::frame::{Asset, Input, Quality, Readings};
use forebay::pipeline::plan::{PlanOptions, plan, route};
use forebay::pipeline::spec::PipelineSpec;
use forebay::schema::{Schema, Signal};
use forebay::time::Timestamp;

const ASSETS: u32 = 50;
const SIGNALS: u16 = 8;

fn schema() -> Schema {
    let signal = |n| Signal {
        name: format!("s{n}"),
        unit: "1".into(),
        min: Some(-1e6),
        max: Some(1e6),
        max_rate: Some(1e9),
        ..Signal::default()
    };
    Schema { name: "bench".into(), description: None, signals: (0..SIGNALS).map(signal).collect() }
}

fn spec(clean: &str) -> PipelineSpec {
    let text = format!(
        r#"
        name = "bench"
        schema = "bench"
        time = {{ lateness = "500ms" }}
        stage = [
          {{ clean = {clean} }},
          {{ resample = {{ every = "100ms", fill = "linear", max_gap = "1s" }} }},
          {{ window = {{ length = "60s", every = "10s", features = ["mean", "std", "min", "max", "rms", "last"] }} }},
          {{ emit = {{ lane = "feature" }} }},
        ]"#
    );
    toml::from_str(&text).expect("the pipeline parses")
}

fn pipeline(spec: &PipelineSpec) -> Pipeline {
    let host = forebay::model::Host::default();
    plan(spec, &schema(), PlanOptions::of(Path::new("."), &host)).expect("the pipeline fits")
}

/// The readings of `steps` tenths of a second, from the `from`-th on.
fn input(spec: &PipelineSpec, from: i64, steps: i64) -> Vec<Input> {
    let mut readings = Readings::default();
    for step in from..from + steps {
        for asset in 0..ASSETS {
            for signal in 0..SIGNALS {
                // A few milliseconds off the grid, as machines are.
                let jitter = (i64::from(asset) * 7 + i64::from(signal) * 13 + step * 31) % 20_000;
                let ts = Timestamp(1_700_000_000_000_000 + step * 100_000 + jitter);
                let value =
                    (step as f64 * 0.01 + f64::from(asset)).sin() * 10.0 + f64::from(signal);
                readings.push(asset, signal, ts, value, Quality::Good);
            }
        }
    }
    let asset = |n| Asset { id: format!("m{n:02}"), ..Asset::default() };
    vec![Input {
        route: route(spec),
        assets: (0..ASSETS).map(asset).collect(),
        readings,
        ..Input::default()
    }]
}

fn engine(c: &mut Criterion) {
    let mut group = c.benchmark_group("engine");
    group.sample_size(10);
    let cases = [
        ("ticks of 100 ms", "{}", 1),
        (
            "ticks of 100 ms, spikes and stuck",
            r#"{ spikes = { hampel = {} }, stuck_after = "10m" }"#,
            1,
        ),
        ("ticks of 30 s", "{}", 300),
    ];
    // Two minutes of data: windows are full for the second.
    let minutes = 2;
    for (name, clean, steps) in cases {
        let spec = spec(clean);
        let ticks: Vec<_> =
            (0..minutes * 600 / steps).map(|tick| input(&spec, tick * steps, steps)).collect();
        group.throughput(Throughput::Elements(
            minutes as u64 * 600 * u64::from(ASSETS) * u64::from(SIGNALS),
        ));
        group.bench_function(name, |b| {
            b.iter_batched(
                || (Engine::new("bench".into(), vec![pipeline(&spec)]), ticks.clone()),
                |(mut engine, ticks)| {
                    for tick in ticks {
                        black_box(engine.step(tick, Timestamp(0)));
                    }
                    engine
                },
                criterion::BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, engine);
criterion_main!(benches);
