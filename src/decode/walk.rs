//! One pass over a JSON document along a [`JsonPlan`]: no tree of values is built, nothing is allocated for a field.
//!
//! Called by [`super::Decoder`]; [`visit`] has the steps, this file what they come to. What a document says of its
//! readings as a whole (time, quality, asset) may stand behind them, so they are added with holes that are filled when
//! the object ends.

mod visit;

use serde::de::DeserializeSeed;

use super::json::{JsonPlan, Shape};
use super::rows::{Common, Rows, TopicSignal};
use super::time::TimeFault;
use super::{DecodeError, Decoded};
use crate::pipeline::spec::Unknown;
use crate::time::Timestamp;
use visit::Document;

/// A message on its way through the plan.
pub(super) struct Walk<'p> {
    plan: &'p JsonPlan,
    shape: &'p Shape,
    topic: &'p str,
    rows: &'p mut Rows,
    /// The topic's entry in `rows`.
    entry: u32,
    /// What the topic says: asset and signal.
    outer: Common,
    /// The time of readings without one; `None` where those are refused.
    arrival: Option<Timestamp>,
    decoded: Decoded,
    /// Why the whole message is refused.
    fatal: Option<Box<DecodeError>>,
    /// Which element of an array is being read.
    element: Option<usize>,
    /// Which signal's object is being read.
    field: Option<&'p str>,
    /// Whether the place of the values was found at all.
    seen: bool,
}

/// One object on its way.
struct Scope {
    start: usize,
    common: Common,
    value: Option<f64>,
    /// Why none of its readings can be used.
    fault: Option<Box<DecodeError>>,
}

/// Where a document stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It is the whole message: what is wrong with it is wrong with the message.
    Alone,
    /// It is one of several.
    OneOfMany,
}

impl<'p> Walk<'p> {
    pub(super) fn new(
        plan: &'p JsonPlan,
        topic: &'p str,
        rows: &'p mut Rows,
        entry: u32,
        arrival: Option<Timestamp>,
    ) -> Walk<'p> {
        let signal = rows.topic_signal(entry);
        let mut outer = Common::nothing();
        outer.asset = rows.topic_asset(entry).unwrap_or(Common::NO_ASSET);
        outer.signal = match signal {
            TopicSignal::None => Common::NO_SIGNAL,
            TopicSignal::Known(index) => index,
            TopicSignal::Unknown => Common::UNKNOWN_SIGNAL,
        };
        let narrow = plan.named || signal != TopicSignal::None;
        let shape = if narrow { &plan.narrow } else { &plan.wide };
        Walk {
            plan,
            shape,
            topic,
            rows,
            entry,
            outer,
            arrival,
            decoded: Decoded::default(),
            fatal: None,
            element: None,
            field: None,
            seen: false,
        }
    }

    /// Walks the message and says what came of it.
    pub(super) fn run(mut self, text: &'p str) -> Result<Decoded, DecodeError> {
        let start = self.rows.len();
        let mut parser = serde_json::Deserializer::from_str(text);
        let parsed = Document(&mut self).deserialize(&mut parser).and_then(|()| parser.end());
        if let Err(error) = parsed {
            return Err(not_json(self.topic, text, &error));
        }
        if let Some(fatal) = self.fatal {
            return Err(*fatal);
        }
        self.decoded.readings = self.rows.len() - start;
        if !self.seen && self.decoded.rejected == 0 {
            return Err(self.missing("the place of the readings", &self.plan.places.values));
        }
        Ok(self.decoded)
    }

    fn scope(&self) -> Scope {
        let mut common = Common::nothing();
        // Without holes there is less to fill at the end.
        if !self.plan.names_asset {
            common.asset = self.outer.asset;
        }
        Scope { start: self.rows.len(), common, value: None, fault: None }
    }

    /// What is at hand at the end of an object that holds readings.
    fn close(&mut self, scope: &Scope) {
        if let Some(value) = scope.value {
            self.rows.push(Common::NO_SIGNAL, value, &scope.common);
        }
        self.rows.fill(scope.start, &scope.common);
    }

    /// An object of an array inside a document: what it does not say, the document may.
    fn close_element(&mut self, mut scope: Scope) {
        self.close(&scope);
        if let Some(fault) = scope.fault.take() {
            self.refuse_from(scope.start, *fault);
        }
    }

    /// The end of a document: what is still open now, the topic and the arrival say.
    fn close_document(&mut self, mut scope: Scope, standing: Standing) {
        self.close(&scope);
        if let Some(fault) = scope.fault.take() {
            if standing == Standing::Alone {
                self.fatal = Some(fault);
            } else {
                self.refuse_from(scope.start, *fault);
            }
            return;
        }
        self.rows.fill(scope.start, &self.outer);
        let settled = self.rows.settle(scope.start, self.arrival);
        self.decoded.undated += settled.undated;
        let places = &self.plan.places;
        for (count, what, place) in [
            (settled.no_time, "the time", &places.time),
            (settled.no_asset, "the asset", &places.asset),
            (settled.no_signal, "the signal's name", &places.name),
        ] {
            if count == 0 {
                continue;
            }
            let fault = self.missing(what, place);
            // A document that stands alone and names no asset is refused as a whole, not reading by reading.
            if standing == Standing::Alone && self.rows.len() == scope.start {
                self.fatal = Some(Box::new(fault));
            } else {
                self.reject(count, fault);
            }
        }
        self.unknown(settled.unknown, "its signal");
    }

    fn refuse_from(&mut self, start: usize, fault: DecodeError) {
        let count = (self.rows.len() - start).max(1);
        self.rows.readings.truncate(start);
        self.reject(count, fault);
    }

    fn reject(&mut self, count: usize, fault: DecodeError) {
        self.decoded.rejected += count;
        self.decoded.fault.get_or_insert_with(|| Box::new(fault));
    }

    fn unknown(&mut self, count: usize, path: &str) {
        match self.plan.unknown {
            _ if count == 0 => {}
            Unknown::Ignore => self.decoded.unknown += count,
            Unknown::Reject => {
                let path = self.path(path);
                let topic = self.topic.to_owned();
                self.reject(count, DecodeError::UnknownSignal { topic, path });
            }
        }
    }

    fn missing(&self, what: &'static str, place: &str) -> DecodeError {
        let path = match self.element {
            Some(index) => format!("{place} (element {index})"),
            None => place.to_owned(),
        };
        DecodeError::Missing { topic: self.topic.to_owned(), what, path }
    }

    /// A place as an operator finds it: `readings[3].value`.
    fn path(&self, path: &str) -> String {
        let mut full = match self.element {
            Some(index) => format!("{}[{index}]", self.plan.places.each),
            None => String::new(),
        };
        for part in self.field.into_iter().chain([path]).filter(|part| !part.is_empty()) {
            if !full.is_empty() {
                full.push('.');
            }
            full.push_str(part);
        }
        if full.is_empty() { "the payload".into() } else { full }
    }

    fn wrong_type(&self, path: &str, found: String, expected: &'static str) -> DecodeError {
        let (topic, path) = (self.topic.to_owned(), self.path(path));
        DecodeError::WrongType { topic, path, found, expected }
    }

    fn time_fault(&self, path: &str, fault: TimeFault) -> DecodeError {
        DecodeError::Time { topic: self.topic.to_owned(), path: self.path(path), fault }
    }

    /// A bare value where an object could stand: the topic, or the document around it, names the signal.
    fn bare(&mut self, value: f64, standing: Standing) {
        self.seen = true;
        let mut scope = self.scope();
        scope.value = Some(value);
        self.close_document(scope, standing);
    }
}

fn not_json(topic: &str, text: &str, error: &serde_json::Error) -> DecodeError {
    // The parser counts lines from 1 and bytes of a line from 1; at the end of the input it stands on the last byte.
    let line = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len);
    let offset = (line.sum::<usize>() + error.column().saturating_sub(1)).min(text.len());
    let mut reason = error.to_string();
    if let Some(end) = reason.rfind(" at line ") {
        reason.truncate(end);
    }
    let rest: String = text.get(offset..).unwrap_or_default().chars().take(12).collect();
    let hint = if text.trim_start().starts_with('\'') || text.contains("{'") {
        "; names and text need double quotes"
    } else if ["NaN", "nan", "Infinity"].iter().any(|word| text.contains(word)) {
        "; JSON has no NaN and no Infinity: send null"
    } else if error.is_eof() {
        "; it ends in the middle: it was cut off on the way, or its sender has too small a buffer"
    } else if reason.contains("out of range") {
        "; the number is larger than a 64 bit float"
    } else {
        ""
    };
    DecodeError::NotJson { topic: topic.to_owned(), offset, near: rest, reason, hint }
}
