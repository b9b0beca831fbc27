//! The journal: every committed tick's time and input, in order, on disk before anything else is.
//!
//! `ledger` appends one entry a tick and syncs it; at a start `Store::open` surveys all segments and the node replays
//! the entries behind the checkpoint. A segment is a file named after the first tick in it:
//! `FBJRNL`, version u16, then entries of `len u32 | crc u32 | head | body` (little-endian; head in postcard, body the
//! packed input, zstd where that helps). Each head names the tick before it, so a missing piece is seen. Promised: an
//! entry whose `append` returned is read back, or its loss is noted. Not done here: deciding what a checkpoint is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::record::Step;
use crate::time::Tick;

use super::columns;
use super::error::StoreError;
use super::survey_journal::{self, SurveyedJournal};

pub(super) const MAGIC: &[u8; 6] = b"FBJRNL";
pub(super) const VERSION: u16 = 1;
/// Bytes before the first entry of a segment.
pub(super) const START: usize = 8;
/// A segment that has grown past this is followed by a new one.
const SEGMENT_BYTES: u64 = 16 << 20;
/// zstd's level for readings: every one of them passes here.
const LEVEL: i32 = 1;

/// What a tick made on one lane: the number of its first record, how many, and a checksum over their ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Made {
    pub(super) first: u64,
    pub(super) count: u32,
    pub(super) crc: u32,
}

/// What stands before an entry's input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) tick: Tick,
    /// The tick of the entry before this one; 0: it is the first.
    pub(super) after: u64,
    /// How many readings the input holds.
    pub(super) readings: u64,
    /// By lane.
    pub(super) made: [Made; 4],
    /// Bytes of the body once unpacked; 0: it is not compressed.
    pub(super) unpacked: u64,
}

/// One segment file.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    /// The first tick in it.
    pub(super) first: u64,
    /// Bytes of it that hold good entries.
    pub(super) len: u64,
}

/// The journal, open for writing.
pub(super) struct Journal {
    folder: PathBuf,
    segments: Vec<Segment>,
    /// The newest segment, once something was written to it.
    file: Option<File>,
    is_synced: bool,
    last: u64,
    /// The tick of the newest entry: what the next entry says it follows.
    chained: u64,
    zstd: zstd::bulk::Compressor<'static>,
    buffer: Vec<u8>,
}

impl Journal {
    /// Opens or makes the journal in `folder`; what is damaged is cut off and moved to `aside`.
    pub(super) fn open(
        folder: &Path,
        aside: &Path,
    ) -> Result<(Journal, SurveyedJournal), StoreError> {
        fs::create_dir_all(folder)
            .map_err(|source| StoreError::Unusable { path: folder.to_path_buf(), source })?;
        let surveyed = survey_journal::survey(folder, aside)?;
        let zstd = zstd::bulk::Compressor::new(LEVEL).map_err(StoreError::on("prepare", folder))?;
        let journal = Journal {
            folder: folder.to_path_buf(),
            segments: surveyed.segments.clone(),
            file: None,
            is_synced: true,
            last: surveyed.last,
            chained: surveyed.last,
            zstd,
            buffer: Vec::new(),
        };
        Ok((journal, surveyed))
    }

    /// Says that ticks up to `last` were committed, where the journal itself does not show it.
    pub(super) fn raise(&mut self, last: u64) {
        self.last = self.last.max(last);
    }

    /// The last tick that was committed.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Bytes of all segments.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.len).sum()
    }

    /// Writes a tick's entry, syncs it if `sync`, and gives its bytes. One that could not be written leaves nothing
    /// behind: the next one goes to the same place.
    pub(super) fn append(
        &mut self,
        step: &Step,
        made: [Made; 4],
        sync: bool,
    ) -> Result<u64, StoreError> {
        let seq = step.tick.seq;
        if seq <= self.last {
            return Err(StoreError::OutOfOrder { seq, last: self.last });
        }
        self.encode(step, made)?;
        if self.segments.last().is_some_and(|segment| segment.len > SEGMENT_BYTES) {
            self.sync()?;
            self.file = None;
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(new_segment(&self.folder, seq, &mut self.segments)?),
        };
        let at = self.segments.last().map_or(START as u64, |segment| segment.len);
        file.write_all_at(&self.buffer, at).map_err(StoreError::on("write", &self.folder))?;
        self.is_synced = false;
        if sync {
            self.sync()?;
        }
        let written = self.buffer.len() as u64;
        if let Some(segment) = self.segments.last_mut() {
            segment.len += written;
        }
        self.last = seq;
        self.chained = seq;
        Ok(written)
    }

    /// Returns when everything appended is durable; says whether anything was not.
    pub(super) fn sync(&mut self) -> Result<bool, StoreError> {
        let Some(file) = self.file.as_ref().filter(|_| !self.is_synced) else { return Ok(false) };
        file.sync_data().map_err(StoreError::on("sync", &self.folder))?;
        self.is_synced = true;
        Ok(true)
    }

    /// Puts the entry into `buffer`.
    fn encode(&mut self, step: &Step, made: [Made; 4]) -> Result<(), StoreError> {
        const WHAT: &str = "the input";
        let seq = step.tick.seq;
        let failed = |reason: String| StoreError::Encode { what: WHAT, seq, reason };
        let packed: Vec<columns::Packed> = step.input.iter().map(columns::pack).collect();
        let plain = postcard::to_stdvec(&packed).map_err(|e| failed(e.to_string()))?;
        let smaller = self.zstd.compress(&plain).map_err(|e| failed(e.to_string()))?;
        let compressed = smaller.len() < plain.len();
        let head = Head {
            tick: step.tick,
            after: self.chained,
            readings: step.input.iter().map(|input| input.readings.len() as u64).sum(),
            made,
            unpacked: if compressed { plain.len() as u64 } else { 0 },
        };
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        buffer.resize(8, 0);
        buffer = postcard::to_extend(&head, buffer).map_err(|e| failed(e.to_string()))?;
        buffer.extend_from_slice(if compressed { &smaller } else { &plain });
        let bytes = buffer.len() - 8;
        let len =
            u32::try_from(bytes).map_err(|_| StoreError::TooLarge { what: WHAT, seq, bytes })?;
        let crc = crc32fast::hash(&buffer[8..]);
        buffer[..4].copy_from_slice(&len.to_le_bytes());
        buffer[4..8].copy_from_slice(&crc.to_le_bytes());
        self.buffer = buffer;
        Ok(())
    }

    /// Starts a new segment with the next entry, and deletes the segments that hold only ticks up to `upto`.
    pub(super) fn trim(&mut self, upto: u64) -> Result<(), StoreError> {
        self.sync()?;
        self.file = None;
        while let [oldest, rest @ ..] = self.segments.as_slice() {
            let last = rest.first().map_or(self.last, |next| next.first - 1);
            if last > upto {
                break;
            }
            match fs::remove_file(&oldest.path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(StoreError::io("delete", &oldest.path, error)),
            }
            self.segments.remove(0);
        }
        Ok(())
    }
}

/// Makes the segment whose first tick is `first`, so that it is there after a power cut.
fn new_segment(folder: &Path, first: u64, segments: &mut Vec<Segment>) -> Result<File, StoreError> {
    let path = folder.join(format!("{first:020}.journal"));
    let mut start = MAGIC.to_vec();
    start.extend_from_slice(&VERSION.to_le_bytes());
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .map_err(StoreError::on("create", &path))?;
    file.write_all(&start)
        .and_then(|()| file.sync_all())
        .and_then(|()| sync_folder(folder))
        .map_err(StoreError::on("write", &path))?;
    segments.push(Segment { path, first, len: START as u64 });
    Ok(file)
}

/// Makes what was created, renamed or deleted in `folder` durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
