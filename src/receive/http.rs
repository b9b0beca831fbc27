//! Parcels over HTTP: a POST on any path is a parcel; `GET /counts` says what came, `GET /healthz` that it runs.

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::Received;
use super::desk::{Answer, Door, Letter, Parcel};
use crate::uplink::wire::{self, PARCEL_MAX};

/// Seconds after which a sender may try again when the disk is full.
const RETRY_AFTER: &str = "10";

#[derive(Clone)]
struct Desk {
    door: Door,
    counts: watch::Receiver<Received>,
    /// Digest of what the sender has to show, so that comparing takes as long whatever it shows.
    guard: Option<[u8; 32]>,
}

/// Serves until `stop`.
pub(super) async fn serve(
    listener: TcpListener,
    door: Door,
    counts: watch::Receiver<Received>,
    token: Option<String>,
    stop: CancellationToken,
) {
    let guard = token.map(|token| Sha256::digest(format!("Bearer {token}")).into());
    let app = Router::new()
        .route("/counts", routing::get(told).post(take))
        .route("/healthz", routing::get(|| async { "ok" }).post(take))
        .fallback(routing::post(take))
        .layer(DefaultBodyLimit::max(PARCEL_MAX))
        .with_state(Desk { door, counts, guard });
    // Connections that are still open end with the runtime; a parcel without an answer comes again.
    tokio::select! {
        () = stop.cancelled() => {}
        _ = axum::serve(listener, app) => {}
    }
}

async fn told(State(desk): State<Desk>) -> Json<Received> {
    Json(desk.counts.borrow().clone())
}

async fn take(State(desk): State<Desk>, headers: HeaderMap, body: Bytes) -> Response {
    let shown = headers.get(header::AUTHORIZATION).map(|value| Sha256::digest(value.as_bytes()));
    if desk.guard.is_some_and(|guard| shown.is_none_or(|shown| shown[..] != guard)) {
        return (StatusCode::UNAUTHORIZED, "the token is missing or wrong").into_response();
    }
    let encoding = headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes);
    if let Some(other) = encoding.filter(|name| !matches!(*name, b"zstd" | b"identity")) {
        let other = String::from_utf8_lossy(other);
        let why = format!("content encoding `{other}` is not known: use zstd");
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, why).into_response();
    }
    if encoding == Some(b"zstd") && !wire::is_zstd(&body) {
        let why = "the body says that it is zstd, and is not";
        return (StatusCode::BAD_REQUEST, why).into_response();
    }
    let gone = || StatusCode::SERVICE_UNAVAILABLE.into_response();
    let Ok(read) = tokio::task::spawn_blocking(move || Parcel::read(&body)).await else {
        return gone();
    };
    let (parcel, problem) = match read {
        Ok(parcel) => (parcel, None),
        Err(why) => (Parcel::unreadable(), Some(why.to_string())),
    };
    let (reply, answer) = oneshot::channel();
    if desk.door.send(Letter::Parcel(parcel, reply)).await.is_err() {
        return gone();
    }
    let answer = answer.await;
    if let Some(why) = problem {
        tracing::warn!(why, "a parcel cannot be read");
        return (StatusCode::BAD_REQUEST, why).into_response();
    }
    match answer {
        Ok(Answer::Taken) => StatusCode::NO_CONTENT.into_response(),
        Ok(Answer::Busy) => {
            let wait = [(header::RETRY_AFTER, RETRY_AFTER)];
            (StatusCode::SERVICE_UNAVAILABLE, wait, "the disk takes nothing").into_response()
        }
        Err(_) => gone(),
    }
}
