//! `forebay train`: fits a model to recordings.
//!
//! The pipeline's own stages make the windows, so what trains is what runs. The same recordings, options and seed give
//! the same bytes. A kind is an arm of [`train`] and a function that gives [`Made`].

pub(super) mod args;
mod collect;
mod net;
mod trees;

use self::args::TrainKind;
use self::collect::Collected;
use super::args::TrainArgs;
use super::screen::Screen;
use super::{Outcome, print, write_whole};
use crate::model::pca::{self, PcaOptions, TrainReport};
use crate::model::{Host, Model};
use crate::pipeline::load::load_pipeline;

/// A model that was trained.
struct Made {
    /// Its file.
    model: Vec<u8>,
    /// What people are told.
    told: String,
    /// What scripts are told.
    report: serde_json::Value,
}

/// Trains and writes a model.
pub(super) fn train(args: &TrainArgs, screen: &Screen) -> anyhow::Result<Outcome> {
    let pipeline = load_pipeline(&args.pipeline, args.schemas.as_deref())?;
    let kind = net::kind_of(args.kind);
    let collected = collect::collect(args, &pipeline, kind.is_some(), screen)?;
    let made = match kind {
        Some(kind) => net::network(kind, args, &collected, screen)?,
        None if args.kind == TrainKind::Trees => trees::trees(args, &collected)?,
        None => closed_form(args, &collected)?,
    };
    let runtime = Host::with_library(args.onnxruntime.as_deref()).runtime()?;
    // Runs the golden answers, which the trainer computed by itself.
    Model::from_bytes(runtime, &args.out, &made.model)?;
    write_whole(&args.out, &made.model)?;
    if args.json {
        let mut report = made.report;
        report["model"] = args.out.display().to_string().into();
        report["runtime"] = runtime.name().into();
        print(&format!("{report}\n"))?;
    } else {
        let answers = format!("answers on {} are the trainer's own", runtime.name());
        print(&format!("{}{answers}\n{}\n", made.told, args.out.display()))?;
    }
    Ok(Outcome::Fine)
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
    Ok(Made { model, told, report: serde_json::to_value(&report)? })
}

fn told(report: &TrainReport) -> String {
    let constant = match report.constant.as_slice() {
        [] => String::new(),
        some => format!(", {} never change and are ignored ({})", some.len(), some.join(", ")),
    };
    format!(
        "{} of {} features in {} components{constant}\n\
         fitted to {} windows, threshold {:.3} from {}{}\n",
        report.features - report.constant.len(),
        report.features,
        report.components,
        report.fitted,
        report.threshold,
        if report.held_out > 0 {
            format!("{} held-out windows", report.held_out)
        } else {
            "the same windows".to_owned()
        },
        if report.skipped > 0 {
            format!(" ({} lack a feature)", report.skipped)
        } else {
            String::new()
        },
    )
}
