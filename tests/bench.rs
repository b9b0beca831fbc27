//! `forebay bench` from end to end, for a second each: everything that was sent is taken and told. How fast is not
//! judged here: a test machine has other things to do.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/bin.rs"]
mod bin;

use serde_json::Value;

#[test]
fn a_bench_takes_all_that_it_sends_and_says_what_it_measured() {
    let folder = tempfile::tempdir().unwrap();
    let output = bin::forebay()
        .args(["bench", "--broker", "rumqttd", "--duration", "1s", "--rate", "200", "--json"])
        .arg("--store")
        .arg(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let broker = &report["brokers"][0];
    for run in ["bare", "node", "paced"] {
        let run = &broker[run];
        assert!(run["sent"].as_u64().unwrap() > 0, "{report}");
        assert_eq!(run["sent"], run["taken"], "{report}");
        assert!(run["resident"].as_u64().unwrap() > 0, "{report}");
    }
    assert!(broker["loaded"]["ticks"].as_f64().unwrap() > 0.0, "{report}");
    assert!(broker["limit"].as_str().is_some_and(|why| why.contains("messages")), "{report}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the store is removed");
}
