//! Rules of `score` and `alarm`: names that are unique and exist, limits in the right order.

use std::collections::BTreeMap;

use super::Look;
use crate::diagnose::nearest::{list, nearest};
use crate::diagnose::{Problem, Spot};
use crate::pipeline::names::{feature_names, is_feature};
use crate::pipeline::spec::{AdaptSpec, AlarmSpec, ScoreSpec, StageSpec};
use crate::stage::threshold::{SHARE_MAX, share};
use crate::time::Span;

/// Checks the settings of `score` and `alarm`.
pub(super) fn check(look: &mut Look<'_>) {
    let features = features(look);
    let mut outputs: BTreeMap<String, usize> = BTreeMap::new();
    let mut alarms: BTreeMap<String, usize> = BTreeMap::new();
    for (index, spec) in look.parts.each() {
        match spec {
            StageSpec::Score(score) => {
                output(look, index, score, &features, &outputs);
                batch(look, index, score.batch);
                recalibrate(look, index, score);
                outputs.entry(score.output.clone()).or_insert(index);
            }
            StageSpec::Alarm(alarm) => {
                alarm_name(look, index, alarm, &mut alarms);
                watched(look, index, alarm, &features, &outputs);
                limits(look, index, alarm, &features);
            }
            _ => {}
        }
    }
}

/// All features of the pipeline's window; none where schema or window are not known.
fn features(look: &Look<'_>) -> Vec<String> {
    match (look.schema, look.parts.specs().find_map(StageSpec::window)) {
        (Some(schema), Some(window)) => feature_names(schema, window),
        _ => Vec::new(),
    }
}

fn batch(look: &mut Look<'_>, index: usize, windows: u16) {
    if !(1..=4096).contains(&windows) {
        let spot = look.stage(index, "score").key("batch");
        let problem = Problem::error(spot, "`batch` cannot be so many windows");
        look.tell(problem.found(windows.to_string()).expected("1 to 4096"));
    }
}

fn recalibrate(look: &mut Look<'_>, index: usize, score: &ScoreSpec) {
    let Some(spec) = &score.recalibrate else { return };
    let spot = look.stage(index, "score").key("recalibrate");
    let hour = Span::seconds(3600);
    let bad = [
        (
            spec.half_life < hour || spec.half_life.0 > hour.0 * 24 * 365,
            "half_life",
            spec.half_life.to_string(),
            "1h to 8760h; a week, 168h, is usual",
        ),
        (
            !(spec.most > 0.0 && spec.most <= 5.0),
            "most",
            spec.most.to_string(),
            "above 0, to 5 standard deviations; 1 is usual",
        ),
    ];
    for (_, key, found, expected) in bad.into_iter().filter(|bad| bad.0) {
        let message = format!("a model's inputs cannot be followed with this `{key}`");
        look.tell(Problem::error(spot.key(key), message).found(found).expected(expected));
    }
}

fn output(
    look: &mut Look<'_>,
    index: usize,
    score: &ScoreSpec,
    features: &[String],
    before: &BTreeMap<String, usize>,
) {
    let spot = look.stage(index, "score");
    let name = &score.output;
    let word =
        !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    let problem = if before.contains_key(name) {
        Problem::error(spot.key("output"), format!("two scores are called `{name}`"))
            .found(format!("`{name}` again"))
            .expected("a name of its own for each score")
    } else if is_feature(name) || features.contains(name) {
        Problem::error(spot.key("output"), format!("`{name}` is the name of a feature"))
            .found(format!("`{name}`"))
            .expected("a name that no feature has, like `anomaly` or `failure_risk`")
    } else if !word {
        Problem::error(spot.key("output"), format!("`{name}` cannot be the name of a score"))
            .found(format!("`{name}`"))
            .expected("letters, digits, `_` and `-`, like `failure_risk`")
    } else {
        return;
    };
    look.tell(problem);
}

fn alarm_name(
    look: &mut Look<'_>,
    index: usize,
    alarm: &AlarmSpec,
    before: &mut BTreeMap<String, usize>,
) {
    let spot = look.stage(index, "alarm").key("name");
    if alarm.name.trim().is_empty() {
        look.tell(
            Problem::error(spot, "an alarm needs a name")
                .found("an empty name")
                .expected("what an operator should read"),
        );
    } else if before.insert(alarm.name.clone(), index).is_some() {
        let problem = Problem::error(spot, format!("two alarms are called `{}`", alarm.name))
            .found(format!("`{}` again", alarm.name))
            .expected("a name of its own for each alarm");
        look.tell(problem);
    }
}

/// What an alarm watches must exist when the alarm's turn comes.
fn watched(
    look: &mut Look<'_>,
    index: usize,
    alarm: &AlarmSpec,
    features: &[String],
    outputs: &BTreeMap<String, usize>,
) {
    let on = alarm.on.as_str();
    if outputs.contains_key(on) || features.iter().any(|f| f == on) {
        return;
    }
    let kinds = || look.parts.stages.iter().take(index).filter_map(|s| s.kind);
    let unclear = look.unclear("score")
        || look.unclear("window")
        || !kinds().any(|kind| kind == "window")
        || (look.schema.is_none() && on.contains('.'));
    if unclear {
        return;
    }
    let spot = look.stage(index, "alarm").key("on");
    let mut later = look.parts.each().filter(|(at, _)| *at >= index);
    if later.any(|(_, spec)| spec.score().is_some_and(|score| score.output == on)) {
        let problem = Problem::error(spot, format!("score `{on}` comes only after this alarm"))
            .found(format!("`{on}`, which a later stage gives"))
            .expected("an alarm after the score it watches");
        look.tell(problem);
        return;
    }
    let known = || outputs.keys().chain(features).map(String::as_str);
    let addable = on.rsplit_once('.').filter(|(signal, feature)| {
        let there = look.schema.is_some_and(|s| s.signals.iter().any(|s| s.name == *signal));
        there && is_feature(feature)
    });
    let suggestion = match addable {
        Some((_, feature)) => Some(format!("\"{feature}\" into `features` of the window")),
        None => nearest(on, known()).map(|n| format!("\"{n}\"")),
    };
    let problem = Problem::error(spot, format!("there is no score and no feature `{on}` to watch"))
        .found(format!("`{on}`"))
        .expected(match known().next() {
            Some(_) => list(known(), 8),
            None => "a score's `output`, or a feature like `pressure.max`".into(),
        })
        .suggest_nearest(suggestion);
    look.tell(problem);
}

fn limits(look: &mut Look<'_>, index: usize, alarm: &AlarmSpec, features: &[String]) {
    let spot = look.stage(index, "alarm");
    let on_feature = features.contains(&alarm.on) || alarm.on.contains('.');
    match (alarm.raise, alarm.clear) {
        (None, _) if on_feature => {
            missing_raise(look, spot, "a feature has no threshold of its own");
        }
        (None, _) if alarm.below => missing_raise(
            look,
            spot,
            "a score's threshold is for large values, and `below` watches small ones",
        ),
        (Some(raise), Some(clear)) if !alarm.below && clear > raise => {
            let problem = Problem::error(
                spot.key("clear"),
                "the alarm would clear while it is raised: `clear` is above `raise`",
            )
            .found(format!("raise {raise}, clear {clear}"))
            .expected(format!(
                "at most {raise}, or `below = true` if small values are the wrong ones"
            ));
            look.tell(problem);
        }
        (Some(raise), Some(clear)) if alarm.below && clear < raise => {
            let problem = Problem::error(
                spot.key("clear"),
                "the alarm would clear while it is raised: with `below`, `clear` is above `raise`",
            )
            .found(format!("raise {raise}, clear {clear}"))
            .expected(format!("at least {raise}"));
            look.tell(problem);
        }
        _ => {}
    }
    if let Some(adapt) = &alarm.adapt {
        adapts(look, spot.key("adapt"), adapt);
    }
    for (key, delay) in [("on_delay", alarm.on_delay), ("off_delay", alarm.off_delay)] {
        if delay > Span::seconds(24 * 3600) {
            let problem = Problem::warning(
                spot.key(key),
                "an alarm that waits for more than a day hardly helps anyone",
            )
            .found(delay.to_string())
            .expected("seconds to minutes");
            look.tell(problem);
        }
    }
}

/// The settings of a threshold that follows its assets.
fn adapts(look: &mut Look<'_>, spot: Spot<'_>, adapt: &AdaptSpec) {
    let window = look.parts.specs().find_map(StageSpec::window);
    let every = window.map(|window| window.every.unwrap_or(window.length));
    let every = every.filter(|every| *every > Span::ZERO).unwrap_or(Span::seconds(1));
    let most = SHARE_MAX / share(1.0, every);
    let fits = adapt.alarms_a_day > 0.0 && adapt.alarms_a_day <= most;
    let bad = [
        (
            !fits,
            "alarms_a_day",
            adapt.alarms_a_day.to_string(),
            format!(
                "above 0 and at most {most:.3}: one in 100 of the windows, which start every {every}"
            ),
        ),
        (
            !(400..=20_000).contains(&adapt.learn),
            "learn",
            adapt.learn.to_string(),
            "400 to 20000 windows; 1000 is usual".into(),
        ),
        (
            !(adapt.reach > 1.0 && adapt.reach <= 10.0),
            "reach",
            adapt.reach.to_string(),
            "above 1, to 10; 2 is usual".into(),
        ),
        (adapt.depth > 1000, "depth", adapt.depth.to_string(), "0 to 1000 windows".into()),
    ];
    for (_, key, found, expected) in bad.into_iter().filter(|bad| bad.0) {
        let problem = Problem::error(
            spot.key(key),
            format!("a threshold cannot follow its assets with this `{key}`"),
        );
        look.tell(problem.found(found).expected(expected));
    }
}

fn missing_raise(look: &mut Look<'_>, spot: Spot<'_>, why: &str) {
    let problem = Problem::error(
        spot.key("raise"),
        format!("this alarm does not say when it is raised: {why}"),
    )
    .found("no `raise`")
    .expected("`raise`, the value at which it is raised");
    look.tell(problem);
}
