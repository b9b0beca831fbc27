//! Rows of a recording on their way into an [`Input`].
//!
//! Filled by [`super::csv`] and [`super::parquet`] row by row.

use std::collections::HashMap;

use crate::decode::Words;
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
    /// Words that are taken for numbers.
    pub(super) words: Words,
}

impl Batch {
    /// Index of the asset with this id.
    pub(super) fn asset(&mut self, id: &str) -> u32 {
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
