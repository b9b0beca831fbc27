//! `/api/v1/stream`: records as server-sent events, while they are made.
//!
//! Each listener has a task of its own between the hub's broadcast and its connection. A slow one is told how many
//! events it was not given, and holds nobody up. Events: `score`, `alarm`, `loss`, `status`, `skipped`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, broadcast, mpsc};
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;

use crate::feed::LiveEvent;
use crate::feed::api::{Params, Problem, RawQuery};
use crate::feed::http::App;
use crate::time;

/// Events that may wait for one connection, besides those in the hub's ring.
const WAITING: usize = 16;
/// A comment goes out when nothing else has for this long, so that a dead connection shows.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The status goes out at least this often: the page takes longer silence for a lost node.
const STATUS_EVERY: Duration = Duration::from_secs(10);
/// What a browser waits before it connects again.
const RETRY: Duration = Duration::from_secs(2);

type Sink = mpsc::Sender<Result<Event, Infallible>>;

/// What a listener wants.
#[derive(Debug)]
struct Wanted {
    pipeline: Option<String>,
    asset: Option<String>,
    kinds: Vec<String>,
    brief: bool,
}

impl Wanted {
    fn kind(&self, kind: &str) -> bool {
        self.kinds.is_empty() || self.kinds.iter().any(|k| k == kind)
    }

    fn event(&self, event: &LiveEvent) -> bool {
        let same = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|w| w == is);
        self.kind(event.kind())
            && event.subject().is_none_or(|(pipeline, asset)| {
                same(&self.pipeline, pipeline) && same(&self.asset, asset)
            })
    }
}

/// The stream. Parameters: `pipeline`, `asset`, `type` (names joined by commas), `brief=true` (without features).
pub async fn stream(
    State(app): State<App>,
    headers: HeaderMap,
    query: RawQuery,
) -> Result<Response, Problem> {
    let params = Params::new(query, &["pipeline", "asset", "type", "brief"])?;
    let kinds: Vec<String> =
        params.text("type").unwrap_or_default().split(',').map(str::to_owned).collect();
    let kinds: Vec<String> = kinds.into_iter().filter(|k| !k.is_empty()).collect();
    let known = ["score", "alarm", "loss", "status"];
    if let Some(other) = kinds.iter().find(|k| !known.contains(&k.as_str())) {
        let error = format!("unknown type `{other}`");
        return Err(Problem::new(StatusCode::BAD_REQUEST, error, known.join(", ")));
    }
    let wanted = Wanted {
        pipeline: params.text("pipeline").map(str::to_owned),
        asset: params.text("asset").map(str::to_owned),
        brief: params.flag("brief")?,
        kinds,
    };
    let place = Arc::clone(&app.streams).try_acquire_owned().map_err(|_| {
        let error = "too many streams are open";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, error, "another try when one has ended")
    })?;
    let (sink, events) = mpsc::channel(WAITING);
    let missed = headers.get("last-event-id").and_then(|id| missed_since(&app, id));
    let from = app.hub.subscribe();
    tokio::spawn(pump(app, from, wanted, missed, sink, place));
    let body = Sse::new(ReceiverStream::new(events))
        .keep_alive(KeepAlive::new().interval(HEARTBEAT).text("still here"));
    // Proxies that hold answers back would hold back every event.
    let unbuffered = (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(([unbuffered], body).into_response())
}

/// Ids are `run-number`; numbers of another run say nothing.
fn missed_since(app: &App, id: &HeaderValue) -> Option<u64> {
    let (run, seq) = id.to_str().ok()?.split_once('-')?;
    let same_run = run == app.status.borrow().started.0.to_string();
    let missed = app.hub.seq().saturating_sub(seq.parse().ok()?);
    (same_run && missed > 0).then_some(missed)
}

/// Carries events to one connection until it, the node or the hub ends.
async fn pump(
    app: App,
    events: broadcast::Receiver<Arc<LiveEvent>>,
    wanted: Wanted,
    missed: Option<u64>,
    sink: Sink,
    _place: OwnedSemaphorePermit,
) {
    let stop = app.stop.clone();
    tokio::select! {
        () = stop.cancelled() => {}
        _ = carry(app, events, wanted, missed, sink) => {}
    }
}

/// `None` when the connection or the hub has ended.
async fn carry(
    mut app: App,
    mut events: broadcast::Receiver<Arc<LiveEvent>>,
    wanted: Wanted,
    missed: Option<u64>,
    sink: Sink,
) -> Option<Infallible> {
    let run = app.status.borrow().started.0;
    send(&sink, Event::default().retry(RETRY).comment("forebay")).await?;
    if let Some(missed) = missed {
        send(&sink, skipped(missed)).await?;
    }
    let mut beat = tokio::time::interval(Duration::from_secs(1));
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told: Option<Instant> = None;
    loop {
        tokio::select! {
            () = sink.closed() => return None,
            _ = beat.tick(), if wanted.kind("status") => {
                if let Some(event) = status(&mut app, &mut told) {
                    send(&sink, event).await?;
                }
            }
            event = events.recv() => match event {
                Ok(event) if wanted.event(&event) => {
                    let json = if wanted.brief { event.brief_json() } else { event.json() };
                    let id = format!("{run}-{}", event.seq);
                    send(&sink, Event::default().event(event.kind()).id(id).data(json)).await?;
                }
                Ok(_) => {}
                Err(RecvError::Lagged(n)) => send(&sink, skipped(n)).await?,
                Err(RecvError::Closed) => return None,
            },
        }
    }
}

async fn send(sink: &Sink, event: Event) -> Option<()> {
    sink.send(Ok(event)).await.ok()
}

fn skipped(count: u64) -> Event {
    Event::default().event("skipped").data(format!("{{\"count\":{count}}}"))
}

/// The status, where it has changed or was not told for long.
fn status(app: &mut App, told: &mut Option<Instant>) -> Option<Event> {
    let now = time::monotonic();
    let due = told.is_none_or(|at| now.saturating_duration_since(at) >= STATUS_EVERY);
    if !due && !app.status.has_changed().unwrap_or(false) {
        return None;
    }
    app.status.mark_unchanged();
    *told = Some(now);
    let view = app.pulse.view(&app.status, &app.hub);
    let json = serde_json::to_string(&view).ok()?;
    Some(Event::default().event("status").data(json))
}
