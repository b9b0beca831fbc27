//! The connection to a broker on the far side, and the parcels on their way over it.
//!
//! `uplink/mqtt.rs` starts it as a task and hands it [`Letter`]s. A parcel is delivered when the broker has acknowledged all
//! that it went out as, with a reason code that says so; each letter is answered then. The outbox is the session: after
//! any error but a refusal of one publish the connection is dropped with all it knows, every letter is answered with what
//! the broker has of it, and what is left goes out again over a fresh one. What is too large for the broker is refused
//! whether the broker says so (MQTT 5) or just hangs up: see [`Suspicion`]. Another client with the same id is told, and
//! given way to for a while where the broker says that there is one: see [`Rival`].

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::link::{LinkError, Outcome};
use super::mqtt::{Form, Ready};
use super::suspicion::{Publish, Suspicion};
use crate::link::Backoff;
use crate::link::mqtt::{Dial, Event, Lost, Qos, Refusal};
use crate::link::pump::{Pump, PumpError};
use crate::link::rival::Rival;
use crate::record::Lane;
use crate::store::{Key, Parcel};
use crate::time::{Span, monotonic};

/// Publishes on the way at a time; few enough that a lost connection sends few records twice.
pub(super) const WINDOW: u16 = 512;
/// How long the far side may be silent while something is on the way.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Longest wait for another client with the same id to go.
const RIVAL_WAIT_MAX: Span = Span::seconds(30);

/// A parcel to be sent, and who waits for what comes of it.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) parcel: Arc<Parcel>,
    pub(super) level: i32,
    pub(super) answer: oneshot::Sender<Outcome>,
}

/// See the module.
pub(super) struct Courier {
    dial: Dial,
    form: Form,
    letters: mpsc::Receiver<Letter>,
    pump: Option<Pump>,
    /// When the connection was made.
    made: Instant,
    suspicion: Suspicion,
    rival: Rival,
    /// Waits where there is a rival.
    backoff: Backoff,
    /// By number.
    open: BTreeMap<u64, Open>,
    next: u64,
    /// Publishes that wait for a place.
    waiting: VecDeque<(u64, Ready)>,
    /// Handed to the connection, in order, without a packet id yet.
    handed: VecDeque<OnTheWay>,
    /// Sent under these packet ids.
    on_the_way: HashMap<u16, OnTheWay>,
    /// Whether the broker has taken anything on this connection.
    brought: bool,
    /// When the broker was last heard, or asked after a silence that was not its own.
    heard: Instant,
}

/// A letter on its way.
struct Open {
    parcel: Arc<Parcel>,
    answer: oneshot::Sender<Outcome>,
    /// Publishes without an acknowledgement.
    left: usize,
    keys: Vec<Key>,
    wire: u64,
    error: Option<LinkError>,
}

/// A publish on its way.
struct OnTheWay {
    letter: u64,
    publish: Publish,
    keys: Vec<Key>,
}

impl Courier {
    pub(super) fn new(dial: Dial, form: Form, letters: mpsc::Receiver<Letter>) -> Courier {
        Courier {
            dial,
            form,
            letters,
            pump: None,
            made: monotonic(),
            suspicion: Suspicion::default(),
            rival: Rival::default(),
            backoff: Backoff::new(RIVAL_WAIT_MAX),
            open: BTreeMap::new(),
            next: 0,
            waiting: VecDeque::new(),
            handed: VecDeque::new(),
            on_the_way: HashMap::new(),
            brought: false,
            heard: monotonic(),
        }
    }

    /// Goes on until nobody can send a letter any more.
    pub(super) async fn run(mut self) {
        loop {
            if self.open.is_empty() {
                let Some(letter) = self.letters.recv().await else { return };
                self.take(letter).await;
                continue;
            }
            // Where letters are open, there is a connection.
            let Some(mut pump) = self.pump.take() else {
                self.fail(|| LinkError::Lost("the connection has ended".into()));
                continue;
            };
            if self.publish(&pump).await.is_err() {
                self.fail(|| LinkError::Lost("the connection has ended".into()));
                continue;
            }
            tokio::select! {
                event = pump.events.recv() => match event {
                    Some(Ok(event)) => {
                        self.pump = Some(pump);
                        self.note(event);
                    }
                    Some(Err(lost)) => self.lost(&lost),
                    None => self.fail(|| LinkError::Lost("the connection has ended".into())),
                },
                letter = self.letters.recv() => {
                    self.pump = Some(pump);
                    let Some(letter) = letter else { return };
                    self.take(letter).await;
                }
                () = tokio::time::sleep_until((self.heard + ANSWER_WITHIN).into()) => {
                    self.fail(|| LinkError::Lost("the broker acknowledges nothing".into()));
                }
            }
        }
    }

    /// Opens a letter, or answers it where it cannot go.
    async fn take(&mut self, letter: Letter) {
        let Letter { parcel, level, answer } = letter;
        let (keys, wire, left) = (Vec::new(), 0, 0);
        let mut open = Open { parcel, answer, left, keys, wire, error: None };
        let publishes = match self.prepare(&open.parcel, level).await {
            Ok(publishes) => publishes,
            Err(error) => {
                open.error = Some(error);
                return open.close();
            }
        };
        if self.open.is_empty() {
            self.heard = monotonic();
        }
        open.left = publishes.len();
        let number = self.next;
        self.next += 1;
        let is_alarm = open.parcel.lane == Lane::Alarm;
        self.open.insert(number, open);
        let publishes = publishes.into_iter().map(|ready| (number, ready));
        if is_alarm {
            // Behind alarms that wait, and before all others.
            let is_other = |(number, _): &(u64, Ready)| {
                self.open.get(number).is_some_and(|open| open.parcel.lane != Lane::Alarm)
            };
            let place = self.waiting.iter().position(is_other).unwrap_or(self.waiting.len());
            let others = self.waiting.split_off(place);
            self.waiting.extend(publishes);
            self.waiting.extend(others);
        } else {
            self.waiting.extend(publishes);
        }
        if self.suspicion.is_cautious() {
            // Small ones first, so that the one that the broker does not take holds up no other.
            self.waiting.make_contiguous().sort_by_key(|(_, ready)| ready.payload.len());
        }
    }

    /// A parcel's publishes, and a connection that takes them.
    async fn prepare(&mut self, parcel: &Parcel, level: i32) -> Result<VecDeque<Ready>, LinkError> {
        let publishes = self.form.publishes(parcel, level)?;
        let all: Vec<Publish> = publishes.iter().filter_map(Ready::publish).collect();
        if let Some(answer) = self.suspicion.verdict(&all, parcel.lane) {
            return Err(self.form.too_large(answer));
        }
        if self.open.is_empty() {
            self.connect().await?;
        }
        let packet_max = self.pump.as_ref().and_then(|pump| pump.terms.packet_max);
        match publishes.iter().find_map(|ready| self.form.over(ready, packet_max)) {
            Some(error) => Err(error),
            None => Ok(publishes),
        }
    }

    /// Between letters nothing is on the way, so an end that nobody noticed has cost nothing.
    async fn connect(&mut self) -> Result<(), LinkError> {
        if let Some(mut pump) = self.pump.take() {
            let ended = loop {
                match pump.events.try_recv() {
                    Ok(Ok(_)) => {}
                    Ok(Err(lost)) => break Some(self.judge(&lost)),
                    Err(mpsc::error::TryRecvError::Disconnected) => break Some(None),
                    Err(mpsc::error::TryRecvError::Empty) => break None,
                }
            };
            match ended {
                None => {
                    self.pump = Some(pump);
                    return Ok(());
                }
                Some(Some(rival)) => return Err(rival),
                Some(None) => {}
            }
        }
        self.brought = false;
        // Two events a publish, and room to spare: the connection never waits for this side.
        let opened = Pump::open(&self.dial, 4 * usize::from(WINDOW), |event| {
            matches!(event, Event::Sent(_) | Event::Acknowledged(..) | Event::Stuck)
        });
        let pump = opened.await.map_err(|error| match error {
            PumpError::Setup(error) => LinkError::Setup(error),
            PumpError::Lost(lost) => fault(&lost),
        })?;
        self.pump = Some(pump);
        self.made = monotonic();
        Ok(())
    }

    /// Takes note of the end of a connection; gives what to do where another client is suspected.
    fn judge(&mut self, lost: &Lost) -> Option<LinkError> {
        let held = Some(self.made.elapsed());
        let id = self.dial.client_id();
        let Some(what) = self.rival.ended(Some(lost), held, id) else {
            self.backoff.reset();
            return None;
        };
        let what = format!("{what}; give every target's `broker` a `client_id` of its own");
        // A broker that hangs up may be a bad link, too: nobody is given way to for that.
        let after = match lost {
            Lost::TakenOver => Span(self.backoff.wait().as_micros() as i64),
            _ => Span::ZERO,
        };
        Some(LinkError::Rival { what, after })
    }

    /// Hands over what has a place.
    async fn publish(&mut self, pump: &Pump) -> Result<(), ()> {
        let window = if self.suspicion.is_cautious() { 1 } else { usize::from(WINDOW) };
        while self.handed.len() + self.on_the_way.len() < window {
            let Some((letter, ready)) = self.waiting.pop_front() else { break };
            let (bytes, publish) = (self.form.bytes_of(&ready), ready.publish());
            let Ready { keys, topic, payload, content } = ready;
            // The queue holds a window, so this does not wait.
            let taken = match content {
                Some(content) => pump.client.publish_content(&topic, payload, content).await,
                None => pump.client.publish(&topic, Qos::One, false, payload).await,
            };
            taken.map_err(|_| ())?;
            if let Some(open) = self.open.get_mut(&letter) {
                open.wire += bytes;
            }
            self.handed.extend(publish.map(|publish| OnTheWay { letter, publish, keys }));
        }
        Ok(())
    }

    /// What the broker says.
    fn note(&mut self, event: Event) {
        self.heard = monotonic();
        match event {
            Event::Sent(id) if id != 0 && !self.handed.is_empty() => {
                self.on_the_way.extend(self.handed.pop_front().map(|publish| (id, publish)));
            }
            Event::Acknowledged(id, answer) if self.on_the_way.contains_key(&id) => {
                let Some(OnTheWay { letter, publish, keys }) = self.on_the_way.remove(&id) else {
                    return;
                };
                match answer {
                    Ok(()) => {
                        self.brought = true;
                        self.suspicion.took(publish);
                        self.answered(letter, keys, None);
                    }
                    Err(Refusal { reason: answer, about_message: true }) => {
                        self.answered(letter, Vec::new(), Some(LinkError::Refused { answer }));
                    }
                    Err(Refusal { reason, .. }) => {
                        self.fail(|| LinkError::Unwelcome { answer: reason.clone() });
                    }
                }
            }
            other => {
                let why = format!("the broker mixes up its answers: {other:?}");
                self.fail(|| LinkError::Lost(why.clone()));
            }
        }
    }

    /// One of a letter's publishes has its answer. After a refusal what has not gone of the letter does not go.
    fn answered(&mut self, letter: u64, keys: Vec<Key>, error: Option<LinkError>) {
        let Some(open) = self.open.get_mut(&letter) else { return };
        open.left -= 1;
        open.keys.extend(keys);
        if error.is_some() {
            open.error = error;
            let before = self.waiting.len();
            self.waiting.retain(|(of, _)| *of != letter);
            open.left -= before - self.waiting.len();
        }
        if open.left == 0
            && let Some(open) = self.open.remove(&letter)
        {
            open.close();
        }
    }

    /// The connection has ended.
    fn lost(&mut self, lost: &Lost) {
        if let Lost::Closed(_) = lost {
            let window_is_one = self.suspicion.is_cautious();
            let mut all = self.handed.iter().chain(self.on_the_way.values());
            let alone = all.next().filter(|_| window_is_one).map(|one| one.publish);
            self.suspicion.closed(alone, self.brought);
        }
        if let Lost::OursTooLarge(answer) = lost {
            let largest = self.on_the_way.values().max_by_key(|one| one.publish.size);
            // rumqttc refuses before it counts a publish as sent; a broker afterwards.
            let letter = self.handed.front().or(largest).map(|one| one.letter);
            if let Some(mut open) = letter.and_then(|letter| self.open.remove(&letter)) {
                open.error = Some(self.form.too_large(answer.clone()));
                open.close();
            }
        }
        // A broker that hangs up on a publish does so while one is on its way, and again with the next; then it took nothing
        // before, or they go one by one.
        let is_about_publish = self.suspicion.is_cautious() || !self.brought;
        let rival = match lost {
            Lost::Closed(_) if is_about_publish => None,
            lost => self.judge(lost),
        };
        match rival {
            Some(LinkError::Rival { what, after }) => {
                self.fail(|| LinkError::Rival { what: what.clone(), after });
            }
            _ => self.fail(|| fault(lost)),
        }
    }

    /// Answers all letters; the connection goes with all it knows.
    fn fail(&mut self, error: impl Fn() -> LinkError) {
        self.pump = None;
        self.waiting.clear();
        self.handed.clear();
        self.on_the_way.clear();
        for (_, mut open) in std::mem::take(&mut self.open) {
            open.error = Some(error());
            open.close();
        }
    }
}

impl Open {
    fn close(self) {
        let Open { parcel, answer, keys, wire, error, .. } = self;
        let acked = parcel.acked_keys(keys);
        // Who waited may have given up: then it is sent again.
        let _ = answer.send(Outcome { acked, error, wire });
    }
}

fn fault(lost: &Lost) -> LinkError {
    match lost {
        Lost::Refused(answer) => LinkError::Unwelcome { answer: answer.clone() },
        Lost::OursTooLarge(_)
        | Lost::TooLarge { .. }
        | Lost::TakenOver
        | Lost::Closed(_)
        | Lost::Broken(_) => LinkError::Lost(lost.to_string()),
    }
}
