//! Looking at a store whose node is stopped: is all of it good, and what is in it.
//!
//! `cli` calls [`inspect`] for `forebay store verify`, [`export`] for `forebay store export`, [`rejected`] and
//! [`drop_rejected`] for `forebay store quarantine`. The store's lock is held meanwhile, so that no node starts on it.
//! Only the last changes anything. Nothing is repaired here: the next start does that, and says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::record::Lane;

use super::checkpoint;
use super::error::StoreError;
use super::kv::{Kv, Opened, SledKv};
use super::lanes::Segment;
use super::log;
use super::open;
use super::quarantine::{Quarantined, REJECTED, Shelf};
use super::scan::{Found, Scan};
use super::survey_journal;

/// One part of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Files, and bytes in them.
    pub files: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// What they hold: ticks of the journal, checkpoints, records of a lane.
    pub entries: u64,
    /// What is wrong, each with its file and place.
    pub damage: Vec<String>,
}

/// Reads all of the journal, the checkpoints and the lanes in the store `path` and checks every checksum.
///
/// # Errors
/// A folder that is no store, or is in use; a disk that does not read.
pub fn inspect(path: &Path) -> Result<Vec<Part>, StoreError> {
    let _lock = open::lock_existing(path)?;
    let mut parts = vec![journal(path)?, checkpoints(path)?];
    for lane in Lane::ALL {
        let mut part = Part { name: lane.name().to_owned(), ..Part::default() };
        walk(path, lane, &mut part, |_| Ok(()))?;
        parts.push(part);
    }
    Ok(parts)
}

/// Hands out every record of a lane, as a line of JSON, oldest first; damage is told in the part that comes back.
/// Records that every target has are there until their segment is deleted, and come too.
///
/// # Errors
/// As [`inspect`], and what `take` returns.
pub fn export(
    path: &Path,
    lane: Lane,
    take: impl FnMut(&[u8]) -> Result<(), StoreError>,
) -> Result<Part, StoreError> {
    let _lock = open::lock_existing(path)?;
    let mut part = Part { name: lane.name().to_owned(), ..Part::default() };
    walk(path, lane, &mut part, take)?;
    Ok(part)
}

/// The newest messages that were rejected, newest first.
///
/// # Errors
/// As [`inspect`], and an index that cannot be read.
pub fn rejected(path: &Path, limit: usize) -> Result<Vec<Quarantined>, StoreError> {
    let _lock = open::lock_existing(path)?;
    match shelf(path)? {
        Some((_, shelf)) => shelf.newest(limit),
        None => Ok(Vec::new()),
    }
}

/// Drops rejected messages for good, by their numbers; gives those that were there.
///
/// # Errors
/// As [`rejected`].
pub fn drop_rejected(path: &Path, numbers: &[u64]) -> Result<Vec<u64>, StoreError> {
    let _lock = open::lock_existing(path)?;
    let Some((kv, mut shelf)) = shelf(path)? else { return Ok(Vec::new()) };
    let mut dropped = Vec::new();
    for number in numbers {
        if shelf.remove(*number)? {
            dropped.push(*number);
        }
    }
    kv.flush()?;
    Ok(dropped)
}

/// An index and its shelf of rejected messages.
type Rejected = (Arc<dyn Kv>, Shelf);

/// Those of a store; `None`: it has no index yet.
fn shelf(path: &Path) -> Result<Option<Rejected>, StoreError> {
    let index = path.join("index");
    if !index.is_dir() {
        return Ok(None);
    }
    let kv: Arc<dyn Kv> = match SledKv::open(&index)? {
        Opened::Good(kv) => Arc::new(kv),
        Opened::Damaged(reason) => {
            return Err(StoreError::Damaged { what: "the index".into(), reason });
        }
    };
    let shelf = Shelf::open(Arc::clone(&kv), REJECTED, 0)?;
    Ok(Some((kv, shelf)))
}

fn walk(
    store: &Path,
    lane: Lane,
    part: &mut Part,
    mut take: impl FnMut(&[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let folder = log::folder(store, lane);
    for path in files(&folder, "records")? {
        let Some(name) = log::parse_name(&path) else { continue };
        let len = fs::metadata(&path).map_err(StoreError::on("read", &path))?.len();
        part.files += 1;
        part.bytes += len;
        let segment = Segment::closed(path, name, name.first, len);
        records(&segment, part, &mut take)?;
    }
    Ok(())
}

fn records(
    segment: &Segment,
    part: &mut Part,
    take: &mut impl FnMut(&[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let path = &segment.path;
    let Some(mut scan) = Scan::open(path, 0, segment.len)? else { return Ok(()) };
    let mut expected = segment.first;
    while let Some(found) = scan.next()? {
        match found {
            Found::Damage { at } => {
                part.damage.push(format!("{}: damaged at byte {at}", path.display()));
            }
            Found::Block { at, block } => {
                if block.head.first > expected {
                    let (from, to) = (expected, block.head.first - 1);
                    part.damage.push(format!(
                        "{}: records number {from} to {to} are missing before byte {at}",
                        path.display()
                    ));
                }
                expected = block.head.end();
                let Some(lines) = block.lines() else {
                    part.damage.push(format!("{}: cannot be unpacked at {at}", path.display()));
                    continue;
                };
                part.entries += lines.len() as u64;
                lines.iter().try_for_each(|line| take(line))?;
            }
        }
    }
    Ok(())
}

fn journal(store: &Path) -> Result<Part, StoreError> {
    let mut part = Part { name: "journal".to_owned(), ..Part::default() };
    let mut before = None;
    for path in files(&store.join("journal"), "journal")? {
        let bytes = fs::read(&path).map_err(StoreError::on("read", &path))?;
        part.files += 1;
        part.bytes += bytes.len() as u64;
        let (ticks, last, good) = survey_journal::good(&path, &bytes, before)?;
        part.entries += ticks;
        before = last.or(before);
        if good < bytes.len() {
            part.damage.push(format!("{}: unfinished or damaged at byte {good}", path.display()));
        }
    }
    Ok(part)
}

/// Whether a node has run on the store in this folder before, and what it remembered is kept there.
pub fn has_run(store: &Path) -> bool {
    files(&store.join("checkpoint"), "checkpoint").is_ok_and(|found| !found.is_empty())
}

fn checkpoints(store: &Path) -> Result<Part, StoreError> {
    let mut part = Part { name: "checkpoint".to_owned(), ..Part::default() };
    for path in files(&store.join("checkpoint"), "checkpoint")? {
        let bytes = fs::read(&path).map_err(StoreError::on("read", &path))?;
        part.files += 1;
        part.bytes += bytes.len() as u64;
        if checkpoint::is_good(&path, &bytes)? {
            part.entries += 1;
        } else {
            part.damage.push(format!("{}: damaged", path.display()));
        }
    }
    Ok(part)
}

/// The files of a folder with this ending, in order; none where there is no folder.
fn files(folder: &Path, ending: &str) -> Result<Vec<PathBuf>, StoreError> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(StoreError::on("read", folder))? {
        let path = entry.map_err(StoreError::on("read", folder))?.path();
        if path.extension().is_some_and(|found| found == ending) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
