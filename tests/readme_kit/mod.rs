//! Reading the manual, and the site that its example describes: a folder with its files and recordings, and a node.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use forebay::config::MqttVersion;
use forebay::demo::broker::Broker;
use forebay::time::{Timestamp, monotonic, now};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_mins(1);
/// Time of a recording's first row.
const START: i64 = 1_772_366_400_000_000;

/// A fenced block.
pub struct Block {
    /// What stands behind the fence.
    pub kind: String,
    pub text: String,
}

/// The manual, in the order in which it is read: one example goes through all of it.
pub const PAGES: [&str; 4] =
    ["README.md", "docs/pipelines.md", "docs/models.md", "docs/operations.md"];

pub fn manual() -> String {
    PAGES.map(|page| std::fs::read_to_string(page).unwrap()).join("\n")
}

/// All fenced blocks, in their order.
pub fn blocks() -> Vec<Block> {
    let (mut all, mut open): (Vec<Block>, bool) = (Vec::new(), false);
    for line in manual().lines() {
        match line.strip_prefix("```") {
            Some(_) if open => open = false,
            Some(kind) => {
                open = true;
                all.push(Block { kind: kind.to_owned(), text: String::new() });
            }
            None if open => writeln!(all.last_mut().unwrap().text, "{line}").unwrap(),
            None => {}
        }
    }
    assert!(!open && !all.is_empty());
    all
}

/// What stands between backticks, outside of fenced blocks.
pub fn backticked(text: &str) -> Vec<String> {
    let mut plain = String::new();
    let mut fenced = false;
    for line in text.lines() {
        fenced ^= line.starts_with("```");
        if !fenced && !line.starts_with("```") {
            plain.push_str(line);
            plain.push(' ');
        }
    }
    plain.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The cells of the table whose header starts so.
pub fn rows(header: &str) -> Vec<Vec<String>> {
    let text = manual();
    let mut lines = text.lines().skip_while(|line| !line.starts_with(header));
    assert!(lines.next().is_some(), "no table `{header}`");
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let rows: Vec<_> = lines.skip(1).take_while(|l| l.starts_with('|')).map(cells).collect();
    assert!(!rows.is_empty());
    rows
}

/// The example's folder.
pub struct Site(TempDir);

impl Site {
    /// A folder with recordings and nothing else.
    pub fn new() -> Site {
        let site = Site(tempfile::tempdir().unwrap());
        site.write("normal.csv", &recording("vibration", 3600, None));
        site.write("day.csv", &recording("vibration", 1800, Some(900)));
        let (hot, end) = (Timestamp(START + 900_000_000), Timestamp(START + 1_799_000_000));
        site.write("times.csv", &format!("asset,from,to\nfan-7,{hot},{end}\n"));
        site.write("other.csv", &recording("vib", 600, None));
        site.write("week.csv", &labelled(7200));
        site.write("verdicts.ndjson", &verdict());
        site
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// A command of the program in this folder. No argument in the manual holds a space.
    pub fn forebay(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("FOREBAY_")) {
            command.env_remove(name);
        }
        command.args(arguments.split(' ')).current_dir(self.0.path());
        command
    }
}

/// A row a second; from `hot` on the fan shakes and gets hot.
fn recording(vibration: &str, rows: i64, hot: Option<i64>) -> String {
    let mut text = format!("time,{vibration},temperature\n");
    for row in 0..rows {
        let ts = Timestamp(START + row * 1_000_000);
        let (vibration, temperature) = fan(row, hot.is_some_and(|hot| row >= hot));
        writeln!(text, "{ts},{vibration:.3},{temperature:.2}").unwrap();
    }
    text
}

/// The same with a column that says when: for 5 minutes of every 25.
fn labelled(rows: i64) -> String {
    let mut text = String::from("time,vibration,temperature,fault\n");
    for row in 0..rows {
        let (ts, hot) = (Timestamp(START + row * 1_000_000), row % 1500 >= 1200);
        let (vibration, temperature) = fan(row, hot);
        writeln!(text, "{ts},{vibration:.3},{temperature:.2},{}", i32::from(hot)).unwrap();
    }
    text
}

/// What an operator said of an alarm on the fan, as `receive` keeps it.
fn verdict() -> String {
    let at = |second: i64| Timestamp(START + second * 1_000_000);
    let rows = |pick: fn((f64, f64)) -> f64| -> Vec<(Timestamp, f64)> {
        (600..660).map(|second| (at(second), pick(fan(second, true)))).collect()
    };
    let record = serde_json::json!({
        "type": "verdict", "id": "v", "node": "gateway-1", "pipeline": "fan", "asset": "fan-7", "name": "unlike itself",
        "verdict": "true", "fault": "bearing", "by": "anna", "given": at(2000), "on": "anomaly", "peak": 0.99,
        "limit": 0.7, "window_start": at(580), "window_end": at(700), "peak_start": at(600), "features": {},
        "signals": { "vibration": rows(|both| both.0), "temperature": rows(|both| both.1) },
    });
    format!("{record}\n")
}

/// What the fan's sensors read: waves of unlike lengths, which is noise enough for a model.
fn fan(row: i64, hot: bool) -> (f64, f64) {
    let t = row as f64;
    let vibration = 3.0 + 0.3 * (t / 7.1).sin() + 0.2 * (t * 1.7).sin() + 0.1 * (t / 311.0).sin();
    let temperature = 60.0 + 2.0 * (t / 173.0).sin() + 0.1 * (t * 2.3).sin();
    if hot { (vibration * 2.0, temperature + 25.0) } else { (vibration, temperature) }
}

/// A node that runs in the example site, on ports of its own.
pub struct Node {
    child: Child,
    address: String,
    port: u16,
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Node {
    pub fn start(site: &Site, broker: &Broker) -> Node {
        let mut child = site
            .forebay("run")
            .env("FOREBAY_MQTT__URL", broker.url(MqttVersion::V5))
            .env("FOREBAY_FEED__LISTEN", "127.0.0.1:0")
            .env("FOREBAY_UPLINK__TARGETS__CLOUD__HTTP__URL", "http://127.0.0.1:9/nobody")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut told = String::new();
        let address = loop {
            let line = lines.next().unwrap_or_else(|| panic!("it ended:\n{told}")).unwrap();
            if let Some((_, rest)) = line.split_once("open http://") {
                break rest.trim_end_matches('/').to_owned();
            }
            told.push_str(&line);
        };
        // Its log must go somewhere, or it waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        let node = Node { child, address, port: broker.ports().0 };
        until("it is ready", || node.get("/readyz").0 == 200);
        node
    }

    /// Where it serves.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Publishes three minutes of the fan, and waits until they are scored.
    pub fn feed_fan(&self) {
        let start = now().0 - 180_000_000;
        let messages = (0..180).map(|row| {
            let ts = Timestamp(start + row * 1_000_000);
            let (vibration, temperature) = fan(row, row > 60);
            format!("{{\"t\":\"{ts}\",\"vibration\":{vibration},\"temp\":{temperature}}}")
        });
        // Two that are rejected, at the door and by `clean`, so that their counters are there.
        let wrong = ["nonsense".to_owned(), "{\"vibration\":99,\"t\":0}".to_owned()];
        publish(self.port, "site/hall-1/fan/fan-7/data", messages.chain(wrong).collect());
        until("windows are scored", || self.get("/api/v1/scores/latest").1.contains("\"anomaly\""));
    }

    /// The metrics, once this one is among them: they are brought up to date several times a second.
    pub fn metrics_with(&self, name: &str) -> String {
        until(name, || self.get("/metrics").1.contains(name));
        self.get("/metrics").1
    }

    /// Status and body of a GET; of a stream, its beginning.
    pub fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path, "")
    }

    /// Status and body of a POST of JSON.
    pub fn post(&self, path: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let more =
            format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}");
        self.ask("POST", path, &more)
    }

    /// `more`: further headers and a body, if there are any.
    fn ask(&self, method: &str, path: &str, more: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let host = &self.address;
        let more = if more.is_empty() { "\r\n" } else { more };
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        if path.contains("/stream") {
            let mut part = [0; 512];
            let count = stream.read(&mut part).unwrap();
            answer.extend_from_slice(&part[..count]);
        } else {
            stream.read_to_end(&mut answer).unwrap();
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status, body.to_owned())
    }

    /// Stops it as a supervisor would.
    pub fn stop(mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap()
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let due = monotonic() + PATIENCE;
    while !done() {
        assert!(monotonic() < due, "never happened: {what}");
        std::thread::yield_now();
    }
}

/// Publishes with QoS 1 and waits for the last acknowledgement.
fn publish(port: u16, topic: &str, messages: Vec<String>) {
    let mut options = rumqttc::MqttOptions::new("readme-plant", "127.0.0.1", port);
    options.set_inflight(50);
    let (client, mut connection) = rumqttc::Client::new(options, 500);
    let count = messages.len();
    for message in messages {
        client.publish(topic, rumqttc::QoS::AtLeastOnce, false, message).unwrap();
    }
    let acks = connection
        .iter()
        .map(Result::unwrap)
        .filter(|event| matches!(event, rumqttc::Event::Incoming(rumqttc::Packet::PubAck(_))));
    assert_eq!(acks.take(count).count(), count);
}
