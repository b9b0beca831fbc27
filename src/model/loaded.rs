//! A graph in the hands of a runtime: loaded, and run on one batch.
//!
//! `session` calls it; here the two runtimes differ, and nowhere else. It promises that a panic inside tract is an
//! error: that is why tract is called as the Rust library it is, not through the C functions of `ort-tract`, out of
//! which a panic cannot unwind and ends the process (an index out of range in one model would stop the node).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ort::session::{Session, SessionInputValue};
use ort::value::TensorRef;
use prost::Message;
use tract_onnx::pb;
use tract_onnx::prelude::{InferenceModelExt, TValue, Tensor, TypedRunnableModel, tvec};
use tract_onnx::tract_core::model::IntoRunnable;

use super::onnx::{Element, Parsed, Signature, first_line, panic_text};
use super::runtime::Runtime;

/// What a model gave for a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// Numbers for each row.
    pub width: usize,
    /// The numbers, row after row.
    pub values: Vec<f32>,
}

/// Why a batch has no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The runtime failed.
    Run(String),
    /// An output (by index) is not what was promised.
    Output(usize, String),
}

/// A graph that can be run.
#[derive(Debug)]
pub(super) enum Loaded {
    /// By ONNX Runtime.
    Ort(Session),
    /// By tract.
    Tract(Arc<TypedRunnableModel>),
}

impl Loaded {
    /// Loads what was parsed from `bytes`.
    pub(super) fn load(runtime: &Runtime, parsed: &Parsed, bytes: &[u8]) -> Result<Loaded, String> {
        guarded(|| {
            let rewritten = parsed.rewritten.then(|| parsed.proto.encode_to_vec());
            match runtime.session(rewritten.as_deref().unwrap_or(bytes)) {
                Some(session) => session.map(Loaded::Ort).map_err(|e| e.to_string()),
                None => load_tract(&parsed.proto).map(Loaded::Tract),
            }
        })
        .map_err(|reason| first_line(&reason))
    }

    /// Runs the graph on `batch` of shape `dims` and appends the outputs `wanted` to `into`.
    pub(super) fn run(
        &mut self,
        batch: &[f32],
        dims: &[usize],
        signature: &Signature,
        wanted: &[usize],
        into: &mut [Output],
    ) -> Result<(), Failure> {
        let double = signature.inputs.first().and_then(|p| p.element) == Some(Element::Float64);
        let doubles: Vec<f64> =
            if double { batch.iter().map(|&value| f64::from(value)).collect() } else { Vec::new() };
        let batch = if double { Numbers::Float64(&doubles) } else { Numbers::Float32(batch) };
        let ran = catch_unwind(AssertUnwindSafe(|| match self {
            Loaded::Ort(session) => run_ort(session, batch, dims, wanted, into),
            Loaded::Tract(plan) => run_tract(plan, batch, dims, wanted, into),
        }));
        ran.unwrap_or_else(|panic| Err(Failure::Run(panic_text(&*panic))))
    }
}

/// What goes in or comes out.
#[derive(Clone, Copy)]
enum Numbers<'a> {
    Float32(&'a [f32]),
    Float64(&'a [f64]),
}

fn run_ort(
    session: &mut Session,
    batch: Numbers<'_>,
    dims: &[usize],
    wanted: &[usize],
    into: &mut [Output],
) -> Result<(), Failure> {
    let failed = |error: ort::Error| Failure::Run(first_line(&error.to_string()));
    let input: SessionInputValue<'_> = match batch {
        Numbers::Float32(data) => TensorRef::from_array_view((dims, data)).map_err(failed)?.into(),
        Numbers::Float64(data) => TensorRef::from_array_view((dims, data)).map_err(failed)?.into(),
    };
    let outputs = session.run([input]).map_err(failed)?;
    take(dims, wanted, into, |index| {
        let value = &outputs[index];
        let (shape, numbers) = if let Ok((shape, data)) = value.try_extract_tensor::<f32>() {
            (shape, Numbers::Float32(data))
        } else {
            let (shape, data) = value.try_extract_tensor::<f64>().map_err(|e| e.to_string())?;
            (shape, Numbers::Float64(data))
        };
        Ok((shape.iter().map(|&size| size as usize).collect(), numbers))
    })
}

fn load_tract(proto: &pb::ModelProto) -> Result<Arc<TypedRunnableModel>, String> {
    let parsed = tract_onnx::onnx().parse(proto, None).map_err(|e| format!("{e:#}"))?;
    if let Some(name) = parsed.unresolved_inputs.first() {
        return Err(format!("nothing computes `{name}`"));
    }
    let optimised = parsed.model.into_optimized().map_err(|e| format!("{e:#}"))?;
    optimised.into_runnable().map_err(|e| format!("{e:#}"))
}

fn run_tract(
    plan: &Arc<TypedRunnableModel>,
    batch: Numbers<'_>,
    dims: &[usize],
    wanted: &[usize],
    into: &mut [Output],
) -> Result<(), Failure> {
    let input = match batch {
        Numbers::Float32(data) => Tensor::from_shape(dims, data),
        Numbers::Float64(data) => Tensor::from_shape(dims, data),
    };
    let outputs = input
        .and_then(|input| plan.run(tvec!(TValue::from(input))))
        .map_err(|e| Failure::Run(first_line(&format!("{e:#}"))))?;
    take(dims, wanted, into, |index| {
        let tensor = outputs.get(index).ok_or("is not there")?;
        let plain = tensor.try_as_plain_ram().map_err(|e| e.to_string())?;
        let numbers = match plain.as_slice::<f32>() {
            Ok(data) => Numbers::Float32(data),
            Err(_) => Numbers::Float64(plain.as_slice::<f64>().map_err(|e| e.to_string())?),
        };
        Ok((tensor.shape().to_vec(), numbers))
    })
}

/// Appends the outputs `wanted`, as `get` gives them with their shapes, to `into`.
fn take<'o>(
    dims: &[usize],
    wanted: &[usize],
    into: &mut [Output],
    get: impl Fn(usize) -> Result<(Vec<usize>, Numbers<'o>), String>,
) -> Result<(), Failure> {
    let rows = dims.first().copied().unwrap_or(0);
    for (&index, output) in wanted.iter().zip(into) {
        let (shape, numbers) = get(index).map_err(|reason| Failure::Output(index, reason))?;
        if shape.first() != Some(&rows) {
            let reason = format!("has the shape {shape:?} for {rows} rows");
            return Err(Failure::Output(index, reason));
        }
        output.width = shape.iter().skip(1).product();
        match numbers {
            Numbers::Float32(data) => output.values.extend_from_slice(data),
            Numbers::Float64(data) => output.values.extend(data.iter().map(|&v| v as f32)),
        }
    }
    Ok(())
}

fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(panic_text(&*panic)))
}
