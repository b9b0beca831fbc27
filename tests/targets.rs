//! Several far sides: each has its own queue, and one that is away or says nothing delays no other.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod edge;
mod node_kit;

use std::net::TcpListener;

use edge::until;
use forebay::config::MqttVersion;
use node_kit::brokers::Local;
use node_kit::shift::{Shift, assert_same, publisher, send};
use node_kit::{Far, Node, Site, broker};

async fn publish(local: &Local, shift: &Shift) {
    let mut sender = publisher(&local.url(MqttVersion::V311), MqttVersion::V311).await;
    send(&mut sender, &shift.messages).await;
    sender.close().await.unwrap();
}

/// Two far sides and one that takes connections and never says a word.
fn config(near: &Far, away: &Far, silent: &TcpListener) -> String {
    let http = |name: &str, address: String| {
        format!("[uplink.targets.{name}.http]\nurl = \"http://{address}/in\"\ntimeout = \"1s\"\n")
    };
    format!(
        "[uplink]\nretry_max = \"500ms\"\n{}{}{}",
        http("near", near.link.addr().to_string()),
        http("away", away.link.addr().to_string()),
        http("silent", silent.local_addr().unwrap().to_string()),
    )
}

fn books(node: &Node, target: &str) -> [u64; 3] {
    let of = |what: &str| node.metric(&format!("forebay_target_{what}{{target=\"{target}\"}}"));
    [of("delivered_total"), of("waiting"), of("refused_total")]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_far_side_that_is_away_delays_no_other_and_gets_everything_later() {
    let (local, shift) = (Local::rumqttd(), Shift::of(2, 420, 3));
    let (site, near, away) = (Site::new(), Far::start().await, Far::start().await);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let replay = shift.replay(&site);
    let records = replay.records.len() as u64;
    away.link.set_up(false).await;
    let url = local.url(MqttVersion::V5);
    site.config(&broker(&url, MqttVersion::V5), &config(&near, &away, &silent));
    let mut node = Node::start(&site);
    node.ready(200).await;
    publish(&local, &shift).await;
    assert_same(&near.records(replay.records.len(), &node).await, &replay);
    until("each target has its books", || {
        books(&node, "near") == [records, 0, 0] && books(&node, "away") == [0, records, 0]
    })
    .await;
    assert_eq!(books(&node, "silent"), [0, records, 0]);
    assert_eq!(node.metric("forebay_uplink_up{target=\"near\"}"), 1);
    assert_eq!(node.metric("forebay_uplink_up{target=\"away\"}"), 0);
    node.stop().await.fine();
    // What one of them has not got outlives the node; the other is not bothered again.
    let mut node = Node::start(&site);
    away.link.set_up(true).await;
    assert_same(&away.records(replay.records.len(), &node).await, &replay);
    until("its books say so", || books(&node, "away") == [records, 0, 0]).await;
    assert_eq!(books(&node, "silent"), [0, records, 0]);
    assert_eq!((near.receiver.counts().repeats, away.receiver.counts().repeats), (0, 0));
    node.ready(200).await;
    node.stop().await.fine();
}
