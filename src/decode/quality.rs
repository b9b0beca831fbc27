//! Quality as payloads write it, brought to good, uncertain or bad (OPC UA Part 8).
//!
//! Called by [`super::json`] and by recordings. What cannot be understood is `None`: the caller takes the reading as
//! uncertain, because nobody vouches for it.

use crate::frame::Quality;

/// From text: the names of OPC UA status codes (`Good`, `GoodClamped`, `UncertainLastUsableValue`, `BadTimeout`) in
/// any case, `true` and `false`, `ok`, or a number.
pub(crate) fn from_text(text: &str) -> Option<Quality> {
    let text = text.trim();
    if let Ok(number) = text.parse::<i64>() {
        return from_number(number);
    }
    let starts = |word: &str| text.get(..word.len()).is_some_and(|t| t.eq_ignore_ascii_case(word));
    if starts("good") || text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("ok") {
        Some(Quality::Good)
    } else if starts("uncertain") {
        Some(Quality::Uncertain)
    } else if starts("bad") || text.eq_ignore_ascii_case("false") {
        Some(Quality::Bad)
    } else {
        None
    }
}

/// From a number. OPC UA status codes say it in their two top bits, so 0 is good. Below 256 there is no other code:
/// such a number is a quality of OPC DA (192 good, 64 uncertain, else bad). 500 is Sparkplug's stale.
pub(crate) fn from_number(code: i64) -> Option<Quality> {
    match code {
        0 => Some(Quality::Good),
        1..=255 => Some(match code >> 6 {
            3 => Quality::Good,
            1 => Quality::Uncertain,
            _ => Quality::Bad,
        }),
        500 => Some(Quality::Uncertain),
        // A status code is unsigned; some clients print it as a signed 32 bit number.
        _ if code >= i64::from(i32::MIN) && code <= i64::from(u32::MAX) => {
            Some(match (code as u32) >> 30 {
                0 => Quality::Good,
                1 => Quality::Uncertain,
                _ => Quality::Bad,
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_say_it() {
        use Quality::{Bad, Good, Uncertain};
        let numbers = [
            (0, Good),
            (192, Good),
            (216, Good),
            (64, Uncertain),
            (80, Uncertain),
            (4, Bad),
            (28, Bad),
            (500, Uncertain),
            (0x0096_0000, Good),
            (0x4090_0000, Uncertain),
            (0x808A_0000, Bad),
            (i64::from(0x808A_0000_u32 as i32), Bad),
        ];
        for (code, quality) in numbers {
            assert_eq!(from_number(code), Some(quality), "{code:#x}");
            assert_eq!(from_text(&code.to_string()), Some(quality), "{code}");
        }
        for (text, quality) in [
            ("GOOD", Good),
            ("Good_Clamped", Good),
            ("uncertainLastUsableValue", Uncertain),
            ("BAD", Bad),
            (" BadTimeout ", Bad),
            ("true", Good),
            ("false", Bad),
        ] {
            assert_eq!(from_text(text), Some(quality), "{text}");
        }
        for text in ["", "fine", "gut", "1e3"] {
            assert_eq!(from_text(text), None, "{text}");
        }
        assert_eq!(from_number(1 << 40), None);
    }
}
