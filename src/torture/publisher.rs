//! Puts the numbered readings on the broker, and knows which it has acknowledged.
//!
//! `campaign` runs it as a task. What is acknowledged is in order: message `n` is, when `n` are.

use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::numbers::{ASSETS, Numbers, SIGNALS};
use crate::config::MqttVersion;
use crate::demo::DemoError;
use crate::demo::sender::{Sender, SenderOptions};
use crate::time::monotonic;

/// Messages of each asset that follow the last one that counts: they push its watermark past it.
pub(super) const TAIL: u64 = 120 * ASSETS as u64;
/// How long the broker may be away.
const GIVE_UP: Duration = Duration::from_mins(1);

/// A connection to the broker.
pub(super) async fn connect(url: &str) -> Result<Sender, DemoError> {
    let options = SenderOptions {
        url: url.to_owned(),
        version: MqttVersion::V5,
        client_id: "torture-plant".into(),
        window: 100,
        give_up: GIVE_UP,
    };
    Sender::connect(options).await
}

/// Sends at `rate` readings a second until `stop`, waits for the last acknowledgement, and then sends the tail. The
/// number of messages before the tail; `acknowledged` is told how many are.
pub(super) async fn publish(
    numbers: Numbers,
    mut sender: Sender,
    rate: u32,
    acknowledged: impl Fn(u64),
    stop: CancellationToken,
) -> Result<u64, DemoError> {
    let a_message = Duration::from_secs_f64(SIGNALS as f64 / f64::from(rate.max(1)));
    let (mut due, mut number) = (monotonic(), 0);
    while !stop.is_cancelled() && number < Numbers::most() - TAIL {
        due += a_message;
        let now = monotonic();
        if due > now + Duration::from_millis(1) {
            tokio::time::sleep(due - now).await;
        } else if now > due + Duration::from_secs(1) {
            // A broker that was away is not flooded afterwards.
            due = now;
        }
        send(&numbers, &mut sender, number).await?;
        number += 1;
        acknowledged(sender.acked());
    }
    sender.drain().await?;
    acknowledged(number);
    for after in number..number + TAIL {
        send(&numbers, &mut sender, after).await?;
    }
    sender.close().await?;
    Ok(number)
}

async fn send(numbers: &Numbers, sender: &mut Sender, number: u64) -> Result<(), DemoError> {
    sender.send(numbers.topic(number), Bytes::from(numbers.payload(number))).await
}
