//! Original and result side by side: as a table, as JSON, or as a page with curves.

use std::fmt::Write as _;
use std::path::PathBuf;

use bytesize::ByteSize;
use serde::Serialize;

use super::compare::{Against, Comparison};
use super::measure::Latency;
use crate::evaluate::plot::Curve;
use crate::evaluate::report as page;
use crate::feed::chart::escape;
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

/// What a pruned model learned afterwards, or a student.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FineTuning {
    /// It was trained on.
    Done {
        /// Windows that it was given.
        windows: usize,
        /// Passes over them, of all networks that it averages.
        epochs: usize,
    },
    /// It is a student, which began with nothing.
    Taught {
        /// Windows that the original scored for it.
        windows: usize,
        /// Passes over them.
        epochs: usize,
    },
    /// It was not.
    NotDone {
        /// Why.
        because: String,
    },
}

impl FineTuning {
    pub(super) fn told(&self) -> String {
        match self {
            FineTuning::Done { windows, epochs } => {
                format!("fine-tuned on {windows} windows in {epochs} epochs")
            }
            FineTuning::Taught { windows, epochs } => {
                format!("taught on {windows} windows that the original scored, in {epochs} epochs")
            }
            FineTuning::NotDone { because } => format!("not fine-tuned: {because}"),
        }
    }
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
    /// Of a pruned model, and of a student.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fine_tuning: Option<FineTuning>,
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

    /// What was done, and on what it was compared: a line each.
    fn told(&self) -> Vec<String> {
        let Changes { tensors, numbers, kept } = &self.changes;
        let what = match self.method {
            "student" => format!("a network of {numbers} weights"),
            _ => {
                format!("{tensors} tensors, {numbers} numbers changed or gone, {kept} weights stay")
            }
        };
        let mut lines = vec![format!("{}: {what}", self.method)];
        lines.extend(self.fine_tuning.as_ref().map(FineTuning::told));
        lines.push(format!("compared on {}, on {}", self.runtime, self.evaluated_on));
        lines
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("{}\n\n", self.told().join("\n"));
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

    /// One page that needs nothing beside it.
    pub(super) fn html(&self) -> String {
        let (name, out) = (self.model.display(), self.out.display());
        let kept = if self.accepted { "is kept as" } else { "was refused, and is not kept as" };
        let mut body = String::new();
        for line in self.told().into_iter().chain([format!("The result {kept} {out}.")]) {
            let _ = writeln!(body, "<p class=\"soft\">{}</p>", escape(&line));
        }
        let header = ["", "original", self.method, ""].map(str::to_owned).to_vec();
        let rows = self.rows().into_iter().map(|row| row.to_vec());
        body.push_str(&page::table(&std::iter::once(header).chain(rows).collect::<Vec<_>>()));
        let drawn = &self.comparison.drawn;
        let axes = |x: &str, y: &str| (x.to_owned(), y.to_owned());
        let ranking = Curve {
            title: "Precision and recall".into(),
            axes: axes("recall", "precision"),
            points: drawn.result.clone(),
            beside: drawn.original.clone(),
            span: ((0.0, 1.0), (0.0, 1.0)),
            ..Curve::default()
        };
        let (least, most) = (drawn.scores.iter().flat_map(|(a, b)| [*a, *b]))
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, m), score| (l.min(score), m.max(score)));
        let range = if least < most { (least, most) } else { (0.0, 1.0) };
        let scores = Curve {
            title: "Scores of each window".into(),
            axes: axes("original", self.method),
            points: drawn.scores.clone(),
            beside: vec![(range.0, range.0), (range.1, range.1)],
            dots: true,
            span: (range, range),
            ..Curve::default()
        };
        body.push_str("<div class=\"plots\">\n");
        body.push_str(&page::figure(&ranking, "dashed: the original"));
        body.push_str(&page::figure(&scores, "dashed: the same"));
        body.push_str("</div>\n");
        page::page(&format!("{name}: {}", self.method), &body)
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
            for (what, x_ms, y_ms) in [("p50", x.p50_ms, y.p50_ms), ("p95", x.p95_ms, y.p95_ms)] {
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
            let found = "verdicts against the same".to_owned();
            rows.push(["F1 at it".into(), number(c.f1_original), number(c.f1), found]);
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
