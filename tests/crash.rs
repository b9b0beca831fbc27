//! A node that is killed at any moment loses nothing it has acknowledged.
//!
//! A child process (this test binary, started again) commits, sends, settles and evicts, and prints what it has
//! acknowledged; it is killed with SIGKILL after a random number of lines. Then the store is opened here, recovered
//! and compared with what the child had said; twenty times over, on the same store.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod store_kit;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use forebay::record::{Lane, LossRecord, Record};
use forebay::store::{Receipts, Retention, Store, StoreOptions};
use forebay::time::Span;

use store_kit::{Wish, check_books, input, options, recover, step, tick, waiting};

const FOLDER: &str = "FOREBAY_TEST_CRASH_FOLDER";
const KILLS: usize = 20;

/// So small that evictions come every few ticks.
const LIMITS: [u64; 4] = [64 << 10, 40 << 10, 12 << 10, 12 << 10];

/// What tick `seq` makes: known to both sides.
fn wishes(seq: u64) -> Vec<Wish> {
    let mut random = fastrand::Rng::with_seed(seq);
    let count = random.usize(1..12);
    let size = |random: &mut fastrand::Rng| match random.u8(..10) {
        0 => random.usize(7_000..15_000),
        _ => random.usize(..400),
    };
    (0..count).map(|_| (random.usize(..4), size(&mut random))).collect()
}

fn limited(folder: &Path) -> StoreOptions {
    let mut options = options(folder, LIMITS);
    // Every way in which records may go.
    let thin = Some(Span::seconds(1));
    options.retention[1] = Retention { keep_oldest: true, thin, ..Retention::default() };
    options.retention[2].max_age = Some(Span::seconds(20));
    options.retention[3].thin = thin;
    options
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("the parent reads until the end");
}

/// The child: does nothing unless the parent asks for it.
#[test]
fn child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let mut store = Store::open(&limited(Path::new(&folder))).unwrap();
    let mut committed = recover(&mut store).committed;
    let mut random = fastrand::Rng::new();
    say("\nopen");
    loop {
        let seq = committed.tick() + 1;
        let step = step(tick(seq), input(&wishes(seq)));
        committed = store.ledger.commit(&step, &mut Receipts::new()).unwrap().0;
        say(&format!("committed {seq}"));
        if random.u8(..8) == 0 {
            store.ledger.checkpoint(&store_kit::checkpoint(seq)).unwrap();
        }
        while random.bool() {
            let Some(parcel) = store.outboxes[0].next(committed, random.usize(..8_000)).unwrap()
            else {
                break;
            };
            for (_, line) in parcel.records() {
                say(&format!("sent {}", std::str::from_utf8(line).unwrap()));
            }
            store.outboxes[0].settle(parcel.acked()).unwrap();
            say("settled");
            if random.u8(..4) == 0 {
                store.outboxes[0].flush().unwrap();
                say("flushed");
            }
        }
    }
}

/// What is known from the outside, over all rounds.
#[derive(Default)]
struct Known {
    committed: u64,
    /// Ids that the far side has.
    sent: BTreeSet<String>,
    /// Sent, settled, and flushed after that: they must not come back.
    firm: BTreeSet<String>,
    losses: BTreeMap<String, LossRecord>,
    /// Of the child that runs: sent and not settled, settled and not flushed.
    pending: Vec<String>,
    settled: Vec<String>,
}

impl Known {
    fn hear(&mut self, line: &str) {
        match line.split_once(' ') {
            Some(("committed", seq)) => {
                self.committed = seq.parse().unwrap();
            }
            Some(("sent", record)) => {
                let record: Record = serde_json::from_str(record).unwrap();
                self.pending.push(record.id().to_owned());
                self.receive(&record);
            }
            _ if line == "settled" => self.settled.append(&mut self.pending),
            _ if line == "flushed" => self.firm.extend(self.settled.drain(..)),
            _ => {}
        }
    }

    fn receive(&mut self, record: &Record) {
        self.sent.insert(record.id().to_owned());
        if let Record::Loss(loss) = record {
            self.losses.insert(loss.id.clone(), loss.clone());
        }
    }

    /// Opens what the child left and compares.
    fn check(&mut self, folder: &Path) {
        self.pending.clear();
        self.settled.clear();
        let mut store = Store::open(&limited(folder)).unwrap();
        let repaired = store.recovered.notes.iter().all(|note| note.contains("unfinished entry"));
        assert!(repaired, "{:?}", store.recovered.notes);
        let last = store.recovered.last_tick;
        assert!(last == self.committed || last == self.committed + 1, "{last} {}", self.committed);
        let resumed = recover(&mut store);
        assert_eq!((resumed.committed.tick(), resumed.changed), (last, 0));
        check_books(&store, resumed.committed);

        let mut there = BTreeSet::new();
        let mut losses = self.losses.clone();
        for lane in Lane::ALL {
            for (_, record) in waiting(&store, lane, resumed.committed) {
                assert!(there.insert(record.id().to_owned()), "{} waits twice", record.id());
                if let Record::Loss(loss) = record {
                    losses.insert(loss.id.clone(), loss);
                }
            }
        }
        for seq in 1..=self.committed {
            for (index, (lane, _)) in wishes(seq).into_iter().enumerate() {
                let id = format!("{seq}-{index}");
                let said = || {
                    losses.values().any(|loss| {
                        loss.lane == Lane::ALL[lane]
                            && (loss.first_tick..=loss.last_tick).contains(&seq)
                    })
                };
                let safe = there.contains(&id) || self.sent.contains(&id) || said();
                assert!(safe, "{id} on lane {lane} was acknowledged and is lost");
            }
        }
        let back: Vec<_> = self.firm.intersection(&there).collect();
        assert!(back.is_empty(), "{back:?} had left for good and are back");
    }
}

#[test]
fn a_killed_node_loses_nothing_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut known = Known::default();
    for _ in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads", "1"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for line in lines.by_ref().take(fastrand::usize(5..250)) {
            known.hear(&line.unwrap());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had still printed counts; a line cut short was not said.
        let rest: Vec<String> = lines.map_while(Result::ok).collect();
        for line in &rest {
            let cut = line.starts_with("sent ") && !line.ends_with('}');
            let torn = Some(line) == rest.last() && line.starts_with("committed");
            if !cut && !torn {
                known.hear(line);
            }
        }
        let whole = rest.last().and_then(|line| line.strip_prefix("committed "));
        if let Some(seq) = whole.and_then(|seq| seq.parse::<u64>().ok())
            && seq == known.committed + 1
        {
            known.hear(&format!("committed {seq}"));
        }
        known.check(folder.path());
    }
    assert!(known.committed > 50 && !known.losses.is_empty(), "the children got to work");
    let thinned = known.losses.values().filter(|loss| loss.reason == "thinned").count();
    assert!(thinned > 0, "{:?}", known.losses);
}
