//! Sends messages to an MQTT broker with QoS 1 and knows which have arrived.
//!
//! `publisher` and `bench` use it. A message counts once its PUBACK has come; what was on its way when a connection
//! broke is sent again on the next and counted as `resent`, because the client library forgets it. At most `window`
//! messages wait for their PUBACK. It does not do TLS or passwords.

use std::collections::VecDeque;
use std::time::Duration;

use axum::body::Bytes;
use rumqttc::v5::mqttbytes::v5::{Packet as Packet5, PubAckReason};
use rumqttc::{Outgoing, Packet, v5};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::DemoError;
use crate::config::MqttVersion;
use crate::time::monotonic;

/// How to reach the broker.
#[derive(Clone, Debug)]
pub struct SenderOptions {
    /// `mqtt://host:port`.
    pub url: String,
    /// Protocol version.
    pub version: MqttVersion,
    /// Client id, different from all others at that broker.
    pub client_id: String,
    /// Most messages that wait for their PUBACK.
    pub window: u16,
    /// How long a broker may be away before sending fails.
    pub give_up: Duration,
}

/// A connection to a broker that sends.
#[derive(Debug)]
pub struct Sender {
    options: SenderOptions,
    connection: Option<Connection>,
    unacked: VecDeque<(String, Bytes)>,
    acked: u64,
    resent: u64,
}

#[derive(Debug)]
struct Connection {
    client: Client,
    progress: watch::Receiver<Progress>,
    task: JoinHandle<()>,
    /// How many of its PUBACKs have been taken off `unacked`.
    settled: u64,
}

/// What has happened on one connection so far.
#[derive(Clone, Debug, Default)]
struct Progress {
    connected: bool,
    acked: u64,
    refused: u64,
    failed: Option<String>,
}

#[derive(Debug)]
enum Client {
    V311(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

/// Host and port of `mqtt://host:port`.
pub fn broker_address(url: &str) -> Result<(String, u16), DemoError> {
    let wrong = || DemoError::Url(url.to_owned());
    let rest = url.strip_prefix("mqtt://").ok_or_else(wrong)?.trim_end_matches('/');
    let (host, port) = rest.rsplit_once(':').unwrap_or((rest, "1883"));
    let port = port.parse().map_err(|_| wrong())?;
    if host.is_empty() {
        return Err(wrong());
    }
    Ok((host.trim_matches(['[', ']']).to_owned(), port))
}

impl Sender {
    /// Connects.
    pub async fn connect(options: SenderOptions) -> Result<Sender, DemoError> {
        broker_address(&options.url)?;
        let mut sender =
            Sender { options, connection: None, unacked: VecDeque::new(), acked: 0, resent: 0 };
        sender.reconnect().await?;
        Ok(sender)
    }

    /// Messages whose PUBACK has come.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// Messages that were sent more than once; the broker may have them twice.
    pub fn resent(&self) -> u64 {
        self.resent
    }

    /// Sends one message; waits while the window is full.
    pub async fn send(&mut self, topic: String, payload: Bytes) -> Result<(), DemoError> {
        self.settle_below(usize::from(self.options.window)).await?;
        if let Some(connection) = &self.connection {
            // It cannot be full: there are more places in its channel than in the window.
            connection.client.publish(&topic, payload.clone());
        }
        self.unacked.push_back((topic, payload));
        Ok(())
    }

    /// Waits for all PUBACKs.
    pub async fn drain(&mut self) -> Result<(), DemoError> {
        self.settle_below(1).await
    }

    /// Waits for all PUBACKs and takes leave of the broker.
    pub async fn close(mut self) -> Result<(), DemoError> {
        self.drain().await?;
        if let Some(mut connection) = self.connection.take() {
            connection.client.disconnect();
            // A broker that does not hang up is left alone.
            let _ = tokio::time::timeout(Duration::from_secs(2), &mut connection.task).await;
        }
        Ok(())
    }

    async fn settle_below(&mut self, limit: usize) -> Result<(), DemoError> {
        loop {
            let failed = self.settle()?;
            if failed {
                self.reconnect().await?;
            }
            if self.unacked.len() < limit {
                return Ok(());
            }
            if let Some(connection) = &mut self.connection {
                // An error means that the task has ended; `settle` sees why.
                let _ = connection.progress.changed().await;
            }
        }
    }

    /// Takes what has been acknowledged off the window. Brokers acknowledge in order (MQTT 4.6).
    fn settle(&mut self) -> Result<bool, DemoError> {
        let Some(connection) = &mut self.connection else { return Ok(true) };
        let progress = connection.progress.borrow_and_update().clone();
        if progress.refused > 0 {
            let (url, refused) = (self.options.url.clone(), progress.refused);
            return Err(DemoError::Refused { url, refused });
        }
        let fresh = progress.acked - connection.settled;
        connection.settled = progress.acked;
        self.acked += fresh;
        self.unacked.drain(..(fresh as usize).min(self.unacked.len()));
        Ok(progress.failed.is_some() || connection.task.is_finished())
    }

    /// Connects anew, and sends again what was not acknowledged.
    async fn reconnect(&mut self) -> Result<(), DemoError> {
        let began = monotonic();
        let mut wait = Duration::from_millis(20);
        loop {
            self.connection = None;
            let mut connection = self.open()?;
            let progress = connection
                .progress
                .wait_for(|progress| progress.connected || progress.failed.is_some())
                .await
                .map(|progress| progress.clone())
                .unwrap_or_default();
            if progress.connected && progress.failed.is_none() {
                self.resent += self.unacked.len() as u64;
                for (topic, payload) in &self.unacked {
                    connection.client.publish(topic, payload.clone());
                }
                self.connection = Some(connection);
                return Ok(());
            }
            if began.elapsed() > self.options.give_up {
                return Err(DemoError::Broker {
                    url: self.options.url.clone(),
                    waited_s: self.options.give_up.as_secs(),
                    reason: progress.failed.unwrap_or_else(|| "the connection was closed".into()),
                });
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(1));
        }
    }

    fn open(&self) -> Result<Connection, DemoError> {
        let (host, port) = broker_address(&self.options.url)?;
        let id = self.options.client_id.clone();
        let window = self.options.window;
        let places = usize::from(window) + 8;
        let (tx, progress) = watch::channel(Progress::default());
        let (client, task) = match self.options.version {
            MqttVersion::V311 => {
                let mut options = rumqttc::MqttOptions::new(id, host, port);
                options.set_keep_alive(Duration::from_mins(1)).set_inflight(window);
                options.set_max_packet_size(1 << 20, 1 << 20);
                let (client, mut events) = rumqttc::AsyncClient::new(options, places);
                let mut network = rumqttc::NetworkOptions::new();
                network.set_tcp_nodelay(true);
                events.set_network_options(network);
                (Client::V311(client), tokio::spawn(poll_v311(events, tx)))
            }
            MqttVersion::V5 => {
                let mut options = v5::MqttOptions::new(id, host, port);
                options.set_keep_alive(Duration::from_mins(1));
                options.set_outgoing_inflight_upper_limit(window);
                let mut network = rumqttc::NetworkOptions::new();
                network.set_tcp_nodelay(true);
                options.set_network_options(network);
                let (client, events) = v5::AsyncClient::new(options, places);
                (Client::V5(client), tokio::spawn(poll_v5(events, tx)))
            }
        };
        Ok(Connection { client, progress, task, settled: 0 })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Client {
    // Errors mean that the connection's task has ended: what was not acknowledged is sent again on the next.
    fn publish(&self, topic: &str, payload: Bytes) {
        let _ = match self {
            Client::V311(client) => client
                .try_publish(topic, rumqttc::QoS::AtLeastOnce, false, payload)
                .map_err(|e| e.to_string()),
            Client::V5(client) => client
                .try_publish(topic, v5::mqttbytes::QoS::AtLeastOnce, false, payload)
                .map_err(|e| e.to_string()),
        };
    }

    fn disconnect(&self) {
        let _ = match self {
            Client::V311(client) => client.try_disconnect().map_err(|e| e.to_string()),
            Client::V5(client) => client.try_disconnect().map_err(|e| e.to_string()),
        };
    }
}

/// Runs one connection until it breaks. It is not used after that: a reused event loop loses messages.
async fn poll_v311(mut events: rumqttc::EventLoop, progress: watch::Sender<Progress>) {
    loop {
        match events.poll().await {
            Ok(rumqttc::Event::Incoming(Packet::ConnAck(_))) => {
                progress.send_modify(|p| p.connected = true);
            }
            Ok(rumqttc::Event::Incoming(Packet::PubAck(_))) => {
                progress.send_modify(|p| p.acked += 1);
            }
            Ok(rumqttc::Event::Outgoing(Outgoing::Disconnect)) => return,
            Ok(_) => {}
            Err(error) => {
                progress.send_modify(|p| p.failed = Some(error.to_string()));
                return;
            }
        }
    }
}

async fn poll_v5(mut events: v5::EventLoop, progress: watch::Sender<Progress>) {
    loop {
        match events.poll().await {
            Ok(v5::Event::Incoming(Packet5::ConnAck(_))) => {
                progress.send_modify(|p| p.connected = true);
            }
            Ok(v5::Event::Incoming(Packet5::PubAck(ack))) => progress.send_modify(|p| {
                p.acked += 1;
                let taken = [PubAckReason::Success, PubAckReason::NoMatchingSubscribers];
                p.refused += u64::from(!taken.contains(&ack.reason));
            }),
            Ok(v5::Event::Outgoing(Outgoing::Disconnect)) => return,
            Ok(_) => {}
            Err(error) => {
                progress.send_modify(|p| p.failed = Some(error.to_string()));
                return;
            }
        }
    }
}
