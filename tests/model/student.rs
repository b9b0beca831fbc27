//! Students: they come near to a teacher whose answers are known, and never leave the range of its answers.

use std::path::Path;

use forebay::model::compress::student::student;
use forebay::model::training::TrainingSet;
use forebay::model::{ModelFile, Trust};
use forebay::time::Timestamp;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use crate::open;

const STEPS: usize = 16;

/// Windows of two channels, each about a place of its own and with a swing of its own.
fn windows(count: usize, seed: u64) -> TrainingSet {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = || -> f64 { random.sample(StandardNormal) };
    let names = vec!["a".to_owned(), "b".to_owned()];
    let mut set = TrainingSet { names, steps: STEPS, ..TrainingSet::default() };
    for at in 0..count {
        let places = [20.0 + 3.0 * draw(), 5.0 + draw()];
        let swing = draw().exp();
        for _ in 0..STEPS {
            set.rows.extend([places[0] + draw(), places[1] + swing * draw()]);
        }
        set.assets.push(0);
        set.starts.push(Timestamp(at as i64 * 16));
        set.ends.push(Timestamp(at as i64 * 16 + 16));
    }
    set
}

/// What the teacher says: smooth in the place of one channel and the swing of the other.
fn taught(set: &TrainingSet, of: fn(f64) -> f64) -> Vec<f64> {
    let one = |at: usize| {
        let column = |c: usize| set.row(at).iter().skip(c).step_by(2).copied();
        let mean = |c: usize| column(c).sum::<f64>() / STEPS as f64;
        let spread = column(1).map(|v| (v - mean(1)).powi(2)).sum::<f64>() / STEPS as f64;
        of((mean(0) - 20.0) / 3.0 + spread.sqrt().ln())
    };
    (0..set.len()).map(one).collect()
}

fn learned(set: &TrainingSet, scores: &[f64]) -> Vec<u8> {
    let teacher = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/to_compress/dense.onnx");
    let teacher = ModelFile::read(&teacher, &Trust::default()).unwrap();
    let (student, golden) = student(&teacher, set, scores, 32, &mut |_| true).unwrap();
    assert!(golden.is_some());
    student.files("student.onnx").remove(0).1
}

fn answers(model: &[u8], set: &TrainingSet) -> Vec<f64> {
    let outputs = open(model).run_all(&set.rows, &[set.len(), STEPS, 2]).unwrap();
    let (_, score) = outputs.into_iter().find(|(name, _)| name == "score").unwrap();
    score.values
}

/// The mean squared error as a share of the variance.
fn missed(found: &[f64], truth: &[f64]) -> f64 {
    let mean = truth.iter().sum::<f64>() / truth.len() as f64;
    let error: f64 = found.iter().zip(truth).map(|(a, b)| (a - b).powi(2)).sum();
    error / truth.iter().map(|b| (b - mean).powi(2)).sum::<f64>()
}

/// Windows that no machine gives: a student of scores within bounds must keep to them.
fn wild() -> TrainingSet {
    let mut set = windows(40, 9);
    for (at, value) in set.rows.iter_mut().enumerate() {
        *value *= [1e3, -1e6, 30.0, -30.0][at % 4];
    }
    set
}

#[test]
fn students_come_near_to_their_teacher_and_keep_to_the_range_of_its_scores() {
    let kinds: [fn(f64) -> f64; 2] = [|x| 1.0 / (1.0 + (-2.0 * x).exp()), |x| 100.0 + 50.0 * x];
    for of in kinds {
        let (set, unseen) = (windows(3000, 1), windows(300, 2));
        let scores = taught(&set, of);
        let model = learned(&set, &scores);
        let missed = missed(&answers(&model, &unseen), &taught(&unseen, of));
        println!("{missed}");
        assert!(missed < 0.05, "{missed} of the variance is missed");
        let ends = |scores: &[f64]| {
            let ends = (f64::INFINITY, f64::NEG_INFINITY);
            scores.iter().fold(ends, |(least, most), s| (least.min(*s), most.max(*s)))
        };
        let (least, most) = ends(&scores);
        let (least, most) = if (0.0..=1.0).contains(&least) && most <= 1.0 {
            (0.0, 1.0)
        } else {
            let margin = 0.1001 * (most - least);
            (least - margin, most + margin)
        };
        let (low, high) = ends(&answers(&model, &wild()));
        assert!(least <= low && high <= most, "{low} to {high}, not within {least} to {most}");
        assert!(high > most - 0.01 * (most - least), "{high}: the bound was not needed");
    }
}
