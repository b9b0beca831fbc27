//! The far side: `forebay receive` as a process of its own, one for each of the node's targets, each with its folder of
//! Parquet files.
//!
//! `campaign` starts, kills and restarts them, `finish` reads what they kept. What one counts ends with its process, so
//! it is asked before it is killed: its count of repeats is what it had said by then, and may be more.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::books::Books;
use super::process::{LOOK, Process, Recipe, free_address};
use super::{Options, TortureError};
use crate::time::monotonic;

/// A file of records is finished after so long, so that some are in the making when one is killed.
const ROLL_AFTER: &str = "5s";
/// How long one may take to begin.
const BEGINS_WITHIN: Duration = Duration::from_mins(1);

/// What a receiver has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// Different records.
    pub(super) records: u64,
    /// Records that came again.
    pub(super) repeats: u64,
}

/// A receiver.
#[derive(Debug)]
pub(super) struct Receiver {
    /// The node's name for the target.
    pub(super) name: &'static str,
    recipe: Recipe,
    folder: PathBuf,
    /// `None` while it is killed.
    process: Option<Process>,
    /// What earlier processes of it had said.
    repeats_before: u64,
    held: Held,
    /// How often it ended by itself.
    pub(super) exits: u64,
}

impl Receiver {
    /// One that takes parcels over HTTP.
    pub(super) fn over_http(options: &Options) -> Result<Receiver, TortureError> {
        Receiver::start("http", &[], options)
    }

    /// One that subscribes at a broker; its session is there when this returns.
    pub(super) async fn over_mqtt(
        options: &Options,
        broker: SocketAddr,
    ) -> Result<Receiver, TortureError> {
        let url = format!("mqtt://{broker}");
        let more = ["--broker", &url, "--topic", "forebay/#", "--client-id", "torture-receiver"];
        let receiver = Receiver::start("mqtt", &more, options)?;
        receiver.subscribed(1).await?;
        Ok(receiver)
    }

    /// Waits until its log says so for the `times`th time.
    async fn subscribed(&self, times: usize) -> Result<(), TortureError> {
        let due = monotonic() + BEGINS_WITHIN;
        while self.subscriptions() < times {
            if monotonic() > due {
                let (within_s, log) = (BEGINS_WITHIN.as_secs(), self.recipe.log.clone());
                return Err(TortureError::NotReady { what: "receiver", within_s, log });
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    fn subscriptions(&self) -> usize {
        let said = std::fs::read_to_string(&self.recipe.log).unwrap_or_default();
        said.matches("subscribed").count()
    }

    fn start(
        name: &'static str,
        more: &[&str],
        options: &Options,
    ) -> Result<Receiver, TortureError> {
        let failed = |source| TortureError::Io { what: "a receiver", source };
        let address = free_address().map_err(failed)?;
        let folder = options.folder.join(format!("received-{name}"));
        let mut arguments = vec!["receive".into(), "--out".into(), folder.clone().into_os_string()];
        let listen = address.to_string();
        arguments.extend(["--listen", &listen, "--roll-after", ROLL_AFTER].map(Into::into));
        arguments.extend(more.iter().map(|argument| OsString::from(*argument)));
        let log = options.folder.join(format!("receiver-{name}.log"));
        let recipe = Recipe { program: options.program.clone(), arguments, log, address };
        let process = Some(recipe.start(&[]).map_err(failed)?);
        let (repeats_before, held, exits) = (0, Held::default(), 0);
        Ok(Receiver { name, recipe, folder, process, repeats_before, held, exits })
    }

    /// Where it takes parcels.
    pub(super) fn address(&self) -> SocketAddr {
        self.recipe.address
    }

    /// What it has; what it had when it was last asked while it does not answer.
    pub(super) async fn held(&mut self) -> Held {
        let told = match &self.process {
            Some(process) => process.counts().await,
            None => None,
        };
        if let Some(told) = told {
            let count = |name: &str| told.get(name).and_then(serde_json::Value::as_u64);
            let count = |name: &str| count(name).unwrap_or_default();
            let repeats = self.repeats_before + count("repeats");
            self.held = Held { records: count("found") + count("records"), repeats };
        }
        self.held
    }

    /// SIGKILL. It stays away until [`Receiver::go`].
    pub(super) async fn kill(&mut self) {
        self.repeats_before = self.held().await.repeats;
        self.process = None;
    }

    /// Starts it again.
    pub(super) fn go(&mut self) -> Result<(), TortureError> {
        let process = self.recipe.start(&[]);
        let failed = |source| TortureError::Io { what: "a receiver", source };
        self.process = Some(process.map_err(failed)?);
        Ok(())
    }

    /// Sees to it that its broker can give it all that it has: one that waits before it tries again begins anew.
    pub(super) async fn renew(&mut self) -> Result<(), TortureError> {
        let before = self.subscriptions();
        if before == 0 {
            return Ok(());
        }
        self.kill().await;
        self.go()?;
        self.subscribed(before + 1).await
    }

    /// Starts it again where it has ended by itself, as a supervisor would.
    pub(super) fn watch(&mut self) -> Result<(), TortureError> {
        if self.process.as_mut().is_some_and(Process::has_ended) {
            self.exits += 1;
            self.repeats_before = self.held.repeats;
            self.go()?;
        }
        Ok(())
    }

    /// Ends it in good order: whether it finished its files within this time.
    pub(super) async fn stop(&mut self, within: Duration) -> bool {
        self.held().await;
        match self.process.take() {
            Some(process) => process.stop(within).await,
            None => false,
        }
    }

    /// Enters everything that it kept into the books, file by file. It must have stopped.
    pub(super) fn read(&self, options: &Options, books: &mut Books) -> Result<(), TortureError> {
        let unreadable =
            |path: &Path, reason: String| TortureError::Kept { path: path.to_owned(), reason };
        let listed = std::fs::read_dir(&self.folder).and_then(Iterator::collect);
        let listed: Vec<std::fs::DirEntry> =
            listed.map_err(|e| unreadable(&self.folder, e.to_string()))?;
        let mut tables: Vec<PathBuf> = listed.iter().map(std::fs::DirEntry::path).collect();
        tables.retain(|path| path.extension().is_some_and(|ending| ending == "parquet"));
        tables.sort();
        for table in tables {
            let records = (options.read_table)(&table).map_err(|e| unreadable(&table, e))?;
            for record in records {
                books.take(record);
            }
        }
        Ok(())
    }
}
