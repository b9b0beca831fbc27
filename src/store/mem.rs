//! A [`Kv`] in memory that can lose power: what the tests of the store run on.
//!
//! [`MemKv::crash`] does to unflushed writes what a disk may do: each key by itself comes back as any version since
//! the last flush, and a key that was new may come back cut short. [`MemKv::fail_after`] makes a later write fail. [`tear`]
//! does the same to the files beside it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::StoreError;
use super::kv::{Kv, Pair};

type Versions = BTreeMap<Vec<u8>, Vec<Option<Vec<u8>>>>;

#[derive(Default)]
struct Inner {
    live: BTreeMap<Vec<u8>, Vec<u8>>,
    /// For each key written since the last flush: what it was then, and every value since.
    unflushed: Versions,
    writes_left: Option<u64>,
}

/// A map that forgets like a disk.
#[derive(Default)]
pub struct MemKv(Mutex<Inner>);

impl MemKv {
    /// An empty one.
    pub fn new() -> MemKv {
        MemKv::default()
    }

    /// The power goes and comes back. `pick(n)` chooses a number below `n`; it decides what survives.
    pub fn crash(&self, pick: &mut dyn FnMut(usize) -> usize) {
        let mut inner = self.lock();
        inner.writes_left = None;
        for (key, versions) in std::mem::take(&mut inner.unflushed) {
            let was_new = versions.first().is_some_and(Option::is_none);
            let chosen = versions.get(pick(versions.len())).cloned().flatten();
            match chosen {
                Some(mut value) => {
                    if was_new && pick(4) == 0 {
                        value.truncate(pick(value.len().max(1)));
                    }
                    inner.live.insert(key, value);
                }
                None => {
                    inner.live.remove(&key);
                }
            }
        }
    }

    /// Lets `writes` more puts, removes and flushes succeed; then all fail as on a full disk.
    pub fn fail_after(&self, writes: u64) {
        self.lock().writes_left = Some(writes);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn spend(&mut self) -> Result<(), StoreError> {
        match &mut self.writes_left {
            Some(0) => Err(StoreError::Full { path: PathBuf::from("memory") }),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn set(&mut self, key: &[u8], value: Option<&[u8]>) -> Option<Vec<u8>> {
        let old = match value {
            Some(value) => self.live.insert(key.to_vec(), value.to_vec()),
            None => self.live.remove(key),
        };
        let versions = self.unflushed.entry(key.to_vec()).or_insert_with(|| vec![old.clone()]);
        versions.push(value.map(<[u8]>::to_vec));
        old
    }
}

/// The power goes: does to files what a disk may do to what was not synced. Each (with how much of it is durable, as
/// `Ledger::unsynced` gives them) comes back with any length beyond that, or with its length and without its bytes, or
/// not at all where nothing of it was durable.
pub fn tear(unsynced: &[(PathBuf, u64)], pick: &mut dyn FnMut(usize) -> usize) -> io::Result<()> {
    for (path, durable) in unsynced {
        let Ok(mut bytes) = fs::read(path) else { continue };
        let durable = usize::try_from(*durable).unwrap_or(usize::MAX).min(bytes.len());
        let kept = durable + pick(bytes.len() - durable + 1);
        match pick(4) {
            0 => {}
            1 => bytes.get_mut(kept..).unwrap_or_default().fill(0),
            _ => bytes.truncate(kept),
        }
        if durable == 0 && pick(4) == 0 {
            fs::remove_file(path)?;
        } else {
            fs::write(path, bytes)?;
        }
    }
    Ok(())
}

impl Kv for MemKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.lock().live.get(key).cloned())
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let mut inner = self.lock();
        inner.spend()?;
        inner.set(key, Some(value));
        Ok(())
    }

    fn remove(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let mut inner = self.lock();
        inner.spend()?;
        Ok(inner.set(key, None))
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + '_> {
        let inner = self.lock();
        let range = inner.live.range(from.to_vec()..to.to_vec());
        let pairs: Vec<Pair> = range.map(|(k, v)| (k.clone(), v.clone())).collect();
        Box::new(pairs.into_iter().map(Ok))
    }

    fn flush(&self) -> Result<(), StoreError> {
        let mut inner = self.lock();
        inner.spend()?;
        inner.unflushed.clear();
        Ok(())
    }
}
