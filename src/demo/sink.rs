//! A far side that takes every parcel and keeps nothing: `bench` sends to it, so that the disk is the node's alone.
//! Who wants to know what came uses `receive`.

use std::net::{Ipv4Addr, SocketAddr};

use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::{Router, routing};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::DemoError;
use crate::uplink::wire;

/// Answers whatever is posted to any path with 204 until `stop`; gives the address.
pub async fn start(stop: CancellationToken) -> Result<SocketAddr, DemoError> {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let failed = |source| DemoError::Listen { what: "sink", addr: addr.to_string(), source };
    let listener = TcpListener::bind(addr).await.map_err(failed)?;
    let addr = listener.local_addr().map_err(failed)?;
    let app = Router::new()
        .fallback(routing::post(|_: Bytes| async { StatusCode::NO_CONTENT }))
        .layer(DefaultBodyLimit::max(wire::PARCEL_MAX));
    // The accept loop ends with the token; connections still open end with the runtime.
    tokio::spawn(stop.run_until_cancelled_owned(async { axum::serve(listener, app).await }));
    Ok(addr)
}
