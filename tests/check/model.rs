//! Models that do not fit their pipeline.

use forebay::model::build::{Dim, Graph, Kind};
use serde_json::json;

use crate::{CONFIG, PIPELINE, SCHEMA, check, snapshot, told, with};

/// `score` = the sum of `width` features.
fn sum(width: usize, kind: Kind, output: &str) -> Graph {
    let mut graph = Graph::new("sum");
    graph.input("features", kind, &[Dim::Batch, Dim::Fixed(width)]);
    let float = if kind == Kind::Float32 {
        "features"
    } else {
        graph.node("Cast", &["features"], "float");
        graph.attribute("to", 1);
        "float"
    };
    graph.weights("ones", &[width], &vec![1.0; width]);
    graph.node("MatMul", &[float, "ones"], output);
    graph.output(output, Kind::Float32, &[Dim::Batch]);
    graph
}

fn noted(names: &[&str]) -> Graph {
    let mut graph = sum(4, Kind::Float32, "score");
    graph.note("forebay.features", serde_json::to_string(names).unwrap());
    graph
}

/// What is told of a pipeline with this `score` and `alarm`, and these models.
fn scored(score: &str, alarm: &str, models: &[(&str, Vec<u8>)]) -> String {
    let alarm = format!("[[stage]]\nalarm = {{ name = \"a\", on = \"anomaly\"{alarm} }}\n");
    staged(score, &alarm, models)
}

/// The same, whatever stands behind the score.
fn staged(score: &str, behind: &str, models: &[(&str, Vec<u8>)]) -> String {
    let from = "[[stage]]\nalarm = { name = \"vibration\", on = \"vibration_rms.mean\", raise = 7.1, clear = 4.5 }\n";
    let to = format!("[[stage]]\nscore = {{ {score}, output = \"anomaly\" }}\n{behind}");
    let pipeline = with(PIPELINE, &[(from, &to)]);
    // The built-in runtime, so that messages are the same on every machine.
    let config = format!("{CONFIG}[onnxruntime]\nlibrary = \"tract\"\n");
    let mut files: Vec<(&str, &[u8])> = vec![
        ("config.toml", config.as_bytes()),
        ("schemas/pump.toml", SCHEMA.as_bytes()),
        ("pipelines/pump.toml", pipeline.as_bytes()),
        ("pipelines/models/note.txt", b"models go here"),
    ];
    files.extend(models.iter().map(|(name, bytes)| (*name, bytes.as_slice())));
    told(&check(&files, &[], &[]))
}

const EMIT: &str = "[[stage]]\nemit = { lane = \"score\" }\n";

const ORDER: [&str; 4] =
    ["vibration_rms.mean", "vibration_rms.std", "pressure.mean", "pressure.std"];

#[test]
fn a_score_that_nothing_is_held_against() {
    let model = noted(&ORDER).finish();
    let score = "model = \"models/m.onnx\"";
    let told = scored(score, ", raise = 7.0", &[("pipelines/models/m.onnx", model.clone())]);
    assert_eq!(told, "no problems in 3 files\n");
    let told = staged(score, EMIT, &[("pipelines/models/m.onnx", model)]);
    assert!(told.contains("warning: nothing says from which `anomaly` on"), "{told}");
    assert!(told.contains("`threshold` here, or an `alarm` on it with `raise`"), "{told}");
}

#[test]
fn a_model_that_fits() {
    let model = noted(&ORDER).finish();
    let told = scored(
        "model = \"models/m.onnx\", threshold = 0.5",
        "",
        &[("pipelines/models/m.onnx", model)],
    );
    assert_eq!(told, "no problems in 3 files\n");
}

#[test]
fn a_model_that_fits_and_means_something_else() {
    let told = |change: fn(&mut Graph)| {
        let mut graph = noted(&ORDER);
        change(&mut graph);
        let score = "model = \"models/m.onnx\", threshold = 0.5";
        let drift = "[[stage]]\ndrift = { on = \"anomaly\" }\n";
        staged(score, drift, &[("pipelines/models/m.onnx", graph.finish())])
    };
    let told_windows = told(|graph| {
        graph.note("forebay.window", "300s");
        graph.note("forebay.step", "1s");
    });
    assert!(told_windows.contains("was trained on other windows"), "{told_windows}");
    assert!(told_windows.contains("300s, which the model notes as `forebay.window`"));
    assert_eq!(told_windows.matches("trained on other windows").count(), 1, "{told_windows}");
    let misspelt = told(|graph| graph.note("forebay.treshold", "0.5"));
    assert!(misspelt.contains("`forebay.treshold`, which nothing reads"), "{misspelt}");
    assert!(misspelt.contains("forebay.threshold"), "{misspelt}");
    let narrow = told(|graph| {
        let tenths = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
        let baseline = json!({ "windows": 100, "inputs": [tenths], "score": tenths });
        graph.note("forebay.baseline", baseline.to_string());
    });
    assert!(narrow.contains("1 inputs in `forebay.baseline`, 4 features"), "{narrow}");
}

#[test]
fn models_that_are_not_there_or_not_models() {
    let good = || sum(4, Kind::Float32, "score").finish();
    let mut torn = good();
    torn.truncate(torn.len() / 2);
    let told = [
        scored(
            "model = \"models/pump-anomoly.onnx\"",
            "",
            &[("pipelines/models/pump-anomaly.onnx", good())],
        ),
        scored("model = \"models\"", ", raise = 1", &[]),
        scored(
            "model = \"models/m.onnx\"",
            ", raise = 1",
            &[("pipelines/models/m.onnx", b"not a model".to_vec())],
        ),
        scored("model = \"models/m.onnx\"", ", raise = 1", &[("pipelines/models/m.onnx", torn)]),
        scored(
            "model = \"models/m.onnx\"",
            ", raise = 1",
            &[("pipelines/models/m.onnx", Vec::new())],
        ),
    ];
    snapshot("model-files", &told.join("\n----\n\n"));
}

#[test]
fn models_that_take_something_else() {
    let one = |graph: Graph, score: &str| {
        scored(
            &format!("model = \"m.onnx\"{score}"),
            ", raise = 1",
            &[("pipelines/m.onnx", graph.finish())],
        )
    };
    let swapped = [ORDER[0], ORDER[1], ORDER[3], ORDER[2]];
    let told = [
        one(sum(6, Kind::Float32, "score"), ""),
        one(sum(4, Kind::Int64, "score"), ""),
        one(noted(&swapped), ""),
        one(noted(&["vibration_rms.mean", "temperature.mean"]), ""),
        one(sum(4, Kind::Float32, "score"), ", tensor = \"scor\""),
        one(sum(4, Kind::Float32, "score"), ", input = \"sequence\""),
        one(noted(&ORDER), ", recalibrate = {}"),
    ];
    snapshot("model-fit", &told.join("\n----\n\n"));
}

#[test]
fn a_model_trained_in_other_units() {
    let trained = |units: &[&str]| {
        let mut graph = noted(&ORDER);
        graph.note("forebay.units", serde_json::to_string(units).unwrap());
        let models = [("pipelines/m.onnx", graph.finish())];
        scored("model = \"m.onnx\"", ", raise = 1", &models)
    };
    let told = [
        trained(&["mm/s", "mm/s", "Pa", "Pa"]),
        trained(&["in/s", "in/s", "psi", "psi"]),
        trained(&["millimetres a second", "", "bar", "bar"]),
    ];
    snapshot("model-units", &told.join("\n----\n\n"));
    for fine in [&["mm/s", "mm/s", "bar", "bar"][..], &["", "", "", ""], &["mm/s"]] {
        assert_eq!(trained(fine), "no problems in 3 files\n", "{fine:?}");
    }
}

#[test]
fn an_alarm_needs_a_threshold_from_somewhere() {
    let plain = || sum(4, Kind::Float32, "score").finish();
    let mut own = sum(4, Kind::Float32, "score");
    own.note("forebay.threshold", "0.8");
    let model = |bytes: Vec<u8>| [("pipelines/m.onnx", bytes)];
    let told = [
        scored("model = \"m.onnx\"", "", &model(plain())),
        scored("model = \"m.onnx\"", ", clear = 0.9", &model(own.clone().finish())),
    ];
    snapshot("model-threshold", &told.join("\n----\n\n"));
    for (score, alarm, bytes) in [
        ("model = \"m.onnx\"", ", clear = 0.7", own.finish()),
        ("model = \"m.onnx\"", ", raise = 0.9", plain()),
        ("model = \"m.onnx\", threshold = 0.9", "", plain()),
    ] {
        assert_eq!(scored(score, alarm, &model(bytes)), "no problems in 3 files\n");
    }
}

#[test]
fn models_of_nobody_that_is_believed() {
    let named = |keys: &str| {
        let config = format!(
            "{CONFIG}[onnxruntime]\nlibrary = \"tract\"\n[models]\nkeys = [{keys}]\nrequire_signature = true\n"
        );
        let score = "[[stage]]\nscore = { model = \"models/m.onnx\", threshold = 0.5, output = \"anomaly\" }\n";
        let from = "[[stage]]\nalarm = { name = \"vibration\"";
        let pipeline = with(PIPELINE, &[(from, &format!("{score}{from}"))]);
        let model = noted(&ORDER).finish();
        told(&check(
            &[
                ("config.toml", config.as_bytes()),
                ("schemas/pump.toml", SCHEMA.as_bytes()),
                ("pipelines/pump.toml", pipeline.as_bytes()),
                ("pipelines/models/m.onnx", model.as_slice()),
            ],
            &[],
            &[],
        ))
    };
    let key = format!("\"{}\"", "ab".repeat(32));
    snapshot("model-unsigned", &[named(&key), named("")].join("\n"));
}
