//! `forebay model push|list|canary|promote|rollback`: the models of a node that runs, over its HTTP feed.
//!
//! What a node answers is shown; what it refuses is an error with its words. Nothing is retried.

use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};
use ureq::{Agent, Body};

use super::{Outcome, print};
use crate::command::models::{FILES, is_plain};
use crate::model::{ModelFile, Trust};
use crate::time::monotonic;

/// How long a node may look at a model.
const TAKEN_WITHIN: Duration = Duration::from_mins(5);

/// Which node.
#[derive(Clone, Debug, Args)]
pub struct NodeArgs {
    /// The node's dashboards, as `feed.listen` has them.
    #[arg(long, env = "FOREBAY_NODE_URL", default_value = "http://127.0.0.1:8080", value_name = "URL", value_parser = url)]
    pub node: String,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// The node's URL; what names no scheme is taken for HTTP.
fn url(text: &str) -> Result<String, String> {
    match text.split_once("://") {
        None => Ok(format!("http://{text}")),
        Some(("http" | "https", _)) => Ok(text.to_owned()),
        Some((scheme, _)) => Err(format!("a node speaks http:// or https://, not {scheme}://")),
    }
}

/// Which score.
#[derive(Clone, Debug, Args)]
pub struct ScoreArgs {
    /// The pipeline. Absent: the only one that has the score.
    #[arg(long, short, value_name = "NAME")]
    pub pipeline: Option<String>,
    /// The score (`output` in the pipeline file). Absent: the only one.
    #[arg(long, short, value_name = "NAME")]
    pub score: Option<String>,
    /// Who asks: it stands in the records.
    #[arg(long, env = "USER", value_name = "NAME")]
    pub by: Option<String>,
}

/// A connection to a node.
struct Remote<'a> {
    agent: Agent,
    args: &'a NodeArgs,
}

impl Remote<'_> {
    fn new(args: &NodeArgs) -> Remote<'_> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("forebay/", env!("CARGO_PKG_VERSION")));
        Remote { agent: Agent::new_with_config(config.build()), args }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.args.node.trim_end_matches('/'))
    }

    fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.answer(self.agent.get(self.url(path)).call())
    }

    fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = self.agent.post(self.url(path)).content_type("application/json");
        self.answer(request.send(body.to_string()))
    }

    fn put(&self, path: &str, file: &Path) -> anyhow::Result<Value> {
        let shown = || format!("`{}` cannot be read", file.display());
        let open = File::open(file).with_context(shown)?;
        let request = self.agent.put(self.url(path)).content_type("application/octet-stream");
        // What the node does not take it says before it is sent.
        self.answer(request.header("expect", "100-continue").send(open))
    }

    /// Sends a model's files under `id`, and offers them.
    fn offer(&self, id: &str, file: &ModelFile, score: &ScoreArgs) -> anyhow::Result<Value> {
        let home = file.path.parent().unwrap_or(Path::new(""));
        self.put(&format!("/api/v1/models/incoming/{id}/model.onnx"), &file.path)?;
        for name in file.beside().keys() {
            self.put(&format!("/api/v1/models/incoming/{id}/{name}"), &home.join(name))?;
        }
        let ScoreArgs { pipeline, score, by } = score;
        let ask = json!({ "incoming": id, "pipeline": pipeline, "score": score, "by": by });
        self.post("/api/v1/models", &ask)
    }

    /// Waits for a model that the node is still looking at.
    fn taken_in(&self, digest: &str) -> anyhow::Result<Value> {
        let due = monotonic() + TAKEN_WITHIN;
        while monotonic() < due {
            std::thread::park_timeout(Duration::from_secs(2));
            let listed = self.get("/api/v1/models")?;
            let mut listed = listed.as_array().into_iter().flatten();
            if let Some(score) = listed.find(|score| score["candidate"]["digest"] == digest) {
                let (pipeline, score) = (&score["pipeline"], &score["output"]);
                return Ok(json!({ "pipeline": pipeline, "score": score, "state": "shadow" }));
            }
        }
        bail!("{} has not taken the model in; its log says why", self.args.node)
    }

    fn answer(
        &self,
        answer: Result<ureq::http::Response<Body>, ureq::Error>,
    ) -> anyhow::Result<Value> {
        let node = &self.args.node;
        let mut answer = answer.with_context(|| {
            format!("no answer from {node}; is the node running, and is this its `feed.listen`?")
        })?;
        let text = answer.body_mut().read_to_string().unwrap_or_default();
        let value: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        if answer.status().is_success() {
            return Ok(value);
        }
        match (value["error"].as_str(), value["expected"].as_str()) {
            (Some(error), Some(expected)) => bail!("{node}: {error}; expected {expected}"),
            _ => bail!("{node} answers {}", answer.status()),
        }
    }
}

/// The name of the node that answers at `address`, if one does within `timeout`.
pub(super) fn node_at(address: &str, timeout: Duration) -> Option<String> {
    let agent =
        Agent::new_with_config(Agent::config_builder().timeout_global(Some(timeout)).build());
    let mut answer = agent.get(format!("http://{address}/api/v1/status")).call().ok()?;
    let status: Value = serde_json::from_str(&answer.body_mut().read_to_string().ok()?).ok()?;
    status["node"].as_str().map(str::to_owned)
}

/// Sends a model and offers it.
pub(super) fn push(path: &Path, node: &NodeArgs, score: &ScoreArgs) -> anyhow::Result<Outcome> {
    // A damaged file is found here and not over a slow link.
    let file = ModelFile::read(path, &Trust::default())?;
    let beside = file.beside();
    let wrong = beside.keys().find(|name| !is_plain(name) || *name == "model.onnx");
    if wrong.is_some() || beside.len() >= FILES {
        let found =
            wrong.map_or_else(|| format!("{} files", beside.len()), |name| format!("`{name}`"));
        bail!(
            "its weights are in {found}: a push takes at most {} files, beside the model and with plain names; save them in one (`onnx.save_model(…, all_tensors_to_one_file=True)`), or put the model in the place of the pipeline's",
            FILES - 1
        );
    }
    let remote = Remote::new(node);
    let id: String = file.digest.chars().take(16).collect();
    let mut taken = remote.offer(&id, &file, score).inspect_err(|_| {
        // What lies there half would be in the way of others.
        drop(remote.agent.delete(remote.url(&format!("/api/v1/models/incoming/{id}"))).call());
    })?;
    if taken["state"] != "shadow" {
        taken = remote.taken_in(&file.digest)?;
    }
    told(node, &taken, &format!("{} {}", file.name(), file.version()))
}

/// Lists a node's models.
pub(super) fn list(node: &NodeArgs) -> anyhow::Result<Outcome> {
    let models = Remote::new(node).get("/api/v1/models")?;
    if node.json {
        print(&format!("{models:#}\n"))?;
        return Ok(Outcome::Fine);
    }
    let mut text = String::new();
    for score in models.as_array().into_iter().flatten() {
        text.push_str(&listed(score));
    }
    print(if text.is_empty() { "no pipeline of this node has a score\n" } else { &text })?;
    Ok(Outcome::Fine)
}

fn listed(score: &Value) -> String {
    let word = |of: &Value, key: &str| of[key].as_str().unwrap_or("-").to_owned();
    let micros = |of: &Value| {
        let (rows, micros) = (of["cost"]["rows"].as_f64(), of["cost"]["micros"].as_f64());
        rows.zip(micros)
            .filter(|(rows, _)| *rows > 0.0)
            .map_or_else(String::new, |(rows, all)| format!(", {:.0} µs a window", all / rows))
    };
    let line = |what: &str, of: &Value| {
        let digest: String = word(of, "digest").chars().take(12).collect();
        let alone = of["quarantined_until"].as_str();
        let alone = alone.map_or_else(String::new, |until| format!(", left alone until {until}"));
        let (model, version) = (word(of, "model"), word(of, "version"));
        format!("  {what:<9} {model} {version} ({digest}){}{alone}\n", micros(of))
    };
    let (pipeline, output) = (word(score, "pipeline"), word(score, "output"));
    let mut text = format!("{pipeline} / {output}, on {}\n", word(score, "runs_on"));
    text.push_str(&line("in use", score));
    let candidate = &score["candidate"];
    if candidate.is_object() {
        text.push_str(&line(&word(candidate, "phase"), candidate));
        let trial = &candidate["trial"];
        let number = |of: &Value| of.as_u64().unwrap_or_default();
        let (both, abnormal) = (number(&trial["both"]), &trial["abnormal"]);
        let _ = writeln!(
            text,
            "            {both} windows by both, abnormal: {} in use, {} on trial; {} without an answer",
            number(&abnormal[0]),
            number(&abnormal[1]),
            number(&trial["unanswered"])
        );
    }
    if let Some(previous) = score["previous"].as_str() {
        let short: String = previous.chars().take(12).collect();
        let _ = writeln!(text, "  before    {short}");
    }
    text
}

/// Gives an order about a score's models.
pub(super) fn order(
    verb: &str,
    node: &NodeArgs,
    score: &ScoreArgs,
    mut more: Value,
) -> anyhow::Result<Outcome> {
    let remote = Remote::new(node);
    let (pipeline, output) = which(&remote, score)?;
    more["pipeline"] = json!(pipeline);
    more["score"] = json!(output);
    more["by"] = json!(score.by);
    let done = remote.post(&format!("/api/v1/models/{verb}"), &more)?;
    told(node, &done, "the model")
}

/// The score that is meant, where there is only one.
fn which(remote: &Remote<'_>, args: &ScoreArgs) -> anyhow::Result<(String, String)> {
    let models = remote.get("/api/v1/models")?;
    let fits = |wanted: &Option<String>, found: &Value| {
        wanted.as_deref().is_none_or(|wanted| found.as_str() == Some(wanted))
    };
    let found: Vec<(String, String)> = models
        .as_array()
        .into_iter()
        .flatten()
        .filter(|m| fits(&args.pipeline, &m["pipeline"]) && fits(&args.score, &m["output"]))
        .filter_map(|m| {
            Some((m["pipeline"].as_str()?.to_owned(), m["output"].as_str()?.to_owned()))
        })
        .collect();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => bail!("the node has no such score; `forebay model list` shows those that it has"),
        several => {
            let names: Vec<String> = several.iter().map(|(p, s)| format!("{p} / {s}")).collect();
            bail!("say which one with --pipeline and --score: {}", names.join(", "))
        }
    }
}

fn told(node: &NodeArgs, done: &Value, model: &str) -> anyhow::Result<Outcome> {
    if node.json {
        print(&format!("{done}\n"))?;
    } else {
        let word = |key: &str| done[key].as_str().unwrap_or("accepted");
        let (pipeline, score) = (word("pipeline"), word("score"));
        print(&format!("{model} of {pipeline} / {score}: {}\n", word("state")))?;
    }
    Ok(Outcome::Fine)
}

/// What can be done with the models of a node that runs.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum RemoteAction {
    /// Send a model to a running node: it scores beside the one in use, and takes its place when it has done well
    Push {
        /// The model's file, or the folder of it and its weights.
        #[arg(value_name = "MODEL.onnx")]
        file: PathBuf,
        /// Which score.
        #[command(flatten)]
        score: ScoreArgs,
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
    /// List the models of a running node: in use, on trial and how it compares, before
    List {
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Let the model on trial speak for some assets now
    Canary {
        /// For which share of the assets.
        #[arg(long, default_value_t = 0.1, value_name = "SHARE")]
        share: f64,
        /// Which score.
        #[command(flatten)]
        score: ScoreArgs,
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Let the model on trial speak for all assets now
    Promote {
        /// Which score.
        #[command(flatten)]
        score: ScoreArgs,
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Take the model on trial back; where there is none, return to the one before the one in use
    Rollback {
        /// Why: it stands in the records.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// Which score.
        #[command(flatten)]
        score: ScoreArgs,
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
}

/// Does it.
pub(super) fn remote(action: &RemoteAction) -> anyhow::Result<Outcome> {
    match action {
        RemoteAction::Push { file, score, node } => push(file, node, score),
        RemoteAction::List { node } => list(node),
        RemoteAction::Canary { share, score, node } => {
            order("canary", node, score, json!({ "share": share }))
        }
        RemoteAction::Promote { score, node } => order("promote", node, score, json!({})),
        RemoteAction::Rollback { reason, score, node } => {
            order("rollback", node, score, json!({ "reason": reason }))
        }
    }
}
