//! The course of a campaign: sets everything up, lets `strikes` strike, and sees to it that all is worked off at the end.
//!
//! [`run`] is all there is to call. It restarts a node or a receiver that ends by itself, as a supervisor would, and
//! counts that.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::disk::Disk;
use super::far::Receiver;
use super::finish::finish;
use super::hub::Hub;
use super::numbers::{Numbers, SIGNALS};
use super::process::{LOOK, Process, Recipe, free_address};
use super::publisher::{connect, publish};
use super::site::{Around, Site};
use super::weather::Links;
use super::{Options, Progress, Report, TortureError};
use crate::demo::DemoError;
use crate::demo::link::{Link, LinkOptions};
use crate::time::{Skew, Span, monotonic, now};

/// How long a node may take to be ready with all links up.
const READY: Duration = Duration::from_mins(1);
/// What a supervisor waits before it starts a node again.
const AGAIN: Duration = Duration::from_millis(100);
/// A node's clock is wrong by one second times two to the power of up to this: six hours.
const SKEW_MAX: f64 = 14.4;

/// A campaign under way.
pub(super) struct Campaign<'a> {
    pub(super) options: &'a Options,
    pub(super) site: Site,
    pub(super) numbers: Numbers,
    pub(super) receivers: Vec<Receiver>,
    pub(super) links: Arc<Links>,
    pub(super) report: Report,
    pub(super) progress: &'a watch::Sender<Progress>,
    pub(super) hub: Hub,
    pub(super) disk: Disk,
    pub(super) node: Process,
    /// When the clock of the running node jumps.
    jump: Duration,
    /// The mark of the broker's link when the node was started; `None` once its recovery has been noted.
    pub(super) started: Option<u64>,
    pub(super) random: Rng,
    recipe: Recipe,
    recoveries: Vec<f64>,
}

/// What sends beside it.
pub(super) struct Publisher {
    pub(super) task: JoinHandle<Result<u64, DemoError>>,
    pub(super) stop: CancellationToken,
}

/// Runs a campaign to its end, or until `stop`, and says what it came to.
pub async fn run(
    options: &Options,
    progress: &watch::Sender<Progress>,
    stop: CancellationToken,
) -> Result<Report, TortureError> {
    let began = monotonic();
    let world = CancellationToken::new();
    let _world = world.clone().drop_guard();
    let mut campaign = Campaign::start(options, progress, &world).await?;
    campaign.first_ready().await?;
    let publisher = campaign.publisher(&world).await?;
    let due = began + options.within;
    let ending = stop.clone();
    let _clock = AbortOnDropHandle::new(tokio::spawn(async move {
        tokio::time::sleep_until(due.into()).await;
        ending.cancel();
    }));
    let weather = campaign.weather(&stop);
    campaign.strike(&stop).await?;
    // The links' faults may take longer than the kills.
    let weather = AbortOnDropHandle::new(weather);
    while !weather.is_finished() {
        campaign.live(LOOK).await?;
    }
    campaign.report.cuts = campaign.progress.borrow().cuts;
    campaign.missed();
    let mut report = finish(campaign, publisher).await?;
    report.seconds = began.elapsed().as_secs_f64();
    Ok(report)
}

/// The far sides. A broker that keeps nothing for a subscriber that is away cannot lead to one.
async fn receivers(options: &Options, hub: &Hub) -> Result<Vec<Receiver>, TortureError> {
    let mut receivers = vec![Receiver::over_http(options)?];
    if let Hub::Mosquitto(_) = hub {
        receivers.push(Receiver::over_mqtt(options, hub.address()).await?);
    }
    Ok(receivers)
}

impl<'a> Campaign<'a> {
    async fn start(
        options: &'a Options,
        progress: &'a watch::Sender<Progress>,
        world: &CancellationToken,
    ) -> Result<Campaign<'a>, TortureError> {
        progress.send_modify(|p| p.doing = "setting up");
        let kind = options.broker;
        let hub = tokio::task::spawn_blocking(move || Hub::start(kind)).await;
        let hub = hub.map_err(|_| TortureError::Ended("the broker's start"))??;
        let receivers = receivers(options, &hub).await?;
        let link = async |target| Link::start(LinkOptions::to(target), world.clone()).await;
        let broker = link(hub.address()).await?;
        let mut uplinks = vec![link(receivers[0].address()).await?];
        if receivers.len() > 1 {
            uplinks.push(link(hub.address()).await?);
        }
        let mut report = Report { seed: options.seed, broker: hub.name(), ..Report::default() };
        report.complete = true;
        let disk = Disk::image(&options.folder).unwrap_or_else(|why| {
            let left = format!(
                "the store has no disk of its own, so none was filled, and power cuts are simulated: {why}"
            );
            report.not_done.push(left);
            Disk::Folder(options.folder.clone())
        });
        let io = |what| move |source| TortureError::Io { what, source };
        let site = Site::lay_out(&options.folder).map_err(io("the node's files"))?;
        let address = free_address().map_err(io("a port for the node"))?;
        let (store, library) = (disk.store(), options.onnxruntime.as_deref());
        let around = Around {
            broker: broker.addr(),
            http: uplinks[0].addr(),
            mqtt: uplinks.get(1).map(Link::addr),
            listen: address,
            store: &store,
            onnxruntime: library,
        };
        site.configure(&around).map_err(io("the node's config"))?;
        let recipe = Recipe {
            program: options.program.clone(),
            arguments: vec!["run".into(), "--config".into(), site.config().into_os_string()],
            log: site.log(),
            address,
        };
        let links = Arc::new(Links::new(broker, uplinks));
        let node = recipe.start(&[]).map_err(io("the node"))?;
        Ok(Campaign {
            options,
            site,
            numbers: Numbers::new(options.seed, now()),
            receivers,
            started: links.calm(),
            links,
            report,
            progress,
            recipe,
            hub,
            disk,
            node,
            jump: Duration::MAX,
            recoveries: Vec::new(),
            random: Rng::with_seed(options.seed),
        })
    }

    /// Its subscription has to be in force before anything is sent.
    async fn first_ready(&mut self) -> Result<(), TortureError> {
        let due = monotonic() + READY;
        while !self.node.is_ready().await {
            if monotonic() > due || self.node.has_ended() {
                let (within_s, log) = (READY.as_secs(), self.recipe.log.clone());
                return Err(TortureError::NotReady { what: "node", within_s, log });
            }
            tokio::time::sleep(LOOK).await;
        }
        self.started = None;
        Ok(())
    }

    async fn publisher(&self, world: &CancellationToken) -> Result<Publisher, TortureError> {
        let sender = connect(&format!("mqtt://{}", self.hub.address())).await?;
        let (stop, progress) = (world.child_token(), self.progress.clone());
        let acknowledged = move |count| {
            progress.send_modify(|p| p.acknowledged = count * SIGNALS as u64);
        };
        let (numbers, rate) = (self.numbers.clone(), self.options.rate);
        let task = tokio::spawn(publish(numbers, sender, rate, acknowledged, stop.clone()));
        Ok(Publisher { task, stop })
    }

    /// Disturbs the links beside everything else.
    fn weather(&self, stop: &CancellationToken) -> JoinHandle<()> {
        let (links, progress) = (Arc::clone(&self.links), self.progress.clone());
        let (count, stop) = (self.options.cuts, stop.clone());
        let random = Rng::with_seed(self.options.seed ^ 0x5eed);
        tokio::spawn(async move {
            let done = |count| progress.send_modify(|p| p.cuts = count);
            links.disturb(count, random, done, stop).await;
        })
    }

    /// Says how far it is.
    pub(super) async fn tell(&mut self) {
        let mut delivered = u64::MAX;
        for receiver in &mut self.receivers {
            delivered = delivered.min(receiver.held().await.records);
        }
        let report = &self.report;
        self.progress.send_modify(|p| {
            (p.kills, p.power_cuts, p.delivered) = (report.kills, report.power_cuts, delivered);
        });
    }

    /// Starts the node, with another wrong clock than before.
    pub(super) fn start_node(&mut self) -> Result<(), TortureError> {
        self.report.clock_jumps += 1 + u64::from(self.node.since.elapsed() > self.jump);
        let skew = self.skew();
        self.jump = skew.jump;
        let failed = |source| TortureError::Io { what: "the node", source };
        // One word, so that a minus is no flag.
        self.node = self.recipe.start(&[format!("--skewed-clock={skew}")]).map_err(failed)?;
        self.started = self.links.calm();
        Ok(())
    }

    /// From a second to hours, ahead or behind; event times are days old, so that nothing is ever ahead of the clock.
    fn skew(&mut self) -> Skew {
        let mut wrong = || {
            let size = 2_f64.powf(self.random.f64() * SKEW_MAX);
            let ahead = if self.random.bool() { size } else { -size };
            Span::millis((ahead * 1000.0) as i64)
        };
        let (first, then) = (wrong(), wrong());
        Skew { first, then, jump: Duration::from_millis(self.random.u64(..1500)) }
    }

    /// Lets everything run for a while: notes when the node has recovered, and starts again what has ended.
    pub(super) async fn live(&mut self, time: Duration) -> Result<(), TortureError> {
        let due = monotonic() + time;
        loop {
            self.receivers.iter_mut().try_for_each(Receiver::watch)?;
            if self.node.has_ended() {
                self.report.node_exits += 1;
                tokio::time::sleep(AGAIN).await;
                self.start_node()?;
            } else if self.started.is_some() && self.node.is_ready().await {
                let undisturbed = self.started.take() == self.links.calm();
                if undisturbed {
                    self.recoveries.push(self.node.since.elapsed().as_secs_f64());
                }
            }
            if monotonic() >= due {
                return Ok(());
            }
            tokio::time::sleep(LOOK.min(due - monotonic())).await;
        }
    }

    /// What was asked for and not done.
    fn missed(&mut self) {
        let (asked, done) = (self.options, &self.report);
        let counts = [
            ("kills", asked.kills, done.kills),
            ("cuts", asked.cuts, done.cuts),
            ("power cuts", asked.power_cuts, done.power_cuts),
        ];
        for (what, asked, done) in counts {
            if done < asked {
                self.report.complete = false;
                self.report.not_done.push(format!("{} of {asked} {what}", asked - done));
            }
        }
    }

    /// Takes it apart: the node, the receivers, the report, and what must outlive the node.
    pub(super) fn end(self) -> (Process, Vec<Receiver>, Report, impl Sized) {
        let mut report = self.report;
        report.recovery_max_s = self.recoveries.iter().copied().fold(0.0, f64::max);
        report.recovery_mean_s =
            self.recoveries.iter().sum::<f64>() / self.recoveries.len().max(1) as f64;
        (self.node, self.receivers, report, (self.links, self.hub, self.disk))
    }
}
