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
    fn new(tag: &'static str, direction: &'static str, json: &str) -> Self {
        Self {
            tag,
            direction,
            texts: serde_json::from_str(json).unwrap_or_default(),
        }
    }

    /// The text of this key; empty when there is none, which a test rules out.
    #[must_use]
    pub fn text(&self, key: &str) -> &str {
        self.texts.get(key).map_or("", String::as_str)
    }
}

/// The first is taken where none of a visitor's is here.
pub static LANGUAGES: LazyLock<Vec<Language>> = LazyLock::new(|| {
    vec![
        Language::new("en", "ltr", include_str!("locales/en.json")),
        Language::new("fr", "ltr", include_str!("locales/fr.json")),
    ]
});

/// Index in [`LANGUAGES`] of the language that a visitor asked for most.
#[must_use]
pub fn negotiate(headers: &HeaderMap) -> usize {
    let wanted = headers
        .get(ACCEPT_LANGUAGE)
        .and_then(|value| value.to_str().ok());
    let known = |range: &str| {
        let primary = range.split(['-', ';']).next().unwrap_or_default().trim();
        LANGUAGES
            .iter()
            .position(|language| language.tag.eq_ignore_ascii_case(primary))
    };
    wanted
        .and_then(|list| list.split(',').find_map(known))
        .unwrap_or(0)
}
