//! Does a model fit a pipeline? Names, order, width, type, and the output that is the score.
//!
//! `stage/score` asks before it takes a model, and so `forebay check` does. Every difference is found in one go,
//! each with what the pipeline gives and what the model expects. Nothing is run here.

use std::fmt;

use super::element::Element;
use super::metadata::Meaning;
use super::onnx::{Port, shape_text};
use super::session::{Model, Part, Wanted};
use crate::frame::Windows;
use crate::pipeline::spec::ModelInput;
use crate::schema::{Signal, known_units};

/// One difference between a model and its pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// What does not fit (`input type`, `width`, `feature 3`).
    pub what: String,
    /// What the model expects, or what is expected of it.
    pub expected: String,
    /// What was found instead.
    pub found: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, found {}", self.what, self.expected, self.found)
    }
}

/// Features whose number is the same in every unit.
const UNITLESS: [&str; 4] = ["skewness", "kurtosis", "crest", "coverage"];

/// A signal that a model was trained on in another unit than it has here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherUnit<'a> {
    /// The signal.
    pub signal: &'a str,
    /// Its unit in the training.
    pub noted: &'a str,
    /// Its unit here.
    pub here: &'a str,
    /// Whether both are units that are known, so that they cannot be two spellings of one.
    pub is_known: bool,
}

pub(super) fn mismatch(
    what: impl Into<String>,
    expected: impl Into<String>,
    found: impl Into<String>,
) -> Mismatch {
    Mismatch { what: what.into(), expected: expected.into(), found: found.into() }
}

/// What a pipeline gives a model.
#[derive(Clone, Copy, Debug)]
pub enum Given<'a> {
    /// A row of features, by name: `[n, names]`.
    Features(&'a [String]),
    /// A window of samples: `[n, steps, channels]`.
    Sequence {
        /// Samples a window.
        steps: usize,
        /// Columns, by name.
        channels: &'a [String],
    },
    /// A window of samples, channel by channel: `[n, channels, steps]`.
    ChannelsFirst {
        /// Samples a window.
        steps: usize,
        /// Columns, by name.
        channels: &'a [String],
    },
}

impl<'a> Given<'a> {
    /// What a `score` stage with this `input` gives, of a pipeline with these features and samples.
    pub fn of(
        input: ModelInput,
        features: &'a [String],
        steps: usize,
        channels: &'a [String],
    ) -> Given<'a> {
        match input {
            ModelInput::Features => Given::Features(features),
            ModelInput::Sequence => Given::Sequence { steps, channels },
            ModelInput::ChannelsFirst => Given::ChannelsFirst { steps, channels },
        }
    }

    /// The shape of a batch of `rows`.
    pub fn shape(&self, rows: usize) -> Vec<usize> {
        match self {
            Given::Features(names) => vec![rows, names.len()],
            Given::Sequence { steps, channels } => vec![rows, *steps, channels.len()],
            Given::ChannelsFirst { steps, channels } => vec![rows, channels.len(), *steps],
        }
    }

    /// What a window is made of, in words: the first names only where there are many.
    fn told(&self) -> String {
        const SHOWN: usize = 12;
        let names = self.names();
        let more = if names.len() > SHOWN { ", …" } else { "" };
        let names = names.get(..SHOWN).unwrap_or(names).join(", ") + more;
        match self {
            Given::Features(all) => format!("{} features ({names})", all.len()),
            Given::Sequence { steps, channels } | Given::ChannelsFirst { steps, channels } => {
                format!("{steps} steps of {} channels ({names})", channels.len())
            }
        }
    }

    /// Names of the features or channels.
    pub fn names(&self) -> &'a [String] {
        match self {
            Given::Features(names) => names,
            Given::Sequence { channels, .. } | Given::ChannelsFirst { channels, .. } => channels,
        }
    }
}

/// What a model with this `input` is given of window `at`; `None` where one of the numbers is missing.
pub fn whole_row(input: ModelInput, windows: &Windows, at: usize) -> Option<Vec<f64>> {
    let mut row = Vec::new();
    (lay_out(input, windows, at, &mut row) && !row.is_empty()).then_some(row)
}

/// Adds what a model with this `input` is given of window `at` to `batch`; nothing, and `false`, where one of the numbers is
/// missing.
pub fn lay_out(input: ModelInput, windows: &Windows, at: usize, batch: &mut Vec<f64>) -> bool {
    let before = batch.len();
    match input {
        ModelInput::Features => batch.extend_from_slice(windows.row(at)),
        ModelInput::Sequence => batch.extend_from_slice(windows.samples(at)),
        ModelInput::ChannelsFirst => {
            let (row, channels) = (windows.samples(at), windows.channels.max(1));
            let of = |channel| row.iter().skip(channel).step_by(channels);
            batch.extend((0..channels).flat_map(of));
        }
    }
    // Without an early end, so that several are looked at at once: nearly always all are fine. What no float32 holds is
    // no reading, whatever the model takes.
    let fits = |value: &f64| value.abs() <= f64::from(f32::MAX);
    let is_whole = batch[before..].iter().fold(true, |all, value| all & fits(value));
    if !is_whole {
        batch.truncate(before);
    }
    is_whole
}

impl Model {
    /// Which of the `signals` it was trained on in another unit, as far as it notes any.
    pub fn other_units<'a>(
        &'a self,
        given: Given<'a>,
        signals: &'a [Signal],
    ) -> Vec<OtherUnit<'a>> {
        let column = |name: &'a String| match given {
            Given::Features(_) => name.rsplit_once('.'),
            _ => Some((name.as_str(), "mean")),
        };
        let columns: Vec<_> = given.names().iter().filter_map(column).collect();
        let noted = self.metadata.units.as_deref().unwrap_or_default();
        let mut others: Vec<OtherUnit<'_>> = Vec::new();
        if columns.len() != noted.len() {
            return others;
        }
        for ((signal, feature), noted) in columns.into_iter().zip(noted) {
            let here = signals.iter().find(|s| s.name == signal).map_or("", |s| &s.unit);
            let same = noted == here || noted.is_empty() || UNITLESS.contains(&feature);
            if !same && others.last().is_none_or(|last| last.signal != signal) {
                let is_known = [noted.as_str(), here]
                    .iter()
                    .all(|unit| known_units().any(|known| known == *unit));
                others.push(OtherUnit { signal, noted, here, is_known });
            }
        }
        others
    }

    /// How the model's input differs from what is given.
    pub fn check_given(&self, given: Given<'_>) -> Vec<Mismatch> {
        let mut found = match (self.signature.data().as_slice(), given) {
            ([input], _) => check_port(input, given),
            (inputs, Given::Features(names)) if self.signature.takes_columns() => {
                check_columns(inputs, names)
            }
            (inputs, _) => {
                let names: Vec<&str> = inputs.iter().map(|p| p.name.as_str()).collect();
                let found = format!("{} ({})", names.len(), names.join(", "));
                return vec![mismatch(
                    "inputs",
                    "one, or one for each feature; `state` names those that are fed by outputs",
                    found,
                )];
            }
        };
        let (what, noted, steps) = match given {
            Given::Features(_) => ("feature", &self.metadata.features, None),
            Given::Sequence { steps, .. } | Given::ChannelsFirst { steps, .. } => {
                ("channel", &self.metadata.channels, Some(steps))
            }
        };
        if let Some(noted) = noted {
            found.extend(check_names(what, noted, given.names()));
        }
        if let (Some(steps), Some(noted)) = (steps, self.metadata.steps)
            && steps != noted
        {
            found.push(mismatch("steps", noted.to_string(), steps.to_string()));
        }
        for key in &self.metadata.unreadable {
            let value = self.metadata.all.get(key).cloned().unwrap_or_default();
            found.push(mismatch(format!("metadata `{key}`"), "a readable value", value));
        }
        found
    }

    /// What is the score: the output `tensor` where the pipeline names one, else what the model notes, else `score`, else
    /// `output`, else the first; of a classifier, its `class`.
    pub fn score_output(
        &self,
        tensor: Option<&str>,
        output: &str,
        class: Option<&str>,
    ) -> Result<Wanted, Mismatch> {
        let named = tensor.or(self.metadata.output.as_deref());
        let index = match named {
            Some(name) => self.signature.output(name).ok_or_else(|| {
                let names: Vec<&str> =
                    self.signature.outputs.iter().map(|port| port.name.as_str()).collect();
                mismatch("output", format!("`{name}`"), names.join(", "))
            })?,
            None => ["score", output]
                .iter()
                .find_map(|name| self.signature.output(name))
                .or_else(|| class.and_then(|_| self.chances()))
                .unwrap_or_default(),
        };
        let Some(port) = self.signature.outputs.get(index) else {
            return Err(mismatch("output", "one number a window", "no output"));
        };
        let part = match class {
            Some(class) => self.class_of(port, class)?,
            None => single(port)?,
        };
        Ok(Wanted { output: index, part })
    }

    /// Whether this output says which class a window is of, while another one has numbers from which a score could come.
    pub fn is_label_beside_numbers(&self, wanted: &Wanted) -> bool {
        let is_of = |port: &Port, element| port.element == Some(element);
        let ports = &self.signature.outputs;
        let output = ports.get(wanted.output).filter(|_| wanted.part == Part::All);
        output.is_some_and(|port| is_of(port, Element::Int64))
            && ports
                .iter()
                .any(|port| is_of(port, Element::Float32) || is_of(port, Element::Float64))
    }

    /// Where a classifier says which class a window is of, and what the classes are called. `score` is the output whose
    /// `class` the pipeline asks for. Classes that the model does not name are looked for under `names`.
    pub fn classes(
        &self,
        score: &Wanted,
        class: Option<&str>,
        names: &[String],
    ) -> Option<(Wanted, Vec<String>)> {
        let ports = &self.signature.outputs;
        let output = self.chances().or(class.map(|_| score.output))?;
        let port = ports.get(output)?;
        let labels = match (self.labels(port), port.dims.get(1..)) {
            ([], Some([Some(width)])) if *width > 1 => (0..*width).map(|n| n.to_string()).collect(),
            ([], _) => names.to_vec(),
            (labels, _) => labels.to_vec(),
        };
        Some((Wanted { output, part: Part::Class(labels.clone()) }, labels))
    }

    /// The output that has a chance for each class.
    fn chances(&self) -> Option<usize> {
        self.signature.outputs.iter().position(|port| self.labels(port).len() > 1)
    }

    /// The classes of an output, as the model calls them.
    fn labels<'m>(&'m self, port: &'m Port) -> &'m [String] {
        let noted = self.metadata.outputs.as_ref().and_then(|outputs| outputs.get(&port.name));
        match noted {
            Some(Meaning::Class { labels }) => labels,
            _ => &port.labels,
        }
    }

    /// The part of a classifier's output that is about a class.
    fn class_of(&self, port: &Port, class: &str) -> Result<Part, Mismatch> {
        let labels = self.labels(port);
        let width = port.dims.iter().skip(1).try_fold(1, |size, dim| Some(size * (*dim)?));
        let what = format!("class of output `{}`", port.name);
        if !labels.is_empty() {
            let place = labels.iter().position(|label| label == class);
            let expected = || mismatch(what, format!("one of {}", labels.join(", ")), class);
            return place.map(Part::Column).ok_or_else(expected);
        }
        if width == Some(1) {
            let is_number = port.element.is_some_and(Element::is_number);
            let number = class.parse::<f64>().ok();
            let is_it =
                |label: &String| label == class || number.is_some_and(|n| label.parse() == Ok(n));
            return match port.says.as_slice() {
                [] if is_number && number.is_none() => {
                    Err(mismatch(what, "a number, as this output gives", class))
                }
                says if says.is_empty() || says.iter().any(is_it) => {
                    Ok(Part::Label(class.to_owned()))
                }
                says => Err(mismatch(what, format!("one of {}", says.join(", ")), class)),
            };
        }
        // Nobody says what its columns are called.
        match (class.parse::<usize>(), width) {
            (Ok(column), None) => Ok(Part::Column(column)),
            (Ok(column), Some(width)) if column < width => Ok(Part::Column(column)),
            _ => {
                let most = width.map_or("a number".into(), |w| format!("0 to {}", w - 1));
                Err(mismatch(what, format!("the place of its column, {most}"), class))
            }
        }
    }
}

/// All of an output, if that is one number a window.
fn single(port: &Port) -> Result<Part, Mismatch> {
    let what = || format!("output `{}`", port.name);
    if port.element == Some(Element::Text) {
        return Err(mismatch(what(), "numbers, or the label to look for as `class`", "text"));
    }
    if !port.element.is_some_and(Element::is_number) {
        return Err(mismatch(what(), "numbers", kind(port)));
    }
    let single = port.dims.is_empty()
        || port.dims.iter().skip(1).all(|dim| dim.is_none_or(|size| size == 1));
    if single {
        return Ok(Part::All);
    }
    let which = if port.labels.is_empty() {
        "the place of one of its columns".to_owned()
    } else {
        format!("one of {}", port.labels.join(", "))
    };
    let expected = format!("one number a window, [n] or [n, 1]; or {which} as `class`");
    Err(mismatch(what(), expected, port.shape()))
}

/// Several inputs, a feature each. Names are held against those of features where any of them is one.
fn check_columns(inputs: &[&Port], names: &[String]) -> Vec<Mismatch> {
    let expected: Vec<String> = inputs.iter().map(|port| port.name.clone()).collect();
    let mut found: Vec<Mismatch> = inputs.iter().filter_map(|port| check_type(port)).collect();
    let plain = |all: &[String]| -> Vec<String> { all.iter().map(|name| plain(name)).collect() };
    let (folded, given) = (plain(&expected), plain(names));
    if expected.len() != names.len()
        || (folded != given && folded.iter().any(|name| given.contains(name)))
    {
        found.extend(check_names("feature", &expected, names));
    }
    found
}

/// A name as exporters write it that take only letters, digits and `_`.
fn plain(name: &str) -> String {
    name.replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}

fn check_type(input: &Port) -> Option<Mismatch> {
    let what = || format!("type of input `{}`", input.name);
    (!input.element.is_some_and(Element::is_number))
        .then(|| mismatch(what(), kind(input), "numbers"))
}

fn check_port(input: &Port, given: Given<'_>) -> Vec<Mismatch> {
    let mut found: Vec<Mismatch> = check_type(input).into_iter().collect();
    if input.dims.is_empty() {
        return found;
    }
    if let (Given::Sequence { steps, .. }, [Some(first), None, _]) = (given, input.dims.as_slice())
        && *first == steps
        && steps > 1
    {
        let what = format!("shape of input `{}`", input.name);
        let expected = format!("windows before steps, [n, {steps}, channels]");
        let found = format!("{}, where the steps come first", input.shape());
        return vec![mismatch(what, expected, found)];
    }
    let mut shape: Vec<Option<usize>> = given.shape(0).into_iter().map(Some).collect();
    if let Some(rows) = shape.first_mut() {
        *rows = None;
    }
    let same = input.dims.len() == shape.len()
        && input.dims.iter().zip(&shape).skip(1).all(|(dim, size)| dim.is_none() || dim == size);
    if !same {
        let what = format!("shape of input `{}`", input.name);
        let expected = format!("{}, which the model takes", input.shape());
        let given = format!("{}, which the pipeline gives: {}", shape_text(&shape), given.told());
        found.push(mismatch(what, expected, given));
    }
    found
}

/// The first difference in width, and every name that is not where the model has it.
fn check_names(what: &str, expected: &[String], found: &[String]) -> Vec<Mismatch> {
    let mut all = Vec::new();
    if expected.len() != found.len() {
        let missing = expected.iter().filter(|name| !found.contains(name));
        let surplus = found.iter().filter(|name| !expected.contains(name));
        let list = |names: Vec<&String>| {
            names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
        };
        let (missing, surplus) = (list(missing.collect()), list(surplus.collect()));
        let mut text = found.len().to_string();
        if !missing.is_empty() {
            text = format!("{text}; missing {missing}");
        }
        if !surplus.is_empty() {
            text = format!("{text}; not in the model {surplus}");
        }
        all.push(mismatch(format!("{what}s"), expected.len().to_string(), text));
        return all;
    }
    for (index, (expected, found)) in expected.iter().zip(found).enumerate() {
        if expected != found {
            let what = format!("{what} {}", index + 1);
            all.push(mismatch(what, format!("`{expected}`"), format!("`{found}`")));
        }
    }
    all
}

fn kind(port: &Port) -> String {
    port.element.map_or_else(|| "something that is no tensor".into(), |e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_laid_out_as_its_input_says() {
        let windows = Windows {
            end: vec![crate::time::Timestamp(0); 2],
            features: vec![7.0, 8.0],
            names: vec!["mean".into()],
            sequence: vec![0.0, 1.0, f64::NAN, 3.0, 10.0, 11.0, 12.0, 13.0],
            steps: 2,
            channels: 2,
            ..Windows::default()
        };
        let row = |input, at| whole_row(input, &windows, at);
        assert_eq!(row(ModelInput::Features, 1), Some(vec![8.0]));
        assert_eq!(row(ModelInput::Sequence, 1), Some(vec![10.0, 11.0, 12.0, 13.0]));
        assert_eq!(row(ModelInput::ChannelsFirst, 1), Some(vec![10.0, 12.0, 11.0, 13.0]));
        assert_eq!(row(ModelInput::ChannelsFirst, 0), None);
        assert_eq!(row(ModelInput::Sequence, 2), None);
    }
}
