//! How this machine runs models: with which library, and whose models.
//!
//! Made of the config by `config`, or by default where there is none (`replay`, `train`); whoever plans pipelines or
//! checks them opens models through it. It adds nothing to what [`Runtime`] and [`Model`] promise.

use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use super::deadline::Hand;
use super::runtime::{RuntimeError, Settings};
use super::{Model, ModelError, ModelFile, Runtime, Shelf, Trust};

/// See the module. By default: any library that is found, any model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// The ONNX Runtime to load, where one is named.
    pub library: Option<PathBuf>,
    /// Whose models it runs.
    pub trust: Trust,
    /// How.
    pub settings: Settings,
    /// Largest model that it loads, in bytes, weights included. `None`: any.
    pub largest: Option<u64>,
    /// Most memory that a model may take, in bytes, where it is weighed. `None`: any.
    pub memory: Option<u64>,
    /// How long a model may take to be loaded and tried. `None`: as long as it does.
    pub longest: Option<Duration>,
    /// Where it keeps models that came while it ran; `None`: it takes none.
    pub shelf: Option<Shelf>,
}

/// Why a host has no model.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No runtime.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Not this model.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl Host {
    /// With this library, whosever models.
    pub fn with_library(library: Option<&Path>) -> Host {
        Host { library: library.map(Path::to_owned), ..Host::default() }
    }

    /// The runtime of this process.
    pub fn runtime(&self) -> Result<&'static Runtime, RuntimeError> {
        Runtime::find(self.library.as_deref())
    }

    /// Opens a model.
    pub fn open(&self, path: &Path) -> Result<Model, HostError> {
        self.load(self.read(path)?)
    }

    /// Reads a model's file, if it may run here.
    pub fn read(&self, path: &Path) -> Result<ModelFile, HostError> {
        let file = ModelFile::read(path, &self.trust)?;
        if let Some(limit) = self.largest.filter(|limit| file.size() > *limit) {
            let (path, found) = (path.to_owned(), file.size());
            return Err(ModelError::OverBudget { path, found, limit }.into());
        }
        Ok(file)
    }

    /// Loads and tries a model whose file was read.
    pub fn load(&self, file: ModelFile) -> Result<Model, HostError> {
        let (runtime, settings, path) = (self.runtime()?, self.settings.clone(), file.path.clone());
        let load = move || Model::load(runtime, &settings, file);
        let Some(longest) = self.longest else { return Ok(load()?) };
        let refused =
            |reason| ModelError::Refused { path: path.clone(), runtime: runtime.name(), reason };
        let hand = Hand::new().map_err(refused)?;
        let mut model = hand.give(load).recv_timeout(longest).map_err(|error| match error {
            RecvTimeoutError::Timeout => ModelError::Endless { path: path.clone(), longest },
            RecvTimeoutError::Disconnected => refused("its thread has ended".into()),
        })??;
        model.deadline = Some(longest);
        Ok(model)
    }
}
