//! A disk that is full to the last byte, with what the index keeps for itself: nothing ends, and all goes on.
//!
//! The disk is an image of the old kind that gives no blocks ahead, so that the index can be left without any; where this
//! user may not mount one, the tests say so and pass.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking")]

mod edge;
mod node_kit;

use std::fs::OpenOptions;
use std::io::Write;
use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;

use edge::feeding::{Feeding, Running};
use edge::records::{alarm, score};
use edge::until;
use forebay::config::{HttpConfig, MqttVersion};
use forebay::demo::broker::Broker;
use forebay::record::Lane;
use forebay::time::Span;
use forebay::uplink::HttpUplink;
use node_kit::{Far, Node, Site};

/// A disk of 64 MB.
struct Disk {
    dir: tempfile::TempDir,
    _image: tempfile::NamedTempFile,
}

impl Disk {
    fn mount() -> Option<Disk> {
        let (image, dir) = (tempfile::NamedTempFile::new().unwrap(), tempfile::tempdir().unwrap());
        image.as_file().set_len(64 << 20).unwrap();
        let mut make = Command::new("mkfs.ext4");
        make.args(["-q", "-F", "-m", "0", "-O", "^extent,^64bit"]).arg(image.path());
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).args([image.path(), dir.path()]);
        if [make, mount].iter_mut().all(|c| c.output().is_ok_and(|o| o.status.success())) {
            return Some(Disk { dir, _image: image });
        }
        eprintln!("no disk can be mounted here: nothing was tested");
        None
    }

    /// Takes whatever is left.
    fn fill(&self) {
        let ballast = self.dir.path().join("ballast");
        let mut file = OpenOptions::new().create(true).append(true).open(ballast).unwrap();
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.dir.path().join("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.dir.path()).output();
    }
}

fn http(far: &Far) -> HttpUplink {
    let usual = HttpConfig::to(far.url());
    HttpUplink::new(&HttpConfig { timeout: Span::seconds(5), ..usual }).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uplink_sends_on_and_writes_down_what_left_when_there_is_space() {
    let Some(disk) = Disk::mount() else { return };
    let far = Far::start().await;
    for killed in [true, false] {
        let (mut feeding, outbox) = Feeding::on(tempfile::tempdir_in(disk.dir.path()).unwrap());
        let already = far.receiver.counts().records;
        let first = u64::from(killed) * 10_000;
        feeding.put((first..first + 3000).map(score).chain([alarm(first)]).collect());
        // The index has space of its own, which it gives up once: that is taken, too.
        let running = Running::start(http(&far), outbox, &feeding, 4096);
        until("it cannot be written down", || {
            disk.fill();
            running.counts.is_behind()
        })
        .await;
        until("all is sent", || running.left() == 3001).await;
        assert_eq!(far.receiver.counts().records - already, 3001);
        assert!(running.status.borrow().is_ready(), "{:?}", running.status.borrow());
        if killed {
            // What was written before the disk was full is not sent again, the rest is, and is known.
            let repeats = far.receiver.counts().repeats;
            disk.free();
            let outbox = feeding.restart_after_kill(running).await;
            let queued = feeding.meter.read().sum(|lane| lane.queued);
            assert!(queued > 0, "something was not written down");
            let running = Running::start(http(&far), outbox, &feeding, 64 << 10);
            until("it is sent again", || running.left() == queued).await;
            assert_eq!(far.receiver.counts().repeats - repeats, queued);
            running.end().await;
        } else {
            disk.free();
            until("it is written down", || !running.counts.is_behind()).await;
            let _ = feeding.restart_after_kill(running).await;
            assert_eq!(feeding.meter.read().sum(|lane| lane.queued), 0);
        }
    }
    assert_eq!(far.receiver.counts().records, 6002);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_record_stays_until_it_can_be_kept() {
    let Some(disk) = Disk::mount() else { return };
    let far = Far::start().await;
    let (mut feeding, outbox) = Feeding::on(tempfile::tempdir_in(disk.dir.path()).unwrap());
    far.refuse(100_000, axum::http::StatusCode::UNPROCESSABLE_ENTITY, None);
    let meter = feeding.meter.clone();
    feeding.put((0..500).map(score).collect());
    let running = Running::start(http(&far), outbox, &feeding, 4096);
    let error = || running.status.borrow().error().unwrap_or_default();
    until("it is told", || {
        disk.fill();
        error().contains("no space left")
    })
    .await;
    let refused = running.counts.refused.load(Relaxed);
    assert!(refused < 500);
    assert_eq!(meter.read().lane(Lane::Score).queued, 500 - refused);
    disk.free();
    until("all are kept", || running.counts.refused.load(Relaxed) == 500).await;
    assert_eq!(meter.read().lane(Lane::Score).refused, 500);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_on_a_full_disk_waits_and_says_what_for() {
    let Some(disk) = Disk::mount() else { return };
    let broker = Broker::start(None).unwrap();
    let (v4, _) = broker.ports();
    let site = Site::new();
    site.config(&node_kit::broker(&format!("mqtt://127.0.0.1:{v4}"), MqttVersion::V311), "");
    let config = std::fs::read_to_string(site.path("config.toml")).unwrap();
    let store = disk.dir.path().join("data");
    let small = format!(
        "path = \"{}\"\nfree_floor = \"1MiB\"\nscore_limit = \"4MiB\"\nraw_limit = \"4MiB\"\n\
         feature_limit = \"4MiB\"\nalarm_limit = \"4MiB\"",
        store.display()
    );
    let config = config.replace("path = \"data\"", &small);
    let port = edge::free_port();
    site.write("config.toml", config.replace("127.0.0.1:0", &format!("127.0.0.1:{port}")));
    let mut node = Node::start(&site);
    node.ready(200).await;
    assert!(node.stop().await.status.success());
    disk.fill();
    // What the index has for itself, too.
    let _ = std::fs::remove_file(store.join("reserve"));
    disk.fill();
    let mut node = Node::start(&site);
    let ask = |path: &str| {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(std::time::Duration::from_secs(2)))
            .build()
            .into();
        let mut answer = agent.get(format!("http://127.0.0.1:{port}{path}")).call().ok()?;
        Some((answer.status().as_u16(), answer.body_mut().read_to_string().ok()?))
    };
    let mut said = None;
    until("it says what it waits for", || {
        said = ask("/readyz").filter(|(_, body)| body.contains("the disk is full"));
        said.is_some()
    })
    .await;
    assert_eq!(said.unwrap().0, 503);
    assert_eq!(ask("/healthz").unwrap().0, 200, "it lives");
    assert_eq!(node.logged("waits until there is space"), 1, "{}", node.log());
    disk.free();
    node.ready(200).await;
    let ended = node.stop().await;
    assert!(ended.status.success(), "{}", ended.log);
}
