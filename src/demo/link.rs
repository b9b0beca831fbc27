//! The backhaul, simulated: a TCP proxy on loopback that goes down and comes back.
//!
//! `cli/demo` puts it between uplink and receiver; `torture` and tests put it before brokers too. While it is down, open
//! connections have been cut and new ones are reset at once. While it is up it has [`Weather`]: it may be slow, or
//! swallow what is sent without a word. It promises that its counters say what it did; it does not look into what it
//! carries.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::DemoError;
use crate::time::{Span, monotonic};

/// Chunks on the way of one connection, each way.
const ON_THE_WAY_MAX: usize = 256;

/// A time without a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// When it begins, from the link's start.
    pub after: Span,
    /// How long it lasts.
    pub lasts: Span,
}

/// How the link behaves.
#[derive(Clone, Debug)]
pub struct LinkOptions {
    /// What it leads to.
    pub target: SocketAddr,
    /// When it is down: in order, without overlap.
    pub outages: Vec<Outage>,
}

impl LinkOptions {
    /// A link that is up and fast.
    pub fn to(target: SocketAddr) -> LinkOptions {
        LinkOptions { target, outages: Vec::new() }
    }
}

/// How a link that is up behaves just now. The default is fair: fast, and nothing is held back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// How long what has left is on its way, each way.
    pub latency: Duration,
    /// Most bytes a second, each way, of all connections together.
    pub bytes_per_s: Option<u64>,
    /// What goes to the target is held back, and nobody is told: the connection is open on one side only.
    pub silent_there: bool,
    /// What comes back from the target is held back: it has acted, and whoever asked does not learn of it.
    pub silent_back: bool,
}

/// Outages of a demo of `duration`: two, over by 75 % of it, so that the backlog has time to leave. A demo without an
/// end has one of 40 s in every three minutes, for a day.
pub fn outages_of_demo(duration: Option<Span>) -> Vec<Outage> {
    let outage = |after: i64, lasts: i64| Outage { after: Span(after), lasts: Span(lasts) };
    match duration {
        Some(Span(d)) => {
            vec![outage(d / 100 * 22, d / 100 * 18), outage(d / 100 * 60, d / 100 * 12)]
        }
        None => (0..480).map(|n| outage((60 + n * 180) * 1_000_000, 40_000_000)).collect(),
    }
}

/// What the link has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkState {
    /// Whether it is up.
    pub up: bool,
    /// How often it went down.
    pub outages: u64,
    /// Connections that it carried.
    pub carried: u64,
    /// Connections that it cut.
    pub cut: u64,
    /// Connections that it refused while down.
    pub refused: u64,
    /// Connections that it could not carry because the target did not answer.
    pub unreachable: u64,
}

/// A running link; it ends with its [`CancellationToken`].
#[derive(Debug)]
pub struct Link {
    addr: SocketAddr,
    state: watch::Receiver<LinkState>,
    switch: mpsc::Sender<Switch>,
    weather: watch::Sender<Weather>,
}

/// What is done to a link by hand.
#[derive(Clone, Copy, Debug)]
enum Switch {
    Up(bool),
    Cut,
}

impl Link {
    /// Opens a port on loopback and starts carrying.
    pub async fn start(options: LinkOptions, stop: CancellationToken) -> Result<Link, DemoError> {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listen = |source| DemoError::Listen { what: "link", addr: addr.to_string(), source };
        let listener = TcpListener::bind(addr).await.map_err(listen)?;
        let addr = listener.local_addr().map_err(listen)?;
        let (tx, state) = watch::channel(LinkState { up: true, ..LinkState::default() });
        let (switch, switched) = mpsc::channel(4);
        let (weather, forecast) = watch::channel(Weather::default());
        let carrier = Carrier {
            period: stop.child_token(),
            began: monotonic(),
            ended: mpsc::channel(256),
            state: tx,
            weather: forecast,
            lanes: [Lane::new(), Lane::new()],
            options,
            stop,
        };
        tokio::spawn(carrier.run(listener, switched));
        Ok(Link { addr, state, switch, weather })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it has done so far.
    pub fn state(&self) -> LinkState {
        *self.state.borrow()
    }

    /// To wait for changes.
    pub fn watch(&self) -> watch::Receiver<LinkState> {
        self.state.clone()
    }

    /// Takes the link down or up by hand; returns once it is so.
    pub async fn set_up(&self, up: bool) {
        let mut state = self.state.clone();
        if self.switch.send(Switch::Up(up)).await.is_ok() {
            // An error means that the link has been stopped: it is down for good.
            let _ = state.wait_for(|state| state.up == up).await;
        }
    }

    /// Resets the connections that are open; new ones are carried.
    pub async fn cut(&self) {
        // An error means that the link has been stopped, and its connections with it.
        let _ = self.switch.send(Switch::Cut).await;
    }

    /// Changes the weather, for open connections too.
    pub fn set_weather(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

/// How a carried connection ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    Cut,
    Unreachable,
}

/// The task behind a [`Link`].
struct Carrier {
    options: LinkOptions,
    state: watch::Sender<LinkState>,
    /// Cancelled when the link goes down; a new one when it comes back.
    period: CancellationToken,
    stop: CancellationToken,
    began: Instant,
    ended: (mpsc::Sender<End>, mpsc::Receiver<End>),
    weather: watch::Receiver<Weather>,
    /// To the target, and back.
    lanes: [Arc<Lane>; 2],
}

impl Carrier {
    async fn run(mut self, listener: TcpListener, mut switched: mpsc::Receiver<Switch>) {
        let mut changes = Vec::new();
        for outage in &self.options.outages {
            changes.push((outage.after.to_std(), false));
            changes.push((outage.after.to_std() + outage.lasts.to_std(), true));
        }
        let mut changes = changes.into_iter().peekable();
        loop {
            let next = changes.peek().map(|(after, _)| self.began + *after);
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = wait_until(next) => {
                    if let Some((_, up)) = changes.next() {
                        self.switch(up);
                    }
                }
                Some(switch) = switched.recv() => match switch {
                    Switch::Up(up) => self.switch(up),
                    Switch::Cut => self.cut(),
                },
                Some(end) = self.ended.1.recv() => self.count(end),
                Ok((client, _)) = listener.accept() => self.take(client),
            }
        }
    }

    fn switch(&mut self, up: bool) {
        if self.state.borrow().up == up {
            return;
        }
        if up {
            self.period = self.stop.child_token();
        } else {
            self.period.cancel();
        }
        self.state.send_modify(|state| {
            state.up = up;
            state.outages += u64::from(!up);
        });
    }

    fn cut(&mut self) {
        if self.state.borrow().up {
            std::mem::replace(&mut self.period, self.stop.child_token()).cancel();
        }
    }

    fn count(&self, end: End) {
        self.state.send_modify(|state| match end {
            End::Closed => {}
            End::Cut => state.cut += 1,
            End::Unreachable => state.unreachable += 1,
        });
    }

    fn take(&self, client: TcpStream) {
        if !self.state.borrow().up {
            reset(&client);
            self.state.send_modify(|state| state.refused += 1);
            return;
        }
        self.state.send_modify(|state| state.carried += 1);
        let target = self.options.target;
        let (period, ended) = (self.period.clone(), self.ended.0.clone());
        let (weather, lanes) = (self.weather.clone(), self.lanes.clone());
        tokio::spawn(async move {
            let end = carry(client, target, &weather, &lanes, &period).await;
            // The carrier may be gone: then nobody counts any more.
            let _ = ended.send(end).await;
        });
    }
}

async fn wait_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}

/// The peer sees a reset, not an orderly end: as when the radio is gone and a middle box answers.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

async fn carry(
    mut client: TcpStream,
    target: SocketAddr,
    weather: &watch::Receiver<Weather>,
    [lane_there, lane_back]: &[Arc<Lane>; 2],
    period: &CancellationToken,
) -> End {
    let connect = tokio::select! {
        () = period.cancelled() => { reset(&client); return End::Cut; }
        connected = TcpStream::connect(target) => connected,
    };
    let Ok(mut target) = connect else {
        reset(&client);
        return End::Unreachable;
    };
    let _ = (client.set_nodelay(true), target.set_nodelay(true));
    let end = {
        let (client_in, client_out) = client.split();
        let (target_in, target_out) = target.split();
        let (w, from, to) = (weather.clone(), client_in, target_out);
        let there = forward(from, to, w, |w| w.silent_there, lane_there);
        let (w, from, to) = (weather.clone(), target_in, client_out);
        let back = forward(from, to, w, |w| w.silent_back, lane_back);
        tokio::select! {
            () = period.cancelled() => End::Cut,
            _ = async { tokio::join!(there, back) } => End::Closed,
        }
    };
    if end == End::Cut {
        reset(&client);
        reset(&target);
    }
    end
}

/// One way of the link, shared by all connections.
#[derive(Debug)]
struct Lane {
    began: Instant,
    /// When what was sent so far will have left, in microseconds from `began`.
    busy_until: AtomicU64,
}

impl Lane {
    fn new() -> Arc<Lane> {
        Arc::new(Lane { began: monotonic(), busy_until: AtomicU64::new(0) })
    }

    /// When so many bytes have left, behind all that was sent before them.
    fn leave(&self, bytes: usize, bytes_per_s: Option<u64>) -> Instant {
        let now = self.began.elapsed().as_micros() as u64;
        let Some(rate) = bytes_per_s else { return self.began + Duration::from_micros(now) };
        let takes = bytes as u64 * 1_000_000 / rate.max(1);
        let after = |until: u64| until.max(now) + takes;
        let before = self
            .busy_until
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| Some(after(until)));
        self.began + Duration::from_micros(after(before.unwrap_or_else(|until| until)))
    }
}

/// Copies one way until either end closes. What has left is on its way for the latency, however much follows it.
async fn forward<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    mut from: R,
    mut to: W,
    mut weather: watch::Receiver<Weather>,
    silent: impl Fn(&Weather) -> bool,
    lane: &Lane,
) {
    let (departed, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY_MAX);
    let there = async move {
        let mut chunk = vec![0; 16 * 1024];
        while let Ok(read) = from.read(&mut chunk).await {
            // An error means that the link is gone: then so is this connection.
            let Ok(now) = weather.wait_for(|w| !silent(w)).await.map(|w| *w) else { return };
            let left = lane.leave(read, now.bytes_per_s);
            tokio::time::sleep_until(left.into()).await;
            let arrives = (left + now.latency, chunk[..read].to_vec());
            if departed.send(arrives).await.is_err() || read == 0 {
                return;
            }
        }
    };
    let back = async move {
        while let Some((when, chunk)) = arriving.recv().await {
            tokio::time::sleep_until(when.into()).await;
            if to.write_all(&chunk).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(there, back);
}
