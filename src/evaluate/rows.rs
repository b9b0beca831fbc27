//! What is told of an evaluation, as rows of cells: the terminal and the page show the same.
//!
//! `report` makes HTML of them, `cli evaluate` text. The first row is the header. Numbers are those of the JSON.

use super::classes::{ClassReport, Overall};
use super::detection::{Detection, Group, Rates};
use super::life::{Errors, Life};

/// A table.
pub type Rows = Vec<Vec<String>>;

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

/// A detector's rates beside those that know nothing.
pub fn rates(found: &Detection) -> Rows {
    let line = |name: &str, rates: &Rates| {
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
    };
    let header = ["", "F1", "precision", "recall", "accuracy", "kappa", "false alarms", "missed"];
    let mut rows = vec![cells(&header), line("the pipeline", &found.rates)];
    rows.extend(found.floors.iter().map(|floor| line(floor.name, &floor.rates)));
    rows
}

/// Its rows by label and verdict.
pub fn counts(found: &Detection) -> Rows {
    let counts = found.rates.confusion;
    let line = |name: &str, alarm: u64, quiet: u64| {
        vec![name.to_owned(), alarm.to_string(), quiet.to_string()]
    };
    vec![
        cells(&["rows", "alarm", "quiet"]),
        line("faulty", counts.true_alarms, counts.missed),
        line("normal", counts.false_alarms, counts.true_quiet),
    ]
}

/// Its faults and alarms.
pub fn events(found: &Detection) -> Rows {
    let mut rows = vec![cells(&["faults and alarms", "value"])];
    let mut line = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    line("faults", found.events.faults.to_string());
    line("found", format!("{} ({})", found.events.found, maybe(found.event_recall)));
    line("median delay, s", maybe(found.median_delay_s));
    line("alarms a day and machine", maybe(found.alarms_a_day));
    line("false alarms a day and machine", maybe(found.false_alarms_a_day));
    for row in &found.nab {
        line(&format!("NAB score, {} (never 0, perfect 100)", row.profile), maybe(row.score));
    }
    rows
}

/// A detector by asset.
pub fn assets(groups: &[Group]) -> Rows {
    let header = [
        "asset",
        "rows",
        "F1",
        "precision",
        "recall",
        "false alarms",
        "faults",
        "found",
        "median delay, s",
        "alarms",
    ];
    let line = |group: &Group| {
        vec![
            group.name.clone(),
            group.rates.confusion.total().to_string(),
            number(group.rates.f1),
            number(group.rates.precision),
            number(group.rates.recall),
            number(group.rates.false_alarm_rate),
            group.events.faults.to_string(),
            group.events.found.to_string(),
            maybe(group.median_delay_s),
            group.events.alarms.to_string(),
        ]
    };
    std::iter::once(cells(&header)).chain(groups.iter().map(line)).collect()
}

/// A detector by kind of fault.
pub fn faults(groups: &[Group]) -> Rows {
    let header = ["kind of fault", "rows", "recall", "faults", "found", "median delay, s"];
    let line = |group: &Group| {
        vec![
            group.name.clone(),
            group.rates.confusion.total().to_string(),
            number(group.rates.recall),
            group.events.faults.to_string(),
            group.events.found.to_string(),
            maybe(group.median_delay_s),
        ]
    };
    std::iter::once(cells(&header)).chain(groups.iter().map(line)).collect()
}

/// A model that tells classes apart, beside those that look at nothing.
pub fn overall(found: &ClassReport) -> Rows {
    let line = |of: &Overall| {
        vec![of.name.to_owned(), maybe(of.accuracy), maybe(of.macro_f1), maybe(of.kappa)]
    };
    let header = cells(&["", "accuracy", "macro F1", "kappa"]);
    std::iter::once(header)
        .chain(std::iter::once(line(&found.overall)))
        .chain(found.floors.iter().map(line))
        .collect()
}

/// Its classes.
pub fn classes(found: &ClassReport) -> Rows {
    let mut rows = vec![cells(&["class", "rows", "said", "precision", "recall", "F1"])];
    rows.extend(found.classes.iter().map(|class| {
        let counts = [class.name.clone(), class.rows.to_string(), class.said.to_string()];
        let values = [class.precision, class.recall, class.f1].map(number);
        counts.into_iter().chain(values).collect()
    }));
    rows
}

/// How often each of its classes was taken for each.
pub fn confusion(found: &ClassReport) -> Rows {
    let labels = &found.confusion.labels;
    let header = std::iter::once("is, and was taken for".to_owned()).chain(labels.iter().cloned());
    let lines = labels.iter().zip(&found.confusion.matrix).map(|(label, counts)| {
        std::iter::once(label.clone()).chain(counts.iter().map(ToString::to_string)).collect()
    });
    std::iter::once(header.collect()).chain(lines).collect()
}

/// A remaining life, beside those that look at no signal.
pub fn life(found: &Life) -> Rows {
    let mut rows = vec![life_header("")];
    let capped = |name: &'static str, errors: &Option<Errors>| Some((name, errors.clone()?));
    let all = [
        Some(("all rows, raw truth", found.raw.clone())),
        capped("all rows, capped truth", &found.capped),
        Some(("last row of each, raw truth", found.last.clone())),
        capped("last row of each, capped truth", &found.last_capped),
    ];
    for (name, errors) in all.into_iter().flatten() {
        rows.push(life_line(name, &errors));
        rows.extend(errors.floors.iter().map(|floor| {
            let values = [floor.rmse, floor.mae, floor.nasa_score].map(maybe);
            // Blanks that HTML keeps.
            let start = [format!("\u{a0}\u{a0}{}", floor.name), errors.rows.to_string()];
            start.into_iter().chain(values).collect()
        }));
    }
    rows
}

/// The same by asset.
pub fn life_assets(found: &Life) -> Rows {
    let lines = found.assets.iter().map(|(name, errors)| {
        let mut line = life_line(name, errors);
        line.extend(errors.floors.iter().map(|floor| maybe(floor.rmse)));
        line
    });
    let mut header = life_header("asset");
    let floors = found.assets.iter().map(|(_, errors)| &errors.floors).max_by_key(|f| f.len());
    header.extend(floors.into_iter().flatten().map(|floor| format!("{}, RMSE", floor.name)));
    let width = header.len();
    let even = |mut line: Vec<String>| {
        line.resize(width, maybe(None));
        line
    };
    std::iter::once(header).chain(lines.map(even)).collect()
}

fn life_header(first: &str) -> Vec<String> {
    cells(&[first, "rows", "RMSE", "MAE", "NASA score"])
}

fn life_line(name: &str, errors: &Errors) -> Vec<String> {
    let values = [errors.rmse, errors.mae, errors.nasa_score].map(maybe);
    [name.to_owned(), errors.rows.to_string()].into_iter().chain(values).collect()
}
