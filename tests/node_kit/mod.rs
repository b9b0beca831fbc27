//! What the tests of the whole product share: a node as a child process with a folder of its own, and what it says of
//! itself in its log, over HTTP and with its exit code.
//!
//! The shipped pipeline, schema and models are laid out as the demo does it. Nothing here waits a fixed time.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../common/bin.rs"]
pub(crate) mod bin;
pub mod brokers;
mod far;
pub mod models;
pub mod shift;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use forebay::config::MqttVersion;
use forebay::demo::site::lay_out;
use forebay::time::Skew;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::edge::until;

#[allow(unused_imports, reason = "each test binary uses a part of it")]
pub use far::Far;

/// The node's name in every config here.
pub const NODE: &str = "test-node";

/// A folder with a node's files.
pub struct Site {
    pub dir: TempDir,
}

impl Site {
    /// The shipped pump pipeline with its schema and models. Its `idle` is made so long that the wall clock has no say in
    /// what is computed: then a run can be compared with a replay.
    pub fn new() -> Site {
        let dir = tempfile::tempdir().unwrap();
        let pipeline = lay_out(dir.path()).unwrap();
        let text = fs::read_to_string(&pipeline).unwrap();
        assert!(text.contains(r#"idle = "30s""#));
        fs::write(&pipeline, text.replace(r#"idle = "30s""#, r#"idle = "10m""#)).unwrap();
        Site { dir }
    }

    /// Writes the config: keys of `[mqtt]`, then whatever follows `[feed]`.
    pub fn config(&self, mqtt: &str, rest: &str) {
        let text = format!(
            "node = \"{NODE}\"\n[mqtt]\n{mqtt}\n[store]\npath = \"data\"\ncheckpoint_every = \"2s\"\n\
             [feed]\nlisten = \"127.0.0.1:0\"\n{rest}\n"
        );
        fs::write(self.path("config.toml"), text).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }
}

/// The broker's part.
pub fn broker(url: &str, version: MqttVersion) -> String {
    let version = match version {
        MqttVersion::V311 => "3.1.1",
        MqttVersion::V5 => "5",
    };
    format!("url = \"{url}\"\nversion = \"{version}\"\n")
}

/// `forebay` with these arguments in this folder, with no settings from outside.
pub fn forebay(arguments: &[&str], folder: &Path, variables: &[(&str, &str)]) -> Command {
    let mut command = bin::forebay();
    command.args(arguments).current_dir(folder).envs(variables.iter().copied());
    command.stdin(Stdio::null());
    command
}

/// A running node; killed when dropped.
pub struct Node {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

/// How a node ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub log: String,
}

impl Node {
    /// `forebay run` in the site's folder.
    pub fn start(site: &Site) -> Node {
        Node::start_with(site, &[])
    }

    /// As `start`, with environment variables.
    pub fn start_with(site: &Site, variables: &[(&str, &str)]) -> Node {
        Node::spawn(forebay(&["run"], site.dir.path(), variables))
    }

    /// As `start`, with a wall clock that is wrong and jumps.
    pub fn start_skewed(site: &Site, skew: Skew) -> Node {
        let skew = format!("--skewed-clock={skew}");
        Node::spawn(forebay(&["run", &skew], site.dir.path(), &[]))
    }

    /// By this command.
    pub fn spawn(mut command: Command) -> Node {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let shared = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|line| shared.lock().unwrap().push(line));
        });
        Node { child, log, reader: Some(reader) }
    }

    /// All it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    pub fn has_logged(&self, text: &str) -> bool {
        self.log.lock().unwrap().iter().any(|line| line.contains(text))
    }

    /// How many lines it has logged with this text.
    pub fn logged(&self, text: &str) -> usize {
        self.log.lock().unwrap().iter().filter(|line| line.contains(text)).count()
    }

    /// Where it serves, once it does.
    pub fn url(&self) -> Option<String> {
        self.log.lock().unwrap().iter().find_map(|line| {
            let (_, rest) = line.split_once("open http://")?;
            rest.split_once('/').map(|(address, _)| format!("http://{address}"))
        })
    }

    /// What it answers; `None` while it does not serve (or no longer).
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        self.ask(path, None)
    }

    /// What it answers to a command.
    pub fn post(&self, path: &str, body: &serde_json::Value) -> Option<(u16, String)> {
        self.ask(path, Some(body.to_string()))
    }

    fn ask(&self, path: &str, body: Option<String>) -> Option<(u16, String)> {
        let url = format!("{}{path}", self.url()?);
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(5)))
            .build()
            .into();
        let mut answer = match body {
            None => agent.get(url).call().ok()?,
            Some(body) => {
                agent.post(url).header("content-type", "application/json").send(body).ok()?
            }
        };
        let text = answer.body_mut().with_config().limit(64 << 20).read_to_string().ok()?;
        Some((answer.status().as_u16(), text))
    }

    pub fn json(&self, path: &str) -> serde_json::Value {
        let (code, body) = self.get(path).unwrap_or_default();
        assert_eq!(code, 200, "{path}: {body}\n{}", self.log());
        serde_json::from_str(&body).unwrap()
    }

    /// The code of `/readyz`; 0 while nothing answers.
    pub fn readiness(&self) -> u16 {
        self.get("/readyz").map_or(0, |(code, _)| code)
    }

    /// Waits until `/readyz` says this.
    pub async fn ready(&mut self, code: u16) {
        let mut ended = None;
        let log = Arc::clone(&self.log);
        until(&format!("/readyz says {code}"), || {
            ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}\n{}", log.lock().unwrap().join("\n"));
            self.readiness() == code
        })
        .await;
    }

    /// A number from `/metrics`, by its whole name with labels; 0 where it is not there (yet).
    pub fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics").map(|(_, text)| text).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        line.unwrap_or(0)
    }

    /// A pipeline's count from `/metrics`.
    pub fn count(&self, name: &str) -> u64 {
        self.metric(&format!("forebay_{name}_total{{pipeline=\"pump\"}}"))
    }

    /// Readings taken out for this reason.
    pub fn rejected(&self, reason: &str) -> u64 {
        self.metric(&format!(
            "forebay_readings_rejected_total{{pipeline=\"pump\",reason=\"{reason}\"}}"
        ))
    }

    /// Messages refused for this reason.
    pub fn refused(&self, reason: &str) -> u64 {
        self.metric(&format!("forebay_messages_rejected_total{{reason=\"{reason}\"}}"))
    }

    pub fn messages(&self) -> u64 {
        self.metric("forebay_messages_received_total")
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and its end, which must come soon.
    pub async fn stop(mut self) -> Ended {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.end().await
    }

    /// Waits for its end.
    pub async fn end(&mut self) -> Ended {
        let mut status = None;
        until("the node ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        // With the process gone, its log ends too.
        self.reader.take().unwrap().join().unwrap();
        Ended { status: status.unwrap(), log: self.log() }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Ended {
    /// It stopped as it was told to.
    pub fn fine(&self) {
        assert_eq!(self.status.code(), Some(0), "{}", self.log);
        assert!(self.log.contains("stopped"), "{}", self.log);
    }
}
