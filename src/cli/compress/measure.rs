//! How long two models take, and how much memory.
//!
//! Latency is that of the `score` stage on whole batches; the models take turns, so that whatever else the machine does
//! slows both. Memory is the peak of a process that does nothing but open the model and try it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::Serialize;

use super::evidence::{Evidence, apply};
use crate::evaluate::metrics::percentile;
use crate::stage::score::ScoreStage;
use crate::time::monotonic;

/// Windows in a batch.
const BATCHES: [usize; 2] = [1, 16];
/// Most rounds of each.
const ROUNDS: usize = 200;
/// Fewest, however slow the models are.
const LEAST: usize = 5;
/// After this long it is enough.
const ENOUGH: Duration = Duration::from_secs(10);

/// How long a batch takes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Latency {
    /// Windows in it.
    pub(super) batch: usize,
    /// Half of them take no longer, in milliseconds.
    pub(super) p50_ms: f64,
    /// 19 of 20 take no longer.
    pub(super) p95_ms: f64,
    /// How many were timed.
    pub(super) rounds: usize,
}

/// Times both, in turns.
pub(super) fn latency(
    evidence: &Evidence,
    before: &mut ScoreStage,
    after: &mut ScoreStage,
) -> anyhow::Result<(Vec<Latency>, Vec<Latency>)> {
    let (mut of_before, mut of_after) = (Vec::new(), Vec::new());
    for batch in BATCHES.into_iter().filter(|batch| *batch <= evidence.len()) {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        let started = monotonic();
        for round in 0..ROUNDS {
            if round >= LEAST && started.elapsed() > ENOUGH {
                break;
            }
            let from = (round * batch) % (evidence.len() - batch + 1);
            for (stage, times) in [(&mut *before, &mut first), (&mut *after, &mut second)] {
                let windows = evidence.part(from, batch);
                let started = monotonic();
                apply(stage, windows)?;
                times.push(started.elapsed());
            }
        }
        of_before.push(summed(batch, first));
        of_after.push(summed(batch, second));
    }
    Ok((of_before, of_after))
}

fn summed(batch: usize, mut times: Vec<Duration>) -> Latency {
    times.sort_unstable();
    let ms = |percent| percentile(&times, percent).map_or(0.0, |time| time.as_secs_f64() * 1e3);
    Latency { batch, p50_ms: ms(50), p95_ms: ms(95), rounds: times.len() }
}

/// Most memory of a process that opens the model and tries it, in bytes. `None` where that cannot be found out.
pub(super) fn peak_memory(model: &Path, library: Option<&Path>) -> Option<u64> {
    let mut command = Command::new(std::env::current_exe().ok()?);
    command.args(["model", "verify", "--json"]).arg(model);
    if let Some(library) = library {
        command.arg("--onnxruntime").arg(library);
    }
    let output = command.output().ok().filter(|output| output.status.success())?;
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    told.get("memory")?.as_u64()
}
