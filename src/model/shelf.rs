//! The models that a node keeps, each under its digest: what it may go on to, and what it may go back to.
//!
//! `node` puts models here before an order names them; a score stage takes them from here when it recovers. A model lies
//! in a folder of its own, with the weights beside it. It promises that what is under a digest was whole when it was put
//! there (written aside, synced, renamed), and that what comes in from outside never leaves its own folder or takes more
//! than it may. Whoever takes a model from it looks at its digest again: disks forget.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::ModelFile;

/// A folder of models. See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shelf {
    folder: PathBuf,
}

/// Hex digits of a SHA-256.
const DIGITS: usize = 64;

impl Shelf {
    /// The shelf in `folder`, which is made when it is first needed.
    pub fn new(folder: PathBuf) -> Shelf {
        Shelf { folder }
    }

    /// Where the model with this digest is, or would be. `None`: it is no digest.
    pub fn place(&self, digest: &str) -> Option<PathBuf> {
        let is_digest = digest.len() == DIGITS && digest.bytes().all(|b| b.is_ascii_hexdigit());
        is_digest.then(|| self.folder.join(digest))
    }

    /// Where files that are to become models come in.
    pub fn incoming(&self) -> PathBuf {
        self.folder.join("incoming")
    }

    /// Puts a model here, if it is not here already.
    pub fn put(&self, file: &ModelFile) -> io::Result<()> {
        let Some(place) = self.place(&file.digest) else { return Ok(()) };
        if place.is_dir() {
            return touch(&place);
        }
        let aside = self.aside(&file.digest)?;
        fs::create_dir_all(&aside)?;
        let put = self.put_aside(file, &aside, &place);
        if put.is_err() {
            drop(fs::remove_dir_all(&aside)); // a full disk needs it most
        }
        put
    }

    fn put_aside(&self, file: &ModelFile, aside: &Path, place: &Path) -> io::Result<()> {
        let name = file.path.file_name().unwrap_or("model.onnx".as_ref());
        let model = aside.join(name).with_extension("onnx");
        fs::write(&model, &file.bytes)?;
        File::open(&model)?.sync_all()?;
        let home = file.path.parent().unwrap_or(Path::new(""));
        for name in file.beside().keys() {
            let weights = aside.join(name);
            weights.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::copy(home.join(name), &weights)?;
            File::open(&weights)?.sync_all()?;
        }
        File::open(aside)?.sync_all()?;
        fs::rename(aside, place)?;
        File::open(&self.folder)?.sync_all()
    }

    /// The digests of the models here, the one that was put here last first.
    pub fn digests(&self) -> io::Result<Vec<String>> {
        let mut found: Vec<(SystemTime, String)> = Vec::new();
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if self.place(&name).is_some() {
                found.push((entry.metadata()?.modified()?, name));
            }
        }
        found.sort();
        Ok(found.into_iter().rev().map(|(_, name)| name).collect())
    }

    /// Removes one: all of it or nothing, whatever comes in between.
    pub fn remove(&self, digest: &str) -> io::Result<()> {
        let Some(place) = self.place(digest) else { return Ok(()) };
        let aside = self.aside(digest)?;
        fs::rename(place, &aside)?;
        fs::remove_dir_all(aside)
    }

    /// Where a model lies that is not whole yet, or no longer: nothing is there.
    fn aside(&self, digest: &str) -> io::Result<PathBuf> {
        let aside = self.folder.join(format!("{digest}.part"));
        match fs::remove_dir_all(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(aside),
        }
    }

    /// Removes what nobody needs: all but the models in `needed` and `spare` others, the latest ones; and what was left half
    /// written.
    pub fn sweep(&self, needed: &[String], spare: usize) -> io::Result<()> {
        let others = self.digests()?.into_iter().filter(|digest| !needed.contains(digest));
        for digest in others.skip(spare) {
            self.remove(&digest)?;
        }
        let Ok(entries) = fs::read_dir(&self.folder) else { return Ok(()) };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "part") {
                fs::remove_dir_all(path)?;
            }
        }
        Ok(())
    }
}

/// What is put here again is the latest again.
fn touch(place: &Path) -> io::Result<()> {
    let mark = place.join(".used");
    fs::write(&mark, "")?;
    fs::remove_file(mark)
}
