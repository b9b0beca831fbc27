//! `forebay bench`: how much this machine takes, and how that compares with the barest subscriber there can be.
//!
//! Load generator, broker and subscriber run in this process or beside it, on loopback. Every row of the result is a
//! run of its own with the same load.

use std::fmt::Write;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::args::{BenchArgs, BenchBroker};
use super::{Outcome, print};
use crate::config::MqttVersion;
use crate::demo::broker::Broker;
use crate::demo::load::{Acks, Load, LoadOptions, Subscriber, Taken, publish};
use crate::demo::mosquitto::Mosquitto;
use crate::demo::sender::SenderOptions;
use crate::demo::usage::Usage;
use crate::time::{Span, now};

/// Signals in each message of the load.
const SIGNALS: usize = 8;
/// A subscriber that gets nothing for so long gets nothing more.
const PATIENCE: Duration = Duration::from_secs(10);
/// Event times start so far back that no rate takes them past the clock.
const BACK: Span = Span::seconds(12 * 3600);

/// One run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    /// What took the messages.
    pub(super) what: String,
    /// Messages that the broker acknowledged to the load generator.
    pub(super) sent: u64,
    /// Messages that came out.
    pub(super) taken: u64,
    /// Messages a second that came out, first to last.
    pub(super) messages_per_s: f64,
    /// Readings a second that came out.
    pub(super) readings_per_s: f64,
    /// Processor time a message, of load generator, in-process broker and subscriber together.
    pub(super) cpu_us_per_message: f64,
}

/// A broker for the time of a bench.
pub(super) enum Stage {
    /// In this process.
    Rumqttd(Broker),
    /// Beside it.
    Mosquitto(Mosquitto),
}

impl Stage {
    /// Starts the broker asked for.
    pub(super) fn start(args: &BenchArgs) -> anyhow::Result<Stage> {
        match args.broker {
            BenchBroker::Rumqttd => Ok(Stage::Rumqttd(Broker::start(None)?)),
            BenchBroker::Mosquitto => {
                let broker = Mosquitto::start(args.in_flight)?;
                let broker = broker.context(
                    "`mosquitto` is not installed: install it, or measure with --broker rumqttd",
                )?;
                Ok(Stage::Mosquitto(broker))
            }
        }
    }

    /// Its address for MQTT 5.
    pub(super) fn url(&self) -> String {
        match self {
            Stage::Rumqttd(broker) => broker.url(MqttVersion::V5),
            Stage::Mosquitto(broker) => broker.url(),
        }
    }
}

/// The subcommand.
pub(super) fn bench(args: &BenchArgs) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut rows = Vec::new();
    for acks in [Acks::Automatic, Acks::Manual] {
        // A broker of its own for each run: what one left behind does not weigh on the next.
        let stage = Stage::start(args)?;
        rows.push(runtime.block_on(bare(args, &stage.url(), acks))?);
    }
    let text = if args.json { serde_json::to_string(&rows)? + "\n" } else { table(args, &rows) };
    print(&text)?;
    Ok(if rows.iter().all(|row| row.taken == row.sent) { Outcome::Fine } else { Outcome::Problem })
}

/// A subscriber that only counts.
async fn bare(args: &BenchArgs, url: &str, acks: Acks) -> anyhow::Result<Row> {
    let version = MqttVersion::V5;
    let subscriber = Subscriber::start(url, version, "plant/#", acks, args.in_flight).await?;
    let before = Usage::of(None)?;
    let load = load(args, url).await?;
    let taken = subscriber.finish(load.messages, PATIENCE).await;
    let used = Usage::of(None)?.since(before);
    let what = match acks {
        Acks::Automatic => "bare subscriber, automatic acks",
        Acks::Manual => "bare subscriber, manual acks",
    };
    Ok(row(what, &load, &taken, used))
}

/// Sends the load for as long as asked.
pub(super) async fn load(args: &BenchArgs, url: &str) -> anyhow::Result<Load> {
    let options = LoadOptions {
        sender: SenderOptions {
            url: url.to_owned(),
            version: MqttVersion::V5,
            client_id: format!("bench-{}", std::process::id()),
            window: args.in_flight,
            give_up: PATIENCE,
        },
        messages: u64::MAX,
        rate: args.rate.map(f64::from),
        assets: args.assets as usize,
        signals: SIGNALS,
        start: now().minus(BACK),
        every: Span::millis(100),
    };
    let stop = CancellationToken::new();
    let (ending, length) = (stop.clone(), args.duration.to_std());
    let clock = tokio::spawn(async move {
        tokio::time::sleep(length).await;
        ending.cancel();
    });
    let load = publish(options, stop).await;
    clock.abort();
    Ok(load?)
}

fn row(what: &str, load: &Load, taken: &Taken, used: Usage) -> Row {
    let rate = taken.rate();
    Row {
        what: what.to_owned(),
        sent: load.messages,
        taken: taken.messages,
        messages_per_s: rate,
        readings_per_s: rate * SIGNALS as f64,
        cpu_us_per_message: used.cpu.as_secs_f64() * 1e6 / taken.messages.max(1) as f64,
    }
}

fn table(args: &BenchArgs, rows: &[Row]) -> String {
    let mut text = format!(
        "{:?}, {} assets, {SIGNALS} signals a message, {} in flight\n{:<34}{:>12}{:>12}{:>12}{:>14}{:>14}\n",
        args.broker,
        args.assets,
        args.in_flight,
        "",
        "sent",
        "taken",
        "messages/s",
        "readings/s",
        "us CPU/msg"
    );
    for row in rows {
        writeln!(
            text,
            "{:<34}{:>12}{:>12}{:>12.0}{:>14.0}{:>14.1}",
            row.what,
            row.sent,
            row.taken,
            row.messages_per_s,
            row.readings_per_s,
            row.cpu_us_per_message
        )
        .expect("invariant: writing to a string does not fail");
    }
    text
}
