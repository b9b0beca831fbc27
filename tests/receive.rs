//! The reference receiver: each record on disk once, before its sender is answered, whatever happens in between.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/bin.rs"]
mod bin;
mod edge;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};

use edge::feeding::{Feeding, Running};
use edge::records::{alarm, score};
use edge::{Mosquitto, free_port, unique, until, wait_for_port};
use forebay::config::{HttpConfig, MqttConfig, MqttVersion, Secret, UplinkMqttConfig};
use forebay::receive::{ReceiveOptions, Receiver};
use forebay::record::{Outgoing, Record};
use forebay::time::Span;
use forebay::uplink::{HttpUplink, MqttUplink, wire};
use tokio_util::sync::CancellationToken;

fn lines(records: &[Outgoing]) -> Vec<u8> {
    let mut lines = Vec::new();
    for outgoing in records {
        serde_json::to_writer(&mut lines, &outgoing.record).unwrap();
        lines.push(b'\n');
    }
    lines
}

/// Posts a body and gives the status.
fn post(address: SocketAddr, head: &str, body: &[u8]) -> u16 {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    write!(
        stream,
        "POST /in HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{head}\r\n"
    )
    .unwrap();
    stream.write_all(body).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer[9..12].parse().unwrap()
}

async fn posted(address: SocketAddr, head: &'static str, body: Vec<u8>) -> u16 {
    tokio::task::spawn_blocking(move || post(address, head, &body)).await.unwrap()
}

/// How often each id is in the folder.
fn kept(folder: &Path) -> BTreeMap<String, u32> {
    let mut kept = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "ndjson" || e == "open") {
            for line in BufReader::new(std::fs::File::open(path).unwrap()).lines() {
                // The last line may be torn by a kill; it was not answered then.
                let Ok(record) = serde_json::from_str::<Record>(&line.unwrap()) else { continue };
                *kept.entry(record.id().to_owned()).or_default() += 1;
            }
        }
    }
    kept
}

fn each_once(folder: &Path, ids: &BTreeSet<String>) {
    let kept = kept(folder);
    let repeated: Vec<_> = kept.iter().filter(|(_, count)| **count > 1).collect();
    assert!(repeated.is_empty(), "kept twice: {repeated:?}");
    assert_eq!(&kept.into_keys().collect::<BTreeSet<_>>(), ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn repeats_are_known_within_a_parcel_across_parcels_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let records: Vec<Outgoing> = (0..50).map(score).chain([alarm(1)]).collect();
    let ids: BTreeSet<String> = records.iter().map(|o| o.record.id().to_owned()).collect();
    let zstd = "content-encoding: zstd\r\n";
    for round in 0..3 {
        let stop = CancellationToken::new();
        let receiver = Receiver::start(ReceiveOptions::on_loopback(folder.path()), stop.clone())
            .await
            .unwrap();
        let address = receiver.address().unwrap();
        let packed = wire::pack(&lines(&records), 3, round == 1).unwrap();
        assert_eq!(posted(address, zstd, packed.clone()).await, 204);
        // Counted before it is answered, and on disk.
        let counts = receiver.counts();
        let expected = if round == 0 { (51, 0, 0) } else { (0, 51, 51) };
        assert_eq!((counts.records, counts.repeats, counts.found), expected);
        each_once(folder.path(), &ids);
        let twice = [records[7].clone(), records[7].clone()];
        assert_eq!(posted(address, "", lines(&twice)).await, 204);
        assert_eq!(posted(address, zstd, packed[..packed.len() - 1].to_vec()).await, 400);
        assert_eq!(posted(address, "", b"{\"type\":\"score\"}\n".to_vec()).await, 400);
        assert_eq!(posted(address, "content-encoding: br\r\n", lines(&twice)).await, 415);
        stop.cancel();
        let counts = receiver.join().await.unwrap();
        assert_eq!((counts.repeats, counts.unreadable, counts.parcels), (expected.1 + 2, 2, 2));
        assert_eq!(counts.files, u64::from(round == 0));
        if round == 0 {
            assert_eq!((counts.lanes.score, counts.lanes.alarm), (50, 1));
        }
        each_once(folder.path(), &ids);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_has_the_token_may_post_and_a_folder_has_one_receiver() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "s3cret\n").unwrap();
    let stop = CancellationToken::new();
    let options = ReceiveOptions {
        token: Some(Secret::File(token)),
        ..ReceiveOptions::on_loopback(folder.path())
    };
    let receiver = Receiver::start(options.clone(), stop.clone()).await.unwrap();
    let address = receiver.address().unwrap();
    let body = lines(&[score(1)]);
    assert_eq!(posted(address, "", body.clone()).await, 401);
    assert_eq!(posted(address, "authorization: Bearer s3cre\r\n", body.clone()).await, 401);
    assert_eq!(posted(address, "authorization: Bearer s3cret\r\n", body).await, 204);
    let Err(error) = Receiver::start(options, stop.clone()).await else { panic!("two of them") };
    assert!(error.to_string().contains("another receiver"), "{error}");
    stop.cancel();
    assert_eq!(receiver.join().await.unwrap().records, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_line_is_cut_and_full_files_are_finished() {
    let folder = tempfile::tempdir().unwrap();
    let good = lines(&[score(1), score(2)]);
    let torn = [&good[..], &good[..40]].concat();
    std::fs::write(folder.path().join("records-00000004.open"), &torn).unwrap();
    std::fs::write(folder.path().join("records-00000003.open"), lines(&[score(0)])).unwrap();
    let stop = CancellationToken::new();
    let small = ReceiveOptions { roll_bytes: 2000, ..ReceiveOptions::on_loopback(folder.path()) };
    let receiver = Receiver::start(small, stop.clone()).await.unwrap();
    assert_eq!(receiver.counts().found, 3);
    let address = receiver.address().unwrap();
    let mut ids: BTreeSet<String> = (0..3).map(|n| format!("score-{n}")).collect();
    for n in 2..20 {
        assert_eq!(posted(address, "", lines(&[score(n)])).await, 204);
        ids.insert(format!("score-{n}"));
    }
    stop.cancel();
    let counts = receiver.join().await.unwrap();
    assert!(counts.files >= 3, "{counts:?}");
    assert_eq!((counts.records, counts.repeats), (17, 1));
    each_once(folder.path(), &ids);
    let open = |e: &std::fs::DirEntry| e.path().extension().is_some_and(|e| e == "open");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().flatten().filter(open).count(), 0);
}

/// The receiver as a process of its own.
struct Process {
    child: Child,
    port: u16,
}

impl Process {
    fn start(folder: &Path, port: u16, format: &str) -> Process {
        let mut child = bin::forebay()
            .args(["receive", "--json", "--format", format, "--roll-size", "40KiB", "--out"])
            .arg(folder)
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut first = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
        assert!(first.contains(&format!("\"listening\":\"127.0.0.1:{port}\"")), "{first}");
        wait_for_port(port, String::new);
        Process { child, port }
    }

    /// As an operator ends it; gives its counts.
    fn end(mut self) -> serde_json::Value {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let mut text = String::new();
        self.child.stdout.as_mut().unwrap().read_to_string(&mut text).unwrap();
        assert!(self.child.wait().unwrap().success());
        serde_json::from_str(text.lines().last().unwrap()).unwrap()
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_survives_kills_of_the_receiver() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let usual = HttpConfig::to(format!("http://127.0.0.1:{port}/in"));
    let uplink = HttpUplink::new(&HttpConfig { timeout: Span::seconds(5), ..usual });
    let (mut feeding, outbox) = Feeding::new();
    let running = Running::start(uplink.unwrap(), outbox, &feeding, 2048);
    for round in 0..8 {
        let process = Process::start(folder.path(), port, "ndjson,parquet");
        assert_eq!(process.port, port);
        for tick in 0..10 {
            let first = (round * 10 + tick) * 10;
            feeding.put((first..first + 10).map(score).collect());
        }
        let before = running.left();
        until("some are delivered", || running.left() > before + 20).await;
        process.kill();
    }
    let process = Process::start(folder.path(), port, "ndjson,parquet");
    until("all are delivered", || running.left() == 800).await;
    running.end().await;
    let counts = process.end();
    assert_eq!(counts["unreadable"], 0);
    each_once(folder.path(), &feeding.ids);
    let parquet = |e: &std::fs::DirEntry| e.path().extension().is_some_and(|e| e == "parquet");
    let tables = std::fs::read_dir(folder.path()).unwrap().flatten().filter(parquet).count();
    let files = std::fs::read_dir(folder.path()).unwrap().flatten();
    let texts = files.filter(|e| e.path().extension().is_some_and(|e| e == "ndjson")).count();
    assert!(tables > 3 && tables == texts, "{tables} tables, {texts} files of lines");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_keeps_records_while_the_receiver_is_away() {
    let config =
        "allow_anonymous true\npersistence false\nmax_queued_messages 0\nlog_type subscribe";
    let Some(broker) = Mosquitto::start(config) else { return };
    for version in [MqttVersion::V311, MqttVersion::V5] {
        let folder = tempfile::tempdir().unwrap();
        let prefix = unique("cloud");
        let client = || MqttConfig { client_id: Some(unique("far")), ..broker.client(version) };
        let far = (client(), vec![format!("{prefix}/#")]);
        let options = ReceiveOptions {
            listen: None,
            broker: Some(far),
            ..ReceiveOptions::on_loopback(folder.path())
        };
        let topic = format!("{prefix}/{{asset}}");
        let uplink = MqttUplink::new(&UplinkMqttConfig::records(client(), &topic), "gw").unwrap();
        let (mut feeding, outbox) = Feeding::new();
        let mut total = 0;
        // Only from its first session on does the broker keep anything for it.
        let start = async |stop: &CancellationToken| {
            Receiver::start(options.clone(), stop.clone()).await.unwrap()
        };
        let stop = CancellationToken::new();
        let receiver = start(&stop).await;
        let log = broker.dir.path().join("log");
        until("it has subscribed", || std::fs::read_to_string(&log).unwrap().contains(&prefix))
            .await;
        let running = Running::start(uplink, outbox, &feeding, 4096);
        let mut receiver = Some((receiver, stop));
        for round in 0..5 {
            feeding.put((round * 100..round * 100 + 100).map(score).collect());
            until("the broker has them", || running.left() == round * 100 + 100).await;
            if let Some((receiver, stop)) = receiver.take() {
                stop.cancel();
                total += receiver.join().await.unwrap().records;
            } else {
                let stop = CancellationToken::new();
                receiver = Some((start(&stop).await, stop));
            }
        }
        let stop = CancellationToken::new();
        let (receiver, stop) = match receiver {
            Some(running) => running,
            None => (start(&stop).await, stop),
        };
        until("it has all", || total + receiver.counts().records == 500).await;
        stop.cancel();
        receiver.join().await.unwrap();
        running.end().await;
        each_once(folder.path(), &feeding.ids);
    }
}
