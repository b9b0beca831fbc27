//! The far side: takes parcels over HTTP and from a broker, and keeps each record once, on disk, before it answers.
//!
//! `cli/receive` starts it; tests and campaigns use it as the far side. It promises that a record is synced to disk
//! before its parcel is answered with 2xx or acknowledged, and that a record that comes again, however it comes and
//! whatever happened in between, is counted as a repeat and not kept twice. It does not encrypt: a proxy does.

mod desk;
mod http;
mod ids;
mod mqtt;
mod shelf;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::{MqttConfig, Secret};
use crate::link::SetupError;

pub use shelf::{MakeTable, Pack, kept};

/// What is received, and where it is kept.
#[derive(Clone, Debug)]
pub struct ReceiveOptions {
    /// Folder of the records.
    pub folder: PathBuf,
    /// Where parcels can be posted. `None`: nowhere.
    pub listen: Option<String>,
    /// What a sender over HTTP has to show. `None`: anybody may post.
    pub token: Option<Secret>,
    /// A broker to subscribe at, and the topic filters.
    pub broker: Option<(MqttConfig, Vec<String>)>,
    /// What finished files become.
    pub pack: Pack,
    /// A file is finished at so many bytes of NDJSON.
    pub roll_bytes: u64,
    /// A file with records in it is finished after so long.
    pub roll_after: Duration,
    /// How many ids are remembered to find repeats; the oldest are forgotten.
    pub remember: usize,
}

impl ReceiveOptions {
    /// Parcels posted to a free port of loopback, kept as NDJSON: a far side on this machine.
    pub fn on_loopback(folder: &Path) -> ReceiveOptions {
        ReceiveOptions {
            folder: folder.to_owned(),
            listen: Some("127.0.0.1:0".into()),
            token: None,
            broker: None,
            pack: Pack { ndjson: true, table: None },
            roll_bytes: 64 << 20,
            roll_after: Duration::from_hours(1),
            remember: 2_000_000,
        }
    }
}

/// What was received since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Received {
    /// Parcels and publishes taken.
    pub parcels: u64,
    /// Different records, kept.
    pub records: u64,
    /// Records that came again.
    pub repeats: u64,
    /// Different records by lane; what a record is tells its lane.
    pub lanes: Lanes,
    /// Records that notices of loss speak of.
    pub lost: u64,
    /// Parcels turned away because they could not be read.
    pub unreadable: u64,
    /// Bytes of parcels as they came.
    pub bytes: u64,
    /// Different records that were in the folder at the start, as far as they are remembered.
    pub found: u64,
    /// Files finished.
    pub files: u64,
}

/// Counts by lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lanes {
    /// Alarm changes and notices of loss.
    pub alarm: u64,
    /// Scored windows.
    pub score: u64,
    /// Windows with features alone.
    pub feature: u64,
    /// Cleaned readings.
    pub raw: u64,
}

/// Why nothing can be received.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The folder cannot be used.
    #[error("{}: {what}: {source}; give another folder, or make room", path.display())]
    Folder {
        /// The file or folder.
        path: PathBuf,
        /// What cannot be done.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Two receivers would keep records twice.
    #[error("{}: another receiver keeps its records here; give each a folder of its own", .0.display())]
    InUse(PathBuf),
    /// The port cannot be had.
    #[error("cannot listen on {address}: {source}; change the address or stop what uses it")]
    Listen {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The broker's settings, or the token.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// A finished file cannot be turned into what was asked for.
    #[error("{}: cannot be finished: {reason}; its records are safe in it", path.display())]
    Pack {
        /// The file that was to be finished.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A part ended that should not have.
    #[error("the receiver's {0} ended unexpectedly")]
    Ended(&'static str),
}

/// A running receiver.
pub struct Receiver {
    address: Option<SocketAddr>,
    counts: watch::Receiver<Received>,
    desk: std::thread::JoinHandle<Result<(), ReceiveError>>,
    door: desk::Door,
    edges: JoinSet<()>,
    ended: tokio::sync::oneshot::Receiver<()>,
    stop: CancellationToken,
}

impl Receiver {
    /// Opens the folder, finishes what an earlier receiver left, and takes parcels until `stop`.
    ///
    /// # Errors
    /// The folder, the port, the token or the broker's settings cannot be used.
    pub async fn start(
        options: ReceiveOptions,
        stop: CancellationToken,
    ) -> Result<Receiver, ReceiveError> {
        let guard = options.token.as_ref().map(crate::link::secret::resolve).transpose()?;
        let subscriber = match &options.broker {
            Some((broker, filters)) => Some(mqtt::Subscriber::new(broker, filters)?),
            None => None,
        };
        let listener = match &options.listen {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let address = listener.as_ref().and_then(|listener| listener.local_addr().ok());
        let opened = tokio::task::spawn_blocking(move || desk::open(&options)).await;
        let (desk, door, counts) = opened.map_err(|_| ReceiveError::Ended("start"))??;
        let (ending, ended) = tokio::sync::oneshot::channel();
        let run = move || {
            let result = desk.run();
            drop(ending);
            result
        };
        let desk = std::thread::Builder::new().name("desk".into()).spawn(run);
        let desk = desk.map_err(|_| ReceiveError::Ended("desk"))?;
        let mut edges = JoinSet::new();
        if let Some(listener) = listener {
            edges.spawn(http::serve(listener, door.clone(), counts.clone(), guard, stop.clone()));
        }
        edges.spawn(clock(door.clone(), stop.clone()));
        if let Some(subscriber) = subscriber {
            edges.spawn(subscriber.run(door.clone(), stop.clone()));
        }
        Ok(Receiver { address, counts, desk, door, edges, ended, stop })
    }

    /// Where parcels can be posted.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// What was received so far.
    pub fn counts(&self) -> Received {
        self.counts.borrow().clone()
    }

    /// Waits for the stop, finishes the open file and says what was received.
    ///
    /// # Errors
    /// The disk failed. What was answered is on it all the same.
    pub async fn join(mut self) -> Result<Received, ReceiveError> {
        tokio::select! {
            () = self.stop.cancelled() => {}
            _ = &mut self.ended => self.stop.cancel(),
        }
        while self.edges.join_next().await.is_some() {}
        // Connections over HTTP may still be open. An error: the desk has ended, and says why.
        let _ = self.door.send(desk::Letter::Close).await;
        let desk = self.desk;
        let result = tokio::task::spawn_blocking(move || desk.join()).await;
        let result = result.map_err(|_| ReceiveError::Ended("desk"))?;
        result.unwrap_or(Err(ReceiveError::Ended("desk")))?;
        Ok(self.counts.borrow().clone())
    }
}

/// Lets the desk notice that a file has become old.
async fn clock(door: desk::Door, stop: CancellationToken) {
    let second = Duration::from_secs(1);
    while tokio::time::timeout(second, stop.cancelled()).await.is_err() {
        if door.send(desk::Letter::Clock).await.is_err() {
            return;
        }
    }
}

async fn listen(address: &str) -> Result<TcpListener, ReceiveError> {
    let failed = |source| ReceiveError::Listen { address: address.to_owned(), source };
    TcpListener::bind(address).await.map_err(failed)
}
