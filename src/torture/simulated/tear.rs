//! What a power cut does to files that only grow: each comes back with everything that was synced, and of the rest as
//! much as happens to have reached the disk, not always from its start.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use fastrand::Rng;

/// What a disk writes or does not.
const SECTOR: u64 = 512;

/// The files of a store at a moment.
pub(super) struct Before {
    /// All of journal and lanes, with their lengths.
    lengths: BTreeMap<PathBuf, u64>,
    /// Those of which not all is durable, and how much is.
    unsynced: Vec<(PathBuf, u64)>,
}

impl Before {
    pub(super) fn of(store: &Path, unsynced: Vec<(PathBuf, u64)>) -> io::Result<Before> {
        Ok(Before { lengths: lengths(store)?, unsynced })
    }

    /// The power goes now: what is not durable is cut anywhere.
    pub(super) fn cut(&self, random: &mut Rng) -> io::Result<()> {
        for (path, durable) in &self.unsynced {
            let length = self.lengths.get(path).copied().unwrap_or(*durable);
            tear(path, *durable, length.max(*durable), random)?;
        }
        Ok(())
    }

    /// The power goes during the commit that came after this moment: the journal's entry is torn, and of the lanes there
    /// is nothing that follows it. `after` is what was not synced at the end of the commit: it may have synced lanes
    /// before it came to the journal.
    pub(super) fn tear_next(
        &self,
        store: &Path,
        after: &[(PathBuf, u64)],
        random: &mut Rng,
    ) -> io::Result<()> {
        for (path, length) in lengths(store)? {
            let before = self.lengths.get(&path).copied().unwrap_or(0);
            if path.starts_with(store.join("journal")) {
                if length > before {
                    // One byte at least is missing, or the entry would be whole.
                    tear(&path, before, length - 1, random)?;
                }
            } else if self.lengths.contains_key(&path) {
                let durable = after.iter().find(|(unsynced, _)| *unsynced == path);
                let durable = durable.map_or(before, |(_, durable)| before.min(*durable));
                tear(&path, durable, before, random)?;
            } else {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
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

/// Leaves what is durable and some of the rest; now and then a part of that never reached the disk and reads as zeros. A
/// file that has been deleted meanwhile stays so.
fn tear(path: &Path, durable: u64, most: u64, random: &mut Rng) -> io::Result<()> {
    let file = match OpenOptions::new().write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let kept = random.u64(durable..=most);
    file.set_len(kept)?;
    if random.u8(..3) == 0 {
        // Whole sectors, or what of them is behind the durable part.
        let from = (random.u64(durable..=kept) / SECTOR * SECTOR).max(durable);
        let to = (random.u64(from..=kept) / SECTOR * SECTOR + SECTOR).min(kept);
        file.write_all_at(&vec![0; (to - from) as usize], from)?;
    }
    Ok(())
}
