//! `forebay model verify`: a model loaded on this machine, tried, and measured.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use bytesize::ByteSize;
use clap::Args;
use serde::de::DeserializeOwned;
use serde::de::value::StrDeserializer;
use serde_json::json;

use crate::model::runtime::{Optimisation, Provider, Settings};
use crate::model::session::Cost;
use crate::model::signature::PublicKey;
use crate::model::{Host, Model, ModelFile, Trust};
use crate::usage::Usage;

/// `forebay model verify`.
#[derive(Clone, Debug, Args)]
pub struct VerifyArgs {
    /// The model.
    #[arg(value_name = "MODEL.onnx")]
    file: PathBuf,
    /// It must be signed with this key (or one of several): the digits that `keygen` prints, or a key's file.
    #[arg(long, value_name = "HEX|FILE", value_parser = PublicKey::named)]
    key: Vec<PublicKey>,
    /// Run batches of this shape, too (`256,12` or `16,60,8`, windows first), and say how long one takes.
    #[arg(long, value_name = "N,N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    shape: Vec<u32>,
    /// Of a model that remembers: an input, and the output that feeds it, as `score.state` names them.
    #[arg(long, value_name = "INPUT=OUTPUT", value_parser = pair)]
    state: Vec<(String, String)>,
    /// Threads that it may use.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// Execution provider to prefer, as `onnxruntime.providers` names it (several: in order).
    #[arg(long, value_name = "NAME", value_parser = named::<Provider>)]
    provider: Vec<Provider>,
    /// How much its graph is changed when it is loaded, as `onnxruntime.optimisation` names it.
    #[arg(long, value_name = "NAME", default_value_t, value_parser = named::<Optimisation>)]
    optimisation: Optimisation,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// The ONNX Runtime library to use. Absent: the one that is found.
    #[arg(long, value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
}

/// A word that a config knows.
fn named<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let word: StrDeserializer<'_, serde::de::value::Error> =
        serde::de::IntoDeserializer::into_deserializer(text);
    T::deserialize(word).map_err(|e| e.to_string())
}

fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').map(|(input, output)| (input.to_owned(), output.to_owned()));
    pair.ok_or_else(|| "expected INPUT=OUTPUT".into())
}

/// Does it; what is to be printed.
pub(super) fn verify(args: &VerifyArgs) -> anyhow::Result<String> {
    let host = Host {
        trust: Trust::new(args.key.clone(), !args.key.is_empty()),
        settings: Settings {
            providers: args.provider.clone(),
            threads: args.threads,
            optimisation: args.optimisation,
        },
        ..Host::with_library(args.onnxruntime.as_deref())
    };
    host.runtime()?;
    let before = Usage::of(None).map(|usage| usage.resident);
    let file = host.read(&args.file)?;
    let signed = signed(&file);
    let mut model = host.load(file)?;
    let timed = if args.shape.is_empty() { None } else { Some(time(&mut model, args)?) };
    let after = Usage::of(None).map(|usage| usage.peak);
    let memory = before.and_then(|before| Ok(after?.saturating_sub(before))).unwrap_or_default();
    if args.json {
        told_json(&model, &signed, memory, timed)
    } else {
        Ok(told(&model, &signed, memory, timed))
    }
}

/// Whose signature a model has, as far as it was checked.
pub(super) fn signed(file: &ModelFile) -> String {
    match (&file.signed_with, file.signed_by) {
        (_, Some(key)) => format!("signed with the key {}: valid", key.name()),
        (Some(key), None) => {
            format!(
                "signed with the key {key}: whether that is valid cannot be told without it (`--key`)"
            )
        }
        (None, None) => "not signed".into(),
    }
}

/// The windows of a batch, and the milliseconds that the fastest of three took: what else the machine did meanwhile is
/// not the model's.
fn time(model: &mut Model, args: &VerifyArgs) -> anyhow::Result<(usize, f64)> {
    let states: BTreeMap<String, String> = args.state.iter().cloned().collect();
    if !states.is_empty() {
        let wrong = |mismatch| anyhow::anyhow!("`--state` does not fit the model: {mismatch}");
        Arc::make_mut(&mut model.signature).remember(&states).map_err(wrong)?;
    }
    let shape: Vec<usize> = args.shape.iter().map(|&size| size as usize).collect();
    let rows = shape.first().copied().unwrap_or(0);
    model.most_rows = rows;
    let mut fastest = f64::INFINITY;
    for _ in 0..3 {
        model.cost = Cost::default();
        model.try_shape(&shape).with_context(|| format!("it does not run on {shape:?}"))?;
        fastest = fastest.min(model.cost.longest_micros as f64 / 1e3);
    }
    Ok((model.signature.batch().unwrap_or(rows), fastest))
}

fn told(model: &Model, signed: &str, memory: u64, timed: Option<(usize, f64)>) -> String {
    let golden = model.metadata.golden.as_ref().map_or_else(
        || "it carries no golden vectors".to_owned(),
        |golden| format!("gives its {} golden answers", golden.input.len()),
    );
    let timed = timed.map(|(rows, took)| format!(", {rows} windows in {took:.2} ms"));
    format!(
        "{} {} runs on {}: {golden}\nit is {signed}\nit takes {} of memory{}\n",
        model.name(),
        model.version(),
        model.runs_on(),
        ByteSize::b(memory),
        timed.unwrap_or_default()
    )
}

fn told_json(
    model: &Model,
    signed: &str,
    memory: u64,
    timed: Option<(usize, f64)>,
) -> anyhow::Result<String> {
    let (rows, batch_ms) = timed.unzip();
    let answers = model.metadata.golden.as_ref().map_or(0, |golden| golden.input.len());
    let told = json!({
        "name": model.name(), "version": model.version(), "runtime": model.runs_on(),
        "golden_answers": answers, "signed_by": model.signed_by.map(|key| key.name()), "signature": signed,
        "memory": memory, "rows": rows, "batch_ms": batch_ms,
    });
    Ok(format!("{}\n", serde_json::to_string(&told)?))
}
