//! How models are run, and whose: `[onnxruntime]` and `[models]`.

use std::path::PathBuf;

use bytesize::ByteSize;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Config;
use crate::model::runtime::{Optimisation, Provider, Settings};
use crate::model::{Host, Shelf, Trust};
use crate::time::Span;

/// Which ONNX Runtime is used, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OnnxConfig {
    /// The library's file. Absent: `ORT_DYLIB_PATH`, beside the binary, an installed Python package, the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub library: Option<PathBuf>,
    /// Execution providers in order of preference (`cuda`, `tensorrt`, `openvino`, `xnnpack`, `coreml`). One that the
    /// library has not, or that cannot be used here, is passed over with a warning; the processor always can. `forebay
    /// model verify --provider` tries one, `/api/v1/models` says which one is used.
    pub providers: Vec<Provider>,
    /// Threads that one model may use, 1 to 64. More than one pays for large models only.
    pub threads: u16,
    /// How much a graph is changed when it is loaded, so that it runs faster.
    pub optimisation: Optimisation,
}

impl Default for OnnxConfig {
    fn default() -> Self {
        let Settings { providers, threads, optimisation } = Settings::default();
        OnnxConfig { library: None, providers, threads, optimisation }
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
    /// Largest model that is taken, with its weights: bytes of its files.
    #[schemars(with = "String", extend("format" = "byte-size"))]
    pub largest: ByteSize,
    /// Most memory that a model may take. Each is loaded and run on a whole `batch` in a process of its own before it is
    /// let in. Absent: any.
    #[schemars(with = "Option<String>", extend("format" = "byte-size"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// How often the pipelines' model files are looked at: one that was changed is offered like one that was pushed. `0s`:
    /// never.
    pub watch: Span,
    /// Whether models are taken from the broker: what is published on `forebay/NODE/models/PIPELINE/SCORE`. Whoever may
    /// publish there can then change what this node runs; `require_signature` says whose models it takes.
    pub mqtt: bool,
    /// Models that are kept beside those in use, to go back to.
    pub spare: u16,
    /// How a new model comes into use.
    pub rollout: RolloutConfig,
}

/// How a new model comes into use: it is heard when it has done well for a time, and taken back when it has not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RolloutConfig {
    /// For so long it only scores beside the model in use.
    pub shadow: Span,
    /// For so long it speaks for some assets. `0s`: there is no canary.
    pub canary: Span,
    /// For how many: the share of all assets, 0 to 1; one at least.
    pub canary_share: f64,
    /// For so long after it speaks for all, the old model goes on beside it.
    pub proof: Span,
    /// Windows that it must have answered before it goes on, in each of these times.
    pub windows: u64,
    /// Taken back at more than this share of windows without an answer.
    pub most_unanswered: f64,
    /// Taken back where it calls more windows abnormal than the old model, by more than this share of all; where neither
    /// has a threshold, where its mean is more than three deviations away from the old one's.
    pub most_more_alarms: f64,
    /// Taken back where it calls fewer windows abnormal than the old model, by more than this share of all: it may be
    /// deaf. 1 for a model that is to be quieter.
    pub most_fewer_alarms: f64,
    /// Taken back where it takes so many times as long a window as the old model, and more than a millisecond.
    pub most_times_slower: f64,
}

impl Default for RolloutConfig {
    fn default() -> Self {
        RolloutConfig {
            shadow: Span::seconds(3600),
            canary: Span::seconds(3600),
            canary_share: 0.1,
            proof: Span::seconds(3600),
            windows: 30,
            most_unanswered: 0.01,
            most_more_alarms: 0.05,
            most_fewer_alarms: 0.05,
            most_times_slower: 10.0,
        }
    }
}

impl Default for ModelsConfig {
    fn default() -> Self {
        ModelsConfig {
            keys: Vec::new(),
            require_signature: false,
            largest: ByteSize::gib(1),
            memory: None,
            watch: Span::seconds(10),
            mqtt: false,
            spare: 3,
            rollout: RolloutConfig::default(),
        }
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
                providers: self.onnxruntime.providers.clone(),
                threads: self.onnxruntime.threads,
                optimisation: self.onnxruntime.optimisation,
            },
            largest: Some(self.models.largest.as_u64()),
            memory: self.models.memory.map(|memory| memory.as_u64()),
            longest: Some(crate::model::weigh::LONGEST),
            shelf: Some(Shelf::new(self.store.path.join("models"))),
        }
    }
}
