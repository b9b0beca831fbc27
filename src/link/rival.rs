//! Another client with this one's id: each connection of one throws the other out, for ever.
//!
//! `ingest/mqtt.rs` and `uplink/courier.rs` ask it how to take the end of a connection. MQTT 5 says it; with 3.1.1 the broker
//! just hangs up, so it takes several times in a row to suspect it.

use std::time::Duration;

use super::mqtt::Lost;

/// A connection that the broker closed was a good one if it held this long: of two clients with one id none does.
const STEADY_AFTER: Duration = Duration::from_mins(2);
/// Connections in a row that the broker closed before that, until another client is suspected.
const CLOSED_MAX: u32 = 3;

/// What speaks for another client.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rival {
    /// Connections in a row that the broker closed soon.
    closed: u32,
}

impl Rival {
    /// Takes note of the end of a connection that `held` so long; `None`: it was never made. Gives what to tell people
    /// where another client is suspected.
    pub fn ended(
        &mut self,
        lost: Option<&Lost>,
        held: Option<Duration>,
        client_id: &str,
    ) -> Option<String> {
        let is_taken = matches!(lost, Some(Lost::TakenOver));
        if !Rival::is_closed(lost) || held.is_none() {
            self.closed = 0;
        } else {
            let before = if Rival::is_good(lost, held) { 0 } else { self.closed };
            self.closed = if is_taken { (before + 1).max(CLOSED_MAX) } else { before + 1 };
        }
        if self.closed < CLOSED_MAX {
            return None;
        }
        let what = if is_taken {
            format!(
                "another client with the client id `{client_id}` has taken this node's session over"
            )
        } else {
            format!(
                "the broker closes every connection soon after it was made; does another client have the client id `{client_id}`"
            )
        };
        Some(what)
    }

    /// Whether a connection that the broker closed held long enough to trust the next one.
    pub fn is_good(lost: Option<&Lost>, held: Option<Duration>) -> bool {
        Rival::is_closed(lost) && held.is_some_and(|held| held >= STEADY_AFTER)
    }

    /// Whether the broker ended the connection.
    pub fn is_closed(lost: Option<&Lost>) -> bool {
        matches!(lost, Some(Lost::TakenOver | Lost::Closed(_)))
    }

    /// Whether it was suspected before the last end: then it was told.
    pub fn is_known(self) -> bool {
        self.closed > CLOSED_MAX
    }
}
