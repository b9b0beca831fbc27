//! Rules of `clean` and `resample`: numbers that can work, units that can be converted.

use super::Look;
use crate::diagnose::nearest::{list, nearest};
use crate::diagnose::{Problem, Spot};
use crate::pipeline::spec::{CleanSpec, OnFail, ResampleSpec, SpikeSpec, StageSpec};
use crate::schema::{convert, known_units};
use crate::time::Span;

/// Checks the settings of `clean` and `resample`.
pub(super) fn check(look: &mut Look<'_>) {
    for (index, spec) in look.parts.each() {
        match spec {
            StageSpec::Clean(clean) => clean_stage(look, index, clean),
            StageSpec::Resample(resample) => resample_stage(look, index, resample),
            _ => {}
        }
    }
}

fn clean_stage(look: &mut Look<'_>, index: usize, clean: &CleanSpec) {
    let spot = look.stage(index, "clean");
    if let Some(SpikeSpec::Hampel(hampel)) = &clean.spikes {
        let spot = spot.key("spikes").key("hampel");
        if !(3..=99).contains(&hampel.width) {
            let problem =
                Problem::error(spot.key("width"), "spikes are looked for among 3 to 99 values")
                    .found(hampel.width.to_string())
                    .expected("3 to 99; 7 is usual");
            look.tell(problem);
        }
        if hampel.sigmas <= 0.0 {
            let problem = Problem::error(spot.key("sigmas"), "every value would be a spike")
                .found(hampel.sigmas.to_string())
                .expected("a number above 0; 4 is usual");
            look.tell(problem);
        }
    }
    for (key, policy) in [("bad_quality", clean.bad_quality), ("stuck", clean.stuck)] {
        if policy == OnFail::Clamp {
            let problem = Problem::error(
                spot.key(key),
                format!("`{key}` has no nearest allowed value to clamp to"),
            )
            .found("\"clamp\"")
            .expected("\"drop\" or \"mark\"");
            look.tell(problem);
        }
    }
    stuck(look, spot, clean);
    for (signal, unit) in &clean.units {
        let entry = spot.key("units").key(signal);
        look.signal(entry, true, signal);
        units(look, entry, signal, unit);
    }
}

fn stuck(look: &mut Look<'_>, spot: Spot<'_>, clean: &CleanSpec) {
    let Some(after) = clean.stuck_after else {
        if spot.key("stuck").exact {
            let problem = Problem::warning(
                spot.key("stuck"),
                "this has no effect: stuck sensors are not looked for",
            )
            .found("`stuck` without `stuck_after`")
            .expected("`stuck_after`, how long a value may stay the same");
            look.tell(problem);
        }
        return;
    };
    let slowest =
        look.schema.and_then(|s| s.signals.iter().filter_map(|s| Some((s.every?, &s.name))).max());
    let problem = match slowest {
        _ if after == Span::ZERO => {
            Problem::error(spot.key("stuck_after"), "every sensor would be stuck at once")
                .found("0s")
                .expected("how long a value may stay the same")
        }
        Some((every, signal)) if after <= every => Problem::error(
            spot.key("stuck_after"),
            format!("`{signal}` is measured every {every}: one repeated value would make it stuck"),
        )
        .found(after.to_string())
        .expected(format!("many times {every}")),
        _ => return,
    };
    look.tell(problem);
}

fn units(look: &mut Look<'_>, spot: Spot<'_>, signal: &str, unit: &str) {
    let target = look
        .schema
        .and_then(|s| s.signals.iter().find(|s| s.name == signal))
        .map(|s| s.unit.clone());
    let Some(target) = target.filter(|t| convert(unit, t).is_none()) else { return };
    let fitting: Vec<&str> = known_units().filter(|u| convert(u, &target).is_some()).collect();
    let known = known_units().any(|u| u == unit);
    let message = if known {
        format!("`{unit}` cannot be turned into `{target}`: they do not measure the same thing")
    } else {
        format!("unit `{unit}` is not known")
    };
    let expected = if fitting.is_empty() {
        format!("`{target}`, which cannot be converted")
    } else {
        list(fitting.iter().copied(), 12)
    };
    let near = if known { None } else { nearest(unit, fitting.iter().copied()) };
    let problem = Problem::error(spot, message)
        .found(format!("`{unit}` for `{signal}`, which the schema has in `{target}`"))
        .expected(expected)
        .suggest_nearest(near.map(|u| format!("\"{u}\"")));
    look.tell(problem);
}

fn resample_stage(look: &mut Look<'_>, index: usize, resample: &ResampleSpec) {
    let spot = look.stage(index, "resample");
    if resample.every.rate() > 1e5 {
        let problem =
            Problem::error(spot.key("every"), "the grid has a step of at least ten microseconds")
                .found(resample.every.to_string())
                .expected("how often a row is wanted")
                .suggest("\"1s\"");
        look.tell(problem);
    }
    if let Some(gap) = resample.max_gap.filter(|gap| *gap < resample.every.span()) {
        let problem = Problem::error(
            spot.key("max_gap"),
            "nothing would ever be filled: `max_gap` is shorter than a step of the grid",
        )
        .found(gap.to_string())
        .expected(format!("at least {}", resample.every));
        look.tell(problem);
    }
}
