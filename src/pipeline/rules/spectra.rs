//! Rules of the spectra in `window`: frequencies that the grid shows and the window tells apart, and a bearing that can be.

use super::Look;
use crate::diagnose::{Problem, Spot};
use crate::pipeline::names::is_feature;
use crate::pipeline::spec::{BearingSpec, GeometrySpec, OrdersSpec, SpeedSpec, WindowSpec};
use crate::schema::convert;
use crate::stage::envelope::{HARMONICS, TURNS};
use crate::stage::features::Feature;
use crate::time::Step;

/// Checks the bands among a window's features, and its bearing.
pub(super) fn check(look: &mut Look<'_>, spot: Spot<'_>, window: &WindowSpec, step: Option<Step>) {
    let mut asks = None;
    for (index, name) in window.features.iter().enumerate() {
        let place = spot.key("features").index(index);
        match name.parse::<Feature>() {
            Ok(feature) if feature.is_of_bearing() => asks = asks.or(Some(place)),
            Ok(Feature::BandRms(from, to)) if is_feature(name) => {
                resolution(look, place, f64::from(to - from), window);
                nyquist(look, place, f64::from(to), step);
            }
            _ => {}
        }
    }
    match (&window.bearing, asks) {
        (None, Some(place)) => {
            let problem = Problem::error(place, "nothing is known of the bearing")
                .found("a fault line, and no `bearing`")
                .expected("`bearing` with `speed` and `geometry` (or `orders`) at this window");
            look.tell(problem);
        }
        (Some(bearing), asked) => {
            if asked.is_none() {
                let problem = Problem::warning(spot.key("bearing"), "this has no effect")
                    .found("`bearing`, and none of its features")
                    .expected("`bpfo`, `bpfi`, `bsf` or `ftf` among the features");
                look.tell(problem);
            }
            lines(look, spot.key("bearing"), bearing);
            speed(look, spot, bearing, window);
            band(look, spot.key("bearing"), bearing, step);
        }
        _ => {}
    }
}

/// A grid shows frequencies up to half its rate.
fn nyquist(look: &mut Look<'_>, spot: Spot<'_>, highest: f64, step: Option<Step>) {
    let Some(step) = step else { return };
    let most = step.rate() / 2.0;
    if highest > most {
        let rate = (highest * 2.0).ceil();
        let problem = Problem::error(spot, "the grid does not show such high frequencies")
            .found(format!("{highest} Hz"))
            .expected(format!(
                "at most {most} Hz, half of the grid's rate, or a finer grid: `every = \"1s/{rate}\"` of `resample`"
            ));
        look.tell(problem);
    }
}

/// A window tells frequencies apart that differ by one turn in its length.
fn resolution(look: &mut Look<'_>, spot: Spot<'_>, width: f64, window: &WindowSpec) {
    let line = 1.0 / window.length.as_seconds();
    if width < line {
        let problem = Problem::error(spot, "the window is too short for such a narrow band")
            .found(format!("{width} Hz in a window of {}", window.length))
            .expected(format!("at least {line:.3} Hz, one turn in the window, or a longer window"));
        look.tell(problem);
    }
}

fn lines(look: &mut Look<'_>, spot: Spot<'_>, bearing: &BearingSpec) {
    match (&bearing.geometry, &bearing.orders) {
        (Some(geometry), None) => measures(look, spot.key("geometry"), geometry),
        (None, Some(orders)) => catalogue(look, spot.key("orders"), orders),
        (geometry, _) => {
            let both = geometry.is_some();
            let message = "where a bearing's fault lines lie is said once";
            let place = if both { spot.key("orders") } else { spot };
            let problem = Problem::error(place, message)
                .found(if both { "`orders` beside `geometry`" } else { "neither" })
                .expected("`geometry` or `orders`");
            look.tell(problem);
        }
    }
}

fn measures(look: &mut Look<'_>, spot: Spot<'_>, geometry: &GeometrySpec) {
    let GeometrySpec { balls, ball, pitch, angle } = *geometry;
    let mut wrong = |key: &str, found: String, expected: String| {
        let problem = Problem::error(spot.key(key), "there is no such bearing");
        look.tell(problem.found(found).expected(expected));
    };
    if !(3..=200).contains(&balls) {
        wrong("balls", balls.to_string(), "3 to 200 balls in one row".into());
    }
    if !(pitch > 0.0 && pitch.is_finite()) {
        wrong("pitch", pitch.to_string(), "a diameter above 0".into());
    } else if !(ball > 0.0 && ball < pitch) {
        let found = format!("a ball of {ball} on a circle of {pitch}");
        wrong("ball", found, "a diameter above 0 and below `pitch`, in the same unit".into());
    }
    if !(0.0..90.0).contains(&angle) {
        wrong("angle", angle.to_string(), "degrees from 0 to below 90".into());
    }
}

fn catalogue(look: &mut Look<'_>, spot: Spot<'_>, orders: &OrdersSpec) {
    let OrdersSpec { bpfo, bpfi, bsf, ftf } = *orders;
    let mut wrong = |key: &str, found: f64, expected: &str| {
        let problem = Problem::error(spot.key(key), "no bearing has its fault line there");
        look.tell(problem.found(found.to_string()).expected(expected));
    };
    if !(bpfo > 0.0 && bpfo < 200.0) {
        wrong("bpfo", bpfo, "a multiple of the shaft's speed, like 3.58");
    } else if !(bpfi > bpfo && bpfi < 200.0) {
        wrong("bpfi", bpfi, "more than `bpfo`: balls pass the inner race more often");
    }
    if !(bsf > 0.0 && bsf < 200.0) {
        wrong("bsf", bsf, "a multiple of the shaft's speed, like 2.36");
    }
    if !(ftf > 0.0 && ftf < 1.0) {
        wrong("ftf", ftf, "0 to 1: a cage turns more slowly than the shaft");
    }
}

fn speed(look: &mut Look<'_>, spot: Spot<'_>, bearing: &BearingSpec, window: &WindowSpec) {
    let place = spot.key("bearing").key("speed");
    match &bearing.speed {
        SpeedSpec::Rpm(rpm) => {
            let turns = rpm / 60.0 * window.length.as_seconds();
            if !(*rpm > 0.0 && rpm.is_finite()) {
                let problem = Problem::error(place.key("rpm"), "this shaft does not turn")
                    .found(rpm.to_string())
                    .expected("turns a minute, above 0");
                look.tell(problem);
            } else if turns < TURNS {
                let least = (TURNS * 60.0 / rpm).ceil();
                let message = "the window is too short to tell fault lines from those of the shaft";
                let problem = Problem::error(spot.key("length"), message)
                    .found(format!("{turns:.1} turns of the shaft in {}", window.length))
                    .expected(format!("{TURNS} turns or more"))
                    .suggest(format!("\"{least}s\""));
                look.tell(problem);
            }
        }
        SpeedSpec::Signal(name) => {
            let place = place.key("signal");
            look.signal(place, false, name);
            let signals = look.schema.map(|s| s.signals.as_slice()).unwrap_or_default();
            let Some(signal) = signals.iter().find(|s| s.name == *name) else { return };
            if convert(&signal.unit, "Hz").is_none() {
                let problem = Problem::error(place, format!("`{name}` is no speed of a shaft"))
                    .found(format!("unit `{}` in the schema", signal.unit))
                    .expected("a signal in `rpm` or `Hz`");
                look.tell(problem);
            } else if window.signals.as_ref().is_none_or(|all| all.contains(name)) {
                let message = format!("the speed `{name}` is described as if it were a vibration");
                let problem = Problem::warning(spot.key("signals"), message)
                    .found(format!("`{name}` among the signals of this window"))
                    .expected("the vibrations alone; the speed is looked up besides");
                look.tell(problem);
            }
        }
    }
}

/// Strikes come as fast as the third harmonic of the highest line, and ring within the band.
fn band(look: &mut Look<'_>, spot: Spot<'_>, bearing: &BearingSpec, step: Option<Step>) {
    if let Some([from, to]) = bearing.band {
        if !(from >= 0.0 && to > from && to.is_finite()) {
            let problem = Problem::error(spot.key("band"), "this is no band")
                .found(format!("{from} to {to} Hz"))
                .expected("two frequencies in Hz, the lower one first: `[2000, 6000]`");
            look.tell(problem);
            return;
        }
        nyquist(look, spot.key("band"), to, step);
    }
    let (Some(step), SpeedSpec::Rpm(rpm), Some(orders)) = (step, &bearing.speed, bearing.orders())
    else {
        return;
    };
    let [from, to] = bearing.band.unwrap_or([1.0, 3.0].map(|part| part * step.rate() / 6.0));
    let highest = orders.iter().copied().fold(0.0, f64::max) * rpm / 60.0 * HARMONICS as f64;
    if *rpm > 0.0 && to - from < highest * 1.3 {
        let place = if bearing.band.is_some() { spot.key("band") } else { spot };
        let message = "the band is too narrow for the strikes of a fault";
        let problem = Problem::error(place, message)
            .found(format!("{:.0} Hz wide, for strikes {highest:.0} times a second", to - from))
            .expected(format!(
                "{:.0} Hz or more: the third harmonic of the highest line and its surroundings; a wider `band`, or a finer grid",
                (highest * 1.3).ceil()
            ));
        look.tell(problem);
    }
}
