//! `forebay evaluate --suite`: public benchmarks, as one table or one JSON object.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use indicatif::ProgressBar;
use serde_json::json;

use super::EvaluateArgs;
use crate::cli::screen::{Screen, look};
use crate::cli::{Outcome, print, write_whole};
use crate::evaluate::report as page;
use crate::evaluate::rows::number;
use crate::evaluate::suite::{self, COLLECTIONS, Collection, Report, Row};
use crate::feed::chart::escape;
use crate::model::Host;
use crate::usage::Usage;

/// Runs what there is and prints it; exit code 1 if a collection, or a part of one, could not be run.
pub(super) fn evaluate(
    args: &EvaluateArgs,
    folder: &Path,
    screen: &Screen,
) -> anyhow::Result<Outcome> {
    let host = args.offline.host();
    let reports = run(args, folder, &host, screen)?;
    if let Some(path) = &args.html {
        write_whole(path, html(&reports).as_bytes())?;
    }
    let text = if args.json { as_json(&reports, &host)? } else { told(&reports, &host)? };
    print(&text)?;
    let failed = reports.iter().any(|r| r.error.is_some() || !r.failures.is_empty());
    Ok(if failed { Outcome::Problem } else { Outcome::Fine })
}

fn run(
    args: &EvaluateArgs,
    folder: &Path,
    host: &Host,
    screen: &Screen,
) -> anyhow::Result<Vec<Report>> {
    let names: Vec<&str> = COLLECTIONS.iter().map(|collection| collection.name).collect();
    for name in &args.only {
        let known = names.contains(&name.as_str());
        anyhow::ensure!(known, "`--only {name}`: there is {}", names.join(", "));
    }
    let bar = if args.offline.quiet {
        ProgressBar::hidden()
    } else {
        screen.line(ProgressBar::new_spinner())
    };
    bar.set_style(look("{spinner} {wide_msg} {elapsed}"));
    bar.enable_steady_tick(Duration::from_millis(200));
    let say = |what: &str| bar.set_message(what.to_owned());
    let wanted = |c: &&Collection| args.only.is_empty() || args.only.iter().any(|n| n == c.name);
    let mut reports = Vec::new();
    for collection in COLLECTIONS.iter().filter(wanted) {
        let Some(report) = suite::run(collection, folder, host, &say) else { continue };
        if !args.offline.quiet {
            screen.note(&format!("{}: done in {:.0} s", report.collection, report.seconds));
        }
        reports.push(report);
    }
    bar.finish_and_clear();
    let folders: Vec<&str> = COLLECTIONS.iter().map(|collection| collection.folder).collect();
    anyhow::ensure!(
        !reports.is_empty(),
        "`{}` holds none of the benchmarks; it is to have folders named {}",
        folder.display(),
        folders.join(", ")
    );
    Ok(reports)
}

fn as_json(reports: &[Report], host: &Host) -> anyhow::Result<String> {
    let document = json!({
        "collections": reports,
        "runtime": host.runtime()?.name(),
        "memory_peak_bytes": Usage::of(None).ok().map(|usage| usage.peak),
        "version": env!("CARGO_PKG_VERSION"),
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

fn told(reports: &[Report], host: &Host) -> anyhow::Result<String> {
    let mut text = String::new();
    for report in reports {
        let _ = writeln!(text, "{}", report.collection);
        for failure in &report.failures {
            let _ = writeln!(text, "  {} could not be run: {}", failure.part, failure.error);
        }
        if let Some(error) = &report.error {
            let _ = writeln!(text, "  could not be run: {error}");
            continue;
        }
        text.push_str(&columns(&report.rows));
        for note in &report.notes {
            let _ = writeln!(text, "  {note}");
        }
        let _ = writeln!(text, "  {}", provenance(report));
        text.push('\n');
    }
    let memory = Usage::of(None).ok().map_or_else(String::new, |usage| {
        format!(", {} of memory at most", bytesize::ByteSize::b(usage.peak))
    });
    let _ = writeln!(text, "on {}{memory}", host.runtime()?.name());
    Ok(text)
}

const HEADER: [&str; 7] =
    ["part", "metric", "value", "floors", "published", "causal", "threshold from"];

/// The rows in columns as wide as what stands in them.
fn columns(rows: &[Row]) -> String {
    let cells: Vec<[String; 7]> = rows.iter().map(cells).collect();
    let width = |column: usize| {
        let longest = cells.iter().map(|row| row[column].chars().count()).max();
        longest.unwrap_or_default().max(HEADER[column].len())
    };
    let widths: Vec<usize> = (0..HEADER.len()).map(width).collect();
    let line = |row: [&str; 7]| {
        let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("  {}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
    };
    let mut text = line(HEADER);
    for row in &cells {
        text.push_str(&line(row.each_ref().map(String::as_str)));
    }
    text
}

fn cells(row: &Row) -> [String; 7] {
    let floors: Vec<String> =
        row.floors.iter().map(|floor| format!("{} {}", floor.name, number(floor.value))).collect();
    let published = row.bar.as_ref().map_or_else(String::new, |bar| {
        let met = if row.meets() == Some(true) { "met" } else { "not met" };
        format!("{} ({}): {met}", number(bar.value), bar.source)
    });
    [
        row.part.clone(),
        row.metric.clone(),
        number(row.value),
        floors.join(", "),
        published,
        if row.causal { "yes".into() } else { "no".into() },
        row.threshold.clone(),
    ]
}

/// The same as a page.
fn html(reports: &[Report]) -> String {
    let mut body = String::new();
    for report in reports {
        let _ = writeln!(body, "<h2>{}</h2>", report.collection);
        let header = HEADER.map(str::to_owned).to_vec();
        let rows = report.rows.iter().map(|row| cells(row).to_vec());
        let table = page::table(&std::iter::once(header).chain(rows).collect::<Vec<_>>());
        let _ = writeln!(body, "<div class=\"text\">{table}</div>");
        let _ = writeln!(body, "<div class=\"plots\">{}</div>", page::figures(&report.figures));
        let failed = report.failures.iter().map(|f| format!("{}: {}", f.part, f.error));
        let said = report.error.iter().chain(&report.notes).cloned();
        for note in failed.chain(said).chain([provenance(report)]) {
            let _ = writeln!(body, "<p class=\"soft\">{}</p>", escape(&note));
        }
    }
    page::page("Public benchmarks", &body)
}

fn provenance(report: &Report) -> String {
    let bytes: u64 = report.models.iter().map(|model| model.bytes).max().unwrap_or_default();
    let times = report.inference_p50_us.zip(report.inference_p99_us);
    let times = times.map_or_else(String::new, |(p50, p99)| {
        format!(", inference p50 {p50:.0} µs, p99 {p99:.0} µs")
    });
    format!(
        "{} files, data sha256 {}…, settings {}…; {} models of at most {}{times}; {:.1} s",
        report.files,
        &report.data_sha256[..12],
        &report.config_sha256[..12],
        report.models.len(),
        bytesize::ByteSize::b(bytes),
        report.seconds
    )
}
