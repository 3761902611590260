//! The languages of the challenge page, and which of them a visitor reads best (RFC 9110, 12.5.4).

use http::{HeaderMap, header::ACCEPT_LANGUAGE};
use std::{collections::HashMap, sync::LazyLock};

/// A language and its texts.
#[derive(Debug)]
pub struct Language {
    /// As in `lang` (RFC 5646).
    pub tag: &'static str,
    /// `ltr` or `rtl`.
    pub direction: &'static str,
    texts: HashMap<String, String>,
}

impl Language {
    fn new(tag: &'static str, json: &str) -> Self {
        Self {
            tag,
            direction: if tag == "ar" { "rtl" } else { "ltr" },
            texts: serde_json::from_str(json).unwrap_or_default(),
        }
    }

    /// The text of this key; where there is none, which a test rules out, the English one.
    #[must_use]
    pub fn text(&self, key: &str) -> &str {
        let english = || LANGUAGES.first()?.texts.get(key);
        let text = self.texts.get(key).or_else(english);
        text.map_or("", String::as_str)
    }

    /// Of all its texts.
    #[cfg(test)]
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.texts.keys().map(String::as_str)
    }
}

/// How many there are.
pub const COUNT: usize = 12;

/// The first is taken where none of a visitor's is here.
pub static LANGUAGES: LazyLock<[Language; COUNT]> = LazyLock::new(|| {
    [
        Language::new("en", include_str!("locales/en.json")),
        Language::new("fr", include_str!("locales/fr.json")),
        Language::new("de", include_str!("locales/de.json")),
        Language::new("es", include_str!("locales/es.json")),
        Language::new("it", include_str!("locales/it.json")),
        Language::new("pt", include_str!("locales/pt.json")),
        Language::new("nl", include_str!("locales/nl.json")),
        Language::new("pl", include_str!("locales/pl.json")),
        Language::new("uk", include_str!("locales/uk.json")),
        Language::new("ar", include_str!("locales/ar.json")),
        Language::new("ja", include_str!("locales/ja.json")),
        Language::new("zh", include_str!("locales/zh.json")),
    ]
});

/// The tags, in the order of [`LANGUAGES`].
const TAGS: [&str; COUNT] = [
    "en", "fr", "de", "es", "it", "pt", "nl", "pl", "uk", "ar", "ja", "zh",
];

/// More ranges of a header are not looked at.
const RANGES: usize = 32;

/// Index in [`LANGUAGES`] of the language that a visitor asked for most. Regions and scripts of a
/// language count as the language; of equals, the one named first is taken.
#[must_use]
pub fn negotiate(headers: &HeaderMap) -> usize {
    let mut wanted: [Option<u16>; COUNT] = [None; COUNT];
    let mut any = None;
    let mut best: Option<(u16, usize)> = None;
    let lines = headers.get_all(ACCEPT_LANGUAGE).iter();
    let ranges = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    for range in ranges.take(RANGES) {
        let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let name = parts.next().unwrap_or_default();
        let Some(quality) = quality(parts) else {
            continue;
        };
        if name == b"*" {
            any = Some(quality);
            continue;
        }
        let primary = name.split(|byte| *byte == b'-').next().unwrap_or_default();
        let known = TAGS
            .iter()
            .position(|tag| tag.as_bytes().eq_ignore_ascii_case(primary));
        let Some(index) = known else {
            continue;
        };
        if let Some(wanted) = wanted.get_mut(index) {
            *wanted = Some(wanted.unwrap_or(0).max(quality));
        }
        if quality > best.map_or(0, |(quality, _)| quality) {
            best = Some((quality, index));
        }
    }
    // The asterisk stands for all that were not named.
    if let Some(any) = any
        && any > best.map_or(0, |(quality, _)| quality)
        && let Some(index) = wanted.iter().position(Option::is_none)
    {
        return index;
    }
    // Where none is acceptable, the first is still better than nothing.
    best.map_or(0, |(_, index)| index)
}

/// The weight among the parameters, in thousandths (RFC 9110, 12.4.2): 1000 where there is none, and
/// `None` for one that is not well formed.
pub(super) fn quality<'a>(parameters: impl Iterator<Item = &'a [u8]>) -> Option<u16> {
    for parameter in parameters {
        let weight = parameter
            .strip_prefix(b"q=")
            .or_else(|| parameter.strip_prefix(b"Q="));
        if let Some(weight) = weight {
            return thousandths(weight);
        }
    }
    Some(1000)
}

/// `0`, `0.7`, `1.000`: at most three digits behind the point, and at most one.
fn thousandths(weight: &[u8]) -> Option<u16> {
    let (whole, digits) = weight.split_first()?;
    let digits = match digits {
        [] => digits,
        [b'.', digits @ ..] if digits.len() <= 3 => digits,
        _ => return None,
    };
    let mut value = 0_u16;
    for at in 0..3 {
        let digit = digits.get(at).copied().unwrap_or(b'0');
        let digit = digit.is_ascii_digit().then(|| u16::from(digit & 0xf))?;
        value = value * 10 + digit;
    }
    match (whole, value) {
        (b'0', value) => Some(value),
        (b'1', 0) => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
