//! The demo's live status: a few lines in the terminal, drawn anew while it runs.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::demo::link::{Link, LinkState};
use crate::demo::telemetry::Totals;
use crate::feed::NodeStatus;
use crate::node::Node;

/// Shows the status until it is aborted. Without a terminal it says nothing: the log does.
pub(super) fn show(node: &Node, link: &Link, totals: watch::Receiver<Totals>) -> JoinHandle<()> {
    let (status, link) = (node.status.clone(), link.watch());
    let address = node.address.map(|a| format!("http://{a}/")).unwrap_or_default();
    let hub = node.hub.clone();
    let terminal = std::io::stderr().is_terminal();
    tokio::spawn(async move {
        if !terminal {
            return;
        }
        let bar = ProgressBar::new_spinner();
        bar.set_style(
            ProgressStyle::with_template("{spinner} {elapsed} {msg}")
                .unwrap_or(ProgressStyle::default_spinner()),
        );
        let mut before = totals.borrow().readings;
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let readings = totals.borrow().readings;
            let rate = (readings - before) * 2;
            before = readings;
            let (assets, alarms) = {
                let live = hub.live();
                (live.asset_count(), live.active().len())
            };
            let text = text(&status.borrow(), *link.borrow(), rate, assets, alarms, &address);
            bar.set_message(text);
            bar.tick();
        }
    })
}

fn text(
    status: &NodeStatus,
    link: LinkState,
    rate: u64,
    assets: usize,
    alarms: usize,
    address: &str,
) -> String {
    let books = status.pipelines.first().map(|p| p.account.clone()).unwrap_or_default();
    let waiting: u64 = status.lanes.values().map(|lane| lane.waiting).sum();
    let delivered: u64 = status.lanes.values().map(|lane| lane.delivered).sum();
    format!(
        "open {address}\n\
         \x20 plant    {assets} assets, {rate} readings/s\n\
         \x20 node     {} windows, {} scores, {alarms} alarms on ({} raised)\n\
         \x20 uplink   link {}, {waiting} records waiting, {delivered} delivered, {} outages",
        books.windows,
        books.scores,
        books.alarms_raised,
        if link.up { "up" } else { "DOWN" },
        link.outages,
    )
}
