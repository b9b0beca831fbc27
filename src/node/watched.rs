//! The files of pipelines' own models, watched for changes: weights beside a file are a part of its model.
//!
//! `models` looks at them from time to time. A model is told to have changed once its files stand still.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::model::{ModelFile, Trust};

/// What files looked like: the newest change, and the size of all. `None`: not all are there.
type Look = Option<(SystemTime, u64)>;

/// A model that is watched.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    files: Vec<PathBuf>,
    /// As they were when the model was taken.
    taken: Look,
    /// As they were the last time.
    last: Look,
}

impl Watched {
    /// The model in the file or folder `path`, as it is now.
    pub(super) fn of(path: &Path, trust: &Trust) -> Watched {
        let files = ModelFile::files(path, trust);
        let taken = look(&files);
        Watched { files, taken, last: taken }
    }

    /// Whether it is another one since it was taken, and stands still.
    pub(super) fn has_changed(&mut self) -> bool {
        let now = look(&self.files);
        let is_still = now.is_some() && now == self.last;
        self.last = now;
        is_still && now != self.taken
    }
}

fn look(files: &[PathBuf]) -> Look {
    let metas: Vec<_> = files.iter().map(std::fs::metadata).collect::<Result<_, _>>().ok()?;
    let newest = metas.iter().filter_map(|meta| meta.modified().ok()).max()?;
    Some((newest, metas.iter().map(std::fs::Metadata::len).sum()))
}
