//! One connection to a broker, MQTT 3.1.1 or 5: the options from the config, and events that look the same.
//!
//! `ingest/mqtt.rs`, `uplink/mqtt.rs` and `feed/mqtt.rs` call it. It promises a fresh client and event loop for
//! every connection: rumqttc keeps packet ids, acknowledgements and events of a dead connection and mixes them into
//! the next one, which loses messages in silence. So after the first error from [`Connection::poll`], both halves
//! are dropped. It does not reconnect.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::ClientConfig;

use crate::config::{MqttConfig, MqttVersion};
use crate::time::Span;

use super::terms::Terms;
use super::{SetupError, secret, tls, v4, v5};

/// Longest wait for a connection, and for a packet to get into the socket.
pub(super) const NETWORK_TIMEOUT_SECONDS: u64 = 30;

/// Packet ids have 16 bits: no more acknowledgements than this can wait. The queue grows only as it fills.
pub(super) const ACKNOWLEDGEMENTS_MAX: usize = 1 << 16;

/// What a client needs to connect, checked once.
#[derive(Clone, Debug)]
pub struct Dial {
    config: MqttConfig,
    host: String,
    port: u16,
    secure: bool,
    client_id: String,
    role: Role,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug)]
pub enum Role {
    /// Takes messages, keeps its session at the broker, acknowledges by hand.
    Subscriber {
        /// Largest packet that is read. A larger one ends the connection.
        packet_max: u32,
    },
    /// Sends messages; the session ends with the connection.
    Publisher {
        /// Most messages on the way.
        window: u16,
    },
}

/// Everything for one connection, secrets included; made anew each time. Not `Debug`: it holds a password.
pub(super) struct Options {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) client_id: String,
    pub(super) credentials: Option<(String, String)>,
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) keep_alive: Span,
    pub(super) in_flight: u16,
    pub(super) session_expiry: Span,
    pub(super) role: Role,
    pub(super) clean: bool,
}

/// A message's promise of delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// At most once.
    Zero,
    /// At least once.
    One,
}

/// What a message holds, for brokers and receivers of MQTT 5.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Its media type.
    pub media: String,
    /// Further properties: name and value.
    pub user: Vec<(String, String)>,
}

/// What happened on a connection.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The broker took the connection.
    Connected {
        /// Whether it still had this client's session.
        session_present: bool,
        /// What it allows.
        terms: Terms,
    },
    /// A message came.
    Message(Message),
    /// The broker answered a subscription: for each filter in order, the QoS it grants or its reason.
    Subscribed(Vec<Result<u8, String>>),
    /// A message went out under this packet id (0: QoS 0).
    Sent(u16),
    /// The broker has the message of this packet id, or refused it.
    Acknowledged(u16, Result<(), Refusal>),
    /// A packet id was still in use, so the message is held back: the connection is of no more use.
    Stuck,
    /// Our DISCONNECT went out.
    Closed,
    /// Nothing that anybody here needs.
    Other,
}

/// Why a broker did not take a message (MQTT 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For people.
    pub reason: String,
    /// Whether it is about this message, so that it is not taken another time either.
    pub about_message: bool,
}

/// A message from the broker.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Its topic.
    pub topic: String,
    /// Its payload.
    pub payload: Bytes,
    /// 0, 1 or 2.
    pub qos: u8,
    /// Its packet id; 0 for QoS 0.
    pub id: u16,
    /// Whether it is an old one that the broker kept for new subscribers.
    pub retained: bool,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// The broker does not want this client.
    #[error("the broker refused the connection: {0}")]
    Refused(String),
    /// It sent more than this client reads.
    #[error("the broker sent a packet of {size} bytes, more than is ever read")]
    TooLarge {
        /// Its size.
        size: usize,
    },
    /// A message of ours is larger than the broker takes.
    #[error("the message is too large for the broker: {0}")]
    OursTooLarge(String),
    /// Another client has connected with this one's id (MQTT 5; 3.1.1 does not say so).
    #[error("another client with the same client id has taken the session over")]
    TakenOver,
    /// The broker ended a connection that had been made, with a reason or without.
    #[error("{0}")]
    Closed(String),
    /// Network, TLS, time-out, protocol.
    #[error("{0}")]
    Broken(String),
}

/// The connection is gone; its [`Connection::poll`] says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection has ended")]
pub struct Gone;

/// Asks a connection to send something. Nothing leaves unless its [`Connection`] is polled.
#[derive(Clone, Debug)]
pub enum Client {
    /// MQTT 3.1.1.
    V4(rumqttc::AsyncClient),
    /// MQTT 5.
    V5(rumqttc::v5::AsyncClient),
}

/// The other half: does the work and says what happened.
pub enum Connection {
    /// MQTT 3.1.1.
    V4(Box<rumqttc::EventLoop>),
    /// MQTT 5.
    V5(Box<rumqttc::v5::EventLoop>),
}

impl Dial {
    /// Checks the settings, certificates and secrets too. `client_id` is taken where the config has none.
    ///
    /// # Errors
    /// Whatever would make every connection fail.
    pub fn new(config: &MqttConfig, client_id: &str, role: Role) -> Result<Dial, SetupError> {
        let (secure, host, port) = parse_url(&config.url)?;
        if config.keep_alive < Span::seconds(5) || config.keep_alive > Span::seconds(65_535) {
            let (found, expected) = (config.keep_alive.to_string(), "from 5s to 18h");
            return Err(SetupError::Range { key: "keep_alive", found, expected });
        }
        if config.in_flight == 0 {
            let (found, expected) = ("0".into(), "from 1 to 65535");
            return Err(SetupError::Range { key: "in_flight", found, expected });
        }
        if config.password.is_some() && config.user.is_none() {
            return Err(SetupError::Pair { present: "password", missing: "user" });
        }
        let client_id = config.client_id.clone().unwrap_or_else(|| client_id.to_owned());
        if client_id.is_empty() {
            let (found, expected) =
                ("empty".into(), "a name that no other client of this broker has");
            return Err(SetupError::Range { key: "client_id", found, expected });
        }
        let dial = Dial { config: config.clone(), host, port, secure, client_id, role };
        dial.options()?;
        Ok(dial)
    }

    /// The broker's address, without secrets.
    pub fn url(&self) -> &str {
        &self.config.url
    }

    /// How often an idle connection is proved alive.
    pub fn keep_alive(&self) -> Duration {
        self.config.keep_alive.to_std()
    }

    /// How long the broker is asked to keep the session of a client that is away.
    pub fn session_expiry(&self) -> Span {
        self.config.session_expiry
    }

    /// The client id in use.
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// A fresh connection; it opens with the first poll.
    ///
    /// # Errors
    /// A secret or a certificate that was there at the start is gone.
    pub async fn dial(&self) -> Result<(Client, Connection), SetupError> {
        self.open(false).await
    }

    /// As [`Dial::dial`], but the broker forgets the old session with all it holds.
    ///
    /// # Errors
    /// As [`Dial::dial`].
    pub async fn dial_clean(&self) -> Result<(Client, Connection), SetupError> {
        self.open(true).await
    }

    async fn open(&self, clean: bool) -> Result<(Client, Connection), SetupError> {
        let reader = self.clone();
        let mut options = tokio::task::spawn_blocking(move || reader.options())
            .await
            .expect("invariant: reading files does not panic")?;
        options.clean = clean;
        Ok(match self.config.version {
            MqttVersion::V311 => v4::open(options),
            MqttVersion::V5 => v5::open(options),
        })
    }

    // Reads secrets and certificates, so that renewed ones are used from the next connection on.
    fn options(&self) -> Result<Options, SetupError> {
        let config = &self.config;
        let user = config.user.as_ref().map(secret::resolve).transpose()?;
        let password = config.password.as_ref().map(secret::resolve).transpose()?;
        let tls = self
            .secure
            .then(|| {
                let path = |file: &Option<std::path::PathBuf>| file.clone();
                tls::client(
                    path(&config.ca).as_deref(),
                    path(&config.certificate).as_deref(),
                    path(&config.key).as_deref(),
                )
            })
            .transpose()?;
        Ok(Options {
            host: self.host.clone(),
            port: self.port,
            client_id: self.client_id.clone(),
            credentials: user.map(|user| (user, password.unwrap_or_default())),
            tls,
            keep_alive: config.keep_alive,
            in_flight: config.in_flight,
            session_expiry: config.session_expiry,
            role: self.role,
            clean: false,
        })
    }
}

impl Client {
    /// Acknowledges the message of this packet id, without waiting: a subscriber's queue holds one for every packet
    /// id there is.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn acknowledge(&self, id: u16) -> Result<(), Gone> {
        match self {
            Client::V4(client) => v4::acknowledge(client, id),
            Client::V5(client) => v5::acknowledge(client, id),
        }
    }

    /// Publishes; waits while the queue to the connection is full.
    ///
    /// # Errors
    /// The connection has ended, or the topic has wildcards.
    pub async fn publish(
        &self,
        topic: &str,
        qos: Qos,
        retain: bool,
        payload: Bytes,
    ) -> Result<(), Gone> {
        match self {
            Client::V4(client) => {
                client.publish_bytes(topic, v4::qos(qos), retain, payload).await.map_err(|_| Gone)
            }
            Client::V5(client) => {
                client.publish_bytes(topic, v5::qos(qos), retain, payload).await.map_err(|_| Gone)
            }
        }
    }

    /// Publishes at QoS 1 and says what it is, where the protocol can; else as [`Client::publish`].
    ///
    /// # Errors
    /// The connection has ended, or the topic has wildcards.
    pub async fn publish_content(
        &self,
        topic: &str,
        payload: Bytes,
        content: Content,
    ) -> Result<(), Gone> {
        match self {
            Client::V4(_) => self.publish(topic, Qos::One, false, payload).await,
            Client::V5(client) => v5::publish_content(client, topic, payload, content).await,
        }
    }

    /// Subscribes at QoS 1, all in one packet.
    ///
    /// # Errors
    /// The connection has ended, or a filter is malformed.
    pub async fn subscribe(&self, filters: &[String]) -> Result<(), Gone> {
        match self {
            Client::V4(client) => v4::subscribe(client, filters).await,
            Client::V5(client) => v5::subscribe(client, filters).await,
        }
    }

    /// Says goodbye after all that was asked before.
    pub async fn disconnect(&self) {
        // An error means that the connection is gone already.
        match self {
            Client::V4(client) => drop(client.disconnect().await),
            Client::V5(client) => drop(client.disconnect().await),
        }
    }
}

impl Connection {
    /// What happens next. Once connected, a call must be awaited to its end: a dropped one loses what it was
    /// writing. After an error the connection is dead.
    ///
    /// # Errors
    /// The connection could not be made or has ended.
    pub async fn poll(&mut self) -> Result<Event, Lost> {
        // rumqttc waits for the answer to its ping alone, which stands behind all that the broker has sent before it. A
        // broker that sends anything is alive.
        match self {
            Connection::V4(events) => {
                let event = events.poll().await.map_err(|e| v4::lost(&e))?;
                events.state.await_pingresp &= !matches!(event, rumqttc::Event::Incoming(_));
                Ok(v4::event(event))
            }
            Connection::V5(events) => {
                let event = events.poll().await.map_err(|e| v5::lost(&e))?;
                events.state.await_pingresp &= !matches!(event, rumqttc::v5::Event::Incoming(_));
                Ok(v5::event(event))
            }
        }
    }

    /// Whether the next poll answers at once.
    pub fn has_more(&self) -> bool {
        match self {
            Connection::V4(events) => !events.state.events.is_empty(),
            Connection::V5(events) => !events.state.events.is_empty(),
        }
    }
}

fn parse_url(url: &str) -> Result<(bool, String, u16), SetupError> {
    let wrong = |why| SetupError::Url { url: redacted(url), why };
    let (scheme, rest) =
        url.split_once("://").ok_or(wrong("write mqtt://host:port or mqtts://host:port"))?;
    let (secure, standard) = match scheme {
        "mqtt" | "tcp" => (false, 1883),
        "mqtts" | "ssl" => (true, 8883),
        _ => return Err(wrong("it must start with mqtt:// or mqtts://")),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('@') {
        return Err(wrong("user and password go into `user` and `password`, not into the address"));
    }
    if rest.contains(['/', '?', '#']) {
        return Err(wrong("there must be nothing after the port"));
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let port = port.parse().map_err(|_| wrong("the port must be a number up to 65535"))?;
            (host, port)
        }
        _ => (rest, standard),
    };
    if host.is_empty() || port == 0 {
        return Err(wrong("host or port is missing"));
    }
    if host.contains(':') && !host.starts_with('[') {
        return Err(wrong("an IPv6 address goes into brackets"));
    }
    Ok((secure, host.to_owned(), port))
}

// An address with a password in it must not get into a log.
fn redacted(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(start), Some(end)) if end > start => format!("{}…{}", &url[..start + 3], &url[end..]),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[test]
    fn addresses_are_read_and_wrong_ones_say_why() {
        let good = [
            ("mqtt://broker", (false, "broker", 1883)),
            ("mqtt://10.0.0.1:1884/", (false, "10.0.0.1", 1884)),
            ("mqtts://broker.site", (true, "broker.site", 8883)),
            ("mqtt://[::1]:1883", (false, "[::1]", 1883)),
            ("mqtt://[::1]", (false, "[::1]", 1883)),
        ];
        for (url, (secure, host, port)) in good {
            assert_eq!(parse_url(url).unwrap(), (secure, host.to_owned(), port), "{url}");
        }
        for url in [
            "broker:1883",
            "http://broker",
            "mqtt://",
            "mqtt://:1883",
            "mqtt://broker:port",
            "mqtt://broker:0",
            "mqtt://broker:70000",
            "mqtt://broker:1883/path",
            "mqtt://::1",
        ] {
            assert!(parse_url(url).is_err(), "{url}");
        }
        let error = parse_url("mqtt://user:s3cret@broker").unwrap_err().to_string();
        assert!(!error.contains("s3cret"), "{error}");
    }

    #[test]
    fn settings_that_cannot_work_are_refused_before_a_connection() {
        let role = Role::Publisher { window: 16 };
        let good = MqttConfig::default();
        assert!(Dial::new(&good, "node", role).is_ok());
        let wrong = [
            (MqttConfig { keep_alive: Span::seconds(4), ..good.clone() }, "keep_alive"),
            (MqttConfig { in_flight: 0, ..good.clone() }, "in_flight"),
            (MqttConfig { client_id: Some(String::new()), ..good.clone() }, "client_id"),
            (MqttConfig { password: Some(Secret::Env("PATH".into())), ..good.clone() }, "user"),
            (
                MqttConfig { user: Some(Secret::Env("NOT_SET_AT_ALL".into())), ..good },
                "NOT_SET_AT_ALL",
            ),
        ];
        for (config, named) in wrong {
            let error = Dial::new(&config, "node", role).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
