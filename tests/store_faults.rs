//! What the store does when its disk is not what it should be: it says what, sets it aside, and goes on.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod store_kit;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay::record::{Lane, LossRecord, Record};
use forebay::store::{
    Committed, Kv, MemKv, Receipt, Receipts, Store, StoreError, StoreOptions, VALUE_MAX,
};

use store_kit::{
    NO_LIMITS, check_books, checkpoint, commit, ids, input, options, recover, step, tick, waiting,
};

const MIXED: [(usize, usize); 5] = [(0, 50), (1, 200), (1, 90), (2, 40), (3, 300)];

fn opened(options: &StoreOptions) -> (Store, Committed) {
    let mut store = Store::open(options).unwrap();
    let committed = recover(&mut store).committed;
    (store, committed)
}

/// A store with ticks `1..=last` committed and closed.
fn filled(options: &StoreOptions, last: u64, checkpoints: &[u64]) {
    let (mut store, _) = opened(options);
    for seq in 1..=last {
        commit(&mut store, seq, &MIXED);
        if checkpoints.contains(&seq) {
            store.ledger.checkpoint(&checkpoint(seq)).unwrap();
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn quarantine(folder: &Path) -> Vec<PathBuf> {
    let aside = |path: &PathBuf| path.to_string_lossy().contains("quarantine-");
    files(folder).into_iter().filter(aside).flat_map(|path| files(&path)).collect()
}

fn losses(store: &Store, upto: Committed) -> Vec<LossRecord> {
    let all = waiting(store, Lane::Alarm, upto).into_iter();
    all.filter_map(|(_, record)| match record {
        Record::Loss(loss) => Some(loss),
        _ => None,
    })
    .collect()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x40;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_store_in_use_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), NO_LIMITS);
    let (first, _) = opened(&options);
    let error = Store::open(&options).err().unwrap();
    assert!(matches!(error, StoreError::Locked { .. }));
    assert!(error.to_string().contains("is in use by another forebay"), "{error}");
    // The outbox alone still holds it.
    let Store { ledger, outbox, recovered: _ } = first;
    drop(ledger);
    assert!(matches!(Store::open(&options), Err(StoreError::Locked { .. })));
    drop(outbox);
    opened(&options);
}

#[test]
fn a_path_that_cannot_be_a_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = Store::open(&options(&path, NO_LIMITS)).err().unwrap();
        assert!(matches!(error, StoreError::Unusable { .. }), "{error}");
        assert!(error.to_string().contains("`store.path`"), "{error}");
    }
}

#[test]
fn a_full_disk_is_named_and_poisons_the_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, _) = opened(&options(folder.path(), NO_LIMITS));
    // The next segment of the journal is a device on which there is never any space.
    let segment = folder.path().join("journal/00000000000000000001.journal");
    std::os::unix::fs::symlink("/dev/full", segment).unwrap();
    let step = step(tick(1), input(&MIXED));
    let error = store.ledger.commit(&step, Receipts::new()).unwrap_err();
    assert!(error.to_string().contains("no space left"), "{error}");
    let error = store.ledger.commit(&step, Receipts::new()).unwrap_err();
    assert!(matches!(error, StoreError::Poisoned), "{error}");
    assert!(error.to_string().contains("restart the node"), "{error}");
    assert!(store.ledger.checkpoint(&checkpoint(1)).is_err());
    assert_eq!(store.outbox.stats().sum(|lane| lane.made), 0);
}

#[test]
fn receipts_come_back_in_order_and_only_from_a_commit_that_worked() {
    let folder = tempfile::tempdir().unwrap();
    let kv = Arc::new(MemKv::new());
    let mut store =
        Store::open_on(Arc::clone(&kv) as Arc<dyn Kv>, &options(folder.path(), NO_LIMITS)).unwrap();
    let receipts = || {
        let mut receipts = Receipts::new();
        for token in [3, 1, 2] {
            receipts.push(Receipt { connection: 7, token });
        }
        receipts
    };
    let one = step(tick(1), input(&MIXED));
    let (committed, released) = store.ledger.commit(&one, receipts()).unwrap();
    assert_eq!(committed.tick(), 1);
    assert_eq!(released.iter().map(|receipt| receipt.token).collect::<Vec<_>>(), [3, 1, 2]);
    let error = store.ledger.commit(&one, receipts()).unwrap_err();
    assert!(matches!(error, StoreError::OutOfOrder { seq: 1, last: 1 }), "{error}");
}

#[test]
fn an_unfinished_entry_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), NO_LIMITS);
    for cut in [1, 7, 30] {
        let last = Store::open(&options).unwrap().recovered.last_tick;
        let (mut store, _) = opened(&options);
        commit(&mut store, last + 1, &MIXED);
        commit(&mut store, last + 2, &MIXED);
        drop(store);
        let segment = files(&folder.path().join("journal")).pop().unwrap();
        // A third entry, of which the disk kept only the start.
        let entry = fs::read(&segment).unwrap();
        let mut torn = entry.clone();
        torn.extend_from_slice(&entry[8..8 + cut]);
        fs::write(&segment, torn).unwrap();
        let (mut store, committed) = opened(&options);
        assert_eq!(store.recovered.last_tick, last + 2);
        assert!(
            store.recovered.notes[0].contains("unfinished entry"),
            "{:?}",
            store.recovered.notes
        );
        assert_eq!(ids(&store, committed).concat().len() as u64, 5 * (last + 2));
        assert!(losses(&store, committed).is_empty());
        commit(&mut store, last + 3, &MIXED);
        fs::write(folder.path().join("checked"), "").unwrap();
    }
    assert!(Store::open(&options).unwrap().recovered.notes.is_empty());
    assert!(quarantine(folder.path()).is_empty());
}

#[test]
fn a_damaged_journal_ends_there_and_the_rest_is_kept_and_reported() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), NO_LIMITS);
    filled(&options, 20, &[3, 6]);
    let segment = files(&folder.path().join("journal")).pop().unwrap();
    let middle = fs::read(&segment).unwrap().len() / 2;
    flip(&segment, middle);
    let mut store = Store::open(&options).unwrap();
    let notes = store.recovered.notes.join("\n");
    assert!(notes.contains("the journal is damaged after tick"), "{notes}");
    assert_eq!(store.recovered.last_tick, 20);
    let replayed = store.recovered.entries.total();
    assert!((1..13).contains(&replayed), "{replayed}");
    let resumed = recover(&mut store);
    // Results of acknowledged input stay, though their input is gone.
    let there = ids(&store, resumed.committed);
    assert_eq!(there.concat().iter().filter(|id| !id.contains("loss")).count(), 100);
    let [loss] = losses(&store, resumed.committed).try_into().unwrap();
    assert_eq!(loss.reason, "damaged");
    assert_eq!((loss.last_tick, loss.count), (20, 5 * (21 - loss.first_tick)));
    assert_eq!(quarantine(folder.path()).len(), 1);
    commit(&mut store, 21, &MIXED);
    drop(store);
    let (store, committed) = opened(&options);
    assert_eq!(store.recovered.last_tick, 21);
    assert!(store.recovered.notes.is_empty(), "{:?}", store.recovered.notes);
    check_books(&store, committed);
}

#[test]
fn a_missing_segment_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), NO_LIMITS);
    for round in 1..=3 {
        let (mut store, _) = opened(&options);
        commit(&mut store, round, &MIXED);
    }
    let segments = files(&folder.path().join("journal"));
    fs::remove_file(&segments[1]).unwrap();
    let (store, committed) = opened(&options);
    assert!(
        store.recovered.notes[0].contains("damaged after tick 1"),
        "{:?}",
        store.recovered.notes
    );
    assert_eq!(losses(&store, committed).len(), 1);
    assert_eq!(store.recovered.last_tick, 3);
}

#[test]
fn a_journal_of_another_version_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), NO_LIMITS);
    filled(&options, 3, &[]);
    let segment = files(&folder.path().join("journal")).pop().unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    bytes[6] = 9;
    fs::write(&segment, &bytes).unwrap();
    let error = Store::open(&options).err().unwrap();
    assert!(matches!(error, StoreError::Version { found: 9, expected: 1, .. }), "{error}");
    assert_eq!(fs::read(&segment).unwrap(), bytes);
}

#[test]
fn a_damaged_checkpoint_gives_way_to_the_older_one() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), NO_LIMITS);
    filled(&options, 12, &[3, 6, 9]);
    let checkpoints = files(&folder.path().join("checkpoint"));
    assert_eq!(checkpoints.len(), 2);
    // The journal reaches back to the older of them and no further.
    assert!(files(&folder.path().join("journal"))[0].ends_with("00000000000000000007.journal"));
    let len = fs::read(&checkpoints[1]).unwrap().len();
    flip(&checkpoints[1], len - 1);
    let (store, committed) = opened(&options);
    assert_eq!(store.recovered.checkpoint.as_ref().unwrap(), &checkpoint(6));
    assert_eq!(store.recovered.entries.total(), 6);
    assert!(store.recovered.notes[0].contains("checkpoint of tick 9 is damaged"));
    assert_eq!(ids(&store, committed).concat().len(), 60);
    drop(store);
    // With both gone, the journal alone is left, and it is said that it does not reach back.
    for path in files(&folder.path().join("checkpoint")) {
        fs::write(path, "FBCKPT").unwrap();
    }
    let (store, committed) = opened(&options);
    assert!(store.recovered.checkpoint.is_none());
    let notes = store.recovered.notes.join("\n");
    assert!(notes.contains("the journal starts after tick 6"), "{notes}");
    assert_eq!(store.recovered.last_tick, 12);
    assert_eq!(ids(&store, committed).concat().len(), 60);
}

#[test]
fn a_half_written_checkpoint_does_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), NO_LIMITS);
    filled(&options, 4, &[2]);
    let unfinished = folder.path().join("checkpoint/00000000000000000004.tmp");
    fs::write(&unfinished, "FBCKPT half").unwrap();
    let (store, _) = opened(&options);
    assert_eq!(store.recovered.checkpoint, Some(checkpoint(2)));
    assert!(!unfinished.exists());
}

/// Damages a store's outbox, opens it, and checks that what it lost was made again or reported.
fn damage_outbox(damage: impl Fn(&Path)) -> (tempfile::TempDir, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), NO_LIMITS);
    filled(&options, 40, &[30]);
    damage(&folder.path().join("outbox"));
    let (mut store, committed) = opened(&options);
    let notes = store.recovered.notes.clone();
    let there = ids(&store, committed);
    // Ticks behind the checkpoint are made again, the others are reported lane by lane.
    assert_eq!(there.concat().iter().filter(|id| !id.contains("loss")).count(), 50);
    let lost: Vec<(Lane, u64)> =
        losses(&store, committed).iter().map(|loss| (loss.lane, loss.count)).collect();
    let expected = [(Lane::Alarm, 30), (Lane::Score, 60), (Lane::Feature, 30), (Lane::Raw, 30)];
    assert_eq!(lost, expected);
    let committed = commit(&mut store, 41, &MIXED);
    check_books(&store, committed);
    // Reported once, also after the next checkpoint.
    store.ledger.checkpoint(&checkpoint(41)).unwrap();
    drop(store);
    let (store, committed) = opened(&options);
    assert!(store.recovered.notes.is_empty(), "{:?}", store.recovered.notes);
    assert_eq!(losses(&store, committed).len(), 4);
    drop(store);
    (folder, notes)
}

#[test]
fn records_that_sled_lost_without_a_word_are_reported() {
    // It opens such a file as an empty store.
    let (_, notes) = damage_outbox(|outbox| {
        let len = fs::read(outbox.join("db")).unwrap().len();
        fs::write(outbox.join("db"), vec![0xA5; len]).unwrap();
    });
    assert!(notes.join("\n").contains("60 records or readings of ticks 0 to 30"), "{notes:?}");
}

#[test]
fn an_outbox_that_does_not_open_is_set_aside() {
    let (folder, notes) =
        damage_outbox(|outbox| fs::write(outbox.join("conf"), "nonsense ".repeat(9)).unwrap());
    assert!(notes[0].contains("the outbox is damaged"), "{notes:?}");
    assert!(quarantine(folder.path())[0].join("db").exists());
}

#[test]
fn a_flipped_byte_anywhere_in_the_outbox_never_stops_the_node() {
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..12 {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path(), NO_LIMITS);
        filled(&options, 30, &[20]);
        let data = folder.path().join("outbox/db");
        let bytes = fs::read(&data).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        flip(&data, random.usize(..used));
        let (mut store, committed) = opened(&options);
        let there = ids(&store, committed).concat();
        // Whatever the damage did, ticks behind the checkpoint are whole.
        for seq in 21..=30 {
            for index in 0..MIXED.len() {
                assert!(there.contains(&format!("{seq}-{index}")), "{seq}-{index}");
            }
        }
        let whole = there.iter().filter(|id| !id.contains("loss")).count() == 150;
        let said = !losses(&store, committed).is_empty();
        assert!(whole || said, "records are gone and nothing says so");
        let committed = commit(&mut store, 31, &MIXED);
        check_books(&store, committed);
    }
}

#[test]
fn below_the_free_floor_new_records_take_the_place_of_old_ones() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path(), NO_LIMITS);
    filled(&options, 50, &[]);
    options.free_floor = u64::MAX;
    let (mut store, _) = opened(&options);
    let committed = commit(&mut store, 51, &MIXED);
    let said = losses(&store, committed);
    assert!(said.iter().all(|loss| loss.reason == "store limit"), "{said:?}");
    let stats = store.outbox.stats();
    assert!(stats.lane(Lane::Raw).evicted > 0);
    assert_eq!(stats.lane(Lane::Raw).queued, 1);
    assert!(waiting(&store, Lane::Alarm, committed).len() > said.len(), "the newest stay");
    check_books(&store, committed);
}

#[test]
fn no_value_is_larger_than_the_engine_can_take() {
    let folder = tempfile::tempdir().unwrap();
    let kv = Arc::new(MemKv::new());
    let options = options(folder.path(), NO_LIMITS);
    let mut store = Store::open_on(Arc::clone(&kv) as Arc<dyn Kv>, &options).unwrap();
    let sizes = [0, 1, 5_000, 6_100, 6_144, 6_200, 12_288, 100_000, 1_000_000, 3];
    let mut wishes: Vec<(usize, usize)> = sizes.iter().map(|size| (3, *size)).collect();
    wishes.extend((0..2_000).map(|index| (2, index % 40)));
    let committed = commit(&mut store, 1, &wishes);
    for pair in kv.scan(&[0], &[255]) {
        assert!(pair.unwrap().1.len() <= VALUE_MAX);
    }
    let made = step(tick(1), input(&wishes));
    for lane in [Lane::Feature, Lane::Raw] {
        let expected = made.records.iter().filter(|outgoing| outgoing.lane == lane);
        let there = waiting(&store, lane, committed);
        assert!(
            there.iter().map(|(_, record)| record).eq(expected.map(|outgoing| &outgoing.record))
        );
    }
    assert!(kv.scan(b"o\x02", b"o\x03").count() < 100, "small records share values");
}

#[test]
fn rejected_messages_are_kept_and_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), NO_LIMITS);
    let (mut store, _) = opened(&options);
    for seq in 1..=10 {
        for number in 0..3 {
            let payload = vec![seq as u8; 10_000];
            store.ledger.quarantine("not JSON", &format!("t/{seq}/{number}"), &payload, 8).unwrap();
        }
        commit(&mut store, seq, &[]);
    }
    for flood in 0..1000 {
        store.ledger.quarantine("flood", &format!("f/{flood}"), b"x", 500).unwrap();
    }
    commit(&mut store, 11, &MIXED);
    drop(store);
    let (store, _) = opened(&options);
    let kept = store.ledger.quarantined(100).unwrap();
    assert_eq!(kept.iter().filter(|one| one.why == "not JSON").count(), 8);
    assert!(kept.iter().filter(|one| one.why == "flood").count() <= 16);
    let oldest = kept.last().unwrap();
    assert_eq!((oldest.topic.as_str(), oldest.bytes), ("t/8/1", 10_000));
    assert!(oldest.payload.len() < VALUE_MAX);
}

#[test]
fn a_changed_pipeline_is_noticed_and_nothing_is_doubled() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), NO_LIMITS);
    filled(&options, 3, &[]);
    let mut store = Store::open(&options).unwrap();
    for entry in store.recovered.entries.by_ref() {
        let (tick, input) = entry.unwrap();
        let mut step = step(tick, input);
        step.records.truncate(2);
        store.ledger.reconcile(&step).unwrap();
    }
    let resumed = store.ledger.finish_recovery().unwrap();
    assert_eq!((resumed.changed, resumed.put_back), (3, 0));
    assert_eq!(ids(&store, resumed.committed).concat().len(), 15);
}

#[test]
fn evicting_and_settling_at_once_leaves_the_books_right() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), [64 << 10, 8 << 10, 8 << 10, 8 << 10]);
    let Store { mut ledger, mut outbox, recovered: _ } = Store::open(&options).unwrap();
    let (upto, commits) = std::sync::mpsc::sync_channel::<Committed>(4);
    let writer = std::thread::spawn(move || {
        for seq in 1..=400 {
            let wishes = [(1, 300), (1, 9_000), (2, 200), (3, 250), (0, 20)];
            let step = step(tick(seq), input(&wishes));
            upto.send(ledger.commit(&step, Receipts::new()).unwrap().0).unwrap();
        }
        ledger
    });
    let mut random = fastrand::Rng::with_seed(5);
    for committed in commits {
        if let Some(parcel) = outbox.next(committed, random.usize(..12_000)).unwrap() {
            let some = parcel.records().map(|(key, _)| key).filter(|_| random.u8(..4) > 0);
            outbox.settle(parcel.acked_keys(some.collect::<Vec<_>>())).unwrap();
        }
    }
    let ledger = writer.join().unwrap();
    let stats = ledger.stats();
    assert!(stats.lane(Lane::Score).evicted > 0 && stats.sum(|lane| lane.delivered) > 0);
    for lane in Lane::ALL {
        let books = stats.lane(lane);
        assert_eq!(books.made, books.queued + books.delivered + books.evicted, "{lane:?}");
    }
    drop((ledger, outbox));
    // What a new start counts is what the two had agreed on.
    let (store, committed) = opened(&options);
    for lane in Lane::ALL {
        assert_eq!(store.outbox.stats().lane(lane).queued, stats.lane(lane).queued, "{lane:?}");
    }
    assert!(store.recovered.notes.is_empty(), "{:?}", store.recovered.notes);
    check_books(&store, committed);
}
