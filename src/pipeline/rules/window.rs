//! Rules of `window`: lengths that fit the grid, features and signals that exist.

use std::collections::BTreeSet;

use super::{Look, spectra};
use crate::diagnose::nearest::{list, nearest};
use crate::diagnose::{Problem, Spot};
use crate::pipeline::names::{FEATURES, is_feature};
use crate::pipeline::spec::{ModelInput, StageSpec, WindowSpec};
use crate::record::Lane;
use crate::time::{Span, Step};

/// More points in a window than a gateway should hold for every signal of every asset.
const MANY_POINTS: i64 = 100_000;

/// Checks the settings of `window`.
pub(super) fn check(look: &mut Look<'_>) {
    let mut steps = look.parts.specs().filter_map(StageSpec::resample).map(|grid| grid.every);
    let step = steps.find(|every| every.span() > Span::ZERO);
    for (index, spec) in look.parts.each() {
        let Some(window) = spec.window() else { continue };
        let spot = look.stage(index, "window");
        lengths(look, spot, window, step);
        features(look, spot, window);
        spectra::check(look, spot, window, step);
        signals(look, spot, window);
        if !(0.0..=1.0).contains(&window.min_coverage) {
            let share = window.min_coverage / 100.0;
            let percent = (0.0..=1.0).contains(&share) && window.min_coverage > 1.0;
            let problem = Problem::error(spot.key("min_coverage"), "`min_coverage` is a share")
                .found(window.min_coverage.to_string())
                .expected("0 to 1")
                .suggest_nearest(percent.then(|| share.to_string()));
            look.tell(problem);
        }
    }
}

fn lengths(look: &mut Look<'_>, spot: Spot<'_>, window: &WindowSpec, step: Option<Step>) {
    let lengths = [("length", Some(window.length)), ("every", window.every)];
    for (key, span) in lengths {
        let Some(span) = span else { continue };
        if span == Span::ZERO {
            let problem = Problem::error(spot.key(key), format!("`{key}` of a window cannot be 0"))
                .found("0s")
                .expected("a length of time");
            look.tell(problem);
        } else if let Some(step) = step.filter(|s| span.0 % s.whole().0 != 0) {
            let whole = step.whole();
            let near = Span((span.0 / whole.0).max(1) * whole.0);
            let problem = Problem::error(
                spot.key(key),
                format!("`{key}` of a window must be a multiple of the grid's step"),
            )
            .found(span.to_string())
            .expected(if whole == step.span() {
                format!("a multiple of {step} (`every` of `resample`)")
            } else {
                format!("a multiple of {whole}: whole steps of {step} (`every` of `resample`)")
            })
            .suggest(format!("\"{near}\""));
            look.tell(problem);
        }
    }
    if let Some(every) = window.every.filter(|e| *e > window.length && window.length > Span::ZERO) {
        let problem =
            Problem::warning(spot.key("every"), "readings between two windows are never looked at")
                .found(format!("a window of {} every {every}", window.length))
                .expected(format!("at most {}", window.length));
        look.tell(problem);
    }
    let Some(points) = step.map(|s| s.count(window.length)) else { return };
    if points == 1 {
        let problem = Problem::warning(
            spot.key("length"),
            "a window of one point has no spread and no slope",
        )
        .found(format!("{}, one step of the grid", window.length))
        .expected("several steps");
        look.tell(problem);
    }
    if points > MANY_POINTS {
        let problem = Problem::warning(
            spot.key("length"),
            "windows are kept in memory for every signal of every asset",
        )
        .found(format!("{points} points"))
        .expected(format!("at most {MANY_POINTS}: a shorter window or a wider grid"));
        look.tell(problem);
    }
}

fn features(look: &mut Look<'_>, spot: Spot<'_>, window: &WindowSpec) {
    let mut seen = BTreeSet::new();
    for (index, feature) in window.features.iter().enumerate() {
        let spot = spot.key("features").index(index);
        if !is_feature(feature) {
            let problem = Problem::error(spot, format!("there is no feature `{feature}`"))
                .found(format!("`{feature}`"))
                .expected(format!(
                    "{}, a quantile `p1` to `p99`, or a band's rms like `rms_10_1000` (Hz)",
                    list(FEATURES, FEATURES.len()).replace(" or ", ", ")
                ))
                .suggest_nearest(meant(feature).map(|f| format!("\"{f}\"")));
            look.tell(problem);
        } else if !seen.insert(feature.as_str()) {
            let problem = Problem::error(spot, format!("feature `{feature}` is listed twice"))
                .found(format!("`{feature}` again"))
                .expected("each feature once: a model sees them in this order");
            look.tell(problem);
        }
    }
    let asks = look.parts.specs().find_map(|spec| match spec {
        StageSpec::Score(score) if score.input == ModelInput::Features => {
            Some("a model asks for features")
        }
        StageSpec::Emit(emit) if emit.lane == Lane::Feature => {
            Some("lane `feature` sends features")
        }
        _ => None,
    });
    if let Some(asks) = asks.filter(|_| window.features.is_empty()) {
        let problem = Problem::error(spot.key("features"), format!("{asks}, and this window has none"))
            .found("no features")
            .expected("some of mean, std, min, max, range, rms, slope, skewness, kurtosis, crest, first, last, coverage, p1 to p99, rms_10_1000, bpfo, bpfi, bsf, ftf");
        look.tell(problem);
    }
}

/// What features are called elsewhere.
const ELSEWHERE: [(&str, &str); 16] = [
    ("median", "p50"),
    ("average", "mean"),
    ("avg", "mean"),
    ("stddev", "std"),
    ("stdev", "std"),
    ("sigma", "std"),
    ("peak_to_peak", "range"),
    ("ptp", "range"),
    ("trend", "slope"),
    ("gradient", "slope"),
    ("skew", "skewness"),
    ("kurt", "kurtosis"),
    ("peak", "max"),
    ("maximum", "max"),
    ("minimum", "min"),
    ("crest_factor", "crest"),
];

/// The feature that a name was most likely meant to be.
fn meant(feature: &str) -> Option<String> {
    let lower = feature.to_lowercase();
    let digits = lower.trim_start_matches(['p', 'q']).trim_start_matches(['0', '.']);
    if let Some((from, to)) = lower.strip_prefix("rms_").and_then(|band| band.split_once('_')) {
        let (from, to) = (from.parse::<u32>().ok()?, to.parse::<u32>().ok()?);
        return Some(format!("rms_{}_{}", from.min(to), from.max(to)));
    }
    let quantile = format!("p{digits}");
    if is_feature(&quantile) {
        return Some(quantile);
    }
    let elsewhere = ELSEWHERE.iter().map(|(name, _)| *name);
    let near = nearest(&lower, elsewhere.chain(FEATURES))?;
    let here = ELSEWHERE.iter().find(|(name, _)| *name == near).map_or(near, |(_, here)| here);
    Some(here.to_owned())
}

fn signals(look: &mut Look<'_>, spot: Spot<'_>, window: &WindowSpec) {
    let Some(signals) = &window.signals else { return };
    let spot = spot.key("signals");
    if signals.is_empty() {
        let problem = Problem::error(spot, "this window looks at no signal")
            .found("an empty list")
            .expected("names of signals, or no `signals` for all of them");
        look.tell(problem);
    }
    let mut seen = BTreeSet::new();
    for (index, signal) in signals.iter().enumerate() {
        look.signal(spot.index(index), false, signal);
        if !seen.insert(signal) {
            let problem =
                Problem::error(spot.index(index), format!("signal `{signal}` is listed twice"))
                    .found(format!("`{signal}` again"))
                    .expected("each signal once: a model sees them in this order");
            look.tell(problem);
        }
    }
}
