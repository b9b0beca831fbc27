//! Does a model fit a pipeline? Names, order, width, type, and the output that is the score.
//!
//! `stage/score` asks before it takes a model, and so `forebay check` does. Every difference is found in one go,
//! each with what the pipeline gives and what the model expects. Nothing is run here.

use std::fmt;

use super::onnx::{Element, Port, shape_text};
use super::session::Model;

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

fn mismatch(
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
}

impl Given<'_> {
    /// The shape of a batch of `rows`.
    pub fn shape(&self, rows: usize) -> Vec<usize> {
        match self {
            Given::Features(names) => vec![rows, names.len()],
            Given::Sequence { steps, channels } => vec![rows, *steps, channels.len()],
        }
    }
}

impl Model {
    /// How the model's input differs from a row of the features `names`.
    pub fn check_features(&self, names: &[String]) -> Vec<Mismatch> {
        self.check_given(Given::Features(names))
    }

    /// How the model's input differs from a sequence of `steps` samples of `channels`.
    pub fn check_sequence(&self, steps: usize, channels: &[String]) -> Vec<Mismatch> {
        self.check_given(Given::Sequence { steps, channels })
    }

    /// How the model's input differs from what is given.
    pub fn check_given(&self, given: Given<'_>) -> Vec<Mismatch> {
        let [input] = self.signature.inputs.as_slice() else {
            let names: Vec<&str> = self.signature.inputs.iter().map(|p| p.name.as_str()).collect();
            let found = format!("{} ({})", names.len(), names.join(", "));
            return vec![mismatch("inputs", "one", found)];
        };
        let mut found = check_port(input, given);
        let (what, names, noted) = match given {
            Given::Features(names) => ("feature", names, &self.metadata.features),
            Given::Sequence { channels, .. } => ("channel", channels, &self.metadata.channels),
        };
        if let Some(noted) = noted {
            found.extend(check_names(what, noted, names));
        }
        if let (Given::Sequence { steps, .. }, Some(noted)) = (given, self.metadata.steps)
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

    /// The index of the output that is the score: `tensor` where the pipeline names one, else what the model notes,
    /// else `score`, else `output`, else the first.
    pub fn score_output(&self, tensor: Option<&str>, output: &str) -> Result<usize, Mismatch> {
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
                .unwrap_or_default(),
        };
        let Some(port) = self.signature.outputs.get(index) else {
            return Err(mismatch("output", "one number a window", "no output"));
        };
        let what = || format!("output `{}`", port.name);
        if !matches!(port.element, Some(Element::Float32 | Element::Float64)) {
            return Err(mismatch(what(), "float32 or float64", kind(port)));
        }
        let single = port.dims.is_empty()
            || port.dims.iter().skip(1).all(|dim| dim.is_none_or(|size| size == 1));
        if !single {
            return Err(mismatch(what(), "one number a window, [n] or [n, 1]", port.shape()));
        }
        Ok(index)
    }
}

fn check_port(input: &Port, given: Given<'_>) -> Vec<Mismatch> {
    let mut found = Vec::new();
    if !matches!(input.element, Some(Element::Float32 | Element::Float64)) {
        let what = format!("type of input `{}`", input.name);
        found.push(mismatch(what, kind(input), "float32 (readings are floating point)"));
    }
    if input.dims.is_empty() {
        return found;
    }
    let what = format!("shape of input `{}`", input.name);
    let mut shape: Vec<Option<usize>> = given.shape(0).into_iter().map(Some).collect();
    if let Some(rows) = shape.first_mut() {
        *rows = None;
    }
    if let Some(Some(batch)) = input.dims.first().filter(|dim| dim.is_some_and(|n| n != 1)) {
        let found_batch = format!("a batch fixed at {batch}: {}", input.shape());
        found.push(mismatch(what, "a batch that may vary, or of 1", found_batch));
        return found;
    }
    let same = input.dims.len() == shape.len()
        && input.dims.iter().zip(&shape).skip(1).all(|(dim, size)| dim.is_none() || dim == size);
    if !same {
        found.push(mismatch(what, input.shape(), shape_text(&shape)));
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
