//! Rules of models: each `score` stage's file is there, opens, and takes what the pipeline gives it.
//!
//! Apart from the other rules because a pipeline may be read for its model's sake: `train` reads one whose model does
//! not exist yet, `replay --model` one whose model is not used.

use std::collections::BTreeMap;
use std::path::Path;

use super::Look;
use crate::diagnose::nearest::nearest;
use crate::diagnose::{Problem, Severity, Spot};
use crate::model::metadata::{Baseline, Meaning, Metadata};
use crate::model::weigh::{WeighError, weigh};
use crate::model::{Given, Host, Mismatch, Model, OtherUnit};
use crate::pipeline::names::{feature_names, is_feature, window_signals};
use crate::pipeline::spec::{ModelInput, ScoreSpec, StageSpec, WindowSpec};
use crate::stage::score::{ScoreError, ScoreStage};
use crate::time::Step;

/// What people note in models by hand.
const NOTES: [&str; 16] = [
    "name",
    "version",
    "serial",
    "features",
    "channels",
    "steps",
    "units",
    "window",
    "every",
    "step",
    "outputs",
    "output",
    "state",
    "threshold",
    "baseline",
    "golden",
];

/// Checks the models of a pipeline file in `folder`. Where the pipeline `goes_on` without them, those that cannot be used
/// are warnings: gives, by score, why. Where it does not start from them (`is_start`), they are tried further.
pub(in crate::pipeline) fn check(
    look: &mut Look<'_>,
    folder: &Path,
    host: &Host,
    goes_on: bool,
    is_start: bool,
) -> BTreeMap<String, String> {
    let mut refused = BTreeMap::new();
    for (index, spec) in look.parts.each() {
        let Some(score) = spec.score() else { continue };
        let (spot, before) = (look.stage(index, "score"), look.problems.all.len());
        if file_is_there(look, spot.key("model"), score, folder) {
            fits(look, spot, score, &folder.join(&score.model), host, is_start);
        }
        let new = look.problems.all.iter_mut().skip(before);
        for problem in new.filter(|p| goes_on && p.severity == Severity::Error) {
            problem.severity = Severity::Warning;
            let found = problem.found.as_deref().unwrap_or_default();
            refused.insert(score.output.clone(), format!("{}: {found}", problem.message));
        }
    }
    refused
}

/// Whether there is a file to open.
fn file_is_there(look: &mut Look<'_>, spot: Spot<'_>, score: &ScoreSpec, folder: &Path) -> bool {
    let path = folder.join(&score.model);
    let shown = crate::diagnose::source::shown_path(&path);
    let (message, found) = match std::fs::metadata(&path) {
        // In a folder are a model and its weights.
        Ok(meta) if meta.is_file() || meta.is_dir() => return true,
        Ok(_) => ("this is no file".to_owned(), format!("`{shown}`")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            (format!("model `{}` does not exist", score.model), format!("no file `{shown}`"))
        }
        Err(error) => (format!("model `{}` cannot be read", score.model), error.to_string()),
    };
    let beside = beside(&path);
    let near = path
        .file_name()
        .and_then(|n| n.to_str())
        .and_then(|n| nearest(n, beside.iter().map(String::as_str)));
    let suggestion =
        near.map(|near| format!("\"{}\"", Path::new(&score.model).with_file_name(near).display()));
    let problem = Problem::error(spot, message)
        .found(found)
        .expected("an ONNX file, named from the pipeline file's folder")
        .suggest_nearest(suggestion);
    look.tell(problem);
    false
}

/// The models in the folder where one was looked for.
fn beside(path: &Path) -> Vec<String> {
    let entries = path.parent().and_then(|folder| std::fs::read_dir(folder).ok());
    let names =
        entries.into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok());
    names.filter(|n| Path::new(n).extension().is_some_and(|e| e == "onnx")).collect()
}

/// Opens a model; why it cannot be, without its name.
pub(in crate::pipeline) fn open(path: &Path, host: &Host) -> Result<Model, String> {
    let prefix = format!("model {} ", path.display());
    host.open(path).map_err(|e| e.to_string().replacen(&prefix, "", 1))
}

/// Opens the model and compares what it takes with what it is given: the same code that a node starts with.
fn fits(
    look: &mut Look<'_>,
    spot: Spot<'_>,
    score: &ScoreSpec,
    path: &Path,
    host: &Host,
    is_start: bool,
) {
    let Some(given) = Fed::of(look) else { return };
    // A library that cannot be used is a problem of the config, and told there.
    if host.runtime().is_err() {
        return;
    }
    if !is_light_enough(look, spot, score, path, host, fed_to(score, &given)) {
        return;
    }
    let model = match open(path, host) {
        Ok(model) => model,
        Err(reason) => {
            let problem = Problem::error(
                spot.key("model"),
                format!("model `{}` cannot be used", score.model),
            )
            .found(format!("one that {reason}"))
            .expected("an ONNX model that runs here");
            look.tell(problem);
            return;
        }
    };
    units(look, spot, score, &given, &model);
    windows(look, spot, score, &model.metadata);
    strangers(look, spot, score, &model.metadata);
    let noted = model.metadata.threshold;
    match ScoreStage::new(score, model, fed_to(score, &given)) {
        Ok(stage) => {
            threshold(look, score, stage.threshold());
            verdict(look, spot, score, &stage);
            baseline(look, score, stage.model().metadata.baseline.as_ref(), &given);
            label(look, spot, score, &stage);
            if !is_start {
                answers(look, spot, score, stage);
            }
        }
        Err(ScoreError::Fit(mismatches)) => {
            for mismatch in &mismatches {
                misfit(look, spot, score, mismatch);
            }
            threshold(look, score, score.threshold.or(noted));
        }
        Err(error @ (ScoreError::Model(_) | ScoreError::Host(_))) => {
            let problem = Problem::error(
                spot.key("model"),
                format!("model `{}` does not run on what it would be given", score.model),
            );
            look.tell(problem.found(error.to_string()));
        }
    }
}

fn fed_to<'a>(score: &ScoreSpec, given: &'a Fed) -> Given<'a> {
    Given::of(score.input, &given.features, given.steps, &given.channels)
}

/// Where there are limits of memory or time, the model is weighed. Too slow is a warning: a node that starts while its
/// machine is busy starts all the same.
fn is_light_enough(
    look: &mut Look<'_>,
    spot: Spot<'_>,
    score: &ScoreSpec,
    path: &Path,
    host: &Host,
    given: Given<'_>,
) -> bool {
    if host.memory.is_none() && score.deadline.is_none() {
        return true;
    }
    let model = &score.model;
    let (problem, is_light) = match weigh(host, path, score, given) {
        // Why it does not run is told when it is opened.
        Ok(_) | Err(WeighError::Failed(_)) => return true,
        Err(late @ WeighError::Late { .. }) => {
            let message = format!("model `{model}` may be too slow for this machine");
            (Problem::warning(spot.key("deadline"), message).found(late.to_string()), true)
        }
        Err(heavy) => {
            let message = format!("model `{model}` is too large for this node");
            (Problem::error(spot.key("model"), message).found(heavy.to_string()), false)
        }
    };
    look.tell(problem);
    is_light
}

/// A model that was trained in another unit answers all the same, and wrongly.
fn units(look: &mut Look<'_>, spot: Spot<'_>, score: &ScoreSpec, given: &Fed, trained: &Model) {
    let (Some(schema), model) = (look.schema, &score.model) else { return };
    for OtherUnit { signal, noted, here, is_known } in
        trained.other_units(fed_to(score, given), &schema.signals)
    {
        let message = format!("model `{model}` was trained on `{signal}` in another unit");
        let place = spot.key("model");
        let problem = if is_known {
            Problem::error(place, message)
        } else {
            Problem::warning(place, message)
        };
        let problem = problem
            .found(format!("`{signal}` in {here}, as the schema has it"))
            .expected(format!("`{signal}` in {noted}, or a model trained on {here}"));
        look.problems.push(problem); // each signal is a difference of its own
    }
}

/// What a pipeline's windows give to models.
struct Fed {
    features: Vec<String>,
    steps: usize,
    channels: Vec<String>,
}

impl Fed {
    /// `None` where schema, grid or window are not right, so that nothing can be said.
    fn of(look: &Look<'_>) -> Option<Fed> {
        let schema = look.schema?;
        let (step, window) = grid_and_window(look)?;
        let known = window.features.iter().all(|f| is_feature(f));
        let steps = Some(step.count(window.length)).filter(|steps| *steps > 0 && known)?;
        let channels = window_signals(schema, window);
        let there = |name: &String| schema.signals.iter().any(|s| s.name == *name);
        channels.iter().all(there).then(|| Fed {
            features: feature_names(schema, window),
            steps: steps as usize,
            channels,
        })
    }
}

fn grid_and_window<'a>(look: &Look<'a>) -> Option<(Step, &'a WindowSpec)> {
    let step = look.parts.specs().find_map(StageSpec::resample)?.every;
    Some((step, look.parts.specs().find_map(StageSpec::window)?))
}

fn misfit(look: &mut Look<'_>, spot: Spot<'_>, score: &ScoreSpec, mismatch: &Mismatch) {
    let Mismatch { what, expected, found } = mismatch;
    let tensor = spot.key("tensor");
    let (place, message, near) = if what == "output" && tensor.exact {
        let near = nearest(score.tensor.as_deref().unwrap_or_default(), found.split(", "));
        (tensor, format!("model `{}` has no such output", score.model), near)
    } else {
        (
            spot.key("model"),
            format!("model `{}` does not fit this pipeline: {what}", score.model),
            None,
        )
    };
    let (found, expected) = if what == "output" { (expected, found) } else { (found, expected) };
    let problem = Problem::error(place, message)
        .found(found.as_str())
        .expected(expected.as_str())
        .suggest_nearest(near.map(|n| format!("\"{n}\"")));
    look.problems.push(problem); // several at one place: each is a difference of its own
}

/// A model that was trained on other windows answers all the same, and means something else.
fn windows(look: &mut Look<'_>, spot: Spot<'_>, score: &ScoreSpec, noted: &Metadata) {
    let Some((step, window)) = grid_and_window(look) else { return };
    let every = window.every.unwrap_or(window.length);
    for (what, here, noted) in [
        ("window", Step::from(window.length), &noted.window),
        ("every", Step::from(every), &noted.every),
        ("step", step, &noted.step),
    ] {
        let same =
            |noted: &&String| noted.parse::<Step>().is_ok_and(|noted| noted.span() == here.span());
        let Some(noted) = noted.as_ref().filter(|noted| !same(noted)) else { continue };
        let message = format!("model `{}` was trained on other windows", score.model);
        let problem = Problem::warning(spot.key("model"), message)
            .found(format!("{what} {here} in this pipeline"))
            .expected(format!("{noted}, which the model notes as `forebay.{what}`"));
        look.problems.push(problem); // each is a difference of its own
    }
}

/// A note under a misspelt key is none.
fn strangers(look: &mut Look<'_>, spot: Spot<'_>, score: &ScoreSpec, noted: &Metadata) {
    for key in &noted.unasked {
        let Some(near) = nearest(key, NOTES) else { continue };
        let message = format!("model `{}` notes `forebay.{key}`, which nothing reads", score.model);
        let problem = Problem::warning(spot.key("model"), message)
            .suggest_nearest(Some(format!("forebay.{near}")));
        look.problems.push(problem);
    }
}

/// A class is no score, where there is one.
fn label(look: &mut Look<'_>, spot: Spot<'_>, score: &ScoreSpec, stage: &ScoreStage) {
    if stage.scores_a_label() {
        let message = format!("score `{}` is a class, not how sure the model is", score.output);
        let problem = Problem::warning(spot.key("model"), message)
            .found("an output of whole numbers beside one of chances or scores")
            .expected("`class`, or the other output as `tensor`");
        look.tell(problem);
    }
}

/// What is odd about a model's answers, though it has some.
fn answers(look: &mut Look<'_>, spot: Spot<'_>, score: &ScoreSpec, stage: ScoreStage) {
    if let Some(doubt) = stage.doubt() {
        let message = format!("the answers of model `{}` cannot be relied on", score.model);
        let problem = Problem::warning(spot.key("model"), message);
        look.tell(problem.found(doubt).expected("the same score for the same window"));
    }
}

/// Drift is told from the training data's distribution, so the model must have noted it.
fn baseline(look: &mut Look<'_>, score: &ScoreSpec, noted: Option<&Baseline>, given: &Fed) {
    let (given, inputs) = (given.features.len(), noted.map(|noted| noted.inputs.len()));
    let (reason, found) = match inputs {
        None => (
            "does not say how its training data was distributed",
            "no `forebay.baseline` in the model".to_owned(),
        ),
        Some(inputs) if score.input == ModelInput::Features && inputs != given => (
            "says of other inputs how they were distributed",
            format!("{inputs} inputs in `forebay.baseline`, {given} features"),
        ),
        Some(_) => return,
    };
    for (index, spec) in look.parts.each() {
        let Some(drift) = spec.drift() else { continue };
        if drift.on == score.output {
            let spot = look.stage(index, "drift").key("on");
            let message = format!("model `{}` {reason}", score.model);
            let problem = Problem::warning(spot, message)
                .found(found.as_str())
                .expected("a model of `forebay train`; drift of this one cannot be told");
            look.tell(problem);
        }
    }
}

/// A score that is held against nothing is stored and sent, and calls no window abnormal.
fn verdict(look: &mut Look<'_>, spot: Spot<'_>, score: &ScoreSpec, stage: &ScoreStage) {
    let mut alarms = look.parts.specs().filter_map(StageSpec::alarm);
    let is_watched = alarms.any(|alarm| alarm.on == score.output);
    let mut noted = stage.model().metadata.outputs.iter().flatten();
    let is_life = noted.any(|(_, meaning)| matches!(meaning, Meaning::RemainingLife { .. }));
    if stage.threshold().is_some() || is_watched || is_life {
        return;
    }
    let message = format!("nothing says from which `{}` on a window is abnormal", score.output);
    let problem = Problem::warning(spot.key("output"), message)
        .found(format!("no threshold here or in model `{}`, and no alarm on it", score.model))
        .expected("`threshold` here, or an `alarm` on it with `raise`");
    look.tell(problem);
}

/// An alarm without `raise` leans on the score's threshold, so there must be one.
fn threshold(look: &mut Look<'_>, score: &ScoreSpec, threshold: Option<f64>) {
    for (index, spec) in look.parts.each() {
        let Some(alarm) = spec.alarm() else { continue };
        let limit = alarm.raise.or(threshold);
        let spot = look.stage(index, "alarm");
        if alarm.on != score.output || alarm.below {
            continue;
        }
        match (limit, alarm.clear) {
            (None, _) => {
                let problem = Problem::error(spot.key("raise"), format!("this alarm does not say when it is raised, and model `{}` has no threshold", score.model))
                    .found("no `raise`")
                    .expected("`raise` here, or `threshold` at the score");
                look.tell(problem);
            }
            (Some(limit), Some(clear)) if alarm.raise.is_none() && clear > limit => {
                let problem = Problem::error(spot.key("clear"), "the alarm would clear while it is raised: `clear` is above the score's threshold")
                    .found(clear.to_string())
                    .expected(format!("at most {limit}"));
                look.tell(problem);
            }
            _ => {}
        }
    }
}
