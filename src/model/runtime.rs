//! Which library does the work: an ONNX Runtime found on this machine, or tract, which is built in.
//!
//! Called once at start by `node`, `cli` (`check`, `replay`, `train`, `doctor`). One runtime a process: the first
//! call of [`Runtime::find`] decides. It promises that a library which cannot be used is passed over with its
//! reason kept, and that sessions use no more threads than they are told, do not spin, and send no telemetry. It downloads nothing and
//! starts no other program.

use std::collections::BTreeSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::{debug, error, info, warn};

use super::onnx::panic_text;
pub use super::provider::Provider;
use super::provider::reason_in;

/// What to write for `onnxruntime.library` to use tract even where an ONNX Runtime is installed.
pub const TRACT: &str = "tract";

static RUNTIME: OnceLock<Runtime> = OnceLock::new();
/// Held while a runtime starts; the library that could not, and why.
static STARTING: Mutex<Option<(PathBuf, String)>> = Mutex::new(None);

/// Who computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Microsoft's library, loaded at run time.
    OnnxRuntime,
    /// The pure-Rust library that is part of this program.
    Tract,
}

/// Where a library was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `onnxruntime.library` in the config.
    Config,
    /// The environment variable `ORT_DYLIB_PATH`.
    Environment,
    /// Beside this program.
    Beside,
    /// An installed Python package `onnxruntime`.
    Python,
    /// The system's library path.
    System,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Place::Config => "config",
            Place::Environment => "ORT_DYLIB_PATH",
            Place::Beside => "beside the program",
            Place::Python => "Python package",
            Place::System => "system",
        })
    }
}

/// How ONNX Runtime runs a model; tract has no such choices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Execution providers in order of preference; where none of them can be had, the processor does the work.
    pub providers: Vec<Provider>,
    /// Threads that one model may use. One is the engine's own.
    pub threads: u16,
    /// How much the graph is changed when it is loaded.
    pub optimisation: Optimisation,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { providers: Vec::new(), threads: 1, optimisation: Optimisation::All }
    }
}

/// How much of a graph is changed when it is loaded, so that it runs faster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Optimisation {
    /// Nothing.
    None,
    /// What cannot change a result.
    Basic,
    /// Nodes are joined, too.
    Extended,
    /// And brought into the layout that suits the processor.
    #[default]
    All,
}

impl fmt::Display for Optimisation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Optimisation::None => "none",
            Optimisation::Basic => "basic",
            Optimisation::Extended => "extended",
            Optimisation::All => "all",
        })
    }
}

/// A library that was tried and cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Where it was looked for.
    pub place: Place,
    /// Its file.
    pub path: PathBuf,
    /// Why it cannot be used.
    pub reason: String,
}

/// Why there is no runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The library named in the config cannot be used.
    #[error(
        "onnxruntime.library {} cannot be used: {reason}; \
         name a libonnxruntime of version 1.{} or newer, write \"tract\", or leave it out",
        path.display(),
        ort::MINOR_VERSION
    )]
    Library {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// The runtime of this process.
#[derive(Debug)]
pub struct Runtime {
    /// `None` for tract, which needs none.
    environment: Option<Environment>,
    /// Who computes.
    pub backend: Backend,
    /// The library's version, where it says one.
    pub version: Option<String>,
    /// The library's place and file; `None` for tract.
    pub library: Option<(Place, PathBuf)>,
    /// What was tried before.
    pub tried: Vec<Attempt>,
}

impl Runtime {
    /// Finds the runtime, once for the process: `library` (from the config; `"tract"` names the built-in one),
    /// `ORT_DYLIB_PATH`, beside this program, an installed Python package, the system's path, else tract.
    ///
    /// A `library` that cannot be used is an error; elsewhere it is a warning and the search goes on.
    pub fn find(library: Option<&Path>) -> Result<&'static Runtime, RuntimeError> {
        let mut failed = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = RUNTIME.get() {
            return Ok(runtime);
        }
        // The same file is not tried again, and after one that was loaded and failed no other is.
        if let Some((path, reason)) = failed.clone()
            && (library == Some(path.as_path()) || plausible(&path).is_ok())
        {
            return Err(RuntimeError::Library { path, reason });
        }
        let runtime = start(library).inspect_err(|RuntimeError::Library { path, reason }| {
            *failed = Some((path.clone(), reason.clone()));
        })?;
        info!(runtime = %runtime, "ONNX models run on");
        Ok(RUNTIME.get_or_init(|| runtime))
    }

    /// Its name and version: `onnxruntime 1.32.0`, `tract`.
    pub fn name(&self) -> String {
        match (self.backend, &self.version) {
            (Backend::OnnxRuntime, Some(version)) => format!("onnxruntime {version}"),
            (Backend::OnnxRuntime, None) => "onnxruntime".into(),
            (Backend::Tract, _) => "tract".into(),
        }
    }

    /// A session of the model in `bytes`, as every model here gets one; `None` where tract is to do the work.
    ///
    /// Public for benches, which compare a stage with a bare loop; everybody else opens a [`super::Model`].
    pub fn session(&self, bytes: &[u8]) -> Option<Result<Session, ort::Error>> {
        let made = self.open(&Settings::default(), |builder| builder.commit_from_memory(bytes))?;
        Some(made.map(|(session, _)| session))
    }

    /// What `commit` makes of a builder with these settings, and with which execution provider: the first of them that
    /// works, else the processor. `None` where tract is to do the work.
    pub(super) fn open(
        &self,
        settings: &Settings,
        commit: impl Fn(&mut SessionBuilder) -> Result<Session, ort::Error>,
    ) -> Option<Result<(Session, Provider), ort::Error>> {
        let environment = self.environment.as_ref()?;
        for &provider in settings.providers.iter().take_while(|p| **p != Provider::Cpu) {
            let made = builder(environment, settings).and_then(|builder| {
                let dispatch = provider.dispatch(settings.threads);
                let mut builder = builder.with_execution_providers(dispatch.as_slice())?;
                commit(&mut builder)
            });
            match made {
                Ok(session) => return Some(Ok((session, provider))),
                Err(error) => {
                    let reason = reason_in(&error.to_string());
                    warn!(%provider, reason, "the execution provider cannot be used; the next one is tried");
                }
            }
        }
        let made = builder(environment, settings).and_then(|mut builder| commit(&mut builder));
        Some(made.map(|session| (session, Provider::Cpu)))
    }
}

fn builder(environment: &Environment, settings: &Settings) -> Result<SessionBuilder, ort::Error> {
    let level = match settings.optimisation {
        Optimisation::None => GraphOptimizationLevel::Disable,
        Optimisation::Basic => GraphOptimizationLevel::Level1,
        Optimisation::Extended => GraphOptimizationLevel::Level2,
        Optimisation::All => GraphOptimizationLevel::All,
    };
    // Spinning would burn a core between ticks, a memory plan is for one batch size.
    let builder = Session::builder(environment)?
        .with_optimization_level(level)
        .unwrap_or_else(ort::Error::recover)
        .with_intra_threads(usize::from(settings.threads.max(1)))?
        .with_inter_threads(1)?
        .with_intra_op_spinning(false)?
        .with_memory_pattern(false)?
        .with_log_level(LogLevel::Warning)?;
    Ok(builder)
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.library {
            Some((place, path)) => write!(f, "{} ({place}: {})", self.name(), path.display()),
            None => f.write_str(&self.name()),
        }
    }
}

fn start(library: Option<&Path>) -> Result<Runtime, RuntimeError> {
    let mut tried = Vec::new();
    if let Some(path) = library {
        if path == Path::new(TRACT) {
            return Ok(tract(tried));
        }
        return match plausible(path).and_then(|()| start_library(path)) {
            Ok(environment) => Ok(loaded(environment, Place::Config, path.to_owned(), tried)),
            Err(reason) => Err(RuntimeError::Library { path: path.to_owned(), reason }),
        };
    }
    for (place, path) in candidates() {
        // The system's is only a name, and the last one.
        let unlikely = if place == Place::System { None } else { plausible(&path).err() };
        let was_loaded = unlikely.is_none();
        let reason = match unlikely {
            Some(reason) => reason,
            None => match start_library(&path) {
                Ok(environment) => return Ok(loaded(environment, place, path, tried)),
                Err(reason) => reason,
            },
        };
        if place == Place::Environment {
            warn!(path = %path.display(), %reason, "ORT_DYLIB_PATH cannot be used");
        } else {
            debug!(path = %path.display(), %reason, "ONNX Runtime passed over");
        }
        tried.push(Attempt { place, path, reason });
        if was_loaded {
            break;
        }
    }
    Ok(tract(tried))
}

/// What can be said against a library without loading it. A process has one try: `ort` takes a library that failed to
/// load for one that did, and computes with what is not there.
fn plausible(path: &Path) -> Result<(), String> {
    if path.components().count() < 2 && !path.exists() {
        return Ok(()); // a name for the system's loader to find
    }
    if let [1, minor, ..] = numbers_in(path)[..]
        && minor < ort::MINOR_VERSION
    {
        return Err(format!("version 1.{minor} is too old"));
    }
    let content = std::fs::read(path).map_err(|e| e.to_string())?;
    let native: &[&[u8]] = match std::env::consts::DLL_SUFFIX {
        ".so" => &[b"\x7fELF"],
        ".dll" => &[b"MZ"],
        _ => &[b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe"],
    };
    if !native.iter().any(|magic| content.starts_with(magic)) {
        return Err("it is not a library of this system".into());
    }
    let entry = b"OrtGetApiBase";
    if !content.windows(entry.len()).any(|bytes| bytes == entry) {
        return Err("it is a library, but not ONNX Runtime: it has no `OrtGetApiBase`".into());
    }
    Ok(())
}

fn loaded(environment: Environment, place: Place, path: PathBuf, tried: Vec<Attempt>) -> Runtime {
    let version = version_in(ort::info()).or_else(|| version_in(&path.to_string_lossy()));
    let library = Some((place, path));
    Runtime {
        environment: Some(environment),
        backend: Backend::OnnxRuntime,
        version,
        library,
        tried,
    }
}

/// Loads the library and starts its environment. `ort` panics where a library is too broken to say so.
fn start_library(path: &Path) -> Result<Environment, String> {
    // A bare name would be looked for in the system's folders, even where such a file is here.
    let here = path.exists().then(|| std::path::absolute(path).ok()).flatten();
    let path = here.as_deref().unwrap_or(path);
    let started = catch_unwind(AssertUnwindSafe(|| -> Result<Environment, String> {
        let builder = ort::init_from(path).map_err(|e| e.to_string())?;
        let environment = builder
            .with_name("forebay")
            .with_telemetry(false)
            .with_logger(Arc::new(|level, _category, _id, _place, text| log(level, text)))
            .build()
            .map_err(|e| e.to_string())?;
        environment.set_log_level(LogLevel::Warning);
        Ok(environment)
    }));
    started.unwrap_or_else(|panic| Err(panic_text(&*panic)))
}

fn tract(tried: Vec<Attempt>) -> Runtime {
    Runtime { environment: None, backend: Backend::Tract, version: None, library: None, tried }
}

fn log(level: LogLevel, text: &str) {
    match level {
        LogLevel::Verbose | LogLevel::Info => debug!(target: "onnxruntime", "{text}"),
        LogLevel::Warning => warn!(target: "onnxruntime", "{text}"),
        // A failed run comes back as an error too, and is told there; this is the library's own view of it.
        LogLevel::Error => debug!(target: "onnxruntime", "{text}"),
        LogLevel::Fatal => error!(target: "onnxruntime", "{text}"),
    }
}

/// Libraries that may be there, in order of preference.
fn candidates() -> Vec<(Place, PathBuf)> {
    let mut found = Vec::new();
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|p| !p.is_empty()) {
        found.push((Place::Environment, PathBuf::from(path)));
    }
    if let Some(folder) = std::env::current_exe().ok().and_then(|p| Some(p.parent()?.to_owned())) {
        found.extend(libraries_in(&folder).into_iter().map(|p| (Place::Beside, p)));
    }
    for packages in python_packages() {
        let folder = packages.join("onnxruntime").join("capi");
        found.extend(libraries_in(&folder).into_iter().map(|p| (Place::Python, p)));
    }
    let bare =
        format!("{}onnxruntime{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    found.push((Place::System, PathBuf::from(bare)));
    found
}

/// Files in `folder` that are named like an ONNX Runtime, newest version first.
fn libraries_in(folder: &Path) -> Vec<PathBuf> {
    let stem = format!("{}onnxruntime.", std::env::consts::DLL_PREFIX);
    let extension = std::env::consts::DLL_SUFFIX.trim_start_matches('.');
    let mut found: Vec<(Vec<u32>, PathBuf)> = entries(folder)
        .into_iter()
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&stem) && name.split('.').any(|part| part == extension)
        })
        .map(|path| (numbers_in(&path), path))
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, path)| path).collect()
}

/// `site-packages` folders of the Pythons on this machine, without asking a Python.
fn python_packages() -> BTreeSet<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let mut roots: Vec<PathBuf> = ["VIRTUAL_ENV", "CONDA_PREFIX"]
        .iter()
        .filter_map(|name| std::env::var_os(name).map(PathBuf::from))
        .collect();
    roots.extend(["/usr", "/usr/local", "/opt/homebrew"].map(PathBuf::from));
    if let Some(home) = home {
        roots.push(home.join(".local"));
        roots.extend(entries(&home.join(".pyenv").join("versions")));
    }
    let mut found = BTreeSet::new();
    for root in roots {
        for python in entries(&root.join("lib")) {
            if !python.file_name().unwrap_or_default().to_string_lossy().starts_with("python") {
                continue;
            }
            found.extend(["site-packages", "dist-packages"].map(|name| python.join(name)));
        }
        found.insert(root.join("Lib").join("site-packages"));
    }
    found
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(read) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = read.filter_map(|e| e.ok().map(|e| e.path())).collect();
    paths.sort();
    paths
}

fn numbers_in(path: &Path) -> Vec<u32> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split('.').filter_map(|part| part.parse().ok()).collect()
}

/// The first `1.x.y` in `text`.
fn version_in(text: &str) -> Option<String> {
    text.split(|c: char| !c.is_ascii_digit() && c != '.')
        .map(|part| part.trim_matches('.'))
        .find(|part| part.starts_with("1.") && part.split('.').count() == 3)
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_libraries_say() {
        let said =
            "ORT Build Info: git-branch=rel-1.32.0, git-commit-id=26250ae, build type=Release";
        assert_eq!(version_in(said).as_deref(), Some("1.32.0"));
        assert_eq!(version_in("/opt/libonnxruntime.so.1.24.1").as_deref(), Some("1.24.1"));
        assert_eq!(version_in("/opt/libonnxruntime.so"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_newest_library_in_a_folder_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "libonnxruntime.so.1.9.0",
            "libonnxruntime.so.1.24.0",
            "libonnxruntime_providers_shared.so",
            "libonnxruntime.txt",
        ] {
            std::fs::write(folder.path().join(name), b"").unwrap();
        }
        let names: Vec<_> = libraries_in(folder.path())
            .iter()
            .map(|p| p.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["libonnxruntime.so.1.24.0", "libonnxruntime.so.1.9.0"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_no_onnx_runtime_is_told_without_loading_it() {
        let folder = tempfile::tempdir().unwrap();
        let cases: [(&str, &[u8], &str); 4] = [
            ("text.so", b"not a library", "not a library of this system"),
            ("other.so", b"\x7fELF and so on", "not ONNX Runtime"),
            ("old.so.1.9.0", b"\x7fELF OrtGetApiBase", "1.9 is too old"),
            ("empty.so", b"", "not a library of this system"),
        ];
        for (name, content, told) in cases {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            let reason = plausible(&path).unwrap_err();
            assert!(reason.contains(told), "{name}: {reason}");
        }
        let good = folder.path().join("good.so.1.24.0");
        std::fs::write(&good, b"\x7fELF ... OrtGetApiBase ...").unwrap();
        assert_eq!(plausible(&good), Ok(()));
        assert!(plausible(&folder.path().join("none.so")).is_err());
    }
}
