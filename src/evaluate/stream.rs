//! Recordings through a pipeline: a verdict for every window, and what the training stages need.
//!
//! `cli evaluate` and the suite call it. It is the engine that runs live, fed in the order of the recording, so a verdict
//! rests on what came before the end of its window and on nothing else.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::metrics::percentile;
use crate::engine::{Engine, Failure};
use crate::frame::{Input, Windows};
use crate::model::training::TrainingSet;
use crate::model::{Given, Host, HostError, Model, ModelError, whole_row};
use crate::pipeline::load::LoadedPipeline;
use crate::pipeline::names;
use crate::pipeline::plan::{OtherModel, PlanError, PlanOptions, plan};
use crate::pipeline::spec::{AlarmSpec, Fill, PipelineSpec, ScoreSpec};
use crate::record::{AlarmState, Record};
use crate::schema::Schema;
use crate::stage::resample::gaps;
use crate::stage::score::Scorer;
use crate::time::{Span, Timestamp, monotonic};

/// Most inferences that are timed.
const TIMED: usize = 1000;
/// So long, where they are slow.
const TIMED_FOR: Duration = Duration::from_secs(3);
/// Most windows that are kept to time them with.
const SAMPLES: usize = 100;

/// Why recordings cannot be put through a pipeline.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The pipeline cannot run.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// It asks no model.
    #[error("pipeline `{0}` has no `score` stage: there is no answer to evaluate")]
    NoScore(String),
    /// It has no answer of this name.
    #[error("pipeline `{pipeline}` has no score `{output}`; it has {found}")]
    NoOutput {
        /// The pipeline.
        pipeline: String,
        /// What was asked for.
        output: String,
        /// What there is.
        found: String,
    },
    /// A stage failed on the way.
    #[error("pipeline `{pipeline}` failed: {reason}")]
    Failed {
        /// The pipeline.
        pipeline: String,
        /// Why.
        reason: String,
    },
    /// A model cannot be opened.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A model does not run.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// What a pipeline says of one window.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// First instant of the window.
    pub start: Timestamp,
    /// First instant after it: when the verdict could be known.
    pub end: Timestamp,
    /// The score; `None` where an input was missing.
    pub score: Option<f64>,
    /// Whether the window is called abnormal: its alarm is on, or without an alarm the score is at its threshold.
    pub alarm: bool,
    /// Which class it is said to be of, as a place in [`Verdicts::classes`].
    pub class: Option<usize>,
}

/// By batch of windows, the class of each.
type Said = Vec<Vec<Option<usize>>>;

/// Which model is asked for classes.
#[derive(Clone, Copy, Debug)]
pub struct AskClass<'a> {
    /// How this machine runs it.
    pub host: &'a Host,
    /// The model that gave the scores.
    pub model: &'a Path,
    /// Classes that may be meant where the model does not name its own.
    pub names: &'a [String],
}

/// A pipeline that is being asked.
pub struct Stream {
    engine: Engine,
    output: String,
    /// The alarm that watches the score, if there is one.
    alarm: Option<AlarmSpec>,
    /// Changes of that alarm, by asset: when, and whether it is on since.
    changes: BTreeMap<String, Vec<(Timestamp, bool)>>,
    /// What is asked of the model.
    score: ScoreSpec,
    windows: Vec<Windows>,
    threshold: Option<f64>,
    paces: Paces,
}

/// How often each signal of each asset comes, where that decides whether the pipeline looks ahead: what is filled in between
/// two readings that are further apart than the grid's steps waits for the second.
#[derive(Default)]
struct Paces {
    /// The grid's step, where it fills with what comes later, and over how long a gap of each signal it does.
    step: Option<Span>,
    gaps: Vec<Span>,
    assets: BTreeMap<String, usize>,
    /// By asset and signal: the last reading, how many were further than a step from the one before, and how many not.
    signals: BTreeMap<(usize, u16), (Timestamp, u64, u64)>,
}

impl Paces {
    fn of(spec: &PipelineSpec, schema: &Schema) -> Paces {
        let ahead = spec.grid().filter(|grid| matches!(grid.fill, Fill::Linear | Fill::Next));
        let gaps = ahead.map_or_else(Vec::new, |grid| gaps(grid, schema));
        Paces { step: ahead.map(|grid| grid.every.span()), gaps, ..Paces::default() }
    }

    fn take(&mut self, input: &Input) {
        let Some(step) = self.step else { return };
        let mut places = Vec::with_capacity(input.assets.len());
        for asset in &input.assets {
            let next = self.assets.len();
            places.push(*self.assets.entry(asset.id.clone()).or_insert(next));
        }
        let readings = &input.readings;
        for ((&asset, &signal), &at) in
            readings.asset.iter().zip(&readings.signal).zip(&readings.ts)
        {
            let Some(&asset) = places.get(asset as usize) else { continue };
            let (last, wide, narrow) = self.signals.entry((asset, signal)).or_insert((at, 0, 0));
            let since = at.since(*last);
            let longest = self.gaps.get(usize::from(signal)).copied().unwrap_or_default();
            // Clocks jitter, and nothing is filled in over a gap that is too long.
            if since.0 > step.0 + step.0 / 2 {
                *wide += u64::from(since <= longest);
            } else if since > Span::ZERO {
                *narrow += 1;
            }
            *last = at.max(*last);
        }
    }

    /// Whether a signal usually comes more rarely than the grid's steps.
    fn looks_ahead(&self) -> bool {
        self.signals.values().any(|(_, wide, narrow)| wide > narrow)
    }
}

impl Stream {
    /// A stream that looks at the score `output`, or at the first. `models` take the place of the pipeline's own.
    pub fn new(
        pipeline: &LoadedPipeline,
        models: &[OtherModel],
        host: &Host,
        output: Option<&str>,
    ) -> Result<Stream, StreamError> {
        let (spec, name) = (&pipeline.spec, &pipeline.spec.name);
        let first = spec.scores().next().ok_or_else(|| StreamError::NoScore(name.clone()))?;
        let output = output.unwrap_or(&first.output).to_owned();
        let Some(score) = spec.score(&output).cloned() else {
            let names: Vec<&str> = spec.scores().map(|score| score.output.as_str()).collect();
            let (pipeline, found) = (name.clone(), names.join(", "));
            return Err(StreamError::NoOutput { pipeline, output, found });
        };
        let alarm = spec.alarm_on(&output).cloned();
        let options = PlanOptions { models, ..PlanOptions::of(pipeline.base(), host) };
        let mut planned = plan(spec, &pipeline.schema, options)?;
        planned.keep_windows = true;
        let engine = Engine::new("evaluate".into(), vec![planned]);
        let changes = BTreeMap::new();
        let windows = Vec::new();
        let paces = Paces::of(spec, &pipeline.schema);
        Ok(Stream { engine, output, alarm, changes, score, windows, threshold: None, paces })
    }

    /// The score that is looked at.
    pub fn output(&self) -> &str {
        &self.output
    }

    /// Takes the next readings.
    pub fn take(&mut self, input: Input) -> Result<(), StreamError> {
        let now = input.latest();
        self.paces.take(&input);
        let records = self.engine.step(vec![input], now).records;
        self.keep(records.into_iter().map(|outgoing| outgoing.record))
    }

    /// Nothing more comes: the verdicts of each asset, in order of time; where it is `asked`, with the class of each window,
    /// if the model tells classes apart.
    pub fn finish(mut self, asked: Option<AskClass<'_>>) -> Result<Verdicts, StreamError> {
        let records = self.engine.finish().records;
        self.keep(records.into_iter().map(|outgoing| outgoing.record))?;
        let pipeline = self.engine.pipelines().first();
        let names = pipeline.map(|pipeline| pipeline.assets().to_vec()).unwrap_or_default();
        // The model is opened again, and two of it need not be in memory.
        self.engine = Engine::new("evaluate".into(), Vec::new());
        let (said, classes) = asked.map_or(Ok((Vec::new(), Vec::new())), |a| self.classes(a))?;
        let mut by_asset: BTreeMap<String, Vec<Verdict>> = BTreeMap::new();
        for (at, windows) in self.windows.iter().enumerate() {
            let Some(scored) = windows.scores.iter().find(|s| s.output == self.output) else {
                continue;
            };
            for (index, asset) in windows.asset.iter().enumerate() {
                let Some(asset) = names.get(*asset as usize) else { continue };
                let (end, score) = (windows.end[index], scored.values[index]);
                let threshold = scored.speaker(index).and_then(|speaker| speaker.threshold);
                let over = score.zip(threshold).is_some_and(|(score, limit)| score >= limit);
                let alarm = if self.alarm.is_some() { self.is_on(&asset.id, end) } else { over };
                let class = said.get(at).and_then(|said| *said.get(index)?);
                let verdict = Verdict { start: windows.start[index], end, score, alarm, class };
                by_asset.entry(asset.id.clone()).or_default().push(verdict);
            }
        }
        let threshold = self.alarm.as_ref().and_then(|alarm| alarm.raise).or(self.threshold);
        let samples = self.samples();
        let looks_ahead = self.paces.looks_ahead();
        let Stream { output, alarm, .. } = self;
        Ok(Verdicts { output, threshold, alarm, by_asset, samples, classes, looks_ahead })
    }

    /// The class of each of the windows, and the names of the classes.
    fn classes(&self, asked: AskClass<'_>) -> Result<(Said, Vec<String>), StreamError> {
        let Some(first) = self.windows.first() else { return Ok((Vec::new(), Vec::new())) };
        // Names have been held against the model's when the pipeline was planned.
        let channels = vec![String::new(); first.channels];
        let given = Given::of(self.score.input, &first.names, first.steps, &channels);
        let model = asked.host.open(asked.model)?;
        let found = Scorer::of_classes(&self.score, model, given, asked.names);
        let Some((mut scorer, mut names)) = found else { return Ok((Vec::new(), Vec::new())) };
        let (mut said, another) = (Vec::new(), names.len());
        for windows in &self.windows {
            scorer.run(windows)?;
            let class = |place: f64| if place < 0.0 { another } else { place as usize };
            let places = scorer.values(windows.len()).into_iter();
            said.push(places.map(|place| place.map(class)).collect::<Vec<_>>());
        }
        if said.iter().flatten().any(|class| *class == Some(another)) {
            names.push("another".into());
        }
        Ok((said, names))
    }

    fn keep(&mut self, records: impl Iterator<Item = Record>) -> Result<(), StreamError> {
        for record in records {
            let Record::Alarm(record) = record else { continue };
            if self.alarm.as_ref().is_some_and(|alarm| alarm.name == record.name) {
                let on = !matches!(record.state, AlarmState::Normal | AlarmState::Returned);
                self.changes.entry(record.asset).or_default().push((record.at, on));
            }
        }
        self.windows.append(&mut self.engine.take_windows());
        let mut scores = self.windows.iter().flat_map(|windows| &windows.scores);
        if let Some(scored) = scores.find(|scored| scored.output == self.output) {
            self.threshold = scored.speakers.first().and_then(|speaker| speaker.threshold);
        }
        failed(self.engine.take_failures())
    }

    /// Some of what the model was given, whole rows only.
    fn samples(&self) -> (Vec<Vec<f64>>, Vec<usize>) {
        let Some(first) = self.windows.first() else { return (Vec::new(), Vec::new()) };
        let input = self.score.input;
        let channels = vec![String::new(); first.channels];
        let shape = Given::of(input, &first.names, first.steps, &channels).shape(1);
        let rows = self.windows.iter().flat_map(|windows| {
            (0..windows.len()).filter_map(move |at| whole_row(input, windows, at))
        });
        (rows.take(SAMPLES).collect(), shape)
    }

    fn is_on(&self, asset: &str, at: Timestamp) -> bool {
        let changes = self.changes.get(asset).map(Vec::as_slice).unwrap_or_default();
        let until = changes.partition_point(|(when, _)| *when <= at);
        changes[..until].last().is_some_and(|(_, on)| *on)
    }
}

/// What a pipeline said of recordings.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdicts {
    /// The score that was looked at.
    pub output: String,
    /// At or above it a window is called abnormal; where an alarm watches the score, it is raised there.
    pub threshold: Option<f64>,
    /// The alarm whose state is the verdict, if one watches the score.
    pub alarm: Option<AlarmSpec>,
    /// Of each asset, in order of time.
    pub by_asset: BTreeMap<String, Vec<Verdict>>,
    /// What the model was given for some windows, and the shape of it: to time it with.
    pub samples: (Vec<Vec<f64>>, Vec<usize>),
    /// The classes that it tells apart; empty where it tells none, or was not asked.
    pub classes: Vec<String>,
    /// Whether what was filled in between readings of a signal rests on the later one, so that a verdict counts from before
    /// it could be known.
    pub looks_ahead: bool,
}

impl Verdicts {
    /// Median and 99th percentile of the time that `model` takes for one of these windows, in microseconds.
    pub fn inference(
        &self,
        host: &Host,
        model: &Path,
    ) -> Result<(Option<f64>, Option<f64>), StreamError> {
        let (rows, shape) = &self.samples;
        let mut times = time_inferences(host, model, rows, shape)?;
        times.sort_unstable();
        Ok((micros(&times, 50), micros(&times, 99)))
    }
}

/// The time below which so many in a hundred of the sorted ones lie, in microseconds.
pub(super) fn micros(sorted: &[Duration], percent: usize) -> Option<f64> {
    percentile(sorted, percent).map(|time| time.as_secs_f64() * 1e6)
}

/// The verdict that was the newest at each row: that of the last window that had ended with the row, of a grid of `step`.
/// Rows before the first window have none.
pub fn at_rows<'v>(
    verdicts: &'v [Verdict],
    rows: &[Timestamp],
    step: Span,
) -> Vec<Option<&'v Verdict>> {
    let at = |row: &Timestamp| {
        let known = verdicts.partition_point(|verdict| verdict.end <= row.plus(step));
        verdicts[..known].last()
    };
    rows.iter().map(at).collect()
}

/// The windows that a pipeline makes of recordings, with features and, where a stage wants them, samples.
pub fn windows(
    pipeline: &LoadedPipeline,
    host: &Host,
    inputs: impl IntoIterator<Item = Input>,
) -> Result<Vec<Windows>, StreamError> {
    let usual = PlanOptions::of(pipeline.base(), host);
    let mut engine = pipeline.engine("evaluate", PlanOptions { features_only: true, ..usual })?;
    for input in inputs {
        let now = input.latest();
        engine.step(vec![input], now);
    }
    engine.finish();
    failed(engine.take_failures())?;
    Ok(engine.take_windows())
}

/// The same as a set to learn from, by the name `name`.
pub fn training_set(
    pipeline: &LoadedPipeline,
    host: &Host,
    name: &str,
    inputs: impl IntoIterator<Item = Input>,
) -> Result<TrainingSet, StreamError> {
    let mut set = names::training_set(&pipeline.spec, &pipeline.schema, name, false);
    windows(pipeline, host, inputs)?.iter().for_each(|windows| set.push(windows));
    Ok(set)
}

/// How long a model takes for one window, of inputs as they came, again and again.
pub fn time_inferences(
    host: &Host,
    model: &Path,
    rows: &[Vec<f64>],
    shape: &[usize],
) -> Result<Vec<Duration>, StreamError> {
    let mut model: Model = host.open(model)?;
    let Ok(wanted) = model.score_output(None, "score", None) else { return Ok(Vec::new()) };
    let (wanted, mut outputs) = (vec![wanted], Vec::new());
    let mut times = Vec::with_capacity(TIMED);
    let start = monotonic();
    for row in rows.iter().cycle().take(if rows.is_empty() { 0 } else { TIMED }) {
        let began = monotonic();
        if began.duration_since(start) > TIMED_FOR {
            break;
        }
        model.run(row, shape, &wanted, &mut outputs)?;
        times.push(began.elapsed());
    }
    Ok(times)
}

fn failed(failures: Vec<Failure>) -> Result<(), StreamError> {
    match failures.into_iter().next() {
        Some(Failure { pipeline, reason }) => Err(StreamError::Failed { pipeline, reason }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Asset, Quality};

    #[test]
    fn a_line_to_a_later_reading_of_a_slow_signal_looks_ahead() {
        let schema: Schema =
            toml::from_str("name = \"a\"\n[[signal]]\nname = \"x\"\nunit = \"1\"\n[[signal]]\nname = \"y\"\nunit = \"1\"\n")
                .unwrap();
        let looks_ahead = |fill: &str, slow: i64| {
            let text = format!(
                "name = \"a\"\nschema = \"a\"\ntopics = [\"a\"]\n\
                 [[stage]]\nresample = {{ every = \"1s\", fill = \"{fill}\" }}\n"
            );
            let mut paces = Paces::of(&toml::from_str(&text).unwrap(), &schema);
            for batch in 0..3 {
                let assets = vec![Asset { id: "x".into(), ..Asset::default() }];
                let mut input = Input { assets, ..Input::default() };
                for second in batch * 100..(batch + 1) * 100 {
                    let at = Timestamp(second * 1_000_100);
                    input.readings.push(0, 0, at, 0.0, Quality::Good);
                    if second % slow == 0 {
                        input.readings.push(0, 1, at, 0.0, Quality::Good);
                    }
                }
                paces.take(&input);
            }
            paces.looks_ahead()
        };
        assert!(looks_ahead("linear", 2) && looks_ahead("next", 2));
        assert!(!looks_ahead("linear", 1) && !looks_ahead("previous", 2));
        assert!(!looks_ahead("linear", 10), "over three steps nothing is drawn");
    }
}
