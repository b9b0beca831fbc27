//! A backlog on a real disk: what it costs to keep, to open after a kill, and to send off. Not criterion: each phase
//! is a process of its own, so that its memory can be told. `cargo bench --bench backlog -- 10MB 1GB` (bytes as stored)
//! prints a line a size, `-- 7days` one for a week of churn and outages; the folder is `FOREBAY_BENCH_DIR`, or cargo's target folder.
#![allow(clippy::print_stdout, reason = "its result is what it prints")]
#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on ends")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use bytesize::ByteSize;
use forebay::frame::{Asset, Input, Quality};
use forebay::record::{
    Checkpoint, Lane, Outgoing, RawReading, RawRecord, Record, ScoreRecord, Step,
};
use forebay::store::{Durability, Receipts, Retention, Store, StoreOptions};
use forebay::time::{Span, Tick, Timestamp, monotonic};

/// Readings and score records of a tick of a second.
const READINGS: usize = 8_000;
const RECORDS: usize = 400;

fn options(path: &Path) -> StoreOptions {
    StoreOptions {
        path: path.to_path_buf(),
        node: "edge-1".into(),
        targets: vec!["far".into()],
        lane_limits: [1 << 40; 4],
        retention: [Retention::default(); 4],
        free_floor: 0,
        durability: Durability::Interval(Duration::from_secs(1)),
        now: Timestamp(0),
    }
}

fn step(seq: u64) -> Step {
    let mut random = fastrand::Rng::with_seed(seq);
    let mut input = Input { route: "plant/pump/{asset}".into(), ..Input::default() };
    let now = Timestamp(1_800_000_000_000_000 + seq as i64 * 1_000_000);
    for asset in 0..READINGS / 8 {
        input.assets.push(Asset { id: format!("pump-{asset:04}"), ..Asset::default() });
        for signal in 0..8 {
            let value = (random.f64() * 10_000.0).round() / 100.0;
            input.readings.push(asset as u32, signal, now, value, Quality::Good);
        }
    }
    let records = (0..RECORDS).map(|index| record(seq, index, now, &mut random)).collect();
    Step { tick: Tick { seq, now }, input: vec![input], records }
}

fn record(seq: u64, index: usize, now: Timestamp, random: &mut fastrand::Rng) -> Outgoing {
    let names = (0..8).flat_map(|signal| ["mean", "std"].map(|kind| format!("s{signal}.{kind}")));
    let record = Record::Score(ScoreRecord {
        id: format!("edge-1/pumps/pump-{index:04}/score/{}", now.0),
        node: "edge-1".into(),
        pipeline: "pumps".into(),
        asset: format!("pump-{index:04}"),
        tags: BTreeMap::new(),
        window_start: now,
        window_end: Timestamp(now.0 + 60_000_000),
        features: names.map(|name| (name, Some(random.f64() * 100.0))).collect(),
        scores: BTreeMap::from([("anomaly".to_owned(), Some(random.f64()))]),
        threshold: Some(0.9),
        coverage: 1.0,
        model: Some("pump-anomaly".into()),
        model_version: Some(format!("{:06x}", seq % 3)),
        models: Vec::new(),
        contributions: Vec::new(),
    });
    Outgoing { lane: Lane::Score, record }
}

/// A number of this process out of a file of `/proc/self`.
fn own(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

fn resident_mb() -> u64 {
    own("status", "VmRSS:") / 1024
}

fn peak_mb() -> u64 {
    own("status", "VmHWM:") / 1024
}

fn on_disk(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => on_disk(&entry.path()),
        Ok(meta) => std::os::unix::fs::MetadataExt::blocks(&meta) * 512,
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

/// Commits until the lane holds `bytes`; then the process ends where it is.
fn fill(path: &Path, bytes: u64) {
    let mut store = Store::open(&options(path)).unwrap();
    let started = monotonic();
    store.ledger.finish_recovery().unwrap();
    let mut seq = 0;
    while store.ledger.stats().lane(Lane::Score).queued_bytes < bytes {
        seq += 1;
        let step = step(seq);
        store.ledger.commit(&step, &mut Receipts::new()).unwrap();
        if seq % 30 == 0 {
            let checkpoint = Checkpoint { tick: step.tick, state: vec![7; 100_000] };
            store.ledger.checkpoint(&checkpoint).unwrap();
        }
    }
    let (stats, seconds) = (store.ledger.stats(), started.elapsed().as_secs_f64());
    let kept = stats.lane(Lane::Score).queued_bytes as f64;
    print!(
        "{:>8} {:>9} records {:>6.1} s | written/kept {:.2} (handed over {:.2}, of that records 1.00) | memory {:>3} MB | disk/kept {:.2}",
        ByteSize::b(bytes).to_string(),
        stats.lane(Lane::Score).queued,
        seconds,
        own("io", "write_bytes:") as f64 / kept,
        stats.written.total() as f64 / kept,
        peak_mb(),
        on_disk(path) as f64 / kept,
    );
    std::process::exit(0);
}

/// A simulated week: readings and windows of a hundred assets, two far sides with outages of many lengths, lanes that are
/// too small for the longest; then the process ends where it is.
fn churn(path: &Path, days: u64) {
    const TICK: u64 = 20;
    let mut store = Store::open(&weekly(path)).unwrap();
    let started = monotonic();
    store.ledger.finish_recovery().unwrap();
    let mut random = fastrand::Rng::with_seed(1);
    let mut until = [(0, true); 2];
    let (mut lines, mut outages, mut losses) = (0, 0, 0);
    let mut longest = Duration::ZERO;
    for seq in 1..=days * 86_400 / TICK {
        let now = Timestamp(1_800_000_000_000_000 + (seq * TICK) as i64 * 1_000_000);
        let mut records: Vec<_> = (0..100).map(|n| record(seq, n, now, &mut random)).collect();
        records.extend((0..100).map(|n| readings(n, now, &mut random)));
        let step = Step { tick: Tick { seq, now }, input: vec![], records };
        let begun = monotonic();
        let committed = store.ledger.commit(&step, &mut Receipts::new()).unwrap().0;
        longest = longest.max(begun.elapsed());
        for (outbox, (end, is_up)) in store.outboxes.iter_mut().zip(&mut until) {
            if *end <= seq * TICK {
                // From a minute to a day, each length as likely as its double.
                *is_up = !*is_up;
                outages += u64::from(!*is_up);
                let seconds = 60.0 * 1440_f64.powf(random.f64());
                *end = seq * TICK + seconds as u64;
            }
            let mut left = 4 << 20;
            while *is_up
                && left > 0
                && let Some(parcel) = outbox.next(committed, 256 << 10).unwrap()
            {
                left -= parcel.bytes().min(left);
                lines += parcel.bytes();
                let is_loss = |line: &[u8]| line.starts_with(br#"{"type":"loss""#);
                losses += parcel.records().filter(|(_, line)| is_loss(line)).count();
                outbox.settle(parcel.acked()).unwrap();
            }
        }
        if seq % 3 == 0 {
            let checkpoint = Checkpoint { tick: step.tick, state: vec![7; 20_000] };
            store.ledger.checkpoint(&checkpoint).unwrap();
        }
    }
    let stats = store.ledger.stats();
    let (queued, live) = (stats.sum(|lane| lane.queued), stats.sum(|lane| lane.queued_bytes));
    let files = on_disk(&path.join("lanes")) as f64;
    print!(
        "{days} days in {:.0} s, {outages} outages, {losses} notices of loss | {queued} of {} records wait in {} | disk/live {:.2} | sent {} of lines | written {}: {:.2} for each byte of records and journal | longest commit {:.2} s | memory {} MB, peak {} MB",
        started.elapsed().as_secs_f64(),
        stats.sum(|lane| lane.made),
        ByteSize::b(live),
        files / live.max(1) as f64,
        ByteSize::b(lines as u64),
        ByteSize::b(own("io", "write_bytes:")),
        own("io", "write_bytes:") as f64
            / (stats.written.records + stats.written.journal).max(1) as f64,
        longest.as_secs_f64(),
        resident_mb(),
        peak_mb(),
    );
    std::process::exit(0);
}

/// Small enough for a day of outage to be too much.
fn weekly(path: &Path) -> StoreOptions {
    let thin = Some(Span::seconds(60));
    let lane = Retention { thin, ..Retention::default() };
    StoreOptions {
        targets: vec!["near".into(), "far".into()],
        lane_limits: [32 << 20, 48 << 20, 16 << 20, 16 << 20],
        retention: [Retention::default(), lane, lane, lane],
        ..options(path)
    }
}

/// Cleaned readings of an asset, a second each.
fn readings(index: usize, now: Timestamp, random: &mut fastrand::Rng) -> Outgoing {
    let mut list = || -> Vec<RawReading> {
        let at = |n: i64| Timestamp(now.0 + n * 1_000_000);
        (0..20).map(|n| RawReading(at(n), (random.f64() * 1000.0).round() / 10.0)).collect()
    };
    let signals = ["flow", "pressure"].map(|name| (name.to_owned(), list()));
    let record = Record::Raw(RawRecord {
        id: format!("edge-1/pumps/pump-{index:04}/raw/{}", now.0),
        node: "edge-1".into(),
        pipeline: "pumps".into(),
        asset: format!("pump-{index:04}"),
        tags: BTreeMap::new(),
        signals: BTreeMap::from(signals),
    });
    Outgoing { lane: Lane::Raw, record }
}

/// Opens what a week left.
fn reopen(path: &Path) {
    let started = monotonic();
    let store = Store::open(&weekly(path)).unwrap();
    println!(
        " | open in {:.2} s with {} MB, {} waiting",
        started.elapsed().as_secs_f64(),
        peak_mb(),
        store.ledger.stats().sum(|lane| lane.queued),
    );
}

/// Opens what was left, and sends it off.
fn drain(path: &Path) {
    let idle = resident_mb();
    let started = monotonic();
    let Store { mut ledger, mut outboxes, recovered } = Store::open(&options(path)).unwrap();
    for entry in recovered.entries {
        let (tick, _) = entry.unwrap();
        ledger.reconcile(&step(tick.seq)).unwrap();
    }
    let committed = ledger.finish_recovery().unwrap().committed;
    let opened = started.elapsed().as_secs_f64();
    let waiting = ledger.stats().lane(Lane::Score);
    let outbox = &mut outboxes[0];
    let started = monotonic();
    let mut lines = 0;
    while let Some(parcel) = outbox.next(committed, 64 << 10).unwrap() {
        lines += parcel.bytes();
        outbox.settle(parcel.acked()).unwrap();
    }
    outbox.flush().unwrap();
    let seconds = started.elapsed().as_secs_f64();
    let last =
        Checkpoint { tick: Tick { seq: committed.tick(), now: Timestamp(0) }, state: vec![] };
    ledger.checkpoint(&last).unwrap();
    ledger
        .checkpoint(&Checkpoint { tick: Tick { seq: last.tick.seq, ..last.tick }, ..last })
        .unwrap();
    println!(
        " | ready in {opened:.2} s | drained {:>5.0} MB/s of lines, {:>4.0} MB/s as stored | memory {idle} to {} MB | disk left {}",
        lines as f64 / 1e6 / seconds,
        waiting.queued_bytes as f64 / 1e6 / seconds,
        peak_mb(),
        ByteSize::b(on_disk(path)),
    );
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["fill", path, bytes] = words.as_slice() {
        fill(Path::new(path), bytes.parse().unwrap());
        return ExitCode::SUCCESS;
    }
    if let ["drain", path] = words.as_slice() {
        drain(Path::new(path));
        return ExitCode::SUCCESS;
    }
    if let ["week", path, days] = words.as_slice() {
        churn(Path::new(path), days.parse().unwrap());
        return ExitCode::SUCCESS;
    }
    if let ["reopen", path] = words.as_slice() {
        reopen(Path::new(path));
        return ExitCode::SUCCESS;
    }
    let sizes = if words.is_empty() { vec!["10MB"] } else { words };
    let place = std::env::var_os("FOREBAY_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    for size in sizes {
        let folder = tempfile::tempdir_in(&place).unwrap();
        let path = folder.path().to_string_lossy().into_owned();
        let own = std::env::current_exe().unwrap();
        let days = size.strip_suffix("days").map(str::to_owned);
        let bytes = size.parse::<ByteSize>().map_or(0, |size| size.as_u64()).to_string();
        let parts = match &days {
            Some(days) => [vec!["week", &path, days], vec!["reopen", &path]],
            None => [vec!["fill", &path, &bytes], vec!["drain", &path]],
        };
        for words in parts {
            if !Command::new(&own).args(words).status().unwrap().success() {
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
