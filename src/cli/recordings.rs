//! Recordings on the command line: what `replay`, `train` and `compress` share. Opens files, shows progress, hands on batches.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use indicatif::ProgressBar;

use super::args::{OfflineArgs, RecordingArgs};
use super::screen::{Screen, look};
use crate::diagnose::Problems;
use crate::engine::Engine;
use crate::evaluate::labels::{Column, Labels, column, labels};
use crate::evaluate::life::{Runs, runs_between};
use crate::frame::{Input, Windows};
use crate::ingest::replay::{Recording, RecordingOptions};
use crate::model::Host;
use crate::pipeline::load::{LoadedPipeline, load_pipeline};
use crate::pipeline::plan::{PlanOptions, route};
use crate::pipeline::spec::RecordingSpec;
use crate::time::Timestamp;

/// Rows of a batch, which becomes one tick.
const BATCH_ROWS: usize = 8192;

/// Which recordings, and how they are written.
pub(super) struct Recordings<'a> {
    pub(super) files: &'a [PathBuf],
    pub(super) pipeline: &'a LoadedPipeline,
    pub(super) args: &'a RecordingArgs,
    /// Only the first so many rows of each.
    pub(super) rows_max: Option<usize>,
    pub(super) quiet: bool,
    /// Where progress is shown.
    pub(super) screen: &'a Screen,
    /// From when to when each asset has rows in each of them, as far as they have been read.
    pub(super) runs: RefCell<Runs>,
}

impl OfflineArgs {
    /// The pipeline in a file, with the schema that it names.
    pub(super) fn pipeline(&self, file: &Path) -> Result<LoadedPipeline, Problems> {
        load_pipeline(file, self.schemas.as_deref())
    }

    /// How this machine runs models.
    pub(super) fn host(&self) -> Host {
        Host::with_library(self.onnxruntime.as_deref())
    }

    /// All rows of `files`, for a pipeline.
    pub(super) fn recordings<'a>(
        &'a self,
        files: &'a [PathBuf],
        pipeline: &'a LoadedPipeline,
        screen: &'a Screen,
    ) -> Recordings<'a> {
        let (args, quiet, runs) = (&self.recording, self.quiet, RefCell::default());
        Recordings { files, pipeline, args, rows_max: None, quiet, screen, runs }
    }
}

impl Recordings<'_> {
    /// Reads all recordings in their order, batch by batch, and says how many rows they had.
    pub(super) fn each(
        &self,
        mut take: impl FnMut(Input) -> anyhow::Result<()>,
    ) -> anyhow::Result<u64> {
        let spec = self.spec()?;
        let bar = self.bar();
        let mut rows = 0;
        for path in self.files {
            let options = RecordingOptions {
                spec: spec.clone(),
                asset: self.args.asset.clone(),
                schema: &self.pipeline.schema,
                route: route(&self.pipeline.spec),
                batch_rows: self.rows_max.map_or(BATCH_ROWS, part_of),
            };
            let mut recording = Recording::open(path, &options)?;
            let mut seen: BTreeMap<String, (Timestamp, Timestamp)> = BTreeMap::new();
            let (before, base) = (rows, bar.position());
            bar.set_prefix(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
            while self.rows_max.is_none_or(|max| recording.progress().rows < max as u64)
                && let Some(batch) = recording.next()
            {
                let batch = batch?;
                note(&batch, &mut seen);
                take(batch)?;
                let progress = recording.progress();
                rows = before + progress.rows;
                bar.set_position(base + progress.bytes);
                let seconds = bar.elapsed().as_secs_f64().max(1e-3);
                bar.set_message(format!("{:.0} rows/s", rows as f64 / seconds));
            }
            for (asset, run) in seen {
                self.runs.borrow_mut().entry(asset).or_default().push(run);
            }
            let warnings = recording.warnings();
            for sentence in warnings.sentences() {
                tracing::warn!(file = %path.display(), "{sentence}");
            }
        }
        bar.finish_and_clear();
        Ok(rows)
    }

    /// Puts all recordings through the pipeline up to its windows, hands these on as they close, and gives the engine as it
    /// stands then, with the number of rows. A pipeline that fails on them is an error.
    pub(super) fn windows(&self, mut take: impl FnMut(Windows)) -> anyhow::Result<(Engine, u64)> {
        let host = Host::default();
        let usual = PlanOptions::of(self.pipeline.base(), &host);
        let options = PlanOptions { features_only: true, ..usual };
        let mut engine = self.pipeline.engine("recordings", options)?;
        let rows = self.each(|input| {
            let now = input.latest();
            engine.step(vec![input], now);
            engine.take_windows().into_iter().for_each(&mut take);
            Ok(())
        })?;
        engine.finish();
        engine.take_windows().into_iter().for_each(&mut take);
        none_failed(&mut engine)?;
        warn_of_late(&engine);
        Ok((engine, rows))
    }

    /// The runs of each asset that ended with a failure: those between the marks in the column `failures`, or, without, one
    /// a recording, of those that have been read.
    pub(super) fn runs(&self, failures: Option<&str>) -> anyhow::Result<Runs> {
        if let Some(column) = failures {
            let runs = runs_between(&self.column(column)?);
            anyhow::ensure!(
                runs.values().any(|own| !own.is_empty()),
                "column `{column}` marks no failure: it is 0 or empty in every row"
            );
            return Ok(runs);
        }
        let mut runs = self.runs.borrow().clone();
        for own in runs.values_mut() {
            own.sort_unstable();
            // Recordings of the same time are of one run.
            own.dedup_by(|next, run| {
                let is_same = next.0 <= run.1;
                run.1 = if is_same { run.1.max(next.1) } else { run.1 };
                is_same
            });
        }
        Ok(runs)
    }

    /// One column of all recordings, by asset: labels, which the pipeline never sees.
    pub(super) fn column(&self, name: &str) -> anyhow::Result<BTreeMap<String, Column>> {
        let (spec, mut all) = (self.spec()?, BTreeMap::<String, Column>::new());
        for path in self.files {
            for (asset, mut part) in column(path, &spec, self.args.asset.as_deref(), name)? {
                let whole = all.entry(asset).or_default();
                whole.times.append(&mut part.times);
                whole.values.append(&mut part.values);
            }
        }
        Ok(all)
    }

    /// A column of labels of all recordings; `normal` is the word for normal running.
    pub(super) fn labels(&self, name: &str, normal: Option<&str>) -> anyhow::Result<Labels> {
        let (spec, asset) = (self.spec()?, self.args.asset.as_deref());
        Ok(labels(self.files, &spec, asset, name, normal)?)
    }

    /// The pipeline's notes on recordings, with what the command line says instead.
    pub(super) fn spec(&self) -> anyhow::Result<RecordingSpec> {
        let args = self.args;
        let mut spec = self.pipeline.spec.recording.clone().unwrap_or_default();
        let or = |new: &Option<String>, old: Option<String>| new.clone().or(old);
        spec.delimiter = args.delimiter.map(String::from).or(spec.delimiter);
        spec.time = or(&args.time, spec.time);
        spec.time_format = or(&args.time_format, spec.time_format);
        spec.zone = or(&args.zone, spec.zone);
        spec.asset = or(&args.asset_column, spec.asset);
        for column in &args.column {
            let (signal, name) = column
                .split_once('=')
                .with_context(|| format!("`--column {column}` is not SIGNAL=COLUMN"))?;
            let known = self.pipeline.schema.position(signal).is_some();
            anyhow::ensure!(
                known,
                "`--column {column}`: schema `{}` has no signal `{signal}`",
                self.pipeline.schema.name
            );
            spec.signals.insert(signal.to_owned(), name.to_owned());
        }
        Ok(spec)
    }

    fn bar(&self) -> ProgressBar {
        if self.quiet {
            return ProgressBar::hidden();
        }
        let size = |path: &PathBuf| std::fs::metadata(path).map_or(0, |m| m.len());
        let bar = self.screen.line(ProgressBar::new(self.files.iter().map(size).sum()));
        bar.set_style(look("{prefix} {wide_bar} {bytes}/{total_bytes} {msg}, {eta} left"));
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }
}

/// Remembers from when to when assets have rows.
fn note(batch: &Input, seen: &mut BTreeMap<String, (Timestamp, Timestamp)>) {
    let mut spans: Vec<Option<(Timestamp, Timestamp)>> = vec![None; batch.assets.len()];
    for (&asset, &at) in batch.readings.asset.iter().zip(&batch.readings.ts) {
        let Some(span) = spans.get_mut(asset as usize) else { continue };
        *span = Some(span.map_or((at, at), |(first, last)| (first.min(at), last.max(at))));
    }
    for (asset, span) in batch.assets.iter().zip(spans) {
        let Some((first, last)) = span else { continue };
        let known = seen.entry(asset.id.clone()).or_insert((first, last));
        *known = (known.0.min(first), known.1.max(last));
    }
}

/// Says how many readings came later than others of their asset and were left out.
pub(super) fn warn_of_late(engine: &Engine) {
    let late: u64 = engine.pipelines().iter().map(|pipeline| pipeline.account().late).sum();
    if late > 0 {
        tracing::warn!(
            late,
            "readings are older than what was read of their asset before, and were left out: give recordings of one asset in the \
             order of their time; where a file holds several machines, name the column that tells them apart (`--asset-column`)"
        );
    }
}

/// A pipeline that failed on recordings is an error.
pub(super) fn none_failed(engine: &mut Engine) -> anyhow::Result<()> {
    if let Some(failure) = engine.take_failures().first() {
        anyhow::bail!("pipeline `{}` failed: {}", failure.pipeline, failure.reason);
    }
    Ok(())
}

/// The largest batch that divides `rows`, so that whole batches end exactly there.
fn part_of(rows: usize) -> usize {
    (1..=BATCH_ROWS.min(rows.max(1))).rev().find(|size| rows.is_multiple_of(*size)).unwrap_or(1)
}
