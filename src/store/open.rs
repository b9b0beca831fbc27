//! Opening a store: lock it, survey what is there, set aside what is damaged, say what was lost.
//!
//! `node` and `cli` call [`Store::open`]. It never asks a person anything: a store that cannot be read is moved to
//! `quarantine-T` beside the new one, and the notes say so. What it does not do: replay. The engine does that, with
//! [`Recovered`].

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::StoreConfig;
use crate::record::{Checkpoint, Lane};
use crate::time::Timestamp;

use super::checkpoint::{Checkpoints, Loaded};
use super::codec::Key;
use super::error::StoreError;
use super::journal::{Journal, Made};
use super::kv::{Kv, Opened, SledKv};
use super::ledger::{Ledger, Parts};
use super::marks::{self, LOSS_ORDINAL, Loss};
use super::meter::Meter;
use super::outbox::Outbox;
use super::survey::{self, Damage};
use super::survey_journal::{Entries, Surveyed};

/// Ordinals of notices of damage start here, above those of evictions.
const DAMAGE_ORDINAL: u32 = LOSS_ORDINAL + 16;

/// Quarantine folders kept; older ones are deleted, so that a sick disk does not fill itself.
const QUARANTINES_KEPT: usize = 4;

/// Where the store is and what it may take up.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Its folder.
    pub path: PathBuf,
    /// The node's name, for notices of loss.
    pub node: String,
    /// Most bytes that wait on each lane, as stored. sled takes up to two and a half times that on disk.
    pub lane_limits: [u64; 4],
    /// Bytes of the disk that stay free: below that, new records take the place of old ones.
    pub free_floor: u64,
    /// The time now: it names what is set aside, and dates notices of damage.
    pub now: Timestamp,
}

impl StoreOptions {
    /// The options that a config says.
    pub fn new(config: &StoreConfig, node: &str, now: Timestamp) -> StoreOptions {
        let limits =
            [config.alarm_limit, config.score_limit, config.feature_limit, config.raw_limit];
        StoreOptions {
            path: config.path.clone(),
            node: node.to_owned(),
            lane_limits: limits.map(|limit| limit.as_u64()),
            free_floor: config.free_floor.as_u64(),
            now,
        }
    }
}

/// An open store, to be taken apart.
pub struct Store {
    /// For the engine loop.
    pub ledger: Ledger,
    /// For the uplink.
    pub outbox: Outbox,
    /// What the engine starts from.
    pub recovered: Recovered,
}

/// What was found.
pub struct Recovered {
    /// The newest good checkpoint.
    pub checkpoint: Option<Checkpoint>,
    /// The journal behind it, to be replayed.
    pub entries: Entries,
    /// The last tick that was ever committed here: the next one is one more.
    pub last_tick: u64,
    /// What was repaired or set aside, for the log.
    pub notes: Vec<String>,
}

impl Store {
    /// Opens or makes the store in `options.path`.
    pub fn open(options: &StoreOptions) -> Result<Store, StoreError> {
        let lock = lock(&options.path)?;
        let aside = aside(options);
        let mut notes = Vec::new();
        let path = options.path.join("outbox");
        let mut lost_outbox = false;
        let kv = match SledKv::open(&path)? {
            Opened::Good(kv) => kv,
            Opened::Damaged(reason) => {
                lost_outbox = true;
                fs::create_dir_all(&aside).map_err(StoreError::on("create", &aside))?;
                let kept = aside.join("outbox");
                fs::rename(&path, &kept).map_err(StoreError::on("move", &path))?;
                notes.push(format!(
                    "the outbox is damaged ({reason}) and was set aside as `{}`: records since the last checkpoint are made again, older ones that waited are lost",
                    kept.display()
                ));
                match SledKv::open(&path)? {
                    Opened::Good(kv) => kv,
                    Opened::Damaged(reason) => return Err(StoreError::Engine { path, reason }),
                }
            }
        };
        open(Arc::new(kv), options, lock, notes, lost_outbox)
    }

    /// Opens the store with another storage engine for its records; journal and checkpoints stay files.
    pub fn open_on(kv: Arc<dyn Kv>, options: &StoreOptions) -> Result<Store, StoreError> {
        let lock = lock(&options.path)?;
        open(kv, options, lock, Vec::new(), false)
    }
}

fn open(
    kv: Arc<dyn Kv>,
    options: &StoreOptions,
    lock: Arc<File>,
    mut notes: Vec<String>,
    lost_outbox: bool,
) -> Result<Store, StoreError> {
    let aside = aside(options);
    let folder = |name: &str| options.path.join(name);
    let (checkpoints, loaded) = Checkpoints::open(&folder("checkpoint"), &aside, &mut notes)?;
    let (mut journal, mut surveyed) = Journal::open(&folder("journal"), &aside)?;
    notes.append(&mut surveyed.notes);
    let after = loaded.as_ref().map_or(0, |loaded| loaded.checkpoint.tick.seq);
    notes.extend(missing_state(&surveyed, after));
    let promised = promised(&surveyed, after);
    let meter = Meter::default();
    let found = survey::survey(&*kv, &meter, &|seq| promised.contains_key(&seq))?;
    journal.raise(found.last.max(after).max(surveyed.lost.last().map_or(0, |head| head.tick.seq)));
    meter.journal(journal.bytes());
    let parts = Parts { kv: Arc::clone(&kv), journal, checkpoints, meter: meter.clone(), promised };
    let mut ledger = Ledger::new(parts, options, Arc::clone(&lock))?;
    say_again(&mut ledger)?;
    let mut damage = found.damage;
    damage.extend(damaged_journal(&surveyed));
    if lost_outbox {
        damage.extend(lost_records(loaded.as_ref()));
    }
    say_damage(&mut ledger, &damage, options.now)?;
    for key in &found.condemned {
        kv.remove(key)?;
    }
    notes.extend(damage.iter().map(Damage::to_string));
    prune(&options.path)?;
    Ok(Store {
        recovered: Recovered {
            checkpoint: loaded.map(|loaded| loaded.checkpoint),
            entries: Entries::new(&surveyed, after),
            last_tick: ledger.journal.last(),
            notes,
        },
        ledger,
        outbox: Outbox::open(kv, meter, lock)?,
    })
}

/// Whether the journal alone has to do and does not reach back to the first tick.
fn missing_state(surveyed: &Surveyed, after: u64) -> Option<String> {
    let first = surveyed.heads.first().filter(|first| after == 0 && first.after > 0)?;
    Some(format!(
        "no checkpoint can be read and the journal starts after tick {}: the state before that is lost",
        first.after
    ))
}

/// Makes the folder and takes the lock.
fn lock(path: &Path) -> Result<Arc<File>, StoreError> {
    let unusable = |source| StoreError::Unusable { path: path.to_path_buf(), source };
    fs::create_dir_all(path).map_err(unusable)?;
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path.join("lock"))
        .map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(Arc::new(file)),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked { path: path.to_path_buf() }),
        Err(TryLockError::Error(source)) => Err(unusable(source)),
    }
}

fn aside(options: &StoreOptions) -> PathBuf {
    options.path.join(format!("quarantine-{:020}", options.now.0))
}

/// What each tick to be replayed made.
fn promised(surveyed: &Surveyed, after: u64) -> BTreeMap<u64, [Made; 4]> {
    let behind = surveyed.heads.iter().filter(|head| head.tick.seq > after);
    behind.map(|head| (head.tick.seq, head.made)).collect()
}

/// Puts the notices that belong to the evicted marks, where a power cut kept the mark alone.
fn say_again(ledger: &mut Ledger) -> Result<(), StoreError> {
    for lane in Lane::ALL {
        let Some(mark) = marks::evicted(&*ledger.kv, lane)? else { continue };
        let key = mark.loss.key();
        let [floor, ..] = ledger.floors;
        if floor.is_none_or(|floor| floor < key) && ledger.kv.get(&key.bytes(0))?.is_none() {
            ledger.say(&mark.loss)?;
        }
    }
    Ok(())
}

/// Readings that were in the journal and cannot be replayed.
fn damaged_journal(surveyed: &Surveyed) -> Option<Damage> {
    let (first, last) = (surveyed.lost.first()?, surveyed.lost.last()?);
    Some(Damage {
        lane: Lane::Raw,
        count: surveyed.lost.iter().map(|head| head.readings).sum(),
        first_tick: first.tick.seq,
        last_tick: last.tick.seq,
    })
}

/// Records that waited at the last checkpoint, in an outbox that is gone. Some of them may have been sent since.
fn lost_records(loaded: Option<&Loaded>) -> Vec<Damage> {
    let Some(loaded) = loaded else { return Vec::new() };
    let last_tick = loaded.checkpoint.tick.seq;
    let lost = Lane::ALL.into_iter().zip(loaded.queued).filter(|(_, count)| *count > 0);
    lost.map(|(lane, count)| Damage { lane, count, first_tick: 0, last_tick }).collect()
}

/// Makes notices of damage durable, before anything that is damaged is removed.
fn say_damage(ledger: &mut Ledger, damage: &[Damage], now: Timestamp) -> Result<(), StoreError> {
    let seq = ledger.journal.last();
    let mut ordinal = DAMAGE_ORDINAL;
    let [floor, ..] = ledger.floors;
    if let Some(floor) = floor.filter(|floor| floor.seq == seq) {
        ordinal = ordinal.max(floor.ordinal.saturating_add(1));
    }
    for damage in damage {
        while ledger.kv.get(&Key { lane: Lane::Alarm, seq, ordinal }.bytes(0))?.is_some() {
            ordinal += 1;
        }
        ledger.say(&Loss {
            said_at: seq,
            ordinal,
            lane: damage.lane,
            count: damage.count,
            first_tick: damage.first_tick,
            last_tick: damage.last_tick,
            reason: "damaged".to_owned(),
            at: now,
        })?;
    }
    if !damage.is_empty() {
        ledger.kv.flush()?;
    }
    Ok(())
}

/// Deletes all but the newest quarantine folders.
fn prune(path: &Path) -> Result<(), StoreError> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(path).map_err(StoreError::on("read", path))? {
        let path = entry.map_err(StoreError::on("read", path))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("quarantine-") {
            folders.push(path);
        }
    }
    folders.sort();
    for folder in folders.iter().rev().skip(QUARANTINES_KEPT) {
        fs::remove_dir_all(folder).map_err(StoreError::on("delete", folder))?;
    }
    Ok(())
}
