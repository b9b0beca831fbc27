//! `forebay bench`: how much this machine takes, and how that compares with the barest subscriber there can be.
//!
//! Load generator and receiver run in this process; the broker in it or beside it; the bare subscriber and the node are
//! processes of their own, so that their memory and their processor time are theirs alone. All on loopback. It says
//! what limits the node, worked out from what was measured; it judges nothing.

mod child;
mod latency;
mod node;
mod report;
mod run;

use std::path::PathBuf;

use anyhow::Context;

use self::child::Counter;
use self::node::Site;
use self::report::{BrokerReport, NodeNumbers, Report};
use self::run::{Around, event_times, measure};
use super::args::{BenchArgs, BenchBroker};
use super::run::runtime;
use super::{Outcome, print};
use crate::config::MqttVersion;
use crate::demo::broker::Broker;
use crate::demo::mosquitto::Mosquitto;
use crate::pipeline::load::load_pipeline;

/// Signals in each message of the load.
const SIGNALS: usize = 8;

/// The subcommand.
pub(super) fn bench(args: &BenchArgs) -> anyhow::Result<Outcome> {
    if let Some(url) = &args.count {
        return child::count(url, args.in_flight);
    }
    let brokers = match args.broker {
        Some(broker) => vec![broker],
        None => vec![BenchBroker::Mosquitto, BenchBroker::Rumqttd],
    };
    let runtime = runtime()?;
    let mut report = Report::new(args);
    for broker in brokers {
        let measured = runtime.block_on(measure_broker(args, broker))?;
        report.brokers.extend(measured);
    }
    anyhow::ensure!(
        !report.brokers.is_empty(),
        "`mosquitto` is not installed: install it, or measure with --broker rumqttd"
    );
    let text = if args.json { serde_json::to_string(&report)? + "\n" } else { report.told() };
    print(&text)?;
    Ok(if report.is_complete() { Outcome::Fine } else { Outcome::Problem })
}

/// A broker for the time of one measurement: what one left behind does not weigh on the next.
enum Hub {
    /// In this process.
    Rumqttd(Broker),
    /// Beside it.
    Mosquitto(Mosquitto),
}

impl Hub {
    /// Starts the broker asked for; `None` where it is not installed.
    fn start(broker: BenchBroker, in_flight: u16) -> anyhow::Result<Option<Hub>> {
        Ok(match broker {
            BenchBroker::Rumqttd => Some(Hub::Rumqttd(Broker::start(None)?)),
            BenchBroker::Mosquitto => Mosquitto::start(in_flight)?.map(Hub::Mosquitto),
        })
    }

    /// Its address for MQTT 5.
    fn url(&self) -> String {
        match self {
            Hub::Rumqttd(broker) => broker.url(MqttVersion::V5),
            Hub::Mosquitto(broker) => broker.url(),
        }
    }

    /// Its process, where it has one of its own.
    fn process(&self) -> Option<u32> {
        match self {
            Hub::Rumqttd(_) => None,
            Hub::Mosquitto(broker) => Some(broker.id()),
        }
    }
}

/// All measurements with one broker; `None` where it is not installed.
async fn measure_broker(
    args: &BenchArgs,
    broker: BenchBroker,
) -> anyhow::Result<Option<BrokerReport>> {
    let Some(hub) = Hub::start(broker, args.in_flight)? else { return Ok(None) };
    let bare = Counter::start(&hub.url(), args.in_flight).await?;
    let around = Around { process: bare.id(), broker: hub.process(), taken: bare.taken() };
    let (bare_run, _) = measure(args, &hub.url(), around, None).await?;
    drop((bare, hub));

    let folder = store_folder(args)?;
    let Some(hub) = Hub::start(broker, args.in_flight)? else { return Ok(None) };
    let site = Site::start(folder.path(), &hub.url(), args.in_flight).await?;
    let idle = site.idle().await?;
    let before = site.numbers().await?;
    let around = Around { process: site.id(), broker: hub.process(), taken: site.taken() };
    let (node_run, _) = measure(args, &hub.url(), around, None).await?;
    let loaded = NodeNumbers::new(&node_run, idle, &before, &site.numbers().await?);
    site.stop().await?;
    drop(hub);

    let folder = store_folder(args)?;
    let Some(hub) = Hub::start(broker, args.in_flight)? else { return Ok(None) };
    let site = Site::start(folder.path(), &hub.url(), args.in_flight).await?;
    let pipeline = load_pipeline(&folder.path().join("pipelines/pump.toml"), None);
    let pipeline = pipeline.map_err(|problems| anyhow::anyhow!("{problems}"))?;
    let (start, every) = event_times(true);
    let completing = latency::completing(&pipeline, start, every)?;
    let seen = latency::listen(site.address())?;
    let before = site.numbers().await?;
    let around = Around { process: site.id(), broker: hub.process(), taken: site.taken() };
    let rate = f64::from(args.rate);
    let (paced_run, load) = measure(args, &hub.url(), around, Some(rate)).await?;
    let paced = latency::of(&seen, &load, completing);
    let numbers = NodeNumbers::new(&paced_run, idle, &before, &site.numbers().await?);
    site.stop().await?;
    Ok(Some(BrokerReport::new(broker, bare_run, (node_run, loaded), (paced_run, numbers), paced)))
}

/// Where the node keeps its store: a disk if there is one, for a file system in memory would flatter it.
fn store_folder(args: &BenchArgs) -> anyhow::Result<tempfile::TempDir> {
    let places = match &args.store {
        Some(folder) => vec![folder.clone()],
        None => vec![std::env::temp_dir(), PathBuf::from("/var/tmp"), PathBuf::from(".")],
    };
    let disk = |place: &&PathBuf| {
        const TMPFS: u64 = 0x0102_1994;
        rustix::fs::statfs(place.as_path()).is_ok_and(|fs| fs.f_type as u64 != TMPFS)
    };
    let place = places.iter().find(disk).or(places.first());
    let place = place.context("there is no folder for the store")?;
    tempfile::Builder::new()
        .prefix("forebay-bench-")
        .tempdir_in(place)
        .with_context(|| format!("no folder can be made in `{}`", place.display()))
}
