//! The dashboards' HTTP server: who answers which path, health, and what every answer carries.
//!
//! `node` calls [`serve`] in a task of its own. It asks for no password (the config decides who can reach it; loopback
//! by default) and serves reads, but for the operators' commands (`command`). It holds a limited number of connections.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::serve::Listener;
use axum::{Router, middleware};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use crate::command::models::ModelDoor;
use crate::command::quarantine::Desks;
use crate::feed::api::{self, Problem};
use crate::feed::command::{self, Operators};
use crate::feed::status::{NodeStatus, Pulse};
use crate::feed::{Hub, models, page, quarantine, sse};
use crate::metrics::{CONTENT_TYPE, Metrics};

/// Connections at one time; further ones wait at the door.
const CONNECTIONS: usize = 128;
/// Streams at one time.
const STREAMS: usize = 64;
/// A connection on which nothing moves for so long is closed. Streams have a heartbeat.
const IDLE: Duration = Duration::from_mins(1);
/// How long a stopping server waits for answers under way.
const STOP_WITHIN: Duration = Duration::from_secs(2);
/// The page is all there is: nothing from elsewhere, nothing inline, no frames.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What every answer is made from.
#[derive(Clone, Debug)]
pub struct App {
    /// Assets, scores and alarms.
    pub hub: Hub,
    /// The numbers.
    pub metrics: Arc<Metrics>,
    /// The node.
    pub status: watch::Receiver<NodeStatus>,
    /// What follows from watching it.
    pub pulse: Pulse,
    /// Where commands go; `None` where none are taken.
    pub operators: Option<Operators>,
    /// Where the uplinks answer for what was refused.
    pub desks: Desks,
    /// Where models come in; `None` where none are taken.
    pub models: Option<ModelDoor>,
    /// Room for streams.
    pub streams: Arc<Semaphore>,
    /// Ends streams.
    pub stop: CancellationToken,
}

/// Where what is asked of the node goes.
#[derive(Clone, Debug, Default)]
pub struct Doors {
    /// Commands; `None`: none are taken.
    pub operators: Option<Operators>,
    /// Questions about what was refused.
    pub desks: Desks,
    /// Models; `None`: none are taken.
    pub models: Option<ModelDoor>,
}

/// Serves until `stop`; answers under way get two seconds more. Without `operators` no command is taken.
///
/// # Errors
/// The listener does not know its own address any more.
pub async fn serve(
    listener: TcpListener,
    hub: Hub,
    metrics: Arc<Metrics>,
    status: watch::Receiver<NodeStatus>,
    doors: Doors,
    stop: CancellationToken,
) -> io::Result<()> {
    let Doors { operators, desks, models } = doors;
    let app = App {
        hub,
        metrics,
        status,
        pulse: Pulse::new(),
        operators,
        desks,
        models,
        streams: Arc::new(Semaphore::new(STREAMS)),
        stop: stop.clone(),
    };
    let door = Door { listener, room: Arc::new(Semaphore::new(CONNECTIONS)), idle: IDLE };
    tracing::debug!(address = %door.local_addr()?, "dashboards are served");
    let pulse = app.pulse.clone();
    let followed = app.status.clone();
    let follow = async move {
        pulse.follow(followed).await;
        std::future::pending::<()>().await;
    };
    let served =
        axum::serve(door, router(app)).with_graceful_shutdown(stop.clone().cancelled_owned());
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_WITHIN).await;
    };
    tokio::select! {
        ended = served.into_future() => ended,
        () = follow => Ok(()),
        () = overdue => Ok(()),
    }
}

/// Answers while the node starts: it lives and is not ready. Dropped when the start is over.
pub async fn starting(
    listener: &TcpListener,
    waits_for: watch::Receiver<String>,
) -> std::convert::Infallible {
    loop {
        // A start without a network to answer on is a start all the same.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let why = waits_for.borrow().clone();
        let answered = tokio::time::timeout(Duration::from_millis(500), not_ready(stream, &why));
        // Whoever asks and does not listen is not waited for.
        let _ = answered.await;
    }
}

/// Reads the head of a request and answers it.
async fn not_ready(mut stream: TcpStream, why: &str) -> io::Result<()> {
    let mut head = [0; 4096];
    let mut read = 0;
    while !head[..read].windows(4).any(|end| end == b"\r\n\r\n") && read < head.len() {
        match stream.read(&mut head[read..]).await? {
            0 => break,
            more => read += more,
        }
    }
    let reason = format!("starting: {}", or(why, "the journal is replayed"));
    let (status, body) = if head.starts_with(b"GET /healthz ") {
        ("200 OK", json!({ "ok": true }))
    } else {
        let body = json!({ "ready": false, "reasons": [reason], "notes": [] });
        ("503 Service Unavailable", body)
    };
    let body = body.to_string();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncache-control: no-store\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

fn router(app: App) -> Router {
    let only_posted = async || {
        let error = "this is a command, not something to read";
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, error, "POST")
    };
    let commands = Router::new()
        .route("/api/v1/alarms/ack", post(command::ack).fallback(only_posted))
        .route("/api/v1/alarms/shelve", post(command::shelve).fallback(only_posted))
        .route("/api/v1/alarms/unshelve", post(command::unshelve).fallback(only_posted))
        .route("/api/v1/alarms/judge", post(command::judge).fallback(only_posted))
        .route("/api/v1/quarantine/retry", post(quarantine::retry).fallback(only_posted))
        .route("/api/v1/quarantine/drop", post(quarantine::drop).fallback(only_posted))
        .route("/api/v1/models/canary", post(models::canary).fallback(only_posted))
        .route("/api/v1/models/promote", post(models::promote).fallback(only_posted))
        .route("/api/v1/models/rollback", post(models::rollback).fallback(only_posted))
        .route("/api/v1/models", get(models::list).post(models::offer))
        .layer(DefaultBodyLimit::max(command::BODY_MAX));
    Router::new()
        .merge(commands)
        .route("/api/v1/models/incoming/{id}/{file}", put(models::put))
        .route("/api/v1/models/incoming/{id}", delete(models::remove))
        .route("/", get(page::html))
        .route("/page.css", get(page::css))
        .route("/page.js", get(page::js))
        .route("/api/v1/status", get(api::status))
        .route("/api/v1/pipelines", get(api::pipelines))
        .route("/api/v1/assets", get(api::assets))
        .route("/api/v1/assets/{pipeline}/{asset}", get(api::asset))
        .route("/api/v1/scores/latest", get(api::latest))
        .route("/api/v1/scores", get(api::scores))
        .route("/api/v1/alarms", get(api::alarms))
        .route("/api/v1/losses", get(api::losses))
        .route("/api/v1/quarantine", get(quarantine::list))
        .route("/api/v1/chart/{pipeline}/{file}", get(api::chart))
        .route("/api/v1/stream", get(sse::stream))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this can only be read", "GET or HEAD")
        })
        .fallback(async || {
            Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path", api::PATHS)
        })
        .layer(middleware::map_response(harden))
        .with_state(app)
}

async fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

async fn metrics(State(app): State<App>) -> Response {
    let active = app.hub.live().active_by_severity();
    app.metrics.set_alarms_active(&active);
    app.metrics.set_feed_skipped(app.hub.skipped());
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], app.metrics.encode()).into_response()
}

/// Whether the process does its work: for whoever restarts it.
async fn healthz(State(app): State<App>) -> Response {
    match app.pulse.stuck_for() {
        None => axum::Json(json!({ "ok": true })).into_response(),
        Some(still) => {
            let reason = format!("the engine has not come round for {} s", still.as_secs());
            let body = json!({ "ok": false, "reasons": [reason] });
            (StatusCode::SERVICE_UNAVAILABLE, axum::Json(body)).into_response()
        }
    }
}

/// Whether readings can come in and be kept. The uplink may be down: that is what the outbox is for.
async fn readyz(State(app): State<App>) -> Response {
    let mut reasons = Vec::new();
    let mut notes = Vec::new();
    {
        let status = app.status.borrow();
        if !status.ingest.up {
            let link = &status.ingest;
            reasons.push(format!("broker {}: {}", link.target, or(&link.detail, "not connected")));
        }
        if !status.store.ok {
            reasons.push(format!("store: {}", or(&status.store.detail, "cannot be written")));
        }
        if let Some(link) = status.uplink.as_ref().filter(|link| !link.up) {
            let detail = or(&link.detail, "not connected");
            notes.push(format!("uplink {}: {detail}; records wait in the store", link.target));
        }
        notes.extend(status.models_refused.iter().cloned());
    }
    if let Some(still) = app.pulse.stuck_for() {
        reasons.push(format!("the engine has not come round for {} s", still.as_secs()));
    }
    let ready = reasons.is_empty();
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({ "ready": ready, "reasons": reasons, "notes": notes });
    (code, axum::Json(body)).into_response()
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

/// A listener that lets in only so many at a time: a flood of connections must not take the files the store needs.
struct Door {
    listener: TcpListener,
    room: Arc<Semaphore>,
    idle: Duration,
}

/// A connection that holds its place while something moves on it.
struct Guest {
    stream: TcpStream,
    idle: Duration,
    leaves: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Guest {
    /// Passes `moved` on, but ends a connection that has waited too long.
    fn unless_idle<T>(
        &mut self,
        cx: &mut Context<'_>,
        moved: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if moved.is_ready() {
            let next = Instant::now() + self.idle;
            self.leaves.as_mut().reset(next);
            return moved;
        }
        ready!(self.leaves.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Listener for Door {
    type Io = Guest;
    type Addr = std::net::SocketAddr;

    async fn accept(&mut self) -> (Guest, Self::Addr) {
        let place = Arc::clone(&self.room).acquire_owned().await;
        let place = place.expect("invariant: the semaphore is never closed");
        let (stream, address) = Listener::accept(&mut self.listener).await;
        // Events are small; without this each would wait for the last one's acknowledgement.
        let _ = stream.set_nodelay(true);
        let leaves = Box::pin(tokio::time::sleep(self.idle));
        (Guest { stream, idle: self.idle, leaves, _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let moved = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.unless_idle(cx, moved)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.unless_idle(cx, moved)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_guest_that_does_nothing_loses_its_place() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let room = Arc::new(Semaphore::new(1));
        let idle = Duration::from_millis(150);
        let door = Door { listener, room, idle };
        let routes = Router::new().route("/", get(async || "hello"));
        let served = tokio::spawn(axum::serve(door, routes).into_future());
        // From before it comes: its place is counted from then on.
        let start = time::monotonic();
        let mut lazy = TcpStream::connect(address).await.unwrap();
        lazy.write_all(b"GET / HT").await.unwrap();
        let mut next = TcpStream::connect(address).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n";
        next.write_all(request).await.unwrap();
        let mut answer = String::new();
        let read = next.read_to_string(&mut answer);
        tokio::time::timeout(Duration::from_secs(20), read).await.unwrap().unwrap();
        assert!(answer.ends_with("hello"), "{answer}");
        assert!(start.elapsed() >= idle, "there was room for one only");
        served.abort();
    }
}
