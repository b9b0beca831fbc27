//! The engine thread's end of taking models in: what the desk hands over, what it is asked for, and who decides about a
//! model on trial.
//!
//! `core` has it, and `node` makes it and the [`Desk`] together. It does no I/O.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use super::CoreView;
use super::desk::{Desk, Place};
use super::rollout;
use crate::command::models::{ModelDoor, WAITING};
use crate::command::{Action, Command, ModelAction, Refusal};
use crate::config::{Config, RolloutConfig};
use crate::engine::Engine;
use crate::feed::command::Order;
use crate::ingest::{Bell, Delivery};
use crate::model::Shelf;
use crate::pipeline::load::LoadedPipeline;
use crate::stage::score::{ScoreStage, Scorer, View};
use crate::time::now;

/// Models that may wait for the engine thread.
pub(super) const SUPPLIES: usize = 2;

/// A model for the engine, and the order that names it.
#[derive(Debug)]
pub(super) struct Supply {
    pub(super) scorer: Scorer,
    pub(super) order: Order,
}

/// The engine thread's end: what the desk hands over, what the broker brings for it, and the overseer of what is on trial.
pub(super) struct Models {
    pub(super) supplies: mpsc::Receiver<Supply>,
    pub(super) policy: RolloutConfig,
    /// What is decided, until the next tick.
    pub(super) decided: Vec<Order>,
    /// When it was looked at last.
    pub(super) overseen: Option<Instant>,
    /// The prefix of the topics on which models come; `None`: none do.
    pub(super) topics: Option<String>,
    /// What came from the broker and waits for the desk: of each score the latest.
    pub(super) pushed: VecDeque<Pushed>,
    pub(super) errands: mpsc::Sender<Errand>,
}

/// A model as it came from the broker.
#[derive(Debug)]
pub(super) struct Pushed {
    /// For which pipeline.
    pub(super) pipeline: String,
    /// For which score.
    pub(super) score: String,
    /// Its file.
    pub(super) payload: Bytes,
}

/// What the engine thread has the desk do.
#[derive(Debug)]
pub(super) enum Errand {
    /// Take in a model.
    Take(Pushed),
    /// Open the model with this digest, and bring the order again.
    Open(String, Order),
}

impl Models {
    /// The orders that wait; the models that they name are with the engine then.
    pub(super) fn take(&mut self, engine: &mut Engine) -> Vec<Order> {
        // One at a time, so that there is room for what an operator asks.
        if self.errands.capacity() == self.errands.max_capacity()
            && let Some(pushed) = self.pushed.pop_front()
        {
            drop(self.errands.try_send(Errand::Take(pushed)));
        }
        let mut orders = std::mem::take(&mut self.decided);
        while let Ok(Supply { scorer, order }) = self.supplies.try_recv() {
            let Command { pipeline, alarm, .. } = &order.command;
            let mut scores = engine.scores_mut();
            let found = scores.find(|(name, s)| name == pipeline && s.loader().output() == alarm);
            if let Some((_, score)) = found {
                score.supply(scorer);
            }
            orders.push(order);
        }
        orders
    }

    /// The order, unless it needs a model that the desk has to open first: then it comes again with that.
    pub(super) fn unless_awaited(&self, engine: &Engine, order: Order) -> Option<Order> {
        let Command { pipeline, alarm, action: Action::Model(action), .. } = &order.command else {
            return Some(order);
        };
        let mut scores = engine.scores();
        let found = scores.find(|(name, s)| name == pipeline && s.loader().output() == alarm);
        let Some(digest) = found.and_then(|(_, score)| score.awaits(action)) else {
            return Some(order);
        };
        if let Err(error) = self.errands.try_send(Errand::Open(digest, order))
            && let Errand::Open(_, order) = error.into_inner()
        {
            let reason = "other models are being taken in; ask again".to_owned();
            drop(order.answer.send(Err(Refusal::Unfit(reason))));
        }
        None
    }

    /// Once a second: looks at the models on trial, and decides.
    pub(super) fn oversee(&mut self, engine: &Engine, at: Instant) {
        if self.overseen.is_some_and(|last| at - last < OVERSEE) || !self.decided.is_empty() {
            return;
        }
        self.overseen = Some(at);
        for (pipeline, score) in engine.scores() {
            if !score.is_on_trial() {
                continue;
            }
            let Some(action) = rollout::decide(&score.view(), &self.policy, now()) else {
                continue;
            };
            let command = Command {
                pipeline: pipeline.to_owned(),
                asset: String::new(),
                alarm: score.loader().output().to_owned(),
                action: Action::Model(action),
                by: Some(rollout::BY.into()),
            };
            let (answer, _) = oneshot::channel();
            self.decided.push(Order { command, answer });
        }
    }

    /// Whether a message is a model: then it waits for the desk, or it is told why not.
    pub(super) fn is_for_desk(&mut self, engine: &Engine, delivery: &Delivery) -> bool {
        let names = self.topics.as_ref().and_then(|prefix| delivery.topic.strip_prefix(prefix));
        let Some((pipeline, score)) = names.and_then(|names| names.split_once('/')) else {
            return false;
        };
        if delivery.payload.is_empty() {
            return true; // how a retained message is removed
        }
        let payload = delivery.payload.clone();
        let mut waiting = self.pushed.iter_mut();
        let older = waiting.find(|other| other.pipeline == pipeline && other.score == score);
        match older {
            Some(older) => older.payload = payload,
            None if engine.scores().any(|s| s.0 == pipeline && s.1.loader().output() == score) => {
                let (pipeline, score) = (pipeline.to_owned(), score.to_owned());
                self.pushed.push_back(Pushed { pipeline, score, payload });
            }
            None => {
                let topic = &delivery.topic;
                tracing::error!(topic, "no pipeline has this score: the model is refused");
            }
        }
        true
    }
}

/// How often models on trial are looked at.
const OVERSEE: Duration = Duration::from_secs(1);

/// Says what a score does whose own file cannot be used.
fn tell_stand_in(pipeline: &str, score: &ScoreStage) {
    let View { output, model, version, digest, .. } = score.view();
    if !score.own().is_empty() {
        return;
    }
    if digest.is_empty() {
        tracing::error!(
            pipeline,
            score = output,
            "the pipeline's own model cannot be used, and none was in use before: no model answers until a good one comes"
        );
    } else {
        tracing::error!(
            pipeline,
            score = output,
            model,
            version,
            digest,
            "the pipeline's own model cannot be used: the one that was in use goes on"
        );
    }
}

/// Orders that tell of models which the start was to go on with and could not.
fn tell_lost(pipeline: &str, score: &ScoreStage) -> Vec<Order> {
    let told = score.lost().iter().cloned().map(|(digest, reason)| Order {
        command: Command {
            pipeline: pipeline.to_owned(),
            asset: String::new(),
            alarm: score.loader().output().to_owned(),
            action: Action::Model(ModelAction::Lost { digest, reason }),
            by: Some(rollout::BY.into()),
        },
        answer: oneshot::channel().0,
    });
    told.collect()
}

/// The prefix of the topics on which models come to this node.
pub(super) fn topics(node: &str) -> String {
    format!("forebay/{node}/models/")
}

/// The two ends between which models come in, and the door in front of them.
pub(super) fn open(
    config: &Config,
    pipelines: &[LoadedPipeline],
    engine: &Engine,
    core: &watch::Receiver<CoreView>,
    bell: Bell,
) -> (Models, Desk, Option<ModelDoor>) {
    let shelf = Shelf::new(config.store.path.join("models"));
    // What came in before the last stop became nothing.
    drop(std::fs::remove_dir_all(shelf.incoming()));
    let (supplier, supplies) = mpsc::channel(SUPPLIES);
    let (errands, given) = mpsc::channel(WAITING);
    let (asker, asks) = mpsc::channel(WAITING);
    let places: Vec<Place> = engine.scores().filter_map(|s| Place::of(s, pipelines)).collect();
    engine.scores().for_each(|(pipeline, score)| tell_stand_in(pipeline, score));
    let largest = config.models.largest.as_u64();
    let (incoming, turn) = (shelf.incoming(), Arc::default());
    let door = ModelDoor { incoming, largest, turn, desk: asker };
    let door = (!places.is_empty()).then_some(door);
    let models = Models {
        supplies,
        policy: config.models.rollout.clone(),
        decided: engine.scores().flat_map(|(name, score)| tell_lost(name, score)).collect(),
        overseen: None,
        topics: config.models.mqtt.then(|| topics(&config.node)),
        pushed: VecDeque::new(),
        errands,
    };
    let desk = Desk {
        places,
        refused: watch::Sender::default(),
        shelf,
        spare: usize::from(config.models.spare),
        watch: config.models.watch,
        asks,
        errands: given,
        supplies: supplier,
        ring: Box::new(move || bell.ring()),
        core: core.clone(),
    };
    (models, desk, door)
}
