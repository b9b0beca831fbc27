//! `forebay evaluate --pipeline`: recordings with labels through a pipeline, told as text, JSON or a page.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{EvaluateArgs, columns};
use crate::cli::recordings::Recordings;
use crate::cli::replay::other_model;
use crate::cli::screen::Screen;
use crate::cli::{Outcome, print, write_whole};
use crate::evaluate::classes::ClassReport;
use crate::evaluate::detection::{self, Detection, Judged, Truth};
use crate::evaluate::labels::{self, Column};
use crate::evaluate::life::{self, Life, Lives};
use crate::evaluate::report;
use crate::evaluate::rows::{self, maybe, number};
use crate::evaluate::stream::{AskClass, Stream, Verdicts};
use crate::evaluate::suite::ModelUsed;
use crate::feed::chart::escape;
use crate::frame::Input;
use crate::model::ModelFile;
use crate::model::metadata::{Meaning, Metadata};
use crate::model::onnx::hex;
use crate::pipeline::load::LoadedPipeline;
use crate::pipeline::plan::OtherModel;
use crate::pipeline::spec::ScoreSpec;
use crate::time::{Span, Timestamp};
use crate::usage::Usage;

/// Everything that is said.
#[derive(Serialize)]
struct Evaluation {
    pipeline: String,
    output: String,
    /// Always: a verdict is made by the engine, from what came before it.
    causal: bool,
    /// The end of the time that the model was trained on, where judged rows lie in it.
    learned_until: Option<Timestamp>,
    threshold: Option<f64>,
    threshold_by: String,
    /// The alarm whose state is the verdict; none where the score is held against its threshold.
    alarm: Option<String>,
    #[serde(flatten)]
    held: Held,
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

/// What came of holding the answers against the truth: of faults or of remaining lives.
#[derive(Default, Serialize)]
struct Held {
    #[serde(skip_serializing_if = "Option::is_none")]
    detection: Option<Detection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    classes: Option<ClassReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    life: Option<Life>,
    #[serde(skip_serializing_if = "Option::is_none")]
    life_unit: Option<String>,
    /// The rows behind it, for the page.
    #[serde(skip)]
    judged: Vec<Judged>,
    #[serde(skip)]
    lives: Vec<Lives>,
}

/// Evaluates and tells.
pub(super) fn evaluate(
    args: &EvaluateArgs,
    file: &Path,
    screen: &Screen,
) -> anyhow::Result<Outcome> {
    let evaluation = run(args, file, screen)?;
    if let Some(path) = &args.html {
        write_whole(path, page(&evaluation).as_bytes())?;
    }
    let text = if args.json {
        serde_json::to_string_pretty(&evaluation)? + "\n"
    } else {
        told(&evaluation)
    };
    print(&text)?;
    Ok(Outcome::Fine)
}

fn run(args: &EvaluateArgs, file: &Path, screen: &Screen) -> anyhow::Result<Evaluation> {
    let pipeline = args.offline.pipeline(file)?;
    let host = args.offline.host();
    let models: Vec<OtherModel> = args.model.iter().map(|text| other_model(text)).collect();
    let mut stream = Stream::new(&pipeline, &models, &host, args.output.as_deref())?;
    let recordings = args.offline.recordings(&args.data, &pipeline, screen);
    let truth = truth(args, &recordings)?;
    let mut times: BTreeMap<String, Column> = BTreeMap::new();
    let rows = recordings.each(|input| {
        if args.runs_to_failure {
            note_times(&input, &mut times);
        }
        Ok(stream.take(input)?)
    })?;
    let score = score_of(&pipeline, stream.output())?;
    let path = model_path(&models, pipeline.base(), score);
    let asked = truth.as_ref().map(Truth::names);
    let asked = asked.map(|names| AskClass { host: &host, model: path.as_path(), names });
    let verdicts = stream.finish(asked)?;
    let model = ModelFile::read(&path, &host.trust)?;
    let meaning = meaning(&model, score);
    let held = match truth {
        Some(truth) => {
            let is_noted = matches!(meaning, Some(Meaning::Probability { .. }));
            // The column of a class is a chance, too.
            let is_chance = is_noted || score.class.is_some();
            judge_faults(args, &pipeline, (&verdicts, &truth), is_chance)?
        }
        None => judge_lives(args, (&recordings, &pipeline), (&verdicts, &times), meaning)?,
    };
    let (p50, p99) = verdicts.inference(&host, &path)?;
    Ok(Evaluation {
        pipeline: pipeline.spec.name.clone(),
        causal: !verdicts.looks_ahead,
        learned_until: learned_until(&held, model.metadata()),
        threshold: verdicts.threshold,
        threshold_by: threshold_by(&verdicts, score, &model),
        alarm: verdicts.alarm.as_ref().map(|alarm| alarm.name.clone()),
        held,
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
    })
}

/// When the data ended that the model learned from, if any judged row lies in its time.
fn learned_until(held: &Held, model: &Metadata) -> Option<Timestamp> {
    let (start, end) = (model.data_start?, model.data_end?);
    let of_faults = held.judged.iter().flat_map(|one| &one.times);
    let mut times = of_faults.chain(held.lives.iter().flat_map(|one| &one.times));
    times.any(|at| start <= *at && *at < end).then_some(end)
}

/// What people are told where it is not.
const LOOKS_AHEAD: &str =
    "not causal: `fill` draws lines to readings that come after a window's end";

fn score_of<'p>(pipeline: &'p LoadedPipeline, output: &str) -> anyhow::Result<&'p ScoreSpec> {
    pipeline.spec.score(output).with_context(|| format!("the pipeline has no score `{output}`"))
}

/// The file of the model that gave the score.
fn model_path(models: &[OtherModel], base: &Path, score: &ScoreSpec) -> PathBuf {
    let named = |m: &&OtherModel| m.output.as_ref().is_none_or(|output| *output == score.output);
    models.iter().find(named).map_or_else(|| base.join(&score.model), |m| m.path.clone())
}

/// What the score means, where the model says so.
fn meaning<'m>(model: &'m ModelFile, score: &ScoreSpec) -> Option<&'m Meaning> {
    let noted = model.metadata();
    let output = score.tensor.as_deref().or(noted.output.as_deref()).unwrap_or("score");
    noted.outputs.as_ref()?.get(output)
}

/// Where the threshold comes from.
fn threshold_by(verdicts: &Verdicts, score: &ScoreSpec, model: &ModelFile) -> String {
    let is_raised = verdicts.alarm.as_ref().is_some_and(|alarm| alarm.raise.is_some());
    if is_raised || score.threshold.is_some() {
        return "the pipeline file".into();
    }
    model.metadata().threshold_by.clone().unwrap_or_else(|| "not said".into())
}

/// What was so, where labels say it.
fn truth(args: &EvaluateArgs, recordings: &Recordings<'_>) -> anyhow::Result<Option<Truth>> {
    let Some(name) = &args.labels else { return Ok(None) };
    let path = Path::new(name);
    Ok(Some(if path.is_file() {
        Truth::of_times(labels::faults(path)?, args.normal.as_deref().unwrap_or(labels::NORMAL))
    } else {
        let labels = recordings.labels(name, args.normal.as_deref());
        Truth::Rows(labels.with_context(|| {
            format!("`--labels {name}`: there is no such file, so it is taken for a column")
        })?)
    }))
}

fn step(pipeline: &LoadedPipeline) -> Span {
    pipeline.spec.grid().map_or(Span::ZERO, |grid| grid.every.span())
}

/// Holds the verdicts against faults.
fn judge_faults(
    args: &EvaluateArgs,
    pipeline: &LoadedPipeline,
    (verdicts, truth): (&Verdicts, &Truth),
    is_chance: bool,
) -> anyhow::Result<Held> {
    let judged = detection::judge(verdicts, truth, step(pipeline), args.skip_rows);
    let rows: usize = judged.iter().map(|one| one.times.len()).sum();
    anyhow::ensure!(
        rows > 0,
        "no row with a label has a verdict: the recording is shorter than a window, or its assets are named otherwise than in `--labels`"
    );
    let labels = &verdicts.classes;
    let classes = (!labels.is_empty()).then(|| ClassReport::of(&judged, truth.names(), labels));
    let detection = Some(Detection::of(&judged, is_chance));
    Ok(Held { detection, classes, judged, ..Held::default() })
}

/// Holds the answers against remaining lives.
fn judge_lives(
    args: &EvaluateArgs,
    (recordings, pipeline): (&Recordings<'_>, &LoadedPipeline),
    (verdicts, times): (&Verdicts, &BTreeMap<String, Column>),
    meaning: Option<&Meaning>,
) -> anyhow::Result<Held> {
    let noted = match meaning {
        Some(Meaning::RemainingLife { unit }) => Some(unit.clone()),
        _ => None,
    };
    let (truth, life_unit) = if let Some(name) = &args.life {
        (recordings.column(name)?, noted)
    } else {
        let noted: Option<Span> = noted.and_then(|unit| unit.parse().ok());
        if let (Some(asked), Some(noted)) = (args.life_unit, noted) {
            anyhow::ensure!(
                asked == noted,
                "the model answers in {noted}, not in {asked}: leave `--life-unit` out"
            );
        }
        let unit = args.life_unit.or(noted).unwrap_or(Span::seconds(3600));
        let runs = recordings.runs(args.failures.as_deref())?;
        (life::until_end(times, &runs, unit), Some(unit.to_string()))
    };
    let lives = life::judge(verdicts, &truth, step(pipeline));
    anyhow::ensure!(
        lives.iter().any(|one| !one.times.is_empty()),
        "no row has both an answer and a truth: the recording is shorter than a window"
    );
    let life = Some(Life::of(&lives, args.life_cap));
    Ok(Held { life, life_unit, lives, ..Held::default() })
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

impl Evaluation {
    /// Whether any window could be called abnormal.
    fn has_verdict(&self) -> bool {
        self.alarm.is_some() || self.threshold.is_some()
    }
}

/// Said where no window can be called abnormal.
const NO_THRESHOLD: &str = "no verdict: neither the model nor the pipeline has a threshold, and no alarm is on the score; \
     write `threshold` at the score, or an `alarm` with `raise`";

/// What it stands on, in sentences.
fn provenance(found: &Evaluation) -> Vec<String> {
    let verdict = match &found.alarm {
        _ if found.held.life.is_some() => {
            format!(
                "answer: remaining life in {}",
                found.held.life_unit.as_deref().unwrap_or("its unit")
            )
        }
        Some(alarm) => {
            format!("verdict: alarm `{alarm}` is on, raised at {}", maybe(found.threshold))
        }
        None => match found.threshold {
            Some(threshold) => format!("verdict: score at or above {}", number(threshold)),
            None => NO_THRESHOLD.into(),
        },
    };
    let times = found.inference_p50_us.zip(found.inference_p99_us);
    let times = times.map_or_else(String::new, |(p50, p99)| {
        format!(", one inference p50 {p50:.0} µs, p99 {p99:.0} µs")
    });
    let memory = found.memory_peak_bytes.map_or_else(String::new, |bytes| {
        format!(", {} of memory at most", bytesize::ByteSize::b(bytes))
    });
    let mut all = vec![
        format!(
            "{verdict}; threshold from: {}; {}",
            found.threshold_by,
            if found.causal { "causal" } else { LOOKS_AHEAD }
        ),
        format!(
            "model {} ({}), sha256 {}; settings sha256 {}",
            found.model.part,
            bytesize::ByteSize::b(found.model.bytes),
            found.model.sha256,
            found.config_sha256
        ),
        format!("on {}{times}{memory}", found.runtime),
    ];
    all.extend(found.learned_until.map(|until| {
        format!("rows lie in the time up to {until} that the model learned from: if they are of the same machines, it has seen them")
    }));
    let data = found.data_sha256.iter();
    all.extend(data.map(|(name, digest)| format!("data {name} sha256 {digest}")));
    all
}

fn told(found: &Evaluation) -> String {
    let mut text = format!("{}, score `{}`\n", found.pipeline, found.output);
    if let Some(detection) = &found.held.detection {
        text.push_str(&detection_told(detection, found.has_verdict()));
    }
    text.extend(found.held.classes.as_ref().map(classes_told));
    if let Some(life) = &found.held.life {
        text.push_str(&life_told(life));
    }
    for sentence in provenance(found) {
        let _ = writeln!(text, "{sentence}");
    }
    text
}

fn detection_told(found: &Detection, has_verdict: bool) -> String {
    let mut text = format!(
        "{} rows ({} without a verdict), {:.1} % of them faulty\n\n",
        found.rows,
        found.unjudged,
        100.0 * found.prevalence
    );
    if has_verdict {
        let _ = writeln!(text, "{}", columns(&rows::rates(found)));
        let _ = writeln!(text, "{}", columns(&rows::counts(found)));
    }
    let _ = writeln!(
        text,
        "ROC-AUC {} (chance 0.5), PR-AUC {} (chance {})",
        maybe(found.roc_auc),
        maybe(found.pr_auc),
        number(found.prevalence)
    );
    if let Some(calibration) = &found.calibration {
        let (brier, error) = (maybe(calibration.brier), maybe(calibration.expected_error));
        let _ = writeln!(text, "Brier score {brier}, calibration error {error}");
    }
    if !has_verdict {
        return text + "\n";
    }
    let _ = writeln!(text, "\n{}", columns(&rows::events(found)));
    for groups in [rows::faults(&found.faults), rows::assets(&found.assets)] {
        if groups.len() > 1 {
            let _ = writeln!(text, "{}", columns(&groups));
        }
    }
    text
}

fn classes_told(found: &ClassReport) -> String {
    let mut text = format!("{} rows with a class ({} without)\n\n", found.rows, found.unanswered);
    for rows in [rows::overall(found), rows::classes(found), rows::confusion(found)] {
        let _ = writeln!(text, "{}", columns(&rows));
    }
    text
}

fn life_told(found: &Life) -> String {
    let (all, each) = (columns(&rows::life(found)), columns(&rows::life_assets(found)));
    format!("\n{all}\n{each}\n")
}

fn page(found: &Evaluation) -> String {
    let mut body = String::new();
    for sentence in provenance(found) {
        let _ = writeln!(body, "<p class=\"soft\"><code>{}</code></p>", escape(&sentence));
    }
    body.extend(found.held.classes.as_ref().map(report::classes));
    if let Some(detection) = &found.held.detection {
        let judged = &found.held.judged;
        body.push_str(&report::detection(detection, judged, found.threshold, found.has_verdict()));
    }
    if let Some(life) = &found.held.life {
        body.push_str(&report::life(
            life,
            &found.held.lives,
            found.held.life_unit.as_deref().unwrap_or("its unit"),
        ));
    }
    report::page(&format!("{}: {}", found.pipeline, found.output), &body)
}
