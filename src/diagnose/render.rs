//! Problems as a person or a program reads them. Called by `cli` and by `Display`.

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};
use serde::Serialize;

use super::{Problem, Problems, Severity};

/// Every problem with its line underlined, an empty line between two.
pub fn text(problems: &Problems, colour: bool) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let renderer = renderer.decor_style(DecorStyle::Ascii).term_width(120);
    let all: Vec<String> = problems.all.iter().map(|p| one(&renderer, p)).collect();
    all.join("\n\n")
}

/// A label longer than this is split: what was expected goes below the line.
const LABEL: usize = 76;

fn one(renderer: &Renderer, problem: &Problem) -> String {
    let source = &problem.place.source;
    let level = match problem.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level.primary_title(problem.message.as_str());
    let expected = problem.expected.as_ref().map(|e| format!("expected {e}"));
    let found = problem.found.as_ref().map(|f| format!("found {f}"));
    let label: Vec<&str> = [&found, &expected].into_iter().flatten().map(String::as_str).collect();
    let mut label = label.join("; ");
    let mut notes = Vec::new();
    let empty = source.text().trim().is_empty();
    if empty || label.chars().count() > LABEL {
        let note = problem.found.as_deref().filter(|_| empty);
        notes.extend(note.map(|f| Level::NOTE.with_name("found").message(f)));
        label = found.filter(|_| !empty).unwrap_or_default();
        notes.extend(
            problem.expected.as_deref().map(|e| Level::NOTE.with_name("expected").message(e)),
        );
    }
    if let Some(suggestion) = &problem.suggestion {
        notes.push(Level::HELP.message(format!("write {suggestion}")));
    }
    let group = if empty {
        title.element(Origin::path(source.name.as_str()))
    } else {
        let range = underline(problem);
        let line = source.line(range.start);
        let first = source.position(line.start).line;
        let mut mark =
            AnnotationKind::Primary.span(range.start - line.start..range.end - line.start);
        if !label.is_empty() {
            mark = mark.label(label);
        }
        let shown = source.shown().get(line).unwrap_or_default();
        let snippet = Snippet::source(shown).line_start(first).path(source.name.as_str());
        title.element(snippet.annotation(mark))
    };
    renderer.render(&[group.elements(notes)])
}

/// The part of the problem's place that lies on its first line.
fn underline(problem: &Problem) -> std::ops::Range<usize> {
    let range = &problem.place.range;
    let line = problem.place.source.line(range.start);
    let start = range.start.clamp(line.start, line.end);
    start..range.end.clamp(start, line.end)
}

/// A problem as a program reads it.
#[derive(Debug, Serialize)]
pub struct Flat<'a> {
    /// File, or name of the environment variable.
    pub file: &'a str,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Column after the last character, on the same line.
    pub end_column: usize,
    /// `error` or `warning`.
    pub severity: Severity,
    /// What is wrong.
    pub message: &'a str,
    /// What stands there.
    pub found: Option<&'a str>,
    /// What should stand there.
    pub expected: Option<&'a str>,
    /// What to write instead.
    pub suggestion: Option<&'a str>,
}

/// The problems as a program reads them.
pub fn flat(problems: &Problems) -> Vec<Flat<'_>> {
    problems.all.iter().map(flatten).collect()
}

fn flatten(problem: &Problem) -> Flat<'_> {
    let Problem { severity, message, found, expected, suggestion, place } = problem;
    let range = underline(problem);
    let start = place.source.position(range.start);
    Flat {
        file: &place.source.name,
        line: start.line,
        column: start.column,
        end_column: place.source.position(range.end).column,
        severity: *severity,
        message,
        found: found.as_deref(),
        expected: expected.as_deref(),
        suggestion: suggestion.as_deref(),
    }
}

/// `3 errors, 1 warning in 2 files`.
pub fn summary(problems: &Problems, files: usize) -> String {
    let count = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
    let errors = problems.count(Severity::Error);
    let warnings = problems.count(Severity::Warning);
    let files = count(files, "file");
    match (errors, warnings) {
        (0, 0) => format!("no problems in {files}"),
        (0, w) => format!("{} in {files}", count(w, "warning")),
        (e, 0) => format!("{} in {files}", count(e, "error")),
        (e, w) => format!("{}, {} in {files}", count(e, "error"), count(w, "warning")),
    }
}
