//! The visits that serde makes on the way through a document: each place hands what is there to the [`Walk`].
//!
//! Belongs to [`super`]. Fields without a meaning are skipped by the parser, which needs no stack for that; the
//! visits themselves go only as deep as the format's paths. So no nesting in a payload can overflow the stack.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

use super::{Scope, Standing, Walk};
use crate::decode::path::{Node, Role, Tree};
use crate::decode::rows::Common;
use crate::decode::time::TimeFault;
use crate::decode::{Words, quality, scalar, shown};
use crate::frame::Quality;
use crate::time::Timestamp;

impl<'p> Walk<'p> {
    /// Follows the fields of an object.
    fn fields<'de, M: MapAccess<'de>>(
        &mut self,
        scope: &mut Scope,
        tree: &'p Tree,
        node: &'p Node,
        map: &mut M,
    ) -> Result<(), M::Error> {
        self.seen |= node.open;
        let mut guess = 0;
        while let Some(child) = map.next_key_seed(Key { walk: self, node, guess: &mut guess })? {
            match child.and_then(|index| tree.node(index)) {
                Some(node) => map.next_value_seed(At { walk: self, scope, tree, node })?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    /// An object that is a document, or one of several in an array.
    fn document<'de, M: MapAccess<'de>>(
        &mut self,
        mut map: M,
        standing: Standing,
    ) -> Result<(), M::Error> {
        let mut scope = self.scope();
        let tree = self.shape.envelope.as_ref().unwrap_or(&self.shape.element);
        if let Some(root) = tree.node(0) {
            self.fields(&mut scope, tree, root, &mut map)?;
        }
        self.close_document(scope, standing);
        Ok(())
    }
}

/// The text of a field's name, looked up.
struct Key<'w, 'p> {
    walk: &'w mut Walk<'p>,
    node: &'p Node,
    guess: &'w mut usize,
}

impl<'de> DeserializeSeed<'de> for Key<'_, '_> {
    type Value = Option<usize>;
    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<Self::Value, D::Error> {
        parser.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_, '_> {
    type Value = Option<usize>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }
    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        let child = self.node.child(name, self.guess);
        if child.is_none() && self.node.open {
            self.walk.rows.note_unknown(name);
            self.walk.unknown(1, name);
        }
        Ok(child)
    }
}

/// A value that is not an object or an array.
enum Leaf<'s> {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'s str),
}

impl Leaf<'_> {
    fn number(&self) -> Option<f64> {
        match *self {
            Leaf::Bool(value) => Some(f64::from(u8::from(value))),
            Leaf::Int(value) => Some(value as f64),
            Leaf::Float(value) => Some(value),
            Leaf::Text(text) => scalar::number(text),
        }
    }

    /// The same, where words are taken for numbers.
    fn number_or_word(&self, words: &mut Words) -> Option<f64> {
        self.number().or_else(|| match self {
            Leaf::Text(text) => words.number(text),
            _ => None,
        })
    }

    fn shown(&self) -> String {
        match self {
            Leaf::Bool(value) => value.to_string(),
            Leaf::Int(value) => format!("the number {value}"),
            Leaf::Float(value) => format!("the number {value}"),
            Leaf::Text(text) => format!("the text \"{}\"", shown(text)),
        }
    }
}

/// Passes every bare value to the method named `leaf`.
macro_rules! visit_leaves {
    ($lifetime:lifetime) => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON value")
        }
        fn visit_unit<E>(self) -> Result<(), E> {
            Ok(())
        }
        fn visit_bool<E>(self, value: bool) -> Result<(), E> {
            self.leaf(&Leaf::Bool(value));
            Ok(())
        }
        fn visit_i64<E>(self, value: i64) -> Result<(), E> {
            self.leaf(&Leaf::Int(value));
            Ok(())
        }
        fn visit_u64<E>(self, value: u64) -> Result<(), E> {
            match i64::try_from(value) {
                Ok(value) => self.leaf(&Leaf::Int(value)),
                Err(_) => self.leaf(&Leaf::Float(value as f64)),
            }
            Ok(())
        }
        fn visit_f64<E>(self, value: f64) -> Result<(), E> {
            self.leaf(&Leaf::Float(value));
            Ok(())
        }
        fn visit_str<E>(self, value: &str) -> Result<(), E> {
            self.leaf(&Leaf::Text(value));
            Ok(())
        }
    };
}

/// The payload.
pub(super) struct Document<'w, 'p>(pub(super) &'w mut Walk<'p>);

/// An object of an array of readings.
struct Element<'w, 'p> {
    walk: &'w mut Walk<'p>,
    /// Whether the array is the payload, so that each element is a document of its own.
    outermost: bool,
}

/// A place with a meaning.
struct At<'w, 'p> {
    walk: &'w mut Walk<'p>,
    scope: &'w mut Scope,
    tree: &'p Tree,
    node: &'p Node,
}

macro_rules! seed {
    ($($name:ident),*) => {$(
        impl<'de> DeserializeSeed<'de> for $name<'_, '_> {
            type Value = ();
            fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<(), D::Error> {
                parser.deserialize_any(self)
            }
        }
    )*};
}
seed!(Document, Element, At);

impl Document<'_, '_> {
    fn leaf(self, leaf: &Leaf<'_>) {
        let walk = self.0;
        if walk.outer.signal == Common::NO_SIGNAL {
            let fault = walk.wrong_type("", leaf.shown(), "an object or an array of objects");
            walk.fatal = Some(Box::new(fault));
        } else if let Some(value) = leaf.number() {
            walk.bare(value, Standing::Alone);
        } else {
            let fault = walk.wrong_type("", leaf.shown(), "an object, a number, true or false");
            walk.fatal = Some(Box::new(fault));
        }
    }
}

impl<'de> Visitor<'de> for Document<'_, '_> {
    type Value = ();
    visit_leaves!('de);

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<(), M::Error> {
        self.0.document(map, Standing::Alone)
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<(), S::Error> {
        // Nothing is missing in an empty array.
        self.0.seen = true;
        let mut index = 0;
        loop {
            self.0.element = Some(index);
            if seq.next_element_seed(Element { walk: self.0, outermost: true })?.is_none() {
                break;
            }
            index += 1;
        }
        self.0.element = None;
        Ok(())
    }
}

impl Element<'_, '_> {
    fn leaf(self, leaf: &Leaf<'_>) {
        let fault = self.walk.wrong_type("", leaf.shown(), "an object");
        self.walk.reject(1, fault);
    }
}

impl<'de> Visitor<'de> for Element<'_, '_> {
    type Value = ();
    visit_leaves!('de);

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        if self.outermost {
            return self.walk.document(map, Standing::OneOfMany);
        }
        let mut scope = self.walk.scope();
        let tree = &self.walk.shape.element;
        if let Some(root) = tree.node(0) {
            self.walk.fields(&mut scope, tree, root, &mut map)?;
        }
        self.walk.close_element(scope);
        Ok(())
    }

    fn visit_seq<S: SeqAccess<'de>>(self, seq: S) -> Result<(), S::Error> {
        let fault = self.walk.wrong_type("", "an array".into(), "an object");
        self.walk.reject(1, fault);
        drain(seq)
    }
}

impl At<'_, '_> {
    fn leaf(self, leaf: &Leaf<'_>) {
        let At { walk, scope, node, .. } = self;
        let path = &node.path;
        match node.role {
            Role::Signal(signal) => {
                if let Some(value) = leaf.number_or_word(&mut walk.rows.words) {
                    walk.rows.push(signal, value, &scope.common);
                } else {
                    let fault = walk.wrong_type(path, leaf.shown(), scalar::EXPECTED);
                    walk.reject(1, fault);
                }
            }
            Role::Value => {
                walk.seen = true;
                scope.value = leaf.number_or_word(&mut walk.rows.words);
                if scope.value.is_none() {
                    let fault = walk.wrong_type(path, leaf.shown(), scalar::EXPECTED);
                    walk.reject(1, fault);
                }
            }
            Role::Time => match time(walk, leaf) {
                Ok(ts) => scope.common.ts = ts,
                Err(fault) => scope.fault = Some(Box::new(walk.time_fault(path, fault))),
            },
            Role::Quality => {
                let known = match *leaf {
                    Leaf::Bool(true) => Some(Quality::Good),
                    Leaf::Bool(false) => Some(Quality::Bad),
                    Leaf::Int(code) => quality::from_number(code),
                    Leaf::Float(_) => None,
                    Leaf::Text(text) => quality::from_text(text),
                };
                scope.common.quality = known.unwrap_or(Quality::Uncertain);
            }
            Role::Asset => scope.asset(walk, path, leaf),
            Role::Name => scope.name(walk, path, leaf),
            Role::Inside | Role::Each => {
                let expected = if node.role == Role::Each { "an array" } else { "an object" };
                let fault = walk.wrong_type(path, leaf.shown(), expected);
                walk.reject(1, fault);
            }
        }
    }

    /// An object or an array where a value should be.
    fn refuse(self, found: &str) {
        let At { walk, scope, node, .. } = self;
        match node.role {
            Role::Time => {
                let fault = walk.plan.times.not_a_time(found.to_owned());
                scope.fault = Some(Box::new(walk.time_fault(&node.path, fault)));
            }
            Role::Quality => scope.common.quality = Quality::Uncertain,
            role => {
                let expected = match role {
                    Role::Inside => "an object",
                    Role::Asset | Role::Name => "text",
                    _ => scalar::EXPECTED,
                };
                let fault = walk.wrong_type(&node.path, found.to_owned(), expected);
                walk.seen |= role == Role::Value;
                walk.reject(1, fault);
            }
        }
    }
}

fn time(walk: &Walk<'_>, leaf: &Leaf<'_>) -> Result<Timestamp, TimeFault> {
    let times = &walk.plan.times;
    match *leaf {
        Leaf::Int(number) => times.integer(number),
        Leaf::Float(number) => times.float(number),
        Leaf::Text(text) => times.text(text),
        Leaf::Bool(_) => Err(times.not_a_time(leaf.shown())),
    }
}

impl Scope {
    fn asset(&mut self, walk: &mut Walk<'_>, path: &str, leaf: &Leaf<'_>) {
        let number;
        let id = match *leaf {
            Leaf::Text(text) => text.trim(),
            Leaf::Int(id) => {
                number = id.to_string();
                &number
            }
            Leaf::Bool(_) | Leaf::Float(_) => "",
        };
        if id.is_empty() {
            let fault = walk.wrong_type(path, leaf.shown(), "the asset's id as text");
            self.fault = Some(Box::new(fault));
            return;
        }
        self.common.asset = walk.rows.payload_asset(walk.entry, id).unwrap_or(Common::NO_ASSET);
    }

    fn name(&mut self, walk: &mut Walk<'_>, path: &str, leaf: &Leaf<'_>) {
        let Leaf::Text(name) = *leaf else {
            let fault = walk.wrong_type(path, leaf.shown(), "the signal's name as text");
            self.fault = Some(Box::new(fault));
            return;
        };
        self.common.signal = walk.plan.signals.get(name).copied().unwrap_or_else(|| {
            walk.rows.note_unknown(name);
            Common::UNKNOWN_SIGNAL
        });
    }
}

impl<'de> Visitor<'de> for At<'_, '_> {
    type Value = ();
    visit_leaves!('de);

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        match (self.node.role, &self.walk.shape.field) {
            (Role::Inside, _) => self.walk.fields(self.scope, self.tree, self.node, &mut map),
            (Role::Each, _) => {
                // A list of one, written without its brackets.
                self.walk.seen = true;
                Element { walk: self.walk, outermost: false }.visit_map(map)
            }
            (Role::Signal(signal), Some(tree)) => {
                let mut scope = self.walk.scope();
                self.walk.field = Some(&self.node.path);
                if let Some(root) = tree.node(0) {
                    self.walk.fields(&mut scope, tree, root, &mut map)?;
                }
                self.walk.field = None;
                scope.common.signal = signal;
                self.walk.close_element(scope);
                Ok(())
            }
            _ => {
                self.refuse("an object");
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(())
            }
        }
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<(), S::Error> {
        if self.node.role != Role::Each {
            self.refuse("an array");
            return drain(seq);
        }
        let outer = self.walk.element;
        self.walk.seen = true;
        let mut index = 0;
        loop {
            self.walk.element = Some(index);
            if seq.next_element_seed(Element { walk: self.walk, outermost: false })?.is_none() {
                break;
            }
            index += 1;
        }
        self.walk.element = outer;
        Ok(())
    }
}

fn drain<'de, S: SeqAccess<'de>>(mut seq: S) -> Result<(), S::Error> {
    while seq.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}
