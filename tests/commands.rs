//! Operators' commands are input like any other: where ticks are cut, where a run was interrupted and where the power
//! went changes nothing of what they do; the journal keeps them word for word.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
mod store_kit;

use std::sync::Arc;

use common::{Reading, engine, input, spec};
use forebay::command::{Action, Command, Refusal, Verdict};
use forebay::engine::{Answer, Engine};
use forebay::frame::Input;
use forebay::pipeline::spec::PipelineSpec;
use forebay::record::{AlarmRecord, AlarmState, Lane, Now, Outgoing, Record, Step, VerdictRecord};
use forebay::store::{Kv, MemKv, Receipts, Store};
use forebay::time::{Span, Tick, Timestamp};
use proptest::prelude::*;
use store_kit::{NO_LIMITS, options};

/// Two alarms on one value: one that waits for an operator, and one that does not and takes its time.
const PIPELINE: &str = r#"
    stage = [
      { resample = { every = "1s", fill = "previous", max_gap = "3s" } },
      { window = { length = "1s", features = ["mean"], min_coverage = 0.0 } },
      { alarm = { name = "stays", on = "a.mean", raise = 3.0, clear = 1.0, latch = true } },
      { alarm = { name = "slow", on = "a.mean", raise = 3.0, clear = 1.0, on_delay = "2s", off_delay = "1s" } },
    ]"#;

const START: i64 = 1_700_000_000_000_000;

/// What happens at the node, in order, at a clock that does not stand still.
#[derive(Clone, Debug)]
enum Happens {
    Reading(Reading),
    Command(Command),
}

fn command(asset: &str, alarm: &str, action: Action) -> Command {
    let by = Some("anna".into());
    Command { pipeline: "rig".into(), asset: asset.into(), alarm: alarm.into(), action, by }
}

fn shelve(until: i64) -> Action {
    Action::Shelve { until: Timestamp(until), reason: Some("bearing is changed".into()) }
}

fn judge(verdict: Verdict, raised: Option<Timestamp>) -> Action {
    let (fault, note) = (Some("bearing".into()), Some("outer ring".into()));
    Action::Judge { verdict, raised, fault, note }
}

/// Readings of two machines that go up and down, and commands of all kinds between them, some of which make no sense.
fn script() -> impl Strategy<Value = Vec<(i64, Happens)>> {
    let reading = (0..2_u32, prop::sample::select(vec![0.0, 2.0, 5.0])).prop_map(Ok);
    let alarm = prop::sample::select(vec!["stays", "slow", "slow", "stays", "other"]);
    let asset = prop::sample::select(vec!["m0", "m1", "m0", "m1", "m2"]);
    let order = (asset, alarm, 0..7_u8, -1_i64..8).prop_map(Err);
    let step = prop_oneof![5 => 1..1_200_000_i64, 1 => Just(0)];
    let one = (prop_oneof![3 => reading.boxed(), 1 => order.boxed()], step);
    prop::collection::vec(one, 1..150).prop_map(|list| {
        let mut now = START;
        let happens = |(one, step): (Result<_, (&str, &str, u8, i64)>, i64)| {
            now += step;
            let happens = match one {
                Ok((asset, value)) => {
                    Happens::Reading(Reading { asset, signal: 0, ts: now, value })
                }
                Err((asset, alarm, action, seconds)) => {
                    let action = match action {
                        0..=2 => Action::Acknowledge,
                        3 | 4 => shelve(now + seconds * 1_000_000),
                        5 => judge(Verdict::False, None),
                        _ => Action::Unshelve,
                    };
                    Happens::Command(command(asset, alarm, action))
                }
            };
            (now, happens)
        };
        list.into_iter().map(happens).collect()
    })
}

/// A tick as the node would make it.
#[derive(Clone, Debug, Default)]
struct Draft {
    now: i64,
    commands: Vec<Command>,
    readings: Vec<Reading>,
}

impl Draft {
    fn is_empty(&self) -> bool {
        self.commands.is_empty() && self.readings.is_empty()
    }

    /// When the node has to come round whatever else happens.
    fn due(&self, engine: &Engine) -> i64 {
        let ends = self.commands.iter().filter_map(|c| match c.action {
            Action::Shelve { until, .. } if until.0 > self.now => Some(until),
            _ => None,
        });
        ends.chain(engine.wake_at()).min().map_or(i64::MAX, |at| at.0)
    }

    fn input(&self, spec: &PipelineSpec) -> Vec<Input> {
        let mut all = input(spec, &self.readings);
        all.push(Input::of_commands(self.commands.clone()));
        all
    }
}

#[derive(Debug, Default, PartialEq)]
struct Told {
    records: Vec<AlarmRecord>,
    verdicts: Vec<VerdictRecord>,
    answers: Vec<Answer>,
}

impl Told {
    fn hear(&mut self, engine: &mut Engine, step: Step) -> Step {
        assert!(engine.take_failures().is_empty());
        self.answers.extend(engine.take_answers());
        for Outgoing { record, .. } in &step.records {
            match record {
                Record::Alarm(alarm) => self.records.push(alarm.clone()),
                Record::Verdict(verdict) => self.verdicts.push(verdict.clone()),
                other => panic!("{other:?}"),
            }
        }
        step
    }

    /// Without what names the tick: a command's record says in which tick it was carried out.
    fn whatever_the_ticks(mut self) -> Told {
        for record in &mut self.records {
            if let Some((what, _)) = record.id.rsplit_once("/command/") {
                record.id = what.to_owned();
            }
        }
        for verdict in &mut self.verdicts {
            verdict.id.clear();
        }
        self.verdicts.sort_by_key(|r| (r.asset.clone(), r.name.clone(), r.given));
        self.records.sort_by_key(|r| (r.asset.clone(), r.name.clone(), r.at));
        self
    }
}

/// Ticks cut at these counts of readings, and otherwise as a node does: commands come before readings, and the node
/// comes round in time for what is due.
fn drafts(spec: &PipelineSpec, script: &[(i64, Happens)], cuts: &[usize]) -> Vec<Draft> {
    let mut engine = engine(spec);
    let mut cuts = cuts.iter().cycle();
    let mut room = *cuts.next().unwrap();
    let (mut all, mut open) = (Vec::new(), Draft::default());
    let mut close = |engine: &mut Engine, draft: Draft| {
        engine.step(draft.input(spec), Timestamp(draft.now));
        all.push(draft);
    };
    for (now, happens) in script {
        let full = open.readings.len() >= room;
        let command = matches!(happens, Happens::Command(_));
        // A command is carried out at its own time, before any reading of its tick.
        let apart = command && !(open.readings.is_empty() && open.now == *now);
        if full || open.due(&engine) <= *now || apart {
            if !open.is_empty() {
                close(&mut engine, std::mem::take(&mut open));
            }
            room = *cuts.next().unwrap();
        }
        while let Some(wake) = engine.wake_at().filter(|wake| wake.0 <= *now) {
            close(&mut engine, Draft { now: wake.0, ..Draft::default() });
        }
        // The commands' own time is what their tick is given, however long it stays open.
        if open.commands.is_empty() {
            open.now = *now;
        }
        match happens {
            Happens::Reading(reading) => open.readings.push(*reading),
            Happens::Command(command) => open.commands.push(command.clone()),
        }
        if command && room == 1 {
            close(&mut engine, std::mem::take(&mut open));
        }
    }
    close(&mut engine, open);
    all
}

fn run(engine: &mut Engine, spec: &PipelineSpec, drafts: &[Draft]) -> Told {
    let mut told = Told::default();
    for draft in drafts {
        let step = engine.step(draft.input(spec), Timestamp(draft.now));
        told.hear(engine, step);
    }
    told
}

/// The last change of every alarm that is not normal, as the records tell it.
fn standing(records: &[AlarmRecord]) -> Vec<AlarmRecord> {
    let mut last = std::collections::BTreeMap::new();
    for record in records {
        last.insert((record.asset.clone(), record.name.clone()), record.clone());
    }
    last.into_values().filter(|r| r.state != AlarmState::Normal).collect()
}

fn stands(engine: &Engine) -> Vec<AlarmRecord> {
    let mut all: Vec<AlarmRecord> = engine.standing().into_iter().map(|s| s.record).collect();
    all.sort_by_key(|r| (r.asset.clone(), r.name.clone()));
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ticks_may_be_cut_anywhere_between_commands(
        script in script(),
        cuts in prop::collection::vec(1..40_usize, 1..10),
    ) {
        let spec = spec(PIPELINE);
        let once = |cuts: &[usize]| {
            let told = run(&mut engine(&spec), &spec, &drafts(&spec, &script, cuts));
            told.whatever_the_ticks()
        };
        let fine = once(&[1]);
        prop_assert_eq!(&once(&cuts), &fine);
        prop_assert_eq!(&once(&[1000]), &fine);
    }

    #[test]
    fn a_run_may_be_interrupted_anywhere(script in script(), stop in any::<prop::sample::Index>()) {
        let spec = spec(PIPELINE);
        let drafts = drafts(&spec, &script, &[3, 1, 7]);
        let mut straight = engine(&spec);
        let expected = run(&mut straight, &spec, &drafts);

        let (before, after) = drafts.split_at(stop.index(drafts.len()));
        let mut first = engine(&spec);
        let mut told = run(&mut first, &spec, before);
        let mut second = engine(&spec);
        second.restore(&first.checkpoint().unwrap()).unwrap();
        prop_assert_eq!(second.wake_at(), first.wake_at());
        prop_assert_eq!(second.standing(), first.standing());
        let rest = run(&mut second, &spec, after);
        told.records.extend(rest.records);
        told.verdicts.extend(rest.verdicts);
        told.answers.extend(rest.answers);
        prop_assert_eq!(told, expected);
        prop_assert_eq!(second.checkpoint().unwrap(), straight.checkpoint().unwrap());
    }

    #[test]
    fn what_stands_is_what_was_said_last_and_no_id_comes_twice(script in script()) {
        let spec = spec(PIPELINE);
        let mut engine = engine(&spec);
        let told = run(&mut engine, &spec, &drafts(&spec, &script, &[2]));
        prop_assert_eq!(stands(&engine), standing(&told.records));
        let mut ids: Vec<&str> = told.records.iter().map(|r| r.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        prop_assert_eq!(ids.len(), told.records.len());
        // Asking first tells what would happen.
        for (_, happens) in &script {
            let Happens::Command(command) = happens else { continue };
            let mut same = crate::engine(&spec);
            same.restore(&engine.checkpoint().unwrap()).unwrap();
            let now = engine.tick().now;
            let judged = engine.judge(command, now);
            same.step(vec![Input::of_commands(vec![command.clone()])], now);
            prop_assert_eq!(judged.err(), same.take_answers().remove(0).err());
        }
    }

    #[test]
    fn commands_survive_a_power_cut(
        script in script(),
        cut in any::<prop::sample::Index>(),
        checkpoint in any::<prop::sample::Index>(),
        seed in any::<u64>(),
    ) {
        let spec = spec(PIPELINE);
        let drafts = drafts(&spec, &script, &[4]);
        let mut straight = engine(&spec);
        let expected = run(&mut straight, &spec, &drafts);

        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path(), NO_LIMITS);
        let kv = Arc::new(MemKv::new());
        let (mut engine, mut store) = recover(&spec, &kv, &options);
        let (cut, checkpoint) = (cut.index(drafts.len()), checkpoint.index(drafts.len()));
        for (index, draft) in drafts.iter().enumerate() {
            let step = engine.step(draft.input(&spec), Timestamp(draft.now));
            store.ledger.commit(&step, &mut Receipts::new()).unwrap();
            if index == checkpoint {
                store.ledger.checkpoint(&engine.checkpoint().unwrap()).unwrap();
            }
            if index == cut {
                let before = (engine.standing(), engine.checkpoint().unwrap());
                drop(store);
                let mut random = fastrand::Rng::with_seed(seed);
                kv.crash(&mut |n| random.usize(..n));
                (engine, store) = recover(&spec, &kv, &options);
                prop_assert_eq!(&(engine.standing(), engine.checkpoint().unwrap()), &before);
            }
        }
        prop_assert_eq!(engine.checkpoint().unwrap(), straight.checkpoint().unwrap());
        let committed = store.ledger.finish_recovery().unwrap().committed;
        let waiting = store.outboxes[0].peek(Lane::Alarm, committed, usize::MAX, 0);
        let lines: Vec<Record> = waiting.unwrap().map_or(Vec::new(), |parcel| {
            parcel.records().map(|(_, line)| serde_json::from_slice(line).unwrap()).collect()
        });
        let (verdicts, alarms): (Vec<Record>, Vec<Record>) =
            lines.into_iter().partition(|line| matches!(line, Record::Verdict(_)));
        let sent: Vec<Record> = expected.records.into_iter().map(Record::Alarm).collect();
        prop_assert_eq!(alarms, sent);
        let said: Vec<Record> = expected.verdicts.into_iter().map(Record::Verdict).collect();
        prop_assert_eq!(verdicts, said);
    }

    #[test]
    fn the_journal_keeps_commands_word_for_word(ticks in prop::collection::vec(commands(), 1..5)) {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path(), NO_LIMITS);
        let kv: Arc<dyn Kv> = Arc::new(MemKv::new());
        let mut store = Store::open_on(Arc::clone(&kv), &options).unwrap();
        store_kit::recover(&mut store);
        for (index, commands) in ticks.iter().enumerate() {
            let tick = Tick { seq: index as u64 + 1, now: Timestamp(index as i64) };
            let input = vec![Input::of_commands(commands.clone())];
            let step = Step { tick, input, records: Vec::new() };
            store.ledger.commit(&step, &mut Receipts::new()).unwrap();
        }
        drop(store);
        let store = Store::open_on(kv, &options).unwrap();
        let read: Vec<Vec<Input>> = store.recovered.entries.map(|e| e.unwrap().1).collect();
        let given: Vec<Vec<Input>> =
            ticks.into_iter().map(|commands| vec![Input::of_commands(commands)]).collect();
        prop_assert_eq!(read, given);
    }
}

fn commands() -> impl Strategy<Value = Vec<Command>> {
    let action = prop_oneof![
        Just(Action::Acknowledge),
        Just(Action::Unshelve),
        (any::<Option<i64>>(), any::<Option<String>>(), any::<Option<String>>()).prop_map(
            |(raised, fault, note)| Action::Judge {
                verdict: Verdict::Unsure,
                raised: raised.map(Timestamp),
                fault,
                note,
            }
        ),
        (any::<i64>(), any::<Option<String>>())
            .prop_map(|(until, reason)| Action::Shelve { until: Timestamp(until), reason }),
    ];
    let names = (any::<String>(), any::<String>(), any::<String>());
    let command = (names, action, any::<Option<String>>()).prop_map(|(names, action, by)| {
        let (pipeline, asset, alarm) = names;
        Command { pipeline, asset, alarm, action, by }
    });
    prop::collection::vec(command, 0..20)
}

/// A start as a node makes it.
fn recover(
    spec: &PipelineSpec,
    kv: &Arc<MemKv>,
    options: &forebay::store::StoreOptions,
) -> (Engine, Store) {
    let mut engine = engine(spec);
    let kv = Arc::clone(kv) as Arc<dyn Kv>;
    let mut store = Store::open_on(kv, options).unwrap();
    if let Some(checkpoint) = &store.recovered.checkpoint {
        assert_eq!(engine.restore(checkpoint).unwrap(), Vec::<String>::new());
    }
    for entry in store.recovered.entries.by_ref() {
        let (tick, input) = entry.unwrap();
        let step = engine.replay(tick, input);
        store.ledger.reconcile(&step).unwrap();
    }
    engine.resume_after(store.recovered.last_tick);
    assert_eq!(store.ledger.finish_recovery().unwrap().changed, 0);
    (engine, store)
}

/// An engine whose machine `m0` has been at `value` for long enough that both alarms know.
fn at(value: f64) -> (PipelineSpec, Engine) {
    let spec = spec(PIPELINE);
    let mut engine = engine(&spec);
    let readings: Vec<Reading> =
        (0..12).map(|n| Reading { asset: 0, signal: 0, ts: START + n * 500_000, value }).collect();
    engine.step(input(&spec, &readings), Timestamp(START + 6_000_000));
    (spec, engine)
}

fn ask(engine: &mut Engine, alarm: &str, action: Action, now: i64) -> Result<Now, Refusal> {
    let input = Input::of_commands(vec![command("m0", alarm, action)]);
    engine.step(vec![input], Timestamp(now));
    engine.take_answers().remove(0)
}

#[test]
fn a_shelving_ends_by_the_clock_and_what_is_on_is_raised_again() {
    let (_, mut engine) = at(5.0);
    let now = START + 7_000_000;
    assert_eq!(
        ask(&mut engine, "stays", Action::Acknowledge, now),
        Ok(Now::Alarm(AlarmState::Acknowledged))
    );
    let until = now + 3_600_000_000;
    assert_eq!(
        ask(&mut engine, "stays", shelve(until), now + 1),
        Ok(Now::Alarm(AlarmState::Shelved))
    );
    assert_eq!(engine.wake_at(), Some(Timestamp(until)));
    let early = engine.step(Vec::new(), Timestamp(until - 1));
    assert!(early.records.is_empty(), "{early:?}");
    let step = engine.step(Vec::new(), Timestamp(until).plus(Span::millis(40)));
    let [Outgoing { record: Record::Alarm(alarm), .. }] = step.records.as_slice() else {
        panic!("{step:?}")
    };
    assert_eq!(alarm.state, AlarmState::Unacknowledged);
    assert_eq!((alarm.at, alarm.by.as_deref()), (Timestamp(until), None));
    assert_eq!((alarm.value, alarm.limit), (Some(5.0), 3.0), "the last that was seen");
    assert_eq!(engine.wake_at(), None);
}

#[test]
fn a_command_says_who_and_why_and_until_when() {
    let (_, mut engine) = at(0.0);
    let (now, until) = (START + 7_000_000, START + 9_000_000);
    let input = Input::of_commands(vec![command("m0", "slow", shelve(until))]);
    let step = engine.step(vec![input], Timestamp(now));
    let Record::Alarm(alarm) = &step.records[0].record else { panic!("{step:?}") };
    assert_eq!(alarm.state, AlarmState::Shelved, "before work begins, with nothing on");
    assert_eq!((alarm.at, alarm.until), (Timestamp(now), Some(Timestamp(until))));
    assert_eq!(alarm.by.as_deref(), Some("anna"));
    assert_eq!(alarm.reason.as_deref(), Some("bearing is changed"));
    assert_eq!(engine.standing()[0].record, *alarm);
}

#[test]
fn what_cannot_be_done_changes_nothing_and_says_why() {
    let (_, mut engine) = at(0.0);
    let before = engine.checkpoint().unwrap().state;
    let now = START + 7_000_000;
    let of = |pipeline: &str, asset: &str, alarm: &str, action| {
        let (pipeline, asset) = (pipeline.to_owned(), asset.to_owned());
        Command { pipeline, asset, alarm: alarm.to_owned(), action, by: None }
    };
    let cases = [
        (of("pumps", "m0", "slow", Action::Acknowledge), "no pipeline `pumps`"),
        (of("rig", "m9", "slow", Action::Acknowledge), "no asset `m9`"),
        (
            of("rig", "m0", "fast", Action::Acknowledge),
            "has no alarm `fast`; it has `stays`, `slow`",
        ),
        (of("rig", "m0", "slow", Action::Acknowledge), "is normal: there is nothing"),
        (of("rig", "m0", "slow", Action::Unshelve), "is normal, not shelved"),
        (of("rig", "m0", "slow", shelve(now)), "is its clock right?"),
    ];
    let commands: Vec<Command> = cases.iter().map(|case| case.0.clone()).collect();
    let step = engine.step(vec![Input::of_commands(commands)], Timestamp(now));
    assert!(step.records.is_empty(), "{step:?}");
    let answers = engine.take_answers();
    assert_eq!(answers.len(), cases.len());
    for (answer, (command, expected)) in answers.into_iter().zip(cases) {
        let why = answer.unwrap_err().to_string();
        assert!(why.contains(expected), "{command:?}: {why}");
    }
    assert_eq!(engine.checkpoint().unwrap().state, before);
}

#[test]
fn of_two_who_acknowledge_in_one_tick_the_second_is_told() {
    let (_, mut engine) = at(5.0);
    let twice = vec![command("m0", "slow", Action::Acknowledge); 2];
    let step = engine.step(vec![Input::of_commands(twice)], Timestamp(START + 7_000_000));
    assert_eq!(step.records.len(), 1);
    let answers = engine.take_answers();
    assert_eq!(answers[0], Ok(Now::Alarm(AlarmState::Acknowledged)));
    assert!(matches!(answers[1], Err(Refusal::NothingToAcknowledge { .. })), "{answers:?}");
}
