//! One measurement: a load on a broker, and what whoever takes it uses meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::SIGNALS;
use crate::cli::args::BenchArgs;
use crate::config::MqttVersion;
use crate::demo::load::{Lead, Load, LoadOptions, publish};
use crate::demo::sender::SenderOptions;
use crate::time::{Span, Timestamp, monotonic, now};
use crate::usage::{Usage, machine, threads};

/// Who takes nothing for so long takes nothing more.
const PATIENCE: Duration = Duration::from_secs(10);
/// Event times start so far back that no rate takes them past the clock.
const BACK: Span = Span::seconds(12 * 3600);
/// Windows end at multiples of this; the load starts on one.
const EVEN: Span = Span::seconds(60);
/// Event time between two messages of one asset.
const EVERY: Span = Span::millis(100);
/// The same at a fixed rate: slower machines, so that windows end often enough to say something of their latency.
const EVERY_PACED: Span = Span::millis(500);
/// Most messages that wait at the broker: enough to keep everybody busy, too few to weigh on it.
const LEAD: u64 = 20_000;

/// Whom to look at meanwhile.
pub(super) struct Around {
    /// Who takes the messages.
    pub(super) process: u32,
    /// The broker, where it is a process of its own.
    pub(super) broker: Option<u32>,
    /// How many have been taken.
    pub(super) taken: watch::Receiver<u64>,
}

/// What one measurement came to. Cores are processor time over time: 1.0 is one core all the time.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Run {
    /// Messages that the broker acknowledged to the load generator.
    pub(super) sent: u64,
    /// Messages that were taken.
    pub(super) taken: u64,
    /// Seconds from the first message sent to the last one taken.
    pub(super) seconds: f64,
    /// Messages a second.
    pub(super) messages_per_s: f64,
    /// Readings a second.
    pub(super) readings_per_s: f64,
    /// Microseconds of processor time a message, of who takes them.
    pub(super) cpu_us_per_message: f64,
    /// Cores that who takes them used.
    pub(super) cores: f64,
    /// Its threads' shares of that, by name.
    pub(super) threads: BTreeMap<String, f64>,
    /// Cores that the broker used; absent where it is part of the load generator's process.
    pub(super) broker_cores: Option<f64>,
    /// Cores that this process used: load generator, receiver, and rumqttd.
    pub(super) load_cores: f64,
    /// Cores of the machine that were busy, whatever with.
    pub(super) machine_cores: f64,
    /// Resident memory at the end, bytes.
    pub(super) resident: u64,
    /// Most resident memory, bytes.
    pub(super) peak: u64,
    /// Bytes written to disk.
    pub(super) written: u64,
}

/// What all have used so far.
struct Used {
    process: Usage,
    threads: BTreeMap<String, Duration>,
    broker: Option<Usage>,
    load: Usage,
    machine: Duration,
}

impl Used {
    fn now(around: &Around) -> std::io::Result<Used> {
        Ok(Used {
            process: Usage::of(Some(around.process))?,
            threads: threads(around.process)?,
            broker: around.broker.map(|id| Usage::of(Some(id))).transpose()?,
            load: Usage::of(None)?,
            machine: machine()?,
        })
    }
}

/// Event time of the first message, and between two messages of one asset.
pub(super) fn event_times(paced: bool) -> (Timestamp, Span) {
    (now().minus(BACK).floor(EVEN), if paced { EVERY_PACED } else { EVERY })
}

/// Sends the load for as long as asked, at `rate` messages a second if there is one, and waits until all of it has
/// been taken.
pub(super) async fn measure(
    args: &BenchArgs,
    url: &str,
    mut around: Around,
    rate: Option<f64>,
) -> anyhow::Result<(Run, Load)> {
    let before = Used::now(&around)?;
    let lead = Lead { most: LEAD, taken: around.taken.clone() };
    let load = load(args, url, lead, rate).await?;
    let mut last = (*around.taken.borrow_and_update(), monotonic());
    while last.0 < load.messages {
        match tokio::time::timeout(PATIENCE, around.taken.wait_for(|taken| *taken > last.0)).await {
            Ok(Ok(taken)) => last = (*taken, monotonic()),
            _ => break,
        }
    }
    let seconds = (last.1 - load.began).as_secs_f64();
    let after = Used::now(&around)?;
    Ok((run(&load, last.0, seconds, &before, &after), load))
}

async fn load(args: &BenchArgs, url: &str, lead: Lead, rate: Option<f64>) -> anyhow::Result<Load> {
    let (start, every) = event_times(rate.is_some());
    let options = LoadOptions {
        sender: SenderOptions {
            url: url.to_owned(),
            version: MqttVersion::V5,
            client_id: format!("bench-{}", std::process::id()),
            window: args.in_flight,
            give_up: PATIENCE,
        },
        messages: u64::MAX,
        rate,
        assets: args.assets as usize,
        signals: SIGNALS,
        start,
        every,
        lead: Some(lead),
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

fn run(load: &Load, taken: u64, seconds: f64, before: &Used, after: &Used) -> Run {
    let cores = |used: Duration| used.as_secs_f64() / seconds;
    let process = after.process.since(before.process);
    let rate = taken as f64 / seconds;
    let threads = after.threads.iter().map(|(name, used)| {
        let earlier = before.threads.get(name).copied().unwrap_or_default();
        (name.clone(), cores(used.saturating_sub(earlier)))
    });
    let broker = after.broker.zip(before.broker).map(|(after, before)| after.since(before).cpu);
    Run {
        sent: load.messages,
        taken,
        seconds,
        messages_per_s: rate,
        readings_per_s: rate * SIGNALS as f64,
        cpu_us_per_message: process.cpu.as_secs_f64() * 1e6 / taken.max(1) as f64,
        cores: cores(process.cpu),
        threads: threads.collect(),
        broker_cores: broker.map(cores),
        load_cores: cores(after.load.since(before.load).cpu),
        machine_cores: cores(after.machine.saturating_sub(before.machine)),
        resident: process.resident,
        peak: process.peak,
        written: process.written,
    }
}
