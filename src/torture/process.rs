//! The node and the receivers as child processes: started, asked, killed, and started again.
//!
//! `campaign` and `far` use it. A child is killed when it is dropped. It does not decide when.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::demo::ports::free_port;
use crate::time::monotonic;

/// How long it may take to answer a question, and how often it is asked.
const ANSWER: Duration = Duration::from_secs(2);
pub(super) const LOOK: Duration = Duration::from_millis(10);

/// How a process is started.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    pub(super) log: PathBuf,
    /// Where it answers over HTTP.
    pub(super) address: SocketAddr,
}

/// A running process.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    address: SocketAddr,
    /// When it was started.
    pub(super) since: Instant,
}

impl Recipe {
    /// Starts it with no settings from outside but `more` arguments.
    pub(super) fn start(&self, more: &[String]) -> io::Result<Process> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).args(more);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("FOREBAY_") {
                command.env_remove(name);
            }
        }
        let since = monotonic();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        Ok(Process { child, address: self.address, since })
    }
}

impl Process {
    /// Whether it has ended by itself.
    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Whether a node says that it takes readings.
    pub(super) async fn is_ready(&self) -> bool {
        self.ask("/readyz").await.is_ok_and(|answer| answer.starts_with("HTTP/1.0 200"))
    }

    /// A node's numbers, by name with labels; empty while it does not answer.
    pub(super) async fn metrics(&self) -> BTreeMap<String, f64> {
        let text = self.ask("/metrics").await.unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.rsplit_once(' '));
        lines.filter_map(|(name, n)| Some((name.to_owned(), n.parse().ok()?))).collect()
    }

    /// A receiver's counts; `None` while it does not answer.
    pub(super) async fn counts(&self) -> Option<serde_json::Value> {
        let answer = self.ask("/counts").await.ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM: whether it stopped in good order within this time.
    pub(super) async fn stop(mut self, within: Duration) -> bool {
        if kill_process(Pid::from_child(&self.child), Signal::TERM).is_err() {
            return false;
        }
        let due = monotonic() + within;
        while monotonic() < due {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status.success();
            }
            tokio::time::sleep(LOOK).await;
        }
        false
    }

    /// HTTP/1.0, so that the answer ends with the connection.
    async fn ask(&self, path: &str) -> io::Result<String> {
        let address = self.address;
        let asked = async {
            let mut stream = TcpStream::connect(address).await?;
            let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok(answer)
        };
        tokio::time::timeout(ANSWER, asked).await.map_err(|_| io::ErrorKind::TimedOut)?
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An address on loopback that nobody uses now.
pub(super) fn free_address() -> io::Result<SocketAddr> {
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)))
}
