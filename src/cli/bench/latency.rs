//! How long it takes from the message that completes a window to its score record, as a dashboard sees it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::SIGNALS;
use super::node::ask;
use crate::decode::Rows;
use crate::demo::load::{Load, messages, topic};
use crate::demo::plant::asset_id;
use crate::evaluate::metrics::percentile;
use crate::model::Host;
use crate::pipeline::load::LoadedPipeline;
use crate::pipeline::plan::PlanOptions;
use crate::record::Record;
use crate::time::{Span, Timestamp, monotonic};

/// Messages after which the first window must have closed.
const PLENTY: usize = 10_000;

/// Latencies of score records.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Latency {
    /// How many were seen.
    pub(super) records: usize,
    /// Half of them were faster, milliseconds.
    pub(super) p50_ms: Option<f64>,
    /// 99 % of them were faster, milliseconds.
    pub(super) p99_ms: Option<f64>,
    /// The slowest, milliseconds.
    pub(super) most_ms: Option<f64>,
}

/// A score record that came: asset, window end, and when.
type Seen = Arc<Mutex<Vec<(String, Timestamp, Instant)>>>;

#[derive(Deserialize)]
struct Score {
    asset: String,
    window_end: Timestamp,
}

/// Listens to the node's stream until it ends.
pub(super) fn listen(address: SocketAddr) -> anyhow::Result<Seen> {
    let stream = ask(address, "/api/v1/stream?type=score&brief=true");
    let stream = stream.context("the node's stream cannot be read")?;
    let seen = Seen::default();
    let into = Arc::clone(&seen);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let Some(data) = line.strip_prefix("data:") else { continue };
            let at = monotonic();
            if let Ok(Score { asset, window_end }) = serde_json::from_str(data) {
                let mut all = into.lock().unwrap_or_else(PoisonError::into_inner);
                all.push((asset, window_end, at));
            }
        }
    });
    Ok(seen)
}

/// How much later than a window's end the message is that completes the window: found by taking the messages of one
/// asset through the pipeline one by one, for it follows from lateness, grid and filling together.
pub(super) fn completing(
    pipeline: &LoadedPipeline,
    start: Timestamp,
    every: Span,
) -> anyhow::Result<Span> {
    let host = Host::default();
    let options = PlanOptions::of(pipeline.base(), &host);
    let mut engine = pipeline.engine("bench", options)?;
    let decoder = pipeline.decoder()?;
    let mut rows = Rows::new(decoder.route().to_owned());
    for (ts, payload) in messages(SIGNALS, start, every).take(PLENTY) {
        decoder.decode(&topic(0), payload.as_bytes(), ts, &mut rows)?;
        let step = engine.step(vec![rows.take()], ts);
        if let Some(Record::Score(score)) = step.records.first().map(|made| &made.record) {
            return Ok(ts.since(score.window_end));
        }
    }
    anyhow::bail!("the pump pipeline closes no window within {PLENTY} messages")
}

/// The latencies of what was seen of `load`, whose windows are complete `completing` after their end.
pub(super) fn of(seen: &Seen, load: &Load, completing: Span) -> Latency {
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let assets: BTreeMap<String, usize> =
        (0..load.asset_count()).map(|number| (asset_id(number), number)).collect();
    let mut all: Vec<Duration> = seen
        .iter()
        .filter_map(|(asset, end, at)| {
            let sent = load.sent_at(*assets.get(asset)?, end.plus(completing))?;
            Some(at.saturating_duration_since(sent))
        })
        .collect();
    all.sort_unstable();
    let ms = |percent| percentile(&all, percent).map(|d| d.as_secs_f64() * 1e3);
    Latency { records: all.len(), p50_ms: ms(50), p99_ms: ms(99), most_ms: ms(100) }
}
