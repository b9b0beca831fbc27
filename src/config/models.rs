//! How models are run, and whose: `[onnxruntime]` and `[models]`.

use std::path::PathBuf;

use bytesize::ByteSize;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Config;
use crate::model::runtime::{Optimisation, Settings};
use crate::model::{Host, Trust};

/// Which ONNX Runtime is used, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OnnxConfig {
    /// The library's file. Absent: `ORT_DYLIB_PATH`, beside the binary, an installed Python package, the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub library: Option<PathBuf>,
    /// Threads that one model may use, 1 to 64. More than one pays for large models only.
    pub threads: u16,
    /// How much a graph is changed when it is loaded, so that it runs faster.
    pub optimisation: Optimisation,
}

impl Default for OnnxConfig {
    fn default() -> Self {
        let Settings { threads, optimisation } = Settings::default();
        OnnxConfig { library: None, threads, optimisation }
    }
}

/// Which models this node runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelsConfig {
    /// Public keys whose signatures are believed, as `forebay model keygen` prints them. A model that says it is signed
    /// with one of them and was changed since is refused.
    pub keys: Vec<String>,
    /// Whether a model without a signature of one of `keys` is refused.
    pub require_signature: bool,
    /// Largest model that is loaded, with its weights: it takes about so much memory.
    #[schemars(with = "String", extend("format" = "byte-size"))]
    pub largest: ByteSize,
}

impl Default for ModelsConfig {
    fn default() -> Self {
        ModelsConfig { keys: Vec::new(), require_signature: false, largest: ByteSize::gib(1) }
    }
}

impl Config {
    /// How this node runs models. Keys that are none are left out: `check` has told them.
    pub fn host(&self) -> Host {
        let keys = self.models.keys.iter().filter_map(|key| key.parse().ok()).collect();
        Host {
            library: self.onnxruntime.library.clone(),
            trust: Trust::new(keys, self.models.require_signature),
            settings: Settings {
                threads: self.onnxruntime.threads,
                optimisation: self.onnxruntime.optimisation,
            },
            largest: Some(self.models.largest.as_u64()),
        }
    }
}
