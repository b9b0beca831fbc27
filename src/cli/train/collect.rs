//! Recordings through the pipeline up to its windows, and what is known of each window.

use std::collections::BTreeMap;

use anyhow::Context;

use super::args::{NetArgs, TrainKind};
use crate::cli::args::TrainArgs;
use crate::cli::recordings::Recordings;
use crate::cli::screen::Screen;
use crate::evaluate::labels::{Column, Labels};
use crate::evaluate::life::{Runs, run_name};
use crate::model::training::TrainingSet;
use crate::pipeline::load::LoadedPipeline;
use crate::pipeline::names::training_set;
use crate::pipeline::spec::ModelInput;
use crate::time::{Span, Timestamp};

/// What a model learns from.
pub(super) struct Collected {
    /// Windows.
    pub(super) set: TrainingSet,
    /// The class of each, where classes are to be told apart.
    pub(super) classes: Vec<usize>,
    /// What the classes are called, where that column has words.
    pub(super) words: Vec<String>,
    /// The assets that the windows are of.
    pub(super) assets: Vec<String>,
}

impl Collected {
    /// For a kind that learns what is normal: windows with a label are known as faulty, and not learned.
    pub(super) fn leave_out_faults(&mut self, kind: TrainKind) {
        if !matches!(kind, TrainKind::Classifier | TrainKind::Trees | TrainKind::Transformer) {
            let classes = std::mem::take(&mut self.classes).into_iter().enumerate();
            self.set
                .judged
                .extend(classes.filter(|(_, class)| *class > 0).map(|(at, _)| (at, true)));
        }
    }

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

/// Puts the recordings through the pipeline up to its windows. A kind that can learn from `samples` gets them where the
/// pipeline's first score does.
pub(super) fn collect(
    args: &TrainArgs,
    pipeline: &LoadedPipeline,
    samples: bool,
    screen: &Screen,
) -> anyhow::Result<Collected> {
    let input = pipeline.spec.scores().next().map(|score| score.input);
    anyhow::ensure!(
        !samples || input != Some(ModelInput::ChannelsFirst),
        "what is trained here takes [windows, steps, channels], and the `score` of {} has `input = \"channels_first\"`: \
         set it to \"sequence\" there",
        args.pipeline.display()
    );
    let name = args.out.file_stem().unwrap_or_default().to_string_lossy();
    let mut set = training_set(&pipeline.spec, &pipeline.schema, &name, samples);
    anyhow::ensure!(
        set.steps > 0 || !set.units.is_empty(),
        "the `window` of {} has no `features`, and what is trained here learns from them: name some there, or choose a kind of \
         network that learns from samples",
        args.pipeline.display()
    );
    let all = args.offline.recordings(&args.data, pipeline, screen);
    let recordings = Recordings { rows_max: args.rows, ..all };
    let (engine, rows) = recordings.windows(|windows| set.push(&windows))?;
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
        "there is nothing to learn from: {rows} rows gave {} windows, {} of them too sparse, and {} of {} readings were older \
         than what was read before; give a longer recording, in the order of its time, or look at `length`, `min_coverage` and \
         `max_gap` of {}",
        account.windows,
        account.sparse,
        account.late,
        account.received,
        args.pipeline.display()
    );
    let assets: Vec<String> = engine
        .pipelines()
        .first()
        .map(|pipeline| pipeline.assets().iter().map(|asset| asset.id.clone()).collect())
        .unwrap_or_default();
    let mut assets = assets;
    let has_classes = args.net.label.is_some() || !args.verdicts.is_empty();
    let are_lives = args.kind == TrainKind::Trees && !has_classes;
    if are_lives || args.kind == TrainKind::RemainingLife {
        let runs = recordings.runs(args.net.failures.as_deref())?;
        let is_open = args.net.failures.is_none();
        by_run(&mut set, &mut assets, &runs, is_open);
        anyhow::ensure!(!set.is_empty(), "no window lies within a run that ended with a failure");
    }
    let (classes, words) = match &args.net.label {
        Some(column) => classes((column, &args.net), &recordings, &set, &assets)?,
        None => (Vec::new(), Vec::new()),
    };
    Ok(Collected { set, classes, words, assets })
}

/// Makes each run of a machine up to a failure a machine of its own, so that what is left of a life ends with its run, and
/// whole runs are held out. Windows that are in no run, or in two, are left out. `is_open`: nothing follows the last one.
fn by_run(set: &mut TrainingSet, assets: &mut Vec<String>, runs: &Runs, is_open: bool) {
    let step = set.step.unwrap_or(Span::ZERO);
    let mut numbers: BTreeMap<(u32, usize), u32> = BTreeMap::new();
    let of = |index: usize| -> Option<(u32, usize)> {
        let asset = set.assets[index];
        let own = runs.get(assets.get(asset as usize)?)?;
        let (start, end) = (set.starts[index], set.ends[index]);
        let is_within = |&(at, &(first, last)): &(usize, &(Timestamp, Timestamp))| {
            let is_begun = end > first && (at == 0 || start.plus(step) > first);
            is_begun && (end <= last.plus(step) || (is_open && at + 1 == own.len()))
        };
        own.iter().enumerate().find(is_within).map(|(at, _)| (asset, at))
    };
    let places: Vec<Option<(u32, usize)>> = (0..set.len()).map(of).collect();
    let mut names = Vec::new();
    let known = places.iter().flatten().map(|&(asset, at)| {
        *numbers.entry((asset, at)).or_insert_with(|| {
            names.push(run_name(&assets[asset as usize], at));
            names.len() as u32 - 1
        })
    });
    let known: Vec<u32> = known.collect();
    let kept: Vec<usize> = (0..set.len()).filter(|index| places[*index].is_some()).collect();
    *set = set.picked(&kept);
    set.assets = known;
    *assets = names;
}

/// The class of each window, the largest number that column `name` has within it, and the names of the classes where the
/// column has words.
fn classes(
    (name, net): (&str, &NetArgs),
    recordings: &Recordings<'_>,
    set: &TrainingSet,
    assets: &[String],
) -> anyhow::Result<(Vec<usize>, Vec<String>)> {
    let Labels { mut columns, names } =
        recordings.labels(name, net.classes.first().map(String::as_str))?;
    let are_words = names.iter().skip(1).any(|name| name.parse::<f64>().is_err());
    let class = |(place, label): (usize, &String)| -> anyhow::Result<usize> {
        if place == 0 {
            return Ok(0);
        }
        if are_words && net.classes.is_empty() {
            return Ok(place);
        }
        if are_words {
            let known = net.classes.iter().position(|class| class == label);
            return known.with_context(|| {
                format!("column `{name}` has `{label}`, which is none of `--classes`")
            });
        }
        let number = label.parse::<f64>().unwrap_or(f64::NAN);
        anyhow::ensure!(
            number.fract() == 0.0 && number < 1000.0,
            "column `{name}` holds {label}; a label is 0 for normal, or the number of a class: 1, 2, …; or a word"
        );
        Ok(number as usize)
    };
    let numbers = names.iter().enumerate().map(class).collect::<anyhow::Result<Vec<_>>>()?;
    for Column { times, values } in columns.values_mut() {
        let mut rows: Vec<(Timestamp, f64)> = times.drain(..).zip(values.drain(..)).collect();
        rows.sort_by_key(|(at, _)| *at);
        (*times, *values) = rows.into_iter().unzip();
    }
    let of = |index: usize| {
        let asset = assets.get(set.assets[index] as usize).map_or("", String::as_str);
        let Some(column) = columns.get(asset) else { return 0 };
        let from = column.times.partition_point(|at| *at < set.starts[index]);
        let to = column.times.partition_point(|at| *at < set.ends[index]);
        let within = column.values[from..to].iter();
        within.filter_map(|place| numbers.get(*place as usize).copied()).max().unwrap_or(0)
    };
    let classes = (0..set.len()).map(of).collect();
    Ok((classes, if are_words && net.classes.is_empty() { names } else { Vec::new() }))
}
