//! Rows of a recording on their way into an [`Input`].
//!
//! Filled by [`super::csv`] and [`super::parquet`] row by row.

use std::collections::HashMap;

use crate::decode::Words;
use crate::decode::time::TimeFormat;
use crate::frame::{Asset, Input, Quality, Readings};
use crate::time::Timestamp;

/// Readings of some rows, and the assets they are of.
#[derive(Debug, Default)]
pub(super) struct Batch {
    assets: Vec<Asset>,
    by_id: HashMap<String, u32>,
    readings: Readings,
    /// The asset asked for last: rows of one machine often follow each other.
    last: u32,
    /// The newest row of each asset, where times are local.
    newest: HashMap<String, Timestamp>,
    /// Words that are taken for numbers.
    pub(super) words: Words,
}

impl Batch {
    /// Index of the asset with this id, and the time of a row of it, which was read as `ts`. In an hour that a clock change
    /// repeats it is the second one that is meant, where the row before lies nearer to that.
    pub(super) fn row(&mut self, id: &str, ts: Timestamp, times: &TimeFormat) -> (u32, Timestamp) {
        let asset = self.asset(id);
        if !times.is_local() {
            return (asset, ts);
        }
        let Some(newest) = self.newest.get_mut(id) else {
            self.newest.insert(id.to_owned(), ts);
            return (asset, ts);
        };
        let is_nearer = |again: &Timestamp| again.0 - newest.0 <= newest.0 - ts.0;
        let ts = times.again(ts).filter(is_nearer).unwrap_or(ts);
        *newest = ts.max(*newest);
        (asset, ts)
    }

    /// Index of the asset with this id.
    fn asset(&mut self, id: &str) -> u32 {
        if self.assets.get(self.last as usize).is_some_and(|asset| asset.id == id) {
            return self.last;
        }
        self.last = self.by_id.get(id).copied().unwrap_or_else(|| {
            let index = self.assets.len() as u32;
            self.assets.push(Asset { id: id.to_owned(), ..Asset::default() });
            self.by_id.insert(id.to_owned(), index);
            index
        });
        self.last
    }

    /// Adds a reading as measured.
    pub(super) fn push(&mut self, asset: u32, signal: u16, ts: Timestamp, value: f64) {
        self.readings.push(asset, signal, ts, value, Quality::Good);
    }

    /// What has been added since the last time.
    pub(super) fn take(&mut self, route: &str) -> Input {
        self.by_id.clear();
        self.last = 0;
        Input {
            route: route.to_owned(),
            assets: std::mem::take(&mut self.assets),
            readings: std::mem::take(&mut self.readings),
            commands: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::spec::RecordingSpec;

    #[test]
    fn an_hour_that_comes_twice_is_told_by_the_row_before() {
        let unit = RecordingSpec::default().unit;
        let times = TimeFormat::recording(unit, None, Some("Europe/Berlin")).unwrap();
        let mut batch = Batch::default();
        let mut row = |id: &str, clock: &str| {
            let read = times.text(&format!("2026-10-25 {clock}")).unwrap();
            batch.row(id, read, &times).1.to_string()[11..16].to_owned()
        };
        let clocks =
            ["01:59", "02:01", "02:00", "02:59", "02:00", "02:01", "02:31", "02:59", "03:00"];
        let found = clocks.map(|clock| row("a", clock));
        // A row that is late by a minute stays where it is.
        let expected =
            ["23:59", "00:01", "00:00", "00:59", "01:00", "01:01", "01:31", "01:59", "02:00"];
        assert_eq!(found, expected);
        assert_eq!(row("b", "02:00"), "00:00", "another asset has its own order");
    }
}
