//! `forebay run`: this node, until told to stop.

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::Outcome;
use super::args::RunArgs;
use crate::diagnose::render;
use crate::node::Node;
use crate::pipeline::load::load_all;

/// Runs the node of a config until SIGINT or SIGTERM.
pub(super) fn run(args: &RunArgs) -> anyhow::Result<Outcome> {
    if let Some(skew) = args.skewed_clock {
        skew.begin();
        tracing::warn!(%skew, "this node's clock is wrong on purpose");
    }
    let loaded = load_all(&args.config)?;
    for flat in render::flat(&loaded.warnings) {
        tracing::warn!(
            file = flat.file,
            line = flat.line,
            found = flat.found,
            expected = flat.expected,
            "{}",
            flat.message
        );
    }
    if loaded.pipelines.is_empty() {
        let folder = loaded.config.pipelines.display();
        anyhow::bail!(
            "there is no pipeline in `{folder}`: put a file there, or change `pipelines`"
        );
    }
    on_edges(async {
        let stop = CancellationToken::new();
        stop_on_signal(stop.clone(), || tracing::info!("stopping; once more to stop at once"))?;
        let node = Node::start(loaded.config, loaded.pipelines, stop).await?;
        if let Some(address) = node.address {
            tracing::info!("open http://{address}/");
        }
        let report = node.join().await?;
        let waiting: u64 = report.lanes.values().map(|lane| lane.waiting).sum();
        tracing::info!(messages = report.core.messages.received, waiting, "stopped");
        Ok(Outcome::Fine)
    })
}

/// Runs `work` on the asynchronous edges, and does not wait for what it left behind: a send that the far side never
/// answers would hold a stopped node up until its time-out. Its parcel is sent again at the next start.
pub(super) fn on_edges<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = runtime()?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_background();
    outcome
}

/// The runtime of the asynchronous edges; the engine has a thread of its own.
pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .thread_name("edge")
        .build()
        .context("the system gives no threads")
}

/// Stops in good order at the first signal, and says so with `tell`; a second one ends the process as it is, which recovery can cope with.
pub(super) fn stop_on_signal(
    stop: CancellationToken,
    tell: impl Fn() + Send + 'static,
) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?;
    tokio::spawn(async move {
        let mut told = false;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if std::mem::replace(&mut told, true) {
                std::process::exit(130);
            }
            tell();
            stop.cancel();
        }
    });
    Ok(())
}
