//! A campaign against a real node: it is killed, cut off, filled up and starved of power while numbered readings go
//! through it, and at the end every one of them is accounted for.
//!
//! `cli/torture` calls [`run`]. Around a node that is `forebay run` as a child process stand a broker (Mosquitto, or one
//! in this process), a publisher that numbers every reading, far sides (`forebay receive`, child processes too) behind
//! links that fail, and a disk of its own where this machine lets us make one. Faults and their moments come from a seed; how far the node has come when they
//! strike does not, so the same seed finds the same trouble often, not always. It promises that what it could not do is
//! said, and that nothing it started outlives it, unless it is itself killed with SIGKILL.

mod books;
mod campaign;
mod disk;
mod far;
mod finish;
mod hub;
mod numbers;
mod process;
mod publisher;
mod report;
pub mod simulated;
mod site;
mod strikes;
mod undisturbed;
mod weather;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use campaign::run;
pub use report::{AtTarget, Report};

use crate::record::Record;

/// Reads the records of a Parquet file that a receiver finished.
pub type ReadTable = fn(&Path) -> Result<Vec<Record>, String>;

/// What a campaign does.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where random numbers start.
    pub seed: u64,
    /// How often the node is killed.
    pub kills: u64,
    /// How often a link is disturbed.
    pub cuts: u64,
    /// How often the disk is filled; `None`: once with every ten kills.
    pub full_disks: Option<u64>,
    /// How often the disk loses its power.
    pub power_cuts: u64,
    /// Readings a second.
    pub rate: u32,
    /// The broker; `None`: Mosquitto where it is installed, else the one in this process.
    pub broker: Option<BrokerKind>,
    /// Where the node's files, its log and its disk are made.
    pub folder: PathBuf,
    /// After so long no more faults follow, and the ledger is made.
    pub within: Duration,
    /// The program that is tortured; the receivers are the same.
    pub program: PathBuf,
    /// How what they kept is read.
    pub read_table: ReadTable,
    /// The ONNX Runtime library to use.
    pub onnxruntime: Option<PathBuf>,
}

/// A broker to torture with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerKind {
    /// The installed `mosquitto`, started on a free port.
    Mosquitto,
    /// In this process. It keeps nothing over a restart, so it is not restarted.
    InProcess,
}

/// How far a campaign is.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// What is going on.
    pub doing: &'static str,
    /// Faults so far: kills, disturbed links, power cuts.
    pub kills: u64,
    /// Links disturbed.
    pub cuts: u64,
    /// Power cuts.
    pub power_cuts: u64,
    /// Readings acknowledged by the broker.
    pub acknowledged: u64,
    /// Records at the far side; where there are several, at the one that has fewest.
    pub delivered: u64,
}

/// Why a campaign could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TortureError {
    /// A file cannot be written, or a program not started.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// A part of the world around the node failed.
    #[error(transparent)]
    World(#[from] crate::demo::DemoError),
    /// The broker in this process does not start.
    #[error(transparent)]
    Broker(#[from] crate::demo::broker::BrokerError),
    /// Mosquitto was asked for.
    #[error("`mosquitto` is not installed: install it, or use --broker in-process")]
    NoMosquitto,
    /// The node, or a receiver, does not start at all.
    #[error("the {what} is not ready within {within_s} s; its log is {}", log.display())]
    NotReady {
        /// Which of them.
        what: &'static str,
        /// How long was waited.
        within_s: u64,
        /// Where it says why.
        log: PathBuf,
    },
    /// There is nothing to compare with.
    #[error("the readings cannot be computed without a disturbance: {0}")]
    Undisturbed(String),
    /// A receiver's file is no table of records.
    #[error("{}: what a receiver kept cannot be read: {reason}", path.display())]
    Kept {
        /// The file, or the folder.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The disk does not come back.
    #[error("the disk does not come back after a power cut: {0}")]
    Disk(String),
    /// A part of the campaign ended that should not have.
    #[error("{0} ended unexpectedly")]
    Ended(&'static str),
}
