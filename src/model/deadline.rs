//! Work that may take too long is done by a thread of its own, so that whoever waits for it can go on without it.
//!
//! `session` has every batch that has a deadline run by its model's [`Hand`], `host` a model that is loaded. Nothing can
//! end a thread that computes: one that never comes back keeps its core and its memory until the process ends, and
//! nothing else.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

type Job = Box<dyn FnOnce() + Send>;

/// See the module. Its thread ends with it, once it has nothing to do.
#[derive(Debug)]
pub(super) struct Hand(SyncSender<Job>);

impl Hand {
    /// Starts its thread.
    pub(super) fn new() -> Result<Hand, String> {
        let (jobs, given) = sync_channel::<Job>(1);
        let work = move || given.into_iter().for_each(|job| job());
        let thread = std::thread::Builder::new().name("model".into());
        thread.spawn(work).map(|_| Hand(jobs)).map_err(|e| e.to_string())
    }

    /// Gives it `work`; what comes of that comes there. A hand that is busy is not to be asked.
    pub(super) fn give<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Receiver<T> {
        let (done, comes) = sync_channel(1);
        // Where nobody waits any more, or the thread is gone, the receiver says so.
        drop(self.0.try_send(Box::new(move || drop(done.send(work())))));
        comes
    }
}
