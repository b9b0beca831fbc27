//! `/api/v1/quarantine`: records that a far side refused; to see, and for operators to send once more or drop.
//!
//! `http` routes here. Reading is free; `retry` and `drop` are commands and go through the same door as those of alarms.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;

use super::api::{Answer, Params, Problem, RawQuery, json};
use super::command::{Body, allowed};
use super::http::App;
use crate::command::quarantine::{Ask, Held, Outcome};

/// Most records that are listed of a target.
const LISTED: i64 = 100;
/// Most that are sent or dropped at once.
const AT_ONCE: usize = 100;
/// How long an uplink may take: it may be sending.
const ANSWER_WITHIN: Duration = Duration::from_mins(1);

/// A request's body.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    target: String,
    numbers: Vec<u64>,
}

/// What each target has refused, newest first.
pub async fn list(State(app): State<App>, query: RawQuery) -> Answer {
    let limit = Params::new(query, &["limit"])?.number("limit", 20, 1, LISTED)? as usize;
    let mut all: BTreeMap<String, Vec<Held>> = BTreeMap::new();
    for target in app.desks.targets() {
        let outcome = ask(&app, target, Ask::List(limit)).await?;
        all.insert(target.to_owned(), outcome.held);
    }
    json(&all)
}

/// Sends once more.
pub async fn retry(State(app): State<App>, headers: HeaderMap, body: Body) -> Answer {
    let Wanted { target, numbers } = wanted(&app, &headers, body)?;
    json(&ask(&app, &target, Ask::Retry(numbers)).await?)
}

/// Drops for good.
pub async fn drop(State(app): State<App>, headers: HeaderMap, body: Body) -> Answer {
    let Wanted { target, numbers } = wanted(&app, &headers, body)?;
    json(&ask(&app, &target, Ask::Drop(numbers)).await?)
}

fn wanted(app: &App, headers: &HeaderMap, body: Body) -> Result<Wanted, Problem> {
    const EXPECTED: &str = "{\"target\": NAME, \"numbers\": [1, 2]}, of /api/v1/quarantine";
    let (_, body) = allowed(app, headers, body)?;
    let bad = |error: String| Problem::new(StatusCode::BAD_REQUEST, error, EXPECTED);
    let wanted: Wanted = serde_json::from_slice(&body).map_err(|e| bad(e.to_string()))?;
    if wanted.numbers.is_empty() || wanted.numbers.len() > AT_ONCE {
        return Err(bad(format!("`numbers` has {} of 1 to {AT_ONCE}", wanted.numbers.len())));
    }
    if !app.desks.targets().any(|target| target == wanted.target) {
        let known: Vec<&str> = app.desks.targets().collect();
        let error = format!("no target `{}`", wanted.target);
        return Err(Problem::new(StatusCode::NOT_FOUND, error, format!("one of {known:?}")));
    }
    Ok(wanted)
}

async fn ask(app: &App, target: &str, ask: Ask) -> Result<Outcome, Problem> {
    let asked = tokio::time::timeout(ANSWER_WITHIN, app.desks.ask(target, ask)).await;
    asked.ok().flatten().ok_or_else(|| {
        let error = format!("the uplink to `{target}` does not answer");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, error, "another try in a moment")
    })
}
