//! The broker of a campaign: Mosquitto, or the one in this process.

use std::net::{Ipv4Addr, SocketAddr};

use super::site::IN_FLIGHT;
use super::{BrokerKind, TortureError};
use crate::demo::broker::Broker;
use crate::demo::mosquitto::Mosquitto;

/// See the module.
pub(super) enum Hub {
    Mosquitto(Mosquitto),
    InProcess(Broker),
}

impl Hub {
    pub(super) fn start(kind: Option<BrokerKind>) -> Result<Hub, TortureError> {
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

    pub(super) fn name(&self) -> &'static str {
        match self {
            Hub::Mosquitto(_) => "mosquitto",
            Hub::InProcess(_) => "in-process",
        }
    }

    /// Where it takes MQTT 5.
    pub(super) fn address(&self) -> SocketAddr {
        let port = match self {
            Hub::Mosquitto(broker) => broker.port(),
            Hub::InProcess(broker) => broker.ports().1,
        };
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }
}
