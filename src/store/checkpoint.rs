//! Checkpoints on disk: the engine's state after a tick, so that a start replays minutes and not months.
//!
//! `ledger` writes them, `Store::open` reads the newest good one. A file is `FBCKPT`, version u16, crc u32, then head
//! (postcard) and state (zstd). It is written under another name, synced and renamed, so it is whole or absent; two
//! generations are kept, and the journal reaches back to the older, so one damaged file costs only a longer replay.
//! The bytes of the state are the engine's; nothing here looks into them.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::record::Checkpoint;
use crate::time::Tick;

use super::error::StoreError;
use super::journal::sync_folder;

const MAGIC: &[u8; 6] = b"FBCKPT";
const VERSION: u16 = 1;
const START: usize = 12;
const LEVEL: i32 = 1;
const KEPT: usize = 2;

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    tick: Tick,
    lanes: [LaneBooks; 4],
    /// Bytes of the state once unpacked.
    unpacked: u64,
}

/// How far a lane was at a checkpoint: what is found missing after a start is told by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LaneBooks {
    /// The number up to which its records had left.
    pub(super) floor: u64,
    /// The number of the last record it had.
    pub(super) last: u64,
}

/// The checkpoint files of one store.
pub(super) struct Checkpoints {
    folder: PathBuf,
    /// Ticks of the good files, oldest first.
    kept: Vec<u64>,
}

/// A checkpoint as read.
pub(super) struct Loaded {
    pub(super) checkpoint: Checkpoint,
    /// How far the lanes were.
    pub(super) lanes: [LaneBooks; 4],
}

impl Checkpoints {
    /// Opens or makes `folder` and reads the newest good checkpoint; damaged ones are moved to `aside` and noted.
    pub(super) fn open(
        folder: &Path,
        aside: &Path,
        notes: &mut Vec<String>,
    ) -> Result<(Checkpoints, Option<Loaded>), StoreError> {
        fs::create_dir_all(folder)
            .map_err(|source| StoreError::Unusable { path: folder.to_path_buf(), source })?;
        let mut ticks = Vec::new();
        for entry in fs::read_dir(folder).map_err(StoreError::on("read", folder))? {
            let path = entry.map_err(StoreError::on("read", folder))?.path();
            let tick = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
            match (tick, path.extension().and_then(|extension| extension.to_str())) {
                (Some(tick), Some("checkpoint")) => ticks.push(tick),
                // Half-written: the node stopped before the rename.
                (_, Some("tmp")) => {
                    fs::remove_file(&path).map_err(StoreError::on("delete", &path))?;
                }
                _ => {}
            }
        }
        ticks.sort_unstable();
        let mut checkpoints = Checkpoints { folder: folder.to_path_buf(), kept: ticks };
        let mut loaded = None;
        // All kept generations are checked, so that a damaged older one is not relied on.
        for tick in checkpoints.kept.clone().into_iter().rev() {
            let path = checkpoints.file(tick);
            let bytes = fs::read(&path).map_err(StoreError::on("read", &path))?;
            match parse(&path, &bytes)? {
                Some(good) => loaded = loaded.or(Some(good)),
                None => checkpoints.set_aside(tick, aside, notes)?,
            }
        }
        Ok((checkpoints, loaded))
    }

    /// Writes a checkpoint so that it is durable; gives its bytes.
    pub(super) fn write(
        &mut self,
        checkpoint: &Checkpoint,
        lanes: [LaneBooks; 4],
    ) -> Result<u64, StoreError> {
        let seq = checkpoint.tick.seq;
        let bytes = encode(checkpoint, lanes).map_err(|reason| StoreError::Encode {
            what: "the checkpoint",
            seq,
            reason,
        })?;
        let path = self.file(seq);
        let unfinished = path.with_extension("tmp");
        let mut file = File::create(&unfinished).map_err(StoreError::on("create", &unfinished))?;
        file.write_all(&bytes)
            .and_then(|()| file.sync_all())
            .map_err(StoreError::on("write", &unfinished))?;
        fs::rename(&unfinished, &path)
            .and_then(|()| sync_folder(&self.folder))
            .map_err(StoreError::on("write", &path))?;
        self.kept.retain(|&kept| kept != seq);
        self.kept.push(seq);
        while self.kept.len() > KEPT {
            let oldest = self.kept.remove(0);
            let path = self.file(oldest);
            fs::remove_file(&path).map_err(StoreError::on("delete", &path))?;
        }
        Ok(bytes.len() as u64)
    }

    /// The tick up to which the journal is not needed: that of the older of two generations.
    pub(super) fn journal_needed_after(&self) -> u64 {
        if self.kept.len() < KEPT { 0 } else { self.kept.first().copied().unwrap_or(0) }
    }

    fn file(&self, tick: u64) -> PathBuf {
        self.folder.join(format!("{tick:020}.checkpoint"))
    }

    fn set_aside(
        &mut self,
        tick: u64,
        aside: &Path,
        notes: &mut Vec<String>,
    ) -> Result<(), StoreError> {
        let path = self.file(tick);
        fs::create_dir_all(aside).map_err(StoreError::on("create", aside))?;
        let kept = aside.join(format!("{tick:020}.checkpoint"));
        fs::rename(&path, &kept).map_err(StoreError::on("move", &path))?;
        self.kept.retain(|&kept| kept != tick);
        notes.push(format!(
            "the checkpoint of tick {tick} is damaged and was set aside as `{}`; an older one or the journal takes its place",
            kept.display()
        ));
        Ok(())
    }
}

fn encode(checkpoint: &Checkpoint, lanes: [LaneBooks; 4]) -> Result<Vec<u8>, String> {
    let packed = zstd::bulk::compress(&checkpoint.state, LEVEL).map_err(|e| e.to_string())?;
    let head = Head { tick: checkpoint.tick, lanes, unpacked: checkpoint.state.len() as u64 };
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    let mut bytes = postcard::to_extend(&head, bytes).map_err(|e| e.to_string())?;
    bytes.extend_from_slice(&packed);
    let crc = crc32fast::hash(&bytes[START..]);
    bytes[8..START].copy_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

/// The checkpoint in `bytes`; `None` where they are damaged.
fn parse(path: &Path, bytes: &[u8]) -> Result<Option<Loaded>, StoreError> {
    let Some((start, rest)) = bytes.split_first_chunk::<START>() else { return Ok(None) };
    let [magic @ .., v0, v1, c0, c1, c2, c3] = start;
    if magic != MAGIC || crc32fast::hash(rest) != u32::from_le_bytes([*c0, *c1, *c2, *c3]) {
        return Ok(None);
    }
    let found = u16::from_le_bytes([*v0, *v1]);
    if found != VERSION {
        return Err(StoreError::Version { path: path.to_path_buf(), found, expected: VERSION });
    }
    Ok(unpack(rest))
}

/// Whether the file `path`, with these bytes, is a good checkpoint.
pub(super) fn is_good(path: &Path, bytes: &[u8]) -> Result<bool, StoreError> {
    Ok(parse(path, bytes)?.is_some())
}

fn unpack(rest: &[u8]) -> Option<Loaded> {
    let (head, packed) = postcard::take_from_bytes::<Head>(rest).ok()?;
    let state = zstd::bulk::decompress(packed, usize::try_from(head.unpacked).ok()?).ok()?;
    Some(Loaded { checkpoint: Checkpoint { tick: head.tick, state }, lanes: head.lanes })
}
