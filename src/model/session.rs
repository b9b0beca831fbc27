//! A model that runs: its file opened, checked, loaded and tried.
//!
//! `stage/score` runs it, `cli` and `training` evaluate with it. It promises that a bad file gives a
//! [`ModelError`] and never a panic, on both runtimes, and that a model which was opened has run once and given its
//! golden answers.
//! It does not know pipelines: whether a model fits one is [`super::fit`]'s question.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::ModelError;
use super::deadline::Hand;
use super::element::Element;
use super::file::ModelFile;
use super::loaded::{Ask, Failure, Loaded};
use super::metadata::Metadata;
use super::onnx::{Parsed, Signature, shape_text};
use super::runtime::{Runtime, Settings};
use super::signature::{PublicKey, Trust};
use super::state::State;
use crate::time::monotonic;

pub use super::loaded::{Output, Part, Wanted};

/// Most rows that go to the runtime at once, unless told otherwise: more gain nothing and cost memory.
pub const BATCH: usize = 256;

/// What running a model has cost since it was loaded, its trials left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Rows that it was run on.
    pub rows: u64,
    /// Microseconds that they took, all together.
    pub micros: u64,
    /// Microseconds of the batch that took longest.
    pub longest_micros: u64,
}

impl Cost {
    /// Microseconds a row.
    pub fn a_row(&self) -> f64 {
        if self.rows == 0 { 0.0 } else { self.micros as f64 / self.rows as f64 }
    }
}

/// An ONNX model, loaded.
#[derive(Debug)]
pub struct Model {
    /// Its file.
    pub path: PathBuf,
    /// What goes in and what comes out.
    pub signature: Arc<Signature>,
    /// What the file says of itself.
    pub metadata: Metadata,
    /// SHA-256 of the file, in hex.
    pub digest: String,
    /// Whose signature it has, of those that are trusted.
    pub signed_by: Option<PublicKey>,
    /// Most rows that go to the runtime at once.
    pub most_rows: usize,
    /// How long a batch may take; `None`: as long as it does.
    pub deadline: Option<Duration>,
    /// What it has cost.
    pub cost: Cost,
    name: String,
    version: String,
    runs_on: String,
    runtime: &'static Runtime,
    graph: Graph,
    /// Who runs batches that have a deadline, once there was one.
    hand: Option<Hand>,
}

/// Where a model's graph is.
#[derive(Debug)]
enum Graph {
    /// Here.
    Here(Loaded),
    /// With a batch that took too long, since then.
    Away(Receiver<Ran>, Instant),
    /// Nowhere, and why.
    None(String),
}

/// What comes back from a hand.
struct Ran {
    loaded: Loaded,
    memories: Vec<Vec<f64>>,
    outputs: Vec<Output>,
    result: Result<(), Failure>,
}

/// How much longer than its deadline a batch is waited for, once it was asked to stop: what stops comes back by then.
const GRACE: Duration = Duration::from_millis(250);

impl Graph {
    /// Takes it, if it is here, or has come back.
    fn take(&mut self) -> Result<Loaded, Failure> {
        let reason = match std::mem::replace(self, Graph::None(String::new())) {
            Graph::Here(loaded) => return Ok(loaded),
            Graph::None(reason) => reason,
            Graph::Away(comes, since) => match comes.try_recv() {
                Ok(ran) => return Ok(ran.loaded),
                Err(TryRecvError::Disconnected) => "its thread has ended".into(),
                Err(TryRecvError::Empty) => {
                    let busy = since.elapsed().as_secs();
                    *self = Graph::Away(comes, since);
                    let reason = format!("it is still busy with a batch of {busy} s ago");
                    return Err(Failure::Run(reason));
                }
            },
        };
        *self = Graph::None(reason.clone());
        Err(Failure::Run(reason))
    }
}

impl Model {
    /// Opens, checks, loads and tries the model in the file `path`, if `trust` allows it.
    pub fn open(
        runtime: &'static Runtime,
        path: &Path,
        trust: &Trust,
    ) -> Result<Model, ModelError> {
        Model::load(runtime, &Settings::default(), ModelFile::read(path, trust)?)
    }

    /// Checks, loads and tries the model in `bytes`, whoever made it; `path` names it.
    pub fn from_bytes(
        runtime: &'static Runtime,
        path: &Path,
        bytes: &[u8],
    ) -> Result<Model, ModelError> {
        let file = ModelFile::of(path, bytes.to_owned(), &Trust::default())?;
        Model::load(runtime, &Settings::default(), file)
    }

    /// Loads and tries a model's file.
    pub fn load(
        runtime: &'static Runtime,
        settings: &Settings,
        file: ModelFile,
    ) -> Result<Model, ModelError> {
        let (name, version) = (file.name(), file.version());
        let ModelFile { path, bytes, digest, signed_by, parsed, .. } = file;
        let trials = [1, 3].map(|rows| parsed.trial_shape(rows));
        let loaded = Loaded::load(runtime, settings, &parsed, &path, &bytes).map_err(|reason| {
            ModelError::Refused { path: path.clone(), runtime: runtime.name(), reason }
        })?;
        drop(bytes);
        let Parsed { signature, metadata, .. } = parsed;
        let runs_on = match &loaded {
            Loaded::Ort { provider, .. } => format!("{} ({provider})", runtime.name()),
            Loaded::Tract(_) => runtime.name(),
        };
        let mut model = Model {
            path,
            signature: Arc::new(signature),
            metadata,
            digest,
            signed_by,
            most_rows: BATCH,
            deadline: None,
            cost: Cost::default(),
            name,
            version,
            runs_on,
            runtime,
            graph: Graph::Here(loaded),
            hand: None,
        };
        trials.iter().flatten().try_for_each(|shape| model.try_shape(shape))?;
        model.try_golden()?;
        model.cost = Cost::default();
        Ok(model)
    }

    /// What stands for the model `path` where that cannot be used, because of `reason`: it has no answer to anything.
    pub fn absent(runtime: &'static Runtime, path: &Path, reason: String) -> Model {
        Model {
            path: path.to_owned(),
            signature: Arc::default(),
            metadata: Metadata::default(),
            digest: String::new(),
            signed_by: None,
            most_rows: BATCH,
            deadline: None,
            cost: Cost::default(),
            name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            version: String::new(),
            runs_on: String::new(),
            runtime,
            graph: Graph::None(reason),
            hand: None,
        }
    }

    /// Runs the golden vectors, where the file has some.
    fn try_golden(&mut self) -> Result<(), ModelError> {
        let Some(golden) = self.metadata.golden.take() else { return Ok(()) };
        let path = self.path.clone();
        let bad = |reason| ModelError::BadGolden { path: path.clone(), reason };
        if let Some(reason) = golden.fault() {
            return Err(bad(reason));
        }
        let find = |name: &String| {
            let output = self.signature.output(name).map(Wanted::all);
            output.ok_or_else(|| bad(format!("there is no output `{name}`")))
        };
        let wanted: Vec<Wanted> = golden.outputs.keys().map(find).collect::<Result<_, _>>()?;
        let (batch, shape) = golden.batch();
        let mut outputs = Vec::new();
        self.run(&batch, &shape, &wanted, &mut outputs)
            .map_err(|e| bad(format!("they do not run: {e}")))?;
        let pairs = golden.outputs.keys().zip(&outputs);
        let mut off = pairs.filter_map(|(name, o)| golden.compare(name, &o.values, o.width));
        if let Some(difference) = off.next() {
            let runtime = self.runtime.name();
            return Err(ModelError::NotGolden { path, runtime, difference });
        }
        self.metadata.golden = Some(golden);
        Ok(())
    }

    /// Its name in records.
    pub fn name(&self) -> String {
        self.name.clone()
    }

    /// Its version in records.
    pub fn version(&self) -> String {
        self.version.clone()
    }

    /// The runtime it runs on.
    pub fn runtime(&self) -> &'static Runtime {
        self.runtime
    }

    /// What runs it: the runtime, and which of its execution providers.
    pub fn runs_on(&self) -> String {
        self.runs_on.clone()
    }

    /// Runs it once on zeros: whether it takes this shape at all.
    pub fn try_shape(&mut self, shape: &[usize]) -> Result<(), ModelError> {
        let zeros = vec![0.0; shape.iter().product()];
        match self.run(&zeros, shape, &[], &mut Vec::new()) {
            Ok(()) => Ok(()),
            Err(ModelError::Run { reason, .. }) => {
                Err(ModelError::Trial { path: self.path.clone(), shape: shape.to_vec(), reason })
            }
            Err(other) => Err(other),
        }
    }

    /// Runs it on `batch`, of `shape` with the rows first, and puts what is `wanted` of its outputs into `into`, whose
    /// memory is used again. A model with a memory has none of these rows yet.
    ///
    /// Large batches are split; a model whose batch is fixed is given batches of that size, the last one filled up with
    /// copies of its last row.
    pub fn run(
        &mut self,
        batch: &[f64],
        shape: &[usize],
        wanted: &[Wanted],
        into: &mut Vec<Output>,
    ) -> Result<(), ModelError> {
        let rows =
            if self.signature.states.is_empty() { 0 } else { shape.first().copied().unwrap_or(0) };
        self.run_with(batch, shape, &mut vec![self.fresh_memory(); rows], wanted, into)
    }

    /// The memory of an asset that it has not seen; empty where it remembers nothing.
    pub fn fresh_memory(&self) -> Vec<f64> {
        vec![0.0; self.signature.states.iter().map(State::size).sum()]
    }

    /// As [`Model::run`], with a memory for each row: what goes in is replaced by what came out.
    pub fn run_with(
        &mut self,
        batch: &[f64],
        shape: &[usize],
        memories: &mut [Vec<f64>],
        wanted: &[Wanted],
        into: &mut Vec<Output>,
    ) -> Result<(), ModelError> {
        if let Graph::None(reason) = &self.graph {
            return Err(ModelError::Run { model: self.name(), reason: reason.clone() });
        }
        let (rows, width) = self.check_input(batch, shape)?;
        into.resize_with(wanted.len(), Output::default);
        for output in into.iter_mut() {
            output.values.clear();
        }
        let fixed = self.signature.batch();
        let step = fixed.unwrap_or(self.most_rows).max(1);
        let remembers = !self.signature.states.is_empty();
        for first in (0..rows).step_by(step) {
            let last = rows.min(first + step);
            let chunk = batch.get(first * width..last * width).unwrap_or_default();
            let count = fixed.unwrap_or(last - first);
            let kept = if remembers { memories.get_mut(first..last) } else { None };
            if count == last - first {
                self.run_chunk(chunk, shape, count, kept.unwrap_or_default(), wanted, into)?;
                continue;
            }
            let row = chunk.get(chunk.len() - width..).unwrap_or_default();
            let mut filled = chunk.to_vec();
            (last..first + count).for_each(|_| filled.extend_from_slice(row));
            let mut extended = kept.as_ref().map_or_else(Vec::new, |kept| kept.to_vec());
            if remembers {
                extended.resize(count, self.fresh_memory());
            }
            self.run_chunk(&filled, shape, count, &mut extended, wanted, into)?;
            for (kept, new) in kept.into_iter().flatten().zip(extended) {
                *kept = new;
            }
        }
        for output in into.iter_mut() {
            output.values.truncate(rows * output.width);
        }
        Ok(())
    }

    /// Runs it on `batch` and gives all its outputs that are numbers, by name: for training and tests.
    pub fn run_all(
        &mut self,
        batch: &[f64],
        shape: &[usize],
    ) -> Result<Vec<(String, Output)>, ModelError> {
        let ports = self.signature.outputs.iter().enumerate();
        let (wanted, names): (Vec<Wanted>, Vec<String>) = ports
            .filter(|(_, port)| port.element.is_some_and(Element::is_number))
            .map(|(index, port)| (Wanted::all(index), port.name.clone()))
            .unzip();
        let mut outputs = Vec::new();
        self.run(batch, shape, &wanted, &mut outputs)?;
        Ok(names.into_iter().zip(outputs).collect())
    }

    /// The rows and the numbers a row of an input that fits the model.
    fn check_input(&self, batch: &[f64], shape: &[usize]) -> Result<(usize, usize), ModelError> {
        let rows = shape.first().copied().unwrap_or(0);
        let width = shape.iter().skip(1).product::<usize>();
        let data = self.signature.data();
        let columns = [None, Some(data.len())];
        let dims = match data.as_slice() {
            [input] => input.dims.as_slice(),
            _ => &columns,
        };
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
        chunk: &[f64],
        shape: &[usize],
        rows: usize,
        memories: &mut [Vec<f64>],
        wanted: &[Wanted],
        into: &mut [Output],
    ) -> Result<(), ModelError> {
        let mut dims = shape.to_vec();
        if let Some(size) = dims.first_mut() {
            *size = rows;
        }
        let began = monotonic();
        let ran = match self.deadline {
            Some(deadline) => self.run_within(deadline, chunk, &dims, memories, wanted, into),
            None => self.graph.take().and_then(|mut loaded| {
                let ask = Ask { wanted, options: None };
                let ran = loaded.run(chunk, &dims, &self.signature, memories, ask, into);
                self.graph = Graph::Here(loaded);
                ran
            }),
        };
        let took = began.elapsed();
        self.cost.rows += rows as u64;
        self.cost.micros += took.as_micros() as u64;
        self.cost.longest_micros = self.cost.longest_micros.max(took.as_micros() as u64);
        if let Some(deadline) = self.deadline.filter(|deadline| took > *deadline) {
            return Err(ModelError::Late { model: self.name(), rows, took, deadline });
        }
        ran.map_err(|failure| match failure {
            Failure::Run(reason) => ModelError::Run { model: self.name(), reason },
            Failure::Output(index, reason) => {
                let port = self.signature.outputs.get(index);
                let output = port.map_or_else(|| index.to_string(), |port| port.name.clone());
                ModelError::Output { model: self.name(), output, reason }
            }
        })
    }

    /// As [`Loaded::run`], by another thread: where the batch does not end when it is asked to, the graph stays there, and the
    /// caller goes on.
    fn run_within(
        &mut self,
        deadline: Duration,
        chunk: &[f64],
        dims: &[usize],
        memories: &mut [Vec<f64>],
        wanted: &[Wanted],
        into: &mut [Output],
    ) -> Result<(), Failure> {
        let hand = match self.hand.take() {
            Some(hand) => hand,
            None => Hand::new().map_err(Failure::Run)?,
        };
        let hand = self.hand.insert(hand);
        let mut loaded = self.graph.take()?;
        let began = monotonic();
        let stop = loaded.options();
        let (options, signature) = (stop.clone(), Arc::clone(&self.signature));
        let (chunk, dims, wanted) = (chunk.to_vec(), dims.to_vec(), wanted.to_vec());
        let (mut kept, mut outputs) = (memories.to_vec(), vec![Output::default(); wanted.len()]);
        let comes = hand.give(move || {
            let ask = Ask { wanted: &wanted, options: options.as_deref() };
            let result = loaded.run(&chunk, &dims, &signature, &mut kept, ask, &mut outputs);
            Ran { loaded, memories: kept, outputs, result }
        });
        let mut ran = comes.recv_timeout(deadline);
        if let Err(RecvTimeoutError::Timeout) = ran {
            drop(stop.map(|options| options.terminate()));
            ran = comes.recv_timeout(GRACE);
        }
        let Ok(Ran { loaded, memories: kept, outputs, result }) = ran else {
            self.graph = Graph::Away(comes, began);
            return Err(Failure::Run("it cannot be stopped".into()));
        };
        self.graph = Graph::Here(loaded);
        memories.iter_mut().zip(kept).for_each(|(memory, kept)| *memory = kept);
        for (output, new) in into.iter_mut().zip(outputs) {
            output.width = new.width;
            output.values.extend(new.values);
        }
        result
    }
}
