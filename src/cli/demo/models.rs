//! `forebay demo --make-models`: the shipped models, made anew from the simulated plant.

use std::path::Path;

use anyhow::Context;

use super::super::{Outcome, Screen, print};
use crate::demo::site;
use crate::demo::train::{Effort, make_models};
use crate::model::Runtime;
use crate::pipeline::load::load_pipeline;

/// Makes both models, writes them, and prints how good they are on what they have not seen.
pub(super) fn make(
    folder: &Path,
    library: Option<&Path>,
    screen: &Screen,
) -> anyhow::Result<Outcome> {
    let site = tempfile::tempdir().context("no temporary folder can be made")?;
    let path = site::lay_out(site.path()).context("the demo's files cannot be written")?;
    let pipeline = load_pipeline(&path, None)?;
    let runtime = Runtime::find(library)?;
    screen.note("simulating pumps, healthy and faulty; this takes a minute or two");
    let made = make_models(&pipeline.spec, &pipeline.schema, runtime, Effort::FULL)?;
    std::fs::create_dir_all(folder)
        .with_context(|| format!("`{}` cannot be made", folder.display()))?;
    let models =
        [("pump-anomaly.onnx", &made.anomaly), ("pump-failure-risk.onnx", &made.failure_risk)];
    for (name, bytes) in models {
        let path = folder.join(name);
        std::fs::write(&path, bytes)
            .with_context(|| format!("`{}` cannot be written", path.display()))?;
    }
    print(&made.report.to_string())?;
    Ok(Outcome::Fine)
}
