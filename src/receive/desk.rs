//! The one owner of all that was received: drops repeats, writes, syncs once for all parcels that wait, then answers.
//!
//! `receive` runs it on a thread of its own, for it waits for the disk; `http` and `mqtt` hold its [`Door`].

use std::collections::HashSet;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use super::ids::{Ids, digest};
use super::shelf::Shelf;
use super::{Lanes, ReceiveError, ReceiveOptions, Received};
use crate::record::{Lane, Record};
use crate::time::monotonic;
use crate::uplink::wire::{self, WireError};

/// Parcels that may wait.
const WAITING_MAX: usize = 64;
/// Bytes that are synced at once, at most.
const BATCH_BYTES: usize = 8 << 20;

/// Where parcels are handed in.
pub(super) type Door = mpsc::Sender<Letter>;

/// What the desk is told.
pub(super) enum Letter {
    /// Records, and who waits for the answer.
    Parcel(Parcel, oneshot::Sender<Answer>),
    /// Time passes.
    Clock,
    /// Nothing more is taken.
    Close,
}

/// Records as they came.
pub(super) struct Parcel {
    records: Vec<Incoming>,
    size: usize,
    unreadable: bool,
}

struct Incoming {
    digest: u128,
    line: Vec<u8>,
    lane: Lane,
    lost: u64,
}

/// What became of a parcel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Its records are on disk.
    Taken,
    /// They cannot be written now.
    Busy,
}

impl Parcel {
    /// Reads a parcel, zstd or plain.
    pub(super) fn read(body: &[u8]) -> Result<Parcel, WireError> {
        let lines = wire::unpack(body)?;
        let incoming = |(record, line): (Record, &[u8])| Incoming {
            digest: digest(record.id()),
            line: line.to_vec(),
            lane: record.lane(),
            lost: if let Record::Loss(loss) = &record { loss.count } else { 0 },
        };
        let records = wire::records(&lines)?.into_iter().map(incoming).collect();
        Ok(Parcel { records, size: body.len(), unreadable: false })
    }

    /// Stands for one that cannot be read: it is counted, and nothing of it kept.
    pub(super) fn unreadable() -> Parcel {
        Parcel { records: Vec::new(), size: 0, unreadable: true }
    }
}

impl Lanes {
    fn add(&mut self, lane: Lane) {
        match lane {
            Lane::Alarm => self.alarm += 1,
            Lane::Score => self.score += 1,
            Lane::Feature => self.feature += 1,
            Lane::Raw => self.raw += 1,
        }
    }
}

/// See the module.
pub(super) struct Desk {
    shelf: Shelf,
    ids: Ids,
    letters: mpsc::Receiver<Letter>,
    counts: Received,
    told: watch::Sender<Received>,
    roll_bytes: u64,
    roll_after: Duration,
    /// When the open file got its first record.
    begun: Option<Instant>,
}

/// Opens the folder of records.
pub(super) fn open(
    options: &ReceiveOptions,
) -> Result<(Desk, Door, watch::Receiver<Received>), ReceiveError> {
    let mut ids = Ids::new(options.remember);
    let shelf = Shelf::open(&options.folder, options.pack, &mut ids)?;
    let counts = Received { found: ids.len() as u64, ..Received::default() };
    let (told, reader) = watch::channel(counts.clone());
    let (door, letters) = mpsc::channel(WAITING_MAX);
    let begun = (shelf.bytes() > 0).then(monotonic);
    let (roll_bytes, roll_after) = (options.roll_bytes, options.roll_after);
    Ok((Desk { shelf, ids, letters, counts, told, roll_bytes, roll_after, begun }, door, reader))
}

impl Desk {
    /// Goes on until it is told to close, then finishes the open file.
    pub(super) fn run(mut self) -> Result<(), ReceiveError> {
        while let Some(first) = self.letters.blocking_recv() {
            let mut batch = Vec::new();
            let mut bytes = 0;
            let mut next = Some(first);
            while let Some(letter) = next {
                match letter {
                    Letter::Parcel(parcel, reply) => {
                        bytes += parcel.size;
                        batch.push((parcel, reply));
                    }
                    Letter::Clock => {}
                    Letter::Close => self.letters.close(),
                }
                next = (bytes < BATCH_BYTES).then(|| self.letters.try_recv().ok()).flatten();
            }
            self.take(batch)?;
            let old = self.begun.is_some_and(|begun| begun.elapsed() >= self.roll_after);
            if old || self.shelf.bytes() >= self.roll_bytes {
                self.shelf.roll()?;
                self.begun = None;
            }
            self.tell();
        }
        self.shelf.close()?;
        self.tell();
        Ok(())
    }

    fn tell(&mut self) {
        self.counts.files = self.shelf.finished();
        self.told.send_replace(self.counts.clone());
    }

    fn take(&mut self, batch: Vec<(Parcel, oneshot::Sender<Answer>)>) -> Result<(), ReceiveError> {
        let (mut lines, mut new, mut repeats) = (Vec::new(), Vec::new(), 0);
        let mut among = HashSet::new();
        for record in batch.iter().flat_map(|(parcel, _)| &parcel.records) {
            if self.ids.contains(record.digest) || !among.insert(record.digest) {
                repeats += 1;
                continue;
            }
            lines.extend_from_slice(&record.line);
            lines.push(b'\n');
            new.push(record);
        }
        let mut answer = Answer::Taken;
        if !lines.is_empty() {
            match self.shelf.append(&lines) {
                Ok(()) => self.shelf.sync()?,
                Err(error) => {
                    tracing::error!(%error, "records cannot be written; senders are told to wait");
                    answer = Answer::Busy;
                }
            }
        }
        if answer == Answer::Taken {
            for record in new {
                self.ids.insert(record.digest);
                self.counts.records += 1;
                self.counts.lost += record.lost;
                self.counts.lanes.add(record.lane);
                self.begun = self.begun.or_else(|| Some(monotonic()));
            }
            self.counts.repeats += repeats;
            let unreadable = batch.iter().filter(|(parcel, _)| parcel.unreadable).count() as u64;
            self.counts.unreadable += unreadable;
            self.counts.parcels += batch.len() as u64 - unreadable;
            self.counts.bytes += batch.iter().map(|(parcel, _)| parcel.size as u64).sum::<u64>();
        }
        // Before the answers: who has one finds its records counted.
        self.tell();
        for (_, reply) in batch {
            // Who sent it may be gone; then it comes again.
            let _ = reply.send(answer);
        }
        Ok(())
    }
}
