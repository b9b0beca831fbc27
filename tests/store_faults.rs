//! What the store does when its disk is not what it should be: it says what, sets it aside, and goes on.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod store_kit;

use std::fs;
use std::sync::Arc;

use forebay::record::Lane;
use forebay::store::{
    Committed, Kv, MemKv, Receipt, Receipts, Retention, Store, StoreError, drop_rejected, rejected,
};
use forebay::time::Span;

use store_kit::{
    MIXED, NO_LIMITS, check_books, checkpoint, commit, files, filled, flip, ids, input, losses,
    opened, options, quarantine, recover, step, tick, waiting,
};

#[test]
fn a_store_in_use_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), NO_LIMITS);
    let (first, _) = opened(&options);
    let error = Store::open(&options).err().unwrap();
    assert!(matches!(error, StoreError::Locked { .. }));
    assert!(error.to_string().contains("is in use by another forebay"), "{error}");
    // The outboxes alone still hold it.
    let Store { ledger, outboxes, recovered: _ } = first;
    drop(ledger);
    assert!(matches!(Store::open(&options), Err(StoreError::Locked { .. })));
    drop(outboxes);
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

fn receipts() -> Receipts {
    let mut receipts = Receipts::new();
    for token in [3, 1, 2] {
        receipts.push(Receipt { connection: 7, token });
    }
    receipts
}

#[test]
fn a_full_disk_acknowledges_nothing_and_is_got_over() {
    // The next file of each is a device on which there is never any space.
    for full in [
        "journal/00000000000000000001.journal",
        "lanes/alarm/00000000000000000001-00000000000000000001.records",
        "lanes/raw/00000000000000000001-00000000000000000001.records",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path(), NO_LIMITS);
        let (mut store, _) = opened(&options);
        std::os::unix::fs::symlink("/dev/full", folder.path().join(full)).unwrap();
        let step = step(tick(1), input(&MIXED));
        let mut receipts = receipts();
        for _ in 0..3 {
            let error = store.ledger.commit(&step, &mut receipts).unwrap_err();
            assert!(matches!(error, StoreError::Full { .. }), "{full}: {error}");
            assert!(error.to_string().contains("no space left"), "{error}");
            assert_eq!(receipts.len(), 3, "nothing is released");
        }
        fs::remove_file(folder.path().join(full)).unwrap();
        let (committed, released) = store.ledger.commit(&step, &mut receipts).unwrap();
        assert_eq!(released.iter().count(), 3);
        check_books(&store, committed);
        let before = ids(&store, committed);
        assert_eq!(before.concat().len(), 5, "{full}: each record once");
        let committed = commit(&mut store, 2, &MIXED);
        assert_eq!(ids(&store, committed).concat().len(), 10);
        drop(store);
        let (store, committed) = opened(&options);
        assert_eq!(ids(&store, committed).concat().len(), 10, "{full}");
        assert!(store.recovered.notes.is_empty(), "{:?}", store.recovered.notes);
    }
}

#[test]
fn a_disk_that_refuses_poisons_the_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, _) = opened(&options(folder.path(), NO_LIMITS));
    fs::create_dir(folder.path().join("journal/00000000000000000001.journal")).unwrap();
    let step = step(tick(1), input(&MIXED));
    let error = store.ledger.commit(&step, &mut Receipts::new()).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    let error = store.ledger.commit(&step, &mut Receipts::new()).unwrap_err();
    assert!(matches!(error, StoreError::Poisoned), "{error}");
    assert!(error.to_string().contains("restart the node"), "{error}");
    assert!(store.ledger.checkpoint(&checkpoint(1)).is_err());
    assert_eq!(store.outboxes[0].stats().sum(|lane| lane.made), 0);
}

#[test]
fn receipts_come_back_in_order_and_only_from_a_commit_that_worked() {
    let folder = tempfile::tempdir().unwrap();
    let kv = Arc::new(MemKv::new());
    let mut store =
        Store::open_on(Arc::clone(&kv) as Arc<dyn Kv>, &options(folder.path(), NO_LIMITS)).unwrap();
    let one = step(tick(1), input(&MIXED));
    let (committed, released) = store.ledger.commit(&one, &mut receipts()).unwrap();
    assert_eq!(committed.tick(), 1);
    assert_eq!(released.iter().map(|receipt| receipt.token).collect::<Vec<_>>(), [3, 1, 2]);
    let error = store.ledger.commit(&one, &mut receipts()).unwrap_err();
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
    let stats = store.outboxes[0].stats();
    assert!(stats.lane(Lane::Raw).evicted > 0);
    assert_eq!(stats.lane(Lane::Raw).queued, 1);
    assert!(waiting(&store, Lane::Alarm, committed).len() > said.len(), "the newest stay");
    check_books(&store, committed);
}

#[test]
fn records_of_any_size_come_back_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), NO_LIMITS);
    let (mut store, _) = opened(&options);
    let sizes = [0, 1, 5_000, 6_144, 100_000, 262_144, 262_145, 1_000_000, 3];
    let mut wishes: Vec<(usize, usize)> = sizes.iter().map(|size| (3, *size)).collect();
    wishes.extend((0..2_000).map(|index| (2, index % 40)));
    let committed = commit(&mut store, 1, &wishes);
    let made = step(tick(1), input(&wishes));
    for lane in [Lane::Feature, Lane::Raw] {
        let expected = made.records.iter().filter(|outgoing| outgoing.lane == lane);
        let there = waiting(&store, lane, committed);
        assert!(
            there.iter().map(|(_, record)| record).eq(expected.map(|outgoing| &outgoing.record))
        );
    }
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
    assert_eq!(oldest.payload.len(), 4096);
    // With the node stopped they can be seen, and dropped.
    assert!(matches!(rejected(folder.path(), 3), Err(StoreError::Locked { .. })));
    drop(store);
    assert_eq!(rejected(folder.path(), 100).unwrap(), kept);
    let number = oldest.number;
    assert_eq!(drop_rejected(folder.path(), &[number, number + 10_000]).unwrap(), [number]);
    let left = rejected(folder.path(), 100).unwrap();
    assert_eq!(left, kept[..kept.len() - 1]);
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
    at_once(Retention::default());
}

#[test]
fn thinning_and_settling_at_once_leaves_the_books_right() {
    at_once(Retention { thin: Some(Span::seconds(1)), ..Retention::default() });
}

fn at_once(retention: Retention) {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path(), [64 << 10, 8 << 10, 8 << 10, 8 << 10]);
    options.retention = [retention; 4];
    let Store { mut ledger, mut outboxes, recovered: _ } = Store::open(&options).unwrap();
    let mut outbox = outboxes.pop().unwrap();
    let (upto, commits) = std::sync::mpsc::sync_channel::<Committed>(4);
    let writer = std::thread::spawn(move || {
        for seq in 1..=400 {
            let wishes = [(1, 300), (1, 9_000), (2, 200), (3, 250), (0, 20)];
            let step = step(tick(seq), input(&wishes));
            upto.send(ledger.commit(&step, &mut Receipts::new()).unwrap().0).unwrap();
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
        assert_eq!(
            store.outboxes[0].stats().lane(lane).queued,
            stats.lane(lane).queued,
            "{lane:?}"
        );
    }
    assert!(store.recovered.notes.is_empty(), "{:?}", store.recovered.notes);
    check_books(&store, committed);
}
