//! The end of a campaign: the last readings are sent and worked off, the undisturbed run is made, the receivers' files
//! are read, the books are closed.
//!
//! `campaign` calls [`finish`] once nothing is done to the node any more.

use std::collections::BTreeMap;
use std::time::Duration;

use super::books::Books;
use super::campaign::{Campaign, Publisher};
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
/// How long the node, or a receiver, may take to stop.
const STOPS_WITHIN: Duration = Duration::from_secs(30);

/// Closes the books.
pub(super) async fn finish(
    mut campaign: Campaign<'_>,
    publisher: Publisher,
) -> Result<Report, TortureError> {
    campaign.progress.send_modify(|p| p.doing = "working off the rest");
    for link in campaign.links.all() {
        link.set_weather(Weather::default());
        link.set_up(true).await;
    }
    publisher.stop.cancel();
    let sending = publisher.task;
    while !sending.is_finished() {
        campaign.live(ROUND).await?;
    }
    let count = sending.await.map_err(|_| TortureError::Ended("the publisher"))??;
    let (site, numbers) = (campaign.site.clone(), campaign.numbers.clone());
    let library = campaign.options.onnxruntime.clone();
    let computing = tokio::task::spawn_blocking(move || {
        compute(&site, &numbers, count + TAIL, library.as_deref())
    });
    while !computing.is_finished() {
        campaign.live(ROUND).await?;
    }
    let expected = computing.await.map_err(|_| TortureError::Ended("the undisturbed run"))??;
    let counted = work_off(&mut campaign, &expected).await?;
    let (options, numbers) = (campaign.options, campaign.numbers.clone());
    let (node, mut receivers, mut report, _around) = campaign.end();
    let mut stopped = node.stop(STOPS_WITHIN).await;
    for receiver in &mut receivers {
        stopped &= receiver.stop(STOPS_WITHIN).await;
    }
    if !stopped {
        report.complete = false;
        report.not_done.push("the node or a receiver did not stop in good order".to_owned());
    }
    report.acknowledged = count * SIGNALS as u64;
    report.processed = counted.processed(&expected, count);
    for receiver in &mut receivers {
        let mut books = Books::new(numbers.clone());
        receiver.read(options, &mut books)?;
        let held = receiver.held().await;
        report.close(receiver.name, held, receiver.exits, books.close(&expected, count));
    }
    report.sum_up();
    Ok(report)
}

/// Lets the node work off what it has, and the receivers take it.
async fn work_off(
    campaign: &mut Campaign<'_>,
    expected: &Expected,
) -> Result<Counted, TortureError> {
    let (mut before, mut moved, mut renewed) = (None, monotonic(), false);
    loop {
        campaign.live(ROUND).await?;
        campaign.tell().await;
        let counted = Counted::of(&campaign.node.metrics().await);
        let mut held = Vec::new();
        for receiver in &mut campaign.receivers {
            held.push(receiver.held().await.records);
        }
        let is_all = counted.waiting == 0 && counted.used == expected.account.used;
        let now = Some((counted, held));
        if now != before {
            (before, moved) = (now, monotonic());
        }
        let still = moved.elapsed();
        let is_over = still > PATIENCE || is_all && still > QUIET;
        if is_over && renewed {
            return Ok(counted);
        }
        if is_over {
            for receiver in &mut campaign.receivers {
                receiver.renew().await?;
            }
            (renewed, moved) = (true, monotonic());
        }
    }
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
