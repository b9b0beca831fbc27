//! What is published: message `n` has one reading of each of two signals of one of three machines.

use forebay::engine::{Engine, Pipeline};
use forebay::frame::{Asset, Input, Quality, Readings};
use forebay::pipeline::plan::{PlanOptions, plan, route};
use forebay::pipeline::spec::PipelineSpec;
use forebay::record::Record;
use forebay::schema::Schema;
use forebay::time::{Span, Timestamp};
use std::path::Path;
use std::sync::LazyLock;

const MACHINES: u64 = 3;
const STEP: Span = Span::millis(500);
/// Long before any tick's clock (NOW): no reading is ever ahead of it.
const START: Timestamp = Timestamp(1_700_000_000_000_000);
const NOW: Timestamp = Timestamp(1_900_000_000_000_000);

const SCHEMA: &str = r#"
    name = "rig"
    [[signal]]
    name = "a"
    unit = "bar"
    [[signal]]
    name = "b"
    unit = "degC"
"#;

const HEAD: &str = r#"
    schema = "rig"
    topics = ["rig/{asset}"]
    time = { lateness = "2s", idle = "1000h" }
"#;

const STAGES: [&str; 2] = [
    r#"name = "numbered"
    stage = [ { clean = {} }, { emit = { lane = "raw" } } ]"#,
    r#"name = "windows"
    stage = [
      { clean = {} },
      { resample = { every = "1s" } },
      { window = { length = "6s", every = "3s", features = ["mean", "max"], min_coverage = 0.1 } },
      { emit = { lane = "feature" } },
      { alarm = { name = "high", on = "a.mean", raise = 8.0, clear = 4.0, on_delay = "3s" } },
    ]"#,
];

/// What the files say, read once: thousands of lives start an engine often.
static FILES: LazyLock<(Schema, [PipelineSpec; 2], String)> = LazyLock::new(|| {
    let specs = STAGES.map(spec);
    let route = route(&specs[0]);
    (toml::from_str(SCHEMA).unwrap(), specs, route)
});

/// An engine with both pipelines that has seen nothing.
pub fn engine() -> Engine {
    let (schema, specs, _) = &*FILES;
    let pipelines = specs.iter().map(|spec| pipeline(spec, schema)).collect();
    Engine::new("sim".into(), pipelines)
}

fn spec(stages: &str) -> PipelineSpec {
    let (name, stages) = stages.split_once('\n').unwrap();
    toml::from_str(&format!("{name}\n{HEAD}\n{stages}")).unwrap_or_else(|e| panic!("{e}"))
}

fn pipeline(spec: &PipelineSpec, schema: &Schema) -> Pipeline {
    let options = PlanOptions {
        base: Path::new("."),
        live: true,
        asset_limit: 100,
        models: &[],
        library: None,
        features_only: false,
    };
    plan(spec, schema, options).unwrap()
}

fn machine(message: u64) -> u64 {
    message % MACHINES
}

/// The id of the machine that sent a message.
pub fn asset(message: u64) -> String {
    format!("m{}", machine(message))
}

/// When its readings were taken.
pub fn ts(message: u64) -> Timestamp {
    START.plus(Span(STEP.0 * (message / MACHINES) as i64))
}

/// The message that a reading came in.
pub fn find(asset: &str, ts: Timestamp) -> Option<u64> {
    let machine: u64 = asset.strip_prefix('m')?.parse().ok()?;
    let since = ts.since(START).0;
    (since >= 0 && since % STEP.0 == 0).then_some(since as u64 / STEP.0 as u64 * MACHINES + machine)
}

/// The value of one of its readings.
pub fn value(message: u64, signal: usize) -> f64 {
    let wave = ((message / 40 + machine(message)) % 3) as f64 * 5.0;
    wave + (message % 17) as f64 / 100.0 + signal as f64 * 100.0
}

/// What the door makes of these messages.
pub fn input(messages: &[u64]) -> Vec<Input> {
    let mut readings = Readings::default();
    for &message in messages {
        for signal in 0..2 {
            let (at, v) = (ts(message), value(message, signal));
            readings.push(machine(message) as u32, signal as u16, at, v, Quality::Good);
        }
    }
    let assets = (0..MACHINES).map(|n| Asset { id: asset(n), ..Asset::default() }).collect();
    let route = FILES.2.clone();
    vec![Input { route, assets, readings, ..Input::default() }]
}

/// Windows and alarms of the first `count` messages, undisturbed, in the order of their ids; and how many readings
/// wait for their watermark at the end.
pub fn undisturbed(count: u64) -> (Vec<Record>, u64) {
    let mut engine = engine();
    let all: Vec<u64> = (0..count).collect();
    let mut records = Vec::new();
    for part in all.chunks(1000) {
        let step = engine.step(input(part), NOW);
        records.extend(step.records.into_iter().map(|out| out.record));
    }
    let pending = engine.pipelines()[0].account().pending;
    records.retain(|record| !matches!(record, Record::Raw(_)));
    records.sort_by(|a, b| a.id().cmp(b.id()));
    (records, pending)
}
