//! Records or whole parcels as MQTT publishes, QoS 1, to a broker on the far side.
//!
//! `node` makes it for `[uplink.targets.NAME.mqtt]`. What a parcel goes out as is decided here ([`Form`]); one connection
//! carries all that are on their way, and a task of its own looks after it: see `courier`.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use crate::config::{MqttEncoding, MqttVersion, UplinkMqttConfig};
use crate::link::SetupError;
use crate::link::mqtt::{Content, Dial, Role};
use crate::link::topic::{Names, Template};
use crate::store::{Key, Parcel};

use super::courier::{Courier, Letter, WINDOW};
use super::link::{LinkError, Outcome, Sending, Uplink};
use super::suspicion::Publish;
use super::wire;

/// Parcels that may be handed over and not looked at: more are never on the way.
const LETTERS_MAX: usize = 64;
/// Bytes of a PUBACK.
const PUBACK_BYTES: u64 = 4;

/// A broker on the far side.
#[derive(Debug)]
pub struct MqttUplink {
    dial: Dial,
    form: Form,
    /// To the task that has the connection; it starts with the first parcel.
    courier: Option<mpsc::Sender<Letter>>,
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
    pub(super) fn publishes(
        &self,
        parcel: &Parcel,
        level: i32,
    ) -> Result<VecDeque<Ready>, LinkError> {
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
    pub(super) fn too_large(&self, answer: String) -> LinkError {
        match self.encoding {
            MqttEncoding::Records => LinkError::Refused { answer },
            MqttEncoding::Parcels => LinkError::TooLarge { answer },
        }
    }

    /// Bytes of a PUBLISH packet and of its answer.
    pub(super) fn bytes_of(&self, ready: &Ready) -> u64 {
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

    /// Why a broker that takes packets up to `packet_max` bytes would not take this publish.
    pub(super) fn over(&self, ready: &Ready, packet_max: Option<u32>) -> Option<LinkError> {
        let size = self.bytes_of(ready) - PUBACK_BYTES;
        let most = u64::from(packet_max?);
        (size > most).then(|| self.too_large(format!("a publish of {size} bytes; it takes {most}")))
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
        Ok(MqttUplink { dial, form, courier: None })
    }

    fn courier(&mut self) -> mpsc::Sender<Letter> {
        let start = || {
            let (sender, letters) = mpsc::channel(LETTERS_MAX);
            tokio::spawn(Courier::new(self.dial.clone(), self.form.clone(), letters).run());
            sender
        };
        self.courier.get_or_insert_with(start).clone()
    }
}

impl Uplink for MqttUplink {
    fn send(&mut self, parcel: Arc<Parcel>, level: i32) -> Sending {
        let courier = self.courier();
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            let letter = Letter { parcel: Arc::clone(&parcel), level, answer };
            let lost = || Outcome {
                acked: parcel.acked_keys([]),
                error: Some(LinkError::Lost("the connection's task has ended".into())),
                wire: 0,
            };
            match courier.send(letter).await {
                Ok(()) => answered.await.unwrap_or_else(|_| lost()),
                Err(_) => lost(),
            }
        })
    }

    fn target(&self) -> &str {
        self.dial.url()
    }
}

/// A publish that is ready to go.
pub(super) struct Ready {
    /// Of the records in it.
    pub(super) keys: Vec<Key>,
    pub(super) topic: String,
    pub(super) payload: Bytes,
    pub(super) content: Option<Content>,
}

impl Ready {
    pub(super) fn publish(&self) -> Option<Publish> {
        self.keys.first().map(|first| Publish {
            first: *first,
            records: self.keys.len(),
            size: self.payload.len(),
        })
    }
}
