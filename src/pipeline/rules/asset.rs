//! Rules of asset schemas: names that cannot be mixed up, limits that something can lie within.

use std::collections::BTreeMap;

use crate::diagnose::nearest::nearest;
use crate::diagnose::{Problem, Problems, Spot};
use crate::schema::expression::Expression;
use crate::schema::{Signal, convert, known_units};
use crate::time::Span;

/// Checks the signals of a schema; each with its index in the file.
pub(in crate::pipeline) fn check(
    root: Spot<'_>,
    name: &str,
    signals: &[(usize, Signal)],
    problems: &mut Problems,
) {
    if name.trim().is_empty() && root.node.get("name").is_some() {
        problems.push_unless_known(
            Problem::error(root.key("name"), "a schema needs a name")
                .found("an empty name")
                .expected("the name that pipelines refer to"),
        );
    }
    if signals.is_empty() {
        let problem = Problem::error(root.key("signal"), "this schema has no signals")
            .found("an empty list")
            .expected("a `[[signal]]` for each measured quantity");
        problems.push_unless_known(problem);
    }
    names(root, signals, problems);
    for (index, signal) in signals {
        one(root.key("signal").index(*index), signal, problems);
    }
    for (at, (index, signal)) in signals.iter().enumerate() {
        let spot = root.key("signal").index(*index);
        let before: Vec<&str> = signals[..at].iter().map(|(_, s)| s.name.as_str()).collect();
        derived(spot, signal, &before, problems);
    }
}

/// A calculated signal: an expression that can be read, of signals before it, and nothing that only a measured one has.
fn derived(spot: Spot<'_>, signal: &Signal, before: &[&str], problems: &mut Problems) {
    let Some(from) = &signal.from else { return };
    let measured = [
        ("aliases", !signal.aliases.is_empty()),
        ("min", signal.min.is_some()),
        ("max", signal.max.is_some()),
        ("max_rate", signal.max_rate.is_some()),
        ("resolution", signal.resolution.is_some()),
        ("every", signal.every.is_some()),
    ];
    for (key, _) in measured.iter().filter(|(_, there)| *there) {
        let message = format!("{} is calculated: `{key}` is for measured ones", called(signal));
        let problem = Problem::error(spot.key(key).node.key_place(), message)
            .found(format!("`{key}` beside `from`"))
            .expected("`clean` looks at what it is calculated from");
        problems.push_unless_known(problem);
    }
    if let Err(error) = Expression::parse(from, before) {
        let near = error.unknown.as_deref().and_then(|name| nearest(name, before.iter().copied()));
        let message = format!("{} cannot be calculated: {}", called(signal), error.reason);
        let problem = Problem::error(spot.key("from"), message)
            .found(error.found(from))
            .expected(error.expected.as_str())
            .suggest_nearest(near.map(|name| format!("`{name}`")));
        problems.push_unless_known(problem);
    }
}

/// A name may mean one signal only, whether it is a name or an alias.
fn names(root: Spot<'_>, signals: &[(usize, Signal)], problems: &mut Problems) {
    let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
    for (index, signal) in signals {
        let spot = root.key("signal").index(*index);
        let aliases = signal.aliases.iter().enumerate();
        let aliases = aliases.map(|(i, alias)| (spot.key("aliases").index(i), alias.as_str()));
        for (spot, name) in std::iter::once((spot.key("name"), signal.name.as_str())).chain(aliases)
        {
            if let Some(other) = taken.insert(name, &signal.name) {
                let problem =
                    Problem::error(spot, format!("`{name}` is a name of signal `{other}` already"))
                        .found(format!("`{name}` a second time"))
                        .expected("a name or alias that no other signal has");
                problems.push_unless_known(problem);
            }
        }
    }
}

fn one(spot: Spot<'_>, signal: &Signal, problems: &mut Problems) {
    let name = &signal.name;
    let legible =
        !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    if !legible {
        let good: String =
            name.trim().chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect();
        let problem =
            Problem::error(spot.key("name"), format!("`{name}` cannot be a signal's name"))
                .found(format!("`{name}`"))
                .expected("letters, digits, `_` and `-`: features are called `signal.mean`")
                .suggest_nearest(
                    (!good.is_empty())
                        .then(|| format!("\"{good}\", and the other as one of its `aliases`")),
                );
        problems.push_unless_known(problem);
    }
    unit(spot, signal, problems);
    if let (Some(min), Some(max)) = (signal.min, signal.max)
        && min >= max
    {
        let problem = Problem::error(
            spot.key("min"),
            format!("no value of `{name}` can pass: `min` is not below `max`"),
        )
        .found(format!("min {min}, max {max}"))
        .expected(format!("less than {max}"))
        .suggest_nearest((min > max).then(|| format!("`min = {max}` and `max = {min}`")));
        problems.push_unless_known(problem);
    }
    let positive = [("max_rate", signal.max_rate), ("resolution", signal.resolution)];
    for (key, value) in positive {
        let Some(value) = value.filter(|v| *v <= 0.0) else { continue };
        let problem = Problem::error(spot.key(key), format!("`{key}` of `{name}` must be above 0"))
            .found(value.to_string())
            .expected(format!("a number above 0, or no `{key}`"));
        problems.push_unless_known(problem);
    }
    if signal.every == Some(Span::ZERO) {
        let problem = Problem::error(
            spot.key("every"),
            format!("`{name}` cannot be measured every 0 seconds"),
        )
        .found("no time at all")
        .expected("the time between two readings, or no `every`");
        problems.push_unless_known(problem);
    }
}

/// A signal as messages call it.
fn called(signal: &Signal) -> String {
    if signal.name.is_empty() { "this signal".into() } else { format!("signal `{}`", signal.name) }
}

fn unit(spot: Spot<'_>, signal: &Signal, problems: &mut Problems) {
    let unit = signal.unit.as_str();
    if unit.trim().is_empty() {
        let problem = Problem::error(spot.key("unit"), format!("{} has no unit", called(signal)))
            .found("an empty text")
            .expected("a unit, or `1` for a plain number");
        problems.push_unless_known(problem.suggest("\"1\""));
        return;
    }
    let known = convert(unit, unit).is_some() && known_units().any(|u| u == unit);
    let usual = [
        ("°C", "degC"),
        ("C", "degC"),
        ("celsius", "degC"),
        ("°F", "degF"),
        ("m³/h", "m3/h"),
        ("m^3/h", "m3/h"),
        ("r/min", "rpm"),
        ("m/s²", "m/s2"),
        ("percent", "%"),
    ];
    let near = usual.iter().find(|(other, _)| *other == unit).map(|(_, right)| *right);
    let slip = || {
        known_units()
            .find(|u| u.eq_ignore_ascii_case(unit))
            .or_else(|| nearest(unit, known_units().filter(|u| u.len() > 2)))
    };
    if known {
        return;
    }
    let problem = Problem::warning(
        spot.key("unit"),
        format!("unit `{unit}` of {} cannot be converted", called(signal)),
    )
    .found(format!("`{unit}`"))
    .expected("a unit that is known here, if payloads may come in another one")
    .suggest_nearest(near.or_else(slip).map(|u| format!("\"{u}\" if that is meant")));
    problems.push_unless_known(problem);
}
