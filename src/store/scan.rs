//! Reading a segment of records: its blocks in order, and where it is damaged.
//!
//! `survey` reads the newest segment of a lane at a start, the outbox whatever it sends next, `export` all of them.
//! What does not read is skipped up to the next block that does, and said. A file is read in pieces, so a segment
//! never stands in memory whole.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::block::{Block, MARK, START};
use super::error::StoreError;
use super::log;

/// Bytes read at once; a longer block is read whole.
const PIECE: usize = 128 << 10;

/// What stands at some place of a segment.
pub(super) enum Found {
    /// A good block, and where it starts.
    Block { at: u64, block: Block },
    /// So many bytes that are no block, from `at` on.
    Damage { at: u64 },
}

/// Goes through a segment. See the module.
pub(super) struct Scan {
    path: PathBuf,
    file: File,
    /// Bytes of the file that count.
    len: u64,
    /// Where the next block starts.
    at: u64,
    /// What was read, from `base` on.
    piece: Vec<u8>,
    base: u64,
}

impl Scan {
    /// Reads `path` from `at` (0: the first block) up to byte `len`. `None`: the file is gone.
    pub(super) fn open(path: &Path, at: u64, len: u64) -> Result<Option<Scan>, StoreError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("read", path, error)),
        };
        let mut scan = Scan {
            path: path.to_path_buf(),
            file,
            len,
            at: at.max(log::START as u64),
            piece: Vec::new(),
            base: 0,
        };
        if at == 0 {
            log::check_start(path, scan.bytes(0, log::START)?)?;
        }
        Ok(Some(scan))
    }

    /// The bytes from `at` on: `want` of them, or as many as there are.
    fn bytes(&mut self, at: u64, want: usize) -> Result<&[u8], StoreError> {
        let want = want.min(usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX));
        let have = self.base <= at && at + want as u64 <= self.base + self.piece.len() as u64;
        if !have {
            let size = want.max(PIECE).min((self.len - at.min(self.len)) as usize);
            self.piece.resize(size, 0);
            self.base = at;
            let mut filled = 0;
            while filled < size {
                let rest = self.piece.get_mut(filled..).unwrap_or_default();
                match self.file.read_at(rest, at + filled as u64) {
                    Ok(0) => break,
                    Ok(read) => filled += read,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(StoreError::io("read", &self.path, error)),
                }
            }
            self.piece.truncate(filled);
        }
        let start = (at - self.base) as usize;
        let end = (start + want).min(self.piece.len());
        Ok(self.piece.get(start..end).unwrap_or_default())
    }

    fn block_at(&mut self, at: u64) -> Result<Option<(Block, u64)>, StoreError> {
        let Some(len) = Block::announced(self.bytes(at, START)?) else { return Ok(None) };
        if at + len as u64 > self.len {
            return Ok(None);
        }
        let block = Block::parse(self.bytes(at, len)?);
        Ok(block.map(|block| (block, at + len as u64)))
    }

    /// What comes next; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Found>, StoreError> {
        let at = self.at;
        if at >= self.len {
            return Ok(None);
        }
        if let Some((block, end)) = self.block_at(at)? {
            self.at = end;
            return Ok(Some(Found::Block { at, block }));
        }
        let mut next = at + 1;
        while next < self.len {
            let piece = self.bytes(next, PIECE)?;
            if piece.is_empty() {
                break;
            }
            let found = piece.windows(MARK.len()).position(|window| window == MARK);
            let Some(skip) = found else {
                // A mark may lie across the end of the piece.
                next += (piece.len() - (MARK.len() - 1).min(piece.len() - 1)) as u64;
                continue;
            };
            next += skip as u64;
            if self.block_at(next)?.is_some() {
                self.at = next;
                return Ok(Some(Found::Damage { at }));
            }
            next += 1;
        }
        self.at = self.len;
        Ok(Some(Found::Damage { at }))
    }
}
