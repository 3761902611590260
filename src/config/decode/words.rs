//! The operator's words in messages: quoted on one line, and the valid word that is nearest.

use std::fmt::Write as _;

/// A word of the operator's in backquotes: one line, not too long.
#[must_use]
pub fn quote(word: &str) -> String {
    let mut quoted = String::from("`");
    for (count, c) in word.chars().enumerate() {
        if count >= 60 {
            quoted.push('…');
            break;
        }
        if c.is_control() {
            let _ = write!(quoted, "{}", c.escape_default());
        } else {
            quoted.push(c);
        }
    }
    quoted.push('`');
    quoted
}

/// The candidate that `word` was probably meant to be.
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    // Longer words are nobody's typing error, and the distance is quadratic.
    if word.is_empty() || word.len() > 100 {
        return None;
    }
    let lower = word.to_lowercase();
    let allowed = (lower.chars().count() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let other = candidate.to_lowercase();
            let distance = strsim::damerau_levenshtein(&lower, &other);
            let part = lower.len() >= 3 && (other.starts_with(&lower) || lower.starts_with(&other));
            let near = distance <= allowed || (part && other.len() >= 3);
            near.then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `; did you mean ...?`, or all valid words when none is near.
pub fn hint<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> String {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    if let Some(near) = nearest(word, candidates.iter().copied()) {
        return format!("; did you mean `{near}`?");
    }
    match candidates.as_slice() {
        [] => String::new(),
        many if many.len() > 20 => {
            let some = many.get(..20).unwrap_or_default().join(", ");
            format!("; valid here: {some}, …")
        }
        few => format!("; valid here: {}", few.join(", ")),
    }
}
