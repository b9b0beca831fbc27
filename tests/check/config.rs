//! Mistakes in `config.toml`, and in the variables that override it.

use crate::{node, node_with, snapshot};

#[test]
fn keys_types_and_units() {
    let config = r#"
nodes = "gateway-1"
keep_alive = "30s"

[mqtt]
ulr = "mqtt://broker"
version = 5
in_flight = 70000
keep_alive = 30
session_expiry = "7 days"

[store]
tick = "-100ms"
tick_readings = 16384.0
raw_limit = 268435456
score_limit = "256 megs"
checkpoint_every = "soon"

[feed]
http = "yes"
history = -1
listen = 8080
commands = "yes"
hosts = "gateway-1"

[limits]
assets = "10000"
message = [1, 2]

[kafka]
brokers = ["a"]
"#;
    snapshot("config-keys", &node(&[("config.toml", config)]));
}

#[test]
fn settings_that_cannot_work() {
    let config = r#"
node = "gateway 1/north"
schemas = "schema"

[mqtt]
url = "broker:1883"
keep_alive = "1s"
in_flight = 0
client_id = ""
certificate = "node.pem"
ca = "."
password = { env = "CHECK_TEST_UNSET" }

[store]
tick = "10m"
tick_readings = 0
alarm_limit = "1KiB"
path = "config.toml"

[uplink]
parcel = "100B"
retry_max = "2h"
rate = "1B"
fresh = 1.5
budget = { day = "2GB", month = "1GB", raw = { day = "1B" } }

[uplink.targets."a/b"]
http = { url = "ftp://collector/x", timeout = "0s", in_flight = 0, headers = { "X Site" = "north", authorization = "Basic abc" } }

[feed]
listen = "9000"
topic = "forebay/{nod}/#"
history = 0
hosts = ["gateway-1.plant", "http://gateway-1.plant/"]
mqtt = false
mqtt_commands = true

[onnxruntime]
library = "libonnxruntime.so"
threads = 0

[models]
keys = ["ab12"]
largest = "1B"

[limits]
assets = 0
message = "1GiB"
"#;
    snapshot("config-rules", &node(&[("config.toml", config)]));
}

#[test]
fn retention_that_makes_no_sense() {
    let config = r#"
node = "gateway-1"

[store]
alarm = { max_age = "24h", keep = "oldest", thin = "1m" }
score = { keep = "old", max_age = "1s" }
feature = { thin = "100ms" }

[store.raw]
max_age = "10m"
thin = "1h"
"#;
    snapshot("config-retention", &node(&[("config.toml", config)]));
    let bad = config.replace("\"old\"", "\"oldest\"");
    snapshot("config-retention-rules", &node(&[("config.toml", bad.as_str())]));
}

#[test]
fn settings_that_work_and_are_probably_not_meant() {
    let config = r#"
node = "gateway-1"

[mqtt]
url = "mqtt://broker.site"
user = { env = "CHECK_TEST_UNSET" }
password = { file = "secret" }
ca = "config.toml"

[uplink.targets.cloud.http]
url = "http://collector.example/forebay"
token = { file = "token" }

[feed]
listen = "0.0.0.0:8080"
"#;
    let told = node(&[("config.toml", config)]);
    assert!(!told.contains("error: "), "{told}");
    snapshot("config-warnings", &told);
    let open = format!("{config}commands = true\n");
    let told = node(&[("config.toml", open.as_str())]);
    assert!(told.contains("sees the plant and acknowledges its alarms"), "{told}");
}

#[test]
fn two_clients_with_one_id() {
    let config = r#"
node = "gateway-1"

[mqtt]
url = "mqtt://broker:1883"
client_id = "pumps"

[uplink.targets.cloud.mqtt]
broker = { url = "mqtt://broker", client_id = "pumps" }
topic = "a/{asset"

[uplink.targets.plant.mqtt]
broker = { url = "mqtt://plant" }
encoding = "parcels"
topic = "a/{asset}/{lane}"
"#;
    snapshot("config-client-ids", &node(&[("config.toml", config)]));
}

#[test]
fn an_uplink_needs_a_target() {
    let cases = [
        "[uplink]\n",
        "[uplink]\ntargets = {}\n",
        "[uplink]\ntarget = \"http\"\n",
        "[uplink.targets]\ncloud = {}\n",
        "[uplink.targets.cloud]\nkafka = {}\n",
        "[uplink.targets.cloud]\nhttps = { url = \"https://x\" }\n",
        "[uplink.targets.cloud.http]\nurl = \"https://x\"\n[uplink.targets.cloud.mqtt]\nbroker = {}\n",
        "[uplink.targets.cloud.http]\n",
    ];
    let told: Vec<String> = cases
        .iter()
        .map(|case| node(&[("config.toml", &format!("node = \"a\"\n{case}"))]))
        .collect();
    snapshot("config-uplink", &told.join("\n----\n\n"));
}

#[test]
fn secrets_are_never_shown() {
    for line in [
        "password = \"hunter2\"",
        "password = hunter2",
        "password = { env = hunter2",
        "password = [\"hunter2\"]",
        "url = \"mqtt://me:hunter2@broker\"",
        "user = \"x\"\npassword = \"hunter2\" x",
    ] {
        if line.contains("env = hunter2") {
            continue; // the name of a variable is no secret
        }
        let config = format!("node = \"a\"\n[mqtt]\n{line}\n");
        let told = node(&[("config.toml", &config)]);
        assert!(told.contains("error: "), "{told}");
        assert!(!told.contains("hunter2"), "{told}");
    }
    let told = node_with(&[], &[("FOREBAY_MQTT__PASSWORD", "hunter2")]);
    assert!(told.contains("FOREBAY_MQTT__PASSWORD") && !told.contains("hunter2"), "{told}");
}

#[test]
fn variables_are_checked_like_the_file() {
    let variables = [
        ("FOREBAY_MQTT__ULR", "mqtt://broker"),
        ("FOREBAY_MQTT__KEEP_ALIVE", "30"),
        ("FOREBAY_MQTT__IN_FLIGHT", "lots"),
        ("FOREBAY_FEED__LISTEN", "localhost"),
        ("FOREBAY_KAFKA__BROKERS", "a"),
        ("FOREBAY_LOG", "warn"),
    ];
    snapshot("config-variables", &node_with(&[], &variables));
}

#[test]
fn limits_that_do_not_fit_on_the_disk() {
    let config = "node = \"a\"\n[store]\nscore_limit = \"900GiB\"\nraw_limit = \"1TiB\"\nfree_floor = \"64TiB\"\n";
    let told = node(&[("config.toml", config)]);
    // The free space differs from machine to machine.
    for part in [
        "error: the store's limits do not fit on its disk",
        "raw_limit = \"1TiB\"",
        "65.9 TiB",
        "at most",
    ] {
        assert!(told.contains(part), "{part} is not in\n{told}");
    }
    // A node that has a store must start on a disk that has filled up: only then can it make room.
    let told = node(&[("config.toml", config), ("forebay-data/journal/1.journal", "x")]);
    assert!(told.contains("warning: the store's limits do not fit on its disk"), "{told}");
    assert!(!told.contains("error:"), "{told}");
}
