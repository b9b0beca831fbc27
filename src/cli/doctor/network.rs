//! What `doctor` can reach: the broker on the site, and the far side of the uplink.

use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::{Finding, Health};
use crate::config::address::{Address, HTTP, MQTT};
use crate::config::{Config, TargetConfig};

/// Tries broker and uplink.
pub(super) fn look(config: &Config, timeout: Duration) -> Vec<Finding> {
    let mut all = vec![reach("broker", &config.mqtt.url, MQTT, timeout)];
    all.push(match config.uplink.as_ref().map(|u| &u.target) {
        Some(TargetConfig::Http(http)) => reach("uplink", &http.url, HTTP, timeout),
        Some(TargetConfig::Mqtt(target)) => reach("uplink", &target.broker.url, MQTT, timeout),
        None => Finding::new(
            "uplink",
            Health::Info,
            "none configured: records stay in the store, within its limits",
        ),
    });
    all
}

fn reach(what: &'static str, url: &str, schemes: &[(&str, u16)], timeout: Duration) -> Finding {
    let address = match Address::parse(url, schemes) {
        Ok(address) => address,
        Err(error) => {
            return Finding::new(what, Health::Bad, format!("its URL cannot be used: {error}"));
        }
    };
    let place = format!("{}:{}", address.host, address.port);
    match connect(&address, timeout) {
        Ok(()) => Finding::new(what, Health::Good, format!("{place} takes connections")),
        Err(error) => Finding::new(what, Health::Bad, format!("{place} cannot be reached: {error}"))
            .advise("check name, port, firewall, and that it runs; a node starts without it and keeps trying"),
    }
}

fn connect(address: &Address, timeout: Duration) -> std::io::Result<()> {
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    for place in (address.host.as_str(), address.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&place, timeout) {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}
