//! Execution providers: which processor does the computing inside ONNX Runtime.
//!
//! `runtime` tries them in the order of the config. Which of them a library has, its build decides; naming one that it has
//! not costs a warning.

use std::fmt;
use std::num::{NonZeroU16, NonZeroUsize};

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
    /// As `ort` knows it; nothing for the processor, which every session has. Providers that compute on the processor
    /// have threads of their own: as many as they are told, else as many as the machine has cores.
    pub(super) fn dispatch(self, threads: u16) -> Option<ExecutionProviderDispatch> {
        let threads = NonZeroUsize::from(NonZeroU16::new(threads).unwrap_or(NonZeroU16::MIN));
        let made = match self {
            Provider::Cpu => return None,
            Provider::Cuda => ep::CUDA::default().build(),
            Provider::TensorRt => ep::TensorRT::default().build(),
            Provider::OpenVino => ep::OpenVINO::default().with_num_threads(threads.get()).build(),
            Provider::Xnnpack => ep::XNNPACK::default().with_intra_op_num_threads(threads).build(),
            Provider::CoreMl => ep::CoreML::default().build(),
        };
        Some(made.error_on_failure())
    }
}

/// Why a provider could not be had, out of what the library says: causes line by line, the last of them the one that
/// helps, with C++ in front of it.
pub(super) fn reason_in(text: &str) -> String {
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    let marks = ["Failed to load library", "CUDA failure"];
    let from = marks.iter().filter_map(|mark| line.rfind(mark)).max().unwrap_or(0);
    line.get(from..).unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_helps_stands_at_the_end_of_what_a_library_says() {
        // As onnxruntime-gpu 1.31.1 and 1.24.4 and onnxruntime-openvino 1.24.1 said it, cut in the middle.
        let cases = [
            (
                "provider_bridge_ort.cc:2043 onnxruntime::Provider& onnxruntime::ProviderLibrary::Get() \
                 [ONNXRuntimeError] : 1 : FAIL : Failed to load library /opt/libonnxruntime_providers_cuda.so with \
                 error: libcublasLt.so.13: cannot open shared object file: No such file or directory\n",
                "Failed to load library /opt/libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot \
                 open shared object file: No such file or directory",
            ),
            (
                "cuda_call.cc:121 [with ERRTYPE = cudaError; std::conditional_t<THRW, void, common::Status> = void] \
                 CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=-1",
                "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=-1",
            ),
            (
                "Exception during initialization: basic_backend.cc:136 onnxruntime::openvino_ep::BasicBackend(…)\n\
                 Exception from src/inference/src/dev/plugin.cpp:53:\nUnexpected: CPU plug-in doesn't support \
                 Parameter operation with dynamic rank. Operation name: label_tensor\n\n",
                "Unexpected: CPU plug-in doesn't support Parameter operation with dynamic rank. Operation name: \
                 label_tensor",
            ),
            ("CUDA execution provider is not enabled. ", "CUDA execution provider is not enabled."),
        ];
        for (said, reason) in cases {
            assert_eq!(reason_in(said), reason);
        }
    }
}
