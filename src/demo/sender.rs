//! Sends messages to an MQTT broker with QoS 1 and knows which have arrived.
//!
//! `publisher` and `bench` use it. A message counts once its PUBACK has come; what was on its way when a connection
//! broke is sent again on the next and counted as `resent`, because the client library forgets it. At most `window`
//! messages wait for their PUBACK. It does not do TLS or passwords.

use std::collections::VecDeque;
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::timeout;

use super::DemoError;
use crate::config::{MqttConfig, MqttVersion};
use crate::link::mqtt::{Dial, Event, Lost, Qos, Role};
use crate::link::pump::Pump;
use crate::time::monotonic;

/// Longest wait for a broker's answer to a connection, and for its end.
const ANSWER: Duration = Duration::from_secs(5);
const GOODBYE: Duration = Duration::from_secs(2);

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
    dial: Dial,
    pump: Option<Pump>,
    unacked: VecDeque<(String, Bytes)>,
    acked: u64,
    resent: u64,
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
        let (url, version) = (options.url.clone(), options.version);
        let config = MqttConfig { url, version, ..MqttConfig::default() };
        let role = Role::Publisher { window: options.window };
        let dial = Dial::new(&config, &options.client_id, role);
        let dial = dial.map_err(|_| DemoError::Url(options.url.clone()))?;
        let unacked = VecDeque::new();
        let mut sender = Sender { options, dial, pump: None, unacked, acked: 0, resent: 0 };
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
        self.publish(&topic, &payload).await;
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
        if let Some(pump) = &mut self.pump {
            pump.client.disconnect().await;
            // A broker that does not hang up is left alone.
            let ended = async { while pump.events.recv().await.is_some() {} };
            drop(timeout(GOODBYE, ended).await);
        }
        Ok(())
    }

    async fn publish(&self, topic: &str, payload: &Bytes) {
        if let Some(pump) = &self.pump {
            // An error means that the connection has ended: what was not acknowledged is sent again on the next.
            let _ = pump.client.publish(topic, Qos::One, false, payload.clone()).await;
        }
    }

    async fn settle_below(&mut self, limit: usize) -> Result<(), DemoError> {
        loop {
            let next = self.pump.as_mut().map(|pump| pump.events.try_recv());
            match next {
                Some(Ok(event)) => self.settle(event).await?,
                Some(Err(TryRecvError::Disconnected)) | None => self.reconnect().await?,
                Some(Err(TryRecvError::Empty)) if self.unacked.len() < limit => return Ok(()),
                Some(Err(TryRecvError::Empty)) => {
                    if let Some(pump) = &mut self.pump
                        && let Some(event) = pump.events.recv().await
                    {
                        self.settle(event).await?;
                    }
                }
            }
        }
    }

    /// Takes what has been acknowledged off the window. Brokers acknowledge in order (MQTT 4.6).
    async fn settle(&mut self, event: Result<Event, Lost>) -> Result<(), DemoError> {
        match event {
            Ok(Event::Acknowledged(_, Ok(()))) => {
                self.acked += 1;
                self.unacked.pop_front();
                Ok(())
            }
            Ok(Event::Acknowledged(_, Err(_))) => {
                Err(DemoError::Refused { url: self.options.url.clone(), refused: 1 })
            }
            _ => self.reconnect().await,
        }
    }

    /// Connects anew, and sends again what was not acknowledged.
    async fn reconnect(&mut self) -> Result<(), DemoError> {
        let began = monotonic();
        let mut wait = Duration::from_millis(20);
        loop {
            self.pump = None;
            let places = usize::from(self.options.window) + 8;
            let wanted = |event: &Event| matches!(event, Event::Acknowledged(..));
            let reason = match timeout(ANSWER, Pump::open(&self.dial, places, wanted)).await {
                Ok(Ok(pump)) => {
                    self.pump = Some(pump);
                    self.resent += self.unacked.len() as u64;
                    for (topic, payload) in &self.unacked {
                        self.publish(topic, payload).await;
                    }
                    return Ok(());
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it does not answer".into(),
            };
            if began.elapsed() > self.options.give_up {
                let (url, waited_s) = (self.options.url.clone(), self.options.give_up.as_secs());
                return Err(DemoError::Broker { url, waited_s, reason });
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(1));
        }
    }
}
