//! Bad models at the door: each gives one message that says what is wrong, and none ends the process.

use std::path::Path;

use forebay::model::build::{Dim, Graph, Kind};
use forebay::model::{Given, Host, Model, ModelError, Trust};
use forebay::schema::Signal;
use forebay::stage::score::{Loader, ScoreError, ScoreStage};
use prost::Message;
use tract_onnx::pb;

use crate::score::spec;
use crate::{names, open, runtime, sum};

fn error(bytes: &[u8]) -> String {
    Model::from_bytes(runtime(), Path::new("bad.onnx"), bytes).unwrap_err().to_string()
}

/// The bytes of `graph` after a change to its protobuf.
fn changed(graph: Graph, change: impl FnOnce(&mut pb::ModelProto)) -> Vec<u8> {
    let mut proto = pb::ModelProto::decode(graph.finish().as_slice()).unwrap();
    change(&mut proto);
    proto.encode_to_vec()
}

/// What a stage with features `f0 … fN` says of a model.
fn misfit(bytes: &[u8], width: usize) -> String {
    let stage = ScoreStage::new(&spec(), open(bytes), Given::Features(&names(width)));
    match stage.unwrap_err() {
        ScoreError::Fit(all) => all.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
        other => panic!("{other}"),
    }
}

#[test]
fn files_that_are_not_there_or_not_models() {
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path| Model::open(runtime(), path, &Trust::default()).unwrap_err();
    let missing = folder.path().join("missing.onnx");
    assert!(matches!(open(&missing), ModelError::Read { path, .. } if path == missing));
    assert!(matches!(open(folder.path()), ModelError::Folder { found: 0, .. }));
    for (name, content) in [
        ("text.onnx", "this is not a model\n".as_bytes()),
        ("empty.onnx", b""),
        ("zeros.onnx", &[0; 4096]),
        ("json.onnx", br#"{"model": "pump"}"#),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let error = open(&path);
        assert!(matches!(error, ModelError::NotOnnx { .. }), "{name}: {error}");
        assert!(error.to_string().contains(name));
    }
    let huge = folder.path().join("huge.onnx");
    std::fs::File::create(&huge).unwrap().set_len(1 << 40).unwrap();
    assert!(matches!(open(&huge), ModelError::TooLarge { .. }));
}

#[test]
fn truncated_anywhere_is_an_error() {
    let bytes = sum(8, Kind::Float32, Dim::Batch).finish();
    for length in 0..bytes.len() {
        let cut = bytes.get(..length).unwrap();
        if let Ok(model) = Model::from_bytes(runtime(), Path::new("cut.onnx"), cut) {
            // Where the cut falls between two fields the rest is a model, but not this one.
            let stage = ScoreStage::new(&spec(), model, Given::Features(&names(8)));
            assert!(
                stage.is_err() || length > bytes.len() - 40,
                "cut at {length} of {}",
                bytes.len()
            );
        }
    }
}

#[test]
fn a_damaged_file_never_ends_the_process() {
    let bytes = sum(4, Kind::Float32, Dim::Batch).finish();
    let mut random = fastrand::Rng::with_seed(7);
    let (mut refused, mut taken) = (0, 0);
    for _ in 0..600 {
        let mut damaged = bytes.clone();
        for _ in 0..random.usize(1..4) {
            let place = random.usize(..damaged.len());
            damaged[place] = random.u8(..);
        }
        match Model::from_bytes(runtime(), Path::new("damaged.onnx"), &damaged) {
            Ok(model) => match ScoreStage::new(&spec(), model, Given::Features(&names(4))) {
                Ok(_) => taken += 1,
                Err(_) => refused += 1,
            },
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 100 && taken > 20, "{refused} refused, {taken} taken");
}

#[test]
fn a_wrong_width_names_what_is_missing() {
    let mut graph = sum(3, Kind::Float32, Dim::Batch);
    assert_eq!(
        misfit(&graph.clone().finish(), 2),
        "shape of input `features`: expected [n, 3], which the model takes, found [n, 2], which the pipeline gives: \
         2 features (f0, f1)"
    );
    graph.note("forebay.features", r#"["f0","f1","f9"]"#);
    assert_eq!(
        misfit(&graph.finish(), 2),
        "shape of input `features`: expected [n, 3], which the model takes, found [n, 2], which the pipeline gives: \
         2 features (f0, f1)\n\
         features: expected 3, found 2; missing `f9`"
    );
}

#[test]
fn wrong_names_types_and_outputs_are_told_apart() {
    let mut order = sum(2, Kind::Float32, Dim::Batch);
    order.note("forebay.features", r#"["f1","f0"]"#);
    assert_eq!(
        misfit(&order.finish(), 2),
        "feature 1: expected `f1`, found `f0`\nfeature 2: expected `f0`, found `f1`"
    );
    let text = changed(sum(2, Kind::Float32, Dim::Batch), |proto| {
        let graph = proto.graph.as_mut().unwrap();
        let mut input = graph.input[0].clone();
        input.name = "label".into();
        let value = input.r#type.as_mut().unwrap().value.as_mut().unwrap();
        let pb::type_proto::Value::TensorType(tensor) = value;
        tensor.elem_type = pb::tensor_proto::DataType::String as i32;
        graph.input = vec![input];
        graph.node[0].input[0] = "ones".into();
        graph.node[1].input[0] = "ones".into();
    });
    match Model::from_bytes(runtime(), Path::new("text.onnx"), &text) {
        Ok(_) => assert!(misfit(&text, 2).contains("expected text, found numbers")),
        Err(error) => assert!(matches!(error, ModelError::Refused { .. }), "{error}"),
    }
    let mut unreadable = sum(2, Kind::Float32, Dim::Batch);
    unreadable.note("forebay.threshold", "high");
    assert_eq!(
        misfit(&unreadable.finish(), 2),
        "metadata `forebay.threshold`: expected a readable value, found high"
    );

    let mut wide = Graph::new("wide");
    wide.input("features", Kind::Float32, &[Dim::Batch, Dim::Fixed(2)]);
    wide.node("Identity", &["features"], "score");
    wide.output("score", Kind::Float32, &[Dim::Batch, Dim::Fixed(2)]);
    assert_eq!(
        misfit(&wide.finish(), 2),
        "output `score`: expected one number a window, [n] or [n, 1]; or the place of one of its \
         columns as `class`, found [n, 2]"
    );
}

#[test]
fn a_shape_the_file_hides_is_found_by_running() {
    // Says its score is one number a window, but gives two.
    let mut graph = Graph::new("liar");
    graph.input("features", Kind::Float32, &[Dim::Batch, Dim::Fixed(2)]);
    graph.node("Identity", &["features"], "score");
    graph.output("score", Kind::Float32, &[Dim::Batch, Dim::Batch]);
    let stage = ScoreStage::new(&spec(), open(&graph.finish()), Given::Features(&names(2)));
    let text = stage.unwrap_err().to_string();
    assert!(text.contains("numbers a window in output `score`: expected 1, found 2"), "{text}");
}

/// `operator` over the rows: what it gives of a window depends on the others.
fn over_rows(operator: &str, dims: &[Dim]) -> Graph {
    let mut graph = Graph::new("over_rows");
    graph.input("features", Kind::Float32, &[Dim::Batch, Dim::Fixed(2)]);
    graph.weights("ones", &[2, 1], &[1.0, 1.0]);
    graph.node("MatMul", &["features", "ones"], "sum");
    graph.node(operator, &["sum"], "over");
    graph.attributes("axes", &[0]);
    graph.output("score", Kind::Float32, dims);
    graph
}

#[test]
fn an_output_that_is_right_for_one_window_only_is_found_before_the_first_batch() {
    let mut graph = over_rows("ReduceMean", &[Dim::Batch, Dim::Fixed(1)]);
    graph.node("Identity", &["over"], "score");
    let stage = ScoreStage::new(&spec(), open(&graph.finish()), Given::Features(&names(2)));
    let text = stage.unwrap_err().to_string();
    assert!(text.contains("has the shape [1, 1] for 3 rows"), "{text}");
}

#[test]
fn a_score_that_depends_on_the_windows_beside_it_is_told() {
    let mut graph = over_rows("ReduceMax", &[Dim::Batch, Dim::Fixed(1)]);
    graph.node("Div", &["sum", "over"], "score");
    let doubt = |bytes: &[u8]| {
        let stage = ScoreStage::new(&spec(), open(bytes), Given::Features(&names(2))).unwrap();
        stage.doubt()
    };
    let told = doubt(&graph.finish()).unwrap();
    assert!(told.contains("`batch = 1` keeps them apart"), "{told}");
    let mut nothing = Graph::new("nothing");
    nothing.input("features", Kind::Float32, &[Dim::Batch, Dim::Fixed(1)]);
    nothing.weights("minus", &[], &[-1.0]);
    nothing.node("Sub", &["minus", "features"], "below");
    nothing.node("Sqrt", &["below"], "score");
    nothing.output("score", Kind::Float32, &[Dim::Batch, Dim::Fixed(1)]);
    let bytes = nothing.finish();
    let stage = ScoreStage::new(&spec(), open(&bytes), Given::Features(&names(1))).unwrap();
    assert!(stage.doubt().unwrap().contains("no number"));
    assert_eq!(doubt(&sum(2, Kind::Float32, Dim::Batch).finish()), None);
}

#[test]
fn a_model_in_another_unit_is_refused_however_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    let mut graph = sum(2, Kind::Float32, Dim::Batch);
    graph.note("forebay.units", r#"["degF","bar"]"#);
    std::fs::write(&path, graph.finish()).unwrap();
    let signal = |name: &str, unit: &str| Signal {
        name: name.into(),
        unit: unit.into(),
        ..Signal::default()
    };
    let features = ["t.mean", "p.mean"].map(str::to_owned).to_vec();
    let opened = |unit: &str| {
        let signals = [signal("t", unit), signal("p", "bar")];
        let loader = Loader::new(spec(), features.clone(), (0, Vec::new()), Host::default());
        loader.of_signals(&signals).open(&path).map(|_| ()).map_err(|e| e.to_string())
    };
    assert_eq!(opened("degF"), Ok(()));
    let told = opened("degC").unwrap_err();
    assert!(told.contains("unit of `t`: expected degF, in which the model was trained"), "{told}");
    // Two spellings of one, perhaps: `check` warns.
    assert_eq!(opened("Fahrenheit"), Ok(()));
}

#[test]
fn steps_before_windows_are_told() {
    let mut graph = Graph::new("time_first");
    graph.input("features", Kind::Float32, &[Dim::Fixed(6), Dim::Batch, Dim::Fixed(2)]);
    graph.node("Identity", &["features"], "score");
    graph.output("score", Kind::Float32, &[Dim::Fixed(6), Dim::Batch, Dim::Fixed(2)]);
    let given = Given::Sequence { steps: 6, channels: &names(2) };
    let [misfit] = open(&graph.finish()).check_given(given).try_into().unwrap();
    assert!(misfit.to_string().contains("where the steps come first"), "{misfit}");
}

#[test]
fn two_inputs_are_one_too_many() {
    let mut graph = sum(2, Kind::Float32, Dim::Batch);
    graph.input("more", Kind::Float32, &[Dim::Batch, Dim::Fixed(2)]);
    graph.node("Identity", &["more"], "unused");
    graph.output("unused", Kind::Float32, &[Dim::Batch, Dim::Fixed(2)]);
    assert_eq!(
        misfit(&graph.finish(), 2),
        "inputs: expected one, or one for each feature; `state` names those that are fed by outputs, \
         found 2 (features, more)"
    );
}

#[test]
fn graphs_that_cannot_work() {
    let unknown = {
        let mut graph = sum(2, Kind::Float32, Dim::Batch);
        graph.node("NoSuchOperator", &["score"], "odd");
        graph.output("odd", Kind::Float32, &[Dim::Batch]);
        graph.finish()
    };
    assert!(error(&unknown).contains("cannot be loaded by"), "{}", error(&unknown));
    let dangling = changed(sum(2, Kind::Float32, Dim::Batch), |proto| {
        proto.graph.as_mut().unwrap().output[0].name = "nowhere".into();
    });
    assert!(error(&dangling).contains("nothing computes its output `nowhere`"));
    let unfed = changed(sum(2, Kind::Float32, Dim::Batch), |proto| {
        proto.graph.as_mut().unwrap().node[0].input[0] = "nowhere".into();
    });
    assert!(error(&unfed).contains("cannot be loaded by"), "{}", error(&unfed));
    let outside = changed(sum(2, Kind::Float32, Dim::Batch), |proto| {
        let tensor = &mut proto.graph.as_mut().unwrap().initializer[0];
        tensor.data_location = Some(1);
        tensor.external_data.push(pb::StringStringEntryProto {
            key: "location".into(),
            value: "weights.bin".into(),
        });
    });
    assert!(error(&outside).contains("keeps its weights in other files"), "{}", error(&outside));
    let huge = changed(sum(2, Kind::Float32, Dim::Batch), |proto| {
        proto.graph.as_mut().unwrap().initializer[0].dims = vec![1 << 40, 1 << 40];
    });
    assert!(error(&huge).contains("impossible shape"));
    let short = changed(sum(2, Kind::Float32, Dim::Batch), |proto| {
        proto.graph.as_mut().unwrap().initializer[0].dims = vec![3];
    });
    assert!(error(&short).contains("tensor `ones` holds 2 numbers of 3"));
}

#[test]
fn weights_among_the_inputs_are_not_inputs() {
    // Before IR version 4 every initializer had to be listed as an input too.
    let bytes = changed(sum(2, Kind::Float32, Dim::Batch), |proto| {
        proto.ir_version = 3;
        let graph = proto.graph.as_mut().unwrap();
        let mut listed = graph.output[0].clone();
        listed.name = "ones".into();
        graph.input.insert(0, listed);
    });
    let mut model = open(&bytes);
    assert_eq!(model.signature.inputs.len(), 1);
    let outputs = model.run_all(&[1.0, 2.0], &[1, 2]).unwrap();
    assert_eq!(outputs[0].1.values, [3.0]);
}
