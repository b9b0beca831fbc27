//! Rules of what comes in: topics, payload formats, event time.

use std::collections::BTreeSet;

use super::Look;
use crate::decode::{DecodeOptions, Decoder};
use crate::diagnose::nearest::nearest;
use crate::diagnose::{Problem, Spot};
use crate::pipeline::spec::{FormatSpec, JsonFormat, TimeUnit};
use crate::time::Span;

/// Checks topics, format and time of a pipeline.
pub(super) fn check(look: &mut Look<'_>) {
    name(look);
    let topics = look.parts.topics.clone();
    let mut seen = BTreeSet::new();
    let mut named = Vec::new();
    for (index, topic) in topics.iter().enumerate() {
        let spot = look.root.key("topics").index(index);
        named.push((spot, placeholders(look, spot, topic)));
        if !seen.insert(topic) {
            look.tell(
                Problem::warning(spot, "this topic is listed twice")
                    .found(format!("`{topic}` again")),
            );
        }
    }
    if topics.is_empty() && look.parts.recording.is_none() && !look.root.key("recording").exact {
        let problem = Problem::warning(look.root.key("topics"), "nothing comes into this pipeline")
            .found("no topics")
            .expected("`topics` to listen to, or `recording` for what is only replayed");
        look.tell(problem);
    }
    match look.parts.format.clone() {
        Some(FormatSpec::Json(json)) => json_format(look, &json, &named),
        Some(FormatSpec::Scalar(scalar)) => {
            let spot = look.root.key("format").key("scalar");
            if let Some(signal) = &scalar.signal {
                look.signal(spot.key("signal"), false, signal);
            }
            needs_asset(look, &named, "a bare value does not name its asset");
            let lacking =
                |(_, names): &&(Spot<'_>, Vec<String>)| !names.iter().any(|n| n == "signal");
            if scalar.signal.is_none()
                && let Some((topic, _)) = named.iter().find(lacking)
            {
                let problem = Problem::error(*topic, "nothing says which signal a bare value is")
                    .found("no `{signal}` in this topic")
                    .expected("`{signal}` as one level of the topic, or `format = { scalar = { signal = \"…\" } }`");
                look.tell(problem);
            }
        }
        None => {}
    }
    decoder(look);
    event_time(look);
}

/// What the decoder itself would refuse, where no rule has said it better already.
fn decoder(look: &mut Look<'_>) {
    let (Some(schema), Some(format)) = (look.schema, &look.parts.format) else { return };
    let options = DecodeOptions { message_max: usize::MAX };
    if let Err(error) = Decoder::new(String::new(), &look.parts.topics, format, schema, options) {
        let topics = look.root.key("topics");
        if !topics.exact || !look.problems.known_within(&topics.into()) {
            let message = format!("messages cannot be read like this: {error}");
            look.tell(Problem::error(look.root.key("format"), message));
        }
    }
}

fn name(look: &mut Look<'_>) {
    let name = look.parts.name.clone();
    let spot = look.root.key("name");
    if spot.exact {
        let problem = super::super::load::name_problem(spot, "a pipeline", &name);
        if let Some(problem) = problem {
            look.tell(problem);
        }
    }
}

/// Checks a topic and gives the names in it.
fn placeholders(look: &mut Look<'_>, spot: Spot<'_>, topic: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let levels: Vec<&str> = topic.split('/').collect();
    for (index, level) in levels.iter().enumerate() {
        let inner = level.strip_prefix('{').and_then(|l| l.strip_suffix('}'));
        let last = index + 1 == levels.len();
        if let Some(inner) = inner.filter(|i| !i.contains(['{', '}'])) {
            placeholder(look, spot, inner, &names);
            names.push(inner.to_owned());
        } else if level.contains(['{', '}']) {
            let problem =
                Problem::error(spot, "a name in braces must be a whole level of the topic")
                    .found(format!("level `{level}`"))
                    .expected("`{name}` between two slashes");
            look.tell(problem);
        } else if (level.contains('#') && (*level != "#" || !last))
            || (level.contains('+') && *level != "+")
        {
            let problem = Problem::error(
                spot,
                "a wildcard must be a whole level of the topic, and `#` the last one",
            )
            .found(format!("level `{level}`"))
            .expected("`+` for one level, `#` at the end for all that follow");
            look.tell(problem);
        }
    }
    if topic.trim().is_empty() || topic.contains('\0') || topic.len() > usize::from(u16::MAX) {
        let problem =
            Problem::error(spot, "this cannot be a topic").found(format!("{} bytes", topic.len()));
        look.tell(problem.expected("1 to 65535 bytes of text"));
    }
    names
}

fn placeholder(look: &mut Look<'_>, spot: Spot<'_>, name: &str, before: &[String]) {
    let word = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !word {
        let problem = Problem::error(spot, "a name in braces is one word")
            .found(format!("`{{{name}}}`"))
            .expected("letters, digits and `_`");
        look.tell(problem);
    } else if before.iter().any(|n| n == name) {
        let problem = Problem::error(spot, format!("`{{{name}}}` stands twice in this topic"))
            .found(format!("`{{{name}}}` again"))
            .expected("each name once; `+` for a level that needs no name");
        look.tell(problem);
    }
}

/// Every topic must say which asset it is about, unless the payload does.
fn needs_asset(look: &mut Look<'_>, named: &[(Spot<'_>, Vec<String>)], why: &str) {
    for (spot, names) in named {
        if names.iter().any(|n| n == "asset") {
            continue;
        }
        let near = names.iter().find(|n| {
            nearest(n, ["asset"]).is_some()
                || ["machine", "device", "id", "unit"].contains(&n.as_str())
        });
        let problem =
            Problem::error(*spot, format!("nothing says which asset a message is about: {why}"))
                .found("no `{asset}` in this topic")
                .expected("`{asset}` as one level of the topic")
                .suggest_nearest(near.map(|n| format!("`{{asset}}` for `{{{n}}}`")));
        look.tell(problem);
    }
}

fn json_format(look: &mut Look<'_>, json: &JsonFormat, named: &[(Spot<'_>, Vec<String>)]) {
    let spot = look.root.key("format").key("json");
    if json.asset.is_none() {
        needs_asset(look, named, "`format` has no `asset` path either");
    }
    for (signal, path) in &json.signals {
        let entry = spot.key("signals").key(signal);
        look.signal(entry, true, signal);
        dotted(look, entry, path);
    }
    let paths = [
        ("time", &json.time),
        ("each", &json.each),
        ("values", &json.values),
        ("signal", &json.signal),
        ("value", &json.value),
        ("asset", &json.asset),
        ("quality", &json.quality),
    ];
    for (key, path) in paths {
        if let Some(path) = path {
            dotted(look, spot.key(key), path);
        }
    }
    if json.time.is_none() && json.unit != TimeUnit::Auto {
        let problem = Problem::warning(
            spot.key("unit"),
            "this has no effect: `time` does not say where the time is",
        )
        .found("`unit` without `time`")
        .expected("`time`, the path of the time");
        look.tell(problem);
    }
    if json.signal.is_some() && json.values.is_some() {
        let problem = Problem::error(
            spot.key("values"),
            "one reading an object, or an object of readings: not both",
        )
        .found("`values` beside `signal`")
        .expected("one of the two");
        look.tell(problem);
    }
}

/// A path is names joined by dots.
fn dotted(look: &mut Look<'_>, spot: Spot<'_>, path: &str) {
    let plain = path.replace("\\.", "_");
    if plain.split('.').any(str::is_empty) {
        let good: Vec<&str> =
            path.trim_start_matches('$').split('.').filter(|p| !p.is_empty()).collect();
        let problem = Problem::error(spot, "this is not a path")
            .found(format!("`{path}`"))
            .expected(
                "names joined by dots, like `data.values`; a dot in a name is written `\\\\.`",
            )
            .suggest_nearest((!good.is_empty()).then(|| format!("\"{}\"", good.join("."))));
        look.tell(problem);
    }
}

fn event_time(look: &mut Look<'_>) {
    let Some(time) = look.parts.time.clone() else { return };
    let spot = look.root.key("time");
    let day = Span::seconds(24 * 3600);
    if time.idle == Span::ZERO {
        let problem =
            Problem::error(spot.key("idle"), "an asset cannot be idle after no time at all")
                .found("0s")
                .expected("longer than the longest pause between two messages")
                .suggest("\"30s\"");
        look.tell(problem);
    }
    if time.lateness > day {
        let problem = Problem::warning(
            spot.key("lateness"),
            "every window waits this long before it is scored",
        )
        .found(time.lateness.to_string())
        .expected("how much later than others a message may come: seconds to minutes");
        look.tell(problem);
    }
    if time.earliest > crate::time::now() {
        let problem = Problem::error(
            spot.key("earliest"),
            "all readings would be rejected: this moment is in the future",
        )
        .found(time.earliest.to_string())
        .expected("a moment before the first reading");
        look.tell(problem);
    }
}
