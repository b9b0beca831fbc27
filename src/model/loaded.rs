//! A graph in the hands of a runtime: loaded, and run on one batch.
//!
//! `session` calls it; here the two runtimes differ, and nowhere else. It promises that a panic inside tract is an
//! error: that is why tract is called as the Rust library it is, not through the C functions of `ort-tract`, out of
//! which a panic cannot unwind and ends the process (an index out of range in one model would stop the node).

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use ort::session::{RunOptions, Session, SessionInputValue, SessionOutputs};
use ort::value::{TensorElementType, ValueType};
use prost::Message;
use tract_onnx::prelude::{
    InferenceModelExt, TValue, TVec, Tensor, TractError, TractResult, TypedRunnableModel,
};
use tract_onnx::tract_core::model::IntoRunnable;

use super::element::{Element, Number, with_number};
use super::onnx::{Parsed, Signature, first_line, panic_text};
use super::runtime::{Provider, Runtime, Settings};
use super::state::State;

/// What a model gave for a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// Numbers for each row.
    pub width: usize,
    /// The numbers, row after row.
    pub values: Vec<f64>,
}

/// What is wanted of a model: an output, and which part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The output, by index.
    pub output: usize,
    /// Which part.
    pub part: Part,
}

/// A part of an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// All its numbers.
    All,
    /// One column.
    Column(usize),
    /// 1 where it is this label, 0 where it is another.
    Label(String),
    /// The place of its class: of several columns the one with the largest number, of a label its place among these; -1
    /// where it is none of them.
    Class(Vec<String>),
}

impl Wanted {
    /// All of an output.
    pub fn all(output: usize) -> Wanted {
        Wanted { output, part: Part::All }
    }
}

/// What is asked of a graph.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    /// Which outputs.
    pub(super) wanted: &'a [Wanted],
    /// What can end it before.
    pub(super) options: Option<&'a RunOptions>,
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
    Ort {
        /// The session.
        session: Session,
        /// The execution provider that it was made with.
        provider: Provider,
    },
    /// By tract.
    Tract(Arc<TypedRunnableModel>),
}

impl Loaded {
    /// Loads what was parsed from `bytes`, the content of the file `path`.
    pub(super) fn load(
        runtime: &Runtime,
        settings: &Settings,
        parsed: &Parsed,
        path: &Path,
        bytes: &[u8],
    ) -> Result<Loaded, String> {
        guarded(|| {
            let rewritten = parsed.rewritten.then(|| parsed.proto.encode_to_vec());
            let session = runtime.open(settings, |builder| match &parsed.weights {
                Some(_) => builder.commit_from_file(path),
                None => builder.commit_from_memory(rewritten.as_deref().unwrap_or(bytes)),
            });
            match session {
                Some(made) => {
                    let (session, provider) = made.map_err(|e| e.to_string())?;
                    Ok(Loaded::Ort { session, provider })
                }
                None => load_tract(parsed).map(Loaded::Tract),
            }
        })
        .map_err(|reason| first_line(&reason))
    }

    /// What can end a batch, between two operators; tract cannot be stopped.
    pub(super) fn options(&self) -> Option<Arc<RunOptions>> {
        let is_ort = matches!(self, Loaded::Ort { .. });
        is_ort.then(|| RunOptions::new().ok().map(Arc::new)).flatten()
    }

    /// Runs the graph on `batch` of shape `dims` and appends what is `wanted` to `into`. A graph with several inputs
    /// gets a column in each; `memories`, one a row, hold the states that go in, and then those that came out.
    pub(super) fn run(
        &mut self,
        batch: &[f64],
        dims: &[usize],
        signature: &Signature,
        memories: &mut [Vec<f64>],
        Ask { wanted, options }: Ask<'_>,
        into: &mut [Output],
    ) -> Result<(), Failure> {
        let feeds = feeds(batch, dims, signature, memories);
        let rows = dims.first().copied().unwrap_or(0);
        let mut sink = Sink { rows, states: &signature.states, memories, wanted, into };
        let ran = catch_unwind(AssertUnwindSafe(|| match self {
            Loaded::Ort { session, .. } => run_ort(session, options, &feeds, &mut sink),
            Loaded::Tract(plan) => run_tract(plan, &feeds, &mut sink),
        }));
        ran.unwrap_or_else(|panic| Err(Failure::Run(panic_text(&*panic))))
    }
}

/// What goes into one input.
struct Feed<'a> {
    element: Element,
    dims: Vec<usize>,
    numbers: Cow<'a, [f64]>,
}

impl Feed<'_> {
    fn converted<T: Number>(&self) -> Vec<T> {
        self.numbers.iter().map(|value| T::near(*value)).collect()
    }
}

/// What goes into each input, in the graph's order.
fn feeds<'a>(
    batch: &'a [f64],
    dims: &[usize],
    signature: &Signature,
    memories: &[Vec<f64>],
) -> Vec<Feed<'a>> {
    let rows = dims.first().copied().unwrap_or(0);
    let width = signature.data().len();
    let (mut column, mut from) = (0, 0);
    let mut feeds = Vec::with_capacity(signature.inputs.len());
    for (index, port) in signature.inputs.iter().enumerate() {
        let element = port.element.unwrap_or(Element::Float32);
        let state = signature.states.iter().find(|state| state.input == index);
        feeds.push(if let Some(state) = state {
            let numbers = state.pack(memories, from).into();
            from += state.size();
            Feed { element, dims: state.shape(rows), numbers }
        } else if width == 1 {
            Feed { element, dims: dims.to_vec(), numbers: Cow::Borrowed(batch) }
        } else {
            let numbers = batch.iter().skip(column).step_by(width).copied().collect();
            column += 1;
            let dims = if port.dims.len() == 1 { vec![rows] } else { vec![rows, 1] };
            Feed { element, dims, numbers }
        });
    }
    feeds
}

/// Where what comes out goes.
struct Sink<'a> {
    rows: usize,
    states: &'a [State],
    memories: &'a mut [Vec<f64>],
    wanted: &'a [Wanted],
    into: &'a mut [Output],
}

fn run_ort(
    session: &mut Session,
    options: Option<&RunOptions>,
    feeds: &[Feed<'_>],
    sink: &mut Sink<'_>,
) -> Result<(), Failure> {
    let failed = |error: ort::Error| Failure::Run(first_line(&error.to_string()));
    let inputs = feeds.iter().map(ort_tensor).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let outputs = match options {
        Some(options) => session.run_with_options(inputs.as_slice(), options),
        None => session.run(inputs.as_slice()),
    };
    take_ort(&outputs.map_err(failed)?, sink)
}

fn take_ort(outputs: &SessionOutputs<'_>, sink: &mut Sink<'_>) -> Result<(), Failure> {
    sink.take(|index| {
        let value = &outputs[index];
        let ValueType::Tensor { ty, .. } = value.dtype() else {
            return Err("is no tensor".into());
        };
        let said = |e: ort::Error| first_line(&e.to_string());
        let sizes = |shape: &ort::value::Shape| shape.iter().map(|&size| size as usize).collect();
        if *ty == TensorElementType::String {
            let (shape, texts) = value.try_extract_strings().map_err(said)?;
            return Ok((sizes(shape), Answers::Texts(texts)));
        }
        if *ty == TensorElementType::Bool {
            let (shape, all) = value.try_extract_tensor::<bool>().map_err(said)?;
            let numbers = all.iter().map(|yes| f64::from(u8::from(*yes))).collect();
            return Ok((sizes(shape), Answers::Numbers(numbers)));
        }
        macro_rules! numbers {
            ($type:ty, $back:expr) => {{
                let (shape, all) = value.try_extract_tensor::<$type>().map_err(said)?;
                (sizes(shape), Answers::Numbers(all.iter().copied().map($back).collect()))
            }};
        }
        Ok(match ty {
            TensorElementType::Float32 => numbers!(f32, f64::from),
            TensorElementType::Float64 => numbers!(f64, |v| v),
            TensorElementType::Float16 => numbers!(half::f16, half::f16::to_f64),
            TensorElementType::Int8 => numbers!(i8, f64::from),
            TensorElementType::Int16 => numbers!(i16, f64::from),
            TensorElementType::Int32 => numbers!(i32, f64::from),
            TensorElementType::Int64 => numbers!(i64, |v| v as f64),
            TensorElementType::Uint8 => numbers!(u8, f64::from),
            TensorElementType::Uint16 => numbers!(u16, f64::from),
            TensorElementType::Uint32 => numbers!(u32, f64::from),
            TensorElementType::Uint64 => numbers!(u64, |v| v as f64),
            other => return Err(format!("holds {other}, which is no number")),
        })
    })
}

fn ort_tensor<'a>(feed: &'a Feed<'_>) -> Result<SessionInputValue<'a>, ort::Error> {
    let dims = feed.dims.as_slice();
    with_number!(feed.element, N => {
        Ok(ort::value::Tensor::from_array((dims, feed.converted::<N>()))?.into())
    }, Err(ort::Error::new("an input takes no numbers")))
}

fn load_tract(parsed: &Parsed) -> Result<Arc<TypedRunnableModel>, String> {
    let folder = parsed.weights.as_ref().map(|weights| weights.folder.to_string_lossy());
    let parsed =
        tract_onnx::onnx().parse(&parsed.proto, folder.as_deref()).map_err(|e| format!("{e:#}"))?;
    if let Some(name) = parsed.unresolved_inputs.first() {
        return Err(format!("nothing computes `{name}`"));
    }
    let optimised = parsed.model.into_optimized().map_err(|e| format!("{e:#}"))?;
    optimised.into_runnable().map_err(|e| format!("{e:#}"))
}

fn run_tract(
    plan: &Arc<TypedRunnableModel>,
    feeds: &[Feed<'_>],
    sink: &mut Sink<'_>,
) -> Result<(), Failure> {
    let failed = |e| Failure::Run(first_line(&format!("{e:#}")));
    let inputs = feeds.iter().map(|feed| tract_tensor(feed).map(TValue::from));
    let inputs: TVec<TValue> = inputs.collect::<TractResult<_>>().map_err(failed)?;
    let outputs = plan.run(inputs).map_err(failed)?;
    sink.take(|index| {
        let tensor = outputs.get(index).ok_or("is not there")?;
        let said = |e| first_line(&format!("{e:#}"));
        let plain = tensor.try_as_plain_ram().map_err(said)?;
        let answers = if let Ok(texts) = plain.as_slice::<String>() {
            Answers::Texts(texts.to_vec())
        } else {
            let cast = tensor.cast_to::<f64>().map_err(said)?;
            let plain = cast.try_as_plain_ram().map_err(said)?;
            Answers::Numbers(plain.as_slice::<f64>().map_err(said)?.to_vec())
        };
        Ok((tensor.shape().to_vec(), answers))
    })
}

fn tract_tensor(feed: &Feed<'_>) -> TractResult<Tensor> {
    with_number!(feed.element, N => {
        Tensor::from_shape(&feed.dims, &feed.converted::<N>())
    }, Err(TractError::msg("an input takes no numbers")))
}

/// What an output holds.
enum Answers {
    Numbers(Vec<f64>),
    Texts(Vec<String>),
}

impl Sink<'_> {
    /// Appends what is wanted of the outputs, which `get` gives with their shapes, and takes the states.
    fn take(
        &mut self,
        get: impl Fn(usize) -> Result<(Vec<usize>, Answers), String>,
    ) -> Result<(), Failure> {
        for (wanted, output) in self.wanted.iter().zip(self.into.iter_mut()) {
            let bad = |reason: String| Failure::Output(wanted.output, reason);
            let (shape, answers) = get(wanted.output).map_err(bad)?;
            if shape.first() != Some(&self.rows) {
                return Err(bad(format!("has the shape {shape:?} for {} rows", self.rows)));
            }
            let width: usize = shape.iter().skip(1).product();
            append(&wanted.part, &answers, width, output).map_err(bad)?;
        }
        // In the order in which a memory holds them: that of the inputs.
        let mut states: Vec<&State> = self.states.iter().collect();
        states.sort_by_key(|state| state.input);
        let mut from = 0;
        for state in states {
            let bad = |reason: String| Failure::Output(state.output, reason);
            let (shape, answers) = get(state.output).map_err(bad)?;
            match answers {
                Answers::Numbers(numbers) if shape == state.shape(self.rows) => {
                    state.unpack(&numbers, self.memories, from);
                }
                _ => {
                    let expected = state.shape(self.rows);
                    return Err(bad(format!("has the shape {shape:?}; its state {expected:?}")));
                }
            }
            from += state.size();
        }
        Ok(())
    }
}

/// Appends a part of an output.
fn append(part: &Part, answers: &Answers, width: usize, output: &mut Output) -> Result<(), String> {
    output.width = if *part == Part::All { width } else { 1 };
    let into = &mut output.values;
    match (answers, part) {
        (Answers::Numbers(numbers), Part::All) => into.extend_from_slice(numbers),
        (Answers::Numbers(numbers), Part::Column(column)) if *column < width => {
            into.extend(numbers.iter().skip(*column).step_by(width));
        }
        (Answers::Numbers(numbers), Part::Label(label)) if width == 1 => {
            into.extend(numbers.iter().map(|n| f64::from(u8::from(is_called(label, *n)))));
        }
        (Answers::Texts(texts), Part::Label(label)) if width == 1 => {
            into.extend(texts.iter().map(|text| f64::from(u8::from(text == label))));
        }
        (Answers::Numbers(numbers), Part::Class(_)) if width > 1 => {
            into.extend(numbers.chunks_exact(width).map(largest));
        }
        (Answers::Numbers(numbers), Part::Class(labels)) if width == 1 => {
            into.extend(numbers.iter().map(|n| place(labels, |label| is_called(label, *n))));
        }
        (Answers::Texts(texts), Part::Class(labels)) if width == 1 => {
            into.extend(texts.iter().map(|text| place(labels, |label| label == text)));
        }
        (Answers::Texts(_), _) => {
            return Err("holds text, not numbers; name the label with `class`".into());
        }
        (_, part) => return Err(format!("has {width} numbers a window, and no {part:?}")),
    }
    Ok(())
}

fn place(labels: &[String], is_it: impl Fn(&String) -> bool) -> f64 {
    labels.iter().position(is_it).map_or(-1.0, |place| place as f64)
}

/// Whether a label that is a number is `number`, which may have come as a float32.
fn is_called(label: &str, number: f64) -> bool {
    let is_near = |label: f64| label == number || f64::from(label as f32) == number;
    label
        .parse()
        .is_ok_and(|label: f64| if label.fract() == 0.0 { label == number } else { is_near(label) })
}

/// The place of the largest number, the first of several; NaN where one is none.
fn largest(row: &[f64]) -> f64 {
    let mut best = 0;
    for (at, value) in row.iter().enumerate() {
        if !value.is_finite() {
            return f64::NAN;
        }
        if *value > row[best] {
            best = at;
        }
    }
    best as f64
}

fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(panic_text(&*panic)))
}
