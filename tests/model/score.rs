//! The `score` stage.

use std::collections::BTreeMap;

use forebay::command::ModelAction;
use forebay::frame::Windows;
use forebay::model::build::{Dim, Graph, Kind};
use forebay::model::{Given, Model};
use forebay::pipeline::spec::{ModelInput, ScoreSpec};
use forebay::stage::score::{ScoreError, ScoreStage};
use forebay::stage::{Around, Effects, Flow, Stage, StageError};
use forebay::time::{Span, Tick, Timestamp};
use proptest::prelude::*;

use crate::{names, open, sum};

pub(crate) fn spec() -> ScoreSpec {
    ScoreSpec {
        model: "test.onnx".into(),
        output: "anomaly".into(),
        input: ModelInput::Features,
        tensor: None,
        class: None,
        batch: 256,
        state: BTreeMap::new(),
        threshold: None,
        deadline: None,
        fallback: true,
        recalibrate: None,
    }
}

fn windows(rows: &[Vec<f64>]) -> Windows {
    let width = rows.first().map_or(0, Vec::len);
    Windows {
        asset: (0..rows.len() as u32).collect(),
        start: vec![Timestamp(0); rows.len()],
        end: vec![Timestamp(60_000_000); rows.len()],
        coverage: vec![1.0; rows.len()],
        names: names(width),
        features: rows.concat(),
        ..Windows::default()
    }
}

fn apply(stage: &mut ScoreStage, windows: Windows) -> (Windows, Effects) {
    let tick = Tick { seq: 1, now: Timestamp(0) };
    let around = Around { node: "n", pipeline: "p", assets: &[], tick, deaf: false, ended: false };
    let mut effects = Effects::default();
    match stage.apply(Flow::Windows(windows), &around, &mut effects).unwrap() {
        Flow::Windows(windows) => (windows, effects),
        other => panic!("{other:?}"),
    }
}

/// The scores of rows of samples or features, in one tick.
pub(crate) fn scores_of(
    stage: &mut ScoreStage,
    assets: &[u32],
    rows: &[Vec<f64>],
    shape: &[usize],
) -> Vec<f64> {
    let mut input = Windows { asset: assets.to_vec(), ..windows(rows) };
    if let [steps, channels] = *shape {
        (input.steps, input.channels) = (steps, channels);
        (input.sequence, input.features) = (rows.concat(), Vec::new());
        input.names.clear();
    }
    let (out, _) = apply(stage, input);
    out.scores[0].values.iter().map(|score| score.unwrap()).collect()
}

fn stage(model: Model, width: usize) -> ScoreStage {
    ScoreStage::new(&spec(), model, Given::Features(&names(width))).unwrap()
}

#[test]
fn windows_with_a_missing_input_are_not_scored_and_counted() {
    let mut graph = sum(3, Kind::Float32, Dim::Batch);
    graph.note("forebay.threshold", "4.5");
    let mut stage = stage(open(&graph.finish()), 3);
    let rows = [
        vec![1.0, 2.0, 3.0],
        vec![f64::NAN, 2.0, 3.0],
        vec![-4.0, 0.0, 1.0],
        vec![1.0, f64::INFINITY, 3.0],
        vec![1.0, 1e300, 3.0],
    ];
    let (out, effects) = apply(&mut stage, windows(&rows));
    let scored = &out.scores[0];
    assert_eq!(scored.values, [Some(6.0), None, Some(-3.0), None, None]);
    assert_eq!((effects.account.scores, effects.account.unscored), (2, 3));
    let speaker = scored.speaker(0).unwrap();
    assert_eq!((scored.output.as_str(), speaker.model.as_str()), ("anomaly", "test"));
    assert_eq!(speaker.threshold, Some(4.5));
    assert_eq!(speaker.version.len(), 12);
    assert_eq!(scored.shares.largest(0), [("f2", 3.0), ("f1", 2.0), ("f0", 1.0)]);
    assert_eq!(scored.shares.largest(1), []);
    let third = scored.shares.largest(2);
    assert_eq!(third, [("f2", 1.0)], "what lowers a score does not explain it");
}

#[test]
fn the_pipeline_can_set_the_threshold_and_name_the_output() {
    let mut graph = sum(2, Kind::Float32, Dim::Batch);
    graph.node("Neg", &["score"], "other");
    graph.output("other", Kind::Float32, &[Dim::Batch]);
    graph.note("forebay.threshold", "4.5");
    let spec = ScoreSpec { tensor: Some("other".into()), threshold: Some(9.0), ..spec() };
    let mut stage =
        ScoreStage::new(&spec, open(&graph.finish()), Given::Features(&names(2))).unwrap();
    assert_eq!(stage.threshold(), Some(9.0));
    let (out, _) = apply(&mut stage, windows(&[vec![1.0, 2.0]]));
    assert_eq!(out.scores[0].values, [Some(-3.0)]);
}

#[test]
fn several_models_score_the_same_windows() {
    let mut first = stage(open(&sum(2, Kind::Float32, Dim::Batch).finish()), 2);
    let mut second = stage(open(&sum(2, Kind::Float64, Dim::Fixed(1)).finish()), 2);
    let (out, _) = apply(&mut first, windows(&[vec![1.0, 2.0], vec![3.0, 4.0]]));
    let (out, _) = apply(&mut second, out);
    assert_eq!(out.scores.len(), 2);
    assert_eq!(out.scores[0].values, out.scores[1].values);
}

#[test]
fn a_tick_without_windows_gives_no_scores() {
    let mut stage = stage(open(&sum(2, Kind::Float32, Dim::Batch).finish()), 2);
    let (out, effects) = apply(&mut stage, windows(&[]));
    assert_eq!(out.scores[0].values, []);
    assert_eq!(effects.account.unscored, 0);
}

#[test]
fn sequences_are_scored_and_explained_by_channel() {
    let mut graph = Graph::new("sequence");
    graph.input("samples", Kind::Float32, &[Dim::Batch, Dim::Fixed(4), Dim::Fixed(2)]);
    graph.integers("flat", &[-1, 8]);
    graph.node("Reshape", &["samples", "flat"], "row");
    graph.weights("ones", &[8], &[1.0; 8]);
    graph.node("MatMul", &["row", "ones"], "anomaly");
    graph.node("Identity", &["row"], "contributions");
    graph.output("anomaly", Kind::Float32, &[Dim::Batch]);
    graph.output("contributions", Kind::Float32, &[Dim::Batch, Dim::Fixed(8)]);
    let channels = ["load".to_owned(), "heat".to_owned()];
    let given = Given::Sequence { steps: 4, channels: &channels };
    let spec = ScoreSpec { input: ModelInput::Sequence, ..spec() };
    let mut stage = ScoreStage::new(&spec, open(&graph.finish()), given).unwrap();
    let mut input = windows(&[vec![], vec![]]);
    (input.steps, input.channels) = (4, 2);
    input.sequence = vec![1.0, 10.0, 1.0, 10.0, 1.0, 10.0, 1.0, 10.0];
    input.sequence.extend([0.0, 0.0, f64::NAN, 0.0, 0.0, 0.0, 0.0, 0.0]);
    let (out, effects) = apply(&mut stage, input);
    assert_eq!(out.scores[0].values, [Some(44.0), None]);
    assert_eq!(effects.account.unscored, 1);
    assert_eq!(out.scores[0].shares.largest(0), [("heat", 40.0), ("load", 4.0)]);
}

#[test]
fn a_model_that_fails_for_an_asset_leaves_its_window_unscored_and_the_frame_whole() {
    // Zeros are fine; a 1 asks for the second of one row.
    let mut graph = Graph::new("fails");
    graph.input("features", Kind::Float32, &[Dim::Batch, Dim::Fixed(1)]);
    graph.weights("table", &[1], &[7.0]);
    graph.node("Cast", &["features"], "index");
    graph.attribute("to", 7);
    graph.node("Gather", &["table", "index"], "score");
    graph.output("score", Kind::Float32, &[Dim::Batch, Dim::Fixed(1)]);
    let mut stage = stage(open(&graph.finish()), 1);
    let (out, effects) = apply(&mut stage, windows(&[vec![0.0], vec![1.0], vec![0.0]]));
    assert_eq!(out.scores[0].values, [Some(7.0), None, Some(7.0)]);
    assert_eq!(effects.account.unscored, 1);
    assert_eq!(out.len(), 3);
    let (out, _) = apply(&mut stage, windows(&[vec![0.0]]));
    assert_eq!(out.scores[0].values, [Some(7.0)], "it goes on afterwards");
}

#[test]
fn a_model_that_exceeds_its_deadline_has_no_answer_and_is_left_alone() {
    // Enough work that a microsecond cannot do it, and enough operators to be broken off between.
    let mut graph = Graph::new("slow");
    graph.input("features", Kind::Float32, &[Dim::Batch, Dim::Fixed(64)]);
    graph.weights("square", &[64, 64], &vec![0.01; 64 * 64]);
    let names_of: Vec<String> = (0..50).map(|step| format!("step{step}")).collect();
    let mut last = "features";
    for name in &names_of {
        last = graph.node("MatMul", &[last, "square"], name);
    }
    graph.weights("column", &[64], &[1.0; 64]);
    graph.node("MatMul", &[last, "column"], "score");
    graph.output("score", Kind::Float32, &[Dim::Batch]);
    let spec = ScoreSpec { deadline: Some(Span(1)), ..spec() };
    let mut stage =
        ScoreStage::new(&spec, open(&graph.finish()), Given::Features(&names(64))).unwrap();
    let rows = [vec![1.0; 64]];
    let (out, _) = apply(&mut stage, windows(&rows));
    assert!(out.scores[0].values[0].is_some(), "a replay is not hurried");
    stage.enforce_deadline();
    for _ in 0..3 {
        let (out, effects) = apply(&mut stage, windows(&rows));
        assert_eq!(out.scores[0].values, [None]);
        assert_eq!(effects.account.unscored, 1);
        let faults = stage.take_faults();
        let [ModelAction::Failed { reason, .. }] = faults.as_slice() else { panic!("{faults:?}") };
        assert!(reason.contains("deadline"), "{reason}");
    }
    assert!(stage.view().quarantined_until.is_some());
    let (_, effects) = apply(&mut stage, windows(&rows));
    assert_eq!(effects.account.unscored, 1);
    assert!(stage.take_faults().is_empty(), "it is not asked");
}

#[test]
fn readings_are_not_what_it_takes() {
    let mut stage = stage(open(&sum(2, Kind::Float32, Dim::Batch).finish()), 2);
    let tick = Tick { seq: 1, now: Timestamp(0) };
    let around = Around { node: "n", pipeline: "p", assets: &[], tick, deaf: false, ended: false };
    let readings = Flow::Readings(forebay::frame::Readings::default(), Vec::new());
    let error = stage.apply(readings, &around, &mut Effects::default()).unwrap_err();
    assert!(matches!(error, StageError::WrongInput { .. }), "{error}");
}

#[test]
fn a_stage_that_does_not_fit_says_everything_that_does_not() {
    let mut graph = sum(3, Kind::Int64, Dim::Batch);
    graph.note("forebay.features", r#"["f0","f2","f1"]"#);
    graph.note("forebay.steps", "many");
    let spec = ScoreSpec { tensor: Some("nothing".into()), ..spec() };
    let error =
        ScoreStage::new(&spec, open(&graph.finish()), Given::Features(&names(3))).unwrap_err();
    let ScoreError::Fit(mismatches) = &error else { panic!("{error}") };
    let texts: Vec<String> = mismatches.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "feature 2: expected `f2`, found `f1`",
            "feature 3: expected `f1`, found `f2`",
            "metadata `forebay.steps`: expected a readable value, found many",
            "output: expected `nothing`, found score, contributions",
        ]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// However windows are divided among ticks, each gets the same score.
    #[test]
    fn any_division_into_ticks_gives_the_same_scores(
        rows in prop::collection::vec(prop::collection::vec(-1e3..1e3_f64, 4), 1..60),
        cuts in prop::collection::vec(0_usize..60, 0..4),
        missing in 0_usize..240,
    ) {
        let mut rows = rows;
        let count = rows.len();
        rows[(missing / 4) % count][missing % 4] = f64::NAN;
        let mut stage = stage(open(&sum(4, Kind::Float32, Dim::Batch).finish()), 4);
        let whole = apply(&mut stage, windows(&rows)).0.scores.remove(0);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(count)).collect();
        cuts.extend([0, count]);
        cuts.sort_unstable();
        let mut parts = Vec::new();
        for pair in cuts.windows(2) {
            let (out, _) = apply(&mut stage, windows(&rows[pair[0]..pair[1]]));
            parts.extend(out.scores[0].values.clone());
        }
        prop_assert_eq!(parts.len(), count);
        for (index, (part, all)) in parts.iter().zip(&whole.values).enumerate() {
            let expected: f64 = rows[index].iter().sum();
            match (part, all) {
                (Some(a), Some(b)) => {
                    prop_assert!((a - b).abs() < 1e-3 && (a - expected).abs() < 1e-2);
                }
                (None, None) => prop_assert!(expected.is_nan()),
                _ => prop_assert!(false, "{part:?} {all:?}"),
            }
        }
    }
}

#[test]
fn a_score_beyond_all_numbers_is_the_largest_not_none() {
    let mut graph = Graph::new("steep");
    graph.input("features", Kind::Float32, &[Dim::Batch, Dim::Fixed(1)]);
    graph.node("Exp", &["features"], "score");
    graph.output("score", Kind::Float32, &[Dim::Batch, Dim::Fixed(1)]);
    let names = names(1);
    let mut stage =
        ScoreStage::new(&spec(), open(&graph.finish()), Given::Features(&names)).unwrap();
    let found = scores_of(&mut stage, &[0, 0], &[vec![0.0], vec![1000.0]], &[1]);
    assert_eq!(found, [1.0, f64::from(f32::MAX)]);
}
