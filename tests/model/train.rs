//! The trainers against oracles computed another way, in float64.

use forebay::evaluate::metrics::ranking::roc_auc;
use forebay::model::Given;
use forebay::model::logistic::{self, LogisticOptions};
use forebay::model::pca::{self, PcaOptions};
use forebay::model::training::{TrainError, TrainingSet};
use forebay::time::{Span, Timestamp};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{names, open};

/// Windows of a machine whose `width` features follow two hidden causes, plus noise; the last feature is constant.
pub(crate) fn machine(windows: usize, width: usize, seed: u64) -> TrainingSet {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut set = TrainingSet {
        name: "machine".into(),
        names: names(width),
        units: vec!["1".into(); width],
        window: Some(Span::seconds(60)),
        every: Some(Span::seconds(10)),
        step: Some(Span::seconds(1)),
        ..TrainingSet::default()
    };
    for window in 0..windows {
        let load = (window as f64 / 9.0).sin() + random.random_range(-0.2..0.2);
        let heat = random.random_range(-1.0..1.0);
        for feature in 0..width {
            let f = feature as f64;
            let value =
                20.0 * f + load * (1.0 + f) + heat * (f - 2.0) + random.random_range(-0.3..0.3);
            set.rows.push(if feature + 1 == width { 5.0 } else { value });
        }
        let start = Timestamp(window as i64 * 10_000_000);
        set.assets.push(0);
        set.starts.push(start);
        set.ends.push(start.plus(Span::seconds(60)));
    }
    set
}

fn shifted(set: &TrainingSet, feature: usize, by: f64) -> Vec<f64> {
    let width = set.names.len();
    let rows = set.rows.iter().enumerate();
    rows.map(|(i, v)| v + if i % width == feature { by } else { 0.0 }).collect()
}

/// T² and Q by another road: power iteration with deflation on the correlation matrix, then projection.
fn oracle(set: &TrainingSet, fitted: usize, components: usize, row: &[f64]) -> (f64, f64) {
    let width = set.names.len();
    let column = |f: usize| (0..fitted).map(move |w| set.row(w)[f]);
    let means: Vec<f64> = (0..width).map(|f| column(f).sum::<f64>() / fitted as f64).collect();
    let deviations: Vec<f64> = (0..width)
        .map(|f| {
            (column(f).map(|v| (v - means[f]).powi(2)).sum::<f64>() / (fitted as f64 - 1.0)).sqrt()
        })
        .collect();
    let scale = |value: f64, f: usize| {
        if deviations[f] > 1e-9 { (value - means[f]) / deviations[f] } else { 0.0 }
    };
    let mut matrix = vec![vec![0.0; width]; width];
    for w in 0..fitted {
        let row: Vec<f64> = (0..width).map(|f| scale(set.row(w)[f], f)).collect();
        for (cells, a) in matrix.iter_mut().zip(&row) {
            cells.iter_mut().zip(&row).for_each(|(cell, b)| *cell += a * b / (fitted as f64 - 1.0));
        }
    }
    let mut rest: Vec<f64> = (0..width).map(|f| scale(row[f], f)).collect();
    let mut t2 = 0.0;
    for _ in 0..components {
        let mut vector: Vec<f64> = (0..width).map(|f| 1.0 / (f as f64 + 1.3)).collect();
        let mut value = 0.0;
        for _ in 0..20_000 {
            let next: Vec<f64> =
                matrix.iter().map(|m| m.iter().zip(&vector).map(|(a, b)| a * b).sum()).collect();
            value = next.iter().map(|v: &f64| v * v).sum::<f64>().sqrt();
            vector = next.iter().map(|v| v / value).collect();
        }
        let along: f64 = rest.iter().zip(&vector).map(|(a, b)| a * b).sum();
        t2 += along * along / value;
        rest.iter_mut().zip(&vector).for_each(|(r, v)| *r -= along * v);
        for (cells, a) in matrix.iter_mut().zip(&vector) {
            cells.iter_mut().zip(&vector).for_each(|(cell, b)| *cell -= value * a * b);
        }
    }
    (t2, rest.iter().map(|v| v * v).sum())
}

#[test]
fn pca_in_the_graph_is_pca_by_another_road() {
    let set = machine(120, 7, 1);
    let (bytes, report) = pca::train(&set, &PcaOptions::default()).unwrap();
    assert_eq!(report.constant, ["f6"]);
    assert_eq!(report.components, 2, "two hidden causes");
    let mut model = open(&bytes);
    let rows = shifted(&set, 1, 2.0);
    let outputs = model.run_all(&rows, &[120, 7]).unwrap();
    let values = |name: &str| &outputs.iter().find(|o| o.0 == name).unwrap().1.values;
    for (window, row) in rows.chunks(7).enumerate().step_by(11) {
        let (t2, q) = oracle(&set, report.fitted, report.components, row);
        let phi = (t2 / report.t2_limit).max(q / report.q_limit);
        let near = |found: f64, expected: f64| {
            let error = (found - expected).abs();
            assert!(
                error < 1e-4 * expected.abs().max(1.0),
                "window {window}: {found} is not {expected}"
            );
        };
        near(values("t2")[window], t2);
        near(values("q")[window], q);
        near(values("score")[window], phi / (1.0 + phi));
        let parts = &values("contributions")[window * 7..(window + 1) * 7];
        near(parts.iter().sum(), 1.0);
        assert!(parts.iter().all(|part| *part >= 0.0));
        let largest = (0..7).max_by(|&a, &b| parts[a].total_cmp(&parts[b])).unwrap();
        assert_eq!(largest, 1, "the shifted feature explains the score: {parts:?}");
    }
}

#[test]
fn pca_is_quiet_on_normal_running_and_loud_on_each_fault() {
    let set = machine(200, 8, 2);
    let (bytes, report) = pca::train(&set, &PcaOptions::default()).unwrap();
    let mut model = open(&bytes);
    let mut alarms = |rows: &[f64]| -> usize {
        let outputs = model.run_all(rows, &[rows.len() / 8, 8]).unwrap();
        outputs[0].1.values.iter().filter(|score| **score >= report.threshold).count()
    };
    assert!(alarms(&set.rows) <= 2, "{report:?}");
    let later = machine(400, 8, 3);
    assert!(alarms(&later.rows) <= 8, "{report:?}");
    for feature in 0..7 {
        let found = alarms(&shifted(&later, feature, 8.0));
        assert!(found >= 360, "feature {feature}: {found} of 400");
    }
}

#[test]
fn wild_inputs_still_give_a_score() {
    let set = machine(100, 5, 4);
    let (bytes, _) = pca::train(&set, &PcaOptions::default()).unwrap();
    let mut model = open(&bytes);
    for wild in [1e30, -1e38, f64::from(f32::MAX)] {
        let outputs = model.run_all(&[wild; 5], &[1, 5]).unwrap();
        for (name, output) in outputs {
            assert!(output.values.iter().all(|v| v.is_finite()), "{name}: {:?}", output.values);
            if name == "score" {
                assert!(output.values[0] > 0.99);
            }
        }
    }
}

#[test]
fn the_same_windows_give_the_same_bytes_and_the_file_says_what_it_was_trained_on() {
    let set = machine(60, 6, 5);
    let (first, report) = pca::train(&set, &PcaOptions::default()).unwrap();
    let (second, _) = pca::train(&set.clone(), &PcaOptions::default()).unwrap();
    assert_eq!(first, second);
    let model = open(&first);
    let metadata = &model.metadata;
    assert_eq!(metadata.kind.as_deref(), Some("pca"));
    assert_eq!(metadata.features.as_ref(), Some(&set.names));
    assert_eq!(metadata.units.as_ref(), Some(&set.units));
    assert_eq!(metadata.window.as_ref().unwrap().parse::<Span>().unwrap(), Span::seconds(60));
    assert_eq!(metadata.data_start, Some(set.starts[0]));
    assert_eq!(metadata.data_end, Some(set.ends[59]));
    assert_eq!(metadata.threshold, Some(report.threshold));
    assert_eq!(metadata.unreadable, Vec::<String>::new());
    assert_eq!(model.version(), report.version);
    assert_eq!(model.name(), "machine");
    assert!(model.check_given(Given::Features(&set.names)).is_empty());
}

#[test]
fn more_features_than_windows_is_no_obstacle() {
    let set = machine(40, 90, 6);
    let (bytes, report) = pca::train(&set, &PcaOptions::default()).unwrap();
    let later = machine(80, 90, 7);
    let outputs = open(&bytes).run_all(&later.rows, &[80, 90]).unwrap();
    let alarms = outputs[0].1.values.iter().filter(|s| **s >= report.threshold).count();
    assert!(alarms <= 8, "{alarms} of 80 normal windows: {report:?}");
}

#[test]
fn what_cannot_be_learned_says_why() {
    let options = PcaOptions::default();
    let few = machine(10, 4, 8);
    let error = pca::train(&few, &options).unwrap_err();
    assert!(matches!(error, TrainError::TooFewRows { found: 10, skipped: 0, .. }));
    let mut constant = machine(40, 4, 8);
    constant.rows.fill(3.0);
    assert_eq!(pca::train(&constant, &options).unwrap_err(), TrainError::Constant { features: 4 });
    let mut ragged = machine(40, 4, 8);
    ragged.rows.pop();
    assert!(matches!(pca::train(&ragged, &options).unwrap_err(), TrainError::Columns { .. }));
    let set = machine(40, 4, 8);
    let logistic = LogisticOptions::default();
    let error = logistic::train(&set, &[true; 40], &logistic).unwrap_err();
    assert_eq!(error, TrainError::OneLabel { found: 40 });
    let error = logistic::train(&set, &[true; 39], &logistic).unwrap_err();
    assert_eq!(error, TrainError::Labels { labels: 39, windows: 40 });
}

/// Every seventh window is faulty: its first feature is higher.
pub(crate) fn labelled(windows: usize, seed: u64) -> (TrainingSet, Vec<bool>) {
    let mut set = machine(windows, 6, seed);
    let labels: Vec<bool> = (0..windows).map(|window| window % 7 == 3).collect();
    for (window, faulty) in labels.iter().enumerate() {
        set.rows[window * 6] += if *faulty { 2.5 } else { 0.0 };
    }
    (set, labels)
}

#[test]
fn logistic_regression_finds_faults_it_has_not_seen() {
    let (set, labels) = labelled(300, 9);
    let (bytes, report) = logistic::train(&set, &labels, &LogisticOptions::default()).unwrap();
    assert_eq!(bytes, logistic::train(&set, &labels, &LogisticOptions::default()).unwrap().0);
    assert_eq!((report.fitted, report.constant.as_slice()), (300, &["f5".to_owned()][..]));
    assert!(report.steps < 30, "{report:?}");
    let (later, faulty) = labelled(300, 10);
    let mut model = open(&bytes);
    let outputs = model.run_all(&later.rows, &[300, 6]).unwrap();
    let scores = &outputs[0].1.values;
    let auc = roc_auc(scores, &faulty).unwrap();
    assert!(auc > 0.9, "{auc} {report:?}");
    // The weights are at a minimum: the score is the sigmoid of what the contributions add up to.
    let parts = &outputs[1].1;
    let base = {
        let odds = (scores[0] / (1.0 - scores[0])).ln();
        odds - parts.values[..6].iter().sum::<f64>()
    };
    for (window, score) in scores.iter().enumerate() {
        let sum: f64 = parts.values[window * 6..(window + 1) * 6].iter().sum();
        let expected = 1.0 / (1.0 + (-(base + sum)).exp());
        assert!((score - expected).abs() < 1e-4, "{score} {expected}");
    }
}

#[test]
fn a_middle_that_follows_learns_drift_and_no_fault() {
    // One live feature: the index is its squared distance over the worst one in training, whatever its scale.
    let set = machine(200, 2, 11);
    let follow = Some(Span::seconds(400));
    let options = PcaOptions {
        explained: 1.0,
        holdout: 0.0,
        quantile: 1.0,
        margin: 4.0,
        follow,
        ..PcaOptions::default()
    };
    let (bytes, report) = pca::train(&set, &options).unwrap();
    let mut model = open(&bytes);
    let wanted = [model.score_output(None, "score", None).unwrap()];
    let values: Vec<f64> = (0..set.len()).map(|window| set.row(window)[0]).collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let limit = values.iter().map(|value| (value - mean).powi(2)).fold(0.0, f64::max);
    let size = limit.sqrt();
    let (mut memory, mut outputs) = (vec![model.fresh_memory()], Vec::new());
    let (mut middle, mut worst_of_drift, mut least_of_fault) = (mean, 0.0_f64, 1.0_f64);
    for window in 0..1200_u32 {
        // It drifts by six times what training showed, then jumps by four times that, and stays there.
        let (drift, jump) =
            (size * 6.0 * f64::from(window.min(900)) / 900.0, f64::from(u8::from(window > 1000)));
        let value = values[window as usize % values.len()] + drift + 4.0 * size * jump;
        let index = (value - middle).powi(2) / limit;
        if index < 0.5 * 4.0 {
            middle += (value - middle) * 10.0 / 400.0;
        }
        let row = [value, 5.0];
        model.run_with(&row, &[1, 2], &mut memory, &wanted, &mut outputs).unwrap();
        let score = outputs[0].values[0];
        assert!((score - index / (1.0 + index)).abs() < 1e-3, "{window}: {score}, index {index}");
        if window <= 1000 {
            worst_of_drift = worst_of_drift.max(score);
        } else {
            least_of_fault = least_of_fault.min(score);
        }
    }
    assert!(worst_of_drift < report.threshold, "{worst_of_drift} {}", report.threshold);
    assert!(least_of_fault >= report.threshold, "{least_of_fault} {}", report.threshold);
}
