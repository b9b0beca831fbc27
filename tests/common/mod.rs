//! What several test files share: small schemas and pipelines, and ways to run them. The only place beside the
//! tests of one module that knows how an engine is put together.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(dead_code, unreachable_pub, missing_docs, reason = "every test file uses its own part")]

use std::path::Path;

use forebay::engine::{Engine, Pipeline};
use forebay::frame::{Asset, Input, Quality, Readings};
use forebay::pipeline::plan::{PlanOptions, plan, route};
use forebay::pipeline::spec::PipelineSpec;
use forebay::record::{Outgoing, Record};
use forebay::schema::{Schema, Signal};
use forebay::stage::Account;
use forebay::time::Timestamp;

/// A schema of three signals: `a` without limits, `b` from -50 to 50, `c` no faster than 1000 a second.
pub fn schema() -> Schema {
    let text = r#"
        name = "rig"
        [[signal]]
        name = "a"
        unit = "bar"
        [[signal]]
        name = "b"
        unit = "degC"
        min = -50.0
        max = 50.0
        [[signal]]
        name = "c"
        unit = "Hz"
        max_rate = 1000.0
        resolution = 0.001
    "#;
    toml::from_str(text).unwrap()
}

/// The schema `pump` of signals without limits, each with its other names.
pub fn pump(signals: &[(&str, &[&str])]) -> Schema {
    let signal = |&(name, aliases): &(&str, &[&str])| Signal {
        name: name.into(),
        unit: "1".into(),
        aliases: aliases.iter().map(ToString::to_string).collect(),
        ..Signal::default()
    };
    let signals = signals.iter().map(signal).collect();
    Schema { name: "pump".into(), description: None, signals }
}

/// A pipeline file of the schema above with these stages.
pub fn spec(stages: &str) -> PipelineSpec {
    let head = "name = \"rig\"\nschema = \"rig\"\ntopics = [\"rig/{asset}\"]\ntime = { lateness = \"2s\" }\n";
    toml::from_str(&format!("{head}{stages}")).unwrap_or_else(|e| panic!("{e}"))
}

/// The running pipeline of such a file, fed from a recording.
pub fn pipeline(spec: &PipelineSpec) -> Pipeline {
    planned(spec, false)
}

fn planned(spec: &PipelineSpec, live: bool) -> Pipeline {
    let base = Path::new(".");
    let host = forebay::model::Host::default();
    let options = PlanOptions { live, asset_limit: 100, ..PlanOptions::of(base, &host) };
    plan(spec, &schema(), options).unwrap()
}

/// An engine with that one pipeline.
pub fn engine(spec: &PipelineSpec) -> Engine {
    Engine::new("node".into(), vec![pipeline(spec)])
}

/// The same, fed by a broker and looking at its ticks' clock.
pub fn live(spec: &PipelineSpec) -> Engine {
    Engine::new("node".into(), vec![planned(spec, true)])
}

/// One reading as tests write it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// 0 is `m0`, 1 is `m1`, …
    pub asset: u32,
    pub signal: u16,
    /// Microseconds.
    pub ts: i64,
    pub value: f64,
}

/// One tick's input for a pipeline.
pub fn input(spec: &PipelineSpec, readings: &[Reading]) -> Vec<Input> {
    let mut columns = Readings::default();
    let count = readings.iter().map(|r| r.asset + 1).max().unwrap_or(0);
    for r in readings {
        columns.push(r.asset, r.signal, Timestamp(r.ts), r.value, Quality::Good);
    }
    let asset = |n| Asset { id: format!("m{n}"), ..Asset::default() };
    let assets = (0..count).map(asset).collect();
    vec![Input { route: route(spec), assets, readings: columns, ..Input::default() }]
}

/// Runs ticks through an engine to the end of the input.
pub fn run(engine: &mut Engine, ticks: &[Vec<Input>]) -> Vec<Outgoing> {
    let mut records = Vec::new();
    for tick in ticks {
        records.extend(engine.step(tick.clone(), Timestamp(0)).records);
        assert_eq!(engine.pipelines()[0].account().gap(), 0, "the books do not close");
    }
    records.extend(engine.finish().records);
    assert_eq!(engine.pipelines()[0].account().gap(), 0, "the books do not close");
    records
}

/// Records in an order that does not depend on which asset came first; raw ones are left out, since they are cut
/// by ticks.
pub fn sorted(records: Vec<Outgoing>) -> Vec<Record> {
    let mut records: Vec<Record> = records.into_iter().map(|o| o.record).collect();
    records.retain(|r| !matches!(r, Record::Raw(_)));
    records.sort_by(|a, b| a.id().cmp(b.id()));
    records
}

/// The books of the only pipeline.
pub fn account(engine: &Engine) -> Account {
    engine.pipelines()[0].account().clone()
}
