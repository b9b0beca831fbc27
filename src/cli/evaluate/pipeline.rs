//! `forebay evaluate --pipeline`: recordings with labels through a pipeline, told as text, JSON or a page.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::EvaluateArgs;
use crate::cli::recordings::Recordings;
use crate::cli::replay::other_model;
use crate::cli::screen::Screen;
use crate::cli::{Outcome, print, write_whole};
use crate::evaluate::detection::{self, Detection, Judged, Rates, Truth};
use crate::evaluate::labels::{self, Column};
use crate::evaluate::life::{self, Errors, Life, Lives};
use crate::evaluate::report::{self, maybe, number};
use crate::evaluate::stream::{Plan, Stream, Verdicts};
use crate::evaluate::suite::ModelUsed;
use crate::feed::chart::escape;
use crate::frame::Input;
use crate::model::metadata::Meaning;
use crate::model::{Host, ModelFile};
use crate::pipeline::load::{LoadedPipeline, load_pipeline};
use crate::pipeline::plan::OtherModel;
use crate::pipeline::spec::{ScoreSpec, StageSpec};
use crate::time::Span;
use crate::usage::Usage;

/// Everything that is said.
#[derive(Serialize)]
struct Evaluation {
    pipeline: String,
    output: String,
    /// Always: a verdict is made by the engine, from what came before it.
    causal: bool,
    threshold: Option<f64>,
    threshold_by: String,
    /// The alarm whose state is the verdict; none where the score is held against its threshold.
    alarm: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detection: Option<Detection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    life: Option<Life>,
    rows: u64,
    model: ModelUsed,
    data_sha256: BTreeMap<String, String>,
    config_sha256: String,
    runtime: String,
    inference_p50_us: Option<f64>,
    inference_p99_us: Option<f64>,
    memory_peak_bytes: Option<u64>,
    version: &'static str,
}

/// The rows behind it, for the page.
#[derive(Default)]
struct Behind {
    judged: Vec<Judged>,
    lives: Vec<Lives>,
}

/// Evaluates and tells.
pub(super) fn evaluate(
    args: &EvaluateArgs,
    file: &Path,
    screen: &Screen,
) -> anyhow::Result<Outcome> {
    let (evaluation, behind) = run(args, file, screen)?;
    if let Some(path) = &args.html {
        write_whole(path, page(&evaluation, &behind).as_bytes())?;
    }
    let text = if args.json {
        serde_json::to_string_pretty(&evaluation)? + "\n"
    } else {
        told(&evaluation)
    };
    print(&text)?;
    Ok(Outcome::Fine)
}

fn run(args: &EvaluateArgs, file: &Path, screen: &Screen) -> anyhow::Result<(Evaluation, Behind)> {
    let pipeline = load_pipeline(file, args.schemas.as_deref())?;
    let host = Host::with_library(args.onnxruntime.as_deref());
    let models: Vec<OtherModel> = args.model.iter().map(|text| other_model(text)).collect();
    let base = file.parent().unwrap_or(Path::new(""));
    let plan =
        Plan { spec: &pipeline.spec, schema: &pipeline.schema, base, models: &models, host: &host };
    let mut stream = Stream::new(plan, args.output.as_deref())?;
    let recordings = Recordings {
        files: &args.data,
        pipeline: &pipeline,
        args: &args.recording,
        rows_max: None,
        quiet: args.quiet,
        screen,
    };
    let mut times: BTreeMap<String, Column> = BTreeMap::new();
    let rows = recordings.each(|input| {
        if args.runs_to_failure {
            note_times(&input, &mut times);
        }
        Ok(stream.take(input)?)
    })?;
    let verdicts = stream.finish()?;
    let score = score_of(&pipeline, &verdicts.output)?;
    let named = |m: &&OtherModel| m.output.as_ref().is_none_or(|output| *output == score.output);
    let path =
        models.iter().find(named).map_or_else(|| base.join(&score.model), |m| m.path.clone());
    let model = ModelFile::read(&path, &host.trust)?;
    let is_chance = model.metadata().outputs.as_ref().is_some_and(|outputs| {
        outputs.get("score").is_some_and(|m| matches!(m, Meaning::Probability { .. }))
    });
    let (detection, life, behind) =
        judge(args, &recordings, &pipeline, (&verdicts, &times), is_chance)?;
    let (p50, p99) = verdicts.inference(&host, &path)?;
    let (alarm, origin) = (verdicts.alarm.as_ref(), model.metadata().threshold_by.clone());
    let origin = if alarm.is_some_and(|a| a.raise.is_some()) || score.threshold.is_some() {
        "the pipeline file".into()
    } else {
        origin.unwrap_or_else(|| "not said".into())
    };
    let evaluation = Evaluation {
        pipeline: pipeline.spec.name.clone(),
        causal: true,
        threshold: verdicts.threshold,
        threshold_by: origin,
        alarm: alarm.map(|alarm| alarm.name.clone()),
        detection,
        life,
        rows,
        model: ModelUsed::of(path.display().to_string(), &model.bytes),
        data_sha256: args.data.iter().map(|path| digest(path)).collect::<anyhow::Result<_>>()?,
        config_sha256: hex(&Sha256::digest(serde_json::to_vec(&pipeline.spec)?)),
        runtime: host.runtime()?.name(),
        inference_p50_us: p50,
        inference_p99_us: p99,
        memory_peak_bytes: Usage::of(None).ok().map(|usage| usage.peak),
        version: env!("CARGO_PKG_VERSION"),
        output: verdicts.output,
    };
    Ok((evaluation, behind))
}

fn score_of<'p>(pipeline: &'p LoadedPipeline, output: &str) -> anyhow::Result<&'p ScoreSpec> {
    let mut stages = pipeline.spec.stages.iter();
    let found = stages.find_map(|stage| match stage {
        StageSpec::Score(score) if score.output == output => Some(score),
        _ => None,
    });
    found.with_context(|| format!("the pipeline has no score `{output}`"))
}

/// Holds the verdicts against what was so.
fn judge(
    args: &EvaluateArgs,
    recordings: &Recordings<'_>,
    pipeline: &LoadedPipeline,
    (verdicts, times): (&Verdicts, &BTreeMap<String, Column>),
    is_chance: bool,
) -> anyhow::Result<(Option<Detection>, Option<Life>, Behind)> {
    let step = pipeline.spec.stages.iter().find_map(|stage| match stage {
        StageSpec::Resample(resample) => Some(resample.every.span()),
        _ => None,
    });
    let step = step.unwrap_or(Span::ZERO);
    if let Some(name) = &args.labels {
        let is_file = Path::new(name).is_file();
        let truth = if is_file {
            Truth::Times(labels::faults(Path::new(name))?)
        } else {
            Truth::Rows(recordings.column(name)?)
        };
        let judged = detection::judge(verdicts, &truth, step, args.skip_rows);
        let rows: usize = judged.iter().map(|one| one.times.len()).sum();
        anyhow::ensure!(
            rows > 0,
            "no row with a label has a verdict: the recording is shorter than a window, or its assets are named otherwise than in `--labels`"
        );
        let behind = Behind { judged, ..Behind::default() };
        return Ok((Some(Detection::of(&behind.judged, is_chance)), None, behind));
    }
    let truth = if let Some(name) = &args.life {
        recordings.column(name)?
    } else {
        life::until_end(times, args.life_unit)
    };
    let lives = life::judge(verdicts, &truth, step);
    anyhow::ensure!(
        lives.iter().any(|one| !one.times.is_empty()),
        "no row has both an answer and a truth: the recording is shorter than a window"
    );
    let behind = Behind { lives, ..Behind::default() };
    Ok((None, Some(Life::of(&behind.lives, args.life_cap)), behind))
}

/// Remembers when each asset had rows; one row is one time, however many signals it has.
fn note_times(input: &Input, times: &mut BTreeMap<String, Column>) {
    for (asset, at) in input.readings.asset.iter().zip(&input.readings.ts) {
        let Some(asset) = input.assets.get(*asset as usize) else { continue };
        let column = times.entry(asset.id.clone()).or_default();
        if column.times.last() != Some(at) {
            column.times.push(*at);
        }
    }
}

fn digest(path: &Path) -> anyhow::Result<(String, String)> {
    let failed = || format!("`{}` cannot be read", path.display());
    let mut file = std::fs::File::open(path).with_context(failed)?;
    let mut digest = Sha256::new();
    std::io::copy(&mut file, &mut digest).with_context(failed)?;
    Ok((path.display().to_string(), hex(&digest.finalize())))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
        text
    })
}

/// What it stands on, in sentences.
fn provenance(found: &Evaluation) -> Vec<String> {
    let verdict = match &found.alarm {
        Some(alarm) => {
            format!("verdict: alarm `{alarm}` is on, raised at {}", maybe(found.threshold))
        }
        None => format!("verdict: score at or above {}", maybe(found.threshold)),
    };
    let times = found.inference_p50_us.zip(found.inference_p99_us);
    let times = times.map_or_else(String::new, |(p50, p99)| {
        format!(", one inference p50 {p50:.0} µs, p99 {p99:.0} µs")
    });
    let memory = found.memory_peak_bytes.map_or_else(String::new, |bytes| {
        format!(", {} of memory at most", bytesize::ByteSize::b(bytes))
    });
    let mut all = vec![
        format!("{verdict}; threshold from: {}; causal", found.threshold_by),
        format!(
            "model {} ({}), sha256 {}; settings sha256 {}",
            found.model.part,
            bytesize::ByteSize::b(found.model.bytes),
            found.model.sha256,
            found.config_sha256
        ),
        format!("on {}{times}{memory}", found.runtime),
    ];
    let data = found.data_sha256.iter();
    all.extend(data.map(|(name, digest)| format!("data {name} sha256 {digest}")));
    all
}

fn told(found: &Evaluation) -> String {
    let mut text = format!("{}, score `{}`\n", found.pipeline, found.output);
    if let Some(detection) = &found.detection {
        text.push_str(&detection_told(detection));
    }
    if let Some(life) = &found.life {
        text.push_str(&life_told(life));
    }
    for sentence in provenance(found) {
        let _ = writeln!(text, "{sentence}");
    }
    text
}

fn detection_told(found: &Detection) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{} rows ({} without a verdict), {:.1} % of them faulty\n",
        found.rows,
        found.unjudged,
        100.0 * found.prevalence
    );
    let _ = writeln!(
        text,
        "{:<14}{:>8}{:>11}{:>8}{:>10}{:>8}{:>14}{:>8}",
        "", "F1", "precision", "recall", "accuracy", "kappa", "false alarms", "missed"
    );
    let mut line = |name: &str, rates: &Rates| {
        let _ = writeln!(
            text,
            "{name:<14}{:>8}{:>11}{:>8}{:>10}{:>8}{:>14}{:>8}",
            number(rates.f1),
            number(rates.precision),
            number(rates.recall),
            number(rates.accuracy),
            maybe(rates.kappa),
            number(rates.false_alarm_rate),
            number(rates.missed_alarm_rate)
        );
    };
    line("the pipeline", &found.rates);
    found.floors.iter().for_each(|floor| line(floor.name, &floor.rates));
    let _ = writeln!(
        text,
        "\nROC-AUC {} (chance 0.5), PR-AUC {} (chance {})",
        maybe(found.roc_auc),
        maybe(found.pr_auc),
        number(found.prevalence)
    );
    let _ = writeln!(
        text,
        "{} of {} faults found, median delay {} s; {} alarms a day, {} of them false",
        found.events.found,
        found.events.faults,
        maybe(found.median_delay_s),
        maybe(found.alarms_a_day),
        maybe(found.false_alarms_a_day)
    );
    let nab: Vec<String> =
        found.nab.iter().map(|row| format!("{} {}", row.profile, maybe(row.score))).collect();
    let _ = writeln!(text, "NAB score (never 0, perfect 100): {}", nab.join(", "));
    if let Some(calibration) = &found.calibration {
        let (brier, error) = (maybe(calibration.brier), maybe(calibration.expected_error));
        let _ = writeln!(text, "Brier score {brier}, calibration error {error}");
    }
    text + "\n"
}

fn life_told(found: &Life) -> String {
    let mut text = format!(
        "\n{:<32}{:>8}{:>10}{:>10}{:>12}{:>22}\n",
        "", "rows", "RMSE", "MAE", "NASA score", "best constant, RMSE"
    );
    let mut line = |name: &str, errors: &Errors| {
        let _ = writeln!(
            text,
            "{name:<32}{:>8}{:>10}{:>10}{:>12}{:>22}",
            errors.rows,
            maybe(errors.rmse),
            maybe(errors.mae),
            maybe(errors.nasa_score),
            maybe(errors.best_constant_rmse)
        );
    };
    line("all rows, raw truth", &found.raw);
    found.capped.iter().for_each(|errors| line("all rows, capped truth", errors));
    line("last row of each, raw truth", &found.last);
    found.last_capped.iter().for_each(|errors| line("last row of each, capped truth", errors));
    text + "\n"
}

fn page(found: &Evaluation, behind: &Behind) -> String {
    let mut body = String::new();
    for sentence in provenance(found) {
        let _ = writeln!(body, "<p class=\"soft\"><code>{}</code></p>", escape(&sentence));
    }
    if let Some(detection) = &found.detection {
        body.push_str(&report::detection(detection, &behind.judged, found.threshold));
    }
    if let Some(life) = &found.life {
        body.push_str(&report::life(life, &behind.lives));
    }
    report::page(&format!("{}: {}", found.pipeline, found.output), &body)
}
