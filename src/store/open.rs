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

use super::checkpoint::{Checkpoints, LaneBooks, Loaded};
use super::codec::Key;
use super::error::StoreError;
use super::journal::{Journal, Made};
use super::kv::{Kv, Opened, SledKv};
use super::ledger::{Ledger, Parts};
use super::marks::{self, LOSS_ORDINAL, Loss};
use super::meter::Meter;
use super::outbox::Outbox;
use super::survey::{self, Damage, Found};
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
        let kv = match SledKv::open(&path)? {
            Opened::Good(kv) => kv,
            Opened::Damaged(reason) => {
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
        let kv: Arc<dyn Kv> = Arc::new(kv);
        open(&kv, options, lock, notes)
    }

    /// Opens the store with another storage engine for its records; journal and checkpoints stay files.
    #[expect(clippy::needless_pass_by_value, reason = "the store keeps its share")]
    pub fn open_on(kv: Arc<dyn Kv>, options: &StoreOptions) -> Result<Store, StoreError> {
        let lock = lock(&options.path)?;
        open(&kv, options, lock, Vec::new())
    }
}

fn open(
    kv: &Arc<dyn Kv>,
    options: &StoreOptions,
    lock: Arc<File>,
    mut notes: Vec<String>,
) -> Result<Store, StoreError> {
    let aside = aside(options);
    let folder = |name: &str| options.path.join(name);
    let (checkpoints, loaded) = Checkpoints::open(&folder("checkpoint"), &aside, &mut notes)?;
    let (mut journal, mut surveyed) = Journal::open(&folder("journal"), &aside)?;
    notes.append(&mut surveyed.notes);
    let after = loaded.as_ref().map_or(0, |loaded| loaded.checkpoint.tick.seq);
    notes.extend(missing_state(&surveyed, after));
    let meter = Meter::default();
    let found = survey_lanes(&**kv, &meter, loaded.as_ref(), &surveyed)?;
    let highest = found.iter().map(|lane| lane.last_tick).max().unwrap_or(0);
    let lost = surveyed.lost.last().map_or(0, |head| head.tick.seq);
    journal.raise(highest.max(after).max(lost));
    meter.journal(journal.bytes());
    // Before the floors are read: it raises the marks over what had left out of order.
    let outbox = Outbox::open(Arc::clone(kv), meter.clone(), Arc::clone(&lock))?;
    let parts = Parts {
        promised: promised(&surveyed, after),
        last: last_numbers(&found, &surveyed),
        floors: floors(&**kv, &found)?,
        kv: Arc::clone(kv),
        meter,
        journal,
        checkpoints,
    };
    let mut ledger = Ledger::new(parts, options, lock)?;
    say_again(&mut ledger)?;
    let mut damage: Vec<Damage> = found.iter().filter_map(|lane| lane.damage.clone()).collect();
    damage.extend(damaged_journal(&surveyed));
    say_damage(&mut ledger, &damage, options.now)?;
    found.iter().try_for_each(|lane| lane.remember(&**kv))?;
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
        outbox,
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

/// Surveys all lanes. Which records must be there is known from the checkpoint, or else from the first entry of the
/// journal; what was made later is made again by the replay.
fn survey_lanes(
    kv: &dyn Kv,
    meter: &Meter,
    loaded: Option<&Loaded>,
    surveyed: &Surveyed,
) -> Result<[Found; 4], StoreError> {
    let first = surveyed.heads.first();
    let (upto, books) = match (loaded, first) {
        (Some(loaded), _) => (loaded.checkpoint.tick.seq, loaded.lanes),
        (None, Some(head)) => {
            (head.tick.seq - 1, head.made.map(|made| LaneBooks { floor: 0, last: made.first - 1 }))
        }
        (None, None) => (u64::MAX, [LaneBooks::default(); 4]),
    };
    let [alarm, score, feature, raw] = books;
    Ok([
        survey::survey(kv, meter, Lane::Alarm, alarm, upto)?,
        survey::survey(kv, meter, Lane::Score, score, upto)?,
        survey::survey(kv, meter, Lane::Feature, feature, upto)?,
        survey::survey(kv, meter, Lane::Raw, raw, upto)?,
    ])
}

/// The number up to which each lane has left.
fn floors(kv: &dyn Kv, found: &[Found; 4]) -> Result<[u64; 4], StoreError> {
    let mut floors = found.each_ref().map(|lane| lane.floor);
    for (floor, lane) in floors.iter_mut().zip(Lane::ALL) {
        *floor = marks::floor(kv, lane)?.max(*floor);
    }
    Ok(floors)
}

/// The number of each lane's last record: the highest that anything speaks of.
fn last_numbers(found: &[Found; 4], surveyed: &Surveyed) -> [u64; 4] {
    let mut last = found.each_ref().map(|lane| lane.last);
    for head in surveyed.heads.iter().chain(&surveyed.lost) {
        for (last, made) in last.iter_mut().zip(head.made) {
            *last = (*last).max(made.first + u64::from(made.count) - 1);
        }
    }
    last
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
        ledger.last[0] = ledger.last[0].max(mark.loss.number);
        let key = mark.loss.key();
        if mark.loss.number > ledger.floors[0] && ledger.kv.get(&key.bytes(0))?.is_none() {
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

/// Makes notices of damage durable, before anything that is damaged is removed.
fn say_damage(ledger: &mut Ledger, damage: &[Damage], now: Timestamp) -> Result<(), StoreError> {
    let seq = ledger.journal.last();
    let mut ordinal = DAMAGE_ORDINAL;
    let (from, to) = Key::range(Lane::Alarm, seq, seq);
    for pair in ledger.kv.scan(&from, &to) {
        let (bytes, _) = pair?;
        let taken = Key::parse(&bytes).map_or(0, |(key, _)| key.ordinal.saturating_add(1));
        ordinal = ordinal.max(taken);
    }
    for damage in damage {
        let number = ledger.next_number(Lane::Alarm);
        ledger.say(&Loss {
            said_at: seq,
            ordinal,
            number,
            lane: damage.lane,
            count: damage.count,
            first_tick: damage.first_tick,
            last_tick: damage.last_tick,
            reason: "damaged".to_owned(),
            at: now,
        })?;
        ordinal = ordinal.saturating_add(1);
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
