//! What is published: message `n` has one reading of each of two signals of one of three machines.

use std::path::Path;
use std::sync::LazyLock;

use super::SimulatedError;
use crate::engine::{Engine, Pipeline};
use crate::frame::{Asset, Input, Quality, Readings};
use crate::model::Host;
use crate::pipeline::plan::{PlanOptions, plan, route};
use crate::pipeline::spec::PipelineSpec;
use crate::record::Record;
use crate::schema::Schema;
use crate::time::{Span, Timestamp};

const MACHINES: u64 = 3;
const STEP: Span = Span::millis(500);
/// The intervals in which full lanes are thinned.
pub(super) const THIN: Span = Span::seconds(5);
/// The event time of the first readings.
const START: Timestamp = Timestamp(1_700_000_000_000_000);
/// The clock of the first tick: so long after it that no reading is ever ahead of the clock.
pub(super) const CLOCK: Timestamp = Timestamp(1_790_000_000_000_000);

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
static FILES: LazyLock<Result<Files, String>> = LazyLock::new(Files::read);

struct Files {
    schema: Schema,
    pipelines: Vec<PipelineSpec>,
    route: String,
}

impl Files {
    fn read() -> Result<Files, String> {
        let spec = |stages: &str| {
            let (name, stages) = stages.split_once('\n').unwrap_or((stages, ""));
            toml::from_str(&format!("{name}\n{HEAD}\n{stages}"))
        };
        let pipelines = STAGES.into_iter().map(spec).collect::<Result<Vec<PipelineSpec>, _>>();
        let pipelines = pipelines.map_err(|e| e.to_string())?;
        let schema = toml::from_str(SCHEMA).map_err(|e| e.to_string())?;
        let route = pipelines.first().map(route).unwrap_or_default();
        Ok(Files { schema, pipelines, route })
    }
}

/// An engine with both pipelines that has seen nothing.
pub(super) fn engine() -> Result<Engine, SimulatedError> {
    let files = FILES.as_ref().map_err(|why| SimulatedError::Broken(why.clone()))?;
    let pipelines = files.pipelines.iter().map(|spec| pipeline(spec, &files.schema));
    Ok(Engine::new("simulated".into(), pipelines.collect::<Result<_, _>>()?))
}

fn pipeline(spec: &PipelineSpec, schema: &Schema) -> Result<Pipeline, SimulatedError> {
    let host = Host::default();
    let usual = PlanOptions::of(Path::new("."), &host);
    let options = PlanOptions { live: true, asset_limit: 100, ..usual };
    plan(spec, schema, options).map_err(|e| SimulatedError::Broken(e.to_string()))
}

fn machine(message: u64) -> u64 {
    message % MACHINES
}

/// The id of the machine that sent a message.
pub(super) fn asset(message: u64) -> String {
    format!("m{}", machine(message))
}

/// When its readings were taken.
pub(super) fn ts(message: u64) -> Timestamp {
    START.plus(Span(STEP.0 * (message / MACHINES) as i64))
}

/// The message that a reading came in.
pub(super) fn find(asset: &str, ts: Timestamp) -> Option<u64> {
    let machine: u64 = asset.strip_prefix('m')?.parse().ok()?;
    let since = ts.since(START).0;
    (since >= 0 && since % STEP.0 == 0).then_some(since as u64 / STEP.0 as u64 * MACHINES + machine)
}

/// The messages whose readings a machine took from `start` on and before `end`.
pub(super) fn between(asset: &str, start: Timestamp, end: Timestamp) -> Vec<u64> {
    let steps = end.since(start).0 / STEP.0;
    let times = (0..=steps).map(|step| start.plus(Span(step * STEP.0)));
    times.filter(|at| *at < end).filter_map(|at| find(asset, at)).collect()
}

/// The value of one of its readings.
pub(super) fn value(message: u64, signal: usize) -> f64 {
    let wave = ((message / 40 + machine(message)) % 3) as f64 * 5.0;
    wave + (message % 17) as f64 / 100.0 + signal as f64 * 100.0
}

/// What the door makes of these messages.
pub(super) fn input(messages: &[u64]) -> Vec<Input> {
    let mut readings = Readings::default();
    for &message in messages {
        for signal in 0..2 {
            let (at, v) = (ts(message), value(message, signal));
            readings.push(machine(message) as u32, signal as u16, at, v, Quality::Good);
        }
    }
    let assets = (0..MACHINES).map(|n| Asset { id: asset(n), ..Asset::default() }).collect();
    let route = FILES.as_ref().map(|files| files.route.clone()).unwrap_or_default();
    vec![Input { route, assets, readings, ..Input::default() }]
}

/// Windows and alarms of the first `count` messages, undisturbed; and how many readings wait for their watermark at the
/// end.
pub(super) fn undisturbed(count: u64) -> Result<(Vec<Record>, u64), SimulatedError> {
    let mut engine = engine()?;
    let all: Vec<u64> = (0..count).collect();
    let mut records = Vec::new();
    for part in all.chunks(1000) {
        let step = engine.step(input(part), CLOCK);
        records.extend(step.records.into_iter().map(|out| out.record));
    }
    let pending = engine.pipelines().first().map_or(0, |p| p.account().pending);
    records.retain(|record| !matches!(record, Record::Raw(_)));
    Ok((records, pending))
}
