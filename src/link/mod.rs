//! What the clients at the edges share: the state of a link, the wait between two tries, secrets, certificates,
//! and one MQTT connection whatever its version.
//!
//! `ingest`, `uplink` and `feed` call it. It promises that no secret gets into a message or a log, and that a
//! connection is never used again after its first error. It does not decide when to connect: its callers do.

pub mod mqtt;
pub mod pump;
pub mod rival;
pub mod secret;
pub mod terms;
pub mod tls;
pub mod topic;
mod v4;
mod v5;

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::time::{Span, Timestamp};

/// How a link to a broker or a server stands. Read by `/readyz`, the live status and `doctor`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum LinkStatus {
    /// The first try has not ended yet.
    #[default]
    Connecting,
    /// It works.
    Up {
        /// Since when.
        since: Timestamp,
        /// Whether the broker still had this node's session. Always false for an uplink.
        session_present: bool,
        /// Subscriptions that the broker refused, each with its reason; tried again from time to time.
        refused: Vec<String>,
    },
    /// It failed and is tried again after a wait.
    Down {
        /// Since when.
        since: Timestamp,
        /// What failed last.
        error: String,
        /// Tries since it was up.
        retries: u64,
    },
    /// It failed, and a try is under way.
    Probing {
        /// Since when it is down.
        since: Timestamp,
        /// What failed last.
        error: String,
        /// Tries since it was up.
        retries: u64,
    },
    /// It was told to stop and has.
    Stopped,
}

impl LinkStatus {
    /// Whether the link does all it should.
    pub fn is_ready(&self) -> bool {
        matches!(self, LinkStatus::Up { refused, .. } if refused.is_empty())
    }

    /// What is wrong, for people; `None` where nothing is.
    pub fn error(&self) -> Option<String> {
        match self {
            LinkStatus::Down { error, .. } | LinkStatus::Probing { error, .. } => {
                Some(error.clone())
            }
            LinkStatus::Up { refused, .. } if !refused.is_empty() => Some(refused.join("; ")),
            _ => None,
        }
    }
}

/// Settings that no connection can be made with.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Not an address.
    #[error("`{url}` is not an address that can be used: {why}")]
    Url {
        /// As typed.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The environment has no such variable, or it is not text.
    #[error("environment variable `{0}` is not set (or is not text); set it before forebay starts")]
    Variable(String),
    /// A secret's file cannot be read.
    #[error("cannot read the secret in `{}`: {source}", path.display())]
    SecretFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A certificate or a key cannot be used.
    #[error("cannot use the {what} in `{}`: {why}", path.display())]
    Pem {
        /// `certificate authority`, `certificate` or `key`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The system has no certificate authorities.
    #[error("the system has no certificate authorities ({0}); name one with `ca`")]
    NoRoots(String),
    /// One of two settings that only work together.
    #[error("`{present}` is set without `{missing}`; set both or none")]
    Pair {
        /// The one that is there.
        present: &'static str,
        /// The one that is not.
        missing: &'static str,
    },
    /// A setting outside of what the protocol allows.
    #[error("`{key}` is {found}; it must be {expected}")]
    Range {
        /// The setting.
        key: &'static str,
        /// As typed.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
}

/// The wait between two tries: doubles up to a cap, and is spread, so that a fleet does not come back as one.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    /// Starts at a quarter of a second and never waits longer than `cap`.
    pub fn new(cap: Span) -> Backoff {
        let cap = cap.to_std().max(Duration::from_millis(10));
        Backoff { base: Duration::from_millis(250).min(cap), cap, failures: 0 }
    }

    /// Notes a failure and says how long to wait: between a half and the whole of the doubled time.
    pub fn wait(&mut self) -> Duration {
        let doubled = self.base.saturating_mul(1 << self.failures.min(16)).min(self.cap);
        self.failures = self.failures.saturating_add(1);
        doubled.mul_f64(0.5 + 0.5 * fastrand::f64())
    }

    /// Starts over: the link worked.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_are_spread() {
        let mut backoff = Backoff::new(Span::seconds(30));
        let mut limit = Duration::from_millis(250);
        for _ in 0..40 {
            let wait = backoff.wait();
            assert!(wait <= limit && wait >= limit / 2, "{wait:?} of {limit:?}");
            limit = (limit * 2).min(Duration::from_secs(30));
        }
        backoff.reset();
        assert!(backoff.wait() <= Duration::from_millis(250));
        let waits: std::collections::BTreeSet<_> =
            (0..20).map(|_| Backoff::new(Span::seconds(30)).wait()).collect();
        assert!(waits.len() > 1, "every node would come back at the same moment");
    }

    #[test]
    fn a_refused_subscription_is_not_ready() {
        let up = |refused: Vec<String>| LinkStatus::Up {
            since: Timestamp(0),
            session_present: false,
            refused,
        };
        assert!(up(Vec::new()).is_ready());
        assert!(!up(vec!["`a/b`: not authorized".into()]).is_ready());
        assert_eq!(
            up(vec!["`a/b`: not authorized".into()]).error().unwrap(),
            "`a/b`: not authorized"
        );
    }
}
