//! An alarm whose threshold follows its assets: which limit holds for a window, and what is told of one that moved.
//!
//! Part of `alarm`, which judges with the limit that this gives and lets it learn from what was judged. What is learned,
//! and what is not, is `threshold`'s.

use super::{Alarm, Watched};
use crate::frame::Speaker;
use crate::record::{Lane, NoticeKind, NoticeRecord, Outgoing, Record};
use crate::stage::threshold::{Moved, Scale, Threshold};
use crate::stage::{Around, Effects, of_asset};
use crate::time::Timestamp;

impl Alarm {
    /// The threshold that follows the asset, where one does; it starts anew when the model, or where it starts from,
    /// has changed, and goes on where the model before returns.
    pub(super) fn threshold_of(&mut self, asset: usize, speaker: Option<&Speaker>) -> Option<f64> {
        self.terms?;
        let start = self.spec.raise.or(speaker.and_then(|s| s.threshold))?;
        let watched = of_asset(&mut self.assets, asset as u32, || None);
        let watched = watched.get_or_insert_with(|| Watched::new(start, (start, start)));
        let model = speaker.map(|s| s.digest.clone());
        let is_ours = |threshold: &Threshold| threshold.start().to_bits() == start.to_bits();
        if watched.learned_of != model || !watched.threshold.as_ref().is_some_and(is_ours) {
            let before = watched.learned_before.take();
            let back = before.filter(|(of, threshold)| *of == model && is_ours(threshold));
            let fresh = || {
                let baseline = speaker.and_then(|s| s.baseline.as_ref());
                let normal = baseline.map(|b| f64::from(b.score[5]));
                let scale = Scale::of(start, self.spec.below, speaker.is_some());
                Threshold::new(start, normal, scale)
            };
            let last =
                watched.threshold.replace(back.map_or_else(fresh, |(_, threshold)| threshold));
            let of = std::mem::replace(&mut watched.learned_of, model);
            watched.learned_before = last.map(|last| (of, last));
        }
        Some(watched.threshold.as_ref()?.now())
    }

    /// Where values of the asset are normal, as far as its threshold knows.
    pub(super) fn normal_of(&self, asset: usize) -> Option<f64> {
        self.assets.get(asset)?.as_ref()?.threshold.as_ref()?.normal()
    }

    /// Lets the threshold learn from a value that has been judged.
    pub(super) fn follow(
        &mut self,
        asset: usize,
        (value, at): (f64, Timestamp),
        speaker: Option<&Speaker>,
        around: &Around<'_>,
        effects: &mut Effects,
    ) {
        let (Some(terms), Some(Some(watched))) = (&self.terms, self.assets.get_mut(asset)) else {
            return;
        };
        let is_on = watched.condition.is_on();
        let Some(threshold) = &mut watched.threshold else { return };
        let Some(moved) = threshold.take(value, is_on, terms) else { return };
        let version = speaker.map(|s| s.version.clone());
        self.tell_moved(asset, (moved, version), (&at.0.to_string(), at), around, effects);
    }

    /// The record of a threshold that has moved, or cannot.
    pub(super) fn tell_moved(
        &self,
        asset: usize,
        (moved, model_version): (Moved, Option<String>),
        (end, at): (&str, Timestamp),
        around: &Around<'_>,
        effects: &mut Effects,
    ) {
        let (asset, name) = (&around.assets[asset], &self.spec.name);
        let (node, pipeline) = (around.node, around.pipeline);
        let record = NoticeRecord {
            id: format!("{node}/{pipeline}/{}/notice/threshold/{name}/{end}", asset.id),
            node: node.to_owned(),
            pipeline: pipeline.to_owned(),
            asset: asset.id.clone(),
            tags: asset.tags.clone(),
            kind: NoticeKind::Threshold,
            name: name.clone(),
            at,
            since: None,
            before: Some(moved.before),
            value: Some(moved.now),
            drift: None,
            contributions: Vec::new(),
            retrain: false,
            model_version,
            reason: moved.reason,
        };
        effects.records.push(Outgoing { lane: Lane::Alarm, record: Record::Notice(record) });
    }

    /// The last alarm was judged: false, with this `peak`, or true. What was said of another model's alarm, or of the
    /// statistics', is of another scale and teaches nothing.
    pub(super) fn learn_verdict(
        &mut self,
        asset: usize,
        false_peak: Option<f64>,
        said: &str,
        (model, version): (Option<String>, Option<String>),
        around: &Around<'_>,
        effects: &mut Effects,
    ) {
        let (Some(terms), Some(Some(watched))) = (&self.terms, self.assets.get_mut(asset)) else {
            return;
        };
        let Some(threshold) = watched.threshold.as_mut().filter(|_| watched.learned_of == model)
        else {
            return;
        };
        let moved = threshold.judged(false_peak, terms);
        let Some(moved) = moved else { return };
        let end = format!("verdict/{said}");
        self.tell_moved(asset, (moved, version), (&end, around.tick.now), around, effects);
    }
}
