//! Recordings through the pipeline up to its windows, and what is known of each window.

use std::collections::BTreeMap;
use std::path::Path;

use crate::cli::args::TrainArgs;
use crate::cli::recordings::Recordings;
use crate::cli::screen::Screen;
use crate::evaluate::labels::{self, Column};
use crate::model::training::TrainingSet;
use crate::pipeline::load::LoadedPipeline;
use crate::pipeline::spec::{ModelInput, StageSpec};
use crate::time::{Span, Timestamp};

/// What a model learns from.
pub(super) struct Collected {
    /// Windows.
    pub(super) set: TrainingSet,
    /// The class of each, where classes are to be told apart.
    pub(super) classes: Vec<usize>,
    /// The assets that the windows are of.
    pub(super) assets: Vec<String>,
}

impl Collected {
    /// How long after each window its asset's last one ends, in `unit`.
    pub(super) fn lives(&self, unit: Span) -> Vec<f64> {
        let mut ends: BTreeMap<u32, Timestamp> = BTreeMap::new();
        for (asset, end) in self.set.assets.iter().zip(&self.set.ends) {
            let last = ends.entry(*asset).or_insert(*end);
            *last = (*last).max(*end);
        }
        let left =
            |(asset, end): (&u32, &Timestamp)| ends[asset].since(*end).0 as f64 / unit.0 as f64;
        self.set.assets.iter().zip(&self.set.ends).map(left).collect()
    }
}

/// What is known of the windows before a recording is read. With `samples`, they are samples and not features where the
/// pipeline's first score is given these.
fn training_set(pipeline: &LoadedPipeline, out: &Path, samples: bool) -> TrainingSet {
    let name = out.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut set = TrainingSet { name, ..TrainingSet::default() };
    for stage in &pipeline.spec.stages {
        match stage {
            StageSpec::Resample(resample) => set.step = Some(resample.every),
            StageSpec::Window(window) => {
                set.window = Some(window.length);
                set.every = window.every.or(Some(window.length));
                let unit = |signal: &String| {
                    let found = pipeline.schema.signals.iter().find(|s| s.name == *signal);
                    found.map_or_else(String::new, |s| s.unit.clone())
                };
                let all = pipeline.schema.signals.iter().map(|s| s.name.clone()).collect();
                let signals: Vec<String> = window.signals.clone().unwrap_or(all);
                if let Some(step) = set.step.filter(|_| samples && wants_samples(pipeline)) {
                    set.steps = (window.length.0 / step.0.max(1)) as usize;
                    set.units = signals.iter().map(unit).collect();
                    set.names = signals;
                    continue;
                }
                set.units = signals
                    .iter()
                    .flat_map(|signal| std::iter::repeat_n(unit(signal), window.features.len()))
                    .collect();
            }
            _ => {}
        }
    }
    set
}

fn wants_samples(pipeline: &LoadedPipeline) -> bool {
    let mut scores = pipeline.spec.stages.iter().filter_map(|stage| match stage {
        StageSpec::Score(score) => Some(score.input),
        _ => None,
    });
    scores.next().is_some_and(|input| input != ModelInput::Features)
}

/// Puts the recordings through the pipeline up to its windows. A kind that can learn from `samples` gets them where the
/// pipeline's first score does.
pub(super) fn collect(
    args: &TrainArgs,
    pipeline: &LoadedPipeline,
    samples: bool,
    screen: &Screen,
) -> anyhow::Result<Collected> {
    let mut set = training_set(pipeline, &args.out, samples);
    let recordings = Recordings {
        files: &args.data,
        pipeline,
        args: &args.recording,
        rows_max: args.rows,
        quiet: args.quiet,
        screen,
    };
    let (engine, rows) = recordings.windows(&args.pipeline, |windows| set.push(&windows))?;
    let account = engine.pipelines().first().map(|p| p.account().clone()).unwrap_or_default();
    tracing::info!(
        rows,
        readings = account.received,
        rejected = account.rejected(),
        windows = account.windows,
        sparse = account.sparse,
        "read"
    );
    anyhow::ensure!(
        account.windows > account.sparse,
        "there is nothing to learn from: {rows} rows gave {} windows, {} of them too sparse; \
         give a longer recording, or look at `length`, `min_coverage` and `max_gap` of {}",
        account.windows,
        account.sparse,
        args.pipeline.display()
    );
    let assets: Vec<String> = engine
        .pipelines()
        .first()
        .map(|pipeline| pipeline.assets().iter().map(|asset| asset.id.clone()).collect())
        .unwrap_or_default();
    let classes = match &args.net.label {
        Some(column) => classes(column, &recordings, &set, &assets)?,
        None => Vec::new(),
    };
    Ok(Collected { set, classes, assets })
}

/// The class of each window: the largest number that column `name` has within it.
fn classes(
    name: &str,
    recordings: &Recordings<'_>,
    set: &TrainingSet,
    assets: &[String],
) -> anyhow::Result<Vec<usize>> {
    let spec = recordings.spec()?;
    let mut columns: BTreeMap<String, Vec<(Timestamp, f64)>> = BTreeMap::new();
    for path in recordings.files {
        let asset = recordings.args.asset.as_deref();
        for (asset, Column { times, values }) in labels::column(path, &spec, asset, name)? {
            columns.entry(asset).or_default().extend(times.into_iter().zip(values));
        }
    }
    for column in columns.values_mut() {
        column.sort_by_key(|(at, _)| *at);
    }
    let class = |index: usize| -> anyhow::Result<usize> {
        let asset = assets.get(set.assets[index] as usize).map_or("", String::as_str);
        let column = columns.get(asset).map(Vec::as_slice).unwrap_or_default();
        let from = column.partition_point(|(at, _)| *at < set.starts[index]);
        let to = column.partition_point(|(at, _)| *at < set.ends[index]);
        let most = column[from..to].iter().map(|(_, value)| *value).fold(0.0, f64::max);
        anyhow::ensure!(
            most.fract() == 0.0 && most < 1000.0,
            "column `{name}` holds {most}; a label is 0 for normal, or the number of a class: 1, 2, …"
        );
        Ok(most as usize)
    };
    (0..set.len()).map(class).collect()
}
