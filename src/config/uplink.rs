//! `[uplink]`: where records go, how, and what that may cost.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytesize::ByteSize;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{MqttConfig, Secret};
use crate::time::Span;

/// Where records go, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UplinkConfig {
    /// The far sides, each under its name. Each has a queue of its own, so that a slow one delays no other. One that is
    /// renamed keeps its queue; a new one starts where the slowest is.
    pub targets: BTreeMap<String, TargetConfig>,
    /// Most bytes of one send, before compression. What is sent at once follows what the link carries.
    #[serde(default = "parcel_limit")]
    #[schemars(with = "String", extend("format" = "byte-size"))]
    pub parcel: ByteSize,
    /// Longest wait between two tries.
    #[serde(default = "retry_max")]
    pub retry_max: Span,
    /// How long a stopping node goes on sending.
    #[serde(default = "drain_for")]
    pub drain_for: Span,
    /// Most bytes a second on the wire, for each target. Absent: what the link carries. Alarms do not wait for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "byte-size"))]
    pub rate: Option<ByteSize>,
    /// How long records other than alarms are gathered before they are sent: few large parcels cost less than many
    /// small ones.
    #[serde(default)]
    pub gather: Span,
    /// Share of the link that fresh records have while a backlog drains, 0 to 1; alarms go before both.
    #[serde(default = "fresh_share")]
    pub fresh: f64,
    /// What each target may send in a day and a month. Absent: as much as there is.
    #[serde(default)]
    pub budget: BudgetConfig,
}

impl UplinkConfig {
    /// One target, and every other setting as usual.
    pub fn to(name: &str, target: TargetConfig) -> UplinkConfig {
        UplinkConfig {
            targets: BTreeMap::from([(name.to_owned(), target)]),
            parcel: parcel_limit(),
            retry_max: retry_max(),
            drain_for: drain_for(),
            rate: None,
            gather: Span::ZERO,
            fresh: fresh_share(),
            budget: BudgetConfig::default(),
        }
    }
}

/// Bytes on the wire that may be sent in a day and a month, in UTC. Alarms count, but always go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BudgetConfig {
    /// Of all lanes together, from midnight to midnight.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "byte-size"))]
    pub day: Option<ByteSize>,
    /// Of all lanes together, from the first of a month on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "byte-size"))]
    pub month: Option<ByteSize>,
    /// Of scored windows.
    pub score: LaneBudgetConfig,
    /// Of features.
    pub feature: LaneBudgetConfig,
    /// Of raw readings.
    pub raw: LaneBudgetConfig,
}

/// Bytes on the wire that one lane may send in a day and a month.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LaneBudgetConfig {
    /// From midnight to midnight, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "byte-size"))]
    pub day: Option<ByteSize>,
    /// From the first of a month on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "byte-size"))]
    pub month: Option<ByteSize>,
}

fn fresh_share() -> f64 {
    0.5
}

fn parcel_limit() -> ByteSize {
    ByteSize::kib(512)
}

fn retry_max() -> Span {
    Span::seconds(30)
}

fn drain_for() -> Span {
    Span::seconds(5)
}

/// The far side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TargetConfig {
    /// POST of NDJSON, zstd compressed.
    Http(HttpConfig),
    /// Publishes of records or of parcels, QoS 1.
    Mqtt(UplinkMqttConfig),
}

impl TargetConfig {
    /// Where to, without credentials.
    pub fn url(&self) -> &str {
        match self {
            TargetConfig::Http(http) => &http.url,
            TargetConfig::Mqtt(mqtt) => &mqtt.broker.url,
        }
    }

    /// Most parcels on the way at once.
    pub fn in_flight(&self) -> usize {
        match self {
            TargetConfig::Http(http) => http.in_flight,
            TargetConfig::Mqtt(mqtt) => mqtt.in_flight,
        }
    }
}

/// An HTTP target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// `https://host/path`.
    pub url: String,
    /// Sent as `Authorization: Bearer …`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// Further headers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// File of the certificate authority (PEM). Absent: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Longest time for one send.
    #[serde(default = "http_timeout")]
    pub timeout: Span,
    /// Whether parcels are compressed with Forebay's dictionary, which makes small ones smaller. Only for receivers that
    /// have it, like `forebay receive`.
    #[serde(default)]
    pub dictionary: bool,
    /// Most parcels on the way at once, each over a connection of its own, beside as many of alarms: how many there are
    /// follows the link. With 1, parcels arrive in the order in which they left.
    #[serde(default = "in_flight")]
    pub in_flight: usize,
}

impl HttpConfig {
    /// To this address, and every other setting as usual.
    pub fn to(url: impl Into<String>) -> HttpConfig {
        HttpConfig {
            url: url.into(),
            token: None,
            headers: BTreeMap::new(),
            ca: None,
            timeout: http_timeout(),
            dictionary: false,
            in_flight: in_flight(),
        }
    }
}

fn http_timeout() -> Span {
    Span::seconds(30)
}

/// An MQTT target: its own broker and credentials.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UplinkMqttConfig {
    /// The broker.
    pub broker: MqttConfig,
    /// What a publish holds.
    #[serde(default)]
    pub encoding: MqttEncoding,
    /// Its topic. Of a record, `{node}`, `{pipeline}`, `{asset}`, `{type}` and `{lane}` are filled in, of a parcel
    /// `{node}` and `{lane}`. Absent: `forebay/{node}/{pipeline}/{asset}/{type}` or `forebay/{node}/parcels/{lane}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Whether parcels are compressed with Forebay's dictionary, which makes small ones smaller. Only for receivers that
    /// have it, like `forebay receive`.
    #[serde(default)]
    pub dictionary: bool,
    /// Most parcels on the way at once, beside as many of alarms: how many there are follows the link.
    #[serde(default = "in_flight")]
    pub in_flight: usize,
}

/// Usual number of parcels on the way at once, at most.
fn in_flight() -> usize {
    8
}

/// What a publish to an MQTT target holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MqttEncoding {
    /// One record, as JSON.
    #[default]
    Records,
    /// Many records of one lane, as NDJSON, zstd compressed: from ten on a fifth of the bytes or less.
    Parcels,
}

impl UplinkMqttConfig {
    /// A publish a record, on this topic.
    pub fn records(broker: MqttConfig, topic: &str) -> UplinkMqttConfig {
        let (encoding, topic) = (MqttEncoding::Records, Some(topic.to_owned()));
        UplinkMqttConfig { broker, encoding, topic, dictionary: false, in_flight: in_flight() }
    }

    /// The topic, or the usual one.
    pub fn topic(&self) -> &str {
        self.topic.as_deref().unwrap_or(match self.encoding {
            MqttEncoding::Records => "forebay/{node}/{pipeline}/{asset}/{type}",
            MqttEncoding::Parcels => "forebay/{node}/parcels/{lane}",
        })
    }
}
