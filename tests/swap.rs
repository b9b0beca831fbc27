//! Models that are swapped while windows come: orders stand in the journal, so a replay from anywhere gives the same
//! records, whatever failed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "swap/failing.rs"]
mod failing;
#[path = "swap/learned.rs"]
mod learned;
mod shop;

use std::collections::BTreeMap;
use std::path::Path;

use forebay::command::{Action, Command, ModelAction, Refusal};
use forebay::engine::Engine;
use forebay::frame::Input;
use forebay::model::build::{Dim, Graph, Kind};
use forebay::model::session::Cost;
use forebay::model::signature::SigningKey;
use forebay::model::{ModelFile, Trust};
use forebay::record::{ModelPhase, Now, Record, Step};
use forebay::time::Timestamp;
use proptest::prelude::*;
use shop::{
    SECOND, START, Shop, canary, model, offer, order, phases, promote, scores, settle, withdraw,
};

#[test]
fn a_new_model_is_heard_by_phases_and_can_be_taken_back() {
    let shop = Shop::new();
    let mut engine = shop.engine();
    let good = shop.good.as_str();
    let script: [&[ModelAction]; 12] = [
        &[],
        &[],
        &[],
        &[offer(good)],
        &[],
        &[canary(good, 0)],
        &[],
        &[promote(good)],
        &[],
        &[settle(good)],
        &[withdraw(good)],
        &[withdraw(good)],
    ];
    let mut models: Vec<Vec<String>> = Vec::new();
    for (second, orders) in script.iter().enumerate() {
        let step = engine.step(shop.tick(second as i64, |_| 2.0, orders), Timestamp(START));
        assert!(engine.take_failures().is_empty());
        for score in scores(&step) {
            let times = if score.model.as_deref() == Some("good") { 2.0 } else { 1.0 };
            assert_eq!(score.scores["anomaly"], Some(2.0 * times));
            assert_eq!(score.threshold, Some(6.0 * times));
        }
        models.push(scores(&step).iter().filter_map(|s| s.model.clone()).collect());
        let answers = engine.take_answers();
        let last = second == 11;
        assert_eq!(answers.iter().all(Result::is_ok), !last, "{second}: {answers:?}");
    }
    let good = |at: usize| models[at].iter().filter(|model| *model == "good").count();
    let heard: Vec<usize> = (0..12).map(good).collect();
    // A tick's windows are those that its readings ended; 2 s of lateness go before.
    assert_eq!(heard, [0, 0, 0, 0, 0, 1, 1, 4, 4, 4, 0, 0], "{models:?}");
}

/// In the last of `steps`, on the scale of the model that was given up: 200 is far from 0 to 3.
fn statistics_answer(steps: &[Step]) {
    let last = scores(steps.last().unwrap());
    assert_eq!(last.len(), 4);
    for score in last {
        assert_eq!(score.model.as_deref(), Some("statistics"));
        assert_eq!(score.threshold, Some(6.0));
        assert!(score.scores["anomaly"].unwrap() >= 6.0, "{score:?}");
    }
    assert_eq!(phases(steps), [(ModelPhase::Quarantined, "old".to_owned())]);
}

#[test]
fn where_a_model_has_no_answer_statistics_have_one_and_the_journal_knows() {
    let shop = Shop::new();
    let mut engine = shop.engine();
    let wave = |second: i64| ((second * 7) % 4) as f64;
    let mut steps = Vec::new();
    for second in 0..60 {
        let tick = shop.tick(second, |_| wave(second), &[]);
        steps.push(engine.step(tick, Timestamp(START + second * SECOND)));
    }
    // From here on every value is one that the model cannot take.
    for second in 60..70 {
        let tick = shop.tick(second, |_| 200.0, &[]);
        steps.push(engine.step(tick, Timestamp(START + second * SECOND)));
    }
    statistics_answer(&steps);
    let is_failure = |c: &Command| matches!(c.action, Action::Model(ModelAction::Failed { .. }));
    let failures =
        |step: &Step| step.input.iter().flat_map(|i| &i.commands).filter(|c| is_failure(c)).count();
    assert_eq!(steps.iter().map(failures).sum::<usize>(), 3, "then it is left alone");
    let quarantined = engine.scores().next().unwrap().1.view().quarantined_until;
    assert!(quarantined.is_some());
}

#[test]
fn what_the_journal_says_failed_fails_in_a_replay_though_it_would_not() {
    let shop = Shop::new();
    let mut engine = shop.engine();
    let old = engine.scores().next().unwrap().1.own().to_owned();
    let failed = ModelAction::Failed { digest: old, reason: "it took too long".into() };
    let mut last = Vec::new();
    for second in 0..5 {
        let orders = if second == 4 { vec![failed.clone()] } else { Vec::new() };
        let step = engine.step(shop.tick(second, |_| 2.0, &orders), Timestamp(START));
        last = scores(&step).iter().map(|score| score.scores["anomaly"]).collect();
        assert_eq!(step.input.len(), 2, "nothing is added to what is known");
        let expected = if second == 4 { None } else { Some(2.0) };
        assert!(last.iter().all(|value| *value == expected), "{second}: {last:?}");
    }
    assert_eq!(last.len(), 4);
}

/// A model that remembers the sum of what it was given, and has no answer from 5 on.
fn adding() -> Vec<u8> {
    let mut graph = Graph::new("adding");
    graph.input("features", Kind::Float32, &[Dim::Batch, Dim::Fixed(1)]);
    graph.input("sum", Kind::Float32, &[Dim::Batch, Dim::Fixed(1)]);
    graph.weights("table", &[5], &[0.0; 5]);
    graph.node("Cast", &["features"], "index");
    graph.attribute("to", 7);
    graph.node("Gather", &["table", "index"], "nothing");
    graph.node("Add", &["features", "sum"], "more");
    graph.node("Add", &["more", "nothing"], "sum_out");
    graph.node("Identity", &["sum_out"], "score");
    graph.output("score", Kind::Float32, &[Dim::Batch, Dim::Fixed(1)]);
    graph.output("sum_out", Kind::Float32, &[Dim::Batch, Dim::Fixed(1)]);
    graph.note("forebay.state", r#"{"sum": "sum_out"}"#);
    graph.finish()
}

#[test]
fn a_model_that_fails_at_the_second_of_two_windows_remembers_neither_as_in_a_replay() {
    let shop = Shop::new();
    std::fs::write(shop.folder.path().join("old.onnx"), adding()).unwrap();
    let mut engine = shop.engine();
    let mut steps = vec![engine.step(shop.tick(0, |_| 1.0, &[]), Timestamp(START))];
    // Seconds 1 to 5 come at once: their windows end in one tick, and that of second 2 fails.
    let late =
        (1..6).flat_map(|second| shop.tick(second, |_| if second == 2 { 7.0 } else { 1.0 }, &[]));
    steps.push(engine.step(late.collect(), Timestamp(START + SECOND)));
    steps.push(engine.step(shop.tick(9, |_| 1.0, &[]), Timestamp(START + 2 * SECOND)));
    let failures = steps.iter().flat_map(|step| &step.input).flat_map(|input| &input.commands);
    let failed = |c: &Command| matches!(c.action, Action::Model(ModelAction::Failed { .. }));
    assert_eq!(failures.filter(|command| failed(command)).count(), 1);
    let mut again = shop.engine();
    for step in &steps {
        assert_eq!(again.replay(step.tick, step.input.clone()).records, step.records);
    }
    assert_eq!(again.checkpoint().unwrap(), engine.checkpoint().unwrap());
}

#[test]
fn a_restart_with_another_file_goes_on_with_the_models_of_the_journal() {
    let shop = Shop::new();
    let mut engine = shop.engine();
    engine.step(shop.tick(0, |_| 1.0, &[offer(&shop.good)]), Timestamp(START));
    let checkpoint = engine.checkpoint().unwrap();
    let step = engine.step(shop.tick(5, |_| 1.0, &[]), Timestamp(START));
    let again = |model: Vec<u8>| {
        std::fs::write(shop.folder.path().join("old.onnx"), model).unwrap();
        let mut engine = shop.engine();
        engine.restore(&checkpoint).unwrap();
        assert_eq!(engine.replay(step.tick, step.input.clone()).records, step.records);
        let (_, score) = engine.scores().next().unwrap();
        (score.view().candidate.is_some(), score.has_new_file())
    };
    // The one on trial, one that it never had, and its own.
    assert_eq!(again(model("good", 2.0, 100)), (true, false));
    assert_eq!(again(model("strange", 4.0, 100)), (true, true));
    assert_eq!(again(model("old", 1.0, 100)), (true, false));
}

#[test]
fn what_a_score_without_a_model_said_is_said_again_when_a_model_has_come() {
    let shop = Shop::new();
    let mut engine = shop.engine();
    // Enough for the statistics to know what is normal.
    let wave = |second: i64| ((second * 7) % 4) as f64;
    for second in 0..60 {
        engine.step(shop.tick(second, |_| wave(second), &[]), Timestamp(START));
    }
    let with_model = engine.checkpoint().unwrap();
    std::fs::remove_dir_all(shop.folder.path().join("models")).unwrap();
    let mut engine = shop.engine_without();
    engine.restore(&with_model).unwrap();
    let without = engine.checkpoint().unwrap();
    let mut steps = Vec::new();
    for second in 60..70 {
        let tick = shop.tick(second, |_| 200.0, &[]);
        steps.push(engine.step(tick, Timestamp(START + second * SECOND)));
    }
    statistics_answer(&steps);
    // The file is good again at the next start: it is offered, and not taken into use in what was.
    let mut again = shop.engine();
    again.restore(&without).unwrap();
    for step in &steps {
        assert_eq!(again.replay(step.tick, step.input.clone()).records, step.records);
    }
    let (_, score) = again.scores().next().unwrap();
    assert!(score.has_new_file());
    let own = score.own().to_owned();
    let shelf = shop.host.shelf.as_ref().unwrap();
    let path = shop.folder.path().join("old.onnx");
    shelf.put(&ModelFile::read(&path, &Trust::default()).unwrap()).unwrap();
    let orders = [offer(&own), promote(&own), settle(&own), withdraw(&own)];
    again.step(shop.tick(70, |_| 2.0, &orders), Timestamp(START));
    let refused: Vec<bool> = again.take_answers().iter().map(Result::is_err).collect();
    assert_eq!(refused, [false, false, false, true], "there is none to go back to");
}

#[test]
fn an_order_for_a_model_that_is_gone_hits_no_other() {
    let shop = Shop::new();
    let mut engine = shop.engine();
    let good = shop.good.as_str();
    let orders: [&[ModelAction]; 4] = [
        &[offer(good), promote(good), settle(good)],
        // Another one is offered when the order to take the first back comes, twice.
        &[offer(&shop.weak), withdraw(&shop.weak), withdraw(&shop.weak)],
        &[promote(&shop.weak)],
        &[withdraw(&shop.weak)],
    ];
    let mut refused = Vec::new();
    for orders in orders {
        engine.step(shop.tick(0, |_| 1.0, orders), Timestamp(START));
        refused.extend(engine.take_answers().into_iter().map(|answer| answer.is_err()));
    }
    assert_eq!(refused, [false, false, false, false, false, true, true, true]);
    let view = engine.scores().next().unwrap().1.view();
    assert_eq!((view.digest.as_str(), view.candidate), (good, None));
}

#[test]
fn orders_that_make_no_sense_change_nothing() {
    let shop = Shop::new();
    let mut engine = shop.engine();
    let own = engine.scores().next().unwrap().1.own().to_owned();
    let none = "0".repeat(64);
    let orders = [
        offer(&own),
        offer(&none),
        offer("../old.onnx"),
        promote(&own),
        settle(&own),
        withdraw(&own),
    ];
    let before = engine.scores().next().unwrap().1.view();
    let step = engine.step(shop.tick(0, |_| 2.0, &orders), Timestamp(START));
    assert!(step.records.is_empty());
    let answers = engine.take_answers();
    assert!(answers.iter().all(Result::is_err), "{answers:?}");
    assert!(matches!(&answers[0], Err(Refusal::Already("in use"))));
    assert!(matches!(&answers[1], Err(Refusal::Unfit(_))));
    assert_eq!(engine.scores().next().unwrap().1.view(), before);
    let mut stray = order(promote(&own));
    stray.alarm = "risk".into();
    engine.step(vec![Input::of_commands(vec![stray])], Timestamp(START));
    assert!(matches!(engine.take_answers()[0], Err(Refusal::NoScore { .. })));
    engine.step(vec![Input::of_commands(vec![order(offer(&shop.good))])], Timestamp(START));
    assert_eq!(engine.take_answers(), [Ok(Now::Model(ModelPhase::Shadow))]);
}

#[test]
fn what_is_heard_everywhere_stays_so_when_another_model_is_offered() {
    let shop = Shop::new();
    let mut engine = shop.engine();
    let (good, weak) = (shop.good.as_str(), shop.weak.as_str());
    let orders = [offer(good), promote(good), offer(weak)];
    let steps = [engine.step(shop.tick(0, |_| 1.0, &orders), Timestamp(START))];
    assert!(engine.take_answers().iter().all(Result::is_ok));
    let told: Vec<ModelPhase> = phases(&steps).into_iter().map(|(phase, _)| phase).collect();
    assert_eq!(
        told,
        [ModelPhase::Shadow, ModelPhase::Promoted, ModelPhase::Settled, ModelPhase::Shadow]
    );
    let view = engine.scores().next().unwrap().1.view();
    assert_eq!((view.digest.as_str(), view.candidate.unwrap().digest.as_str()), (good, weak));
    assert!(view.withdrawn.is_empty());
    engine.step(shop.tick(1, |_| 1.0, &[withdraw(weak), withdraw(good)]), Timestamp(START));
    assert_eq!(engine.scores().next().unwrap().1.view().model, "old", "and there is a way back");
}

#[test]
fn where_models_are_signed_none_is_taken_that_is_older_than_one_in_use_or_on_trial() {
    let mut shop = Shop::new();
    let (key, _) = SigningKey::make().unwrap();
    let trust = Trust::new(vec![key.public()], true);
    let shelf = shop.host.shelf.clone().unwrap();
    let path = shop.folder.path().join("old.onnx");
    let digests = [3, 4, 5, 6].map(|serial| {
        let mut graph = Graph::new("line");
        graph.input("features", Kind::Float32, &[Dim::Batch, Dim::Fixed(1)]);
        graph.node("Identity", &["features"], "score");
        graph.output("score", Kind::Float32, &[Dim::Batch, Dim::Fixed(1)]);
        graph.note("forebay.name", "line");
        graph.note("forebay.serial", format!("{serial}"));
        let bytes = key.sign(&graph.finish(), &BTreeMap::new());
        if serial == 3 {
            std::fs::write(&path, &bytes).unwrap();
        }
        let file = ModelFile::of(Path::new("m.onnx"), bytes, &trust).unwrap();
        shelf.put(&file).unwrap();
        file.digest
    });
    shop.host.trust = trust;
    let [_, four, five, six] = digests.each_ref().map(String::as_str);
    let mut engine = shop.engine();
    let orders = [offer(five), offer(four), promote(five), offer(four), offer(six)];
    engine.step(shop.tick(0, |_| 1.0, &orders), Timestamp(START));
    let answers = engine.take_answers();
    let refused: Vec<bool> = answers.iter().map(Result::is_err).collect();
    assert_eq!(refused, [false, true, false, true, false], "{answers:?}");
    assert!(answers[3].as_ref().unwrap_err().to_string().contains("older ones are refused"));
    let view = engine.scores().next().unwrap().1.view();
    assert_eq!((view.digest.as_str(), view.candidate.unwrap().digest.as_str()), (five, six));
}

#[test]
fn a_model_whose_copy_is_damaged_is_told_to_be_gone_and_nothing_else_is_forgotten() {
    let shop = Shop::new();
    let mut engine = shop.engine();
    let (good, weak) = (shop.good.as_str(), shop.weak.as_str());
    let own = engine.scores().next().unwrap().1.own().to_owned();
    let orders = [offer(weak), withdraw(weak), offer(good), promote(good), settle(good)];
    engine.step(shop.tick(0, |_| 1.0, &orders), Timestamp(START));
    let checkpoint = engine.checkpoint().unwrap();
    let place = shop.host.shelf.as_ref().unwrap().place(good).unwrap();
    let copy = std::fs::read_dir(place).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&copy).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&copy, bytes).unwrap();
    let mut again = shop.engine();
    again.restore(&checkpoint).unwrap();
    let (_, score) = again.scores().next().unwrap();
    let view = score.view();
    assert_eq!((view.digest, view.withdrawn), (own.clone(), vec![weak.to_owned()]));
    assert_eq!(view.previous, None, "it is in use");
    let [(digest, reason)] = score.lost().to_vec().try_into().unwrap();
    assert_eq!(digest, good);
    let lost = ModelAction::Lost { digest, reason: reason.clone() };
    let step = again.step(shop.tick(1, |_| 1.0, &[lost]), Timestamp(START));
    assert!(again.scores().next().unwrap().1.lost().is_empty());
    let records = step.records.iter().filter_map(|o| match &o.record {
        Record::Model(model) => Some(model),
        _ => None,
    });
    let told: Vec<_> = records.map(|r| (r.phase, r.digest.as_str(), r.reason.clone())).collect();
    assert_eq!(told, [(ModelPhase::Withdrawn, good, Some(reason))]);
    // A restart before the next checkpoint meets the same damage, and the journal has told of it.
    let mut third = shop.engine();
    third.restore(&checkpoint).unwrap();
    assert_eq!(third.replay(step.tick, step.input).records, step.records);
    assert!(third.scores().next().unwrap().1.lost().is_empty());
}

#[test]
fn a_new_file_that_was_taken_back_before_a_kill_is_not_offered_again_after_it() {
    let shop = Shop::new();
    let mut engine = shop.engine();
    engine.step(shop.tick(0, |_| 1.0, &[]), Timestamp(START));
    let checkpoint = engine.checkpoint().unwrap();
    std::fs::write(shop.folder.path().join("old.onnx"), model("good", 2.0, 100)).unwrap();
    let start = || {
        let mut engine = shop.engine();
        engine.restore(&checkpoint).unwrap();
        engine
    };
    let has_new_file = |engine: &Engine| engine.scores().next().unwrap().1.has_new_file();
    let mut second = start();
    assert!(has_new_file(&second));
    let orders = [offer(&shop.good), withdraw(&shop.good)];
    let step = second.step(shop.tick(1, |_| 1.0, &orders), Timestamp(START));
    let mut third = start();
    third.replay(step.tick, step.input);
    assert!(!has_new_file(&third));
}

/// The model on trial, else the one in use.
fn newest(engine: &Engine) -> String {
    let view = engine.scores().next().unwrap().1.view();
    view.candidate.map_or(view.digest, |candidate| candidate.digest)
}

fn any_order() -> impl Strategy<Value = Option<u8>> {
    prop_oneof![3 => Just(None), 2 => (0..6_u8).prop_map(Some)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever was ordered and whatever failed: the journal replayed from the start, or from a checkpoint anywhere, gives
    /// the same records and the same journal.
    #[test]
    fn a_replay_from_anywhere_gives_the_same_records(
        script in prop::collection::vec((any_order(), 0..8_u32, 0..40_i64), 8..60),
        cut in 0..60_usize,
        later in 0..60_usize,
        is_damaged in any::<bool>(),
    ) {
        let shop = Shop::new();
        let mut engine = shop.engine();
        let (mut steps, mut checkpoint, mut now) = (Vec::new(), None, START);
        let cut = cut % script.len();
        let later = cut + 1 + later;
        for (second, (what, value, wait)) in script.iter().enumerate() {
            let on_trial = newest(&engine);
            let orders: Vec<ModelAction> = what.iter().map(|what| match what {
                0 => offer(&shop.good),
                1 => offer(&shop.weak),
                2 => canary(&on_trial, 500),
                3 => promote(&on_trial),
                4 => settle(&on_trial),
                _ => withdraw(&on_trial),
            }).collect();
            now += wait * SECOND;
            let value = |asset: u32| f64::from((value + asset) % 8);
            steps.push(engine.step(shop.tick(second as i64, value, &orders), Timestamp(now)));
            if second == cut {
                checkpoint = Some(engine.checkpoint().unwrap());
            }
            if second == cut || second == later {
                engine.scores_mut().for_each(|(_, score)| score.checkpointed());
            }
        }
        let mut whole = shop.engine();
        for step in &steps {
            let again = whole.replay(step.tick, step.input.clone());
            prop_assert_eq!(&again.records, &step.records);
            prop_assert_eq!(&again.input, &step.input);
        }
        // The shelf has what is needed since the last checkpoint but one, and whatever has become of the pipeline's own file.
        let needed: Vec<String> = engine.scores().flat_map(|(_, score)| score.needed()).collect();
        shop.host.shelf.as_ref().unwrap().sweep(&needed, 0).unwrap();
        let mut rest = if is_damaged { shop.engine_without() } else { shop.engine() };
        let notes = rest.restore(&checkpoint.unwrap()).unwrap();
        prop_assert!(notes.is_empty(), "{notes:?}");
        for step in &steps[cut + 1..] {
            let again = rest.replay(step.tick, step.input.clone());
            prop_assert_eq!(&again.records, &step.records);
            prop_assert_eq!(&again.input, &step.input);
        }
        let view = |engine: &Engine| {
            let mut view = engine.scores().next().unwrap().1.view();
            view.cost = Cost::default();
            view.candidate.iter_mut().for_each(|c| c.cost = Cost::default());
            view
        };
        prop_assert_eq!(view(&whole), view(&engine));
        prop_assert_eq!(view(&rest), view(&engine));
        prop_assert_eq!(whole.checkpoint().unwrap(), engine.checkpoint().unwrap());
        if !is_damaged {
            prop_assert_eq!(rest.checkpoint().unwrap(), engine.checkpoint().unwrap());
        }
    }
}
