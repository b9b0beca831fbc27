//! The report: one HTML page that needs nothing beside it, for whoever decides whether a model is good enough.
//!
//! `cli evaluate` writes it. All text from outside is escaped; numbers are those of the JSON.

use std::fmt::Write as _;

use super::classes::ClassReport;
use super::detection::{Detection, Judged, Rates};
use super::life::{Life, Lives};
use super::metrics::classes::Classes;
use super::metrics::ranking::{Operating, average_precision, operating_points, roc_auc};
use super::plot::{Curve, draw};
use super::rows::{self, Rows, maybe};
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
.plots{display:flex;flex-wrap:wrap;gap:1em}figure{margin:0}.curve{max-width:380px}figcaption{color:var(--soft);font-size:.9em}\
svg{max-width:100%;height:auto}.wide{flex-basis:100%}.wide svg{width:100%}code{overflow-wrap:anywhere}pre{white-space:pre-wrap}\
.scroll{max-height:44em;overflow:auto}.text td,.text th{text-align:left;vertical-align:top}.scroll th{position:sticky;top:0;background:var(--back)}";

/// A page with a title and its body.
pub fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
         <style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n{body}</body></html>\n"
    )
}

/// A table; the first row is its header, which stays in sight where there are many.
pub fn table(rows: &Rows) -> String {
    let mut html = String::from("<div class=\"scroll\"><table>\n");
    for (index, row) in rows.iter().enumerate() {
        let tag = if index == 0 { "th" } else { "td" };
        html.push_str("<tr>");
        for cell in row {
            let _ = write!(html, "<{tag}>{}</{tag}>", escape(cell));
        }
        html.push_str("</tr>\n");
    }
    html + "</table></div>\n"
}

/// The body of a detector's report. Without a verdict, where no window could be called abnormal, it has only what a score
/// says by itself.
pub fn detection(
    found: &Detection,
    judged: &[Judged],
    threshold: Option<f64>,
    has_verdict: bool,
) -> String {
    let mut html = String::new();
    if has_verdict {
        html.push_str("<h2>Rows</h2>\n");
        html.push_str(&table(&rows::rates(found)));
        html.push_str(&confusion(&found.rates));
    }
    html.push_str("<h2>Whatever the threshold</h2>\n<div class=\"plots\">\n");
    html.push_str(&curves(found, judged, threshold));
    html.push_str("</div>\n");
    if has_verdict {
        let _ = write!(html, "<h2>Faults and alarms</h2>\n{}", table(&rows::events(found)));
        let _ = write!(html, "<h2>By asset</h2>\n{}", table(&rows::assets(&found.assets)));
        if !found.faults.is_empty() {
            let faults = table(&rows::faults(&found.faults));
            let _ = write!(html, "<h2>By kind of fault</h2>\n{faults}");
        }
    }
    html.push_str("<h2>Scores over time</h2>\n<p class=\"soft\">Line: the score. Dashed: its threshold. Shaded: labelled as faulty.</p>\n");
    html.push_str(&over_time(judged, threshold));
    html
}

/// The four counts.
fn confusion(rates: &Rates) -> String {
    let counts = rates.confusion;
    let (faulty, normal) =
        (counts.true_alarms + counts.missed, counts.false_alarms + counts.true_quiet);
    format!(
        "<table><tr><th>rows</th><th>alarm</th><th>quiet</th></tr>\
         <tr><td>faulty</td>{}{}</tr><tr><td>normal</td>{}{}</tr></table>\n",
        cell(counts.true_alarms, faulty),
        cell(counts.missed, faulty),
        cell(counts.false_alarms, normal),
        cell(counts.true_quiet, normal),
    )
}

fn curves(found: &Detection, judged: &[Judged], threshold: Option<f64>) -> String {
    let scores: Vec<f64> = judged.iter().flat_map(Judged::ranked).collect();
    let labels: Vec<bool> = judged.iter().flat_map(|one| one.faulty.iter().copied()).collect();
    let both = roc_and_pr("", &scores, &labels, threshold);
    if both.is_empty() {
        return "<p>There are not both normal and faulty rows: nothing to draw.</p>\n".into();
    }
    let mut html = figures(&both);
    if let Some(calibration) = &found.calibration {
        let curve = Curve {
            title: format!("Calibration, error {}", maybe(calibration.expected_error)),
            axes: ("chance that was given".into(), "share that was faulty".into()),
            points: calibration.bins.iter().map(|bin| (bin.chance, bin.faulty)).collect(),
            beside: vec![(0.0, 0.0), (1.0, 1.0)],
            dots: true,
            span: WHOLE,
            ..Curve::default()
        };
        let brier = maybe(calibration.brier);
        html.push_str(&figure(&curve, &format!("dashed: chances that come true; Brier {brier}")));
    }
    html
}

/// From 0 to 1, both ways.
const WHOLE: ((f64, f64), (f64, f64)) = ((0.0, 1.0), (0.0, 1.0));

/// What a score can do whatever its threshold, as two curves; none where there are not both normal and faulty rows.
pub fn roc_and_pr(
    name: &str,
    scores: &[f64],
    labels: &[bool],
    threshold: Option<f64>,
) -> Vec<Figure> {
    let Some(points) = operating_points(scores, labels) else { return Vec::new() };
    let name = if name.is_empty() { String::new() } else { format!("{name}: ") };
    let mark = threshold.and_then(|limit| points.iter().rfind(|point| point.threshold >= limit));
    let prevalence = labels.iter().filter(|faulty| **faulty).count() as f64 / labels.len() as f64;
    let roc = |point: &Operating| (point.false_alarm_rate, point.recall);
    let pr = |point: &Operating| (point.recall, point.precision);
    let first = Curve {
        title: format!("{name}ROC, area {}", maybe(roc_auc(scores, labels))),
        axes: ("false alarm rate".into(), "recall".into()),
        points: std::iter::once((0.0, 0.0)).chain(points.iter().map(roc)).collect(),
        beside: vec![(0.0, 0.0), (1.0, 1.0)],
        mark: mark.map(roc),
        dots: false,
        span: WHOLE,
    };
    let area = maybe(average_precision(scores, labels));
    let second = Curve {
        title: format!("{name}Precision and recall, area {area}"),
        axes: ("recall".into(), "precision".into()),
        points: points.iter().map(pr).collect(),
        beside: vec![(0.0, prevalence), (1.0, prevalence)],
        mark: mark.map(pr),
        ..first.clone()
    };
    let dot = if mark.is_some() { "; dot: the threshold" } else { "" };
    vec![
        Figure::Curve(first, format!("dashed: chance{dot}")),
        Figure::Curve(second, format!("dashed: share of faulty rows{dot}")),
    ]
}

/// What is drawn, or shaded.
#[derive(Clone, Debug)]
pub enum Figure {
    /// A curve, and what has to be known of it.
    Curve(Curve, String),
    /// A score over time, with the times that were faulty.
    OverTime(Box<Judged>, Option<f64>),
    /// How often each class was taken for each, and of what.
    Classes(Classes, String),
}

/// Figures beside each other, as far as there is room.
pub fn figures(all: &[Figure]) -> String {
    let draw = |figure: &Figure| match figure {
        Figure::Curve(curve, caption) => self::figure(curve, caption),
        Figure::OverTime(judged, threshold) => score_over_time(judged, *threshold),
        Figure::Classes(classes, caption) => {
            let caption = escape(caption);
            format!("<figure><figcaption>{caption}</figcaption>{}</figure>\n", shaded(classes))
        }
    };
    all.iter().map(draw).collect()
}

/// A drawn curve with its title and a caption.
pub fn figure(curve: &Curve, caption: &str) -> String {
    let (svg, title) = (draw(curve), escape(&curve.title));
    let caption = escape(caption);
    format!(
        "<figure class=\"curve\"><figcaption><b>{title}</b><br>{caption}</figcaption>{svg}</figure>\n"
    )
}

/// The scores of the first assets that had a fault, then of others.
fn over_time(judged: &[Judged], threshold: Option<f64>) -> String {
    let mut order: Vec<&Judged> = judged.iter().filter(|one| !one.times.is_empty()).collect();
    order.sort_by_key(|one| one.faults.is_empty());
    let drawn = order.iter().take(CHARTS).map(|one| score_over_time(one, threshold));
    let mut html: String = drawn.collect();
    if order.len() > CHARTS {
        let _ = writeln!(html, "<p class=\"soft\">and {} more</p>", order.len() - CHARTS);
    }
    html
}

fn score_over_time(one: &Judged, threshold: Option<f64>) -> String {
    let points = one.times.iter().zip(&one.scores).map(|(at, score)| Point {
        at: *at,
        value: score.is_finite().then_some(*score),
        threshold,
    });
    let spans = one.faults.iter().map(|fault| fault.interval);
    let spans: Vec<AlarmSpan> =
        spans.map(|span| AlarmSpan { from: span.from, to: Some(span.to) }).collect();
    wide(&one.asset, &points.collect::<Vec<_>>(), &spans)
}

/// A chart over time, with its days above it: the axis has the time of day alone.
fn wide(name: &str, points: &[Point], spans: &[AlarmSpan]) -> String {
    let spec = ChartSpec { width: 1100, height: 180, offset: Span::ZERO };
    let svg = chart::draw(points, spans, name, spec).unwrap_or_default();
    let days = points.first().zip(points.last());
    let days = days.map_or_else(String::new, |(first, last)| {
        let day = |at: Timestamp| at.to_string().chars().take(10).collect::<String>();
        let (first, last) = (day(first.at), day(last.at));
        if first == last { format!(", {first}, UTC") } else { format!(", {first} to {last}, UTC") }
    });
    let name = escape(name);
    format!("<figure class=\"wide\"><figcaption>{name}{days}</figcaption>{svg}</figure>\n")
}

/// The part of a report about classes.
pub fn classes(found: &ClassReport) -> String {
    let mut html = format!("<h2>Classes</h2>\n{}", table(&rows::overall(found)));
    html.push_str(&table(&rows::classes(found)));
    html.push_str("<p class=\"soft\">Rows: what was so. Columns: what it was taken for. ");
    html.push_str("Shaded: the share of its row.</p>\n");
    html.push_str(&shaded(&found.confusion));
    html
}

/// How often each class was taken for each, shaded by its share of the row.
fn shaded(classes: &Classes) -> String {
    let mut html = String::from("<div class=\"scroll\"><table><tr><th></th>");
    for label in &classes.labels {
        let _ = write!(html, "<th>{}</th>", escape(label));
    }
    html.push_str("</tr>\n");
    for (place, counts) in classes.matrix.iter().enumerate() {
        let label = classes.labels.get(place).map_or("", String::as_str);
        let _ = write!(html, "<tr><td>{}</td>", escape(label));
        for count in counts {
            html.push_str(&cell(*count, classes.cases(place)));
        }
        html.push_str("</tr>\n");
    }
    html + "</table></div>\n"
}

/// A count, shaded by its share of `all`.
fn cell(count: u64, all: u64) -> String {
    let share = 100 * count / all.max(1) * 2 / 3;
    format!(
        "<td style=\"background:color-mix(in srgb,var(--good) {share}%,transparent)\">{count}</td>"
    )
}

/// The body of a remaining life's report.
pub fn life(found: &Life, lives: &[Lives], unit: &str) -> String {
    let mut html = format!("<h2>Remaining life</h2>\n{}", table(&rows::life(found)));
    html.push_str(&said_and_true(lives, unit));
    let each = table(&rows::life_assets(found));
    let _ = write!(html, "<h2>By asset</h2>\n{each}<h2>Over time</h2>\n");
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

fn said_and_true(lives: &[Lives], unit: &str) -> String {
    let pairs = lives
        .iter()
        .flat_map(|one| one.truth.iter().copied().zip(one.predicted.iter().copied()))
        .collect();
    figures(&[said_and_left("", unit, pairs)])
}

/// What was left, and what was said.
pub fn said_and_left(name: &str, unit: &str, pairs: Vec<(f64, f64)>) -> Figure {
    let most = pairs.iter().flat_map(|(truth, said)| [*truth, *said]).fold(1.0, f64::max);
    let name = if name.is_empty() { String::new() } else { format!("{name}: ") };
    let curve = Curve {
        title: format!("{name}What was said against what was left"),
        axes: (format!("left, in {unit}"), format!("said, in {unit}")),
        points: pairs,
        beside: vec![(0.0, 0.0), (most, most)],
        mark: None,
        dots: true,
        span: ((0.0, most), (0.0, most)),
    };
    Figure::Curve(curve, "dashed: right".into())
}

/// Losses, one a round or an epoch: of what is held out as the line, of what is learned from dashed, where both are
/// known. `best` is the round that is kept, from 1.
pub fn losses(name: &str, held_out: &[f64], learned: &[f64], best: usize) -> Figure {
    let numbered = |losses: &[f64]| -> Vec<(f64, f64)> {
        losses.iter().enumerate().map(|(at, loss)| (at as f64 + 1.0, *loss)).collect()
    };
    let points = numbered(held_out);
    let most =
        held_out.iter().chain(learned).copied().filter(|l| l.is_finite()).fold(0.0, f64::max);
    let count = held_out.len().max(learned.len()).max(2) as f64;
    let mark = best.checked_sub(1).and_then(|at| points.get(at).copied());
    let curve = Curve {
        title: format!("{name}, loss"),
        axes: ("round".into(), "loss".into()),
        beside: numbered(learned),
        points,
        mark,
        dots: false,
        span: ((1.0, count), (0.0, if most > 0.0 { most * 1.05 } else { 1.0 })),
    };
    let dashed = if learned.is_empty() { "" } else { "; dashed: of what it learned from" };
    Figure::Curve(curve, format!("line: of what was held out{dashed}; dot: what was kept"))
}
