//! Parcels and single records from a broker: a persistent session, each publish acknowledged once it is on disk.
//!
//! It promises acknowledgements in the order of arrival, on the connection that the publish came over; what was not
//! acknowledged the broker sends again, and the desk knows it.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::desk::{Answer, Door, Letter, Parcel};
use crate::config::MqttConfig;
use crate::link::mqtt::{Dial, Event, Message, Role};
use crate::link::pump::Pump;
use crate::link::{Backoff, SetupError};
use crate::time::{Span, monotonic};
use crate::uplink::wire::PARCEL_MAX;

/// A connection that held this long was a good one: the next wait starts small again.
const GOOD_AFTER: Duration = Duration::from_secs(5);
/// Bytes of a packet beside its payload, at most.
const HEAD_MAX: usize = 128 << 10;

/// A client of a broker.
#[derive(Debug)]
pub(super) struct Subscriber {
    dial: Dial,
    filters: Vec<String>,
    in_flight: usize,
}

impl Subscriber {
    pub(super) fn new(config: &MqttConfig, filters: &[String]) -> Result<Subscriber, SetupError> {
        let packet_max = (PARCEL_MAX + HEAD_MAX) as u32;
        let dial = Dial::new(config, "forebay-receive", Role::Subscriber { packet_max })?;
        Ok(Subscriber { dial, filters: filters.to_vec(), in_flight: config.in_flight.into() })
    }

    /// Takes what comes until `stop`, over one connection after another.
    pub(super) async fn run(self, door: Door, stop: CancellationToken) {
        let mut backoff = Backoff::new(Span::seconds(30));
        let mut told = false;
        loop {
            let started = monotonic();
            let why = tokio::select! {
                why = self.connect(&door) => why,
                () = stop.cancelled() => return,
            };
            if started.elapsed() >= GOOD_AFTER {
                told = false;
                backoff.reset();
            }
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(
                    broker = self.dial.url(),
                    why,
                    "no connection to the broker; it is tried again"
                );
            }
            if tokio::time::timeout(backoff.wait(), stop.cancelled()).await.is_ok() {
                return;
            }
        }
    }

    /// One connection; says why it ended.
    async fn connect(&self, door: &Door) -> String {
        let wanted = |event: &Event| matches!(event, Event::Message(_) | Event::Subscribed(_));
        let mut pump = match Pump::open(&self.dial, self.in_flight.max(16), wanted).await {
            Ok(pump) => pump,
            Err(error) => return error.to_string(),
        };
        if let Err(gone) = pump.client.subscribe(&self.filters).await {
            return gone.to_string();
        }
        let mut waiting: VecDeque<(u16, oneshot::Receiver<Answer>)> = VecDeque::new();
        loop {
            let full = waiting.len() >= self.in_flight;
            tokio::select! {
                event = pump.events.recv(), if !full => match event {
                    Some(Ok(Event::Message(message))) => {
                        let Some(pending) = hand_in(door, message).await else {
                            return "the receiver has ended".into();
                        };
                        waiting.extend(pending);
                    }
                    Some(Ok(Event::Subscribed(answers))) => {
                        if let Some(why) = answers.into_iter().find_map(Result::err) {
                            return format!("the broker refused a subscription: {why}");
                        }
                        tracing::info!(broker = self.dial.url(), "subscribed");
                    }
                    Some(Ok(_)) => {}
                    Some(Err(lost)) => return lost.to_string(),
                    None => return "the connection has ended".into(),
                },
                answer = front(&mut waiting), if !waiting.is_empty() => {
                    let (id, answer) = answer;
                    // Nothing can be refused here: the broker sends it again over the next connection.
                    if answer != Some(Answer::Taken) {
                        return "the disk takes nothing".into();
                    }
                    if pump.client.acknowledge(id).is_err() {
                        return "the connection has ended".into();
                    }
                }
            }
        }
    }
}

/// The answer to the publish that came first, with its packet id.
async fn front(waiting: &mut VecDeque<(u16, oneshot::Receiver<Answer>)>) -> (u16, Option<Answer>) {
    let Some((id, answer)) = waiting.front_mut() else { return std::future::pending().await };
    let (id, answer) = (*id, answer.await.ok());
    waiting.pop_front();
    (id, answer)
}

/// Gives a publish to the desk. `None`: there is no desk any more; nothing inside: nobody waits for its answer.
async fn hand_in(
    door: &Door,
    message: Message,
) -> Option<Option<(u16, oneshot::Receiver<Answer>)>> {
    let Message { topic, payload, id, qos, .. } = message;
    let read = tokio::task::spawn_blocking(move || Parcel::read(&payload)).await.ok()?;
    let parcel = read.unwrap_or_else(|why| {
        tracing::warn!(topic, %why, "a publish cannot be read");
        Parcel::unreadable()
    });
    let (reply, answer) = oneshot::channel();
    door.send(Letter::Parcel(parcel, reply)).await.ok()?;
    Some((qos > 0).then_some((id, answer)))
}
