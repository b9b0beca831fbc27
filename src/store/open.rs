//! Opening a store: lock it, survey what is there, set aside what is damaged, say what was lost.
//!
//! `node` and `cli` call [`Store::open`]. It never asks a person anything: a store that cannot be read is moved to
//! `quarantine-T` beside the new one, and the notes say so. What it does not do: replay. The engine does that, with
//! [`Recovered`].

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{DurabilityConfig, KeepConfig, StoreConfig};
use crate::record::{Checkpoint, Lane};
use crate::time::{Span, Timestamp};

use super::checkpoint::{Checkpoints, LaneBooks, Loaded};
use super::error::StoreError;
use super::evict::Retention;
use super::journal::{Journal, Made};
use super::kv::{Kv, Opened, SledKv};
use super::lanes::{Gap, Lanes, Segment};
use super::ledger::{Durability, Ledger, Parts};
use super::log::Log;
use super::marks;
use super::meter::Meter;
use super::outbox::Outbox;
use super::recovery::Recovery;
use super::settled::Settled;
use super::survey::{self, SurveyedLane};
use super::survey_journal::{Entries, SurveyedJournal};
use super::targets;

/// Quarantine folders kept; older ones are deleted, so that a sick disk does not fill itself.
const QUARANTINES_KEPT: usize = 4;

/// Where the store is and what it may take up.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Its folder.
    pub path: PathBuf,
    /// The node's name, for notices of loss.
    pub node: String,
    /// The far sides' names: what waits is kept until each has it.
    pub targets: Vec<String>,
    /// Most bytes that each lane takes up on the disk.
    pub lane_limits: [u64; 4],
    /// What each lane gives up when it is full, and before.
    pub retention: [Retention; 4],
    /// Bytes of the disk that stay free: below that, new records take the place of old ones.
    pub free_floor: u64,
    /// When what was acknowledged is durable.
    pub durability: Durability,
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
            targets: vec!["uplink".to_owned()],
            lane_limits: limits.map(|limit| limit.as_u64()),
            retention: config.retention().map(|lane| Retention {
                keep_oldest: lane.keep == KeepConfig::Oldest,
                max_age: lane.max_age,
                thin: Some(lane.thin).filter(|thin| *thin > Span::ZERO),
            }),
            free_floor: config.free_floor.as_u64(),
            durability: match config.durability {
                DurabilityConfig::Tick => Durability::Tick,
                DurabilityConfig::Interval => Durability::Interval(config.sync_every.to_std()),
            },
            now,
        }
    }
}

/// An open store, to be taken apart.
pub struct Store {
    /// For the engine loop.
    pub ledger: Ledger,
    /// For the uplinks, one a target, in the order of [`StoreOptions::targets`].
    pub outboxes: Vec<Outbox>,
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
        let path = options.path.join("index");
        let kv = match SledKv::open(&path)? {
            Opened::Good(kv) => kv,
            Opened::Damaged(reason) => {
                fs::create_dir_all(&aside).map_err(StoreError::on("create", &aside))?;
                let kept = aside.join("index");
                fs::rename(&path, &kept).map_err(StoreError::on("move", &path))?;
                notes.push(format!(
                    "the index is damaged ({reason}) and was set aside as `{}`: the far side gets again what it has and what still lies here",
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
    let books = books(loaded.as_ref(), &surveyed);
    let (targets, settled) = targets::known(&**kv, options, books)?;
    let meter = Meter::new(&targets);
    meter.journal(journal.bytes());
    let found = survey_lanes(options, books, &settled)?;
    let highest = found.iter().map(|lane| lane.last_tick).max().unwrap_or(0);
    let lost = surveyed.lost.last().map_or(0, |head| head.tick.seq);
    count(&meter, &found, &settled);
    let recovery = recovery(&**kv, &surveyed, &found, &settled, after)?;
    // A tick that evicted and never came to be has used up its number: its notice bears it.
    journal.raise(highest.max(after).max(lost).max(recovery.used));
    notes.extend(said(&recovery));
    let last = found.each_ref().map(|lane| lane.last);
    let lanes = join(found, settled);
    let lanes = Lanes::new(Arc::clone(kv), meter.clone(), targets, lanes);
    let lanes = Arc::new(lanes);
    let outboxes = outboxes(kv, options, &lanes, &meter, &lock)?;
    let parts = Parts {
        kv: Arc::clone(kv),
        logs: logs(options, last, &lanes)?,
        journal,
        lanes,
        checkpoints,
        meter,
        recovery,
    };
    let ledger = Ledger::new(parts, options, lock)?;
    prune(&options.path)?;
    Ok(Store {
        recovered: Recovered {
            checkpoint: loaded.map(|loaded| loaded.checkpoint),
            entries: Entries::new(&surveyed, after),
            last_tick: ledger.last_tick(),
            notes,
        },
        ledger,
        outboxes,
    })
}

/// How far the lanes were at the tick behind which the journal is replayed: what was synced then must be there.
fn books(loaded: Option<&Loaded>, surveyed: &SurveyedJournal) -> [LaneBooks; 4] {
    match (loaded, surveyed.heads.first()) {
        (Some(loaded), _) => loaded.lanes,
        (None, Some(head)) => head.made.map(|made| LaneBooks { floor: 0, last: made.first - 1 }),
        (None, None) => [LaneBooks::default(); 4],
    }
}

fn survey_lanes(
    options: &StoreOptions,
    books: [LaneBooks; 4],
    settled: &[Vec<Settled>; 4],
) -> Result<[SurveyedLane; 4], StoreError> {
    let one = |lane: Lane| {
        let index = lane as usize;
        survey::survey(&options.path, lane, books[index], &settled[index])
    };
    let [alarm, score, feature, raw] = Lane::ALL;
    Ok([one(alarm)?, one(score)?, one(feature)?, one(raw)?])
}

/// Counts what waits.
fn count(meter: &Meter, found: &[SurveyedLane; 4], settled: &[Vec<Settled>; 4]) {
    for ((lane, found), settled) in Lane::ALL.into_iter().zip(found).zip(settled) {
        meter.took_up(lane, found.segments.iter().map(|segment| segment.len).sum());
        for (target, settled) in settled.iter().enumerate() {
            meter.found(target, lane, settled.open_in(1, found.last));
        }
    }
}

/// What is left to do once the journal is replayed.
fn recovery(
    kv: &dyn Kv,
    surveyed: &SurveyedJournal,
    found: &[SurveyedLane; 4],
    settled: &[Vec<Settled>; 4],
    after: u64,
) -> Result<Recovery, StoreError> {
    let mut recovery = Recovery::default();
    recovery.promised = promised(surveyed, after);
    for lane in Lane::ALL {
        for mark in marks::marks(kv, lane)? {
            recovery.used = recovery.used.max(mark.loss.said_at);
            recovery.notices.insert(mark.loss.number, mark.loss);
        }
    }
    let [alarms, ..] = found;
    recovery.notices.retain(|number, _| *number > alarms.last);
    for (known, settled) in recovery.known.iter_mut().zip(settled) {
        *known = settled.iter().map(Settled::upto).max().unwrap_or(0);
    }
    let is_missed = |gap: &Gap| {
        settled[gap.lane as usize].iter().any(|settled| settled.open_in(gap.from, gap.to) > 0)
    };
    recovery.gaps = found.iter().flat_map(|lane| lane.gaps.clone()).filter(is_missed).collect();
    recovery.lost_input = match (surveyed.lost.first(), surveyed.lost.last()) {
        (Some(first), Some(last)) => {
            let readings = surveyed.lost.iter().map(|head| head.readings).sum();
            Some((readings, first.tick.seq, last.tick.seq))
        }
        _ => None,
    };
    Ok(recovery)
}

/// What is missing, for the log.
fn said(recovery: &Recovery) -> Vec<String> {
    let gaps = recovery.gaps.iter().map(|gap| {
        let (lane, count, (first, last)) = (gap.lane.name(), gap.to - gap.from + 1, gap.ticks);
        format!(
            "lane `{lane}`: {count} records of ticks {first} to {last} are missing; a loss record says so"
        )
    });
    let input = recovery.lost_input.map(|(readings, first, last)| {
        format!("{readings} readings of ticks {first} to {last} are lost to damage; a loss record says so")
    });
    gaps.chain(input).collect()
}

fn join(found: [SurveyedLane; 4], settled: [Vec<Settled>; 4]) -> [(Vec<Segment>, Vec<Settled>); 4] {
    let mut settled = settled.into_iter();
    found.map(|lane| (lane.segments, settled.next().unwrap_or_default()))
}

fn logs(
    options: &StoreOptions,
    last: [u64; 4],
    lanes: &Arc<Lanes>,
) -> Result<[Log; 4], StoreError> {
    let one = |lane: Lane| {
        let (limit, last) = (options.lane_limits[lane as usize], last[lane as usize]);
        Log::new(&options.path, lane, limit, last, Arc::clone(lanes))
    };
    let [alarm, score, feature, raw] = Lane::ALL;
    Ok([one(alarm)?, one(score)?, one(feature)?, one(raw)?])
}

fn outboxes(
    kv: &Arc<dyn Kv>,
    options: &StoreOptions,
    lanes: &Arc<Lanes>,
    meter: &Meter,
    lock: &Arc<File>,
) -> Result<Vec<Outbox>, StoreError> {
    let open = |name: &String| {
        let target = lanes.target(name).unwrap_or_default();
        let (kv, lanes, lock) = (Arc::clone(kv), Arc::clone(lanes), Arc::clone(lock));
        Outbox::open(name, target, kv, lanes, meter.clone(), lock)
    };
    options.targets.iter().map(open).collect()
}

/// Whether the journal alone has to do and does not reach back to the first tick.
fn missing_state(surveyed: &SurveyedJournal, after: u64) -> Option<String> {
    let first = surveyed.heads.first().filter(|first| after == 0 && first.after > 0)?;
    Some(format!(
        "no checkpoint can be read and the journal starts after tick {}: the state before that is lost",
        first.after
    ))
}

/// Takes the lock of a store that is there.
pub(super) fn lock_existing(path: &Path) -> Result<Arc<File>, StoreError> {
    if path.join("journal").is_dir() {
        return lock(path);
    }
    Err(StoreError::Absent { path: path.to_path_buf() })
}

/// Makes the folder and takes the lock.
fn lock(path: &Path) -> Result<Arc<File>, StoreError> {
    let unusable = |source| match StoreError::io("write", path, source) {
        StoreError::Io { path, source, .. } => StoreError::Unusable { path, source },
        full => full,
    };
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
fn promised(surveyed: &SurveyedJournal, after: u64) -> BTreeMap<u64, [Made; 4]> {
    let behind = surveyed.heads.iter().filter(|head| head.tick.seq > after);
    behind.map(|head| (head.tick.seq, head.made)).collect()
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
