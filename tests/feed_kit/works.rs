//! The site with a real engine behind its dashboards: readings in, alarms out, and operators' commands carried out.

#[path = "../common/mod.rs"]
mod common;

use common::{Reading, engine, input, spec};
use forebay::engine::Engine;
use forebay::frame::Input;
use forebay::pipeline::spec::PipelineSpec;
use forebay::record::Record;
use forebay::time::{self, Span, Timestamp};

use super::{DEADLINE, Reply, Site, status};

/// `high` needs nobody; `seized` waits until it is acknowledged.
const PIPELINE: &str = r#"
    stage = [
      { resample = { every = "1s", fill = "previous", max_gap = "3s" } },
      { window = { length = "1s", features = ["mean"], min_coverage = 0.0 } },
      { emit = { lane = "score" } },
      { alarm = { name = "high", on = "a.mean", raise = 3.0, clear = 1.0, severity = "high" } },
      { alarm = { name = "seized", on = "a.mean", raise = 4.0, clear = 1.0, latch = true, severity = "critical" } },
    ]"#;

/// One machine, `m0` in pipeline `rig`, watched by two alarms.
pub struct Works {
    pub site: Site,
    engine: Engine,
    spec: PipelineSpec,
    /// Event time of the next reading.
    at: Timestamp,
}

impl Works {
    pub fn start() -> Works {
        let spec = spec(PIPELINE);
        let at = time::now().minus(Span::seconds(600));
        Works { site: Site::start(status()), engine: engine(&spec), spec, at }
    }

    /// The node is started again on what it had saved; its dashboards know nothing but what it tells them.
    pub fn restart(mut self) -> Works {
        let saved = self.engine.checkpoint().unwrap();
        self.site.end();
        self.site = Site::start(status());
        self.engine = engine(&self.spec);
        self.engine.restore(&saved).unwrap();
        let standing = self.engine.standing().into_iter().map(|s| (s.record, s.since));
        self.site.hub.recall(standing.collect());
        self
    }

    /// The machine is at `value` for five seconds.
    pub fn run(&mut self, value: f64) {
        let reading = |n: i64| Reading { asset: 0, signal: 0, ts: self.at.0 + 500_000 * n, value };
        let readings: Vec<Reading> = (0..10).map(reading).collect();
        self.at = self.at.plus(Span::seconds(5));
        let input = input(&self.spec, &readings);
        self.step(input);
    }

    fn step(&mut self, input: Vec<Input>) {
        let step = self.engine.step(input, time::now());
        self.site.publish(step.records.into_iter().map(|o| o.record).collect::<Vec<Record>>());
    }

    /// Carries out what operators have asked for, as the engine thread does; says how many commands there were.
    pub fn carry_out(&mut self) -> usize {
        let mut taken = self.site.orders.take().expect("nobody else takes them");
        let orders = taken.take();
        self.site.orders = Some(taken);
        let commands = orders.iter().map(|order| order.command.clone()).collect();
        self.step(vec![Input::of_commands(commands)]);
        let count = orders.len();
        for (order, answer) in orders.into_iter().zip(self.engine.take_answers()) {
            drop(order.answer.send(answer));
        }
        count
    }

    /// Waits for a command and carries it out.
    pub fn obey(&mut self) {
        let start = time::monotonic();
        while self.carry_out() == 0 {
            assert!(start.elapsed() < DEADLINE, "no command came");
            let bell = std::sync::Arc::clone(&self.site.bell);
            let rung = async { tokio::time::timeout(DEADLINE, bell.notified()).await };
            self.site.runtime.block_on(rung).expect("the bell rings with a command");
        }
    }

    /// Posts a command as a program does, carrying out what comes of it.
    pub fn post(&mut self, path: &str, body: &str) -> Reply {
        let address = self.site.address;
        let (path, body) = (path.to_owned(), body.to_owned());
        let posted = std::thread::spawn(move || super::post(address, &path, &[], &body));
        let start = time::monotonic();
        while !posted.is_finished() {
            assert!(start.elapsed() < DEADLINE, "no answer came");
            self.carry_out();
            std::thread::yield_now();
        }
        posted.join().unwrap()
    }
}
