//! `forebay train`: fits an anomaly model to recordings of normal running.
//!
//! The pipeline's own stages make the features, so what trains is what runs. Closed form: seconds, and the same
//! recordings give the same bytes.

use std::path::Path;

use super::args::TrainArgs;
use super::recordings::Recordings;
use super::screen::Screen;
use super::{Outcome, print, write_whole};
use crate::engine::Engine;
use crate::model::Host;
use crate::model::pca::{self, PcaOptions, TrainReport};
use crate::model::training::TrainingSet;
use crate::pipeline::load::{LoadedPipeline, load_pipeline};
use crate::pipeline::plan::{PlanOptions, plan};
use crate::pipeline::spec::StageSpec;
use crate::time::Timestamp;

/// Trains and writes a model.
pub(super) fn train(args: &TrainArgs, screen: &Screen) -> anyhow::Result<Outcome> {
    let pipeline = load_pipeline(&args.pipeline, args.schemas.as_deref())?;
    let mut set = training_set(&pipeline, &args.out);
    collect(args, &pipeline, &mut set, screen)?;
    let options = PcaOptions {
        explained: args.variance,
        holdout: args.holdout,
        quantile: 1.0 - args.false_alarms,
        margin: args.margin,
        drift: args.drift,
        shrink: args.shrink,
    };
    let (model, report) = pca::train(&set, &options)?;
    write_whole(&args.out, &model)?;
    print(&told(&report, &args.out))?;
    Ok(Outcome::Fine)
}

/// What is known of the features before a recording is read.
fn training_set(pipeline: &LoadedPipeline, out: &Path) -> TrainingSet {
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

/// Puts the recordings through the pipeline up to its windows.
fn collect(
    args: &TrainArgs,
    pipeline: &LoadedPipeline,
    set: &mut TrainingSet,
    screen: &Screen,
) -> anyhow::Result<()> {
    let options = PlanOptions {
        base: args.pipeline.parent().unwrap_or(Path::new("")),
        live: false,
        asset_limit: usize::MAX,
        models: &[],
        host: &Host::default(),
        features_only: true,
    };
    let planned = plan(&pipeline.spec, &pipeline.schema, options)?;
    let mut engine = Engine::new("train".into(), vec![planned]);
    let recordings = Recordings {
        files: &args.data,
        pipeline,
        args: &args.recording,
        rows_max: args.rows,
        quiet: args.quiet,
        screen,
    };
    let rows = recordings.each(|input| {
        let now = input.readings.ts.iter().max().copied().unwrap_or(Timestamp::MIN);
        engine.step(vec![input], now);
        engine.take_windows().iter().for_each(|windows| set.push(windows));
        Ok(())
    })?;
    engine.finish();
    engine.take_windows().iter().for_each(|windows| set.push(windows));
    if let Some(failure) = engine.take_failures().first() {
        anyhow::bail!("pipeline `{}` failed: {}", failure.pipeline, failure.reason);
    }
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
    Ok(())
}

fn told(report: &TrainReport, out: &Path) -> String {
    let constant = match report.constant.as_slice() {
        [] => String::new(),
        some => format!(", {} never change and are ignored ({})", some.len(), some.join(", ")),
    };
    format!(
        "{} of {} features in {} components{constant}\n\
         fitted to {} windows, threshold {:.3} from {}{}\n\
         {}\n",
        report.features - report.constant.len(),
        report.features,
        report.components,
        report.fitted,
        report.threshold,
        if report.held_out > 0 {
            format!("{} held-out windows", report.held_out)
        } else {
            "the same windows".to_owned()
        },
        if report.skipped > 0 {
            format!(" ({} lack a feature)", report.skipped)
        } else {
            String::new()
        },
        out.display()
    )
}
