//! `resample`: brings an asset's signals onto one grid of times, and says of every point how it came to be.
//!
//! After `clean`. Takes readings in event-time order with their watermark, gives rows: one an instant, a value a
//! signal. A row leaves when no reading still to come could change it. Nothing is invented across more than
//! `max_gap`, and an instant for which no signal has a value makes no row: a day's gap, or a bogus time, costs
//! nothing. Calculated signals are computed of each row that leaves.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{Around, Effects, Flow, Stage, StageError, load_state, of_asset, save_state};
use crate::frame::{Grid, Origin};
use crate::pipeline::spec::{Fill, ResampleSpec};
use crate::schema::expression::{Expression, ExpressionError};
use crate::schema::{Schema, Signal};
use crate::time::{Span, Step, Timestamp};

/// The stage: its settings and the readings that rows still need.
pub struct Resample {
    step: Step,
    fill: Fill,
    /// By signal: across a longer gap nothing is invented.
    gaps: Vec<Span>,
    /// By signal: how it is calculated, if it is.
    derived: Vec<Option<Expression>>,
    assets: Vec<AssetState>,
}

/// One asset's place on the grid.
#[derive(Default, Serialize, Deserialize)]
struct AssetState {
    /// The next instant to decide; before the first reading, none.
    next: Option<Timestamp>,
    /// Latest reading so far.
    last: Option<Timestamp>,
    series: Vec<Series>,
}

/// One signal: the reading at or before `next`, and those after.
#[derive(Default, Serialize, Deserialize)]
struct Series {
    before: Option<(Timestamp, f64)>,
    after: VecDeque<(Timestamp, f64)>,
}

/// What is known of one signal at one instant.
enum Cell {
    Known(f64, Origin),
    Missing,
    /// A reading that may still come would change it.
    Undecided,
}

/// Of each signal, over how long a gap it is filled in.
pub fn gaps(spec: &ResampleSpec, schema: &Schema) -> Vec<Span> {
    let own = |signal: &Signal| Span(signal.every.unwrap_or_default().0.saturating_mul(3));
    let gap = |signal: &Signal| spec.max_gap.unwrap_or(spec.every.times(3).max(own(signal)));
    schema.signals.iter().map(gap).collect()
}

impl Resample {
    /// A stage that has seen nothing. The schema's expressions must have passed `check`.
    pub fn new(spec: &ResampleSpec, schema: &Schema) -> Result<Resample, ExpressionError> {
        let gaps = gaps(spec, schema);
        let (step, fill, derived) = (spec.every, spec.fill, Expression::of_schema(schema)?);
        Ok(Resample { step, fill, gaps, derived, assets: Vec::new() })
    }

    fn state(&mut self, asset: u32) -> &mut AssetState {
        let width = self.derived.len();
        let series = || (0..width).map(|_| Series::default()).collect();
        let fresh = || AssetState { series: series(), ..AssetState::default() };
        of_asset(&mut self.assets, asset, fresh)
    }

    /// Emits the rows of one asset that are decided now.
    fn advance(&mut self, asset: u32, watermark: Timestamp, ended: bool, out: &mut Grid) {
        let (step, fill) = (self.step, self.fill);
        let rule = Rule { step, fill, watermark };
        self.state(asset);
        let (state, derived) = (&mut self.assets[asset as usize], &self.derived);
        let gaps = &self.gaps;
        let Some(first) = state.next.or_else(|| state.first_start(&rule, gaps)) else { return };
        let mut at = first;
        loop {
            state.next = Some(at);
            if ended && state.last.is_none_or(|last| at > last) {
                return;
            }
            let row = out.values.len();
            let mut known = false;
            for ((series, derived), gap) in state.series.iter_mut().zip(derived).zip(gaps) {
                let cell =
                    if derived.is_some() { Cell::Missing } else { rule.cell(series, at, *gap) };
                let (value, origin) = match cell {
                    Cell::Known(value, origin) => (value, origin),
                    Cell::Missing => (f64::NAN, Origin::Missing),
                    Cell::Undecided => {
                        out.values.truncate(row);
                        out.origins.truncate(row);
                        return;
                    }
                };
                known |= origin != Origin::Missing;
                out.values.push(value);
                out.origins.push(origin);
            }
            if known {
                derive(derived, &mut out.values[row..], &mut out.origins[row..]);
                out.asset.push(asset);
                out.ts.push(at);
                rule.consume(&mut state.series, at);
                at = step.next(at);
            } else {
                out.values.truncate(row);
                out.origins.truncate(row);
                // Nothing here: on to the next instant at which a reading could make a row.
                let Some(start) = state.first_start(&rule, gaps) else { return };
                at = start.max(step.next(at));
            }
        }
    }
}

/// Calculates the signals of a row that are not measured, each of those before it.
fn derive(derived: &[Option<Expression>], values: &mut [f64], origins: &mut [Origin]) {
    for (index, expression) in derived.iter().enumerate() {
        let Some(expression) = expression else { continue };
        values[index] = expression.value(values);
        if values[index].is_nan() {
            continue;
        }
        let measured = expression.signals().iter().all(|&s| origins[s] == Origin::Measured);
        origins[index] = if measured { Origin::Measured } else { Origin::Interpolated };
    }
}

/// How points are decided: the settings, and up to where the asset's readings are complete.
struct Rule {
    step: Step,
    fill: Fill,
    watermark: Timestamp,
}

impl Rule {
    /// What is known of a signal at an instant. Moves `before` up to it.
    fn cell(&self, series: &mut Series, at: Timestamp, max_gap: Span) -> Cell {
        if self.fill == Fill::Mean {
            return self.mean(series, at);
        }
        while let Some(&reading) = series.after.front()
            && reading.0 <= at
        {
            series.before = Some(reading);
            series.after.pop_front();
        }
        let before = series.before;
        let after = series.after.front().copied();
        if let Some((ts, value)) = before
            && ts == at
        {
            return Cell::Known(value, Origin::Measured);
        }
        if self.watermark <= at && after.is_none() {
            return Cell::Undecided;
        }
        match self.fill {
            Fill::Previous => match before {
                Some((ts, value)) if at.since(ts) <= max_gap => Cell::Known(value, Origin::Held),
                _ => Cell::Missing,
            },
            Fill::Next => match after {
                Some((ts, value)) if ts.since(at) <= max_gap => Cell::Known(value, Origin::Held),
                None if self.watermark <= at.plus(max_gap) => Cell::Undecided,
                _ => Cell::Missing,
            },
            Fill::Linear | Fill::Mean => match (before, after) {
                (Some((t0, v0)), Some((t1, v1))) if t1.since(t0) <= max_gap => {
                    let share = at.since(t0).0 as f64 / t1.since(t0).0 as f64;
                    Cell::Known(v0 + (v1 - v0) * share, Origin::Interpolated)
                }
                // The next reading is at or after the watermark: near enough to draw a line to?
                (Some((t0, _)), None) if self.watermark.since(t0) <= max_gap => Cell::Undecided,
                _ => Cell::Missing,
            },
        }
    }

    fn mean(&self, series: &mut Series, at: Timestamp) -> Cell {
        let end = self.step.next(at);
        if self.watermark < end {
            return Cell::Undecided;
        }
        let (mut sum, mut count) = (0.0, 0.0);
        for (_, value) in series.after.iter().take_while(|r| r.0 < end).filter(|r| r.0 >= at) {
            sum += value;
            count += 1.0;
        }
        if count > 0.0 { Cell::Known(sum / count, Origin::Measured) } else { Cell::Missing }
    }

    /// Forgets the readings that only the row at `at` needed.
    fn consume(&self, series: &mut [Series], at: Timestamp) {
        if self.fill == Fill::Mean {
            let end = self.step.next(at);
            for series in series {
                while series.after.front().is_some_and(|r| r.0 < end) {
                    series.after.pop_front();
                }
            }
        }
    }

    /// The first instant at which a reading can make a row.
    fn start(&self, reading: Timestamp, max_gap: Span) -> Timestamp {
        let up = |ts: Timestamp| {
            let down = self.step.floor(ts);
            if down == ts { down } else { self.step.next(down) }
        };
        match self.fill {
            Fill::Mean => self.step.floor(reading),
            Fill::Next => up(reading.minus(max_gap)),
            Fill::Linear | Fill::Previous => up(reading),
        }
    }
}

impl AssetState {
    fn first_start(&self, rule: &Rule, gaps: &[Span]) -> Option<Timestamp> {
        let start =
            |(series, gap): (&Series, &Span)| Some(rule.start(series.after.front()?.0, *gap));
        self.series.iter().zip(gaps).filter_map(start).min()
    }
}

impl Stage for Resample {
    fn name(&self) -> &'static str {
        "resample"
    }

    fn apply(
        &mut self,
        input: Flow,
        around: &Around<'_>,
        effects: &mut Effects,
    ) -> Result<Flow, StageError> {
        let Flow::Readings(readings, marks) = input else {
            return Err(StageError::WrongInput { stage: "resample", expected: "readings" });
        };
        for index in 0..readings.len() {
            let ts = readings.ts[index];
            let state = self.state(readings.asset[index]);
            state.last = state.last.max(Some(ts));
            state.series[readings.signal[index] as usize]
                .after
                .push_back((ts, readings.value[index]));
        }
        let mut out = Grid { channels: self.derived.len(), ..Grid::default() };
        for mark in marks {
            self.advance(mark.asset, mark.watermark, around.ended, &mut out);
        }
        effects.account.rows += out.ts.len() as u64;
        Ok(Flow::Grid(out))
    }

    fn save(&self) -> Result<Vec<u8>, StageError> {
        save_state("resample", &self.assets)
    }

    fn load(&mut self, state: &[u8]) -> Result<(), StageError> {
        self.assets = load_state("resample", state)?;
        Ok(())
    }
}
