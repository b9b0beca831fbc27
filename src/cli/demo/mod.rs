//! `forebay demo`: a plant, its broker, a node, a link that fails and the far side, in one process.
//!
//! Everything but the plant is what runs on a site: the node is `node::Node`, fed over MQTT and drained over HTTP.
//! At the end every reading and every record is accounted for, or the exit code says that it is not.

mod live;
mod models;
mod summary;

use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::summary::{Summary, Watcher};
use super::args::DemoArgs;
use super::run::{runtime, stop_on_signal};
use super::{Outcome, print};
use crate::config::{Config, HttpConfig, MqttVersion, TargetConfig, UplinkConfig};
use crate::demo::broker::Broker;
use crate::demo::fault::FaultPlan;
use crate::demo::link::{Link, LinkOptions, outages_of_demo};
use crate::demo::plant::{Plant, PlantOptions, asset_id};
use crate::demo::publisher::{Pace, Published, publish};
use crate::demo::receiver::Receiver;
use crate::demo::sender::SenderOptions;
use crate::demo::site;
use crate::demo::telemetry::{Dirt, Telemetry, Totals};
use crate::node::{Node, Report};
use crate::pipeline::load::{LoadedPipeline, load_pipeline};
use crate::time::{Span, Timestamp, now};

/// How long a stopping demo waits for the node to have taken everything from the broker.
const CATCH_UP: Duration = Duration::from_secs(20);

/// Runs the demo, or makes its models.
pub(super) fn demo(args: &DemoArgs) -> anyhow::Result<Outcome> {
    if let Some(folder) = &args.make_models {
        return models::make(folder, args.onnxruntime.as_deref());
    }
    let folder = tempfile::Builder::new().prefix("forebay-demo-").tempdir();
    let folder = folder.context("no temporary folder can be made")?;
    let path = site::lay_out(folder.path()).context("the demo's files cannot be written")?;
    let pipeline = load_pipeline(&path, None)?;
    let store = args.store.clone().unwrap_or_else(|| folder.path().join("store"));
    let summary = runtime()?.block_on(run(args, pipeline, store))?;
    if args.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&summary)?))?;
    } else {
        print(&summary.told())?;
    }
    Ok(if summary.closes() { Outcome::Fine } else { Outcome::Problem })
}

/// The world around the node.
struct World {
    broker: Broker,
    receiver: Receiver,
    link: Link,
    /// Ends receiver and link, after the node.
    end: CancellationToken,
}

async fn run(
    args: &DemoArgs,
    pipeline: LoadedPipeline,
    store: std::path::PathBuf,
) -> anyhow::Result<Summary> {
    let world = World::start(args.duration).await?;
    let config = config(args, &world, store);
    let (stop_plant, stop_node) = (CancellationToken::new(), CancellationToken::new());
    stop_on_signal(stop_plant.clone())?;
    let node = Node::start(config, vec![pipeline], stop_node.clone()).await?;

    let pace = Pace::of_demo(args.duration, now());
    let pumps = usize::from(args.pumps);
    let faults = FaultPlan::schedule(shown(&pace), pumps, args.seed);
    let plant = Plant::new(PlantOptions { seed: args.seed, pumps, faults: faults.clone() });
    let telemetry = Telemetry::new(plant, pumps, pace.start, Dirt::default(), args.seed);
    announce(args, &node, &faults, &pace);
    let watcher = Watcher::start(node.core.clone(), &faults, pace);
    let (totals, totals_reader) = watch::channel(Totals::default());
    let view = (!args.headless).then(|| live::show(&node, &world.link, totals_reader.clone()));

    let sender = SenderOptions {
        url: world.broker.url(MqttVersion::V5),
        version: MqttVersion::V5,
        client_id: "forebay-plant".into(),
        window: 64,
        give_up: CATCH_UP,
    };
    let ended_early = node_ended(&node, stop_plant.clone());
    let published = publish(telemetry, pace, sender, totals, stop_plant).await?;
    catch_up(&node, &published).await;
    drop(ended_early);
    stop_node.cancel();
    let runtime = node.runtime.name();
    let report: Report = node.join().await?;
    if let Some(view) = view {
        view.abort();
    }
    let alarms = world.receiver.alarms().await;
    let received = world.receiver.counts();
    let link = world.link.state();
    world.end.cancel();
    let noticed = watcher.finish(&alarms).await?;
    Ok(Summary::new(&runtime, &published, &report, &received, &link, &noticed))
}

impl World {
    async fn start(duration: Option<Span>) -> anyhow::Result<World> {
        let end = CancellationToken::new();
        let broker = tokio::task::spawn_blocking(|| Broker::start(None)).await??;
        let receiver = Receiver::start(end.clone()).await?;
        let options =
            LinkOptions { outages: outages_of_demo(duration), ..LinkOptions::to(receiver.addr()) };
        let link = Link::start(options, end.clone()).await?;
        Ok(World { broker, receiver, link, end })
    }
}

/// The demo's `config.toml`, as a value.
fn config(args: &DemoArgs, world: &World, store: std::path::PathBuf) -> Config {
    let mut config = Config::named("demo");
    config.mqtt = world.broker.client(MqttVersion::V5);
    config.store.path = store;
    config.store.checkpoint_every = Span::seconds(10);
    config.feed.listen = args.listen.map_or_else(|| "127.0.0.1:0".into(), |a| a.to_string());
    config.onnxruntime.library.clone_from(&args.onnxruntime);
    let http = HttpConfig {
        url: format!("http://{}/records", world.link.addr()),
        token: None,
        headers: std::collections::BTreeMap::new(),
        ca: None,
        timeout: Span::seconds(5),
    };
    config.uplink = Some(UplinkConfig {
        target: TargetConfig::Http(http),
        parcel: bytesize::ByteSize::kib(64),
        retry_max: Span::seconds(2),
        drain_for: Span::seconds(10),
    });
    config
}

/// Plant time for which faults are planned: an endless demo shows a day of them.
fn shown(pace: &Pace) -> Span {
    Span(pace.length.0.min(Span::seconds(24 * 3600).0))
}

/// Stops the plant when the node ends by itself: a guard that lives as long as the plant runs.
fn node_ended(
    node: &Node,
    stop_plant: CancellationToken,
) -> tokio_util::task::AbortOnDropHandle<()> {
    let mut core = node.core.clone();
    tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
        while core.changed().await.is_ok() {}
        stop_plant.cancel();
    }))
}

/// Waits until the node has taken everything that the broker took.
async fn catch_up(node: &Node, published: &Published) {
    let mut core = node.core.clone();
    let all = published.totals.messages;
    let taken = core.wait_for(|core| core.messages.received >= all);
    let _ = tokio::time::timeout(CATCH_UP, taken).await; // the summary tells what is missing
}

fn announce(args: &DemoArgs, node: &Node, faults: &FaultPlan, pace: &Pace) {
    if let Some(address) = node.address {
        tracing::info!("open http://{address}/");
    }
    tracing::info!(
        pumps = args.pumps,
        speed = pace.speed,
        runtime = node.runtime.name(),
        "the plant runs"
    );
    for fault in &faults.faults {
        let at = |span: Span| Timestamp(pace.start.0 + span.0);
        tracing::info!(
            asset = asset_id(fault.pump),
            kind = fault.kind.name(),
            start = %at(fault.start),
            end = %at(fault.end),
            "planned fault"
        );
    }
}
