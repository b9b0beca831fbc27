//! What goes wrong on the node's links: resets, cuts, delays, throttles, and connections that are open on one side only.
//!
//! `campaign` runs it as a task. Which faults, on which link and for how long, comes from the seed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use tokio_util::sync::CancellationToken;

use crate::demo::link::{Link, Weather};

/// The node's links.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) broker: Link,
    /// One a target.
    pub(super) uplinks: Vec<Link>,
    /// Odd while something is wrong with the broker's link, or was changed since.
    disturbances: AtomicU64,
}

/// A fault of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Down for a while: open connections are reset, new ones refused.
    Reset,
    /// All connections are reset, new ones are welcome.
    Cut,
    Delay,
    Throttle,
    /// What is sent there is swallowed for a while.
    SilentThere,
    /// What comes back is swallowed for a while: the far side has acted, and nobody learns of it.
    SilentBack,
}

impl Fault {
    const ALL: [Fault; 6] = [
        Fault::Reset,
        Fault::Cut,
        Fault::Delay,
        Fault::Throttle,
        Fault::SilentThere,
        Fault::SilentBack,
    ];

    fn weather(self, random: &mut Rng) -> Weather {
        let fair = Weather::default();
        match self {
            Fault::Delay => Weather { latency: Duration::from_millis(random.u64(20..400)), ..fair },
            Fault::Throttle => Weather { bytes_per_s: Some(random.u64(2_000..30_000)), ..fair },
            Fault::SilentThere => Weather { silent_there: true, ..fair },
            Fault::SilentBack => Weather { silent_back: true, ..fair },
            Fault::Reset | Fault::Cut => fair,
        }
    }
}

impl Links {
    pub(super) fn new(broker: Link, uplinks: Vec<Link>) -> Links {
        Links { broker, uplinks, disturbances: AtomicU64::new(0) }
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &Link> {
        std::iter::once(&self.broker).chain(&self.uplinks)
    }

    /// A mark that stays the same as long as the broker's link is left alone; `None` while it is not.
    pub(super) fn calm(&self) -> Option<u64> {
        Some(self.disturbances.load(Ordering::Relaxed)).filter(|n| n.is_multiple_of(2))
    }

    /// Disturbs the links `count` times, or until `stop`; says after each how many that were.
    pub(super) async fn disturb(
        &self,
        count: u64,
        mut random: Rng,
        done: impl Fn(u64),
        stop: CancellationToken,
    ) {
        for number in 1..=count {
            let wait = Duration::from_millis(random.u64(50..700));
            if tokio::time::timeout(wait, stop.cancelled()).await.is_ok() {
                break;
            }
            let at_broker = random.bool();
            let uplink = &self.uplinks[random.usize(..self.uplinks.len())];
            let link = if at_broker { &self.broker } else { uplink };
            self.disturbances.fetch_add(u64::from(at_broker), Ordering::Relaxed);
            self.strike(link, &mut random, &stop).await;
            self.disturbances.fetch_add(u64::from(at_broker), Ordering::Relaxed);
            done(number);
        }
    }

    async fn strike(&self, link: &Link, random: &mut Rng, stop: &CancellationToken) {
        let fault = Fault::ALL[random.usize(..Fault::ALL.len())];
        let lasts = Duration::from_millis(random.u64(50..1500));
        match fault {
            Fault::Reset => link.set_up(false).await,
            Fault::Cut => return link.cut().await,
            _ => link.set_weather(fault.weather(random)),
        }
        // It ends early where the campaign does.
        let _ = tokio::time::timeout(lasts, stop.cancelled()).await;
        link.set_up(true).await;
        // Some connections come to life again with what was swallowed, some have been forgotten on the way.
        if matches!(fault, Fault::SilentThere | Fault::SilentBack) && random.bool() {
            link.cut().await;
        }
        link.set_weather(Weather::default());
    }
}
