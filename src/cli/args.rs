//! The command line: every subcommand with what it takes. Parsed by `main`, obeyed by `cli` and by those who run
//! machines (`node`, `demo`, `ingest::replay`, `model`).

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::compress::CompressArgs;
use super::evaluate::EvaluateArgs;
use super::model::ModelArgs;
use super::receive::ReceiveArgs;
use super::results::ResultsFormat;
use super::store::StoreArgs;
use super::train::args::{NetArgs, TrainKind, TreeArgs};
use super::values;
use crate::time::{Skew, Span};

/// The whole command line.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "forebay",
    version,
    about = "Edge pipeline for machine data: MQTT in, cleaned, windowed and scored by ONNX models, kept until the uplink has it",
    after_help = "Start with `forebay demo`: a simulated plant on this machine, nothing else needed.\n\nExit codes: 0 all went well; 1 a problem was found or a run failed; 2 the command line was wrong.",
    arg_required_else_help = true,
    max_term_width = 100
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How log lines are written to standard error.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t = LogFormat::Text,
        value_name = "FORMAT",
        help_heading = "Logging"
    )]
    pub log_format: LogFormat,
    /// Which log lines are written: a level, or `module=level` separated by commas. Absent: `info` for
    /// `run`, `warn` for the others.
    #[arg(
        long,
        global = true,
        env = "FOREBAY_LOG",
        value_name = "FILTER",
        help_heading = "Logging"
    )]
    pub log: Option<String>,
}

impl Command {
    /// The log filter where none is asked for. The MQTT libraries are left out of it: to them every connection that
    /// ends is an error, and what matters of it is said by `link`, `ingest` and `demo`.
    pub fn usual_log(&self) -> &'static str {
        match self {
            Command::Run(_) | Command::Receive(_) => "info,rumqttc=off,rumqttd=off",
            // Its link fails and its plant sends rubbish on purpose; the live status and the summary say so.
            Command::Demo(_) | Command::Torture(_) => {
                "warn,forebay::uplink=error,forebay::node::refusals=error,rumqttc=off,rumqttd=off"
            }
            _ => "warn,rumqttc=off,rumqttd=off",
        }
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The subcommands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Show it all on this machine: a simulated plant, its broker, the pipelines, an uplink that comes and goes
    Demo(DemoArgs),
    /// Run this node: take readings from the broker on the site until told to stop
    Run(RunArgs),
    /// Be the far side: take records over HTTP and from a broker, keep each once, in Parquet files or NDJSON
    Receive(ReceiveArgs),
    /// Put recordings through a pipeline, at full speed, with the same code that runs live
    Replay(ReplayArgs),
    /// Say what a recording costs a day, on the link and on the disk, before anyone buys a data plan
    Estimate(EstimateArgs),
    /// Say how good a pipeline's answers are: on recordings with labels, on public benchmarks
    Evaluate(EvaluateArgs),
    /// Check configs, schemas, pipelines and models, all of them, without a network
    Check(CheckArgs),
    /// Train a model on recordings: of normal running, with labels, or of machines that ran until they failed
    Train(TrainArgs),
    /// Make a model smaller and faster, and keep it only if it answers nearly the same
    Compress(CompressArgs),
    /// Look at a model, try it, sign it; send one to a running node, list, promote or take back those that it has
    Model(ModelArgs),
    /// Look at this machine: runtime, store, broker, uplink, clock
    Doctor(DoctorArgs),
    /// Look into the store of a node that is stopped: check all of it, take records out, see what was rejected
    Store(StoreArgs),
    /// Print the JSON Schema of a kind of file, for editors and for those who read records
    Schema(SchemaArgs),
    /// Print the completion script of a shell
    Completion(CompletionArgs),
    /// Measure this machine: a load generator, a broker and the whole node in one run
    Bench(BenchArgs),
    /// Kill a node, cut it off and fill its disk, again and again, and account for every reading
    Torture(TortureArgs),
}

/// `forebay demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Stop by itself after this long ("60s", "10m"). Absent: run until Ctrl-C.
    #[arg(long, value_name = "TIME")]
    pub duration: Option<Span>,
    /// No live status in the terminal.
    #[arg(long)]
    pub headless: bool,
    /// At the end, print one JSON object with all counts to standard output.
    #[arg(long)]
    pub json: bool,
    /// How many pumps the plant has.
    #[arg(long, default_value_t = 12, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub pumps: u16,
    /// The plant's random numbers start here: the same seed, the same plant.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Address of the page. Absent: 127.0.0.1 and a free port.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<std::net::SocketAddr>,
    /// Make the shipped models anew from the simulated plant, write them into this folder and print how good they
    /// are on faults that they have not seen.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["duration", "headless", "listen", "store"])]
    pub make_models: Option<PathBuf>,
    /// Write recordings of the simulated plant into this folder, and a site that they fit: normal running, the same
    /// with faults and a column that numbers them, pipeline, schema, model, config. `--duration` is the plant's time then
    /// (8 hours if absent).
    #[arg(long, value_name = "DIR", conflicts_with_all = ["make_models", "headless", "json", "listen", "store"])]
    pub record: Option<PathBuf>,
    /// Keep the store in this folder. Absent: a folder that is removed at the end.
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
    /// The ONNX Runtime library to use. Absent: the one that is found (`forebay doctor` says which).
    #[arg(long, value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
}

/// `forebay run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// The node's config.
    #[arg(long, short, env = "FOREBAY_CONFIG", default_value = "config.toml", value_name = "FILE")]
    pub config: PathBuf,
    /// The wall clock is wrong on purpose: how a campaign of `torture` starts its node.
    #[arg(long, hide = true, value_name = "MS,MS,MS", allow_hyphen_values = true)]
    pub skewed_clock: Option<Skew>,
}

/// `forebay replay`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Example:\n  forebay replay --pipeline pipelines/skab.toml --asset valve1-0 --out results.ndjson 0.csv"
)]
pub struct ReplayArgs {
    /// Recordings: CSV, NDJSON or Parquet, also gzipped.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The pipeline file.
    #[arg(long, short, value_name = "FILE")]
    pub pipeline: PathBuf,
    /// Use this model instead of the pipeline's. With several scores: `OUTPUT=FILE`, once for each.
    #[arg(long, value_name = "[OUTPUT=]FILE")]
    pub model: Vec<String>,
    /// Where results go; `-` is standard output.
    #[arg(long, short, default_value = "-", value_name = "FILE")]
    pub out: PathBuf,
    /// How results are written. Absent: by the ending of `--out`, else NDJSON.
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub format: Option<ResultsFormat>,
    /// Where schemas and runtime are, and how the recordings are written.
    #[command(flatten)]
    pub offline: OfflineArgs,
}

/// `forebay estimate`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Example:\n  forebay estimate --pipeline pipelines/skab.toml --data 0.csv --gather 1m"
)]
pub struct EstimateArgs {
    /// The pipeline file.
    #[arg(long, short, value_name = "FILE")]
    pub pipeline: PathBuf,
    /// Recordings of usual running: CSV, NDJSON or Parquet, also gzipped.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    pub data: Vec<PathBuf>,
    /// How long records are gathered for a parcel: `uplink.gather` of the node's config.
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub gather: Span,
    /// Print one JSON object to standard output.
    #[arg(long)]
    pub json: bool,
    /// Where schemas and runtime are, and how the recordings are written.
    #[command(flatten)]
    pub offline: OfflineArgs,
}

/// What every command takes that puts recordings through a pipeline on this machine.
#[derive(Clone, Debug, Args)]
pub struct OfflineArgs {
    /// Folder of asset schemas. Absent: `schemas` beside the pipeline's folder, in it, or the folder itself.
    #[arg(long, value_name = "DIR")]
    pub schemas: Option<PathBuf>,
    /// No progress bar.
    #[arg(long)]
    pub quiet: bool,
    /// The ONNX Runtime library to use. Absent: the one that is found.
    #[arg(long, value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
    /// How the recordings are written.
    #[command(flatten)]
    pub recording: RecordingArgs,
}

/// How recordings are written, where pipeline file and header do not say it.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Recordings")]
pub struct RecordingArgs {
    /// The asset that the recordings are of. Absent: a column of theirs, else the file's name.
    #[arg(long, value_name = "ID")]
    pub asset: Option<String>,
    /// Column of the asset's id.
    #[arg(long, value_name = "COLUMN", conflicts_with = "asset")]
    pub asset_column: Option<String>,
    /// Separator of CSV columns. Absent: found out from the header.
    #[arg(long, value_name = "CHARACTER")]
    pub delimiter: Option<char>,
    /// Column of the time.
    #[arg(long, value_name = "COLUMN")]
    pub time: Option<String>,
    /// Format of the time, as in strptime.
    #[arg(long, value_name = "FORMAT")]
    pub time_format: Option<String>,
    /// Time zone of times without one ("Europe/Berlin").
    #[arg(long, value_name = "ZONE")]
    pub zone: Option<String>,
    /// A signal and the column that holds it, where names differ; once for each.
    #[arg(long, value_name = "SIGNAL=COLUMN")]
    pub column: Vec<String>,
}

/// `forebay check`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Every problem of every file is told in one run. Exit code 1 if there is an error."
)]
pub struct CheckArgs {
    /// Configs, schemas, pipelines (told apart by what is in them), folders of these, or models. Absent: config.toml
    /// here and everything it names.
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Print a JSON array of problems to standard output.
    #[arg(long)]
    pub json: bool,
}

/// `forebay train`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Example:\n  forebay train --pipeline pipelines/skab.toml --data normal.csv --out models/skab-anomaly.onnx"
)]
pub struct TrainArgs {
    /// What is trained.
    #[arg(long, value_enum, default_value = "pca")]
    pub kind: TrainKind,
    /// The pipeline file: its cleaning, grid and windows give the model its features.
    #[arg(long, short, value_name = "FILE")]
    pub pipeline: PathBuf,
    /// Recordings: of normal running; with `--label` of faults too; for a remaining life each up to a failure.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    pub data: Vec<PathBuf>,
    /// What operators said of alarms: records as NDJSON, or a folder of such that `receive` keeps. Of these the verdicts
    /// on this pipeline's alarms are taken, each with the alarm's worst window. False alarms are normal; a confirmed fault
    /// is never learned as normal, and is what `--kind classifier` and `trees` look for where there is no `--label`.
    #[arg(long, num_args = 1.., value_name = "FILE")]
    pub verdicts: Vec<PathBuf>,
    /// The model to write.
    #[arg(long, short, value_name = "FILE")]
    pub out: PathBuf,
    /// Use only the first so many rows of each recording.
    #[arg(long, value_name = "N")]
    pub rows: Option<usize>,
    /// Share of the variance that the model's components keep.
    #[arg(long, default_value_t = 0.9, value_name = "SHARE", value_parser = values::share)]
    pub variance: f64,
    /// Share at the end of the recording that is held out to set the threshold; 0: none, if it is short (give more `--margin`).
    #[arg(long, default_value_t = 0.25, value_name = "SHARE", value_parser = values::part)]
    pub holdout: f64,
    /// Share of the held-out windows that may lie beyond the edge of normal, as what nobody saw go wrong.
    #[arg(long, default_value_t = 0.001, value_name = "SHARE", value_parser = values::share)]
    pub false_alarms: f64,
    /// How far above the edge of normal the threshold lies: a factor on the squared distance from normal.
    #[arg(long, default_value_t = 2.0, value_name = "FACTOR", value_parser = values::at_least_one)]
    pub margin: f64,
    /// Normal running drifts: what changes within this time as much as it did in the recording is normal. Use it for
    /// machines that warm up, with a recording of several times that.
    #[arg(long, value_name = "TIME")]
    pub drift: Option<Span>,
    /// How far correlations are shrunk towards none, 0 to 1: with a short recording, small differences between signals
    /// that went together mean little.
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", value_parser = values::share)]
    pub shrink: f64,
    /// Follow each asset's slow drift: the middle of normal running moves with this time constant towards what its windows
    /// come to, but not while a window is half as far out as the threshold.
    #[arg(long, value_name = "TIME")]
    pub follow: Option<Span>,
    /// Print one JSON object to standard output: what was learned, with the loss of every epoch.
    #[arg(long)]
    pub json: bool,
    /// Write a report here: one HTML page with what was learned and its loss curves, which needs nothing beside it.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Names of the options that were written, not taken for granted.
    #[arg(skip)]
    pub given: Vec<String>,
    /// Where schemas and runtime are, and how the recordings are written.
    #[command(flatten)]
    pub offline: OfflineArgs,
    /// Networks.
    #[command(flatten)]
    pub net: NetArgs,
    /// Trees.
    #[command(flatten)]
    pub trees: TreeArgs,
}

/// `forebay doctor`.
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// The node's config. Absent: config.toml here, if there is one.
    #[arg(long, short, env = "FOREBAY_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print one JSON object to standard output.
    #[arg(long)]
    pub json: bool,
    /// Longest wait for broker and uplink.
    #[arg(long, default_value = "3s", value_name = "TIME")]
    pub timeout: Span,
}

/// Kinds of files that have a JSON Schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SchemaKind {
    /// config.toml.
    Config,
    /// A pipeline file.
    Pipeline,
    /// An asset schema.
    Schema,
    /// A record, as it is sent and shown.
    Record,
}

/// `forebay schema`.
#[derive(Clone, Debug, Args)]
pub struct SchemaArgs {
    /// Which one. Absent: all of them, as one object.
    #[arg(value_enum)]
    pub kind: Option<SchemaKind>,
    /// Write the files into this folder instead (`config.json`, `pipeline.json`, …).
    #[arg(long, value_name = "DIR")]
    pub write: Option<PathBuf>,
}

/// `forebay completion`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Example:\n  forebay completion bash > ~/.local/share/bash-completion/completions/forebay"
)]
pub struct CompletionArgs {
    /// The shell.
    #[arg(value_enum)]
    pub shell: Shell,
}

/// The broker of a bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchBroker {
    /// In this process.
    Rumqttd,
    /// The installed `mosquitto`, started on a free port.
    Mosquitto,
}

/// `forebay bench`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Each broker is measured three times: the barest subscriber there can be, the whole node on the same load, \
and the node at a fixed rate for its latency."
)]
pub struct BenchArgs {
    /// How long each measurement takes.
    #[arg(long, default_value = "20s", value_name = "TIME")]
    pub duration: Span,
    /// Messages a second, each with eight signals, at which latency is measured.
    #[arg(long, default_value_t = 1250, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: u32,
    /// How many assets send them.
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub assets: u32,
    /// The broker. Absent: each that is there.
    #[arg(long, value_enum)]
    pub broker: Option<BenchBroker>,
    /// How many messages may be under way without acknowledgement.
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub in_flight: u16,
    /// Print one JSON object to standard output.
    #[arg(long)]
    pub json: bool,
    /// Where the node keeps its store meanwhile; it should be a disk. Absent: a folder for temporary files.
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
    /// The bare subscriber, which a bench starts as a process of its own: counts what comes from this broker.
    #[arg(long, hide = true, value_name = "URL")]
    pub count: Option<String>,
}

/// The broker of a torture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TortureBroker {
    /// The installed `mosquitto`, started on a free port.
    Mosquitto,
    /// In this process.
    InProcess,
}

/// `forebay torture`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "The node is `forebay run` with a config, a store and a broker of its own, the far sides are `forebay receive`; nothing that runs on this machine is touched. Faults and their moments come from the seed; how far the node has come by then does not.\n\n\
Run by root, with mkfs.ext4, mount and loop devices, the store lies on a small disk of its own, which is filled now and then and, with --power-cuts, \
cut off from its power: `python3` calls the ioctl that ext4 has for this. Otherwise power cuts are simulated, and the result says so. \
Clocks are skewed where readings come from: event times jump. So does the node's own clock, by up to six hours; this machine's is left alone.\n\nExample:\n  forebay torture --kills 100 --cuts 100 --seed 7"
)]
pub struct TortureArgs {
    /// Where random numbers start. Absent: one is drawn, and told.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// How often the node is killed (SIGKILL). With every ten the broker is restarted and a receiver killed once.
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub kills: u64,
    /// How often a link is disturbed: reset, cut, delayed, throttled, or open on one side only.
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub cuts: u64,
    /// How often the disk is filled, nearly or to the last byte. Absent: once with every ten kills.
    #[arg(long, value_name = "N")]
    pub full_disks: Option<u64>,
    /// How often the disk loses its power under the running node.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub power_cuts: u64,
    /// Readings a second.
    #[arg(long, default_value_t = 2000, value_name = "N", value_parser = clap::value_parser!(u32).range(8..=1_000_000))]
    pub rate: u32,
    /// The broker. Absent: Mosquitto where it is installed, else the one in this process.
    #[arg(long, value_enum)]
    pub broker: Option<TortureBroker>,
    /// Strike no more after this long; what is then not done is told, and the exit code is 1.
    #[arg(long, default_value = "1h", value_name = "TIME")]
    pub within: Span,
    /// Keep the node's files and its log here. Absent: a folder that is removed where the ledger closes.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Print one JSON object to standard output.
    #[arg(long)]
    pub json: bool,
    /// The ONNX Runtime library to use. Absent: the one that is found.
    #[arg(long, value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
}
