//! A running node: store, engine thread, source, uplink and feeds, started in order and stopped in the direction of
//! the data.
//!
//! `cli/run`, `demo` and `bench` call [`Node::start`]. What cannot work is found before anything is started; after
//! that a broker or a far side that is away is normal. A store that fails ends the node: start-up is recovery.

mod core;
mod desk;
mod models;
mod recovery;
mod refusals;
mod rollout;
mod status;
mod uplinks;
mod watched;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::core::Messages;
use self::core::{Core, Ear, Route, message_max, routes};
use self::desk::Desk;
use self::recovery::Ready;
use self::refusals::Refusals;
use self::status::view;
pub use self::status::{CoreView, counts};
use crate::command::quarantine::Desks;
use crate::config::Config;
use crate::decode::DecodeError;
use crate::engine::Engine;
use crate::feed::command::broker::{self, BrokerDoor};
use crate::feed::command::open as open_operators;
use crate::feed::http::Doors;
use crate::feed::mqtt::{FeedCounts, MqttFeed};
use crate::feed::{Hub, Keeper, NodeStatus, http};
use crate::ingest::{self, Closing, Limits, MqttSource};
use crate::link::{LinkStatus, SetupError};
use crate::metrics::{LaneCounts, Metrics};
use crate::model::runtime::RuntimeError;
use crate::model::{Host, Runtime};
use crate::pipeline::load::LoadedPipeline;
use crate::pipeline::plan::{PlanError, PlanOptions, plan};
use crate::record::Lane;
use crate::stage::StageError;
use crate::store::{Committed, Meter, Outbox, StoreError, StoreOptions};
use crate::time::now;

/// Why a node cannot start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A pipeline cannot run.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// No runtime for models.
    #[error(transparent)]
    Runtime(#[from] Box<RuntimeError>),
    /// A pipeline's topics or format cannot be read.
    #[error("pipeline `{pipeline}`: {source}")]
    Decode {
        /// The pipeline.
        pipeline: String,
        /// Why.
        source: Box<DecodeError>,
    },
    /// A link cannot be set up.
    #[error("{what}: {source}")]
    Setup {
        /// Which part of the config.
        what: &'static str,
        /// Why.
        source: SetupError,
    },
    /// The feed's port cannot be had.
    #[error(
        "dashboards cannot be served on {address}: {source}; change `feed.listen` or stop what uses the port"
    )]
    Listen {
        /// Where.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The engine's memory cannot be saved.
    #[error("no checkpoint can be made: {0}")]
    Checkpoint(StageError),
    /// A part ended that should not have.
    #[error("{0} ended unexpectedly; the node stops, and recovers at its next start")]
    Ended(&'static str),
}

/// A node that runs.
pub struct Node {
    /// Its state, twice a second.
    pub status: watch::Receiver<NodeStatus>,
    /// The engine's part of it, as it is told.
    pub core: watch::Receiver<CoreView>,
    /// Where dashboards are served.
    pub address: Option<SocketAddr>,
    /// What dashboards see.
    pub hub: Hub,
    /// What runs the models.
    pub runtime: &'static Runtime,
    store: Meter,
    tasks: Tasks,
}

/// What a node did, once it has stopped.
#[derive(Clone, Debug)]
pub struct Report {
    /// Messages and pipelines.
    pub core: CoreView,
    /// Lanes.
    pub lanes: BTreeMap<Lane, LaneCounts>,
}

struct Tasks {
    set: JoinSet<(&'static str, Result<(), NodeError>)>,
    core: oneshot::Receiver<Result<CoreView, NodeError>>,
    stop: CancellationToken,
    stop_out: CancellationToken,
    stop_feed: CancellationToken,
    has_uplink: bool,
}

/// What a config asks for, made and checked, nothing started.
struct Parts {
    runtime: &'static Runtime,
    engine: Engine,
    routes: Vec<Route>,
    source: MqttSource,
    uplinks: Vec<uplinks::Way>,
    feed: Option<MqttFeed>,
    feed_counts: Arc<FeedCounts>,
    /// Where commands come in over the broker.
    asked: BrokerDoor,
    listener: Option<TcpListener>,
}

impl Node {
    /// Starts a node; it runs until `stop`.
    pub async fn start(
        config: Config,
        pipelines: Vec<LoadedPipeline>,
        stop: CancellationToken,
    ) -> Result<Node, NodeError> {
        let mut parts = prepare(&config, &pipelines).await?;
        let mut options = StoreOptions::new(&config.store, &config.node, now());
        if let Some(targets) = uplinks::names(&config) {
            options.targets = targets;
        }
        let engine = std::mem::replace(&mut parts.engine, Engine::new(String::new(), Vec::new()));
        let (waits_for, told) = watch::channel(String::new());
        let patience = recovery::Patience { waits_for, stop: stop.clone() };
        let recovering = move || recovery::recover(engine, &options, &patience);
        let recovered = blocking("recovery", recovering);
        let (engine, store) = match &parts.listener {
            Some(listener) => tokio::select! {
                recovered = recovered => recovered??,
                never = http::starting(listener, told) => match never {},
            },
            None => recovered.await??,
        };
        parts.engine = engine;
        Node::wire(&config, &pipelines, parts, store, stop)
    }

    /// Starts the engine thread and the tasks around it.
    fn wire(
        config: &Config,
        pipelines: &[LoadedPipeline],
        parts: Parts,
        store: Ready,
        stop: CancellationToken,
    ) -> Result<Node, NodeError> {
        let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION"), &parts.runtime.name()));
        let (hub, hub_handle, keeper) = Hub::new(config.feed.history);
        let in_flight = config.mqtt.in_flight;
        let closing = Closing::new(config.store.tick, config.store.tick_readings, in_flight);
        let opened = ingest::open(Limits::new(in_flight), closing);
        let (committed, committed_reader) = watch::channel(store.committed);
        let (told, core_reader) = watch::channel(view(&parts.engine, Messages::default(), 0));
        let meter = store.ledger.meter();
        let (bell, ring) = (opened.bell.clone(), opened.bell);
        let (operators, orders) = open_operators(move || bell.ring(), &config.feed.hosts);
        let operators = config.feed.takes_commands().then_some(operators);
        hub.recall(parts.engine.standing().into_iter().map(|s| (s.record, s.since)).collect());
        let (models, desk, door) =
            models::open(config, pipelines, &parts.engine, &core_reader, ring);
        let core = Core {
            engine: parts.engine,
            models,
            ledger: store.ledger,
            inbox: opened.inbox,
            acks: opened.acks,
            ear: Ear::new(opened.status.clone()),
            orders,
            asked: parts.asked,
            routes: parts.routes,
            committed,
            hub: hub_handle,
            metrics: Arc::clone(&metrics),
            status: told,
            checkpoint_every: config.store.checkpoint_every.to_std(),
            rejected_kept: config.limits.rejected_kept,
            message_max: message_max(config),
            messages: Messages::default(),
            refusals: Refusals::default(),
            stop: stop.clone(),
        };
        let mut tasks = Tasks::new(start_core(core, stop.clone())?, stop);
        tasks.ingest(parts.source, opened.door);
        let (uplinks, desks) =
            tasks.uplinks(parts.uplinks, store.outboxes, &committed_reader, config);
        tasks.feeds(keeper, parts.feed, &hub);
        let sources = status::Sources {
            node: config.node.clone(),
            runtime: parts.runtime.name(),
            started: now(),
            pipelines: pipelines.iter().map(status::pipeline).collect(),
            commands: operators.is_some(),
            core: core_reader.clone(),
            refused: tasks.models(desk),
            ingest: (config.mqtt.url.clone(), opened.status),
            door: opened.counts,
            mqtt_feed: parts.feed_counts,
            uplinks,
            store: meter.clone(),
            hub: hub.clone(),
            metrics: Arc::clone(&metrics),
        };
        let status = tasks.status(sources);
        let doors = Doors { operators, desks, models: door };
        let address = tasks.serve(parts.listener, hub.clone(), metrics, status.clone(), doors);
        let runtime = parts.runtime;
        Ok(Node { status, core: core_reader, address, hub, runtime, store: meter, tasks })
    }

    /// Waits until the node has stopped: because of `stop`, or because a part of it failed.
    pub async fn join(self) -> Result<Report, NodeError> {
        let core = self.tasks.join().await?;
        Ok(Report { core, lanes: status::lanes(&self.store.read()) })
    }
}

/// Makes everything that can be wrong before anything is started.
async fn prepare(config: &Config, pipelines: &[LoadedPipeline]) -> Result<Parts, NodeError> {
    let setup = |what| move |source| NodeError::Setup { what, source };
    let loaded = pipelines.to_vec();
    let (host, node, limits) = (config.host(), config.node.clone(), config.limits.clone());
    let (runtime, engine) = blocking("planning", move || {
        let runtime = host.runtime().map_err(Box::new)?;
        let planned = loaded.iter().map(|p| plan_live(p, &host, limits.assets));
        let planned = planned.collect::<Result<Vec<_>, _>>()?;
        Ok::<_, NodeError>((runtime, Engine::new(node, planned)))
    })
    .await??;
    let routes = routes(pipelines, config)?;
    let mut filters: Vec<String> = routes.iter().flat_map(|r| r.decoder.filters()).collect();
    if config.feed.mqtt_commands {
        filters.push(broker::filter(&config.node));
    }
    if config.models.mqtt {
        filters.push(format!("{}+/+", models::topics(&config.node)));
    }
    filters.sort();
    filters.dedup();
    let source = MqttSource::new(&config.mqtt, &config.node, filters, config.limits.message)
        .map_err(setup("`mqtt`"))?;
    let uplinks = uplinks::prepare(config)?;
    let feed_counts = Arc::new(FeedCounts::default());
    let feed = config.feed.mqtt.then(|| {
        let counts = Arc::clone(&feed_counts);
        MqttFeed::new(&config.mqtt, &config.node, &config.feed.topic, counts)
    });
    let (asked, replies) = broker::open(config, Arc::clone(&feed_counts));
    let feed = feed.transpose().map_err(setup("`feed`"))?.map(|feed| feed.answering(replies));
    let listener = if config.feed.http { Some(listen(&config.feed.listen).await?) } else { None };
    Ok(Parts { runtime, engine, routes, source, uplinks, feed, feed_counts, asked, listener })
}

fn plan_live(
    loaded: &LoadedPipeline,
    host: &Host,
    asset_limit: usize,
) -> Result<crate::engine::Pipeline, PlanError> {
    let options = PlanOptions {
        base: loaded.path.parent().unwrap_or(std::path::Path::new("")),
        live: true,
        asset_limit,
        models: &[],
        host,
        refused: loaded.refused.as_ref(),
        features_only: false,
    };
    plan(&loaded.spec, &loaded.schema, options)
}

async fn listen(address: &str) -> Result<TcpListener, NodeError> {
    let failed = |source| NodeError::Listen { address: address.to_owned(), source };
    TcpListener::bind(address).await.map_err(failed)
}

/// Runs what blocks (models, files) where it may.
async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NodeError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| NodeError::Ended(what))
}

/// The engine gets a thread of its own: it computes, and it waits for the disk.
fn start_core(
    mut core: Core,
    stop: CancellationToken,
) -> Result<oneshot::Receiver<Result<CoreView, NodeError>>, NodeError> {
    let (ended, core_ended) = oneshot::channel();
    let work = move || {
        let result = core.run();
        // Whatever ended it, nothing may come in any more.
        stop.cancel();
        drop(ended.send(result));
        // What the core holds goes only now: its ends of the channels say that it has stopped.
        drop(core);
    };
    let thread = std::thread::Builder::new().name("engine".into()).spawn(work);
    thread.map(|_| core_ended).map_err(|_| NodeError::Ended("the engine thread"))
}

impl Tasks {
    fn new(core: oneshot::Receiver<Result<CoreView, NodeError>>, stop: CancellationToken) -> Tasks {
        Tasks {
            set: JoinSet::new(),
            core,
            stop,
            stop_out: CancellationToken::new(),
            stop_feed: CancellationToken::new(),
            has_uplink: false,
        }
    }

    fn ingest(&mut self, source: MqttSource, door: ingest::Door) {
        let stop = self.stop.clone();
        self.spawn("ingest", async move {
            source.run(door, stop).await;
            Ok(())
        });
    }

    fn feeds(&mut self, keeper: Keeper, mqtt: Option<MqttFeed>, hub: &Hub) {
        // Before the keeper goes: the first thing it has are the alarms that are on.
        let events = hub.subscribe();
        self.spawn("feed", async move {
            keeper.run().await;
            Ok(())
        });
        if let Some(feed) = mqtt {
            let stop = self.stop_feed.clone();
            let (status, _) = watch::channel(LinkStatus::Connecting);
            self.spawn("MQTT feed", async move {
                feed.run(events, |event| &event.record, status, stop).await;
                Ok(())
            });
        }
    }

    /// Gives what tells of files that the desk refuses.
    fn models(&mut self, desk: Desk) -> watch::Receiver<BTreeMap<String, String>> {
        let (stop, refused) = (self.stop.clone(), desk.refused.subscribe());
        self.spawn("models", async move {
            desk.run(stop).await;
            Ok(())
        });
        refused
    }

    fn status(&mut self, sources: status::Sources) -> watch::Receiver<NodeStatus> {
        let (status, reader) = watch::channel(NodeStatus::default());
        let stop = self.stop_feed.clone();
        self.spawn("status", async move {
            sources.run(status, stop).await;
            Ok(())
        });
        reader
    }

    fn spawn(
        &mut self,
        name: &'static str,
        work: impl Future<Output = Result<(), NodeError>> + Send + 'static,
    ) {
        self.set.spawn(async move { (name, work.await) });
    }

    fn uplinks(
        &mut self,
        ways: Vec<uplinks::Way>,
        outboxes: Vec<Outbox>,
        committed: &watch::Receiver<Committed>,
        config: &Config,
    ) -> (Vec<uplinks::Seen>, Desks) {
        let mut desks = Desks::default();
        let Some(uplink) = &config.uplink else { return (Vec::new(), desks) };
        // With the last uplink done, dashboards have nothing more to show.
        let feeds = Arc::new(self.stop_feed.clone().drop_guard());
        let mut all = Vec::new();
        for (way, outbox) in ways.into_iter().zip(outboxes) {
            let inquiries = desks.add(way.name());
            let (committed, stop) = (committed.clone(), self.stop_out.clone());
            let (work, seen) = way.work(uplink, outbox, committed, inquiries, stop);
            let feeds = Arc::clone(&feeds);
            self.has_uplink = true;
            self.spawn("uplink", async move {
                let _feeds = feeds;
                work.await.map_err(NodeError::from)
            });
            all.push(seen);
        }
        (all, desks)
    }

    fn serve(
        &mut self,
        listener: Option<TcpListener>,
        hub: Hub,
        metrics: Arc<Metrics>,
        status: watch::Receiver<NodeStatus>,
        doors: Doors,
    ) -> Option<SocketAddr> {
        let listener = listener?;
        let (stop, address) = (self.stop_feed.clone(), listener.local_addr().ok());
        self.spawn("dashboards", async move {
            let served = http::serve(listener, hub, metrics, status, doors, stop).await;
            let address = address.map(|a| a.to_string()).unwrap_or_default();
            served.map_err(|source| NodeError::Listen { address, source })
        });
        address
    }

    /// Stops in the direction of the data: the source, then the engine, then the uplink, then the feeds. Whatever
    /// ends before its turn ends the node.
    async fn join(mut self) -> Result<CoreView, NodeError> {
        let mut failure = None;
        let core = loop {
            tokio::select! {
                ended = &mut self.core => break ended.unwrap_or(Err(NodeError::Ended("the engine"))),
                Some(task) = self.set.join_next() => {
                    let (name, result) = task.unwrap_or(("a task", Ok(())));
                    let stopping = self.stop.is_cancelled() && ["ingest", "feed", "models"].contains(&name);
                    let early = (!stopping).then_some(NodeError::Ended(name));
                    failure = failure.or(result.err()).or(early);
                    self.stop.cancel();
                }
            }
        };
        self.stop_out.cancel();
        if !self.has_uplink {
            self.stop_feed.cancel();
        }
        while let Some(task) = self.set.join_next().await {
            let (name, result) = task.unwrap_or(("a task", Err(NodeError::Ended("a task"))));
            tracing::debug!(task = name, "stopped");
            failure = failure.or(result.err());
        }
        match failure {
            Some(failure) => Err(failure),
            None => core,
        }
    }
}
