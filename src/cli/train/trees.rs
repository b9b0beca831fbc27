//! `forebay train --kind trees`: boosted trees on a window's features.
//!
//! With labels they tell faulty windows from normal ones, or classes apart; without, how long the asset still runs.

use anyhow::Context;

use super::collect::Collected;
use super::net::class_names;
use super::{Made, TrainArgs};
use crate::evaluate::report::losses;
use crate::model::boost::BoostOptions;
use crate::model::metadata::Meaning;
use crate::model::trees::{self, Target, TreesOptions, TreesReport};
use crate::time::Span;

/// Trains trees.
pub(super) fn trees(args: &TrainArgs, collected: &Collected) -> anyhow::Result<Made> {
    let (net, set) = (&args.net, &collected.set);
    anyhow::ensure!(
        args.trees.tree_rate > 0.0 && args.trees.tree_rate <= 1.0,
        "`--tree-rate` must be above 0 and at most 1"
    );
    anyhow::ensure!(net.late > 0.0 && net.late.is_finite(), "`--late` must be above 0");
    let boost = BoostOptions {
        rounds: args.trees.rounds as usize,
        depth: args.trees.tree_depth as usize,
        learning_rate: args.trees.tree_rate,
        patience: net.patience as usize,
        late: net.late,
        seed: net.seed,
        ..BoostOptions::default()
    };
    let options = TreesOptions {
        boost,
        holdout: args.holdout,
        balanced: net.class_weights,
        ..TreesOptions::default()
    };
    let (model, report) = if collected.classes.is_empty() {
        let unit = net.life_unit.or(set.every).unwrap_or(Span::seconds(1));
        anyhow::ensure!(unit > Span::ZERO, "`--life-unit` must be above 0");
        anyhow::ensure!(net.cap > 0.0, "`--cap` must be above 0");
        let mut values = collected.lives(unit);
        for life in &mut values {
            *life = life.min(net.cap);
        }
        let meaning = Meaning::RemainingLife { unit: unit.to_string() };
        trees::train(set, Target::Number { values: &values, meaning: &meaning }, &options)?
    } else {
        let names = class_names(net, collected)?;
        if names.len() > 2 {
            let target = Target::Classes { of: &collected.classes, names: &names };
            trees::train(set, target, &options)?
        } else {
            let faulty: Vec<bool> = collected.classes.iter().map(|class| *class > 0).collect();
            trees::train(set, Target::Faulty(&faulty), &options)?
        }
    };
    let what =
        if collected.classes.is_empty() { "how long each recording still runs: " } else { "" };
    let told = format!("{what}{}", told(&report));
    let figures = vec![losses("trees", &report.losses, &[], report.rounds)];
    let report = serde_json::to_value(&report).context("invariant: a report is JSON")?;
    Ok(Made { model, told, report, figures })
}

fn told(report: &TreesReport) -> String {
    let skipped = match report.skipped {
        0 => String::new(),
        some => format!(" ({some} lack a feature)"),
    };
    let best = report.losses.get(report.rounds.saturating_sub(1)).copied().unwrap_or_default();
    let threshold = report
        .threshold
        .map_or(String::new(), |at| format!(", threshold {at:.3} ({})", report.threshold_by));
    let used: Vec<&str> = report.used.iter().take(5).map(|(name, _)| name.as_str()).collect();
    format!(
        "{} rounds of trees, fitted to {} windows{skipped}, loss {best:.4} on {}{threshold}\n\
         most used: {}\n",
        report.rounds,
        report.fitted,
        if report.held_out > 0 {
            format!("{} held-out windows", report.held_out)
        } else {
            "the same windows".to_owned()
        },
        if used.is_empty() { "none: no feature says anything".to_owned() } else { used.join(", ") },
    )
}
