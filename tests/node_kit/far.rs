//! The far side: `receive` behind a door that can turn parcels away, behind a link that can be taken down.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing};
use forebay::demo::link::{Link, LinkOptions};
use forebay::receive::{ReceiveOptions, Receiver, kept};
use forebay::record::Record;
use forebay::time::monotonic;
use forebay::uplink::wire;
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Node;
use crate::edge::{PATIENCE, until};

type Refusals = Arc<Mutex<VecDeque<(StatusCode, Option<u64>)>>>;

pub struct Far {
    pub receiver: Receiver,
    pub link: Link,
    folder: TempDir,
    refusals: Refusals,
    _stop: DropGuard,
}

impl Far {
    pub async fn start() -> Far {
        let (stop, folder) = (CancellationToken::new(), tempfile::tempdir().unwrap());
        let options = ReceiveOptions::on_loopback(folder.path());
        let receiver = Receiver::start(options, stop.clone()).await.unwrap();
        let refusals = Refusals::default();
        let door = door(receiver.address().unwrap(), refusals.clone(), stop.clone()).await;
        let link = Link::start(LinkOptions::to(door), stop.clone()).await.unwrap();
        Far { receiver, link, folder, refusals, _stop: stop.drop_guard() }
    }

    /// Where parcels can be posted.
    pub fn url(&self) -> String {
        format!("http://{}/in", self.link.addr())
    }

    /// The uplink's part of a config.
    pub fn uplink(&self) -> String {
        let url = self.url();
        format!("[uplink]\nretry_max = \"500ms\"\n[uplink.targets.cloud.http]\nurl = \"{url}\"\n")
    }

    /// Answers the next `count` parcels with `status`, and `retry_after` seconds if given.
    pub fn refuse(&self, count: usize, status: StatusCode, retry_after: Option<u64>) {
        let refusals = std::iter::repeat_n((status, retry_after), count);
        self.refusals.lock().unwrap().extend(refusals);
    }

    /// The different records that have come.
    pub fn kept(&self) -> Vec<Record> {
        let mut records = Vec::new();
        kept(self.folder.path(), |record| records.push(record)).unwrap();
        records
    }

    /// Waits until this many different records have come, and gives them.
    pub async fn records(&self, count: usize, node: &Node) -> Vec<Record> {
        let due = monotonic() + PATIENCE;
        let has = || self.receiver.counts().records;
        until("the records arrive", || {
            assert!(monotonic() < due, "{} of {count} records came\n{}", has(), node.log());
            has() >= count as u64
        })
        .await;
        self.kept()
    }
}

/// Hands parcels on to `receiver`, but for those that are to be refused.
async fn door(receiver: SocketAddr, refusals: Refusals, stop: CancellationToken) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new()
        .fallback(routing::post(take))
        .layer(DefaultBodyLimit::max(wire::PARCEL_MAX))
        .with_state((receiver, refusals));
    tokio::spawn(stop.run_until_cancelled_owned(async { axum::serve(listener, app).await }));
    address
}

async fn take(
    State((receiver, refusals)): State<(SocketAddr, Refusals)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let refusal = refusals.lock().unwrap().pop_front();
    if let Some((status, after)) = refusal {
        let after = after.map(|seconds| [(header::RETRY_AFTER, seconds.to_string())]);
        return (status, after, ()).into_response();
    }
    let post = move || {
        let mut request = ureq::post(format!("http://{receiver}/in"));
        if let Some(encoding) = headers.get(header::CONTENT_ENCODING) {
            request = request.header(header::CONTENT_ENCODING, encoding);
        }
        request.config().http_status_as_error(false).build().send(&body[..]).unwrap().status()
    };
    tokio::task::spawn_blocking(post).await.unwrap().into_response()
}
