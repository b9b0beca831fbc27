//! The core: takes a tick's readings through every pipeline and says what came of it.
//!
//! `node` and `cli/replay` call it, from one thread. It does no I/O and reads no clock. A step cannot fail: a bad
//! reading is counted, and a stage that fails (or panics) costs its pipeline that tick's frame and its memory, says
//! so, and leaves the others alone. The same input in the same ticks gives the same records.

mod orders;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::{Deserialize, Serialize};

use crate::command::{Action, Command, Refusal};
use crate::frame::{Asset, Input, Readings, Windows};
use crate::record::{Checkpoint, Now, Record, Step};
use crate::stage::score::ScoreStage;
use crate::stage::{
    Account, Around, AssetTable, Effects, Flow, Reason, Stage, StageError, Standing,
};
use crate::time::{Tick, Timestamp};

/// All pipelines of a node and where they are.
pub struct Engine {
    node: String,
    tick: Tick,
    pipelines: Vec<Pipeline>,
    failures: Vec<Failure>,
    answers: Vec<Answer>,
}

/// What came of a command: what it was for is now this, or why nothing was done.
pub type Answer = Result<Now, Refusal>;

/// A pipeline ready to run.
pub struct Pipeline {
    /// Its name.
    pub name: String,
    /// Whose readings it takes (`frame::Input::route`).
    pub route: String,
    /// Its stages, each with a fingerprint of its settings: saved state returns only to the same settings.
    pub stages: Vec<Planned>,
    /// Most assets it will know.
    pub asset_limit: usize,
    /// Whether the windows that come out at the end are kept for [`Engine::take_windows`].
    pub keep_windows: bool,
    assets: AssetTable,
    account: Account,
    /// Readings of assets beyond the limit.
    refused: u64,
    /// Whether an asset beyond the limit has been named, and the one that is still to be.
    named_refused: bool,
    first_refused: Option<String>,
    windows: Vec<Windows>,
}

/// A stage with the fingerprint of everything that its memory depends on.
pub struct Planned {
    /// The stage.
    pub stage: Box<dyn Stage>,
    /// Its settings and those of the stages before it that shape its memory.
    pub fingerprint: String,
}

/// A stage that could not take a frame.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The pipeline that lost the frame and its memory.
    pub pipeline: String,
    /// What happened.
    pub reason: String,
}

/// A pipeline that knows as many assets as it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Full {
    /// Its name.
    pub pipeline: String,
    /// The first asset that it refused.
    pub asset: String,
    /// How many it may know.
    pub limit: usize,
}

/// Why a checkpoint cannot be used at all.
#[derive(Debug, thiserror::Error)]
#[error("the checkpoint of tick {seq} cannot be read: {reason}")]
pub struct RestoreError {
    seq: u64,
    reason: String,
}

#[derive(Default, Serialize, Deserialize)]
struct Saved {
    pipelines: Vec<SavedPipeline>,
}

#[derive(Serialize, Deserialize)]
struct SavedPipeline {
    name: String,
    assets: Vec<Asset>,
    account: Account,
    refused: u64,
    stages: Vec<(String, Vec<u8>)>,
}

impl Pipeline {
    /// A pipeline that has seen nothing.
    pub fn new(name: String, route: String, stages: Vec<Planned>, asset_limit: usize) -> Pipeline {
        Pipeline {
            name,
            route,
            stages,
            asset_limit,
            keep_windows: false,
            assets: AssetTable::default(),
            account: Account::default(),
            refused: 0,
            named_refused: false,
            first_refused: None,
            windows: Vec::new(),
        }
    }

    /// Its books so far.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// How many of its assets have drifted now, by kind; nothing where nobody looks.
    pub fn drifting(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        self.stages.iter().for_each(|s| s.stage.drifting(&mut counts));
        counts
    }

    /// How many assets it knows.
    pub fn assets(&self) -> &[Asset] {
        &self.assets.assets
    }

    /// Brings the inputs of its route into one frame over its own assets.
    fn admit(&mut self, input: &[Input]) -> Readings {
        let mut all = Readings::default();
        for part in input.iter().filter(|i| i.route == self.route) {
            let index: Vec<Option<u32>> =
                part.assets.iter().map(|a| self.assets.intern(a, self.asset_limit)).collect();
            let readings = &part.readings;
            self.account.received += readings.len() as u64;
            if all.is_empty() && index.iter().all(Option::is_some) {
                all = readings.clone();
                for asset in &mut all.asset {
                    *asset = index[*asset as usize].unwrap_or_default();
                }
                continue;
            }
            for row in 0..readings.len() {
                let place = readings.asset[row] as usize;
                let Some(asset) = index[place] else {
                    self.account.reject(Reason::TooManyAssets);
                    self.refused += 1;
                    if !std::mem::replace(&mut self.named_refused, true) {
                        self.first_refused = part.assets.get(place).map(|a| a.id.clone());
                    }
                    continue;
                };
                let (signal, quality) = (readings.signal[row], readings.quality[row]);
                all.push(asset, signal, readings.ts[row], readings.value[row], quality);
            }
        }
        all
    }

    /// Takes a frame through the stages.
    fn run(
        &mut self,
        readings: Readings,
        around: &Around<'_>,
        effects: &mut Effects,
    ) -> Result<(), StageError> {
        let mut flow = Flow::Readings(readings, Vec::new());
        for planned in &mut self.stages {
            flow = planned.stage.apply(flow, around, effects)?;
        }
        if let Flow::Windows(windows) = flow
            && self.keep_windows
            && !windows.is_empty()
        {
            self.windows.push(windows);
        }
        Ok(())
    }

    fn step(
        &mut self,
        input: &[Input],
        node: &str,
        tick: Tick,
        ended: bool,
        answers: &mut [Answer],
    ) -> (Effects, Option<Failure>) {
        let orders = self.orders(input, answers);
        let readings = self.admit(input);
        let count = readings.len() as u64;
        let mut effects = Effects::default();
        effects.account.pending = self.account.pending;
        let assets = std::mem::take(&mut self.assets);
        let name = self.name.clone();
        let deaf = input.iter().any(|i| i.route == Input::DEAF);
        let around = Around { node, pipeline: &name, assets: &assets.assets, tick, deaf, ended };
        let result = catch_unwind(AssertUnwindSafe(|| {
            self.obey(&orders, &around, &mut effects, answers);
            self.run(readings, &around, &mut effects)
        }));
        self.assets = assets;
        let reason = match result {
            Ok(Ok(())) => {
                self.account.absorb(&effects.account);
                return (effects, None);
            }
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic_text(panic.as_ref()),
        };
        // What it held and what came now is gone for this pipeline; its books say so.
        let lost = self.account.pending + count;
        self.account.pending = 0;
        self.account.rejected[Reason::Quarantined as usize] += lost;
        self.account.failures += 1;
        for planned in &mut self.stages {
            let _ = planned.stage.load(&[]); // empty state is always accepted
        }
        // Which models are in use outlives a failure, so their orders hold, and what tells of them.
        effects.account = Account::default();
        effects.records.retain(|one| matches!(one.record, Record::Model(_)));
        for order in orders.iter().filter(|order| !matches!(order.command.action, Action::Model(_)))
        {
            answers[order.number] = Err(Refusal::Failed(name.clone()));
        }
        (effects, Some(Failure { pipeline: name, reason }))
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("a stage panicked: {}", text.unwrap_or_default())
}

impl Engine {
    /// An engine that has seen nothing.
    pub fn new(node: String, pipelines: Vec<Pipeline>) -> Engine {
        Engine {
            node,
            tick: Tick { seq: 0, now: Timestamp::MIN },
            pipelines,
            failures: Vec::new(),
            answers: Vec::new(),
        }
    }

    /// One step. A tick without readings is a step too: time passes.
    pub fn step(&mut self, input: Vec<Input>, now: Timestamp) -> Step {
        // A clock that was set back must not take the ticks with it.
        let tick = Tick { seq: self.tick.seq + 1, now: now.max(self.tick.now) };
        self.replay(tick, input)
    }

    /// A step of the journal, at its own time.
    pub fn replay(&mut self, tick: Tick, input: Vec<Input>) -> Step {
        self.advance(tick, input, false)
    }

    /// The last step of a recording: nothing more will come, so nothing is waited for.
    pub fn finish(&mut self) -> Step {
        let tick = Tick { seq: self.tick.seq + 1, now: self.tick.now };
        self.advance(tick, Vec::new(), true)
    }

    fn advance(&mut self, tick: Tick, mut input: Vec<Input>, ended: bool) -> Step {
        self.tick = tick;
        let (mut records, mut faults) = (Vec::new(), Vec::new());
        let commands = input.iter().flat_map(|i| &i.commands);
        self.answers = commands.map(|c| Err(Refusal::NoPipeline(c.pipeline.clone()))).collect();
        for pipeline in &mut self.pipelines {
            let answers = &mut self.answers;
            let (effects, failure) = pipeline.step(&input, &self.node, tick, ended, answers);
            pipeline.account.records += effects.records.len() as u64;
            records.extend(effects.records);
            self.failures.extend(failure);
            pipeline.take_faults(&mut faults);
        }
        // Only the journal can tell a replay that a model had no answer, or none in time.
        if !faults.is_empty() {
            input.push(Input::of_commands(faults));
        }
        Step { tick, input, records }
    }

    /// After a recovery: no tick up to `seq` is used again, even where the journal lost it.
    pub fn resume_after(&mut self, seq: u64) {
        self.tick.seq = self.tick.seq.max(seq);
    }

    /// The last tick.
    pub fn tick(&self) -> Tick {
        self.tick
    }

    /// The pipelines.
    pub fn pipelines(&self) -> &[Pipeline] {
        &self.pipelines
    }

    /// Failures since they were last asked for.
    pub fn take_failures(&mut self) -> Vec<Failure> {
        std::mem::take(&mut self.failures)
    }

    /// Pipelines that have refused an asset for the first time in this process.
    pub fn take_full(&mut self) -> Vec<Full> {
        let full = self.pipelines.iter_mut().filter_map(|p| {
            let asset = p.first_refused.take()?;
            Some(Full { pipeline: p.name.clone(), asset, limit: p.asset_limit })
        });
        full.collect()
    }

    /// Whether a command can be carried out in a tick at `now`; it changes nothing.
    pub fn judge(&self, command: &Command, now: Timestamp) -> Result<(), Refusal> {
        match self.pipelines.iter().find(|p| p.name == command.pipeline) {
            Some(pipeline) => pipeline.judge(command, now.max(self.tick.now)),
            None => Err(Refusal::NoPipeline(command.pipeline.clone())),
        }
    }

    /// What came of the last tick's commands, in their order.
    pub fn take_answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }

    /// The scores, whose models can be swapped, each with its pipeline's name.
    pub fn scores(&self) -> impl Iterator<Item = (&str, &ScoreStage)> {
        let pipelines = self.pipelines.iter();
        pipelines.flat_map(|p| {
            p.stages.iter().filter_map(|s| s.stage.score()).map(|score| (p.name.as_str(), score))
        })
    }

    /// The same, to hand a model over or to set a deadline.
    pub fn scores_mut(&mut self) -> impl Iterator<Item = (&str, &mut ScoreStage)> {
        let pipelines = self.pipelines.iter_mut();
        pipelines.flat_map(|p| {
            let Pipeline { name, stages, .. } = p;
            let name = name.as_str();
            stages.iter_mut().filter_map(|s| s.stage.score_mut()).map(move |score| (name, score))
        })
    }

    /// All alarms that are not normal.
    pub fn standing(&self) -> Vec<Standing> {
        let all = self.pipelines.iter().flat_map(|p| {
            let around = Around {
                node: &self.node,
                pipeline: &p.name,
                assets: &p.assets.assets,
                tick: self.tick,
                deaf: false,
                ended: false,
            };
            p.stages.iter().flat_map(move |s| s.stage.standing(&around))
        });
        all.collect()
    }

    /// Windows since they were last asked for, of pipelines that keep them; `asset` points into the pipeline's assets.
    pub fn take_windows(&mut self) -> Vec<Windows> {
        self.pipelines.iter_mut().flat_map(|p| std::mem::take(&mut p.windows)).collect()
    }

    /// The next moment at which it must be stepped even if no reading comes.
    pub fn wake_at(&self) -> Option<Timestamp> {
        let stages = self.pipelines.iter().flat_map(|p| &p.stages);
        stages.filter_map(|s| s.stage.wake_at()).min()
    }

    /// Everything it remembers.
    pub fn checkpoint(&self) -> Result<Checkpoint, StageError> {
        let pipelines = self.pipelines.iter().map(|p| {
            let stages = p.stages.iter().map(|s| Ok((s.fingerprint.clone(), s.stage.save()?)));
            Ok(SavedPipeline {
                name: p.name.clone(),
                assets: p.assets.assets.clone(),
                account: p.account.clone(),
                refused: p.refused,
                stages: stages.collect::<Result<_, StageError>>()?,
            })
        });
        let saved = Saved { pipelines: pipelines.collect::<Result<_, StageError>>()? };
        let state = crate::stage::save_state("engine", &saved)?;
        Ok(Checkpoint { tick: self.tick, state })
    }

    /// Takes up where a checkpoint was made. State whose settings have changed since is left behind and named.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<Vec<String>, RestoreError> {
        let seq = checkpoint.tick.seq;
        let unreadable = |e: StageError| RestoreError { seq, reason: e.to_string() };
        let saved: Saved =
            crate::stage::load_state("engine", &checkpoint.state).map_err(unreadable)?;
        self.tick = checkpoint.tick;
        let mut notes = Vec::new();
        for old in saved.pipelines {
            let Some(pipeline) = self.pipelines.iter_mut().find(|p| p.name == old.name) else {
                notes.push(format!(
                    "pipeline `{}` is gone; what it remembered is left behind",
                    old.name
                ));
                continue;
            };
            pipeline.restore(old, &mut notes).map_err(unreadable)?;
        }
        Ok(notes)
    }
}

impl Pipeline {
    fn restore(&mut self, old: SavedPipeline, notes: &mut Vec<String>) -> Result<(), StageError> {
        self.assets = AssetTable::from_assets(old.assets);
        self.account = old.account;
        self.refused = old.refused;
        for planned in &mut self.stages {
            match old.stages.iter().find(|s| s.0 == planned.fingerprint) {
                Some((_, state)) => planned.stage.load(state)?,
                None => notes.push(format!(
                    "pipeline `{}`: the settings of `{}` have changed; it starts without memory",
                    self.name,
                    planned.stage.name()
                )),
            }
        }
        Ok(())
    }
}
