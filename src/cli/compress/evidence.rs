//! The windows on which two models are compared: a recording's, through the pipeline's own stages, or made up.
//!
//! Both models score them as they would on a node: by the `score` stage. The first half of each asset's windows may choose
//! (a threshold, ranges); the second half judges, and what reaches into it does neither. Made-up windows come from the model's baseline, each column by itself,
//! or are plain noise where it has none: enough to see whether the arithmetic is near, and told as what it is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use indicatif::ProgressBar;

use super::parts::{Part, divided, first_of};
use super::{Answers, CompressArgs, ask, compare, made_up};
use crate::cli::recordings::Recordings;
use crate::cli::screen::{Screen, look};
use crate::evaluate::labels::{self, Fault};
use crate::frame::{Asset, Windows};
use crate::model::compress::calibrate::Watched;
use crate::model::golden::Golden;
use crate::model::training::TrainingSet;
use crate::model::{Given, Host, Model, ModelFile, Wanted, whole_row};
use crate::pipeline::load::LoadedPipeline;
use crate::pipeline::names::window_signals;
use crate::pipeline::spec::{ModelInput, PipelineSpec, ScoreSpec};
use crate::stage::score::ScoreStage;
use crate::stage::{Around, Effects, Flow, Stage};
use crate::time::{Tick, Timestamp};

/// Windows that are scored at once.
const TICK: usize = 256;
/// Most windows that models are watched on.
const CALIBRATING: usize = 128;
/// Of a model without golden vectors, windows that become some.
const GOLDEN: usize = 4;
/// Most numbers in them, so that a model stays small whose windows are long.
const GOLDEN_NUMBERS: usize = 2048;
/// How far a golden answer may be off where the original says nothing else.
const TOLERANCE: f64 = 2e-3;

/// See the module.
pub(super) struct Evidence {
    windows: Windows,
    channels: Vec<String>,
    spec: ScoreSpec,
    /// Of each window, where labels were given: whether something was wrong.
    faulty: Option<Vec<bool>>,
    /// Of each window: what it is for.
    parts: Vec<Part>,
    source: String,
    quiet: bool,
}

/// A threshold that became another one.
pub(super) struct Moved {
    pub(super) from: f64,
    pub(super) to: f64,
}

impl Evidence {
    /// What the command line gives, or what can be made up for the model.
    pub(super) fn gather(
        args: &CompressArgs,
        model: &ModelFile,
        screen: &Screen,
    ) -> anyhow::Result<Evidence> {
        let Gathered { windows, channels, spec, faulty, source } = match &args.pipeline {
            Some(pipeline) => recorded(args, pipeline, screen)?,
            None => made_up::made_up(model)?,
        };
        // The models themselves are compared, however long they take: nothing may answer in their place.
        let spec = ScoreSpec { deadline: None, fallback: false, recalibrate: None, ..spec };
        let parts = divided(&windows);
        Ok(Evidence { windows, channels, spec, faulty, parts, source, quiet: args.offline.quiet })
    }

    /// What it is, for people.
    pub(super) fn told(&self) -> String {
        let judging = self.parts.iter().filter(|part| **part == Part::Judges).count();
        format!("{judging} of {} windows {}", self.windows.len(), self.source)
    }

    /// Windows that may choose.
    pub(super) fn calibrating(&self) -> usize {
        self.parts.iter().filter(|part| **part == Part::Chooses).count()
    }

    fn chooses(&self, at: usize) -> bool {
        self.parts[at] == Part::Chooses
    }

    /// The windows that may choose.
    pub(super) fn choosing(&self) -> Windows {
        self.windows.picked((0..self.len()).filter(|at| self.chooses(*at)))
    }

    /// Of each asset where its first window begins that judges.
    pub(super) fn until(&self) -> BTreeMap<u32, Timestamp> {
        first_of(&self.windows, &self.parts)
    }

    /// Whether the model is given features, and not samples.
    pub(super) fn is_row(&self) -> bool {
        self.spec.input == ModelInput::Features
    }

    /// What the model is given of `windows`, oldest first, and how many numbers a step has.
    pub(super) fn numbers<'a>(&self, windows: &'a Windows) -> (&'a [f64], usize) {
        if self.is_row() {
            (&windows.features, windows.names.len())
        } else {
            (&windows.sequence, windows.channels)
        }
    }

    fn given(&self) -> Given<'_> {
        Given::of(self.spec.input, &self.windows.names, self.windows.steps, &self.channels)
    }

    /// The stage that asks `model`, if it fits.
    pub(super) fn stage(&self, model: Model) -> anyhow::Result<ScoreStage> {
        Ok(ScoreStage::new(&self.spec, model, self.given())?)
    }

    /// The same for a student: of its own it has one score, and it takes samples oldest first.
    pub(super) fn stage_of_student(&self, model: Model) -> anyhow::Result<ScoreStage> {
        let input = match self.spec.input {
            ModelInput::Features => ModelInput::Features,
            ModelInput::Sequence | ModelInput::ChannelsFirst => ModelInput::Sequence,
        };
        let given = Given::of(input, &self.windows.names, self.windows.steps, &self.channels);
        let (tensor, class, state) = (None, None, BTreeMap::new());
        let spec = ScoreSpec { input, tensor, class, state, ..self.spec.clone() };
        Ok(ScoreStage::new(&spec, model, given)?)
    }

    /// What can be learned from: windows that may choose, with the original's scores. With `below`, normal ones: those that
    /// have no label of a fault and score less.
    pub(super) fn lesson(
        &self,
        scores: &[Option<f64>],
        below: Option<f64>,
    ) -> (TrainingSet, Vec<f64>) {
        let faulty = |at: usize| self.faulty.as_ref().is_some_and(|faulty| faulty[at]);
        let fits = |at, score| below.is_none_or(|limit| score < limit && !faulty(at));
        let (mut set, mut taught) = (self.empty_lesson(), Vec::new());
        for (at, score) in scores.iter().enumerate().filter(|(at, _)| self.chooses(*at)) {
            let score = score.filter(|score| fits(at, *score));
            self.learn_from(&self.part(at, 1), &[score], &mut set, &mut taught);
        }
        (set, taught)
    }

    /// A lesson without windows.
    pub(super) fn empty_lesson(&self) -> TrainingSet {
        let windows = &self.windows;
        let names = if self.is_row() { &windows.names } else { &self.channels };
        let steps = if self.is_row() { 0 } else { windows.steps };
        TrainingSet { names: names.clone(), steps, ..TrainingSet::default() }
    }

    /// Adds those of `windows` to a lesson that have a score and all their numbers.
    pub(super) fn learn_from(
        &self,
        windows: &Windows,
        scores: &[Option<f64>],
        set: &mut TrainingSet,
        taught: &mut Vec<f64>,
    ) {
        for (at, score) in scores.iter().enumerate() {
            let one = windows.picked([at]);
            let is_whole = self.numbers(&one).0.iter().all(|value| value.is_finite());
            if let Some(score) = score.filter(|score| is_whole && score.is_finite()) {
                set.push(&one);
                taught.push(score);
            }
        }
    }

    /// The model's golden vectors; where it has none, its answers to some of the windows.
    pub(super) fn golden(&self, model: &mut Model) -> Option<Golden> {
        if let Some(golden) = &model.metadata.golden {
            return Some(golden.clone());
        }
        let whole: Vec<Vec<f64>> = self.inputs(|at| self.chooses(at));
        let last = whole.len().checked_sub(1)?;
        let most = (GOLDEN_NUMBERS / whole[0].len().max(1)).clamp(1, GOLDEN);
        let mut places: Vec<usize> = (0..most).map(|k| k * last / (GOLDEN - 1)).collect();
        places.dedup();
        let input: Vec<Vec<f64>> = places.into_iter().map(|at| whole[at].clone()).collect();
        let shape = self.given().shape(1)[1..].to_vec();
        let outputs = ask(model, &input, &shape);
        let is_whole = outputs.values().flatten().flatten().all(|value| value.is_finite());
        let golden = Golden { shape, input, outputs, tolerance: TOLERANCE };
        (is_whole && !golden.outputs.is_empty()).then_some(golden)
    }

    /// Runs a model that shows what is inside it on windows that may choose, and gives `take` each value it shows.
    pub(super) fn watch(
        &self,
        watched: &Watched,
        host: &Host,
        workshop: &Path,
        screen: &Screen,
        mut take: impl FnMut(&str, &[f64]),
    ) -> anyhow::Result<()> {
        let rows = self.inputs(|at| self.chooses(at));
        let step = rows.len().div_ceil(CALIBRATING).max(1);
        let bar = self.bar("calibration", rows.len().div_ceil(step), screen);
        super::write(workshop, "watched.onnx", &watched.model)?;
        let mut model = host.open(&workshop.join("watched.onnx"))?;
        let shape = self.given().shape(1);
        let (wanted, values): (Vec<Wanted>, Vec<&String>) = (watched.values.iter())
            .filter_map(|(output, value)| {
                Some((Wanted::all(model.signature.output(output)?), value))
            })
            .unzip();
        let mut outputs = Vec::new();
        for row in rows.iter().step_by(step) {
            model.run(row, &shape, &wanted, &mut outputs)?;
            for (value, output) in values.iter().zip(&outputs) {
                take(value, &output.values);
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(())
    }

    pub(super) fn bar(&self, what: &str, count: usize, screen: &Screen) -> ProgressBar {
        let bar = if self.quiet {
            ProgressBar::hidden()
        } else {
            screen.line(ProgressBar::new(count as u64))
        };
        bar.set_style(look("{prefix} {wide_bar} {pos}/{len} windows, {eta} left"));
        bar.set_prefix(what.to_owned());
        bar
    }

    /// The rows that models are given, of windows that have all their numbers and are `wanted`.
    pub(super) fn inputs(&self, wanted: impl Fn(usize) -> bool) -> Vec<Vec<f64>> {
        let places = (0..self.len()).filter(|at| wanted(*at));
        places.filter_map(|at| whole_row(self.spec.input, &self.windows, at)).collect()
    }

    /// The score of each window.
    pub(super) fn scores(
        &self,
        stage: &mut ScoreStage,
        whose: &str,
        screen: &Screen,
    ) -> anyhow::Result<Vec<Option<f64>>> {
        let bar = self.bar(whose, self.windows.len(), screen);
        let mut scores = Vec::with_capacity(self.windows.len());
        while scores.len() < self.windows.len() {
            let part = self.part(scores.len(), TICK.min(usize::from(self.spec.batch)));
            scores.extend(apply(stage, part)?);
            bar.set_position(scores.len() as u64);
        }
        bar.finish_and_clear();
        Ok(scores)
    }

    /// `count` windows from `first` on, fewer at the end.
    pub(super) fn part(&self, first: usize, count: usize) -> Windows {
        self.windows.picked(first..(first + count).min(self.len()))
    }

    /// How many windows there are.
    pub(super) fn len(&self) -> usize {
        self.windows.len()
    }

    /// Of `scores`, those of windows that judge.
    pub(super) fn judged(&self, scores: &[Option<f64>]) -> Vec<Option<f64>> {
        self.of(scores, Part::Judges)
    }

    /// The labels of windows that judge.
    pub(super) fn labels(&self) -> Option<Vec<bool>> {
        Some(self.of(self.faulty.as_deref()?, Part::Judges))
    }

    fn of<T: Copy>(&self, column: &[T], part: Part) -> Vec<T> {
        let pairs = column.iter().zip(&self.parts);
        pairs.filter(|(_, of)| **of == part).map(|(value, _)| *value).collect()
    }

    /// Where the compressed model's threshold should be, by the windows that may choose. `None`: where it was, or where
    /// the pipeline has it.
    pub(super) fn moved_threshold(
        &self,
        threshold: Option<f64>,
        before: &[Option<f64>],
        after: &[Option<f64>],
    ) -> Option<Moved> {
        let from = threshold.filter(|_| self.spec.threshold.is_none())?;
        let (before, after) = (self.of(before, Part::Chooses), self.of(after, Part::Chooses));
        let to = compare::moved(&before, &after, from)?;
        Some(Moved { from, to })
    }
}

/// What the model answers to golden inputs.
pub(super) fn answers(model: &mut Model, golden: &Golden) -> Answers {
    ask(model, &golden.input, &golden.shape)
}

/// The scores of some windows.
pub(super) fn apply(stage: &mut ScoreStage, windows: Windows) -> anyhow::Result<Vec<Option<f64>>> {
    let tick = Tick { seq: 1, now: Timestamp(0) };
    let around = Around {
        node: "compress",
        pipeline: "compress",
        assets: &[],
        tick,
        deaf: false,
        ended: false,
    };
    let flow = stage.apply(Flow::Windows(windows), &around, &mut Effects::default())?;
    let Flow::Windows(windows) = flow else { anyhow::bail!("a score stage gave no windows") };
    Ok(windows.scores.into_iter().next().map(|scored| scored.values).unwrap_or_default())
}

/// Windows, and what scores them.
pub(super) struct Gathered {
    pub(super) windows: Windows,
    pub(super) channels: Vec<String>,
    pub(super) spec: ScoreSpec,
    pub(super) faulty: Option<Vec<bool>>,
    pub(super) source: String,
}

/// The recordings that are given, for this pipeline.
pub(super) fn recordings<'a>(
    args: &'a CompressArgs,
    pipeline: &'a LoadedPipeline,
    screen: &'a Screen,
) -> Recordings<'a> {
    let all = args.offline.recordings(&args.data, pipeline, screen);
    Recordings { rows_max: args.rows, ..all }
}

/// The windows of recordings.
fn recorded(args: &CompressArgs, path: &Path, screen: &Screen) -> anyhow::Result<Gathered> {
    let pipeline = args.offline.pipeline(path)?;
    let spec = score_spec(&pipeline.spec, args.score.as_deref())?;
    let recordings = recordings(args, &pipeline, screen);
    let mut windows = Windows::default();
    let (engine, _) = recordings.windows(|more| windows.append(more))?;
    anyhow::ensure!(
        windows.len() >= 2,
        "the recordings gave {} windows: give longer ones, or look at `length` of {}",
        windows.len(),
        path.display()
    );
    let window = pipeline.spec.window();
    let channels = window.map(|window| window_signals(&pipeline.schema, window));
    let assets = engine.pipelines().first().map(|pipeline| pipeline.assets().to_vec());
    let faulty = match &args.labels {
        Some(column) => Some(labelled(&recordings, column, &windows, &assets.unwrap_or_default())?),
        None => None,
    };
    let source = match args.data.len() {
        1 => "of a recording".to_owned(),
        some => format!("of {some} recordings"),
    };
    Ok(Gathered { windows, channels: channels.unwrap_or_default(), spec, faulty, source })
}

/// Of each window, whether something was wrong in it: a label that is not of normal running in the column `truth`, or a
/// fault in the file of that name.
fn labelled(
    recordings: &Recordings<'_>,
    truth: &str,
    windows: &Windows,
    assets: &[Asset],
) -> anyhow::Result<Vec<bool>> {
    let (mut times, mut faults) = (BTreeMap::new(), BTreeMap::new());
    if Path::new(truth).is_file() {
        faults = labels::faults(Path::new(truth))?;
    } else {
        for (asset, column) in recordings.labels(truth, None)?.columns {
            let pairs = column.times.into_iter().zip(column.values);
            let wrong = pairs.filter(|(_, value)| *value > 0.0).map(|(at, _)| at);
            times.insert(asset, wrong.collect::<BTreeSet<Timestamp>>());
        }
    }
    let is_wrong = |at: usize| {
        let Some(asset) = assets.get(windows.asset[at] as usize) else { return false };
        let (start, end) = (windows.start[at], windows.end[at]);
        let sampled = |times: &BTreeSet<Timestamp>| times.range(start..end).next().is_some();
        let lasts = |fault: &Fault| fault.interval.from < end && fault.interval.to >= start;
        times.get(&asset.id).is_some_and(sampled)
            || faults.get(&asset.id).is_some_and(|faults| faults.iter().any(lasts))
    };
    Ok((0..windows.len()).map(is_wrong).collect())
}

/// The pipeline's score called `output`, or its first.
fn score_spec(spec: &PipelineSpec, output: Option<&str>) -> anyhow::Result<ScoreSpec> {
    let found = output.map_or_else(|| spec.scores().next(), |output| spec.score(output));
    let names: Vec<&str> = spec.scores().map(|score| score.output.as_str()).collect();
    let names = names.join(", ");
    found.cloned().ok_or_else(|| {
        anyhow::anyhow!("pipeline `{}` has no such score; it has: {names}", spec.name)
    })
}
