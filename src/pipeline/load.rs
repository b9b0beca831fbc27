//! Reads pipelines and asset schemas, and says everything that is wrong with them.
//!
//! `node` and `demo` start from [`load_all`], `replay` and `train` from [`load_pipeline`], `forebay check` uses
//! [`Loader`] for any set of files. What comes out `Ok` holds every rule; nothing is started here, and no network is
//! touched.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::plan::{PlanError, PlanOptions, plan, route};
use super::rules::{self, Look, Parts};
use super::spec::PipelineSpec;
use crate::config::Config;
use crate::decode::{DecodeError, DecodeOptions, Decoder};
use crate::diagnose::document::{part, whole};
use crate::diagnose::nearest::{list, nearest};
use crate::diagnose::source::io_reason;
use crate::diagnose::{Document, Place, Problem, Problems, Source, Spot};
use crate::engine::Engine;
use crate::model::Host;
use crate::schema::{Schema, Signal};
use crate::store;

/// A node's configuration, read and checked.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// `config.toml`, with environment and defaults; relative paths are made to start at its folder.
    pub config: Config,
    /// The asset schemas.
    pub schemas: Vec<Schema>,
    /// The pipelines.
    pub pipelines: Vec<LoadedPipeline>,
    /// What is not wrong but probably not meant.
    pub warnings: Problems,
}

/// A pipeline, read and checked, with the schema it asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadedPipeline {
    /// Its file. Models are named from this file's folder.
    pub path: PathBuf,
    /// The file's content.
    pub spec: PipelineSpec,
    /// The asset schema it names.
    pub schema: Schema,
    /// By score: why its model cannot be used. `None`: that is an error.
    pub refused: Option<BTreeMap<String, String>>,
}

impl LoadedPipeline {
    /// The folder from which it names models.
    pub fn base(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// An engine of this pipeline alone, of a node of this name.
    pub fn engine(&self, node: &str, options: PlanOptions<'_>) -> Result<Engine, PlanError> {
        Ok(Engine::new(node.to_owned(), vec![plan(&self.spec, &self.schema, options)?]))
    }

    /// What makes readings of its messages, of up to 1 MiB each.
    pub fn decoder(&self) -> Result<Decoder, DecodeError> {
        let (spec, options) = (&self.spec, DecodeOptions { message_max: 1 << 20 });
        Decoder::new(route(spec), &spec.topics, &spec.format, &self.schema, options)
    }
}

/// Reads a node's config and everything it names, models included. Those of a node that has run before are no errors: it
/// goes on with what it had.
pub fn load_all(config_path: &Path) -> Result<Loaded, Problems> {
    let mut loader = Loader { is_start: true, ..Loader::default() };
    let config = loader.config(config_path, std::env::vars());
    let (schemas, pipelines, problems) = loader.finish();
    match config {
        Some(config) if !problems.has_errors() => {
            Ok(Loaded { config, schemas, pipelines, warnings: problems })
        }
        _ => Err(problems),
    }
}

/// Reads one pipeline and the schema it names, looked for in `schemas`, else in `../schemas`, `schemas` and the
/// folder of the file itself. Models are not looked at: the caller may have others, or be about to make them.
pub fn load_pipeline(path: &Path, schemas: Option<&Path>) -> Result<LoadedPipeline, Problems> {
    let mut loader = Loader::default();
    loader.pipeline(path, schemas, Models::Skip);
    let (_, mut pipelines, problems) = loader.finish();
    match pipelines.pop() {
        Some(pipeline) if !problems.has_errors() => Ok(pipeline),
        _ => Err(problems),
    }
}

/// Whether models are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Models {
    /// They must be there and fit.
    Check,
    /// Those that are not there or do not fit are told.
    Tell,
    /// They are the caller's.
    Skip,
}

/// Reads files one after the other, each once, and collects what is wrong with them.
#[derive(Debug, Default)]
pub struct Loader {
    /// What has been found so far.
    pub problems: Problems,
    /// Every file that was looked at.
    pub files: Vec<PathBuf>,
    /// How this machine runs models, as the config says.
    pub(crate) host: Host,
    /// Whether a node is to start from what is read.
    is_start: bool,
    assets: BTreeMap<PathBuf, Option<Asset>>,
    pipelines: Vec<LoadedPipeline>,
    names: Vec<(String, PathBuf)>,
}

/// An asset schema as read.
#[derive(Clone, Debug)]
struct Asset {
    /// What is right of it: signals that are not are left out.
    schema: Schema,
    /// Whether all of it is right, so that something can be said about what is not in it.
    sound: bool,
}

impl Loader {
    /// What was read, and what was found, in order.
    pub fn finish(mut self) -> (Vec<Schema>, Vec<LoadedPipeline>, Problems) {
        self.problems.sort();
        let schemas = self.assets.into_values().flatten().map(|a| a.schema).collect();
        (schemas, self.pipelines, self.problems)
    }

    /// Notes a file; false if it has been looked at before.
    pub(crate) fn first_time(&mut self, path: &Path) -> bool {
        let path = canonical(path);
        let new = !self.files.contains(&path);
        if new {
            self.files.push(path);
        }
        new
    }

    /// Reads and checks an asset schema.
    pub fn asset(&mut self, path: &Path) {
        if self.first_time(path) {
            let document = Document::read(path, &mut self.problems);
            let asset = document.map(|d| self.asset_document(path, &d));
            self.assets.insert(canonical(path), asset);
        }
    }

    fn asset_document(&mut self, path: &Path, document: &Document) -> Asset {
        let before = self.problems.all.len();
        let mut fitting = document.fit::<Schema>(&mut self.problems);
        let signals: Vec<(usize, Signal)> = match fitting.remove("signal") {
            Some(serde_json::Value::Array(all)) => {
                all.into_iter().enumerate().filter_map(|(i, v)| Some((i, part(Some(v))?))).collect()
            }
            _ => Vec::new(),
        };
        let name: String = part(fitting.remove("name")).unwrap_or_default();
        if document.whole {
            rules::asset::check(document.node.spot(), &name, &signals, &mut self.problems);
            self.name_is_free(document, &name, path);
        }
        let signals = signals.into_iter().map(|(_, signal)| signal).collect();
        let schema = Schema { name, description: part(fitting.remove("description")), signals };
        let sound = document.whole
            && self.problems.all[before..]
                .iter()
                .all(|p| p.severity == crate::diagnose::Severity::Warning);
        Asset { schema, sound }
    }

    fn name_is_free(&mut self, document: &Document, name: &str, path: &Path) {
        let same_folder = |other: &PathBuf| other.parent() == canonical(path).parent();
        let mut taken = self.assets.iter().filter(|(p, _)| same_folder(p));
        let taken = taken
            .find(|(_, a)| a.as_ref().is_some_and(|a| a.schema.name == name && !name.is_empty()));
        if let Some((other, _)) = taken {
            let other = crate::diagnose::source::shown_path(other);
            let problem = Problem::error(
                document.node.spot().key("name"),
                format!("two schemas are called `{name}`"),
            )
            .found(format!("`{name}`, as in {other}"))
            .expected("a name of its own for each schema");
            self.problems.push_unless_known(problem);
        }
    }

    /// Reads and checks a pipeline and the schema it names.
    pub fn pipeline(&mut self, path: &Path, schemas: Option<&Path>, models: Models) {
        if self.first_time(path)
            && let Some(document) = Document::read(path, &mut self.problems)
        {
            self.pipeline_document(path, &document, schemas, models);
        }
    }

    fn pipeline_document(
        &mut self,
        path: &Path,
        document: &Document,
        schemas: Option<&Path>,
        models: Models,
    ) {
        let fitting = document.fit::<PipelineSpec>(&mut self.problems);
        if !document.whole {
            return;
        }
        let parts = Parts::of(document, &fitting, &self.problems);
        let root = document.node.spot();
        let asset = self.schema_for(path, root, &parts.schema, schemas);
        self.pipeline_name(path, root, &parts.name);
        let known = asset.as_ref().filter(|a| a.sound).map(|a| &a.schema);
        let mut look = Look { parts: &parts, root, schema: known, problems: &mut self.problems };
        rules::check(&mut look);
        let mut refused = None;
        if models != Models::Skip {
            let folder = path.parent().unwrap_or(Path::new(""));
            let goes_on = models == Models::Tell;
            let found = rules::model::check(&mut look, folder, &self.host, goes_on, self.is_start);
            refused = goes_on.then_some(found);
        }
        let source = document.source();
        let wrong = |p: &Problem| std::sync::Arc::ptr_eq(&p.place.source, source);
        let errors = |p: &&Problem| p.severity == crate::diagnose::Severity::Error;
        if let Some(asset) = asset.filter(|a| a.sound)
            && !self.problems.all.iter().filter(errors).any(wrong)
            && let Some(spec) = whole::<PipelineSpec>(fitting, source, &mut self.problems)
        {
            self.pipelines.push(LoadedPipeline {
                path: path.to_owned(),
                spec,
                schema: asset.schema,
                refused,
            });
        }
    }

    fn pipeline_name(&mut self, path: &Path, root: Spot<'_>, name: &str) {
        let taken = self.names.iter().find(|(n, _)| n == name && !name.is_empty());
        if let Some((_, other)) = taken {
            let other = crate::diagnose::source::shown_path(other);
            let problem =
                Problem::error(root.key("name"), format!("two pipelines are called `{name}`"))
                    .found(format!("`{name}`, as in {other}"))
                    .expected("a name of its own for each pipeline");
            self.problems.push_unless_known(problem);
        }
        self.names.push((name.to_owned(), path.to_owned()));
    }

    /// The schema that a pipeline names, from the folders where it may be.
    fn schema_for(
        &mut self,
        path: &Path,
        root: Spot<'_>,
        name: &str,
        schemas: Option<&Path>,
    ) -> Option<Asset> {
        let here = path.parent().unwrap_or(Path::new(""));
        let folders = match schemas {
            Some(folder) => vec![folder.to_owned()],
            None => vec![here.join("../schemas"), here.join("schemas"), here.to_owned()],
        };
        let mut known: Vec<Asset> = Vec::new();
        for (index, folder) in folders.iter().enumerate() {
            // Beside the pipeline stand other pipelines: only what looks like a schema is read there.
            let only_schemas = schemas.is_none() && index == 2;
            for file in toml_files(folder).unwrap_or_default() {
                if !only_schemas || super::kind::of(&file) == super::kind::Kind::Schema {
                    self.asset(&file);
                    known.extend(self.assets.get(&canonical(&file)).cloned().flatten());
                }
            }
            if known.iter().any(|a| a.schema.name == name) {
                break;
            }
        }
        if name.is_empty() {
            return None;
        }
        let found = known.iter().find(|a| a.schema.name == name).cloned();
        if found.is_none() {
            self.no_schema(root, name, &known, folders.first().map(PathBuf::as_path));
        }
        found
    }

    fn no_schema(&mut self, root: Spot<'_>, name: &str, known: &[Asset], folder: Option<&Path>) {
        let names: BTreeSet<&str> = known.iter().map(|a| a.schema.name.as_str()).collect();
        let names = || names.iter().copied().filter(|n| !n.is_empty());
        let folder = folder.map(crate::diagnose::source::shown_path).unwrap_or_default();
        let expected = match names().next() {
            Some(_) => list(names(), 12),
            None => format!("a schema file in {folder}; there is none"),
        };
        let problem = Problem::error(root.key("schema"), format!("there is no schema `{name}`"))
            .found(format!("`{name}`"))
            .expected(expected)
            .suggest_nearest(nearest(name, names()).map(|n| format!("\"{n}\"")));
        self.problems.push_unless_known(problem);
    }

    /// Reads and checks every schema and pipeline in the folders that a config names.
    pub(crate) fn folders(&mut self, root: Spot<'_>, config: &Config) {
        let schemas = &config.schemas;
        let goes_on = self.is_start && store::has_run(&config.store.path);
        let models = if goes_on { Models::Tell } else { Models::Check };
        for file in self.folder(root.key("schemas"), schemas, "schema") {
            self.asset(&file);
        }
        for file in self.folder(root.key("pipelines"), &config.pipelines, "pipeline") {
            self.pipeline(&file, Some(schemas), models);
        }
    }

    fn folder(&mut self, spot: Spot<'_>, folder: &Path, what: &str) -> Vec<PathBuf> {
        let shown = crate::diagnose::source::shown_path(folder);
        let place: Place =
            if spot.exact { spot.into() } else { Place::bytes(&spot.node.source, 0..0) };
        let problem = match toml_files(folder) {
            Ok(files) if !files.is_empty() => return files,
            Ok(_) => Problem::warning(place, format!("folder {shown} holds no {what}"))
                .found("no file that ends in .toml")
                .expected(format!("a file for each {what}")),
            Err(error) => Problem::error(place, format!("the folder of {what}s cannot be read"))
                .found(format!("`{shown}`: {}", io_reason(&error)))
                .expected("a folder; relative paths start at the config file"),
        };
        self.problems.push(problem);
        Vec::new()
    }

    /// Something that is no file to check.
    pub(crate) fn stranger(&mut self, path: &Path, message: &str, expected: &str) {
        self.first_time(path);
        let place = Place::whole(&Source::unread(path));
        self.problems.push(Problem::error(place, message).expected(expected));
    }

    /// Opens a model by itself: whether it fits is a question of the pipeline that uses it.
    pub fn model(&mut self, path: &Path) {
        if self.first_time(path)
            && let Err(reason) = rules::model::open(path, &self.host)
        {
            let place = Place::whole(&Source::unread(path));
            let problem = Problem::error(place, "this model cannot be used");
            self.problems.push(
                problem
                    .found(format!("one that {reason}"))
                    .expected("an ONNX model that runs here"),
            );
        }
    }

    /// A file that is not TOML, or in which nothing is known: its syntax is checked, and that is all.
    pub(crate) fn unknown(&mut self, path: &Path) {
        let before = self.problems.all.len();
        if let Some(document) = Document::read(path, &mut self.problems)
            && self.problems.all.len() == before
        {
            let problem = Problem::error(
                Place::bytes(document.source(), 0..0),
                "nothing here says what this file is",
            )
            .found("no key of a config, a pipeline or a schema")
            .expected(
                "a config (`node`, `mqtt`), a pipeline (`schema`, `stage`) or a schema (`signal`)",
            );
            self.problems.push(problem);
        }
        self.first_time(path);
    }
}

/// The `.toml` files of a folder, by name.
pub(crate) fn toml_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "toml") && !f.is_dir());
    files.sort();
    Ok(files)
}

fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// A name that becomes a level of topics and part of ids.
pub(crate) fn name_problem(spot: Spot<'_>, what: &str, name: &str) -> Option<Problem> {
    let fits = |c: char| c.is_alphanumeric() || ['-', '_', '.'].contains(&c);
    if !name.is_empty() && name.len() <= 64 && name.chars().all(fits) {
        return None;
    }
    let good: String =
        name.trim().chars().take(64).map(|c| if fits(c) { c } else { '-' }).collect();
    let problem = Problem::error(
        spot,
        format!("this cannot be the name of {what}: it becomes a level of topics"),
    )
    .found(if name.is_empty() { "an empty name".into() } else { format!("`{name}`") })
    .expected("1 to 64 letters, digits, `-`, `_` and `.`")
    .suggest_nearest((!good.is_empty()).then(|| format!("\"{good}\"")));
    Some(problem)
}
