//! A Mosquitto of our own: started on a free loopback port with a config file of ours, ended when dropped.
//!
//! `cli/bench`, `torture` and tests use it where the program is installed (Debian package `mosquitto`). It touches no
//! Mosquitto that is already running.

use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::DemoError;
use super::ports::free_port;
use crate::time::monotonic;

/// Where Debian puts it, besides the search path.
const PLACES: [&str; 3] = ["mosquitto", "/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"];
/// Tells folders of several in one process apart.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// What it has on disk.
#[derive(Clone, Copy, Debug)]
enum Keeps {
    Nothing,
    Sessions,
}

/// A running Mosquitto.
#[derive(Debug)]
pub struct Mosquitto {
    child: Child,
    folder: PathBuf,
    port: u16,
}

impl Mosquitto {
    /// Starts one that keeps nothing on disk and lets `in_flight` messages a client be unacknowledged. `None` where it
    /// is not installed.
    pub fn start(in_flight: u16) -> Result<Option<Mosquitto>, DemoError> {
        Mosquitto::start_with(in_flight, Keeps::Nothing)
    }

    /// The same, but it keeps sessions and messages over a [`Mosquitto::stop`] in good order.
    pub fn start_lasting(in_flight: u16) -> Result<Option<Mosquitto>, DemoError> {
        Mosquitto::start_with(in_flight, Keeps::Sessions)
    }

    fn start_with(in_flight: u16, keeps: Keeps) -> Result<Option<Mosquitto>, DemoError> {
        let folder = std::env::temp_dir().join(format!(
            "forebay-mosquitto-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        ));
        std::fs::create_dir_all(&folder).map_err(failed)?;
        // The port may be taken between looking and starting: then the next is tried.
        for _ in 0..5 {
            let port = free_port().map_err(failed)?;
            let config = folder.join("mosquitto.conf");
            std::fs::write(&config, settings(port, in_flight, keeps, &folder)).map_err(failed)?;
            let Some(child) = spawn(&config).map_err(failed)? else {
                let _ = std::fs::remove_dir_all(&folder);
                return Ok(None);
            };
            let mut started = Mosquitto { child, folder: folder.clone(), port };
            if started.answers().map_err(failed)? {
                return Ok(Some(started));
            }
            std::fs::create_dir_all(&folder).map_err(failed)?;
        }
        let source = io::Error::other("it ended or did not answer within 10 s, five times");
        Err(failed(source))
    }

    /// Ends it as an operator would, and waits until it has saved what it keeps.
    pub fn stop(&mut self) -> Result<(), DemoError> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)
            .map_err(io::Error::from)
            .and_then(|()| self.child.wait().map(drop))
            .map_err(failed)
    }

    /// Starts it again after [`Mosquitto::stop`], on the same port.
    pub fn go(&mut self) -> Result<(), DemoError> {
        let child = spawn(&self.folder.join("mosquitto.conf")).map_err(failed)?;
        self.child = child.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        if self.answers().map_err(failed)? {
            return Ok(());
        }
        Err(failed(io::Error::other("it does not come back")))
    }

    /// `mqtt://127.0.0.1:PORT`, for both protocol versions.
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it takes connections.
    fn answers(&mut self) -> io::Result<bool> {
        let (_hold, tick) = std::sync::mpsc::channel::<()>();
        let began = monotonic();
        while began.elapsed() < Duration::from_secs(10) {
            if self.child.try_wait()?.is_some() {
                return Ok(false);
            }
            if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() {
                return Ok(true);
            }
            let _ = tick.recv_timeout(Duration::from_millis(10));
        }
        Ok(false)
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn failed(source: io::Error) -> DemoError {
    DemoError::Listen { what: "mosquitto", addr: "127.0.0.1".to_owned(), source }
}

fn settings(port: u16, in_flight: u16, keeps: Keeps, folder: &Path) -> String {
    let keeps = match keeps {
        Keeps::Nothing => "persistence false".to_owned(),
        // Run by root it would drop its rights, and then not reach the folder.
        Keeps::Sessions => {
            format!("user root\npersistence true\npersistence_location {}/", folder.display())
        }
    };
    format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\n{keeps}\nlog_type none\n\
         max_inflight_messages {in_flight}\nmax_queued_messages 0\nset_tcp_nodelay true\n"
    )
}

fn spawn(config: &Path) -> io::Result<Option<Child>> {
    for program in PLACES {
        let mut command = Command::new(program);
        command.arg("-c").arg(config).stdin(Stdio::null());
        match command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
            Ok(child) => return Ok(Some(child)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
