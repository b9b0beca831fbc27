//! What a power cut does in the middle of a commit: the journal's entry is torn, and nothing that follows it is there.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use fastrand::Rng;

use crate::store::tear;

/// The files of a store before a commit, with their lengths.
pub(super) struct Before(BTreeMap<PathBuf, u64>);

impl Before {
    pub(super) fn of(store: &Path) -> io::Result<Before> {
        Ok(Before(lengths(store)?))
    }

    /// The power goes during the commit that came after this moment. `unsynced` is what was not durable at the end of
    /// it: it may have synced lanes before it came to the journal.
    pub(super) fn tear_commit(
        &self,
        store: &Path,
        unsynced: &[(PathBuf, u64)],
        random: &mut Rng,
    ) -> io::Result<()> {
        let mut torn = Vec::new();
        for (path, length) in lengths(store)? {
            let before = self.0.get(&path).copied();
            if path.starts_with(store.join("journal")) {
                if length > before.unwrap_or(0) {
                    // One byte at least is missing, or the entry would be whole.
                    shorten(&path, length - 1)?;
                    torn.push((path, before.unwrap_or(0)));
                }
            } else if let Some(before) = before {
                shorten(&path, before)?;
                let durable = unsynced.iter().find(|(unsynced, _)| *unsynced == path);
                torn.extend(durable.map(|(_, durable)| (path, *durable)));
            } else if !is_thinned(&path) {
                fs::remove_file(&path)?;
            }
        }
        tear(&torn, &mut |n| random.usize(..n))
    }
}

/// Whether a file took the place of others: it was durable before they went, and before the journal's entry.
fn is_thinned(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    stem.is_some_and(|stem| stem.split('-').count() == 3)
}

fn shorten(path: &Path, length: u64) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.set_len(length)
}

fn lengths(store: &Path) -> io::Result<BTreeMap<PathBuf, u64>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![store.join("journal"), store.join("lanes")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                all.insert(entry.path(), entry.metadata()?.len());
            }
        }
    }
    Ok(all)
}
