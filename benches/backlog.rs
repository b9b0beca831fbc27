//! A backlog on a real disk: what it costs to keep, to open after a kill, and to send off. Not criterion: each phase
//! is a process of its own, so that its memory can be told. `cargo bench --bench backlog -- 10MB 1GB` (bytes as stored)
//! prints a line a size; the folder is `FOREBAY_BENCH_DIR`, or cargo's target folder.
#![allow(clippy::print_stdout, reason = "its result is what it prints")]
#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on ends")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use bytesize::ByteSize;
use forebay::frame::{Asset, Input, Quality};
use forebay::record::{Checkpoint, Lane, Outgoing, Record, ScoreRecord, Step};
use forebay::store::{Durability, Receipts, Retention, Store, StoreOptions};
use forebay::time::{Tick, Timestamp, monotonic};

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
    let sizes = if words.is_empty() { vec!["10MB"] } else { words };
    let place = std::env::var_os("FOREBAY_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    for size in sizes {
        let folder = tempfile::tempdir_in(&place).unwrap();
        let path = folder.path().to_string_lossy().into_owned();
        let bytes = size.parse::<ByteSize>().unwrap().as_u64().to_string();
        let own = std::env::current_exe().unwrap();
        for words in [vec!["fill", &path, &bytes], vec!["drain", &path]] {
            if !Command::new(&own).args(words).status().unwrap().success() {
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
