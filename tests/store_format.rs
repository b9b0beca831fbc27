//! A store that an earlier version left opens, and nothing of it is lost. Each format that was ever released has a
//! fixture here, `tests/store_format/N`: what a killed node left (journal, checkpoints, lanes; sled's index is not
//! kept, so this is also the start without one). To write that of the format of now:
//! `FOREBAY_TEST_WRITE_STORE=tests/store_format/N cargo test --test store_format`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod store_kit;

use std::fs;
use std::path::Path;

use store_kit::{
    MIXED, NO_LIMITS, check_books, checkpoint, commit, ids, losses, opened, options, tick,
};

/// Ticks of the fixture, and after which of them there was a checkpoint.
const TICKS: u64 = 12;
const CHECKPOINTS: [u64; 2] = [4, 8];

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn write(path: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, _) = opened(&options(folder.path(), NO_LIMITS));
    for seq in 1..=TICKS {
        commit(&mut store, seq, &MIXED);
        if CHECKPOINTS.contains(&seq) {
            store.ledger.checkpoint(&checkpoint(seq)).unwrap();
        }
    }
    for part in ["journal", "checkpoint", "lanes"] {
        copy(&folder.path().join(part), &path.join(part));
    }
}

#[test]
fn stores_of_every_format_open_with_all_that_waits() {
    if let Some(path) = std::env::var_os("FOREBAY_TEST_WRITE_STORE") {
        write(Path::new(&path));
    }
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store_format");
    let mut formats = 0;
    for entry in fs::read_dir(&fixtures).unwrap() {
        let folder = tempfile::tempdir().unwrap();
        copy(&entry.unwrap().path(), folder.path());
        let (mut store, committed) = opened(&options(folder.path(), NO_LIMITS));
        assert_eq!(store.recovered.last_tick, TICKS);
        assert_eq!(store.recovered.checkpoint.as_ref().unwrap().tick, tick(8));
        let expected = |seq: u64| (0..MIXED.len()).map(move |index| format!("{seq}-{index}"));
        let mut there = ids(&store, committed).concat();
        there.sort();
        let mut expected: Vec<String> = (1..=TICKS).flat_map(expected).collect();
        expected.sort();
        assert_eq!(there, expected);
        assert!(losses(&store, committed).is_empty());
        let committed = commit(&mut store, TICKS + 1, &MIXED);
        check_books(&store, committed);
        formats += 1;
    }
    assert!(formats > 0, "there is no fixture in {}", fixtures.display());
}
