//! `forebay replay`: recordings through the same engine that runs live, at full speed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::Outcome;
use super::args::ReplayArgs;
use super::recordings::none_failed;
use super::results::{Results, ResultsError, ResultsFormat};
use super::screen::Screen;
use crate::pipeline::plan::{OtherModel, PlanOptions};
use crate::record::Outgoing;
use crate::stage::{Account, Reason};
use crate::time::monotonic;

/// Puts recordings through a pipeline and writes what it makes of them.
pub(super) fn replay(args: &ReplayArgs, screen: &Screen) -> anyhow::Result<Outcome> {
    let pipeline = args.offline.pipeline(&args.pipeline)?;
    let models: Vec<OtherModel> = args.model.iter().map(|text| other_model(text)).collect();
    let host = args.offline.host();
    let options = PlanOptions { models: &models, ..PlanOptions::of(pipeline.base(), &host) };
    let mut engine = pipeline.engine("replay", options)?;
    let target = args.out.to_str().context("`--out` is not text")?;
    let format = args.format.or((target == "-").then_some(ResultsFormat::Ndjson));
    let mut results = Results::create(target, format)?;
    let recordings = args.offline.recordings(&args.files, &pipeline, screen);
    let started = monotonic();
    let rows = recordings.each(|input| {
        let now = input.latest();
        keep(&mut results, &engine.step(vec![input], now).records)
    });
    let written = rows.and_then(|rows| {
        keep(&mut results, &engine.finish().records)?;
        Ok((rows, results.finish()?))
    });
    let (rows, written) = match written {
        // Whoever reads our output has seen enough (`| head`).
        Err(error) if error.downcast_ref().is_some_and(ResultsError::is_broken_pipe) => {
            return Ok(Outcome::Fine);
        }
        other => other?,
    };
    let account = engine.pipelines().first().map(|p| p.account().clone()).unwrap_or_default();
    let seconds = started.elapsed().as_secs_f64();
    tell(rows, written, &account, seconds);
    if !args.offline.quiet {
        screen.note(&summary(rows, written, &account, seconds, target));
    }
    none_failed(&mut engine)?;
    Ok(Outcome::Fine)
}

/// `OUTPUT=FILE`, or a file for the first score.
pub(super) fn other_model(text: &str) -> OtherModel {
    match text.split_once('=') {
        Some((output, path)) if !Path::new(text).exists() => {
            OtherModel { output: Some(output.to_owned()), path: PathBuf::from(path) }
        }
        _ => OtherModel { output: None, path: PathBuf::from(text) },
    }
}

fn keep(results: &mut Results, records: &[Outgoing]) -> anyhow::Result<()> {
    records.iter().try_for_each(|outgoing| results.write(&outgoing.record))?;
    Ok(())
}

fn tell(rows: u64, records: u64, account: &Account, seconds: f64) {
    let rejected: BTreeMap<&str, u64> = Reason::ALL
        .iter()
        .zip(account.rejected)
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| (reason.name(), count))
        .collect();
    tracing::info!(
        rows,
        readings = account.received,
        used = account.used,
        rejected = ?rejected,
        duplicates = account.duplicates,
        late = account.late,
        windows = account.windows,
        sparse = account.sparse,
        scores = account.scores,
        unscored = account.unscored,
        alarms_raised = account.alarms_raised,
        records,
        rows_per_s = (rows as f64 / seconds.max(1e-6)) as u64,
        "replayed"
    );
    if records == 0 {
        tracing::warn!(
            rows,
            used = account.used,
            windows = account.windows,
            sparse = account.sparse,
            "no record came of it: the recording is shorter than a window, or too much of it is missing"
        );
    }
}

/// For the person who waits for it.
fn summary(rows: u64, records: u64, account: &Account, seconds: f64, target: &str) -> String {
    let reasons: Vec<String> = Reason::ALL
        .iter()
        .zip(account.rejected)
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| format!("{count} {}", reason.name()))
        .collect();
    let reasons =
        if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
    let target = if target == "-" { "standard output" } else { target };
    format!(
        "{rows} rows in {seconds:.1} s: {} readings = {} used + {} rejected{reasons} + {} duplicates + {} late\n\
         {} windows, {} of them too sparse; {} scores, {} alarms raised, {} cleared\n\
         {records} records to {target}",
        account.received,
        account.used,
        account.rejected(),
        account.duplicates,
        account.late,
        account.windows,
        account.sparse,
        account.scores,
        account.alarms_raised,
        account.alarms_cleared,
    )
}
