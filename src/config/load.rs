//! Reads `config.toml`: file, then environment, then defaults; relative paths start at the file.
//!
//! Called by `pipeline::load` (for all of a node) and by `doctor`.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::{Config, Secret, TargetConfig, rules};
use crate::diagnose::document::{schema_of, whole};
use crate::diagnose::walk::schema_at;
use crate::diagnose::{Document, Node, Source, Value, tree};
use crate::model::runtime::TRACT;
use crate::pipeline::load::Loader;

/// What the names of overriding variables begin with.
const PREFIX: &str = "FOREBAY_";

impl Loader {
    /// Reads and checks a config and everything it names. `None` where there is none to start from; whether it is
    /// right is among the problems.
    pub fn config(
        &mut self,
        path: &Path,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Option<Config> {
        if !self.first_time(path) {
            return None;
        }
        let mut document = Document::read(path, &mut self.problems)?;
        override_from(&mut document, variables);
        let mut fitting = document.fit::<Config>(&mut self.problems);
        // A node without a name is told already; the rest of the file can still be looked at.
        fitting.entry("node").or_insert_with(|| Json::String(String::new()));
        let typed: Config = whole(fitting, document.source(), &mut self.problems)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let config = from_folder(typed, folder);
        let root = document.node.spot();
        if document.whole {
            rules::check(&config, root, &mut self.problems);
        }
        self.host = config.host();
        self.folders(root, &config);
        Some(config)
    }
}

/// Puts the values of `FOREBAY_…` variables into the tree. `FOREBAY_MQTT__URL` is `mqtt.url`; a variable whose first
/// part is no key of the config and that has no `__` (`FOREBAY_LOG`, a secret's) is none of ours.
fn override_from(document: &mut Document, variables: impl IntoIterator<Item = (String, String)>) {
    let schema = schema_of::<Config>();
    let mut variables: Vec<(String, String)> = variables.into_iter().collect();
    variables.sort();
    for (variable, text) in variables {
        let Some(rest) = variable.strip_prefix(PREFIX) else { continue };
        let names: Vec<String> = rest.split("__").map(str::to_lowercase).collect();
        let path: Vec<&str> = names.iter().map(String::as_str).collect();
        let ours = path.len() > 1 || schema_at(&schema, &path).is_some();
        if ours && path.iter().all(|p| !p.is_empty()) {
            let node = value_of(&variable, &text, schema_at(&schema, &path));
            put(&mut document.node, &path, node);
        }
    }
}

/// A variable's text as a value: text where the config wants text, TOML where it wants something else.
fn value_of(variable: &str, text: &str, schema: Option<&Json>) -> Node {
    let wants = |s: &Json| s.get("type").cloned().unwrap_or_default();
    let plain = schema.is_some_and(|s| match wants(s) {
        Json::String(t) => t == "string",
        Json::Array(ts) => ts.iter().any(|t| t == "string"),
        _ => s.pointer("/oneOf/0/const").is_some(),
    });
    let source = Source::named(variable, text);
    let as_toml = if plain { None } else { tree::parse_value(&source) };
    as_toml.unwrap_or_else(|| Node {
        range: 0..text.len(),
        key: None,
        value: Value::Text(text.to_owned()),
        source,
    })
}

/// Sets the value at `path`, making tables on the way where there are none.
fn put(node: &mut Node, path: &[&str], value: Node) {
    let Some((first, rest)) = path.split_first() else {
        *node = value;
        return;
    };
    if !matches!(node.value, Value::Table(_)) {
        *node = Node {
            value: Value::Table(Vec::new()),
            source: value.source.clone(),
            range: value.range.clone(),
            key: None,
        };
    }
    let Value::Table(entries) = &mut node.value else { return };
    if let Some((_, child)) = entries.iter_mut().find(|(key, _)| key == first) {
        put(child, rest, value);
    } else {
        let mut child = Node { value: Value::Table(Vec::new()), ..value.clone() };
        put(&mut child, rest, value);
        entries.push(((*first).to_owned(), child));
    }
}

/// Makes every path of the config start at its folder.
fn from_folder(mut config: Config, folder: &Path) -> Config {
    let from = |path: &mut PathBuf| *path = folder.join(&*path);
    let secret = |secret: &mut Option<Secret>| {
        if let Some(Secret::File(path)) = secret {
            *path = folder.join(&*path);
        }
    };
    from(&mut config.pipelines);
    from(&mut config.schemas);
    from(&mut config.store.path);
    let library = config.onnxruntime.library.as_mut();
    library.filter(|path| path.as_os_str() != TRACT).map(from);
    let mqtt = |mqtt: &mut super::MqttConfig| {
        secret(&mut mqtt.user);
        secret(&mut mqtt.password);
        for path in [&mut mqtt.ca, &mut mqtt.certificate, &mut mqtt.key].into_iter().flatten() {
            from(path);
        }
    };
    mqtt(&mut config.mqtt);
    for target in config.uplink.iter_mut().flat_map(|uplink| uplink.targets.values_mut()) {
        match target {
            TargetConfig::Http(http) => {
                secret(&mut http.token);
                http.ca.as_mut().map(from);
            }
            TargetConfig::Mqtt(target) => mqtt(&mut target.broker),
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, variables: &[(&str, &str)]) -> (Option<Config>, String) {
        let folder = tempfile::tempdir().unwrap();
        for sub in ["pipelines", "schemas"] {
            std::fs::create_dir(folder.path().join(sub)).unwrap();
        }
        let path = folder.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        let mut loader = Loader::default();
        let variables = variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        let config = loader.config(&path, variables);
        (config, loader.finish().2.to_string())
    }

    #[test]
    fn the_environment_overrides_the_file_by_type() {
        let (config, told) = read(
            "node = \"a\"\n[mqtt]\nurl = \"mqtt://old\"\n",
            &[
                ("FOREBAY_NODE", "12"),
                ("FOREBAY_MQTT__URL", "mqtt://new:1884"),
                ("FOREBAY_MQTT__VERSION", "3.1.1"),
                ("FOREBAY_MQTT__IN_FLIGHT", "20"),
                ("FOREBAY_MQTT__KEEP_ALIVE", "10s"),
                ("FOREBAY_MQTT__PASSWORD__ENV", "HOME"),
                ("FOREBAY_MQTT__USER", "{ env = \"HOME\" }"),
                ("FOREBAY_FEED__HTTP", "false"),
                ("FOREBAY_LOG", "debug"),
                ("OTHER__THING", "1"),
            ],
        );
        let config = config.unwrap();
        assert_eq!(config.node, "12", "{told}");
        assert_eq!(config.mqtt.url, "mqtt://new:1884");
        assert_eq!(config.mqtt.version, super::super::MqttVersion::V311);
        assert_eq!(config.mqtt.in_flight, 20);
        assert_eq!(config.mqtt.password, Some(Secret::Env("HOME".into())));
        assert_eq!(config.mqtt.user, Some(Secret::Env("HOME".into())));
        assert!(!config.feed.http);
    }

    #[test]
    fn wrong_variables_are_told_by_name_and_secrets_are_not_shown() {
        let (_, told) = read(
            "node = \"a\"\n",
            &[
                ("FOREBAY_MQTT__ULR", "mqtt://x"),
                ("FOREBAY_MQTT__IN_FLIGHT", "many"),
                ("FOREBAY_MQTT__PASSWORD", "hunter2"),
            ],
        );
        for part in [
            "FOREBAY_MQTT__ULR",
            "write `url`",
            "FOREBAY_MQTT__IN_FLIGHT",
            "a whole number",
            "is a secret",
        ] {
            assert!(told.contains(part), "{part} is not in\n{told}");
        }
        assert!(!told.contains("hunter2"), "{told}");
    }
}
