//! What Prometheus is told: every number of the node, under one name each.
//!
//! `node` makes one [`Metrics`], hands it to the engine thread and the tasks, and `feed/http` prints it at `/metrics`.
//! Updating is a few atomic stores. The engine's and the store's books are cumulative already, so they are set as
//! they are, by one table each ([`Metrics::set_pipeline`], [`Metrics::set_lane`], [`Metrics::set_target`]); only what happens at the edges is counted here.
//! Nothing is computed here, and no label comes from outside but names out of the node's own config.

mod books;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use serde::Serialize;

use crate::record::{Lane, Severity};
use crate::usage::Usage;

use books::{Books, Kind, Number};

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A pipeline's books as plain numbers, all since the node's first start (`pending` is now).
/// The law: `received = used + rejected + duplicates + late + pending`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PipelineCounts {
    /// Readings that came in.
    pub received: u64,
    /// Readings that passed `clean`.
    pub used: u64,
    /// Readings taken out, by reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Readings kept but marked, by reason.
    pub marked: BTreeMap<&'static str, u64>,
    /// Readings that came again.
    pub duplicates: u64,
    /// Readings that came after their time was complete.
    pub late: u64,
    /// Readings that wait for their watermark.
    pub pending: u64,
    /// Windows closed.
    pub windows: u64,
    /// Windows with too few known points.
    pub windows_sparse: u64,
    /// Scores given.
    pub scores: u64,
    /// Scores not given.
    pub unscored: u64,
    /// Alarms raised.
    pub alarms_raised: u64,
    /// Alarms cleared.
    pub alarms_cleared: u64,
    /// Frames that a stage failed on.
    pub failures: u64,
    /// Assets that have drifted now, by kind.
    pub drifting: BTreeMap<&'static str, u64>,
}

/// A lane's books as plain numbers, since the process started. The law:
/// `records = delivered + waiting + refused + evicted`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LaneCounts {
    /// Records made.
    pub records: u64,
    /// Records in the outbox now.
    pub waiting: u64,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// Records that the far side has.
    pub delivered: u64,
    /// Records that the far side refused for good; they are set aside.
    pub refused: u64,
    /// Records that a limit dropped.
    pub evicted: u64,
}

/// One target's numbers since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetCounts {
    /// Whether it takes records.
    pub up: bool,
    /// How often the link went down.
    pub outages: u64,
    /// Bytes that went over the link.
    pub wire_bytes: u64,
    /// Whether a budget is used up, so that something waits for the next.
    pub is_saving: bool,
    /// Records that wait for it.
    pub waiting: u64,
    /// Records that it has.
    pub delivered: u64,
    /// Records that it refused for good.
    pub refused: u64,
}

#[rustfmt::skip] // one number a line
const OF_A_PIPELINE: &[Number<PipelineCounts>] = &[
    (Kind::Counter, "readings_received", "Readings that came in", |c| c.received),
    (Kind::Counter, "readings_used", "Readings that passed the checks", |c| c.used),
    (Kind::Counter, "readings_duplicates", "Readings that came again", |c| c.duplicates),
    (Kind::Counter, "readings_late", "Readings that came after their time was complete", |c| c.late),
    (Kind::Gauge, "readings_pending", "Readings that wait for their watermark", |c| c.pending),
    (Kind::Counter, "windows", "Windows closed", |c| c.windows),
    (Kind::Counter, "windows_sparse", "Windows with too few points", |c| c.windows_sparse),
    (Kind::Counter, "scores", "Scores given", |c| c.scores),
    (Kind::Counter, "unscored", "Scores that could not be given", |c| c.unscored),
    (Kind::Counter, "alarms_raised", "Alarms raised", |c| c.alarms_raised),
    (Kind::Counter, "alarms_cleared", "Alarms cleared", |c| c.alarms_cleared),
    (Kind::Counter, "failures", "Frames that a stage failed on", |c| c.failures),
];

#[rustfmt::skip]
const OF_A_LANE: &[Number<LaneCounts>] = &[
    (Kind::Counter, "records", "Records made", |c| c.records),
    (Kind::Counter, "delivered_records", "Records that the far side has", |c| c.delivered),
    (Kind::Counter, "refused_records", "Records that the far side will not take", |c| c.refused),
    (Kind::Counter, "evicted", "Records that a limit dropped", |c| c.evicted),
    (Kind::Gauge, "outbox_records", "Records that wait for the uplink", |c| c.waiting),
    (Kind::GaugeOfBytes, "outbox", "Bytes that wait for the uplink", |c| c.waiting_bytes),
];

#[rustfmt::skip]
const OF_A_TARGET: &[Number<TargetCounts>] = &[
    (Kind::Gauge, "uplink_up", "Whether the far side takes records", |c| u64::from(c.up)),
    (Kind::Counter, "outages", "Times that the uplink went down", |c| c.outages),
    (Kind::CounterOfBytes, "uplink_wire", "Bytes that went over the uplink, both ways", |c| c.wire_bytes),
    (Kind::Gauge, "uplink_saving", "Whether a budget is used up, so that all but alarms may wait", |c| u64::from(c.is_saving)),
    (Kind::Gauge, "target_waiting", "Records that wait for a far side", |c| c.waiting),
    (Kind::Counter, "target_delivered", "Records that a far side has", |c| c.delivered),
    (Kind::Counter, "target_refused", "Records that a far side refused for good", |c| c.refused),
];

type Labels = [(&'static str, String); 1];
/// A pipeline, and a reason or a kind of drift.
type Parts = [(&'static str, String); 2];

/// All numbers of the node.
pub struct Metrics {
    registry: Registry,
    process: Registry,
    resident: Gauge,
    messages_received: Counter,
    messages_rejected: Family<Labels, Counter>,
    messages_dropped: Counter,
    sessions_dropped: Counter,
    pipelines: Books<PipelineCounts>,
    rejected: Family<Parts, Counter>,
    marked: Family<Parts, Counter>,
    drifting: Family<Parts, Gauge>,
    lanes: Books<LaneCounts>,
    targets: Books<TargetCounts>,
    alarms_active: Family<Labels, Gauge>,
    /// Seconds that one commit took: journal, records, flush.
    pub commit_seconds: Histogram,
    /// Seconds that the engine took for one tick.
    pub step_seconds: Histogram,
    /// Seconds from a tick's closing until its records are with the feeds, of ticks that made some.
    pub publish_seconds: Histogram,
    /// Readings of one tick.
    pub tick_readings: Histogram,
    ingest_up: Gauge,
    models_refused: Gauge,
    store_written: Family<Labels, Counter>,
    journal_bytes: Gauge,
    feed_skipped: Counter,
    mqtt_feed_skipped: Counter,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// All numbers at zero; `version` and `runtime` (`onnxruntime 1.24.1`, `tract`) are shown as `forebay_build_info`.
    pub fn new(version: &str, runtime: &str) -> Metrics {
        let seconds = || Histogram::new(exponential_buckets(0.000_25, 2.0, 15));
        let mut metrics = Metrics {
            registry: Registry::with_prefix("forebay"),
            process: Registry::default(),
            resident: Gauge::default(),
            messages_received: Counter::default(),
            messages_rejected: Family::default(),
            messages_dropped: Counter::default(),
            sessions_dropped: Counter::default(),
            pipelines: Books::of("pipeline", OF_A_PIPELINE),
            rejected: Family::default(),
            marked: Family::default(),
            drifting: Family::default(),
            lanes: Books::of("lane", OF_A_LANE),
            targets: Books::of("target", OF_A_TARGET),
            alarms_active: Family::default(),
            commit_seconds: seconds(),
            step_seconds: seconds(),
            publish_seconds: seconds(),
            tick_readings: Histogram::new(exponential_buckets(1.0, 4.0, 10)),
            ingest_up: Gauge::default(),
            models_refused: Gauge::default(),
            store_written: Family::default(),
            journal_bytes: Gauge::default(),
            feed_skipped: Counter::default(),
            mqtt_feed_skipped: Counter::default(),
        };
        let build = Info::new(vec![
            ("version".to_owned(), version.to_owned()),
            ("runtime".to_owned(), runtime.to_owned()),
        ]);
        metrics.registry.register("build", "Version and model runtime of this node", build);
        metrics.register_node();
        metrics.register_pipelines();
        metrics.lanes.register(&mut metrics.registry);
        metrics
    }

    fn register_node(&mut self) {
        let r = &mut self.registry;
        r.register(
            "messages_received",
            "MQTT messages that came in",
            self.messages_received.clone(),
        );
        r.register(
            "messages_rejected",
            "Messages that no reading could be made of",
            self.messages_rejected.clone(),
        );
        r.register(
            "messages_dropped",
            "QoS 0 messages dropped because the engine was behind",
            self.messages_dropped.clone(),
        );
        r.register(
            "sessions_dropped",
            "Sessions at the broker given up because of a message too large to be read",
            self.sessions_dropped.clone(),
        );
        r.register("alarms_active", "Alarms that are on now", self.alarms_active.clone());
        let seconds = || Unit::Seconds;
        r.register_with_unit(
            "commit",
            "Time to make one tick durable",
            seconds(),
            self.commit_seconds.clone(),
        );
        r.register_with_unit(
            "step",
            "Time the engine takes for one tick",
            seconds(),
            self.step_seconds.clone(),
        );
        r.register_with_unit(
            "publish",
            "Time from a tick's closing until its records are with the feeds",
            seconds(),
            self.publish_seconds.clone(),
        );
        r.register("tick_readings", "Readings in one tick", self.tick_readings.clone());
        self.register_edges();
    }

    fn register_edges(&mut self) {
        let r = &mut self.registry;
        r.register(
            "ingest_up",
            "Whether the session with the site's broker is up",
            self.ingest_up.clone(),
        );
        r.register(
            "model_files_refused",
            "Files of pipelines' models that cannot be used",
            self.models_refused.clone(),
        );
        self.targets.register(r);
        r.register_with_unit(
            "store_written",
            "Bytes written to the store's disk, by what they were for: what wears flash out",
            Unit::Bytes,
            self.store_written.clone(),
        );
        r.register_with_unit(
            "journal",
            "Bytes in the journal now",
            Unit::Bytes,
            self.journal_bytes.clone(),
        );
        r.register(
            "feed_skipped",
            "Records that dashboards could not be shown in time",
            self.feed_skipped.clone(),
        );
        r.register(
            "mqtt_feed_skipped",
            "Records that were not published on the site's broker, because it was away or slow",
            self.mqtt_feed_skipped.clone(),
        );
        self.process.register(
            "process_resident_memory_bytes",
            "Memory that the process holds now",
            self.resident.clone(),
        );
    }

    fn register_pipelines(&mut self) {
        let r = &mut self.registry;
        self.pipelines.register(r);
        r.register("readings_rejected", "Readings taken out", self.rejected.clone());
        r.register("readings_marked", "Readings kept but marked or clamped", self.marked.clone());
        r.register(
            "drifting_assets",
            "Assets on which what a model sees is not what it was trained on",
            self.drifting.clone(),
        );
    }

    /// Counts `n` messages that came in.
    pub fn message_received(&self, n: u64) {
        self.messages_received.inc_by(n);
    }

    /// Counts `n` messages refused for `reason` (a fixed word of ours, never text from the message).
    pub fn message_rejected(&self, reason: &'static str, n: u64) {
        self.messages_rejected.get_or_create(&[("reason", reason.to_owned())]).inc_by(n);
    }

    /// Sets a pipeline's books.
    pub fn set_pipeline(&self, pipeline: &str, counts: &PipelineCounts) {
        self.pipelines.set(pipeline, counts);
        for (&kind, &assets) in &counts.drifting {
            let key = [("pipeline", pipeline.to_owned()), ("kind", kind.to_owned())];
            self.drifting.get_or_create(&key).set(assets as i64);
        }
        for (family, by_reason) in
            [(&self.rejected, &counts.rejected), (&self.marked, &counts.marked)]
        {
            for (&reason, &n) in by_reason {
                let key = [("pipeline", pipeline.to_owned()), ("reason", reason.to_owned())];
                family.get_or_create(&key).inner().store(n, Relaxed);
            }
        }
    }

    /// Sets a lane's books.
    pub fn set_lane(&self, lane: Lane, counts: &LaneCounts) {
        self.lanes.set(lane.name(), counts);
    }

    /// Sets a target's numbers.
    pub fn set_target(&self, name: &str, counts: &TargetCounts) {
        self.targets.set(name, counts);
    }

    /// Sets how many alarms of each severity are on.
    pub fn set_alarms_active(&self, active: &[(Severity, usize)]) {
        for &(severity, n) in active {
            let key = [("severity", format!("{severity:?}").to_lowercase())];
            self.alarms_active.get_or_create(&key).set(n as i64);
        }
    }

    /// Sets what was lost at the door: QoS 0 messages, and sessions with all that the broker held in them.
    pub fn set_dropped(&self, messages: u64, sessions: u64) {
        self.messages_dropped.inner().store(messages, Relaxed);
        self.sessions_dropped.inner().store(sessions, Relaxed);
    }

    /// Sets how many records were not published on the site's broker.
    pub fn set_mqtt_feed_skipped(&self, n: u64) {
        self.mqtt_feed_skipped.inner().store(n, Relaxed);
    }

    /// Sets how many files of pipelines' models cannot be used.
    pub fn set_models_refused(&self, files: usize) {
        self.models_refused.set(files as i64);
    }

    /// Sets whether the session with the site's broker is up.
    pub fn set_ingest_up(&self, up: bool) {
        self.ingest_up.set(i64::from(up));
    }

    /// Sets the bytes written to the store since start, by purpose, and the journal's bytes now.
    pub fn set_store(&self, written: &[(&'static str, u64)], journal_bytes: u64) {
        for (purpose, bytes) in written {
            let key = [("purpose", (*purpose).to_owned())];
            self.store_written.get_or_create(&key).inner().store(*bytes, Relaxed);
        }
        self.journal_bytes.set(journal_bytes as i64);
    }

    /// Sets how many records dashboards were not shown.
    pub fn set_feed_skipped(&self, n: u64) {
        self.feed_skipped.inner().store(n, Relaxed);
    }

    /// Everything as OpenMetrics text; reads the process's memory on the way.
    pub fn encode(&self) -> String {
        if let Ok(usage) = Usage::of(None) {
            self.resident.set(usage.resident as i64);
        }
        let mut text = String::with_capacity(8 * 1024);
        let written = encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &self.process))
            .and_then(|()| encode_eof(&mut text));
        written.expect("invariant: writing to a string does not fail");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_are_set_not_added() {
        let metrics = Metrics::new("0.1.0", "tract");
        let mut counts = PipelineCounts { received: 10, pending: 4, ..Default::default() };
        counts.rejected.insert("spike", 2);
        metrics.set_pipeline("pumps", &counts);
        counts.received = 12;
        metrics.set_pipeline("pumps", &counts);
        metrics.set_lane(Lane::Score, &LaneCounts { waiting_bytes: 7, ..Default::default() });
        metrics.message_rejected("not_json", 3);
        metrics.commit_seconds.observe(0.004);
        let text = metrics.encode();
        for line in [
            "forebay_build_info{version=\"0.1.0\",runtime=\"tract\"} 1",
            "forebay_readings_received_total{pipeline=\"pumps\"} 12",
            "forebay_readings_pending{pipeline=\"pumps\"} 4",
            "forebay_readings_rejected_total{pipeline=\"pumps\",reason=\"spike\"} 2",
            "forebay_outbox_bytes{lane=\"score\"} 7",
            "forebay_messages_rejected_total{reason=\"not_json\"} 3",
            "forebay_commit_seconds_count 1",
        ] {
            assert!(text.lines().any(|l| l == line), "no `{line}` in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
