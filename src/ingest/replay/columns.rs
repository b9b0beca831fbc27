//! Which column of a recording is what: time, asset, signals.
//!
//! Called by [`super::csv`] and [`super::parquet`] with the names they found. A column that is asked for and is not
//! there is an error with the nearest spelling; a signal of the schema that no column carries is a warning.

use std::collections::HashMap;
use std::path::Path;

use super::{RecordingError, RecordingOptions, Warnings};
use crate::decode::nearest;
use crate::decode::time::TimeFormat;
use crate::pipeline::spec::RecordingSpec;
use crate::schema::Schema;

/// Names that a time goes by where the settings do not say.
const TIME_NAMES: [&str; 7] =
    ["time", "timestamp", "ts", "datetime", "date_time", "date", "timestamp_ms"];

/// Positions of what is read, and how it is to be taken.
#[derive(Clone, Debug)]
pub(super) struct Columns {
    pub(super) time: usize,
    pub(super) asset: Option<usize>,
    pub(super) layout: Layout,
    pub(super) times: TimeFormat,
    /// Signals by the names that the rows of a long recording give them.
    pub(super) signals: HashMap<String, u16>,
}

/// How signals are laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// A column a signal.
    Wide(Vec<(usize, u16)>),
    /// A reading a row: the signal's name, and its value.
    Long { signal: usize, value: usize },
}

impl Columns {
    pub(super) fn find(
        path: &Path,
        names: &[String],
        options: &RecordingOptions<'_>,
        warnings: &mut Warnings,
    ) -> Result<Columns, RecordingError> {
        let RecordingOptions { spec, schema, .. } = options;
        let near = |column: &str| {
            let name = nearest(column, names.iter().map(String::as_str))?;
            Some(format!("; is it `{name}`?").into())
        };
        let missing = |setting: &str, column: &str| RecordingError::MissingColumn {
            path: path.to_owned(),
            setting: setting.to_owned(),
            column: column.to_owned(),
            found: listed(names).into(),
            nearest: near(column).unwrap_or_default(),
        };
        let find = |setting: &str, column: &str| {
            position(names, column).ok_or_else(|| missing(setting, column))
        };
        let time = match &spec.time {
            Some(column) => find("recording.time", column)?,
            None => time_column(names).ok_or_else(|| RecordingError::NoTimeColumn {
                path: path.to_owned(),
                found: listed(names),
            })?,
        };
        let asset = match &spec.asset {
            Some(column) => Some(find("recording.asset", column)?),
            // Several machines in one file; not so where the file is said to be of one.
            None if options.asset.is_none() => position(names, "asset"),
            None => None,
        };
        let asset = asset.filter(|_| spec.asset.is_some() || !is_signal(schema, "asset"));
        let layout = match (&spec.signal, &spec.value) {
            (Some(signal), value) => Layout::Long {
                signal: find("recording.signal", signal)?,
                value: find("recording.value", value.as_deref().unwrap_or("value"))?,
            },
            (None, Some(_)) => return Err(RecordingError::ValueAlone),
            (None, None) => {
                Layout::Wide(wide(names, spec, schema, &[Some(time), asset], find, warnings)?)
            }
        };
        if layout == Layout::Wide(Vec::new()) {
            let wanted: Vec<String> = schema.signals.iter().map(|s| s.name.clone()).collect();
            return Err(RecordingError::NoSignalColumn {
                path: path.to_owned(),
                nearest: wanted.iter().find_map(|name| near(name)).unwrap_or_default(),
                wanted: listed(&wanted),
                found: listed(names),
            });
        }
        let zone = spec.zone.as_deref();
        let times = TimeFormat::recording(spec.unit, spec.time_format.as_deref(), zone)?;
        Ok(Columns { time, asset, layout, times, signals: signal_names(spec, schema) })
    }
}

fn wide(
    names: &[String],
    spec: &RecordingSpec,
    schema: &Schema,
    taken: &[Option<usize>],
    find: impl Fn(&str, &str) -> Result<usize, RecordingError>,
    warnings: &mut Warnings,
) -> Result<Vec<(usize, u16)>, RecordingError> {
    let named = |name: &&String| schema.signals.iter().all(|s| s.name != **name);
    if let Some(signal) = spec.signals.keys().find(named) {
        return Err(no_such_signal(signal, schema));
    }
    let mut columns = Vec::new();
    for (index, signal) in schema.measured() {
        let column = match spec.signals.get(&signal.name) {
            Some(column) => Some(find(&format!("recording.signals.{}", signal.name), column)?),
            None => std::iter::once(&signal.name)
                .chain(&signal.aliases)
                .filter_map(|name| position(names, name))
                .find(|column| !taken.contains(&Some(*column))),
        };
        let Some(column) = column else {
            let near = nearest(&signal.name, names.iter().map(String::as_str))
                .map_or(String::new(), |name| format!(" (is it `{name}`?)"));
            warnings.add(Warnings::NO_COLUMN, || format!("`{}`{near}", signal.name));
            continue;
        };
        columns.push((column, index as u16));
    }
    columns.sort_unstable();
    Ok(columns)
}

pub(super) fn no_such_signal(signal: &str, schema: &Schema) -> RecordingError {
    RecordingError::NoSuchSignal {
        signal: signal.to_owned(),
        schema: schema.name.clone(),
        nearest: nearest(signal, schema.signals.iter().map(|s| s.name.as_str()))
            .map_or(String::new(), |name| format!("; is it `{name}`?")),
    }
}

fn signal_names(spec: &RecordingSpec, schema: &Schema) -> HashMap<String, u16> {
    let mut names: HashMap<String, u16> =
        schema.lookup().into_iter().map(|(name, index)| (name.to_owned(), index)).collect();
    for (signal, name) in &spec.signals {
        if let Some(index) = schema.position(signal) {
            names.insert(name.clone(), index as u16);
        }
    }
    names
}

/// Every name that would be recognised in a header.
pub(super) fn wanted_names<'s>(spec: &'s RecordingSpec, schema: &'s Schema) -> Vec<&'s str> {
    let settings = [&spec.time, &spec.asset, &spec.signal, &spec.value];
    let signals = schema.signals.iter();
    settings
        .into_iter()
        .filter_map(|name| name.as_deref())
        .chain(spec.signals.values().map(String::as_str))
        .chain(signals.flat_map(|s| s.aliases.iter().chain([&s.name]).map(String::as_str)))
        .chain(TIME_NAMES)
        .collect()
}

/// The name that a time probably has.
pub(super) fn time_column(names: &[String]) -> Option<usize> {
    TIME_NAMES
        .iter()
        .find_map(|known| names.iter().position(|name| name.trim().eq_ignore_ascii_case(known)))
}

fn is_signal(schema: &Schema, name: &str) -> bool {
    schema.signals.iter().any(|s| s.name == name || s.aliases.iter().any(|alias| alias == name))
}

fn position(names: &[String], wanted: &str) -> Option<usize> {
    names.iter().position(|name| name.trim() == wanted.trim())
}

/// Names for a message: the first dozen, and how many more.
pub(super) fn listed(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let shown: Vec<String> =
        names.iter().take(SHOWN).map(|n| format!("`{}`", crate::decode::shown(n.trim()))).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
