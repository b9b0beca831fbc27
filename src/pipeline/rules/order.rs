//! Rules of the order of stages: each needs what another gives.

use super::Look;
use crate::diagnose::{Problem, Spot};
use crate::record::Lane;

/// Checks the order of stages, and that something leaves.
pub(super) fn check(look: &mut Look<'_>) {
    if look.parts.stages.is_empty() {
        let problem = Problem::error(look.root.key("stage"), "this pipeline does nothing")
            .found("no stages")
            .expected("`[[stage]]`s: clean, resample, window, score, drift, alarm, emit");
        look.tell(problem);
        return;
    }
    let kinds: Vec<Option<&str>> = look.parts.stages.iter().map(|s| s.kind).collect();
    if kinds.contains(&None) {
        return; // a stage that cannot be told makes every order a guess
    }
    let kinds: Vec<&str> = kinds.into_iter().flatten().collect();
    for (index, kind) in kinds.iter().enumerate() {
        stage(look, &kinds, index, kind);
    }
    let leaves = kinds.iter().any(|k| ["emit", "alarm"].contains(k));
    if !leaves {
        let problem = Problem::warning(look.root.key("stage"), "nothing leaves this pipeline")
            .found("no `emit` and no `alarm`")
            .expected("`emit = { lane = \"score\" }` as the last stage");
        look.tell(problem);
    }
}

/// What a stage needs to come before it, and why. A pipeline without `clean` is cleaned with its defaults.
fn needs(kind: &str) -> Option<(&'static str, &'static str)> {
    match kind {
        "resample" => Some(("clean", "it takes readings that are in order and complete")),
        "window" => Some(("resample", "windows are cut from a grid of times")),
        "score" => Some(("window", "models are asked about windows")),
        "drift" => Some(("score", "it watches what a model sees")),
        "alarm" => Some(("window", "an alarm watches a score or a feature of windows")),
        _ => None,
    }
}

fn stage(look: &mut Look<'_>, kinds: &[&str], index: usize, kind: &str) {
    let before = kinds.get(..index).unwrap_or_default();
    let spot = look.stage(index, kind);
    if ["clean", "resample", "window"].contains(&kind) && before.contains(&kind) {
        let problem = Problem::error(
            spot.node.key_place(),
            format!("`{kind}` stands twice in this pipeline"),
        )
        .found(format!("a second `{kind}`"))
        .expected("one; a second pipeline on the same topics can do it differently");
        look.tell(problem);
        return;
    }
    let given =
        |needed: &str| before.contains(&needed) || (needed == "clean" && !kinds.contains(&"clean"));
    if let Some((needed, why)) = needs(kind).filter(|(needed, _)| !given(needed)) {
        let later = kinds.iter().skip(index).any(|k| *k == needed);
        let advice = if later {
            format!("`{kind}` after `{needed}`")
        } else {
            format!("a `{needed}` stage before `{kind}`")
        };
        let problem = Problem::error(
            spot.node.key_place(),
            format!("`{kind}` needs `{needed}` before it: {why}"),
        )
        .found(previous(before))
        .expected(format!("`{needed}`"))
        .suggest(advice);
        look.tell(problem);
        return;
    }
    if kind == "clean" && !before.is_empty() {
        let problem = Problem::error(
            spot.node.key_place(),
            "`clean` is the first stage: nothing may be computed of what is not clean",
        )
        .found(previous(before))
        .expected("nothing before `clean`");
        look.tell(problem);
    }
    if kind == "emit" {
        emit(look, spot, before, index);
    }
}

fn previous(before: &[&str]) -> String {
    match before.last() {
        Some(last) => format!("`{last}` before it"),
        None => "nothing before it".into(),
    }
}

fn emit(look: &mut Look<'_>, spot: Spot<'_>, before: &[&str], index: usize) {
    let lane_of = |index: usize| {
        let stage = look.parts.stages.get(index).filter(|stage| stage.sound)?;
        Some(stage.spec.as_ref()?.emit()?.lane)
    };
    let Some(lane) = lane_of(index) else { return };
    let twice = (0..index).any(|i| lane_of(i) == Some(lane));
    let place = spot.key("lane");
    let has = |kind: &str| before.contains(&kind);
    let (message, found, expected) = match lane {
        Lane::Alarm => (
            "alarms need no `emit`: each `alarm` stage sends its changes itself",
            "lane `alarm`".to_owned(),
            "no `emit` for alarms",
        ),
        Lane::Raw if has("resample") => (
            "raw readings leave before `resample`: after it there are none",
            previous(before),
            "lane \"raw\" before `resample`",
        ),
        Lane::Feature | Lane::Score if !has("window") => {
            ("there are no windows yet to send", previous(before), "`window` before it")
        }
        Lane::Score if !has("score") => (
            "there are no scores yet to send",
            previous(before),
            "a `score` stage before it, or lane \"feature\"",
        ),
        _ if twice => (
            "every record would be sent twice",
            format!("lane `{}` again", lane.name()),
            "one `emit` for each lane",
        ),
        _ => return,
    };
    look.tell(Problem::error(place, message).found(found).expected(expected));
}
