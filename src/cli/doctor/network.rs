//! What `doctor` can reach: the broker on the site, and the far side of the uplink.

use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::{Finding, Health};
use crate::cli::remote::node_at;
use crate::config::address::{Address, AddressError, HTTP, MQTT};
use crate::config::{Config, MqttConfig, TargetConfig};
use crate::link::mqtt::{Dial, Event, Role};

/// Tries broker and uplink.
pub(super) fn look(config: &Config, timeout: Duration) -> Vec<Finding> {
    let mut found = vec![broker("broker", &config.mqtt, &config.node, timeout)];
    found.extend(config.feed.http.then(|| dashboards(config, timeout)));
    let targets = config.uplink.iter().flat_map(|uplink| uplink.targets.values());
    found.extend(targets.map(|target| match target {
        TargetConfig::Http(http) => http_server(&http.url, timeout),
        TargetConfig::Mqtt(target) => broker("uplink", &target.broker, &config.node, timeout),
    }));
    if config.uplink.is_none() {
        let none = "none configured: records stay in the store, within its limits";
        found.push(Finding::new("uplink", Health::Info, none));
    }
    found
}

/// Whether the node could serve its pages: the address is taken for a moment, and given back.
fn dashboards(config: &Config, timeout: Duration) -> Finding {
    let (what, address) = ("feed", &config.feed.listen);
    let Err(error) = TcpListener::bind(address) else {
        return Finding::new(what, Health::Good, format!("{address} can be listened on"));
    };
    if node_at(address, timeout).as_deref() == Some(config.node.as_str()) {
        return Finding::new(what, Health::Good, format!("{address} is served: this node runs"));
    }
    Finding::new(what, Health::Bad, format!("{address} cannot be listened on: {error}"))
        .advise("change `feed.listen`, or stop what uses the port")
}

fn http_server(url: &str, timeout: Duration) -> Finding {
    match Address::parse(url, HTTP) {
        Ok(address) => match connect(&address, timeout) {
            Ok(()) => {
                let found = format!("{}:{} takes connections", address.host, address.port);
                Finding::new("uplink", Health::Good, found)
            }
            Err(error) => unreachable("uplink", &address, &error.to_string()),
        },
        Err(error) => bad_url("uplink", &error),
    }
}

fn bad_url(what: &'static str, error: &AddressError) -> Finding {
    Finding::new(what, Health::Bad, format!("its URL cannot be used: {error}"))
}

fn unreachable(what: &'static str, address: &Address, reason: &str) -> Finding {
    let found = format!("{}:{} cannot be reached: {reason}", address.host, address.port);
    Finding::new(what, Health::Bad, found).advise(
        "check name, port, firewall, and that it runs; a node starts without it and keeps trying",
    )
}

/// First the network, then a session with the config's credentials, under an id of its own: the node that runs with
/// this config is not thrown out.
fn broker(what: &'static str, config: &MqttConfig, node: &str, timeout: Duration) -> Finding {
    let address = match Address::parse(&config.url, MQTT) {
        Ok(address) => address,
        Err(error) => return bad_url(what, &error),
    };
    if let Err(error) = connect(&address, timeout) {
        return unreachable(what, &address, &error.to_string());
    }
    let place = format!("{}:{}", address.host, address.port);
    let own = MqttConfig { client_id: None, ..config.clone() };
    match session(&own, &format!("forebay-{node}-doctor"), timeout) {
        Ok(()) => Finding::new(what, Health::Good, format!("{place} takes a session of this node")),
        Err(reason) => Finding::new(
            what,
            Health::Bad,
            format!("{place} takes connections, but no session: {reason}"),
        )
        .advise("check user, password, certificates, and what the broker allows this client"),
    }
}

/// Opens a session and closes it.
fn session(config: &MqttConfig, client_id: &str, timeout: Duration) -> Result<(), String> {
    let role = Role::Publisher { window: 1 };
    let dial = Dial::new(config, client_id, role).map_err(|e| e.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| e.to_string())?.block_on(async {
        let answer = tokio::time::timeout(timeout, open_and_close(&dial));
        answer
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", timeout.as_secs_f64())))
    })
}

async fn open_and_close(dial: &Dial) -> Result<(), String> {
    let (client, mut connection) = dial.dial_clean().await.map_err(|e| e.to_string())?;
    loop {
        if let Event::Connected { .. } = connection.poll().await.map_err(|e| e.to_string())? {
            break;
        }
    }
    client.disconnect().await;
    while let Ok(event) = connection.poll().await {
        if event == Event::Closed {
            break;
        }
    }
    Ok(())
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
