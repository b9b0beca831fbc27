//! What is done to the node, its broker, its disk and its receivers, in an order that the seed decides.
//!
//! `campaign` calls [`Campaign::strike`]; the links have their own (`weather`).

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::campaign::Campaign;
use super::disk::{Disk, Image};
use super::hub::Hub;
use super::process::LOOK;
use super::{TortureError, simulated};
use crate::time::monotonic;

/// How long a node is waited for while links fail: then it is struck as it is.
const PATIENT: Duration = Duration::from_secs(3);
/// Kills between two restarts of the broker, two kills of a receiver, and two full disks.
const SELDOM: u64 = 10;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Kill,
    KillReceiver,
    RestartBroker,
    FillDisk,
    CutPower,
}

impl Campaign<'_> {
    /// All of it, or until `stop`.
    pub(super) async fn strike(&mut self, stop: &CancellationToken) -> Result<(), TortureError> {
        self.progress.send_modify(|p| p.doing = "striking");
        for action in self.plan() {
            if stop.is_cancelled() {
                return Ok(());
            }
            self.let_work().await?;
            match action {
                Action::Kill => {
                    self.node.kill();
                    self.report.kills += 1;
                    self.start_node()?;
                }
                Action::KillReceiver => self.kill_receiver().await?,
                Action::RestartBroker => self.restart_broker().await?,
                Action::FillDisk => self.fill_disk().await?,
                Action::CutPower => self.cut_power().await?,
            }
            self.tell().await;
        }
        if matches!(self.disk, Disk::Folder(_)) {
            self.simulate_power_cuts(stop).await?;
        }
        Ok(())
    }

    fn plan(&mut self) -> Vec<Action> {
        let options = self.options;
        let mut actions = vec![Action::Kill; options.kills as usize];
        let seldom = options.kills.div_ceil(SELDOM) as usize;
        actions.extend(vec![Action::KillReceiver; seldom]);
        match &self.hub {
            Hub::Mosquitto(_) => actions.extend(vec![Action::RestartBroker; seldom]),
            Hub::InProcess(_) => self.report.not_done.push(
                "the broker was not restarted, and led to no receiver: the one in this process keeps nothing"
                    .to_owned(),
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

    /// One strike in five finds the node starting, the others find it at work.
    async fn let_work(&mut self) -> Result<(), TortureError> {
        if self.random.u8(..5) == 0 {
            let a_moment = Duration::from_millis(self.random.u64(..400));
            return self.live(a_moment).await;
        }
        let due = monotonic() + PATIENT;
        while self.started.is_some() && monotonic() < due {
            self.live(LOOK).await?;
        }
        let work = Duration::from_millis(self.random.u64(30..500));
        self.live(work).await
    }

    async fn kill_receiver(&mut self) -> Result<(), TortureError> {
        let which = self.random.usize(..self.receivers.len());
        let away = Duration::from_millis(self.random.u64(..1500));
        self.receivers[which].kill().await;
        self.report.receiver_kills += 1;
        self.live(away).await?;
        self.receivers[which].go()
    }

    async fn restart_broker(&mut self) -> Result<(), TortureError> {
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
        self.image()?.cut_power().map_err(TortureError::Disk)?;
        // What it does without a disk must do no harm.
        tokio::time::sleep(Duration::from_millis(self.random.u64(..200))).await;
        self.node.kill();
        self.image()?.power_up().map_err(TortureError::Disk)?;
        self.report.power_cuts += 1;
        self.report.power_cuts_on = "ext4 on a loop device";
        self.start_node()
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
            self.tell().await;
            seed += 1;
        }
        Ok(())
    }

    fn image(&self) -> Result<&Image, TortureError> {
        match &self.disk {
            Disk::Image(image) => Ok(image),
            Disk::Folder(_) => Err(TortureError::Disk("it has none of its own".to_owned())),
        }
    }
}
