//! Reading the manual, and the site that its example describes: a folder with its files and recordings.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use forebay::time::Timestamp;
use tempfile::TempDir;

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
        let mut command = crate::bin::forebay();
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
pub fn fan(row: i64, hot: bool) -> (f64, f64) {
    let t = row as f64;
    let vibration = 3.0 + 0.3 * (t / 7.1).sin() + 0.2 * (t * 1.7).sin() + 0.1 * (t / 311.0).sin();
    let temperature = 60.0 + 2.0 * (t / 173.0).sin() + 0.1 * (t * 2.3).sin();
    if hot { (vibration * 2.0, temperature + 25.0) } else { (vibration, temperature) }
}
