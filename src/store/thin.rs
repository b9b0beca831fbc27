//! Thinning: the records of closed segments rewritten into fewer, before any of them disappears.
//!
//! `room` calls [`thin`] with one segment, or several that were thinned before. Raw records become intervals, of scored
//! windows the worst of each interval and the last one stay; what is neither stays. The new segment covers the same
//! numbers. What is kept has the highest of them, so that what is gone is one range and not thousands. Records that
//! only some targets have are thinned apart from those that others have too: nobody is sent again what it has, under
//! another name. Read is a block at a time. The file that comes of it is durable, and counts for nothing until `marks`
//! says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::record::{Record, ScoreRecord};
use crate::time::{Span, Tick, Timestamp};

use super::aggregate::Intervals;
use super::block::{Line, Packer};
use super::error::StoreError;
use super::journal::sync_folder;
use super::lanes::Segment;
use super::log::{self, Name};
use super::scan::{Found, Scan};
use super::settled::Settled;

/// How often a record may be thinned.
pub(super) const LEVELS: u8 = 2;
/// The intervals of the second time are so much longer.
const COARSER: i64 = 10;
/// Intervals held in memory at once, and bytes of lines that are kept: with more, thinning would save little.
const INTERVALS_MAX: usize = 100_000;
const KEPT_BYTES: usize = 32 << 20;
/// Ranges that a mark has room for.
const RANGES_MAX: usize = 100;
/// Targets that can be told apart.
const TARGETS_MAX: usize = 64;

/// Numbers, both ends included.
pub(super) type Ranges = Vec<(u64, u64)>;

/// A segment that may take the place of others.
#[derive(Debug)]
pub(super) struct Thinned {
    /// Where it lies now, and where it will.
    pub(super) written: PathBuf,
    pub(super) named: PathBuf,
    /// Numbers that have a record no more.
    pub(super) holes: Ranges,
    /// Numbers that have a new record.
    pub(super) made: Ranges,
}

/// The interval of a level.
pub(super) fn interval(thin: Span, level: u8) -> Span {
    Span(thin.0.saturating_mul(if level > 1 { COARSER } else { 1 }))
}

/// Rewrites segments that follow each other, in intervals of `every`. `None`: nothing would be won, or something in them
/// cannot be read.
pub(super) fn thin(
    segments: &[Segment],
    settled: &[Settled],
    every: Span,
    level: u8,
) -> Result<Option<Thinned>, StoreError> {
    let mut plan = Plan { settled, every, ..Plan::default() };
    if settled.len() > TARGETS_MAX || !walk(segments, settled, |seen| plan.look(seen))? {
        return Ok(None);
    }
    let kept = plan.decide();
    let mut lines: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut bytes = 0;
    let all = walk(segments, settled, |Seen { number, line, .. }| {
        if kept.contains(&number) {
            bytes += line.len();
            lines.insert(number, line.to_vec());
        }
        bytes <= KEPT_BYTES
    })?;
    let (Some(first), Some(last)) = (segments.first(), segments.last()) else { return Ok(None) };
    let Some(tick) = plan.tick.filter(|_| all) else { return Ok(None) };
    let Some(placed) = plan.place(lines, level)? else { return Ok(None) };
    let mut packed = log::start();
    let cover = first.first..last.end;
    let packer = Packer::new().map_err(StoreError::on("prepare", &first.path));
    packer?.pack(&mut packed, tick, cover, &placed.lines)?;
    let before: u64 = segments.iter().map(|segment| segment.len).sum();
    if packed.len() as u64 > before / 4 * 3 {
        return Ok(None);
    }
    let folder = first.path.parent().unwrap_or(Path::new(""));
    let name = Name { first: first.first, tick: first.tick, level };
    let named = folder.join(name.to_string());
    let written = folder.join(format!("{name}-{:08x}.thinned", crc32fast::hash(&packed)));
    write(&written, &packed)?;
    Ok(Some(Thinned { written, named, holes: placed.holes, made: placed.made }))
}

/// Writes a file so that it is durable; what failed leaves nothing.
fn write(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let folder = path.parent().unwrap_or(path);
    let written = File::create(path)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| sync_folder(folder));
    written.map_err(|error| {
        // What is left of it is cleared away at the next start.
        let _ = fs::remove_file(path);
        StoreError::io("write", path, error)
    })
}

/// A record as `walk` meets it.
#[derive(Clone, Copy)]
struct Seen<'a> {
    tick: Tick,
    number: u64,
    line: &'a [u8],
}

/// Shows every record; `false`: something cannot be read, or `look` has had enough.
fn walk(
    segments: &[Segment],
    settled: &[Settled],
    mut look: impl FnMut(Seen<'_>) -> bool,
) -> Result<bool, StoreError> {
    let is_missed = |from, to| settled.iter().any(|settled| settled.open_in(from, to) > 0);
    for segment in segments {
        let Some(mut scan) = Scan::open(&segment.path, 0, segment.len)? else { return Ok(false) };
        let mut expected = segment.first;
        while let Some(found) = scan.next()? {
            let Found::Block { block, .. } = found else { return Ok(false) };
            let head = &block.head;
            let Some(lines) = block.lines() else { return Ok(false) };
            if head.first > expected && is_missed(expected, head.first - 1) {
                return Ok(false);
            }
            expected = head.end();
            for (entry, line) in head.entries.iter().zip(&lines) {
                let number = head.first + u64::from(entry.offset);
                if !look(Seen { tick: head.tick, number, line }) {
                    return Ok(false);
                }
            }
        }
        if expected < segment.end && is_missed(expected, segment.end - 1) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What is thinned together: for whom it waits, pipeline, asset.
type Subject = (u64, String, String);

/// Of the windows of one subject, model and interval.
#[derive(Debug, Default)]
struct Best {
    /// By score: the highest, and whose it is.
    worst: BTreeMap<String, (f64, u64)>,
    last: Option<(Timestamp, u64)>,
}

/// What one look at all records comes to.
#[derive(Debug, Default)]
struct Plan<'a> {
    settled: &'a [Settled],
    every: Span,
    tick: Option<Tick>,
    /// By for whom they wait (a bit a target): all numbers.
    waiting: BTreeMap<u64, Vec<u64>>,
    intervals: BTreeMap<Subject, Intervals>,
    intervals_len: usize,
    windows: BTreeMap<(Subject, Option<String>, Timestamp), Best>,
    /// Neither: they stay.
    others: BTreeSet<u64>,
}

/// Lines at their new places.
struct Placed {
    lines: Vec<Line>,
    holes: Ranges,
    made: Ranges,
}

impl Plan<'_> {
    /// Takes a record in; `false`: it is not worth going on.
    fn look(&mut self, seen: Seen<'_>) -> bool {
        let Seen { tick, number, line } = seen;
        self.tick = Some(tick);
        let waits = self.settled.iter().map(|settled| !settled.contains(number));
        let mask = waits.enumerate().fold(0_u64, |all, (bit, waits)| all | u64::from(waits) << bit);
        if mask == 0 {
            return true;
        }
        self.waiting.entry(mask).or_default().push(number);
        match serde_json::from_slice(line) {
            Ok(Record::Raw(raw)) => {
                let subject = (mask, raw.pipeline.clone(), raw.asset.clone());
                self.aggregate(subject, |intervals, every| intervals.take_raw(raw, every))
            }
            Ok(Record::Aggregate(one)) => {
                let subject = (mask, one.pipeline.clone(), one.asset.clone());
                self.aggregate(subject, |intervals, every| intervals.take_aggregate(one, every))
            }
            Ok(Record::Score(score)) => {
                self.window(mask, number, score);
                true
            }
            Ok(
                Record::Alarm(_)
                | Record::Loss(_)
                | Record::Model(_)
                | Record::Notice(_)
                | Record::Verdict(_),
            )
            | Err(_) => {
                self.others.insert(number);
                true
            }
        }
    }

    fn aggregate(&mut self, subject: Subject, take: impl FnOnce(&mut Intervals, Span)) -> bool {
        let intervals = self.intervals.entry(subject).or_default();
        let before = intervals.len();
        take(intervals, self.every);
        self.intervals_len += intervals.len() - before;
        self.intervals_len <= INTERVALS_MAX
    }

    fn window(&mut self, mask: u64, number: u64, score: ScoreRecord) {
        let (end, model) = (score.window_end, score.model.zip(score.model_version));
        let model = model.map(|(model, version)| format!("{model}\n{version}"));
        let subject = (mask, score.pipeline, score.asset);
        let best = self.windows.entry((subject, model, end.floor(self.every))).or_default();
        for (name, value) in score.scores {
            let Some(value) = value else { continue };
            if best.worst.get(&name).is_none_or(|(worst, _)| value > *worst) {
                best.worst.insert(name, (value, number));
            }
        }
        if best.last.is_none_or(|(last, _)| end >= last) {
            best.last = Some((end, number));
        }
    }

    /// The records that stay as they are.
    fn decide(&self) -> BTreeSet<u64> {
        let of = |best: &Best| {
            let worst: Vec<u64> = best.worst.values().map(|(_, number)| *number).collect();
            worst.into_iter().chain(best.last.map(|(_, number)| number))
        };
        self.windows.values().flat_map(of).chain(self.others.iter().copied()).collect()
    }

    /// Gives what is kept its places: the last ones of the records that wait for the same targets. `None`: nothing goes, or it
    /// is too scattered.
    fn place(
        self,
        mut kept: BTreeMap<u64, Vec<u8>>,
        level: u8,
    ) -> Result<Option<Placed>, StoreError> {
        let mut made: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
        for ((mask, pipeline, asset), intervals) in self.intervals {
            let first = self.waiting.get(&mask).and_then(|all| all.first().copied());
            let place = format!("{level}/{}", first.unwrap_or_default());
            for record in intervals.into_records(&pipeline, &asset, self.every, &place) {
                let line = serde_json::to_vec(&Record::Aggregate(record)).map_err(|e| {
                    StoreError::Encode { what: "an aggregate", seq: 0, reason: e.to_string() }
                })?;
                made.entry(mask).or_default().push(line);
            }
        }
        let mut lines: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let (mut holes, mut new) = (Vec::new(), Vec::new());
        for (mask, numbers) in &self.waiting {
            let made = made.remove(mask).unwrap_or_default();
            let there: Vec<Vec<u8>> = numbers.iter().filter_map(|n| kept.remove(n)).collect();
            let gone = numbers.len() - (made.len() + there.len()).min(numbers.len());
            let (hole, places) = numbers.split_at(gone);
            holes.extend_from_slice(hole);
            new.extend(places.iter().take(made.len()));
            lines.extend(places.iter().copied().zip(made.into_iter().chain(there)));
        }
        let (holes, made) = (ranges(holes), ranges(new));
        let ranges = holes.len() + made.len();
        if ranges == 0 || ranges > RANGES_MAX {
            return Ok(None);
        }
        let line =
            |(ordinal, (number, bytes)): (u32, (u64, Vec<u8>))| Line { number, ordinal, bytes };
        Ok(Some(Placed { lines: (0..).zip(lines).map(line).collect(), holes, made }))
    }
}

/// Numbers as ranges.
fn ranges(mut numbers: Vec<u64>) -> Ranges {
    numbers.sort_unstable();
    let mut ranges: Ranges = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some(range) if range.1 + 1 == number => range.1 = number,
            _ => ranges.push((number, number)),
        }
    }
    ranges
}
