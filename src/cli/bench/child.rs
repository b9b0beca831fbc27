//! The bare subscriber as a process of its own: it counts and acknowledges, and says so line by line.
//!
//! [`count`] is the child's side, [`Counter`] the bench's. The child ends when its standard input is closed.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;

use super::super::{Outcome, print};
use crate::cli::run::runtime;
use crate::config::MqttVersion;
use crate::demo::load::Subscriber;

/// How often the child says how many it has.
const TELL: Duration = Duration::from_millis(20);

/// The child: subscribes to everything at `url` and prints its count until standard input ends.
pub(super) fn count(url: &str, in_flight: u16) -> anyhow::Result<Outcome> {
    let ended = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&ended);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        end.store(true, Ordering::Relaxed);
    });
    runtime()?.block_on(async {
        let version = MqttVersion::V5;
        let subscriber = Subscriber::start(url, version, "plant/#", in_flight).await?;
        while !ended.load(Ordering::Relaxed) {
            let taken = subscriber.taken();
            if let Some(reason) = taken.failed {
                anyhow::bail!("the bare subscriber's connection ended: {reason}");
            }
            print(&format!("{}\n", taken.messages))?;
            tokio::time::sleep(TELL).await;
        }
        Ok(Outcome::Fine)
    })
}

/// A running child.
pub(super) struct Counter {
    child: Child,
    taken: watch::Receiver<u64>,
}

impl Counter {
    /// Starts one and waits until its subscription is in force.
    pub(super) async fn start(url: &str, in_flight: u16) -> anyhow::Result<Counter> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["bench", "--count", url, "--in-flight", &in_flight.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the bare subscriber does not start")?;
        let lines = child.stdout.take().context("the bare subscriber has no output")?;
        let (counts, taken) = watch::channel(0);
        let (first, ready) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let mut first = Some(first);
            for line in BufReader::new(lines).lines() {
                let Ok(Ok(count)) = line.map(|line| line.parse::<u64>()) else { return };
                counts.send_replace(count);
                if let Some(first) = first.take() {
                    let _ = first.send(());
                }
            }
        });
        ready.await.context("the bare subscriber ended before it was ready")?;
        Ok(Counter { child, taken })
    }

    /// Its process.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How many it has taken.
    pub(super) fn taken(&self) -> watch::Receiver<u64> {
        self.taken.clone()
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
