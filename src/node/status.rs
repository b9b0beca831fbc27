//! What the node knows of itself, gathered for dashboards, metrics and the demo's live view.
//!
//! The engine thread tells its part ([`CoreView`]); a task joins it with the links' and the store's twice a second.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::core::Messages;
use super::uplinks::Seen;
use crate::engine::Engine;
use crate::feed::mqtt::FeedCounts;
use crate::feed::{Hub, LinkView, NodeStatus, PipelineView, StoreView, TargetView};
use crate::ingest::IngestCounts;
use crate::link::LinkStatus;
use crate::metrics::{LaneCounts, Metrics, PipelineCounts};
use crate::pipeline::load::LoadedPipeline;
use crate::pipeline::spec::StageSpec;
use crate::record::Lane;
use crate::stage::{Account, Reason, score};
use crate::store::{LaneStats, Meter, StoreStats};
use crate::time::{Timestamp, now};

/// What the engine thread knows.
#[derive(Clone, Debug, Default)]
pub struct CoreView {
    /// Goes up whenever the thread comes round.
    pub beats: u64,
    /// Messages at the door.
    pub messages: Messages,
    /// Every pipeline's books.
    pub pipelines: Vec<(String, PipelineCounts)>,
    /// Whether the disk is full, so that nothing is taken.
    pub is_disk_full: bool,
    /// Every score and its models, with its pipeline's name.
    pub models: Vec<(String, score::View)>,
    /// Digests of the models that may still be needed.
    pub needed: Vec<String>,
}

impl CoreView {
    /// The models of a score.
    pub(super) fn of_score(&self, pipeline: &str, output: &str) -> score::View {
        let mut views = self.models.iter().filter(|m| m.0 == pipeline && m.1.output == output);
        views.next().map(|(_, view)| view.clone()).unwrap_or_default()
    }
}

/// The engine thread's view of now.
pub(super) fn view(engine: &Engine, messages: Messages, beats: u64) -> CoreView {
    let pipelines = engine.pipelines().iter().map(|p| {
        let counts = PipelineCounts { drifting: p.drifting(), ..counts(p.account()) };
        (p.name.clone(), counts)
    });
    let models = engine.scores().map(|(pipeline, score)| (pipeline.to_owned(), score.view()));
    CoreView {
        beats,
        messages,
        pipelines: pipelines.collect(),
        is_disk_full: false,
        models: models.collect(),
        needed: engine.scores().flat_map(|(_, score)| score.needed()).collect(),
    }
}

fn store(is_full: bool, is_behind: bool) -> StoreView {
    let detail = if is_full {
        "the disk is full: nothing is acknowledged until there is space"
    } else if is_behind {
        "the disk is full: what the far side has is not written down until there is space"
    } else {
        return StoreView::default();
    };
    StoreView { ok: false, detail: detail.to_owned() }
}

/// A pipeline's books as plain numbers.
pub fn counts(account: &Account) -> PipelineCounts {
    let by_reason = |counts: &[u64]| -> BTreeMap<&'static str, u64> {
        Reason::ALL.iter().zip(counts).filter(|c| *c.1 > 0).map(|(r, n)| (r.name(), *n)).collect()
    };
    PipelineCounts {
        received: account.received,
        used: account.used,
        rejected: by_reason(&account.rejected),
        marked: by_reason(&account.marked),
        duplicates: account.duplicates,
        late: account.late,
        pending: account.pending,
        windows: account.windows,
        windows_sparse: account.sparse,
        scores: account.scores,
        unscored: account.unscored,
        alarms_raised: account.alarms_raised,
        alarms_cleared: account.alarms_cleared,
        failures: account.failures,
        drifting: BTreeMap::new(),
    }
}

/// Where the parts of the status come from.
pub(super) struct Sources {
    pub(super) node: String,
    pub(super) runtime: String,
    pub(super) started: Timestamp,
    pub(super) pipelines: Vec<PipelineView>,
    pub(super) commands: bool,
    pub(super) core: watch::Receiver<CoreView>,
    /// By score: why the model's file of its pipeline is refused.
    pub(super) refused: watch::Receiver<BTreeMap<String, String>>,
    pub(super) ingest: (String, watch::Receiver<LinkStatus>),
    pub(super) door: Arc<IngestCounts>,
    pub(super) mqtt_feed: Arc<FeedCounts>,
    pub(super) uplinks: Vec<Seen>,
    pub(super) store: Meter,
    pub(super) hub: Hub,
    pub(super) metrics: Arc<Metrics>,
}

impl Sources {
    /// Joins the parts until `stop`, and once more then.
    pub(super) async fn run(self, status: watch::Sender<NodeStatus>, stop: CancellationToken) {
        loop {
            status.send_replace(self.join());
            let wait = Duration::from_millis(500);
            if tokio::time::timeout(wait, stop.cancelled()).await.is_ok() {
                break;
            }
        }
        status.send_replace(self.join());
    }

    fn join(&self) -> NodeStatus {
        let core = self.core.borrow().clone();
        let stats = self.store.read();
        let lanes = lanes(&stats);
        let targets: BTreeMap<String, TargetView> =
            self.uplinks.iter().map(|seen| (seen.name.clone(), target(seen, &stats))).collect();
        let outages = targets.values().map(|target| target.outages).sum();
        // Where there are several: the one that is in trouble.
        let worst = targets.values().find(|target| !target.link.up);
        let uplink = worst.or(targets.values().next()).map(|target| target.link.clone());
        let ingest = link(&self.ingest.0, &self.ingest.1.borrow());
        self.measure(&stats, &lanes, &ingest, &targets);
        let refused = self.refused.borrow().clone();
        self.metrics.set_models_refused(refused.len());
        let mut pipelines = self.pipelines.clone();
        for view in &mut pipelines {
            if let Some((_, counts)) = core.pipelines.iter().find(|p| p.0 == view.name) {
                view.account = counts.clone();
            }
        }
        NodeStatus {
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            started: self.started,
            runtime: self.runtime.clone(),
            ingest,
            uplink,
            targets,
            store: store(
                core.is_disk_full,
                self.uplinks.iter().any(|seen| seen.counts.is_behind()),
            ),
            lanes,
            outages,
            pipelines,
            models: core.models.iter().map(model).collect(),
            models_refused: refused.iter().map(|(of, why)| format!("{of}: {why}")).collect(),
            commands: self.commands,
            beats: core.beats,
        }
    }

    fn measure(
        &self,
        stats: &StoreStats,
        lanes: &BTreeMap<Lane, LaneCounts>,
        ingest: &LinkView,
        targets: &BTreeMap<String, TargetView>,
    ) {
        for (lane, counts) in lanes {
            self.metrics.set_lane(*lane, counts);
        }
        self.metrics.set_ingest_up(ingest.up);
        for (name, target) in targets {
            self.metrics.set_target(name, &target.counts());
        }
        let door = &self.door;
        self.metrics.set_dropped(door.dropped.load(Relaxed), door.sessions_dropped.load(Relaxed));
        self.metrics.set_mqtt_feed_skipped(self.mqtt_feed.skipped.load(Relaxed));
        self.metrics.set_alarms_active(&self.hub.live().active_by_severity());
        self.metrics.set_feed_skipped(self.hub.skipped());
        self.metrics.set_store(&stats.written.by_purpose(), stats.journal_bytes);
    }
}

/// A score and its models, as they are listed.
fn model((pipeline, view): &(String, score::View)) -> serde_json::Value {
    let mut listed = serde_json::json!(view);
    listed["pipeline"] = serde_json::json!(pipeline);
    if let Some(candidate) = &view.candidate {
        let trial = &candidate.trial;
        listed["candidate"]["trial"] = serde_json::json!({
            "since": trial.since, "windows": trial.windows, "unanswered": trial.unanswered,
            "both": trial.both, "abnormal": [trial.above_old, trial.above_new],
            "mean": [trial.old.mean(), trial.new.mean()],
        });
    }
    listed
}

/// A target as dashboards see it.
fn target(seen: &Seen, stats: &StoreStats) -> TargetView {
    let mut view = link(&seen.url, &seen.status.borrow());
    let saving_until = seen.counts.saving_until();
    if let Some(until) = saving_until.filter(|_| view.up) {
        view.detail = format!("a budget is used up until {until}; alarms go on");
    }
    let own = stats.targets.iter().find(|(name, _)| *name == seen.name);
    let lanes = own.map(|(_, lanes)| lanes_of(|lane| lanes[lane as usize])).unwrap_or_default();
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Relaxed);
    TargetView {
        link: view,
        lanes,
        wire_bytes: count(&seen.counts.wire),
        outages: count(&seen.counts.outages),
        saving_until,
    }
}

/// Every lane's books: those of the target that has the least.
pub(super) fn lanes(stats: &StoreStats) -> BTreeMap<Lane, LaneCounts> {
    lanes_of(|lane| stats.lane(lane))
}

fn lanes_of(stats: impl Fn(Lane) -> LaneStats) -> BTreeMap<Lane, LaneCounts> {
    let counts = |lane| {
        let stats = stats(lane);
        LaneCounts {
            records: stats.found + stats.made,
            waiting: stats.queued,
            waiting_bytes: stats.queued_bytes,
            delivered: stats.delivered,
            refused: stats.refused,
            evicted: stats.evicted,
        }
    };
    Lane::ALL.into_iter().map(|lane| (lane, counts(lane))).collect()
}

/// A link as dashboards see it.
fn link(target: &str, status: &LinkStatus) -> LinkView {
    let since = match status {
        LinkStatus::Up { since, .. }
        | LinkStatus::Down { since, .. }
        | LinkStatus::Probing { since, .. } => *since,
        LinkStatus::Connecting | LinkStatus::Stopped => now(),
    };
    let detail = status.error().unwrap_or_else(|| match status {
        LinkStatus::Connecting => "the first connection is being made".into(),
        LinkStatus::Stopped => "stopped".into(),
        _ => String::new(),
    });
    let up = matches!(status, LinkStatus::Up { .. });
    LinkView { target: target.to_owned(), up, since, detail }
}

/// A pipeline as dashboards list it.
pub(super) fn pipeline(loaded: &LoadedPipeline) -> PipelineView {
    let spec = &loaded.spec;
    PipelineView {
        name: spec.name.clone(),
        description: spec.description.clone(),
        schema: spec.schema.clone(),
        topics: spec.topics.clone(),
        stages: spec.stages.iter().map(in_words).collect(),
        account: PipelineCounts::default(),
    }
}

fn in_words(stage: &StageSpec) -> String {
    match stage {
        StageSpec::Clean(_) => "clean".into(),
        StageSpec::Resample(r) => format!("resample to {}", r.every),
        StageSpec::Window(w) => {
            format!("window of {} every {}", w.length, w.every.unwrap_or(w.length))
        }
        StageSpec::Score(s) => format!("score {} with {}", s.output, s.model),
        StageSpec::Drift(d) => format!("drift of {}", d.on),
        StageSpec::Alarm(a) => format!("alarm {} on {}", a.name, a.on),
        StageSpec::Emit(e) => format!("emit on lane {}", e.lane.name()),
    }
}
