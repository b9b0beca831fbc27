//! Rules of `drift`: a score that exists, numbers that can work.

use super::Look;
use crate::diagnose::Problem;
use crate::diagnose::nearest::{list, nearest};
use crate::pipeline::spec::{DriftSpec, StageSpec};
use crate::time::Span;

const DAY: Span = Span::seconds(24 * 3600);

/// Checks the settings of `drift`.
pub(super) fn check(look: &mut Look<'_>) {
    let mut outputs: Vec<String> = Vec::new();
    let mut followed: Vec<String> = Vec::new();
    for (index, spec) in look.parts.each() {
        match spec {
            StageSpec::Score(score) => outputs.push(score.output.clone()),
            StageSpec::Drift(drift) => {
                on(look, index, drift, &outputs, &mut followed);
                numbers(look, index, drift);
            }
            _ => {}
        }
    }
}

fn on(
    look: &mut Look<'_>,
    index: usize,
    drift: &DriftSpec,
    outputs: &[String],
    followed: &mut Vec<String>,
) {
    let spot = look.stage(index, "drift").key("on");
    let names = || outputs.iter().map(String::as_str);
    let problem = if followed.contains(&drift.on) {
        Problem::error(spot, format!("score `{}` is watched twice", drift.on))
            .found(format!("`{}` again", drift.on))
            .expected("one `drift` for each score")
    } else if outputs.contains(&drift.on) || look.unclear("score") || outputs.is_empty() {
        followed.push(drift.on.clone());
        return;
    } else {
        Problem::error(spot, format!("there is no score `{}` before this", drift.on))
            .found(format!("`{}`", drift.on))
            .expected(list(names(), 8))
            .suggest_nearest(nearest(&drift.on, names()).map(|n| format!("\"{n}\"")))
    };
    look.tell(problem);
}

fn numbers(look: &mut Look<'_>, index: usize, drift: &DriftSpec) {
    let spot = look.stage(index, "drift");
    let within = |value: f64, least: f64, most: f64| value > least && value <= most;
    let bad = [
        (
            drift.over < Span::seconds(60) || drift.over.0 > DAY.0 * 30,
            "over",
            drift.over.to_string(),
            "1m to 30d; a day is usual",
        ),
        (
            !within(drift.psi, 0.1, 10.0),
            "psi",
            drift.psi.to_string(),
            "above 0.1, to 10; 0.25 is usual",
        ),
        (
            !within(drift.delta, 0.0, 0.1),
            "delta",
            drift.delta.to_string(),
            "above 0, to 0.1; 0.002 is usual",
        ),
        (
            !(0.0..=1.0).contains(&drift.missing),
            "missing",
            drift.missing.to_string(),
            "a share, 0 to 1",
        ),
    ];
    for (_, key, found, expected) in bad.into_iter().filter(|bad| bad.0) {
        let message = format!("drift cannot be told with this `{key}`");
        look.tell(Problem::error(spot.key(key), message).found(found).expected(expected));
    }
}
