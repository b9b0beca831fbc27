//! The node as a process of its own: `forebay run` with the shipped pump pipeline, an uplink to a receiver in this
//! process, and a store on disk.
//!
//! What it has done is read where anybody could: `/metrics`, and `/proc`.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::SIGNALS;
use crate::demo::ports::free_port;
use crate::demo::{sink, site};
use crate::time::monotonic;
use crate::usage::Usage;

/// How long it may take to start, and to stop.
const WITHIN: Duration = Duration::from_mins(1);
/// How often its count is read.
const LOOK: Duration = Duration::from_millis(50);
/// How long an idle node is left alone before its memory is read.
const SETTLE: Duration = Duration::from_secs(3);

/// A running node and what is around it.
pub(super) struct Site {
    child: Child,
    address: SocketAddr,
    taken: watch::Receiver<u64>,
    end: CancellationToken,
}

/// What its `/metrics` say, as far as a bench needs it.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbers {
    text: String,
}

impl Numbers {
    /// The sum of all series of this name.
    pub(super) fn sum(&self, name: &str) -> f64 {
        let lines = self.text.lines().filter_map(|line| line.strip_prefix(name));
        let lines = lines.filter(|rest| rest.starts_with([' ', '{']));
        lines.filter_map(|rest| rest.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    /// The buckets of a histogram: upper bounds and how many are at or below each.
    pub(super) fn buckets(&self, name: &str) -> Vec<(f64, f64)> {
        let start = format!("{name}_bucket{{le=\"");
        let lines = self.text.lines().filter_map(|line| line.strip_prefix(&start));
        let parsed = lines.filter_map(|rest| {
            let (bound, count) = rest.split_once("\"} ")?;
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            Some((bound, count.parse().ok()?))
        });
        parsed.collect()
    }
}

impl Site {
    /// Starts a node below `folder` and waits until it is ready.
    pub(super) async fn start(folder: &Path, broker: &str, in_flight: u16) -> anyhow::Result<Site> {
        let end = CancellationToken::new();
        let sink = sink::start(end.clone()).await?;
        site::lay_out(folder).context("the node's files cannot be written")?;
        let port = free_port()?;
        let config = folder.join("config.toml");
        let text = format!(
            "node = \"bench\"\n[mqtt]\nurl = \"{broker}\"\nin_flight = {in_flight}\n\
             [uplink.targets.bench.http]\nurl = \"http://{sink}/records\"\n[feed]\nlisten = \"127.0.0.1:{port}\"\n"
        );
        std::fs::write(&config, text).context("the node's config cannot be written")?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["run", "--log", "warn", "--config"]).arg(&config);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("FOREBAY_") {
                command.env_remove(name);
            }
        }
        let child = command.stdin(Stdio::null()).spawn().context("the node does not start")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (counts, taken) = watch::channel(0);
        let mut site = Site { child, address, taken, end };
        site.ready().await?;
        std::thread::spawn(move || follow(address, &counts));
        Ok(site)
    }

    async fn ready(&mut self) -> anyhow::Result<()> {
        let due = monotonic() + WITHIN;
        loop {
            anyhow::ensure!(self.child.try_wait()?.is_none(), "the node ended; it says why above");
            let address = self.address;
            let answer = tokio::task::spawn_blocking(move || get(address, "/readyz")).await?;
            match answer {
                Ok(answer) if answer.starts_with("HTTP/1.0 200") => return Ok(()),
                answer if monotonic() > due => {
                    let answer = answer.unwrap_or_else(|error| error.to_string());
                    anyhow::bail!("the node is not ready within {WITHIN:?}: {answer}");
                }
                _ => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Its process.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where its dashboards are.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Messages whose tick is durable.
    pub(super) fn taken(&self) -> watch::Receiver<u64> {
        self.taken.clone()
    }

    /// Resident memory with models loaded and nothing to do.
    pub(super) async fn idle(&self) -> anyhow::Result<u64> {
        tokio::time::sleep(SETTLE).await;
        Ok(Usage::of(Some(self.id()))?.resident)
    }

    /// Its numbers now.
    pub(super) async fn numbers(&self) -> anyhow::Result<Numbers> {
        let address = self.address;
        let text = tokio::task::spawn_blocking(move || get(address, "/metrics")).await??;
        Ok(Numbers { text })
    }

    /// Stops it in good order.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(id) = Pid::from_raw(self.child.id() as i32) {
            kill_process(id, Signal::TERM).context("the node cannot be told to stop")?;
        }
        let due = monotonic() + WITHIN;
        while self.child.try_wait()?.is_none() {
            anyhow::ensure!(monotonic() < due, "the node does not stop within {WITHIN:?}");
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.end.cancel();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the count until the node or whoever reads is gone.
fn follow(address: SocketAddr, counts: &watch::Sender<u64>) {
    while !counts.is_closed() {
        let Ok(text) = get(address, "/metrics") else { return };
        let readings = Numbers { text }.sum("forebay_tick_readings_sum");
        counts.send_replace(readings as u64 / SIGNALS as u64);
        std::thread::park_timeout(LOOK);
    }
}

/// Asks the node; HTTP/1.0, so that the answer ends with the connection.
pub(super) fn ask(address: SocketAddr, path: &str) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    Ok(stream)
}

fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut answer = String::new();
    ask(address, path)?.read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_buckets_are_read_from_the_text() {
        let text = "# TYPE a counter\na_total{p=\"x\"} 3\na_total{p=\"y\"} 4\na_total_more 9\n\
                    t_bucket{le=\"0.5\"} 1\nt_bucket{le=\"+Inf\"} 2\n";
        let numbers = Numbers { text: text.into() };
        assert_eq!(numbers.sum("a_total"), 7.0);
        assert_eq!(numbers.sum("b"), 0.0);
        assert_eq!(numbers.buckets("t"), [(0.5, 1.0), (f64::INFINITY, 2.0)]);
    }
}
