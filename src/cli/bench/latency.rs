//! How long it takes from the message that completes a window to its score record, as a dashboard sees it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::node::ask;
use crate::demo::load::{Load, percentile};
use crate::demo::plant::asset_id;
use crate::time::{Span, Timestamp, monotonic};

/// The shipped pump pipeline's lateness: a window is complete with the first message later than its end by more.
const LATENESS: Span = Span::seconds(2);

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

/// The latencies of what was seen of `load`.
pub(super) fn of(seen: &Seen, load: &Load) -> Latency {
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let complete = |end: &Timestamp| end.plus(LATENESS).plus(Span(1));
    let index = |asset: &str| (0..load.asset_count()).find(|n| asset_id(*n) == asset);
    let mut all: Vec<Duration> = seen
        .iter()
        .filter_map(|(asset, end, at)| {
            let sent = load.sent_at(index(asset)?, complete(end))?;
            Some(at.saturating_duration_since(sent))
        })
        .collect();
    all.sort_unstable();
    let ms = |share| percentile(&all, share).map(|d| d.as_secs_f64() * 1e3);
    Latency { records: all.len(), p50_ms: ms(0.5), p99_ms: ms(0.99), most_ms: ms(1.0) }
}
