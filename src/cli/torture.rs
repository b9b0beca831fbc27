//! `forebay torture`: a campaign against a node of its own, told while it runs and accounted for at the end.

use std::path::PathBuf;

use anyhow::Context;
use indicatif::ProgressBar;
use tempfile::TempDir;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::args::{TortureArgs, TortureBroker};
use super::results::read_parquet;
use super::run::on_edges;
use super::screen::look;
use super::{Outcome, Screen, print};
use crate::torture::{BrokerKind, Options, Progress, Report, run};

/// The subcommand.
pub(super) fn torture(args: &TortureArgs, screen: &Screen) -> anyhow::Result<Outcome> {
    let (folder, temporary) = folder(args)?;
    let options = Options {
        seed: args.seed.unwrap_or_else(|| fastrand::u64(..1_000_000)),
        kills: args.kills,
        cuts: args.cuts,
        full_disks: args.full_disks,
        power_cuts: args.power_cuts,
        rate: args.rate,
        broker: args.broker.map(|broker| match broker {
            TortureBroker::Mosquitto => BrokerKind::Mosquitto,
            TortureBroker::InProcess => BrokerKind::InProcess,
        }),
        folder: folder.clone(),
        within: args.within.to_std(),
        program: std::env::current_exe().context("this program cannot be found again")?,
        read_table: |path| read_parquet(path).map_err(|error| error.to_string()),
        onnxruntime: args.onnxruntime.clone(),
    };
    let made = on_edges(campaign(&options, screen));
    let closes = made.as_ref().is_ok_and(Report::closes);
    if let Some(temporary) = temporary.filter(|_| !closes) {
        screen
            .note(&format!("the node's files and its log stay in {}", temporary.keep().display()));
    }
    let report = made?;
    let text = if args.json { serde_json::to_string(&report)? + "\n" } else { report.told() };
    print(&text)?;
    Ok(if closes { Outcome::Fine } else { Outcome::Problem })
}

fn folder(args: &TortureArgs) -> anyhow::Result<(PathBuf, Option<TempDir>)> {
    if let Some(folder) = &args.dir {
        let failed = || format!("`{}` cannot be made", folder.display());
        std::fs::create_dir_all(folder).with_context(failed)?;
        let is_empty = std::fs::read_dir(folder)?.next().is_none();
        anyhow::ensure!(is_empty, "`{}` is not empty: name a new folder", folder.display());
        return Ok((std::path::absolute(folder)?, None));
    }
    let made = tempfile::Builder::new().prefix("forebay-torture-").tempdir();
    let made = made.context("no temporary folder can be made")?;
    Ok((made.path().to_owned(), Some(made)))
}

async fn campaign(options: &Options, screen: &Screen) -> anyhow::Result<Report> {
    let stop = CancellationToken::new();
    let mut signals = Signals::new()?;
    let (progress, shown) = watch::channel(Progress::default());
    screen.note(&format!("seed {}", options.seed));
    let line = screen.line(ProgressBar::new_spinner().with_style(look("{spinner} {msg}")));
    let drawn = line.clone();
    let asked = [options.kills, options.cuts, options.power_cuts];
    let drawing =
        AbortOnDropHandle::new(tokio::spawn(async move { draw(drawn, shown, asked).await }));
    let twice = async {
        signals.next().await;
        screen.note(
            "stopping: what was sent is worked off and accounted for; once more to stop at once",
        );
        stop.cancel();
        signals.next().await;
    };
    // However it ends, the node, the broker and the disk go with it: they are dropped.
    let report = tokio::select! {
        report = run(options, &progress, stop.clone()) => report.map_err(anyhow::Error::from),
        () = twice => Err(anyhow::anyhow!("stopped at once: nothing has been accounted for")),
    };
    drop(drawing);
    line.finish_and_clear();
    report
}

/// What asks a campaign to end.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> anyhow::Result<Signals> {
        let [one, two, three] =
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
        let failed = "signals cannot be caught";
        Ok(Signals([one.context(failed)?, two.context(failed)?, three.context(failed)?]))
    }

    async fn next(&mut self) {
        let [one, two, three] = &mut self.0;
        tokio::select! {
            _ = one.recv() => {}
            _ = two.recv() => {}
            _ = three.recv() => {}
        }
    }
}

async fn draw(line: ProgressBar, mut shown: watch::Receiver<Progress>, asked: [u64; 3]) {
    let [kills, cuts, power_cuts] = asked;
    while shown.changed().await.is_ok() {
        let p = shown.borrow_and_update().clone();
        let power = if power_cuts > 0 {
            format!(", {}/{power_cuts} power cuts", p.power_cuts)
        } else {
            String::new()
        };
        line.set_message(format!(
            "{}: {}/{kills} kills, {}/{cuts} cuts{power}; {} readings acknowledged, {} records delivered",
            p.doing, p.kills, p.cuts, p.acknowledged, p.delivered
        ));
        line.tick();
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}
