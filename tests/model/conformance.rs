//! Models as people export them: every type of input and output, static and varying batches, one input or one for each
//! feature, classifiers with tensors, labels and maps, convolutions, recurrence and attention. Made by
//! `tests/models/make.py` with PyTorch, scikit-learn, LightGBM and XGBoost, which also say what each must answer.

use std::path::Path;

use forebay::model::{Given, Model, ModelError};
use forebay::pipeline::spec::{ModelInput, ScoreSpec};
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
    expected: Vec<f64>,
    tract: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    tensor: Option<String>,
    class: Option<String>,
    #[serde(default)]
    input: ModelInput,
}

fn cases() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/expected.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn stage(case: &Case) -> Result<ScoreStage, ModelError> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(&case.file);
    let model = Model::from_bytes(runtime(), &path, &std::fs::read(&path).unwrap())?;
    let Settings { tensor, class, input } = &case.spec;
    let spec = ScoreSpec { tensor: tensor.clone(), class: class.clone(), input: *input, ..spec() };
    let (columns, steps) = match case.shape.as_slice() {
        [features] => (names(*features), 0),
        [steps, channels] => (names(*channels), *steps),
        other => panic!("{other:?}"),
    };
    let given = Given::of(*input, &columns, steps, &columns);
    match ScoreStage::new(&spec, model, given) {
        Ok(stage) => Ok(stage),
        Err(ScoreError::Model(error)) => Err(error),
        Err(ScoreError::Fit(misfits)) => panic!("{}: {misfits:?}", case.file),
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
                assert!(error.to_string().contains(&case.file), "{error}");
                refused.push(case.file);
                continue;
            }
            Err(error) => panic!("{}: {error}", case.file),
        };
        let found = scores_of(&mut stage, &case.rows, &case.shape);
        let what = format!("{} {:?}", case.file, case.spec.class);
        assert_eq!(found.len(), case.expected.len(), "{what}");
        for (row, (found, expected)) in found.iter().zip(&case.expected).enumerate() {
            let near = (found - expected).abs() <= 1e-4 * (1.0 + expected.abs());
            assert!(near, "{what}, row {row}: expected {expected}, found {found}");
        }
        right += 1;
    }
    assert!(right >= if is_tract { 12 } else { 20 }, "only {right}; refused: {refused:?}");
    assert!(is_tract || refused.is_empty());
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
}
