//! What operators say of alarms: kept with what was measured, refused where there is nothing to judge, and learned from.

use forebay::command::{Action, Command, Refusal, Verdict};
use forebay::frame::Input;
use forebay::record::{Lane, NoticeKind, Outgoing, Record};
use forebay::time::Timestamp;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::common::{Reading, engine, input, spec};
use crate::laws::noise;

const PIPELINE: &str = r#"
    stage = [
      { resample = { every = "1s", fill = "previous", max_gap = "3s" } },
      { window = { length = "1s", features = ["mean"], min_coverage = 0.0 } },
      { alarm = { name = "stays", on = "a.mean", raise = 3.0, clear = 1.0, latch = true } },
    ]"#;

const START: i64 = 1_700_000_000_000_000;

fn command(asset: &str, action: Action) -> Command {
    let by = Some("anna".into());
    Command { pipeline: "rig".into(), asset: asset.into(), alarm: "stays".into(), action, by }
}

fn judge(verdict: Verdict, raised: Option<Timestamp>) -> Action {
    let (fault, note) = (Some("bearing".into()), Some("outer ring".into()));
    Action::Judge { verdict, raised, fault, note }
}

#[test]
fn a_verdict_keeps_what_was_measured_when_the_alarm_was_raised() {
    let spec = spec(PIPELINE);
    let mut engine = engine(&spec);
    let readings: Vec<Reading> = (0..12)
        .map(|n| Reading { asset: 0, signal: 0, ts: START + n * 500_000, value: 5.0 })
        .collect();
    engine.step(input(&spec, &readings), Timestamp(START + 6_000_000));
    let now = START + 7_000_000;
    // The alarm is over before somebody has looked at the machine.
    let readings: Vec<Reading> = (0..5)
        .map(|n| Reading { asset: 0, signal: 0, ts: START + (7 + n) * 1_000_000, value: 0.0 })
        .collect();
    engine.step(input(&spec, &readings), Timestamp(now + 5_000_000));
    let said = Input::of_commands(vec![command("m0", judge(Verdict::True, None))]);
    let step = engine.step(vec![said], Timestamp(now + 6_000_000));
    let [Outgoing { lane: Lane::Alarm, record: Record::Verdict(verdict) }] =
        step.records.as_slice()
    else {
        panic!("{step:?}")
    };
    assert_eq!(verdict.verdict, Verdict::True);
    assert_eq!(
        (verdict.fault.as_deref(), verdict.note.as_deref()),
        (Some("bearing"), Some("outer ring"))
    );
    assert_eq!((verdict.by.as_deref(), verdict.given), (Some("anna"), Timestamp(now + 6_000_000)));
    assert_eq!((verdict.peak, verdict.limit), (5.0, 3.0));
    assert!(verdict.features.values().any(|value| *value == Some(5.0)), "{verdict:?}");
    let rows = &verdict.signals["a"];
    assert!(!rows.is_empty() && rows.iter().all(|row| row.1 == 5.0), "{rows:?}");
    assert!(rows.iter().all(|row| (verdict.window_start..verdict.window_end).contains(&row.0)));
    // What was said is said again in another way; another moment than that of the last alarm is none.
    let raised = Some(rows[0].0);
    let other = {
        let said = Input::of_commands(vec![command("m0", judge(Verdict::False, raised))]);
        engine.step(vec![said], Timestamp(now + 7_000_000));
        engine.take_answers().remove(0)
    };
    assert!(matches!(other, Err(Refusal::NothingToJudge { .. })), "{other:?}");
    let never = Input::of_commands(vec![command("m1", judge(Verdict::Unsure, None))]);
    engine.step(vec![never], Timestamp(now + 8_000_000));
    assert!(engine.take_answers().remove(0).is_err());
}

#[test]
fn a_threshold_learns_from_verdicts() {
    let text = PIPELINE.replace(
        "raise = 3.0, clear = 1.0, latch = true",
        "raise = 8.0, adapt = { alarms_a_day = 100.0, learn = 400, reach = 8.0 }",
    );
    let spec = spec(&text);
    // After normal running, one window goes up to 7: the threshold has come down below that.
    let with_verdicts = |verdict: Option<Verdict>, times: usize| {
        let mut engine = engine(&spec);
        let mut random = ChaCha8Rng::seed_from_u64(8);
        for n in 0..1200 {
            let value = if n == 1000 { 7.0 } else { noise(&mut random) };
            let reading = Reading { asset: 0, signal: 0, ts: START + n * 1_000_000, value };
            let mut all = input(&spec, &[reading]);
            if let Some(verdict) = verdict.filter(|_| n == 1010) {
                let commands = vec![command("m0", judge(verdict, None)); times];
                all.push(Input::of_commands(commands));
            }
            engine.step(all, Timestamp(START + n * 1_000_000));
            assert!(engine.take_answers().into_iter().all(|answer| answer.is_ok()));
        }
        // What stands is the limit in force.
        let high = Reading { asset: 0, signal: 0, ts: START + 1_200_000_000, value: 50.0 };
        let after = Reading { ts: START + 1_210_000_000, ..high };
        let step = engine.step(input(&spec, &[high, after]), Timestamp(START + 1_210_000_000));
        let limit = |outgoing: &Outgoing| match &outgoing.record {
            Record::Alarm(alarm) => Some(alarm.limit),
            Record::Notice(notice) => {
                assert_eq!(notice.kind, NoticeKind::Threshold);
                None
            }
            _ => None,
        };
        step.records.iter().find_map(limit).unwrap()
    };
    let with_verdict = |verdict| with_verdicts(verdict, 1);
    let [none, right, wrong] = [None, Some(Verdict::True), Some(Verdict::False)].map(with_verdict);
    assert!(right < none && none < wrong, "{right} {none} {wrong}");
    assert_eq!(with_verdict(Some(Verdict::Unsure)), none);
    let often = with_verdicts(Some(Verdict::False), 9);
    assert_eq!(often, wrong, "an alarm teaches once, however often it is judged");
}

#[test]
fn an_alarm_is_judged_so_often_and_the_same_twice_is_once() {
    let spec = spec(&PIPELINE.replace("latch = true", "latch = false"));
    let mut engine = engine(&spec);
    let mut second = 0;
    let mut run = |value: f64, commands: Vec<Command>| {
        second += 1;
        let ts = START + second * 1_000_000;
        let mut all = input(&spec, &[Reading { asset: 0, signal: 0, ts, value }]);
        all.push(Input::of_commands(commands));
        let records = engine.step(all, Timestamp(ts)).records;
        let verdict = |o: &&Outgoing| matches!(o.record, Record::Verdict(_));
        (records.iter().filter(verdict).count(), engine.take_answers())
    };
    let said = |verdict| command("m0", judge(verdict, None));
    (0..6).for_each(|_| drop(run(5.0, Vec::new())));
    let (records, answers) = run(5.0, vec![said(Verdict::False); 100]);
    assert_eq!((records, answers.iter().all(Result::is_ok)), (1, true));
    let by = |n: i32| Some(format!("operator {n}"));
    let turns = (0..40).map(|n| Command { by: by(n), ..said(Verdict::True) }).collect();
    let (records, answers) = run(5.0, turns);
    assert_eq!(records, 15);
    let refused = |answer: &Result<_, Refusal>| matches!(answer, Err(Refusal::JudgedEnough { .. }));
    assert_eq!(
        answers.iter().map(refused).collect::<Vec<_>>(),
        [[false; 15].as_slice(), &[true; 25]].concat()
    );
    // The next alarm may be judged again.
    (0..6).for_each(|_| drop(run(0.0, Vec::new())));
    (0..6).for_each(|_| drop(run(5.0, Vec::new())));
    assert_eq!(run(5.0, vec![said(Verdict::False)]).0, 1);
}
