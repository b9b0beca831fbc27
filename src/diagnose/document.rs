//! A TOML file on its way to being a value: read, parsed, held against its type. Used by every loader.

use std::path::Path;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};

use super::walk::walk;
use super::{Node, Place, Problem, Problems, Source, tree};

/// A file that could be read, and as much of its tree as could be parsed.
#[derive(Clone, Debug)]
pub struct Document {
    /// The tree.
    pub node: Node,
    /// Whether the text is TOML from beginning to end. If not, nothing can be said of what is missing.
    pub whole: bool,
    /// Up to which byte its tree says what was meant.
    trusted: usize,
}

impl Document {
    /// Reads and parses `path`; `None` where it cannot be read at all.
    pub fn read(path: &Path, problems: &mut Problems) -> Option<Document> {
        match Source::read(path) {
            Ok(source) => {
                let before = problems.all.len();
                let (node, trusted) = tree::parse(&source, problems);
                let whole = problems.all.len() == before;
                Some(Document { node, whole, trusted })
            }
            Err(error) => {
                let source = Source::unread(path);
                problems.push(Problem::error(
                    Place::whole(&source),
                    format!("`{}` {error}", source.name),
                ));
                None
            }
        }
    }

    /// The source.
    pub fn source(&self) -> &Arc<Source> {
        &self.node.source
    }

    /// What of the file fits type `T`, as JSON. The rest is among the problems.
    pub fn fit<T: JsonSchema>(&self, problems: &mut Problems) -> Map<String, Json> {
        let mut found = Problems::default();
        let fitting = walk(&self.node, &schema_of::<T>(), self.whole, &mut found);
        let line = |p: &Problem| p.place.source.position(p.place.range.start).line;
        let syntax: Vec<usize> = problems
            .all
            .iter()
            .filter(|p| !self.whole && Arc::ptr_eq(&p.place.source, self.source()))
            .map(line)
            .collect();
        // What a syntax error left behind is not worth a second message.
        let own = |p: &Problem| Arc::ptr_eq(&p.place.source, self.source());
        let worth = |p: &Problem| {
            !own(p) || (p.place.range.start <= self.trusted && !syntax.contains(&line(p)))
        };
        found.all.retain(worth);
        problems.append(found);
        fitting
    }
}

/// The JSON Schema of a type.
pub fn schema_of<T: JsonSchema>() -> Json {
    Json::from(schemars::SchemaGenerator::default().into_root_schema_for::<T>())
}

/// A part of a file as its type; `None` where it was not right (which is told already).
pub fn part<T: DeserializeOwned>(value: Option<Json>) -> Option<T> {
    serde_json::from_value(value?).ok()
}

/// The whole of a file as its type. The schema has been held against it, so an error here means that schema and type
/// do not agree; it is told all the same.
pub fn whole<T: DeserializeOwned>(
    value: Map<String, Json>,
    source: &Arc<Source>,
    problems: &mut Problems,
) -> Option<T> {
    match serde_json::from_value(Json::Object(value)) {
        Ok(value) => Some(value),
        Err(error) => {
            problems.push_unless_known(Problem::error(
                Place::whole(source),
                format!("this file cannot be used: {error}"),
            ));
            None
        }
    }
}
