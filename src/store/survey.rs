//! Reading a lane's segments at a start: what waits, and what is missing.
//!
//! `Store::open` calls [`survey`] before anybody else touches the lanes. Up to the checkpoint everything was synced,
//! so what is missing there is damage; behind it a power cut may have torn anything, and the replay makes it again.
//! So only segments that may be torn are read, not the backlog: damage in that is met when it is sent.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use crate::record::Lane;

use super::checkpoint::LaneBooks;
use super::error::StoreError;
use super::journal::sync_folder;
use super::lanes::{Gap, Segment};
use super::log::{self, Name};
use super::marks::Swap;
use super::scan::{Found, Scan};
use super::settled::Settled;

/// What was found on one lane.
#[derive(Debug, Default)]
pub(super) struct SurveyedLane {
    /// Its segments, oldest first.
    pub(super) segments: Vec<Segment>,
    /// The number of the last record that is there, or was.
    pub(super) last: u64,
    /// The highest tick seen.
    pub(super) last_tick: u64,
    /// Numbers that ought to be there and are not.
    pub(super) gaps: Vec<Gap>,
}

/// Reads a lane. `books`: how far it was at the checkpoint; `settled`: what each target has.
pub(super) fn survey(
    store: &Path,
    lane: Lane,
    books: LaneBooks,
    settled: &[Settled],
) -> Result<SurveyedLane, StoreError> {
    let floor = settled.iter().map(Settled::upto).min().unwrap_or(0);
    let first_open = |from| settled.iter().map(|settled| settled.next_open(from)).min();
    let folder = log::folder(store, lane);
    fs::create_dir_all(&folder)
        .map_err(|source| StoreError::Unusable { path: folder.clone(), source })?;
    let mut names = segment_names(&folder)?;
    drop_done(&mut names, floor)?;
    let mut found = SurveyedLane { last: floor, ..SurveyedLane::default() };
    let mut index = 0;
    while let Some((name, path)) = names.get(index).cloned() {
        let Name { first, tick, .. } = name;
        let end = found.segments.last().map_or(floor + 1, |before| before.end);
        // Segments that everybody has are deleted, also between others.
        if let Some(lacks) = first_open(end).filter(|lacks| *lacks < first) {
            // Some of it, at least, was not durable: the replay makes that again, and all that is behind it.
            if first > books.last + 1 {
                break;
            }
            let ticks = (found.last_tick, tick);
            found.missing(lane, (lacks, first - 1), books, ticks);
        }
        index += 1;
        let next = names.get(index).map(|(next, _)| next.first);
        let len = fs::metadata(&path).map_err(StoreError::on("read", &path))?.len();
        let segment = Segment::closed(path, name, next.unwrap_or(first), len);
        let end = segment.end;
        if next.is_some_and(|next| next <= books.last) {
            found.last = end - 1;
            found.last_tick = tick;
            found.segments.push(segment);
        } else if !found.read(segment, lane, books)? {
            break;
        }
    }
    // Behind a tear nothing was synced: the replay makes it again.
    for (_, path) in names.get(index..).unwrap_or_default() {
        fs::remove_file(path).map_err(StoreError::on("delete", path))?;
    }
    if found.last <= floor {
        // Whatever is there, nobody waits for it; and numbers go on behind what is settled.
        for segment in found.segments.drain(..) {
            fs::remove_file(&segment.path).map_err(StoreError::on("delete", &segment.path))?;
        }
        found.last = floor;
    }
    // What everybody has need not be made again only because it is there no more.
    let reached = settled.iter().map(|settled| settled.next_open(found.last + 1) - 1).min();
    found.last = reached.unwrap_or(found.last);
    let (last, ticks) = (found.last, (found.last_tick, found.last_tick));
    found.missing(lane, (last + 1, books.last), books, ticks);
    found.last = last.max(books.last);
    sync_folder(&folder).map_err(StoreError::on("sync", &folder))?;
    Ok(found)
}

/// The first number that is there on a lane.
pub(super) fn first_number(store: &Path, lane: Lane) -> Result<Option<u64>, StoreError> {
    let folder = log::folder(store, lane);
    if !folder.is_dir() {
        return Ok(None);
    }
    Ok(segment_names(&folder)?.first().map(|(name, _)| name.first))
}

/// Name and path of each segment, in order.
fn segment_names(folder: &Path) -> Result<Vec<(Name, PathBuf)>, StoreError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(StoreError::on("read", folder))? {
        let path = entry.map_err(StoreError::on("read", folder))?.path();
        names.extend(log::parse_name(&path).map(|name| (name, path)));
    }
    names.sort();
    Ok(names)
}

/// Deletes the segments that every target has, but for the newest, whose end is not known yet.
fn drop_done(names: &mut Vec<(Name, PathBuf)>, floor: u64) -> Result<(), StoreError> {
    while let [(_, oldest), (next, _), ..] = names.as_slice() {
        if next.first > floor + 1 {
            break;
        }
        fs::remove_file(oldest).map_err(StoreError::on("delete", oldest))?;
        names.remove(0);
    }
    Ok(())
}

/// Finishes what a mark says was thinned, and clears away what none speaks of.
pub(super) fn finish_thinning(
    store: &Path,
    lane: Lane,
    swap: Option<&Swap>,
) -> Result<(), StoreError> {
    let folder = log::folder(store, lane);
    if !folder.is_dir() {
        return Ok(());
    }
    if let Some(swap) = swap {
        swap.put_in_place(&folder)?;
        swap.clear(&folder)?;
    }
    for entry in fs::read_dir(&folder).map_err(StoreError::on("read", &folder))? {
        let path = entry.map_err(StoreError::on("read", &folder))?.path();
        if path.extension().is_some_and(|ending| ending == "thinned") {
            fs::remove_file(&path).map_err(StoreError::on("delete", &path))?;
        }
    }
    Ok(())
}

impl SurveyedLane {
    /// Reads a segment that may be torn; says whether the ones behind it count. What is torn is cut off.
    fn read(
        &mut self,
        mut segment: Segment,
        lane: Lane,
        books: LaneBooks,
    ) -> Result<bool, StoreError> {
        let path = segment.path.clone();
        let Some(mut scan) = Scan::open(&path, 0, segment.len)? else { return Ok(true) };
        let mut expected = segment.first;
        let mut damaged = None;
        let mut torn = None;
        while let Some(found) = scan.next()? {
            let (at, head) = match found {
                Found::Damage { at } => {
                    damaged = Some(at);
                    continue;
                }
                Found::Block { at, block } => (at, block.head),
            };
            if head.first != expected || damaged.is_some() {
                if expected.max(head.first) > books.last + 1 {
                    torn = Some(damaged.unwrap_or(at));
                    break;
                }
                let ticks = (self.last_tick.max(segment.tick), head.tick.seq);
                self.missing(lane, (expected, head.first.saturating_sub(1)), books, ticks);
            }
            damaged = None;
            expected = head.end();
            self.last_tick = self.last_tick.max(head.tick.seq);
        }
        let torn = torn.or(damaged);
        let file =
            OpenOptions::new().write(true).open(&path).map_err(StoreError::on("open", &path))?;
        if let Some(at) = torn {
            file.set_len(at).map_err(StoreError::on("cut", &path))?;
            segment.len = at;
        }
        // A process that was killed may have left in memory what it wrote: it reads well and is not durable.
        file.sync_all().map_err(StoreError::on("sync", &path))?;
        self.last = expected - 1;
        if expected == segment.first {
            fs::remove_file(&path).map_err(StoreError::on("delete", &path))?;
        } else {
            segment.end = expected;
            self.segments.push(segment);
        }
        Ok(torn.is_none())
    }

    /// Takes note of numbers that are not there and were durable.
    fn missing(&mut self, lane: Lane, gap: (u64, u64), books: LaneBooks, ticks: (u64, u64)) {
        let (from, to) = (gap.0, gap.1.min(books.last));
        if from <= to {
            self.gaps.push(Gap { lane, from, to, ticks });
        }
    }
}
