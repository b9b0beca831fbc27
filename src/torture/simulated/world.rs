//! One life of the device: what happens, decided by a seed, and what must be true at its end.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use fastrand::Rng;
use tempfile::TempDir;

use super::broker::Broker;
use super::device::{Device, Send, TARGETS, options};
use super::far::Far;
use super::tear::Before;
use super::{SimulatedError, ensure, plant};
use crate::store::{MemKv, Retention, StoreError, tear};
use crate::time::{Span, Timestamp};

/// What happened in a life, to see that something did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Messages published.
    pub messages: u64,
    /// Times that the process ended where it was.
    pub kills: u64,
    /// Times that the power went.
    pub power_cuts: u64,
    /// Of these, times that it went during a commit.
    pub torn_commits: u64,
    /// Commits and checkpoints that found the disk full.
    pub full_disks: u64,
    /// Messages that the broker sent again.
    pub redelivered: u64,
    /// Records that came to the far side again.
    pub repeats: u64,
    /// Readings that the limits dropped, named in loss records.
    pub lost: u64,
    /// Of these, how many came in an interval instead.
    pub thinned: u64,
}

impl Told {
    /// Adds those of another life.
    pub fn add(&mut self, other: &Told) {
        self.messages += other.messages;
        self.kills += other.kills;
        self.power_cuts += other.power_cuts;
        self.torn_commits += other.torn_commits;
        self.full_disks += other.full_disks;
        self.redelivered += other.redelivered;
        self.repeats += other.repeats;
        self.lost += other.lost;
        self.thinned += other.thinned;
    }
}

struct World {
    random: Rng,
    clock: Timestamp,
    folder: TempDir,
    kv: Arc<MemKv>,
    limits: [u64; 4],
    retention: [Retention; 4],
    broker: Broker,
    fars: [Far; TARGETS.len()],
    /// Absent while it is down.
    device: Option<Device>,
    /// In which tick windows and alarms were made last: what was torn is made again, in another.
    made: BTreeMap<String, u64>,
    published: u64,
    told: Told,
}

/// Lives the life of a seed to its end.
///
/// # Errors
/// What does not hold.
pub fn live(seed: u64) -> Result<Told, SimulatedError> {
    let mut world = World::new(seed)?;
    for _ in 0..world.random.u32(30..100) {
        world.round()?;
    }
    world.work_off()?;
    Ok(world.told)
}

/// What goes of raw readings and features in a life whose outage outlasts the limits.
fn policies(random: &mut Rng) -> [Retention; 4] {
    let mut policy = || Retention {
        keep_oldest: random.u8(..4) == 0,
        max_age: (random.u8(..4) == 0).then(|| Span::seconds(20)),
        thin: (random.u8(..4) > 0).then_some(plant::THIN),
    };
    [Retention::default(), Retention::default(), policy(), policy()]
}

/// On a file system in memory where there is one: thousands of lives sync a lot.
fn folder() -> io::Result<TempDir> {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }
}

impl World {
    fn new(seed: u64) -> Result<World, SimulatedError> {
        let mut random = Rng::with_seed(seed);
        // In one life of three the outage outlasts the limits.
        let is_small = random.u8(..3) == 0;
        let limits = if is_small { [1 << 20, 1 << 20, 2 << 10, 4 << 10] } else { [1 << 30; 4] };
        let retention = if is_small { policies(&mut random) } else { Default::default() };
        Ok(World {
            random,
            clock: plant::CLOCK,
            folder: folder()?,
            kv: Arc::new(MemKv::new()),
            limits,
            retention,
            broker: Broker::default(),
            fars: Default::default(),
            device: None,
            made: BTreeMap::new(),
            published: 0,
            told: Told::default(),
        })
    }

    /// Some time passes, and something happens.
    fn round(&mut self) -> Result<(), SimulatedError> {
        // A clock that is set now and then.
        let by = match self.random.u8(..50) {
            0 => Span::seconds(self.random.i64(-3600..3600)),
            _ => Span::millis(self.random.i64(1..400)),
        };
        self.clock = self.clock.plus(by);
        for _ in 0..self.random.u64(..6) {
            self.broker.publish(self.published);
            self.published += 1;
        }
        let mut device = match self.device.take() {
            Some(device) => device,
            None => self.start()?,
        };
        match self.random.u8(..33) {
            0 => return self.kill(device),
            1 => return self.cut_power(device),
            2 => return self.tear(device),
            3 => self.broker.reconnect(&mut self.random),
            4 => device.flush()?,
            5..8 => device.checkpoint()?,
            8..17 => self.send(&mut device)?,
            17 => return self.fill_disk(device),
            _ => self.tick(&mut device)?,
        }
        self.device = Some(device);
        Ok(())
    }

    fn start(&mut self) -> Result<Device, SimulatedError> {
        self.broker.reconnect(&mut self.random);
        Device::start(
            &self.kv,
            &options(self.folder.path(), self.limits, self.retention, self.clock),
        )
    }

    fn tick(&mut self, device: &mut Device) -> Result<(), SimulatedError> {
        let most = self.random.usize(1..25);
        let deliveries = self.broker.deliver(&mut self.random, most);
        device.tick(&mut self.broker, &deliveries, self.clock, &mut self.random)
    }

    fn send(&mut self, device: &mut Device) -> Result<(), SimulatedError> {
        let outcomes = [
            Send::NotArrived,
            Send::NotAnswered,
            Send::AnsweredPartly,
            Send::Answered,
            Send::Answered,
        ];
        for _ in 0..self.random.u8(..4) {
            let how = outcomes[self.random.usize(..outcomes.len())];
            let budget = self.random.usize(100..4000);
            // The second one takes less, and falls behind.
            let target = usize::from(self.random.u8(..3) == 0);
            device.send(target, &mut self.fars[target], how, budget, &mut self.random)?;
        }
        Ok(())
    }

    /// The process ends where it is, now and then between a commit and its acknowledgements. Files keep what was written;
    /// what the index had not flushed was in the process's own memory.
    fn kill(&mut self, mut device: Device) -> Result<(), SimulatedError> {
        self.told.kills += 1;
        if self.random.bool() {
            let deliveries = self.broker.deliver(&mut self.random, 20);
            device.commit(&self.broker, &deliveries, self.clock)?;
        }
        self.forget(device);
        Ok(())
    }

    /// What was not synced goes too.
    fn cut_power(&mut self, device: Device) -> Result<(), SimulatedError> {
        self.told.power_cuts += 1;
        let unsynced = device.unsynced();
        tear(&unsynced, &mut |n| self.random.usize(..n))?;
        self.forget(device);
        Ok(())
    }

    /// The power goes in the middle of a commit.
    fn tear(&mut self, mut device: Device) -> Result<(), SimulatedError> {
        self.told.power_cuts += 1;
        self.told.torn_commits += 1;
        let before = Before::of(self.folder.path())?;
        let deliveries = self.broker.deliver(&mut self.random, 20);
        device.commit(&self.broker, &deliveries, self.clock)?;
        before.tear_commit(self.folder.path(), &device.unsynced(), &mut self.random)?;
        self.forget(device);
        Ok(())
    }

    /// A checkpoint and a commit find the disk full, somewhere on their way. The commit is tried again, or never.
    fn fill_disk(&mut self, mut device: Device) -> Result<(), SimulatedError> {
        self.kv.fail_after(self.random.u64(..4));
        if self.random.bool() {
            match device.checkpoint() {
                Err(SimulatedError::Store(StoreError::Full { .. })) => self.told.full_disks += 1,
                other => other?,
            }
        }
        self.send(&mut device)?;
        let deliveries = self.broker.deliver(&mut self.random, 20);
        let mut committed = device.commit(&self.broker, &deliveries, self.clock);
        self.kv.fail_after(u64::MAX);
        if matches!(committed, Err(StoreError::Full { .. })) {
            self.told.full_disks += 1;
            match self.random.u8(..4) {
                0 => return self.cut_power(device),
                // It ends where it is.
                1 => {
                    self.forget(device);
                    return Ok(());
                }
                _ => committed = device.commit_again(),
            }
        }
        Device::acknowledge(&mut self.broker, &committed?, &mut self.random)?;
        self.device = Some(device);
        Ok(())
    }

    fn forget(&mut self, device: Device) {
        self.made.extend(device.made);
        let random = &mut self.random;
        self.kv.crash(&mut |n| random.usize(..n));
    }

    /// Nothing goes wrong any more: everything is taken, everything is sent, and then all must be there.
    fn work_off(&mut self) -> Result<(), SimulatedError> {
        let mut device = match self.device.take() {
            Some(device) => device,
            None => self.start()?,
        };
        self.broker.reconnect(&mut self.random);
        while !self.broker.is_empty() {
            let deliveries = self.broker.deliver(&mut self.random, 20);
            device.tick(&mut self.broker, &deliveries, self.clock, &mut self.random)?;
        }
        self.made.extend(std::mem::take(&mut device.made));
        let (expected, pending) = plant::undisturbed(self.published)?;
        let (used, all) = (device.used()?, 2 * self.published);
        ensure(used == all - pending, || {
            format!("{used} of {all} readings are used, {pending} wait for their watermark")
        })?;
        self.told.redelivered = self.broker.redelivered;
        self.told.messages = self.published;
        // The last ones wait for their watermark: nothing later follows.
        let released = self.published.saturating_sub(pending / 2);
        for (target, far) in self.fars.iter_mut().enumerate() {
            while device.send(target, far, Send::Answered, 10_000, &mut self.random)? {}
            let whose = |why| SimulatedError::Broken(format!("{}: {why}", TARGETS[target]));
            far.compare(&expected, &self.made).map_err(whose)?;
            self.told.repeats += far.repeats;
            self.told.lost += far.missing(released).map_err(whose)?;
            self.told.thinned += far.thinned(released).map_err(whose)?;
        }
        Ok(())
    }
}
