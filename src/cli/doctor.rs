//! `forebay doctor`: what this machine has and what it can reach, each finding with what to do about it.
//!
//! Looks, and changes nothing: no store is made, no session opened that a broker would remember.

mod machine;
mod network;

use std::io::IsTerminal;
use std::path::PathBuf;

use serde::Serialize;

use super::args::DoctorArgs;
use super::{Outcome, colours, print};
use crate::config::Config;
use crate::pipeline::load::Loader;

/// How a finding is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// As it should be.
    Good,
    /// It works, but look at it.
    Warning,
    /// It does not work.
    Bad,
    /// Said for information, or not to be found out.
    Info,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// How it is.
    pub health: Health,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Finding {
    fn new(what: &'static str, health: Health, found: impl Into<String>) -> Finding {
        Finding { what, health, found: found.into(), advice: None }
    }

    fn advise(mut self, advice: impl Into<String>) -> Finding {
        self.advice = Some(advice.into());
        self
    }
}

/// Looks at everything and prints what was found.
pub(super) fn doctor(args: &DoctorArgs) -> anyhow::Result<Outcome> {
    let (config, mut findings) = config(args);
    findings.extend(machine::look(config.as_ref()));
    if let Some(config) = &config {
        findings.extend(network::look(config, args.timeout.to_std()));
    }
    let text = if args.json {
        let all = serde_json::json!({ "version": env!("CARGO_PKG_VERSION"), "findings": findings });
        serde_json::to_string_pretty(&all)? + "\n"
    } else {
        told(&findings)
    };
    print(&text)?;
    let bad = findings.iter().any(|f| f.health == Health::Bad);
    Ok(if bad { Outcome::Problem } else { Outcome::Fine })
}

/// The config to look at, and what is said of it.
fn config(args: &DoctorArgs) -> (Option<Config>, Vec<Finding>) {
    let here = PathBuf::from("config.toml");
    let path = match &args.config {
        Some(path) => path.clone(),
        None if here.is_file() => here,
        None => {
            let finding = Finding::new("config", Health::Info, "no config.toml here")
                .advise("name one with --config to have store, broker and uplink looked at");
            return (None, vec![finding]);
        }
    };
    let mut loader = Loader::default();
    let config = loader.config(&path, std::env::vars());
    let (_, pipelines, problems) = loader.finish();
    let errors = problems.count(crate::diagnose::Severity::Error);
    let shown = path.display();
    let finding = if errors > 0 {
        let word = if errors == 1 { "error" } else { "errors" };
        Finding::new("config", Health::Bad, format!("{shown} with {errors} {word}"))
            .advise("`forebay check` tells each")
    } else {
        Finding::new("config", Health::Good, format!("{shown}, pipelines: {}", pipelines.len()))
    };
    (config, vec![finding])
}

fn told(findings: &[Finding]) -> String {
    use std::fmt::Write; // writing to a String cannot fail
    let colour = colours(std::io::stdout().is_terminal());
    let width = findings.iter().map(|f| f.what.len()).max().unwrap_or_default();
    let mut text = format!("forebay {}\n\n", env!("CARGO_PKG_VERSION"));
    for finding in findings {
        let (mark, code) = match finding.health {
            Health::Good => ("ok  ", "32"),
            Health::Warning => ("warn", "33"),
            Health::Bad => ("BAD ", "31"),
            Health::Info => ("    ", "2"),
        };
        let mark = if colour { format!("\x1b[{code}m{mark}\x1b[0m") } else { mark.to_owned() };
        let _ = writeln!(text, "{mark}  {:width$}  {}", finding.what, finding.found);
        if let Some(advice) = &finding.advice {
            let _ = writeln!(text, "      {:width$}  -> {advice}", "");
        }
    }
    text
}
