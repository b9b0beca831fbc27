//! A text and its lines; what a secret says is blacked out before anybody sees it.
//!
//! Made by `config::load` and `pipeline::load` for every file and every environment variable that is read.

use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Largest file that is taken for a config, a schema or a pipeline.
const LARGEST: u64 = 1 << 20;

/// Keys whose value may be a secret that somebody typed in by mistake.
const SECRET_KEYS: &[&str] =
    &["password", "passwd", "token", "secret", "authorization", "api-key", "api_key"];

/// A file or an environment variable as text.
#[derive(Debug)]
pub struct Source {
    /// What a person calls it: its path, or the variable's name.
    pub name: String,
    text: String,
    shown: String,
}

/// A place as people count: from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It is not there, or not for us.
    #[error("cannot be read: {}", io_reason(.0))]
    Io(#[from] std::io::Error),
    /// A folder.
    #[error("is a folder; name the file")]
    Folder,
    /// Too large to have been written by hand.
    #[error("has {0} bytes; a configuration file has at most {LARGEST}")]
    Large(u64),
    /// Not text.
    #[error("is not UTF-8 text (byte {0}); save it as UTF-8")]
    NotText(usize),
}

impl Source {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Arc<Source>, SourceError> {
        let meta = std::fs::metadata(path)?;
        if meta.is_dir() {
            return Err(SourceError::Folder);
        }
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > LARGEST {
            return Err(SourceError::Large(meta.len().max(LARGEST + 1)));
        }
        let text = String::from_utf8(bytes)
            .map_err(|e| SourceError::NotText(e.utf8_error().valid_up_to() + 1))?;
        Ok(Arc::new(Source::new(shown_path(path), false, text)))
    }

    /// A file that could not be read: a place to hang the problem on.
    pub fn unread(path: &Path) -> Arc<Source> {
        Arc::new(Source::new(shown_path(path), false, String::new()))
    }

    /// A text without a file: an environment variable.
    pub fn named(name: impl Into<String>, text: impl Into<String>) -> Arc<Source> {
        Arc::new(Source::new(name.into(), true, text.into()))
    }

    fn new(name: String, may_be_secret: bool, text: String) -> Source {
        let lower = name.to_lowercase();
        let secret = may_be_secret && SECRET_KEYS.iter().any(|key| lower.contains(key));
        let shown = if secret && !text.starts_with('{') { stars(&text) } else { black_out(&text) };
        Source { name, text, shown }
    }

    /// The text as it is: for parsing only.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text as it may be printed; byte for byte as long.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Line and column of a byte.
    pub fn position(&self, byte: usize) -> Position {
        let before = &self.text[..floor(&self.text, byte)];
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.matches('\n').count() + 1;
        let mark =
            if start == 0 { before.trim_start_matches('\u{feff}') } else { &before[start..] };
        Position { line, column: mark.chars().count() + 1 }
    }

    /// The byte range of the line that holds `byte`, without its line break.
    pub fn line(&self, byte: usize) -> Range<usize> {
        let byte = floor(&self.text, byte);
        let start = self.text[..byte].rfind('\n').map_or(0, |at| at + 1);
        let end = self.text[byte..].find('\n').map_or(self.text.len(), |at| byte + at);
        start..start + self.text[start..end].trim_end_matches('\r').len()
    }
}

/// An I/O error without its number.
pub(crate) fn io_reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "it does not exist".into(),
        std::io::ErrorKind::PermissionDenied => "permission denied".into(),
        std::io::ErrorKind::NotADirectory => "it is a file".into(),
        _ => error.to_string(),
    }
}

/// The nearest character boundary that is not after `byte`.
fn floor(text: &str, byte: usize) -> usize {
    let mut byte = byte.min(text.len());
    while !text.is_char_boundary(byte) {
        byte -= 1;
    }
    byte
}

/// A path as people type it: from the current folder where it is below that.
pub fn shown_path(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let short = here.as_deref().and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path);
    let text = short.display().to_string();
    text.strip_prefix("./").map_or(text.clone(), str::to_owned)
}

/// Replaces what follows a secret's key by stars, and user and password in a URL, byte by byte. A table
/// (`{ env = … }`) says only where the secret is, and stays.
fn black_out(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let url = line.find("://").and_then(|at| {
            let end = line[at..].find(['"', '\'', ' ']).map_or(line.len(), |e| at + e);
            line[at..end].rfind('@').map(|sign| at + 3..at + sign)
        });
        let mut hidden: Vec<Range<usize>> = secrets_in(line).chain(url).collect();
        hidden.sort_by_key(|range| range.start);
        let mut from = 0;
        for range in hidden {
            let start = range.start.max(from);
            let end = range.end.max(start);
            out.push_str(&line[from..start]);
            out.push_str(&stars(&line[start..end]));
            from = end;
        }
        out.push_str(&line[from..]);
    }
    out
}

/// As many stars as there are bytes; spaces stay.
fn stars(text: &str) -> String {
    let star = |c: char| match c {
        c if c.is_whitespace() => c.to_string(),
        c => "*".repeat(c.len_utf8()),
    };
    text.chars().map(star).collect()
}

/// The values of secrets' keys in `line`.
fn secrets_in(line: &str) -> impl Iterator<Item = Range<usize>> {
    let lower = line.to_ascii_lowercase();
    let comment = lower.trim_start().starts_with('#');
    let ends = SECRET_KEYS.iter().flat_map(|key| {
        lower.match_indices(key).map(|(at, key)| at + key.len()).collect::<Vec<_>>()
    });
    let found: Vec<Range<usize>> = ends.filter_map(|after| value_after(line, after)).collect();
    found.into_iter().filter(move |_| !comment)
}

/// The value, if an equals sign follows at `after` and it is not a table: a closed text up to its end, anything else
/// up to the end of the line.
fn value_after(line: &str, after: usize) -> Option<Range<usize>> {
    let rest = line[after..].trim_start_matches(['"', '\'']);
    let value = rest.trim_start().strip_prefix('=')?.trim_start();
    if value.is_empty() || value.starts_with(['{', '#']) {
        return None;
    }
    let start = line.len() - value.len();
    let quote = value.chars().next().filter(|c| ['"', '\''].contains(c));
    let closed = quote.and_then(|quote| value[1..].find(quote)).map(|at| start + at + 2);
    // A backslash may hide a quote: then nothing after it is sure.
    let end = closed.filter(|end| !line[start..*end].contains('\\')).unwrap_or(line.len());
    Some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_and_lines() {
        let source = Source::named("x", "\u{feff}a = 1\r\nµß = \"é\" # z\n\nlast");
        let at = |needle: &str| source.position(source.text().find(needle).unwrap());
        assert_eq!(at("a ="), Position { line: 1, column: 1 });
        assert_eq!(at("# z"), Position { line: 2, column: 10 });
        assert_eq!(at("last"), Position { line: 4, column: 1 });
        assert_eq!(source.position(usize::MAX), Position { line: 4, column: 5 });
        assert_eq!(&source.text()[source.line(6)], "\u{feff}a = 1");
    }

    #[test]
    fn secrets_are_not_shown_and_nothing_moves() {
        for (text, hidden) in [
            ("password = \"hunter2\"\n", "hunter2"),
            ("password = hünter2", "nter2"),
            ("mqtt = { url = \"mqtt://h\", password = \"pa ss\" }", "pa ss"),
            ("headers = { \"X-Api-Key\" = \"abcdef\" }", "abcdef"),
            ("\"Authorization\" = 'Basic abc'", "abc"),
            ("url = \"mqtt://u:pässw@rd@host:1883\" # x@y", "u:p"),
        ] {
            let source = Source::named("x", text);
            assert!(!source.shown().contains(hidden), "{}", source.shown());
            assert_eq!(source.shown().len(), text.len());
        }
        let kept = "password = { env = \"BROKER_PASSWORD\" }";
        assert_eq!(Source::named("x", kept).shown(), kept);
    }
}
