//! Networks of ours that were pruned: they are still ours, and learn back what they lost.

use std::path::Path;

use forebay::model::compress::prune::Activity;
use forebay::model::compress::{CompressError, Compressed, Method, compress, retrain};
use forebay::model::net::{
    Activation, Kind, Network, Options, Shape, Size, Targets, Task, Trained, answers, read, train,
};
use forebay::model::training::TrainingSet;
use forebay::model::{ModelFile, Trust};

use crate::net::swings;
use crate::open;

/// A network of this kind that has learned `set`.
fn learned(kind: Kind, set: &TrainingSet, task: Option<Task>, targets: &Targets) -> ModelFile {
    let input = Shape { steps: set.steps, width: set.names.len() };
    let size = Size { units: 24, code: 6, depth: 2, activation: Activation::Relu };
    let network: Network = kind.network(input, true, task, size).unwrap();
    let options =
        Options { epochs: 20, batch: 32, learning_rate: 5e-3, seed: 3, ..Options::default() };
    let (bytes, _) = train(set, targets, &network, None, &options, None, &mut |_, _| true).unwrap();
    ModelFile::of(Path::new("swings.onnx"), bytes, &Trust::default()).unwrap()
}

fn pruned(file: &ModelFile) -> Compressed {
    compress(file, Method::Pruned { activity: &Activity::default(), keep: 0.4 }).unwrap()
}

fn bytes(compressed: &Compressed) -> Vec<u8> {
    compressed.files("small.onnx").remove(0).1
}

fn weights(trained: &Trained) -> usize {
    trained.network.parameters().unwrap()
}

/// The answers of the file on this runtime are those of the network that is read from it.
fn is_what_it_says(bytes: &[u8], set: &TrainingSet, output: &str) {
    let trained = read(bytes).unwrap();
    let rows = set.row(0).iter().chain(set.row(7)).chain(set.row(50)).copied().collect::<Vec<_>>();
    let own = answers(&trained, &rows).unwrap();
    let found = open(bytes).run_all(&rows, &[3, set.steps, set.names.len()]).unwrap();
    let (_, found) = found.into_iter().find(|(name, _)| name == output).unwrap();
    for (found, own) in found.values.iter().zip(own.iter().flat_map(|answer| &answer[output])) {
        let own = f64::from(*own);
        assert!((found - own).abs() < 1e-4 * (1.0 + own.abs()), "{output}: {found} {own}");
    }
}

/// Mean squared error of what an autoencoder gives back.
fn missed(bytes: &[u8], set: &TrainingSet) -> f64 {
    let trained = read(bytes).unwrap();
    let scores = answers(&trained, &set.rows).unwrap();
    let errors = scores.iter().map(|answer| f64::from(answer["score"][0]));
    errors.map(|score| trained.limit * score / (1.0 - score)).sum::<f64>() / set.len() as f64
}

#[test]
fn pruned_autoencoders_are_networks_of_ours_and_learn_back_what_they_lost() {
    let (set, _, _) = swings(160, 5);
    for kind in [Kind::DenseAutoencoder, Kind::ConvAutoencoder, Kind::Transformer] {
        let file = learned(kind, &set, None, &Targets::None);
        let before = retrain::ours(&file).unwrap();
        assert!(retrain::learns_normal(&before));
        let small = pruned(&file);
        is_what_it_says(&bytes(&small), &set, "score");
        assert!(weights(&read(&bytes(&small)).unwrap()) < weights(&before), "{kind:?}");
        let mut epochs = 0;
        let (tuned, golden) =
            retrain::fine_tuned(&file, &before, &small, &set, &mut |_| epochs += 1).unwrap();
        assert!(epochs > 0 && golden.is_some());
        let tuned = bytes(&tuned);
        assert_eq!(weights(&read(&tuned).unwrap()), weights(&read(&bytes(&small)).unwrap()));
        is_what_it_says(&tuned, &set, "score");
        let [lost, learned] = [missed(&bytes(&small), &set), missed(&tuned, &set)];
        let original = missed(&file.bytes, &set);
        println!("{kind:?}: {original} {lost} {learned}");
        assert!(learned < 0.5 * lost, "{kind:?}: {original}, pruned {lost}, then {learned}");
        // The contract is the original's.
        let noted = ModelFile::of(Path::new("tuned.onnx"), tuned, &Trust::default()).unwrap();
        let (a, b) = (file.metadata(), noted.metadata());
        assert_eq!((&a.name, &a.channels, &a.units), (&b.name, &b.channels, &b.units));
        assert_eq!((&a.outputs, &a.data_digest), (&b.outputs, &b.data_digest));
        let inputs = |of: &ModelFile| of.metadata().baseline.as_ref().unwrap().inputs.clone();
        assert_eq!(inputs(&file), inputs(&noted));
    }
}

/// What they learn is what the original answers: no label is needed.
#[test]
fn pruned_classifiers_and_lives_learn_from_the_original() {
    let (set, classes, lives) = swings(160, 6);
    let labels = vec!["normal".to_owned(), "slow".to_owned()];
    let kinds = [
        (Kind::Classifier, Task::Classify { labels }, Targets::Classes(classes), "score"),
        (
            Kind::RemainingLife,
            Task::RemainingLife { cap: 80.0, unit: "1h".into() },
            Targets::Values(lives),
            "remaining_life",
        ),
    ];
    for (kind, task, targets, output) in kinds {
        let file = learned(kind, &set, Some(task), &targets);
        let before = retrain::ours(&file).unwrap();
        assert!(!retrain::learns_normal(&before));
        let small = pruned(&file);
        is_what_it_says(&bytes(&small), &set, output);
        let (tuned, _) = retrain::fine_tuned(&file, &before, &small, &set, &mut |_| {}).unwrap();
        let off = |bytes: &[u8]| -> f64 {
            let [a, b] = [&before, &read(bytes).unwrap()].map(|t| answers(t, &set.rows).unwrap());
            let pairs = a.iter().zip(&b).map(|(a, b)| f64::from(a[output][0] - b[output][0]).abs());
            pairs.sum::<f64>() / set.len() as f64
        };
        let [lost, learned] = [&small, &tuned].map(|model| off(&bytes(model)));
        println!("{kind:?}: {lost} {learned}");
        assert!(learned < 0.5 * lost, "{kind:?}: off by {lost}, then by {learned}");
    }
}

#[test]
fn what_cannot_be_trained_on_is_told() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/to_compress/dense.onnx");
    let foreign = ModelFile::read(&path, &Trust::default()).unwrap();
    let error = retrain::ours(&foreign).unwrap_err().to_string();
    assert!(error.contains("no network that `forebay train` wrote"), "{error}");
    let (set, _, _) = swings(160, 5);
    let file = learned(Kind::DenseAutoencoder, &set, None, &Targets::None);
    let ours = retrain::ours(&file).unwrap();
    let none = TrainingSet { rows: Vec::new(), ..TrainingSet::default() };
    let none = TrainingSet { names: set.names.clone(), steps: set.steps, ..none };
    let error = retrain::fine_tuned(&file, &ours, &pruned(&file), &none, &mut |_| {});
    assert!(matches!(error, Err(CompressError::Training(_))), "{error:?}");
}
