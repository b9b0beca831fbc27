//! A model that fails: for whom, for how long, and that a replay of the journal knows.

use forebay::command::{Action, ModelAction};
use forebay::record::Step;
use forebay::time::Timestamp;

use crate::adding;
use crate::common::{Reading, input};
use crate::shop::{SECOND, START, Shop, phases, scores};

/// What failed for some assets only, by tick.
fn failed_for(step: &Step) -> Vec<Vec<String>> {
    let commands = step.input.iter().flat_map(|input| &input.commands);
    let assets = commands.filter_map(|command| match &command.action {
        Action::Model(ModelAction::FailedFor { assets, .. }) => Some(assets.clone()),
        _ => None,
    });
    assets.collect()
}

/// Replays the steps from the start; the records and what is remembered are the same.
fn replays(shop: &Shop, steps: &[Step], checkpoint: &forebay::record::Checkpoint) {
    let mut again = shop.engine();
    for step in steps {
        assert_eq!(again.replay(step.tick, step.input.clone()).records, step.records);
    }
    assert_eq!(again.checkpoint().unwrap(), *checkpoint);
}

#[test]
fn a_value_of_one_asset_takes_the_answer_from_no_other() {
    for model in [None, Some(adding())] {
        let shop = Shop::new();
        if let Some(bytes) = &model {
            std::fs::write(shop.folder.path().join("old.onnx"), bytes).unwrap();
        }
        let mut engine = shop.engine();
        let value = |asset: u32| if asset == 1 { 200.0 } else { 2.0 };
        let mut steps = Vec::new();
        for second in 0..40 {
            let tick = shop.tick(second, value, &[]);
            steps.push(engine.step(tick, Timestamp(START + second * SECOND)));
        }
        let all: Vec<_> = steps.iter().flat_map(scores).collect();
        let of = |asset: &str| all.iter().filter(|score| score.asset == asset).collect::<Vec<_>>();
        for asset in ["m0", "m2", "m3"] {
            let windows = of(asset);
            assert!(windows.len() >= 36, "{}", windows.len());
            for (n, score) in (1..).zip(windows) {
                let sum = if model.is_some() { 2.0 * f64::from(n) } else { 2.0 };
                assert_eq!(score.scores["anomaly"], Some(sum));
            }
        }
        assert!(of("m1").iter().all(|score| score.scores["anomaly"].is_none()));
        let failures: Vec<_> = steps.iter().flat_map(failed_for).collect();
        assert!(failures.len() >= 36 && failures.iter().all(|of| *of == ["m1"]), "{failures:?}");
        assert_eq!(phases(&steps), []);
        assert_eq!(engine.scores().next().unwrap().1.view().quarantined_until, None);
        replays(&shop, &steps, &engine.checkpoint().unwrap());
    }
}

#[test]
fn an_asset_whose_windows_come_alone_takes_the_model_from_no_other() {
    let shop = Shop::new();
    let mut engine = shop.engine();
    let reading = |asset: u32, second: i64| {
        let value = if asset == 1 { 200.0 } else { 2.0 };
        Reading { asset, signal: 0, ts: START + second * SECOND, value }
    };
    let mut steps = Vec::new();
    for cycle in 0..20 {
        let seconds = cycle * 5..cycle * 5 + 5;
        let mut ticks: Vec<Vec<Reading>> =
            seconds.clone().map(|second| vec![reading(1, second)]).collect();
        ticks.push(seconds.clone().flat_map(|s| [0, 2].map(|asset| reading(asset, s))).collect());
        for readings in ticks {
            let now = Timestamp(START + seconds.end * SECOND);
            steps.push(engine.step(input(&shop.spec, &readings), now));
        }
    }
    let good = steps.iter().flat_map(scores).filter(|score| score.asset != "m1");
    let answers: Vec<Option<f64>> = good.map(|score| score.scores["anomaly"]).collect();
    assert!(answers.len() > 180 && answers.iter().all(|a| *a == Some(2.0)), "{answers:?}");
    assert_eq!(phases(&steps), []);
    replays(&shop, &steps, &engine.checkpoint().unwrap());
}

#[test]
fn a_batch_that_fails_though_no_asset_does_is_answered_and_known_to_a_replay() {
    let shop = Shop::new();
    let mut engine = shop.engine();
    let digest = engine.scores().next().unwrap().1.own().to_owned();
    // What such a batch leaves in the journal.
    let failed = ModelAction::FailedFor { digest, reason: "no memory".into(), assets: Vec::new() };
    let steps: Vec<Step> = (0..5)
        .map(|second| {
            let tick = shop.tick(second, |_| 2.0, std::slice::from_ref(&failed));
            engine.step(tick, Timestamp(START))
        })
        .collect();
    let answers = scores(&steps[4]);
    assert!(answers.len() == 4 && answers.iter().all(|s| s.scores["anomaly"] == Some(2.0)));
    replays(&shop, &steps, &engine.checkpoint().unwrap());
}

#[test]
fn a_quarantine_ends_after_a_clock_that_was_ahead() {
    let shop = Shop::new();
    let mut engine = shop.engine();
    let day = 24 * 3600 * SECOND;
    let mut steps = Vec::new();
    for second in 0..100 {
        // The clock is set right after ten seconds, in which the model has failed.
        let (value, ahead) = if second < 10 { (200.0, day) } else { (2.0, 0) };
        let now = Timestamp(START + second * SECOND + ahead);
        steps.push(engine.step(shop.tick(second, |_| value, &[]), now));
    }
    let names: Vec<&str> = phases(&steps).into_iter().map(|(phase, _)| phase.name()).collect();
    assert_eq!(names, ["quarantined", "restored"]);
    let last = scores(&steps[99]);
    assert!(last.len() == 4 && last.iter().all(|s| s.scores["anomaly"] == Some(2.0)), "{last:?}");
    replays(&shop, &steps, &engine.checkpoint().unwrap());
}
