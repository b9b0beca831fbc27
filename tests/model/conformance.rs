//! Models as people export them: every type of input and output, static and varying batches, one input or one for each
//! feature, classifiers with tensors, labels and maps, convolutions, recurrence and attention. Made by
//! `tests/models/make.py` with PyTorch, scikit-learn, LightGBM and XGBoost, which also say what each must answer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use forebay::model::runtime::{Provider, Settings as Running};
use forebay::model::{Given, Model, ModelError, ModelFile, Trust};
use forebay::pipeline::spec::{ModelInput, ScoreSpec};
use forebay::stage::Stage;
use forebay::stage::score::{ScoreError, ScoreStage};
use serde::Deserialize;

use crate::score::{scores_of, spec};
use crate::{names, runtime};

#[derive(Deserialize)]
struct Case {
    file: String,
    spec: Settings,
    shape: Vec<usize>,
    rows: Vec<Vec<f64>>,
    assets: Vec<u32>,
    expected: Vec<f64>,
    tract: bool,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    tensor: Option<String>,
    class: Option<String>,
    #[serde(default)]
    input: ModelInput,
    #[serde(default)]
    state: BTreeMap<String, String>,
}

fn cases() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/expected.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn stage(case: &Case) -> Result<ScoreStage, ModelError> {
    model(case, &Running::default()).and_then(|model| stage_of(case, model))
}

fn model(case: &Case, running: &Running) -> Result<Model, ModelError> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(&case.file);
    Model::load(runtime(), running, ModelFile::read(&path, &Trust::default())?)
}

fn stage_of(case: &Case, model: Model) -> Result<ScoreStage, ModelError> {
    let Settings { tensor, class, input, state } = case.spec.clone();
    let spec = ScoreSpec { tensor, class, input, state, ..spec() };
    let (columns, steps) = match case.shape.as_slice() {
        [features] => (names(*features), 0),
        [steps, channels] => (names(*channels), *steps),
        other => panic!("{other:?}"),
    };
    let given = Given::of(input, &columns, steps, &columns);
    match ScoreStage::new(&spec, model, given) {
        Ok(stage) => Ok(stage),
        Err(ScoreError::Model(error)) => Err(error),
        Err(other) => panic!("{}: {other}", case.file),
    }
}

#[test]
fn every_honest_model_gives_the_scores_of_the_library_that_made_it() {
    let is_tract = runtime().name() == "tract";
    let (mut right, mut refused) = (0, Vec::new());
    for case in cases() {
        let mut stage = match stage(&case) {
            Ok(stage) => stage,
            // An operator that the built-in runtime has not is said when the model is opened, not window by window.
            Err(error @ (ModelError::Refused { .. } | ModelError::Trial { .. })) if is_tract => {
                assert!(!case.tract, "{}: {error}", case.file);
                assert!(error.to_string().contains("cannot be loaded by tract"), "{error}");
                refused.push(case.file);
                continue;
            }
            Err(error) => panic!("{}: {error}", case.file),
        };
        gives_what_is_expected(&case, &mut stage);
        right += 1;
    }
    assert!(right >= if is_tract { 19 } else { 27 }, "only {right}; refused: {refused:?}");
    assert!(is_tract || refused.is_empty());
}

fn gives_what_is_expected(case: &Case, stage: &mut ScoreStage) {
    let found = scores_of(stage, &case.assets, &case.rows, &case.shape);
    let what = format!("{} {:?}", case.file, case.spec.class);
    assert_eq!(found.len(), case.expected.len(), "{what}");
    for (row, (found, expected)) in found.iter().zip(&case.expected).enumerate() {
        let near = (found - expected).abs() <= 1e-4 * (1.0 + expected.abs());
        assert!(near, "{what}, row {row}: expected {expected}, found {found}");
    }
}

/// Where the library is one with OpenVINO, as PyPI's onnxruntime-openvino: it has to be used, too.
#[test]
fn on_openvino_they_give_the_same() {
    let beside =
        |(_, path): &(_, PathBuf)| path.with_file_name("libonnxruntime_providers_openvino.so");
    if !runtime().library.as_ref().map(beside).is_some_and(|plugin| plugin.exists()) {
        eprintln!("skipped: no OpenVINO beside {}", runtime());
        return;
    }
    let running = Running { providers: vec![Provider::OpenVino], ..Running::default() };
    let mut others = BTreeSet::new();
    // OpenVINO 2025.4 computes int64 with 24 bits: of 20,000,001 modulo 1,000 it says 0.
    for case in cases().into_iter().filter(|case| case.file != "state_int64.onnx") {
        let model = model(&case, &running).unwrap();
        if !model.runs_on().ends_with("(openvino)") {
            others.insert(case.file.clone());
        }
        gives_what_is_expected(&case, &mut stage_of(&case, model).unwrap());
    }
    // Its plug-in for processors knows no tensor whose rank is unknown, as those two say of theirs.
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    assert_eq!(others, ["lightgbm.onnx", "sklearn_columns.onnx"]);
}

#[test]
fn a_class_that_is_none_is_told_with_those_there_are() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/sklearn_maps.onnx");
    let Ok(model) = Model::from_bytes(runtime(), &path, &std::fs::read(&path).unwrap()) else {
        assert_eq!(runtime().name(), "tract");
        return;
    };
    let tensor = Some("output_probability".to_owned());
    let told = |class: Option<&str>| {
        let misfit = model.score_output(tensor.as_deref(), "anomaly", class).unwrap_err();
        misfit.to_string()
    };
    let text = told(Some("broken"));
    assert!(text.contains("expected one of failing, healthy, found broken"), "{text}");
    let text = told(None);
    assert!(text.contains("or one of failing, healthy as `class`"), "{text}");
    let label = model.score_output(Some("output_label"), "anomaly", None).unwrap_err();
    assert!(label.to_string().contains("the label to look for as `class`"), "{label}");
    let said = |class| model.score_output(Some("output_label"), "anomaly", Some(class));
    assert!(said("failing").is_ok());
    let text = said("broken").unwrap_err().to_string();
    assert!(text.contains("expected one of failing, healthy, found broken"), "{text}");
}

/// However its windows are divided among ticks, and wherever it was interrupted, a model that remembers says the same.
#[test]
fn what_a_model_remembers_of_an_asset_outlives_ticks_and_restarts() {
    for case in cases().into_iter().filter(|case| !case.spec.state.is_empty()) {
        for cuts in 0..1_u32 << 5 {
            let mut found = Vec::new();
            let mut stage = self::stage(&case).unwrap();
            let mut first = 0;
            for (bit, last) in [2, 3, 5, 8, 9].into_iter().enumerate().chain([(9, case.rows.len())])
            {
                if bit < 5 && cuts >> bit & 1 == 0 {
                    continue;
                }
                let (assets, rows) = (&case.assets[first..last], &case.rows[first..last]);
                found.extend(scores_of(&mut stage, assets, rows, &case.shape));
                first = last;
                if last % 2 == 1 {
                    let saved = stage.save().unwrap();
                    stage = self::stage(&case).unwrap();
                    stage.load(&saved).unwrap();
                }
            }
            assert_eq!(found.len(), case.expected.len());
            for (found, expected) in found.iter().zip(&case.expected) {
                let near = (found - expected).abs() < 1e-5;
                assert!(near, "{}, cut at {cuts:b}: {found} and not {expected}", case.file);
            }
        }
    }
}

#[test]
fn a_memory_of_another_model_is_left_behind() {
    let of = |file: &str| cases().into_iter().find(|case| case.file == file).unwrap();
    let (one, other) = (of("torch_state.onnx"), of("torch_state_of_one.onnx"));
    let mut first = stage(&one).unwrap();
    let fresh = scores_of(&mut first, &[0], &one.rows[..1], &one.shape);
    let mut second = stage(&other).unwrap();
    second.load(&first.save().unwrap()).unwrap();
    let after = scores_of(&mut second, &[0], &one.rows[..1], &one.shape);
    assert!((fresh[0] - after[0]).abs() < 1e-6, "it starts anew");
    first.load(&[]).unwrap();
    assert_eq!(scores_of(&mut first, &[0], &one.rows[..1], &one.shape), fresh);
}

#[test]
fn a_state_that_is_none_is_told() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/torch_state.onnx");
    let bytes = std::fs::read(&path).unwrap();
    let told = |input: &str, output: &str| {
        let model = Model::from_bytes(runtime(), &path, &bytes).unwrap();
        let state = BTreeMap::from([(input.to_owned(), output.to_owned())]);
        let spec = ScoreSpec { state, ..spec() };
        ScoreStage::new(&spec, model, Given::Features(&names(3))).unwrap_err().to_string()
    };
    let text = told("memry", "after");
    assert!(text.contains("state: expected one of x, memory, found `memry`"), "{text}");
    let text = told("memory", "later");
    assert!(text.contains("state: expected one of score, after, found `later`"), "{text}");
    let text = told("memory", "score");
    assert!(text.contains("its state [1, 1, 5]"), "{text}");
}
