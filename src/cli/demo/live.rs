//! The demo's live status: a few lines in the terminal, drawn anew while it runs.

use std::time::Duration;

use indicatif::ProgressBar;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::super::screen::{Screen, look};
use crate::demo::link::{Link, LinkState};
use crate::demo::publisher::Pace;
use crate::demo::telemetry::Totals;
use crate::feed::{Hub, NodeStatus};
use crate::node::Node;
use crate::time::{Span, Timestamp, now};

/// How often it is drawn.
const EVERY: Duration = Duration::from_millis(500);

/// The lines, until it is dropped.
pub(super) struct Live {
    lines: Lines,
    _task: AbortOnDropHandle<()>,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.lines.all().iter().for_each(|line| line.finish_and_clear());
    }
}

/// Shows the status. Where standard error is no terminal nothing is drawn.
pub(super) fn show(
    screen: &Screen,
    node: &Node,
    link: &Link,
    pace: &Pace,
    totals: watch::Receiver<Totals>,
) -> Live {
    let lines = Lines::on(screen, pace);
    let (shown, status, link, hub, pace) =
        (lines.clone(), node.status.clone(), link.watch(), node.hub.clone(), *pace);
    let began = now();
    let task = tokio::spawn(async move {
        let mut before = totals.borrow().readings;
        loop {
            tokio::time::sleep(EVERY).await;
            let readings = totals.borrow().readings;
            let rate = (readings - before) * 1000 / EVERY.as_millis() as u64;
            before = readings;
            let clock = plant_time(&pace, began).to_string();
            shown.plant(&hub, rate, clock.get(11..19).unwrap_or_default());
            shown.node(&status.borrow());
            shown.alarms(&hub);
            shown.uplink(&status.borrow(), *link.borrow());
        }
    });
    Live { lines, _task: AbortOnDropHandle::new(task) }
}

/// The plant's clock: it runs fast, but never ahead of ours.
fn plant_time(pace: &Pace, began: Timestamp) -> Timestamp {
    let ran = now().since(began);
    pace.start.plus(Span((ran.0 as f64 * pace.speed) as i64)).min(now())
}

#[derive(Clone)]
struct Lines {
    time: ProgressBar,
    plant: ProgressBar,
    node: ProgressBar,
    alarms: ProgressBar,
    uplink: ProgressBar,
}

impl Lines {
    fn on(screen: &Screen, pace: &Pace) -> Lines {
        let seconds = pace.length.as_seconds() / pace.speed;
        let time = if pace.length.as_seconds() < f64::from(u32::MAX) {
            let bar = ProgressBar::new(seconds as u64);
            bar.set_style(look("  time    {elapsed} of {len}s {wide_bar:.dim}"));
            bar
        } else {
            ProgressBar::new_spinner().with_style(look("  time    {elapsed} {spinner}"))
        };
        let line = |name: &str| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(look(&format!("  {name:<8}{{wide_msg}}")));
            screen.line(bar)
        };
        let time = screen.line(time);
        Lines {
            time,
            plant: line("plant"),
            node: line("node"),
            alarms: line("alarms"),
            uplink: line("uplink"),
        }
    }

    fn all(&self) -> [&ProgressBar; 5] {
        [&self.time, &self.plant, &self.node, &self.alarms, &self.uplink]
    }

    fn plant(&self, hub: &Hub, rate: u64, clock: &str) {
        let assets = hub.live().asset_count();
        self.time.set_position(self.time.elapsed().as_secs());
        self.plant.set_message(format!("{assets} pumps, {rate} readings/s, its time is {clock}"));
    }

    fn node(&self, status: &NodeStatus) {
        let books = status.pipelines.first().map(|p| p.account.clone()).unwrap_or_default();
        self.node.set_message(format!(
            "{} windows, {} scores, {} alarms raised, {} cleared",
            books.windows, books.scores, books.alarms_raised, books.alarms_cleared
        ));
    }

    fn alarms(&self, hub: &Hub) {
        let on: Vec<String> = {
            let live = hub.live();
            live.active().iter().map(|a| format!("{} {}", a.record.asset, a.record.name)).collect()
        };
        let style = if on.is_empty() { "{wide_msg}" } else { "{wide_msg:.yellow}" };
        self.alarms.set_style(look(&format!("  alarms  {style}")));
        let text = if on.is_empty() {
            "none on".to_owned()
        } else {
            format!("{} on: {}", on.len(), on.join(", "))
        };
        self.alarms.set_message(text);
    }

    fn uplink(&self, status: &NodeStatus, link: LinkState) {
        let waiting: u64 = status.lanes.values().map(|lane| lane.waiting).sum();
        let delivered: u64 = status.lanes.values().map(|lane| lane.delivered).sum();
        let (word, style) =
            if link.up { ("up", "{wide_msg}") } else { ("DOWN", "{wide_msg:.red}") };
        self.uplink.set_style(look(&format!("  uplink  {style}")));
        self.uplink.set_message(format!(
            "link {word}, {waiting} records wait, {delivered} delivered, outages: {}",
            link.outages
        ));
    }
}
