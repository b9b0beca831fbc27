//! What a demo came to: every reading and every record accounted for, and which faults were found.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::demo::detect::{Detection, Detections};
use crate::demo::fault::FaultPlan;
use crate::demo::link::LinkState;
use crate::demo::publisher::Published;
use crate::demo::telemetry::Totals;
use crate::metrics::LaneCounts;
use crate::node::{CoreView, Report};
use crate::receive::Received;
use crate::stage::Reason;
use crate::time::Timestamp;

/// The one JSON object that `--json` prints.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Summary {
    /// Readings that the plant sent; a message that is no JSON counts as one.
    published: u64,
    /// Readings (and such messages) that came through every door.
    received: u64,
    used: u64,
    rejected: u64,
    rejected_by: BTreeMap<&'static str, u64>,
    duplicates: u64,
    late: u64,
    pending: u64,
    windows: u64,
    scores: u64,
    alarms_raised: u64,
    alarms_cleared: u64,
    /// Records put into the outbox.
    records: u64,
    /// Records that the far side acknowledged.
    delivered: u64,
    queued: u64,
    /// Records that the far side would not take.
    refused: u64,
    evicted: u64,
    /// Records that the node counts as delivered and the far side does not have.
    lost: u64,
    /// Records that the far side got more than once, and dropped.
    repeats: u64,
    /// How often the link went down.
    outages: u64,
    /// Messages that the plant had to send again because its connection broke.
    resent: u64,
    runtime: String,
    /// Alarms raised on pumps with which nothing was wrong.
    false_alarms: u64,
    faults: Vec<Detection>,
}

impl Summary {
    pub(super) fn new(
        runtime: &str,
        published: &Published,
        report: &Report,
        far: &Received,
        link: &LinkState,
        noticed: &Detections,
    ) -> Summary {
        let messages = report.core.messages;
        let books = report.core.pipelines.first().map(|p| p.1.clone()).unwrap_or_default();
        let at_the_door = messages.rejected + messages.readings_rejected;
        let mut rejected_by = books.rejected.clone();
        rejected_by.insert("unreadable", at_the_door);
        let lanes = |count: fn(&LaneCounts) -> u64| report.lanes.values().map(count).sum::<u64>();
        let delivered = lanes(|lane| lane.delivered);
        Summary {
            published: published.totals.readings + published.totals.malformed,
            received: books.received + at_the_door,
            used: books.used,
            rejected: rejected_by.values().sum(),
            rejected_by,
            duplicates: books.duplicates,
            late: books.late,
            pending: books.pending,
            windows: books.windows,
            scores: books.scores,
            alarms_raised: books.alarms_raised,
            alarms_cleared: books.alarms_cleared,
            records: lanes(|lane| lane.records),
            delivered,
            queued: lanes(|lane| lane.waiting),
            refused: lanes(|lane| lane.refused),
            evicted: lanes(|lane| lane.evicted),
            lost: delivered.saturating_sub(far.records) + far.lost,
            repeats: far.repeats,
            outages: link.outages,
            resent: published.resent,
            runtime: runtime.to_owned(),
            false_alarms: noticed.false_alarms(),
            faults: noticed.summary(published.totals.elapsed),
        }
    }

    /// Whether every reading and every record is accounted for.
    pub(super) fn closes(&self) -> bool {
        let out = self.used + self.rejected + self.duplicates + self.late + self.pending;
        // A message sent twice is received twice; nothing else may make the two differ.
        let door = self.received == self.published || self.resent > 0;
        let records = self.records == self.delivered + self.queued + self.refused + self.evicted;
        door && self.received == out && records && self.lost == 0
    }

    /// For people.
    pub(super) fn told(&self) -> String {
        let mut text = format!(
            "readings  {} published, {} received\n\
             \x20         = {} used + {} rejected + {} duplicates + {} late + {} waiting\n\
             windows   {} closed, {} scores, {} alarms raised, {} cleared ({})\n\
             records   {} made = {} delivered + {} queued + {} refused + {} evicted\n\
             \x20         {} lost over {} outages\n",
            self.published,
            self.received,
            self.used,
            self.rejected,
            self.duplicates,
            self.late,
            self.pending,
            self.windows,
            self.scores,
            self.alarms_raised,
            self.alarms_cleared,
            self.runtime,
            self.records,
            self.delivered,
            self.queued,
            self.refused,
            self.evicted,
            self.lost,
            self.outages,
        );
        for fault in &self.faults {
            let found = fault.detected_after_s.map_or_else(
                || "missed".into(),
                |after| format!("found after {after:.0} s of plant time"),
            );
            // Writing to a String cannot fail.
            let _ =
                writeln!(text, "fault     {:<9} {:<15} {found}", fault.asset, fault.kind.name());
        }
        text.push_str(if self.closes() { "the books close\n" } else { "THE BOOKS DO NOT CLOSE\n" });
        text
    }
}

/// Follows what the node notices of the plant's faults while it runs.
pub(super) struct Watcher(JoinHandle<Detections>);

impl Watcher {
    /// Watches until the node has ended.
    pub(super) fn start(
        core: watch::Receiver<CoreView>,
        totals: watch::Receiver<Totals>,
        faults: &FaultPlan,
        start: Timestamp,
    ) -> Watcher {
        let noticed = Detections::new(faults, start);
        Watcher(tokio::spawn(watch_cleaner(core, totals, noticed, start)))
    }

    /// What was noticed, but for alarms.
    pub(super) async fn finish(self) -> anyhow::Result<Detections> {
        Ok(self.0.await?)
    }
}

async fn watch_cleaner(
    mut core: watch::Receiver<CoreView>,
    totals: watch::Receiver<Totals>,
    mut noticed: Detections,
    start: Timestamp,
) -> Detections {
    while core.changed().await.is_ok() {
        let too_fast = {
            let core = core.borrow_and_update();
            core.pipelines.first().and_then(|p| p.1.rejected.get(Reason::TooFast.name()).copied())
        };
        let plant_time = totals.borrow().elapsed;
        noticed.taken_out(start.plus(plant_time), too_fast.unwrap_or(0));
    }
    noticed
}
