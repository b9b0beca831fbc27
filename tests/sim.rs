//! Thousands of lives of the simulated device (`torture::simulated`): whatever its broker, its uplink and its power do,
//! every reading comes out once or is named in a loss record.
//!
//! More seeds: `FOREBAY_TEST_SIM_SEEDS=5000 cargo test --test sim`; one of them again: `FOREBAY_TEST_SIM_SEED=17`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stdout, reason = "the failing seed is told")]

use std::panic::resume_unwind;

use forebay::time::monotonic;
use forebay::torture::simulated::{Told, live};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Lives of the seeds `first..end`, on all cores. The first failing seed is told.
fn lives(first: u64, end: u64) -> Told {
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let share = |worker: u64| {
        let mut all = Told::default();
        for seed in (first..end).filter(|seed| seed % workers == worker) {
            let told = live(seed).unwrap_or_else(|e| panic!("FOREBAY_TEST_SIM_SEED={seed}: {e}"));
            all.add(&told);
        }
        all
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..workers).map(|w| scope.spawn(move || share(w))).collect();
        let mut all = Told::default();
        for worker in running {
            all.add(&worker.join().unwrap_or_else(|failure| resume_unwind(failure)));
        }
        all
    })
}

#[test]
fn whatever_happens_every_reading_comes_out_once_or_is_named_lost() {
    let (first, end) = match number("FOREBAY_TEST_SIM_SEED") {
        Some(one) => (one, one + 1),
        None => (0, number("FOREBAY_TEST_SIM_SEEDS").unwrap_or(300)),
    };
    let (began, all) = (monotonic(), lives(first, end));
    println!("{} seeds in {:?}: {all:?}", end - first, began.elapsed());
    if end - first >= 100 {
        assert!(
            all.kills > 100
                && all.power_cuts > 100
                && all.torn_commits > 100
                && all.full_disks > 10,
            "{all:?}"
        );
        assert!(all.redelivered > 100 && all.repeats > 100 && all.lost > 0, "{all:?}");
        assert!(all.thinned > 0, "{all:?}");
    }
}

#[test]
fn a_seed_does_the_same_every_time() {
    assert_eq!(live(3).unwrap(), live(3).unwrap());
}
