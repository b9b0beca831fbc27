//! What a demo came to: every reading and every record accounted for, and which faults were found.

use std::collections::BTreeMap;

use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::demo::fault::{Fault, FaultKind, FaultPlan};
use crate::demo::link::LinkState;
use crate::demo::plant::asset_id;
use crate::demo::publisher::{Pace, Published};
use crate::demo::receiver::Received;
use crate::metrics::{LaneCounts, PipelineCounts};
use crate::node::{CoreView, Report};
use crate::record::{AlarmRecord, AlarmState};
use crate::time::{Span, Timestamp, now};

/// So many more readings rejected for its reason show that the cleaner has noticed a faulty sensor.
const NOTICED: u64 = 5;
/// An alarm counts for a fault until this long after it: the last windows that hold it, and the alarm's delay.
const AFTER: Span = Span::seconds(90);

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
    faults: Vec<FaultFound>,
}

/// A planned fault, and when it was found.
#[derive(Clone, Debug, Serialize)]
pub(super) struct FaultFound {
    asset: String,
    kind: &'static str,
    start: Timestamp,
    /// Plant seconds from its start to the first alarm, or (for a faulty sensor) to the cleaner's notice; null if it was
    /// missed.
    detected_after_s: Option<f64>,
}

impl Summary {
    pub(super) fn new(
        runtime: &str,
        published: &Published,
        report: &Report,
        far: &Received,
        link: &LinkState,
        faults: Vec<FaultFound>,
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
            evicted: lanes(|lane| lane.evicted),
            lost: delivered.saturating_sub(far.records) + far.lost,
            repeats: far.repeats,
            outages: link.outages,
            resent: published.resent,
            runtime: runtime.to_owned(),
            faults,
        }
    }

    /// Whether every reading and every record is accounted for.
    pub(super) fn closes(&self) -> bool {
        let out = self.used + self.rejected + self.duplicates + self.late + self.pending;
        // A message sent twice is received twice; nothing else may make the two differ.
        let door = self.received == self.published || self.resent > 0;
        let records = self.records == self.delivered + self.queued + self.evicted;
        door && self.received == out && records && self.lost == 0
    }

    /// For people.
    pub(super) fn told(&self) -> String {
        let mut text = format!(
            "readings  {} published, {} received = {} used + {} rejected + {} duplicates + {} late + {} waiting\n\
             windows   {} closed, {} scores, {} alarms raised, {} cleared ({})\n\
             records   {} made = {} delivered + {} queued + {} evicted; {} lost, over {} outages\n",
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
            self.evicted,
            self.lost,
            self.outages,
        );
        for fault in &self.faults {
            let found = fault
                .detected_after_s
                .map_or_else(|| "missed".into(), |after| format!("found after {after:.0} s"));
            text.push_str(&format!("fault     {:<9} {:<15} {found}\n", fault.asset, fault.kind));
        }
        text.push_str(if self.closes() { "the books close\n" } else { "THE BOOKS DO NOT CLOSE\n" });
        text
    }
}

/// Notes when the cleaner notices a faulty sensor, from the node's books over time.
pub(super) struct Watcher {
    task: JoinHandle<Vec<(usize, Span)>>,
    faults: FaultPlan,
    pace: Pace,
}

impl Watcher {
    /// Watches until the node has ended.
    pub(super) fn start(core: watch::Receiver<CoreView>, faults: FaultPlan, pace: Pace) -> Watcher {
        let task = tokio::spawn(watch_sensors(core, faults.clone(), pace));
        Watcher { task, faults, pace }
    }

    /// Every fault that had begun by now, with the time it took to find it.
    pub(super) async fn finish(self, alarms: &[AlarmRecord]) -> Vec<FaultFound> {
        let noticed = self.task.await.unwrap_or_default();
        let until = now();
        let found = |(index, fault): (usize, &Fault)| {
            let start = self.pace.start.plus(fault.start);
            let by_cleaner = noticed.iter().find(|n| n.0 == index).map(|n| n.1.as_seconds());
            let after = by_cleaner.or_else(|| first_alarm(fault, self.pace, alarms));
            FaultFound {
                asset: asset_id(fault.pump),
                kind: fault.kind.name(),
                start,
                detected_after_s: after,
            }
        };
        let begun = |fault: &(usize, &Fault)| self.pace.start.plus(fault.1.start) < until;
        self.faults.faults.iter().enumerate().filter(begun).map(found).collect()
    }
}

/// Plant seconds from a fault's start to the first alarm of its asset.
fn first_alarm(fault: &Fault, pace: Pace, alarms: &[AlarmRecord]) -> Option<f64> {
    let (start, end) = (pace.start.plus(fault.start), pace.start.plus(fault.end).plus(AFTER));
    let asset = asset_id(fault.pump);
    let of_it = |a: &&AlarmRecord| {
        a.asset == asset && a.state == AlarmState::Unacknowledged && a.at > start && a.at <= end
    };
    alarms.iter().filter(of_it).map(|a| a.at.since(start).as_seconds()).min_by(f64::total_cmp)
}

/// The reason for which `clean` rejects the readings of a faulty sensor.
fn reason(kind: FaultKind) -> Option<&'static str> {
    match kind {
        FaultKind::StuckSensor => Some("stuck"),
        FaultKind::SpikeTrain => Some("spike"),
        _ => None,
    }
}

async fn watch_sensors(
    mut core: watch::Receiver<CoreView>,
    faults: FaultPlan,
    pace: Pace,
) -> Vec<(usize, Span)> {
    let began = now();
    let mut before: BTreeMap<usize, u64> = BTreeMap::new();
    let mut noticed: Vec<(usize, Span)> = Vec::new();
    while core.changed().await.is_ok() {
        let books: PipelineCounts =
            core.borrow_and_update().pipelines.first().map(|p| p.1.clone()).unwrap_or_default();
        let plant_time = Span((now().since(began).0 as f64 * pace.speed) as i64);
        for (index, fault) in faults.faults.iter().enumerate() {
            let Some(reason) = reason(fault.kind).filter(|_| fault.active(plant_time)) else {
                continue;
            };
            let count = books.rejected.get(reason).copied().unwrap_or(0);
            let start = *before.entry(index).or_insert(count);
            if count >= start + NOTICED && !noticed.iter().any(|n| n.0 == index) {
                noticed.push((index, Span(plant_time.0 - fault.start.0)));
            }
        }
    }
    noticed
}
