//! Records as MQTT publishes, QoS 1, to a broker on the far side.
//!
//! `node` makes it for `[uplink.target.mqtt]`. A parcel is delivered when the broker has acknowledged every record
//! of it, with a reason code that says so. The outbox is the session: after any error the connection is
//! dropped with all it knows, and the whole parcel goes out again over a fresh one.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;

use crate::config::UplinkMqttConfig;
use crate::link::SetupError;
use crate::link::mqtt::{Dial, Event, Lost, Qos, Refusal, Role};
use crate::link::pump::{Pump, PumpError};
use crate::link::topic::{Names, Template};
use crate::store::{Acked, Parcel};

use super::link::{LinkError, Uplink};

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
        Ok(MqttUplink { dial, topic: Template::parse(&config.topic)?, pump: None })
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
}

impl Uplink for MqttUplink {
    async fn send(&mut self, parcel: &Parcel) -> Result<Acked, LinkError> {
        let mut pump = self.connected().await?;
        let mut records = Records::new(&parcel.records, &self.topic)?;
        while !records.is_done() {
            records.publish(&pump).await?;
            let event = match tokio::time::timeout(ANSWER_WITHIN, pump.events.recv()).await {
                Ok(Some(Ok(event))) => event,
                Ok(Some(Err(lost))) => return Err(fault(&lost)),
                Ok(None) => return Err(LinkError::Lost("the connection has ended".into())),
                Err(_) => return Err(LinkError::Lost("the broker acknowledges nothing".into())),
            };
            records.note(event)?;
        }
        // Any error above has dropped the connection; this one is good for the next parcel.
        self.pump = Some(pump);
        Ok(parcel.acked())
    }

    fn target(&self) -> &str {
        self.dial.url()
    }
}

/// The records of a parcel, and how far each is.
struct Records {
    waiting: VecDeque<(String, Bytes)>,
    /// Handed to the connection, in order, without a packet id yet.
    handed: usize,
    /// Sent under these packet ids, each for one record.
    on_the_way: HashSet<u16>,
}

impl Records {
    fn new<K>(records: &[(K, Vec<u8>)], topic: &Template) -> Result<Records, LinkError> {
        let mut waiting = VecDeque::with_capacity(records.len());
        for (_, line) in records {
            let names: Line = serde_json::from_slice(line)
                .map_err(|error| LinkError::Refused { answer: format!("not a record: {error}") })?;
            let topic = topic.fill(&Names {
                node: &names.node,
                pipeline: &names.pipeline,
                asset: &names.asset,
                kind: &names.kind,
            });
            waiting.push_back((topic, Bytes::from(line.clone())));
        }
        Ok(Records { waiting, handed: 0, on_the_way: HashSet::new() })
    }

    fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.handed == 0 && self.on_the_way.is_empty()
    }

    async fn publish(&mut self, pump: &Pump) -> Result<(), LinkError> {
        while self.handed + self.on_the_way.len() < usize::from(WINDOW) {
            let Some((topic, line)) = self.waiting.pop_front() else { break };
            // The queue holds a window, so this does not wait.
            let taken = pump.client.publish(&topic, Qos::One, false, line).await;
            taken.map_err(|gone| LinkError::Lost(gone.to_string()))?;
            self.handed += 1;
        }
        Ok(())
    }

    fn note(&mut self, event: Event) -> Result<(), LinkError> {
        match event {
            Event::Sent(id) if id != 0 && self.handed > 0 => {
                self.handed -= 1;
                self.on_the_way.insert(id);
                Ok(())
            }
            Event::Acknowledged(id, Ok(())) if self.on_the_way.remove(&id) => Ok(()),
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
        Lost::OursTooLarge { .. } => LinkError::Refused { answer: lost.to_string() },
        Lost::TooLarge { .. } | Lost::Broken(_) => LinkError::Lost(lost.to_string()),
    }
}
