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
mod uplink;

use std::path::PathBuf;

use bytesize::ByteSize;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time::Span;

pub use models::{ModelsConfig, OnnxConfig, RolloutConfig};
pub use retention::{KeepConfig, RetentionConfig};
pub use uplink::{
    BudgetConfig, HttpConfig, LaneBudgetConfig, MqttEncoding, TargetConfig, UplinkConfig,
    UplinkMqttConfig,
};

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

/// Feeds on the site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FeedConfig {
    /// Where dashboards are served. Loopback unless told otherwise; there is no password here.
    pub listen: String,
    /// Whether pages and the API are served at all.
    pub http: bool,
    /// Whether scores, alarms, notices and verdicts are published on the site's broker.
    pub mqtt: bool,
    /// Topic of a record there; `{node}`, `{pipeline}`, `{asset}` and `{type}` are filled in. All but scores are also
    /// published below it, under the name of what they are about.
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
    /// Whether commands are taken from the broker: what is published on `forebay/NODE/commands/VERB`, answered on
    /// `forebay/NODE/answers/VERB`. Whoever may publish there can then shelve alarms and judge them.
    pub mqtt_commands: bool,
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
            mqtt_commands: false,
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
