//! `forebay train`: fits a model to recordings.
//!
//! The pipeline's own stages make the windows, so what trains is what runs. The same recordings, options and seed give
//! the same bytes. A kind is an arm of [`train`] and a function that gives [`Made`].

pub(super) mod args;
mod collect;
mod net;
mod progress;
mod trees;
mod verdicts;

use self::args::TrainKind;
use self::collect::Collected;
use super::args::TrainArgs;
use super::screen::Screen;
use super::{Outcome, print, write_whole};
use crate::evaluate::report::{self, Figure};
use crate::feed::chart::escape;
use crate::model::Model;
use crate::model::pca::{self, PcaOptions, TrainReport};

/// A model that was trained.
struct Made {
    /// Its file.
    model: Vec<u8>,
    /// What people are told.
    told: String,
    /// What scripts are told.
    report: serde_json::Value,
    /// How it was learned: loss curves.
    figures: Vec<Figure>,
}

/// Trains and writes a model.
pub(super) fn train(args: &TrainArgs, screen: &Screen) -> anyhow::Result<Outcome> {
    args::count(args)?;
    let pipeline = args.offline.pipeline(&args.pipeline)?;
    let kind = net::kind_of(args.kind);
    let mut collected = collect::collect(args, &pipeline, kind.is_some(), screen)?;
    collected.leave_out_faults(args.kind);
    if !args.verdicts.is_empty() {
        verdicts::add(args, &pipeline, &mut collected)?;
    }
    let made = match kind {
        Some(kind) => net::network(kind, args, &collected, screen)?,
        None if args.kind == TrainKind::Trees => trees::trees(args, &collected)?,
        None => closed_form(args, &collected)?,
    };
    let runtime = args.offline.host().runtime()?;
    // Runs the golden answers, which the trainer computed by itself.
    Model::from_bytes(runtime, &args.out, &made.model)?;
    write_whole(&args.out, &made.model)?;
    if let Some(path) = &args.html {
        write_whole(path, page(args, &made).as_bytes())?;
    }
    let judged = &collected.set.judged;
    let faults = judged.values().filter(|is_fault| **is_fault).count();
    let normal = judged.len() - faults;
    if args.json {
        let mut report = made.report;
        if !judged.is_empty() {
            report["verdicts"] = serde_json::json!({ "normal": normal, "faults": faults });
        }
        report["model"] = args.out.display().to_string().into();
        report["runtime"] = runtime.name().into();
        print(&format!("{report}\n"))?;
    } else {
        let answers = format!("answers on {} are the trainer's own", runtime.name());
        let said = if judged.is_empty() {
            String::new()
        } else {
            format!("{normal} windows are known as normal, and {faults} as faulty\n")
        };
        print(&format!("{}{said}{answers}\n{}\n", made.told, args.out.display()))?;
    }
    Ok(Outcome::Fine)
}

fn page(args: &TrainArgs, made: &Made) -> String {
    let name = args.out.file_stem().unwrap_or_default().to_string_lossy();
    let lines: Vec<String> = made.told.lines().map(escape).collect();
    let told = format!("<pre>{}</pre>\n", lines.join("\n"));
    let figures = report::figures(&made.figures);
    report::page(
        &format!("{name}: training"),
        &format!("{told}<div class=\"plots\">\n{figures}</div>\n"),
    )
}

/// Principal components.
fn closed_form(args: &TrainArgs, collected: &Collected) -> anyhow::Result<Made> {
    let options = PcaOptions {
        explained: args.variance,
        holdout: args.holdout,
        quantile: 1.0 - args.false_alarms,
        margin: args.margin,
        drift: args.drift,
        shrink: args.shrink,
        follow: args.follow,
    };
    let (model, report) = pca::train(&collected.set, &options)?;
    let told = told(&report);
    Ok(Made { model, told, report: serde_json::to_value(&report)?, figures: Vec::new() })
}

fn told(report: &TrainReport) -> String {
    let constant = match report.constant.as_slice() {
        [] => String::new(),
        some => format!(", {} never change and are ignored ({})", some.len(), some.join(", ")),
    };
    format!(
        "{} of {} features in {} components{constant}\n\
         fitted to {} windows, threshold {:.3}: {}{}\n",
        report.features - report.constant.len(),
        report.features,
        report.components,
        report.fitted,
        report.threshold,
        report.threshold_by,
        if report.skipped > 0 {
            format!(" ({} lack a feature)", report.skipped)
        } else {
            String::new()
        },
    )
}
