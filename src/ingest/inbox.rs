//! The engine thread's end of the queue: closes a tick.
//!
//! `node` calls [`Inbox::next_batch`] in its loop. It promises that a tick closes at the first of: enough messages,
//! enough bytes, enough receipts that the broker would otherwise stop sending, a silence with half of that there, or
//! enough time; and that it returns in time for the engine's own wake-up. It does not decode.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use crate::store::Receipts;
use crate::time::{Span, monotonic};

use super::{Delivery, Waiting};

/// A silence, where a broker that has more to send would not be silent.
const SILENCE: Duration = Duration::from_millis(2);

/// When a tick closes: at the first of these.
#[derive(Clone, Copy, Debug)]
pub struct Closing {
    /// So many messages.
    pub messages: usize,
    /// So many payload bytes.
    pub bytes: usize,
    /// The broker's window: so many unacknowledged messages, and it sends no more.
    pub in_flight: u16,
    /// So long after the first message.
    pub after: Span,
}

impl Closing {
    /// After `after` or `messages`, whichever is first; 4 MiB at most.
    pub fn new(after: Span, messages: usize, in_flight: u16) -> Closing {
        Closing { messages: messages.max(1), bytes: 4 << 20, in_flight, after }
    }
}

/// The messages of one tick, in the order of arrival. Empty where only the engine's wake-up was due.
#[derive(Debug, Default, PartialEq)]
pub struct Batch {
    /// The messages.
    pub deliveries: Vec<Delivery>,
    /// Their receipts: for the ledger.
    pub receipts: Receipts,
    /// Their payload bytes.
    pub bytes: usize,
}

/// Where messages wait for the engine thread.
#[derive(Debug)]
pub struct Inbox {
    deliveries: Receiver<Vec<Delivery>>,
    waiting: Arc<Waiting>,
    closing: Closing,
    window: Window,
}

impl Inbox {
    pub(super) fn new(
        deliveries: Receiver<Vec<Delivery>>,
        waiting: Arc<Waiting>,
        closing: Closing,
    ) -> Inbox {
        Inbox { deliveries, waiting, closing, window: Window::new(closing.in_flight) }
    }

    /// The next tick's messages: waits for the first one, then until the tick closes. Returns at `wake` with what
    /// is there, which may be nothing, and as soon as the bell rings. `None`: the source has ended and everything it brought has been taken.
    pub fn next_batch(&mut self, wake: Option<Instant>) -> Option<Batch> {
        let mut batch = Batch::default();
        match self.wait(wake) {
            Ok(handful) if handful.is_empty() => return Some(batch),
            Ok(handful) => self.put(&mut batch, handful),
            Err(RecvTimeoutError::Timeout) => return Some(batch),
            Err(RecvTimeoutError::Disconnected) => return None,
        }
        let opened = monotonic();
        let mut arrived = opened;
        let due = opened + self.closing.after.to_std();
        let closes = wake.map_or(due, |wake| wake.min(due));
        loop {
            let handful = match self.deliveries.try_recv() {
                Ok(handful) => handful,
                // What waits is taken before the limits are looked at: it is here and costs nothing more.
                Err(_) if self.is_full(&batch) => break,
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => match self.wait(Some(self.patience(&batch, closes))) {
                    Ok(handful) => handful,
                    Err(RecvTimeoutError::Disconnected) => break,
                    Err(RecvTimeoutError::Timeout) if monotonic() < closes => break,
                    Err(RecvTimeoutError::Timeout) => {
                        let quiet = monotonic().saturating_duration_since(arrived);
                        self.window.waited(batch.receipts.len(), quiet * 2 >= due - opened);
                        break;
                    }
                },
            };
            // Only the bell sends nothing.
            if handful.is_empty() {
                break;
            }
            self.put(&mut batch, handful);
            arrived = monotonic();
            if arrived >= closes || self.is_over(&batch) {
                break;
            }
        }
        self.window.saw(batch.receipts.len());
        Some(batch)
    }

    /// Until when to wait for more. With a small window half full, a silence ends the tick before its time: a broker
    /// without TCP_NODELAY holds the end of what it sends until it hears from us, 40 ms where we have nothing to say.
    fn patience(&self, batch: &Batch, closes: Instant) -> Instant {
        match self.window.learned {
            Some(learned) if batch.receipts.len() * 2 >= learned => {
                closes.min(monotonic() + SILENCE)
            }
            _ => closes,
        }
    }

    fn wait(&self, until: Option<Instant>) -> Result<Vec<Delivery>, RecvTimeoutError> {
        match until {
            None => self.deliveries.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(until) => {
                let left = until.saturating_duration_since(monotonic());
                self.deliveries.recv_timeout(left.max(Duration::ZERO))
            }
        }
    }

    fn put(&self, batch: &mut Batch, handful: Vec<Delivery>) {
        let mut unacknowledged = 0;
        let mut bytes = 0;
        for delivery in handful {
            bytes += delivery.payload.len();
            match delivery.receipt {
                Some(receipt) => batch.receipts.push(receipt),
                None => unacknowledged += 1,
            }
            batch.deliveries.push(delivery);
        }
        batch.bytes += bytes;
        self.waiting.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.waiting.unacknowledged.fetch_sub(unacknowledged, Ordering::Relaxed);
    }

    fn is_full(&self, batch: &Batch) -> bool {
        self.is_over(batch) || batch.receipts.len() >= self.window.close_at()
    }

    fn is_over(&self, batch: &Batch) -> bool {
        batch.deliveries.len() >= self.closing.messages || batch.bytes >= self.closing.bytes
    }
}

/// The broker's window of unacknowledged messages: what the config says, or less where the broker stops earlier.
///
/// MQTT 3.1.1 cannot say how many it sends without an acknowledgement (Mosquitto: 20). Were that fewer than a
/// tick closes at, every tick would be waited out with the broker waiting too: 200 messages a second. So a broker
/// that stops at the same count in tick after tick, and is silent for the rest of it, has shown its window.
#[derive(Debug)]
struct Window {
    configured: usize,
    learned: Option<usize>,
    last: usize,
    repeats: u32,
    /// Whether the operator knows.
    told: bool,
}

impl Window {
    const REPEATS: u32 = 3;
    /// From here on, half a window is enough for a tick, so that the other half is on the way meanwhile. Below,
    /// the cost of a commit weighs more.
    const HALVED_FROM: usize = 128;

    fn new(in_flight: u16) -> Window {
        Window {
            configured: usize::from(in_flight),
            learned: None,
            last: 0,
            repeats: 0,
            told: false,
        }
    }

    fn close_at(&self) -> usize {
        match self.learned {
            Some(learned) => learned,
            None if self.configured >= Self::HALVED_FROM => self.configured / 2,
            None => self.configured,
        }
        .max(1)
    }

    /// A tick was waited out with so many receipts; `quiet`: nothing came in its last half.
    fn waited(&mut self, receipts: usize, quiet: bool) {
        if !quiet || receipts == 0 || receipts != self.last {
            self.repeats = 0;
        }
        self.last = receipts;
        self.repeats += u32::from(quiet && receipts > 0);
        if self.repeats >= Self::REPEATS && self.learned != Some(receipts) {
            self.learned = Some(receipts);
            if !std::mem::replace(&mut self.told, true) {
                tracing::warn!(
                    receipts,
                    in_flight = self.configured,
                    "the broker sends no more messages than `receipts` before they are acknowledged: no more share one \
                     sync of the disk. Raise its limit to `mqtt.in_flight` (Mosquitto: max_inflight_messages)"
                );
            }
        }
    }

    /// A tick closed with so many receipts; more than the window shows that it is larger.
    fn saw(&mut self, receipts: usize) {
        if self.learned.is_some_and(|learned| receipts > learned) {
            self.learned = None;
            self.repeats = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::{Limits, open};
    use crate::store::Receipt;
    use crate::time::Timestamp;
    use bytes::Bytes;
    use std::sync::mpsc::SyncSender;

    fn delivery(n: u64, qos: u8, bytes: usize) -> Delivery {
        Delivery {
            topic: format!("t/{n}"),
            payload: Bytes::from(vec![0; bytes]),
            qos,
            retained: false,
            received: Timestamp(0),
            receipt: (qos > 0).then_some(Receipt { connection: 1, token: n }),
            oversize: None,
        }
    }

    fn inbox(closing: Closing) -> (Arc<SyncSender<Vec<Delivery>>>, Inbox) {
        let opened = open(Limits::new(closing.in_flight), closing);
        opened.inbox.waiting.bytes.store(1 << 30, Ordering::Relaxed);
        opened.inbox.waiting.unacknowledged.store(1 << 30, Ordering::Relaxed);
        (opened.door.deliveries, opened.inbox)
    }

    const LONG: Span = Span::seconds(3600);

    #[test]
    fn a_tick_closes_on_messages_bytes_or_receipts_before_its_time() {
        let cases = [
            (Closing { messages: 3, bytes: 1 << 20, in_flight: 100, after: LONG }, 0, 3),
            (Closing { messages: 100, bytes: 25, in_flight: 100, after: LONG }, 0, 3),
            (Closing { messages: 100, bytes: 1 << 20, in_flight: 3, after: LONG }, 1, 3),
            (Closing { messages: 1000, bytes: 1 << 20, in_flight: 200, after: LONG }, 1, 100),
        ];
        for (closing, qos, expected) in cases {
            let (sender, mut inbox) = inbox(closing);
            let feeder = std::thread::spawn(move || {
                // One at a time, each taken before the next is sent, so that no greedy drain blurs the limit.
                for n in 0..expected as u64 {
                    sender.send(vec![delivery(n, qos, 10)]).unwrap();
                }
                sender
            });
            let batch = inbox.next_batch(None).unwrap();
            assert_eq!(batch.deliveries.len(), expected, "{closing:?}");
            assert_eq!(batch.receipts.len(), if qos > 0 { expected } else { 0 });
            drop(feeder.join().unwrap());
            assert!(inbox.next_batch(None).is_none());
        }
    }

    #[test]
    fn order_is_kept_and_what_waits_at_the_end_is_taken() {
        let (sender, mut inbox) = inbox(Closing::new(LONG, 1000, 1000));
        for n in 0..5 {
            sender.send(vec![delivery(2 * n, 1, 1), delivery(2 * n + 1, 1, 1)]).unwrap();
        }
        drop(sender);
        let batch = inbox.next_batch(None).unwrap();
        let tokens: Vec<_> = batch.receipts.iter().map(|receipt| receipt.token).collect();
        assert_eq!(tokens, (0..10).collect::<Vec<_>>());
        assert!(inbox.next_batch(None).is_none());
    }

    #[test]
    fn a_wake_up_returns_in_time_with_or_without_messages() {
        let (sender, mut inbox) = inbox(Closing::new(LONG, 1000, 1000));
        let soon = || Some(monotonic() + Duration::from_millis(20));
        assert_eq!(inbox.next_batch(soon()).unwrap(), Batch::default());
        sender.send(vec![delivery(1, 1, 1)]).unwrap();
        assert_eq!(inbox.next_batch(soon()).unwrap().deliveries.len(), 1);
        assert_eq!(inbox.next_batch(Some(monotonic())).unwrap(), Batch::default());
    }

    #[test]
    fn the_bell_closes_a_tick_and_does_not_keep_the_queue_open() {
        let opened = open(Limits::new(1000), Closing::new(LONG, 1000, 1000));
        let (bell, mut inbox, sender) = (opened.bell, opened.inbox, opened.door.deliveries);
        bell.ring();
        assert_eq!(inbox.next_batch(None).unwrap(), Batch::default());
        sender.send(vec![delivery(1, 0, 1)]).unwrap();
        bell.ring();
        sender.send(vec![delivery(2, 0, 1)]).unwrap();
        bell.ring();
        for _ in 0..2 {
            assert_eq!(inbox.next_batch(None).unwrap().deliveries.len(), 1);
        }
        drop(sender);
        bell.ring();
        assert!(inbox.next_batch(None).is_none());
    }

    #[test]
    fn a_silence_ends_a_tick_once_half_of_a_small_window_is_there() {
        let (sender, mut inbox) = inbox(Closing::new(LONG, 1000, 1000));
        inbox.window.learned = Some(20);
        let send = |count: u64| {
            for n in 0..count {
                sender.send(vec![delivery(n, 1, 1)]).unwrap();
            }
        };
        send(10);
        assert_eq!(inbox.next_batch(None).unwrap().deliveries.len(), 10);
        send(9);
        let until = monotonic() + Duration::from_millis(50);
        assert_eq!(inbox.next_batch(Some(until)).unwrap().deliveries.len(), 9);
        assert!(monotonic() >= until, "less than half waits for its time");
    }

    #[test]
    fn a_broker_with_a_smaller_window_is_noticed_and_a_larger_one_too() {
        let mut window = Window::new(1000);
        assert_eq!(window.close_at(), 500);
        for _ in 0..3 {
            window.waited(20, true);
            window.saw(20);
        }
        assert_eq!(window.close_at(), 20);
        window.saw(21);
        assert_eq!(window.close_at(), 500, "21 at once disprove a window of 20");
        for receipts in [20, 20, 19, 20, 20] {
            window.waited(receipts, true);
        }
        window.waited(20, false);
        window.waited(20, true);
        window.waited(20, true);
        assert_eq!(window.close_at(), 500, "traffic that happens to be even is no window");
    }
}
