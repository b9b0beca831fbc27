//! `forebay torture` from end to end, for some seconds: the ledger closes, and what it says adds up. Long campaigns are
//! run by hand and, a little longer, by CI. And what its node's wrong clock has shown.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod edge;
mod node_kit;

use std::time::Duration;

use edge::until;
use forebay::config::MqttVersion;
use forebay::time::{Skew, Span, Timestamp, now};
use node_kit::brokers::Local;
use node_kit::{Node, Site, broker};
use serde_json::Value;

fn torture(arguments: &[&str]) -> (Option<i32>, Value, String) {
    let output = node_kit::bin::forebay()
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

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_back_by_an_hour_stops_no_checkpoint() {
    let hour = Span::seconds(3600);
    let skew = Skew { first: Span::ZERO, then: Span(-hour.0), jump: Duration::from_secs(5) };
    let (local, site) = (Local::rumqttd(), Site::new());
    site.config(&broker(&local.url(MqttVersion::V5), MqttVersion::V5), "");
    let before = now();
    let mut node = Node::start_skewed(&site, skew);
    node.ready(200).await;
    let clock = || -> Option<Timestamp> {
        node.json("/api/v1/status")["now"].as_str().and_then(|now| now.parse().ok())
    };
    until("the clock is set back", || clock().is_some_and(|now| now < before)).await;
    let bytes = || node.metric("forebay_store_written_bytes_total{purpose=\"checkpoints\"}");
    let written = bytes();
    until("another checkpoint is made", || bytes() > written).await;
    node.stop().await.fine();
}
