//! The windows that a pipeline makes of the simulated plant, each with what was wrong at the time.
//!
//! `train` learns from them and tests on them. They come out of the pipeline's own `clean`, `resample` and `window`
//! stages, so a model sees in training what it will see in the node. The same options give the same windows.

use std::collections::BTreeMap;
use std::path::Path;

use super::fault::{Fault, FaultKind, FaultPlan};
use super::plant::{Plant, PlantOptions, STEP, asset_id, site_of};
use super::pump::Signal;
use crate::engine::Engine;
use crate::frame::{Asset, Input, Quality, Readings, Windows};
use crate::model::Host;
use crate::pipeline::plan::{self, PlanError, PlanOptions};
use crate::pipeline::spec::{PipelineSpec, StageSpec};
use crate::schema::Schema;
use crate::time::{Span, Timestamp};

/// Event time of every simulated start: any will do, as long as it is the same.
pub(crate) const START: Timestamp = Timestamp(1_767_225_600_000_000); // 2026-01-01T00:00:00Z
/// Plant time in one tick.
const TICK: Span = Span::seconds(10);
/// A fault counts once it has grown to this share of its full strength.
pub(crate) const GROWN: f64 = 0.3;
/// So long after a fault of the pump its temperatures may still tell of it.
const RECOVERY: Span = Span::seconds(900);

/// A plant to run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Everything random comes from it.
    pub seed: u64,
    /// How many pumps.
    pub pumps: usize,
    /// How long, in plant time.
    pub length: Span,
    /// What goes wrong.
    pub faults: FaultPlan,
    /// How often a window starts. Absent: as the pipeline says.
    pub every: Option<Span>,
}

/// What was wrong with a pump during a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// Nothing, and not for a while before.
    Healthy,
    /// This, well grown, during all of it.
    Faulty(FaultKind),
    /// Too little, for a part of it, or until shortly before: no use for learning or testing.
    Unclear,
}

/// Windows and what was wrong.
#[derive(Clone, Debug, Default)]
pub struct Labelled {
    /// The windows; their `asset` is the index of the pump.
    pub windows: Windows,
    /// One each.
    pub labels: Vec<Label>,
}

impl Labelled {
    /// Adds the windows of another run of the same pipeline.
    pub fn append(&mut self, more: Labelled) {
        self.windows.append(more.windows);
        self.labels.extend(more.labels);
    }
}

/// Why a pipeline gives no windows.
#[derive(Debug, thiserror::Error)]
pub enum WindowsError {
    /// It has no window stage.
    #[error("pipeline `{0}` has no `window` stage, so there is nothing to learn from")]
    NoWindows(String),
    /// The schema is not that of the simulated pumps.
    #[error(
        "schema `{schema}` has no signal `{signal}`: the simulated pumps need all eight of `pump`"
    )]
    NoSignal {
        /// The schema.
        schema: String,
        /// What is missing.
        signal: &'static str,
    },
    /// It cannot run.
    #[error(transparent)]
    Plan(Box<PlanError>),
    /// It failed.
    #[error("pipeline `{0}` failed on simulated readings: {1}")]
    Failed(String, String),
}

/// Runs a plant through the stages of `pipeline` up to its windows.
pub fn windows_of(
    pipeline: &PipelineSpec,
    schema: &Schema,
    run: &Run,
) -> Result<Labelled, WindowsError> {
    let mut engine = engine(pipeline, schema, run.every)?;
    let columns = columns(schema)?;
    let options = PlantOptions { seed: run.seed, pumps: run.pumps, faults: run.faults.clone() };
    let mut plant = Plant::new(options);
    let route = plan::route(pipeline);
    let assets: Vec<Asset> = (0..run.pumps).map(asset).collect();
    let mut windows = Windows::default();
    let mut samples = Vec::new();
    while plant.elapsed() < run.length {
        let mut readings = Readings::default();
        let until = plant.elapsed().0 + TICK.0;
        while plant.elapsed().0 < until.min(run.length.0) {
            plant.step(&mut samples);
            for sample in samples.drain(..) {
                let ts = START.plus(sample.at);
                for (value, &column) in sample.values.iter().zip(&columns) {
                    if let Some(value) = value {
                        readings.push(sample.pump as u32, column, ts, *value, Quality::Good);
                    }
                }
            }
        }
        // All assets come in every tick, in order: the pipeline's numbers for them are the plant's.
        let input =
            Input { route: route.clone(), assets: assets.clone(), readings, ..Input::default() };
        engine.step(vec![input], START.plus(plant.elapsed()));
        engine.take_windows().into_iter().for_each(|closed| windows.append(closed));
    }
    engine.finish();
    engine.take_windows().into_iter().for_each(|closed| windows.append(closed));
    if let Some(failure) = engine.take_failures().into_iter().next() {
        return Err(WindowsError::Failed(failure.pipeline, failure.reason));
    }
    let labels = labels(&windows, &run.faults);
    Ok(Labelled { windows, labels })
}

/// An engine of this pipeline alone, up to its windows.
fn engine(
    pipeline: &PipelineSpec,
    schema: &Schema,
    every: Option<Span>,
) -> Result<Engine, WindowsError> {
    let mut spec = pipeline.clone();
    let window = spec.stages.iter_mut().find_map(|stage| match stage {
        StageSpec::Window(window) => Some(window),
        _ => None,
    });
    let window = window.ok_or_else(|| WindowsError::NoWindows(pipeline.name.clone()))?;
    window.every = every.or(window.every);
    let host = Host::default();
    let options = PlanOptions { features_only: true, ..PlanOptions::of(Path::new(""), &host) };
    let planned =
        plan::plan(&spec, schema, options).map_err(|e| WindowsError::Plan(Box::new(e)))?;
    Ok(Engine::new("demo".to_owned(), vec![planned]))
}

fn asset(pump: usize) -> Asset {
    let tags = BTreeMap::from([("site".to_owned(), site_of(pump).to_owned())]);
    Asset { id: asset_id(pump), tags }
}

/// Where the schema has each of the plant's signals.
fn columns(schema: &Schema) -> Result<Vec<u16>, WindowsError> {
    let find = |signal: Signal| {
        let missing =
            || WindowsError::NoSignal { schema: schema.name.clone(), signal: signal.name() };
        schema.position(signal.name()).map(|index| index as u16).ok_or_else(missing)
    };
    Signal::ALL.into_iter().map(find).collect()
}

fn labels(windows: &Windows, faults: &FaultPlan) -> Vec<Label> {
    let of = |index: usize| {
        let (start, end) = (windows.start[index].since(START), windows.end[index].since(START));
        let pump = windows.asset[index] as usize;
        let mut label = Label::Healthy;
        for fault in faults.faults.iter().filter(|fault| fault.pump == pump) {
            match one(fault, start, end) {
                Label::Healthy => {}
                faulty @ Label::Faulty(_) => return faulty,
                Label::Unclear => label = Label::Unclear,
            }
        }
        label
    };
    (0..windows.len()).map(of).collect()
}

/// What one fault makes of the window `[start, end)`.
fn one(fault: &Fault, start: Span, end: Span) -> Label {
    let recovery = if fault.kind.of_the_pump() { RECOVERY } else { Span::ZERO };
    if end <= fault.start || start.0 >= fault.end.0 + recovery.0 {
        return Label::Healthy;
    }
    let within = start >= fault.start && end <= fault.end;
    if within && fault.severity(Span(end.0 - STEP.0)) >= GROWN {
        return Label::Faulty(fault.kind);
    }
    Label::Unclear
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_faulty_only_if_the_fault_was_there_all_the_time() {
        let seconds = Span::seconds;
        let fault = Fault {
            pump: 0,
            kind: FaultKind::Cavitation,
            signal: None,
            start: seconds(100),
            ramp: seconds(100),
            end: seconds(400),
        };
        let label = |from, to| one(&fault, seconds(from), seconds(to));
        assert_eq!(label(40, 100), Label::Healthy);
        assert_eq!(label(60, 120), Label::Unclear);
        assert_eq!(label(100, 120), Label::Unclear);
        assert_eq!(label(140, 200), Label::Faulty(FaultKind::Cavitation));
        assert_eq!(label(350, 410), Label::Unclear);
        assert_eq!(label(500, 560), Label::Unclear);
        assert_eq!(label(1300, 1360), Label::Healthy);
    }
}
