//! A connection that is polled by a task of its own, for clients that send.
//!
//! `uplink/mqtt.rs` and `feed/mqtt.rs` call it. A poll must not be dropped half way, and must go on while its owner
//! waits for something else; so the task polls, and passes on what its owner wants to know. Dropping the
//! [`Pump`] ends the connection.

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::SetupError;
use super::mqtt::{Client, Connection, Dial, Event, Lost};
use super::terms::Terms;

/// A connection under way.
#[derive(Debug)]
pub struct Pump {
    /// Asks it to send.
    pub client: Client,
    /// What the broker allows.
    pub terms: Terms,
    /// What happened; the last entry says why it ended.
    pub events: mpsc::Receiver<Result<Event, Lost>>,
    task: JoinHandle<()>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum PumpError {
    /// The settings do not allow one.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// It could not be made.
    #[error(transparent)]
    Lost(#[from] Lost),
}

impl Pump {
    /// Connects, and passes on the events that are `wanted`, up to `capacity` at a time: an owner that leaves more
    /// than that unread stops the connection.
    ///
    /// # Errors
    /// The settings do not allow a connection, or the broker could not be reached or refused it.
    pub async fn open(
        dial: &Dial,
        capacity: usize,
        wanted: fn(&Event) -> bool,
    ) -> Result<Pump, PumpError> {
        let (client, mut connection) = dial.dial().await?;
        // Nothing is in flight before the first answer, so the caller may drop this.
        let terms = match connection.poll().await? {
            Event::Connected { terms, .. } => terms,
            other => {
                let why = format!("the broker answered {other:?} to the connection");
                return Err(Lost::Broken(why).into());
            }
        };
        let (sender, events) = mpsc::channel(capacity.max(1));
        let task = tokio::spawn(poll(connection, sender, wanted));
        Ok(Pump { client, terms, events, task })
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn poll(
    mut connection: Connection,
    sender: mpsc::Sender<Result<Event, Lost>>,
    wanted: fn(&Event) -> bool,
) {
    loop {
        let event = connection.poll().await;
        let ended = matches!(event, Err(_) | Ok(Event::Closed));
        if ended || event.as_ref().is_ok_and(wanted) {
            // A receiver that is gone has dropped the pump, too.
            if sender.send(event).await.is_err() {
                return;
            }
        }
        if ended {
            return;
        }
    }
}
