//! The engine thread: owns engine, ledger and inbox, and is the only one who does.
//!
//! `node` starts it. Its loop is the way of one reading: take what came, decode, step, commit, and only then tell
//! anybody. It returns when the source has ended, after a last checkpoint, or with the first store error.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::NodeError;
use super::models::Models;
use super::refusals::Refusals;
use super::status::{CoreView, view};
use crate::command::{Action, Command, ModelAction};
use crate::config::Config;
use crate::decode::{DecodeError, DecodeOptions, Decoder, Rows};
use crate::engine::{Answer, Engine};
use crate::feed::HubHandle;
use crate::feed::command::broker::BrokerDoor;
use crate::feed::command::{Order, Orders};
use crate::frame::Input;
use crate::ingest::{Acks, Batch, Delivery, Inbox};
use crate::link::LinkStatus;
use crate::metrics::Metrics;
use crate::pipeline::load::LoadedPipeline;
use crate::pipeline::plan::route;
use crate::record::{Record, Step};
use crate::store::{Committed, Ledger, Receipts, Released, StoreError};
use crate::time::{Span, Timestamp, monotonic, now};

/// The loop comes round at least this often, so that its status is fresh and a checkpoint is not forgotten.
const ROUND: Span = Span::millis(500);
/// The status of a busy loop is told this often.
const TELL: Duration = Duration::from_millis(250);

/// How long a full disk is left alone between two tries.
const FULL_WAIT: Duration = Duration::from_millis(250);

/// A route: its decoder, and the rows of the tick.
pub(super) struct Route {
    pub(super) decoder: Decoder,
    pub(super) rows: Rows,
}

/// Everything the engine thread owns.
pub(super) struct Core {
    pub(super) engine: Engine,
    pub(super) ledger: Ledger,
    pub(super) inbox: Inbox,
    pub(super) acks: Acks,
    pub(super) ear: Ear,
    pub(super) orders: Orders,
    /// Commands that come over the broker.
    pub(super) asked: BrokerDoor,
    pub(super) models: Models,
    pub(super) routes: Vec<Route>,
    pub(super) committed: watch::Sender<Committed>,
    pub(super) hub: HubHandle,
    pub(super) metrics: Arc<Metrics>,
    pub(super) status: watch::Sender<CoreView>,
    pub(super) checkpoint_every: Duration,
    pub(super) rejected_kept: usize,
    pub(super) message_max: usize,
    pub(super) messages: Messages,
    pub(super) refusals: Refusals,
    pub(super) stop: CancellationToken,
}

/// Whether the broker can be heard.
pub(super) struct Ear {
    link: watch::Receiver<LinkStatus>,
    /// Whether it could not since the last tick; at first, since the last process.
    was_deaf: bool,
}

impl Ear {
    /// That of a process that has just started.
    pub(super) fn new(link: watch::Receiver<LinkStatus>) -> Ear {
        Ear { link, was_deaf: true }
    }

    fn hears(&self) -> bool {
        matches!(*self.link.borrow(), LinkStatus::Up { .. })
    }
}

/// Messages at the door.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Messages {
    /// That came.
    pub received: u64,
    /// That could not be read at all.
    pub rejected: u64,
    /// Readings in messages that could be read, each of which could not.
    pub readings_rejected: u64,
    /// Readings whose time is that of their arrival.
    pub undated: u64,
}

impl Core {
    /// Runs until the source has ended.
    pub(super) fn run(&mut self) -> Result<CoreView, NodeError> {
        // Dashboards start empty; what is on since before the start is not shown as over.
        // From here on the engine meets what happens, not what the journal says has happened.
        self.engine.scores_mut().for_each(|(_, score)| score.enforce_deadline());
        let standing = self.engine.standing().into_iter().map(|s| Record::Alarm(s.record));
        self.hub.publish(standing.collect());
        // By the clock that never jumps: a wall clock set back by an hour must not keep the journal growing for one.
        let mut checkpointed = monotonic();
        let mut told: Option<Instant> = None;
        while let Some(batch) = self.inbox.next_batch(Some(self.wake())) {
            self.tick(batch)?;
            self.asked.answer();
            let at = monotonic();
            if at - checkpointed >= self.checkpoint_every {
                self.checkpoint()?;
                checkpointed = at;
            }
            self.ledger.sync_due()?;
            self.models.oversee(&self.engine, at);
            if told.is_none_or(|told| at - told >= TELL) {
                self.tell();
                told = Some(at);
            }
        }
        self.checkpoint()?;
        self.tell();
        Ok(self.status.borrow().clone())
    }

    /// When to come round even if nothing arrives.
    fn wake(&self) -> Instant {
        let due = self.engine.wake_at().map_or(ROUND, |at| at.since(now()));
        monotonic() + due.clamp(Span::millis(1), ROUND).to_std()
    }

    fn tick(&mut self, batch: Batch) -> Result<(), NodeError> {
        let (at, closed) = (now(), monotonic());
        let Batch { deliveries, receipts, .. } = batch;
        for delivery in &deliveries {
            self.decode(delivery)?;
        }
        let mut input: Vec<Input> =
            self.routes.iter_mut().filter(|r| !r.rows.is_empty()).map(|r| r.rows.take()).collect();
        let orders = self.orders(at);
        if !orders.is_empty() {
            let commands = orders.iter().map(|order| order.command.clone()).collect();
            input.push(Input::of_commands(commands));
        }
        let due = self.engine.wake_at().is_some_and(|wake| wake <= at);
        let is_lost =
            |order: &Order| matches!(order.command.action, Action::Model(ModelAction::Lost { .. }));
        let has_lost = orders.iter().any(is_lost);
        let (hears, was_deaf) = (self.ear.hears(), self.ear.was_deaf);
        self.ear.was_deaf = !hears;
        if input.is_empty() && receipts.is_empty() && !due && !(hears && was_deaf) {
            return Ok(());
        }
        // Said in the journal, so that a recovery waits for assets as long as this process did.
        if was_deaf || !hears {
            input.push(Input::of_deafness());
        }
        self.step(input, receipts, at, closed)?;
        for (order, answer) in orders.into_iter().zip(self.engine.take_answers()) {
            tell_operator(order, answer);
        }
        if has_lost {
            // A start from the checkpoint before would look for that model again, and perhaps find it.
            self.checkpoint()?;
        }
        Ok(())
    }

    /// One step of the engine, made durable; then whoever waits for it is told.
    fn step(
        &mut self,
        input: Vec<Input>,
        receipts: Receipts,
        at: Timestamp,
        closed: Instant,
    ) -> Result<(), NodeError> {
        let readings: usize = input.iter().map(|i| i.readings.len()).sum();
        let started = monotonic();
        let step = self.engine.step(input, at);
        let stepped = monotonic();
        let (committed, released) = self.commit(&step, receipts)?;
        self.metrics.step_seconds.observe((stepped - started).as_secs_f64());
        self.metrics.commit_seconds.observe(stepped.elapsed().as_secs_f64());
        self.metrics.tick_readings.observe(readings as f64);
        self.acks.release(&released);
        self.committed.send_replace(committed);
        let made = !step.records.is_empty();
        self.hub.publish(step.records.into_iter().map(|o| o.record).filter(is_live).collect());
        if made {
            self.metrics.publish_seconds.observe(closed.elapsed().as_secs_f64());
        }
        self.warn();
        Ok(())
    }

    /// Commits a tick; while the disk is full nothing is acknowledged, and it is tried again until there is space.
    fn commit(
        &mut self,
        step: &Step,
        mut receipts: Receipts,
    ) -> Result<(Committed, Released), NodeError> {
        let mut is_told = false;
        loop {
            match self.ledger.commit(step, &mut receipts) {
                Ok(done) => {
                    if is_told {
                        self.status.send_modify(|view| view.is_disk_full = false);
                        tracing::info!("there is space on the disk again; readings are taken");
                    }
                    return Ok(done);
                }
                Err(error @ StoreError::Full { .. }) if !self.stop.is_cancelled() => {
                    if !is_told {
                        tracing::error!(
                            %error,
                            "nothing is acknowledged until there is space; the broker keeps what comes"
                        );
                        self.status.send_modify(|view| view.is_disk_full = true);
                        is_told = true;
                    }
                    std::thread::park_timeout(FULL_WAIT);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Says what an operator has to know of the tick.
    fn warn(&mut self) {
        for full in self.engine.take_full() {
            tracing::warn!(
                pipeline = full.pipeline,
                asset = full.asset,
                limit = full.limit,
                "a new asset is over `limits.assets`; it is refused, and so are all others that are new"
            );
        }
        for failure in self.engine.take_failures() {
            tracing::error!(
                pipeline = failure.pipeline,
                reason = failure.reason,
                "a pipeline lost this tick's readings and what it remembered; the others go on"
            );
        }
    }

    /// The operators' commands for this tick. What cannot be done is answered at once: it costs no tick and no write.
    fn orders(&mut self, at: Timestamp) -> Vec<Order> {
        let mut fit = Vec::new();
        let from_desk = self.models.take(&mut self.engine);
        let from_people = self.orders.take().into_iter().chain(self.asked.orders());
        for order in from_people.chain(from_desk) {
            match self.engine.judge(&order.command, at) {
                Ok(()) => fit.extend(self.models.unless_awaited(&self.engine, order)),
                Err(refusal) => tell_operator(order, Err(refusal)),
            }
        }
        fit
    }

    /// Adds a message's readings to the rows of every route that it is for.
    fn decode(&mut self, delivery: &Delivery) -> Result<(), NodeError> {
        self.messages.received += 1;
        self.metrics.message_received(1);
        if let Some(size) = delivery.oversize {
            let (topic, limit) = (delivery.topic.clone(), self.message_max);
            let error = DecodeError::TooLarge { topic, size, limit };
            return self.reject(delivery, error.name(), &error.to_string());
        }
        let (topic, payload) = (&delivery.topic, &delivery.payload);
        if let Some(taken) = self.asked.take(topic, payload, delivery.retained) {
            return match taken {
                Ok(()) => Ok(()),
                Err(why) => self.reject(delivery, "command", &why),
            };
        }
        if self.models.is_for_desk(&self.engine, delivery) {
            return Ok(());
        }
        let mut taken = false;
        for index in 0..self.routes.len() {
            let route = &mut self.routes[index];
            let (topic, payload) = (&delivery.topic, &delivery.payload);
            let (decoder, rows) = (&route.decoder, &mut route.rows);
            // One that the broker had kept is older than its arrival; nobody knows how much.
            let received = (!delivery.retained).then_some(delivery.received);
            let Some(result) = decoder.decode_own(topic, payload, received, rows) else {
                continue;
            };
            taken = true;
            for name in route.rows.unknown_signals() {
                tracing::warn!(
                    topic,
                    signal = name,
                    "the schema does not know this signal; it is passed over"
                );
            }
            match result {
                Ok(decoded) => {
                    self.messages.readings_rejected += decoded.rejected as u64;
                    self.messages.undated += decoded.undated as u64;
                    if let Some(fault) = decoded.fault {
                        self.metrics.message_rejected(fault.name(), decoded.rejected as u64);
                        let why = fault.to_string();
                        self.refusals.tell(fault.name(), topic, &why, delivery.received);
                        let kept = self.rejected_kept;
                        unless_full(self.ledger.quarantine(&why, topic, payload, kept))?;
                    }
                }
                Err(error) => self.reject(delivery, error.name(), &error.to_string())?,
            }
        }
        if !taken {
            self.reject(delivery, "no_route", "its topic matches no pipeline")?;
        }
        Ok(())
    }

    /// Counts a message that could not be read, and keeps it to look into.
    fn reject(
        &mut self,
        delivery: &Delivery,
        name: &'static str,
        why: &str,
    ) -> Result<(), NodeError> {
        self.messages.rejected += 1;
        self.metrics.message_rejected(name, 1);
        self.refusals.tell(name, &delivery.topic, why, delivery.received);
        let (topic, kept) = (&delivery.topic, self.rejected_kept);
        unless_full(self.ledger.quarantine(why, topic, &delivery.payload, kept))
    }

    fn checkpoint(&mut self) -> Result<(), NodeError> {
        let checkpoint = self.engine.checkpoint().map_err(NodeError::Checkpoint)?;
        let written = self.ledger.checkpoint(&checkpoint);
        if written.is_ok() {
            self.engine.scores_mut().for_each(|(_, score)| score.checkpointed());
        }
        unless_full(written)
    }

    fn tell(&mut self) {
        let beats = self.status.borrow().beats + 1;
        let view = view(&self.engine, self.messages, beats);
        for (name, counts) in &view.pipelines {
            self.metrics.set_pipeline(name, counts);
        }
        self.status.send_replace(view);
    }
}

/// One decoder a route, however many pipelines take it.
pub(super) fn routes(
    pipelines: &[LoadedPipeline],
    config: &Config,
) -> Result<Vec<Route>, NodeError> {
    let mut routes: Vec<Route> = Vec::new();
    for LoadedPipeline { spec, schema, .. } in pipelines {
        let name = route(spec);
        if routes.iter().any(|r| r.decoder.route() == name) {
            continue;
        }
        let options = DecodeOptions { message_max: message_max(config) };
        let decoder = Decoder::new(name.clone(), &spec.topics, &spec.format, schema, options)
            .map_err(|e| NodeError::Decode { pipeline: spec.name.clone(), source: Box::new(e) })?;
        routes.push(Route { decoder, rows: Rows::new(name) });
    }
    Ok(routes)
}

pub(super) fn message_max(config: &Config) -> usize {
    usize::try_from(config.limits.message.as_u64()).unwrap_or(usize::MAX)
}

/// A full disk costs what can be done without: the journal stands in for a checkpoint, and what was rejected is counted.
fn unless_full(result: Result<(), StoreError>) -> Result<(), NodeError> {
    match result {
        Err(error @ StoreError::Full { .. }) => {
            tracing::debug!(%error, "left out");
            Ok(())
        }
        other => Ok(other?),
    }
}

/// Answers a command. Whoever asked may have left meanwhile.
fn tell_operator(order: Order, answer: Answer) {
    let Order { command: Command { pipeline, asset, alarm, action, by }, answer: to } = order;
    let is_for_model = matches!(action, Action::Model(_));
    let (action, by) = (action.name(), by.unwrap_or_default());
    // A command to a model carries its score's name in the alarm's place.
    let (score, asset, alarm) =
        if is_for_model { (Some(alarm), None, None) } else { (None, Some(asset), Some(alarm)) };
    match &answer {
        Ok(_) => {
            tracing::info!(pipeline, score, asset, alarm, action, by, "an operator's command");
        }
        Err(why) => {
            tracing::debug!(pipeline, score, asset, alarm, action, by, %why, "a command was refused");
        }
    }
    drop(to.send(answer));
}

/// What dashboards are shown.
fn is_live(record: &Record) -> bool {
    !matches!(record, Record::Raw(_))
}
