//! A broker inside the process (rumqttd): for the demo, and for tests on a machine with nothing installed.
//!
//! It listens on loopback only, MQTT 3.1.1 and MQTT 5 on a port each, keeps everything in memory and runs on a
//! thread of its own, so that stopping it cuts every connection, as a crash would. It is no broker for a plant: it
//! persists nothing, and a subscriber that falls far behind loses messages.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use rumqttd::protocol::v4::V4;
use rumqttd::protocol::v5::V5;
use rumqttd::{ConnectionSettings, LinkType, Router, RouterConfig, Server, ServerSettings};
use tokio::runtime::Runtime;

use super::ports::free_port;
use crate::config::{MqttConfig, MqttVersion};
use crate::time::monotonic;

/// Tries to find two free ports.
const TRIES: usize = 20;

/// Why the broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The system gives no thread or no port.
    #[error("cannot start the in-process broker: {0}")]
    Io(#[from] std::io::Error),
    /// Its ports are taken.
    #[error("cannot start the in-process broker: ports {0} and {1} of 127.0.0.1 are in use")]
    Ports(u16, u16),
}

/// A running broker; dropping it stops it.
#[derive(Debug)]
pub struct Broker {
    v4: SocketAddr,
    v5: SocketAddr,
    runtime: Option<Runtime>,
}

impl Broker {
    /// Starts on two free loopback ports. With `login` (user and password), nobody else is let in.
    ///
    /// # Errors
    /// The system gives no thread or no port.
    pub fn start(login: Option<(&str, &str)>) -> Result<Broker, BrokerError> {
        let mut last = (0, 0);
        for _ in 0..TRIES {
            let (v4, v5) = (free_port()?, free_port()?);
            match Broker::start_on(v4, v5, login) {
                Err(BrokerError::Ports(..)) => last = (v4, v5),
                started => return started,
            }
        }
        Err(BrokerError::Ports(last.0, last.1))
    }

    /// Starts on these loopback ports: MQTT 3.1.1 on the first, MQTT 5 on the second.
    ///
    /// # Errors
    /// A port is in use, or the system gives no thread.
    pub fn start_on(v4: u16, v5: u16, login: Option<(&str, &str)>) -> Result<Broker, BrokerError> {
        // rumqttd only logs a port that is in use.
        for port in [v4, v5] {
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err() {
                return Err(BrokerError::Ports(v4, v5));
            }
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("demo-broker")
            .enable_all()
            .build()?;
        let router = RouterConfig {
            max_connections: 100,
            max_outgoing_packet_count: 200,
            max_segment_size: 10 << 20,
            max_segment_count: 4,
            ..RouterConfig::default()
        };
        let sender = Router::new(0, router).spawn();
        let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut first = Server::new(settings("v4", address(v4), login), sender.clone(), V4);
        let mut second = Server::new(settings("v5", address(v5), login), sender, V5);
        let servers = [
            runtime.spawn(async move { first.start(LinkType::Remote).await.is_ok() }),
            runtime.spawn(async move { second.start(LinkType::Remote).await.is_ok() }),
        ];
        let broker = Broker { v4: address(v4), v5: address(v5), runtime: Some(runtime) };
        let due = monotonic() + Duration::from_secs(10);
        for (server, address) in servers.iter().zip([broker.v4, broker.v5]) {
            while TcpStream::connect_timeout(&address, Duration::from_millis(50)).is_err() {
                if server.is_finished() || monotonic() > due {
                    return Err(BrokerError::Ports(v4, v5));
                }
            }
        }
        Ok(broker)
    }

    /// The ports: MQTT 3.1.1, MQTT 5.
    pub fn ports(&self) -> (u16, u16) {
        (self.v4.port(), self.v5.port())
    }

    /// Its address for this protocol version.
    pub fn url(&self, version: MqttVersion) -> String {
        let address = match version {
            MqttVersion::V311 => self.v4,
            MqttVersion::V5 => self.v5,
        };
        format!("mqtt://{address}")
    }

    /// Settings for a client of it.
    pub fn client(&self, version: MqttVersion) -> MqttConfig {
        MqttConfig { url: self.url(version), version, ..MqttConfig::default() }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn settings(name: &str, listen: SocketAddr, login: Option<(&str, &str)>) -> ServerSettings {
    ServerSettings {
        name: name.to_owned(),
        listen,
        tls: None,
        next_connection_delay_ms: 0,
        connections: ConnectionSettings {
            connection_timeout_ms: 5000,
            max_payload_size: 16 << 20,
            max_inflight_count: 200,
            auth: login
                .map(|(user, password)| HashMap::from([(user.to_owned(), password.to_owned())])),
            external_auth: None,
            // Without it, a publish that nobody has subscribed to ends the publisher's connection.
            dynamic_filters: true,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_twice_and_says_so_where_a_port_is_taken() {
        let broker = Broker::start(None).unwrap();
        let other = Broker::start(None).unwrap();
        let (v4, v5) = broker.ports();
        assert_ne!((v4, v5), other.ports());
        let error = Broker::start_on(v4, v5, None).unwrap_err();
        assert!(error.to_string().contains(&v4.to_string()), "{error}");
        drop(broker);
        let due = monotonic() + Duration::from_secs(10);
        while Broker::start_on(v4, v5, None).is_err() {
            assert!(monotonic() < due, "the ports are free again once it has stopped");
        }
    }
}
