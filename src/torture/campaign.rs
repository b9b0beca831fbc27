//! The course of a campaign: sets everything up, strikes, and sees to it that all is worked off at the end.
//!
//! [`run`] is all there is to call. It restarts a node that ends by itself, as a supervisor would, and counts that.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::books::Books;
use super::disk::{Disk, Image};
use super::finish::finish;
use super::node::{LOOK, Node, Recipe};
use super::numbers::{Numbers, SIGNALS};
use super::publisher::{connect, publish};
use super::site::{Around, IN_FLIGHT, Site};
use super::weather::Links;
use super::{BrokerKind, Options, Progress, Report, TortureError, simulated};
use crate::demo::DemoError;
use crate::demo::broker::Broker;
use crate::demo::link::{Link, LinkOptions};
use crate::demo::mosquitto::Mosquitto;
use crate::demo::receiver::Receiver;
use crate::time::{monotonic, now};

/// How long a node may take to be ready with all links up.
pub(super) const READY: Duration = Duration::from_mins(1);
/// How long one is waited for while links fail: then it is struck as it is.
const PATIENT: Duration = Duration::from_secs(3);
/// What a supervisor waits before it starts a node again.
const AGAIN: Duration = Duration::from_millis(100);
/// Kills between two restarts of the broker, and between two full disks.
const SELDOM: u64 = 10;

/// The broker.
enum Hub {
    Mosquitto(Mosquitto),
    InProcess(Broker),
}

/// What is done to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Kill,
    RestartBroker,
    FillDisk,
    CutPower,
}

/// A campaign under way.
pub(super) struct Campaign<'a> {
    pub(super) options: &'a Options,
    pub(super) site: Site,
    pub(super) numbers: Numbers,
    pub(super) receiver: Receiver,
    pub(super) links: Arc<Links>,
    pub(super) report: Report,
    pub(super) progress: &'a watch::Sender<Progress>,
    recipe: Recipe,
    hub: Hub,
    disk: Disk,
    node: Node,
    /// The mark of the broker's link when the node was started; `None` once its recovery has been noted.
    started: Option<u64>,
    recoveries: Vec<f64>,
    random: Rng,
}

/// What runs beside it.
pub(super) struct Beside {
    pub(super) publisher: JoinHandle<Result<u64, DemoError>>,
    pub(super) books: JoinHandle<Books>,
    pub(super) stop_publisher: CancellationToken,
    pub(super) stop_books: CancellationToken,
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
    let beside = campaign.beside(&world).await?;
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
    let mut report = finish(campaign, beside).await?;
    report.seconds = began.elapsed().as_secs_f64();
    Ok(report)
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
        let receiver = Receiver::start(world.clone()).await?;
        receiver.keep(usize::MAX).await;
        let broker = Link::start(LinkOptions::to(hub.address()), world.clone()).await?;
        let uplink = Link::start(LinkOptions::to(receiver.addr()), world.clone()).await?;
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
            far: uplink.addr(),
            listen: address,
            store: &store,
            onnxruntime: library,
        };
        site.configure(&around).map_err(io("the node's config"))?;
        let recipe = Recipe {
            program: options.program.clone(),
            config: site.config(),
            log: site.log(),
            address,
        };
        let links = Arc::new(Links::new(broker, uplink));
        let node = recipe.start().map_err(io("the node"))?;
        Ok(Campaign {
            options,
            site,
            numbers: Numbers::new(options.seed, now()),
            receiver,
            started: links.calm(),
            links,
            report,
            progress,
            recipe,
            hub,
            disk,
            node,
            recoveries: Vec::new(),
            random: Rng::with_seed(options.seed),
        })
    }

    /// Its subscription has to be in force before anything is sent.
    async fn first_ready(&mut self) -> Result<(), TortureError> {
        let due = monotonic() + READY;
        while !self.node.is_ready().await {
            if monotonic() > due || self.node.has_ended() {
                let log = self.recipe.log.clone();
                return Err(TortureError::NotReady { within_s: READY.as_secs(), log });
            }
            tokio::time::sleep(LOOK).await;
        }
        self.started = None;
        Ok(())
    }

    /// Starts the publisher and whoever keeps the books.
    async fn beside(&self, world: &CancellationToken) -> Result<Beside, TortureError> {
        let sender = connect(&format!("mqtt://{}", self.hub.address())).await?;
        let (acknowledged, seen) = watch::channel(0);
        let (stop_publisher, stop_books) = (world.child_token(), world.child_token());
        let sending = publish(
            self.numbers.clone(),
            sender,
            self.options.rate,
            acknowledged,
            stop_publisher.clone(),
        );
        let (receiver, progress) = (self.receiver.clone(), self.progress.clone());
        let (mut books, stop) = (Books::new(self.numbers.clone()), stop_books.clone());
        let keeping = async move {
            let a_round = Duration::from_millis(200);
            while tokio::time::timeout(a_round, stop.cancelled()).await.is_err() {
                for record in receiver.take().await {
                    books.take(record);
                }
                let (acknowledged, delivered) = (*seen.borrow(), books.delivered());
                progress.send_modify(|p| {
                    p.acknowledged = acknowledged * SIGNALS as u64;
                    p.delivered = delivered;
                });
            }
            books
        };
        Ok(Beside {
            publisher: tokio::spawn(sending),
            books: tokio::spawn(keeping),
            stop_publisher,
            stop_books,
        })
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

    /// Everything that is done to the node, its broker and its disk, in an order that the seed decides.
    async fn strike(&mut self, stop: &CancellationToken) -> Result<(), TortureError> {
        self.progress.send_modify(|p| p.doing = "striking");
        for action in self.plan() {
            if stop.is_cancelled() {
                return Ok(());
            }
            match action {
                Action::Kill => self.kill().await?,
                Action::RestartBroker => self.restart_broker().await?,
                Action::FillDisk => self.fill_disk().await?,
                Action::CutPower => self.cut_power().await?,
            }
            self.tell();
        }
        if matches!(self.disk, Disk::Folder(_)) {
            self.simulate_power_cuts(stop).await?;
        }
        Ok(())
    }

    fn tell(&self) {
        let report = &self.report;
        self.progress.send_modify(|p| (p.kills, p.power_cuts) = (report.kills, report.power_cuts));
    }

    /// Where no disk can be cut off its power, a simulated one is: whole lives of the device, until they had so many.
    async fn simulate_power_cuts(&mut self, stop: &CancellationToken) -> Result<(), TortureError> {
        let mut seed = self.options.seed;
        while self.report.power_cuts < self.options.power_cuts && !stop.is_cancelled() {
            self.report.power_cuts_on = "a simulated store";
            let living = tokio::task::spawn_blocking(move || simulated::live(seed));
            while !living.is_finished() {
                self.live(LOOK).await?;
            }
            match living.await.map_err(|_| TortureError::Ended("the simulation"))? {
                Ok(told) => self.report.power_cuts += told.power_cuts,
                Err(why) => {
                    self.report.wrong += 1;
                    self.report.wrong_in_words.push(format!("simulated with seed {seed}: {why}"));
                    return Ok(());
                }
            }
            self.tell();
            seed += 1;
        }
        Ok(())
    }

    fn plan(&mut self) -> Vec<Action> {
        let options = self.options;
        let mut actions = vec![Action::Kill; options.kills as usize];
        let seldom = options.kills.div_ceil(SELDOM) as usize;
        match &self.hub {
            Hub::Mosquitto(_) => actions.extend(vec![Action::RestartBroker; seldom]),
            Hub::InProcess(_) => self.report.not_done.push(
                "the broker was not restarted: the one in this process keeps nothing".to_owned(),
            ),
        }
        if matches!(self.disk, Disk::Image(_)) {
            let fills = options.full_disks.map_or(seldom, |n| n as usize);
            actions.extend(vec![Action::FillDisk; fills]);
            actions.extend(vec![Action::CutPower; options.power_cuts as usize]);
        }
        self.random.shuffle(&mut actions);
        actions
    }

    /// One in five is killed while it starts, the others while they work.
    async fn kill(&mut self) -> Result<(), TortureError> {
        self.let_work().await?;
        self.node.kill();
        self.report.kills += 1;
        self.start_node()
    }

    async fn let_work(&mut self) -> Result<(), TortureError> {
        if self.random.u8(..5) == 0 {
            let a_moment = Duration::from_millis(self.random.u64(..400));
            return self.live(a_moment).await;
        }
        let due = monotonic() + PATIENT;
        while self.started.is_some() && monotonic() < due {
            self.live(LOOK).await?;
        }
        let work = Duration::from_millis(self.random.u64(30..900));
        self.live(work).await
    }

    async fn restart_broker(&mut self) -> Result<(), TortureError> {
        self.let_work().await?;
        let away = Duration::from_millis(self.random.u64(..1500));
        if let Hub::Mosquitto(broker) = &mut self.hub {
            // It ends and starts within moments; nothing else has to go on meanwhile.
            broker.stop()?;
        }
        self.live(away).await?;
        if let Hub::Mosquitto(broker) = &mut self.hub {
            broker.go()?;
        }
        self.report.broker_restarts += 1;
        Ok(())
    }

    /// Full to the last byte, or nearly: then the store has to make room.
    async fn fill_disk(&mut self) -> Result<(), TortureError> {
        self.let_work().await?;
        let left = if self.random.bool() { 0 } else { 2 << 20 };
        let lasts = Duration::from_millis(self.random.u64(200..2000));
        let killed = self.random.bool();
        let failed = |source| TortureError::Io { what: "the disk cannot be filled", source };
        self.image()?.fill(left).map_err(failed)?;
        self.live(lasts).await?;
        if killed {
            self.node.kill();
            self.start_node()?;
            self.live(lasts / 2).await?;
        }
        self.image()?.free().map_err(failed)?;
        self.report.full_disks += 1;
        Ok(())
    }

    async fn cut_power(&mut self) -> Result<(), TortureError> {
        self.let_work().await?;
        self.image()?.cut_power().map_err(TortureError::Disk)?;
        // What it does without a disk must do no harm.
        tokio::time::sleep(Duration::from_millis(self.random.u64(..200))).await;
        self.node.kill();
        self.image()?.power_up().map_err(TortureError::Disk)?;
        self.report.power_cuts += 1;
        self.report.power_cuts_on = "ext4 on a loop device";
        self.start_node()
    }

    fn image(&self) -> Result<&Image, TortureError> {
        match &self.disk {
            Disk::Image(image) => Ok(image),
            Disk::Folder(_) => Err(TortureError::Disk("it has none of its own".to_owned())),
        }
    }

    fn start_node(&mut self) -> Result<(), TortureError> {
        let failed = |source| TortureError::Io { what: "the node", source };
        self.node = self.recipe.start().map_err(failed)?;
        self.started = self.links.calm();
        Ok(())
    }

    /// Lets the node run for a while: notes when it has recovered, and starts it again where it has ended.
    pub(super) async fn live(&mut self, time: Duration) -> Result<(), TortureError> {
        let due = monotonic() + time;
        loop {
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

    /// The node, once nothing is done to it any more.
    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    /// Takes it apart: the node, the report, and what must outlive the node.
    pub(super) fn end(self) -> (Node, Report, Receiver, impl Sized) {
        let mut report = self.report;
        report.recovery_max_s = self.recoveries.iter().copied().fold(0.0, f64::max);
        report.recovery_mean_s =
            self.recoveries.iter().sum::<f64>() / self.recoveries.len().max(1) as f64;
        (self.node, report, self.receiver, (self.links, self.hub, self.disk))
    }
}

impl Hub {
    fn start(kind: Option<BrokerKind>) -> Result<Hub, TortureError> {
        if kind != Some(BrokerKind::InProcess)
            && let Some(broker) = Mosquitto::start_lasting(IN_FLIGHT)?
        {
            return Ok(Hub::Mosquitto(broker));
        }
        if kind == Some(BrokerKind::Mosquitto) {
            return Err(TortureError::NoMosquitto);
        }
        Ok(Hub::InProcess(Broker::start(None)?))
    }

    fn name(&self) -> &'static str {
        match self {
            Hub::Mosquitto(_) => "mosquitto",
            Hub::InProcess(_) => "in-process",
        }
    }

    /// Where it takes MQTT 5.
    fn address(&self) -> SocketAddr {
        let port = match self {
            Hub::Mosquitto(broker) => broker.port(),
            Hub::InProcess(broker) => broker.ports().1,
        };
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }
}

fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
