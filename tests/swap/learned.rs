//! What is learned with a model belongs to that model: to its bytes, whatever its version is called, and to no other.

use forebay::command::{Action, Command, ModelAction, Verdict};
use forebay::engine::Engine;
use forebay::frame::Input;
use forebay::model::build::{Dim, Graph, Kind};
use forebay::record::{
    AlarmRecord, NoticeKind, NoticeRecord, Outgoing, Record, Step, VerdictRecord,
};
use forebay::time::Timestamp;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::shop::{SECOND, START, Shop, offer, promote, scores, settle};

const PIPELINE: &str = r#"
    stage = [
      { resample = { every = "1s", fill = "previous", max_gap = "3s" } },
      { window = { length = "1s", features = ["mean"], signals = ["a"], min_coverage = 0.0 } },
      { score = { model = "old.onnx", output = "anomaly" } },
      { drift = { on = "anomaly", over = "5m" } },
      { emit = { lane = "score" } },
      { alarm = { name = "odd", on = "anomaly", adapt = { alarms_a_day = 30.0, learn = 400, reach = 8.0 } } },
    ]"#;

/// A model whose score is so many times the value, and which has no answer from 100 on.
struct Line {
    name: &'static str,
    version: &'static str,
    times: f64,
    threshold: f64,
    /// Where its training data began and ended, evenly spread.
    trained: Option<[f64; 2]>,
}

const A: Line = Line { name: "a", version: "1", times: 1.0, threshold: 20.0, trained: None };

impl Line {
    fn bytes(&self) -> Vec<u8> {
        let mut graph = Graph::new(self.name);
        graph.input("features", Kind::Float32, &[Dim::Batch, Dim::Fixed(1)]);
        graph.weights("table", &[100], &[0.0; 100]);
        graph.weights("times", &[1], &[self.times]);
        graph.node("Cast", &["features"], "index");
        graph.attribute("to", 7);
        graph.node("Gather", &["table", "index"], "nothing");
        graph.node("Mul", &["features", "times"], "product");
        graph.node("Add", &["product", "nothing"], "score");
        graph.output("score", Kind::Float32, &[Dim::Batch, Dim::Fixed(1)]);
        graph.note("forebay.name", self.name);
        graph.note("forebay.version", self.version);
        graph.note("forebay.threshold", self.threshold.to_string());
        if let Some([from, to]) = self.trained {
            let tenths = |times: f64| -> Vec<f64> {
                (0..11).map(|k| (from + (to - from) * f64::from(k) / 10.0) * times).collect()
            };
            let baseline = serde_json::json!({
                "windows": 4000, "inputs": [tenths(1.0)], "score": tenths(self.times),
            });
            graph.note("forebay.baseline", baseline.to_string());
        }
        graph.finish()
    }
}

/// A node, second by second.
struct Run {
    shop: Shop,
    engine: Engine,
    second: i64,
    random: ChaCha8Rng,
}

impl Run {
    fn of(own: &Line) -> Run {
        Run::with(PIPELINE, own)
    }

    fn with(pipeline: &str, own: &Line) -> Run {
        let shop = Shop::of(pipeline, own.bytes());
        let engine = shop.engine();
        Run { shop, engine, second: 0, random: ChaCha8Rng::seed_from_u64(4) }
    }

    /// With a model whose inputs are followed.
    fn following() -> Run {
        let pipeline = PIPELINE.replace(
            "output = \"anomaly\"",
            "output = \"anomaly\", recalibrate = { half_life = \"1m\", most = 0.5 }",
        );
        Run::with(&pipeline, &Line { trained: Some([10.0, 16.0]), ..A })
    }

    /// So many seconds with values evenly spread over three on both sides of `level`.
    fn go(&mut self, seconds: i64, level: f64) -> Vec<Step> {
        let noise: Vec<f64> =
            (0..seconds).map(|_| level + 6.0 * (self.random.random::<f64>() - 0.5)).collect();
        noise.into_iter().map(|value| self.tick(value, &[])).collect()
    }

    fn tick(&mut self, value: f64, orders: &[ModelAction]) -> Step {
        self.tick_of(|_| value, orders)
    }

    fn tick_of(&mut self, value: impl Fn(u32) -> f64, orders: &[ModelAction]) -> Step {
        let input = self.shop.tick(self.second, value, orders);
        self.second += 1;
        let step = self.engine.step(input, Timestamp(START + self.second * SECOND));
        assert!(self.engine.take_answers().iter().all(Result::is_ok));
        step
    }

    /// Another model takes the place of the one in use.
    fn swap(&mut self, to: &Line) {
        let digest = self.shop.shelve(to.bytes());
        let orders = [offer(&digest), promote(&digest), settle(&digest)];
        self.tick(13.0, &orders);
    }

    fn judge(&mut self) -> Step {
        let said = Command {
            pipeline: "rig".into(),
            asset: "m0".into(),
            alarm: "odd".into(),
            action: Action::Judge {
                verdict: Verdict::False,
                raised: None,
                fault: None,
                note: None,
            },
            by: None,
        };
        let at = Timestamp(START + self.second * SECOND);
        let step = self.engine.step(vec![Input::of_commands(vec![said])], at);
        assert!(self.engine.take_answers().iter().all(Result::is_ok));
        step
    }
}

fn of<'a, T>(steps: &'a [Step], which: impl Fn(&'a Outgoing) -> Option<&'a T>) -> Vec<&'a T> {
    steps.iter().flat_map(|step| &step.records).filter_map(which).collect()
}

fn notices(steps: &[Step]) -> Vec<&NoticeRecord> {
    of(steps, |o| if let Record::Notice(notice) = &o.record { Some(notice) } else { None })
}

fn verdicts(steps: &[Step]) -> Vec<&VerdictRecord> {
    of(steps, |o| if let Record::Verdict(verdict) = &o.record { Some(verdict) } else { None })
}

fn alarms(steps: &[Step]) -> Vec<&AlarmRecord> {
    of(steps, |o| if let Record::Alarm(alarm) = &o.record { Some(alarm) } else { None })
}

#[test]
fn another_model_of_the_same_version_starts_its_threshold_anew() {
    let limit_with = |swapped: Option<&Line>| {
        let mut run = Run::of(&A);
        assert!(!notices(&run.go(1000, 13.0)).is_empty(), "the threshold was learned");
        if let Some(model) = swapped {
            run.swap(model);
        }
        run.go(5, 13.0);
        let steps = run.go(10, 90.0);
        alarms(&steps)[0].limit
    };
    assert!(limit_with(None) < 19.0);
    assert_eq!(limit_with(Some(&Line { name: "h", ..A })), 20.0);
}

#[test]
fn another_model_of_the_same_version_is_held_against_its_own_training_data() {
    let mut run = Run::of(&Line { trained: Some([0.0, 6.0]), ..A });
    run.go(200, 13.0);
    run.swap(&Line { name: "h", trained: Some([10.0, 16.0]), ..A });
    let told: Vec<String> = notices(&run.go(800, 13.0))
        .into_iter()
        .filter_map(|n| Some(n.drift?.name().into()))
        .collect();
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn a_verdict_teaches_only_the_threshold_of_the_model_that_raised_the_alarm() {
    let mut run = Run::of(&A);
    run.go(1000, 13.0);
    let raised = run.go(10, 90.0);
    let peak = alarms(&raised)[0].value.unwrap();
    assert!(peak > 80.0);
    run.go(60, 13.0);
    run.swap(&Line { name: "b", version: "2", times: 0.01, threshold: 0.2, ..A });
    run.go(1000, 13.0);
    let step = [run.judge()];
    assert_eq!(verdicts(&step)[0].model_version.as_deref(), Some("1"));
    assert_eq!(notices(&step), Vec::<&NoticeRecord>::new());
    // One on its own alarm does.
    run.go(10, 90.0);
    run.go(60, 13.0);
    let step = [run.judge()];
    assert_eq!(notices(&step)[0].model_version.as_deref(), Some("2"));
}

#[test]
fn a_verdict_on_an_alarm_of_the_statistics_teaches_no_model() {
    let mut run = Run::of(&A);
    run.go(1000, 13.0);
    // The model has no answer to these.
    let steps = run.go(6, 200.0);
    let spoke = scores(steps.last().unwrap())[0].model.clone();
    assert_eq!(spoke.as_deref(), Some("statistics"));
    assert!(!alarms(&steps).is_empty());
    run.go(200, 13.0);
    let step = [run.judge()];
    assert_eq!(verdicts(&step)[0].model_version.as_deref(), Some("1"), "that of the statistics");
    assert_eq!(notices(&step), Vec::<&NoticeRecord>::new());
}

#[test]
fn statistics_learn_nothing_that_the_model_that_speaks_calls_abnormal() {
    let mut run = Run::of(&Line { threshold: 90.0, ..A });
    let own = run.engine.scores().next().unwrap().1.own().to_owned();
    run.go(100, 13.0);
    let sharp = run.shop.shelve(Line { name: "q", version: "2", threshold: 30.0, ..A }.bytes());
    run.tick(13.0, &[offer(&sharp), promote(&sharp)]);
    run.go(700, 50.0);
    let failed =
        |digest: &String| ModelAction::Failed { digest: digest.clone(), reason: "lost".into() };
    let step = run.tick(50.0, &[failed(&own), failed(&sharp)]);
    for score in scores(&step) {
        assert_eq!(score.model.as_deref(), Some("statistics"));
        assert!(score.scores["anomaly"].unwrap() >= 90.0, "{score:?}");
    }
}

#[test]
fn of_inputs_that_have_moved_the_model_that_speaks_tells_and_no_other() {
    let mut run = Run::following();
    let told = |steps: &[Step]| -> Vec<(String, bool)> {
        let moved = notices(steps).into_iter().filter(|n| n.kind == NoticeKind::Recalibration);
        moved.map(|n| (n.model_version.clone().unwrap(), n.retrain)).collect()
    };
    run.go(20, 13.0);
    let digest =
        run.shop.shelve(Line { name: "b", version: "2", trained: Some([10.0, 16.0]), ..A }.bytes());
    run.tick(13.0, &[offer(&digest)]);
    let shadow = told(&run.go(600, 14.5));
    assert!(shadow.contains(&("1".into(), true)), "{shadow:?}");
    assert!(shadow.iter().all(|(version, _)| version == "1"), "{shadow:?}");
    run.tick(14.5, &[promote(&digest)]);
    let promoted = told(&run.go(60, 14.5));
    assert!(promoted.contains(&("2".into(), true)), "{promoted:?}");
    assert!(promoted.iter().all(|(version, _)| version == "2"), "{promoted:?}");
    run.tick(14.5, &[settle(&digest)]);
    assert_eq!(told(&run.go(60, 14.5)), [], "all was told");
}

#[test]
fn what_fails_for_one_asset_is_learned_of_the_others_and_in_a_replay() {
    let told_of = |bad: f64| {
        let mut run = Run::following();
        let values: Vec<f64> = (0..300).map(|_| 12.0 + 5.0 * run.random.random::<f64>()).collect();
        let tick = |value| run.tick_of(|asset| if asset == 2 { bad } else { value }, &[]);
        let steps: Vec<Step> = values.into_iter().map(tick).collect();
        let mut again = run.shop.engine();
        for step in &steps {
            assert_eq!(again.replay(step.tick, step.input.clone()).records, step.records);
        }
        assert_eq!(again.checkpoint().unwrap(), run.engine.checkpoint().unwrap());
        let told = notices(&steps).into_iter().filter(|notice| notice.asset != "m2");
        told.filter(|n| n.kind == NoticeKind::Recalibration).cloned().collect::<Vec<_>>()
    };
    let told = told_of(200.0);
    assert!(!told.is_empty());
    assert_eq!(told, told_of(13.0));
}
