//! What is shown and kept while a network learns: a loss curve, a line in a log now and then, and a checkpoint from which a
//! training that was stopped goes on.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::ProgressBar;
use tokio_util::sync::CancellationToken;

use super::TrainArgs;
use crate::cli::screen::{Screen, look};
use crate::cli::write_whole;
use crate::model::net::{Checkpoint, Epoch, Network};
use crate::time::monotonic;

/// How often a checkpoint is written at most.
const CHECKPOINT: Duration = Duration::from_secs(1);
/// How often a log is told how far it is.
const NOTE: Duration = Duration::from_secs(30);

/// See the module.
pub(super) struct Progress {
    bar: ProgressBar,
    /// Epochs, of all networks.
    all: u64,
    began: Instant,
    budget: Option<Duration>,
    checkpoint: PathBuf,
    written: Option<Instant>,
    /// Where it is told how far it is, where nothing is drawn; and when it was.
    notes: Option<Screen>,
    noted: Option<Instant>,
    /// Why a checkpoint could not be written.
    failed: Option<anyhow::Error>,
    out_of_time: bool,
    /// Ctrl-C; and whether it has ended the training.
    stop: CancellationToken,
    interrupted: bool,
}

impl Progress {
    pub(super) fn new(
        args: &TrainArgs,
        network: &Network,
        checkpoint: PathBuf,
        screen: &Screen,
        stop: CancellationToken,
    ) -> Progress {
        let all = u64::from(args.net.epochs) * network.members as u64;
        let bar = if args.offline.quiet {
            ProgressBar::hidden()
        } else {
            screen.line(ProgressBar::new(all))
        };
        bar.set_style(look("epoch {pos}/{len} {msg}, {eta} left"));
        let budget = args.net.time_budget.map(|span| Duration::from_micros(span.0.max(0) as u64));
        let notes = (bar.is_hidden() && !args.offline.quiet).then(|| screen.clone());
        Progress {
            bar,
            all,
            notes,
            noted: None,
            began: monotonic(),
            budget,
            checkpoint,
            written: None,
            failed: None,
            out_of_time: false,
            stop,
            interrupted: false,
        }
    }

    pub(super) fn watch(&mut self, epoch: &Epoch, state: &Checkpoint) -> bool {
        let epochs = state.epochs();
        let curve: Vec<f64> =
            epochs.iter().filter(|e| e.member == epoch.member).map(|e| e.held_out).collect();
        self.bar.set_position(epochs.len() as u64);
        self.bar.set_message(format!(
            "{} loss {:.4}, held out {:.4}",
            sparkline(&curve, 40),
            epoch.loss,
            epoch.held_out
        ));
        self.out_of_time = self.budget.is_some_and(|budget| self.began.elapsed() >= budget);
        let is_last = epochs.len() as u64 >= self.all;
        self.interrupted = self.stop.is_cancelled() && !is_last;
        let ends = self.out_of_time || self.interrupted;
        if ends || self.written.is_none_or(|at| at.elapsed() >= CHECKPOINT) {
            if let Err(error) = write_whole(&self.checkpoint, &state.to_bytes()) {
                self.failed = Some(error);
                return false;
            }
            self.written = Some(monotonic());
            self.note(epochs.len(), epoch);
        }
        !ends
    }

    /// Says how far it is, for a log. A checkpoint has just been written.
    fn note(&mut self, done: usize, epoch: &Epoch) {
        let Some(screen) = &self.notes else { return };
        if self.noted.is_none_or(|at| at.elapsed() >= NOTE) {
            let (all, checkpoint) = (self.all, self.checkpoint.display());
            screen.note(&format!(
                "epoch {done} of {all}: loss {:.4}, held out {:.4}; if it is stopped, `--resume` goes on from {checkpoint}",
                epoch.loss, epoch.held_out
            ));
            self.noted = Some(monotonic());
        }
    }

    /// It is over: removes the checkpoint, or says where it is.
    pub(super) fn end(self) -> anyhow::Result<Option<String>> {
        self.bar.finish_and_clear();
        if let Some(error) = self.failed {
            return Err(error.context("training was stopped: its checkpoint cannot be written"));
        }
        let path = self.checkpoint.display();
        if self.out_of_time {
            return Ok(Some(format!("the time budget is over; `--resume` goes on from {path}")));
        }
        anyhow::ensure!(
            !self.interrupted,
            "stopped before its end, so no model was written; `--resume` goes on from {path}"
        );
        if self.written.is_some() {
            std::fs::remove_file(&self.checkpoint)
                .with_context(|| format!("`{path}` cannot be removed"))?;
        }
        Ok(None)
    }
}

/// Numbers as a line of blocks, at most `most` of them; high is large.
pub(super) fn sparkline(values: &[f64], most: usize) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let count = values.len().min(most);
    let picked: Vec<f64> =
        (0..count).map(|at| values[at * (values.len() - 1) / (count.max(2) - 1)]).collect();
    let (least, largest) = picked
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), value| (a.min(*value), b.max(*value)));
    let height =
        |value: f64| if largest > least { (value - least) / (largest - least) * 7.0 } else { 0.0 };
    picked.into_iter().map(|value| BLOCKS[(height(value).round() as usize).min(7)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_drawn_from_its_first_to_its_last_value() {
        assert_eq!(sparkline(&[8.0, 4.0, 1.0], 40), "█▄▁");
        assert_eq!(sparkline(&[5.0], 40), "▁");
        assert_eq!(sparkline(&[], 40), "");
        let long: Vec<f64> = (0..100).map(f64::from).collect();
        let drawn: Vec<char> = sparkline(&long, 10).chars().collect();
        assert_eq!((drawn.len(), drawn[0], drawn[9]), (10, '▁', '█'));
    }
}
