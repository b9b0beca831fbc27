//! What must hold of the uplink's settings, and of topics. Called by `rules`.

use bytesize::ByteSize;

use super::Rules;
use crate::config::address::{Address, HTTP, MQTT};
use crate::config::{
    Config, HttpConfig, LaneBudgetConfig, MqttConfig, MqttEncoding, TargetConfig, UplinkConfig,
    UplinkMqttConfig,
};
use crate::diagnose::nearest::{list, nearest};
use crate::diagnose::{Problem, Spot};
use crate::time::Span;

/// Most parcels on the way of a target: each takes memory, and over HTTP a connection.
const IN_FLIGHT_MAX: usize = 32;
/// Names in a topic of the feed.
pub(super) const RECORD_NAMES: [&str; 4] = ["node", "pipeline", "asset", "type"];
/// Names in a topic of a record to a target.
const UPLINK_NAMES: [&str; 5] = ["node", "pipeline", "asset", "type", "lane"];
/// Names in a topic of a parcel.
const PARCEL_NAMES: [&str; 2] = ["node", "lane"];

impl Rules<'_> {
    pub(super) fn uplink(&mut self, spot: Spot<'_>, uplink: &UplinkConfig, config: &Config) {
        self.bytes(
            spot.key("parcel"),
            "`parcel`",
            uplink.parcel,
            ByteSize::kib(1),
            ByteSize::mib(16),
        );
        self.between(
            spot.key("retry_max"),
            "`retry_max`",
            uplink.retry_max,
            Span::millis(100),
            Span::seconds(3600),
        );
        self.between(
            spot.key("drain_for"),
            "`drain_for`",
            uplink.drain_for,
            Span::ZERO,
            Span::seconds(600),
        );
        self.between(
            spot.key("gather"),
            "`gather`",
            uplink.gather,
            Span::ZERO,
            Span::seconds(24 * 3600),
        );
        self.between_shares(spot.key("fresh"), uplink.fresh);
        self.budget(spot, uplink);
        let targets = spot.key("targets");
        if uplink.targets.is_empty() {
            let problem = Problem::error(targets, "an uplink needs a target");
            self.tell(
                problem
                    .found("no table in `targets`")
                    .expected("[uplink.targets.NAME.http] or [uplink.targets.NAME.mqtt]"),
            );
        }
        for (name, target) in &uplink.targets {
            let spot = targets.key(name);
            if let Some(problem) = crate::pipeline::load::name_problem(spot, "a target", name) {
                self.tell(problem);
            }
            let spot = match target {
                TargetConfig::Http(http) => {
                    self.http(spot.key("http"), http);
                    spot.key("http")
                }
                TargetConfig::Mqtt(target) => {
                    self.mqtt(spot.key("mqtt"), target, config);
                    spot.key("mqtt")
                }
            };
            self.in_flight(spot.key("in_flight"), target.in_flight());
        }
    }

    fn in_flight(&mut self, spot: Spot<'_>, parcels: usize) {
        if !(1..=IN_FLIGHT_MAX).contains(&parcels) {
            let what = if parcels == 0 { "small" } else { "large" };
            let problem = Problem::error(spot, format!("`in_flight` is too {what}"));
            let expected = format!("from 1 to {IN_FLIGHT_MAX}, like 8");
            self.tell(problem.found(parcels.to_string()).expected(expected));
        }
    }

    fn between_shares(&mut self, spot: Spot<'_>, share: f64) {
        if !(0.0..=1.0).contains(&share) {
            let problem = Problem::error(spot, "`fresh` is a share of the link");
            self.tell(problem.found(share.to_string()).expected("from 0 to 1, like 0.5"));
        }
    }

    /// A budget that is smaller than a parcel or two cannot be kept, and a day's that is larger than its month's is a slip.
    fn budget(&mut self, spot: Spot<'_>, uplink: &UplinkConfig) {
        let least = ByteSize::kb(1);
        if let Some(rate) = uplink.rate {
            self.bytes(spot.key("rate"), "`rate`", rate, ByteSize::b(100), ByteSize::gb(10));
        }
        let budget = &uplink.budget;
        let spot = spot.key("budget");
        let lanes = [("score", budget.score), ("feature", budget.feature), ("raw", budget.raw)];
        let all = LaneBudgetConfig { day: budget.day, month: budget.month };
        let spots = lanes.map(|(lane, limits)| (spot.key(lane), limits));
        for (spot, limits) in [(spot, all)].into_iter().chain(spots) {
            for (key, limit) in [("day", limits.day), ("month", limits.month)] {
                if let Some(limit) = limit {
                    self.bytes(spot.key(key), &format!("`{key}`"), limit, least, ByteSize::pb(1));
                }
            }
            if let (Some(day), Some(month)) = (limits.day, limits.month)
                && day > month
            {
                let problem =
                    Problem::warning(spot.key("day"), "a day may use up more than its month has");
                self.tell(
                    problem
                        .found(format!("{day} a day, {month} a month"))
                        .expected("less a day than a month"),
                );
            }
        }
    }

    fn mqtt(&mut self, spot: Spot<'_>, target: &UplinkMqttConfig, config: &Config) {
        self.broker(spot.key("broker"), &target.broker);
        let names: &[&str] = match target.encoding {
            MqttEncoding::Records => &UPLINK_NAMES,
            MqttEncoding::Parcels => &PARCEL_NAMES,
        };
        self.topic(spot.key("topic"), target.topic(), names);
        if target.dictionary && target.encoding == MqttEncoding::Records {
            let problem = Problem::warning(
                spot.key("dictionary"),
                "`dictionary` has no effect: single records are not compressed",
            );
            self.tell(
                problem.found("`encoding = \"records\"`").expected("`encoding = \"parcels\"`"),
            );
        }
        self.client_ids(spot.key("broker"), config, &target.broker);
    }

    /// Two clients with one id on one broker throw each other out, for ever.
    fn client_ids(&mut self, spot: Spot<'_>, config: &Config, far: &MqttConfig) {
        let addresses = (Address::parse(&config.mqtt.url, MQTT), Address::parse(&far.url, MQTT));
        let (Ok(near), Ok(away)) = addresses else { return };
        let same_broker = near.host == away.host && near.port == away.port;
        let Some(id) = far.client_id.as_ref().filter(|_| same_broker) else { return };
        let own = format!("forebay-{}", config.node);
        if id == config.mqtt.client_id.as_ref().unwrap_or(&own) {
            let problem = Problem::error(
                spot.key("client_id"),
                "two connections to one broker would have one client id and throw each other out",
            )
            .found(format!("`{id}`, which `[mqtt]` has too"))
            .expected("another id, or none")
            .suggest(format!("\"{id}-uplink\""));
            self.tell(problem);
        }
    }

    fn http(&mut self, spot: Spot<'_>, http: &HttpConfig) {
        let address = self.address(spot.key("url"), &http.url, HTTP);
        self.between(
            spot.key("timeout"),
            "`timeout`",
            http.timeout,
            Span::millis(100),
            Span::seconds(600),
        );
        if let Some(token) = &http.token {
            self.secret(spot.key("token"), "token", token);
            if address.is_some_and(|a| !a.encrypted() && !a.loopback()) {
                let problem =
                    Problem::warning(spot.key("url"), "the token crosses the network in the clear");
                self.tell(
                    problem.found("`http://`").expected("`https://`, if the far side has it"),
                );
            }
        }
        if let Some(ca) = &http.ca {
            self.file(spot.key("ca"), "the certificate authority", ca);
        }
        for (name, value) in &http.headers {
            let entry = spot.key("headers").key(name);
            let good = !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
            if !good || value.bytes().any(|b| b < b' ' || b == 127) {
                let problem =
                    Problem::error(entry.node.key_place(), "this cannot be an HTTP header");
                self.tell(
                    problem
                        .found(format!("`{name}`"))
                        .expected("a name of letters, digits and `-`, and one line of text"),
                );
            } else if name.eq_ignore_ascii_case("authorization") {
                let problem = Problem::warning(
                    entry.node.key_place(),
                    "a secret in a config file is a secret in every copy of it",
                );
                self.tell(problem.found(format!("`{name}`")).expected("`token = { env = \"…\" }`"));
            }
        }
    }

    pub(super) fn topic(&mut self, spot: Spot<'_>, topic: &str, known: &[&str]) {
        let written: Vec<String> = known.iter().map(|name| format!("{{{name}}}")).collect();
        let expected = list(written.iter().map(String::as_str), known.len());
        if topic.is_empty() || topic.contains(['+', '#', '\0']) {
            let problem = Problem::error(spot, "nothing can be published on this topic");
            self.problems
                .push(problem.found(format!("`{topic}`")).expected("levels without `+` and `#`"));
        }
        let mut rest = topic;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, closed) = match after.split_once('}') {
                Some((name, _)) => (name, "}"),
                None => (after, ""),
            };
            if before.contains('}') || closed.is_empty() || !known.contains(&name) {
                let near = nearest(name.split('/').next().unwrap_or(name), known.iter().copied());
                let problem =
                    Problem::error(spot, format!("nothing is filled in for `{{{name}{closed}`"))
                        .found(format!("`{{{name}{closed}`"))
                        .expected(expected.as_str())
                        .suggest_nearest(near.map(|n| format!("`{{{n}}}`")));
                self.problems.push(problem);
            }
            rest = after.split_once('}').map_or("", |(_, rest)| rest);
        }
        if rest.contains('}') {
            let problem = Problem::error(spot, "a brace is closed that was not opened");
            self.tell(problem.found("`}`").expected(expected));
        }
    }
}
