//! `config.toml`: this node. What changes from site to site, and nothing of what is computed.
//!
//! Read by `cli`, handed to `node` in parts. Any key can be overridden by an environment variable
//! (`FOREBAY_MQTT__URL` for `mqtt.url`); a secret is never in the file but `{ env = "NAME" }` or `{ file = "PATH" }`.

pub mod address;
pub mod load;
mod models;
mod retention;
mod rules;
pub mod space;

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytesize::ByteSize;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time::Span;

pub use models::{ModelsConfig, OnnxConfig};
pub use retention::{KeepConfig, RetentionConfig};

/// The node's settings, as typed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The node's name in records, topics and ids; one word for each gateway.
    pub node: String,
    /// Folder of pipeline files. Relative paths start at this file.
    #[serde(default = "pipelines")]
    pub pipelines: PathBuf,
    /// Folder of asset schemas.
    #[serde(default = "schemas")]
    pub schemas: PathBuf,
    /// The broker on the site.
    #[serde(default)]
    pub mqtt: MqttConfig,
    /// Where journal, records and checkpoints are kept.
    #[serde(default)]
    pub store: StoreConfig,
    /// Where records go. Absent: they stay in the store, within its limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<UplinkConfig>,
    /// What is shown on the site.
    #[serde(default)]
    pub feed: FeedConfig,
    /// Which ONNX Runtime is used.
    #[serde(default)]
    pub onnxruntime: OnnxConfig,
    /// Whose models are run.
    #[serde(default)]
    pub models: ModelsConfig,
    /// Limits on what comes from outside.
    #[serde(default)]
    pub limits: LimitsConfig,
}

impl Config {
    /// The settings of a node of this name that says nothing else.
    pub fn named(node: &str) -> Config {
        Config {
            node: node.to_owned(),
            pipelines: pipelines(),
            schemas: schemas(),
            mqtt: MqttConfig::default(),
            store: StoreConfig::default(),
            uplink: None,
            feed: FeedConfig::default(),
            onnxruntime: OnnxConfig::default(),
            models: ModelsConfig::default(),
            limits: LimitsConfig::default(),
        }
    }
}

fn pipelines() -> PathBuf {
    "pipelines".into()
}

fn schemas() -> PathBuf {
    "schemas".into()
}

/// A secret: where it is, never what it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Secret {
    /// In this environment variable.
    Env(String),
    /// In this file (its last line break is not part of it).
    File(PathBuf),
}

/// Version of the MQTT protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MqttVersion {
    /// MQTT 3.1.1.
    #[serde(rename = "3.1.1")]
    V311,
    /// MQTT 5.
    #[default]
    #[serde(rename = "5")]
    V5,
}

/// A connection to a broker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MqttConfig {
    /// `mqtt://host:1883` or `mqtts://host:8883`.
    pub url: String,
    /// Protocol version.
    pub version: MqttVersion,
    /// Client id. Absent: `forebay-` and the node's name. Two clients with one id throw each other out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// User name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Secret>,
    /// Password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// File of the certificate authority (PEM) that signed the broker's certificate. Absent: the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// File of this client's certificate (PEM), where the broker asks for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// File of this client's private key (PEM).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// How often an idle connection is proved alive; at least 5 s.
    pub keep_alive: Span,
    /// How many messages the broker may have sent that are not yet acknowledged (`max_inflight_messages` there).
    /// A tick closes when so many have come, so a small number costs throughput.
    pub in_flight: u16,
    /// How long the broker keeps the session while the node is away (MQTT 5).
    pub session_expiry: Span,
}

impl Default for MqttConfig {
    fn default() -> Self {
        MqttConfig {
            url: "mqtt://127.0.0.1:1883".into(),
            version: MqttVersion::V5,
            client_id: None,
            user: None,
            password: None,
            ca: None,
            certificate: None,
            key: None,
            keep_alive: Span::seconds(30),
            in_flight: 1000,
            session_expiry: Span::seconds(7 * 24 * 3600),
        }
    }
}

/// The store: its place and its limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// Its folder.
    pub path: PathBuf,
    /// Longest time a tick stays open: what a reading waits before it is durable.
    pub tick: Span,
    /// A tick closes at so many readings.
    pub tick_readings: usize,
    /// When what is acknowledged is safe from a power cut: with every tick, or once in `sync_every`. A crash of the
    /// process alone loses nothing either way.
    pub durability: DurabilityConfig,
    /// With `durability = "interval"`: what a power cut may lose.
    pub sync_every: Span,
    /// Ticks between checkpoints: how much a start replays.
    pub checkpoint_every: Span,
    /// Most bytes of alarms and notices of loss that wait for the uplink.
    #[schemars(with = "String", extend("format" = "byte-size"))]
    pub alarm_limit: ByteSize,
    /// Most bytes of scored windows that wait.
    #[schemars(with = "String", extend("format" = "byte-size"))]
    pub score_limit: ByteSize,
    /// Most bytes of features that wait.
    #[schemars(with = "String", extend("format" = "byte-size"))]
    pub feature_limit: ByteSize,
    /// Most bytes of raw readings that wait.
    #[schemars(with = "String", extend("format" = "byte-size"))]
    pub raw_limit: ByteSize,
    /// Space that is left free on the disk.
    #[schemars(with = "String", extend("format" = "byte-size"))]
    pub free_floor: ByteSize,
    /// Of alarms nothing is dropped or thinned: only the defaults are taken.
    #[serde(skip_serializing_if = "RetentionConfig::is_usual")]
    pub alarm: RetentionConfig,
    /// What goes of scored windows, and when.
    pub score: RetentionConfig,
    /// What goes of features, and when.
    pub feature: RetentionConfig,
    /// What goes of raw readings, and when.
    pub raw: RetentionConfig,
}

/// When the journal is synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DurabilityConfig {
    /// Before anything of a tick is acknowledged: a power cut loses nothing that was.
    #[default]
    Tick,
    /// Once in `sync_every`: less wear, and a power cut loses what was acknowledged since.
    Interval,
}

impl Default for StoreConfig {
    fn default() -> Self {
        StoreConfig {
            path: "forebay-data".into(),
            tick: Span::millis(100),
            tick_readings: 16_384,
            durability: DurabilityConfig::Tick,
            sync_every: Span::seconds(1),
            checkpoint_every: Span::seconds(30),
            alarm_limit: ByteSize::mib(32),
            score_limit: ByteSize::mib(256),
            feature_limit: ByteSize::mib(128),
            raw_limit: ByteSize::mib(256),
            free_floor: ByteSize::mib(128),
            alarm: RetentionConfig::default(),
            score: RetentionConfig::default(),
            feature: RetentionConfig::default(),
            raw: RetentionConfig::default(),
        }
    }
}

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

/// Feeds on the site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FeedConfig {
    /// Where dashboards are served. Loopback unless told otherwise; there is no password here.
    pub listen: String,
    /// Whether pages and the API are served at all.
    pub http: bool,
    /// Whether scores and alarms are published on the site's broker.
    pub mqtt: bool,
    /// Topic of a score or an alarm there; `{node}`, `{pipeline}`, `{asset}` and `{type}` are filled in. Each alarm is
    /// also published one level below, under its name.
    pub topic: String,
    /// Scores kept in memory for each pipeline and asset.
    pub history: usize,
    /// Whether operators may acknowledge and shelve alarms over HTTP. Absent: where `listen` is loopback, since there
    /// is no password here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commands: Option<bool>,
    /// Names under which operators reach the page, besides addresses and `localhost`: commands that come under any
    /// other name are refused.
    pub hosts: Vec<String>,
}

impl FeedConfig {
    /// Whether only this machine reaches the page.
    pub fn is_loopback(&self) -> bool {
        match self.listen.parse::<std::net::SocketAddr>() {
            Ok(address) => address.ip().is_loopback(),
            Err(_) => self.listen.rsplit_once(':').is_some_and(|(host, _)| host == "localhost"),
        }
    }

    /// Whether commands are taken.
    pub fn takes_commands(&self) -> bool {
        self.http && self.commands.unwrap_or_else(|| self.is_loopback())
    }
}

impl Default for FeedConfig {
    fn default() -> Self {
        FeedConfig {
            listen: "127.0.0.1:8080".into(),
            http: true,
            mqtt: true,
            topic: "forebay/{node}/{pipeline}/{asset}/{type}".into(),
            history: 720,
            commands: None,
            hosts: Vec::new(),
        }
    }
}

/// Limits on what comes from outside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Most assets a pipeline knows; more are refused, counted, and named once in the log.
    pub assets: usize,
    /// Largest message; larger ones are refused and counted.
    #[schemars(with = "String", extend("format" = "byte-size"))]
    pub message: ByteSize,
    /// Most rejected messages kept to look into.
    pub rejected_kept: usize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        LimitsConfig { assets: 10_000, message: ByteSize::mib(1), rejected_kept: 1000 }
    }
}
