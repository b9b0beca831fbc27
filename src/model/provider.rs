//! Execution providers: which processor does the computing inside ONNX Runtime.
//!
//! `runtime` tries them in the order of the config. Which of them a library has, its build decides; naming one that it has
//! not costs a warning.

use std::fmt;

use ort::ep::{self, ExecutionProviderDispatch};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What does the computing inside ONNX Runtime. Which of them a library has, its build decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// An NVIDIA GPU, with TensorRT.
    TensorRt,
    /// Intel's processors, GPUs and NPUs.
    OpenVino,
    /// Faster float32 on ARM and x86 processors.
    Xnnpack,
    /// Apple's.
    CoreMl,
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Provider::Cpu => "cpu",
            Provider::Cuda => "cuda",
            Provider::TensorRt => "tensorrt",
            Provider::OpenVino => "openvino",
            Provider::Xnnpack => "xnnpack",
            Provider::CoreMl => "coreml",
        })
    }
}

impl Provider {
    /// As `ort` knows it; nothing for the processor, which every session has.
    pub(super) fn dispatch(self) -> Option<ExecutionProviderDispatch> {
        let made = match self {
            Provider::Cpu => return None,
            Provider::Cuda => ep::CUDA::default().build(),
            Provider::TensorRt => ep::TensorRT::default().build(),
            Provider::OpenVino => ep::OpenVINO::default().build(),
            Provider::Xnnpack => ep::XNNPACK::default().build(),
            Provider::CoreMl => ep::CoreML::default().build(),
        };
        Some(made.error_on_failure())
    }
}
