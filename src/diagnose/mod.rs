//! What is wrong with the files a person wrote, said so that the person can mend it.
//!
//! `config::load` and `pipeline::load` read TOML into a [`Node`] tree that knows where everything stands
//! ([`tree`]), hold it against the JSON Schema of the type it is meant to be ([`walk`]), and let rules look at the
//! result; `cli` prints what was found ([`render`]). All problems of all files are collected; nothing stops at the
//! first. What a secret says is never shown ([`source`]).

pub mod document;
pub mod nearest;
pub mod render;
pub mod source;
pub mod tree;
mod units;
pub mod walk;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

pub use document::Document;
pub use source::Source;
pub use tree::{Node, Spot, Value};

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing starts with it.
    Error,
    /// It runs, but probably not as meant.
    Warning,
}

/// One problem at one place.
#[derive(Clone, Debug)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, as a lower-case sentence.
    pub message: String,
    /// What stands there.
    pub found: Option<String>,
    /// What should stand there.
    pub expected: Option<String>,
    /// What to write instead.
    pub suggestion: Option<String>,
    /// Where.
    pub place: Place,
}

/// A piece of a source.
#[derive(Clone, Debug)]
pub struct Place {
    /// The file (or environment variable).
    pub source: Arc<Source>,
    /// The bytes to underline.
    pub range: Range<usize>,
    /// The bytes that the problem is about: the same, or the table in which something is missing.
    pub scope: Range<usize>,
}

impl Place {
    /// The start of a source: for what concerns all of it.
    pub fn whole(source: &Arc<Source>) -> Place {
        Place { source: Arc::clone(source), range: 0..0, scope: 0..source.text().len() }
    }

    /// These bytes of a source.
    pub fn bytes(source: &Arc<Source>, range: Range<usize>) -> Place {
        Place { source: Arc::clone(source), range: range.clone(), scope: range }
    }
}

impl Problem {
    /// An error at `place`.
    pub fn error(place: impl Into<Place>, message: impl Into<String>) -> Problem {
        Problem::new(Severity::Error, place.into(), message.into())
    }

    /// A warning at `place`.
    pub fn warning(place: impl Into<Place>, message: impl Into<String>) -> Problem {
        Problem::new(Severity::Warning, place.into(), message.into())
    }

    fn new(severity: Severity, place: Place, message: String) -> Problem {
        Problem { severity, message, found: None, expected: None, suggestion: None, place }
    }

    /// Says what stands there.
    #[must_use]
    pub fn found(mut self, found: impl Into<String>) -> Problem {
        self.found = Some(found.into());
        self
    }

    /// Says what should stand there.
    #[must_use]
    pub fn expected(mut self, expected: impl Into<String>) -> Problem {
        self.expected = Some(expected.into());
        self
    }

    /// Says what to write instead.
    #[must_use]
    pub fn suggest(mut self, suggestion: impl Into<String>) -> Problem {
        self.suggestion = Some(suggestion.into());
        self
    }

    /// Says what to write instead, where something near was found.
    #[must_use]
    pub fn suggest_nearest(mut self, suggestion: Option<impl Into<String>>) -> Problem {
        self.suggestion = suggestion.map(Into::into);
        self
    }
}

/// Everything that was found, in the order of files and lines.
#[derive(Clone, Debug, Default)]
pub struct Problems {
    /// The problems.
    pub all: Vec<Problem>,
}

impl Problems {
    /// Adds a problem.
    pub fn push(&mut self, problem: Problem) {
        self.all.push(problem);
    }

    /// Adds a problem that a rule found, unless something is already known to be wrong at that very place: a rule
    /// that follows from a misspelled key would only distract from it.
    pub fn push_unless_known(&mut self, problem: Problem) {
        if !self.known_within(&problem.place) {
            self.all.push(problem);
        }
    }

    /// Whether an error is already known in what `place` is about.
    pub fn known_within(&self, place: &Place) -> bool {
        let scope = &place.scope;
        self.all.iter().any(|known| {
            let range = &known.place.range;
            known.severity == Severity::Error
                && Arc::ptr_eq(&known.place.source, &place.source)
                && range.start <= scope.end
                && scope.start <= range.end
                && (range.start < scope.end || range.is_empty() || scope.is_empty())
                && (scope.start < range.end || range.is_empty() || scope.is_empty())
        })
    }

    /// Takes over what another check found.
    pub fn append(&mut self, mut other: Problems) {
        self.all.append(&mut other.all);
    }

    /// Whether there is an error among them.
    pub fn has_errors(&self) -> bool {
        self.all.iter().any(|p| p.severity == Severity::Error)
    }

    /// How many errors and warnings there are.
    pub fn count(&self, severity: Severity) -> usize {
        self.all.iter().filter(|p| p.severity == severity).count()
    }

    /// Brings them into the order of files (as first met) and lines, and drops repeats.
    pub fn sort(&mut self) {
        let mut files: Vec<String> = Vec::new();
        for problem in &self.all {
            if !files.contains(&problem.place.source.name) {
                files.push(problem.place.source.name.clone());
            }
        }
        let place_of = |p: &Problem| {
            let file = files.iter().position(|f| *f == p.place.source.name);
            (file, p.place.range.start, p.severity, p.message.clone())
        };
        self.all.sort_by_cached_key(place_of);
        self.all.dedup_by(|a, b| place_of(a) == place_of(b));
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&render::text(self, false))
    }
}

impl std::error::Error for Problems {}
