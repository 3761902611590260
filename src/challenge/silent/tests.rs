//! Stories of the silent rung: who keeps cookies goes on, and nobody goes round in circles.

use super::*;
use crate::{
    challenge::{PATIENCE, tests},
    config::model,
};
use http::{HeaderMap, header::COOKIE};
use verdict::prefix::{Prefix, PrefixLengths};

const NOW: u64 = 1_700_000_000_000;

fn challenges() -> Challenges {
    Challenges::build(&model::Challenge::default(), None).unwrap()
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
        target: "/orders?page=2",
        replay: "",
        effort: 1,
        secure: true,
        html: true,
        request_id: "0190a8c4-7d3e-7000-8000-000000000001",
        now: NOW,
    }
}

fn header<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
    let mut headers = reply.headers.iter();
    let found = headers.find(|(given, _)| given.as_str() == name);
    found.map(|(_, value)| value.to_str().unwrap())
}

/// The way on, and the headers of a browser that keeps the cookie.
fn issued(challenges: &Challenges) -> (String, HeaderMap) {
    let none = HeaderMap::new();
    let reply = challenges.page(Rung::Silent, &visit(&none));
    let next = header(&reply, "refresh").unwrap().strip_prefix("0; url=");
    let cookie = header(&reply, "set-cookie").unwrap();
    let cookie = cookie.split(';').next().unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(COOKIE, HeaderValue::from_str(cookie).unwrap());
    (next.unwrap().to_owned(), headers)
}

fn come_back(challenges: &Challenges, visit: &Visit<'_>) -> (Reply, Option<(Rung, Outcome)>) {
    let answer = Answer::new(visit.method, visit.headers, b"");
    let (reply, settled) = tests::now(challenges.answer(visit, &answer));
    (
        reply,
        settled.map(|settled| (settled.rung, settled.outcome)),
    )
}

#[test]
fn the_page_leads_on_by_itself_and_by_a_link() {
    let none = HeaderMap::new();
    let reply = challenges().page(Rung::Silent, &visit(&none));
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    assert_eq!(header(&reply, "rempart-action"), Some("challenge"));
    assert_eq!(header(&reply, "cache-control"), Some("no-store"));
    let next = header(&reply, "refresh").unwrap();
    let next = next.strip_prefix("0; url=").unwrap();
    let page = std::str::from_utf8(&reply.body).unwrap();
    assert!(page.contains(&format!("href=\"{next}\"")));
    assert!(!page.contains("<script"));
    let policy = header(&reply, "content-security-policy").unwrap();
    assert!(policy.contains("script-src 'none'") && !policy.contains("connect-src"));
}

#[test]
fn the_cookie_comes_back_and_the_visitor_goes_on() {
    let challenges = challenges();
    let (next, headers) = issued(&challenges);
    // Who presses reload is led back as well, and counts no second time.
    for (method, outcome) in [
        (Method::GET, Outcome::Solved),
        (Method::GET, Outcome::Replayed),
        (Method::HEAD, Outcome::Replayed),
    ] {
        let visit = Visit {
            target: &next,
            method: &method,
            ..visit(&headers)
        };
        let (reply, counted) = come_back(&challenges, &visit);
        assert_eq!(reply.status, StatusCode::SEE_OTHER);
        assert_eq!(header(&reply, "location"), Some("/orders?page=2"));
        assert_eq!(
            header(&reply, "set-cookie"),
            None,
            "nothing is granted here"
        );
        assert_eq!(counted, Some((Rung::Silent, outcome)));
    }
}

#[test]
fn without_cookies_nothing_loops() {
    let challenges = challenges();
    let (next, _) = issued(&challenges);
    let none = HeaderMap::new();
    let (reply, counted) = come_back(
        &challenges,
        &Visit {
            target: &next,
            ..visit(&none)
        },
    );
    assert_eq!(counted, Some((Rung::Silent, Outcome::Failed)));
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    for name in ["refresh", "location", "set-cookie"] {
        assert_eq!(header(&reply, name), None);
    }
    let page = std::str::from_utf8(&reply.body).unwrap();
    assert!(page.contains("Please allow cookies"));
    assert!(page.contains("href=\"/orders?page=2\""));
}

#[test]
fn tickets_of_other_times_places_and_kinds_lead_nowhere_else() {
    let challenges = challenges();
    let (next, headers) = issued(&challenges);
    let home = Visit {
        target: &next,
        ..visit(&headers)
    };
    let abroad = Prefix::of("2001:db8::1".parse().unwrap(), PrefixLengths::CLIENT);
    let forged = format!("{next}A");
    let work = challenges
        .common
        .ticket(&home, Kind::ProofOfWork, Rung::ProofOfWork, Detail::new());
    let work = format!("{ANSWER_PATH}?t={}", work.unwrap());
    let empty = format!("{ANSWER_PATH}?t=");
    let late = Visit {
        now: NOW + PATIENCE,
        ..home
    };
    let elsewhere = Visit {
        host: "other.example.com",
        ..home
    };
    let moved = Visit {
        network: abroad,
        ..home
    };
    let at = |target| Visit { target, ..home };
    for (visit, outcome, link) in [
        (late, Outcome::Expired, "/orders?page=2"),
        (elsewhere, Outcome::ForeignHost, "/"),
        (moved, Outcome::ForeignNetwork, "/orders?page=2"),
        (at(&forged), Outcome::Invalid, "/"),
        (at(&work), Outcome::Invalid, "/"),
        (at(&empty), Outcome::Invalid, "/"),
    ] {
        let (reply, counted) = come_back(&challenges, &visit);
        assert_eq!(counted, Some((Rung::Silent, outcome)));
        assert_eq!(reply.status, StatusCode::FORBIDDEN);
        assert_eq!(header(&reply, "refresh"), None);
        let page = std::str::from_utf8(&reply.body).unwrap();
        assert!(page.contains(&format!("href=\"{link}\"")), "{outcome:?}");
        let program = Visit {
            html: false,
            ..visit
        };
        let (reply, _) = come_back(&challenges, &program);
        let kind = header(&reply, "content-type");
        assert_eq!(kind, Some("application/problem+json"));
    }
}

#[test]
fn a_silent_ticket_is_no_answer_to_post() {
    let challenges = challenges();
    let (next, headers) = issued(&challenges);
    let body = next.replace(&format!("{ANSWER_PATH}?t="), "token=");
    let visit = Visit {
        target: ANSWER_PATH,
        method: &Method::POST,
        ..visit(&headers)
    };
    let answer = Answer::new(visit.method, visit.headers, body.as_bytes());
    let (reply, counted) = tests::now(challenges.answer(&visit, &answer));
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    let counted = counted.map(|settled| (settled.rung, settled.outcome));
    assert_eq!(counted, Some((Rung::Silent, Outcome::Invalid)));
}

#[test]
fn programs_get_the_cookie_at_once() {
    let none = HeaderMap::new();
    let visit = Visit {
        html: false,
        method: &Method::POST,
        ..visit(&none)
    };
    let reply = challenges().page(Rung::Silent, &visit);
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    assert_eq!(header(&reply, "rempart-action"), Some("challenge"));
    assert!(header(&reply, "set-cookie").is_some());
    assert_eq!(header(&reply, "refresh"), None);
    let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(body["challenge"]["kind"], "silent");
}

#[test]
fn a_form_that_was_posted_is_carried_by_proof_of_work() {
    let none = HeaderMap::new();
    let visit = Visit {
        method: &Method::POST,
        ..visit(&none)
    };
    assert_eq!(Challenges::suited(Rung::Silent, &visit), Rung::ProofOfWork);
    let reply = challenges().page(Rung::Silent, &visit);
    assert_eq!(header(&reply, "refresh"), None);
    assert_eq!(header(&reply, "set-cookie"), None);
    assert!(
        std::str::from_utf8(&reply.body)
            .unwrap()
            .contains("<script")
    );
}

#[test]
fn a_long_address_is_come_back_to_and_a_longer_one_by_a_script() {
    let challenges = challenges();
    let none = HeaderMap::new();
    let target = format!("/{}", "a".repeat(MAX_TARGET - 1));
    let long = Visit {
        target: &target,
        ..visit(&none)
    };
    assert_eq!(Challenges::suited(Rung::Silent, &long), Rung::Silent);
    let reply = challenges.page(Rung::Silent, &long);
    let next = header(&reply, "refresh").unwrap().strip_prefix("0; url=");
    let next = next.unwrap().to_owned();
    // As a request line it fits what is taken by default.
    assert!(next.len() < 7 * 1024, "{}", next.len());
    let (_, headers) = issued(&challenges);
    let back = Visit {
        target: &next,
        ..visit(&headers)
    };
    let (reply, _) = come_back(&challenges, &back);
    assert_eq!(header(&reply, "location"), Some(target.as_str()));

    let target = format!("{target}a");
    let longer = Visit {
        target: &target,
        ..visit(&none)
    };
    assert_eq!(Challenges::suited(Rung::Silent, &longer), Rung::ProofOfWork);
    let program = Visit {
        html: false,
        ..longer
    };
    assert_eq!(Challenges::suited(Rung::Silent, &program), Rung::Silent);
}

#[test]
fn who_solved_a_form_without_cookies_is_told_so() {
    let challenges = challenges();
    let none = HeaderMap::new();
    let visit = visit(&none);
    let reply = challenges.way_back(&visit).unwrap();
    assert_eq!(reply.status, StatusCode::SEE_OTHER);
    let next = header(&reply, "location").unwrap().to_owned();
    let back = |headers| {
        come_back(
            &challenges,
            &Visit {
                target: &next,
                headers,
                ..visit
            },
        )
    };
    let (_, held) = issued(&challenges);
    let (reply, counted) = back(&held);
    assert_eq!(header(&reply, "location"), Some("/orders?page=2"));
    assert_eq!(counted, None, "it was counted when it was solved");
    let (reply, counted) = back(&none);
    assert_eq!(counted, Some((Rung::Silent, Outcome::Failed)));
    assert_eq!(header(&reply, "location"), None);
    assert_eq!(header(&reply, "rempart-action"), None);
    let page = std::str::from_utf8(&reply.body).unwrap();
    assert!(page.contains("Please allow cookies"));
    assert!(page.contains("href=\"/orders?page=2\""));
    // A program follows no more than it has to.
    let program = Visit {
        html: false,
        ..visit
    };
    let reply = challenges.way_back(&program).unwrap();
    assert_eq!(header(&reply, "location"), Some("/orders?page=2"));
}
