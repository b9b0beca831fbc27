//! Records as MQTT publishes, QoS 1, to a broker on the far side.
//!
//! `node` makes it for `[uplink.target.mqtt]`. A parcel is delivered when the broker has acknowledged every record
//! of it, with a reason code that says so. The outbox is the session: after any error the connection is
//! dropped with all it knows, and the whole parcel goes out again over a fresh one. A record too large for the broker
//! is refused whether the broker says so (MQTT 5) or just hangs up: see [`Suspicion`].

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;

use crate::config::UplinkMqttConfig;
use crate::link::SetupError;
use crate::link::mqtt::{Dial, Event, Lost, Qos, Refusal, Role};
use crate::link::pump::{Pump, PumpError};
use crate::link::topic::{Names, Template};
use crate::store::{Key, Parcel};

use super::link::{LinkError, Outcome, Uplink};
use super::suspicion::{Sent, Suspicion};

/// Records on the way at a time: small, so that a lost connection sends few of them twice.
const WINDOW: u16 = 32;
/// How long the far side may be silent while records are on the way.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A broker on the far side.
#[derive(Debug)]
pub struct MqttUplink {
    dial: Dial,
    topic: Template,
    pump: Option<Pump>,
    suspicion: Suspicion,
}

/// The names in a record's line.
#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    node: String,
    #[serde(default)]
    pipeline: String,
    #[serde(default)]
    asset: String,
    #[serde(default, rename = "type")]
    kind: String,
}

impl MqttUplink {
    /// Checks the settings, certificates and secrets too. `node` names the client where the config does not.
    ///
    /// # Errors
    /// Whatever would make every send fail.
    pub fn new(config: &UplinkMqttConfig, node: &str) -> Result<MqttUplink, SetupError> {
        let role = Role::Publisher { window: WINDOW };
        let dial = Dial::new(&config.broker, &format!("forebay-{node}-uplink"), role)?;
        Ok(MqttUplink {
            dial,
            topic: Template::parse(&config.topic)?,
            pump: None,
            suspicion: Suspicion::default(),
        })
    }

    async fn connected(&mut self) -> Result<Pump, LinkError> {
        // Between parcels nothing is on the way, so an end that nobody noticed has cost nothing.
        if let Some(mut pump) = self.pump.take() {
            let ended = loop {
                match pump.events.try_recv() {
                    Ok(Ok(_)) => {}
                    Ok(Err(_)) => break true,
                    Err(error) => {
                        break error == tokio::sync::mpsc::error::TryRecvError::Disconnected;
                    }
                }
            };
            if !ended {
                return Ok(pump);
            }
        }
        // Two events a record, and room to spare: the connection never waits for this side.
        let opened = Pump::open(&self.dial, 4 * usize::from(WINDOW), |event| {
            matches!(event, Event::Sent(_) | Event::Acknowledged(..) | Event::Stuck)
        });
        opened.await.map_err(|error| match error {
            PumpError::Setup(error) => LinkError::Setup(error),
            PumpError::Lost(lost) => fault(&lost),
        })
    }

    // Any error drops the connection with all it knows.
    async fn deliver(&mut self, parcel: &Parcel, acked: &mut Vec<Key>) -> Result<(), LinkError> {
        if let Some(answer) = self.suspicion.verdict(parcel) {
            return Err(LinkError::Refused { answer });
        }
        let mut pump = self.connected().await?;
        let mut records = Records::new(parcel, &self.topic)?;
        if self.suspicion.is_cautious() {
            records.one_by_one();
        }
        while !records.is_done() {
            records.publish(&pump).await?;
            let event = match tokio::time::timeout(ANSWER_WITHIN, pump.events.recv()).await {
                Ok(Some(Ok(event))) => event,
                Ok(Some(Err(lost))) => {
                    if let Lost::Closed(_) = lost {
                        self.suspicion.closed(records.alone(), !acked.is_empty());
                    }
                    return Err(fault(&lost));
                }
                Ok(None) => return Err(LinkError::Lost("the connection has ended".into())),
                Err(_) => return Err(LinkError::Lost("the broker acknowledges nothing".into())),
            };
            if let Some(record) = records.note(event)? {
                self.suspicion.took(record);
                acked.push(record.key);
            }
        }
        self.pump = Some(pump);
        Ok(())
    }
}

impl Uplink for MqttUplink {
    async fn send(&mut self, parcel: &Parcel) -> Outcome {
        let mut acked = Vec::new();
        let error = self.deliver(parcel, &mut acked).await.err();
        Outcome { acked: parcel.acked_keys(acked), error }
    }

    fn target(&self) -> &str {
        self.dial.url()
    }
}

/// The records of a parcel, and how far each is.
struct Records {
    window: usize,
    waiting: VecDeque<(Key, String, Bytes)>,
    /// Handed to the connection, in order, without a packet id yet.
    handed: VecDeque<Sent>,
    /// Sent under these packet ids.
    on_the_way: HashMap<u16, Sent>,
}

impl Records {
    fn new(parcel: &Parcel, topic: &Template) -> Result<Records, LinkError> {
        let mut waiting = VecDeque::with_capacity(parcel.len());
        for (key, line) in parcel.records() {
            let names: Line = serde_json::from_slice(line)
                .map_err(|error| LinkError::Refused { answer: format!("not a record: {error}") })?;
            let topic = topic.fill(&Names {
                node: &names.node,
                pipeline: &names.pipeline,
                asset: &names.asset,
                kind: &names.kind,
            });
            waiting.push_back((key, topic, Bytes::copy_from_slice(line)));
        }
        let (handed, on_the_way) = (VecDeque::new(), HashMap::new());
        Ok(Records { window: usize::from(WINDOW), waiting, handed, on_the_way })
    }

    /// Small ones first, so that the one that the broker does not take holds up no other.
    fn one_by_one(&mut self) {
        self.window = 1;
        self.waiting.make_contiguous().sort_by_key(|(_, _, line)| line.len());
    }

    /// The record on the way, where it is the only one.
    fn alone(&self) -> Option<Sent> {
        let mut on_the_way = self.handed.iter().chain(self.on_the_way.values());
        on_the_way.next().filter(|_| self.window == 1).copied()
    }

    fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.handed.is_empty() && self.on_the_way.is_empty()
    }

    async fn publish(&mut self, pump: &Pump) -> Result<(), LinkError> {
        while self.handed.len() + self.on_the_way.len() < self.window {
            let Some((key, topic, line)) = self.waiting.pop_front() else { break };
            let size = line.len();
            // The queue holds a window, so this does not wait.
            let taken = pump.client.publish(&topic, Qos::One, false, line).await;
            taken.map_err(|gone| LinkError::Lost(gone.to_string()))?;
            self.handed.push_back(Sent { key, size });
        }
        Ok(())
    }

    // The record that the broker has now, if any.
    fn note(&mut self, event: Event) -> Result<Option<Sent>, LinkError> {
        match event {
            Event::Sent(id) if id != 0 && !self.handed.is_empty() => {
                self.on_the_way.extend(self.handed.pop_front().map(|record| (id, record)));
                Ok(None)
            }
            Event::Acknowledged(id, Ok(())) if self.on_the_way.contains_key(&id) => {
                Ok(self.on_the_way.remove(&id))
            }
            Event::Acknowledged(_, Err(Refusal { reason, about_message: true })) => {
                Err(LinkError::Refused { answer: reason })
            }
            Event::Acknowledged(_, Err(Refusal { reason, .. })) => {
                Err(LinkError::Unwelcome { answer: reason })
            }
            other => Err(LinkError::Lost(format!("the broker mixes up its answers: {other:?}"))),
        }
    }
}

fn fault(lost: &Lost) -> LinkError {
    match lost {
        Lost::Refused(answer) => LinkError::Unwelcome { answer: answer.clone() },
        Lost::OursTooLarge(_) => LinkError::Refused { answer: lost.to_string() },
        Lost::TooLarge { .. } | Lost::TakenOver | Lost::Closed(_) | Lost::Broken(_) => {
            LinkError::Lost(lost.to_string())
        }
    }
}
