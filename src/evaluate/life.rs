//! Remaining life against what was left: errors by row, and for each machine.

use std::collections::BTreeMap;

use serde::Serialize;

use super::labels::Column;
use super::metrics::regression::{best_constant_nasa, capped, mae, nasa_score, rmse};
use super::stream::{Verdicts, at_rows};
use crate::time::{Span, Timestamp};

/// The rows of one machine.
#[derive(Clone, Debug, Default)]
pub struct Lives {
    /// The machine.
    pub asset: String,
    /// When.
    pub times: Vec<Timestamp>,
    /// What was left.
    pub truth: Vec<f64>,
    /// What was said.
    pub predicted: Vec<f64>,
    /// What the clock alone would say: the mean life of the others, less this one's age. Empty without others.
    pub by_age: Vec<f64>,
}

/// Errors over rows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Errors {
    /// Rows.
    pub rows: usize,
    /// Root of the mean squared error.
    pub rmse: Option<f64>,
    /// Mean absolute error.
    pub mae: Option<f64>,
    /// NASA's score, a sum.
    pub nasa_score: Option<f64>,
    /// What those come to that look at no signal.
    pub floors: Vec<FloorErrors>,
}

/// Errors of an answer that looks at no signal.
#[derive(Clone, Debug, Serialize)]
pub struct FloorErrors {
    /// Which one.
    pub name: &'static str,
    /// Root of the mean squared error.
    pub rmse: Option<f64>,
    /// Mean absolute error.
    pub mae: Option<f64>,
    /// NASA's score, a sum.
    pub nasa_score: Option<f64>,
}

impl Errors {
    /// Of one column against another. `by_age` is left out where it is of fewer rows.
    fn of(truth: &[f64], predicted: &[f64], by_age: &[f64]) -> Errors {
        let floor = |name, found: &[f64]| FloorErrors {
            name,
            rmse: rmse(truth, found),
            mae: mae(truth, found),
            nasa_score: nasa_score(truth, found),
        };
        let mean = truth.iter().sum::<f64>() / truth.len().max(1) as f64;
        let constant = floor("best constant", &vec![mean; truth.len()]);
        let mut floors = vec![FloorErrors { nasa_score: best_constant_nasa(truth), ..constant }];
        if by_age.len() == truth.len() && !truth.is_empty() {
            floors.push(floor("clock only", by_age));
        }
        Errors {
            rows: truth.len(),
            rmse: rmse(truth, predicted),
            mae: mae(truth, predicted),
            nasa_score: nasa_score(truth, predicted),
            floors,
        }
    }
}

/// Everything that is said of a remaining life.
#[derive(Clone, Debug, Serialize)]
pub struct Life {
    /// All rows against the truth as it is.
    pub raw: Errors,
    /// All rows against the truth with nothing above `cap`.
    pub capped: Option<Errors>,
    /// The cap.
    pub cap: Option<f64>,
    /// The last row of each machine, as benchmarks count: raw truth.
    pub last: Errors,
    /// The same with the cap.
    pub last_capped: Option<Errors>,
    /// By machine, against the truth as it is.
    pub assets: Vec<(String, Errors)>,
}

/// Brings answers and truth together; the truth is that of assets, or of their runs.
pub fn judge(verdicts: &Verdicts, truth: &BTreeMap<String, Column>, step: Span) -> Vec<Lives> {
    let (whole, rate) = (whole_lives(truth), rate(truth));
    let each = truth.iter().map(|(asset, column)| {
        let of_run = || verdicts.by_asset.get(asset.rsplit_once(" (")?.0);
        let own = verdicts.by_asset.get(asset).or_else(of_run);
        let own = own.map(Vec::as_slice).unwrap_or_default();
        let mut judged = Lives { asset: asset.clone(), ..Lives::default() };
        let others: Vec<f64> = whole
            .iter()
            .filter(|(other, _)| **other != asset)
            .map(|(_, (_, life))| *life)
            .collect();
        let of_others = others.iter().sum::<f64>() / others.len() as f64;
        let known = at_rows(own, &column.times, step);
        for ((at, truth), verdict) in column.times.iter().zip(&column.values).zip(known) {
            if let Some(score) =
                verdict.and_then(|verdict| verdict.score).filter(|_| truth.is_finite())
            {
                judged.times.push(*at);
                judged.truth.push(*truth);
                judged.predicted.push(score);
                let begun = whole.get(asset).zip(rate).filter(|_| !others.is_empty());
                let by_age = begun.map(|((begun, _), rate)| {
                    (of_others - at.since(*begun).0 as f64 * rate).max(0.0)
                });
                judged.by_age.extend(by_age);
            }
        }
        judged
    });
    each.collect()
}

/// When each machine's record begins, and what was left then.
fn whole_lives(truth: &BTreeMap<String, Column>) -> BTreeMap<&String, (Timestamp, f64)> {
    let first = |column: &Column| {
        let mut rows = column.times.iter().copied().zip(column.values.iter().copied());
        rows.find(|(_, left)| left.is_finite())
    };
    truth.iter().filter_map(|(asset, column)| Some((asset, first(column)?))).collect()
}

/// How much life passes in a microsecond, in the unit of the truth: the median of what does from row to row. `None` where
/// it never gets less.
fn rate(truth: &BTreeMap<String, Column>) -> Option<f64> {
    let of = |column: &Column| -> Vec<f64> {
        let rows: Vec<_> = column.times.iter().zip(&column.values).collect();
        let passed = |pair: &[(&Timestamp, &f64)]| {
            let [(before, left), (at, now)] = pair else { return None };
            let (time, life) = (at.since(**before).0, *left - *now);
            (time > 0 && life > 0.0).then(|| life / time as f64)
        };
        rows.windows(2).filter_map(passed).collect()
    };
    let mut rates: Vec<f64> = truth.values().flat_map(of).collect();
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied()
}

/// The runs of each machine that ended with a failure, one after the other: the first row of each, and the last.
pub type Runs = BTreeMap<String, Vec<(Timestamp, Timestamp)>>;

/// The runs between the rows at which a machine has failed, or is being mended: those where the column is not 0. How long it
/// still ran after the last of them is not known.
pub fn runs_between(failures: &BTreeMap<String, Column>) -> Runs {
    let of = |column: &Column| {
        let (mut runs, mut open) = (Vec::new(), None);
        for (&at, &failed) in column.times.iter().zip(&column.values) {
            if failed.is_nan() || failed == 0.0 {
                open = Some(open.map_or((at, at), |(first, _)| (first, at)));
            } else {
                runs.extend(open.take());
            }
        }
        runs
    };
    failures.iter().map(|(asset, column)| (asset.clone(), of(column))).collect()
}

/// What the run of an asset is called that has so many before it.
pub fn run_name(asset: &str, before: usize) -> String {
    if before == 0 { asset.to_owned() } else { format!("{asset} ({})", before + 1) }
}

/// What was left at each row of a run, by the run's name, in units of `unit`.
pub fn until_end(
    rows: &BTreeMap<String, Column>,
    runs: &Runs,
    unit: Span,
) -> BTreeMap<String, Column> {
    let all = runs.iter().flat_map(|(asset, own)| {
        own.iter().enumerate().filter_map(move |(before, &(first, last))| {
            let within = |at: &&Timestamp| (first..=last).contains(*at);
            let times: Vec<Timestamp> =
                rows.get(asset)?.times.iter().filter(within).copied().collect();
            let left = |at: &Timestamp| last.since(*at).0 as f64 / unit.0.max(1) as f64;
            let values = times.iter().map(left).collect();
            Some((run_name(asset, before), Column { times, values }))
        })
    });
    all.collect()
}

impl Life {
    /// Of all machines together.
    pub fn of(lives: &[Lives], cap: Option<f64>) -> Life {
        let flat = |of: fn(&Lives) -> &Vec<f64>| -> Vec<f64> {
            lives.iter().flat_map(|one| of(one).iter().copied()).collect()
        };
        let last = |of: fn(&Lives) -> &Vec<f64>| -> Vec<f64> {
            lives.iter().filter_map(|one| of(one).last().copied()).collect()
        };
        let (truth, said) = (flat(|one| &one.truth), flat(|one| &one.predicted));
        let by_age = flat(|one| &one.by_age);
        let last_truth = last(|one| &one.truth);
        let (last_said, last_by_age) = (last(|one| &one.predicted), last(|one| &one.by_age));
        let with_cap = |truth: &[f64], said: &[f64], by_age: &[f64]| {
            cap.map(|cap| Errors::of(&capped(truth, cap), said, &capped(by_age, cap)))
        };
        let of_asset =
            |one: &Lives| (one.asset.clone(), Errors::of(&one.truth, &one.predicted, &one.by_age));
        Life {
            raw: Errors::of(&truth, &said, &by_age),
            capped: with_cap(&truth, &said, &by_age),
            cap,
            last: Errors::of(&last_truth, &last_said, &last_by_age),
            last_capped: with_cap(&last_truth, &last_said, &last_by_age),
            assets: lives.iter().map(of_asset).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::stream::Verdict;

    #[test]
    fn runs_lie_between_failures_and_the_last_one_has_no_end() {
        let hours = |all: &[i64]| all.iter().map(|h| Timestamp(h * 3_600_000_000)).collect();
        let times: Vec<Timestamp> = hours(&[0, 1, 2, 3, 4, 5, 6, 7]);
        let values = vec![0.0, f64::NAN, 1.0, 1.0, 0.0, 0.0, 2.0, 0.0];
        let column = BTreeMap::from([("m".to_owned(), Column { times: times.clone(), values })]);
        let runs = runs_between(&column);
        assert_eq!(runs["m"], [(times[0], times[1]), (times[4], times[5])]);
        let left = until_end(&column, &runs, Span::seconds(3600));
        let names: Vec<&String> = left.keys().collect();
        assert_eq!(names, ["m", "m (2)"]);
        assert_eq!(
            (&*left["m"].values, &*left["m (2)"].values),
            (&[1.0, 0.0][..], &[1.0, 0.0][..])
        );
    }

    #[test]
    fn a_machine_that_ran_to_its_end_says_itself_what_was_left() {
        let at = |hour: i64| Timestamp(hour * 3_600_000_000);
        let column = Column { times: (0..4).map(at).collect(), values: vec![0.0; 4] };
        let runs = Runs::from([("m".to_owned(), vec![(at(0), at(3))])]);
        let rows = BTreeMap::from([("m".to_owned(), column)]);
        let truth = until_end(&rows, &runs, Span::seconds(3600));
        assert_eq!(truth["m"].values, [3.0, 2.0, 1.0, 0.0]);
        let verdict = |hour: i64, score: f64| Verdict {
            start: at(hour - 1),
            end: at(hour),
            score: Some(score),
            alarm: false,
            class: None,
        };
        let said = vec![verdict(1, 2.0), verdict(2, 2.0), verdict(3, 2.0)];
        let by_asset = BTreeMap::from([("m".to_owned(), said)]);
        let verdicts = Verdicts {
            output: "life".into(),
            threshold: None,
            alarm: None,
            by_asset,
            samples: Default::default(),
            classes: Vec::new(),
            looks_ahead: false,
        };
        let lives = judge(&verdicts, &truth, Span(0));
        assert_eq!(
            (&*lives[0].truth, &*lives[0].predicted),
            (&[2.0, 1.0, 0.0][..], &[2.0, 2.0, 2.0][..])
        );
        let life = Life::of(&lives, Some(1.0));
        assert!((life.raw.rmse.unwrap() - (5.0_f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!((life.last.rows, life.last.rmse), (1, Some(2.0)));
        assert_eq!(life.capped.unwrap().mae, Some((1.0 + 1.0 + 2.0) / 3.0));
        assert_eq!(Life::of(&[], None).raw.floors[0].rmse, None);
    }
}
