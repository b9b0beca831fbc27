//! `forebay torture` from end to end, for some seconds: the ledger closes, and what it says adds up. Long campaigns are
//! run by hand and, a little longer, by CI.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Command;

use serde_json::Value;

fn torture(arguments: &[&str]) -> (Option<i32>, Value, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_forebay"))
        .args(["torture", "--json", "--rate", "1000"])
        .args(arguments)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code(), report, said)
}

#[test]
fn a_short_campaign_closes_and_its_numbers_add_up() {
    let (code, report, said) =
        torture(&["--kills", "3", "--cuts", "3", "--seed", "5", "--broker", "in-process"]);
    assert_eq!(code, Some(0), "{report:#}\n{said}");
    let n = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("{name}: {report:#}"));
    assert_eq!((n("seed"), n("kills"), n("cuts"), n("unaccounted"), n("wrong")), (5, 3, 3, 0, 0));
    assert!(n("acknowledged") > 100 && n("delivered") > 100, "{report:#}");
    assert_eq!(n("processed"), n("acknowledged"));
    if n("in_loss_records") == 0 {
        assert_eq!(n("delivered") + n("set_aside"), n("acknowledged"), "{report:#}");
    }
    assert_eq!(report["broker"], "in-process");
    assert!(report["recovery_max_s"].as_f64().unwrap() > 0.0, "{report:#}");
    assert!(report["not_done"].to_string().contains("the broker was not restarted"), "{report:#}");
    assert_eq!(n("receiver_kills"), 1);
    assert!(n("clock_jumps") >= 3, "{report:#}");
}

#[test]
fn what_cannot_be_done_in_time_is_told_and_is_a_failure() {
    let (code, report, said) =
        torture(&["--kills", "500", "--cuts", "0", "--within", "1s", "--broker", "in-process"]);
    assert_eq!(code, Some(1), "{report:#}\n{said}");
    assert_eq!(report["complete"], false);
    assert!(report["not_done"].to_string().contains("of 500 kills"), "{report:#}");
    assert_eq!(report["unaccounted"], 0, "{report:#}");
    assert!(said.contains("stay in"), "{said}");
}
