//! What must hold in a config beyond its types: addresses, secrets, space, limits. Called by `load`.

mod retention;
mod uplink;

use std::path::Path;

use bytesize::ByteSize;

use super::address::{Address, MQTT};
use super::{Config, FeedConfig, ModelsConfig, MqttConfig, Secret, StoreConfig};
use crate::diagnose::nearest::nearest;
use crate::diagnose::source::shown_path;
use crate::diagnose::{Problem, Problems, Spot};
use crate::model::Runtime;
use crate::model::runtime::{RuntimeError, TRACT};
use crate::model::signature::PublicKey;
use crate::time::Span;

/// Checks a config whose paths start at its folder.
pub(super) fn check(config: &Config, root: Spot<'_>, problems: &mut Problems) {
    let mut rules = Rules { problems };
    if root.key("node").exact {
        let problem = crate::pipeline::load::name_problem(root.key("node"), "a node", &config.node);
        if let Some(problem) = problem {
            rules.tell(problem);
        }
    }
    rules.broker(root.key("mqtt"), &config.mqtt);
    rules.store(root.key("store"), &config.store);
    if let Some(uplink) = &config.uplink {
        rules.uplink(root.key("uplink"), uplink, config);
    }
    rules.feed(root.key("feed"), &config.feed);
    let library = config.onnxruntime.library.as_ref().filter(|path| path.as_os_str() != TRACT);
    if let Some(library) = library {
        let spot = root.key("onnxruntime").key("library");
        rules.file(spot, "the ONNX Runtime library", library);
        if let Err(RuntimeError::Library { reason, .. }) = Runtime::find(Some(library)) {
            let problem = Problem::error(spot, format!("this library cannot be used: {reason}"))
                .found(format!("`{}`", shown_path(library)))
                .expected("a libonnxruntime of version 1.24 or newer, \"tract\", or no `library`");
            rules.tell(problem);
        }
    }
    let threads = config.onnxruntime.threads;
    if !(1..=64).contains(&threads) {
        let problem =
            Problem::error(root.key("onnxruntime").key("threads"), "`threads` cannot be so many");
        rules.tell(problem.found(threads.to_string()).expected("1 to 64"));
    }
    rules.models(root.key("models"), &config.models);
    let limits = root.key("limits");
    rules.at_least(limits.key("assets"), "`assets`", config.limits.assets as u64, 1);
    rules.bytes(
        limits.key("message"),
        "`message`",
        config.limits.message,
        ByteSize::b(64),
        ByteSize::mib(256),
    );
}

struct Rules<'a> {
    problems: &'a mut Problems,
}

impl Rules<'_> {
    fn tell(&mut self, problem: Problem) {
        self.problems.push_unless_known(problem);
    }

    fn models(&mut self, spot: Spot<'_>, models: &ModelsConfig) {
        let least = ByteSize::kib(1);
        self.bytes(spot.key("largest"), "`largest`", models.largest, least, ByteSize::gib(4));
        if let Some(memory) = models.memory {
            let most = ByteSize::tib(1);
            self.bytes(spot.key("memory"), "`memory`", memory, ByteSize::mib(1), most);
        }
        for key in &models.keys {
            if let Err(expected) = key.parse::<PublicKey>() {
                let problem = Problem::error(spot.key("keys"), "this is no public key");
                self.tell(problem.found(format!("`{key}`")).expected(expected));
            }
        }
        if models.require_signature && models.keys.is_empty() {
            let problem = Problem::error(
                spot.key("require_signature"),
                "no model could ever be used: there is no key whose signature is believed",
            );
            self.tell(problem.expected("`keys`, beside it"));
        }
        let rollout = spot.key("rollout");
        let policy = &models.rollout;
        let shares = [
            ("canary_share", policy.canary_share),
            ("most_unanswered", policy.most_unanswered),
            ("most_more_alarms", policy.most_more_alarms),
            ("most_fewer_alarms", policy.most_fewer_alarms),
        ];
        for (name, share) in shares {
            if !(0.0..=1.0).contains(&share) {
                let problem = Problem::error(rollout.key(name), format!("`{name}` is a share"));
                self.tell(problem.found(share.to_string()).expected("0.0 to 1.0"));
            }
        }
        let times = policy.most_times_slower;
        if !(1.0..=1e6).contains(&times) {
            let spot = rollout.key("most_times_slower");
            let problem = Problem::error(spot, "`most_times_slower` cannot be so");
            self.tell(problem.found(times.to_string()).expected("1.0 or more"));
        }
    }

    fn at_least(&mut self, spot: Spot<'_>, name: &str, value: u64, least: u64) {
        if value < least {
            let problem = Problem::error(spot, format!("{name} is too small"));
            self.tell(problem.found(value.to_string()).expected(format!("at least {least}")));
        }
    }

    fn bytes(
        &mut self,
        spot: Spot<'_>,
        name: &str,
        value: ByteSize,
        least: ByteSize,
        most: ByteSize,
    ) {
        if value < least || value > most {
            let what = if value < least { "small" } else { "large" };
            let problem = Problem::error(spot, format!("{name} is too {what}"));
            self.tell(problem.found(value.to_string()).expected(format!("{least} to {most}")));
        }
    }

    fn between(&mut self, spot: Spot<'_>, name: &str, value: Span, least: Span, most: Span) {
        if value < least || value > most {
            let what = if value < least { "short" } else { "long" };
            let problem = Problem::error(spot, format!("{name} is too {what}"));
            self.tell(problem.found(value.to_string()).expected(format!("{least} to {most}")));
        }
    }

    fn file(&mut self, spot: Spot<'_>, what: &str, path: &Path) {
        let reason = match std::fs::metadata(path) {
            Ok(meta) if meta.is_file() => return,
            Ok(_) => "it is a folder".to_owned(),
            Err(error) => crate::diagnose::source::io_reason(&error),
        };
        let problem = Problem::error(spot, format!("{what} cannot be read"))
            .found(format!("`{}`: {reason}", shown_path(path)))
            .expected("a file; relative paths start at the config file");
        self.tell(problem);
    }

    /// A secret may come later than its config (a service manager sets it), so this is a warning.
    fn secret(&mut self, spot: Spot<'_>, name: &str, secret: &Secret) {
        let problem = match secret {
            Secret::Env(variable) if std::env::var_os(variable).is_some() => return,
            Secret::File(path) if path.is_file() => return,
            Secret::Env(variable) => Problem::warning(
                spot.key("env"),
                format!("environment variable `{variable}` is not set here"),
            )
            .found(format!("no `{variable}`"))
            .expected(format!("the {name}, set where the node runs")),
            Secret::File(path) => {
                Problem::warning(spot.key("file"), format!("the file of the {name} is not here"))
                    .found(format!("no file {}", shown_path(path)))
                    .expected(format!("a file that holds the {name}, where the node runs"))
            }
        };
        self.tell(problem);
    }

    fn address(&mut self, spot: Spot<'_>, url: &str, schemes: &[(&str, u16)]) -> Option<Address> {
        let error = match Address::parse(url, schemes) {
            Ok(address) => return Some(address),
            Err(error) => error,
        };
        let (scheme, port) = schemes.first().copied().unwrap_or_default();
        let written = url.split_once("://").map(|(s, _)| s);
        let other = match written {
            Some("tcp" | "ssl" | "tls" | "ws" | "wss") | None => Some(scheme),
            Some(other) => nearest(other, schemes.iter().map(|(s, _)| *s)),
        };
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let good =
            other.map(|s| format!("{s}://{rest}")).filter(|u| Address::parse(u, schemes).is_ok());
        let problem = Problem::error(spot, format!("this URL cannot be used: {error}"))
            .found(if url.contains('@') { "a URL with `@`".into() } else { format!("`{url}`") })
            .expected(format!(
                "{scheme}://host:{port} or {scheme}s://host:{}",
                schemes.last().map_or(port, |s| s.1)
            ))
            .suggest_nearest(good.map(|u| format!("\"{u}\"")));
        self.tell(problem);
        None
    }

    fn broker(&mut self, spot: Spot<'_>, mqtt: &MqttConfig) {
        let address = self.address(spot.key("url"), &mqtt.url, MQTT);
        if mqtt.keep_alive < Span::seconds(5) {
            let problem = Problem::error(
                spot.key("keep_alive"),
                "an idle connection is proved alive at most every 5 seconds",
            )
            .found(mqtt.keep_alive.to_string())
            .expected("at least 5s")
            .suggest("\"30s\"");
            self.tell(problem);
        }
        self.between(
            spot.key("keep_alive"),
            "`keep_alive`",
            mqtt.keep_alive,
            Span::ZERO,
            Span::seconds(65_535),
        );
        self.at_least(spot.key("in_flight"), "`in_flight`", u64::from(mqtt.in_flight), 1);
        let secrets = [("user", "user name", &mqtt.user), ("password", "password", &mqtt.password)];
        for (key, name, secret) in secrets {
            if let Some(secret) = secret {
                self.secret(spot.key(key), name, secret);
            }
        }
        if mqtt.password.is_some() && mqtt.user.is_none() {
            let problem = Problem::error(spot.key("password"), "a password needs a user");
            self.tell(problem.found("`password` without `user`").expected("`user` too"));
        }
        if mqtt.client_id.as_ref().is_some_and(String::is_empty) {
            let problem = Problem::error(spot.key("client_id"), "a client needs an id");
            self.tell(
                problem
                    .found("an empty text")
                    .expected("an id that no other client of this broker has, or no `client_id`"),
            );
        }
        self.tls(spot, mqtt, address.as_ref());
        if let Some(address) =
            address.filter(|a| mqtt.password.is_some() && !a.encrypted() && !a.loopback())
        {
            let problem =
                Problem::warning(spot.key("url"), "the password crosses the network in the clear")
                    .found("`mqtt://`")
                    .expected("`mqtts://`, if the broker has it")
                    .suggest(format!("\"mqtts://{}:8883\"", address.host));
            self.tell(problem);
        }
    }

    fn tls(&mut self, spot: Spot<'_>, mqtt: &MqttConfig, address: Option<&Address>) {
        let files = [
            ("ca", "the certificate authority", &mqtt.ca),
            ("certificate", "the certificate", &mqtt.certificate),
            ("key", "the private key", &mqtt.key),
        ];
        for (key, what, path) in files {
            let Some(path) = path else { continue };
            self.file(spot.key(key), what, path);
            if address.is_some_and(|a| !a.encrypted()) {
                let problem = Problem::warning(
                    spot.key(key),
                    format!("`{key}` has no effect: the connection is not encrypted"),
                )
                .found("a URL with `mqtt://`")
                .expected("`mqtts://`");
                self.tell(problem);
            }
        }
        for (key, other, lacks) in [
            ("certificate", "key", mqtt.key.is_none()),
            ("key", "certificate", mqtt.certificate.is_none()),
        ] {
            if spot.key(key).exact && lacks {
                let problem = Problem::error(
                    spot.key(key),
                    format!("`{key}` needs `{other}`: they are used together"),
                );
                self.tell(
                    problem
                        .found(format!("no `{other}`"))
                        .expected(format!("`{other}`, a PEM file")),
                );
            }
        }
    }

    fn store(&mut self, spot: Spot<'_>, store: &StoreConfig) {
        self.between(spot.key("tick"), "`tick`", store.tick, Span::millis(1), Span::seconds(60));
        self.at_least(spot.key("tick_readings"), "`tick_readings`", store.tick_readings as u64, 1);
        self.between(
            spot.key("checkpoint_every"),
            "`checkpoint_every`",
            store.checkpoint_every,
            store.tick,
            Span::seconds(3600),
        );
        self.between(
            spot.key("sync_every"),
            "`sync_every`",
            store.sync_every,
            Span::millis(10),
            Span::seconds(60),
        );
        self.retention(spot, store);
        let lanes = [
            ("alarm_limit", store.alarm_limit),
            ("score_limit", store.score_limit),
            ("feature_limit", store.feature_limit),
            ("raw_limit", store.raw_limit),
        ];
        for (key, limit) in lanes {
            self.bytes(
                spot.key(key),
                &format!("`{key}`"),
                limit,
                ByteSize::kib(64),
                ByteSize::tib(1),
            );
        }
        let wanted =
            lanes.iter().map(|(_, limit)| limit.as_u64()).sum::<u64>() + store.free_floor.as_u64();
        if store.path.is_file() {
            let problem = Problem::error(spot.key("path"), "the store is a folder");
            self.tell(
                problem
                    .found(format!("the file {}", shown_path(&store.path)))
                    .expected("a folder, which may be new"),
            );
            return;
        }
        let Some(free) = super::space::free_for(&store.path) else { return };
        let used = super::space::used_by(&store.path);
        if wanted > free + used {
            let largest =
                lanes.iter().max_by_key(|(_, limit)| *limit).map_or("score_limit", |(key, _)| key);
            // A node that has a store must start, however full the disk has become: only then can it make room.
            let of = if used > 0 { Problem::warning } else { Problem::error };
            let problem = of(spot.key(largest), "the store's limits do not fit on its disk")
                .found(format!("{} for all lanes and `free_floor` together", ByteSize::b(wanted)))
                .expected(format!(
                    "at most {}, which is what is free at {}",
                    ByteSize::b(free + used),
                    shown_path(&store.path)
                ));
            self.tell(problem);
        }
    }

    fn feed(&mut self, spot: Spot<'_>, feed: &FeedConfig) {
        self.topic(spot.key("topic"), &feed.topic, &uplink::RECORD_NAMES);
        self.at_least(spot.key("history"), "`history`", feed.history as u64, 1);
        let is_name = |host: &str| !host.is_empty() && !host.contains(['/', '*', '@', ' ']);
        if let Some(host) = feed.hosts.iter().find(|host| !is_name(host)) {
            let problem = Problem::error(spot.key("hosts"), "this is not the name of a host");
            let expected =
                "a name as browsers show it, like \"gateway-1.plant\", with its port or without";
            self.tell(problem.found(format!("`{host}`")).expected(expected));
        }
        if feed.mqtt_commands && !feed.mqtt {
            let problem = Problem::error(
                spot.key("mqtt_commands"),
                "commands from the broker are answered by the MQTT feed, which is off",
            );
            self.tell(problem.found("`mqtt = false`").expected("`mqtt = true`"));
        }
        let listen = spot.key("listen");
        let host = feed
            .listen
            .rsplit_once(':')
            .filter(|(_, port)| port.parse::<u16>().is_ok())
            .map(|(host, _)| host);
        let ip = feed.listen.parse::<std::net::SocketAddr>().map(|a| a.ip());
        match (ip, host) {
            (Ok(ip), _) if ip.is_loopback() => {}
            (Err(_), Some("localhost")) => {}
            (Ok(ip), _) => {
                let open = if feed.takes_commands() {
                    "anyone who reaches this address sees the plant and acknowledges its alarms: there is no password"
                } else {
                    "anyone who reaches this address sees the plant: there is no password"
                };
                let problem = Problem::warning(listen, open)
                    .found(format!("`{ip}`"))
                    .expected("127.0.0.1, with a proxy that asks who it is");
                self.tell(problem);
            }
            (Err(_), _) => {
                let port = feed.listen.trim_start_matches(':').parse::<u16>().ok();
                let bare = feed.listen.parse::<std::net::IpAddr>().ok();
                let good = port
                    .map(|p| format!("\"127.0.0.1:{p}\""))
                    .or(bare.map(|ip| format!("\"{}\"", std::net::SocketAddr::new(ip, 8080))));
                let problem = Problem::error(listen, "this is not an address to listen on")
                    .found(format!("`{}`", feed.listen))
                    .expected("an IP address and a port, like \"127.0.0.1:8080\"")
                    .suggest_nearest(good);
                self.tell(problem);
            }
        }
    }
}
