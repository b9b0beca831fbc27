//! The report: one HTML page that needs nothing beside it, for whoever decides whether a model is good enough.
//!
//! `cli evaluate` writes it. All text from outside is escaped; numbers are those of the JSON.

use std::fmt::Write as _;

use super::detection::{Detection, Group, Judged, Rates};
use super::life::{Errors, Life, Lives};
use super::metrics::ranking::{Operating, operating_points};
use super::plot::{Curve, draw};
use crate::feed::chart::{self, AlarmSpan, ChartSpec, escape};
use crate::feed::history::Point;
use crate::time::{Span, Timestamp};

/// Most assets whose scores are drawn.
const CHARTS: usize = 24;

const STYLE: &str = "\
:root{color-scheme:light dark;--back:#fff;--text:#1c2430;--soft:#5b6670;--line:#d5dbe1;--good:#1668b8;\
--chart-line:#1668b8;--chart-threshold:#b45309;--chart-alarm:#c62828;--chart-grid:#d5dbe1;--chart-text:#5b6670}\
@media(prefers-color-scheme:dark){:root{--back:#12171e;--text:#e3e8ee;--soft:#98a4b0;--line:#2c3641;--good:#6db3f2;\
--chart-line:#6db3f2;--chart-threshold:#f0a95b;--chart-alarm:#ef6b6b;--chart-grid:#2c3641;--chart-text:#98a4b0}}\
body{background:var(--back);color:var(--text);font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2em auto;padding:0 1em}\
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}table{border-collapse:collapse;margin:.5em 0}\
td,th{padding:.25em .8em .25em 0;border-bottom:1px solid var(--line);text-align:right;font-variant-numeric:tabular-nums}\
td:first-child,th:first-child{text-align:left}th{color:var(--soft);font-weight:600}.soft{color:var(--soft)}\
.plots{display:flex;flex-wrap:wrap;gap:1em}figure{margin:0}figcaption{color:var(--soft);font-size:.9em}\
svg{max-width:100%;height:auto}.wide svg{width:100%}code{word-break:break-all}";

/// A page with a title and its body.
pub fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
         <style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n{body}</body></html>\n"
    )
}

/// A table; the first row is its header.
pub fn table(rows: &[Vec<String>]) -> String {
    let mut html = String::from("<table>\n");
    for (index, row) in rows.iter().enumerate() {
        let tag = if index == 0 { "th" } else { "td" };
        html.push_str("<tr>");
        for cell in row {
            let _ = write!(html, "<{tag}>{}</{tag}>", escape(cell));
        }
        html.push_str("</tr>\n");
    }
    html + "</table>\n"
}

/// A number as tables show it.
pub fn number(value: f64) -> String {
    match value.abs() {
        ..10.0 => format!("{value:.3}"),
        10.0..1e7 => format!("{value:.1}"),
        _ => format!("{value:.1e}"),
    }
}

/// The same, with a dash where there is none.
pub fn maybe(value: Option<f64>) -> String {
    value.map_or_else(|| "–".into(), number)
}

fn cells(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// The body of a detector's report.
pub fn detection(found: &Detection, judged: &[Judged], threshold: Option<f64>) -> String {
    let mut html = String::from("<h2>Rows</h2>\n");
    let mut rows = vec![cells(&[
        "",
        "F1",
        "precision",
        "recall",
        "accuracy",
        "kappa",
        "false alarms",
        "missed",
    ])];
    rows.push(rate_cells("the pipeline", &found.rates));
    rows.extend(found.floors.iter().map(|floor| rate_cells(floor.name, &floor.rates)));
    html.push_str(&table(&rows));
    html.push_str(&confusion(&found.rates));
    html.push_str("<h2>Whatever the threshold</h2>\n<div class=\"plots\">\n");
    html.push_str(&curves(found, judged, threshold));
    html.push_str("</div>\n<h2>Faults and alarms</h2>\n");
    html.push_str(&events(found));
    for (title, groups) in [("By asset", &found.assets), ("By kind of fault", &found.faults)] {
        if !groups.is_empty() {
            let _ = write!(html, "<h2>{title}</h2>\n{}", table(&group_rows(groups)));
        }
    }
    html.push_str("<h2>Scores over time</h2>\n<p class=\"soft\">Shaded: labelled as faulty.</p>\n");
    html.push_str(&over_time(judged, threshold));
    html
}

fn rate_cells(name: &str, rates: &Rates) -> Vec<String> {
    let values = [
        Some(rates.f1),
        Some(rates.precision),
        Some(rates.recall),
        Some(rates.accuracy),
        rates.kappa,
        Some(rates.false_alarm_rate),
        Some(rates.missed_alarm_rate),
    ];
    std::iter::once(name.to_owned()).chain(values.map(maybe)).collect()
}

/// The four counts, each shaded by its share of its own label.
fn confusion(rates: &Rates) -> String {
    let counts = rates.confusion;
    let shaded = |count: u64, other: u64| {
        let share = 100 * count / (count + other).max(1);
        format!(
            "<td style=\"background:color-mix(in srgb,var(--good) {}%,transparent)\">{count}</td>",
            share * 2 / 3
        )
    };
    format!(
        "<table><tr><th>rows</th><th>alarm</th><th>quiet</th></tr>\
         <tr><td>faulty</td>{}{}</tr><tr><td>normal</td>{}{}</tr></table>\n",
        shaded(counts.true_alarms, counts.missed),
        shaded(counts.missed, counts.true_alarms),
        shaded(counts.false_alarms, counts.true_quiet),
        shaded(counts.true_quiet, counts.false_alarms),
    )
}

fn curves(found: &Detection, judged: &[Judged], threshold: Option<f64>) -> String {
    let scores: Vec<f64> = judged.iter().flat_map(|one| one.scores.iter().copied()).collect();
    let labels: Vec<bool> = judged.iter().flat_map(|one| one.faulty.iter().copied()).collect();
    let Some(points) = operating_points(&scores, &labels) else {
        return "<p>There are not both normal and faulty rows: nothing to draw.</p>\n".into();
    };
    let at = |limit: f64| points.iter().rfind(|point| point.threshold >= limit);
    let mark = threshold.and_then(at);
    let whole = ((0.0, 1.0), (0.0, 1.0));
    let axes = |x: &str, y: &str| (x.to_owned(), y.to_owned());
    let roc = |point: &Operating| (point.false_alarm_rate, point.recall);
    let pr = |point: &Operating| (point.recall, point.precision);
    let curve = Curve {
        title: format!("ROC, area {}", maybe(found.roc_auc)),
        axes: axes("false alarm rate", "recall"),
        points: std::iter::once((0.0, 0.0)).chain(points.iter().map(roc)).collect(),
        beside: vec![(0.0, 0.0), (1.0, 1.0)],
        mark: mark.map(roc),
        dots: false,
        span: whole,
    };
    let mut html = figure(&curve, "dashed: chance; dot: the threshold");
    let curve = Curve {
        title: format!("Precision and recall, area {}", maybe(found.pr_auc)),
        axes: axes("recall", "precision"),
        points: points.iter().map(pr).collect(),
        beside: vec![(0.0, found.prevalence), (1.0, found.prevalence)],
        mark: mark.map(pr),
        ..curve
    };
    html.push_str(&figure(&curve, "dashed: chance, the share of faulty rows"));
    if let Some(calibration) = &found.calibration {
        let curve = Curve {
            title: format!("Calibration, error {}", maybe(calibration.expected_error)),
            axes: axes("chance that was given", "share that was faulty"),
            points: calibration.bins.iter().map(|bin| (bin.chance, bin.faulty)).collect(),
            beside: vec![(0.0, 0.0), (1.0, 1.0)],
            mark: None,
            dots: true,
            span: whole,
        };
        html.push_str(&figure(&curve, "dashed: chances that come true"));
        let _ = write!(html, "<p class=\"soft\">Brier score {}</p>", maybe(calibration.brier));
    }
    html
}

/// A drawn curve with its title and a caption.
pub fn figure(curve: &Curve, caption: &str) -> String {
    let (svg, title) = (draw(curve), escape(&curve.title));
    format!("<figure>{svg}<figcaption>{title}; {}</figcaption></figure>\n", escape(caption))
}

fn events(found: &Detection) -> String {
    let mut rows = vec![cells(&["", "value"])];
    let mut line = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    line("faults", found.events.faults.to_string());
    line("found", format!("{} ({})", found.events.found, maybe(found.event_recall)));
    line("median delay, s", maybe(found.median_delay_s));
    line("alarms a day and machine", maybe(found.alarms_a_day));
    line("false alarms a day and machine", maybe(found.false_alarms_a_day));
    for row in &found.nab {
        line(&format!("NAB score, {} (never 0, perfect 100)", row.profile), maybe(row.score));
    }
    table(&rows)
}

fn group_rows(groups: &[Group]) -> Vec<Vec<String>> {
    let mut rows =
        vec![cells(&["", "rows", "F1", "recall", "false alarms", "faults", "found", "alarms"])];
    rows.extend(groups.iter().map(|group| {
        vec![
            group.name.clone(),
            group.rates.confusion.total().to_string(),
            number(group.rates.f1),
            number(group.rates.recall),
            number(group.rates.false_alarm_rate),
            group.events.faults.to_string(),
            group.events.found.to_string(),
            group.events.alarms.to_string(),
        ]
    }));
    rows
}

/// The scores of the first assets that had a fault, then of others.
fn over_time(judged: &[Judged], threshold: Option<f64>) -> String {
    let mut order: Vec<&Judged> = judged.iter().filter(|one| !one.times.is_empty()).collect();
    order.sort_by_key(|one| one.faults.is_empty());
    let mut html = String::new();
    for one in order.iter().take(CHARTS) {
        let points = one.times.iter().zip(&one.scores).map(|(at, score)| Point {
            at: *at,
            value: score.is_finite().then_some(*score),
            threshold,
        });
        let spans = one.faults.iter().map(|fault| fault.interval);
        let spans: Vec<AlarmSpan> =
            spans.map(|span| AlarmSpan { from: span.from, to: Some(span.to) }).collect();
        html.push_str(&wide(&one.asset, &points.collect::<Vec<_>>(), &spans));
    }
    if order.len() > CHARTS {
        let _ = writeln!(html, "<p class=\"soft\">and {} more</p>", order.len() - CHARTS);
    }
    html
}

fn wide(name: &str, points: &[Point], spans: &[AlarmSpan]) -> String {
    let spec = ChartSpec { width: 1100, height: 180, offset: Span::ZERO };
    let svg = chart::draw(points, spans, name, spec).unwrap_or_default();
    format!("<figure class=\"wide\">{svg}<figcaption>{}</figcaption></figure>\n", escape(name))
}

/// The body of a remaining life's report.
pub fn life(found: &Life, lives: &[Lives]) -> String {
    let header = cells(&["", "rows", "RMSE", "MAE", "NASA score", "best constant, RMSE"]);
    let line = |name: &str, errors: &Errors| {
        let values = [errors.rmse, errors.mae, errors.nasa_score, errors.best_constant_rmse];
        let start = [name.to_owned(), errors.rows.to_string()].into_iter();
        start.chain(values.map(maybe)).collect::<Vec<_>>()
    };
    let mut rows = vec![header.clone(), line("all rows, raw truth", &found.raw)];
    rows.extend(found.capped.as_ref().map(|errors| line("all rows, capped truth", errors)));
    rows.push(line("last row of each, raw truth", &found.last));
    rows.extend(
        found.last_capped.as_ref().map(|errors| line("last row of each, capped truth", errors)),
    );
    let mut each = vec![header];
    each.extend(found.assets.iter().map(|(name, errors)| line(name, errors)));
    let mut html = format!("<h2>Remaining life</h2>\n{}", table(&rows));
    html.push_str(&said_and_true(lives));
    let _ = write!(html, "<h2>By asset</h2>\n{}<h2>Over time</h2>\n", table(&each));
    html.push_str("<p class=\"soft\">Line: what was said. Dashed: what was left.</p>\n");
    for one in lives.iter().filter(|one| !one.times.is_empty()).take(CHARTS) {
        let rows = one.times.iter().zip(&one.predicted).zip(&one.truth);
        let point = |((at, said), truth): ((&Timestamp, &f64), &f64)| Point {
            at: *at,
            value: Some(*said),
            threshold: Some(*truth),
        };
        html.push_str(&wide(&one.asset, &rows.map(point).collect::<Vec<_>>(), &[]));
    }
    html
}

fn said_and_true(lives: &[Lives]) -> String {
    let pairs: Vec<(f64, f64)> = lives
        .iter()
        .flat_map(|one| one.truth.iter().copied().zip(one.predicted.iter().copied()))
        .collect();
    let most = pairs.iter().flat_map(|(truth, said)| [*truth, *said]).fold(1.0, f64::max);
    let curve = Curve {
        title: "What was said against what was left".into(),
        axes: ("left".into(), "said".into()),
        points: pairs,
        beside: vec![(0.0, 0.0), (most, most)],
        mark: None,
        dots: true,
        span: ((0.0, most), (0.0, most)),
    };
    figure(&curve, "dashed: right")
}
