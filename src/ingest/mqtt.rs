//! Messages from a broker: a persistent session, acknowledged by hand, connected again for ever.
//!
//! `node` runs [`MqttSource::run`] as a task of its own. It promises a subscription that the broker has
//! confirmed, filter by filter; that acknowledgements go out in the order of arrival, and only on the connection
//! their message came over; and that reading goes on while the engine is busy, so that the connection stays alive.
//! It does not subscribe at QoS 2, whose second handshake would tell this node nothing that duplicates do not.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::MqttConfig;
use crate::link::mqtt::{Client, Connection, Dial, Event, Lost, Message, Role};
use crate::link::rival::Rival;
use crate::link::terms::Terms;
use crate::link::{Backoff, LinkStatus, SetupError};
use crate::store::Receipt;
use crate::time::{Span, Timestamp, monotonic, now};

use super::{Current, Delivery, Door, Hand, IngestCounts, Passed};

/// Filters in one SUBSCRIBE packet.
const FILTERS_A_PACKET: usize = 64;
/// How long the broker may take to answer one.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// When refused filters are tried again.
const RETRY_REFUSED: Duration = Duration::from_mins(1);
/// A connection that held this long was a good one: the next wait starts small again.
const GOOD_AFTER: Duration = Duration::from_secs(5);
/// Why a connection is given up that cannot be looked after.
const BEHIND: &str = "the node is behind by more than it may hold in memory, so the connection was given up; the broker \
                      sends again what was not acknowledged";
/// Losses in a row through a message too large to be read, before its session is given up.
const TOO_LARGE_MAX: u32 = 3;

/// A broker to take messages from.
#[derive(Debug)]
pub struct MqttSource {
    dial: Dial,
    filters: Vec<String>,
    message_max: usize,
}

impl MqttSource {
    /// A source for these topic filters. `node` names the client where the config does not; messages larger than
    /// `message_max` are handed on without their payload.
    ///
    /// # Errors
    /// Whatever would make every connection fail.
    pub fn new(
        config: &MqttConfig,
        node: &str,
        filters: Vec<String>,
        message_max: ByteSize,
    ) -> Result<MqttSource, SetupError> {
        let message_max = usize::try_from(message_max.as_u64()).unwrap_or(usize::MAX);
        // Larger messages are read and refused one by one; only one beyond this ends the connection.
        let packet_max = message_max.saturating_mul(2).clamp(16 << 20, 256 << 20) as u32;
        let dial = Dial::new(config, &format!("forebay-{node}"), Role::Subscriber { packet_max })?;
        Ok(MqttSource { dial, filters, message_max })
    }

    /// Takes messages until `stop`, then goes on acknowledging until [`super::Acks`] is dropped. Ends early where
    /// the engine thread has gone.
    pub async fn run(self, door: Door, stop: CancellationToken) {
        let Door { deliveries, current, status, counts, waiting, limits } = door;
        let hand =
            Hand { deliveries, handful: Vec::new(), waiting, counts: Arc::clone(&counts), limits };
        let mut session = Session {
            source: self,
            hand: Some(hand),
            current,
            status,
            counts,
            stop,
            connection: 0,
            subscribed: false,
            refused: Vec::new(),
            too_large: 0,
            rival: Rival::default(),
            leaving: false,
        };
        session.keep_connected().await;
        session.current.send_replace(None);
        session.status.send_replace(LinkStatus::Stopped);
    }
}

/// Why a connection is over.
enum End {
    Stopped,
    Failed(String),
    Lost(Lost),
}

/// All that outlives a connection.
struct Session {
    source: MqttSource,
    hand: Option<Hand>,
    current: watch::Sender<Current>,
    status: watch::Sender<LinkStatus>,
    counts: Arc<IngestCounts>,
    stop: CancellationToken,
    connection: u64,
    /// Whether the broker has confirmed this process's filters: an older session may hold others.
    subscribed: bool,
    refused: Vec<(String, String)>,
    too_large: u32,
    rival: Rival,
    /// Whether the goodbye is on its way.
    leaving: bool,
}

/// Where a connection stands with its subscriptions.
struct Subscribing {
    /// Filters still to be asked for; the first `asked` of them are in the packet on the way.
    todo: Vec<String>,
    asked: usize,
    /// Whether these were refused before, and that was told.
    again: bool,
    /// When an answer, or the next try of refused filters, is due.
    due: Option<Instant>,
}

impl Session {
    async fn keep_connected(&mut self) {
        let mut backoff = Backoff::new(Span::seconds(30));
        let mut down: Option<(Timestamp, u64)> = None;
        loop {
            let started = monotonic();
            let made = self.connection;
            let end = self.connect(down.as_ref()).await;
            self.current.send_replace(None);
            let was_up = self.connection > made;
            if matches!(end, End::Stopped) || self.hand.is_none() {
                return;
            }
            IngestCounts::add(&self.counts.failures, 1);
            let error = self.judge(&end, was_up.then(|| started.elapsed()), &mut backoff);
            let (since, retries) = match down {
                Some((since, retries)) if !was_up => (since, retries + 1),
                _ => {
                    if !self.rival.is_known() {
                        tracing::warn!(broker = self.source.dial.url(), %error, "no connection to the broker");
                    }
                    (now(), 0)
                }
            };
            tracing::debug!(broker = self.source.dial.url(), %error, retries, "connection failed");
            down = Some((since, retries));
            self.status.send_replace(LinkStatus::Down { since, error, retries });
            if tokio::time::timeout(backoff.wait(), self.stop.cancelled()).await.is_ok() {
                return;
            }
        }
    }

    // What the end of a connection that `held` so long (where it was made at all) means for the next ones; says it for
    // people.
    fn judge(&mut self, end: &End, held: Option<Duration>, backoff: &mut Backoff) -> String {
        let (lost, error) = match end {
            End::Stopped => (None, String::new()),
            End::Failed(error) => (None, error.clone()),
            End::Lost(lost) => (Some(lost), lost.to_string()),
        };
        let is_large = matches!(lost, Some(Lost::TooLarge { .. }));
        self.too_large = if is_large { self.too_large + 1 } else { 0 };
        let is_good = if Rival::is_closed(lost) {
            Rival::is_good(lost, held)
        } else {
            held.is_some_and(|held| held >= GOOD_AFTER)
        };
        if is_good {
            backoff.reset();
        }
        match self.rival.ended(lost, held, self.source.dial.client_id()) {
            Some(what) => {
                format!("{what}; give every node a `node` name or an `mqtt.client_id` of its own")
            }
            None => error,
        }
    }

    // One connection, from dialling to its end.
    async fn connect(&mut self, down: Option<&(Timestamp, u64)>) -> End {
        if self.too_large >= TOO_LARGE_MAX {
            self.drop_session().await;
        }
        let (client, mut link) = match self.source.dial.dial().await {
            Ok(pair) => pair,
            Err(error) => return End::Failed(error.to_string()),
        };
        // Nothing is in flight before the first answer, so this one poll may be dropped.
        let first = tokio::select! {
            first = link.poll() => first,
            () = self.stop.cancelled() => return End::Stopped,
        };
        match first {
            Ok(Event::Connected { session_present, terms }) => {
                self.tell_terms(session_present, &terms);
                self.opened(client, link, session_present, down).await
            }
            Ok(other) => End::Failed(format!("the broker answered {other:?} to the connection")),
            Err(lost) => End::Lost(lost),
        }
    }

    // What the broker's terms cost, once; and what a session that is gone has cost.
    fn tell_terms(&self, session_present: bool, terms: &Terms) {
        let (broker, asked) = (self.source.dial.url(), self.source.dial.session_expiry());
        if self.connection == 0 {
            for cost in terms.costs(asked) {
                tracing::warn!(broker, cost, "the broker's terms cost something");
            }
        }
        if self.subscribed && !session_present {
            tracing::warn!(
                broker,
                "the broker has forgotten this node's session, and with it what came while the node was away; it is \
                 subscribed to again. Let the broker keep its sessions (Mosquitto: persistence true)"
            );
        }
    }

    async fn opened(
        &mut self,
        client: Client,
        mut link: Connection,
        session_present: bool,
        down: Option<&(Timestamp, u64)>,
    ) -> End {
        self.connection += 1;
        IngestCounts::add(&self.counts.connections, 1);
        self.current.send_replace(Some((self.connection, client.clone())));
        let mut subscribing = Subscribing { todo: Vec::new(), asked: 0, again: false, due: None };
        if session_present && self.subscribed {
            subscribing.retry(&mut self.refused);
        } else {
            self.refused.clear();
            subscribing.todo.clone_from(&self.source.filters);
        }
        if let Some((since, retries)) = down
            && !self.rival.is_known()
        {
            let away = now().since(*since);
            tracing::info!(broker = self.source.dial.url(), %away, retries, session_present, "connected again");
        } else if self.connection == 1 {
            tracing::info!(
                broker = self.source.dial.url(),
                session_present,
                "connected to the broker"
            );
        }
        let up_since = now();
        if subscribing.ask(&client).await.is_err() {
            return End::Failed("the connection ended before it was used".into());
        }
        self.report(&subscribing, up_since, session_present);
        loop {
            let event = match self.next(&mut link, &mut subscribing, &client).await {
                Ok(event) => event,
                Err(end) => return end,
            };
            match event {
                Event::Message(message) => self.take(message),
                Event::Subscribed(answers) => {
                    self.answered(&mut subscribing, &answers);
                    if subscribing.ask(&client).await.is_err() {
                        continue;
                    }
                    self.report(&subscribing, up_since, session_present);
                }
                Event::Closed => return End::Stopped,
                _ => {}
            }
            if link.has_more() {
                continue;
            }
            match self.pass().await {
                Passed::On => {}
                Passed::NoFurther => self.hand = None,
                Passed::TooLate => return End::Failed(BEHIND.into()),
            }
        }
    }

    // The next event. The poll is held over every other wake-up: dropping it could lose what it was writing.
    async fn next(
        &mut self,
        link: &mut Connection,
        subscribing: &mut Subscribing,
        client: &Client,
    ) -> Result<Event, End> {
        let mut poll = pin!(link.poll());
        loop {
            let stopping = self.hand.is_none();
            tokio::select! {
                biased;
                event = &mut poll => return event.map_err(End::Lost),
                () = self.stop.cancelled(), if !stopping => self.hand = None,
                // Nothing more will be acknowledged; what was, goes out before the goodbye.
                () = self.current.closed(), if stopping && !self.leaving => {
                    self.leaving = true;
                    client.disconnect().await;
                }
                () = until(subscribing.due) => {
                    if subscribing.asked > 0 {
                        return Err(End::Failed("the broker did not answer a subscription".into()));
                    }
                    subscribing.retry(&mut self.refused);
                    if subscribing.ask(client).await.is_err() {
                        // The poll is about to say why.
                        subscribing.due = None;
                    }
                }
            }
        }
    }

    fn take(&mut self, message: Message) {
        let Some(hand) = &mut self.hand else { return };
        let connection = self.connection;
        let receipt =
            (message.qos > 0).then(|| Receipt { connection, token: u64::from(message.id) });
        let size = message.payload.len();
        let oversize = (size > self.source.message_max).then_some(size);
        let payload = if oversize.is_some() {
            IngestCounts::add(&self.counts.oversize, 1);
            bytes::Bytes::new()
        } else {
            message.payload
        };
        hand.take(Delivery {
            topic: message.topic,
            payload,
            qos: message.qos,
            retained: message.retained,
            received: now(),
            receipt,
            oversize,
        });
        self.too_large = 0;
    }

    // Half a keep-alive without a look at the connection, and it would end in disorder.
    async fn pass(&mut self) -> Passed {
        let patience = self.source.dial.keep_alive() / 2;
        match &mut self.hand {
            Some(hand) => hand.pass(&self.stop, patience).await,
            None => Passed::On,
        }
    }

    fn answered(&mut self, subscribing: &mut Subscribing, answers: &[Result<u8, String>]) {
        let asked: Vec<_> = subscribing.todo.drain(..subscribing.asked).collect();
        subscribing.asked = 0;
        for (place, filter) in asked.into_iter().enumerate() {
            match answers.get(place) {
                Some(Ok(0)) => tracing::warn!(
                    filter,
                    "the broker grants QoS 0 only: what it sends while this node is away is lost"
                ),
                Some(Ok(_)) => {}
                Some(Err(why)) => {
                    if !subscribing.again {
                        tracing::warn!(
                            filter,
                            why,
                            "the broker refused a subscription; it is tried again each minute"
                        );
                    }
                    self.refused.push((filter, why.clone()));
                }
                None => self.refused.push((filter, "the broker did not answer for it".into())),
            }
        }
        if subscribing.todo.is_empty() {
            self.subscribed = true;
            subscribing.due = (!self.refused.is_empty()).then(|| monotonic() + RETRY_REFUSED);
        }
    }

    // Up only when every filter has an answer: before, messages may be missing that nobody would notice.
    fn report(&self, subscribing: &Subscribing, since: Timestamp, session_present: bool) {
        if subscribing.todo.is_empty() {
            let refused =
                self.refused.iter().map(|(filter, why)| format!("`{filter}`: {why}")).collect();
            self.status.send_replace(LinkStatus::Up { since, session_present, refused });
        }
    }

    // MQTT 3.1.1 has no way to refuse one message: the broker would send it again on every connection, for ever.
    async fn drop_session(&mut self) {
        let Ok((_client, mut link)) = self.source.dial.dial_clean().await else { return };
        let connected = tokio::select! {
            first = link.poll() => matches!(first, Ok(Event::Connected { .. })),
            () = self.stop.cancelled() => false,
        };
        if !connected {
            return;
        }
        tracing::error!(
            broker = self.source.dial.url(),
            "the broker kept sending a message too large to be read; its session was dropped, and with it what \
             the broker still held for this node. Limit the size at the broker (message_size_limit)"
        );
        IngestCounts::add(&self.counts.sessions_dropped, 1);
        self.too_large = 0;
        self.subscribed = false;
    }
}

impl Subscribing {
    // What was refused, once more.
    fn retry(&mut self, refused: &mut Vec<(String, String)>) {
        self.todo = refused.drain(..).map(|(filter, _)| filter).collect();
        self.again = true;
    }

    // Asks for the next packet of filters, one packet at a time, so that answers need no matching.
    async fn ask(&mut self, client: &Client) -> Result<(), crate::link::mqtt::Gone> {
        if self.asked == 0 && !self.todo.is_empty() {
            self.asked = self.todo.len().min(FILTERS_A_PACKET);
            client.subscribe(&self.todo[..self.asked]).await?;
            self.due = Some(monotonic() + ANSWER_WITHIN);
        }
        Ok(())
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => pending().await,
    }
}
