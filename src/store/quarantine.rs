//! What was refused, kept to look into: messages that a decoder rejected, records that the far side would not take.
//!
//! The ledger keeps one [`Shelf`] for the first kind, the outbox one for the second. A shelf is bounded: the oldest
//! goes when a new one comes. Nothing here counts as stored; it is not flushed by itself.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::kv::Kv;
use super::marks;

/// The shelf of messages that a decoder rejected.
pub(super) const REJECTED: &str = "q";

/// Bytes kept of a topic or a reason.
const TEXT_MAX: usize = 512;
/// Largest value handed to sled: above 7 KB sled 0.34.7 makes files that it never syncs.
const VALUE_MAX: usize = 6 * 1024;

/// Something that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// Its number on the shelf.
    #[serde(skip)]
    pub number: u64,
    /// Why.
    pub why: String,
    /// The topic it came on, or the key of the record.
    pub topic: String,
    /// Its first bytes.
    pub payload: Vec<u8>,
    /// How many bytes there were.
    pub bytes: u64,
}

/// A bounded row of them.
pub(super) struct Shelf {
    kv: Arc<dyn Kv>,
    prefix: Vec<u8>,
    /// Bytes kept of a payload.
    payload_max: usize,
    /// Numbers of the oldest one kept and of the next one.
    oldest: u64,
    next: u64,
}

impl Shelf {
    /// The shelf called `name`.
    pub(super) fn open(
        kv: Arc<dyn Kv>,
        name: &str,
        payload_max: usize,
    ) -> Result<Shelf, StoreError> {
        let mut prefix = name.as_bytes().to_vec();
        prefix.push(0);
        let mut shelf = Shelf { kv, prefix, payload_max, oldest: 0, next: 0 };
        let numbers = shelf.numbers()?;
        if let (Some(first), Some(last)) = (numbers.first(), numbers.last()) {
            shelf.oldest = *first;
            shelf.next = last + 1;
        }
        Ok(shelf)
    }

    fn numbers(&self) -> Result<Vec<u64>, StoreError> {
        let mut end = self.prefix.clone();
        end.pop();
        end.push(1);
        let mut numbers = Vec::new();
        for pair in self.kv.scan(&self.prefix, &end) {
            let (key, _) = pair?;
            let number = key.get(self.prefix.len()..).and_then(|rest| rest.first_chunk());
            numbers.extend(number.map(|number| u64::from_be_bytes(*number)));
        }
        numbers.dedup();
        Ok(numbers)
    }

    /// Keeps one more, and at most `kept_max`.
    pub(super) fn add(
        &mut self,
        why: &str,
        topic: &str,
        payload: &[u8],
        kept_max: usize,
    ) -> Result<(), StoreError> {
        if kept_max == 0 {
            return Ok(());
        }
        let one = Quarantined {
            number: self.next,
            why: head(why),
            topic: head(topic),
            payload: payload.get(..self.payload_max).unwrap_or(payload).to_vec(),
            bytes: payload.len() as u64,
        };
        let bytes = marks::seal(&one).map_err(|e| StoreError::Encode {
            what: "what is quarantined",
            seq: self.next,
            reason: e.to_string(),
        })?;
        for (part, value) in bytes.chunks(VALUE_MAX).enumerate() {
            self.kv.put(&self.key(self.next, part as u16), value)?;
        }
        self.next += 1;
        while self.next - self.oldest > kept_max as u64 {
            self.remove(self.oldest)?;
            self.oldest += 1;
        }
        Ok(())
    }

    /// The newest `limit`, newest first.
    pub(super) fn newest(&self, limit: usize) -> Result<Vec<Quarantined>, StoreError> {
        let mut all = Vec::new();
        for number in self.numbers()?.into_iter().rev().take(limit) {
            all.extend(self.get(number)?);
        }
        Ok(all)
    }

    /// The one with this number.
    pub(super) fn get(&self, number: u64) -> Result<Option<Quarantined>, StoreError> {
        let mut bytes = Vec::new();
        for part in 0.. {
            let Some(value) = self.kv.get(&self.key(number, part))? else { break };
            bytes.extend_from_slice(&value);
        }
        let one: Option<Quarantined> = marks::unseal(&bytes);
        Ok(one.map(|one| Quarantined { number, ..one }))
    }

    /// Takes one off the shelf; says whether it was there.
    pub(super) fn remove(&mut self, number: u64) -> Result<bool, StoreError> {
        let mut parts = 0;
        while self.kv.remove(&self.key(number, parts))?.is_some() {
            parts += 1;
        }
        Ok(parts > 0)
    }

    fn key(&self, number: u64, part: u16) -> Vec<u8> {
        let mut key = self.prefix.clone();
        key.extend_from_slice(&number.to_be_bytes());
        key.extend_from_slice(&part.to_be_bytes());
        key
    }
}

/// The start of `text`, cut between characters.
fn head(text: &str) -> String {
    let mut end = text.len().min(TEXT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}
