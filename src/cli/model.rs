//! `forebay model`: a model's file looked at, tried and signed.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::remote::{RemoteAction, remote};
use super::verify::{VerifyArgs, signed, verify};
use super::{Outcome, print, remark, write_whole};
use crate::model::golden::Golden;
use crate::model::metadata::Meaning;
use crate::model::onnx::Port;
use crate::model::running::RunningOptions;
use crate::model::signature::{PublicKey, SigningKey};
use crate::model::{self, ModelFile, Trust};
use crate::pipeline::load::load_pipeline;
use crate::pipeline::names::feature_names;

/// `forebay model`.
#[derive(Clone, Debug, Args)]
pub struct ModelArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: ModelAction,
}

/// What can be done with a model's file.
#[derive(Clone, Debug, Subcommand)]
pub enum ModelAction {
    /// Print what a model says of itself: inputs, outputs and what they mean, threshold, training data, signature
    Inspect {
        /// The model.
        #[arg(value_name = "MODEL.onnx")]
        file: PathBuf,
        /// It must be signed with this key (or one of several): the digits that `keygen` prints, or a key's file.
        #[arg(long, value_name = "HEX|FILE", value_parser = PublicKey::named)]
        key: Vec<PublicKey>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Load a model on this machine's runtime and run its golden vectors; exit code 1 if anything is wrong
    Verify(VerifyArgs),
    /// Sign a model, so that nodes whose `models.keys` holds the key know who made it
    Sign {
        /// The model.
        #[arg(value_name = "MODEL.onnx")]
        file: PathBuf,
        /// The private key (PEM, ed25519).
        #[arg(long, value_name = "KEY.pem")]
        key: PathBuf,
        /// Where to. Absent: the model's file itself.
        #[arg(long, short, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Look after the models of a node that runs.
    #[command(flatten)]
    Remote(RemoteAction),
    /// Make a key to sign with; prints the public key, for `models.keys` of the nodes
    Keygen {
        /// Where to write the private key; only its owner may read it.
        #[arg(long, short, value_name = "KEY.pem")]
        out: PathBuf,
    },
    /// Write a model that needs no training: it learns each asset's normal while it runs, and scores by how many
    /// standard deviations a window lies from it
    Running(RunningArgs),
}

/// `forebay model running`.
#[derive(Clone, Debug, Args)]
pub struct RunningArgs {
    /// The pipeline file, whose features it watches.
    #[arg(long, short, value_name = "FILE")]
    pipeline: PathBuf,
    /// The model to write.
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
    /// Folder of asset schemas. Absent: found from the pipeline's folder.
    #[arg(long, value_name = "DIR")]
    schemas: Option<PathBuf>,
    /// How many windows it remembers; older ones fade.
    #[arg(long, default_value_t = RunningOptions::default().memory, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    memory: u32,
    /// After how many windows of an asset it scores it.
    #[arg(long, default_value_t = RunningOptions::default().warm, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    warm: u32,
    /// Up to how many standard deviations a distance is learned: small, so that a fault does not become normal.
    #[arg(long, default_value_t = RunningOptions::default().clip, value_name = "SIGMAS")]
    clip: f64,
    /// At how many standard deviations a window is abnormal.
    #[arg(long, default_value_t = RunningOptions::default().threshold, value_name = "SIGMAS")]
    threshold: f64,
}

/// Does it.
pub(super) fn model(args: &ModelArgs) -> anyhow::Result<Outcome> {
    match &args.action {
        ModelAction::Inspect { file, key, json } => {
            let file = ModelFile::read(file, &Trust::new(key.clone(), !key.is_empty()))?;
            if *json {
                print(&format!("{}\n", serde_json::to_string_pretty(&as_json(&file))?))?;
            } else {
                print(&told(&file))?;
            }
        }
        ModelAction::Verify(args) => print(&verify(args)?)?,
        ModelAction::Sign { file, key, out } => {
            let key = SigningKey::read(key)?;
            // A damaged file is found now and not on a node.
            let model = ModelFile::read(file, &Trust::default())?;
            let (out, beside) = (out.as_ref().unwrap_or(&model.path), model.beside());
            let home = |path: &Path| {
                let home = path.parent().filter(|home| !home.as_os_str().is_empty());
                home.unwrap_or(Path::new(".")).canonicalize().ok()
            };
            anyhow::ensure!(
                beside.is_empty() || home(out) == home(&model.path),
                "its weights lie beside it ({}) and would not be found from `{}`: sign it where it is, and copy the folder",
                beside.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
                out.display()
            );
            write_whole(out, &key.sign(&model.bytes, &beside))?;
            let public = key.public();
            print(&format!("{} is signed with {public} (key {})\n", out.display(), public.name()))?;
        }
        ModelAction::Remote(action) => return remote(action),
        ModelAction::Keygen { out } => {
            let (key, pem) = SigningKey::make()?;
            write_secret(out, &pem)?;
            print(&format!("{}\n", key.public()))?;
            remark(&format!("signatures name it {}", key.public().name()));
        }
        ModelAction::Running(args) => running(args)?,
    }
    Ok(Outcome::Fine)
}

fn running(args: &RunningArgs) -> anyhow::Result<()> {
    let RunningArgs { memory, warm, clip, threshold, .. } = *args;
    anyhow::ensure!(clip > 0.0 && threshold > 0.0, "`--clip` and `--threshold` must be above 0");
    let pipeline = load_pipeline(&args.pipeline, args.schemas.as_deref())?;
    let window = pipeline.spec.window();
    let window = window.context("the pipeline has no `window` stage: there are no features")?;
    let features = feature_names(&pipeline.schema, window);
    let name = args.out.file_stem().unwrap_or_default().to_string_lossy();
    let options = RunningOptions { memory, warm, clip, threshold };
    write_whole(&args.out, &model::running::running(&name, &features, &options))?;
    print(&format!("watches {} features\n{}\n", features.len(), args.out.display()))
}

/// A new file that only its owner may read; one that is there already is some other key.
fn write_secret(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.with_context(|| format!("`{}` cannot be made", path.display()))?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.with_context(|| format!("`{}` cannot be written", path.display()))
}

fn as_json(file: &ModelFile) -> Value {
    let noted = file.metadata();
    let ports = |ports: &[Port]| -> Vec<Value> {
        let port = |port: &Port| {
            let meaning = noted.outputs.as_ref().and_then(|outputs| outputs.get(&port.name));
            let kind = port.element.map(|element| element.to_string());
            json!({ "name": port.name, "type": kind, "shape": port.dims, "meaning": meaning })
        };
        ports.iter().map(port).collect()
    };
    json!({
        "name": file.name(), "version": file.version(), "serial": noted.serial, "kind": noted.kind,
        "compressed": noted.compressed, "parent": noted.parent,
        "digest": file.digest, "bytes": file.size(), "beside": file.beside(), "signed_with": file.signed_with,
        "signed_by": file.signed_by.map(|key| key.name()),
        "inputs": ports(&file.signature().inputs), "outputs": ports(&file.signature().outputs),
        "features": noted.features, "channels": noted.channels, "steps": noted.steps,
        "units": noted.units, "window": noted.window, "every": noted.every, "step": noted.step,
        "scaler": noted.scaler, "output": noted.output, "threshold": noted.threshold,
        "threshold_by": noted.threshold_by, "data_start": noted.data_start,
        "data_end": noted.data_end, "data_digest": noted.data_digest,
        "baseline": noted.baseline, "golden": noted.golden, "unreadable": noted.unreadable,
    })
}

fn told(file: &ModelFile) -> String {
    let noted = file.metadata();
    let mut text = String::new();
    let mut line = |what: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            let _ = writeln!(text, "{what:<14}{value}");
        }
    };
    line("model", Some(format!("{} {}", file.name(), file.version())));
    line("kind", noted.kind.clone());
    line("compressed", noted.compressed.clone());
    line("from", noted.parent.as_ref().map(|parent| format!("sha256 {parent}")));
    line("serial", noted.serial.map(|serial| serial.to_string()));
    line("digest", Some(format!("sha256 {}", file.digest)));
    line("size", Some(bytesize::ByteSize::b(file.size()).to_string()));
    for (name, digest) in file.beside() {
        line("weights", Some(format!("{name} sha256 {digest}")));
    }
    line("signature", Some(signed(file)));
    for port in &file.signature().inputs {
        line("input", Some(shown(port)));
    }
    for port in &file.signature().outputs {
        let meaning = noted.outputs.as_ref().and_then(|outputs| outputs.get(&port.name));
        let meaning = meaning.map_or_else(String::new, |meaning| format!(": {}", said(meaning)));
        line("output", Some(format!("{}{meaning}", shown(port))));
    }
    let spans = [("windows of", &noted.window), ("every", &noted.every), ("step", &noted.step)];
    let spans = spans.map(|(what, span)| span.as_ref().map(|span| format!("{what} {span}")));
    line("window", Some(spans.into_iter().flatten().collect::<Vec<_>>().join(", ")));
    let chosen = noted.threshold_by.as_ref().map_or_else(String::new, |by| format!(": {by}"));
    line("threshold", noted.threshold.map(|threshold| format!("{threshold}{chosen}")));
    line("scaling", noted.scaler.clone());
    let (from, to) = (noted.data_start, noted.data_end);
    line("learned from", from.zip(to).map(|(from, to)| format!("{from} to {to}")));
    line("data", noted.data_digest.as_ref().map(|digest| format!("sha256 {digest}")));
    let windows = noted.baseline.as_ref().map(|baseline| baseline.windows);
    line("baseline", windows.map(|windows| format!("{windows} windows")));
    line(
        "golden",
        noted.golden.as_ref().map(|Golden { input, .. }| format!("{} rows", input.len())),
    );
    line("unreadable", Some(noted.unreadable.join(", ")));
    let columns = noted.features.as_ref().or(noted.channels.as_ref());
    for (index, column) in columns.into_iter().flatten().enumerate() {
        let unit = noted.units.as_ref().and_then(|units| units.get(index));
        let unit =
            unit.filter(|unit| !unit.is_empty()).map_or_else(String::new, |u| format!(" [{u}]"));
        let _ = writeln!(text, "{:>4} {column}{unit}", index + 1);
    }
    text
}

fn shown(port: &Port) -> String {
    let kind = port.element.map_or("no tensor".into(), |element| element.to_string());
    format!("{} {kind} {}", port.name, port.shape())
}

fn said(meaning: &Meaning) -> String {
    match meaning {
        Meaning::Score => "how unlike normal running".into(),
        Meaning::Probability { horizon: None } => "chance of a failure".into(),
        Meaning::Probability { horizon: Some(time) } => {
            format!("chance of a failure within {time}")
        }
        Meaning::RemainingLife { unit } => format!("remaining life in {unit}"),
        Meaning::Reconstruction => "the input as the model would have it".into(),
        Meaning::Class { labels } => format!("one of {}", labels.join(", ")),
        Meaning::Contributions => "what the score is divided among".into(),
        Meaning::Part => "part of the score".into(),
    }
}
