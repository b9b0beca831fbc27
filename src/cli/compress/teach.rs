//! What a student learns from: windows of the part that may choose, cut closer than the pipeline cuts them, and copies of
//! them that something was done to; the original says what each scores.
//!
//! The original can be asked about any number of windows, so the recording need not hold all that a student has to know.
//! What is done to a copy is what happens to machines: channels are shifted, swing more or less, get noise. Measured on a
//! transformer of 100 million weights such copies were worth more than as many windows of the recording. A copy keeps its
//! window's time, so that what is held out by time shares nothing with what is learned.

use std::time::Duration;

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use super::CompressArgs;
use super::evidence::{Evidence, apply, recordings};
use super::parts::before;
use crate::cli::screen::Screen;
use crate::frame::Windows;
use crate::model::training::TrainingSet;
use crate::pipeline::spec::StageSpec;
use crate::stage::score::ScoreStage;
use crate::time::{Span, monotonic};

/// Most windows of the recordings that are looked at; with a copy of each they are twice as many.
const WINDOWS: usize = 4096;
/// Most numbers in them.
const NUMBERS: usize = 1 << 24;
/// Windows that are scored between two looks at the clock.
const TICK: usize = 16;
/// Windows that are scored however little time there is.
const LEAST: usize = 64;
/// Copies of each window at most, where there are few.
const COPIES: usize = 3;
/// By how much a copy may swing more or less (as a power of e), be shifted, and have noise (of what a channel varies by):
/// the standard deviation of the strongest.
const SWING: f64 = 0.7;
const SHIFT: f64 = 1.0;
const NOISE: f64 = 0.5;

impl Evidence {
    /// Windows and what the original in `stage` scores each, as many as it can be asked about in `time`.
    pub(super) fn taught(
        &self,
        args: &CompressArgs,
        stage: &mut ScoreStage,
        time: Duration,
        screen: &Screen,
    ) -> anyhow::Result<(TrainingSet, Vec<f64>)> {
        let windows = self.closer(args, screen)?;
        let (mut set, mut taught) = (self.empty_lesson(), Vec::new());
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut order: Vec<usize> = (0..windows.len()).collect();
        // However few there is time for, they are from everywhere.
        order.shuffle(&mut random);
        order.truncate(self.most());
        let copies = (2 * self.most() / order.len().max(1)).clamp(2, 1 + COPIES) - 1;
        let deviations = self.deviations(&windows);
        let bar = self.bar("the original teaches", order.len() * (1 + copies), screen);
        let (began, mut seen) = (monotonic(), 0);
        for places in order.chunks((TICK / (1 + copies)).max(1)) {
            if taught.len() >= LEAST && began.elapsed() >= time {
                break;
            }
            let mut part = Windows::default();
            for place in places {
                let one = windows.picked([*place]);
                for _ in 0..copies {
                    part.append(self.changed(one.clone(), &deviations, &mut random));
                }
                part.append(one);
            }
            seen += part.len();
            let scores = apply(stage, part.clone())?;
            self.learn_from(&part, &scores, &mut set, &mut taught);
            bar.set_position(seen as u64);
        }
        bar.finish_and_clear();
        Ok((set, taught))
    }

    /// Most windows of the recording that are looked at.
    fn most(&self) -> usize {
        (NUMBERS / self.empty_lesson().width().max(1)).clamp(LEAST, WINDOWS)
    }

    /// The windows that may choose, cut as close as it takes to have so many.
    fn closer(&self, args: &CompressArgs, screen: &Screen) -> anyhow::Result<Windows> {
        let Some(path) = &args.pipeline else { return Ok(self.choosing()) };
        let mut pipeline = args.offline.pipeline(path)?;
        let step = pipeline.spec.grid().map(|grid| grid.every.whole());
        for stage in &mut pipeline.spec.stages {
            if let (StageSpec::Window(window), Some(step)) = (stage, step) {
                let now = window.every.unwrap_or(window.length);
                let share = self.calibrating() as f64 / self.most() as f64;
                let steps = (now.0 as f64 * share / step.0 as f64).ceil().max(1.0) as i64;
                window.every = Some(now.min(Span(steps * step.0)));
            }
        }
        let (mut windows, until) = (Windows::default(), self.until());
        let take = |more| windows.append(before(&more, &until));
        recordings(args, &pipeline, screen).windows(take)?;
        Ok(windows)
    }

    /// Standard deviation of each column over all windows.
    fn deviations(&self, windows: &Windows) -> Vec<f64> {
        let (values, width) = self.numbers(windows);
        let of = |column: usize| {
            let known = || values.iter().skip(column).step_by(width).filter(|v| v.is_finite());
            let count = known().count().max(1) as f64;
            let mean = known().sum::<f64>() / count;
            (known().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt()
        };
        (0..width).map(of).collect()
    }

    /// One window with something done to it.
    fn changed(&self, mut one: Windows, deviations: &[f64], random: &mut ChaCha8Rng) -> Windows {
        let is_row = self.is_row();
        let values = if is_row { &mut one.features } else { &mut one.sequence };
        let width = deviations.len();
        let [swing, shift, noise] =
            [SWING, SHIFT, NOISE].map(|most| most * random.random_range(0.0..1.0));
        for (column, deviation) in deviations.iter().enumerate() {
            let column = || (column..values.len()).step_by(width);
            let mean = column().map(|at| values[at]).sum::<f64>() / column().count().max(1) as f64;
            let mut draw = || -> f64 { random.sample(StandardNormal) };
            let (factor, shift) = ((swing * draw()).exp(), shift * deviation * draw());
            for at in column() {
                values[at] =
                    mean + (values[at] - mean) * factor + shift + noise * deviation * draw();
            }
        }
        one
    }
}
