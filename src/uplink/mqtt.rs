//! Records or whole parcels as MQTT publishes, QoS 1, to a broker on the far side.
//!
//! `node` makes it for `[uplink.targets.NAME.mqtt]`. A parcel is delivered when the broker has acknowledged all that it
//! went out as, with a reason code that says so. The outbox is the session: after any error the connection is
//! dropped with all it knows, and the whole parcel goes out again over a fresh one. What is too large for the broker
//! is refused whether the broker says so (MQTT 5) or just hangs up: see [`Suspicion`].

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;

use crate::config::{MqttEncoding, MqttVersion, UplinkMqttConfig};
use crate::link::SetupError;
use crate::link::mqtt::{Content, Dial, Event, Lost, Qos, Refusal, Role};
use crate::link::pump::{Pump, PumpError};
use crate::link::topic::{Names, Template};
use crate::store::{Key, Parcel};

use super::link::{LinkError, Outcome, Uplink};
use super::suspicion::{Publish, Suspicion};
use super::wire;

/// Publishes on the way at a time; a parcel is small enough that a lost connection sends few records twice.
const WINDOW: u16 = 512;
/// How long the far side may be silent while something is on the way.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Bytes of a PUBACK.
const PUBACK_BYTES: u64 = 4;

/// A broker on the far side.
#[derive(Debug)]
pub struct MqttUplink {
    dial: Dial,
    form: Form,
    pump: Option<Pump>,
    suspicion: Suspicion,
}

/// What a parcel goes out as.
#[derive(Clone, Debug)]
pub struct Form {
    topic: Template,
    encoding: MqttEncoding,
    version: MqttVersion,
    dictionary: bool,
    node: String,
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

impl Form {
    /// As the config says. `node` is filled into topics of parcels.
    ///
    /// # Errors
    /// The topic cannot be used.
    pub fn new(config: &UplinkMqttConfig, node: &str) -> Result<Form, SetupError> {
        let topic = Template::parse(config.topic())?;
        let encoding = config.encoding;
        if encoding == MqttEncoding::Parcels && topic.names_one_record() {
            return Err(SetupError::Range {
                key: "topic",
                found: format!("`{}`", config.topic()),
                expected: "one with {node} and {lane} only, since a parcel holds records of many assets",
            });
        }
        let (version, dictionary) = (config.broker.version, config.dictionary);
        Ok(Form { topic, encoding, version, dictionary, node: node.to_owned() })
    }

    /// The publishes of a parcel.
    ///
    /// # Errors
    /// A line is not a record.
    fn publishes(&self, parcel: &Parcel, level: i32) -> Result<VecDeque<Ready>, LinkError> {
        match self.encoding {
            MqttEncoding::Records => {
                parcel.records().map(|(key, line)| self.record(parcel, key, line)).collect()
            }
            MqttEncoding::Parcels => {
                self.parcel(parcel, level).map(|ready| VecDeque::from([ready]))
            }
        }
    }

    fn record(&self, parcel: &Parcel, key: Key, line: &[u8]) -> Result<Ready, LinkError> {
        let names: Line = serde_json::from_slice(line)
            .map_err(|error| LinkError::Refused { answer: format!("not a record: {error}") })?;
        let topic = self.topic.fill(&Names {
            node: &names.node,
            pipeline: &names.pipeline,
            asset: &names.asset,
            kind: &names.kind,
            lane: parcel.lane.name(),
        });
        let payload = Bytes::copy_from_slice(line);
        Ok(Ready { keys: vec![key], topic, payload, content: None })
    }

    fn parcel(&self, parcel: &Parcel, level: i32) -> Result<Ready, LinkError> {
        let lane = parcel.lane.name();
        let topic = self.topic.fill(&Names { node: &self.node, lane, ..Names::default() });
        let payload = wire::pack(&parcel.ndjson(), level, self.dictionary)
            .map_err(|error| LinkError::Lost(format!("cannot compress a parcel: {error}")))?;
        let user = vec![
            ("content-encoding".to_owned(), "zstd".to_owned()),
            ("idempotency-key".to_owned(), parcel.id.clone()),
        ];
        let content = Some(Content { media: wire::NDJSON.to_owned(), user });
        let keys = parcel.records().map(|(key, _)| key).collect();
        Ok(Ready { keys, topic, payload: payload.into(), content })
    }

    /// A parcel can be made smaller; a record is what it is.
    fn too_large(&self, answer: String) -> LinkError {
        match self.encoding {
            MqttEncoding::Records => LinkError::Refused { answer },
            MqttEncoding::Parcels => LinkError::TooLarge { answer },
        }
    }

    /// Bytes of a PUBLISH packet and of its answer.
    fn bytes_of(&self, ready: &Ready) -> u64 {
        let mut rest = 2 + ready.topic.len() + 2 + ready.payload.len();
        if self.version == MqttVersion::V5 {
            let content = ready.content.as_ref().map_or(0, |content| {
                let user = content.user.iter().map(|(name, value)| 5 + name.len() + value.len());
                3 + content.media.len() + user.sum::<usize>()
            });
            rest += variable_length(content) + content;
        }
        (1 + variable_length(rest) + rest) as u64 + PUBACK_BYTES
    }

    /// Bytes that a parcel puts on the wire.
    ///
    /// # Errors
    /// A line is not a record.
    pub fn wire_bytes(&self, parcel: &Parcel, level: i32) -> Result<u64, LinkError> {
        Ok(self.publishes(parcel, level)?.iter().map(|ready| self.bytes_of(ready)).sum())
    }
}

/// Bytes of a length in MQTT's own encoding: seven bits each.
fn variable_length(length: usize) -> usize {
    match length {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

impl MqttUplink {
    /// Checks the settings, certificates and secrets too. `node` names the client where the config does not.
    ///
    /// # Errors
    /// Whatever would make every send fail.
    pub fn new(config: &UplinkMqttConfig, node: &str) -> Result<MqttUplink, SetupError> {
        let role = Role::Publisher { window: WINDOW };
        let dial = Dial::new(&config.broker, &format!("forebay-{node}-uplink"), role)?;
        let form = Form::new(config, node)?;
        Ok(MqttUplink { dial, form, pump: None, suspicion: Suspicion::default() })
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
        // Two events a publish, and room to spare: the connection never waits for this side.
        let opened = Pump::open(&self.dial, 4 * usize::from(WINDOW), |event| {
            matches!(event, Event::Sent(_) | Event::Acknowledged(..) | Event::Stuck)
        });
        opened.await.map_err(|error| match error {
            PumpError::Setup(error) => LinkError::Setup(error),
            PumpError::Lost(lost) => fault(&lost),
        })
    }

    // Any error drops the connection with all it knows.
    async fn deliver(
        &mut self,
        parcel: &Parcel,
        level: i32,
        done: &mut Done,
    ) -> Result<(), LinkError> {
        let mut records = Publishes::new(self.form.publishes(parcel, level)?);
        if let Some(answer) = self.suspicion.verdict(&records.all(), parcel.lane) {
            return Err(self.form.too_large(answer));
        }
        let mut pump = self.connected().await?;
        if self.suspicion.is_cautious() {
            records.one_by_one();
        }
        while !records.is_done() {
            records.publish(&pump, &self.form, &mut done.wire).await?;
            let event = match tokio::time::timeout(ANSWER_WITHIN, pump.events.recv()).await {
                Ok(Some(Ok(event))) => event,
                Ok(Some(Err(lost))) => {
                    if let Lost::Closed(_) = lost {
                        self.suspicion.closed(records.alone(), !done.keys.is_empty());
                    }
                    return Err(match lost {
                        Lost::OursTooLarge(answer) => self.form.too_large(answer),
                        other => fault(&other),
                    });
                }
                Ok(None) => return Err(LinkError::Lost("the connection has ended".into())),
                Err(_) => return Err(LinkError::Lost("the broker acknowledges nothing".into())),
            };
            if let Some((publish, keys)) = records.note(event)? {
                self.suspicion.took(publish);
                done.keys.extend(keys);
            }
        }
        self.pump = Some(pump);
        Ok(())
    }
}

/// What a send came to.
#[derive(Default)]
struct Done {
    keys: Vec<Key>,
    wire: u64,
}

impl Uplink for MqttUplink {
    async fn send(&mut self, parcel: &Parcel, level: i32) -> Outcome {
        let mut done = Done::default();
        let error = self.deliver(parcel, level, &mut done).await.err();
        Outcome { acked: parcel.acked_keys(done.keys), error, wire: done.wire }
    }

    fn target(&self) -> &str {
        self.dial.url()
    }
}

/// A publish that is ready to go.
struct Ready {
    /// Of the records in it.
    keys: Vec<Key>,
    topic: String,
    payload: Bytes,
    content: Option<Content>,
}

impl Ready {
    fn publish(&self) -> Option<Publish> {
        self.keys.first().map(|first| Publish {
            first: *first,
            records: self.keys.len(),
            size: self.payload.len(),
        })
    }
}

/// The publishes of a parcel, and how far each is.
struct Publishes {
    window: usize,
    waiting: VecDeque<Ready>,
    /// Handed to the connection, in order, without a packet id yet.
    handed: VecDeque<(Publish, Vec<Key>)>,
    /// Sent under these packet ids.
    on_the_way: HashMap<u16, (Publish, Vec<Key>)>,
}

impl Publishes {
    fn new(waiting: VecDeque<Ready>) -> Publishes {
        let (handed, on_the_way) = (VecDeque::new(), HashMap::new());
        Publishes { window: usize::from(WINDOW), waiting, handed, on_the_way }
    }

    fn all(&self) -> Vec<Publish> {
        self.waiting.iter().filter_map(Ready::publish).collect()
    }

    /// Small ones first, so that the one that the broker does not take holds up no other.
    fn one_by_one(&mut self) {
        self.window = 1;
        self.waiting.make_contiguous().sort_by_key(|ready| ready.payload.len());
    }

    /// What is on the way, where it is the only one.
    fn alone(&self) -> Option<Publish> {
        let mut on_the_way = self.handed.iter().chain(self.on_the_way.values());
        on_the_way.next().filter(|_| self.window == 1).map(|(publish, _)| *publish)
    }

    fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.handed.is_empty() && self.on_the_way.is_empty()
    }

    async fn publish(&mut self, pump: &Pump, form: &Form, wire: &mut u64) -> Result<(), LinkError> {
        while self.handed.len() + self.on_the_way.len() < self.window {
            let Some(ready) = self.waiting.pop_front() else { break };
            let (bytes, publish) = (form.bytes_of(&ready), ready.publish());
            let Ready { keys, topic, payload, content } = ready;
            // The queue holds a window, so this does not wait.
            let taken = match content {
                Some(content) => pump.client.publish_content(&topic, payload, content).await,
                None => pump.client.publish(&topic, Qos::One, false, payload).await,
            };
            taken.map_err(|gone| LinkError::Lost(gone.to_string()))?;
            *wire += bytes;
            self.handed.extend(publish.map(|publish| (publish, keys)));
        }
        Ok(())
    }

    // What the broker has now, if anything.
    fn note(&mut self, event: Event) -> Result<Option<(Publish, Vec<Key>)>, LinkError> {
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
        Lost::OursTooLarge(_)
        | Lost::TooLarge { .. }
        | Lost::TakenOver
        | Lost::Closed(_)
        | Lost::Broken(_) => LinkError::Lost(lost.to_string()),
    }
}
