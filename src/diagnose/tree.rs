//! TOML as a tree in which everything knows where it stands.
//!
//! [`parse`] never gives up: what can be read is in the tree, what cannot is among the problems. [`Spot`] walks the
//! tree by names and numbers and always ends somewhere that can be underlined.

use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Place, Problem, Problems, Source};

/// A value and its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where it was written.
    pub source: Arc<Source>,
    /// The bytes of the value (of a table with a header: of the header).
    pub range: Range<usize>,
    /// The bytes of its key.
    pub key: Option<Range<usize>>,
    /// The value.
    pub value: Value,
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text in quotes.
    Text(String),
    /// A whole number.
    Integer(i128),
    /// A number with a fraction.
    Float(f64),
    /// `true` or `false`.
    Bool(bool),
    /// A date without quotes.
    Moment(String),
    /// An array.
    List(Vec<Node>),
    /// A table, in the order in which it was written.
    Table(Vec<(String, Node)>),
}

impl PartialEq for Node {
    fn eq(&self, other: &Node) -> bool {
        self.value == other.value
    }
}

impl Node {
    /// The child of a table.
    pub fn get(&self, name: &str) -> Option<&Node> {
        match &self.value {
            Value::Table(entries) => {
                entries.iter().find(|(key, _)| key == name).map(|(_, node)| node)
            }
            _ => None,
        }
    }

    /// Its text.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What kind of thing it is, in words.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Text(_) => "text",
            Value::Integer(_) => "a whole number",
            Value::Float(_) => "a number",
            Value::Bool(_) => "true or false",
            Value::Moment(_) => "a date without quotes",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
        }
    }

    /// As it was written, where that is short; else in words.
    pub fn said(&self) -> String {
        let written = self.source.shown().get(self.range.clone()).unwrap_or_default();
        let header =
            matches!(self.value, Value::Table(_) | Value::List(_)) && written.starts_with("[[");
        let inner = match self.value {
            Value::Text(_) => written.trim_matches(['"', '\'']),
            _ => written,
        };
        let short = !inner.is_empty() && inner.len() <= 48 && !inner.contains('\n');
        if short && !header { format!("`{inner}`") } else { self.kind().to_owned() }
    }

    /// All bytes that belong to it, its children included.
    pub fn scope(&self) -> Range<usize> {
        let mut all = self.range.clone();
        let mut cover = |other: &Range<usize>| {
            all.start = all.start.min(other.start);
            all.end = all.end.max(other.end);
        };
        if let Some(key) = &self.key {
            cover(key);
        }
        match &self.value {
            Value::List(items) => items.iter().for_each(|n| cover(&n.scope())),
            Value::Table(entries) => entries.iter().for_each(|(_, n)| cover(&n.scope())),
            _ => {}
        }
        all
    }

    /// Its place: the value.
    pub fn place(&self) -> Place {
        Place {
            source: Arc::clone(&self.source),
            range: self.range.clone(),
            scope: self.range.clone(),
        }
    }

    /// The place of its key; of the value where it has none.
    pub fn key_place(&self) -> Place {
        let range = self.key.clone().unwrap_or_else(|| self.range.clone());
        Place { source: Arc::clone(&self.source), range, scope: self.scope() }
    }

    /// A place to start walking from.
    pub fn spot(&self) -> Spot<'_> {
        Spot { node: self, exact: true }
    }
}

/// A place in a tree, reached by names and numbers. Where something was not written, the table it is missing from.
#[derive(Clone, Copy, Debug)]
pub struct Spot<'a> {
    /// The deepest node on the way that exists.
    pub node: &'a Node,
    /// Whether that is where the way led.
    pub exact: bool,
}

impl<'a> Spot<'a> {
    /// Into a table.
    #[must_use]
    pub fn key(self, name: &str) -> Spot<'a> {
        match self.node.get(name) {
            Some(node) if self.exact => Spot { node, exact: true },
            _ => Spot { node: self.node, exact: false },
        }
    }

    /// Into a list.
    #[must_use]
    pub fn index(self, index: usize) -> Spot<'a> {
        match &self.node.value {
            Value::List(items) if self.exact => match items.get(index) {
                Some(node) => Spot { node, exact: true },
                None => Spot { node: self.node, exact: false },
            },
            _ => Spot { node: self.node, exact: false },
        }
    }
}

impl From<Spot<'_>> for Place {
    fn from(spot: Spot<'_>) -> Place {
        let headed = matches!(spot.node.value, Value::Table(_) | Value::List(_));
        if spot.exact && !headed { spot.node.place() } else { spot.node.key_place() }
    }
}

/// Reads `source`. The second is where a bracket that was never closed makes the rest of the tree worthless; its end
/// if there is none.
pub fn parse(source: &Arc<Source>, problems: &mut Problems) -> (Node, usize) {
    let (table, errors) = DeTable::parse_recoverable(source.text());
    let trusted = syntax(source, errors, problems);
    let value = table_value(source, table.into_inner());
    (Node { source: Arc::clone(source), range: 0..0, key: None, value }, trusted)
}

/// Reads one value, as an environment variable gives it.
pub fn parse_value(source: &Arc<Source>) -> Option<Node> {
    let value = DeValue::parse(source.text()).ok()?;
    Some(node(source, None, value))
}

fn node(source: &Arc<Source>, key: Option<Range<usize>>, value: Spanned<DeValue<'_>>) -> Node {
    let range = value.span();
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => {
            let digits = number.as_str().replace('_', "");
            i128::from_str_radix(&digits, number.radix())
                .map_or(Value::Float(f64::INFINITY), Value::Integer)
        }
        DeValue::Float(number) => {
            Value::Float(number.as_str().replace('_', "").parse().unwrap_or(f64::NAN))
        }
        DeValue::Boolean(yes) => Value::Bool(yes),
        DeValue::Datetime(moment) => Value::Moment(moment.to_string()),
        DeValue::Array(items) => {
            Value::List(items.into_iter().map(|item| node(source, None, item)).collect())
        }
        DeValue::Table(table) => table_value(source, table),
    };
    Node { source: Arc::clone(source), range, key, value }
}

fn table_value(source: &Arc<Source>, table: DeTable<'_>) -> Value {
    let mut entries: Vec<(String, Node)> = table
        .into_iter()
        .map(|(key, value)| {
            let span = key.span();
            (key.into_inner().into_owned(), node(source, Some(span), value))
        })
        .collect();
    entries.sort_by_key(|(_, node)| node.key.as_ref().map(|k| k.start));
    Value::Table(entries)
}

/// Turns the parser's errors into problems: one a line, and one for a bracket that was never closed instead of one
/// for every line that it swallowed.
fn syntax(
    source: &Arc<Source>,
    mut errors: Vec<toml::de::Error>,
    problems: &mut Problems,
) -> usize {
    let start = |e: &toml::de::Error| e.span().map_or(0, |s| s.start);
    errors.sort_by_key(start);
    let unclosed = |e: &&toml::de::Error| {
        ["unclosed array", "unclosed inline"].iter().any(|m| e.message().starts_with(m))
    };
    let swallowed = |e: &toml::de::Error| {
        e.message().starts_with("unclosed a") && !e.message().contains("array table")
            || ["missing comma", "in array", "inline table"].iter().any(|m| e.message().contains(m))
    };
    let mut trusted = source.text().len();
    let mut told_lines = Vec::new();
    let mut rest = errors.as_slice();
    while let Some((error, after)) = rest.split_first() {
        let end = rest
            .iter()
            .find(unclosed)
            .filter(|e| swallowed(error) && !e.message().contains("array table"));
        let span = error.span().unwrap_or_default();
        let line = source.position(span.start).line;
        if !told_lines.contains(&line) {
            let place = Place::bytes(source, underlined(source, &span));
            problems.push(syntax_problem(place, end.unwrap_or(error).message()));
        }
        told_lines.push(line);
        if end.is_some() {
            trusted = trusted.min(span.start);
        }
        rest = end.map_or(after, |end| after_error(after, start(end)));
    }
    trusted
}

/// The errors behind a byte.
fn after_error(errors: &[toml::de::Error], byte: usize) -> &[toml::de::Error] {
    let first = errors.iter().position(|e| e.span().is_some_and(|s| s.start > byte));
    first.and_then(|at| errors.get(at..)).unwrap_or_default()
}

/// What the parser says, and how a person who does not know the grammar would say it.
const SAID: [(&str, &str); 9] = [
    ("unclosed array table", "the name of this table is not closed"),
    ("unclosed array", "a list is not closed before this"),
    ("unclosed inline table", "a table in braces is not closed before this"),
    ("unclosed table", "the name of this table is not closed"),
    ("string values must be quoted", "this is no value; text stands in quotes"),
    ("invalid basic string", "this text is not closed"),
    ("invalid literal string", "this text is not closed"),
    ("key with no value", "this key has no value"),
    ("duplicate key", "this key stands here twice"),
];

/// "what, expected this" of the parser, in our form.
fn syntax_problem(place: Place, message: &str) -> Problem {
    let (what, expected) = match message.split_once(", expected ") {
        Some((what, expected)) => (what, Some(expected)),
        None => (message, None),
    };
    let what = SAID.iter().find(|(said, _)| *said == what).map_or(what, |(_, ours)| ours);
    let mut problem = Problem::error(place, what);
    problem.expected = expected.map(|e| match e {
        "literal string" => "\"text\", a number, true or false, [a list] or { a table }".to_owned(),
        other => other.to_owned(),
    });
    problem
}

/// The parser marks some mistakes by an empty place; an underline needs a character: the one there, else the last
/// of the line, else the last before.
fn underlined(source: &Source, span: &Range<usize>) -> Range<usize> {
    if !span.is_empty() {
        return span.clone();
    }
    let text = source.text();
    let at = span.start.min(text.len());
    let here = text.get(at..).and_then(|t| t.chars().next()).filter(|c| !c.is_whitespace());
    if let Some(c) = here {
        return at..at + c.len_utf8();
    }
    let before = text.get(..at).unwrap_or_default().trim_end();
    let last = before.chars().next_back().map_or(0, char::len_utf8);
    before.len() - last..before.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Node, Problems) {
        let mut problems = Problems::default();
        let (node, _) = parse(&Source::named("x.toml", text), &mut problems);
        (node, problems)
    }

    #[test]
    fn a_spot_ends_where_something_can_be_underlined() {
        let text = "[[stage]]\nclean = {}\n[[stage]]\nwindow = { length = \"5s\" }\n";
        let (node, problems) = read(text);
        assert!(problems.all.is_empty());
        let under = |spot: Spot<'_>| text[Place::from(spot).range].to_owned();
        let window = node.spot().key("stage").index(1).key("window");
        assert_eq!(under(window.key("length")), "\"5s\"");
        assert_eq!(under(window.key("every")), "window");
        assert_eq!(under(node.spot().key("stage").index(7)), "stage");
        assert_eq!(under(node.spot().key("stage").index(0).key("nothing")), "[[stage]]");
    }

    #[test]
    fn every_syntax_error_is_told_once() {
        let text = "a = \nb = 5s\nc = [1,\n2\nd = 3\ne = 4\n";
        let (_, problems) = read(text);
        let told: Vec<(usize, &str)> = problems
            .all
            .iter()
            .map(|p| (p.place.source.position(p.place.range.start).line, p.message.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                (1, "this is no value; text stands in quotes"),
                (2, "this is no value; text stands in quotes"),
                (5, "a list is not closed before this")
            ]
        );
    }
}
