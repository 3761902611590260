//! Stories of languages.

use super::*;
use http::HeaderValue;
use proptest::prelude::*;

fn taken(lines: &[&str]) -> &'static str {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(ACCEPT_LANGUAGE, HeaderValue::from_str(line).unwrap());
    }
    LANGUAGES[negotiate(&headers)].tag
}

#[test]
fn tags_and_languages_are_in_one_order() {
    let tags: Vec<_> = LANGUAGES.iter().map(|language| language.tag).collect();
    assert_eq!(tags, TAGS);
}

#[test]
fn the_best_is_taken() {
    for (lines, tag) in [
        (&[][..], "en"),
        (&[""], "en"),
        (&["fr"], "fr"),
        (&["fr-CA"], "fr"),
        (&["FR-ca, en;q=0.9"], "fr"),
        (&["en;q=0.8, fr;q=0.9"], "fr"),
        (&["en;q=0.5, de;q=0.50, fr;q=0.4"], "en"),
        (&["zh-Hant-TW"], "zh"),
        (&["pt-BR,pt;q=0.9"], "pt"),
        (&["sv, nl;q=0.3"], "nl"),
        (&["sv, tlh"], "en"),
        (&["ar-EG"], "ar"),
        (&["sv", "uk;q=0.2"], "uk"),
        (&["*"], "en"),
        (&["en;q=0, *"], "fr"),
        (&["*, de;q=0.5"], "en"),
        (&["*;q=0.1, de;q=0.5"], "de"),
        (&["en;q=0, fr;q=0"], "en"),
        (&["fr;q=0, es;q=0.001"], "es"),
        // Not well formed: as if it were not there.
        (&["fr;q=1.1, de;q=0.1"], "de"),
        (&["fr;q=0.1234, de;q=0.1"], "de"),
        (&["fr;q=-1, fr;q=x, fr;q=, de;q=0.1"], "de"),
        (&[" , ,;;q, - ,  it ; q=0.3"], "it"),
        (&["\u{e9}, ja"], "ja"),
    ] {
        assert_eq!(taken(lines), tag, "{lines:?}");
    }
}

#[test]
fn no_more_than_some_ranges_are_read() {
    let many = "sv,".repeat(10_000) + "fr";
    assert_eq!(taken(&[&many]), "en");
}

proptest! {
    #[test]
    fn nothing_panics(bytes in prop::collection::vec(0x20_u8..0x7f, 0..200)) {
        let mut headers = HeaderMap::new();
        headers.append(ACCEPT_LANGUAGE, HeaderValue::from_bytes(&bytes).unwrap());
        prop_assert!(negotiate(&headers) < COUNT);
    }
}
