//! How models are run, and whose: `[onnxruntime]` and `[models]`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Config;
use crate::model::{Host, Trust};

/// Which ONNX Runtime is used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OnnxConfig {
    /// The library's file. Absent: `ORT_DYLIB_PATH`, beside the binary, an installed Python package, the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub library: Option<PathBuf>,
}

/// Whose models this node runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelsConfig {
    /// Public keys whose signatures are believed, as `forebay model keygen` prints them. A model that says it is signed
    /// with one of them and was changed since is refused.
    pub keys: Vec<String>,
    /// Whether a model without a signature of one of `keys` is refused.
    pub require_signature: bool,
}

impl Config {
    /// How this node runs models. Keys that are none are left out: `check` has told them.
    pub fn host(&self) -> Host {
        let keys = self.models.keys.iter().filter_map(|key| key.parse().ok()).collect();
        Host {
            library: self.onnxruntime.library.clone(),
            trust: Trust::new(keys, self.models.require_signature),
        }
    }
}
