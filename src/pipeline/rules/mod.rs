//! What must hold in a file beyond its types. Each rule looks at a part and says where it is wrong.
//!
//! Called by `load` for every schema and pipeline, whether or not other parts of it are wrong: a part with a wrong
//! type is simply absent here, and what would follow from it is not said.

pub(super) mod asset;
mod drift;
pub(super) mod input;
pub(super) mod model;
mod numbers;
mod order;
mod recording;
mod score;
mod spectra;
mod window;

use serde_json::{Map, Value as Json};

use super::spec::{FormatSpec, RecordingSpec, StageSpec, TimeSpec};
use crate::diagnose::document::part;
use crate::diagnose::{Document, Place, Problem, Problems, Spot};
use crate::schema::Schema;

/// A pipeline file in parts: what is right of it.
pub(super) struct Parts {
    /// Its name; empty where it is missing.
    pub(super) name: String,
    /// The schema it asks for; empty where it is missing.
    pub(super) schema: String,
    topics: Vec<String>,
    format: Option<FormatSpec>,
    recording: Option<RecordingSpec>,
    time: Option<TimeSpec>,
    /// Its stages in order.
    pub(super) stages: Vec<StagePart>,
}

/// One stage: its name as typed, and its settings where they are right.
pub(super) struct StagePart {
    /// `clean`, `window`…; `None` where the table does not say.
    pub(super) kind: Option<&'static str>,
    /// Its settings; with something empty where a needed one is missing or wrong.
    pub(super) spec: Option<StageSpec>,
    /// Whether its settings are as typed.
    pub(super) sound: bool,
}

/// The stages there are.
pub(super) const KINDS: [&str; 7] =
    ["clean", "resample", "window", "score", "drift", "alarm", "emit"];

impl Parts {
    /// Each stage whose settings can be read, with its place.
    fn each(&self) -> impl Iterator<Item = (usize, &StageSpec)> {
        self.stages.iter().enumerate().filter_map(|(at, stage)| Some((at, stage.spec.as_ref()?)))
    }

    /// Their settings.
    fn specs(&self) -> impl Iterator<Item = &StageSpec> {
        self.each().map(|(_, spec)| spec)
    }

    /// The parts of a file, given what fits its type.
    pub(super) fn of(
        document: &Document,
        fitting: &Map<String, Json>,
        problems: &Problems,
    ) -> Parts {
        let get = |key: &str| fitting.get(key).cloned();
        let text = |key: &str| part::<String>(get(key)).unwrap_or_default();
        let stages = match fitting.get("stage") {
            Some(Json::Array(stages)) => stages.as_slice(),
            _ => &[],
        };
        let stage = |(index, value): (usize, &Json)| {
            let spot = document.node.spot().key("stage").index(index);
            let kind = KINDS.into_iter().find(|kind| spot.node.get(kind).is_some());
            let place = Place { scope: spot.node.scope(), ..spot.node.place() };
            let spec = part(Some(value.clone()));
            let sound = spec.is_some() && !problems.known_within(&place);
            StagePart { kind, spec, sound }
        };
        let or_default = |key: &str| match document.node.get(key) {
            None => Some(Json::Object(Map::new())),
            Some(_) => get(key),
        };
        Parts {
            name: text("name"),
            schema: text("schema"),
            topics: part(get("topics")).unwrap_or_default(),
            format: match document.node.get("format") {
                None => Some(FormatSpec::default()),
                Some(_) => part(get("format")),
            },
            recording: part(get("recording")),
            time: part(or_default("time")),
            stages: stages.iter().enumerate().map(stage).collect(),
        }
    }
}

/// What a rule sees: the parts, the tree they come from, the asset schema where it is known.
pub(super) struct Look<'a> {
    /// The file in parts.
    pub(super) parts: &'a Parts,
    /// Its tree.
    pub(super) root: Spot<'a>,
    /// The asset schema.
    pub(super) schema: Option<&'a Schema>,
    /// What has been found.
    pub(super) problems: &'a mut Problems,
}

impl<'a> Look<'a> {
    fn tell(&mut self, problem: Problem) {
        self.problems.push_unless_known(problem);
    }

    /// Whether a stage of this kind has settings that are not right, so that nothing can be said of what it gives. A
    /// window gives nothing sure if a rule has found something either.
    fn unclear(&self, kind: &str) -> bool {
        let wrong = |(index, stage): (usize, &StagePart)| {
            let node = self.root.key("stage").index(index).node;
            let place = Place { scope: node.scope(), ..node.place() };
            let broken = kind == "window" && self.problems.known_within(&place);
            stage.kind.is_none_or(|k| k == kind) && (!stage.sound || broken)
        };
        self.parts.stages.iter().enumerate().any(wrong)
    }

    /// The settings of stage `index`.
    pub(super) fn stage(&self, index: usize, kind: &str) -> Spot<'a> {
        self.root.key("stage").index(index).key(kind)
    }

    /// Tells of a name that is not a signal.
    fn signal(&mut self, spot: Spot<'_>, by_key: bool, name: &str) {
        let Some(schema) = self.schema else { return };
        if schema.signals.iter().any(|s| s.name == name) {
            return;
        }
        let names = || schema.signals.iter().map(|s| s.name.as_str());
        let alias = schema.position(name).and_then(|at| schema.signals.get(at));
        let near = alias
            .map(|s| s.name.as_str())
            .or_else(|| crate::diagnose::nearest::nearest(name, names()));
        let place = if by_key { spot.node.key_place() } else { spot.into() };
        let problem =
            Problem::error(place, format!("schema `{}` has no signal `{name}`", schema.name))
                .found(format!("`{name}`"))
                .expected(crate::diagnose::nearest::list(names(), 12))
                .suggest_nearest(near.map(|n| format!("`{n}`")));
        self.tell(problem);
    }
}

/// All rules of a pipeline by itself.
pub(super) fn check(look: &mut Look<'_>) {
    input::check(look);
    recording::check(look);
    order::check(look);
    numbers::check(look);
    window::check(look);
    score::check(look);
    drift::check(look);
}
