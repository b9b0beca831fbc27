//! A batch that takes too long is broken off.
//!
//! `loaded` runs every batch that has a deadline under a [`Watchdog`]: a thread that sleeps until the deadline and then
//! asks ONNX Runtime to stop, which it does between two operators. tract cannot be stopped: there the batch is finished,
//! and its answer counts as late all the same. A model that never comes back at all holds up its node; nothing here
//! can end a single operator.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ort::session::RunOptions;

use crate::time::monotonic;

/// See the module. Its thread ends with it.
pub(super) struct Watchdog(Arc<Shared>);

impl fmt::Debug for Watchdog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watchdog")
    }
}

#[derive(Default)]
struct Shared {
    watched: Mutex<Watched>,
    changed: Condvar,
}

#[derive(Default)]
struct Watched {
    run: Option<(Instant, Arc<RunOptions>)>,
    is_over: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self) {
        let mut watched = self.lock();
        while !watched.is_over {
            let Some((deadline, options)) = watched.run.clone() else {
                watched = self.changed.wait(watched).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.saturating_duration_since(monotonic());
            if left.is_zero() {
                watched.run = None;
                // A run that ended in this very moment is not bothered: its options are its own.
                drop(options.terminate());
                continue;
            }
            let waited = self.changed.wait_timeout(watched, left);
            watched = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(guard, _)| guard);
        }
    }
}

impl Watchdog {
    /// Starts its thread.
    pub(super) fn start() -> Result<Watchdog, String> {
        let shared = Arc::new(Shared::default());
        let its = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("model watchdog".into());
        let started = thread.spawn(move || its.watch());
        started.map(|_| Watchdog(shared)).map_err(|e| e.to_string())
    }

    /// Does `work` with options that it stops at the deadline.
    pub(super) fn guard<T>(
        &self,
        deadline: Duration,
        work: impl FnOnce(&RunOptions) -> T,
    ) -> Result<T, ort::Error> {
        let options = Arc::new(RunOptions::new()?);
        self.0.lock().run = Some((monotonic() + deadline, Arc::clone(&options)));
        self.0.changed.notify_one();
        let done = work(&options);
        self.0.lock().run = None;
        Ok(done)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0.lock().is_over = true;
        self.0.changed.notify_one();
    }
}
