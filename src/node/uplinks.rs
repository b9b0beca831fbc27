//! The uplinks of a node: one task, link and queue for each target, so that a slow or refusing one delays no other.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::NodeError;
use crate::command::quarantine::Inquiry;
use crate::config::{Config, TargetConfig, UplinkConfig};
use crate::link::{LinkStatus, SetupError};
use crate::store::{Committed, Outbox, StoreError};
use crate::uplink::{self, HttpUplink, MqttUplink, Terms, UplinkCounts};

/// A target's way out, made and checked, not started.
pub(super) struct Way {
    name: String,
    url: String,
    link: AnyUplink,
    in_flight: usize,
}

enum AnyUplink {
    Http(HttpUplink),
    Mqtt(Box<MqttUplink>),
}

/// What others see of a running uplink.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) name: String,
    /// Where to, without credentials.
    pub(super) url: String,
    pub(super) status: watch::Receiver<LinkStatus>,
    pub(super) counts: Arc<UplinkCounts>,
}

/// The names of all targets, in the order of their outboxes.
pub(super) fn names(config: &Config) -> Option<Vec<String>> {
    config.uplink.as_ref().map(|uplink| uplink.targets.keys().cloned().collect())
}

/// Makes the ways to all targets.
pub(super) fn prepare(config: &Config) -> Result<Vec<Way>, NodeError> {
    let none = BTreeMap::new();
    let targets = config.uplink.as_ref().map_or(&none, |uplink| &uplink.targets);
    let several = targets.len() > 1;
    let way = |(name, target): (&String, &TargetConfig)| {
        let link = link(name, target, &config.node, several)
            .map_err(|source| NodeError::Setup { what: "`uplink`", source })?;
        let (url, in_flight) = (target.url().to_owned(), target.in_flight());
        Ok(Way { name: name.clone(), url, link, in_flight })
    };
    targets.iter().map(way).collect()
}

fn link(
    name: &str,
    target: &TargetConfig,
    node: &str,
    several: bool,
) -> Result<AnyUplink, SetupError> {
    Ok(match target {
        TargetConfig::Http(http) => AnyUplink::Http(HttpUplink::new(http)?),
        TargetConfig::Mqtt(mqtt) => {
            // Two targets may be at one broker, which knows clients by their ids.
            let client = several.then(|| format!("forebay-{node}-uplink-{name}"));
            let mut mqtt = mqtt.clone();
            mqtt.broker.client_id = mqtt.broker.client_id.or(client);
            AnyUplink::Mqtt(Box::new(MqttUplink::new(&mqtt, node)?))
        }
    })
}

impl Way {
    /// Its target's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Starts nothing yet: gives the work, which ends after `stop`, and what others see of it.
    pub(super) fn work(
        self,
        config: &UplinkConfig,
        outbox: Outbox,
        committed: watch::Receiver<Committed>,
        inquiries: mpsc::Receiver<Inquiry>,
        stop: CancellationToken,
    ) -> (impl Future<Output = Result<(), StoreError>> + Send + use<>, Seen) {
        let (status, reader) = watch::channel(LinkStatus::Connecting);
        let counts = Arc::new(UplinkCounts::default());
        let Way { name, url, link, in_flight } = self;
        let (terms, shared) = (Terms::new(config, in_flight), Arc::clone(&counts));
        let work = async move {
            match link {
                AnyUplink::Http(http) => {
                    uplink::run(http, outbox, committed, status, shared, terms, inquiries, stop)
                        .await
                }
                AnyUplink::Mqtt(mqtt) => {
                    uplink::run(*mqtt, outbox, committed, status, shared, terms, inquiries, stop)
                        .await
                }
            }
        };
        (work, Seen { name, url, status: reader, counts })
    }
}
