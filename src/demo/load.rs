//! A load for measuring: many assets, one message shape, as fast as a broker takes it or at a fixed rate; and the
//! simplest possible subscriber to compare with.
//!
//! `cli/bench` uses both. Payloads are as the pump pipeline expects them, clean, and made beforehand, so that the load
//! costs little beside what is measured. Event times start in the past and never pass the wall clock.

use std::fmt::Write;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use rumqttc::v5;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::DemoError;
use super::plant::{asset_id, site_of};
use super::pump::Signal;
use super::sender::{Sender, SenderOptions, broker_address};
use crate::config::MqttVersion;
use crate::link::mqtt::{Client, Connection, Event};
use crate::time::{Span, Timestamp, monotonic};

/// Different payloads for each load; after so many they come again with later times.
const SHAPES: usize = 512;

/// What to send.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Where to.
    pub sender: SenderOptions,
    /// Messages in all; sending ends before if it is told to stop.
    pub messages: u64,
    /// Messages a second; as fast as the broker takes them if `None`.
    pub rate: Option<f64>,
    /// Assets, in turn.
    pub assets: usize,
    /// Signals in each message, 1 to 8.
    pub signals: usize,
    /// Event time of the first message.
    pub start: Timestamp,
    /// Event time between two messages of one asset.
    pub every: Span,
    /// Never be further ahead of the subscriber than this; `None`: as far as the broker lets it.
    pub lead: Option<Lead>,
}

/// How far the load may be ahead of who takes it: a broker's queue stays short, so that what is measured is the
/// subscriber and not the queue.
#[derive(Clone, Debug)]
pub struct Lead {
    /// Messages.
    pub most: u64,
    /// How many the subscriber has taken, as far as is known.
    pub taken: watch::Receiver<u64>,
}

impl Lead {
    /// Waits until message `number` may go out. Ends too if nobody counts any more.
    async fn wait(&mut self, number: u64) {
        let most = self.most;
        let _ = self.taken.wait_for(|taken| number < taken + most).await;
    }
}

/// What was sent, and when.
#[derive(Clone, Debug)]
pub struct Load {
    /// Messages that the broker acknowledged.
    pub messages: u64,
    /// Readings in them.
    pub readings: u64,
    /// Bytes of payload.
    pub bytes: u64,
    /// From the first message to the last PUBACK.
    pub took: Duration,
    /// Messages sent more than once.
    pub resent: u64,
    /// When it began.
    pub began: Instant,
    assets: usize,
    start: Timestamp,
    every: Span,
    /// Microseconds from `began` at which each message was handed over.
    sent: Vec<u32>,
}

impl Load {
    /// How many assets sent.
    pub fn asset_count(&self) -> usize {
        self.assets
    }

    /// When the first message of `asset` (counted from 0) with an event time at or after `ts` was handed over: for a
    /// window, ask with its end plus lateness. `None` if there was none.
    pub fn sent_at(&self, asset: usize, ts: Timestamp) -> Option<Instant> {
        let steps = (ts.since(self.start).0.max(0) as u64).div_ceil(self.every.0 as u64);
        let index = steps as usize * self.assets + asset;
        let micros = self.sent.get(index)?;
        Some(self.began + Duration::from_micros(u64::from(*micros)))
    }
}

/// Sends a load and waits for its last PUBACK.
pub async fn publish(mut options: LoadOptions, stop: CancellationToken) -> Result<Load, DemoError> {
    let shapes = shapes(options.signals.clamp(1, 8));
    let topics: Vec<String> = (0..options.assets.max(1)).map(topic).collect();
    let mut sender = Sender::connect(options.sender).await?;
    let mut load = Load {
        messages: 0,
        readings: 0,
        bytes: 0,
        took: Duration::ZERO,
        resent: 0,
        began: monotonic(),
        assets: topics.len(),
        start: options.start,
        every: options.every,
        sent: Vec::with_capacity(options.messages.min(1 << 20) as usize),
    };
    for number in 0..usize::try_from(options.messages).unwrap_or(usize::MAX) {
        if stop.is_cancelled() {
            break;
        }
        if let Some(rate) = options.rate {
            let due = Duration::from_secs_f64(number as f64 / rate);
            if let Some(wait) = due.checked_sub(load.began.elapsed()).filter(|w| w.as_millis() > 1)
            {
                tokio::time::sleep(wait).await;
            }
        }
        if let Some(lead) = &mut options.lead {
            tokio::select! {
                () = lead.wait(number as u64) => {}
                () = stop.cancelled() => break,
            }
        }
        let step = number / topics.len();
        let ts = options.start.plus(Span(options.every.0 * step as i64));
        let payload = payload(ts, &shapes[number % SHAPES]);
        load.bytes += payload.len() as u64;
        load.sent.push(load.began.elapsed().as_micros() as u32);
        sender.send(topics[number % topics.len()].clone(), Bytes::from(payload)).await?;
    }
    sender.drain().await?;
    load.took = load.began.elapsed();
    load.messages = sender.acked();
    load.readings = load.messages * options.signals.clamp(1, 8) as u64;
    load.resent = sender.resent();
    sender.close().await?;
    Ok(load)
}

/// The messages of asset 0, one after the other, as [`publish`] sends them: to find out beforehand what they cause.
pub fn messages(
    signals: usize,
    start: Timestamp,
    every: Span,
) -> impl Iterator<Item = (Timestamp, String)> {
    let shapes = shapes(signals.clamp(1, 8));
    (0..).map(move |step: i64| {
        let ts = start.plus(Span(every.0 * step));
        (ts, payload(ts, &shapes[step as usize % SHAPES]))
    })
}

fn payload(ts: Timestamp, shape: &str) -> String {
    format!("{{\"ts\":{}{shape}", ts.0 / 1000)
}

/// Topic of an asset of the load.
pub fn topic(asset: usize) -> String {
    format!("plant/{}/pump/{}/telemetry", site_of(asset), asset_id(asset))
}

/// Payloads behind the time: values that move within the limits of `schemas/pump.toml`.
fn shapes(signals: usize) -> Vec<String> {
    let middle = [2.0, 48.0, 55.0, 1.7, 6.4, 108.0, 1270.0, 36.0];
    let shape = |number: usize| {
        let mut text = String::new();
        for (signal, middle) in Signal::ALL.into_iter().zip(middle).take(signals) {
            let turn = (number * (3 + signal as usize)) as f64 / SHAPES as f64;
            let value = middle * (1.0 + 0.02 * (turn * std::f64::consts::TAU).sin());
            write!(text, ",\"{}\":{value:.*}", signal.name(), signal.decimals())
                .expect("invariant: writing to a string does not fail");
        }
        text + "}"
    };
    (0..SHAPES).map(shape).collect()
}

/// A subscriber that does nothing but count and acknowledge, one by one as the node must: the most that any node could take.
#[derive(Debug)]
pub struct Subscriber {
    progress: watch::Receiver<Taken>,
    task: tokio::task::JoinHandle<()>,
}

/// What a bare subscriber has taken so far.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// Whether its subscription is in force.
    pub ready: bool,
    /// Messages.
    pub messages: u64,
    /// When the first and the latest came.
    pub between: Option<(Instant, Instant)>,
    /// Why it ended, if it did.
    pub failed: Option<String>,
}

impl Subscriber {
    /// Connects and subscribes to `filter`; `in_flight` is the most that may be unacknowledged.
    pub async fn start(
        url: &str,
        version: MqttVersion,
        filter: &str,
        in_flight: u16,
    ) -> Result<Subscriber, DemoError> {
        let (host, port) = broker_address(url)?;
        let (tx, mut progress) = watch::channel(Taken::default());
        let filter = filter.to_owned();
        let id = format!("bare-{}", std::process::id());
        // Acknowledgements wait here for the connection; a full one would end it. Mosquitto was seen to send more than
        // its in-flight limit to a 3.1.1 client.
        let places = 1 << 16;
        let (client, connection) = match version {
            MqttVersion::V311 => {
                let mut options = rumqttc::MqttOptions::new(id, host, port);
                options.set_manual_acks(true).set_keep_alive(Duration::from_mins(1));
                options.set_max_packet_size(1 << 20, 1 << 20);
                let (client, mut events) = rumqttc::AsyncClient::new(options, places);
                let mut network = rumqttc::NetworkOptions::new();
                network.set_tcp_nodelay(true);
                events.set_network_options(network);
                (Client::V4(client), Connection::V4(Box::new(events)))
            }
            MqttVersion::V5 => {
                let mut options = v5::MqttOptions::new(id, host, port);
                options.set_manual_acks(true).set_keep_alive(Duration::from_mins(1));
                options.set_receive_maximum(Some(in_flight));
                options.set_outgoing_inflight_upper_limit(16);
                let (client, events) = v5::AsyncClient::new(options, places);
                (Client::V5(client), Connection::V5(Box::new(events)))
            }
        };
        let task = tokio::spawn(run(client, connection, filter, tx));
        let first = progress.wait_for(|taken| taken.ready || taken.failed.is_some()).await;
        let failed = first.map_or(Some("it ended".to_owned()), |taken| taken.failed.clone());
        if let Some(reason) = failed {
            return Err(DemoError::Broker { url: url.to_owned(), waited_s: 0, reason });
        }
        Ok(Subscriber { progress, task })
    }

    /// What it has taken so far.
    pub fn taken(&self) -> Taken {
        self.progress.borrow().clone()
    }

    /// Waits until `messages` have come, or none for `patience`; then ends it.
    pub async fn finish(mut self, messages: u64, patience: Duration) -> Taken {
        while self.taken().messages < messages && self.taken().failed.is_none() {
            let before = self.taken().messages;
            let more = self.progress.wait_for(|t| t.messages > before || t.failed.is_some());
            if tokio::time::timeout(patience, more).await.is_err() {
                break;
            }
        }
        self.task.abort();
        self.taken()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn count(progress: &watch::Sender<Taken>) {
    let now = monotonic();
    progress.send_modify(|taken| {
        taken.messages += 1;
        taken.between = Some((taken.between.map_or(now, |(first, _)| first), now));
    });
}

async fn run(
    client: Client,
    mut connection: Connection,
    filter: String,
    progress: watch::Sender<Taken>,
) {
    let filters = [filter];
    let failed = loop {
        let done = match connection.poll().await {
            Ok(Event::Connected { .. }) => client.subscribe(&filters).await,
            Ok(Event::Subscribed(_)) => {
                progress.send_modify(|taken| taken.ready = true);
                Ok(())
            }
            Ok(Event::Message(message)) => {
                count(&progress);
                client.acknowledge(message.id)
            }
            Ok(_) => Ok(()),
            Err(error) => break error.to_string(),
        };
        if let Err(gone) = done {
            break gone.to_string();
        }
    };
    progress.send_modify(|taken| taken.failed = Some(failed));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_closed_by_the_first_message_past_it() {
        let began = monotonic();
        let load = Load {
            messages: 6,
            readings: 6,
            bytes: 0,
            took: Duration::ZERO,
            resent: 0,
            began,
            assets: 2,
            start: Timestamp(1_000_000),
            every: Span::seconds(1),
            sent: vec![10, 11, 20, 21, 30, 31],
        };
        let at = |asset, us| load.sent_at(asset, Timestamp(us)).map(|i| (i - began).as_micros());
        assert_eq!(at(0, 0), Some(10));
        assert_eq!(at(1, 1_000_000), Some(11));
        assert_eq!(at(1, 1_000_001), Some(21));
        assert_eq!(at(0, 3_000_000), Some(30));
        assert_eq!(at(0, 3_000_001), None);
    }
}
