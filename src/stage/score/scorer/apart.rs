//! A batch that failed, asked about again asset by asset, so that no asset goes without an answer because of another.
//!
//! Part of `scorer`. What came of it goes into the journal; a replay asks in the same way, since a model's answers depend in
//! their last digits on how many windows it is asked about at once.

use std::collections::BTreeMap;

use tracing::warn;

use super::{Scorer, put};
use crate::command::ModelAction;
use crate::frame::Windows;
use crate::model::ModelError;
use crate::model::session::Output;
use crate::stage::Around;

impl Scorer {
    /// After a batch had no answer because of `error`: asks about each asset alone, where that may help, so that none has to
    /// go without because of another. Returns what the journal has to know, with the `reason`.
    pub(in crate::stage::score) fn retry(
        &mut self,
        windows: &Windows,
        error: &ModelError,
        reason: String,
        around: &Around<'_>,
    ) -> ModelAction {
        let mut assets = windows.asset.iter();
        let first = assets.next().filter(|first| assets.all(|asset| asset == *first));
        // What has taken too long is not asked for again.
        if !matches!(error, ModelError::Late { .. }) {
            self.run_each(windows, |asset| Some(asset) == first);
        }
        let digest = self.digest().to_owned();
        if !self.has_answered && self.failed.len() != 1 {
            return ModelAction::Failed { digest, reason };
        }
        let assets: Vec<String> =
            self.failed.iter().map(|asset| around.id(*asset).to_owned()).collect();
        let (pipeline, model) = (around.pipeline, self.speaker.model.as_str());
        let before = self.named.len();
        self.named.extend(&self.failed);
        if self.named.len() > before {
            warn!(pipeline, model, reason, ?assets, "the model has no answer for some assets");
        }
        ModelAction::FailedFor { digest, reason, assets }
    }

    /// Runs the model on the windows of each asset alone, but for those that are known to fail.
    pub(in crate::stage::score) fn run_each(
        &mut self,
        windows: &Windows,
        is_known: impl Fn(&u32) -> bool,
    ) {
        self.rest();
        if self.gather(windows).is_err() {
            return self.rest();
        }
        let width: usize = self.shape.iter().skip(1).product();
        let (rows, batch) = (std::mem::take(&mut self.rows), std::mem::take(&mut self.batch));
        let mut places: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (at, &row) in rows.iter().enumerate() {
            places.entry(windows.asset[row]).or_default().push(at);
        }
        let mut whole = vec![Output::default(); self.wanted.len()];
        let longest = self.model.deadline.map_or(u64::MAX, |longest| longest.as_micros() as u64);
        let began = self.model.cost.micros;
        for (asset, places) in places {
            self.rows = places.iter().map(|&at| rows[at]).collect();
            self.batch.clear();
            for at in &places {
                self.batch.extend_from_slice(&batch[at * width..(at + 1) * width]);
            }
            // All together they may take as long as a batch.
            let is_over = self.model.cost.micros - began > longest;
            if is_over || is_known(&asset) || self.run_rows(windows).is_err() {
                self.failed.push(asset);
                continue;
            }
            self.has_answered = true;
            put(&mut whole, &self.outputs, &places, rows.len());
        }
        (self.rows, self.batch, self.outputs) = (rows, batch, whole);
        if !self.has_answered {
            self.rows.clear();
        }
    }

    /// Whether the last batch was answered as far as this asset goes.
    pub(in crate::stage::score) fn has_answered_for(&self, asset: u32) -> bool {
        self.has_answered && !self.failed.contains(&asset)
    }
}
