//! What opens models for a score: from the pipeline's file, or from the shelf, checked against what the pipeline gives.

use std::path::Path;

use super::{ScoreError, Scorer};
use crate::model::weigh::{WeighError, Weight, weigh};
use crate::model::{Given, Host, HostError, Mismatch, Model, OtherUnit};
use crate::pipeline::spec::ScoreSpec;
use crate::schema::Signal;

/// What opens models for one score of one pipeline, and checks that they fit. Whoever has it may open them on another
/// thread than the stage's.
#[derive(Clone, Debug)]
pub struct Loader {
    pub(super) spec: ScoreSpec,
    features: Vec<String>,
    steps: usize,
    channels: Vec<String>,
    /// The signals under them; none where their units are not to be held against the model's.
    signals: Vec<Signal>,
    host: Host,
}

impl Loader {
    /// What opens models for `spec`, which is given these features, or so many samples of these channels.
    pub fn new(
        spec: ScoreSpec,
        features: Vec<String>,
        sequence: (usize, Vec<String>),
        host: Host,
    ) -> Loader {
        let (steps, channels) = sequence;
        Loader { spec, features, steps, channels, signals: Vec::new(), host }
    }

    /// Takes no model that was trained on one of these signals in another unit.
    #[must_use]
    pub fn of_signals(mut self, signals: &[Signal]) -> Loader {
        self.signals = signals.to_vec();
        self
    }

    /// Opens, checks and tries the model in the file or folder `path`.
    pub fn open(&self, path: &Path) -> Result<Scorer, ScoreError> {
        self.fit(self.host.open(path)?)
    }

    /// What the model in the file or folder `path` takes here, where that can be found out; an error if it is too much.
    pub fn weigh(&self, path: &Path) -> Result<Option<Weight>, WeighError> {
        weigh(&self.host, path, &self.spec, self.given())
    }

    /// The name of the score.
    pub fn output(&self) -> &str {
        &self.spec.output
    }

    /// The model's file, as the pipeline names it.
    pub fn model(&self) -> &str {
        &self.spec.model
    }

    /// How this machine runs models.
    pub fn host(&self) -> &Host {
        &self.host
    }

    pub(super) fn fit(&self, model: Model) -> Result<Scorer, ScoreError> {
        let others = model.other_units(self.given(), &self.signals);
        let others = others.into_iter().filter(|other| other.is_known);
        let wrong: Vec<Mismatch> = others
            .map(|OtherUnit { signal, noted, here, .. }| Mismatch {
                what: format!("unit of `{signal}`"),
                expected: format!("{noted}, in which the model was trained"),
                found: here.to_owned(),
            })
            .collect();
        if !wrong.is_empty() {
            return Err(ScoreError::Fit(wrong));
        }
        let mut scorer = Scorer::new(&self.spec, model, self.given())?;
        scorer.model.deadline = None; // that of its trials is over
        Ok(scorer)
    }

    /// What stands where there is no model, because of `reason`.
    pub fn absent(&self, reason: &str) -> Result<Scorer, ScoreError> {
        let runtime = self.host.runtime().map_err(HostError::from)?;
        let model = Model::absent(runtime, Path::new(&self.spec.model), reason.to_owned());
        Ok(Scorer::asking(&self.spec, model, self.given(), Vec::new()))
    }

    fn given(&self) -> Given<'_> {
        Given::of(self.spec.input, &self.features, self.steps, &self.channels)
    }

    /// The model on the shelf that has this digest; of none, none.
    pub fn shelved(&self, digest: &str) -> Result<Scorer, String> {
        if digest.is_empty() {
            return self.absent("there was none before").map_err(|e| e.to_string());
        }
        let shelf = self.host.shelf.as_ref().ok_or("there is no shelf of models here")?;
        let path = shelf.place(digest).ok_or_else(|| format!("`{digest}` is no digest"))?;
        let scorer = self.open(&path).map_err(|e| e.to_string())?;
        match scorer.digest() {
            found if found == digest => Ok(scorer),
            found => Err(format!("{} was changed: it is {found} now", path.display())),
        }
    }
}
