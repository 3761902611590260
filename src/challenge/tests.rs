//! Stories of challenges.

use super::*;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, COOKIE, LOCATION};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::{sync::LazyLock, time::Duration};
use verdict::{
    prefix::PrefixLengths,
    proof_of_work::{self, PUZZLES},
};

const NOW: u64 = 1_700_000_000;
pub(super) const SECRET: &[u8] = b"a secret of the tests, long enough";

pub(super) fn spec(secret: Option<&[u8]>) -> model::Challenge {
    let usual = model::Challenge::default();
    model::Challenge {
        secrets: secret.map(model::Secret::new).into_iter().collect(),
        cookie: "rempart_clearance".to_owned(),
        lifetime: Duration::from_secs(3600),
        proof_of_work: model::ProofOfWork {
            effort: 64 * 20,
            ..usual.proof_of_work
        },
        ..usual
    }
}

fn challenges() -> Challenges {
    Challenges::build(&spec(Some(SECRET)), None).unwrap()
}

pub(super) fn network(address: &str) -> Prefix {
    Prefix::of(address.parse().unwrap(), PrefixLengths::CLIENT)
}

pub(super) fn visit() -> Visit<'static> {
    static NONE: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);
    Visit {
        client: network("192.0.2.7"),
        network: network("192.0.2.7"),
        ja4: "",
        method: &Method::GET,
        headers: &NONE,
        host: "app.example.com",
        target: "/orders?page=2",
        replay: "",
        secure: true,
        html: false,
        request_id: "0190a8c4-7d3e-7000-8000-000000000001",
        now: NOW * 1000,
        effort: 1,
    }
}

pub(super) fn json_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers
}

pub(super) fn form_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
    headers.insert(CONTENT_TYPE, kind);
    headers
}

pub(super) fn header<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
    reply
        .headers
        .iter()
        .find(|(given, _)| given.as_str() == name)
        .map(|(_, value)| value.to_str().unwrap())
}

/// What needs nobody else is there at once.
pub(super) fn now<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("this has to wait"),
    }
}

/// A token that was issued for the visit.
fn issue(challenges: &Challenges, visit: &Visit<'_>) -> String {
    let reply = challenges.page(Rung::ProofOfWork, visit);
    let body: Value = serde_json::from_slice(&reply.body).unwrap();
    body["challenge"]["token"].as_str().unwrap().to_owned()
}

fn opened(token: &str) -> Opened {
    Ticket::open(token.as_bytes(), &Keyring::new(SECRET, [])).unwrap()
}

fn solve(token: &str) -> Vec<u32> {
    let opened = opened(token);
    let effort = u32::from_be_bytes(opened.ticket.detail.as_slice().try_into().unwrap());
    proof_of_work::solve(&opened.seed, effort)
}

fn post(
    challenges: &Challenges,
    visit: &Visit<'_>,
    headers: &HeaderMap,
    body: &[u8],
) -> (Reply, Option<Outcome>) {
    let visit = Visit {
        target: ANSWER_PATH,
        headers,
        ..*visit
    };
    let answer = Answer::new(&Method::POST, headers, body);
    let (reply, counted) = now(challenges.answer(&visit, &answer));
    if let Some(settled) = counted {
        assert_eq!(settled.rung, Rung::ProofOfWork);
        let is_solved = settled.outcome == Outcome::Solved;
        assert_eq!(settled.solve.is_some(), is_solved);
    }
    (reply, counted.map(|settled| settled.outcome))
}

fn answer(
    challenges: &Challenges,
    visit: &Visit<'_>,
    token: &str,
    nonces: &[u32],
) -> (Reply, Option<Outcome>) {
    let body = json!({ "token": token, "nonces": nonces }).to_string();
    post(challenges, visit, &json_headers(), body.as_bytes())
}

/// The cookie that an answer sets, as the browser sends it back.
pub(super) fn cookie(reply: &Reply) -> HeaderMap {
    let value = header(reply, "set-cookie").unwrap();
    let mut headers = HeaderMap::new();
    let pair = format!("theme=dark; {}; other=1", value.split(';').next().unwrap());
    headers.insert(COOKIE, HeaderValue::from_str(&pair).unwrap());
    headers
}

pub(super) fn rung(
    challenges: &Challenges,
    headers: &HeaderMap,
    visit: &Visit<'_>,
) -> Option<Rung> {
    challenges.clearances().rung(&clearance::Bearer {
        headers,
        network: visit.network,
        ja4: visit.ja4,
        proxied: false,
        host: visit.host,
        now: visit.seconds(),
    })
}

fn holds(challenges: &Challenges, headers: &HeaderMap, visit: &Visit<'_>) -> bool {
    rung(challenges, headers, visit).is_some()
}

#[test]
fn a_visitor_solves_and_is_let_through() {
    let challenges = challenges();
    let token = issue(&challenges, &visit());
    let (reply, outcome) = answer(&challenges, &visit(), &token, &solve(&token));
    assert_eq!(
        (reply.status.as_u16(), outcome),
        (204, Some(Outcome::Solved))
    );
    let set = header(&reply, "set-cookie").unwrap();
    assert!(set.starts_with("rempart_clearance="));
    assert!(set.ends_with("; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax; Secure"));
    assert!(set.len() < 500, "{}", set.len());
    assert_eq!(header(&reply, CACHE_CONTROL.as_str()), Some("no-store"));

    let headers = cookie(&reply);
    assert_eq!(
        rung(
            &challenges,
            &headers,
            &Visit {
                now: (NOW + 3599) * 1000,
                ..visit()
            }
        ),
        Some(Rung::ProofOfWork)
    );
    assert!(!holds(
        &challenges,
        &headers,
        &Visit {
            now: (NOW + 3600) * 1000,
            ..visit()
        }
    ));
    assert!(!holds(
        &challenges,
        &headers,
        &Visit {
            host: "other.example.com",
            ..visit()
        }
    ));
    assert!(!holds(
        &challenges,
        &headers,
        &Visit {
            network: network("192.0.2.8"),
            ..visit()
        }
    ));
    assert!(!holds(&challenges, &HeaderMap::new(), &visit()));
}

#[test]
fn a_form_is_led_back() {
    let challenges = challenges();
    let headers = form_headers();
    for (target, back) in [
        ("/orders?page=2", "/orders?page=2"),
        ("//evil.example/x", "/"),
        ("/\\evil.example/x", "/"),
        ("/\t/evil.example", "/"),
        ("https://evil.example/", "/"),
        ("/ä", "/"),
    ] {
        let visit = Visit {
            target,
            secure: false,
            ..visit()
        };
        let token = issue(&challenges, &visit);
        let nonces: Vec<_> = solve(&token).iter().map(u32::to_string).collect();
        let body = format!("token={token}&nonces={}", nonces.join("%2C"));
        let (reply, outcome) = post(&challenges, &visit, &headers, body.as_bytes());
        assert_eq!(
            (reply.status.as_u16(), outcome),
            (303, Some(Outcome::Solved))
        );
        assert_eq!(header(&reply, LOCATION.as_str()), Some(back), "{target}");
        assert!(
            header(&reply, "set-cookie")
                .unwrap()
                .ends_with("SameSite=Lax")
        );
    }
}

/// CVE-2025-24369: Anubis took any hash for a solution, and a solution any number of times.
#[test]
fn a_solution_counts_once() {
    let challenges = challenges();
    let token = issue(&challenges, &visit());
    let nonces = solve(&token);
    assert_eq!(
        answer(&challenges, &visit(), &token, &nonces).1,
        Some(Outcome::Solved)
    );
    let (reply, outcome) = answer(&challenges, &visit(), &token, &nonces);
    assert_eq!(
        (reply.status.as_u16(), outcome),
        (403, Some(Outcome::Replayed))
    );
    assert_eq!(header(&reply, "set-cookie"), None);
    // A reload forgets nothing.
    let reloaded = Challenges::build(&spec(Some(SECRET)), Some(&challenges)).unwrap();
    assert_eq!(
        answer(&reloaded, &visit(), &token, &nonces).1,
        Some(Outcome::Replayed)
    );
}

#[test]
fn a_wrong_answer_spends_nothing() {
    let challenges = challenges();
    let token = issue(&challenges, &visit());
    let nonces = solve(&token);
    assert_eq!(
        answer(&challenges, &visit(), &token, &[0; 64]).1,
        Some(Outcome::Failed)
    );
    assert_eq!(
        answer(&challenges, &visit(), &token, &[]).1,
        Some(Outcome::Failed)
    );
    assert_eq!(
        answer(&challenges, &visit(), &token, &nonces[1..]).1,
        Some(Outcome::Failed)
    );
    assert_eq!(
        answer(&challenges, &visit(), &token, &nonces).1,
        Some(Outcome::Solved)
    );
}

/// CVE-2025-24369: Anubis checked no effort, and took a hash for any challenge.
#[test]
fn a_solution_is_of_this_ticket_at_its_effort_and_in_order() {
    let challenges = challenges();
    let (token, other) = (issue(&challenges, &visit()), issue(&challenges, &visit()));
    let right = solve(&token);
    let opened = opened(&token);
    let mut turned = right.clone();
    turned.swap(0, 1);
    for (story, nonces) in [
        ("of another ticket", solve(&other)),
        (
            "of half the effort",
            proof_of_work::solve(&opened.seed, 64 * 10),
        ),
        ("out of order", turned),
        ("one for all", vec![right[0]; 64]),
        ("one too few", right[1..].to_vec()),
        ("one too many", [right.as_slice(), &right[..1]].concat()),
    ] {
        let (reply, outcome) = answer(&challenges, &visit(), &token, &nonces);
        assert_eq!(outcome, Some(Outcome::Failed), "{story}");
        assert_eq!(header(&reply, "set-cookie"), None, "{story}");
    }
    let (_, outcome) = answer(&challenges, &visit(), &token, &right);
    assert_eq!(outcome, Some(Outcome::Solved));
}

/// Half a hundred networks that take `took` milliseconds each, within a little more than half a minute.
fn window(challenges: &Challenges, began: u64, took: u64) {
    for n in 0..50 {
        let address = network(&format!("192.0.{n}.7"));
        let asked = Visit {
            client: address,
            network: address,
            now: began + n * 700,
            ..visit()
        };
        let token = issue(challenges, &asked);
        let answered = Visit {
            now: asked.now + took,
            ..asked
        };
        let (_, outcome) = answer(challenges, &answered, &token, &solve(&token));
        assert_eq!(outcome, Some(Outcome::Solved));
    }
}

#[test]
fn the_next_challenges_follow_the_time_that_the_last_ones_took() {
    let challenges = challenges();
    let issued = || {
        let detail = opened(&issue(&challenges, &visit())).ticket.detail;
        u32::from_be_bytes(detail.as_slice().try_into().unwrap())
    };
    let usual = issued();
    assert_eq!(usual, challenges.effort());
    window(&challenges, NOW * 1000, 50);
    assert_eq!(issued(), usual + usual * 15 / 100);
    window(&challenges, (NOW + 60) * 1000, 5000);
    window(&challenges, (NOW + 120) * 1000, 5000);
    assert!(issued() < usual, "{}", issued());
}

#[test]
fn a_suspect_works_harder_and_its_effort_is_sealed() {
    let challenges = challenges();
    let suspect = Visit {
        effort: 4,
        ..visit()
    };
    let token = issue(&challenges, &suspect);
    let opened = opened(&token);
    let usual = proof_of_work::solve(&opened.seed, 64 * 20);
    let (_, outcome) = answer(&challenges, &suspect, &token, &usual);
    assert_eq!(outcome, Some(Outcome::Failed));
    // It says nothing of itself when it answers, and needs not.
    let (_, outcome) = answer(&challenges, &visit(), &token, &solve(&token));
    assert_eq!(outcome, Some(Outcome::Solved));
}

#[test]
fn an_answer_has_its_time_place_and_visitor() {
    let challenges = challenges();
    let token = issue(&challenges, &visit());
    let nonces = solve(&token);
    for (expected, visit) in [
        (
            Outcome::Expired,
            Visit {
                now: NOW * 1000 + PATIENCE,
                ..visit()
            },
        ),
        (
            Outcome::ForeignHost,
            Visit {
                host: "other.example.com",
                ..visit()
            },
        ),
        (
            Outcome::ForeignNetwork,
            Visit {
                network: network("192.0.2.8"),
                ..visit()
            },
        ),
        (
            Outcome::ForeignNetwork,
            Visit {
                network: network("2001:db8::1"),
                ..visit()
            },
        ),
    ] {
        let (reply, outcome) = answer(&challenges, &visit, &token, &nonces);
        assert_eq!(outcome, Some(expected));
        let body: Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(body["outcome"], expected.name());
    }
    let last = Visit {
        now: NOW * 1000 + PATIENCE - 1,
        ..visit()
    };
    assert_eq!(
        answer(&challenges, &last, &token, &nonces).1,
        Some(Outcome::Solved)
    );
}

#[test]
fn a_challenge_of_another_key_is_none() {
    let other = Challenges::build(&spec(Some(b"another secret, also long")), None).unwrap();
    let token = issue(&other, &visit());
    let nonces = [0; PUZZLES as usize];
    assert_eq!(
        answer(&challenges(), &visit(), &token, &nonces).1,
        Some(Outcome::Invalid)
    );
    // Nor is a clearance a challenge, or a challenge a clearance.
    let mut headers = HeaderMap::new();
    let token = issue(&challenges(), &visit());
    let pair = HeaderValue::from_str(&format!("rempart_clearance={token}")).unwrap();
    headers.insert(COOKIE, pair);
    assert!(!holds(&challenges(), &headers, &visit()));
}

#[test]
fn what_is_no_answer_is_refused() {
    let challenges = challenges();
    let headers = json_headers();
    for body in [
        &b""[..],
        b"{}",
        b"null",
        b"[1]",
        b"\xff\xfe",
        b"token=a",
        b"nonces=1&token=a",
        br#"{"token":"a","nonces":[1]}"#,
        br#"{"token":7,"nonces":[]}"#,
        br#"{"token":"a","nonces":[-1]}"#,
        br#"{"token":"a","nonces":[4294967296]}"#,
    ] {
        for headers in [&headers, &HeaderMap::new()] {
            let (reply, outcome) = post(&challenges, &visit(), headers, body);
            assert_eq!(
                (reply.status.as_u16(), outcome),
                (403, Some(Outcome::Invalid))
            );
        }
    }
    let (reply, outcome) = post(&challenges, &visit(), &headers, &[b'a'; MAX_ANSWER + 1]);
    assert_eq!(
        (reply.status.as_u16(), outcome),
        (413, Some(Outcome::TooLarge))
    );
}

#[test]
fn reserved_paths_have_no_other_use() {
    let challenges = challenges();
    assert!(Challenges::is_reserved("/.rempart/anything"));
    assert!(!Challenges::is_reserved("/.rempartx") && !Challenges::is_reserved("/"));
    let ask = |target, method| {
        let headers = HeaderMap::new();
        let answer = Answer::new(&method, &headers, b"");
        now(challenges.answer(&Visit { target, ..visit() }, &answer))
    };
    let (reply, outcome) = ask("/.rempart/other", Method::POST);
    assert_eq!((reply.status.as_u16(), outcome), (404, None));
    let (reply, outcome) = ask("/.rempart/challenge?x", Method::GET);
    assert_eq!((reply.status.as_u16(), outcome), (405, None));
    assert_eq!(header(&reply, "allow"), Some("POST"));
    let kind = header(&reply, CONTENT_TYPE.as_str());
    assert_eq!(kind, Some("application/problem+json"));
}

fn text(reply: &Reply) -> &str {
    std::str::from_utf8(&reply.body).unwrap()
}

/// A bookmark of the page, a form that is not ours: a person is told how to go on.
#[test]
fn a_browser_is_never_at_a_dead_end() {
    let challenges = challenges();
    let mut headers = HeaderMap::new();
    headers.insert("accept-language", HeaderValue::from_static("fr"));
    let visit = Visit {
        html: true,
        target: ANSWER_PATH,
        headers: &headers,
        ..visit()
    };
    for method in [Method::GET, Method::HEAD] {
        let answer = Answer::new(&method, &headers, b"");
        let (reply, counted) = now(challenges.answer(&visit, &answer));
        assert_eq!((reply.status.as_u16(), counted), (405, None));
        assert_eq!(header(&reply, "allow"), Some("POST"));
        assert_eq!(header(&reply, "rempart-action"), None, "it asks nothing");
        let page = text(&reply);
        assert!(page.contains("<html lang=\"fr\"") && page.contains("href=\"/\""));
    }
    for (body, outcome) in [("", Outcome::Invalid), ("token=AAAA", Outcome::Invalid)] {
        let (reply, counted) = post(&challenges, &visit, &headers, body.as_bytes());
        assert_eq!((reply.status.as_u16(), counted), (403, Some(outcome)));
        assert_eq!(header(&reply, "rempart-action"), None);
        let page = text(&reply);
        assert!(page.contains("<html lang=\"fr\"") && page.contains("href=\"/\""));
        assert!(!page.contains("id=\"lost\""));
    }
}

/// A page of another site that posts a form here with somebody's body in it must not have that
/// somebody's browser send it on as its own.
#[test]
fn a_body_is_carried_for_forms_of_this_site_alone() {
    let challenges = challenges();
    let form = |pairs: &[(&'static str, &'static str)]| {
        let mut headers = form_headers();
        headers.insert("host", HeaderValue::from_static("app.example.com"));
        headers.insert("content-length", HeaderValue::from_static("7"));
        for (name, value) in pairs {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        headers
    };
    let own = form(&[("sec-fetch-site", "same-origin")]);
    let posted = Visit {
        method: &Method::POST,
        html: true,
        headers: &own,
        target: "/orders?new=1",
        ..visit()
    };
    let blob = challenges.keep(&posted, b"pay=all").unwrap();
    let nothing = HeaderMap::new();
    let asked = Visit {
        headers: &nothing,
        ..visit()
    };
    for (carried, pairs) in [
        (true, &[("sec-fetch-site", "same-origin")][..]),
        (true, &[("origin", "https://app.example.com")]),
        (false, &[]),
        (false, &[("sec-fetch-site", "cross-site")]),
        (false, &[("sec-fetch-site", "same-site")]),
        (false, &[("origin", "https://evil.example")]),
        (false, &[("origin", "null")]),
    ] {
        let headers = form(pairs);
        let visit = Visit {
            html: true,
            method: &Method::POST,
            ..asked
        };
        for right in [true, false] {
            let token = issue(&challenges, &asked);
            let nonces: Vec<_> = solve(&token).iter().map(u32::to_string).collect();
            let nonces = if right {
                nonces.join("%2C")
            } else {
                "1".to_owned()
            };
            let body = format!("token={token}&nonces={nonces}&{FIELD}={blob}");
            let (reply, outcome) = post(&challenges, &visit, &headers, body.as_bytes());
            assert_eq!(outcome == Some(Outcome::Solved), right);
            let page = text(&reply);
            assert_eq!(page.contains(&blob), carried, "{pairs:?}");
            assert_eq!(
                page.contains("action=\"/orders?new=1\""),
                carried,
                "{pairs:?}"
            );
            if right && !carried {
                assert_eq!(reply.status.as_u16(), 303);
            }
        }
    }
    // Nor beside a ticket of another place.
    let elsewhere = Visit {
        network: network("198.51.100.7"),
        ..asked
    };
    let token = issue(&challenges, &elsewhere);
    let body = format!("token={token}&nonces=1&{FIELD}={blob}");
    let (reply, outcome) = post(&challenges, &posted, &own, body.as_bytes());
    assert_eq!(outcome, Some(Outcome::ForeignNetwork));
    assert!(!text(&reply).contains(&blob));
}

#[test]
fn the_page_is_whole_and_lets_nothing_else_in() {
    let reply = challenges().page(
        Rung::ProofOfWork,
        &Visit {
            html: true,
            ..visit()
        },
    );
    assert_eq!(reply.status.as_u16(), 403);
    assert_eq!(header(&reply, "rempart-action"), Some("challenge"));
    assert_eq!(header(&reply, "cache-control"), Some("no-store"));
    let page = std::str::from_utf8(&reply.body).unwrap();
    assert!(page.len() < 20_000, "{}", page.len());
    assert!(page.contains("<noscript>") && page.contains(visit().request_id));
    let between = |start: &str, end: &str| {
        let rest = page.split_once(start).unwrap().1;
        rest.split_once(end).unwrap().0.to_owned()
    };
    let policy = header(&reply, "content-security-policy").unwrap();
    for inline in [
        between("<style nonce=\"", "\""),
        between("<script nonce=\"", "\""),
    ] {
        assert!(policy.contains(&format!("'nonce-{inline}'")), "{policy}");
    }
    assert!(!page.contains("http://") && !page.contains("https://"));
    let token = between("data-token=\"", "\"");
    assert_eq!(opened(&token).ticket.target, visit().target);
    let limit = proof_of_work::limit(64 * 20);
    assert_eq!(between("data-limit=\"", "\""), limit.to_string());
}

#[test]
fn a_client_that_is_no_browser_gets_data() {
    let reply = challenges().page(Rung::ProofOfWork, &visit());
    assert_eq!(reply.status.as_u16(), 403);
    assert_eq!(header(&reply, "rempart-action"), Some("challenge"));
    assert_eq!(
        header(&reply, "content-type"),
        Some("application/problem+json")
    );
    let body: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(body["challenge"]["kind"], "proof_of_work");
    assert_eq!(body["challenge"]["puzzles"], 64);
    assert_eq!(body["challenge"]["answer"], ANSWER_PATH);
}

#[test]
fn the_longest_answer_fits() {
    let challenges = challenges();
    let long = format!("/{}", "a".repeat(MAX_TARGET - 1));
    let host = "h".repeat(253);
    let visit = Visit {
        target: &long,
        host: &host,
        ..visit()
    };
    let token = issue(&challenges, &visit);
    let body = json!({ "token": token, "nonces": vec![u32::MAX; 64] }).to_string();
    assert!(body.len() <= MAX_ANSWER, "{}", body.len());
    assert_eq!(
        answer(&challenges, &visit, &token, &solve(&token)).1,
        Some(Outcome::Solved)
    );
    // Longer targets are left out rather than refused.
    let longer = format!("{long}a");
    issue(
        &challenges,
        &Visit {
            target: &longer,
            ..visit
        },
    );
    // A host that is none gets a refusal, not a panic.
    let host = "h".repeat(254);
    let reply = challenges.page(
        Rung::ProofOfWork,
        &Visit {
            host: &host,
            ..visit
        },
    );
    assert_eq!(reply.status.as_u16(), 403);
}

#[test]
fn every_challenge_is_another_one() {
    let (one, two) = (challenges(), challenges());
    let ids: std::collections::HashSet<_> = (0..100)
        .flat_map(|_| [issue(&one, &visit()), issue(&two, &visit())])
        .map(|token| opened(&token).ticket.id)
        .collect();
    assert_eq!(ids.len(), 200);
}

#[test]
fn the_own_secret_survives_a_reload_and_no_restart() {
    let first = Challenges::build(&spec(None), None).unwrap();
    let clear = |challenges: &Challenges| {
        let granted = challenges.clearances().grant(&visit(), Rung::ProofOfWork);
        cookie(&Reply::empty(StatusCode::OK).with(SET_COOKIE, granted.unwrap()))
    };
    let headers = clear(&first);
    let reloaded = Challenges::build(&spec(None), Some(&first)).unwrap();
    assert!(holds(&reloaded, &headers, &visit()));
    let restarted = Challenges::build(&spec(None), None).unwrap();
    assert!(!holds(&restarted, &headers, &visit()));
    let configured = Challenges::build(&spec(Some(SECRET)), Some(&first)).unwrap();
    assert!(!holds(&configured, &headers, &visit()));
}

#[test]
fn a_short_secret_is_refused() {
    assert!(Challenges::build(&spec(Some(b"short")), None).is_err());
    assert!(Challenges::build(&spec(Some(b"")), None).is_err());
}

#[test]
fn a_visitor_on_two_networks_solves_twice_and_not_again() {
    let challenges = challenges();
    let home = visit();
    let token = issue(&challenges, &home);
    let at_home = cookie(&answer(&challenges, &home, &token, &solve(&token)).0);

    let mobile = Visit {
        network: network("2001:db8::1"),
        ..visit()
    };
    assert!(!holds(&challenges, &at_home, &mobile));
    let token = issue(&challenges, &mobile);
    let mut headers = json_headers();
    headers.extend(at_home);
    let body = json!({ "token": token, "nonces": solve(&token) }).to_string();
    let both = cookie(&post(&challenges, &mobile, &headers, body.as_bytes()).0);
    assert!(holds(&challenges, &both, &home) && holds(&challenges, &both, &mobile));
}

#[test]
fn a_planted_cookie_hides_no_good_one() {
    let challenges = challenges();
    let token = issue(&challenges, &visit());
    let good = cookie(&answer(&challenges, &visit(), &token, &solve(&token)).0);
    let mut headers = HeaderMap::new();
    headers.append(
        COOKIE,
        HeaderValue::from_static("rempart_clearance=x; rempart_clearance=; xrempart_clearance=y"),
    );
    headers.append(COOKIE, good[COOKIE].clone());
    assert!(holds(&challenges, &headers, &visit()));
}

proptest! {
    #[test]
    fn no_answer_panics(body in prop::collection::vec(any::<u8>(), 0..300), json in any::<bool>()) {
        let headers = if json { json_headers() } else { HeaderMap::new() };
        prop_assert_eq!(post(&challenges(), &visit(), &headers, &body).1, Some(Outcome::Invalid));
    }

    #[test]
    fn no_cookie_panics(value in prop::collection::vec(0x20_u8..0x7f, 0..300)) {
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, HeaderValue::from_bytes(&value).unwrap());
        prop_assert!(!holds(&challenges(), &headers, &visit()));
    }
}
