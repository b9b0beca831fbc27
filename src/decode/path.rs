//! Paths into JSON documents, and the prepared tree that a document is walked along.
//!
//! [`super::json`] builds a [`Tree`] once for each format, with what every place means, and then follows it through
//! each document without comparing paths. A field that is in no tree is passed over unread.

use std::fmt;

use super::DecodeError;

/// Where a value is: names from the outside in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path(Vec<String>);

impl Path {
    /// From `data.values`; a literal dot is written `\.` (and a backslash `\\`). No name may be empty.
    pub(crate) fn parse(setting: &'static str, text: &str) -> Result<Path, DecodeError> {
        let bad = || DecodeError::BadPath { setting, path: text.to_owned() };
        let mut names = vec![String::new()];
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let name = names.last_mut().expect("invariant: starts with one name");
            match c {
                '\\' => match chars.next() {
                    Some(escaped @ ('.' | '\\')) => name.push(escaped),
                    _ => return Err(bad()),
                },
                '.' => names.push(String::new()),
                c => name.push(c),
            }
        }
        if names.iter().any(String::is_empty) {
            return Err(bad());
        }
        Ok(Path(names))
    }

    /// A single name, dots and all.
    pub(crate) fn field(name: &str) -> Path {
        Path(vec![name.to_owned()])
    }

    /// This path, seen from outside `base`.
    pub(crate) fn within(&self, base: Option<&Path>) -> Path {
        let outer = base.map_or(&[][..], |b| &b.0);
        Path(outer.iter().chain(&self.0).cloned().collect())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// What a place in a document means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// An object on the way to something.
    Inside,
    /// The time.
    Time,
    /// The quality.
    Quality,
    /// The asset's id.
    Asset,
    /// The name of a signal.
    Name,
    /// The value that belongs to the name.
    Value,
    /// The value of this signal.
    Signal(u16),
    /// An array of readings.
    Each,
}

/// A place in a document.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Its path, for messages.
    pub(crate) path: String,
    /// What it means.
    pub(crate) role: Role,
    /// Whether its fields are signals, so that those nobody knows are counted.
    pub(crate) open: bool,
    children: Vec<(String, usize)>,
    /// Positions in `children`, by name.
    sorted: Vec<usize>,
}

/// Places by index; 0 is the document.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    /// Of the document alone.
    pub(crate) fn new() -> Tree {
        Tree { nodes: vec![Node::new(String::new())] }
    }

    /// The place at `index`.
    pub(crate) fn node(&self, index: usize) -> Option<&Node> {
        self.nodes.get(index)
    }

    /// Gives the place at `path` a meaning; false where it, or a place on the way there, has one already.
    pub(crate) fn insert(&mut self, path: &Path, role: Role) -> bool {
        let mut at = 0;
        for name in &path.0 {
            if self.nodes[at].role != Role::Inside {
                return false;
            }
            at = self.child_or_new(at, name);
        }
        let node = &mut self.nodes[at];
        let free = node.role == Role::Inside && node.children.is_empty() && !node.open;
        if free {
            node.role = role;
        }
        free
    }

    /// Makes the fields of the object at `path` signals.
    pub(crate) fn open(&mut self, path: Option<&Path>) -> bool {
        let mut at = 0;
        for name in path.map_or(&[][..], |p| &p.0) {
            if self.nodes[at].role != Role::Inside {
                return false;
            }
            at = self.child_or_new(at, name);
        }
        let node = &mut self.nodes[at];
        node.open = node.role == Role::Inside;
        node.open
    }

    fn child_or_new(&mut self, at: usize, name: &str) -> usize {
        if let Some(child) = self.nodes[at].children.iter().find(|c| c.0 == name) {
            return child.1;
        }
        let path = match self.nodes[at].path.as_str() {
            "" => name.to_owned(),
            outer => format!("{outer}.{name}"),
        };
        let index = self.nodes.len();
        self.nodes.push(Node::new(path));
        let node = &mut self.nodes[at];
        let sorted = node.sorted.partition_point(|&i| node.children[i].0.as_str() < name);
        node.sorted.insert(sorted, node.children.len());
        node.children.push((name.to_owned(), index));
        index
    }
}

impl Node {
    fn new(path: String) -> Node {
        Node { path, role: Role::Inside, open: false, children: Vec::new(), sorted: Vec::new() }
    }

    /// The place of field `name`. `guess` is where the caller expects it: devices write their fields in one order, and
    /// mostly in the schema's, so one comparison is enough for nearly all of them.
    pub(crate) fn child(&self, name: &str, guess: &mut usize) -> Option<usize> {
        if let Some(child) = self.children.get(*guess)
            && child.0 == name
        {
            *guess += 1;
            return Some(child.1);
        }
        let found =
            self.sorted.binary_search_by(|&i| self.children[i].0.as_str().cmp(name)).ok()?;
        let position = self.sorted[found];
        *guess = position + 1;
        Some(self.children[position].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_escapes_and_no_empty_names() {
        let path = |text| Path::parse("time", text);
        assert_eq!(path("a.b").unwrap().0, ["a", "b"]);
        assert_eq!(path(r"a\.b.c\\d").unwrap().0, ["a.b", r"c\d"]);
        for bad in ["", ".", "a.", ".a", "a..b", r"a\", r"a\n"] {
            assert!(path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_tree_finds_what_was_put_in_whatever_the_order() {
        let mut tree = Tree::new();
        let names = ["ts", "zeta", "alpha", "mid", "beta"];
        for (i, name) in names.iter().enumerate() {
            assert!(tree.insert(&Path::field(name), Role::Signal(i as u16)));
        }
        assert!(!tree.insert(&Path::field("ts"), Role::Time), "taken");
        assert!(!tree.insert(&Path(vec!["ts".into(), "x".into()]), Role::Time), "through a value");
        assert!(!tree.insert(&Path(vec![]), Role::Time), "the document has fields");
        let root = tree.node(0).unwrap();
        for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]] {
            let mut guess = 0;
            for i in order {
                let child = root.child(names[i], &mut guess).unwrap();
                assert_eq!(tree.node(child).unwrap().role, Role::Signal(i as u16));
            }
            assert_eq!(root.child("other", &mut guess), None);
        }
    }
}
