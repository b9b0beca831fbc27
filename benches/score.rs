//! What the `score` stage costs beside a bare loop over the runtime, on a 48-64-16-64-48 autoencoder whose score is
//! its mean squared error, with batches of 1 and 128; what of it are the statistics that would stand in, and the thread that
//! keeps a deadline.
//!
//! `cargo bench --bench score` measures tract, or ONNX Runtime where `ORT_DYLIB_PATH` names one (a process holds one
//! runtime). On ONNX Runtime the bare loop is `ort` itself; the stage should reach 0.8 of it.

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use forebay::frame::Windows;
use forebay::model::build::{Dim, Graph, Kind};
use forebay::model::pca::{self, PcaOptions};
use forebay::model::training::TrainingSet;
use forebay::model::{Given, Model, Runtime};
use forebay::pipeline::spec::{ModelInput, ScoreSpec};
use forebay::stage::score::ScoreStage;
use forebay::stage::{Around, Effects, Flow, Stage};
use forebay::time::{Tick, Timestamp};
use ort::value::TensorRef;

const LAYERS: [usize; 5] = [48, 64, 16, 64, 48];

fn autoencoder() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(1);
    let mut graph = Graph::new("autoencoder");
    graph.input("features", Kind::Float32, &[Dim::Batch, Dim::Fixed(48)]);
    let mut value = "features".to_owned();
    for (layer, sizes) in LAYERS.windows(2).enumerate() {
        let (from, to) = (sizes[0], sizes[1]);
        let scale = (1.0 / from as f64).sqrt();
        let weights: Vec<f64> = (0..from * to).map(|_| (random.f64() - 0.5) * scale).collect();
        let [weight, bias, product, sum, relu] =
            ["weight", "bias", "product", "sum", "relu"].map(|name| format!("{name}{layer}"));
        graph.weights(&weight, &[from, to], &weights);
        graph.weights(&bias, &[to], &vec![0.01; to]);
        graph.node("MatMul", &[&value, &weight], &product);
        graph.node("Add", &[&product, &bias], &sum);
        value = if layer == 3 { sum } else { graph.node("Relu", &[&sum], &relu).to_owned() };
    }
    graph.weights("share", &[48], &[1.0 / 48.0; 48]);
    graph.node("Sub", &["features", &value], "error");
    graph.node("Mul", &["error", "error"], "squares");
    graph.node("MatMul", &["squares", "share"], "score");
    graph.output("score", Kind::Float32, &[Dim::Batch]);
    graph.finish()
}

fn pca_model(names: &[String]) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(2);
    let time = |i: usize| Timestamp(i as i64 * 1_000_000);
    let set = TrainingSet {
        names: names.to_vec(),
        rows: (0..200 * 48).map(|_| random.f64()).collect(),
        assets: vec![0; 200],
        starts: (0..200).map(time).collect(),
        ends: (1..201).map(time).collect(),
        ..TrainingSet::default()
    };
    pca::train(&set, &PcaOptions::default()).expect("trains").0
}

fn windows(count: usize, names: &[String]) -> Windows {
    let mut random = fastrand::Rng::with_seed(3);
    Windows {
        asset: vec![0; count],
        start: vec![Timestamp(0); count],
        end: vec![Timestamp(1); count],
        coverage: vec![1.0; count],
        names: names.to_vec(),
        features: (0..count * names.len()).map(|_| random.f64()).collect(),
        ..Windows::default()
    }
}

fn stage(
    runtime: &'static Runtime,
    bytes: &[u8],
    names: &[String],
    is_live: bool,
    fallback: bool,
) -> ScoreStage {
    let spec = ScoreSpec {
        model: "bench.onnx".into(),
        output: "anomaly".into(),
        input: ModelInput::Features,
        tensor: None,
        class: None,
        batch: 256,
        state: std::collections::BTreeMap::new(),
        threshold: None,
        deadline: None,
        fallback,
        recalibrate: None,
    };
    let model = Model::from_bytes(runtime, Path::new("bench.onnx"), bytes).expect("opens");
    let mut stage = ScoreStage::new(&spec, model, Given::Features(names)).expect("fits");
    if is_live {
        stage.enforce_deadline();
    }
    stage
}

fn bench(criterion: &mut Criterion) {
    let library = std::env::var_os("ORT_DYLIB_PATH").is_some();
    let runtime = Runtime::find((!library).then_some(Path::new("tract"))).expect("a runtime");
    let names: Vec<String> = (0..48).map(|i| format!("signal{}.feature{}", i / 6, i % 6)).collect();
    let models = [("autoencoder", autoencoder()), ("pca with contributions", pca_model(&names))];
    for (count, (model, bytes)) in [1, 128].iter().flat_map(|n| models.iter().map(move |m| (*n, m)))
    {
        let title = format!("{}, {model}, batch {count}", runtime.name());
        let mut group = criterion.benchmark_group(title);
        group.throughput(Throughput::Elements(count as u64));
        let input = windows(count, &names);
        if let Some(session) = runtime.session(bytes) {
            let batch: Vec<f32> = input.features.iter().map(|&v| v as f32).collect();
            let mut session = session.expect("loads");
            group.bench_function("bare", |b| {
                b.iter(|| {
                    let tensor = TensorRef::from_array_view(([count, 48], batch.as_slice()))
                        .expect("a view");
                    let outputs = session.run(ort::inputs![tensor]).expect("runs");
                    for (_, output) in &outputs {
                        black_box(output.try_extract_tensor::<f32>().expect("floats").1);
                    }
                });
            });
        }
        let mut given = Some(input);
        for (what, is_live, fallback) in [
            ("stage without statistics", false, false),
            ("stage in a replay", false, true),
            ("stage in a node, with a deadline", true, true),
        ] {
            let mut stage = stage(runtime, bytes, &names, is_live, fallback);
            group.bench_function(what, |b| {
                b.iter(|| {
                    let mut windows = given.take().expect("given back below");
                    windows.scores.clear();
                    let tick = Tick { seq: 1, now: Timestamp(0) };
                    let around = Around {
                        node: "n",
                        pipeline: "p",
                        assets: &[],
                        tick,
                        deaf: false,
                        ended: false,
                    };
                    let flow =
                        stage.apply(Flow::Windows(windows), &around, &mut Effects::default());
                    if let Ok(Flow::Windows(windows)) = flow {
                        given = Some(windows);
                    }
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
