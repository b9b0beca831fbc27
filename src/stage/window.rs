//! `window`: cuts each asset's rows into intervals of its own event time and describes each with features.
//!
//! After `resample`. A window `[start, end)` closes with the row that completes it, or with the first row beyond
//! it; so what a window holds depends on the asset's rows alone, not on the clock, on ticks or on other assets.
//! Starts are multiples of `every` since 1970. Windows without a row do not exist; windows with too few known
//! points are counted as sparse and go no further.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::envelope::Bearing;
use super::features::{Feature, Scene, describe};
use super::{Around, Effects, Flow, Stage, StageError, load_state, of_asset, save_state};
use crate::frame::{Grid, Windows};
use crate::pipeline::spec::{BearingSpec, SpeedSpec, WindowSpec};
use crate::schema::{Signal, convert};
use crate::time::{Span, Step, Timestamp};

/// The stage: its settings and the rows that open windows hold.
pub struct Window {
    length: Span,
    every: Span,
    step: Step,
    /// Steps of a window.
    steps: usize,
    /// Columns of the grid that are kept.
    columns: Vec<usize>,
    /// How many of them, from the first, are described.
    described: usize,
    bearing: Option<Listening>,
    features: Vec<Feature>,
    names: Vec<String>,
    min_coverage: f64,
    /// Whether a model wants the samples themselves.
    sequence: bool,
    assets: Vec<AssetState>,
}

/// A bearing, and where its speed is known from.
struct Listening {
    bearing: Bearing,
    speed: Speed,
}

enum Speed {
    /// Turns a second.
    Known(f64),
    /// The mean of one of the columns that are kept, times this.
    Measured(usize, f64),
}

/// Rows of one asset, oldest first.
#[derive(Default, Serialize, Deserialize)]
struct AssetState {
    /// End of the next window to close.
    next_end: Option<Timestamp>,
    ts: Vec<Timestamp>,
    /// As the stage's `columns`.
    columns: Vec<Vec<f64>>,
    /// Rows before this one are no longer needed; they are removed in bulk.
    start: usize,
}

/// What a window stage needs to know besides its file entry.
pub struct WindowInput<'a> {
    /// The grid's columns.
    pub signals: &'a [Signal],
    /// Step of the grid.
    pub step: Step,
    /// Whether a model wants the samples themselves.
    pub sequence: bool,
}

impl Window {
    /// A stage that has seen nothing. Signals and features must have passed `check`.
    pub fn new(spec: &WindowSpec, input: &WindowInput<'_>) -> Result<Window, String> {
        let all: Vec<String> = input.signals.iter().map(|s| s.name.clone()).collect();
        let wanted = spec.signals.as_ref().unwrap_or(&all);
        let column = |name: &String| {
            all.iter().position(|s| s == name).ok_or_else(|| format!("no signal `{name}`"))
        };
        let mut columns: Vec<usize> = wanted.iter().map(column).collect::<Result<_, _>>()?;
        let described = columns.len();
        let listening = |bearing: &BearingSpec| Listening::of(bearing, input.signals, &mut columns);
        let bearing = spec.bearing.as_ref().map(listening).transpose()?;
        let features: Vec<Feature> =
            spec.features.iter().map(|f| f.parse()).collect::<Result<_, _>>()?;
        let names = wanted.iter().flat_map(|s| features.iter().map(move |f| format!("{s}.{f}")));
        Ok(Window {
            length: spec.length,
            every: spec.every.unwrap_or(spec.length),
            step: input.step,
            steps: input.step.count(spec.length) as usize,
            columns,
            described,
            bearing,
            names: names.collect(),
            features,
            min_coverage: spec.min_coverage,
            sequence: input.sequence,
            assets: Vec::new(),
        })
    }

    /// The first end after `ts`.
    fn end_after(&self, ts: Timestamp) -> Timestamp {
        let phase = Span(self.length.0 % self.every.0);
        ts.minus(phase).floor(self.every).plus(phase).plus(self.every)
    }

    /// Adds a row and closes the windows that are complete with it.
    fn add(&mut self, grid: &Grid, row: usize, out: &mut Windows, effects: &mut Effects) {
        let (asset, ts) = (grid.asset[row], grid.ts[row]);
        let end_after = self.end_after(ts);
        let columns = || vec![Vec::new(); self.columns.len()];
        let fresh = || AssetState { columns: columns(), ..AssetState::default() };
        let state = of_asset(&mut self.assets, asset, fresh);
        state.ts.push(ts);
        let values = &grid.values[row * grid.channels..(row + 1) * grid.channels];
        for (column, &index) in state.columns.iter_mut().zip(&self.columns) {
            column.push(values[index]);
        }
        state.next_end.get_or_insert(end_after);
        self.close(asset, self.step.next(ts), out, effects);
    }

    /// Closes one asset's windows that end at or before `upto`.
    fn close(&mut self, asset: u32, upto: Timestamp, out: &mut Windows, effects: &mut Effects) {
        while let Some(end) = self.assets[asset as usize].next_end
            && end <= upto
        {
            let start = end.minus(self.length);
            let state = &mut self.assets[asset as usize];
            while state.ts.get(state.start).is_some_and(|ts| *ts < start) {
                state.start += 1;
            }
            let first = state.ts.get(state.start).copied();
            match first {
                Some(ts) if ts < end => {
                    state.next_end = Some(end.plus(self.every));
                    self.emit(asset, start, end, out, effects);
                }
                // No row in this window: on to the first that has one.
                Some(ts) => self.assets[asset as usize].next_end = Some(self.end_after(ts)),
                None => {
                    state.next_end = None;
                    break;
                }
            }
        }
        self.assets[asset as usize].compact();
    }

    fn emit(
        &self,
        asset: u32,
        start: Timestamp,
        end: Timestamp,
        out: &mut Windows,
        effects: &mut Effects,
    ) {
        let state = &self.assets[asset as usize];
        let from = state.start;
        let to = from + state.ts[from..].partition_point(|ts| *ts < end);
        let samples =
            |column: &Vec<f64>| -> Vec<f64> { self.samples(state, column, from, to, start) };
        let whole = to - from == self.steps;
        let columns = &state.columns[..self.described];
        let known: usize =
            columns.iter().map(|c| c[from..to].iter().filter(|v| !v.is_nan()).count()).sum();
        let coverage = known as f64 / (self.steps * columns.len()).max(1) as f64;
        effects.account.windows += 1;
        if coverage < self.min_coverage {
            effects.account.sparse += 1;
            return;
        }
        let turning = |l: &Listening| l.speed.mean(&state.columns, from..to);
        let bearing = self.bearing.as_ref().map(|l| (&l.bearing, turning(l)));
        let scene = Scene { rate: self.step.rate(), bearing };
        for column in columns {
            if whole {
                describe(&column[from..to], scene, &self.features, &mut out.features);
            } else {
                describe(&samples(column), scene, &self.features, &mut out.features);
            }
        }
        if self.sequence {
            let columns: Vec<Vec<f64>> = columns.iter().map(samples).collect();
            for step in 0..self.steps {
                out.sequence.extend(columns.iter().map(|c| c[step]));
            }
        }
        out.asset.push(asset);
        out.start.push(start);
        out.end.push(end);
        out.coverage.push(coverage);
    }

    /// A column of a window at every step of it, NaN where there is no row.
    fn samples(
        &self,
        state: &AssetState,
        column: &[f64],
        from: usize,
        to: usize,
        start: Timestamp,
    ) -> Vec<f64> {
        let mut samples = vec![f64::NAN; self.steps];
        let first = self.step.number(start);
        for (ts, value) in state.ts[from..to].iter().zip(&column[from..to]) {
            let step = self.step.number(*ts) - first;
            if let Some(sample) = samples.get_mut(step as usize) {
                *sample = *value;
            }
        }
        samples
    }

    /// At the end of the input: what is open is closed as it is; its coverage decides.
    fn finish(&mut self, out: &mut Windows, effects: &mut Effects) {
        for asset in 0..self.assets.len() as u32 {
            let last = self.assets[asset as usize].ts.last().copied();
            if let Some(last) = last {
                // The window that the next row would have completed at the latest.
                self.close(asset, self.end_after(last), out, effects);
            }
        }
    }
}

impl Listening {
    /// Where the speed is measured by a signal that is not kept yet, it is added to `columns`.
    fn of(
        spec: &BearingSpec,
        signals: &[Signal],
        columns: &mut Vec<usize>,
    ) -> Result<Listening, String> {
        let orders = spec.orders().ok_or("`bearing` has neither `geometry` nor `orders`")?;
        let speed = match &spec.speed {
            SpeedSpec::Rpm(rpm) => Speed::Known(rpm / 60.0),
            SpeedSpec::Signal(name) => {
                let index = signals.iter().position(|s| s.name == *name);
                let index = index.ok_or_else(|| format!("no signal `{name}`"))?;
                let scale = convert(&signals[index].unit, "Hz").ok_or("the speed has no unit")?;
                if !columns.contains(&index) {
                    columns.push(index);
                }
                let place = columns.iter().position(|c| *c == index).unwrap_or_default();
                Speed::Measured(place, scale.scale)
            }
        };
        Ok(Listening { bearing: Bearing { orders, band: spec.band }, speed })
    }
}

impl Speed {
    /// Turns a second over some rows, NaN where it is not known.
    fn mean(&self, columns: &[Vec<f64>], rows: Range<usize>) -> f64 {
        match *self {
            Speed::Known(speed) => speed,
            Speed::Measured(place, scale) => {
                let known = || columns[place][rows.clone()].iter().filter(|v| !v.is_nan());
                known().sum::<f64>() / known().count() as f64 * scale
            }
        }
    }
}

impl AssetState {
    /// Removes rows that no window needs, once they are most of what is kept.
    fn compact(&mut self) {
        if self.start > 64 && self.start * 2 > self.ts.len() {
            self.ts.drain(..self.start);
            for column in &mut self.columns {
                column.drain(..self.start);
            }
            self.start = 0;
        }
    }
}

impl Stage for Window {
    fn name(&self) -> &'static str {
        "window"
    }

    fn apply(
        &mut self,
        input: Flow,
        around: &Around<'_>,
        effects: &mut Effects,
    ) -> Result<Flow, StageError> {
        let Flow::Grid(grid) = input else {
            return Err(StageError::WrongInput { stage: "window", expected: "resampled rows" });
        };
        let mut out = Windows {
            names: self.names.clone(),
            steps: self.steps,
            channels: self.described,
            ..Windows::default()
        };
        for row in 0..grid.ts.len() {
            self.add(&grid, row, &mut out, effects);
        }
        if around.ended {
            self.finish(&mut out, effects);
        }
        Ok(Flow::Windows(out))
    }

    fn save(&self) -> Result<Vec<u8>, StageError> {
        save_state("window", &self.assets)
    }

    fn load(&mut self, state: &[u8]) -> Result<(), StageError> {
        self.assets = load_state("window", state)?;
        Ok(())
    }
}
