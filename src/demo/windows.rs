//! The windows that a pipeline makes of the simulated plant, each with what was wrong at the time.
//!
//! `train` learns from them and tests on them. They come out of the pipeline's own `clean`, `resample` and `window`
//! stages, so a model sees in training what it will see in the node. The same options give the same windows.

use std::collections::BTreeMap;

use super::fault::{Fault, FaultKind, FaultPlan};
use super::plant::{Plant, PlantOptions, STEP, asset_id, site_of};
use super::pump::Signal;
use crate::frame::{Asset, Quality, Readings, Windows};
use crate::pipeline::spec::{PipelineSpec, StageSpec};
use crate::schema::Schema;
use crate::stage::clean::Clean;
use crate::stage::resample::Resample;
use crate::stage::window::{Window, WindowInput};
use crate::stage::{Around, Effects, Flow, Stage, StageError};
use crate::time::{Span, Tick, Timestamp};

/// Event time of every simulated start: any will do, as long as it is the same.
const START: Timestamp = Timestamp(1_767_225_600_000_000); // 2026-01-01T00:00:00Z
/// Plant time in one tick.
const TICK: Span = Span::seconds(10);
/// A fault counts once it has grown to this share of its full strength.
const GROWN: f64 = 0.3;
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
        append(&mut self.windows, more.windows);
        self.labels.extend(more.labels);
    }
}

fn append(all: &mut Windows, more: Windows) {
    all.asset.extend(more.asset);
    all.start.extend(more.start);
    all.end.extend(more.end);
    all.coverage.extend(more.coverage);
    all.features.extend(more.features);
    if all.names.is_empty() {
        all.names = more.names;
    }
}

/// Why a pipeline gives no windows.
#[derive(Debug, thiserror::Error)]
pub enum WindowsError {
    /// A stage that is needed is not there.
    #[error("pipeline `{pipeline}` has no `{stage}` stage, so it makes no windows to learn from")]
    NoStage {
        /// The pipeline.
        pipeline: String,
        /// What is missing.
        stage: &'static str,
    },
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
    /// The window stage does not fit the schema.
    #[error(
        "the window stage of pipeline `{pipeline}` cannot be used: {reason}; run `forebay check`"
    )]
    Window {
        /// The pipeline.
        pipeline: String,
        /// Why.
        reason: String,
    },
    /// A stage failed.
    #[error("the pipeline's stages failed on simulated readings: {0}")]
    Stage(#[from] StageError),
}

/// Runs a plant through the stages of `pipeline` up to its windows.
pub fn windows_of(
    pipeline: &PipelineSpec,
    schema: &Schema,
    run: &Run,
) -> Result<Labelled, WindowsError> {
    let mut stages = stages(pipeline, schema, run.every)?;
    let columns = columns(schema)?;
    let options = PlantOptions { seed: run.seed, pumps: run.pumps, faults: run.faults.clone() };
    let mut plant = Plant::new(options);
    let assets: Vec<Asset> = (0..run.pumps).map(asset).collect();
    let mut windows = Windows::default();
    let mut samples = Vec::new();
    let mut seq = 0;
    loop {
        let ended = plant.elapsed() >= run.length;
        let mut readings = Readings::default();
        while !ended && plant.elapsed().0 < (TICK.0 * (seq + 1)).min(run.length.0) {
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
        seq += 1;
        let tick = Tick { seq: seq as u64, now: START.plus(plant.elapsed()) };
        let around =
            Around { node: "demo", pipeline: &pipeline.name, assets: &assets, tick, ended };
        let mut flow = Flow::Readings(readings, Vec::new());
        for stage in &mut stages {
            flow = stage.apply(flow, &around, &mut Effects::default())?;
        }
        if let Flow::Windows(closed) = flow {
            append(&mut windows, closed);
        }
        if ended {
            let labels = labels(&windows, &run.faults);
            return Ok(Labelled { windows, labels });
        }
    }
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

/// The stages that lead to windows, as the file has them.
fn stages(
    pipeline: &PipelineSpec,
    schema: &Schema,
    every: Option<Span>,
) -> Result<Vec<Box<dyn Stage>>, WindowsError> {
    let missing = |stage| WindowsError::NoStage { pipeline: pipeline.name.clone(), stage };
    let (mut clean, mut resample, mut window) = (None, None, None);
    for stage in &pipeline.stages {
        match stage {
            StageSpec::Clean(spec) => clean = Some(spec),
            StageSpec::Resample(spec) => resample = Some(spec),
            StageSpec::Window(spec) => window = Some(spec.clone()),
            StageSpec::Score(_) | StageSpec::Alarm(_) | StageSpec::Emit(_) => {}
        }
    }
    let clean = clean.ok_or_else(|| missing("clean"))?;
    let resample = resample.ok_or_else(|| missing("resample"))?;
    let mut window = window.ok_or_else(|| missing("window"))?;
    window.every = every.or(window.every);
    let signals: Vec<String> = schema.signals.iter().map(|signal| signal.name.clone()).collect();
    let input = WindowInput { signals: &signals, step: resample.every, sequence: false };
    let window = Window::new(&window, &input)
        .map_err(|reason| WindowsError::Window { pipeline: pipeline.name.clone(), reason })?;
    Ok(vec![
        Box::new(Clean::new(clean, &pipeline.time, schema, false)),
        Box::new(Resample::new(resample, signals.len())),
        Box::new(window),
    ])
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
