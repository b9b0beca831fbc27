//! A broker that keeps every message until it is acknowledged: after a lost connection it sends again what was under
//! way, neighbours out of order, and now and then it sends one twice for no reason.

use std::collections::VecDeque;

use fastrand::Rng;

/// Messages under way without acknowledgement.
const WINDOW: usize = 30;

pub struct Broker {
    waiting: VecDeque<u64>,
    /// In the order of sending: token and message.
    under_way: VecDeque<(u64, u64)>,
    pub connection: u64,
    token: u64,
    pub redelivered: u64,
}

impl Broker {
    pub fn new() -> Broker {
        Broker {
            waiting: VecDeque::new(),
            under_way: VecDeque::new(),
            connection: 1,
            token: 0,
            redelivered: 0,
        }
    }

    pub fn publish(&mut self, message: u64) {
        self.waiting.push_back(message);
    }

    /// Up to `most` messages, as the window lets them.
    pub fn deliver(&mut self, random: &mut Rng, most: usize) -> Vec<(u64, u64)> {
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

    pub fn acknowledge(&mut self, connection: u64, token: u64) {
        assert!(connection <= self.connection, "a connection that never was");
        if connection == self.connection {
            let place = self.under_way.iter().position(|(t, _)| *t == token);
            let place = place.expect("an acknowledgement of nothing, or a second one");
            assert_eq!(place, 0, "acknowledgements come in the order of arrival");
            self.under_way.pop_front();
        }
    }

    /// The connection is lost: what was under way comes again, first.
    pub fn reconnect(&mut self, random: &mut Rng) {
        self.connection += 1;
        let mut again: Vec<u64> = self.under_way.drain(..).map(|(_, message)| message).collect();
        again.dedup();
        for place in 1..again.len() {
            if random.u8(..4) == 0 {
                again.swap(place - 1, place);
            }
        }
        self.redelivered += again.len() as u64;
        again.into_iter().rev().for_each(|message| self.waiting.push_front(message));
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.under_way.is_empty()
    }
}
