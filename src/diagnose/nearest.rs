//! The nearest right spelling.

/// The candidate that `wrong` was most likely meant to be; `None` where none is near.
pub fn nearest<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wrong = fold(wrong);
    let mut best: Option<(f64, &str)> = None;
    for candidate in candidates {
        let near = likeness(&wrong, &fold(candidate));
        if near > best.map_or(0.0, |(most, _)| most) {
            best = Some((near, candidate));
        }
    }
    best.filter(|(near, _)| *near >= 0.7).map(|(_, candidate)| candidate)
}

/// Case and the choice of separator are the commonest slips.
fn fold(text: &str) -> String {
    text.to_lowercase().replace(['-', ' '], "_")
}

/// From 0 to 1: a few slips of the finger, or the beginning of the other.
fn likeness(wrong: &str, right: &str) -> f64 {
    if wrong.is_empty() {
        return 0.0;
    }
    let slips = strsim::damerau_levenshtein(wrong, right) as f64;
    let longest = wrong.chars().count().max(right.chars().count()) as f64;
    let edits = 1.0 - slips / longest.max(1.0);
    let short = right.len() <= 4 && slips <= 1.0 && longest > 2.0;
    let begins = wrong.len() >= 3 && (right.starts_with(wrong) || wrong.starts_with(right));
    let words = if begins { 0.75 } else { 0.0 };
    edits.max(words).max(if short { 0.7 } else { 0.0 })
}

/// `a`, `b` and `c` as a list to read, at most `most` of them.
pub fn list<'a>(names: impl IntoIterator<Item = &'a str>, most: usize) -> String {
    let names: Vec<String> = names.into_iter().map(|n| format!("`{n}`")).collect();
    match names.as_slice() {
        [] => "nothing".into(),
        [one] => one.clone(),
        all if all.len() > most => {
            format!("{} and {} more", all[..most].join(", "), all.len() - most)
        }
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_strangers_are_not() {
        let keys = ["length", "every", "features", "signals", "min_coverage", "std", "mean"];
        for (wrong, right) in [
            ("lenght", Some("length")),
            ("Min-Coverage", Some("min_coverage")),
            ("feature", Some("features")),
            ("sdt", Some("std")),
            ("meen", Some("mean")),
            ("hostname", None),
            ("", None),
        ] {
            assert_eq!(nearest(wrong, keys), right, "{wrong}");
        }
    }
}
