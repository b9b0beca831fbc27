//! Which kind of file a TOML file is, by what is in it; by its folder where that says nothing.

use std::path::Path;

use serde_json::Value as Json;

use super::spec::PipelineSpec;
use crate::config::Config;
use crate::diagnose::document::schema_of;
use crate::diagnose::{Document, Problems, Value};
use crate::schema::Schema;

/// What a file is meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A node's config.
    Config,
    /// A pipeline.
    Pipeline,
    /// An asset schema.
    Schema,
    /// Nothing of it is known.
    Unknown,
}

/// What the file at `path` is meant to be.
pub fn of(path: &Path) -> Kind {
    let document = Document::read(path, &mut Problems::default());
    let keys: Vec<String> = match document.map(|d| d.node.value) {
        Some(Value::Table(entries)) => entries.into_iter().map(|(key, _)| key).collect(),
        _ => Vec::new(),
    };
    let known = |schema: &Json| {
        let names = schema.get("properties").and_then(Json::as_object);
        // `name` and `description` are in more than one kind and tell nothing.
        let tells = |key: &&String| !["name", "description"].contains(&key.as_str());
        keys.iter().filter(tells).filter(|k| names.is_some_and(|n| n.contains_key(*k))).count()
    };
    let folder =
        path.parent().and_then(Path::file_name).and_then(|f| f.to_str()).unwrap_or_default();
    let file = path.file_name().and_then(|f| f.to_str()).unwrap_or_default();
    let kinds = [
        (Kind::Config, known(&schema_of::<Config>()), file == "config.toml"),
        (Kind::Pipeline, known(&schema_of::<PipelineSpec>()), folder == "pipelines"),
        (Kind::Schema, known(&schema_of::<Schema>()), folder == "schemas"),
    ];
    let best = kinds.into_iter().max_by_key(|(_, keys, place)| (*keys, *place));
    best.filter(|(_, keys, place)| *keys > 0 || *place).map_or(Kind::Unknown, |(kind, ..)| kind)
}
