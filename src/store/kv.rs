//! All that the store asks of a storage engine, and sled behind it. Swapping sled is this file.
//!
//! Cursors, marks of evictions and quarantines share one [`Kv`]. Asked of it: writes of a single key are atomic,
//! [`Kv::flush`] makes everything before it durable, [`Kv::remove`] says what was there. Not asked: that several keys
//! come back together. sled 0.34.7's own flush neither syncs the file's metadata nor the device, so a power
//! cut can leave a store that does not open; [`SledKv::flush`] adds the `fsync` that was seen to prevent it. Values
//! stay below 7 KB: larger ones become blob files that sled never syncs and hardly ever reclaims.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::time::monotonic;

use super::error::StoreError;

/// One key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// An ordered map on disk.
pub trait Kv: Send + Sync {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    /// Sets `key` to `value`.
    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError>;
    /// Removes `key` and says what was there.
    fn remove(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    /// The pairs with `from <= key < to`, in order of their keys.
    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + '_>;
    /// Returns when everything written before is durable.
    fn flush(&self) -> Result<(), StoreError>;
}

/// Space kept for the index alone.
const RESERVE_BYTES: u64 = 4 << 20;

/// With less of the disk left, sled is not asked to write unless it has blocks of its own: see [`make_way`].
const LEFT_MIN: u64 = 1 << 20;

/// Cache that sled is asked to keep; values below 7 KB hold it near that.
const CACHE_BYTES: u64 = 16 << 20;

/// How long sled's own threads may hold on to a store that this process has closed. Another process cannot be the
/// one that holds it: the store's own lock is taken before.
const LINGER: Duration = Duration::from_secs(10);

/// sled 0.34.7 with a flush that survives a power cut.
pub struct SledKv {
    db: sled::Db,
    file: File,
    path: PathBuf,
}

/// How an attempt to open ended.
pub(super) enum Opened {
    /// It is open, and all of it could be read.
    Good(SledKv),
    /// It is damaged: this is what sled said.
    Damaged(String),
}

impl SledKv {
    /// Opens or makes the store in the folder `path` and reads all of it once. sled panics on some damage: that is
    /// caught here.
    pub(super) fn open(path: &Path) -> Result<Opened, StoreError> {
        make_way(path)?;
        let mut attempt = open_and_read(path);
        let deadline = monotonic() + LINGER;
        while matches!(&attempt, Ok(Err(error)) if is_locked(error)) && monotonic() < deadline {
            std::thread::park_timeout(Duration::from_millis(10));
            attempt = open_and_read(path);
        }
        let db = match attempt {
            Ok(Ok(db)) => db,
            Ok(Err(sled::Error::Io(source))) => return Err(StoreError::io("open", path, source)),
            Ok(Err(error)) => return Ok(Opened::Damaged(error.to_string())),
            Err(panic) => return Ok(Opened::Damaged(said(panic.as_ref()))),
        };
        let data = path.join("db");
        let file = File::open(&data).map_err(StoreError::on("open", &data))?;
        Ok(Opened::Good(SledKv { db, file, path: path.to_path_buf() }))
    }

    fn failed(&self, error: sled::Error) -> StoreError {
        match error {
            sled::Error::Io(source) => StoreError::io("write", &self.path, source),
            other => StoreError::Engine { path: self.path.clone(), reason: other.to_string() },
        }
    }
}

/// sled that meets a full disk takes no more until it is opened again, which it cannot be, and a kill then may cost the
/// index. So it has some space of its own: a file that goes when the disk is full, and is made again when there is
/// space. What goes becomes blocks behind the end of sled's file before sled is asked to write, so that nobody takes them
/// in between; where others have taken that, too, it is left alone: [`StoreError::Full`].
fn make_way(index: &Path) -> Result<(), StoreError> {
    let reserve = index.with_file_name("reserve");
    let folder = index.parent().unwrap_or(index);
    let free = free_space(folder)?;
    let is_there = reserve.exists();
    if free < 8 * RESERVE_BYTES && has_blocks(index)? {
        return Ok(());
    }
    if is_there && free < RESERVE_BYTES / 2 {
        std::fs::remove_file(&reserve).map_err(StoreError::on("delete", &reserve))?;
    }
    if !is_there && free > 8 * RESERVE_BYTES {
        File::create(&reserve)
            .and_then(|file| file.write_all_at(&vec![0xA5; RESERVE_BYTES as usize], 0))
            .map_err(StoreError::on("write", &reserve))?;
    }
    if free < 8 * RESERVE_BYTES && has_blocks(index)? {
        return Ok(());
    }
    if free < LEFT_MIN && free_space(folder)? < LEFT_MIN {
        return Err(StoreError::Full { path: index.to_path_buf() });
    }
    Ok(())
}

/// Whether sled's file has blocks of the disk behind its end, as much as sled writes at once.
fn has_blocks(index: &Path) -> Result<bool, StoreError> {
    let data = index.join("db");
    let Ok(file) = File::options().write(true).open(&data) else { return Ok(false) };
    let len = file.metadata().map_err(StoreError::on("look at", &data))?.len();
    let flags = rustix::fs::FallocateFlags::KEEP_SIZE;
    // A disk without room, or without this, says so; which of them does not matter.
    Ok(rustix::fs::fallocate(&file, flags, len, RESERVE_BYTES / 2).is_ok())
}

/// Bytes of the disk of `path` that may still be written.
pub(super) fn free_space(path: &Path) -> Result<u64, StoreError> {
    let disk = rustix::fs::statvfs(path)
        .map_err(|e| StoreError::io("look at the disk of", path, e.into()))?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

fn open_and_read(path: &Path) -> std::thread::Result<sled::Result<sled::Db>> {
    catch_unwind(AssertUnwindSafe(|| {
        let config = sled::Config::new().path(path).cache_capacity(CACHE_BYTES);
        let db = config.flush_every_ms(None).open()?;
        for pair in db.iter() {
            pair?;
        }
        Ok(db)
    }))
}

/// Whether sled found its file locked. It says so in words only.
fn is_locked(error: &sled::Error) -> bool {
    match error {
        sled::Error::Io(source) => source.to_string().contains("could not acquire lock"),
        _ => false,
    }
}

/// The text of a panic.
fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked").lines().next().unwrap_or_default().to_owned()
}

impl Kv for SledKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let found = self.db.get(key).map_err(|e| self.failed(e))?;
        Ok(found.map(|value| value.to_vec()))
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        make_way(&self.path)?;
        self.db.insert(key, value).map(|_| ()).map_err(|e| self.failed(e))
    }

    fn remove(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        make_way(&self.path)?;
        let found = self.db.remove(key).map_err(|e| self.failed(e))?;
        Ok(found.map(|value| value.to_vec()))
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + '_> {
        let pairs = self.db.range(from.to_vec()..to.to_vec());
        Box::new(pairs.map(|pair| {
            let (key, value) = pair.map_err(|e| self.failed(e))?;
            Ok((key.to_vec(), value.to_vec()))
        }))
    }

    fn flush(&self) -> Result<(), StoreError> {
        make_way(&self.path)?;
        self.db.flush().map_err(|e| self.failed(e))?;
        self.file.sync_all().map_err(StoreError::on("sync", &self.path))
    }
}
