//! Stories of what was posted.

use super::*;
use std::sync::LazyLock;
use verdict::prefix::{Prefix, PrefixLengths};

const NOW: u64 = 1_700_000_000_000;

fn key() -> Keyring {
    Keyring::new(b"a secret of the tests, long enough", [])
}

fn replays(most: u32) -> Replays {
    let spec = model::Challenge {
        cookie: "rempart-clearance".to_owned(),
        replay: most,
        ..model::Challenge::default()
    };
    Replays::new(&spec, None)
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(*name, HeaderValue::from_static(value));
    }
    map
}

const URLENCODED: &str = "application/x-www-form-urlencoded";

static FORM: LazyLock<HeaderMap> = LazyLock::new(|| {
    headers(&[
        ("content-type", URLENCODED),
        ("content-length", "7"),
        ("sec-fetch-site", "same-origin"),
        ("referer", "https://app.example.com/cart"),
    ])
});

fn visit() -> Visit<'static> {
    let address = "192.0.2.7".parse().unwrap();
    Visit {
        client: Prefix::of(address, PrefixLengths::CLIENT),
        network: Prefix::of(address, PrefixLengths::NETWORK),
        ja4: "",
        method: &Method::POST,
        headers: &FORM,
        host: "app.example.com",
        target: "/orders?new=1",
        effort: 1,
        replay: "",
        secure: true,
        html: true,
        request_id: "",
        now: NOW,
    }
}

fn form(token: &str) -> Vec<u8> {
    format!("{FIELD}={token}").into_bytes()
}

#[test]
fn what_was_posted_comes_back_as_it_was() {
    let replays = replays(64);
    for body in [&b"a=b&c=d"[..], b"", b"\0\r\n\xff--boundary", &[b'x'; 64]] {
        let token = replays.keep(&key(), &visit(), body).unwrap();
        let Form::Kept(replay) = replays.unwrap(&key(), &visit(), &form(&token)) else {
            panic!("{body:?}");
        };
        assert_eq!(replay.body, body);
        let restored = replays.restore(&replay, &FORM);
        let value = |wanted: HeaderName| {
            let found = restored.iter().find(|(name, _)| *name == wanted).unwrap();
            found.1.as_ref().map(|value| value.to_str().unwrap())
        };
        assert_eq!(value(CONTENT_TYPE), Some(URLENCODED));
        assert_eq!(value(CONTENT_LENGTH), Some(body.len().to_string().as_str()));
        assert_eq!(value(REFERER), Some("https://app.example.com/cart"));
        assert_eq!(value(TRANSFER_ENCODING), None);
    }
    assert_eq!(replays.keep(&key(), &visit(), &[b'x'; 65]), None);
}

#[test]
fn it_is_for_one_visitor_host_target_and_time() {
    let replays = replays(64);
    let token = replays.keep(&key(), &visit(), b"a=b").unwrap();
    let elsewhere = Prefix::of("198.51.100.7".parse().unwrap(), PrefixLengths::NETWORK);
    for (story, visit) in [
        (
            "another visitor",
            Visit {
                network: elsewhere,
                ..visit()
            },
        ),
        (
            "another host",
            Visit {
                host: "other.example.com",
                ..visit()
            },
        ),
        (
            "another target",
            Visit {
                target: "/orders?new=2",
                effort: 1,
                ..visit()
            },
        ),
        (
            "too late",
            Visit {
                now: NOW + KEPT,
                ..visit()
            },
        ),
    ] {
        let found = replays.unwrap(&key(), &visit, &form(&token));
        assert_eq!(found, Form::Stale, "{story}");
        // Nor is it wrapped again.
        assert_eq!(replays.keep(&key(), &visit, &form(&token)), None, "{story}");
    }
    let last = Visit {
        now: NOW + KEPT - 1,
        ..visit()
    };
    assert!(matches!(
        replays.unwrap(&key(), &last, &form(&token)),
        Form::Kept(_)
    ));
    // Sent before it was let through: the same again, and not a wrapping around it.
    assert_eq!(replays.keep(&key(), &visit(), &form(&token)), Some(token));
}

#[test]
fn what_is_not_ours_is_the_applications() {
    let replays = replays(64);
    let token = replays.keep(&key(), &visit(), b"a=b").unwrap();
    let foreign = |form: &[u8]| replays.unwrap(&key(), &visit(), form) == Form::Foreign;
    assert!(foreign(b""));
    assert!(foreign(b"a=b"));
    assert!(foreign(b"rempart-replay="));
    assert!(foreign(b"rempart-replay=AAAA"));
    assert!(foreign(b"rempart-replay"));
    assert!(foreign(&form(&token)[..100]));
    let mut more = form(&token);
    more.extend(b"&a=b");
    assert!(foreign(&more));
    let mut forged = form(&token);
    forged[60] ^= 1;
    assert!(foreign(&forged));
    let other = Keyring::new(b"another secret of the tests", []);
    assert_eq!(
        replays.unwrap(&other, &visit(), &form(&token)),
        Form::Foreign
    );
    // As a text or a file of some other form.
    let text = headers(&[("content-type", "text/plain")]);
    let as_text = Visit {
        headers: &text,
        ..visit()
    };
    assert_eq!(
        replays.unwrap(&key(), &as_text, &form(&token)),
        Form::Foreign
    );
    // Sealed while more was allowed.
    let less = crate::challenge::replay::tests::replays(2);
    assert_eq!(less.unwrap(&key(), &visit(), &form(&token)), Form::Foreign);
}

#[test]
#[allow(clippy::too_many_lines)] // a table
fn only_forms_of_this_site_are_kept() {
    let replays = replays(64);
    let length = ("content-length", "7");
    let kind = ("content-type", URLENCODED);
    let site = ("sec-fetch-site", "same-origin");
    let host = ("host", "app.example.com:8443");
    for (wanted, pairs) in [
        (true, &[kind, length, site][..]),
        (
            true,
            &[
                ("content-type", "multipart/form-data; boundary=x"),
                length,
                site,
            ],
        ),
        (true, &[("content-type", "Text/Plain"), length, site]),
        (true, &[kind, length, ("sec-fetch-site", "none")]),
        (
            true,
            &[
                kind,
                length,
                host,
                ("origin", "https://app.example.com:8443"),
            ],
        ),
        (
            true,
            &[
                kind,
                length,
                ("host", "app.example.com"),
                ("origin", "https://app.example.com:443"),
            ],
        ),
        (false, &[("content-type", "application/json"), length, site]),
        (false, &[length, site]),
        (false, &[kind, site]),
        (
            false,
            &[kind, length, ("transfer-encoding", "chunked"), site],
        ),
        (false, &[kind, length, length, site]),
        (false, &[kind, ("content-length", "100000"), site]),
        (
            false,
            &[
                ("content-type", "text/plain"),
                ("content-length", "65"),
                site,
            ],
        ),
        // Of other sites, or of who does not say.
        (false, &[kind, length]),
        (false, &[kind, length, ("sec-fetch-site", "cross-site")]),
        (false, &[kind, length, ("sec-fetch-site", "same-site")]),
        (
            false,
            &[kind, length, site, ("sec-fetch-site", "cross-site")],
        ),
        (
            false,
            &[
                kind,
                length,
                ("sec-fetch-site", "cross-site"),
                host,
                ("origin", "https://app.example.com:8443"),
            ],
        ),
        (
            false,
            &[kind, length, host, ("origin", "https://app.example.com")],
        ),
        (
            false,
            &[
                kind,
                length,
                host,
                ("origin", "http://app.example.com:8443"),
            ],
        ),
        (
            false,
            &[kind, length, host, ("origin", "https://evil.example")],
        ),
        (false, &[kind, length, host, ("origin", "null")]),
    ] {
        let headers = headers(pairs);
        let visit = Visit {
            headers: &headers,
            ..visit()
        };
        assert_eq!(replays.wants(&visit).is_some(), wanted, "{pairs:?}");
    }
    for (story, visit) in [
        (
            "a GET",
            Visit {
                method: &Method::GET,
                ..visit()
            },
        ),
        (
            "a PUT",
            Visit {
                method: &Method::PUT,
                ..visit()
            },
        ),
        (
            "a program",
            Visit {
                html: false,
                ..visit()
            },
        ),
        (
            "no path of this site",
            Visit {
                target: "//evil.example/",
                effort: 1,
                ..visit()
            },
        ),
    ] {
        assert_eq!(replays.wants(&visit), None, "{story}");
    }
    assert_eq!(
        crate::challenge::replay::tests::replays(0).wants(&visit()),
        None
    );
}

#[test]
fn no_form_is_looked_into_without_a_mark() {
    let replays = replays(64);
    let marked = |cookie: &'static str| {
        let headers = headers(&[
            ("content-type", URLENCODED),
            ("content-length", "7"),
            ("cookie", cookie),
        ]);
        replays.is_marked(&Method::POST, &headers)
    };
    assert!(marked("rempart-clearance-replay=1"));
    assert!(marked("a=b; rempart-clearance-replay=1; c=d"));
    assert!(!marked("rempart-clearance=1"));
    assert!(!marked("x-rempart-clearance-replay=1"));
    assert!(!marked("a=rempart-clearance-replay=1"));
    assert!(!replays.is_marked(&Method::POST, &FORM));
    let mark = replays.mark(&visit()).unwrap();
    assert_eq!(
        mark,
        "rempart-clearance-replay=1; Path=/; Max-Age=1800; HttpOnly; SameSite=Strict; Secure"
    );
    // The application does not see it.
    let jar = headers(&[
        ("cookie", "a=b; rempart-clearance-replay=1"),
        ("cookie", "c=d"),
    ]);
    let token = replays.keep(&key(), &visit(), b"").unwrap();
    let replay = replays.carried(&key(), &visit(), token.as_bytes()).unwrap();
    let restored = replays.restore(&replay, &jar);
    assert!(restored.contains(&(COOKIE, Some(HeaderValue::from_static("a=b; c=d")))));
}

#[test]
fn a_page_carries_it_or_says_that_it_is_lost() {
    let kept = Visit {
        replay: "AAAA",
        target: "/a?b=\"><script>",
        effort: 1,
        ..visit()
    };
    assert_eq!(
        snippet(
            &Visit {
                target: "/a?b=\"&c",
                effort: 1,
                ..kept
            },
            "lost"
        ),
        r#"<form id="replay" method="post" action="/a?b=&quot;&amp;c" hidden><input type="hidden" name="rempart-replay" value="AAAA"></form>"#
    );
    assert!(!snippet(&kept, "lost").contains("<script>"));
    assert!(field(&kept).contains("AAAA"));
    let lost = visit();
    assert_eq!(snippet(&lost, "l<st"), r#"<p id="lost">l&lt;st</p>"#);
    assert_eq!(field(&lost), "");
    let plain = Visit {
        method: &Method::GET,
        ..visit()
    };
    assert_eq!(snippet(&plain, "lost"), "");
}

#[test]
fn every_form_of_a_page_carries_it() {
    let sheet = Sheet {
        title: "replay.title",
        body: "<form id=one></form><form id=two></form>",
        script: "",
        policy: "",
    };
    let templates =
        page::Templates::build(&sheet, &page::Look::new(&model::ChallengePage::default()));
    let body = |visit: &Visit<'_>| {
        let reply = templates.render(visit, &[]);
        String::from_utf8(reply.body.to_vec()).unwrap()
    };
    let kept = body(&Visit {
        replay: "AAAA",
        ..visit()
    });
    assert_eq!(
        kept.matches(&field(&Visit {
            replay: "AAAA",
            ..visit()
        }))
        .count(),
        3,
        "{kept}"
    );
    assert!(kept.contains(r#"<form id="replay""#) && !kept.contains("id=\"lost\""));
    let lost = body(&visit());
    assert!(
        lost.contains("id=\"lost\"") && !lost.contains(FIELD),
        "{lost}"
    );
    assert!(lost.contains("could not be kept"), "{lost}");
    let plain = body(&Visit {
        method: &Method::GET,
        ..visit()
    });
    assert!(
        !plain.contains("id=\"lost\"") && !plain.contains(FIELD),
        "{plain}"
    );
}

#[test]
fn who_sends_it_on_without_the_mark_keeps_no_cookies() {
    let challenges =
        crate::challenge::Challenges::build(&model::Challenge::default(), None).unwrap();
    let token = challenges.keep(&visit(), b"a=b").unwrap();
    let marked = challenges.replays().mark(&visit()).unwrap();
    let mut headers = FORM.clone();
    headers.insert(COOKIE, marked);
    let marked = Visit {
        headers: &headers,
        ..visit()
    };
    let reply = challenges.without_cookies(&visit(), &form(&token)).unwrap();
    let page = std::str::from_utf8(&reply.body).unwrap();
    assert!(page.contains("Please allow cookies"), "{page}");
    assert!(page.contains("href=\"/orders?new=1\""), "{page}");
    assert!(page.contains("could not be kept"), "{page}");
    for (visit, form) in [(&marked, form(&token)), (&visit(), b"a=b".to_vec())] {
        assert!(challenges.without_cookies(visit, &form).is_none());
    }
}
