//! `/api/v1/models`: which models score, on trial and in use; new ones in, on to their next phase, or back.
//!
//! `http` routes here. Reading is free; everything else goes through the operators' door (`command`). A model comes in as
//! one file or several, each put under a name that whoever sends them has chosen
//! (`PUT /api/v1/models/incoming/{id}/{file}`), and is then offered by that name: what is offered is read by the node, not here.
//! It promises that nothing is written outside of that folder, and no more than a model may have.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Body as Stream;
use axum::extract::{Path as Names, Request, State};
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::{MutexGuard, oneshot};
use tokio_stream::StreamExt;

use super::api::{self, Answer, Problem};
use super::command::{self, Body, Operators, allowed};
use super::http::App;
use super::status::NodeStatus;
use crate::command::models::{FILES, Inquiry, ModelDoor, NAME_MAX, Offer, is_plain};
use crate::command::{Action, Command, ModelAction};

/// Most uploads that may lie about.
const UPLOADS: usize = 4;
/// A large model takes its time to be read, hashed, weighed, loaded and tried; a connection on which nothing moves is not
/// kept for longer.
const ANSWER_WITHIN: Duration = Duration::from_secs(45);
/// The list follows what was done within this time.
const LISTED_WITHIN: Duration = Duration::from_secs(2);
/// An upload that nobody has touched for so long is given up,
const FORGOTTEN: Duration = Duration::from_hours(1);
/// and where there are too many, for so long.
const IDLE: Duration = Duration::from_mins(1);

/// The body of an offer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Offered {
    incoming: String,
    pipeline: Option<String>,
    score: Option<String>,
    by: Option<String>,
}

/// The body of an order.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ordered {
    pipeline: String,
    score: String,
    digest: Option<String>,
    share: Option<f64>,
    reason: Option<String>,
    by: Option<String>,
}

/// All scores with their models.
pub(super) async fn list(State(app): State<App>) -> Answer {
    let models = app.status.borrow().models.clone();
    api::json(&models)
}

/// One file of a model that is to be offered.
pub(super) async fn put(
    State(app): State<App>,
    Names((id, file)): Names<(String, String)>,
    request: Request,
) -> Answer {
    let door = door(&app, request.headers())?.1;
    let (id, file) = (plain("id", &id)?, plain("file", &file)?);
    let folder = door.incoming.join(id);
    let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let length = length.and_then(|length| length.parse().ok());
    let written = write(door, &folder, file, length, request.into_body()).await?;
    Ok((StatusCode::CREATED, axum::Json(json!({ "bytes": written }))).into_response())
}

/// Whoever put something does not offer it.
pub(super) async fn remove(
    State(app): State<App>,
    Names(id): Names<String>,
    headers: HeaderMap,
) -> Answer {
    let door = door(&app, &headers)?.1;
    let _turn = turn(door)?; // what is coming in may be its next file
    let removed = tokio::fs::remove_dir_all(door.incoming.join(plain("id", &id)?)).await;
    removed.map_err(|error| {
        Problem::new(StatusCode::NOT_FOUND, error.to_string(), "the ID of what was put")
    })?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Offers what was put.
pub(super) async fn offer(State(app): State<App>, headers: HeaderMap, body: Body) -> Answer {
    const EXPECTED: &str = "{\"incoming\": ID of what was put, \"pipeline\"?, \"score\"?, \"by\"?}";
    let door = app.models.as_ref().ok_or_else(switched_off)?;
    let (_, body) = allowed(&app, &headers, body)?;
    let bad = |error: String| Problem::new(StatusCode::BAD_REQUEST, error, EXPECTED);
    let ask: Offered = serde_json::from_slice(&body).map_err(|e| bad(e.to_string()))?;
    let put = door.incoming.join(plain("incoming", &ask.incoming)?);
    if !put.is_dir() {
        return Err(bad(format!("nothing was put under `{}`", ask.incoming)));
    }
    let by = command::said("by", ask.by, command::BY_MAX)?;
    let busy = || {
        let error = "other models are being taken in";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, error, "another try in a moment")
    };
    let place = door.desk.try_reserve().map_err(|_| busy())?;
    // From here on it is no upload any more, which somebody might change or clear away.
    let path = door.incoming.join(format!(".offered-{}", ask.incoming));
    std::fs::rename(&put, &path).map_err(|_| busy())?;
    let Offered { pipeline, score, .. } = ask;
    let offer = Offer { pipeline, score, path, by, by_itself: false };
    let (answer, answered) = oneshot::channel();
    place.send(Inquiry { offer, answer });
    match tokio::time::timeout(ANSWER_WITHIN, answered).await {
        Ok(Ok(Ok(taken))) => {
            // Whoever asks for the next step names what is listed.
            let mut status = app.status.clone();
            let digest = json!(taken.digest);
            let is_listed = |one: &Value| one["candidate"]["digest"] == digest;
            let listed = status.wait_for(|status| status.models.iter().any(is_listed));
            let _ = tokio::time::timeout(LISTED_WITHIN, listed).await;
            let mut body = json!(taken);
            body["state"] = json!("shadow");
            Ok(axum::Json(body).into_response())
        }
        Ok(Ok(Err(refusal))) => Err(command::refused(&refusal)),
        _ => {
            let body = json!({ "state": "being taken in" });
            Ok((StatusCode::ACCEPTED, axum::Json(body)).into_response())
        }
    }
}

/// The model on trial speaks for some assets.
pub(super) async fn canary(state: State<App>, headers: HeaderMap, body: Body) -> Answer {
    order(state, headers, body, "canary").await
}

/// It speaks for all.
pub(super) async fn promote(state: State<App>, headers: HeaderMap, body: Body) -> Answer {
    order(state, headers, body, "promote").await
}

/// It goes, or the model before the one in use returns.
pub(super) async fn rollback(state: State<App>, headers: HeaderMap, body: Body) -> Answer {
    order(state, headers, body, "rollback").await
}

async fn order(State(app): State<App>, headers: HeaderMap, body: Body, verb: &str) -> Answer {
    const EXPECTED: &str = "{\"pipeline\", \"score\", \"digest\"?, \"by\"?}, for canary \"share\": 0.1, for rollback \"reason\"?";
    let (operators, body) = allowed(&app, &headers, body)?;
    let bad = |error: String| Problem::new(StatusCode::BAD_REQUEST, error, EXPECTED);
    let ask: Ordered = serde_json::from_slice(&body).map_err(|e| bad(e.to_string()))?;
    let by = command::said("by", ask.by, command::BY_MAX)?;
    let reason = command::said("reason", ask.reason, command::REASON_MAX)?;
    let digest = ask.digest.or_else(|| meant(&app, &ask.pipeline, &ask.score)).unwrap_or_default();
    let action = match (verb, ask.share) {
        ("canary", share) => {
            let share = share.unwrap_or(0.1);
            if !(0.0..=1.0).contains(&share) {
                return Err(bad(format!("`share` is {share}; it is from 0 to 1")));
            }
            ModelAction::Canary { digest, permille: (share * 1000.0).round() as u16 }
        }
        (_, Some(_)) => return Err(bad("only canary takes `share`".into())),
        ("promote", None) => ModelAction::Promote { digest },
        _ => {
            let reason = reason.unwrap_or_else(|| "an operator's wish".into());
            ModelAction::Withdraw { digest, reason }
        }
    };
    let command = Command {
        pipeline: ask.pipeline,
        asset: String::new(),
        alarm: ask.score,
        action: Action::Model(action),
        by,
    };
    let mut status = app.status.clone();
    let before = stand(&status.borrow(), &command);
    let said = |state| -> Response {
        let Command { pipeline, alarm, .. } = &command;
        json!({ "pipeline": pipeline, "score": alarm, "state": state }).to_string().into_response()
    };
    let state = command::carry_out(operators, &command).await?;
    // Whoever asks for the list next finds what was done.
    let listed = status.wait_for(|status| stand(status, &command) != before);
    let _ = tokio::time::timeout(LISTED_WITHIN, listed).await;
    Ok(said(state))
}

/// What an order changes of a score's place in the list: which models, and how far the one on trial is.
fn stand(status: &NodeStatus, order: &Command) -> Option<[Value; 3]> {
    let is_meant =
        |one: &&Value| one["pipeline"] == *order.pipeline && one["output"] == *order.alarm;
    let score = status.models.iter().find(is_meant)?;
    let candidate = &score["candidate"];
    Some([&score["digest"], &candidate["digest"], &candidate["phase"]].map(Value::clone))
}

/// The digest of the model that an order is for which names none: the one on trial, else the one in use.
fn meant(app: &App, pipeline: &str, score: &str) -> Option<String> {
    let status = app.status.borrow();
    let mut listed = status.models.iter();
    let listed = listed.find(|one| one["pipeline"] == pipeline && one["output"] == score)?;
    let on_trial = listed["candidate"]["digest"].as_str();
    on_trial.or(listed["digest"].as_str()).map(str::to_owned)
}

fn switched_off() -> Problem {
    let error = "this node keeps no models";
    Problem::new(StatusCode::NOT_FOUND, error, "a pipeline with a score")
}

/// Whether a file may come in: as a command may, but that it is no JSON. A page of another site cannot send a `PUT`
/// without asking first, and is told no.
fn door<'a>(app: &'a App, headers: &HeaderMap) -> Result<(&'a Operators, &'a ModelDoor), Problem> {
    let mut headers = headers.clone();
    let json = axum::http::HeaderValue::from_static("application/json");
    headers.insert(axum::http::header::CONTENT_TYPE, json);
    let (operators, _) = allowed(app, &headers, Ok(axum::body::Bytes::new()))?;
    Ok((operators, app.models.as_ref().ok_or_else(switched_off)?))
}

/// A name that is a file's name and nothing else.
fn plain<'a>(what: &str, name: &'a str) -> Result<&'a str, Problem> {
    if !is_plain(name) {
        let expected = format!("at most {NAME_MAX} letters, digits, `.`, `-` and `_`");
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            format!("`{what}` is `{name}`"),
            expected,
        ));
    }
    Ok(name)
}

/// Whoever has it may change what lies there.
fn turn(door: &ModelDoor) -> Result<MutexGuard<'_, ()>, Problem> {
    let error = "another file is coming in";
    let busy =
        |_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, error, "another try when it is here");
    door.turn.try_lock().map_err(busy)
}

/// Writes what comes into `folder`, up to the limit; one upload at a time. What says beforehand that it is longer is not
/// read: whoever waits to be told so (`Expect: 100-continue`) hears why.
async fn write(
    door: &ModelDoor,
    folder: &Path,
    file: &str,
    length: Option<u64>,
    body: Stream,
) -> Result<u64, Problem> {
    let failed = |error: std::io::Error| {
        let expected = "space in the store's folder";
        Problem::new(StatusCode::INSUFFICIENT_STORAGE, error.to_string(), expected)
    };
    let _turn = turn(door)?;
    let path = folder.join(file);
    let (own, home, incoming) = (path.clone(), folder.to_owned(), door.incoming.clone());
    let room = move || -> std::io::Result<Option<u64>> {
        let others = others(&incoming, &home)?;
        let (files, bytes) = if home.is_dir() { measure(&home, &own)? } else { (0, 0) };
        if others >= UPLOADS || files >= FILES {
            return Ok(None);
        }
        std::fs::create_dir_all(&home)?;
        Ok(Some(bytes))
    };
    let room = tokio::task::spawn_blocking(room).await.map_err(|e| failed(e.into()))?;
    let Some(before) = room.map_err(failed)? else {
        let error = "there are too many uploads, or too many files of this one";
        let expected =
            format!("at most {FILES} files, an offer of what was put, or a minute's wait");
        return Err(Problem::new(StatusCode::INSUFFICIENT_STORAGE, error, expected));
    };
    let unfinished = Unfinished { path: &path, folder };
    let most = door.largest.saturating_sub(before);
    let is_over = length.is_some_and(|length| length > most);
    let written = if is_over { None } else { pour(&path, body, most).await.map_err(failed)? };
    let Some(written) = written else {
        let expected = format!("at most {} bytes (`models.largest`)", door.largest);
        return Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the model is too large",
            expected,
        ));
    };
    std::mem::forget(unfinished);
    Ok(written)
}

/// A file that has not come whole, also because whoever sent it went away: nothing of it stays.
struct Unfinished<'a> {
    path: &'a Path,
    folder: &'a Path,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.path);
        let _ = std::fs::remove_dir(self.folder); // with other files in it, it stays
    }
}

/// How many other uploads lie about; forgotten ones go, and where there are too many, the oldest that is idle.
fn others(incoming: &Path, own: &Path) -> std::io::Result<usize> {
    std::fs::create_dir_all(incoming)?;
    let mut others = Vec::new();
    for entry in std::fs::read_dir(incoming)? {
        let entry = entry?;
        let is_offered = entry.file_name().as_encoded_bytes().starts_with(b".");
        if entry.path() != own && !is_offered {
            let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
            others.push((age, entry.path()));
        }
    }
    others.sort();
    while let Some((age, path)) = others.last()
        && (*age > FORGOTTEN || *age > IDLE && others.len() >= UPLOADS)
    {
        std::fs::remove_dir_all(path)?;
        others.pop();
    }
    Ok(others.len())
}

/// Files and bytes in `folder` but for `own`, which is written anew.
fn measure(folder: &Path, own: &Path) -> std::io::Result<(usize, u64)> {
    let mut found = (0, 0);
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.path() != own {
            found = (found.0 + 1, found.1 + entry.metadata()?.len());
        }
    }
    Ok(found)
}

/// Writes a body to a file; `None`: it has more than `most` bytes.
async fn pour(path: &PathBuf, body: Stream, most: u64) -> std::io::Result<Option<u64>> {
    let mut file = tokio::fs::File::create(path).await?;
    let mut stream = body.into_data_stream();
    let mut written = 0;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(std::io::Error::other)?;
        written += chunk.len() as u64;
        if written > most {
            return Ok(None);
        }
        file.write_all(&chunk).await?;
    }
    file.flush().await?;
    Ok(Some(written))
}
