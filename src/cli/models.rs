//! `forebay demo --make-models`: makes the shipped models anew, says how good they are, and writes them.

use std::path::Path;

use anyhow::Context;

use super::args::DemoArgs;
use super::{Outcome, print};
use crate::demo::train::{Effort, make_models as make};
use crate::model::Runtime;
use crate::pipeline::load::load_pipeline;

/// Makes them for the pipeline given, else for `pipelines/pump.toml` here.
pub(super) fn make_models(args: &DemoArgs) -> anyhow::Result<Outcome> {
    let folder = args.make_models.as_deref().context("no folder was given for the models")?;
    let file = args.pipeline.first().map_or(Path::new("pipelines/pump.toml"), |path| path);
    let loaded = load_pipeline(file, None)?;
    let runtime = Runtime::find(args.onnxruntime.as_deref())?;
    let made = make(&loaded.spec, &loaded.schema, runtime, Effort::FULL)?;
    made.write(folder)?;
    if args.json {
        print(&format!("{}\n", serde_json::to_string(&made.report)?))?;
    } else {
        print(&format!("{}\n\nWritten to {}\n", made.report, folder.display()))?;
    }
    Ok(Outcome::Fine)
}
