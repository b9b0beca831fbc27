//! The measures against scikit-learn's values, and against the published formulas of two benchmarks, on random cases:
//! ties, one class only, nothing at all, rows without a score. `tests/metrics/make.py` makes them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use forebay::evaluate::metrics::binary::Confusion;
use forebay::evaluate::metrics::calibration::{brier, expected_error};
use forebay::evaluate::metrics::changepoint;
use forebay::evaluate::metrics::classes::Classes;
use forebay::evaluate::metrics::nab::{self, PROFILES};
use forebay::evaluate::metrics::ranking::{average_precision, roc_auc};
use forebay::evaluate::metrics::regression::{mae, nasa_score, rmse};
use forebay::time::{Span, Timestamp};
use serde_json::Value;

fn cases(kind: &str) -> Vec<Value> {
    let text = std::fs::read_to_string("tests/metrics/cases.json").unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    let cases = all[kind].as_array().unwrap().clone();
    assert!(cases.len() > 2, "{kind}");
    cases
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap_or(f64::NAN)).collect()
}

fn places(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect()
}

/// The same to nine digits, or neither defined.
fn same(name: &str, ours: Option<f64>, theirs: &Value) {
    match (ours, theirs.as_f64()) {
        (Some(ours), Some(theirs)) => {
            let off = (ours - theirs).abs() / theirs.abs().max(1.0);
            assert!(off < 1e-9, "{name}: {ours}, not {theirs}");
        }
        (ours, theirs) => {
            assert!(ours.is_none() && theirs.is_none(), "{name}: {ours:?} {theirs:?}");
        }
    }
}

#[test]
fn verdicts_and_scores_against_labels_as_scikit_learn_has_them() {
    for case in cases("binary") {
        let name = |what: &str| format!("{}: {what}", case["name"].as_str().unwrap());
        let labels: Vec<bool> = numbers(&case["labels"]).iter().map(|label| *label > 0.5).collect();
        let scores = numbers(&case["scores"]);
        same(&name("roc_auc"), roc_auc(&scores, &labels), &case["roc_auc"]);
        same(&name("pr_auc"), average_precision(&scores, &labels), &case["pr_auc"]);
        let threshold = case["threshold"].as_f64().unwrap();
        let alarmed: Vec<bool> = scores.iter().map(|score| *score >= threshold).collect();
        let confusion = Confusion::of(&alarmed, &labels);
        if labels.is_empty() {
            assert_eq!((confusion.total(), confusion.kappa(), brier(&[], &[])), (0, None, None));
            continue;
        }
        let c = &confusion;
        let counts = [c.true_quiet, c.false_alarms, c.missed, c.true_alarms];
        assert_eq!(
            counts.to_vec(),
            places(&case["confusion"]).iter().map(|c| *c as u64).collect::<Vec<_>>()
        );
        same(&name("accuracy"), Some(confusion.accuracy()), &case["accuracy"]);
        same(&name("precision"), Some(confusion.precision()), &case["precision"]);
        same(&name("recall"), Some(confusion.recall()), &case["recall"]);
        same(&name("f1"), Some(confusion.f1()), &case["f1"]);
        same(&name("kappa"), confusion.kappa(), &case["kappa"]);
        if case.get("brier").is_some() {
            same(&name("brier"), brier(&scores, &labels), &case["brier"]);
            same(&name("ece"), expected_error(&scores, &labels, 10), &case["ece"]);
        }
    }
}

#[test]
fn several_classes_as_scikit_learn_has_them() {
    for case in cases("classes") {
        let labels = (0..case["k"].as_u64().unwrap()).map(|class| class.to_string()).collect();
        let classes = Classes::of(labels, &places(&case["truth"]), &places(&case["found"]));
        assert_eq!(serde_json::to_value(&classes.matrix).unwrap(), case["matrix"]);
        same("accuracy", classes.accuracy(), &case["accuracy"]);
        same("macro_f1", classes.macro_f1(), &case["macro_f1"]);
        same("kappa", classes.kappa(), &case["kappa"]);
        for (class, each) in case["each"].as_array().unwrap().iter().enumerate() {
            let (precision, recall, f1) = classes.of_class(class);
            let cases = classes.cases(class) as f64;
            for (ours, theirs) in [precision, recall, f1, cases].into_iter().zip(numbers(each)) {
                same(&format!("class {class}"), Some(ours), &theirs.into());
            }
        }
    }
}

#[test]
fn numbers_against_numbers() {
    for case in cases("regression") {
        let (truth, found) = (numbers(&case["truth"]), numbers(&case["found"]));
        same("rmse", rmse(&truth, &found), &case["rmse"]);
        same("mae", mae(&truth, &found), &case["mae"]);
        same("nasa", nasa_score(&truth, &found), &case["nasa"]);
    }
}

#[test]
fn early_detection_by_the_formula_of_the_numenta_benchmark() {
    for case in cases("nab") {
        let rows = case["rows"].as_u64().unwrap() as usize;
        let found = places(&case["found"]);
        let detected: Vec<bool> = (0..rows).map(|row| found.binary_search(&row).is_ok()).collect();
        let windows: Vec<(usize, usize)> = serde_json::from_value(case["windows"].clone()).unwrap();
        for (profile, expected) in PROFILES.iter().zip(case["results"].as_array().unwrap()) {
            let score = nab::score(&detected, &windows, profile);
            same("raw", Some(score.raw), &expected[0]);
            same("null", Some(score.null), &expected[1]);
            same("perfect", Some(score.perfect), &expected[2]);
        }
    }
}

#[test]
fn changepoints_by_the_formula_of_skab() {
    let times = |value: &Value| -> Vec<Timestamp> {
        places(value).iter().map(|second| Timestamp(*second as i64 * 1_000_000)).collect()
    };
    for case in cases("changepoints") {
        let (truth, found) = (times(&case["truth"]), times(&case["found"]));
        let changes = changepoint::score(&truth, &found, Span::seconds(60), &PROFILES);
        for (score, expected) in changes.scores.iter().zip(case["results"].as_array().unwrap()) {
            same("raw", Some(score.raw), &expected[0]);
            same("null", Some(score.null), &expected[1]);
            same("perfect", Some(score.perfect), &expected[2]);
            assert_eq!(changes.missed, expected[3].as_u64().unwrap());
            assert_eq!(changes.false_alarms, expected[4].as_u64().unwrap());
        }
    }
}
