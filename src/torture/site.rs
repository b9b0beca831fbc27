//! What the node under torture reads: the shipped pump pipeline, one more that gives every reading back, and a config.
//!
//! `campaign` writes it, `undisturbed` loads the same files.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::demo::site::lay_out;

/// The pipeline that gives every reading back.
pub(super) const NUMBERED: &str = "numbered";
/// The node's name.
pub(super) const NODE: &str = "torture";
/// Messages under way without acknowledgement.
pub(super) const IN_FLIGHT: u16 = 200;

const PIPELINE: &str = r#"
name = "numbered"
description = "Every reading that is used, as it came"
schema = "pump"
topics = ["plant/{site}/pump/{asset}/telemetry"]
format = { json = { time = "ts", unit = "ms" } }
time = { lateness = "2s", idle = "48h", max_ahead = "10m" }

[[stage]]
clean = {}

[[stage]]
emit = { lane = "raw" }
"#;

/// The node's files.
#[derive(Clone, Debug)]
pub(super) struct Site {
    folder: PathBuf,
}

/// What the node is between.
pub(super) struct Around<'a> {
    pub(super) broker: SocketAddr,
    /// The way to the receiver over HTTP, and to the broker of the one over MQTT.
    pub(super) http: SocketAddr,
    pub(super) mqtt: Option<SocketAddr>,
    pub(super) listen: SocketAddr,
    pub(super) store: &'a Path,
    pub(super) onnxruntime: Option<&'a Path>,
}

impl Site {
    /// Writes pipelines, schema and models below `folder`. The wall clock has no say in what is computed: no asset is
    /// ever idle.
    pub(super) fn lay_out(folder: &Path) -> io::Result<Site> {
        let pump = lay_out(folder)?;
        let text = fs::read_to_string(&pump)?;
        fs::write(&pump, text.replace("idle = \"30s\"", "idle = \"48h\""))?;
        fs::write(folder.join("pipelines/numbered.toml"), PIPELINE)?;
        Ok(Site { folder: folder.to_owned() })
    }

    /// Writes the config. Ticks and checkpoints come often, so that every kill finds something half done.
    pub(super) fn configure(&self, around: &Around<'_>) -> io::Result<()> {
        let Around { broker, http, mqtt, listen, store, onnxruntime } = around;
        let mut text = format!(
            "node = \"{NODE}\"\n\
             [mqtt]\nurl = \"mqtt://{broker}\"\nin_flight = {IN_FLIGHT}\nkeep_alive = \"5s\"\n\
             [store]\npath = {}\ntick = \"50ms\"\ncheckpoint_every = \"1s\"\nfree_floor = \"4MiB\"\n\
             alarm_limit = \"32MiB\"\nscore_limit = \"64MiB\"\nfeature_limit = \"16MiB\"\nraw_limit = \"128MiB\"\n\
             [uplink]\nparcel = \"16KiB\"\nretry_max = \"500ms\"\n\
             [uplink.targets.http.http]\nurl = \"http://{http}/records\"\ntimeout = \"2s\"\n\
             [feed]\nlisten = \"{listen}\"\nmqtt = false\nhistory = 10\n",
            quoted(store)
        );
        // Writing to a String cannot fail.
        if let Some(broker) = mqtt {
            let client = "client_id = \"torture-uplink\"\nkeep_alive = \"5s\"";
            let _ = write!(
                text,
                "[uplink.targets.mqtt.mqtt.broker]\nurl = \"mqtt://{broker}\"\n{client}\n"
            );
        }
        if let Some(library) = onnxruntime {
            let _ = writeln!(text, "[onnxruntime]\nlibrary = {}", quoted(library));
        }
        fs::write(self.config(), text)
    }

    /// The config's path.
    pub(super) fn config(&self) -> PathBuf {
        self.folder.join("config.toml")
    }

    /// Where the node's log goes.
    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("node.log")
    }

    /// The pipelines' files.
    pub(super) fn pipelines(&self) -> [PathBuf; 2] {
        ["pump.toml", "numbered.toml"].map(|name| self.folder.join("pipelines").join(name))
    }
}

/// A path as a TOML string.
fn quoted(path: &Path) -> String {
    toml::Value::String(path.display().to_string()).to_string()
}
