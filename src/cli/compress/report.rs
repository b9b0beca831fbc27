//! Original and result side by side: as a table, or as JSON.

use std::fmt::Write as _;
use std::path::PathBuf;

use bytesize::ByteSize;
use serde::Serialize;

use super::compare::{Against, Comparison};
use super::measure::Latency;
use crate::model::compress::Changes;

/// One of the two models.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Side {
    /// With its weights.
    pub(super) bytes: u64,
    /// Peak of a process that opens it.
    pub(super) memory: Option<u64>,
    pub(super) threshold: Option<f64>,
    pub(super) latency: Vec<Latency>,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub(super) model: PathBuf,
    pub(super) out: PathBuf,
    pub(super) method: &'static str,
    pub(super) runtime: String,
    pub(super) was_signed: bool,
    pub(super) evaluated_on: String,
    pub(super) changes: Changes,
    pub(super) original: Side,
    pub(super) result: Side,
    pub(super) comparison: Comparison,
    pub(super) max_loss: f64,
    pub(super) accepted: bool,
}

impl Report {
    pub(super) fn json(&self) -> anyhow::Result<String> {
        Ok(format!("{}\n", serde_json::to_string_pretty(self)?))
    }

    pub(super) fn text(&self) -> String {
        let Changes { tensors, numbers, kept } = &self.changes;
        let what = match self.method {
            "student" => format!("a network of {numbers} weights"),
            _ => {
                format!("{tensors} tensors, {numbers} numbers changed or gone, {kept} weights stay")
            }
        };
        let (method, runtime) = (self.method, &self.runtime);
        let mut text =
            format!("{method}: {what}\ncompared on {runtime}, on {}\n\n", self.evaluated_on);
        let _ = writeln!(text, "{:<26}{:>14}{:>14}", "", "original", self.method);
        for [what, before, after, remark] in self.rows() {
            let line = format!("{what:<26}{before:>14}{after:>14}  {remark}");
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text.push('\n');
        if self.accepted {
            let _ = writeln!(text, "{}", self.out.display());
            if self.was_signed {
                text.push_str(
                    "the original's signature is not in it: sign it with `forebay model sign`\n",
                );
            }
        }
        text
    }

    /// Lines of the table: what, the original's, the result's, a remark.
    pub(super) fn rows(&self) -> Vec<[String; 4]> {
        let (a, b, c) = (&self.original, &self.result, &self.comparison);
        let size = |bytes: u64| ByteSize::b(bytes).to_string();
        let mut rows = vec![[
            "size".into(),
            size(a.bytes),
            size(b.bytes),
            times(a.bytes as f64, b.bytes as f64, ["smaller", "larger"]),
        ]];
        for (x, y) in a.latency.iter().zip(&b.latency) {
            let windows = if x.batch == 1 { "window" } else { "windows" };
            for (what, x_ms, y_ms) in [("p50", x.p50_ms, y.p50_ms), ("p99", x.p99_ms, y.p99_ms)] {
                rows.push([
                    format!("{what}, {} {windows}", x.batch),
                    format!("{x_ms:.3} ms"),
                    format!("{y_ms:.3} ms"),
                    times(x_ms, y_ms, ["faster", "slower"]),
                ]);
            }
        }
        if let (Some(x), Some(y)) = (a.memory, b.memory) {
            let less = times(x as f64, y as f64, ["less", "more"]);
            rows.push(["peak memory, opened".into(), size(x), size(y), less]);
        }
        let number = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.4}"));
        let lost = c.loss.map_or_else(String::new, |loss| {
            let (loss, most) = (loss * 1e2, self.max_loss * 1e2);
            format!("{loss:.2} % lost of {most:.2} % allowed; {}", against(c.against))
        });
        rows.push(["PR-AUC".into(), number(c.pr_auc_original), number(c.pr_auc), lost]);
        if a.threshold.is_some() {
            rows.push([
                "threshold".into(),
                number(a.threshold),
                number(b.threshold),
                String::new(),
            ]);
        }
        let one = |what: &str, value: String| [what.into(), String::new(), value, String::new()];
        rows.push(one(
            "same verdict",
            c.agreement.map_or("-".into(), |s| format!("{:.2} %", s * 1e2)),
        ));
        rows.push(one("correlation of scores", number(c.correlation)));
        rows.push(one("score differs, mean", format!("{:.3e}", c.mean_difference)));
        rows.push(one("score differs, most", format!("{:.3e}", c.most_difference)));
        if c.unscored > 0 {
            rows.push(one("windows without a score", c.unscored.to_string()));
        }
        rows
    }
}

/// How many times less (or more) the second is.
fn times(before: f64, after: f64, [less, more]: [&str; 2]) -> String {
    let (ratio, word) =
        if before >= after { (before / after, less) } else { (after / before, more) };
    if ratio.is_finite() { format!("{ratio:.2} times {word}") } else { String::new() }
}

fn against(against: Against) -> &'static str {
    match against {
        Against::Labels => "against the labels",
        Against::OriginalVerdicts => "against the original's verdicts",
        Against::OriginalHighest => "against the tenth that the original scores highest",
    }
}
