//! What the tests of the edges share: a real Mosquitto, a link that can be cut, a plain publisher and subscriber.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it skips"
)]

pub mod bytes;
pub mod door;
pub mod feeding;
pub mod records;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use forebay::config::{MqttConfig, MqttVersion};
use forebay::time::monotonic;
use rumqttc::{AsyncClient, Event, MqttOptions, Outgoing, Packet, QoS};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Longest wait for anything that should happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A Mosquitto of our own on a free port; killed when dropped.
pub struct Mosquitto {
    pub port: u16,
    pub dir: TempDir,
    child: Option<Child>,
}

impl Mosquitto {
    /// Starts it with these lines in its config; `{dir}` stands for its folder. `None`: it is not installed, and
    /// the test has said so. In CI that is a failure.
    pub fn start(config: &str) -> Option<Mosquitto> {
        Mosquitto::start_with(|_| config.to_owned())
    }

    /// As `start`, with a folder to put files into first.
    pub fn start_with(config: impl FnOnce(&Path) -> String) -> Option<Mosquitto> {
        let Some(_) = binary() else {
            assert!(std::env::var_os("CI").is_none(), "mosquitto must be installed in CI");
            println!("skipped: mosquitto not installed (Debian: apt-get install mosquitto)");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let text = config(dir.path()).replace("{dir}", dir.path().to_str().unwrap());
        // Mosquitto run by root would drop its rights and then not reach the folder.
        let text = format!("user root\nlistener {port} 127.0.0.1\n{text}\n");
        std::fs::write(dir.path().join("mosquitto.conf"), text).unwrap();
        let mut broker = Mosquitto { port, dir, child: None };
        broker.go();
        Some(broker)
    }

    /// Starts it again after [`Mosquitto::stop`].
    pub fn go(&mut self) {
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        let child = Command::new(binary().unwrap())
            .arg("-c")
            .arg(self.dir.path().join("mosquitto.conf"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        wait_for_port(self.port, || std::fs::read_to_string(self.dir.path().join("log")).unwrap());
    }

    /// Ends it as an operator would; it saves its sessions where its config says so.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
            child.wait().unwrap();
        }
    }

    /// Stops it in its tracks, with its connections open, or lets it go on.
    pub fn freeze(&self, frozen: bool) {
        use rustix::process::{Pid, Signal, kill_process};
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    pub fn client(&self, version: MqttVersion) -> MqttConfig {
        MqttConfig {
            url: format!("mqtt://127.0.0.1:{}", self.port),
            version,
            ..MqttConfig::default()
        }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn binary() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join("mosquitto")).find(|file| file.is_file())
}

pub fn free_port() -> u16 {
    forebay::demo::ports::free_port().unwrap()
}

pub fn wait_for_port(port: u16, log: impl Fn() -> String) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let due = monotonic() + PATIENCE;
    while TcpStream::connect_timeout(&address, Duration::from_millis(50)).is_err() {
        assert!(monotonic() < due, "nobody listens on {port}: {}", log());
        std::thread::yield_now();
    }
}

/// Waits until `done`, or fails with `what`.
pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let due = monotonic() + PATIENCE;
    while !done() {
        assert!(monotonic() < due, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A TCP proxy whose link can be cut and mended.
pub struct Proxy {
    pub port: u16,
    cut: std::sync::Arc<std::sync::Mutex<CancellationToken>>,
    up: std::sync::Arc<std::sync::atomic::AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub async fn to(target: u16) -> Proxy {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cut = std::sync::Arc::new(std::sync::Mutex::new(CancellationToken::new()));
        let up = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        let (cuts, ups) = (cut.clone(), up.clone());
        let task = tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                if !ups.load(std::sync::atomic::Ordering::SeqCst) {
                    continue;
                }
                let cut = cuts.lock().unwrap().clone();
                tokio::spawn(async move {
                    let address = (Ipv4Addr::LOCALHOST, target);
                    let Ok(mut far) = tokio::net::TcpStream::connect(address).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        () = cut.cancelled() => {}
                    }
                });
            }
        });
        Proxy { port, cut, up, task }
    }

    /// Cuts all connections; new ones work unless the link is down.
    pub fn cut(&self) {
        std::mem::take(&mut *self.cut.lock().unwrap()).cancel();
    }

    pub fn set_up(&self, up: bool) {
        self.up.store(up, std::sync::atomic::Ordering::SeqCst);
        if !up {
            self.cut();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn options(id: &str, port: u16) -> MqttOptions {
    let mut options = MqttOptions::new(id, "127.0.0.1", port);
    options.set_max_packet_size(64 << 20, 64 << 20);
    options.set_inflight(90);
    options
}

/// Publishes all, and returns when the broker has acknowledged them (QoS 1) or they are written (QoS 0).
pub async fn publish(port: u16, qos: QoS, messages: Vec<(String, Vec<u8>)>) {
    send_all(port, qos, false, messages).await;
}

/// The same at QoS 1, for the broker to keep for those who subscribe later.
pub async fn publish_retained(port: u16, messages: Vec<(String, Vec<u8>)>) {
    send_all(port, QoS::AtLeastOnce, true, messages).await;
}

async fn send_all(port: u16, qos: QoS, retain: bool, messages: Vec<(String, Vec<u8>)>) {
    let count = messages.len();
    let (client, mut events) = AsyncClient::new(options(&unique("pub"), port), 100);
    let sender = tokio::spawn(async move {
        for (topic, payload) in messages {
            client.publish(topic, qos, retain, payload).await.unwrap();
        }
        client
    });
    let mut done = 0;
    while done < count {
        match tokio::time::timeout(PATIENCE, events.poll()).await.unwrap().unwrap() {
            Event::Incoming(Packet::PubAck(_)) if qos == QoS::AtLeastOnce => done += 1,
            Event::Outgoing(Outgoing::Publish(_)) if qos == QoS::AtMostOnce => done += 1,
            _ => {}
        }
    }
    let client = sender.await.unwrap();
    client.disconnect().await.unwrap();
    while !matches!(events.poll().await, Err(_) | Ok(Event::Outgoing(Outgoing::Disconnect))) {}
}

/// Everything that is published on a filter, retained messages too, from now on.
pub async fn subscribe(port: u16, filter: &str) -> mpsc::Receiver<(String, Vec<u8>, bool)> {
    let mut settings = options(&unique("sub"), port);
    settings.set_keep_alive(Duration::from_mins(1));
    let (client, mut events) = AsyncClient::new(settings, 10);
    let (sender, receiver) = mpsc::channel(100_000);
    client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let mut ready = Some(ready);
    tokio::spawn(async move {
        let _client = client;
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::SubAck(_))) => drop(ready.take().map(|r| r.send(()))),
                Ok(Event::Incoming(Packet::Publish(p))) => {
                    if sender.send((p.topic, p.payload.to_vec(), p.retain)).await.is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(_) => return,
            }
        }
    });
    tokio::time::timeout(PATIENCE, is_ready).await.unwrap().unwrap();
    receiver
}

/// A name that no other client has.
pub fn unique(role: &str) -> String {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    format!("test-{role}-{}-{n}", std::process::id())
}

/// A certificate authority, a server certificate for 127.0.0.1 and a client certificate, made with openssl:
/// `ca.pem`, `server.pem`, `server.key`, `client.pem`, `client.key`.
pub fn certificates(dir: &Path) {
    let run = |arguments: &str| {
        let out = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(dir)
            .output()
            .expect("openssl is needed to make certificates");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    };
    let mut file = std::fs::File::create(dir.join("leaf.ext")).unwrap();
    writeln!(file, "basicConstraints=CA:FALSE\nsubjectAltName=IP:127.0.0.1,DNS:localhost").unwrap();
    run(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca.key -out ca.pem -days 30 -subj /CN=test-ca",
    );
    for who in ["server", "client"] {
        run(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {who}.key -out {who}.csr -subj /CN={who}"
        ));
        run(&format!(
            "x509 -req -in {who}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {who}.pem -days 30 -extfile leaf.ext"
        ));
    }
}
