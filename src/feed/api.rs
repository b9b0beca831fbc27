//! The API's answers: JSON in the records' own shapes, charts as SVG, and errors that say what was expected.
//!
//! `http` routes here. Every list has a limit, and every parameter that is not known is refused: a misspelt filter
//! must not look like an answer.

use std::collections::VecDeque;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};

use crate::feed::chart::{self, AlarmSpan, ChartSpec};
use crate::feed::history::main_score;
use crate::feed::http::App;
use crate::feed::is_active;
use crate::feed::live::AssetView;
use crate::record::{AlarmRecord, Record};
use crate::time::{self, Span, Timestamp};

/// All paths, for whoever lost the way.
pub const PATHS: &str = "/, /api/v1/status, /api/v1/pipelines, /api/v1/assets, \
    /api/v1/assets/{pipeline}/{asset}, /api/v1/scores/latest, /api/v1/scores, /api/v1/alarms, \
    /api/v1/alarms/ack, /api/v1/alarms/shelve, /api/v1/alarms/unshelve, \
    /api/v1/alarms/judge, /api/v1/losses, \
    /api/v1/quarantine, /api/v1/quarantine/retry, /api/v1/quarantine/drop, /api/v1/models, \
    /api/v1/models/incoming/{id}/{file}, /api/v1/models/canary, /api/v1/models/promote, \
    /api/v1/models/rollback, /api/v1/stream, \
    /api/v1/chart/{pipeline}/{asset}.svg, /metrics, /healthz, /readyz";

/// Why a request cannot be answered, as `{ "error", "expected" }`.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    error: String,
    expected: String,
}

impl Problem {
    /// What is wrong, and what would be right.
    pub fn new(
        status: StatusCode,
        error: impl Into<String>,
        expected: impl Into<String>,
    ) -> Problem {
        Problem { status, error: error.into(), expected: expected.into() }
    }

    /// Its status and what is said of it, the same on every way.
    pub(super) fn told(&self) -> (StatusCode, Value) {
        (self.status, json!({ "error": self.error, "expected": self.expected }))
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; expected {}", self.error, self.expected)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, told) = self.told();
        (status, axum::Json(told)).into_response()
    }
}

/// An answer, or why there is none.
pub type Answer = Result<Response, Problem>;
/// The query as axum gives it.
pub type RawQuery = Result<Query<Vec<(String, String)>>, QueryRejection>;
type TwoNames = Result<Path<(String, String)>, PathRejection>;

/// A query's parameters, all of them known.
#[derive(Debug)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// Refuses what is not in `known`.
    pub fn new(query: RawQuery, known: &[&str]) -> Result<Params, Problem> {
        let expected = if known.is_empty() { "no parameters".into() } else { known.join(", ") };
        let bad = |error: String| Problem::new(StatusCode::BAD_REQUEST, error, expected.clone());
        let Query(pairs) = query.map_err(|e| bad(e.body_text()))?;
        match pairs.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, _)) => Err(bad(format!("unknown parameter `{name}`"))),
            None => Ok(Params(pairs)),
        }
    }

    /// A text; an empty one is none.
    pub fn text(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().rfind(|(n, _)| n == name)?;
        (!value.is_empty()).then_some(value.as_str())
    }

    /// A moment.
    pub fn time(&self, name: &str) -> Result<Option<Timestamp>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        // In a query, `+` means a space: a zone of `+02:00` typed as it is arrives without its plus.
        text.replace(' ', "+").parse().map(Some).map_err(|_| {
            let expected = "a time like 2026-01-31T12:00:00Z";
            Problem::new(StatusCode::BAD_REQUEST, format!("`{name}` is `{text}`"), expected)
        })
    }

    /// A whole number within `from..=to`.
    pub fn number(&self, name: &str, default: i64, from: i64, to: i64) -> Result<i64, Problem> {
        let Some(text) = self.text(name) else { return Ok(default) };
        text.parse().ok().filter(|n| (from..=to).contains(n)).ok_or_else(|| {
            let expected = format!("a whole number from {from} to {to}");
            Problem::new(StatusCode::BAD_REQUEST, format!("`{name}` is `{text}`"), expected)
        })
    }

    /// Yes or no.
    pub fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.text(name) {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(other) => Err(Problem::new(
                StatusCode::BAD_REQUEST,
                format!("`{name}` is `{other}`"),
                "true or false",
            )),
        }
    }

    fn limit(&self, default: i64) -> Result<usize, Problem> {
        self.number("limit", default, 1, 10_000).map(|n| n as usize)
    }

    fn keeps(&self, pipeline: &str, asset: &str) -> bool {
        self.text("pipeline").is_none_or(|p| p == pipeline)
            && self.text("asset").is_none_or(|a| a == asset)
    }
}

pub(super) fn json(body: &impl Serialize) -> Answer {
    let text = serde_json::to_string(body).map_err(|e| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string(), "a report of this error")
    })?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

fn names(path: TwoNames) -> Result<(String, String), Problem> {
    path.map(|Path(names)| names).map_err(|e| {
        let expected = "pipeline and asset, percent-encoded UTF-8";
        Problem::new(StatusCode::BAD_REQUEST, e.body_text(), expected)
    })
}

fn no_asset(pipeline: &str, asset: &str) -> Problem {
    let error =
        format!("no asset `{asset}` has been seen in pipeline `{pipeline}` since the start");
    Problem::new(StatusCode::NOT_FOUND, error, "one of /api/v1/assets")
}

/// The node.
pub async fn status(State(app): State<App>, query: RawQuery) -> Answer {
    Params::new(query, &[])?;
    json(&app.pulse.view(&app.status, &app.hub))
}

/// What is computed, with each pipeline's books.
pub async fn pipelines(State(app): State<App>, query: RawQuery) -> Answer {
    Params::new(query, &[])?;
    let pipelines = app.status.borrow().pipelines.clone();
    json(&pipelines)
}

/// All assets, those that need somebody first.
pub async fn assets(State(app): State<App>, query: RawQuery) -> Answer {
    let params = Params::new(query, &["pipeline", "asset", "limit"])?;
    let limit = params.limit(1000)?;
    let mut views: Vec<AssetView> = {
        let (live, at) = (app.hub.live(), time::monotonic());
        let kept = live.assets().filter(|(pipeline, asset, _)| params.keeps(pipeline, asset));
        kept.map(|(pipeline, asset, one)| live.view(pipeline, asset, one, at)).collect()
    };
    let total = views.len();
    views.sort_by_key(|v| (v.state, std::cmp::Reverse(v.severity)));
    views.truncate(limit);
    json(&json!({ "total": total, "assets": views }))
}

/// One asset: as the list has it, its newest window whole, its alarms.
pub async fn asset(State(app): State<App>, path: TwoNames, query: RawQuery) -> Answer {
    Params::new(query, &[])?;
    let (pipeline, asset) = names(path)?;
    let body = {
        let live = app.hub.live();
        let one = live.asset(&pipeline, &asset).ok_or_else(|| no_asset(&pipeline, &asset))?;
        json!({
            "asset": live.view(&pipeline, &asset, one, time::monotonic()),
            "last": one.last.clone().map(Record::Score),
            "alarms": live.alarms_of(&pipeline, &asset).collect::<Vec<_>>(),
            "changes": tagged(one.changes.iter().rev()),
        })
    };
    json(&body)
}

fn tagged<'a>(alarms: impl Iterator<Item = &'a AlarmRecord>) -> Vec<Record> {
    alarms.cloned().map(Record::Alarm).collect()
}

/// Each asset's newest window.
pub async fn latest(State(app): State<App>, query: RawQuery) -> Answer {
    let params = Params::new(query, &["pipeline", "asset", "limit"])?;
    let limit = params.limit(1000)?;
    let records: Vec<Record> = {
        let live = app.hub.live();
        let kept = live.assets().filter(|(pipeline, asset, _)| params.keeps(pipeline, asset));
        kept.filter_map(|(_, _, one)| one.last.clone()).map(Record::Score).take(limit).collect()
    };
    json(&records)
}

/// Recent windows, oldest first; the newest ones where there are more than the limit.
pub async fn scores(State(app): State<App>, query: RawQuery) -> Answer {
    let params = Params::new(query, &["pipeline", "asset", "from", "to", "limit"])?;
    let limit = params.limit(500)?;
    let from = params.time("from")?.unwrap_or(Timestamp::MIN);
    let to = params.time("to")?.unwrap_or(Timestamp::MAX);
    if from > to {
        let error = "`from` is after `to`";
        return Err(Problem::new(StatusCode::BAD_REQUEST, error, "from at or before to"));
    }
    let mut records = Vec::new();
    {
        let live = app.hub.live();
        if let (Some(pipeline), Some(asset)) = (params.text("pipeline"), params.text("asset")) {
            live.asset(pipeline, asset).ok_or_else(|| no_asset(pipeline, asset))?;
        }
        let kept = live.assets().filter(|(pipeline, asset, _)| params.keeps(pipeline, asset));
        for (_, _, one) in kept {
            records.extend(one.history.between(from, to, limit));
            // Never more in hand than twice the limit, however many assets there are.
            if records.len() > 2 * limit {
                newest(&mut records, limit);
            }
        }
    }
    newest(&mut records, limit);
    json(&records.into_iter().map(Record::Score).collect::<Vec<_>>())
}

fn newest(records: &mut Vec<crate::record::ScoreRecord>, limit: usize) {
    records.sort_by_key(|r| r.window_end);
    records.drain(..records.len().saturating_sub(limit));
}

/// Alarms: `active=true` those that are not normal, most severe first and shelved ones last; else the latest changes, newest first.
pub async fn alarms(State(app): State<App>, query: RawQuery) -> Answer {
    let params = Params::new(query, &["active", "pipeline", "asset", "limit"])?;
    let limit = params.limit(1000)?;
    let active = params.flag("active")?;
    let live = app.hub.live();
    let kept = |r: &AlarmRecord| params.keeps(&r.pipeline, &r.asset);
    if active {
        let on: Vec<_> =
            live.active().into_iter().filter(|a| kept(&a.record)).take(limit).collect();
        json(&on)
    } else {
        json(&tagged(live.changes().filter(|r| kept(r)).take(limit)))
    }
}

/// Notices of loss, newest first.
pub async fn losses(State(app): State<App>, query: RawQuery) -> Answer {
    Params::new(query, &[])?;
    let losses: Vec<Record> = app.hub.live().losses().cloned().map(Record::Loss).collect();
    json(&losses)
}

/// A chart of one score (or feature) of one asset.
pub async fn chart(State(app): State<App>, path: TwoNames, query: RawQuery) -> Answer {
    let params = Params::new(query, &["score", "width", "height", "from", "offset"])?;
    let spec = ChartSpec {
        width: params.number("width", 600, 40, 2000)? as u32,
        height: params.number("height", 240, 20, 1200)? as u32,
        offset: Span::seconds(60 * params.number("offset", 0, -900, 900)?),
    };
    let from = params.time("from")?.unwrap_or(Timestamp::MIN);
    let (pipeline, file) = names(path)?;
    let Some(asset) = file.strip_suffix(".svg") else {
        let error = format!("`{file}` is no chart");
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            error,
            "/api/v1/chart/{pipeline}/{asset}.svg",
        ));
    };
    let (name, points, spans) = {
        let live = app.hub.live();
        let one = live.asset(&pipeline, asset).ok_or_else(|| no_asset(&pipeline, asset))?;
        let last = one.last.as_ref();
        let name = params.text("score").or_else(|| last.and_then(main_score));
        let known = || -> Vec<String> {
            last.map(|r| r.scores.keys().chain(r.features.keys()).cloned().collect())
                .unwrap_or_default()
        };
        let name = match name {
            Some(name) => name.to_owned(),
            None => last.and_then(|r| r.features.keys().next().cloned()).unwrap_or_default(),
        };
        let points = one.history.series(&name, from);
        if points.is_empty() && !name.is_empty() && !known().contains(&name) {
            let error = format!("asset `{asset}` has no score or feature `{name}`");
            return Err(Problem::new(StatusCode::NOT_FOUND, error, known().join(", ")));
        }
        (name, points, spans(&one.changes))
    };
    let value = points.last().and_then(|p| p.value).map_or("unknown".into(), |v| format!("{v:.4}"));
    let title = format!("{asset}: {name} over time, now {value}");
    let svg = chart::draw(&points, &spans, &title, spec).map_err(|e| {
        Problem::new(StatusCode::BAD_REQUEST, e.to_string(), "width and height in pixels")
    })?;
    Ok(([(header::CONTENT_TYPE, "image/svg+xml")], svg).into_response())
}

/// When at least one alarm was on, from the changes of one asset's alarms. A change whose beginning is forgotten
/// begins at the start.
fn spans(changes: &VecDeque<AlarmRecord>) -> Vec<AlarmSpan> {
    let mut spans: Vec<(&str, AlarmSpan)> = Vec::new();
    for change in changes {
        let name = change.name.as_str();
        let open = spans.iter_mut().rfind(|(n, span)| *n == name && span.to.is_none());
        let on = is_active(change.state) && change.state != crate::record::AlarmState::Returned;
        match (open, on) {
            (None, true) => spans.push((name, AlarmSpan { from: change.at, to: None })),
            (Some((_, span)), false) => span.to = Some(change.at),
            _ => {}
        }
    }
    spans.into_iter().map(|(_, span)| span).collect()
}
