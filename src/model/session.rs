//! A model that runs: its file opened, checked, loaded and tried.
//!
//! `stage/score` runs it, `cli` and `training` evaluate with it. It promises that a bad file gives a
//! [`ModelError`] and never a panic, on both runtimes, and that a model which was opened has run once.
//! It does not know pipelines: whether a model fits one is [`super::fit`]'s question.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use ort::session::{Session, SessionInputValue, SessionOutputs};
use ort::value::TensorRef;
use prost::Message;
use sha2::{Digest, Sha256};
use tract_onnx::pb;
use tract_onnx::prelude::{InferenceModelExt, Tensor, tvec};
use tract_onnx::tract_core::model::IntoRunnable;

use super::ModelError;
use super::onnx::{self, Element, Metadata, Signature, first_line, panic_text, shape_text};
use super::runtime::{Backend, Runtime};

/// Largest file that is taken.
pub const MAX_BYTES: u64 = 256 << 20;

/// Most rows that go to the runtime at once: more gain nothing and cost memory.
pub const MAX_BATCH: usize = 256;

/// What a model gave for a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// Numbers for each row.
    pub width: usize,
    /// The numbers, row after row.
    pub values: Vec<f32>,
}

/// An ONNX model, loaded.
#[derive(Debug)]
pub struct Model {
    /// Its file.
    pub path: PathBuf,
    /// What goes in and what comes out.
    pub signature: Signature,
    /// What the file says of itself.
    pub metadata: Metadata,
    /// SHA-256 of the file, in hex.
    pub digest: String,
    runtime: &'static Runtime,
    session: Session,
    /// Kept until a shape was tried, where the file does not say which and the runtime is tract.
    unproven: Option<Box<pb::ModelProto>>,
    doubles: Vec<f64>,
}

impl Model {
    /// Opens, checks, loads and tries the model in the file `path`.
    pub fn open(runtime: &'static Runtime, path: &Path) -> Result<Model, ModelError> {
        let failed = |source| ModelError::Read { path: path.to_owned(), source };
        let file = std::fs::metadata(path).map_err(failed)?;
        if file.len() > MAX_BYTES {
            let found = file.len();
            return Err(ModelError::TooLarge { path: path.to_owned(), found, limit: MAX_BYTES });
        }
        let bytes = std::fs::read(path).map_err(failed)?;
        Model::from_bytes(runtime, path, &bytes)
    }

    /// Checks, loads and tries the model in `bytes`; `path` names it.
    pub fn from_bytes(
        runtime: &'static Runtime,
        path: &Path,
        bytes: &[u8],
    ) -> Result<Model, ModelError> {
        let parsed = onnx::parse(path, bytes)?;
        let refused = |reason: String| ModelError::Refused {
            path: path.to_owned(),
            runtime: runtime.name(),
            reason: first_line(&reason),
        };
        let trials: Vec<Vec<usize>> =
            [1, 3].iter().filter_map(|&n| parsed.trial_shape(n)).collect();
        if runtime.backend == Backend::Tract {
            rehearse(&parsed.proto, &trials).map_err(refused)?;
        }
        let rewritten = parsed.rewritten.then(|| parsed.proto.encode_to_vec());
        let session = runtime
            .load(rewritten.as_deref().unwrap_or(bytes))
            .map_err(|e| refused(e.to_string()))?;
        let unproven = (trials.is_empty() && runtime.backend == Backend::Tract)
            .then(|| Box::new(parsed.proto));
        let mut model = Model {
            path: path.to_owned(),
            signature: parsed.signature,
            metadata: parsed.metadata,
            digest: Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect(),
            runtime,
            session,
            unproven,
            doubles: Vec::new(),
        };
        trials.iter().try_for_each(|shape| model.try_shape(shape))?;
        Ok(model)
    }

    /// Its name in records: what its file says, else the file's name.
    pub fn name(&self) -> String {
        let stem = || self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        self.metadata.name.clone().unwrap_or_else(stem)
    }

    /// Its version in records: what its file says, else the start of the file's digest.
    pub fn version(&self) -> String {
        let digest = || self.digest.chars().take(12).collect();
        self.metadata.version.clone().unwrap_or_else(digest)
    }

    /// The runtime it runs on.
    pub fn runtime(&self) -> &'static Runtime {
        self.runtime
    }

    /// Runs it once on zeros: whether it takes this shape at all.
    pub fn try_shape(&mut self, shape: &[usize]) -> Result<(), ModelError> {
        let path = self.path.clone();
        let failed = |reason| ModelError::Trial { path, shape: shape.to_vec(), reason };
        if let Some(proto) = self.unproven.take()
            && let Err(reason) = rehearse(&proto, &[shape.to_vec()])
        {
            self.unproven = Some(proto);
            return Err(failed(reason));
        }
        let zeros = vec![0.0; shape.iter().product()];
        match self.run(&zeros, shape, &[], &mut Vec::new()) {
            Ok(()) => Ok(()),
            Err(ModelError::Run { reason, .. }) => Err(failed(reason)),
            Err(other) => Err(other),
        }
    }

    /// Runs it on `batch`, of `shape` with the rows first, and puts the outputs `wanted` (indices into
    /// `signature.outputs`) into `into`, whose memory is used again.
    ///
    /// Large batches are split; a model that takes one row at a time is given one at a time.
    pub fn run(
        &mut self,
        batch: &[f32],
        shape: &[usize],
        wanted: &[usize],
        into: &mut Vec<Output>,
    ) -> Result<(), ModelError> {
        let (rows, width) = self.check_input(batch, shape)?;
        into.resize_with(wanted.len(), Output::default);
        into.iter_mut().for_each(|output| output.values.clear());
        let step = if self.takes_one_row() { 1 } else { MAX_BATCH };
        let mut dims = shape.to_vec();
        for first in (0..rows).step_by(step) {
            let last = rows.min(first + step);
            if let Some(count) = dims.first_mut() {
                *count = last - first;
            }
            let chunk = batch.get(first * width..last * width).unwrap_or_default();
            self.run_chunk(chunk, &dims, wanted, into)?;
        }
        Ok(())
    }

    /// Runs it on `batch` and gives all its outputs that are numbers, by name: for training and tests.
    pub fn run_all(
        &mut self,
        batch: &[f32],
        shape: &[usize],
    ) -> Result<Vec<(String, Output)>, ModelError> {
        let ports = self.signature.outputs.iter().enumerate();
        let (wanted, names): (Vec<usize>, Vec<String>) = ports
            .filter(|(_, port)| matches!(port.element, Some(Element::Float32 | Element::Float64)))
            .map(|(index, port)| (index, port.name.clone()))
            .unzip();
        let mut outputs = Vec::new();
        self.run(batch, shape, &wanted, &mut outputs)?;
        Ok(names.into_iter().zip(outputs).collect())
    }

    fn takes_one_row(&self) -> bool {
        let dims = self.signature.inputs.first().map(|port| port.dims.as_slice());
        matches!(dims, Some([Some(1), ..]))
    }

    /// The rows and the numbers a row of an input that fits the model.
    fn check_input(&self, batch: &[f32], shape: &[usize]) -> Result<(usize, usize), ModelError> {
        let rows = shape.first().copied().unwrap_or(0);
        let width = shape.iter().skip(1).product::<usize>();
        let dims = self.signature.inputs.first().map_or(&[][..], |port| port.dims.as_slice());
        let fits = dims.is_empty()
            || (dims.len() == shape.len()
                && dims
                    .iter()
                    .zip(shape)
                    .skip(1)
                    .all(|(dim, &size)| dim.is_none_or(|d| d == size)));
        if rows * width != batch.len() || !fits {
            return Err(ModelError::Input {
                model: self.name(),
                expected: shape_text(dims),
                shape: shape.to_vec(),
                found: batch.len(),
            });
        }
        Ok((rows, width))
    }

    fn run_chunk(
        &mut self,
        chunk: &[f32],
        dims: &[usize],
        wanted: &[usize],
        into: &mut [Output],
    ) -> Result<(), ModelError> {
        let Model { session, signature, doubles, .. } = self;
        let double = signature.inputs.first().and_then(|p| p.element) == Some(Element::Float64);
        let rows = dims.first().copied().unwrap_or(0);
        let ran = catch_unwind(AssertUnwindSafe(|| -> Result<_, ort::Error> {
            let input: SessionInputValue<'_> = if double {
                doubles.clear();
                doubles.extend(chunk.iter().map(|&value| f64::from(value)));
                TensorRef::from_array_view((dims, doubles.as_slice()))?.into()
            } else {
                TensorRef::from_array_view((dims, chunk))?.into()
            };
            let outputs = session.run([input])?;
            Ok(take(&outputs, signature, wanted, rows, into))
        }));
        let reason = match ran {
            Ok(Ok(Ok(()))) => return Ok(()),
            Ok(Ok(Err((output, reason)))) => {
                return Err(ModelError::Output { model: self.name(), output, reason });
            }
            Ok(Err(error)) => first_line(&error.to_string()),
            Err(panic) => panic_text(&*panic),
        };
        Err(ModelError::Run { model: self.name(), reason })
    }
}

/// Appends the outputs `wanted` of a run on `rows` rows to `into`. The error is an output and what is wrong with it.
fn take(
    outputs: &SessionOutputs<'_>,
    signature: &Signature,
    wanted: &[usize],
    rows: usize,
    into: &mut [Output],
) -> Result<(), (String, String)> {
    for (&index, output) in wanted.iter().zip(into) {
        let Some(port) = signature.outputs.get(index) else {
            return Err((index.to_string(), "is not there".into()));
        };
        let fault = |reason: String| (port.name.clone(), reason);
        let value = outputs.get(&port.name).ok_or_else(|| fault("is not there".into()))?;
        let before = output.values.len();
        let shape = if let Ok((shape, values)) = value.try_extract_tensor::<f32>() {
            output.values.extend_from_slice(values);
            shape
        } else {
            let (shape, values) =
                value.try_extract_tensor::<f64>().map_err(|e| fault(e.to_string()))?;
            output.values.extend(values.iter().map(|&value| value as f32));
            shape
        };
        let count = output.values.len() - before;
        if shape.first().is_none_or(|&n| n != rows as i64) || count % rows.max(1) != 0 {
            return Err(fault(format!("has the shape {:?} for {rows} rows", &**shape)));
        }
        output.width = count / rows.max(1);
    }
    Ok(())
}

/// Loads and runs a model in tract itself. `ort` reaches tract through C functions, which cannot be unwound: a
/// panic in there would end the process, here it is an error.
fn rehearse(proto: &pb::ModelProto, shapes: &[Vec<usize>]) -> Result<(), String> {
    let rehearsed = catch_unwind(AssertUnwindSafe(|| -> Result<(), String> {
        let parsed = tract_onnx::onnx().parse(proto, None).map_err(|e| format!("{e:#}"))?;
        if let Some(name) = parsed.unresolved_inputs.first() {
            return Err(format!("nothing computes `{name}`"));
        }
        let plan = parsed
            .model
            .into_optimized()
            .and_then(IntoRunnable::into_runnable)
            .map_err(|e| format!("{e:#}"))?;
        for shape in shapes {
            let kind = plan.model().input_fact(0).map_err(|e| format!("{e:#}"))?.datum_type;
            let zeros = Tensor::zero_dt(kind, shape).map_err(|e| format!("{e:#}"))?;
            plan.run(tvec!(zeros.into())).map_err(|e| format!("{e:#}"))?;
        }
        Ok(())
    }));
    rehearsed.unwrap_or_else(|panic| Err(panic_text(&*panic)))
}
