//! Puts the plant's messages on a broker, at the plant's pace.
//!
//! `cli/demo` runs it as a task. Plant time runs `speed` times faster than the wall clock and starts so far in the past
//! that it catches up with the wall clock at the end ([`Pace`]), so no event time is ever ahead of it. It promises that
//! when it returns, every message in its totals has been acknowledged by the broker.

use std::time::Duration;

use axum::body::Bytes;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::DemoError;
use super::sender::{Sender, SenderOptions};
use super::telemetry::{Telemetry, Totals};
use crate::time::{Span, Timestamp, monotonic, now};

/// How plant time and wall time go together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Plant seconds in a wall second.
    pub speed: f64,
    /// Event time of the plant's start.
    pub start: Timestamp,
    /// How long the plant runs, in plant time.
    pub length: Span,
}

/// Plant time that a demo should show: room for every fault, with normal running before and after.
const SHOWN: f64 = 1800.0;
/// A demo without an end runs at this speed until its event times have reached the wall clock, then in real time.
const ENDLESS: (f64, Span) = (10.0, Span::seconds(6 * 3600));

impl Pace {
    /// The pace of a demo of `duration` on the wall clock, or one without an end: half an hour of plant time, or the
    /// duration itself if that is longer; never more than 60 times real time.
    pub fn of_demo(duration: Option<Span>, now: Timestamp) -> Pace {
        let Some(duration) = duration else {
            let (speed, back) = ENDLESS;
            return Pace { speed, start: now.minus(back), length: Span(i64::MAX) };
        };
        let speed = (SHOWN / duration.as_seconds().max(1.0)).clamp(1.0, 60.0);
        let length = Span((duration.0 as f64 * speed) as i64);
        Pace { speed, start: now.minus(Span(length.0 - duration.0)), length }
    }

    /// The wall time at which what the plant did up to `elapsed` is to be sent; `began` is when the sending began.
    fn due(&self, elapsed: Span, began: Timestamp) -> Timestamp {
        let by_speed = began.plus(Span((elapsed.0 as f64 / self.speed) as i64));
        by_speed.max(self.start.plus(elapsed))
    }
}

/// What was published, exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Published {
    /// By kind.
    #[serde(flatten)]
    pub totals: Totals,
    /// Messages that were sent more than once because a connection broke. If 0, `totals` is what the broker has.
    pub resent: u64,
}

/// Publishes until the plant has run for `pace.length` or `stop` is cancelled; then waits for the last PUBACK.
/// `live` has the totals so far, for the status line.
pub async fn publish(
    mut telemetry: Telemetry,
    pace: Pace,
    options: SenderOptions,
    live: watch::Sender<Totals>,
    stop: CancellationToken,
) -> Result<Published, DemoError> {
    let mut sender = Sender::connect(options).await?;
    let (began, clock) = (now(), monotonic());
    let mut messages = Vec::new();
    while telemetry.plant().elapsed() < pace.length && !stop.is_cancelled() {
        telemetry.step(&mut messages);
        // The monotonic clock paces, so that a wall clock that is set does not stop or flood the plant.
        let due = pace.due(telemetry.plant().elapsed(), began).since(began).to_std();
        if let Some(wait) =
            due.checked_sub(clock.elapsed()).filter(|w| *w > Duration::from_millis(1))
        {
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        send(&mut sender, &mut messages).await?;
        let _ = live.send(telemetry.totals());
    }
    telemetry.finish(&mut messages);
    send(&mut sender, &mut messages).await?;
    sender.drain().await?;
    let published = Published { totals: telemetry.totals(), resent: sender.resent() };
    let _ = live.send(published.totals);
    sender.close().await?;
    Ok(published)
}

async fn send(
    sender: &mut Sender,
    messages: &mut Vec<super::telemetry::Message>,
) -> Result<(), DemoError> {
    for message in messages.drain(..) {
        sender.send(message.topic, Bytes::from(message.payload)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::plant::STEP;

    #[test]
    fn event_times_never_run_ahead_of_the_wall_clock() {
        let began = Timestamp(1_700_000_000_000_000);
        for duration in [None, Some(10), Some(60), Some(600), Some(7200)] {
            let pace = Pace::of_demo(duration.map(Span::seconds), began);
            for part in 0..=1000 {
                let elapsed = Span(pace.length.0.min(8 * 3_600_000_000) / 1000 * part);
                let due = pace.due(elapsed, began);
                assert!(pace.start.plus(elapsed) <= due.plus(STEP), "{duration:?} {part}");
            }
            if let Some(duration) = duration {
                let end = pace.due(pace.length, began).since(began).as_seconds();
                assert!((end - duration as f64).abs() < 0.01, "{duration} s took {end} s");
            }
        }
    }
}
