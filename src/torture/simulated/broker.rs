//! A broker that keeps every message until it is acknowledged: after a lost connection it sends again what was under
//! way, neighbours out of order, and now and then it sends one twice for no reason.

use std::collections::VecDeque;

use fastrand::Rng;

use super::{SimulatedError, ensure};

/// Messages under way without acknowledgement.
const WINDOW: usize = 30;

#[derive(Default)]
pub(super) struct Broker {
    waiting: VecDeque<u64>,
    /// In the order of sending: token and message.
    under_way: VecDeque<(u64, u64)>,
    pub(super) connection: u64,
    token: u64,
    pub(super) redelivered: u64,
}

impl Broker {
    pub(super) fn publish(&mut self, message: u64) {
        self.waiting.push_back(message);
    }

    /// Up to `most` messages, as the window lets them: token and number.
    pub(super) fn deliver(&mut self, random: &mut Rng, most: usize) -> Vec<(u64, u64)> {
        let mut sent = Vec::new();
        while sent.len() < most && self.under_way.len() < WINDOW {
            let Some(message) = self.waiting.pop_front() else { break };
            let times = if random.u8(..40) == 0 { 2 } else { 1 };
            for _ in 0..times {
                self.token += 1;
                self.under_way.push_back((self.token, message));
                sent.push((self.token, message));
            }
            self.redelivered += times - 1;
        }
        sent
    }

    pub(super) fn acknowledge(
        &mut self,
        connection: u64,
        token: u64,
    ) -> Result<(), SimulatedError> {
        ensure(connection <= self.connection, || format!("there was no connection {connection}"))?;
        if connection < self.connection {
            return Ok(());
        }
        let first = self.under_way.pop_front().map(|(token, _)| token);
        ensure(first == Some(token), || format!("{token} was acknowledged, and {first:?} was due"))
    }

    /// The connection is lost: what was under way comes again, first.
    pub(super) fn reconnect(&mut self, random: &mut Rng) {
        self.connection += 1;
        let mut again: Vec<u64> = self.under_way.drain(..).map(|(_, message)| message).collect();
        again.dedup();
        for place in 1..again.len() {
            if random.u8(..4) == 0 {
                again.swap(place - 1, place);
            }
        }
        self.redelivered += again.len() as u64;
        for message in again.into_iter().rev() {
            self.waiting.push_front(message);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.under_way.is_empty()
    }
}
