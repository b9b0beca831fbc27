//! What was refused, kept to look into: messages that a decoder rejected, records that the far side would not take.
//!
//! The ledger keeps one [`Shelf`] for the first kind, the outbox one for the second. A shelf is bounded: the oldest
//! goes when a new one comes. Nothing here counts as stored; it is not flushed by itself.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::codec;
use super::error::StoreError;
use super::kv::Kv;

/// Bytes kept of a payload.
const PAYLOAD_MAX: usize = 4096;
/// Bytes kept of a topic or a reason.
const TEXT_MAX: usize = 512;

/// Something that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
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
    space: u8,
    /// Numbers of the oldest one kept and of the next one.
    oldest: u64,
    next: u64,
}

impl Shelf {
    /// The shelf in key space `space`.
    pub(super) fn open(kv: Arc<dyn Kv>, space: u8) -> Result<Shelf, StoreError> {
        let mut shelf = Shelf { kv, space, oldest: 0, next: 0 };
        let mut numbers = Vec::new();
        for pair in shelf.kv.scan(&[space], &[space + 1]) {
            let (key, _) = pair?;
            numbers.extend(key.get(1..).and_then(|n| Some(u64::from_be_bytes(n.try_into().ok()?))));
        }
        if let (Some(first), Some(last)) = (numbers.first(), numbers.last()) {
            shelf.oldest = *first;
            shelf.next = last + 1;
        }
        Ok(shelf)
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
            why: head(why),
            topic: head(topic),
            payload: payload.get(..PAYLOAD_MAX).unwrap_or(payload).to_vec(),
            bytes: payload.len() as u64,
        };
        let bytes = codec::seal(&one).map_err(|e| StoreError::Encode {
            what: "a rejected message",
            seq: self.next,
            reason: e.to_string(),
        })?;
        self.kv.put(&self.key(self.next), &bytes)?;
        self.next += 1;
        while self.next - self.oldest > kept_max as u64 {
            self.kv.remove(&self.key(self.oldest))?;
            self.oldest += 1;
        }
        Ok(())
    }

    /// The newest `limit`, newest first.
    pub(super) fn newest(&self, limit: usize) -> Result<Vec<Quarantined>, StoreError> {
        let first = self.next.saturating_sub(limit as u64).max(self.oldest);
        let mut all = Vec::new();
        for number in (first..self.next).rev() {
            let bytes = self.kv.get(&self.key(number))?;
            all.extend(bytes.and_then(|bytes| codec::unseal(&bytes)));
        }
        Ok(all)
    }

    fn key(&self, number: u64) -> [u8; 9] {
        let mut key = [self.space; 9];
        key[1..].copy_from_slice(&number.to_be_bytes());
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
