//! The numbers of the uplink, target by target.
//!
//! `node` sets them from what it sees of the uplinks; `metrics` shows them with the others.

use std::sync::atomic::Ordering::Relaxed;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::Labels;

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

/// All targets.
#[derive(Clone, Default)]
pub struct Targets {
    up: Family<Labels, Gauge>,
    outages: Family<Labels, Counter>,
    wire: Family<Labels, Counter>,
    saving: Family<Labels, Gauge>,
    waiting: Family<Labels, Gauge>,
    delivered: Family<Labels, Counter>,
    refused: Family<Labels, Counter>,
}

impl Targets {
    pub(super) fn register(&self, r: &mut Registry) {
        r.register("uplink_up", "Whether the far side takes records", self.up.clone());
        r.register("outages", "Times that the uplink went down", self.outages.clone());
        let wire = "Bytes that went over the uplink, both ways";
        r.register_with_unit("uplink_wire", wire, Unit::Bytes, self.wire.clone());
        let saving = "Whether a budget is used up, so that all but alarms may wait";
        r.register("uplink_saving", saving, self.saving.clone());
        r.register("target_waiting", "Records that wait for a far side", self.waiting.clone());
        r.register("target_delivered", "Records that a far side has", self.delivered.clone());
        let refused = "Records that a far side refused for good";
        r.register("target_refused", refused, self.refused.clone());
    }

    /// Sets a target's numbers.
    pub fn set(&self, name: &str, counts: &TargetCounts) {
        let labels: Labels = [("target", name.to_owned())];
        self.up.get_or_create(&labels).set(i64::from(counts.up));
        self.saving.get_or_create(&labels).set(i64::from(counts.is_saving));
        self.waiting.get_or_create(&labels).set(counts.waiting as i64);
        let counters = [
            (&self.outages, counts.outages),
            (&self.wire, counts.wire_bytes),
            (&self.delivered, counts.delivered),
            (&self.refused, counts.refused),
        ];
        for (counter, count) in counters {
            counter.get_or_create(&labels).inner().store(count, Relaxed);
        }
    }
}
