//! Reading the journal: what is good in it, what has to be cut, and the entries themselves.
//!
//! `journal` calls [`survey`] at a start; `Recovered::entries` is an [`Entries`]. An entry that is cut short at the
//! very end is one that was never acknowledged: it is dropped. Anything else that does not read is damage: the
//! journal ends before it, and what follows is kept aside for a person to look into.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use crate::frame::Input;
use crate::time::Tick;

use super::columns;
use super::error::StoreError;
use super::journal::{Head, MAGIC, START, Segment, VERSION, sync_folder};

/// How far a tick found behind damage may be from the last good one; what is further is taken for chance.
const AHEAD_MAX: u64 = 10_000_000;

/// What was found in the journal.
#[derive(Default)]
pub(super) struct SurveyedJournal {
    /// The good segments, oldest first.
    pub(super) segments: Vec<Segment>,
    /// The last good entry's tick; 0: none.
    pub(super) last: u64,
    /// The heads of all good entries, in order.
    pub(super) heads: Vec<Head>,
    /// The heads that could still be read behind damage: their ticks are lost.
    pub(super) lost: Vec<Head>,
    /// What was repaired, for the log.
    pub(super) notes: Vec<String>,
}

/// Reads all segments of `folder` and cuts the journal at the first entry that is not good.
pub(super) fn survey(folder: &Path, aside: &Path) -> Result<SurveyedJournal, StoreError> {
    let mut found = SurveyedJournal::default();
    let mut paths = segment_paths(folder)?.into_iter();
    while let Some((first, path)) = paths.next() {
        let bytes = fs::read(&path).map_err(StoreError::on("read", &path))?;
        let rest: Vec<_> = paths.as_slice().to_vec();
        let good = good_until(&path, &bytes, &mut found)?;
        if good > START {
            found.segments.push(Segment { path: path.clone(), first, len: good as u64 });
        }
        if good < bytes.len() || good <= START {
            cut(&path, &bytes, good, &rest, aside, &mut found)?;
            if !rest.is_empty() {
                sync_folder(folder).map_err(StoreError::on("sync", folder))?;
            }
            break;
        }
    }
    // A process that was killed before its sync leaves an entry that reads well and is not durable.
    if let Some(Segment { path, .. }) = found.segments.last() {
        let synced = fs::File::open(path).and_then(|file| file.sync_all());
        synced.map_err(StoreError::on("sync", path))?;
    }
    Ok(found)
}

fn segment_paths(folder: &Path) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(StoreError::on("read", folder))? {
        let path = entry.map_err(StoreError::on("read", folder))?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        if let (Some(first), Some("journal")) = (number, path.extension().and_then(|e| e.to_str()))
        {
            paths.push((first, path));
        }
    }
    paths.sort();
    Ok(paths)
}

/// Bytes of the segment up to its first bad entry; the heads of the good ones are added to `found`.
fn good_until(path: &Path, bytes: &[u8], found: &mut SurveyedJournal) -> Result<usize, StoreError> {
    let Some((start, _)) = bytes.split_first_chunk::<START>() else { return Ok(0) };
    if !start.starts_with(MAGIC) {
        return Ok(0);
    }
    let version = u16::from_le_bytes([start[6], start[7]]);
    // No format was ever number 0: those are bytes that did not reach the disk.
    if version == 0 {
        return Ok(0);
    }
    if version != VERSION {
        return Err(StoreError::Version {
            path: path.to_path_buf(),
            found: version,
            expected: VERSION,
        });
    }
    let mut at = START;
    // Segments before the first kept one were trimmed, so the first entry may follow anything.
    while let Some((head, len)) = bytes
        .get(at..)
        .and_then(|rest| entry(rest, |head| found.heads.is_empty() || head.after == found.last))
    {
        found.last = head.tick.seq;
        found.heads.push(head);
        at += len;
    }
    Ok(at)
}

/// How many good entries a segment starts with, behind tick `before`; the tick of the last, and how long they are.
pub(super) fn good(
    path: &Path,
    bytes: &[u8],
    before: Option<u64>,
) -> Result<(u64, Option<u64>, usize), StoreError> {
    let mut found = SurveyedJournal::default();
    let good = good_until(path, bytes, &mut found)?;
    let first = found.heads.first().map(|head| head.after);
    if before.is_some() && first.is_some() && first != before {
        return Ok((0, None, 0));
    }
    Ok((found.heads.len() as u64, found.heads.last().map(|head| head.tick.seq), good))
}

/// The entry that `bytes` start with, and its length; `None` where there is none that is whole and `fits`.
fn entry(bytes: &[u8], fits: impl Fn(&Head) -> bool) -> Option<(Head, usize)> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let len = u32::from_le_bytes(*len) as usize;
    let payload = rest.get(..len)?;
    // The head is cheap to look at and rarely fits by chance; the checksum decides.
    let (head, _) = postcard::take_from_bytes::<Head>(payload).ok()?;
    let good = fits(&head) && crc32fast::hash(payload) == u32::from_le_bytes(*crc);
    good.then_some((head, len + 8))
}

/// Ends the journal in segment `path` after `good` bytes; what follows goes aside if it may have been committed.
fn cut(
    path: &Path,
    bytes: &[u8],
    good: usize,
    rest: &[(u64, PathBuf)],
    aside: &Path,
    found: &mut SurveyedJournal,
) -> Result<(), StoreError> {
    let bad = bytes.get(good..).unwrap_or_default();
    let mut lost = readable(bad, found.last);
    for (_, later) in rest {
        let bytes = fs::read(later).map_err(StoreError::on("read", later))?;
        let last = lost.last().map_or(found.last, |head| head.tick.seq);
        lost.extend(readable(&bytes, last));
    }
    let whole = announced(bad).is_some_and(|len| len <= bad.len());
    if lost.is_empty() && rest.is_empty() && !whole {
        if !bad.is_empty() {
            found.notes.push(format!(
                "the journal ended in an unfinished entry after tick {}: {} bytes cut",
                found.last,
                bad.len()
            ));
        }
    } else {
        fs::create_dir_all(aside).map_err(StoreError::on("create", aside))?;
        let kept = aside.join(format!("journal-after-{}", found.last));
        fs::write(&kept, bad).map_err(StoreError::on("write", &kept))?;
        for (first, later) in rest {
            let kept = aside.join(format!("{first:020}.journal"));
            fs::rename(later, &kept).map_err(StoreError::on("move", later))?;
        }
        found.notes.push(format!(
            "the journal is damaged after tick {}: the input of {} readable and perhaps more ticks was set aside in `{}`",
            found.last,
            lost.len(),
            aside.display()
        ));
    }
    found.lost = lost;
    if good <= START {
        return fs::remove_file(path).map_err(StoreError::on("delete", path));
    }
    let file = OpenOptions::new().write(true).open(path).map_err(StoreError::on("open", path))?;
    file.set_len(good as u64).and_then(|()| file.sync_all()).map_err(StoreError::on("cut", path))
}

/// How long the entry at the start of `bytes` says it is, with what stands before it.
fn announced(bytes: &[u8]) -> Option<usize> {
    let (len, _) = bytes.split_first_chunk::<4>()?;
    let len = u32::from_le_bytes(*len) as usize;
    (len > 0).then_some(len + 8)
}

/// The heads of entries behind damage: found by looking for one at every byte until the first, then one by one.
fn readable(bytes: &[u8], after: u64) -> Vec<Head> {
    let mut heads: Vec<Head> = Vec::new();
    let mut at = 0;
    let mut last = after;
    while at < bytes.len() {
        let fits = |head: &Head| {
            (last..head.tick.seq).contains(&head.after) && head.tick.seq - last < AHEAD_MAX
        };
        match bytes.get(at..).and_then(|rest| entry(rest, fits)) {
            Some((head, len)) => {
                last = head.tick.seq;
                heads.push(head);
                at += len;
            }
            None => at += 1,
        }
    }
    heads
}

/// The journal's entries behind a checkpoint, oldest first, read as they are asked for.
pub struct Entries {
    segments: std::vec::IntoIter<Segment>,
    bytes: Vec<u8>,
    at: usize,
    after: u64,
    /// How many there are in all.
    total: usize,
}

impl Entries {
    pub(super) fn new(surveyed: &SurveyedJournal, after: u64) -> Entries {
        let behind = |index: usize| {
            // A segment whose successor starts at or before `after + 1` holds nothing newer.
            surveyed.segments.get(index + 1).is_none_or(|next| next.first > after.saturating_add(1))
        };
        let segments: Vec<Segment> = surveyed
            .segments
            .iter()
            .enumerate()
            .filter(|(index, _)| behind(*index))
            .map(|(_, segment)| segment.clone())
            .collect();
        let total = surveyed.heads.iter().filter(|head| head.tick.seq > after).count();
        Entries { segments: segments.into_iter(), bytes: Vec::new(), at: 0, after, total }
    }

    /// How many entries there are to replay, read or not.
    pub fn total(&self) -> usize {
        self.total
    }

    fn read(&mut self) -> Result<Option<(Tick, Vec<Input>)>, StoreError> {
        loop {
            if self.at >= self.bytes.len() {
                let Some(segment) = self.segments.next() else { return Ok(None) };
                self.bytes =
                    fs::read(&segment.path).map_err(StoreError::on("read", &segment.path))?;
                self.bytes.truncate(segment.len as usize);
                self.at = START;
                continue;
            }
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            let (head, len) =
                entry(rest, |_| true).ok_or_else(|| damaged("it changed since the start"))?;
            self.at += len;
            if head.tick.seq > self.after {
                let payload = rest.get(8..len).unwrap_or_default();
                let input = decode(payload).ok_or_else(|| {
                    damaged(&format!("the input of tick {} cannot be read", head.tick.seq))
                })?;
                return Ok(Some((head.tick, input)));
            }
        }
    }
}

fn damaged(reason: &str) -> StoreError {
    StoreError::Damaged { what: "the journal".into(), reason: reason.into() }
}

impl Iterator for Entries {
    type Item = Result<(Tick, Vec<Input>), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.read().transpose();
        if matches!(next, Some(Err(_))) {
            // Nothing behind an error can be replayed.
            self.segments = Vec::new().into_iter();
            self.bytes.clear();
        }
        next
    }
}

fn decode(payload: &[u8]) -> Option<Vec<Input>> {
    let (head, body) = postcard::take_from_bytes::<Head>(payload).ok()?;
    let unpacked;
    let plain = if head.unpacked == 0 {
        body
    } else {
        unpacked = zstd::bulk::decompress(body, usize::try_from(head.unpacked).ok()?).ok()?;
        &unpacked
    };
    let packed: Vec<columns::Packed> = postcard::from_bytes(plain).ok()?;
    packed.into_iter().map(columns::unpack).collect()
}
