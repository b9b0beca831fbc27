//! What the tests of swapped models share: a folder with a pipeline's model, others on a shelf, and orders for them.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::path::Path;

use forebay::command::{Action, Command, ModelAction};
use forebay::engine::Engine;
use forebay::frame::Input;
use forebay::model::build::{Dim, Graph, Kind};
use forebay::model::{Host, ModelFile, Shelf, Trust};
use forebay::pipeline::plan::{PlanOptions, plan};
use forebay::pipeline::spec::PipelineSpec;
use forebay::record::{ModelPhase, Record, ScoreRecord, Step};
use tempfile::TempDir;

use crate::common::{Reading, input, schema, spec};

const PIPELINE: &str = r#"
    stage = [
      { resample = { every = "1s", fill = "previous", max_gap = "3s" } },
      { window = { length = "1s", features = ["mean"], signals = ["a"], min_coverage = 0.0 } },
      { score = { model = "old.onnx", output = "anomaly" } },
      { emit = { lane = "score" } },
    ]"#;
pub const START: i64 = 1_700_000_000_000_000;
pub const SECOND: i64 = 1_000_000;

/// A model whose score is so many times the value, and which has no answer from `most` on.
pub fn model(name: &str, times: f64, most: usize) -> Vec<u8> {
    let mut graph = Graph::new(name);
    graph.input("features", Kind::Float32, &[Dim::Batch, Dim::Fixed(1)]);
    let table: Vec<f64> = (0..most).map(|value| value as f64 * times).collect();
    graph.weights("table", &[most], &table);
    graph.node("Cast", &["features"], "index");
    graph.attribute("to", 7);
    graph.node("Gather", &["table", "index"], "score");
    graph.output("score", Kind::Float32, &[Dim::Batch, Dim::Fixed(1)]);
    graph.note("forebay.name", name);
    graph.note("forebay.threshold", format!("{}", 6.0 * times));
    graph.finish()
}

/// A folder with a pipeline's model, and others on the shelf.
pub struct Shop {
    pub folder: TempDir,
    pub host: Host,
    pub spec: PipelineSpec,
    /// Digests: one like the old one, and one that fails at 5.
    pub good: String,
    pub weak: String,
}

impl Shop {
    pub fn new() -> Shop {
        let mut shop = Shop::of(PIPELINE, model("old", 1.0, 100));
        shop.good = shop.shelve(model("good", 2.0, 100));
        shop.weak = shop.shelve(model("weak", 3.0, 5));
        shop
    }

    /// With this pipeline and its own model, and no others.
    pub fn of(pipeline: &str, own: Vec<u8>) -> Shop {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("old.onnx"), &own).unwrap();
        let shelf = Shelf::new(folder.path().join("models"));
        let host = Host { shelf: Some(shelf), ..Host::default() };
        let (good, weak) = Default::default();
        let shop = Shop { folder, host, spec: spec(pipeline), good, weak };
        shop.shelve(own);
        shop
    }

    pub fn shelve(&self, bytes: Vec<u8>) -> String {
        let file = ModelFile::of(Path::new("m.onnx"), bytes, &Trust::default()).unwrap();
        self.host.shelf.as_ref().unwrap().put(&file).unwrap();
        file.digest
    }

    pub fn engine(&self) -> Engine {
        self.engine_with(None)
    }

    /// A start after the pipeline's own file was damaged.
    pub fn engine_without(&self) -> Engine {
        let path = self.folder.path().join("old.onnx");
        let good = std::fs::read(&path).unwrap();
        std::fs::write(&path, &good[1..]).unwrap();
        let engine = self.engine_with(Some(&BTreeMap::new()));
        std::fs::write(&path, good).unwrap();
        engine
    }

    pub fn engine_with(&self, refused: Option<&BTreeMap<String, String>>) -> Engine {
        let options = PlanOptions {
            base: self.folder.path(),
            live: false,
            asset_limit: 100,
            models: &[],
            host: &self.host,
            refused,
            features_only: false,
        };
        Engine::new("node".into(), vec![plan(&self.spec, &schema(), options).unwrap()])
    }

    /// A tick at `second`: every asset's value, and orders.
    pub fn tick(
        &self,
        second: i64,
        value: impl Fn(u32) -> f64,
        orders: &[ModelAction],
    ) -> Vec<Input> {
        let ts = START + second * SECOND;
        let reading = |asset| Reading { asset, signal: 0, ts, value: value(asset) };
        let mut all = input(&self.spec, &(0..4).map(reading).collect::<Vec<_>>());
        all.push(Input::of_commands(orders.iter().cloned().map(order).collect()));
        all
    }
}

pub fn order(action: ModelAction) -> Command {
    Command {
        pipeline: "rig".into(),
        asset: String::new(),
        alarm: "anomaly".into(),
        action: Action::Model(action),
        by: Some("anna".into()),
    }
}

pub fn scores(step: &Step) -> Vec<&ScoreRecord> {
    let score = |o: &'_ forebay::record::Outgoing| matches!(o.record, Record::Score(_));
    let records = step.records.iter().filter(|o| score(o));
    records
        .map(|o| match &o.record {
            Record::Score(score) => score,
            other => panic!("{other:?}"),
        })
        .collect()
}

pub fn phases(steps: &[Step]) -> Vec<(ModelPhase, String)> {
    let records = steps.iter().flat_map(|step| &step.records);
    records
        .filter_map(|o| match &o.record {
            Record::Model(model) => Some((model.phase, model.model.clone())),
            _ => None,
        })
        .collect()
}

pub fn offer(digest: &str) -> ModelAction {
    ModelAction::Offer { digest: digest.to_owned() }
}

pub fn withdraw(digest: &str) -> ModelAction {
    ModelAction::Withdraw { digest: digest.to_owned(), reason: "a test".into() }
}

pub fn canary(digest: &str, permille: u16) -> ModelAction {
    ModelAction::Canary { digest: digest.to_owned(), permille }
}

pub fn promote(digest: &str) -> ModelAction {
    ModelAction::Promote { digest: digest.to_owned() }
}

pub fn settle(digest: &str) -> ModelAction {
    ModelAction::Settle { digest: digest.to_owned() }
}
