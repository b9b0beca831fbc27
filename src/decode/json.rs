//! JSON payloads: what every place in a document means, worked out once for each format.
//!
//! [`super::Decoder`] builds a [`JsonPlan`]; [`super::walk`] takes documents through it. A format has two shapes: wide,
//! where the fields of an object are signals, and narrow, where an object is one reading and its signal is named in it
//! or in the topic.

use std::collections::HashMap;

use super::DecodeError;
use super::path::{Path, Role, Tree};
use super::time::TimeFormat;
use crate::pipeline::spec::{JsonFormat, Unknown};
use crate::schema::Schema;

/// A JSON format, ready to walk documents.
#[derive(Clone, Debug)]
pub(super) struct JsonPlan {
    pub(super) wide: Shape,
    pub(super) narrow: Shape,
    /// Whether every document is narrow, whatever the topic says.
    pub(super) named: bool,
    pub(super) times: TimeFormat,
    pub(super) unknown: Unknown,
    /// Whether payloads name the asset.
    pub(super) names_asset: bool,
    /// Signals by the names that payloads and topics give them.
    pub(super) signals: HashMap<String, u16>,
    /// Where time, asset and name are, for messages.
    pub(super) places: Places,
}

/// Paths as typed, for messages.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) time: String,
    pub(super) asset: String,
    pub(super) name: String,
    /// The array of readings, with the index to come.
    pub(super) each: String,
    /// Where readings or values should have been.
    pub(super) values: String,
}

/// How documents are laid out.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// The document around an array of readings, where there is one.
    pub(super) envelope: Option<Tree>,
    /// The object that holds readings.
    pub(super) element: Tree,
    /// The object that a signal may be in place of a bare value.
    pub(super) field: Option<Tree>,
}

/// The paths of a format, parsed.
struct Paths {
    time: Option<Path>,
    each: Option<Path>,
    values: Option<Path>,
    signal: Option<Path>,
    value: Option<Path>,
    asset: Option<Path>,
    quality: Option<Path>,
}

impl JsonPlan {
    pub(super) fn new(
        format: &JsonFormat,
        schema: &Schema,
        times: TimeFormat,
    ) -> Result<JsonPlan, DecodeError> {
        if format.signal.is_some() && format.values.is_some() {
            return Err(DecodeError::Conflict {
                one: "signal",
                other: "values",
                why: "either an object names its one signal, or its fields are the signals",
            });
        }
        for signal in format.signals.keys() {
            if !schema.signals.iter().any(|s| s.name == *signal) {
                return Err(no_such_signal("format.json.signals", signal, schema));
            }
        }
        let paths = Paths::parse(format)?;
        Ok(JsonPlan {
            // In a format with named signals the `signals` map holds names, not paths.
            wide: match format.signal {
                Some(_) => narrow(&paths)?,
                None => wide(format, schema, &paths)?,
            },
            narrow: narrow(&paths)?,
            named: format.signal.is_some(),
            times,
            unknown: format.unknown,
            names_asset: format.asset.is_some(),
            signals: names(format, schema),
            places: Places::new(format),
        })
    }
}

/// The error of a setting that names a signal which `schema` does not have.
pub(super) fn no_such_signal(setting: &'static str, signal: &str, schema: &Schema) -> DecodeError {
    let names = schema.signals.iter().map(|s| s.name.as_str());
    DecodeError::NoSuchSignal {
        setting,
        signal: signal.to_owned(),
        schema: schema.name.clone(),
        nearest: super::nearest(signal, names).map_or(String::new(), |n| format!("; is it `{n}`?")),
    }
}

/// Every name under which a payload or a topic may carry a signal.
fn names(format: &JsonFormat, schema: &Schema) -> HashMap<String, u16> {
    let mut names: HashMap<String, u16> =
        schema.lookup().into_iter().map(|(name, index)| (name.to_owned(), index)).collect();
    for (signal, name) in &format.signals {
        if let Some(index) = schema.position(signal) {
            names.insert(name.clone(), index as u16);
        }
    }
    names
}

impl Paths {
    fn parse(format: &JsonFormat) -> Result<Paths, DecodeError> {
        let parse = |setting, text: &Option<String>| {
            text.as_deref().map(|text| Path::parse(setting, text)).transpose()
        };
        Ok(Paths {
            time: parse("format.json.time", &format.time)?,
            each: parse("format.json.each", &format.each)?,
            values: parse("format.json.values", &format.values)?,
            signal: parse("format.json.signal", &format.signal)?,
            value: parse("format.json.value", &format.value)?,
            asset: parse("format.json.asset", &format.asset)?,
            quality: parse("format.json.quality", &format.quality)?,
        })
    }

    /// What narrow and wide objects have in common.
    fn common(&self) -> [(&'static str, &Option<Path>, Role); 3] {
        [
            ("format.json.time", &self.time, Role::Time),
            ("format.json.quality", &self.quality, Role::Quality),
            ("format.json.asset", &self.asset, Role::Asset),
        ]
    }

    /// The document around `each`. What readings do not say themselves is looked for here, under the same paths.
    fn envelope(&self) -> Option<Tree> {
        let each = self.each.as_ref()?;
        let mut tree = Tree::new();
        tree.insert(each, Role::Each);
        let name = ("", &self.signal, Role::Name);
        for (_, path, role) in self.common().into_iter().chain([name]) {
            // A path that leads through the array belongs to the readings alone.
            if let Some(path) = path {
                tree.insert(path, role);
            }
        }
        Some(tree)
    }

    fn element(&self) -> Result<Tree, DecodeError> {
        let mut tree = Tree::new();
        for (setting, path, role) in self.common() {
            if let Some(path) = path {
                put(&mut tree, setting, path, role)?;
            }
        }
        Ok(tree)
    }
}

fn put(tree: &mut Tree, setting: &str, path: &Path, role: Role) -> Result<(), DecodeError> {
    if tree.insert(path, role) {
        return Ok(());
    }
    Err(DecodeError::PathTaken { setting: setting.to_owned(), path: path.to_string() })
}

fn narrow(paths: &Paths) -> Result<Shape, DecodeError> {
    let mut element = paths.element()?;
    if let Some(path) = &paths.signal {
        put(&mut element, "format.json.signal", path, Role::Name)?;
    }
    let value = paths.value.clone().unwrap_or_else(|| Path::field("value"));
    put(&mut element, "format.json.value", &value, Role::Value)?;
    Ok(Shape { envelope: paths.envelope(), element, field: None })
}

fn wide(format: &JsonFormat, schema: &Schema, paths: &Paths) -> Result<Shape, DecodeError> {
    let base = paths.values.as_ref();
    let mut element = paths.element()?;
    for (signal, text) in &format.signals {
        let path = Path::parse("format.json.signals", text)?.within(base);
        let index = schema.position(signal).unwrap_or_default() as u16;
        put(&mut element, &format!("format.json.signals.{signal}"), &path, Role::Signal(index))?;
    }
    if !element.open(base) {
        let path = base.map_or(String::new(), ToString::to_string);
        return Err(DecodeError::PathTaken { setting: "format.json.values".into(), path });
    }
    for (index, signal) in schema.measured() {
        if format.signals.contains_key(&signal.name) {
            continue;
        }
        for name in std::iter::once(&signal.name).chain(&signal.aliases) {
            // A name that is taken (by the time, say) is not this signal's.
            element.insert(&Path::field(name).within(base), Role::Signal(index as u16));
        }
    }
    Ok(Shape { envelope: paths.envelope(), element, field: field(paths) })
}

/// Signals that are objects of their own: `{"temp": {"value": 3, "ts": …}}`.
fn field(paths: &Paths) -> Option<Tree> {
    let mut tree = Tree::new();
    tree.insert(paths.value.as_ref()?, Role::Value);
    for (_, path, role) in paths.common() {
        if let (Some(path), Role::Time | Role::Quality) = (path, role) {
            tree.insert(path, role);
        }
    }
    Some(tree)
}

impl Places {
    fn new(format: &JsonFormat) -> Places {
        let at = |path: &Option<String>| match path {
            Some(path) => format!("at `{path}`"),
            None => "in the payload".to_owned(),
        };
        Places {
            time: at(&format.time),
            asset: at(&format.asset),
            name: at(&format.signal),
            each: format.each.clone().unwrap_or_default(),
            values: match (&format.each, &format.values, &format.value) {
                (Some(path), _, _) | (None, Some(path), _) | (None, None, Some(path)) => {
                    format!("at `{path}`")
                }
                (None, None, None) => "at `value`".into(),
            },
        }
    }
}
