//! The shipped models: made twice they are the same to the byte, and they find faults of pumps they have never seen.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use forebay::demo::fault::FaultKind;
use forebay::demo::train::{Effort, Made, make_models};
use forebay::model::Runtime;
use forebay::pipeline::spec::{PipelineSpec, StageSpec};
use forebay::schema::Schema;
use forebay::time::Span;

fn file(path: &str) -> String {
    std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn make(pipeline: &PipelineSpec) -> Result<Made, String> {
    let schema: Schema = toml::from_str(&file("schemas/pump.toml")).unwrap();
    let effort = Effort { plants: 1, length: Span::seconds(1200) };
    make_models(pipeline, &schema, Runtime::find(None).unwrap(), effort).map_err(|e| e.to_string())
}

#[test]
fn models_are_the_same_twice_and_find_faults_they_were_not_taught() {
    let pipeline = toml::from_str(&file("pipelines/pump.toml")).unwrap();
    let (one, two) = (make(&pipeline).unwrap(), make(&pipeline).unwrap());
    assert!(one.anomaly == two.anomaly && one.failure_risk == two.failure_risk);
    assert!(one.report.healthy > 100 && one.report.risk_false < 0.05, "{}", one.report);
    for kind in &one.report.kinds {
        assert!(kind.windows > 10, "{}", one.report);
        if kind.kind.of_the_pump() {
            assert!(kind.anomaly_auc.unwrap() > 0.95, "{}", one.report);
        }
        if kind.taught {
            assert!(kind.risk_auc.unwrap() > 0.95, "{}", one.report);
        }
    }
    let taught = one.report.kinds.iter().filter(|kind| kind.taught).count();
    assert!(taught > 0 && taught < FaultKind::ALL.len());
}

#[test]
fn a_pipeline_without_windows_says_so() {
    let mut pipeline: PipelineSpec = toml::from_str(&file("pipelines/pump.toml")).unwrap();
    pipeline.stages.retain(|stage| !matches!(stage, StageSpec::Window(_)));
    let error = make(&pipeline).unwrap_err();
    assert!(error.contains("no `window` stage"), "{error}");
}
