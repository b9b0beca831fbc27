//! The desk: takes models in, reads, weighs and tries them, puts them on the shelf, and hands them to the engine thread with
//! the order.
//!
//! A task of `node`, beside the engine thread, so that loading a large model holds up no reading. Offers come over HTTP,
//! from the broker, and from the pipelines' own files when they change. It promises that what the engine is handed lies
//! whole and synced on the shelf, under its digest, and that a model which does not fit costs nothing but a refusal.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::CoreView;
use super::models::{Errand, Pushed, Supply};
use super::watched::Watched;
use crate::command::models::{Inquiry, Offer, Taken};
use crate::command::{Action, Command, ModelAction, Refusal};
use crate::feed::command::Order;
use crate::model::weigh::Weight;
use crate::model::{ModelFile, Shelf};
use crate::pipeline::load::LoadedPipeline;
use crate::stage::score::{Loader, ScoreStage, Scorer, View};
use crate::time::{Span, monotonic};

/// See the module.
pub(super) struct Desk {
    pub(super) errands: mpsc::Receiver<Errand>,
    pub(super) places: Vec<Place>,
    /// By score: why the model's file of its pipeline is refused.
    pub(super) refused: watch::Sender<BTreeMap<String, String>>,
    pub(super) shelf: Shelf,
    pub(super) spare: usize,
    pub(super) watch: Span,
    pub(super) asks: mpsc::Receiver<Inquiry>,
    pub(super) supplies: mpsc::Sender<Supply>,
    pub(super) ring: Box<dyn Fn() + Send + Sync>,
    pub(super) core: watch::Receiver<CoreView>,
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
    /// The digest of a model that the start was to go on with and could not, and why.
    pub(super) lost: Option<(String, String)>,
}

/// How long the engine thread may take to say which models it needs: it does so twice a second.
const TOLD_WITHIN: Duration = Duration::from_secs(5);

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
            lost: score.lost().first().cloned(),
            loader: score.loader().clone(),
        })
    }

    /// As what is refused of it is told.
    fn name(&self) -> String {
        format!("{}/{}", self.pipeline, self.loader.output())
    }
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
                Some(errand) = self.errands.recv() => match errand {
                    Errand::Take(pushed) => self.take_pushed(pushed).await,
                    Errand::Open(digest, order) => self.open(digest, order).await,
                },
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
                let (seen, file) = Watched::of(path, loader.host());
                let file = file.filter(|file| file.digest == *digest);
                own.push((seen, file.is_some()));
                let copy = shelf.place(digest).filter(|copy| copy.is_dir() && file.is_some());
                let is_whole =
                    |copy: &PathBuf| loader.host().read(copy).is_ok_and(|f| f.digest == *digest);
                if copy.is_some_and(|copy| !is_whole(&copy)) {
                    drop(shelf.remove(digest).inspect_err(tell_unkept));
                }
                drop(file.map(|file| shelf.put(&file).inspect_err(tell_unkept)));
            }
            drop(shelf.sweep(&needed, spare).inspect_err(tell_unkept));
            Ok(own)
        });
        let own = own.await.unwrap_or_default();
        let mut seen = Vec::new();
        for (place, (mut watched, is_own)) in self.places.iter().zip(own) {
            if let Some((digest, reason)) = &place.lost {
                let short: String = digest.chars().take(12).collect();
                let why = format!("the model {short} cannot be gone on with: {reason}");
                self.refused.send_modify(|refused| drop(refused.insert(lost(place), why)));
            }
            if place.is_new || !is_own {
                self.offer_watched(place, &mut watched, false).await;
            }
            seen.push(watched);
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
        done.ok()?.inspect_err(tell_unkept).ok()
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
            let was_here = shelf.place(&file.digest).is_some_and(|place| place.is_dir());
            Ok((on_shelf(&shelf, &file, &loader)?, was_here))
        });
        let stopping = |_| Refusal::Unfit("the node is stopping".into());
        let (scorer, was_here) = prepared.await.map_err(stopping)??;
        let (pipeline, score) = (place.pipeline.clone(), place.loader.output().to_owned());
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
        if let Err(refusal) = answered.await.map_err(|_| stopping())? {
            if !was_here && !matches!(refusal, Refusal::Already(_)) {
                self.with_shelf(move |shelf, _, _| shelf.remove(&digest)).await;
            }
            return Err(refusal);
        }
        // What is needed is told a little later: what was just taken must not be swept away.
        let mut core = self.core.clone();
        let is_told = core.wait_for(|core| core.needed.contains(&digest));
        let is_told =
            tokio::time::timeout(TOLD_WITHIN, is_told).await.is_ok_and(|told| told.is_ok());
        if is_told {
            self.with_shelf(|shelf, needed, spare| shelf.sweep(&needed, spare)).await;
        }
        self.refused.send_modify(|refused| drop(refused.remove(&lost(&place))));
        Ok(Taken { pipeline, score, digest })
    }

    /// Opens a model that an order names, and brings both to the engine.
    async fn open(&self, digest: String, order: Order) {
        let Command { pipeline, alarm, .. } = &order.command;
        let mut places = self.places.iter();
        let place = places.find(|p| p.pipeline == *pipeline && p.loader.output() == alarm);
        let Some(loader) = place.map(|place| place.loader.clone()) else { return };
        let opened = tokio::task::spawn_blocking(move || loader.shelved(&digest)).await;
        match opened.unwrap_or_else(|_| Err("the node is stopping".into())) {
            Ok(scorer) => {
                drop(self.supplies.send(Supply { scorer, order }).await);
                (self.ring)();
            }
            Err(reason) => drop(order.answer.send(Err(Refusal::Unfit(reason)))),
        }
    }

    /// Takes in what came from the broker.
    async fn take_pushed(&self, Pushed { pipeline, score, payload }: Pushed) {
        // Uploads have other names.
        let folder = self.shelf.incoming().join(".broker");
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
                Ok(_) => None,
                Err(Refusal::Already(why)) => {
                    tracing::info!(
                        pipeline,
                        score,
                        why,
                        "the model from the broker changes nothing"
                    );
                    None
                }
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

    /// Offers the models of pipelines whose files have changed and stand still; and, from time to time, those that were
    /// refused, since what was in the way may have passed.
    async fn look_round(&self, seen: &mut [Watched]) {
        for (place, watched) in self.places.iter().zip(seen) {
            if watched.has_changed() {
                // What lies beside it may be called otherwise now.
                let (path, host) = (place.path.clone(), place.loader.host().clone());
                let anew = tokio::task::spawn_blocking(move || Watched::of(&path, &host)).await;
                let Ok((anew, _)) = anew else { continue };
                let is_another = watched.is_refused() || anew.is_another(watched);
                *watched = anew;
                let file = place.path.display();
                if !is_another {
                    // What was taken back does not return that way.
                    tracing::info!(%file, "the model's file was touched, and holds the model that it held; `forebay model push` offers it again");
                    continue;
                }
                tracing::info!(%file, "the model's file has changed");
                self.offer_watched(place, watched, false).await;
            } else if watched.is_due() && !self.is_trying(place) {
                self.offer_watched(place, watched, true).await;
            }
        }
    }

    /// Whether a model is on trial.
    fn is_trying(&self, place: &Place) -> bool {
        let view = self.core.borrow().of_score(&place.pipeline, place.loader.output());
        view.candidate.is_some()
    }

    /// Offers a watched file, which may be offered again if it is refused.
    async fn offer_watched(&self, place: &Place, watched: &mut Watched, by_itself: bool) {
        let began = monotonic();
        let is_fine = self.offer_file(place, by_itself).await;
        watched.offered(is_fine, began.elapsed());
    }

    /// Offers a pipeline's own file, and keeps in mind whether it can be used, which is what it gives.
    async fn offer_file(&self, place: &Place, by_itself: bool) -> bool {
        let offer = Offer {
            pipeline: Some(place.pipeline.clone()),
            score: Some(place.loader.output().to_owned()),
            path: place.path.clone(),
            by: Some("file".into()),
            by_itself,
        };
        let (score, file) = (place.name(), place.path.display());
        let taken = self.take(offer).await;
        let is_fine = matches!(taken, Ok(_) | Err(Refusal::Already(_)));
        if let Some(reason) = taken.err().filter(|_| !is_fine).map(|reason| reason.to_string()) {
            if self.refused.borrow().get(&score) != Some(&reason) {
                tracing::error!(%file, reason, "the new model is refused");
            }
            self.refused.send_modify(|refused| drop(refused.insert(score, reason)));
        } else {
            self.refused.send_modify(|refused| drop(refused.remove(&score)));
        }
        is_fine
    }
}

/// As what was lost of a place is told.
fn lost(place: &Place) -> String {
    format!("{}, which was in use or on trial", place.name())
}

fn tell_unkept(error: &std::io::Error) {
    tracing::warn!(%error, "models cannot be kept in the store's folder");
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
    // Another score may have it in use: what is whole stays, also where it does not fit here.
    let is_whole = loader.host().read(&place).is_ok_and(|copy| copy.digest == file.digest);
    let remove = || drop(shelf.remove(&file.digest));
    let open = || {
        let scorer = loader.open(&place).map_err(unfit)?;
        let is_whole = scorer.digest() == file.digest;
        is_whole.then_some(scorer).ok_or_else(|| unfit("its copy in the store's folder is damaged"))
    };
    if place.is_dir() && !is_whole {
        remove();
    }
    shelf.put(file).map_err(unfit)?;
    if is_whole {
        return open();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::build::{Dim, Graph, Kind};
    use crate::model::{Host, Trust};

    #[test]
    fn a_copy_stays_where_it_fits_no_other_score_and_a_damaged_one_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let mut graph = Graph::new("m");
        graph.input("features", Kind::Float32, &[Dim::Batch, Dim::Fixed(1)]);
        graph.node("Identity", &["features"], "score");
        graph.output("score", Kind::Float32, &[Dim::Batch, Dim::Fixed(1)]);
        let path = folder.path().join("m.onnx");
        let file = ModelFile::of(&path, graph.finish(), &Trust::default()).unwrap();
        let shelf = Shelf::new(folder.path().join("models"));
        let take = |features: &[&str]| {
            let spec = toml::from_str("model = \"m.onnx\"\noutput = \"a\"").unwrap();
            let features = features.iter().map(ToString::to_string).collect();
            let loader = Loader::new(spec, features, (0, Vec::new()), Host::default());
            on_shelf(&shelf, &file, &loader).map(|_| ())
        };
        let copy = shelf.place(&file.digest).unwrap();
        assert!(take(&["x", "y"]).is_err() && !copy.exists(), "one that fits nothing goes");
        assert_eq!(take(&["x"]), Ok(()));
        assert!(take(&["x", "y"]).is_err());
        assert!(copy.join("m.onnx").is_file(), "it may be in use elsewhere");
        std::fs::write(copy.join("m.onnx"), "damaged").unwrap();
        assert_eq!(take(&["x"]), Ok(()));
        assert_eq!(std::fs::read(copy.join("m.onnx")).unwrap(), file.bytes);
    }
}
