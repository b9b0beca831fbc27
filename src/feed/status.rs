//! The node as dashboards see it: links, lanes, pipelines, and whether the engine still goes round.
//!
//! `node` puts a [`NodeStatus`] into a watch channel about once a second; `http` follows it with a [`Pulse`], which
//! adds what only shows over time: readings a second, and a beat that has stopped.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::watch;

use crate::feed::Hub;
use crate::metrics::{LaneCounts, PipelineCounts, TargetCounts};
use crate::record::Lane;
use crate::time::{self, Timestamp};

/// Readings a second are taken over this long.
const RATE_OVER: Duration = Duration::from_secs(5);
/// An engine that has not gone round for this long is stuck.
const BEAT_WITHIN: Duration = Duration::from_secs(30);

/// The node's state, as `node` knows it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NodeStatus {
    /// The node's name.
    pub node: String,
    /// The program's version.
    pub version: String,
    /// When it started.
    pub started: Timestamp,
    /// What runs the models (`onnxruntime 1.24.1`, `tract`).
    pub runtime: String,
    /// The session with the site's broker.
    pub ingest: LinkView,
    /// The far side; of several the one that is in trouble. Absent where none is configured.
    pub uplink: Option<LinkView>,
    /// The far sides by name.
    pub targets: BTreeMap<String, TargetView>,
    /// The store.
    pub store: StoreView,
    /// The lanes' books.
    pub lanes: BTreeMap<Lane, LaneCounts>,
    /// How often the uplink went down.
    pub outages: u64,
    /// What is computed.
    pub pipelines: Vec<PipelineView>,
    /// The scores and their models.
    #[serde(skip)]
    pub models: Vec<serde_json::Value>,
    /// Files of pipelines' models that cannot be used, and why; what they score with is another model, or none.
    pub models_refused: Vec<String>,
    /// Whether operators may acknowledge and shelve alarms over HTTP.
    pub commands: bool,
    /// Goes up whenever the engine thread comes round, with readings or without, at least once in 10 s.
    #[serde(skip)]
    pub beats: u64,
}

/// A connection.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LinkView {
    /// Where to, without credentials.
    pub target: String,
    /// Whether it is up.
    pub up: bool,
    /// Since when it is so.
    pub since: Timestamp,
    /// Why it is down, or what it waits for.
    pub detail: String,
}

/// A far side.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TargetView {
    /// The link to it.
    #[serde(flatten)]
    pub link: LinkView,
    /// Its books by lane.
    pub lanes: BTreeMap<Lane, LaneCounts>,
    /// Bytes that went over the link since the start.
    pub wire_bytes: u64,
    /// How often the link went down.
    pub outages: u64,
    /// When the next budget begins; absent unless this one is used up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saving_until: Option<Timestamp>,
}

impl TargetView {
    /// Its numbers.
    pub fn counts(&self) -> TargetCounts {
        let sum = |of: fn(&LaneCounts) -> u64| self.lanes.values().map(of).sum();
        TargetCounts {
            up: self.link.up,
            outages: self.outages,
            wire_bytes: self.wire_bytes,
            is_saving: self.saving_until.is_some(),
            waiting: sum(|lane| lane.waiting),
            delivered: sum(|lane| lane.delivered),
            refused: sum(|lane| lane.refused),
        }
    }
}

/// The store's health.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoreView {
    /// Whether ticks can be committed.
    pub ok: bool,
    /// Why not.
    pub detail: String,
}

impl Default for StoreView {
    fn default() -> StoreView {
        StoreView { ok: true, detail: String::new() }
    }
}

/// A pipeline.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PipelineView {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// Its asset schema.
    pub schema: String,
    /// Its MQTT topics, as typed.
    pub topics: Vec<String>,
    /// Its stages, in order, each in a few words.
    pub stages: Vec<String>,
    /// Its books.
    pub account: PipelineCounts,
}

/// The node's state with what follows from it.
#[derive(Clone, Debug, Serialize)]
pub struct StatusView {
    /// As `node` gave it.
    #[serde(flatten)]
    pub status: NodeStatus,
    /// The node's clock.
    pub now: Timestamp,
    /// Readings that came in, a second, over the last five.
    pub readings_per_second: f64,
    /// Records that wait for the uplink.
    pub queued: u64,
    /// Records that the far side has.
    pub delivered: u64,
    /// Records that a limit dropped.
    pub evicted: u64,
    /// Assets known to dashboards.
    pub assets: usize,
    /// Alarms that want somebody's eye: raised or returned, not shelved.
    pub alarms_active: usize,
    /// Records that dashboards were not shown.
    pub feed_skipped: u64,
}

/// What follows from watching the status over time.
#[derive(Clone, Debug)]
pub struct Pulse(watch::Sender<Beat>);

#[derive(Clone, Debug)]
struct Beat {
    beats: u64,
    at: Instant,
    samples: VecDeque<(Instant, u64)>,
}

impl Default for Pulse {
    fn default() -> Pulse {
        Pulse::new()
    }
}

impl Pulse {
    /// Starts now.
    pub fn new() -> Pulse {
        let beat = Beat { beats: 0, at: time::monotonic(), samples: VecDeque::new() };
        Pulse(watch::Sender::new(beat))
    }

    /// Follows the status until its sender is gone.
    pub async fn follow(&self, mut status: watch::Receiver<NodeStatus>) {
        loop {
            let (beats, received) = {
                let status = status.borrow_and_update();
                (status.beats, status.pipelines.iter().map(|p| p.account.received).sum())
            };
            self.0.send_modify(|beat| beat.take(beats, received, time::monotonic()));
            if status.changed().await.is_err() {
                return;
            }
        }
    }

    /// How long the engine has not come round, where that is too long.
    pub fn stuck_for(&self) -> Option<Duration> {
        let still = time::monotonic().saturating_duration_since(self.0.borrow().at);
        (still > BEAT_WITHIN).then_some(still)
    }

    /// The whole view.
    pub fn view(&self, status: &watch::Receiver<NodeStatus>, hub: &Hub) -> StatusView {
        let status = status.borrow().clone();
        let sum = |of: fn(&LaneCounts) -> u64| status.lanes.values().map(of).sum();
        let (assets, alarms_active) = {
            let live = hub.live();
            (live.asset_count(), live.active_count())
        };
        StatusView {
            now: time::now(),
            readings_per_second: self.0.borrow().rate(),
            queued: sum(|l| l.waiting),
            delivered: sum(|l| l.delivered),
            evicted: sum(|l| l.evicted),
            assets,
            alarms_active,
            feed_skipped: hub.skipped(),
            status,
        }
    }
}

impl Beat {
    fn take(&mut self, beats: u64, received: u64, now: Instant) {
        if beats != self.beats {
            (self.beats, self.at) = (beats, now);
        }
        self.samples.push_back((now, received));
        let old = |at: Instant| now.saturating_duration_since(at) > RATE_OVER;
        // The newest sample older than the span stays: the rate is taken over the whole of it.
        while self.samples.get(1).is_some_and(|(at, _)| old(*at)) {
            self.samples.pop_front();
        }
    }

    fn rate(&self) -> f64 {
        let (Some(first), Some(last)) = (self.samples.front(), self.samples.back()) else {
            return 0.0;
        };
        let seconds = last.0.saturating_duration_since(first.0).as_secs_f64();
        if seconds <= 0.0 { 0.0 } else { last.1.saturating_sub(first.1) as f64 / seconds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_is_taken_over_the_last_seconds_only() {
        let start = time::monotonic();
        let mut beat = Beat { beats: 0, at: start, samples: VecDeque::new() };
        for second in 0..60_u64 {
            // 1,000 a second for the first half, nothing after it.
            beat.take(second, 1000 * second.min(30), start + Duration::from_secs(second));
            if second == 30 {
                assert!((beat.rate() - 1000.0).abs() < 1.0);
            }
        }
        assert_eq!(beat.rate(), 0.0);
        assert_eq!(beat.at, start + Duration::from_secs(59));
        assert!(beat.samples.len() <= 8);
    }
}
