//! Models on the runtime that is asked for: `FOREBAY_TEST_RUNTIME=tract` or `=onnxruntime`; without it ONNX Runtime
//! where `ORT_DYLIB_PATH` names one, else tract. A process holds one runtime, so CI runs this twice.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

#[path = "common/bin.rs"]
mod bin;
#[path = "model/bad.rs"]
mod bad;
#[path = "model/compress.rs"]
mod compress;
#[path = "model/conformance.rs"]
mod conformance;
#[path = "model/net.rs"]
mod net;
#[path = "model/package.rs"]
mod package;
#[path = "model/score.rs"]
mod score;
#[path = "model/train.rs"]
mod train;
#[path = "model/retrain.rs"]
mod retrain;
#[path = "model/student.rs"]
mod student;
#[path = "model/trees.rs"]
mod trees;

use std::path::Path;

use forebay::model::build::{Dim, Graph, Kind};
use forebay::model::runtime::Backend;
use forebay::model::{Model, Runtime, Wanted};

/// The runtime under test.
pub(crate) fn runtime() -> &'static Runtime {
    let asked = std::env::var("FOREBAY_TEST_RUNTIME").unwrap_or_default();
    let named = std::env::var("ORT_DYLIB_PATH").is_ok_and(|path| !path.is_empty());
    let tract = asked == "tract" || (asked.is_empty() && !named);
    let runtime = Runtime::find(tract.then_some(Path::new("tract"))).unwrap();
    let expected = if tract { Backend::Tract } else { Backend::OnnxRuntime };
    assert_eq!(runtime.backend, expected, "tried: {:?}", runtime.tried);
    runtime
}

/// A model from bytes.
pub(crate) fn open(bytes: &[u8]) -> Model {
    Model::from_bytes(runtime(), Path::new("test.onnx"), bytes).unwrap()
}

/// A model that adds up its `width` features: `score = sum`, with `contributions` the features themselves.
pub(crate) fn sum(width: usize, kind: Kind, batch: Dim) -> Graph {
    let mut graph = Graph::new("sum");
    graph.input("features", kind, &[batch, Dim::Fixed(width)]);
    let float = match kind {
        Kind::Float32 => "features",
        Kind::Float64 | Kind::Int64 => {
            graph.node("Cast", &["features"], "float");
            graph.attribute("to", 1);
            "float"
        }
    };
    graph.weights("ones", &[width], &vec![1.0; width]);
    graph.node("MatMul", &[float, "ones"], "score");
    graph.node("Identity", &[float], "contributions");
    graph.output("score", Kind::Float32, &[batch]);
    graph.output("contributions", Kind::Float32, &[batch, Dim::Fixed(width)]);
    graph
}

/// Names `f0`, `f1`, ….
pub(crate) fn names(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("f{i}")).collect()
}

#[test]
fn the_runtime_says_what_it_is() {
    let runtime = runtime();
    match runtime.backend {
        Backend::Tract => assert_eq!(runtime.name(), "tract"),
        Backend::OnnxRuntime => {
            let (name, version) =
                runtime.name().split_once(' ').map(|(n, v)| (n.to_owned(), v.to_owned())).unwrap();
            assert_eq!(name, "onnxruntime");
            assert!(version.starts_with("1."), "{version}");
            assert!(runtime.library.is_some());
        }
    }
    // The second to ask gets the same one.
    assert!(std::ptr::eq(runtime, Runtime::find(None).unwrap()));
}

#[test]
fn a_model_names_itself_or_is_named_by_its_file() {
    let plain = sum(2, Kind::Float32, Dim::Batch).finish();
    let model = Model::from_bytes(runtime(), Path::new("models/pump.onnx"), &plain).unwrap();
    assert_eq!(model.name(), "pump");
    assert_eq!(model.version().len(), 12);
    assert!(model.digest.starts_with(&model.version()));

    let mut noted = sum(2, Kind::Float32, Dim::Batch);
    noted.note("forebay.name", "pump anomaly");
    noted.note("forebay.version", "7");
    noted.note("forebay.threshold", "0.75");
    let noted = open(&noted.finish());
    assert_eq!((noted.name().as_str(), noted.version().as_str()), ("pump anomaly", "7"));
    assert_eq!(noted.metadata.threshold, Some(0.75));
}

#[test]
fn large_batches_float64_and_single_row_models_give_the_same() {
    let rows: Vec<f64> = (0..700 * 3).map(|i| f64::from(i % 97) / 8.0).collect();
    let expected: Vec<f64> = rows.chunks(3).map(|row| row.iter().sum()).collect();
    for graph in [
        sum(3, Kind::Float32, Dim::Batch),
        sum(3, Kind::Float64, Dim::Batch),
        sum(3, Kind::Float32, Dim::Fixed(1)),
    ] {
        let mut model = open(&graph.finish());
        let outputs = model.run_all(&rows, &[700, 3]).unwrap();
        let (name, score) = &outputs[0];
        assert_eq!((name.as_str(), score.width), ("score", 1));
        assert_eq!(score.values.len(), 700);
        for (found, expected) in score.values.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-4);
        }
        assert_eq!(outputs[1].1.width, 3);
        assert_eq!(outputs[1].1.values, rows);
    }
}

#[test]
fn an_input_of_another_shape_is_an_error() {
    let mut model = open(&sum(3, Kind::Float32, Dim::Batch).finish());
    for (numbers, shape) in [(8, vec![2, 4]), (5, vec![2, 3]), (6, vec![6]), (6, vec![1, 2, 3])] {
        let error =
            model.run(&vec![0.0; numbers], &shape, &[Wanted::all(0)], &mut Vec::new()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("takes [n, 3]"), "{text}");
    }
    model.run(&[1.0, 2.0, 3.0], &[1, 3], &[Wanted::all(0)], &mut Vec::new()).unwrap();
}
