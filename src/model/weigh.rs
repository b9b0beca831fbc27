//! What a model takes on this machine, found out in a process of its own: memory, and time for a batch.
//!
//! `node` weighs a model before it lets it in, `check` where a budget is set: this program is started once more as `forebay
//! model verify`. A model that takes all memory, never answers, or brings its library down does so there. Only the binary
//! does this ([`with_this_program`]); in a library that is used by another program nothing is weighed.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::onnx::first_line;
use super::{Given, Host};
use crate::pipeline::spec::ScoreSpec;
use crate::time::{Span, monotonic};
use crate::usage::Usage;

/// This program, once it has said that it is `forebay`.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// How long a model may take to load and to answer three batches.
pub const LONGEST: Duration = Duration::from_mins(2);
/// How often is looked at what it takes.
const LOOK: Duration = Duration::from_millis(10);
/// What the process takes besides the model, at most: beyond that it is ended, below what it measured itself counts.
const PROGRAM_MEMORY: u64 = 256 << 20;

/// What a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weight {
    /// Most memory that it took while it was loaded and run, in bytes, without that of the program.
    pub memory: u64,
    /// Windows in a batch.
    pub rows: usize,
    /// Milliseconds that the fastest of three batches took.
    pub batch_ms: f64,
}

/// Why a model is not let in.
#[derive(Debug, thiserror::Error)]
pub enum WeighError {
    /// It takes more memory than it may.
    #[error(
        "it takes {}{}, loaded and run on {rows} windows at once; `models.memory` allows {}: compress it, or give it a smaller `batch`",
        if *.is_more { "more than " } else { "" }, ByteSize::b(*.memory), ByteSize::b(*.limit)
    )]
    Memory {
        /// Bytes that were seen.
        memory: u64,
        /// Whether it was ended before it had all that it wanted.
        is_more: bool,
        /// Windows in a batch.
        rows: usize,
        /// Bytes that it may take.
        limit: u64,
    },
    /// It is too slow here.
    #[error(
        "a batch of {rows} windows takes it {batch_ms:.1} ms here, its `deadline` is {deadline:?}: compress it, or give it a smaller `batch` or more `onnxruntime.threads`"
    )]
    Late {
        /// Windows in a batch.
        rows: usize,
        /// Milliseconds that they take.
        batch_ms: f64,
        /// What the pipeline allows.
        deadline: Duration,
    },
    /// It never came to an end.
    #[error("it was not loaded and tried within {LONGEST:?}")]
    Endless,
    /// It failed, or its process did.
    #[error("{0}")]
    Failed(String),
}

/// Lets models be weighed by this program: `main` calls it.
pub fn with_this_program() {
    if let Ok(program) = std::env::current_exe() {
        PROGRAM.get_or_init(|| program);
    }
}

/// Weighs the model `path` as `host` runs it for a score that is given this. `None`: nothing can be weighed here.
pub fn weigh(
    host: &Host,
    path: &Path,
    spec: &ScoreSpec,
    given: Given<'_>,
) -> Result<Option<Weight>, WeighError> {
    let Some(program) = PROGRAM.get() else { return Ok(None) };
    let rows = usize::from(spec.batch.max(1));
    let shape = given.shape(rows);
    let cannot = |e: std::io::Error| WeighError::Failed(format!("it cannot be tried: {e}"));
    let mut child = command(program, host, path, &shape, spec).spawn().map_err(cannot)?;
    let limit = host.memory.unwrap_or(u64::MAX);
    let watched = watch(&mut child, limit, rows);
    if watched.is_err() {
        drop(child.kill());
    }
    let status = child.wait().map_err(cannot)?;
    let told = watched?;
    if !status.success() {
        let mut wrong = String::new();
        // What it says of an error fits into a pipe.
        drop(child.stderr.take().map(|mut pipe| pipe.read_to_string(&mut wrong)));
        let wrong = first_line(wrong.trim_start_matches("error: "));
        let reason = if wrong.is_empty() { format!("its process ended: {status}") } else { wrong };
        return Err(WeighError::Failed(reason));
    }
    let weight: Weight = serde_json::from_str(&told)
        .map_err(|e| WeighError::Failed(format!("it cannot be tried: {e}")))?;
    if weight.memory > limit {
        return Err(WeighError::Memory { memory: weight.memory, is_more: false, rows, limit });
    }
    let Weight { rows, batch_ms, .. } = weight;
    let deadline = spec.deadline.map(Span::to_std);
    match deadline.filter(|deadline| batch_ms > deadline.as_secs_f64() * 1e3) {
        Some(deadline) => Err(WeighError::Late { rows, batch_ms, deadline }),
        None => Ok(Some(weight)),
    }
}

/// What it says, once it has said it.
fn watch(child: &mut Child, limit: u64, rows: usize) -> Result<String, WeighError> {
    let (sender, said) = mpsc::channel();
    let pipe = child.stdout.take();
    std::thread::spawn(move || {
        let mut text = String::new();
        drop(pipe.map(|mut pipe| pipe.read_to_string(&mut text)));
        drop(sender.send(text)); // nobody waits for one that was ended
    });
    let began = monotonic();
    while began.elapsed() < LONGEST {
        if let Ok(text) = said.recv_timeout(LOOK) {
            return Ok(text);
        }
        let resident = Usage::of(Some(child.id())).map_or(0, |usage| usage.resident);
        let memory = resident.saturating_sub(PROGRAM_MEMORY);
        if memory > limit {
            return Err(WeighError::Memory { memory, is_more: true, rows, limit });
        }
    }
    Err(WeighError::Endless)
}

/// `forebay model verify`, so that it runs the model as this host would.
fn command(program: &Path, host: &Host, path: &Path, shape: &[usize], spec: &ScoreSpec) -> Command {
    let shape: Vec<String> = shape.iter().map(ToString::to_string).collect();
    let mut command = Command::new(program);
    command.args(["--log", "off", "model", "verify", "--json"]).arg(path);
    command.args(["--shape", &shape.join(",")]);
    command.args(["--threads", &host.settings.threads.to_string()]);
    command.args(["--optimisation", &host.settings.optimisation.to_string()]);
    for (input, output) in &spec.state {
        command.args(["--state", &format!("{input}={output}")]);
    }
    for provider in &host.settings.providers {
        command.args(["--provider", &provider.to_string()]);
    }
    if let Some(library) = &host.library {
        command.arg("--onnxruntime").arg(library);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}
