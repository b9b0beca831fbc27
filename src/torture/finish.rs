//! The end of a campaign: the last readings are sent and worked off, the undisturbed run is made, the books are closed.
//!
//! `campaign` calls [`finish`] once nothing is done to the node any more.

use std::collections::BTreeMap;
use std::time::Duration;

use super::campaign::{Beside, Campaign};
use super::numbers::SIGNALS;
use super::publisher::TAIL;
use super::site::NUMBERED;
use super::undisturbed::{Expected, compute};
use super::{Report, TortureError};
use crate::demo::link::Weather;
use crate::time::monotonic;

/// A node that brings nothing new for so long brings nothing more; one that says it has nothing more is believed sooner.
const PATIENCE: Duration = Duration::from_mins(1);
const QUIET: Duration = Duration::from_secs(3);
/// How often it is looked at.
const ROUND: Duration = Duration::from_millis(200);
/// How long it may take to stop.
const STOPS_WITHIN: Duration = Duration::from_secs(30);

/// Closes the books.
pub(super) async fn finish(
    mut campaign: Campaign<'_>,
    beside: Beside,
) -> Result<Report, TortureError> {
    campaign.progress.send_modify(|p| p.doing = "working off the rest");
    for link in [&campaign.links.broker, &campaign.links.uplink] {
        link.set_weather(Weather::default());
        link.set_up(true).await;
    }
    beside.stop_publisher.cancel();
    let count = beside.publisher.await.map_err(|_| TortureError::Ended("the publisher"))??;
    beside.stop_books.cancel();
    let mut books = beside.books.await.map_err(|_| TortureError::Ended("the bookkeeper"))?;
    let (site, numbers) = (campaign.site.clone(), campaign.numbers.clone());
    let library = campaign.options.onnxruntime.clone();
    let computing = tokio::task::spawn_blocking(move || {
        compute(&site, &numbers, count + TAIL, library.as_deref())
    });
    while !computing.is_finished() {
        campaign.live(ROUND).await?;
    }
    let expected = computing.await.map_err(|_| TortureError::Ended("the undisturbed run"))??;

    let mut counted = Counted::default();
    let mut moved = monotonic();
    loop {
        campaign.live(ROUND).await?;
        let came = campaign.receiver.take().await;
        let now = Counted::of(&campaign.node().metrics().await);
        if !came.is_empty() || now != counted {
            moved = monotonic();
        }
        for record in came {
            books.take(record);
        }
        counted = now;
        let (acknowledged, delivered) = (count * SIGNALS as u64, books.delivered());
        campaign
            .progress
            .send_modify(|p| (p.acknowledged, p.delivered) = (acknowledged, delivered));
        let has_ended = counted.waiting == 0 && counted.used == expected.account.used;
        let still = moved.elapsed();
        let is_complete = has_ended && (still > QUIET || books.is_complete(&expected, count));
        if is_complete || still > PATIENCE {
            break;
        }
    }
    let (node, mut report, receiver, _around) = campaign.end();
    if !node.stop(STOPS_WITHIN).await {
        report.complete = false;
        report.not_done.push("the node did not stop in good order".to_owned());
    }
    for record in receiver.take().await {
        books.take(record);
    }
    report.duplicates_at_receiver = receiver.counts().repeats;
    report.acknowledged = count * SIGNALS as u64;
    report.processed = counted.processed(&expected, count);
    report.close(books.close(&expected, count));
    Ok(report)
}

/// What the node says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    used: u64,
    rejected: u64,
    late: u64,
    pending: u64,
    /// Records that wait for the far side.
    waiting: u64,
}

impl Counted {
    fn of(metrics: &BTreeMap<String, f64>) -> Counted {
        let sum = |start: &str| {
            let all = metrics.iter().filter(|(name, _)| name.starts_with(start));
            all.map(|(_, n)| *n as u64).sum()
        };
        let mine = |what: &str| sum(&format!("forebay_readings_{what}{{pipeline=\"{NUMBERED}\""));
        Counted {
            used: mine("used_total"),
            rejected: mine("rejected_total"),
            late: mine("late_total"),
            pending: mine("pending"),
            waiting: sum("forebay_outbox_records{"),
        }
    }

    /// Of the readings of the first `count` messages, those that it took in. A reading that comes again long after its
    /// time counts as late once more: of these only as many count as an undisturbed run has.
    fn processed(&self, expected: &Expected, count: u64) -> u64 {
        let late = self.late.min(expected.account.late);
        let all = self.used + self.rejected + late + self.pending;
        let tail = (expected.used.len() as u64 - count) * SIGNALS as u64;
        all.saturating_sub(tail)
    }
}
