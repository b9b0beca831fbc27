//! `/api/v1/alarms/ack`, `/shelve`, `/unshelve` and `/judge`: the operators' door.
//!
//! `http` routes here; a request becomes a [`Command`] in a bounded queue, and the engine thread ([`Orders`]) answers
//! it once it is durable. There is no password, so what a browser may be tricked into is kept out instead: any page on
//! the internet can make a visitor's browser send a request to 127.0.0.1. Three things are asked of it. Its body is
//! declared as JSON, which a page of another site may only do after asking this server, and this server never says
//! yes. Its `Origin`, where there is one, is the host it was sent to. And that host is an IP address, `localhost` or a
//! name from `feed.hosts`: a name of somebody else's that resolves to this machine makes a foreign page look like ours.

pub mod broker;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use crate::command::{Action, Command, Refusal, Verdict};
use crate::feed::api::{Answer, Problem};
use crate::feed::http::App;
use crate::record::Now;
use crate::time::{self, Span, Timestamp};

/// Commands that may wait for the engine thread.
pub const WAITING: usize = 64;
/// Most bytes of a request: names and a reason.
pub const BODY_MAX: usize = 8 << 10;
/// The longest shelving: what is forgotten for longer is no alarm any more.
const SHELVE_MAX: Span = Span::seconds(7 * 24 * 3600);
/// Characters of a name somebody gives.
pub(super) const BY_MAX: usize = 64;
/// Of a reason.
pub(super) const REASON_MAX: usize = 256;
/// How long a request waits for the engine before it is told that it is only accepted.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A command on its way, and where its answer goes.
#[derive(Debug)]
pub struct Order {
    /// What is asked.
    pub command: Command,
    /// What is so after it, once that is durable; or why nothing was done.
    pub answer: oneshot::Sender<Result<Now, Refusal>>,
}

/// The engine thread's end.
#[derive(Debug)]
pub struct Orders(mpsc::Receiver<Order>);

impl Orders {
    /// What waits, oldest first; never waits itself.
    pub fn take(&mut self) -> Vec<Order> {
        std::iter::from_fn(|| self.0.try_recv().ok()).take(WAITING).collect()
    }
}

/// The requests' end.
#[derive(Clone)]
pub struct Operators {
    orders: mpsc::Sender<Order>,
    ring: Arc<dyn Fn() + Send + Sync>,
    hosts: Arc<[String]>,
}

impl std::fmt::Debug for Operators {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operators").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

/// The queue between requests and the engine thread. `ring` wakes that thread; `hosts` are the names, beside addresses
/// and `localhost`, under which operators reach this node.
pub fn open(ring: impl Fn() + Send + Sync + 'static, hosts: &[String]) -> (Operators, Orders) {
    let (orders, taken) = mpsc::channel(WAITING);
    (Operators { orders, ring: Arc::new(ring), hosts: hosts.into() }, Orders(taken))
}

/// A request's body.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    pipeline: String,
    asset: String,
    alarm: String,
    /// What its sender calls it: `broker` sends it back.
    #[serde(rename = "id")]
    _id: Option<IgnoredAny>,
    by: Option<String>,
    r#for: Option<String>,
    reason: Option<String>,
    verdict: Option<Value>,
    raised: Option<Timestamp>,
    fault: Option<String>,
    note: Option<String>,
}

/// Somebody has seen it.
pub async fn ack(state: State<App>, headers: HeaderMap, body: Body) -> Answer {
    carry(state, headers, body, "ack").await
}

/// Silence for a time.
pub async fn shelve(state: State<App>, headers: HeaderMap, body: Body) -> Answer {
    carry(state, headers, body, "shelve").await
}

/// Speak again.
pub async fn unshelve(state: State<App>, headers: HeaderMap, body: Body) -> Answer {
    carry(state, headers, body, "unshelve").await
}

/// Whether it was right.
pub async fn judge(state: State<App>, headers: HeaderMap, body: Body) -> Answer {
    carry(state, headers, body, "judge").await
}

/// A body, or why it was not taken.
pub type Body = Result<Bytes, BytesRejection>;

async fn carry(State(app): State<App>, headers: HeaderMap, body: Body, verb: &str) -> Answer {
    let (operators, body) = allowed(&app, &headers, body)?;
    let command = command(&body, verb)?;
    let state = carry_out(operators, &command).await?;
    // Where nothing can be said of the outcome yet, it stands in the queue and will be carried out.
    let status = if state.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, axum::Json(answer_of(&command, state))).into_response())
}

/// Gives a command to the engine thread; what is so after it, or `None` where that is not known yet.
pub(super) async fn carry_out(
    operators: &Operators,
    command: &Command,
) -> Result<Option<Now>, Problem> {
    let (answer, answered) = oneshot::channel();
    operators.orders.try_send(Order { command: command.clone(), answer }).map_err(|e| {
        let error = match e {
            TrySendError::Full(_) => "too many commands wait already",
            TrySendError::Closed(_) => "the node is stopping",
        };
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, error, "another try in a moment")
    })?;
    (operators.ring)();
    match tokio::time::timeout(ANSWER_WITHIN, answered).await {
        Ok(Ok(Ok(state))) => Ok(Some(state)),
        Ok(Ok(Err(refusal))) => Err(refused(&refusal)),
        Ok(Err(_)) => {
            let error = "the node stopped before the command was carried out";
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, error, "another try after its start"))
        }
        Err(_) => Ok(None),
    }
}

/// Whether a command may come from there: see the module. Gives its body.
pub(super) fn allowed<'a>(
    app: &'a App,
    headers: &HeaderMap,
    body: Body,
) -> Result<(&'a Operators, Bytes), Problem> {
    let Some(operators) = &app.operators else {
        let error = "commands are switched off on this node";
        return Err(Problem::new(StatusCode::FORBIDDEN, error, "`feed.commands = true`"));
    };
    is_ours(headers, &operators.hosts)?;
    let body = body.map_err(|e| {
        let expected = format!("at most {BODY_MAX} bytes of JSON");
        Problem::new(e.status(), e.body_text(), expected)
    })?;
    Ok((operators, body))
}

/// What is said of a command that was carried out.
fn answer_of(command: &Command, state: Option<Now>) -> Value {
    let Command { pipeline, asset, alarm, .. } = command;
    json!({ "pipeline": pipeline, "asset": asset, "alarm": alarm, "state": state })
}

pub(super) fn refused(refusal: &Refusal) -> Problem {
    let (status, expected) = match refusal {
        Refusal::NoScore { .. } => (StatusCode::NOT_FOUND, "one of /api/v1/models"),
        Refusal::Unfit(_) => (StatusCode::UNPROCESSABLE_ENTITY, "a model that this node can use"),
        Refusal::Already(_) | Refusal::NoModel { .. } => {
            (StatusCode::CONFLICT, "models in another state; see /api/v1/models")
        }
        Refusal::Failed(_) => (StatusCode::INTERNAL_SERVER_ERROR, "a look into the node's log"),
        _ if refusal.is_unknown() => (StatusCode::NOT_FOUND, "one of /api/v1/alarms?active=true"),
        _ => (StatusCode::CONFLICT, "an alarm in another state; see /api/v1/alarms?active=true"),
    };
    Problem::new(status, refusal.to_string(), expected)
}

/// Whether a request comes from our own page, or from a program.
fn is_ours(headers: &HeaderMap, hosts: &[String]) -> Result<(), Problem> {
    let forbidden =
        |error: String, expected: &str| Err(Problem::new(StatusCode::FORBIDDEN, error, expected));
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(header::HOST).unwrap_or_default();
    if !is_known(host, hosts) {
        let expected = "an IP address, localhost, or a name listed in `feed.hosts`";
        return forbidden(format!("commands are not taken for the host `{host}`"), expected);
    }
    if let Some(origin) = text(header::ORIGIN) {
        let site = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        if !site.is_some_and(|site| site.eq_ignore_ascii_case(host)) {
            let expected = "a page of this node, or a program that sends no Origin";
            return forbidden(format!("commands are not taken from pages of `{origin}`"), expected);
        }
    }
    let kind = text(header::CONTENT_TYPE).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let error = format!("the body is declared as `{kind}`");
        let expected = "content-type: application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error, expected));
    }
    Ok(())
}

/// Whether a `Host` header names this machine in a way that nobody else's DNS decides.
fn is_known(host: &str, hosts: &[String]) -> bool {
    let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').is_some_and(|(ip, _)| ip.parse::<Ipv6Addr>().is_ok());
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.parse::<IpAddr>().is_ok()
        || same(name, "localhost")
        || hosts.iter().any(|known| same(known, name) || same(known, host))
}

/// The command in a body.
fn command(body: &[u8], verb: &str) -> Result<Command, Problem> {
    const EXPECTED: &str = "{\"pipeline\", \"asset\", \"alarm\", \"by\"?, \"id\"?}; for shelve \"for\": \"2h\" and \"reason\"? too, for judge \"verdict\": \"true\", \"false\" or \"unsure\", \"raised\"?, \"fault\"? and \"note\"?";
    let bad = |error: String| Problem::new(StatusCode::BAD_REQUEST, error, EXPECTED);
    let ask: Ask = serde_json::from_slice(body).map_err(|e| bad(e.to_string()))?;
    let Ask { pipeline, asset, alarm, by, r#for, reason, verdict, raised, fault, note, .. } = ask;
    let by = said("by", by, BY_MAX)?;
    let judges = verdict.is_some() || raised.is_some() || fault.is_some() || note.is_some();
    if judges && verb != "judge" {
        return Err(bad("only judge takes `verdict`, `raised`, `fault` and `note`".into()));
    }
    let action = match (verb, r#for) {
        ("shelve", Some(text)) => {
            let reason = said("reason", reason, REASON_MAX)?;
            Action::Shelve { until: time::now().plus(shelve_for(&text)?), reason }
        }
        ("shelve", None) => return Err(bad("`for` is missing: how long to shelve it".into())),
        (_, Some(_)) => return Err(bad("only shelve takes `for`".into())),
        (_, None) if reason.is_some() => return Err(bad("only shelve takes `reason`".into())),
        ("ack", None) => Action::Acknowledge,
        ("judge", None) => {
            let verdict = verdict.ok_or_else(|| bad("`verdict` is missing".into()))?;
            let verdict = Verdict::deserialize(&verdict).map_err(|_| {
                bad(format!(
                    "`verdict` is {verdict}; it is a text: \"true\", \"false\" or \"unsure\""
                ))
            })?;
            let (fault, note) = (said("fault", fault, BY_MAX)?, said("note", note, REASON_MAX)?);
            Action::Judge { verdict, raised, fault, note }
        }
        (_, None) => Action::Unshelve,
    };
    Ok(Command { pipeline, asset, alarm, action, by })
}

fn shelve_for(text: &str) -> Result<Span, Problem> {
    let bad = |error: String| {
        let expected = format!("a length of time from 1s to {SHELVE_MAX}, like \"2h\"");
        Problem::new(StatusCode::BAD_REQUEST, error, expected)
    };
    let span: Span = text.parse().map_err(bad)?;
    if span < Span::seconds(1) || span > SHELVE_MAX {
        return Err(bad(format!("`for` is `{text}`")));
    }
    Ok(span)
}

/// What a person typed: trimmed, short, one line; nothing where nothing is left.
pub(super) fn said(
    name: &str,
    text: Option<String>,
    most: usize,
) -> Result<Option<String>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let text = text.trim();
    if text.chars().count() > most || text.chars().any(char::is_control) {
        let error = format!("`{name}` is too long, or has a line break in it");
        let expected = format!("one line of at most {most} characters");
        return Err(Problem::new(StatusCode::BAD_REQUEST, error, expected));
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_that_nobody_elses_dns_decides_are_known() {
        let hosts = ["gateway.plant".to_owned(), "proxy.plant:8443".to_owned()];
        for good in [
            "127.0.0.1:8080",
            "10.0.0.7",
            "localhost:8080",
            "LOCALHOST",
            "[::1]:8080",
            "[::1]",
            "gateway.plant:80",
            "Gateway.Plant",
            "proxy.plant:8443",
        ] {
            assert!(is_known(good, &hosts), "{good}");
        }
        for bad in [
            "",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "proxy.plant:80",
            "[evil]:8080",
            "[::1",
            "gateway.plant.evil",
        ] {
            assert!(!is_known(bad, &hosts), "{bad}");
        }
    }
}
