//! A lane's records as they are written: segment files that only grow, and are deleted whole.
//!
//! The ledger keeps one [`Log`] a lane. A segment is a file named after the first number and tick in it, and how often it
//! was thinned: `FBRECS`, version u16, then blocks (`block`). Appending does not sync: records are made again from the journal after a power
//! cut, so they need to be durable only when a checkpoint lets go of the journal ([`Log::sync`]). A write that failed
//! leaves nothing behind: the next one goes to the same place.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::record::Lane;
use crate::time::Tick;

use super::block::{Line, Packer};
use super::error::StoreError;
use super::journal::sync_folder;
use super::lanes::{Lanes, Segment};

const MAGIC: &[u8; 6] = b"FBRECS";
const VERSION: u16 = 1;
/// Bytes before the first block of a segment.
pub(super) const START: usize = 8;
/// A segment that has grown past this is followed by a new one.
const SEGMENT_BYTES: u64 = 4 << 20;
/// However small a lane's limit is: a segment is what an eviction takes.
const SEGMENT_MIN: u64 = 1 << 10;

/// Refuses a segment of another version. One that does not start right is damaged, not refused.
pub(super) fn check_start(path: &Path, start: &[u8]) -> Result<(), StoreError> {
    let Some([v0, v1]) = start.strip_prefix(MAGIC) else { return Ok(()) };
    let found = u16::from_le_bytes([*v0, *v1]);
    // 0: a power cut kept the file's length and not these bytes.
    if found == VERSION || found == 0 {
        return Ok(());
    }
    Err(StoreError::Version { path: path.to_path_buf(), found, expected: VERSION })
}

/// What the name of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    /// The first number that it covers.
    pub(super) first: u64,
    /// The tick of its first record.
    pub(super) tick: u64,
    /// How often its records were thinned.
    pub(super) level: u8,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020}-{:020}", self.first, self.tick)?;
        if self.level > 0 {
            write!(f, "-{}", self.level)?;
        }
        f.write_str(".records")
    }
}

/// Reads the name of a segment; `None`: it is none.
pub(super) fn parse_name(path: &Path) -> Option<Name> {
    if path.extension()? != "records" {
        return None;
    }
    let mut parts = path.file_stem()?.to_str()?.splitn(3, '-');
    let (first, tick) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let level = match parts.next() {
        Some(level) => level.parse().ok()?,
        None => 0,
    };
    Some(Name { first, tick, level })
}

/// What a segment starts with.
pub(super) fn start() -> Vec<u8> {
    let mut start = MAGIC.to_vec();
    start.extend_from_slice(&VERSION.to_le_bytes());
    start
}

/// The folder of a lane.
pub(super) fn folder(store: &Path, lane: Lane) -> PathBuf {
    store.join("lanes").join(lane.name())
}

/// A lane, open for writing.
pub(super) struct Log {
    lane: Lane,
    folder: PathBuf,
    segment_bytes: u64,
    lanes: Arc<Lanes>,
    packer: Packer,
    /// The open segment.
    file: Option<Arc<File>>,
    /// Written since the last sync: files, and how much of each was durable then.
    unsynced: Vec<(Arc<File>, PathBuf, u64)>,
    /// A segment was made since the last sync.
    is_folder_unsynced: bool,
    /// The number of the lane's last record.
    last: u64,
    buffer: Vec<u8>,
}

impl Log {
    pub(super) fn new(
        store: &Path,
        lane: Lane,
        limit: u64,
        last: u64,
        lanes: Arc<Lanes>,
    ) -> Result<Log, StoreError> {
        let folder = folder(store, lane);
        let packer = Packer::new().map_err(StoreError::on("prepare", &folder))?;
        Ok(Log {
            lane,
            folder,
            segment_bytes: (limit / 16).clamp(SEGMENT_MIN, SEGMENT_BYTES),
            lanes,
            packer,
            file: None,
            unsynced: Vec::new(),
            is_folder_unsynced: false,
            last,
            buffer: Vec::new(),
        })
    }

    pub(super) fn lane(&self) -> Lane {
        self.lane
    }

    /// How large a segment gets.
    pub(super) fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// The number of the lane's last record.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Appends a tick's lines, numbered from `last() + 1` on without a gap.
    pub(super) fn append(&mut self, tick: Tick, lines: &[Line]) -> Result<(), StoreError> {
        let Some(last) = lines.last() else { return Ok(()) };
        self.write(tick, last.number, lines)
    }

    /// Covers the numbers up to `upto`, which no record has.
    pub(super) fn skip(&mut self, tick: Tick, upto: u64) -> Result<(), StoreError> {
        if upto <= self.last {
            return Ok(());
        }
        let from = self.last + 1;
        self.write(tick, upto, &[])?;
        self.lanes.never_made(self.lane, from, upto)
    }

    fn write(&mut self, tick: Tick, upto: u64, lines: &[Line]) -> Result<(), StoreError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let packed = self.packer.pack(&mut buffer, tick, self.last + 1..upto + 1, lines);
        let written = packed.and_then(|()| self.put(&buffer, tick.seq));
        let bytes = buffer.len() as u64;
        self.buffer = buffer;
        written?;
        self.last = upto;
        self.lanes.grew(self.lane, bytes, upto + 1, lines.len() as u64, tick.now);
        Ok(())
    }

    fn put(&mut self, bytes: &[u8], tick: u64) -> Result<(), StoreError> {
        if self.lanes.open_len(self.lane).is_none_or(|len| len >= self.segment_bytes) {
            self.file = None;
        }
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => self.new_segment(tick)?,
        };
        let at = self.lanes.open_len(self.lane).unwrap_or(START as u64);
        file.write_all_at(bytes, at).map_err(StoreError::on("write", &self.folder))
    }

    fn new_segment(&mut self, tick: u64) -> Result<Arc<File>, StoreError> {
        let first = self.last + 1;
        let name = Name { first, tick, level: 0 };
        let path = self.folder.join(name.to_string());
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(StoreError::on("create", &path))?;
        file.write_all_at(&start(), 0).map_err(StoreError::on("write", &path))?;
        let file = Arc::new(file);
        self.unsynced.push((Arc::clone(&file), path.clone(), 0));
        self.is_folder_unsynced = true;
        let len = START as u64;
        let segment = Segment { is_open: true, ..Segment::closed(path, name, first, len) };
        self.lanes.open_segment(self.lane, segment);
        self.file = Some(Arc::clone(&file));
        Ok(file)
    }

    /// Ends the open segment, so that it can be evicted or dropped.
    pub(super) fn close(&mut self) {
        self.file = None;
        self.lanes.close(self.lane);
    }

    /// Returns when everything appended is durable.
    pub(super) fn sync(&mut self) -> Result<(), StoreError> {
        for (file, path, _) in &self.unsynced {
            file.sync_all().map_err(StoreError::on("sync", path))?;
        }
        if self.is_folder_unsynced {
            sync_folder(&self.folder).map_err(StoreError::on("sync", &self.folder))?;
        }
        self.unsynced.clear();
        self.is_folder_unsynced = false;
        // The open segment goes on growing behind what is durable now.
        if let (Some(file), Some(len)) = (&self.file, self.lanes.open_len(self.lane))
            && let Some(open) = self.lanes.segments(self.lane).pop()
        {
            self.unsynced.push((Arc::clone(file), open.path, len));
        }
        Ok(())
    }

    /// Files that a power cut may cut short, and how many bytes of each are durable.
    pub(super) fn unsynced(&self) -> impl Iterator<Item = (PathBuf, u64)> + '_ {
        self.unsynced.iter().map(|(_, path, durable)| (path.clone(), *durable))
    }
}
