//! Compressed models: near the original, on both runtimes, and no further off than what ONNX Runtime's own quantisation
//! makes of the same file. The models and its numbers are made by `tests/models/to_compress/make.py`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use forebay::model::build::{Dim, Graph, Kind};
use forebay::model::compress::calibrate::{self, Calibration, Ranges, Watch, Watched};
use forebay::model::compress::notes::Notes;
use forebay::model::compress::prune::Activity;
use forebay::model::compress::{CompressError, Compressed, Method, compress};
use forebay::model::pca::{self, PcaOptions};
use forebay::model::runtime::Backend;
use forebay::model::signature::SigningKey;
use forebay::model::{Model, ModelError, ModelFile, Trust};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use crate::runtime;
use crate::train::machine;

#[derive(Deserialize)]
struct Case {
    file: String,
    shape: Vec<usize>,
    rows: Vec<Vec<f64>>,
    calibration: Vec<Vec<f64>>,
    expected: Vec<f64>,
    dynamic: f64,
    #[serde(rename = "static")]
    calibrated: f64,
}

/// A weight by its shape, with the axis of units.
type Units = (&'static [i64], usize);

const INT8: Method<'static> = Method::Int8Weights { full_range: false };
const ALL: [Method<'static>; 2] = [INT8, Method::Float16];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/to_compress")
}

fn cases() -> Vec<Case> {
    serde_json::from_slice(&std::fs::read(folder().join("expected.json")).unwrap()).unwrap()
}

fn read(path: &Path) -> ModelFile {
    ModelFile::read(path, &Trust::default()).unwrap()
}

fn written(compressed: &Compressed, folder: &Path) -> PathBuf {
    for (name, bytes) in compressed.files("small.onnx") {
        std::fs::write(folder.join(name), bytes).unwrap();
    }
    folder.join("small.onnx")
}

fn scores(model: &mut Model, case: &Case, rows: &[Vec<f64>]) -> Vec<f64> {
    let shape: Vec<usize> = [rows.len()].into_iter().chain(case.shape.iter().copied()).collect();
    model.run_all(&rows.concat(), &shape).unwrap().remove(0).1.values
}

/// Gives `take` what is inside a model in the case's calibration windows.
fn watch(watched: &Watched, case: &Case, mut take: impl FnMut(&str, &[f64])) {
    let kept = tempfile::tempdir().unwrap();
    let path = written(&watched.model, kept.path());
    let mut model = Model::open(runtime(), &path, &Trust::default()).unwrap();
    let shape: Vec<usize> = [1].into_iter().chain(case.shape.iter().copied()).collect();
    for row in &case.calibration {
        for (output, numbers) in model.run_all(row, &shape).unwrap() {
            if let Some(value) = watched.values.get(&output) {
                take(value, &numbers.values);
            }
        }
    }
}

fn off(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// Ranges that were found beforehand, on windows like those that come.
#[test]
fn calibrated_bytes_answer_as_near_as_onnx_runtimes() {
    for case in cases() {
        let file = read(&folder().join(&case.file));
        let mut ranges = Ranges::default();
        match calibrate::watch(&file, Watch::Ranges) {
            Ok(watched) => watch(&watched, &case, |value, numbers| {
                ranges.take(value, numbers, Calibration::MinMax);
            }),
            Err(CompressError::Nothing { .. }) => {
                assert!(["table.onnx", "recurrent.onnx"].contains(&case.file.as_str()));
                continue;
            }
            Err(error) => panic!("{}: {error}", case.file),
        }
        let method = Method::Int8 { ranges: &ranges, full_range: false };
        let kept = tempfile::tempdir().unwrap();
        let compressed = compress(&file, method).unwrap();
        assert!(compressed.files("a") == compress(&file, method).unwrap().files("a"));
        let path = written(&compressed, kept.path());
        let mut model = Model::open(runtime(), &path, &Trust::default())
            .unwrap_or_else(|error| panic!("{}: {error}", case.file));
        let off = off(&scores(&mut model, &case, &case.rows), &case.expected);
        println!("{} {off} {}", case.file, case.calibrated);
        assert!(off > 0.0 && off <= 1.5 * case.calibrated, "{}: off by {off}", case.file);
    }
}

#[test]
fn every_method_answers_as_near_as_onnx_runtimes_own_quantisation() {
    for case in cases() {
        let file = read(&folder().join(&case.file));
        for method in ALL {
            let what = format!("{} {}", case.file, method.name());
            let kept = tempfile::tempdir().unwrap();
            let compressed = compress(&file, method).unwrap();
            let path = written(&compressed, kept.path());
            let mut model = Model::open(runtime(), &path, &Trust::default())
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            let found = scores(&mut model, &case, &case.rows);
            let most = match method {
                Method::Float16 => 1e-3,
                _ => 1.5 * case.dynamic,
            };
            let off = off(&found, &case.expected);
            assert!(off <= most, "{what}: off by {off}, {most} allowed");
            assert!(off > 0.0, "{what}: nothing was changed");
            let expected = compressed.changes.numbers;
            assert!(expected >= 256, "{what}: {:?}", compressed.changes);
        }
    }
}

/// What a window scores may not depend on which others are scored with it.
#[test]
fn a_window_scores_the_same_in_any_company() {
    for case in cases() {
        let kept = tempfile::tempdir().unwrap();
        let compressed = compress(&read(&folder().join(&case.file)), INT8).unwrap();
        let path = written(&compressed, kept.path());
        let mut model = Model::open(runtime(), &path, &Trust::default()).unwrap();
        // One that is far from all others: it would coarsen the scale of a whole batch.
        let mut rows = case.rows.clone();
        rows[3].iter_mut().for_each(|value| *value *= 100.0);
        let together = scores(&mut model, &case, &rows);
        for (at, row) in rows.iter().enumerate() {
            let alone = scores(&mut model, &case, std::slice::from_ref(row))[0];
            let near = (alone - together[at]).abs() <= 2e-5 * (1.0 + alone.abs());
            assert!(near, "{}, row {at}: {alone} alone, {} in a batch", case.file, together[at]);
        }
    }
}

#[test]
fn the_same_file_gives_the_same_bytes() {
    for case in cases() {
        let path = folder().join(&case.file);
        for method in ALL {
            let make = || compress(&read(&path), method).unwrap().files("small.onnx");
            assert!(make() == make(), "{} {}", case.file, method.name());
        }
    }
}

#[test]
fn weights_beside_a_model_stay_beside_it() {
    let path = folder().join("attending_beside/attending_beside.onnx");
    for method in ALL {
        let kept = tempfile::tempdir().unwrap();
        let compressed = compress(&read(&path), method).unwrap();
        let file = read(&written(&compressed, kept.path()));
        let beside: Vec<String> = file.beside().into_keys().collect();
        let [name] = beside.as_slice() else { panic!("{beside:?}") };
        assert!(name.starts_with("small.onnx."), "{name}");
        // In a folder it is one model, and it may be compressed again.
        assert_eq!(read(kept.path()).digest, file.digest);
        assert!(
            matches!(compress(&file, method), Err(CompressError::Nothing { .. })) || method == INT8
        );
    }
    let inside = compress(&read(&folder().join("attending.onnx")), INT8).unwrap().files("a.onnx");
    assert_eq!(inside.len(), 1);
}

/// An exporter that writes into a file of weights which is there already leaves the old ones in it.
#[test]
fn a_models_size_is_what_it_uses_of_the_files_beside_it() {
    let (from, kept) = (folder().join("attending_beside"), tempfile::tempdir().unwrap());
    for entry in std::fs::read_dir(&from).unwrap().map(|entry| entry.unwrap()) {
        let mut bytes = std::fs::read(entry.path()).unwrap();
        if entry.path().extension().is_none_or(|extension| extension != "onnx") {
            bytes.extend(vec![0; 100_000]);
        }
        std::fs::write(kept.path().join(entry.file_name()), bytes).unwrap();
    }
    assert_eq!(read(kept.path()).size(), read(&from).size());
}

/// The files that people bring (`tests/models/make.py`): each either gets smaller and runs, or is told why not.
#[test]
fn whatever_is_brought_is_compressed_or_left_with_a_reason() {
    let mut left = 0;
    let models = std::fs::read_dir(folder().parent().unwrap()).unwrap();
    for path in models.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        if path.extension().is_none_or(|extension| extension != "onnx") {
            continue;
        }
        let file = read(&path);
        for method in ALL {
            match compress(&file, method) {
                Ok(compressed) => {
                    let kept = tempfile::tempdir().unwrap();
                    let small = written(&compressed, kept.path());
                    match Model::open(runtime(), &small, &Trust::default()) {
                        Ok(_) => {}
                        // As the original does.
                        Err(ModelError::Refused { .. } | ModelError::Trial { .. })
                            if runtime().backend == Backend::Tract
                                && Model::open(runtime(), &path, &Trust::default()).is_err() => {}
                        Err(error) => panic!("{}: {error}", path.display()),
                    }
                }
                Err(CompressError::Nothing { method }) => {
                    left += 1;
                    assert!(["int8-weights", "float16"].contains(&method));
                }
                Err(error) => panic!("{}: {error}", path.display()),
            }
        }
    }
    assert!(left > 10, "{left}");
}

#[test]
fn the_contract_is_carried_over_and_the_signature_is_not() {
    let (key, _) = SigningKey::make().unwrap();
    let mut wide = machine(400, 24, 2);
    // Components enough for a product that is worth compressing.
    wide.name = "wide".into();
    let options = PcaOptions { explained: 0.999, ..PcaOptions::default() };
    let bytes = key.sign(&pca::train(&wide, &options).unwrap().0, &BTreeMap::default());
    let original = ModelFile::of(Path::new("wide.onnx"), bytes.clone(), &Trust::default()).unwrap();
    assert!(original.signed_with.is_some());
    let mut compressed = compress(&original, Method::Float16).unwrap();
    let golden = original.metadata().golden.clone();
    let notes = Notes {
        how: "float16".into(),
        suffix: "float16",
        threshold: Some((0.625, "moved".into())),
        golden,
    };
    compressed.note(&original, &notes);
    let (_, bytes) = compressed.files("wide.onnx").remove(0);
    let result = ModelFile::of(Path::new("wide.onnx"), bytes.clone(), &Trust::default()).unwrap();
    assert_eq!((result.signed_with.clone(), result.beside().len()), (None, 0));
    assert!(!result.metadata().all.contains_key("forebay.signature"));
    let (before, after) = (original.metadata(), result.metadata());
    assert_eq!(after.parent.as_ref(), Some(&original.digest));
    assert_eq!(after.compressed.as_deref(), Some("float16"));
    assert_eq!((after.threshold, after.threshold_by.as_deref()), (Some(0.625), Some("moved")));
    assert_eq!(after.baseline, before.baseline);
    assert_eq!(
        (&after.features, &after.units, &after.outputs),
        (&before.features, &before.units, &before.outputs)
    );
    // Its golden answers are the original's, and it gives them.
    let model = Model::from_bytes(runtime(), Path::new("wide.onnx"), &bytes).unwrap();
    assert_eq!(model.metadata.golden.unwrap().outputs, before.golden.as_ref().unwrap().outputs);
}

#[test]
fn operators_that_are_too_old_are_told() {
    use prost::Message;
    use tract_onnx::pb;
    let path = folder().join("dense.onnx");
    let mut proto = pb::ModelProto::decode(std::fs::read(&path).unwrap().as_slice()).unwrap();
    proto.opset_import[0].version = 9;
    let old = ModelFile::of(&path, proto.encode_to_vec(), &Trust::default()).unwrap();
    let error = compress(&old, INT8).unwrap_err().to_string();
    assert!(error.contains("opset 9; int8-weights needs 11"), "{error}");
}

/// A model with the weights of every other unit changed: `weights` by their shape, with the axis of units.
fn with_units(file: &str, weights: &[Units], change: impl Fn(&mut [u8])) -> ModelFile {
    use prost::Message;
    use tract_onnx::pb;
    let path = folder().join(file);
    let mut proto = pb::ModelProto::decode(std::fs::read(&path).unwrap().as_slice()).unwrap();
    for (dims, axis) in weights {
        let tensors = &mut proto.graph.as_mut().unwrap().initializer;
        let tensor = tensors.iter_mut().find(|tensor| tensor.dims == *dims).unwrap();
        let inner: usize = dims[axis + 1..].iter().product::<i64>() as usize;
        for (at, number) in tensor.raw_data.chunks_mut(4).enumerate() {
            if ((at / inner) % dims[*axis] as usize).is_multiple_of(2) {
                change(number);
            }
        }
    }
    ModelFile::of(&path, proto.encode_to_vec(), &Trust::default()).unwrap()
}

/// How far apart the scores of a model and of the same model with half its units are.
fn halved(original: &ModelFile, activity: &Activity, case: &Case) -> f64 {
    let kept = tempfile::tempdir().unwrap();
    let compressed = compress(original, Method::Pruned { activity, keep: 0.5 }).unwrap();
    let small = read(&written(&compressed, kept.path()));
    let share = small.size() as f64 / original.size() as f64;
    assert!(share < 0.9, "{}: {share} of its size", case.file);
    let mut scored = [original, &small].map(|file| {
        let mut model = Model::from_bytes(runtime(), &file.path, &file.bytes).unwrap();
        scores(&mut model, case, &case.rows)
    });
    let after = std::mem::take(&mut scored[1]);
    off(&scored[0], &after)
}

fn of(file: &str) -> Case {
    cases().into_iter().find(|case| case.file == file).unwrap()
}

/// Units that nothing listens to: their weights on the way out are zeros. Taking out just these changes no answer.
#[test]
fn units_that_nothing_listens_to_are_the_ones_that_go() {
    // By model: weights that take units, with the axis of these.
    let takers: [(&str, &[Units]); 3] = [
        ("dense.onnx", &[(&[24, 48], 1), (&[1, 24], 1)]),
        ("convolved.onnx", &[(&[16, 24, 3], 1), (&[1, 16], 1)]),
        ("attending.onnx", &[(&[64, 32], 0)]),
    ];
    for (file, weights) in takers {
        let original = with_units(file, weights, |number| number.fill(0));
        let off = halved(&original, &Activity::default(), &of(file));
        assert!(off < 1e-5, "{file}: {off}");
    }
}

/// Units that always say the same go first where calibration windows show it, and what they say stays as a bias.
#[test]
fn units_that_never_change_become_a_bias() {
    // By model: weights that make units; without them a unit is its bias.
    let makers: [(&str, &[Units]); 3] = [
        ("dense.onnx", &[(&[48, 16], 0), (&[24, 48], 0)]),
        ("convolved.onnx", &[(&[24, 3, 5], 0), (&[16, 24, 3], 0)]),
        ("attending.onnx", &[(&[32, 64], 1)]),
    ];
    for (file, weights) in makers {
        let case = of(file);
        let original = with_units(file, weights, |number| number.fill(0));
        let mut activity = Activity::default();
        let watched = calibrate::watch(&original, Watch::Units).unwrap();
        watch(&watched, &case, |value, numbers| activity.take(value, numbers));
        let off = halved(&original, &activity, &case);
        assert!(off < 1e-5, "{file}: {off}");
    }
}

/// Two layers with one bias, as exporters write biases that are equal: each gets its own before units go.
#[test]
fn layers_that_share_a_bias_are_pruned_one_by_one() {
    let mut graph = Graph::new("sharing");
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let mut draw =
        |count: usize| -> Vec<f64> { (0..count).map(|_| random.random_range(-0.5..0.5)).collect() };
    graph.input("x", Kind::Float32, &[Dim::Batch, Dim::Fixed(16)]);
    graph.weights("w1", &[16, 48], &draw(16 * 48));
    // Nothing listens to the even units of the first layer, nor to the odd ones of the second.
    let heard = |values: Vec<f64>, columns: usize, odd: bool| -> Vec<f64> {
        let is_odd = |at: usize| (at / columns) % 2 == 1;
        values.iter().enumerate().map(|(at, v)| if is_odd(at) == odd { *v } else { 0.0 }).collect()
    };
    graph.weights("w2", &[48, 48], &heard(draw(48 * 48), 48, true));
    graph.weights("w3", &[48, 8], &heard(draw(48 * 8), 8, false));
    graph.weights("bias", &[48], &draw(48));
    for (product, sum, active, input, weight) in
        [("p1", "s1", "a1", "x", "w1"), ("p2", "s2", "a2", "a1", "w2")]
    {
        graph.node("MatMul", &[input, weight], product);
        graph.node("Add", &[product, "bias"], sum);
        graph.node("Relu", &[sum], active);
    }
    graph.node("MatMul", &["a2", "w3"], "score");
    graph.output("score", Kind::Float32, &[Dim::Batch, Dim::Fixed(8)]);
    let bytes = graph.finish();
    let file = ModelFile::of(Path::new("sharing.onnx"), bytes, &Trust::default()).unwrap();
    let method = Method::Pruned { activity: &Activity::default(), keep: 0.5 };
    let small = compress(&file, method).unwrap();
    // w1 and w2 lose columns, w2 and w3 rows, and both biases half: 24 x 16, 24 x 48 and 24 x 24, 24 x 8, 24 twice.
    assert_eq!(small.changes.numbers, 24 * (16 + 48 + 24 + 8 + 2), "{:?}", small.changes);
    let (_, small) = small.files("small.onnx").remove(0);
    let rows = draw(16 * 5);
    let [a, b] = [&file.bytes, &small].map(|bytes| {
        let mut model = crate::open(bytes);
        model.run_all(&rows, &[5, 16]).unwrap().remove(0).1.values
    });
    assert!(off(&b, &a) < 1e-5, "{}", off(&b, &a));
}
