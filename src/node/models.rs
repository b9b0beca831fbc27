//! Taking models in: read, checked, put on the shelf, tried, and handed to the engine thread with the order.
//!
//! A task of `node`, beside the engine thread, so that loading a large model holds up no reading. Offers come over HTTP,
//! from the broker, and from the pipelines' own files when they change. It promises that what the engine is handed lies
//! whole and synced on the shelf, under its digest, and that a model which does not fit costs nothing but a refusal.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::CoreView;
use super::rollout;
use crate::command::models::{Inquiry, ModelDoor, Offer, Taken, WAITING};
use crate::command::{Action, Command, ModelAction, Refusal};
use crate::config::{Config, RolloutConfig};
use crate::engine::Engine;
use crate::feed::command::Order;
use crate::ingest::{Bell, Delivery};
use crate::model::weigh::Weight;
use crate::model::{ModelFile, Shelf};
use crate::pipeline::load::LoadedPipeline;
use crate::stage::score::{Loader, ScoreStage, Scorer, View};
use crate::time::{Span, now};

/// Models that may wait for the engine thread.
pub(super) const SUPPLIES: usize = 2;

/// A model for the engine, and the order that names it.
#[derive(Debug)]
pub(super) struct Supply {
    pub(super) scorer: Scorer,
    pub(super) order: Order,
}

/// A score of a pipeline, and the file of its model.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) pipeline: String,
    pub(super) loader: Loader,
    pub(super) path: PathBuf,
    /// The digest of the model that was opened there.
    pub(super) own: String,
    /// Whether it was put there while the node was stopped, and nobody has met it yet.
    pub(super) is_new: bool,
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
    pub(super) from_broker: mpsc::Sender<Pushed>,
}

/// A model as it came from the broker.
#[derive(Debug)]
pub(super) struct Pushed {
    pipeline: String,
    score: String,
    payload: Bytes,
}

impl Models {
    /// The orders that wait; the models that they name are with the engine then.
    pub(super) fn take(&mut self, engine: &mut Engine) -> Vec<Order> {
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

    /// Whether a message is a model: then the desk has it, or it is told why not.
    pub(super) fn is_for_desk(&self, delivery: &Delivery) -> bool {
        let names = self.topics.as_ref().and_then(|prefix| delivery.topic.strip_prefix(prefix));
        let Some((pipeline, score)) = names.and_then(|names| names.split_once('/')) else {
            return false;
        };
        let payload = delivery.payload.clone();
        let pushed = Pushed { pipeline: pipeline.into(), score: score.into(), payload };
        if self.from_broker.try_send(pushed).is_err() {
            tracing::warn!(
                topic = delivery.topic,
                "other models are being taken in; this one is lost"
            );
        }
        true
    }
}

/// How often models on trial are looked at.
const OVERSEE: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Desk {
    pub(super) from_broker: mpsc::Receiver<Pushed>,
    pub(super) places: Vec<Place>,
    pub(super) shelf: Shelf,
    pub(super) spare: usize,
    pub(super) watch: Span,
    pub(super) asks: mpsc::Receiver<Inquiry>,
    pub(super) supplies: mpsc::Sender<Supply>,
    pub(super) ring: Box<dyn Fn() + Send + Sync>,
    pub(super) core: watch::Receiver<CoreView>,
}

impl Place {
    /// That of a score of a pipeline.
    pub(super) fn of(
        (pipeline, score): (&str, &ScoreStage),
        pipelines: &[LoadedPipeline],
    ) -> Option<Place> {
        let loaded = pipelines.iter().find(|loaded| loaded.spec.name == pipeline)?;
        let base = loaded.path.parent().unwrap_or(Path::new(""));
        Some(Place {
            pipeline: pipeline.to_owned(),
            path: base.join(score.loader().model()),
            own: score.own().to_owned(),
            is_new: score.has_new_file(),
            loader: score.loader().clone(),
        })
    }
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
    let (pushes, from_broker) = mpsc::channel(WAITING);
    let (asker, asks) = mpsc::channel(WAITING);
    let places: Vec<Place> = engine.scores().filter_map(|s| Place::of(s, pipelines)).collect();
    let largest = config.models.largest.as_u64();
    let (incoming, turn) = (shelf.incoming(), Arc::default());
    let door = ModelDoor { incoming, largest, turn, desk: asker };
    let door = (!places.is_empty()).then_some(door);
    let models = Models {
        supplies,
        policy: config.models.rollout.clone(),
        decided: Vec::new(),
        overseen: None,
        topics: config.models.mqtt.then(|| topics(&config.node)),
        from_broker: pushes,
    };
    let desk = Desk {
        places,
        shelf,
        spare: usize::from(config.models.spare),
        watch: config.models.watch,
        asks,
        from_broker,
        supplies: supplier,
        ring: Box::new(move || bell.ring()),
        core: core.clone(),
    };
    (models, desk, door)
}

/// What a file looked like.
type Look = Option<(SystemTime, u64)>;

/// A file that is watched.
#[derive(Clone, Copy, Debug, Default)]
struct Watched {
    /// As it was when its model was taken.
    taken: Look,
    /// As it was the last time.
    last: Look,
}

impl Desk {
    /// Runs until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut seen = self.set_up().await;
        let is_watching = self.watch > Span::ZERO;
        let mut rounds = tokio::time::interval(self.watch.max(Span::seconds(1)).to_std());
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(Inquiry { offer, answer }) = self.asks.recv() => {
                    let is_incoming = offer.path.starts_with(self.shelf.incoming());
                    let path = offer.path.clone();
                    let taken = self.take(offer).await;
                    if is_incoming {
                        drop(tokio::fs::remove_dir_all(path).await);
                    }
                    if let Err(Err(refusal)) = answer.send(taken) {
                        tracing::error!(%refusal, "the model is refused, and whoever sent it is gone");
                    }
                }
                Some(pushed) = self.from_broker.recv() => self.take_pushed(pushed).await,
                _ = rounds.tick(), if is_watching => self.look_round(&mut seen).await,
            }
        }
    }

    /// Puts the models in use on the shelf, since their files may be overwritten, and clears it of what nobody needs. Offers
    /// the files that were changed while the node was stopped, or since it opened them. What the files look like.
    async fn set_up(&self) -> Vec<Watched> {
        let places = self.places.clone();
        let own = self.with_shelf(move |shelf, needed, spare| {
            let mut own = Vec::new();
            for Place { loader, path, own: digest, .. } in &places {
                let (before, read) = (look(path), loader.host().read(path));
                let file = read.ok().filter(|file| file.digest == *digest);
                own.push(file.as_ref().map(|_| before));
                if let Some(file) = file {
                    shelf.put(&file)?;
                }
            }
            shelf.sweep(&needed, spare)?;
            Ok(own)
        });
        let own = own.await.unwrap_or_default();
        let mut seen = Vec::new();
        for (at, place) in self.places.iter().enumerate() {
            let is_own = own.get(at).is_none_or(Option::is_some);
            let taken = own.get(at).copied().flatten().unwrap_or_else(|| look(&place.path));
            if place.is_new || !is_own {
                self.offer_file(place).await;
            }
            seen.push(Watched { taken, last: taken });
        }
        seen
    }

    /// Does `work` on the shelf where that may take time; a failure is told, and costs nothing else.
    async fn with_shelf<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shelf, Vec<String>, usize) -> std::io::Result<T> + Send + 'static,
    ) -> Option<T> {
        let (shelf, spare) = (self.shelf.clone(), self.spare);
        let needed = self.core.borrow().needed.clone();
        let done = tokio::task::spawn_blocking(move || work(&shelf, needed, spare)).await;
        let told = |error: &std::io::Error| {
            tracing::warn!(%error, "models cannot be kept in the store's folder");
        };
        done.ok()?.inspect_err(told).ok()
    }

    /// Takes a model in.
    async fn take(&self, offer: Offer) -> Result<Taken, Refusal> {
        let place = self.place_of(&offer)?.clone();
        let (path, shelf) = (offer.path.clone(), self.shelf.clone());
        let loader = place.loader.clone();
        let view = self.core.borrow().of_score(&place.pipeline, loader.output());
        let prepared = tokio::task::spawn_blocking(move || {
            let file = loader.host().read(&path).map_err(unfit)?;
            is_news(&file.digest, &view, offer.by_itself)?;
            on_shelf(&shelf, &file, &loader)
        });
        let stopping = |_| Refusal::Unfit("the node is stopping".into());
        let scorer = prepared.await.map_err(stopping)??;
        let (pipeline, score) = (place.pipeline, place.loader.output().to_owned());
        let digest = scorer.digest().to_owned();
        let command = Command {
            pipeline: pipeline.clone(),
            asset: String::new(),
            alarm: score.clone(),
            action: Action::Model(ModelAction::Offer { digest: digest.clone() }),
            by: offer.by,
        };
        let (answer, answered) = oneshot::channel();
        let supply = Supply { scorer, order: Order { command, answer } };
        let stopping = || Refusal::Unfit("the node is stopping".into());
        self.supplies.send(supply).await.map_err(|_| stopping())?;
        (self.ring)();
        answered.await.map_err(|_| stopping())??;
        // The tick's status comes a little later: what was just taken must not be swept away.
        let just = digest.clone();
        self.with_shelf(move |shelf, mut needed, spare| {
            needed.push(just);
            shelf.sweep(&needed, spare)
        })
        .await;
        Ok(Taken { pipeline, score, digest })
    }

    /// Takes in what came from the broker.
    async fn take_pushed(&self, Pushed { pipeline, score, payload }: Pushed) {
        if payload.is_empty() {
            return; // how a retained message is removed
        }
        let folder = self.shelf.incoming().join("broker");
        let path = folder.join("model.onnx");
        let written = async {
            tokio::fs::create_dir_all(&folder).await?;
            tokio::fs::write(&path, &payload).await
        };
        let by = Some("broker".into());
        let offer = Offer {
            pipeline: Some(pipeline.clone()),
            score: Some(score.clone()),
            path: folder.clone(),
            by,
            by_itself: true,
        };
        let refused = match written.await {
            Err(error) => Some(error.to_string()),
            Ok(()) => match self.take(offer).await {
                Ok(_) | Err(Refusal::Already(_)) => None,
                Err(refusal) => Some(refusal.to_string()),
            },
        };
        drop(tokio::fs::remove_dir_all(&folder).await);
        if let Some(reason) = refused {
            tracing::error!(pipeline, score, reason, "the model from the broker is refused");
        }
    }

    /// Which score an offer is for.
    fn place_of(&self, offer: &Offer) -> Result<&Place, Refusal> {
        let fits = |place: &&Place| {
            offer.pipeline.as_ref().is_none_or(|name| *name == place.pipeline)
                && offer.score.as_ref().is_none_or(|name| name == place.loader.output())
        };
        let mut found = self.places.iter().filter(fits);
        match (found.next(), found.next()) {
            (Some(only), None) => Ok(only),
            (Some(_), Some(_)) => {
                Err(Refusal::Unfit("there are several scores: say which pipeline and score".into()))
            }
            (None, _) => Err(Refusal::NoScore {
                pipeline: offer.pipeline.clone().unwrap_or_default(),
                score: offer.score.clone().unwrap_or_default(),
            }),
        }
    }

    /// Offers the models of pipelines whose files have changed and stand still.
    async fn look_round(&mut self, seen: &mut [Watched]) {
        for (place, watched) in self.places.clone().into_iter().zip(seen) {
            let now = look(&place.path);
            let is_still = now.is_some() && now == watched.last;
            watched.last = now;
            if !is_still || now == watched.taken {
                continue;
            }
            watched.taken = now;
            self.offer_file(&place).await;
        }
    }

    async fn offer_file(&self, place: &Place) {
        let file = place.path.display().to_string();
        tracing::info!(file, "the model's file has changed");
        let offer = Offer {
            pipeline: Some(place.pipeline.clone()),
            score: Some(place.loader.output().to_owned()),
            path: place.path.clone(),
            by: Some("file".into()),
            by_itself: false,
        };
        match self.take(offer).await {
            Ok(_) | Err(Refusal::Already(_)) => {}
            Err(reason) => tracing::error!(file, %reason, "the new model is refused"),
        }
    }
}

/// Refuses what a score has already; and, of what a broker gives again and again, what it has had.
fn is_news(digest: &String, view: &View, by_itself: bool) -> Result<(), Refusal> {
    let on_trial = view.candidate.as_ref().map(|candidate| &candidate.digest);
    match digest {
        digest if *digest == view.digest => Err(Refusal::Already("in use")),
        digest if Some(digest) == on_trial => Err(Refusal::Already("on trial")),
        digest if by_itself && view.withdrawn.contains(digest) => {
            Err(Refusal::Already("withdrawn"))
        }
        digest if by_itself && view.retired.contains(digest) => Err(Refusal::Already("replaced")),
        _ => Ok(()),
    }
}

fn unfit(error: impl std::fmt::Display) -> Refusal {
    Refusal::Unfit(error.to_string())
}

/// Puts a model on the shelf, weighs it and opens it from there. One that does not fit does not stay; one that was there
/// and is damaged is put there anew.
fn on_shelf(shelf: &Shelf, file: &ModelFile, loader: &Loader) -> Result<Scorer, Refusal> {
    let place = shelf.place(&file.digest).unwrap_or_default();
    let was_here = place.is_dir();
    let remove = || drop(std::fs::remove_dir_all(&place));
    let open = || {
        let scorer = loader.open(&place).map_err(unfit)?;
        let is_whole = scorer.digest() == file.digest;
        is_whole.then_some(scorer).ok_or_else(|| unfit("its copy in the store's folder is damaged"))
    };
    shelf.put(file).map_err(unfit)?;
    if was_here && let Ok(scorer) = open() {
        return Ok(scorer);
    }
    if was_here {
        remove();
        shelf.put(file).map_err(unfit)?;
    }
    weigh(file, &place, loader).and_then(|()| open()).inspect_err(|_| remove())
}

fn weigh(file: &ModelFile, place: &Path, loader: &Loader) -> Result<(), Refusal> {
    if let Some(Weight { memory, rows, batch_ms }) = loader.weigh(place).map_err(unfit)? {
        let memory = bytesize::ByteSize::b(memory).to_string();
        tracing::info!(model = file.name(), memory, rows, batch_ms, "the model was weighed");
    }
    Ok(())
}

/// The newest change and the size of a model: of a folder, those of its files.
fn look(path: &Path) -> Look {
    let meta = std::fs::metadata(path).ok()?;
    if meta.is_file() {
        return Some((meta.modified().ok()?, meta.len()));
    }
    let files = std::fs::read_dir(path).ok()?.filter_map(|entry| entry.ok()?.metadata().ok());
    let looks: BTreeMap<SystemTime, u64> =
        files.filter_map(|meta| Some((meta.modified().ok()?, meta.len()))).collect();
    let newest = *looks.keys().next_back()?;
    Some((newest, looks.values().sum()))
}
