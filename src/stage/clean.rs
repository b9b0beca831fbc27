//! `clean`: puts each asset's readings into event-time order and takes out what cannot be true.
//!
//! First stage of every pipeline. Holds readings back until their asset's watermark has passed, so that checks
//! which compare neighbours see them in order whatever order they came in: any reordering within `lateness`
//! gives the same output. Every reading ends in exactly one of: passed on, rejected, duplicate, late, waiting.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::checks::{Checks, History};
use super::{
    Around, Effects, Flow, Mark, Reason, Stage, StageError, load_state, of_asset, save_state,
};
use crate::frame::{Quality, Readings};
use crate::pipeline::spec::{CleanSpec, Duplicates, OnFail, TimeSpec};
use crate::schema::Schema;
use crate::time::{Span, Timestamp};

/// How many released times are remembered for each series, to tell a redelivered reading from a late one.
const RECENT: usize = 32;

/// The stage: its settings and what it holds back.
pub struct Clean {
    time: TimeSpec,
    live: bool,
    duplicates: Duplicates,
    bad_quality: OnFail,
    checks: Vec<Checks>,
    assets: Vec<AssetState>,
    pending: u64,
    touched: Vec<u32>,
}

/// One asset's progress through event time.
#[derive(Serialize, Deserialize)]
struct AssetState {
    /// Latest event time seen.
    latest: Timestamp,
    /// No earlier reading is waited for.
    watermark: Timestamp,
    /// When the last reading came, or the broker could not be heard, whichever is later; by the clock of the ticks.
    seen_at: Timestamp,
    /// Readings held back, over all series.
    waiting: u32,
    series: Vec<Series>,
    #[serde(skip)]
    touched: bool,
}

/// One signal of one asset.
#[derive(Default, Serialize, Deserialize)]
struct Series {
    /// Held back, sorted by time, no time twice.
    waiting: VecDeque<(Timestamp, f64, Quality)>,
    /// Times of the last released readings, oldest first.
    recent: VecDeque<Timestamp>,
    history: History,
}

impl Clean {
    /// A stage that has seen nothing. `live` input is checked against the clock and given up on when idle; recorded
    /// input has no clock.
    pub fn new(spec: &CleanSpec, time: &TimeSpec, schema: &Schema, live: bool) -> Clean {
        Clean {
            time: time.clone(),
            live,
            duplicates: spec.duplicates,
            bad_quality: spec.bad_quality,
            checks: schema.signals.iter().map(|signal| Checks::new(spec, signal)).collect(),
            assets: Vec::new(),
            pending: 0,
            touched: Vec::new(),
        }
    }

    /// Takes one reading in; what it cannot be is counted.
    fn take(
        &mut self,
        readings: &Readings,
        index: usize,
        around: &Around<'_>,
        effects: &mut Effects,
    ) {
        let (asset, signal) = (readings.asset[index], readings.signal[index] as usize);
        let (ts, mut quality) = (readings.ts[index], readings.quality[index]);
        let account = &mut effects.account;
        let Some(checks) = self.checks.get(signal) else {
            return account.reject(Reason::OutOfRange);
        };
        let mut value = checks.convert(readings.value[index]);
        if !value.is_finite() {
            return account.reject(Reason::NotFinite);
        }
        if ts < self.time.earliest {
            return account.reject(Reason::Past);
        }
        if self.live && ts > around.tick.now.plus(self.time.max_ahead) {
            return account.reject(Reason::Future);
        }
        if quality == Quality::Bad {
            match self.bad_quality {
                OnFail::Drop => return account.reject(Reason::BadQuality),
                OnFail::Mark | OnFail::Clamp => account.mark(Reason::BadQuality),
            }
            quality = Quality::Uncertain;
        }
        if let Some(limited) = checks.out_of_range(value) {
            match checks.on_range {
                OnFail::Drop => return account.reject(Reason::OutOfRange),
                OnFail::Mark => {}
                OnFail::Clamp => value = limited,
            }
            account.mark(Reason::OutOfRange);
            quality = Quality::Uncertain;
        }

        let width = self.checks.len();
        let state = of_asset(&mut self.assets, asset, || AssetState::new(width));
        state.seen_at = around.tick.now;
        if !state.touched {
            state.touched = true;
            self.touched.push(asset);
        }
        let series = &mut state.series[signal];
        if ts < state.watermark {
            if series.has_had(ts, state.watermark) {
                account.duplicates += 1;
            } else {
                account.late += 1;
            }
            return;
        }
        if series.insert(ts, value, quality, self.duplicates) {
            state.waiting += 1;
            self.pending += 1;
        } else {
            account.duplicates += 1;
        }
        state.latest = state.latest.max(ts);
        // One that is ahead of the clock says nothing of those before it: it waits until the clock has come to it.
        let follows = if self.live { ts.min(around.tick.now) } else { ts };
        state.watermark = state.watermark.max(follows.minus(self.time.lateness));
    }

    /// Moves the watermarks of assets that have been silent for `idle`, or of all at the end of the input.
    fn give_up_waiting(&mut self, around: &Around<'_>) {
        let now = around.tick.now;
        for (index, state) in self.assets.iter_mut().enumerate() {
            let idle = self.live && state.waiting > 0 && now.since(state.seen_at) >= self.time.idle;
            let newest = if idle { state.newest_upto(now) } else { None };
            state.watermark = match newest {
                _ if around.ended => Timestamp::MAX,
                Some(newest) => state.watermark.max(newest.plus(Span(1))),
                None => continue,
            };
            if !state.touched {
                state.touched = true;
                self.touched.push(index as u32);
            }
        }
    }

    /// Passes on what has become complete of the assets touched in this tick.
    fn release(&mut self, effects: &mut Effects) -> (Readings, Vec<Mark>) {
        let mut out = Readings::default();
        let mut marks = Vec::with_capacity(self.touched.len());
        for &asset in &self.touched {
            let state = &mut self.assets[asset as usize];
            state.touched = false;
            for (signal, series) in state.series.iter_mut().enumerate() {
                let checks = &self.checks[signal];
                while let Some(&(ts, value, quality)) = series.waiting.front()
                    && ts < state.watermark
                {
                    series.waiting.pop_front();
                    state.waiting -= 1;
                    self.pending -= 1;
                    if series.recent.len() == RECENT {
                        series.recent.pop_front();
                    }
                    series.recent.push_back(ts);
                    let account = &mut effects.account;
                    if let Some(quality) =
                        checks.judge(&mut series.history, ts, value, quality, account)
                    {
                        account.used += 1;
                        out.push(asset, signal as u16, ts, value, quality);
                    }
                }
            }
            marks.push(Mark { asset, watermark: state.watermark });
        }
        self.touched.clear();
        (out, marks)
    }
}

impl AssetState {
    fn new(width: usize) -> AssetState {
        AssetState {
            latest: Timestamp::MIN,
            watermark: Timestamp::MIN,
            seen_at: Timestamp::MIN,
            waiting: 0,
            series: (0..width).map(|_| Series::default()).collect(),
            touched: false,
        }
    }

    /// The newest waiting reading that is not ahead of the clock.
    fn newest_upto(&self, now: Timestamp) -> Option<Timestamp> {
        let of = |series: &Series| {
            let count = series.waiting.partition_point(|w| w.0 <= now);
            Some(series.waiting.get(count.checked_sub(1)?)?.0)
        };
        self.series.iter().filter_map(of).max()
    }

    /// When something can be given up on. Only readings that are ahead of the clock need a look at them all.
    fn due(&self, idle: Span) -> Timestamp {
        let due = self.seen_at.plus(idle);
        if self.latest <= due {
            return due;
        }
        let first = self.series.iter().filter_map(|s| s.waiting.front()).map(|w| w.0).min();
        first.map_or(due, |first| due.max(first))
    }
}

impl Series {
    /// Whether one of the last [`RECENT`] complete readings had this time, released or about to be: when within a
    /// tick they are released must not matter.
    fn has_had(&self, ts: Timestamp, watermark: Timestamp) -> bool {
        let complete = self.waiting.partition_point(|w| w.0 < watermark);
        let newest_first = self.waiting.range(..complete).rev().map(|w| w.0);
        newest_first.chain(self.recent.iter().rev().copied()).take(RECENT).any(|had| had == ts)
    }

    /// Puts a reading in its place; `false` if one with its time is there already.
    fn insert(&mut self, ts: Timestamp, value: f64, quality: Quality, policy: Duplicates) -> bool {
        // Nearly always the newest: look from the back.
        let mut place = self.waiting.len();
        while place > 0 && self.waiting[place - 1].0 >= ts {
            place -= 1;
        }
        match self.waiting.get_mut(place) {
            Some(same) if same.0 == ts => {
                if policy == Duplicates::Last {
                    *same = (ts, value, quality);
                }
                return false;
            }
            Some(_) => self.waiting.insert(place, (ts, value, quality)),
            None => self.waiting.push_back((ts, value, quality)),
        }
        true
    }
}

impl Stage for Clean {
    fn name(&self) -> &'static str {
        "clean"
    }

    fn apply(
        &mut self,
        input: Flow,
        around: &Around<'_>,
        effects: &mut Effects,
    ) -> Result<Flow, StageError> {
        let Flow::Readings(readings, _) = input else {
            return Err(StageError::WrongInput { stage: "clean", expected: "readings" });
        };
        for index in 0..readings.len() {
            self.take(&readings, index, around, effects);
        }
        if around.deaf {
            for state in &mut self.assets {
                state.seen_at = around.tick.now;
            }
        }
        self.give_up_waiting(around);
        let (out, marks) = self.release(effects);
        effects.account.pending = self.pending;
        Ok(Flow::Readings(out, marks))
    }

    fn save(&self) -> Result<Vec<u8>, StageError> {
        save_state("clean", &self.assets)
    }

    fn load(&mut self, state: &[u8]) -> Result<(), StageError> {
        self.assets = load_state("clean", state)?;
        self.pending = self.assets.iter().map(|a| u64::from(a.waiting)).sum();
        self.touched.clear();
        Ok(())
    }

    fn wake_at(&self) -> Option<Timestamp> {
        let waiting = self.assets.iter().filter(|a| self.live && a.waiting > 0);
        waiting.map(|a| a.due(self.time.idle)).min()
    }
}
