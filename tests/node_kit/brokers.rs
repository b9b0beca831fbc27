//! The brokers that a node is tested with: rumqttd in this process always, Mosquitto where it is installed.

use forebay::config::MqttVersion;
use forebay::demo::broker::Broker;

use crate::edge::Mosquitto;

pub const VERSIONS: [MqttVersion; 2] = [MqttVersion::V311, MqttVersion::V5];

/// A Mosquitto that keeps everything for a client that is away, in memory.
const PLAIN: &str = "allow_anonymous true\npersistence false\nmax_queued_messages 0\n\
                     max_inflight_messages 1000\nset_tcp_nodelay true";
/// The same, but on disk: it survives its own restart.
const LASTING: &str = "allow_anonymous true\npersistence true\npersistence_location {dir}/\n\
                       max_queued_messages 0\nmax_inflight_messages 1000\nset_tcp_nodelay true";

/// A broker of either kind.
pub enum Local {
    Rumqttd(Broker),
    Mosquitto(Mosquitto),
}

impl Local {
    pub fn rumqttd() -> Local {
        Local::Rumqttd(Broker::start(None).unwrap())
    }

    /// `None`: it is not installed, and the test has said so.
    pub fn mosquitto() -> Option<Local> {
        Mosquitto::start(PLAIN).map(Local::Mosquitto)
    }

    /// One of each kind that is there.
    pub fn all() -> Vec<Local> {
        [Local::rumqttd()].into_iter().chain(Local::mosquitto()).collect()
    }

    pub fn url(&self, version: MqttVersion) -> String {
        match self {
            Local::Rumqttd(broker) => broker.url(version),
            Local::Mosquitto(broker) => format!("mqtt://127.0.0.1:{}", broker.port),
        }
    }

    /// The port for a plain MQTT 3.1.1 client.
    pub fn port(&self) -> u16 {
        match self {
            Local::Rumqttd(broker) => broker.ports().0,
            Local::Mosquitto(broker) => broker.port,
        }
    }
}

/// A Mosquitto that keeps its sessions when it is stopped.
pub fn lasting() -> Option<Mosquitto> {
    Mosquitto::start(LASTING)
}
