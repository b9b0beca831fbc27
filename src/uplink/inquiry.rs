//! What was refused for good, and what an operator wants done with it: see it, send it once more, drop it.
//!
//! `uplink::run` hands an [`Inquiry`] to its [`Sender`] between two parcels. A full disk is an answer, not an end.

use std::sync::Arc;

use super::sender::Sender;
use super::{Outcome, Uplink};
use crate::command::quarantine::{self, Ask, Held, Inquiry};
use crate::store::{NOT_THERE, Quarantined, StoreError};
use crate::time::monotonic;

impl<U: Uplink> Sender<U> {
    /// Answers for what was refused.
    pub(super) async fn answer(&mut self, inquiry: Inquiry) -> Result<(), StoreError> {
        let Inquiry { ask, answer } = inquiry;
        let mut outcome = quarantine::Outcome::default();
        match ask {
            Ask::List(limit) => {
                let refused = self.with_outbox(move |outbox| outbox.refused(limit)).await?;
                outcome.held = refused.into_iter().map(held).collect();
            }
            Ask::Retry(numbers) => {
                for number in numbers {
                    match self.retry(number).await? {
                        Ok(()) => outcome.done.push(number),
                        Err(why) => drop(outcome.failed.insert(number, why)),
                    }
                }
            }
            Ask::Drop(numbers) => {
                for number in numbers {
                    match self.let_go(number).await? {
                        Ok(()) => outcome.done.push(number),
                        Err(why) => drop(outcome.failed.insert(number, why)),
                    }
                }
            }
        }
        // Who asked may be gone.
        let _ = answer.send(outcome);
        Ok(())
    }

    /// Sends a refused record once more; it stays refused in the books.
    async fn retry(&mut self, number: u64) -> Result<Result<(), String>, StoreError> {
        let parcel = match self.with_outbox(move |outbox| outbox.retry(number)).await? {
            Ok(parcel) => parcel,
            Err(why) => return Ok(Err(why.to_owned())),
        };
        let parcel = Arc::new(parcel);
        let sending = self.uplink.send(Arc::clone(&parcel), self.pace.level());
        let Outcome { error, wire, .. } = sending.await;
        self.pace.spent(wire, monotonic());
        self.spend(parcel.lane, wire).await?;
        if let Some(error) = error {
            return Ok(Err(error.to_string()));
        }
        tracing::info!(
            target = self.uplink.target(),
            parcel = parcel.id,
            "a refused record was taken"
        );
        self.let_go(number).await
    }

    /// Takes a refused record off the list, or says why it stays.
    async fn let_go(&mut self, number: u64) -> Result<Result<(), String>, StoreError> {
        match self.with_outbox(move |outbox| outbox.let_go(number)).await {
            Ok(true) => Ok(Ok(())),
            Ok(false) => Ok(Err(NOT_THERE.into())),
            Err(full @ StoreError::Full { .. }) => Ok(Err(full.to_string())),
            Err(error) => Err(error),
        }
    }
}

fn held(one: Quarantined) -> Held {
    let Quarantined { number, why, topic, payload, bytes } = one;
    let is_whole = payload.len() as u64 == bytes;
    let record = is_whole.then(|| serde_json::from_slice(&payload).ok()).flatten();
    Held { number, why, key: topic, bytes, record }
}
