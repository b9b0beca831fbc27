//! Rules of recordings: what `replay` and `train` must be able to read.

use super::Look;
use crate::diagnose::nearest::nearest;
use crate::diagnose::{Problem, Spot};

/// Checks `recording`.
pub(super) fn check(look: &mut Look<'_>) {
    let Some(recording) = look.parts.recording.clone() else { return };
    let spot = look.root.key("recording");
    if let Some(delimiter) = &recording.delimiter {
        let one = delimiter.len() == 1 && !["\"", "\n", "\r"].contains(&delimiter.as_str());
        if !one {
            let first = delimiter.trim().chars().next().filter(char::is_ascii);
            let problem =
                Problem::error(spot.key("delimiter"), "columns are separated by one character")
                    .found(format!("{} characters", delimiter.chars().count()))
                    .expected("one ASCII character, like \";\" or \"\\t\"")
                    .suggest_nearest(first.map(|c| format!("\"{c}\"")));
            look.tell(problem);
        }
    }
    if let Some(format) = &recording.time_format {
        time_format(look, spot.key("time_format"), format);
    }
    if let Some(zone) = &recording.zone {
        time_zone(look, spot.key("zone"), zone);
    }
    let long = [
        ("signal", recording.signal.is_some(), "value"),
        ("value", recording.value.is_some(), "signal"),
    ];
    for (key, given, other) in long {
        if given && recording.signal.is_some() != recording.value.is_some() {
            let problem = Problem::error(
                spot.key(key),
                "a recording with one reading a row needs the columns of both name and value",
            )
            .found(format!("`{key}` without `{other}`"))
            .expected(format!("`{other}` too"));
            look.tell(problem);
        }
    }
    for signal in recording.signals.keys() {
        look.signal(spot.key("signals").key(signal), true, signal);
    }
}

/// A format is right if what it writes can be read back and gives a whole date.
fn time_format(look: &mut Look<'_>, spot: Spot<'_>, format: &str) {
    use jiff::fmt::strtime;
    let sample = jiff::Timestamp::UNIX_EPOCH.to_zoned_datetime(jiff::tz::TimeZone::UTC);
    let written = strtime::format(format, &sample);
    let reason = match written.as_ref().map(|text| strtime::parse(format, text)) {
        Ok(Ok(time)) if time.to_datetime().is_ok() || time.to_timestamp().is_ok() => return,
        Ok(Ok(_)) => "it does not give year, month and day".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    let iso = format.contains("YYYY") || format.contains("yyyy");
    let problem = Problem::error(spot, format!("times cannot be read with this format: {reason}"))
        .found(format!("`{format}`"))
        .expected("a format as in strptime, like \"%Y-%m-%d %H:%M:%S\"")
        .suggest_nearest(iso.then_some("\"%Y-%m-%d %H:%M:%S\""));
    look.tell(problem);
}

fn time_zone(look: &mut Look<'_>, spot: Spot<'_>, zone: &str) {
    if jiff::tz::TimeZone::get(zone).is_ok() {
        return;
    }
    let known: Vec<String> = jiff::tz::db().available().map(|name| name.to_string()).collect();
    let city = zone.rsplit('/').next().unwrap_or(zone);
    let by_city = known
        .iter()
        .map(String::as_str)
        .find(|k| k.rsplit('/').next().is_some_and(|c| c.eq_ignore_ascii_case(city)));
    let near = nearest(zone, known.iter().map(String::as_str)).or(by_city);
    let problem = Problem::error(spot, format!("there is no time zone `{zone}`"))
        .found(format!("`{zone}`"))
        .expected("a name of the tz database, like \"Europe/Berlin\"")
        .suggest_nearest(near.map(|n| format!("\"{n}\"")));
    look.tell(problem);
}
