//! What the store does when bytes of it are not what they were: it says what is gone, and goes on.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod store_kit;

use std::fs;
use std::path::Path;

use forebay::record::{Lane, Record};
use forebay::store::{Store, StoreError, export, inspect};

use store_kit::{
    MIXED, NO_LIMITS, check_books, checkpoint, commit, files, filled, filled_on, flip, ids, losses,
    opened, options, quarantine,
};

/// Damages a store's index, opens it, and checks that no record is lost with it.
fn damage_index(damage: impl Fn(&Path)) -> (tempfile::TempDir, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), NO_LIMITS);
    filled(&options, 40, &[30]);
    damage(&folder.path().join("index"));
    let (mut store, committed) = opened(&options);
    let notes = store.recovered.notes.clone();
    assert_eq!(ids(&store, committed).concat().len(), 200);
    assert!(losses(&store, committed).is_empty());
    let committed = commit(&mut store, 41, &MIXED);
    check_books(&store, committed);
    drop(store);
    let (store, _) = opened(&options);
    assert!(store.recovered.notes.is_empty(), "{:?}", store.recovered.notes);
    drop(store);
    (folder, notes)
}

#[test]
fn an_index_that_sled_lost_without_a_word_costs_repeats_only() {
    // It opens such a file as an empty store.
    damage_index(|index| {
        let len = fs::read(index.join("db")).unwrap().len();
        fs::write(index.join("db"), vec![0xA5; len]).unwrap();
    });
}

#[test]
fn an_index_that_is_lost_calls_nothing_damaged_that_had_left() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), NO_LIMITS);
    filled(&options, 1, &[1]);
    let (mut store, mut committed) = opened(&options);
    while let Some(parcel) = store.outboxes[0].next(committed, 3_000).unwrap() {
        store.outboxes[0].settle(parcel.acked()).unwrap();
    }
    // Everything has left since the checkpoint, and its segments with it.
    for lane in Lane::ALL {
        assert_eq!(files(&folder.path().join("lanes").join(lane.name())).len(), 0, "{lane:?}");
    }
    drop(store);
    fs::remove_dir_all(folder.path().join("index")).unwrap();
    let (mut store, _) = opened(&options);
    assert!(store.recovered.notes.is_empty(), "{:?}", store.recovered.notes);
    committed = commit(&mut store, 2, &MIXED);
    assert_eq!(losses(&store, committed), []);
    assert_eq!(ids(&store, committed).concat().len(), MIXED.len());
    check_books(&store, committed);
}

#[test]
fn an_index_that_does_not_open_is_set_aside() {
    let (folder, notes) =
        damage_index(|index| fs::write(index.join("conf"), "nonsense ".repeat(9)).unwrap());
    assert!(notes[0].contains("the index is damaged"), "{notes:?}");
    assert!(quarantine(folder.path())[0].join("db").exists());
}

/// All records that wait, asked for as the uplink does, with a commit now and then that says what was met.
fn drained(store: &mut Store, next: u64) -> Vec<String> {
    let mut all = Vec::new();
    for round in 0..3 {
        let committed = commit(store, next + round, &[]);
        while let Some(parcel) = store.outboxes[0].next(committed, 3_000).unwrap() {
            let of = |line: &[u8]| serde_json::from_slice::<Record>(line).unwrap().id().to_owned();
            all.extend(parcel.records().map(|(_, line)| of(line)));
            store.outboxes[0].settle(parcel.acked()).unwrap();
        }
    }
    let committed = commit(store, next + 3, &[]);
    check_books(store, committed);
    all
}

#[test]
fn a_flipped_byte_anywhere_never_stops_the_node_and_is_said() {
    let mut random = fastrand::Rng::with_seed(11);
    for round in 0..40 {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path(), NO_LIMITS);
        filled(&options, 15, &[]);
        filled_on(&options, 16..=30, &[20]);
        let lane = folder.path().join("lanes").join(Lane::ALL[round % 4].name());
        let segments = files(&lane);
        let segment = &segments[random.usize(..segments.len())];
        let len = fs::metadata(segment).unwrap().len() as usize;
        flip(segment, random.usize(8..len));
        let (mut store, _) = opened(&options);
        let there = drained(&mut store, 31);
        // Whatever the damage did, ticks behind the checkpoint are whole.
        for seq in 21..=30 {
            for index in 0..MIXED.len() {
                assert!(there.contains(&format!("{seq}-{index}")), "{seq}-{index}");
            }
        }
        let records = there.iter().filter(|id| !id.contains("loss")).count();
        let stats = store.ledger.stats();
        let lost = stats.sum(|lane| lane.evicted) as usize;
        assert_eq!(records + lost, 150, "what is gone is counted");
        let said = there.iter().any(|id| id.contains("loss"));
        assert_eq!(said, lost > 0, "and said");
        assert_eq!(stats.sum(|lane| lane.queued), 0);
    }
}

#[test]
fn damage_across_the_last_checkpoint_costs_what_is_before_it_alone() {
    for lane in ["score", "raw"] {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path(), NO_LIMITS);
        let (mut store, _) = opened(&options);
        let length =
            || fs::metadata(&files(&folder.path().join("lanes").join(lane))[0]).unwrap().len();
        let mut lengths = vec![0];
        for seq in 1..=30 {
            commit(&mut store, seq, &MIXED);
            lengths.push(length() as usize);
            if seq == 20 {
                store.ledger.checkpoint(&checkpoint(seq)).unwrap();
            }
        }
        drop(store);
        // Of ticks 20 and 21 nothing is left; those that follow can be read.
        let segment = &files(&folder.path().join("lanes").join(lane))[0];
        let mut bytes = fs::read(segment).unwrap();
        bytes[lengths[19]..lengths[21]].fill(0xA5);
        fs::write(segment, bytes).unwrap();
        let (mut store, _) = opened(&options);
        let there = drained(&mut store, 31);
        let of = |seq: u64| {
            (0..MIXED.len()).filter(|index| there.contains(&format!("{seq}-{index}"))).count()
        };
        for seq in (1..=30).filter(|seq| *seq != 20) {
            assert_eq!(of(seq), MIXED.len(), "{lane}: tick {seq}");
        }
        assert_eq!(
            of(20) as u64,
            MIXED.len() as u64 - store.ledger.stats().sum(|lane| lane.evicted)
        );
        assert!(of(20) < MIXED.len());
    }
}

#[test]
fn a_segment_that_somebody_deleted_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), NO_LIMITS);
    filled(&options, 10, &[10]);
    filled_on(&options, 11..=20, &[20]);
    filled_on(&options, 21..=30, &[30]);
    let segments = files(&folder.path().join("lanes/score"));
    fs::remove_file(&segments[0]).unwrap();
    fs::remove_file(&segments[2]).unwrap();
    let (mut store, committed) = opened(&options);
    // The first and the last are missed at once, one in the middle when it is its turn.
    let lost: Vec<_> =
        losses(&store, committed).iter().map(|loss| (loss.lane, loss.count)).collect();
    assert_eq!(lost, [(Lane::Score, 40)]);
    check_books(&store, committed);
    commit(&mut store, 31, &MIXED);
    drop(store);
    let (mut store, _) = opened(&options);
    assert!(store.recovered.notes.is_empty(), "said once: {:?}", store.recovered.notes);
    let segments = files(&folder.path().join("lanes/score"));
    fs::remove_file(&segments[0]).unwrap();
    let there = drained(&mut store, 32);
    assert_eq!(there.len(), 5 * 31 - 60 + 2, "{there:?}");
    assert_eq!(store.ledger.stats().lane(Lane::Score).evicted, 20);
}

#[test]
fn a_store_can_be_looked_into_and_is_not_changed() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), NO_LIMITS);
    filled(&options, 20, &[5, 10]);
    let damage = || {
        let parts = inspect(folder.path()).unwrap();
        parts.into_iter().filter(|part| !part.damage.is_empty()).collect::<Vec<_>>()
    };
    let parts = inspect(folder.path()).unwrap();
    let entries: Vec<(&str, u64)> =
        parts.iter().map(|part| (part.name.as_str(), part.entries)).collect();
    let lanes = [("alarm", 20), ("score", 40), ("feature", 20), ("raw", 20)];
    // The journal reaches back to the older checkpoint.
    assert_eq!(entries, [[("journal", 15), ("checkpoint", 2)].as_slice(), &lanes].concat());
    assert!(damage().is_empty());
    let mut lines = 0;
    export(folder.path(), Lane::Score, |line| {
        lines += usize::from(line.starts_with(b"{"));
        Ok(())
    })
    .unwrap();
    assert_eq!(lines, 40);
    for part in ["journal", "checkpoint", "lanes/raw"] {
        let file = files(&folder.path().join(part)).pop().unwrap();
        let before = fs::read(&file).unwrap();
        flip(&file, before.len() / 2);
        let [found] = damage().try_into().unwrap();
        assert!(part.ends_with(&found.name) && found.damage[0].contains(file.to_str().unwrap()));
        fs::write(&file, before).unwrap();
    }
    assert!(damage().is_empty(), "nothing was repaired or changed");
    let (store, _) = opened(&options);
    assert!(matches!(inspect(folder.path()), Err(StoreError::Locked { .. })));
    drop(store);
    assert!(matches!(inspect(&folder.path().join("lanes")), Err(StoreError::Absent { .. })));
}
