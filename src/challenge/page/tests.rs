//! Stories of the page: what goes over the wire is what was meant, in every language.

use super::*;
use crate::config::model::Logo;
use flate2::read::MultiGzDecoder;
use http::{HeaderMap, Method};
use proptest::prelude::*;
use std::{collections::HashSet, io::Read as _};
use verdict::prefix::{Prefix, PrefixLengths};

const SHEET: Sheet<'_> = Sheet {
    title: "silent.title",
    body: "<h1>[[silent.title]]</h1><p data-a=\"{{one}}\" data-b=\"{{two}}\">[[silent.intro]] {{one}}</p>",
    script: "if (a[[0]] && {{}}) { run(); }",
    policy: "connect-src 'self'",
};

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn visit(headers: &HeaderMap) -> Visit<'_> {
    let address = Prefix::of("192.0.2.7".parse().unwrap(), PrefixLengths::CLIENT);
    Visit {
        client: address,
        network: address,
        ja4: "",
        method: &Method::GET,
        headers,
        host: "app.example.com",
        target: "/",
        replay: "",
        effort: 1,
        secure: true,
        html: true,
        request_id: "0190a8c4-7d3e-7000-8000-000000000001",
        now: 1_700_000_000_000,
    }
}

fn header<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
    let mut headers = reply.headers.iter();
    let found = headers.find(|(given, _)| given.as_str() == name);
    found.map(|(_, value)| value.to_str().unwrap())
}

fn gunzip(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut decoder = MultiGzDecoder::new(bytes);
    decoder.read_to_string(&mut text).unwrap();
    assert!(decoder.into_inner().is_empty(), "bytes behind the end");
    text
}

fn templates(page: &ChallengePage) -> Templates {
    Templates::build(&SHEET, &Look::new(page))
}

/// The page without its nonces, which differ.
fn without_nonces(page: &str, policy: &str) -> String {
    let nonce = policy.split("'nonce-").nth(1).unwrap();
    let nonce = nonce.split('\'').next().unwrap();
    assert_eq!(page.matches(nonce).count(), 2, "style and script");
    page.replace(nonce, "NONCE")
}

#[test]
fn compressed_and_plain_are_the_same_page() {
    let templates = templates(&ChallengePage::default());
    let long = "x&".repeat(100_000);
    for two in ["", "2", "\u{1f600}\0\n", &long] {
        let values = [("one", "1"), ("two", two)];
        let pages = ["gzip", "identity"].map(|encoding| {
            let headers = headers(&[("accept-encoding", encoding), ("accept-language", "fr")]);
            let reply = templates.render(&visit(&headers), &values);
            assert_eq!(reply.status, StatusCode::FORBIDDEN);
            assert_eq!(header(&reply, "rempart-action"), Some("challenge"));
            assert_eq!(header(&reply, "cache-control"), Some("no-store"));
            assert_eq!(header(&reply, "content-language"), Some("fr"));
            let vary = header(&reply, "vary");
            assert_eq!(vary, Some("accept-encoding, accept-language"));
            let text = match header(&reply, "content-encoding") {
                Some("gzip") => gunzip(&reply.body),
                None => String::from_utf8(reply.body.to_vec()).unwrap(),
                other => panic!("{other:?}"),
            };
            let policy = header(&reply, "content-security-policy").unwrap();
            without_nonces(&text, policy)
        });
        assert_eq!(pages[0], pages[1]);
        assert!(pages[0].contains(&format!("data-a=\"1\" data-b=\"{two}\"")));
        assert!(pages[0].contains(SHEET.script), "scripts are left alone");
        assert!(pages[0].contains("<html lang=\"fr\" dir=\"ltr\">"));
        assert!(pages[0].contains("<bdi>app.example.com</bdi>"));
    }
}

#[test]
fn gzip_goes_to_those_who_take_it() {
    for (said, takes) in [
        (&["gzip"][..], true),
        (&["gzip, deflate, br, zstd"], true),
        (&["br", "x-GZIP;q=0.001"], true),
        (&["*"], true),
        (&["*;q=0, gzip"], true),
        (&["identity;q=1, gzip; q=1.000"], true),
        (&[], false),
        (&[""], false),
        (&["identity"], false),
        (&["gzip;q=0"], false),
        (&["gzip;q=0.000, *"], false),
        (&["gzip;q=2"], false),
        (&["gzip;q="], false),
        (&["gzip;q=0.0001"], false),
        (&["*;q=0"], false),
        (&["gzipped"], false),
        (&["\u{e9}"], false),
    ] {
        let pairs: Vec<_> = said
            .iter()
            .map(|value| ("accept-encoding", *value))
            .collect();
        assert_eq!(gzip::is_accepted(&headers(&pairs)), takes, "{said:?}");
    }
    let many = ["br,"; 1000].concat() + "gzip";
    assert!(!gzip::is_accepted(&headers(&[("accept-encoding", &many)])));
}

#[test]
fn operators_put_their_name_logo_and_help_in_and_nothing_else() {
    let page = ChallengePage {
        name: Some("Tom & <Jerry> {{one}} [[silent.go]]".to_owned()),
        logo: Some(Logo {
            media_type: "image/svg+xml",
            bytes: b"<svg onload='x'/>".as_slice().into(),
        }),
        help: vec![
            (String::new(), "Call <us>".to_owned()),
            ("fr".to_owned(), "Appelez {{two}}".to_owned()),
        ],
    };
    let templates = templates(&page);
    let render = |language| {
        let headers = headers(&[("accept-language", language)]);
        let reply = templates.render(&visit(&headers), &[("one", "ONE"), ("two", "TWO")]);
        String::from_utf8(reply.body.to_vec()).unwrap()
    };
    let english = render("en");
    assert!(english.contains("Tom &amp; &lt;Jerry&gt; {{one}} [[silent.go]]"));
    assert!(english.contains("src=\"data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9J3gnLz4=\""));
    assert!(english.contains("Call &lt;us&gt;") && !english.contains("app.example.com"));
    assert!(render("fr").contains("Appelez {{two}}"));
    assert!(render("de").contains("Call &lt;us&gt;"));
}

#[test]
fn a_host_is_escaped() {
    let headers = HeaderMap::new();
    let visit = Visit {
        host: "a\"<b>'.example",
        ..visit(&headers)
    };
    let reply = templates(&ChallengePage::default()).render(&visit, &[]);
    let page = String::from_utf8(reply.body.to_vec()).unwrap();
    assert!(page.contains("<bdi>a&quot;&lt;b&gt;&#39;.example</bdi>"));
}

#[test]
fn every_language_has_every_text() {
    let keys: HashSet<_> = LANGUAGES[0].keys().collect();
    assert!(keys.len() > 20);
    for language in LANGUAGES.iter() {
        for key in &keys {
            assert!(
                language.keys().any(|known| known == *key),
                "{}: {key} is missing",
                language.tag
            );
            let text = language.text(key);
            assert!(!text.trim().is_empty(), "{}: {key}", language.tag);
            assert!(!text.contains("{{") && !text.contains("[["), "{text}");
        }
    }
    assert_eq!(keys, LANGUAGES[1].keys().collect(), "French");
}

/// U+00A0 or U+202F before `: ; ! ?`, and apostrophes as printers set them.
#[test]
fn french_is_set_as_french_is() {
    for key in LANGUAGES[1].keys() {
        let text = LANGUAGES[1].text(key);
        assert!(!text.contains('\''), "{key}: {text}");
        let mut before = ' ';
        for character in text.chars() {
            if matches!(character, ':' | ';' | '!' | '?') {
                assert!(matches!(before, '\u{a0}' | '\u{202f}'), "{key}: {text}");
            }
            before = character;
        }
    }
}

#[test]
fn pages_in_all_languages_are_whole_and_small() {
    let templates = templates(&ChallengePage::default());
    for language in LANGUAGES.iter() {
        let headers = headers(&[
            ("accept-language", language.tag),
            ("accept-encoding", "gzip"),
        ]);
        let reply = templates.render(&visit(&headers), &[]);
        assert!(reply.body.len() < 20_000, "{}", reply.body.len());
        let page = gunzip(&reply.body);
        let lang = format!("<html lang=\"{}\" dir=", language.tag);
        assert!(page.contains(&lang), "{}", language.tag);
        let page = page.replace(SHEET.script, "");
        assert!(!page.contains("{{") && !page.contains("[["), "{page}");
    }
}

proptest! {
    #[test]
    fn any_sequence_of_parts_is_a_gzip_file(
        parts in prop::collection::vec((any::<bool>(), "\\PC{0,200}", 1..400_usize), 0..12),
    ) {
        let mut file = Gzip::with_capacity(0);
        let mut plain = String::new();
        for (fixed, text, times) in parts {
            let text = text.repeat(times);
            plain.push_str(&text);
            if fixed {
                file.fragment(&Fragment::new(text));
            } else {
                file.text(&text);
            }
        }
        prop_assert_eq!(gunzip(&file.finish()), plain);
    }
}

/// Every sheet that is shipped, by its file.
fn sheets() -> Vec<(String, String)> {
    let mut folders = vec![std::path::PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/challenge"
    ))];
    let mut sheets = vec![("replay".to_owned(), replay::SHEET.body.to_owned())];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "html")
                && !path.ends_with("frame.html")
            {
                let body = std::fs::read_to_string(&path).unwrap();
                sheets.push((path.display().to_string(), body));
            }
        }
    }
    sheets
}

/// What browsers make of nested forms and of two elements by one name is not what is meant.
#[test]
fn no_sheet_nests_forms_or_names_two_elements_alike() {
    let sheets = sheets();
    assert!(sheets.len() >= 7, "{}", sheets.len());
    let none = HeaderMap::new();
    for (file, body) in &sheets {
        let sheet = Sheet { body, ..SHEET };
        let templates = Templates::build(&sheet, &Look::new(&ChallengePage::default()));
        for replay in ["", "AAAA"] {
            let visit = Visit {
                method: &Method::POST,
                replay,
                ..visit(&none)
            };
            let reply = templates.render(&visit, &[]);
            let page = std::str::from_utf8(&reply.body).unwrap();
            let page = page.split("<script").next().unwrap();
            let (mut forms, mut open, mut ids) = (0, false, HashSet::new());
            for tag in page.split('<').skip(1) {
                if tag.starts_with("form") {
                    assert!(!open, "{file}: a form in a form");
                    (open, forms) = (true, forms + 1);
                } else if tag.starts_with("/form") {
                    assert!(open, "{file}: the end of no form");
                    open = false;
                }
                let mark = tag.split('>').next().unwrap();
                if let Some((_, id)) = mark.split_once(" id=\"") {
                    let id = id.split('"').next().unwrap();
                    assert!(ids.insert(id), "{file}: two are called {id}");
                }
            }
            assert!(!open, "{file}: a form without an end");
            let carried = page.matches("name=\"rempart-replay\"").count();
            assert_eq!(carried, if replay.is_empty() { 0 } else { forms }, "{file}");
            assert_eq!(ids.contains("lost"), replay.is_empty(), "{file}");
            assert_eq!(ids.contains("replay"), !replay.is_empty(), "{file}");
        }
    }
}
