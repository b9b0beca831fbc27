//! `forebay schema`: JSON Schemas of what people write and of what leaves, from the types themselves.

use anyhow::Context;
use serde_json::Value as Json;

use super::args::{SchemaArgs, SchemaKind};
use super::{Outcome, print};
use crate::config::Config;
use crate::diagnose::document::schema_of;
use crate::pipeline::spec::PipelineSpec;
use crate::record::Record;
use crate::schema::Schema;

/// Prints or writes schemas.
pub(super) fn schema(args: &SchemaArgs) -> anyhow::Result<Outcome> {
    let wanted = |name: &str| args.kind.is_none_or(|kind| name_of(kind) == name);
    let schemas: Vec<(&str, Json)> =
        json_schemas().into_iter().filter(|(n, _)| wanted(n)).collect();
    if let Some(folder) = &args.write {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("{} cannot be made", folder.display()))?;
        for (name, schema) in &schemas {
            let path = folder.join(format!("{name}.json"));
            std::fs::write(&path, text(schema)?)
                .with_context(|| format!("{} cannot be written", path.display()))?;
        }
        return Ok(Outcome::Fine);
    }
    match (args.kind, schemas.first()) {
        (Some(_), Some((_, one))) => print(&text(one)?)?,
        _ => print(&text(&schemas.into_iter().map(|(n, s)| (n.to_owned(), s)).collect::<Json>())?)?,
    }
    Ok(Outcome::Fine)
}

fn name_of(kind: SchemaKind) -> &'static str {
    match kind {
        SchemaKind::Config => "config",
        SchemaKind::Pipeline => "pipeline",
        SchemaKind::Schema => "schema",
        SchemaKind::Record => "record",
    }
}

fn text(schema: &Json) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(schema)? + "\n")
}

/// The JSON Schemas (2020-12) by name, as `schemas/json/` holds them.
pub fn json_schemas() -> Vec<(&'static str, Json)> {
    vec![
        ("config", schema_of::<Config>()),
        ("pipeline", schema_of::<PipelineSpec>()),
        ("schema", schema_of::<Schema>()),
        ("record", schema_of::<Record>()),
    ]
}
