//! Boosted trees against other boosters, and their graphs against the trainer's own arithmetic.

use std::collections::BTreeMap;

use forebay::model::boost::{BoostOptions, Cases, Ensemble, Objective, boost};
use forebay::model::metadata::Meaning;
use forebay::model::threshold::best_f1;
use forebay::model::training::{TrainError, TrainingSet};
use forebay::model::tree::{Node, Tree};
use forebay::model::trees::{self, Split, Target, TreesOptions};
use serde::Deserialize;

use crate::open;
use crate::train::machine;

#[derive(Deserialize)]
struct Oracle {
    rounds: usize,
    learning_rate: f64,
    depth: usize,
    leaf_rows: usize,
    width: usize,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    classes: usize,
    train: usize,
    rows: Vec<Vec<Option<f32>>>,
    targets: Vec<f64>,
    scikit_learn: f64,
    lightgbm: f64,
}

fn oracle() -> Oracle {
    let path = format!("{}/tests/trees/cases.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Mean squared error, or log loss, of rows that were not learned from.
fn loss(ensemble: &Ensemble, rows: &[f32], width: usize, targets: &[f64]) -> f64 {
    let losses = rows.chunks(width).zip(targets).map(|(row, &target)| {
        let answer = ensemble.answer(row);
        match ensemble.objective {
            Objective::Number => (answer[0] - target).powi(2),
            Objective::Chance if target > 0.5 => -answer[0].ln(),
            Objective::Chance => -(1.0 - answer[0]).ln(),
            Objective::Classes(_) => -answer[target as usize].ln(),
        }
    });
    losses.sum::<f64>() / targets.len() as f64
}

#[test]
fn within_a_twentieth_of_the_worse_of_two_other_boosters() {
    let oracle = oracle();
    assert_eq!(oracle.cases.len(), 5);
    for case in &oracle.cases {
        let rows: Vec<f32> =
            case.rows.iter().flatten().map(|value| value.unwrap_or(f32::NAN)).collect();
        let weights = vec![1.0; case.targets.len()];
        let width = oracle.width;
        let cases = Cases { rows: &rows, width, targets: &case.targets, weights: &weights };
        let objective = match case.classes {
            0 => Objective::Number,
            2 => Objective::Chance,
            classes => Objective::Classes(classes),
        };
        let options = BoostOptions {
            rounds: oracle.rounds,
            learning_rate: oracle.learning_rate,
            depth: oracle.depth,
            leaf_rows: oracle.leaf_rows,
            subsample: 1.0,
            columns: 1.0,
            ..BoostOptions::default()
        };
        let fit: Vec<usize> = (0..case.train).collect();
        let ensemble = boost(&cases, objective, &fit, &[], &options);
        let (from, targets) = (case.train * width, &case.targets[case.train..]);
        let found = loss(&ensemble, &rows[from..], width, targets);
        let others = case.scikit_learn.max(case.lightgbm);
        assert!(found < 1.05 * others, "{}: {found} is worse than {others}", case.name);
    }
}

/// Half of the rows are 0 and half 1, and nothing tells them apart: the answer where three times the excess over the
/// zeros is what the ones lack is a quarter.
#[test]
fn an_answer_that_is_too_large_counts_as_often_as_is_asked() {
    let targets: Vec<f64> = (0..100).map(|at| f64::from(at % 2)).collect();
    let (rows, weights) = (vec![1.0; 100], vec![1.0; 100]);
    let cases = Cases { rows: &rows, width: 1, targets: &targets, weights: &weights };
    let all: Vec<usize> = (0..100).collect();
    let options = BoostOptions { late: 3.0, ..BoostOptions::default() };
    let found = boost(&cases, Objective::Number, &all, &[], &options).answer(&[1.0])[0];
    assert!((found - 0.25).abs() < 0.01, "{found}");
}

fn options() -> TreesOptions {
    let boost = BoostOptions { rounds: 40, seed: 7, ..BoostOptions::default() };
    TreesOptions { boost, holdout: 0.0, ..TreesOptions::default() }
}

/// Labels that follow from two features together.
fn labels(set: &TrainingSet) -> Vec<usize> {
    (0..set.len())
        .map(|index| {
            let row = set.row(index);
            usize::from(row[1] > 20.0) + usize::from(row[1] > 20.0 && row[2] > 40.0)
        })
        .collect()
}

fn wide(rows: &[f32]) -> Vec<f64> {
    rows.iter().map(|&value| value.into()).collect()
}

fn ensemble(set: &TrainingSet, objective: Objective, targets: &[f64]) -> Ensemble {
    let rows: Vec<f32> = set.rows.iter().map(|&value| value as f32).collect();
    let weights = vec![1.0; targets.len()];
    let cases = Cases { rows: &rows, width: set.names.len(), targets, weights: &weights };
    let all: Vec<usize> = (0..set.len()).collect();
    boost(&cases, objective, &all, &[], &options().boost)
}

/// Every output of the file's graph is what the trainer's own arithmetic says, for rows near to those learned from, far
/// from them, and with values missing.
fn same(bytes: &[u8], ensemble: &Ensemble, set: &TrainingSet) {
    let width = set.names.len();
    let mut rows: Vec<f32> = set.rows.iter().map(|&value| value as f32).collect();
    rows.extend([f32::MAX, -1e30, f32::NAN, 0.0, f32::NAN]);
    rows.extend([f32::NAN; 5]);
    let mut model = open(bytes);
    let outputs = model.run_all(&wide(&rows), &[rows.len() / width, width]).unwrap();
    let found: BTreeMap<&str, &Vec<f64>> =
        outputs.iter().map(|(name, output)| (name.as_str(), &output.values)).collect();
    for (index, row) in rows.chunks(width).enumerate() {
        let expected = ensemble.answer(row);
        let near = |found: f64, expected: f64| {
            let off = (found - expected).abs();
            assert!(off < 1e-4 * (1.0 + expected.abs()), "row {index}: {found} is not {expected}");
        };
        if let Some(classes) = found.get("classes") {
            for (class, &expected) in expected.iter().enumerate() {
                near(classes[index * 3 + class], expected);
            }
            near(found["score"][index], 1.0 - expected[0]);
        } else {
            near(found["score"][index], expected[0]);
        }
    }
}

#[test]
fn the_graph_of_a_chance_gives_the_trainers_answers() {
    let set = machine(150, 5, 11);
    let faulty: Vec<bool> = labels(&set).into_iter().map(|class| class > 0).collect();
    let targets: Vec<f64> = faulty.iter().map(|&label| f64::from(label)).collect();
    let (bytes, report) = trees::train(&set, Target::Faulty(&faulty), &options()).unwrap();
    assert_eq!((report.fitted, report.held_out, report.rounds), (150, 0, 40));
    assert!(report.used.iter().all(|(name, _)| name != "f4"), "never changes: {:?}", report.used);
    same(&bytes, &ensemble(&set, Objective::Chance, &targets), &set);
    let (again, _) = trees::train(&set, Target::Faulty(&faulty), &options()).unwrap();
    assert!(bytes == again, "the same windows give the same bytes");
}

#[test]
fn the_graph_of_classes_gives_the_trainers_answers() {
    let set = machine(150, 5, 12);
    let of = labels(&set);
    let names = ["normal", "worn", "broken"].map(str::to_owned);
    let targets: Vec<f64> = of.iter().map(|&class| class as f64).collect();
    let target = Target::Classes { of: &of, names: &names };
    let (bytes, _) = trees::train(&set, target, &options()).unwrap();
    same(&bytes, &ensemble(&set, Objective::Classes(3), &targets), &set);
    let meaning = open(&bytes).metadata.outputs.clone().unwrap();
    assert_eq!(meaning["classes"], Meaning::Class { labels: names.to_vec() });
    let error = trees::train(&set, Target::Classes { of: &of, names: &names[..2] }, &options());
    assert_eq!(error.unwrap_err(), TrainError::Class { found: 2, classes: 2 });
}

#[test]
fn the_graph_of_a_number_gives_the_trainers_answers() {
    let set = machine(150, 5, 13);
    let values: Vec<f64> = (0..150).map(|index| 1000.0 - set.row(index)[0] * 3.0).collect();
    let meaning = Meaning::RemainingLife { unit: "h".into() };
    let target = Target::Number { values: &values, meaning: &meaning };
    let (bytes, report) = trees::train(&set, target, &options()).unwrap();
    assert_eq!((report.threshold, open(&bytes).metadata.threshold), (None, None));
    same(&bytes, &ensemble(&set, Objective::Number, &values), &set);
}

#[test]
fn it_stops_early_on_windows_held_out_and_chooses_its_threshold_there() {
    let set = machine(300, 5, 14);
    // One label in seven is wrong, so that at some round more trees only learn the errors.
    let labels = labels(&set).into_iter().enumerate();
    let faulty: Vec<bool> =
        labels.map(|(index, class)| (class > 0) != (index * 37 % 7 == 0)).collect();
    for split in [Split::Last, Split::Random] {
        let boost = BoostOptions { rounds: 5000, patience: 20, seed: 3, ..BoostOptions::default() };
        let options = TreesOptions { boost, split, ..TreesOptions::default() };
        let (bytes, report) = trees::train(&set, Target::Faulty(&faulty), &options).unwrap();
        assert!(report.rounds < 1000, "{} rounds", report.rounds);
        assert_eq!(report.losses.len(), report.rounds + 20);
        assert!(report.held_out > 40 && report.fitted + report.held_out <= 300);
        let threshold = report.threshold.unwrap();
        assert!(threshold > 0.0 && threshold < 1.0);
        assert_eq!(open(&bytes).metadata.threshold, Some(threshold));
        assert!(report.threshold_by.contains("windows held out"), "{}", report.threshold_by);
    }
}

#[test]
fn a_rare_class_weighs_as_much_when_balanced() {
    let set = machine(300, 5, 15);
    let faulty: Vec<bool> = (0..300).map(|index| index % 30 == 0).collect(); // nothing to learn
    let chance = |balanced: bool| {
        let (bytes, _) =
            trees::train(&set, Target::Faulty(&faulty), &TreesOptions { balanced, ..options() })
                .unwrap();
        let outputs = open(&bytes).run_all(&set.rows, &[300, 5]).unwrap();
        outputs[0].1.values.iter().sum::<f64>() / 300.0
    };
    assert!(chance(false) < 0.1 && chance(true) > 0.15, "{} {}", chance(false), chance(true));
}

#[test]
fn the_best_threshold_is_midway_and_f1_is_greatest_there() {
    let best_threshold = |cases: &[(f64, bool)]| {
        let (scores, faulty): (Vec<f64>, Vec<bool>) = cases.iter().copied().unzip();
        best_f1(&scores, &faulty).map(|(threshold, _)| threshold)
    };
    let cases = [(0.9, true), (0.8, true), (0.4, false), (0.3, true), (0.1, false)];
    assert_eq!(best_threshold(&cases), Some(0.2), "F1 6/7 with the last one, 4/5 without");
    assert_eq!(best_threshold(&cases[..3]), Some(0.600_000_000_000_000_1));
    assert_eq!(best_threshold(&cases[..2]), None);
    let tied = [(0.5, true), (0.5, false), (0.2, false)];
    assert_eq!(best_threshold(&tied), Some(0.35));
}

#[test]
fn a_value_on_the_cut_and_a_missing_one_go_where_the_node_says() {
    let tree = |missing_below| Tree {
        nodes: vec![
            Node::Split { feature: 0, cut: 1.5, missing_below, below: 1, above: 2 },
            Node::Leaf(-1.0),
            Node::Leaf(1.0),
        ],
    };
    assert_eq!(tree(true).value(&[1.5]), -1.0);
    assert_eq!(tree(true).value(&[1.500_000_1]), 1.0);
    assert_eq!((tree(true).value(&[f32::NAN]), tree(false).value(&[f32::NAN])), (-1.0, 1.0));
}
