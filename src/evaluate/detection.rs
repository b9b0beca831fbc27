//! Verdicts against labels, row by row and fault by fault: everything that a report says of a detector.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::floors;
use super::labels::{Column, Fault, Labels};
use super::metrics::binary::Confusion;
use super::metrics::calibration::{Bin, brier, expected_error, reliability};
use super::metrics::changepoint::raised;
use super::metrics::events::{Events, Interval, intervals};
use super::metrics::nab::{self, NabScore, PROFILES};
use super::metrics::ranking::{average_precision, roc_auc};
use super::stream::{Verdict, Verdicts, at_rows};
use crate::time::{Span, Timestamp};

/// Bins of the reliability table.
const BINS: usize = 10;

/// What was true.
#[derive(Clone, Debug)]
pub enum Truth {
    /// A label a row.
    Rows(Labels),
    /// Times of faults; all other time is normal.
    Times {
        /// By asset.
        faults: BTreeMap<String, Vec<Fault>>,
        /// What may be so: normal running, then the kinds of faults.
        names: Vec<String>,
    },
}

impl Truth {
    /// Times of faults, and the word for normal running.
    pub fn of_times(mut faults: BTreeMap<String, Vec<Fault>>, normal: &str) -> Truth {
        let unnamed = faults.values_mut().flatten().filter(|fault| fault.name.is_empty());
        unnamed.for_each(|fault| fault.name = "fault".into());
        let kinds: BTreeSet<&str> = faults.values().flatten().map(|f| f.name.as_str()).collect();
        let names = std::iter::once(normal).chain(kinds).map(str::to_owned).collect();
        Truth::Times { faults, names }
    }

    /// What may be so; the first is normal running.
    pub fn names(&self) -> &[String] {
        match self {
            Truth::Rows(Labels { names, .. }) | Truth::Times { names, .. } => names,
        }
    }
}

/// The rows of one asset, in order of time: what was said, and what was so.
#[derive(Clone, Debug, Default)]
pub struct Judged {
    /// The asset.
    pub asset: String,
    /// When.
    pub times: Vec<Timestamp>,
    /// The score; NaN where there is none.
    pub scores: Vec<f64>,
    /// Whether it was called abnormal.
    pub alarmed: Vec<bool>,
    /// Whether it was.
    pub faulty: Vec<bool>,
    /// What was so, as a place in the truth's names, and which class it was said to be.
    pub classes: Vec<(usize, Option<usize>)>,
    /// The faults.
    pub faults: Vec<Fault>,
    /// Rows that came before the first verdict.
    pub unjudged: u64,
    /// Whether low scores are the abnormal ones.
    pub is_below: bool,
    /// Nobody looked before: what had begun by then has no delay.
    pub looked_from: Option<Timestamp>,
}

impl Judged {
    fn push(&mut self, at: Timestamp, verdict: Option<&Verdict>, truth: usize) {
        let Some(verdict) = verdict else {
            self.unjudged += 1;
            return;
        };
        self.times.push(at);
        self.scores.push(verdict.score.unwrap_or(f64::NAN));
        self.alarmed.push(verdict.alarm);
        self.faulty.push(truth > 0);
        self.classes.push((truth, verdict.class));
    }

    /// The scores, turned so that high ones are abnormal.
    pub fn ranked(&self) -> impl Iterator<Item = f64> + '_ {
        let sign = if self.is_below { -1.0 } else { 1.0 };
        self.scores.iter().map(move |score| sign * score)
    }

    fn events(&self, faults: &[&Fault]) -> Events {
        let faults: Vec<Interval> = faults.iter().map(|fault| fault.interval).collect();
        let watched = self.times.first().zip(self.times.last());
        let watched = watched.map_or(Span::ZERO, |(first, last)| last.since(*first));
        let looked_from = self.looked_from.unwrap_or(Timestamp::MIN);
        Events::of(&faults, &intervals(&self.times, &self.alarmed), watched, looked_from)
    }

    /// The NAB score of its alarms, by profile: a detection is the moment at which an alarm is raised.
    fn nab(&self) -> Vec<NabScore> {
        let raised = raised(&self.alarmed);
        let row = |at: Timestamp| self.times.partition_point(|row| *row < at);
        let windows: Vec<(usize, usize)> = intervals(&self.times, &self.faulty)
            .iter()
            .map(|fault| (row(fault.from), row(fault.to)))
            .collect();
        PROFILES.iter().map(|profile| nab::score(&raised, &windows, profile)).collect()
    }
}

/// Brings verdicts and truth together. The first `skip` rows of every asset, which may have trained the model, are left
/// out; `step` is that of the pipeline's grid.
pub fn judge(verdicts: &Verdicts, truth: &Truth, step: Span, skip: usize) -> Vec<Judged> {
    let nothing = Vec::new();
    let of = |asset: &String| verdicts.by_asset.get(asset).unwrap_or(&nothing);
    let mut all: Vec<Judged> = match truth {
        Truth::Rows(Labels { columns, names }) => {
            let judge = |(asset, column): (&String, &Column)| {
                judge_rows(asset, (column, names), of(asset), step, skip)
            };
            columns.iter().map(judge).collect()
        }
        Truth::Times { faults, names } => {
            let each = verdicts.by_asset.iter();
            each.map(|(asset, verdicts)| {
                // What happened while nobody looked cannot have been found.
                let seen = verdicts.iter().skip(skip).map(|verdict| verdict.end);
                let seen = seen.clone().min().zip(seen.max());
                let seen = seen.map(|(from, to)| Interval { from, to });
                let faults = faults.get(asset).into_iter().flatten();
                let faults = faults.filter(|fault| seen.is_some_and(|s| s.meets(&fault.interval)));
                let faults = faults.cloned().collect();
                let looked_from = seen.filter(|_| skip > 0).map(|seen| seen.from);
                let mut judged =
                    Judged { asset: asset.clone(), faults, looked_from, ..Judged::default() };
                for verdict in verdicts.iter().skip(skip) {
                    let at = verdict.end.minus(Span(1));
                    let fault = judged.faults.iter().find(|fault| fault.interval.holds(at));
                    let kind = |fault: &Fault| names.iter().skip(1).position(|n| *n == fault.name);
                    let truth = fault.and_then(kind).map_or(0, |kind| kind + 1);
                    judged.push(at, Some(verdict), truth);
                }
                judged
            })
            .collect()
        }
    };
    let is_below = verdicts.alarm.as_ref().is_some_and(|alarm| alarm.below);
    for one in &mut all {
        one.is_below = is_below;
    }
    all
}

fn judge_rows(
    asset: &str,
    (column, names): (&Column, &[String]),
    verdicts: &[Verdict],
    step: Span,
    skip: usize,
) -> Judged {
    let mut judged = Judged { asset: asset.to_owned(), ..Judged::default() };
    let known = at_rows(verdicts, &column.times, step);
    let mut last = 0;
    for ((at, value), verdict) in column.times.iter().zip(&column.values).zip(known).skip(skip) {
        let truth = *value as usize;
        judged.push(*at, verdict, truth);
        if verdict.is_none() {
            continue;
        }
        match judged.faults.last_mut() {
            Some(fault) if truth > 0 && truth == last => fault.interval.to = *at,
            _ if truth > 0 => {
                let interval = Interval { from: *at, to: *at };
                judged.faults.push(Fault { interval, name: shown(names, truth) });
            }
            _ => {}
        }
        last = truth;
    }
    judged
}

/// A kind of fault as people read it: a word says itself what it is.
fn shown(names: &[String], place: usize) -> String {
    let name = names.get(place).map_or("", String::as_str);
    if name.parse::<f64>().is_ok() { format!("label {name}") } else { name.to_owned() }
}

/// The rates of a detector, with how they came to be.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Rates {
    /// Rows by verdict and label.
    pub confusion: Confusion,
    /// Share of the rows that are right.
    pub accuracy: f64,
    /// Share of the alarmed rows that are faulty.
    pub precision: f64,
    /// Share of the faulty rows that are alarmed.
    pub recall: f64,
    /// Harmonic mean of the two.
    pub f1: f64,
    /// Cohen's kappa.
    pub kappa: Option<f64>,
    /// Share of the normal rows that are alarmed.
    pub false_alarm_rate: f64,
    /// Share of the faulty rows that are not.
    pub missed_alarm_rate: f64,
}

impl From<Confusion> for Rates {
    fn from(confusion: Confusion) -> Rates {
        Rates {
            confusion,
            accuracy: confusion.accuracy(),
            precision: confusion.precision(),
            recall: confusion.recall(),
            f1: confusion.f1(),
            kappa: confusion.kappa(),
            false_alarm_rate: confusion.false_alarm_rate(),
            missed_alarm_rate: confusion.missed_alarm_rate(),
        }
    }
}

/// A detector that knows nothing.
#[derive(Clone, Debug, Serialize)]
pub struct FloorRates {
    /// Which one.
    pub name: &'static str,
    /// What it comes to.
    pub rates: Rates,
}

/// One asset, or one kind of fault.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Rates of its rows; of a kind of fault, its rows alone.
    pub rates: Rates,
    /// Its faults and alarms; of a kind of fault, all alarms.
    pub events: Events,
    /// Median time from a fault's beginning to its alarm.
    pub median_delay_s: Option<f64>,
}

impl Group {
    fn of(name: &str, confusion: Confusion, events: Events) -> Group {
        let (name, rates) = (name.to_owned(), confusion.into());
        Group { name, rates, median_delay_s: events.median_delay_s(), events }
    }
}

/// The NAB score by one profile.
#[derive(Clone, Debug, Serialize)]
pub struct NabRow {
    /// The profile.
    pub profile: &'static str,
    /// On the scale from 0 (never) to 100 (perfect); `None` without a fault.
    pub score: Option<f64>,
    /// Earned and paid.
    pub raw: f64,
}

/// Chances against what happened, of a score that is a chance.
#[derive(Clone, Debug, Serialize)]
pub struct Calibration {
    /// Mean squared difference.
    pub brier: Option<f64>,
    /// Expected calibration error.
    pub expected_error: Option<f64>,
    /// The reliability table.
    pub bins: Vec<Bin>,
}

/// Everything that is said of a detector.
#[derive(Clone, Debug, Serialize)]
pub struct Detection {
    /// Rows.
    pub rows: u64,
    /// Rows without a verdict, which are in none of the numbers.
    pub unjudged: u64,
    /// Share of the rows that are faulty: the floor of `pr_auc`.
    pub prevalence: f64,
    /// The detector.
    pub rates: Rates,
    /// Beside those that know nothing.
    pub floors: Vec<FloorRates>,
    /// Area under the ROC curve; chance is 0.5.
    pub roc_auc: Option<f64>,
    /// Average precision; chance is `prevalence`.
    pub pr_auc: Option<f64>,
    /// Faults and alarms.
    pub events: Events,
    /// Share of the faults during which an alarm was on.
    pub event_recall: Option<f64>,
    /// Alarms a day and machine.
    pub alarms_a_day: Option<f64>,
    /// Those that met no fault.
    pub false_alarms_a_day: Option<f64>,
    /// Median time from a fault's beginning to its alarm.
    pub median_delay_s: Option<f64>,
    /// Early detection, by the profiles of the Numenta benchmark.
    pub nab: Vec<NabRow>,
    /// Whether the score, as a chance, comes true.
    pub calibration: Option<Calibration>,
    /// By asset.
    pub assets: Vec<Group>,
    /// By kind of fault; nothing where there is only one.
    pub faults: Vec<Group>,
}

impl Detection {
    /// Of all assets together. `is_chance`: whether the score is a probability.
    pub fn of(judged: &[Judged], is_chance: bool) -> Detection {
        let flat = |of: fn(&Judged) -> &Vec<bool>| -> Vec<bool> {
            judged.iter().flat_map(|one| of(one).iter().copied()).collect()
        };
        let (alarmed, faulty) = (flat(|one| &one.alarmed), flat(|one| &one.faulty));
        let scores: Vec<f64> = judged.iter().flat_map(Judged::ranked).collect();
        let confusion = Confusion::of(&alarmed, &faulty);
        let (mut events, mut scored) =
            (Events::default(), vec![NabScore::default(); PROFILES.len()]);
        for one in judged {
            events.add(&one.events(&one.faults.iter().collect::<Vec<_>>()));
            scored.iter_mut().zip(one.nab()).for_each(|(all, one)| all.add(&one));
        }
        let nab = PROFILES.iter().zip(&scored).map(|(profile, score)| NabRow {
            profile: profile.name,
            score: score.normalised(),
            raw: score.raw,
        });
        let calibration = is_chance.then(|| {
            let known = judged.iter().flat_map(|one| one.scores.iter().zip(&one.faulty));
            let (chances, faulty): (Vec<f64>, Vec<bool>) =
                known.filter(|(chance, _)| chance.is_finite()).unzip();
            Calibration {
                brier: brier(&chances, &faulty),
                expected_error: expected_error(&chances, &faulty, BINS),
                bins: reliability(&chances, &faulty, BINS),
            }
        });
        Detection {
            rows: confusion.total(),
            unjudged: judged.iter().map(|one| one.unjudged).sum(),
            prevalence: confusion.prevalence(),
            rates: confusion.into(),
            floors: floors(judged, &faulty),
            roc_auc: roc_auc(&scores, &faulty),
            pr_auc: average_precision(&scores, &faulty),
            event_recall: events.recall(),
            alarms_a_day: events.alarms_a_day(),
            false_alarms_a_day: events.false_alarms_a_day(),
            median_delay_s: events.median_delay_s(),
            events,
            nab: nab.collect(),
            calibration,
            assets: judged.iter().map(of_asset).collect(),
            faults: of_faults(judged),
        }
    }
}

fn floors(judged: &[Judged], faulty: &[bool]) -> Vec<FloorRates> {
    let each: Vec<Vec<bool>> = judged.iter().map(|one| one.faulty.clone()).collect();
    let mut all = vec![("always on", floors::always_on(faulty)), ("never", floors::never(faulty))];
    all.extend(floors::clock_only(&each).map(|clock| ("clock only", clock)));
    all.into_iter().map(|(name, rates)| FloorRates { name, rates: rates.into() }).collect()
}

fn of_asset(one: &Judged) -> Group {
    let confusion = Confusion::of(&one.alarmed, &one.faulty);
    Group::of(&one.asset, confusion, one.events(&one.faults.iter().collect::<Vec<_>>()))
}

fn of_faults(judged: &[Judged]) -> Vec<Group> {
    let names: BTreeSet<&str> =
        judged.iter().flat_map(|one| &one.faults).map(|fault| fault.name.as_str()).collect();
    if names.len() < 2 {
        return Vec::new();
    }
    let group = |name: &&str| {
        let (mut confusion, mut events) = (Confusion::default(), Events::default());
        for one in judged {
            let own: Vec<&Fault> = one.faults.iter().filter(|fault| fault.name == **name).collect();
            events.add(&one.events(&own));
            // Each row counts once, in however many of them it lies.
            let mut inside = vec![false; one.times.len()];
            for Interval { from, to } in own.iter().map(|fault| fault.interval) {
                let first = one.times.partition_point(|at| *at < from);
                let end = one.times.partition_point(|at| *at <= to).max(first);
                inside[first..end].fill(true);
            }
            for (alarmed, _) in one.alarmed.iter().zip(&inside).filter(|(_, inside)| **inside) {
                confusion.count(*alarmed, true);
            }
        }
        Group::of(name, confusion, events)
    };
    names.iter().map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(scores: &[f64], faulty: &[bool]) -> Judged {
        Judged {
            asset: "one".into(),
            times: (0..).map(|at| Timestamp(at * 1_000_000)).take(scores.len()).collect(),
            scores: scores.to_vec(),
            alarmed: faulty.to_vec(),
            faulty: faulty.to_vec(),
            ..Judged::default()
        }
    }

    #[test]
    fn a_score_that_is_missing_spoils_no_calibration() {
        let with = judged(&[0.9, f64::NAN, 0.2], &[true, true, false]);
        let without = judged(&[0.9, 0.2], &[true, false]);
        let of = |one| Detection::of(&[one], true).calibration.unwrap();
        assert_eq!(of(with).brier, of(without).brier);
    }

    #[test]
    fn where_low_scores_are_abnormal_they_rank_highest() {
        let mut one = judged(&[1.0, 5.0, 9.0], &[true, false, false]);
        assert_eq!(Detection::of(std::slice::from_ref(&one), false).roc_auc, Some(0.0));
        one.is_below = true;
        assert_eq!(Detection::of(&[one], false).roc_auc, Some(1.0));
    }

    #[test]
    fn of_a_fault_that_had_begun_before_anybody_looked_no_delay_is_told() {
        let seconds = |n: i64| Timestamp(n * 1_000_000);
        let fault = |from, to, name: &str| Fault {
            interval: Interval { from: seconds(from), to: seconds(to) },
            name: name.into(),
        };
        let mut one = judged(&[1.0; 10], &[true; 10]);
        one.faults = vec![fault(-100, 3, "worn"), fault(2, 6, "worn"), fault(5, 7, "hot")];
        one.looked_from = Some(seconds(0));
        let found = Detection::of(&[one], false);
        assert_eq!((found.events.faults, found.events.found), (3, 3));
        assert_eq!(found.events.delays_s, [0.0, 0.0]);
        // Each row once, though two faults of a kind meet in it.
        let rows: Vec<(String, u64)> = found
            .faults
            .iter()
            .map(|group| (group.name.clone(), group.rates.confusion.total()))
            .collect();
        assert_eq!(rows, [("hot".to_owned(), 3), ("worn".to_owned(), 7)]);
    }
}
