//! Public benchmarks, each run by its published protocol on what of it lies in a folder.
//!
//! `cli evaluate --suite` calls [`run`]. A collection is one file here: a function that looks into its own folder, runs
//! whatever it finds there, and gives [`Findings`]. Nothing of the collections is part of this program. Every number
//! stands beside its floors, says whether it is causal and where its threshold comes from, and carries the digests of
//! data, models and settings.

mod ai4i;
mod cmapss;
mod cwru;
mod nab;
mod skab;

use std::error::Error;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::evaluate::detection::Judged;
use crate::evaluate::labels::Fault;
use crate::evaluate::metrics::events::Interval;
use crate::evaluate::report::Figure;
use crate::evaluate::stream::{Verdict, Verdicts, at_rows, micros};
use crate::ingest::replay::{Recording, RecordingError, RecordingOptions};
use crate::model::Host;
use crate::model::onnx::{digest, hex};
use crate::pipeline::load::LoadedPipeline;
use crate::pipeline::plan::route;
use crate::pipeline::spec::PipelineSpec;
use crate::schema::Schema;
use crate::time::{Span, Timestamp, monotonic};

/// Why something could not be run; any error will do.
pub type Failed = Box<dyn Error + Send + Sync>;

/// What a collection gives.
pub type SuiteResult = Result<Findings, Failed>;

/// A public benchmark.
#[derive(Clone, Copy, Debug)]
pub struct Collection {
    /// Its name in the table, for `--only`.
    pub name: &'static str,
    /// Its folder in the suite's folder.
    pub folder: &'static str,
    /// Runs what there is of it.
    pub run: fn(&Run<'_>) -> SuiteResult,
}

/// All of them, in the order of the table.
pub const COLLECTIONS: &[Collection] = &[
    Collection { name: "skab", folder: "skab", run: skab::run },
    Collection { name: "ai4i", folder: "ai4i2020", run: ai4i::run },
    Collection { name: "cwru", folder: "cwru_bearing", run: cwru::run },
    Collection { name: "nab", folder: "nab", run: nab::run },
    Collection { name: "cmapss", folder: "cmapss", run: cmapss::run },
];

/// What a collection is given.
pub struct Run<'a> {
    /// Its folder.
    pub folder: &'a Path,
    /// How this machine runs models.
    pub host: &'a Host,
    /// Tells the person who waits what is being done.
    pub say: &'a dyn Fn(&str),
}

/// A pipeline and a schema as they are written, and findings whose digest covers them and `settings`.
fn written(
    pipeline: &str,
    schema: &str,
    settings: &str,
) -> Result<(LoadedPipeline, Findings), Failed> {
    let mut findings = Findings::default();
    for text in [pipeline, schema, settings] {
        findings.config(text);
    }
    Ok((parsed(pipeline, schema)?, findings))
}

/// A pipeline and a schema as they are written.
fn parsed(pipeline: &str, schema: &str) -> Result<LoadedPipeline, Failed> {
    Ok(unnamed(toml::from_str(pipeline)?, toml::from_str(schema)?))
}

/// A pipeline that is in no file and names no model.
fn unnamed(spec: PipelineSpec, schema: Schema) -> LoadedPipeline {
    LoadedPipeline { path: PathBuf::new(), spec, schema, refused: None }
}

/// The rows of a file, `batch_rows` at a time, for a pipeline that says how it is written.
fn recording(
    file: &Path,
    pipeline: &LoadedPipeline,
    batch_rows: usize,
) -> Result<Recording, RecordingError> {
    let options = RecordingOptions {
        spec: pipeline.spec.recording.clone().unwrap_or_default(),
        asset: None,
        schema: &pipeline.schema,
        route: route(&pipeline.spec),
        batch_rows,
    };
    Recording::open(file, &options)
}

/// What was said of a recording of one machine, at each of its rows.
struct Watched {
    times: Vec<Timestamp>,
    scores: Vec<f64>,
    alarmed: Vec<bool>,
    threshold: Option<f64>,
}

impl Watched {
    /// Of a pipeline with a grid of `step`, at the rows `times`.
    fn at(times: Vec<Timestamp>, verdicts: Verdicts, step: Span) -> Watched {
        let threshold = verdicts.threshold;
        let verdicts = verdicts.by_asset.into_values().next().unwrap_or_default();
        let known = at_rows(&verdicts, &times, step);
        let score = |verdict: Option<&Verdict>| verdict.and_then(|v| v.score).unwrap_or(f64::NAN);
        let scores = known.iter().copied().map(score).collect();
        let alarmed = known.iter().map(|v| v.is_some_and(|v| v.alarm)).collect();
        Watched { times, scores, alarmed, threshold }
    }

    /// Drawn over time, with what was wrong then.
    fn drawn(self, name: String, faults: impl IntoIterator<Item = Interval>) -> Figure {
        let fault = |interval| Fault { interval, name: String::new() };
        let judged = Judged {
            asset: name,
            scores: self.scores,
            faults: faults.into_iter().map(fault).collect(),
            times: self.times,
            ..Judged::default()
        };
        Figure::OverTime(judged.into(), self.threshold)
    }
}

/// A detector that knows nothing, and what it comes to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Floor {
    /// Which one.
    pub name: String,
    /// Its value of the same measure.
    pub value: f64,
}

/// A published result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bar {
    /// The value.
    pub value: f64,
    /// Whose it is, and what has to be known of it.
    pub source: String,
}

/// A line of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Which part of the collection.
    pub part: String,
    /// Which measure.
    pub metric: String,
    /// What was measured.
    pub value: f64,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// The trivial detectors beside it.
    pub floors: Vec<Floor>,
    /// The published result to meet.
    pub bar: Option<Bar>,
    /// Whether every answer rests on the past alone.
    pub causal: bool,
    /// Where threshold and settings come from.
    pub threshold: String,
}

impl Row {
    /// A causal number, higher is better, whose threshold comes from training rows alone.
    pub fn new(part: impl Into<String>, metric: impl Into<String>, value: f64) -> Row {
        Row {
            part: part.into(),
            metric: metric.into(),
            value,
            higher_is_better: true,
            floors: Vec::new(),
            bar: None,
            causal: true,
            threshold: "training rows only".into(),
        }
    }

    /// Less is better.
    #[must_use]
    pub fn lower_is_better(mut self) -> Row {
        self.higher_is_better = false;
        self
    }

    /// Adds a trivial detector.
    #[must_use]
    pub fn floor(mut self, name: impl Into<String>, value: f64) -> Row {
        self.floors.push(Floor { name: name.into(), value });
        self
    }

    /// Says what is published.
    #[must_use]
    pub fn bar(mut self, value: f64, source: impl Into<String>) -> Row {
        self.bar = Some(Bar { value, source: source.into() });
        self
    }

    /// Says where threshold and settings come from.
    #[must_use]
    pub fn threshold(mut self, origin: impl Into<String>) -> Row {
        self.threshold = origin.into();
        self
    }

    /// Whether it meets the published result.
    pub fn meets(&self) -> Option<bool> {
        let bar = self.bar.as_ref()?.value;
        Some(if self.higher_is_better { self.value >= bar } else { self.value <= bar })
    }
}

/// A model that was used.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelUsed {
    /// For which part.
    pub part: String,
    /// Bytes of its file.
    pub bytes: u64,
    /// SHA-256 of its file.
    pub sha256: String,
}

impl ModelUsed {
    /// Of a file's content.
    pub fn of(part: impl Into<String>, bytes: &[u8]) -> ModelUsed {
        ModelUsed { part: part.into(), bytes: bytes.len() as u64, sha256: digest(bytes) }
    }
}

/// A part that could not be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Which: a file, or a group of them.
    pub part: String,
    /// Why.
    pub error: String,
}

/// What a collection found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Lines of the table.
    pub rows: Vec<Row>,
    /// Parts that could not be run: the rows are those of all others.
    pub failures: Vec<Failure>,
    /// The models that gave the answers.
    pub models: Vec<ModelUsed>,
    /// What else has to be known, a sentence each.
    pub notes: Vec<String>,
    /// How long single inferences took.
    pub inference: Vec<Duration>,
    /// What is drawn of it.
    pub figures: Vec<Figure>,
    settings: Sha256,
}

impl Findings {
    /// Adds to what the digest of the settings covers: a pipeline's text, options, seeds.
    pub fn config(&mut self, text: &str) {
        self.settings.update(text);
        self.settings.update([0]);
    }

    /// What came of a part; a failure is kept, so that the other parts can go on.
    pub fn part<T>(&mut self, part: impl Into<String>, result: Result<T, Failed>) -> Option<T> {
        let failed = |error: Failed| Failure { part: part.into(), error: error.to_string() };
        result.map_err(|error| self.failures.push(failed(error))).ok()
    }

    /// These findings, or the error `nothing` where there was nothing to run.
    pub fn unless_empty(self, nothing: &str) -> SuiteResult {
        let is_empty = self.rows.is_empty() && self.failures.is_empty();
        if is_empty { Err(nothing.into()) } else { Ok(self) }
    }
}

/// One collection's part of the report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The collection.
    pub collection: &'static str,
    /// Lines of the table.
    pub rows: Vec<Row>,
    /// What else has to be known.
    pub notes: Vec<String>,
    /// Parts that could not be run; the lines are those of all others.
    pub failures: Vec<Failure>,
    /// Why there are no lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Files in its folder.
    pub files: usize,
    /// SHA-256 over the names and contents of those files, in order of their names.
    pub data_sha256: String,
    /// SHA-256 over pipelines and settings.
    pub config_sha256: String,
    /// Models.
    pub models: Vec<ModelUsed>,
    /// Median time of one inference, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inference_p50_us: Option<f64>,
    /// 99th percentile of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inference_p99_us: Option<f64>,
    /// How long all of it took, training too.
    pub seconds: f64,
    /// What is drawn of it, in the page alone.
    #[serde(skip)]
    pub figures: Vec<Figure>,
}

/// Runs a collection; `None` where its folder is not in `folder`. A collection that fails has a report that says why.
pub fn run(
    collection: &Collection,
    folder: &Path,
    host: &Host,
    say: &dyn Fn(&str),
) -> Option<Report> {
    let own = folder.join(collection.folder);
    if !own.is_dir() {
        return None;
    }
    let began = monotonic();
    let (files, data_sha256, unread) = data(&own);
    let (mut findings, error) = match (collection.run)(&Run { folder: &own, host, say }) {
        Ok(findings) => (findings, None),
        Err(error) => (Findings::default(), Some(error.to_string())),
    };
    findings.failures.extend(unread);
    let mut times = findings.inference;
    times.sort_unstable();
    Some(Report {
        collection: collection.name,
        rows: findings.rows,
        notes: findings.notes,
        failures: findings.failures,
        error,
        files,
        data_sha256,
        config_sha256: hex(&findings.settings.finalize()),
        models: findings.models,
        inference_p50_us: micros(&times, 50),
        inference_p99_us: micros(&times, 99),
        seconds: began.elapsed().as_secs_f64(),
        figures: findings.figures,
    })
}

/// How many files lie below a folder, their digest, and which of them cannot be read.
fn data(folder: &Path) -> (usize, String, Vec<Failure>) {
    let mut unread = Vec::new();
    let mut failed = |path: &Path, error: &io::Error| {
        let part = path.strip_prefix(folder).unwrap_or(path).display().to_string();
        unread.push(Failure { part, error: error.to_string() });
    };
    let found = files(folder).unwrap_or_else(|error| {
        failed(folder, &error);
        Vec::new()
    });
    let mut digest = Sha256::new();
    for path in &found {
        let name = path.strip_prefix(folder).unwrap_or(path);
        digest.update(name.as_os_str().as_encoded_bytes());
        digest.update([0]);
        if let Err(error) = File::open(path).and_then(|file| add(&mut digest, file)) {
            failed(path, &error);
        }
    }
    (found.len(), hex(&digest.finalize()), unread)
}

/// All files below a folder but hidden ones, in order of their names.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for path in entries(&folder)? {
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    Ok(found)
}

/// Adds a file's content to a digest.
fn add(digest: &mut Sha256, mut file: File) -> io::Result<()> {
    let mut part = vec![0; 1 << 16];
    loop {
        match file.read(&mut part)? {
            0 => return Ok(()),
            count => digest.update(&part[..count]),
        }
    }
}

/// What lies in a folder, but for what is hidden, as editors leave it.
fn entries(folder: &Path) -> io::Result<impl Iterator<Item = PathBuf>> {
    let is_seen =
        |entry: &std::fs::DirEntry| !entry.file_name().as_encoded_bytes().starts_with(b".");
    Ok(std::fs::read_dir(folder)?.filter_map(Result::ok).filter(is_seen).map(|entry| entry.path()))
}

/// The folders in a folder, in order of their names.
fn folders(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = entries(folder)?.filter(|path| path.is_dir()).collect();
    found.sort();
    Ok(found)
}

/// A file's content, which may be gzipped.
fn opened(path: &Path) -> io::Result<Box<dyn Read>> {
    let file = File::open(path)?;
    let is_packed = path.extension().is_some_and(|end| end == "gz");
    Ok(if is_packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) })
}

/// Whether a file's name ends with `.csv` or `.csv.gz`.
fn is_csv(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.ends_with(b".csv") || name.ends_with(b".csv.gz")
}

/// The CSV files of a folder, those with numbers for names in the order of these.
fn csv_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = entries(folder)?.filter(|path| is_csv(path)).collect();
    found.sort_by_key(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let number = name.split('.').next().unwrap_or_default().parse();
        (number.unwrap_or(u64::MAX), name)
    });
    Ok(found)
}
