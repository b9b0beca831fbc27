//! From message to readings: which asset and signal a message is of, and what it says.
//!
//! The engine's inbox has one [`Decoder`] and one [`Rows`] a route. Decoding is pure: no I/O, no clock (the time of
//! arrival is given), no memory but [`Rows`]. A message either adds its readings or, on an error, leaves no trace.
//! Times and values that cannot be true are not judged here but in `stage/clean`.

mod error;
mod json;
mod path;
mod quality;
mod rows;
pub(crate) mod scalar;
pub(crate) mod time;
mod topic;
mod walk;

pub use error::DecodeError;
pub use rows::Rows;
pub use scalar::{WORDS_MAX, Words};
pub use time::{TimeFault, TimeFormatError};
pub use topic::{TopicError, TopicPattern};

use std::collections::HashMap;

use crate::frame::{Asset, Quality};
use crate::pipeline::spec::{FormatSpec, JsonFormat};
use crate::schema::Schema;
use crate::time::Timestamp;
use json::JsonPlan;
use rows::{Common, TopicSignal};
use time::TimeFormat;
use walk::Walk;

/// Limits on messages.
#[derive(Clone, Copy, Debug)]
pub struct DecodeOptions {
    /// Largest message in bytes.
    pub message_max: usize,
}

/// What came of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Readings added.
    pub readings: usize,
    /// Fields or names that the schema does not know, passed over. [`Rows::unknown_signals`] has their names.
    pub unknown: usize,
    /// Readings refused, such as text where a number should be.
    pub rejected: usize,
    /// Readings added with the time of arrival, because the message had none.
    pub undated: usize,
    /// Why the first of `rejected` was refused.
    pub fault: Option<Box<DecodeError>>,
}

/// Turns the messages of one route into readings.
#[derive(Debug)]
pub struct Decoder {
    route: String,
    patterns: Vec<TopicPattern>,
    format: Format,
    options: DecodeOptions,
    /// Whether readings without a time get the time of arrival.
    undated: bool,
}

#[derive(Debug)]
enum Format {
    Json(Box<JsonPlan>),
    Scalar { signal: Option<u16>, signals: HashMap<String, u16> },
}

impl Decoder {
    /// For messages on `topics`, written in `format`, of assets as in `schema`. The error says which setting is wrong.
    pub fn new(
        route: String,
        topics: &[String],
        format: &FormatSpec,
        schema: &Schema,
        options: DecodeOptions,
    ) -> Result<Decoder, DecodeError> {
        let patterns: Vec<TopicPattern> =
            topics.iter().map(|text| TopicPattern::parse(text)).collect::<Result<_, _>>()?;
        let named = |pattern: &TopicPattern, wanted: &str| pattern.names().any(|n| n == wanted);
        let in_payload = matches!(format, FormatSpec::Json(json) if json.asset.is_some());
        if let Some(pattern) = patterns.iter().find(|p| !in_payload && !named(p, "asset")) {
            return Err(DecodeError::AssetNowhere { topic: pattern.to_string() });
        }
        let format = match format {
            FormatSpec::Json(json) => {
                let times = TimeFormat::payload(json.unit);
                Format::Json(Box::new(JsonPlan::new(json, schema, times)?))
            }
            FormatSpec::Scalar(scalar) => {
                let signal =
                    match &scalar.signal {
                        None => None,
                        Some(name) => Some(schema.position(name).ok_or_else(|| {
                            json::no_such_signal("format.scalar.signal", name, schema)
                        })? as u16),
                    };
                if let Some(pattern) =
                    patterns.iter().find(|p| signal.is_none() && !named(p, "signal"))
                {
                    return Err(DecodeError::SignalNowhere { topic: pattern.to_string() });
                }
                let signals =
                    schema.lookup().into_iter().map(|(n, index)| (n.to_owned(), index)).collect();
                Format::Scalar { signal, signals }
            }
        };
        Ok(Decoder { route, patterns, format, options, undated: true })
    }

    /// For lines of JSON of one asset (or of those that the lines name). Readings without a time are refused. The
    /// first argument of [`Decoder::decode`] is then only a name for messages.
    pub(crate) fn for_lines(
        route: String,
        format: &JsonFormat,
        times: TimeFormat,
        schema: &Schema,
        options: DecodeOptions,
    ) -> Result<Decoder, DecodeError> {
        let format = Format::Json(Box::new(JsonPlan::new(format, schema, times)?));
        let patterns = vec![TopicPattern::parse("{asset}")?];
        Ok(Decoder { route, patterns, format, options, undated: false })
    }

    /// The route's name.
    pub fn route(&self) -> &str {
        &self.route
    }

    /// What to subscribe to, each filter once.
    pub fn filters(&self) -> Vec<String> {
        let mut filters: Vec<String> = Vec::with_capacity(self.patterns.len());
        for pattern in &self.patterns {
            let filter = pattern.filter();
            if !filters.contains(&filter) {
                filters.push(filter);
            }
        }
        filters
    }

    /// Adds the readings of a message to `rows`, which must be this decoder's alone. `received` is the time of readings
    /// that have none. On an error `rows` is as before. A topic that is not for this decoder is an error too.
    pub fn decode(
        &self,
        topic: &str,
        payload: &[u8],
        received: Timestamp,
        rows: &mut Rows,
    ) -> Result<Decoded, DecodeError> {
        self.decode_own(topic, payload, Some(received), rows).unwrap_or_else(|| {
            let patterns: Vec<String> = self.patterns.iter().map(|p| format!("`{p}`")).collect();
            Err(DecodeError::NoRoute { topic: topic.into(), patterns: patterns.join(", ") })
        })
    }

    /// As [`Decoder::decode`]; `None` where the topic is not for this decoder. Of a message that is older than its
    /// arrival (`received` is `None`), only readings with a time of their own are taken.
    pub fn decode_own(
        &self,
        topic: &str,
        payload: &[u8],
        received: Option<Timestamp>,
        rows: &mut Rows,
    ) -> Option<Result<Decoded, DecodeError>> {
        let entry = rows.topic(topic, || self.resolve(topic))?;
        let filled = rows.filled();
        let arrival = received.filter(|_| self.undated);
        let mut result = self.readable(topic, payload).and_then(|text| match &self.format {
            Format::Json(plan) => Walk::new(plan, topic, rows, entry, arrival).run(text),
            Format::Scalar { .. } => bare(topic, text, arrival, entry, rows),
        });
        if received.is_none() {
            match &mut result {
                Ok(decoded) => decoded.fault.iter_mut().for_each(|fault| fault.of_retained()),
                Err(error) => error.of_retained(),
            }
        }
        if !matches!(&result, Ok(decoded) if decoded.readings > 0) {
            rows.roll_back(filled);
        }
        Some(result)
    }

    /// The payload as text, if it is within the limit.
    fn readable<'b>(&self, topic: &str, payload: &'b [u8]) -> Result<&'b str, DecodeError> {
        let topic = || topic.to_owned();
        let limit = self.options.message_max;
        if payload.len() > limit {
            return Err(DecodeError::TooLarge { topic: topic(), size: payload.len(), limit });
        }
        let expected = match self.format {
            Format::Json(_) => "JSON",
            Format::Scalar { .. } => scalar::EXPECTED,
        };
        let text = std::str::from_utf8(payload).map_err(|e| {
            let offset = e.valid_up_to();
            let byte = payload.get(offset).copied().unwrap_or_default();
            DecodeError::NotUtf8 { topic: topic(), offset, byte, expected }
        })?;
        // Some senders start with a byte order mark, which no parser of JSON takes.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if text.trim_start().is_empty() {
            return Err(DecodeError::Empty { topic: topic(), expected });
        }
        Ok(text)
    }

    /// What a new topic says.
    fn resolve(&self, topic: &str) -> Option<(Asset, TopicSignal)> {
        if !self.undated {
            return Some((Asset { id: topic.to_owned(), ..Asset::default() }, TopicSignal::None));
        }
        let mut captures = Vec::new();
        let pattern = self.patterns.iter().find(|p| p.matches(topic, &mut captures))?;
        let mut asset = Asset::default();
        let mut name = None;
        for (key, value) in pattern.names().zip(captures) {
            match key {
                "asset" => value.clone_into(&mut asset.id),
                "signal" => name = Some(value),
                _ => {
                    asset.tags.insert(key.to_owned(), value.to_owned());
                }
            }
        }
        let (signals, default) = match &self.format {
            Format::Json(plan) => (&plan.signals, None),
            Format::Scalar { signal, signals } => (signals, *signal),
        };
        let signal = match name {
            Some(name) => {
                signals.get(name).copied().map_or(TopicSignal::Unknown, TopicSignal::Known)
            }
            None => default.map_or(TopicSignal::None, TopicSignal::Known),
        };
        Some((asset, signal))
    }
}

fn bare(
    topic: &str,
    text: &str,
    arrival: Option<Timestamp>,
    entry: u32,
    rows: &mut Rows,
) -> Result<Decoded, DecodeError> {
    let mut decoded = Decoded::default();
    let Some(value) = scalar::value(topic, text)? else { return Ok(decoded) };
    match (rows.topic_signal(entry), rows.topic_asset(entry)) {
        (TopicSignal::Known(signal), Some(asset)) => {
            let Some(ts) = arrival else {
                let (topic, path) = (topic.to_owned(), "beside the value".to_owned());
                return Err(DecodeError::Missing { topic, what: "the time", path });
            };
            let around = Common { ts, quality: Quality::Good, asset, signal };
            rows.push(signal, value, &around);
            (decoded.readings, decoded.undated) = (1, 1);
        }
        _ => decoded.unknown = 1,
    }
    Ok(decoded)
}

/// Text from outside, short enough for a message and without line breaks.
pub(crate) fn shown(text: &str) -> String {
    const LENGTH_MAX: usize = 60;
    let mut short: String =
        text.chars().take(LENGTH_MAX).map(|c| if c.is_control() { '·' } else { c }).collect();
    if text.chars().nth(LENGTH_MAX).is_some() {
        short.push('…');
    }
    short
}

/// Which of `names` was probably meant by `wrong`.
pub(crate) fn nearest<'n>(wrong: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let wrong = wrong.to_lowercase();
    names
        .map(|name| (strsim::jaro_winkler(&wrong, &name.to_lowercase()), name))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}
