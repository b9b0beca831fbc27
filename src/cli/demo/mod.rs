//! `forebay demo`: a plant, its broker, a node, a link that fails and the far side, in one process.
//!
//! Everything but the plant is what runs on a site: the node is `node::Node`, fed over MQTT and drained over HTTP.
//! At the end every reading and every record is accounted for, or the exit code says that it is not.

mod live;
mod models;
mod record;
mod summary;

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::summary::{Summary, Watcher};
use super::args::DemoArgs;
use super::run::{on_edges, stop_on_signal};
use super::{Outcome, Screen, print};
use crate::config::{Config, HttpConfig, MqttVersion, TargetConfig, UplinkConfig};
use crate::demo::broker::Broker;
use crate::demo::fault::FaultPlan;
use crate::demo::link::{Link, LinkOptions, outages_of_demo};
use crate::demo::plant::{Plant, PlantOptions, asset_id};
use crate::demo::publisher::{Pace, Published, publish};
use crate::demo::sender::SenderOptions;
use crate::demo::site;
use crate::demo::telemetry::{Dirt, Telemetry, Totals};
use crate::node::{Node, Report};
use crate::pipeline::load::{LoadedPipeline, load_pipeline};
use crate::receive::{self, Pack, ReceiveOptions, Receiver};
use crate::record::Record;
use crate::time::{Span, Timestamp, now};

/// How long the demo waits for the node: to be subscribed, and at the end for each next message.
const CATCH_UP: Duration = Duration::from_secs(20);

/// Runs the demo, or makes its models.
pub(super) fn demo(args: &DemoArgs, screen: &Screen) -> anyhow::Result<Outcome> {
    if let Some(folder) = &args.make_models {
        return models::make(folder, args.onnxruntime.as_deref(), screen);
    }
    if let Some(folder) = &args.record {
        return record::record(folder, args, screen);
    }
    let folder = tempfile::Builder::new().prefix("forebay-demo-").tempdir();
    let folder = folder.context("no temporary folder can be made")?;
    let path = site::lay_out(folder.path()).context("the demo's files cannot be written")?;
    let pipeline = load_pipeline(&path, None)?;
    let summary = on_edges(run(args, screen, pipeline, folder.path()))?;
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
    screen: &Screen,
    pipeline: LoadedPipeline,
    folder: &Path,
) -> anyhow::Result<Summary> {
    let received = folder.join("received");
    let world = World::start(args.duration, &received).await?;
    let store = args.store.clone().unwrap_or_else(|| folder.join("store"));
    let config = config(args, &world, store);
    let (stop_plant, stop_node) = (CancellationToken::new(), CancellationToken::new());
    let notes = screen.clone();
    let stopping = move || {
        notes.note("stopping: what has come in is worked off and sent; once more to stop at once");
    };
    stop_on_signal(stop_plant.clone(), stopping)?;
    let node = Node::start(config, vec![pipeline], stop_node.clone()).await?;
    subscribed(&node).await?;

    let pace = Pace::of_demo(args.duration, now());
    let pumps = usize::from(args.pumps);
    let faults = FaultPlan::schedule(shown(&pace), pumps, args.seed);
    let plant = Plant::new(PlantOptions { seed: args.seed, pumps, faults: faults.clone() });
    let telemetry = Telemetry::new(plant, pumps, pace.start, Dirt::default(), args.seed);
    announce(args, screen, &node, &faults, &pace);
    let (totals, totals_reader) = watch::channel(Totals::default());
    let core = node.core.clone();
    let watcher = Watcher::start(core, totals_reader.clone(), &faults, pace.start);
    let view = (!args.headless)
        .then(|| live::show(screen, &node, &world.link, &pace, totals_reader.clone()));

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
    drop(view);
    let link = world.link.state();
    world.end.cancel();
    let far = world.receiver.join().await?;
    let mut noticed = watcher.finish().await?;
    receive::kept(&received, |record| {
        if let Record::Alarm(alarm) = record {
            noticed.alarm(&alarm);
        }
    })?;
    Ok(Summary::new(&runtime, &published, &report, &far, &link, &noticed))
}

impl World {
    async fn start(duration: Option<Span>, received: &Path) -> anyhow::Result<World> {
        let end = CancellationToken::new();
        let broker = tokio::task::spawn_blocking(|| Broker::start(None)).await??;
        // Of what has come its alarms stay, or a demo without an end would fill the disk.
        let pack = Pack { ndjson: false, table: Some(("ndjson", alarms_alone)) };
        let options = ReceiveOptions { pack, ..ReceiveOptions::on_loopback(received) };
        let receiver = Receiver::start(options, end.clone()).await?;
        let address = receiver.address().context("the far side has no address")?;
        let options =
            LinkOptions { outages: outages_of_demo(duration), ..LinkOptions::to(address) };
        let link = Link::start(options, end.clone()).await?;
        Ok(World { broker, receiver, link, end })
    }
}

/// Keeps the alarms of a file of records.
fn alarms_alone(records: &Path, kept: &Path) -> Result<(), String> {
    let is_alarm = |line: &&str| matches!(serde_json::from_str(line), Ok(Record::Alarm(_)));
    let text = std::fs::read_to_string(records).map_err(|error| error.to_string())?;
    let alarms: Vec<&str> = text.lines().filter(is_alarm).collect();
    std::fs::write(kept, alarms.join("\n")).map_err(|error| error.to_string())
}

/// The demo's `config.toml`, as a value.
fn config(args: &DemoArgs, world: &World, store: std::path::PathBuf) -> Config {
    let mut config = Config::named("demo");
    config.mqtt = world.broker.client(MqttVersion::V5);
    config.store.path = store;
    config.store.checkpoint_every = Span::seconds(10);
    config.feed.listen = args.listen.map_or_else(|| "127.0.0.1:0".into(), |a| a.to_string());
    config.onnxruntime.library.clone_from(&args.onnxruntime);
    let http = HttpConfig::to(format!("http://{}/records", world.link.addr()));
    let http = HttpConfig { timeout: Span::seconds(5), ..http };
    let mut uplink = UplinkConfig::to("cloud", TargetConfig::Http(http));
    uplink.retry_max = Span::seconds(2);
    uplink.drain_for = Span::seconds(10);
    config.uplink = Some(uplink);
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

/// Waits until the broker has the node's subscriptions: it keeps nothing for whom it does not know.
async fn subscribed(node: &Node) -> anyhow::Result<()> {
    let mut status = node.status.clone();
    let up = status.wait_for(|status| status.ingest.up);
    match tokio::time::timeout(CATCH_UP, up).await {
        Err(_) => anyhow::bail!("the broker does not answer the node"),
        // A node that ended says why when it is joined.
        Ok(_) => Ok(()),
    }
}

/// Waits until the node has taken everything that the broker took.
async fn catch_up(node: &Node, published: &Published) {
    let (mut core, all) = (node.core.clone(), published.totals.messages);
    let mut before = 0;
    while before < all {
        let further = core.wait_for(|core| core.messages.received > before);
        match tokio::time::timeout(CATCH_UP, further).await {
            Ok(Ok(core)) => before = core.messages.received,
            // The summary tells what is missing.
            _ => return,
        }
    }
}

/// Faults that are told before the start; an endless demo has many more.
const TOLD: usize = 5;

fn announce(args: &DemoArgs, screen: &Screen, node: &Node, faults: &FaultPlan, pace: &Pace) {
    let speed = if pace.speed > 1.0 {
        format!(", {:.0} times faster than real time", pace.speed)
    } else {
        String::new()
    };
    screen.note(&format!(
        "A plant of {} pumps sends to a broker{speed}.\n\
         A node scores it on {}, raises alarms, and keeps its records\n\
         while the link to the far side is down. Ctrl-C ends it.",
        args.pumps,
        node.runtime.name(),
    ));
    if let Some(address) = node.address {
        screen.note(&format!("\n  open http://{address}/\n"));
    }
    screen.note("What will go wrong, in the plant's time:");
    let at = |span: Span| {
        let text = Timestamp(pace.start.0 + span.0).to_string();
        text.get(11..19).unwrap_or_default().to_owned()
    };
    for fault in faults.faults.iter().take(TOLD) {
        let (start, end) = (at(fault.start), at(fault.end));
        let (asset, kind) = (asset_id(fault.pump), fault.kind.name().replace('_', " "));
        screen.note(&format!("  {start} to {end}  {asset}  {kind}"));
    }
    if faults.faults.len() > TOLD {
        screen.note("  and so on");
    }
    screen.note("");
}
