//! One life of the device: what happens, decided by a seed, and what must be true at its end.

use std::path::PathBuf;
use std::sync::Arc;

use fastrand::Rng;
use forebay::record::{Lane, Record};
use forebay::store::{MemKv, tear};
use forebay::time::{Span, Timestamp};
use tempfile::TempDir;

use super::broker::Broker;
use super::far::Far;
use super::node::{Node, Send, options};
use super::plant;

/// What happened, to see that something did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub messages: u64,
    pub kills: u64,
    pub power_cuts: u64,
    pub failed_commits: u64,
    pub redelivered: u64,
    pub repeats: u64,
    pub lost: u64,
}

impl Told {
    pub fn add(&mut self, other: &Told) {
        self.messages += other.messages;
        self.kills += other.kills;
        self.power_cuts += other.power_cuts;
        self.failed_commits += other.failed_commits;
        self.redelivered += other.redelivered;
        self.repeats += other.repeats;
        self.lost += other.lost;
    }
}

struct World {
    random: Rng,
    clock: Timestamp,
    folder: TempDir,
    kv: Arc<MemKv>,
    limits: [u64; 4],
    broker: Broker,
    far: Far,
    /// Absent while it is down.
    node: Option<Node>,
    published: u64,
    told: Told,
}

/// Lives one life.
pub fn simulate(seed: u64) -> Told {
    let mut world = World::new(seed);
    let ticks = world.random.u32(60..200);
    for _ in 0..ticks {
        world.round();
    }
    world.work_off();
    world.judge();
    world.told
}

/// A file system in memory where there is one: thousands of lives sync a lot.
fn folder() -> TempDir {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory).unwrap() } else { TempDir::new().unwrap() }
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Rng::with_seed(seed);
        // In one life of three the outage outlasts the limits.
        let limits =
            if random.u8(..3) == 0 { [1 << 20, 1 << 20, 6 << 10, 12 << 10] } else { [1 << 30; 4] };
        World {
            random,
            clock: Timestamp(1_790_000_000_000_000),
            folder: folder(),
            kv: Arc::new(MemKv::new()),
            limits,
            broker: Broker::new(),
            far: Far::default(),
            node: None,
            published: 0,
            told: Told::default(),
        }
    }

    /// Some time passes, and something happens.
    fn round(&mut self) {
        // A clock that is set now and then.
        let by = match self.random.u8(..50) {
            0 => Span::seconds(self.random.i64(-3600..3600)),
            _ => Span::millis(self.random.i64(1..400)),
        };
        self.clock = self.clock.plus(by);
        for _ in 0..self.random.u64(..12) {
            self.broker.publish(self.published);
            self.published += 1;
        }
        match self.random.u8(..30) {
            0 => self.die(false),
            1 => self.die(true),
            2 => self.broker.reconnect(&mut self.random),
            3 => self.fail(),
            4..8 => self.up(|_, node| node.checkpoint().unwrap()),
            8..16 => self.send(),
            _ => self.tick(),
        }
    }

    /// Does something with a node that runs; starts it first where it does not.
    fn up(&mut self, act: impl FnOnce(&mut World, &mut Node)) {
        let mut node = self.node.take().unwrap_or_else(|| self.start());
        act(self, &mut node);
        self.node = Some(node);
    }

    fn start(&mut self) -> Node {
        self.broker.reconnect(&mut self.random);
        Node::start(&self.kv, &options(self.folder.path(), self.limits, self.clock))
    }

    fn tick(&mut self) {
        self.up(|world, node| {
            let most = world.random.usize(1..25);
            let deliveries = world.broker.deliver(&mut world.random, most);
            node.tick(&mut world.broker, &deliveries, world.clock, &mut world.random).unwrap();
        });
    }

    fn send(&mut self) {
        self.up(|world, node| {
            for _ in 0..world.random.u8(..4) {
                let how = [
                    Send::NotArrived,
                    Send::NotAnswered,
                    Send::AnsweredPartly,
                    Send::Answered,
                    Send::Answered,
                ];
                let how = how[world.random.usize(..how.len())];
                let budget = world.random.usize(100..4000);
                node.send(&mut world.far, how, budget).unwrap();
            }
        });
    }

    /// A commit that does not end: the disk fails after some writes, and takes the process, or the power, with it.
    fn fail(&mut self) {
        let mut node = self.node.take().unwrap_or_else(|| self.start());
        // Only evictions and cursors write there.
        self.kv.fail_after(self.random.u64(..3));
        let deliveries = self.broker.deliver(&mut self.random, 20);
        let ticked = node.tick(&mut self.broker, &deliveries, self.clock, &mut self.random);
        self.told.failed_commits += u64::from(ticked.is_err());
        self.node = Some(node);
        let with_power = self.random.bool();
        self.die(with_power);
    }

    /// The process ends where it is; with the power, what was not flushed goes too.
    fn die(&mut self, with_power: bool) {
        let unsynced = self.node.take().map(|node| node.ledger.unsynced()).unwrap_or_default();
        self.kv.fail_after(u64::MAX);
        if with_power {
            self.told.power_cuts += 1;
            let random = &mut self.random;
            self.kv.crash(&mut |n| random.usize(..n));
            tear(&unsynced, &mut |n| random.usize(..n)).unwrap();
        } else {
            self.told.kills += 1;
        }
    }

    /// Nothing goes wrong any more: everything is taken, and everything is sent.
    fn work_off(&mut self) {
        let mut node = self.node.take().unwrap_or_else(|| self.start());
        self.broker.reconnect(&mut self.random);
        while !self.broker.is_empty() {
            let deliveries = self.broker.deliver(&mut self.random, 20);
            node.tick(&mut self.broker, &deliveries, self.clock, &mut self.random).unwrap();
        }
        while node.send(&mut self.far, Send::Answered, 10_000).unwrap() {}
        let (expected, pending) = plant::undisturbed(self.published);
        assert_eq!(node.used(), 2 * self.published - pending, "the node's books");
        self.compare(&expected);
        self.told.redelivered = self.broker.redelivered;
        self.told.repeats = self.far.repeats;
        self.told.messages = self.published;
        // The last ones wait for their watermark: nothing later follows.
        let waiting = pending / 2;
        self.told.lost = self.far.missing(self.published.saturating_sub(waiting));
    }

    /// Windows and alarms are those of an undisturbed run, or a loss record counts them.
    fn compare(&self, expected: &[Record]) {
        for lane in [Lane::Alarm, Lane::Feature] {
            let on = |record: &&Record| matches!(record, Record::Alarm(_)) == (lane == Lane::Alarm);
            let missing =
                expected.iter().filter(on).filter(|r| !self.far.others.contains_key(r.id()));
            let lost = self.far.losses.iter().filter(|loss| loss.lane == lane);
            let (missing, lost) =
                (missing.count() as u64, lost.map(|loss| loss.count).sum::<u64>());
            assert!(missing <= lost, "{missing} of lane {lane:?} are gone, {lost} are named");
        }
        for record in self.far.others.values() {
            let same = expected.iter().find(|e| e.id() == record.id());
            assert_eq!(Some(record), same, "an undisturbed run gives this");
        }
    }

    fn judge(&self) {
        let reasons: Vec<&str> = self.far.losses.iter().map(|loss| loss.reason.as_str()).collect();
        assert!(!reasons.contains(&"damaged"), "nothing was damaged: {:?}", self.far.losses);
    }
}
