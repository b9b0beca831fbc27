//! What an operator says of an alarm, kept with what was measured while it was on.
//!
//! Part of `alarm`. The moment of an asset's last alarm is remembered, over or not, until the next one is raised: the
//! features of its worst window so far, and its rows where they are few enough. A verdict makes a record of it and changes no state; a
//! threshold that follows the asset learns from it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Alarm, Order};
use crate::command::{Action, Command, Refusal, Verdict};
use crate::frame::{Speaker, Windows};
use crate::record::{Lane, Outgoing, RawReading, Record, VerdictRecord};
use crate::stage::{Around, Effects};
use crate::time::{Span, Timestamp};

/// Most numbers of a window that are kept with an alarm: rows times signals.
pub const SAMPLES_MAX: usize = 2048;
/// Most verdicts on one alarm: each leaves with all that was measured, and the alarms' lane drops nothing.
const VERDICTS_MAX: u8 = 16;
/// How long after an alarm its rows are kept: they are most of what an alarm remembers, and in every checkpoint.
const ROWS_FOR: Span = Span::seconds(24 * 3600);

/// An asset's last alarm, and what there was when it was worst.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Moment {
    /// End of the window that raised it.
    raised: Timestamp,
    /// First instant of its worst window.
    start: Timestamp,
    /// End of the last window with which it was on.
    end: Timestamp,
    peak: f64,
    limit: f64,
    /// Digest of the model that spoke of the worst window, and its version.
    model: Option<String>,
    model_version: Option<String>,
    features: BTreeMap<String, Option<f64>>,
    signals: Vec<(String, Vec<RawReading>)>,
    /// Whether it was judged already: a threshold learns from an alarm once.
    is_judged: bool,
    /// How often it was judged, and what was said last of this window.
    verdicts: u8,
    said: Option<(Action, Option<String>)>,
}

impl Moment {
    /// That of an alarm which window `index` has raised, or to which it belongs as the worst so far.
    pub(super) fn of(
        windows: &Windows,
        index: usize,
        (value, limit): (f64, f64),
        speaker: Option<&Speaker>,
        channels: &[String],
    ) -> Moment {
        let known = |value: f64| value.is_finite().then_some(value);
        let features = windows.names.iter().zip(windows.row(index));
        let (start, end) = (windows.start[index], windows.end[index]);
        let width = windows.steps * windows.channels;
        let rows = windows.sequence.get(index * width..(index + 1) * width).unwrap_or_default();
        let fits = windows.channels == channels.len() && rows.len() <= SAMPLES_MAX;
        let (length, steps) = (end.since(start).0, windows.steps.max(1) as i64);
        let column = |(at, name): (usize, &String)| {
            let values = rows.iter().skip(at).step_by(windows.channels);
            let times = (0..).map(|row| start.plus(Span(length * row / steps)));
            let readings = times.zip(values).filter(|(_, value)| !value.is_nan());
            (name.clone(), readings.map(|(at, value)| RawReading(at, *value)).collect::<Vec<_>>())
        };
        let signals: Vec<_> = if fits && !rows.is_empty() {
            channels.iter().enumerate().map(column).filter(|(_, list)| !list.is_empty()).collect()
        } else {
            Vec::new()
        };
        Moment {
            raised: end,
            start,
            end,
            peak: value,
            limit,
            model: speaker.map(|s| s.digest.clone()),
            model_version: speaker.map(|s| s.version.clone()),
            features: features.map(|(name, value)| (name.clone(), known(*value))).collect(),
            signals,
            is_judged: false,
            verdicts: 0,
            said: None,
        }
    }

    /// Whether just this was said of it last.
    fn has_heard(&self, command: &Command) -> bool {
        self.said.as_ref().is_some_and(|(said, by)| *said == command.action && *by == command.by)
    }

    /// Whether a later window of the alarm is worse than all before.
    fn is_exceeded(&self, value: f64, below: bool) -> bool {
        if below { value < self.peak } else { value > self.peak }
    }
}

impl Alarm {
    /// Keeps what an operator may have to judge later: of an alarm that is on, its worst window.
    pub(super) fn remember(
        &mut self,
        asset: usize,
        (value, limit): (f64, f64),
        (windows, index): (&Windows, usize),
        speaker: Option<&Speaker>,
    ) {
        let Some(Some(watched)) = self.assets.get_mut(asset) else { return };
        let was_on = std::mem::replace(&mut watched.was_on, watched.condition.is_on());
        if !watched.was_on {
            if let Some(moment) = &mut watched.moment
                && windows.end[index].since(moment.end) > ROWS_FOR
            {
                moment.signals = Vec::new();
            }
            return;
        }
        let of = |limit| Moment::of(windows, index, (value, limit), speaker, &self.channels);
        match &mut watched.moment {
            Some(moment) if was_on && moment.is_exceeded(value, self.spec.below) => {
                let Moment { raised, is_judged, verdicts, limit, .. } = *moment;
                *moment = Moment { raised, is_judged, verdicts, ..of(limit) };
            }
            Some(moment) if was_on => moment.end = windows.end[index],
            moment => *moment = Some(of(limit)),
        }
    }

    /// Whether there is an alarm that the verdict can be about.
    pub(super) fn can_judge(
        &self,
        command: &Command,
        asset: usize,
        meant: Option<Timestamp>,
    ) -> Result<(), Refusal> {
        let watched = self.assets.get(asset).and_then(Option::as_ref);
        let moment = watched.and_then(|watched| watched.moment.as_ref());
        let last = match moment {
            Some(moment) if meant.is_none_or(|meant| meant == moment.raised) => {
                let is_enough = moment.verdicts >= VERDICTS_MAX && !moment.has_heard(command);
                let (alarm, times) = (command.alarm.clone(), VERDICTS_MAX);
                return if is_enough {
                    Err(Refusal::JudgedEnough { alarm, times })
                } else {
                    Ok(())
                };
            }
            Some(moment) => format!("last raised at {}", moment.raised),
            None => "never raised".into(),
        };
        Err(Refusal::NothingToJudge { alarm: command.alarm.clone(), last })
    }

    /// Makes the record of a verdict, unless the same was said last; the first that calls the alarm false teaches the
    /// threshold, if it learns.
    pub(super) fn keep_verdict(
        &mut self,
        order: Order<'_>,
        around: &Around<'_>,
        effects: &mut Effects,
    ) {
        let Order { command, number, asset: index } = order;
        let Action::Judge { verdict, fault, note, .. } = &command.action else { return };
        let Some(Some(watched)) = self.assets.get_mut(index as usize) else { return };
        let Some(kept) = &mut watched.moment else { return };
        if kept.has_heard(command) {
            return;
        }
        let moment = kept.clone();
        kept.verdicts += 1;
        kept.said = Some((command.action.clone(), command.by.clone()));
        kept.is_judged |= *verdict != Verdict::Unsure;
        let (asset, name, tick) = (&around.assets[index as usize], &self.spec.name, around.tick);
        let (node, pipeline) = (around.node, around.pipeline);
        let said = format!("{}.{number}", tick.seq);
        let of = (moment.model, moment.model_version.clone());
        let record = VerdictRecord {
            id: format!("{node}/{pipeline}/{}/verdict/{name}/{said}", asset.id),
            node: node.to_owned(),
            pipeline: pipeline.to_owned(),
            asset: asset.id.clone(),
            tags: asset.tags.clone(),
            name: name.clone(),
            verdict: *verdict,
            fault: fault.clone(),
            note: note.clone(),
            by: command.by.clone(),
            given: tick.now,
            on: self.spec.on.clone(),
            peak: moment.peak,
            limit: moment.limit,
            model_version: moment.model_version,
            window_start: moment.raised.minus(self.length),
            window_end: moment.end,
            peak_start: moment.start,
            features: moment.features,
            signals: moment.signals.into_iter().collect(),
        };
        effects.records.push(Outgoing { lane: Lane::Alarm, record: Record::Verdict(record) });
        let false_peak = (*verdict == Verdict::False).then_some(moment.peak);
        if *verdict != Verdict::Unsure && !moment.is_judged {
            self.learn_verdict(index as usize, false_peak, &said, of, around, effects);
        }
    }
}
