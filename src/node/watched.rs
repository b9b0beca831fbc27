//! The files of pipelines' own models, watched for changes: weights beside a file are a part of its model.
//!
//! `desk` looks at them from time to time. A model is told to have changed once its files stand still. One that was refused
//! is offered again after a while, and then more and more rarely: the disk may have been full, or the machine busy.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::model::{Host, ModelFile};
use crate::time::monotonic;

/// How long a model that was refused is left alone at first, twice as long every further time,
const FIRST: Duration = Duration::from_secs(2);
/// and never longer than this.
const LONGEST: Duration = Duration::from_hours(1);

/// What files looked like, one by one: when each was changed, its size, and which file it is. `None`: not all are there.
type Look = Option<Vec<(SystemTime, u64, u64)>>;

/// A model that is watched.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    files: Vec<PathBuf>,
    /// As they were when the model was taken.
    taken: Look,
    /// As they were the last time.
    last: Look,
    /// The digest of the model that was taken; `None`: it cannot be read.
    digest: Option<String>,
    /// When it is offered again, and how long that wait is; `None`: it was not refused.
    again: Option<(Instant, Duration)>,
}

impl Watched {
    /// The model in the file or folder `path`, as it is now; and its file, where it can be read.
    pub(super) fn of(path: &Path, host: &Host) -> (Watched, Option<ModelFile>) {
        let files = ModelFile::files(path, &host.trust);
        let taken = look(&files);
        let file = host.read(path).ok();
        let digest = file.as_ref().map(|file| file.digest.clone());
        (Watched { files, last: taken.clone(), taken, digest, again: None }, file)
    }

    /// Whether its files are others since it was taken, and stand still.
    pub(super) fn has_changed(&mut self) -> bool {
        let now = look(&self.files);
        let is_still = now.is_some() && now == self.last;
        self.last = now;
        is_still && self.last != self.taken
    }

    /// Whether it is, or may be, another model than `other`.
    pub(super) fn is_another(&self, other: &Watched) -> bool {
        self.digest.is_none() || self.digest != other.digest
    }

    /// It was offered, and taken or refused, which `took` so long: other models wait meanwhile.
    pub(super) fn offered(&mut self, is_taken: bool, took: Duration) {
        let wait = self.again.map_or(FIRST, |(_, wait)| wait * 2).max(took * 10).min(LONGEST);
        self.again = (!is_taken).then(|| (monotonic() + wait, wait));
    }

    pub(super) fn is_refused(&self) -> bool {
        self.again.is_some()
    }

    /// Whether it was refused, and it is time to offer it again.
    pub(super) fn is_due(&self) -> bool {
        self.again.is_some_and(|(due, _)| due <= monotonic())
    }
}

fn look(files: &[PathBuf]) -> Look {
    let seen = files.iter().map(|file| {
        let meta = std::fs::metadata(file).ok()?;
        Some((meta.modified().ok()?, meta.len(), meta.ino()))
    });
    seen.collect()
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    /// As `rsync -t` or a backup brings weights: of the same size, and older than the model's file.
    #[test]
    fn a_file_of_the_same_size_and_an_older_time_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let files = ["model.onnx", "weights.bin"].map(|name| folder.path().join(name));
        let write = |path: &Path, content: &str, days: u64| {
            std::fs::write(path, content).unwrap();
            let file = File::options().write(true).open(path).unwrap();
            let age = Duration::from_hours(24 * days);
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 20_000) - age)
                .unwrap();
        };
        write(&files[0], "model", 0);
        write(&files[1], "weights", 1);
        let last = look(&files);
        let mut watched =
            Watched { files: files.to_vec(), taken: last.clone(), last, digest: None, again: None };
        assert!(!watched.has_changed());
        write(&files[1], "weighty", 2);
        assert!(!watched.has_changed(), "it does not stand still yet");
        assert!(watched.has_changed());
    }

    #[test]
    fn what_is_refused_is_offered_again_and_ever_more_rarely() {
        let mut watched =
            Watched { files: Vec::new(), taken: None, last: None, digest: None, again: None };
        let mut waits = Vec::new();
        for _ in 0..14 {
            watched.offered(false, Duration::ZERO);
            waits.push(watched.again.unwrap().1.as_secs());
            assert!(!watched.is_due());
        }
        assert!(waits.windows(2).all(|pair| pair[1] == 3600.min(pair[0] * 2)), "{waits:?}");
        assert_eq!((waits[0], waits[13]), (2, 3600));
        watched.offered(true, Duration::ZERO);
        assert!(!watched.is_refused() && !watched.is_due());
    }
}
