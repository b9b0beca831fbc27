//! What the readings come to when nothing goes wrong: the same pipelines, in this process, in one go.
//!
//! `campaign` asks for it once everything has been sent. The input does not end: a node does not know that nothing more
//! will come.

use std::collections::BTreeMap;
use std::path::Path;

use super::TortureError;
use super::numbers::{Numbers, SIGNALS};
use super::site::{NODE, NUMBERED, Site};
use crate::decode::Rows;
use crate::demo::pump::Signal;
use crate::engine::{Engine, Pipeline};
use crate::model::Host;
use crate::pipeline::load::{LoadedPipeline, load_pipeline};
use crate::pipeline::plan::{PlanOptions, plan};
use crate::record::{RawRecord, Record};
use crate::stage::Account;
use crate::time::now;

/// Messages in a step.
const STEP: u64 = 400;

/// What must come out.
#[derive(Debug, Default)]
pub(super) struct Expected {
    /// For each message, which of its readings are used: a bit for each signal.
    pub(super) used: Vec<u8>,
    /// Every other record, by id.
    pub(super) records: BTreeMap<String, Record>,
    /// The books of the pipeline that gives every reading back.
    pub(super) account: Account,
}

/// Computes messages `0..count`.
pub(super) fn compute(
    site: &Site,
    numbers: &Numbers,
    count: u64,
    onnxruntime: Option<&Path>,
) -> Result<Expected, TortureError> {
    let unusable = |why: String| TortureError::Undisturbed(why);
    let mut pipelines = Vec::new();
    for path in site.pipelines() {
        pipelines.push(load_pipeline(&path, None).map_err(|e| unusable(e.to_string()))?);
    }
    let planned = pipelines.iter().map(|p| planned(p, onnxruntime)).collect::<Result<_, _>>()?;
    let mut engine = Engine::new(NODE.to_owned(), planned);
    let decoder = pipelines[0].decoder().map_err(|e| unusable(e.to_string()))?;
    let mut rows = Rows::new(decoder.route().to_owned());
    let mut expected = Expected { used: vec![0; count as usize], ..Expected::default() };
    for number in 0..count {
        let (topic, payload) = (numbers.topic(number), numbers.payload(number));
        let decoded = decoder.decode(&topic, payload.as_bytes(), now(), &mut rows);
        if decoded.is_err() {
            return Err(unusable(format!("message {number} is no message: {payload}")));
        }
        if (number + 1) % STEP == 0 || number + 1 == count {
            let step = engine.step(vec![rows.take()], now());
            for out in step.records {
                expected.take(numbers, out.record);
            }
        }
    }
    if let Some(failure) = engine.take_failures().first() {
        return Err(unusable(format!("pipeline `{}`: {}", failure.pipeline, failure.reason)));
    }
    let books = engine.pipelines().iter().find(|p| p.name == NUMBERED);
    expected.account = books.map(|p| p.account().clone()).unwrap_or_default();
    Ok(expected)
}

fn planned(loaded: &LoadedPipeline, library: Option<&Path>) -> Result<Pipeline, TortureError> {
    let host = Host::with_library(library);
    let usual = PlanOptions::of(loaded.base(), &host);
    let options = PlanOptions { live: true, asset_limit: 10_000, ..usual };
    plan(&loaded.spec, &loaded.schema, options)
        .map_err(|e| TortureError::Undisturbed(e.to_string()))
}

impl Expected {
    fn take(&mut self, numbers: &Numbers, record: Record) {
        match record {
            Record::Raw(raw) => {
                for (number, signal, _) in readings(numbers, &raw) {
                    if let Some(mask) = number.and_then(|n| self.used.get_mut(n as usize)) {
                        *mask |= 1 << signal;
                    }
                }
            }
            other => drop(self.records.insert(other.id().to_owned(), other)),
        }
    }
}

/// The readings in a record: the message each came in, its signal, and whether its value is the one that was sent.
pub(super) fn readings(
    numbers: &Numbers,
    raw: &RawRecord,
) -> impl Iterator<Item = (Option<u64>, usize, bool)> {
    let all = raw.signals.iter().flat_map(|(name, list)| list.iter().map(move |r| (name, r)));
    all.map(|(name, reading)| {
        let number = numbers.find(&raw.asset, reading.0);
        let signal = Signal::ALL.into_iter().find(|signal| signal.name() == name);
        let sent = number.zip(signal).and_then(|(n, signal)| numbers.value(n, signal));
        (number, signal.map_or(SIGNALS - 1, |s| s as usize), sent == Some(reading.1))
    })
}
