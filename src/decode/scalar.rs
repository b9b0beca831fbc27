//! Bare values: `21.5`, `"21.5"`, `true`. The topic, or the format, names the signal.
//!
//! Called by [`super::Decoder`]; [`number`] is also how JSON text and CSV fields become values.

use super::DecodeError;

/// What the format asks for, for messages.
pub(super) const EXPECTED: &str = "a number, true or false";

/// A value from text: a number, or `true` and `false` as 1 and 0. `nan` and `inf` are numbers here (`clean` counts and
/// drops them); digits too many for an f64 are not.
pub(crate) fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    match text.parse::<f64>() {
        Ok(value) if value.is_infinite() && text.bytes().any(|b| b.is_ascii_digit()) => None,
        Ok(value) => Some(value),
        Err(_) if text.eq_ignore_ascii_case("true") => Some(1.0),
        Err(_) if text.eq_ignore_ascii_case("false") => Some(0.0),
        Err(_) => None,
    }
}

/// Most words that are told apart.
pub const WORDS_MAX: usize = 256;
/// The number of the first word: beyond what anybody writes as a label.
const FIRST_WORD: f64 = (1_u64 << 40) as f64;

/// Words where numbers are expected, in columns of labels: each word is given a number. Of nothing else are words taken:
/// a sensor that says `fault` has no value.
#[derive(Clone, Debug, Default)]
pub struct Words(Option<Vec<String>>);

impl Words {
    /// Takes words.
    pub fn taken() -> Words {
        Words(Some(Vec::new()))
    }

    /// The number of a word; `None` where words are not taken, or there are too many.
    pub(crate) fn number(&mut self, text: &str) -> Option<f64> {
        let (known, text) = (self.0.as_mut()?, text.trim());
        let place = known.iter().position(|word| word == text).or_else(|| {
            let is_room = known.len() < WORDS_MAX && !text.is_empty();
            is_room.then(|| known.push(text.to_owned()))?;
            Some(known.len() - 1)
        });
        place.map(|place| FIRST_WORD + place as f64)
    }

    /// The word that has this number.
    pub fn word(&self, number: f64) -> Option<&str> {
        let known = self.0.as_deref().filter(|_| number >= FIRST_WORD)?;
        known.get((number - FIRST_WORD) as usize).map(String::as_str)
    }

    /// Whether another word would not be taken.
    pub fn is_full(&self) -> bool {
        self.0.as_ref().is_some_and(|known| known.len() >= WORDS_MAX)
    }
}

/// The value of a message; `None` for `null`.
pub(super) fn value(topic: &str, text: &str) -> Result<Option<f64>, DecodeError> {
    let trimmed = text.trim();
    let bare = trimmed.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(trimmed);
    match number(bare) {
        Some(value) => Ok(Some(value)),
        None if bare == "null" => Ok(None),
        None => Err(wrong(topic, format!("`{}`", super::shown(bare)))),
    }
}

fn wrong(topic: &str, found: String) -> DecodeError {
    DecodeError::WrongType {
        topic: topic.to_owned(),
        path: "the payload".into(),
        found,
        expected: EXPECTED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_what_is_none() {
        let cases = [("21.5", 21.5), (" \"-3e2\"\r\n", -300.0), ("true", 1.0), ("False", 0.0)];
        for (text, expected) in cases {
            assert_eq!(value("t", text), Ok(Some(expected)), "{text}");
        }
        assert_eq!(value("t", "null"), Ok(None));
        assert!(value("t", "NaN").unwrap().unwrap().is_nan());
        for text in ["21,5", "on", "{}", "0x10", "1e400", "21.5 bar", ""] {
            assert!(value("t", text).is_err(), "{text}");
        }
    }
}
