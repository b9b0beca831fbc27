//! Holds a tree against the JSON Schema of the type it is meant to be.
//!
//! The schema is derived from the same type that is then deserialised, so there is one description of what may be
//! written, and this is its only reader. [`walk`] finds unknown and missing keys, wrong types, wrong choices, numbers
//! out of range, lengths of time and sizes without a unit; and gives what is right as JSON, so that rules can
//! still look at the rest of a file with mistakes.

use serde_json::{Map, Number, Value as Json};

use super::nearest::{list, nearest};
use super::units::{self, Wrong};
use super::{Node, Problem, Problems, Value};

/// What of `node` fits `schema`. A list keeps its length (what does not fit is null in it), other things that do not
/// fit are left out; where a table needs them, something empty stands in for them. With `whole` false (the text has syntax errors) nothing is called missing.
pub fn walk(node: &Node, schema: &Json, whole: bool, problems: &mut Problems) -> Map<String, Json> {
    let mut walker = Walker { root: schema, whole, problems };
    walker.table(node, schema, "this file").0
}

/// The schema of the thing at `path` (names only) below `schema`: which type an environment variable is meant to have.
pub fn schema_at<'a>(schema: &'a Json, path: &[&str]) -> Option<&'a Json> {
    let mut here = resolve(schema, schema).0;
    for name in path {
        let direct = here.pointer("/properties").and_then(|p| p.get(name));
        let variant = || variants(here).find(|(key, _)| key == name).map(|(_, sub)| sub);
        let other = || here.get("additionalProperties").filter(|s| s.is_object());
        here = resolve(schema, direct.or_else(variant).or_else(other)?).0;
    }
    Some(here)
}

/// Follows references and takes the part that is not null; also the name of the definition, if it has one.
fn resolve<'a>(root: &'a Json, schema: &'a Json) -> (&'a Json, Option<&'a str>) {
    let mut here = schema;
    let mut name = None;
    loop {
        let reference = here.get("$ref").and_then(Json::as_str);
        let not_null = |s: &&Json| s.get("type").and_then(Json::as_str) != Some("null");
        let part = here.get("anyOf").and_then(Json::as_array).and_then(|a| a.iter().find(not_null));
        let target = reference.and_then(|r| root.pointer(r.trim_start_matches('#')));
        name = reference.and_then(|r| r.rsplit('/').next()).or(name);
        match target.or(part) {
            Some(next) => here = next,
            None => return (here, name),
        }
    }
}

/// The variants of an externally tagged choice: name, and schema of what it holds.
fn variants(schema: &Json) -> impl Iterator<Item = (&str, &Json)> {
    let all = schema.get("oneOf").and_then(Json::as_array).into_iter().flatten();
    all.filter_map(|v| v.get("properties")?.as_object()?.iter().next())
        .map(|(k, v)| (k.as_str(), v))
}

/// The words of a choice of words.
fn words(schema: &Json) -> impl Iterator<Item = &str> {
    let all = schema.get("oneOf").and_then(Json::as_array).into_iter().flatten();
    all.filter_map(|v| v.get("const")?.as_str())
}

struct Walker<'a> {
    root: &'a Json,
    whole: bool,
    problems: &'a mut Problems,
}

impl Walker<'_> {
    fn push(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    fn value(&mut self, node: &Node, schema: &Json, name: &str) -> Option<Json> {
        let root = self.root;
        let (schema, definition) = resolve(root, schema);
        if definition == Some("Secret") && !matches!(node.value, Value::Table(_)) {
            self.secret(node, name);
            return None;
        }
        if words(schema).next().is_some() {
            return self.word(node, schema, name);
        }
        if variants(schema).next().is_some() {
            return self.tagged(node, schema, name);
        }
        match type_of(schema) {
            "object" => {
                let (map, complete) = self.table(node, schema, name);
                complete.then_some(Json::Object(map))
            }
            "array" => self.list(node, schema, name),
            "string" => self.text(node, schema, name),
            "integer" => self.integer(node, schema, name),
            "number" => self.number(node, name),
            "boolean" => match node.value {
                Value::Bool(yes) => Some(Json::Bool(yes)),
                _ => self.wrong_type(node, name, "true or false", boolean_meant(node)),
            },
            _ => None,
        }
    }

    /// A table and whether it has all it needs.
    fn table(&mut self, node: &Node, schema: &Json, name: &str) -> (Map<String, Json>, bool) {
        let root = self.root;
        let (schema, _) = resolve(root, schema);
        let mut map = Map::new();
        let Value::Table(entries) = &node.value else {
            self.wrong_type::<()>(node, name, "a table", None);
            return (map, false);
        };
        let known = schema.get("properties").and_then(Json::as_object);
        let rest = schema.get("additionalProperties").filter(|s| s.is_object());
        let mut meant: Vec<String> = Vec::new();
        for (key, child) in entries {
            if let Some(sub) = known.and_then(|k| k.get(key)).or(rest) {
                if let Some(value) = self.value(child, sub, &format!("`{key}`")) {
                    map.insert(key.clone(), value);
                }
            } else {
                meant.extend(self.unknown_key(node, key, child, known, name));
            }
        }
        let needed = schema.get("required").and_then(Json::as_array).into_iter().flatten();
        let mut complete = true;
        for key in needed.filter_map(Json::as_str) {
            if map.contains_key(key) {
                continue;
            }
            let sub = known.and_then(|k| k.get(key));
            if self.whole && node.get(key).is_none() && !meant.iter().any(|m| m == key) {
                self.missing_key(node, key, sub, name);
            }
            match sub.and_then(|sub| placeholder(resolve(root, sub).0)) {
                Some(value) => drop(map.insert(key.to_owned(), value)),
                None => complete = false,
            }
        }
        (map, complete)
    }

    /// Tells of a key that is not known here; gives the key that was meant.
    fn unknown_key(
        &mut self,
        table: &Node,
        key: &str,
        child: &Node,
        known: Option<&Map<String, Json>>,
        name: &str,
    ) -> Option<String> {
        let names = || known.into_iter().flat_map(Map::keys).map(String::as_str);
        let free = names().filter(|k| table.get(k).is_none());
        let near = nearest(key, free).or_else(|| nearest(key, names()));
        let home = if near.is_some() { None } else { self.home_of(key) };
        let suggestion = match (near, home) {
            (Some(near), _) => Some(format!("`{near}`")),
            (None, Some(home)) => Some(format!("`{key}` in {home}, where it belongs")),
            (None, None) => None,
        };
        let problem = Problem::error(child.key_place(), format!("unknown key `{key}` in {name}"))
            .found(format!("`{key}`"))
            .expected(list(names(), 12))
            .suggest_nearest(suggestion);
        self.push(problem);
        near.map(str::to_owned)
    }

    /// The table of this file in which a key is known.
    fn home_of(&self, key: &str) -> Option<String> {
        let has = |s: &Json| {
            resolve(self.root, s).0.pointer("/properties").is_some_and(|p| p.get(key).is_some())
        };
        let tables = self.root.get("properties")?.as_object()?;
        if tables.contains_key(key) {
            return Some("the top of the file".into());
        }
        if let Some((table, _)) = tables.iter().find(|(_, sub)| has(sub)) {
            return Some(format!("`[{table}]`"));
        }
        let items = tables.get("stage").and_then(|s| s.get("items"))?;
        let found = variants(resolve(self.root, items).0).find(|(_, sub)| has(sub));
        found.map(|(stage, _)| format!("a `{stage}` stage"))
    }

    fn missing_key(&mut self, table: &Node, key: &str, schema: Option<&Json>, name: &str) {
        let expected = schema.map(|s| self.describe(s)).unwrap_or_default();
        let said = schema.and_then(|s| s.get("description")).and_then(Json::as_str);
        let meaning = said.and_then(|d| d.lines().next()).unwrap_or_default();
        let expected =
            format!("`{key}`, {expected}: {}", lower_first(meaning.trim_end_matches('.')));
        let problem =
            Problem::error(table.key_place(), format!("key `{key}` is missing from {name}"))
                .found(format!("no `{key}`"))
                .expected(expected);
        self.push(problem);
    }

    fn tagged(&mut self, node: &Node, schema: &Json, name: &str) -> Option<Json> {
        let names = || variants(schema).map(|(n, _)| n);
        let expected = || format!("a table with one of {}", list(names(), 12));
        let Value::Table(entries) = &node.value else {
            let near = node.text().and_then(|t| nearest(t, names()));
            let meant = near.map(|n| format!("`{{ {n} = {{ … }} }}`"));
            return self.wrong_type(node, name, &expected(), meant);
        };
        let mut chosen: Option<(&str, Option<Json>)> = None;
        let mut told = false;
        for (key, child) in entries {
            let Some((_, sub)) = variants(schema).find(|(n, _)| n == key) else {
                let near = nearest(key, names()).map(|n| format!("`{n}`"));
                self.push(
                    Problem::error(child.key_place(), format!("{name} cannot be `{key}`"))
                        .found(format!("`{key}`"))
                        .expected(list(names(), 12))
                        .suggest_nearest(near),
                );
                told = true;
                continue;
            };
            let value = self.value(child, sub, &format!("`{key}`"));
            match &chosen {
                None => chosen = Some((key, value)),
                Some((first, _)) => self.push(
                    Problem::error(
                        child.key_place(),
                        format!("{name} is `{first}` already and cannot be `{key}` too"),
                    )
                    .found(format!("`{first}` and `{key}` in one table"))
                    .expected("one of them in each table")
                    .suggest(format!("a table of its own for `{key}`")),
                ),
            }
        }
        if chosen.is_none() && !told && self.whole {
            self.push(
                Problem::error(node.key_place(), format!("{name} does not say what it is"))
                    .found("an empty table")
                    .expected(expected()),
            );
        }
        let (key, value) = chosen?;
        Some(Json::Object(Map::from_iter([(key.to_owned(), value?)])))
    }

    fn word(&mut self, node: &Node, schema: &Json, name: &str) -> Option<Json> {
        let expected = list(words(schema), 12);
        let written = node.said();
        let bare = written.trim_matches('`');
        match &node.value {
            Value::Text(text) if words(schema).any(|w| w == text) => {
                Some(Json::String(text.clone()))
            }
            Value::Text(text) => {
                let near = nearest(text, words(schema)).map(|w| format!("\"{w}\""));
                let message = format!("{name} cannot be `{text}`");
                self.push(
                    Problem::error(node.place(), message)
                        .found(written)
                        .expected(expected)
                        .suggest_nearest(near),
                );
                None
            }
            _ => {
                let quoted = words(schema).find(|w| *w == bare).map(|w| format!("\"{w}\""));
                self.wrong_type(node, name, &expected, quoted)
            }
        }
    }

    fn list(&mut self, node: &Node, schema: &Json, name: &str) -> Option<Json> {
        let Value::List(items) = &node.value else {
            let header =
                node.source.text().get(node.range.clone()).is_some_and(|t| t.starts_with('['));
            let meant = match &node.value {
                Value::Table(_) if header => Some(format!("`[{}]`", node.said().trim_matches('`'))),
                Value::Text(text) => Some(format!("[\"{text}\"]")),
                _ => None,
            };
            return self.wrong_type(node, name, "a list", meant);
        };
        let item = schema.get("items")?;
        let one = name.trim_matches('`');
        let values = items.iter().enumerate().map(|(index, child)| {
            self.value(child, item, &format!("`{one}` {}", index + 1)).unwrap_or(Json::Null)
        });
        let values: Vec<Json> = values.collect();
        let plain = type_of(resolve(self.root, item).0) == "string";
        Some(Json::Array(values.into_iter().filter(|v| !(plain && v.is_null())).collect()))
    }

    fn text(&mut self, node: &Node, schema: &Json, name: &str) -> Option<Json> {
        type Check = fn(&str) -> Option<Wrong>;
        let (expected, check): (&str, Check) = match schema.get("format").and_then(Json::as_str) {
            Some("duration-text") => (units::SPAN, units::span),
            Some("step-text") => (units::STEP, units::step),
            Some("byte-size") => (units::SIZE, units::size),
            Some("date-time") => (units::MOMENT, units::moment),
            _ => ("text in quotes", |_| None),
        };
        let Value::Text(text) = &node.value else {
            let bare = node.said().trim_matches('`').to_owned();
            let scalar = !matches!(node.value, Value::Table(_) | Value::List(_));
            let meant = match check(&bare) {
                Some(wrong) => wrong.suggestion,
                None => Some(format!("\"{bare}\"")),
            };
            return self.wrong_type(node, name, expected, meant.filter(|_| scalar));
        };
        match check(text) {
            None => Some(Json::String(text.clone())),
            Some(wrong) => {
                self.push(
                    Problem::error(node.place(), format!("{name}: {}", wrong.message))
                        .found(node.said())
                        .expected(expected)
                        .suggest_nearest(wrong.suggestion),
                );
                None
            }
        }
    }

    fn integer(&mut self, node: &Node, schema: &Json, name: &str) -> Option<Json> {
        let Value::Integer(number) = node.value else {
            let meant = match &node.value {
                Value::Float(f) if f.fract() == 0.0 && f.abs() < 1e15 => Some(format!("{f:.0}")),
                Value::Text(t) if t.trim().parse::<i64>().is_ok() => Some(t.trim().to_owned()),
                _ => None,
            };
            return self.wrong_type(node, name, "a whole number", meant);
        };
        let limit = |key: &str| schema.get(key).and_then(Json::as_i64).map(i128::from);
        let least = limit("minimum").unwrap_or(i128::from(i64::MIN));
        let most = limit("maximum").unwrap_or(i128::from(i64::MAX));
        if number < least || number > most {
            let expected = if limit("maximum").is_some() {
                format!("a whole number from {least} to {most}")
            } else {
                format!("a whole number of at least {least}")
            };
            let what = if number < least { "small" } else { "large" };
            self.push(
                Problem::error(node.place(), format!("{name} is too {what}"))
                    .found(node.said())
                    .expected(expected),
            );
            return None;
        }
        i64::try_from(number).ok().map(|n| Json::Number(Number::from(n)))
    }

    fn number(&mut self, node: &Node, name: &str) -> Option<Json> {
        match &node.value {
            Value::Integer(n) => Number::from_f64(*n as f64).map(Json::Number),
            Value::Float(f) if f.is_finite() => Number::from_f64(*f).map(Json::Number),
            Value::Text(t) if t.trim().parse::<f64>().is_ok() => {
                let meant = Some(t.trim().to_owned());
                self.wrong_type(node, name, "a number", meant)
            }
            Value::Float(_) => self.wrong_type(node, name, "a finite number", None),
            _ => self.wrong_type(node, name, "a number", None),
        }
    }

    fn secret(&mut self, node: &Node, name: &str) {
        let variable = name.trim_matches('`').to_uppercase();
        let problem = Problem::error(
            node.place(),
            format!("{name} is a secret and is not written in a file"),
        )
        .found(node.kind())
        .expected("`{ env = \"NAME\" }` or `{ file = \"PATH\" }`")
        .suggest(format!("`{{ env = \"{variable}\" }}`, and set that variable"));
        self.push(problem);
    }

    fn wrong_type<T>(
        &mut self,
        node: &Node,
        name: &str,
        expected: &str,
        meant: Option<String>,
    ) -> Option<T> {
        let said = node.said();
        let kind = node.kind();
        let found = if said == kind { said } else { format!("{kind}, {said}") };
        let short =
            expected.split(" like ").next().unwrap_or(expected).trim_end_matches([',', ' ']);
        let problem = Problem::error(node.spot(), format!("{name} must be {short}"))
            .found(found)
            .expected(expected)
            .suggest_nearest(meant);
        self.push(problem);
        None
    }

    /// What a schema asks for, in words.
    fn describe(&self, schema: &Json) -> String {
        let (schema, _) = resolve(self.root, schema);
        if words(schema).next().is_some() {
            return list(words(schema), 12);
        }
        if variants(schema).next().is_some() {
            return format!("a table with one of {}", list(variants(schema).map(|(n, _)| n), 12));
        }
        match (type_of(schema), schema.get("format").and_then(Json::as_str)) {
            (_, Some("duration-text")) => units::SPAN.into(),
            (_, Some("step-text")) => units::STEP.into(),
            (_, Some("byte-size")) => units::SIZE.into(),
            ("string", _) => "text in quotes".into(),
            ("integer", _) => "a whole number".into(),
            ("number", _) => "a number".into(),
            ("boolean", _) => "true or false".into(),
            ("array", _) => "a list".into(),
            _ => "a table".into(),
        }
    }
}

/// What stands in for a needed value that is missing or wrong (which is told), so that rules can look at the values
/// beside it.
fn placeholder(schema: &Json) -> Option<Json> {
    let word = words(schema).next();
    let text = match (type_of(schema), schema.get("format").and_then(Json::as_str)) {
        (_, Some("duration-text" | "step-text")) => "0s",
        ("string", None) => word.unwrap_or_default(),
        _ => word?,
    };
    Some(Json::String(text.to_owned()))
}

/// The type a schema asks for, null aside.
fn type_of(schema: &Json) -> &str {
    match schema.get("type") {
        Some(Json::String(one)) => one,
        Some(Json::Array(several)) => {
            several.iter().filter_map(Json::as_str).find(|t| *t != "null").unwrap_or_default()
        }
        _ => "",
    }
}

fn boolean_meant(node: &Node) -> Option<String> {
    let word = node.text().map(str::to_lowercase);
    match (word.as_deref(), &node.value) {
        (Some("true" | "yes" | "on" | "1"), _) | (_, Value::Integer(1)) => Some("true".into()),
        (Some("false" | "no" | "off" | "0"), _) | (_, Value::Integer(0)) => Some("false".into()),
        _ => None,
    }
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_lowercase().to_string()).unwrap_or_default();
    let acronym = chars.as_str().starts_with(char::is_uppercase);
    if acronym { text.to_owned() } else { first + chars.as_str() }
}
