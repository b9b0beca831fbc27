//! Networks: what is exported is what was trained, on the runtime under test; training can be repeated and resumed to
//! the byte; every kind learns something.

use forebay::model::net::{
    Activation, Checkpoint, Kind, Layer, Loss, NetError, NetReport, Network, Optimiser, Options,
    Shape, Size, Targets, Task, answers, read, train,
};
use forebay::model::training::TrainingSet;
use forebay::model::{Model, Wanted};
use forebay::time::{Span, Timestamp};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::open;
use crate::train::machine;

const STEPS: usize = 12;

/// Windows of samples of two machines: three channels that follow one swing, of which some windows run at a quarter of
/// its pace. The class says which; the life falls evenly to the end of each machine's windows.
pub(crate) fn swings(windows: usize, seed: u64) -> (TrainingSet, Vec<usize>, Vec<f64>) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut set = TrainingSet {
        name: "swings".into(),
        names: vec!["a".into(), "b".into(), "c".into()],
        units: vec!["1".into(); 3],
        steps: STEPS,
        ..TrainingSet::default()
    };
    let (mut classes, mut lives) = (Vec::new(), Vec::new());
    for window in 0..windows {
        let slow = random.random_bool(0.3);
        let phase: f64 = random.random_range(0.0..6.0);
        let left = (windows / 2 - window % (windows / 2)) as f64;
        for step in 0..STEPS {
            let swing = (phase + step as f64 * if slow { 0.2 } else { 0.8 }).sin();
            let mut noise = || random.random_range(-0.05..0.05);
            set.rows.extend([
                10.0 + swing + noise(),
                3.0 - 2.0 * swing + noise(),
                left / 40.0 + noise(),
            ]);
        }
        classes.push(usize::from(slow));
        lives.push(left);
        let start = Timestamp(window as i64 * 60_000_000);
        set.assets.push(u32::from(window >= windows / 2));
        set.starts.push(start);
        set.ends.push(start.plus(Span::seconds(60)));
    }
    (set, classes, lives)
}

fn quick() -> Options {
    Options { epochs: 8, batch: 32, learning_rate: 5e-3, ..Options::default() }
}

fn size() -> Size {
    Size { units: 8, code: 3, depth: 1, activation: Activation::Relu }
}

fn learn(
    set: &TrainingSet,
    targets: &Targets,
    network: &Network,
    options: &Options,
) -> Result<(Vec<u8>, NetReport), NetError> {
    train(set, targets, network, None, options, None, &mut |_, _| true)
}

/// Every output of the file on this runtime is the trainer's own, on windows and on wild ones.
fn same(bytes: &[u8], set: &TrainingSet) {
    let trained = read(bytes).unwrap();
    let mut rows: Vec<f64> = (0..20).flat_map(|index| set.row(index * 3).to_vec()).collect();
    let mut random = ChaCha8Rng::seed_from_u64(9);
    rows.extend((0..10 * set.width()).map(|_| random.random_range(-50.0..50.0_f64)));
    let own = answers(&trained, &rows).unwrap();
    let mut model: Model = open(bytes);
    let mut shape = vec![own.len()];
    if set.steps > 0 {
        shape.push(set.steps);
    }
    shape.push(set.names.len());
    let names: Vec<String> = model.signature.outputs.iter().map(|port| port.name.clone()).collect();
    assert_eq!(names.len(), own[0].len(), "{names:?}");
    for (at, name) in names.iter().enumerate() {
        let mut outputs = vec![forebay::model::session::Output::default()];
        model.run(&rows, &shape, &[Wanted::all(at)], &mut outputs).unwrap();
        let expected = own.iter().flat_map(|answer| &answer[name.as_str()]).copied();
        let expected: Vec<f64> = expected.map(f64::from).collect();
        assert_eq!(outputs[0].values.len(), expected.len());
        for (found, expected) in outputs[0].values.iter().zip(&expected) {
            assert!(
                (found - expected).abs() < 1e-4 * (1.0 + expected.abs()),
                "{name}: {found} {expected}"
            );
        }
    }
}

fn network(kind: Kind, set: &TrainingSet, task: Option<Task>) -> Network {
    let input = Shape { steps: set.steps.max(1), width: set.names.len() };
    kind.network(input, set.steps > 0, task, size()).unwrap()
}

/// What is left of the loss.
fn falls(report: &NetReport) -> f64 {
    report.epochs.last().unwrap().loss / report.epochs[0].loss
}

#[test]
fn every_autoencoder_learns_and_is_exported_as_it_was_trained() {
    let (set, _, _) = swings(240, 1);
    for kind in [
        Kind::DenseAutoencoder,
        Kind::ConvAutoencoder,
        Kind::GruAutoencoder,
        Kind::Forecaster,
        Kind::Transformer,
    ] {
        let options = Options { epochs: 40, ..quick() };
        let (bytes, report) =
            learn(&set, &Targets::None, &network(kind, &set, None), &options).unwrap();
        assert!(falls(&report) < 0.75, "{}: {:?}", kind.name(), report.epochs);
        let threshold = report.threshold.unwrap();
        assert!(threshold > 0.5 && threshold < 1.0, "{threshold}");
        same(&bytes, &set);
    }
    let features = machine(200, 6, 3);
    let (bytes, report) = learn(
        &features,
        &Targets::None,
        &network(Kind::DenseAutoencoder, &features, None),
        &quick(),
    )
    .unwrap();
    assert_eq!(report.constant, ["f5"]);
    same(&bytes, &features);
}

#[test]
fn classes_and_lives_are_learned_better_than_by_a_constant() {
    let (set, classes, lives) = swings(240, 2);
    let labels = Task::Classify { labels: vec!["normal".into(), "slow".into()] };
    let targets = Targets::Classes(classes);
    let options = Options {
        epochs: 25,
        loss: Loss::CrossEntropy { focal: 1.0 },
        class_weights: true,
        ..quick()
    };
    for kind in [Kind::Classifier, Kind::Transformer] {
        let (bytes, report) =
            learn(&set, &targets, &network(kind, &set, Some(labels.clone())), &options).unwrap();
        assert!(
            report.held_out_measures["f1"] > 0.9,
            "{}: {:?}",
            kind.name(),
            report.held_out_measures
        );
        same(&bytes, &set);
    }
    let life = Task::RemainingLife { cap: 100.0, unit: "h".into() };
    let loss = Loss::Huber { delta: 0.2 };
    let options = Options { epochs: 25, loss, late: 1.5, optimiser: Optimiser::Adam, ..quick() };
    let network = Network { members: 2, ..network(Kind::RemainingLife, &set, Some(life)) };
    let (bytes, report) = learn(&set, &Targets::Values(lives), &network, &options).unwrap();
    // The best constant is off by 30 hours: the second machine's lives are 1 to 120, those above 100 counting as that.
    assert!(
        report.held_out_measures["root_mean_squared_error"] < 10.0,
        "{:?}",
        report.held_out_measures
    );
    assert_eq!((report.threshold, report.best.len()), (None, 2));
    same(&bytes, &set);
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_so_does_training_that_was_stopped() {
    let (set, _, lives) = swings(120, 4);
    let life = Task::RemainingLife { cap: 50.0, unit: "h".into() };
    let network = Network { members: 2, ..network(Kind::RemainingLife, &set, Some(life)) };
    let targets = Targets::Values(lives);
    let options = Options { epochs: 4, ..quick() };
    let (whole, _) = learn(&set, &targets, &network, &options).unwrap();
    assert!(learn(&set, &targets, &network, &options).unwrap().0 == whole);
    let other = Options { seed: 2, ..options.clone() };
    assert!(learn(&set, &targets, &network, &other).unwrap().0 != whole);
    // Killed after the sixth epoch, in the middle of the second network: its last checkpoint is what is left.
    let mut kept = Vec::new();
    let mut seen = 0;
    train(&set, &targets, &network, None, &options, None, &mut |_, checkpoint| {
        seen += 1;
        if seen == 6 {
            kept = checkpoint.to_bytes();
        }
        true
    })
    .unwrap();
    let resume = || Some(Checkpoint::from_bytes(&kept).unwrap());
    let mut left = 0;
    let mut count = |_: &_, _: &_| {
        left += 1;
        true
    };
    let (resumed, report) =
        train(&set, &targets, &network, None, &options, resume(), &mut count).unwrap();
    assert_eq!((left, report.epochs.len()), (2, 8));
    assert!(resumed == whole);
    let foreign = train(&set, &targets, &network, None, &other, resume(), &mut |_, _| true);
    assert!(matches!(foreign, Err(NetError::Foreign)), "{foreign:?}");
    assert!(matches!(Checkpoint::from_bytes(&kept[..40]), Err(NetError::Foreign)));
}

#[test]
fn what_cannot_be_trained_is_told() {
    let (set, _, _) = swings(60, 5);
    let wild = Options { learning_rate: 1e30, optimiser: Optimiser::Sgd, clip: 1e30, ..quick() };
    let auto = network(Kind::ConvAutoencoder, &set, None);
    let told = learn(&set, &Targets::None, &auto, &wild).unwrap_err();
    assert!(matches!(told, NetError::Diverged { .. }), "{told}");
    let labels = Task::Classify { labels: vec!["normal".into(), "slow".into()] };
    let classifier = network(Kind::Classifier, &set, Some(labels));
    for targets in [Targets::None, Targets::Classes(vec![0; 60]), Targets::Classes(vec![0, 1])] {
        let told = learn(&set, &targets, &classifier, &quick()).unwrap_err();
        assert!(matches!(told, NetError::Targets(_)), "{told}");
    }
    let cuda = Options { device: forebay::model::net::Device::Cuda, ..quick() };
    // Where there is a device, it learns.
    if let Err(told) = learn(&set, &Targets::None, &auto, &cuda) {
        let told = told.to_string();
        let helps = if cfg!(feature = "cuda") { "install" } else { "--features cuda" };
        assert!(told.contains(helps) && told.contains("--device cpu"), "{told}");
    }
    let layers = vec![Layer::Gru { units: 4, every: false }];
    let narrow = Network { layers, ..auto };
    let told = learn(&set, &Targets::None, &narrow, &quick()).unwrap_err().to_string();
    assert!(told.contains("gives 4 numbers a window, but 36 are needed"), "{told}");
}

#[test]
fn a_model_that_knows_another_machine_learns_faster_and_keeps_what_is_frozen() {
    let (shipped, classes, _) = swings(400, 6);
    let labels = Task::Classify { labels: vec!["normal".into(), "slow".into()] };
    let network = network(Kind::Classifier, &shipped, Some(labels));
    let options = Options { epochs: 25, ..quick() };
    let (bytes, _) = learn(&shipped, &Targets::Classes(classes), &network, &options).unwrap();
    let from = read(&bytes).unwrap();
    // A site with few windows, of which the first third is learned from for a few epochs.
    let (site, classes, _) = swings(48, 7);
    let targets = Targets::Classes(classes);
    let few = Options { epochs: 3, freeze: 2, holdout: 0.5, ..quick() };
    let (_, fresh) =
        learn(&site, &targets, &network, &Options { freeze: 0, ..few.clone() }).unwrap();
    let (tuned, report) =
        train(&site, &targets, &network, Some(&from), &few, None, &mut |_, _| true).unwrap();
    assert!(report.best[0] < 0.5 * fresh.best[0], "{} {}", report.best[0], fresh.best[0]);
    let tuned = read(&tuned).unwrap();
    for (old, new) in from.weights.tensors.iter().zip(&tuned.weights.tensors) {
        let frozen = ["m0.l0.", "m0.l1."].iter().any(|start| old.name.starts_with(start));
        assert_eq!(old.values == new.values, frozen, "{}", old.name);
    }
}
