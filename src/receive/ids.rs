//! The ids of the records that are kept, to know a repeat: 16 bytes each, in memory and beside every finished file.
//!
//! `desk` asks it about every record. It promises that a digest means the same in every release.

use std::collections::{HashSet, VecDeque};

use sha2::{Digest, Sha256};

/// What is kept of an id.
pub(super) const DIGEST_LEN: usize = 16;

/// An id's digest: different ids have different ones, as far as anybody will ever see.
pub(super) fn digest(id: &str) -> u128 {
    let whole = Sha256::digest(id.as_bytes());
    whole.iter().take(DIGEST_LEN).fold(0, |all, byte| all << 8 | u128::from(*byte))
}

/// Digests; the oldest are forgotten.
#[derive(Debug)]
pub(super) struct Ids {
    known: HashSet<u128>,
    order: VecDeque<u128>,
    most: usize,
}

impl Ids {
    pub(super) fn new(most: usize) -> Ids {
        Ids { known: HashSet::new(), order: VecDeque::new(), most: most.max(1) }
    }

    pub(super) fn contains(&self, digest: u128) -> bool {
        self.known.contains(&digest)
    }

    /// Whether it is new.
    pub(super) fn insert(&mut self, digest: u128) -> bool {
        if !self.known.insert(digest) {
            return false;
        }
        self.order.push_back(digest);
        if self.order.len() > self.most
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten_and_digests_stay_what_they_are() {
        let mut ids = Ids::new(2);
        assert!(ids.insert(digest("a")) && ids.insert(digest("b")) && !ids.insert(digest("a")));
        assert!(ids.insert(digest("c")));
        assert!(!ids.contains(digest("a")) && ids.contains(digest("b")) && ids.len() == 2);
        // Files of older releases hold it.
        assert_eq!(digest("a"), 0xca97_8112_ca1b_bdca_fac2_31b3_9a23_dc4d);
    }
}
