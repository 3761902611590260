//! Who gets what: a challenged browser sees a page, and no program ever does.

#![allow(clippy::float_cmp, clippy::cast_precision_loss)] // Counters.

use crate::harness::{Curl, Edge, Upstream, raw, tools};

const CHROME: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8";

fn edge(upstream: &Upstream, more: &str) -> Edge {
    Edge::start(&format!(
        "upstreams: {{ app: {{ endpoints: [{}] }} }}\n\
         routes:\n\
         \x20 - {{ name: hooks, path: /hooks, upstream: app, challenge: false, limits: [few] }}\n\
         \x20 - {{ name: app, path: /, upstream: app }}\n\
         limits: {{ few: {{ key: [client.ip], rate: 3/m, over: throttle }} }}\n\
         rules: [{{ name: prove, when: 'request.path.startsWith(\"/\")', then: {{ challenge: proof_of_work }} }}]\n{more}",
        upstream.address
    ))
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Gets {
    Page,
    Data,
    Grpc(&'static str),
}

/// Who asks, with what, and what it gets.
const TABLE: &[(&str, &[&str], Gets)] = {
    use Gets::{Data, Grpc, Page};
    &[
        (
            "a browser",
            &[
                "accept: CHROME",
                "sec-fetch-mode: navigate",
                "sec-fetch-dest: document",
            ],
            Page,
        ),
        ("an old browser", &["accept: CHROME"], Page),
        (
            "a frame",
            &[
                "accept: CHROME",
                "sec-fetch-mode: navigate",
                "sec-fetch-dest: iframe",
            ],
            Page,
        ),
        (
            "a download that goes on",
            &["accept: CHROME", "range: bytes=100-"],
            Page,
        ),
        ("a program", &["accept: */*"], Data),
        ("an API client", &["accept: application/json"], Data),
        ("one who says nothing", &["accept:"], Data),
        (
            "a link preview",
            &["accept: */*", "user-agent: Slackbot-LinkExpanding 1.0"],
            Data,
        ),
        (
            "fetch",
            &[
                "accept: */*",
                "sec-fetch-mode: cors",
                "sec-fetch-dest: empty",
                "origin: https://other.example",
            ],
            Data,
        ),
        (
            "fetch that asks for HTML",
            &[
                "accept: text/html",
                "sec-fetch-mode: same-origin",
                "sec-fetch-dest: empty",
            ],
            Data,
        ),
        (
            "XHR",
            &["accept: text/html, */*", "x-requested-with: XMLHttpRequest"],
            Data,
        ),
        (
            "a picture",
            &[
                "accept: CHROME",
                "sec-fetch-mode: no-cors",
                "sec-fetch-dest: image",
            ],
            Data,
        ),
        (
            "a script",
            &[
                "accept: */*",
                "sec-fetch-mode: no-cors",
                "sec-fetch-dest: script",
            ],
            Data,
        ),
        ("an event stream", &["accept: text/event-stream"], Data),
        (
            "a page that is loaded ahead",
            &[
                "accept: CHROME",
                "sec-fetch-mode: navigate",
                "sec-fetch-dest: document",
                "sec-purpose: prefetch",
            ],
            Data,
        ),
        (
            "a page that is rendered ahead",
            &[
                "accept: CHROME",
                "sec-fetch-mode: navigate",
                "sec-fetch-dest: document",
                "sec-purpose: prefetch;prerender",
            ],
            Data,
        ),
        (
            "a preflight",
            &[
                "accept: */*",
                "origin: https://other.example",
                "access-control-request-method: PUT",
                "METHOD: OPTIONS",
            ],
            Data,
        ),
        (
            "a webhook",
            &[
                "accept: */*",
                "content-type: application/json",
                "METHOD: POST",
            ],
            Data,
        ),
        ("a PUT", &["accept: application/json", "METHOD: PUT"], Data),
        (
            "gRPC",
            &[
                "content-type: application/grpc",
                "te: trailers",
                "METHOD: POST",
            ],
            Grpc("application/grpc"),
        ),
        (
            "gRPC-Web",
            &["content-type: application/grpc-web+proto", "METHOD: POST"],
            Grpc("application/grpc-web"),
        ),
        (
            "gRPC-Web as text",
            &["content-type: application/grpc-web-text", "METHOD: POST"],
            Grpc("application/grpc-web-text"),
        ),
    ]
};

fn asking(mut curl: Curl, fields: &[&str]) -> Curl {
    for field in fields {
        curl = match field.split_once(": ") {
            Some(("METHOD", method)) => curl.method(method).data("{}"),
            _ => curl.with(&["-H", &field.replace("CHROME", CHROME)]),
        };
    }
    curl
}

#[test]
fn each_gets_what_it_can_read() {
    let upstream = Upstream::named("app");
    let edge = edge(&upstream, "");
    for (who, fields, gets) in TABLE {
        for curl in [edge.get("/x?y=z").http1(), edge.get("/x?y=z").http2()] {
            let answer = asking(curl, fields).answer();
            let who = format!("{who} over HTTP/{}", answer.version);
            assert_eq!(answer.status, 403, "{who}");
            assert_eq!(answer.header("rempart-action"), Some("challenge"), "{who}");
            assert!(
                answer.header("cache-control").unwrap().contains("no-store"),
                "{who}"
            );
            assert!(answer.header("x-request-id").is_some(), "{who}");
            let length = answer.header("content-length").unwrap();
            assert_eq!(length, answer.body.len().to_string(), "{who}");
            let kind = answer.header("content-type").unwrap();
            match gets {
                Gets::Page => {
                    assert_eq!(kind, "text/html; charset=utf-8", "{who}");
                    assert!(answer.text().contains("data-token="), "{who}");
                }
                Gets::Data => {
                    assert_eq!(kind, "application/problem+json", "{who}");
                    let challenge = &answer.json()["challenge"];
                    assert_eq!(challenge["kind"], "proof_of_work", "{who}");
                    assert_eq!(challenge["answer"], "/.rempart/challenge", "{who}");
                }
                Gets::Grpc(expected) => {
                    assert_eq!(kind, *expected, "{who}");
                    assert_eq!(answer.header("grpc-status"), Some("7"), "{who}");
                    assert!(answer.header("grpc-message").is_some(), "{who}");
                    assert!(answer.body.is_empty(), "{who}");
                }
            }
        }
    }
    assert!(upstream.seen().is_empty());
    let labels = [("kind", "proof_of_work"), ("outcome", "issued")];
    let issued = edge.metric("rempart_challenges_total", &labels);
    assert_eq!(issued, TABLE.len() as f64 * 2.0);
}

#[test]
fn head_is_answered_as_get_is_without_the_body() {
    let upstream = Upstream::named("app");
    let edge = edge(&upstream, "");
    for curl in [edge.get("/").http1(), edge.get("/").http2()] {
        for curl in [curl.clone(), curl.navigating()] {
            let (get, head) = (curl.answer(), curl.with(&["--head"]).answer());
            assert_eq!((get.status, head.status), (403, 403));
            assert!(head.body.is_empty() || head.body.starts_with(b"HTTP/"));
            for name in [
                "content-type",
                "content-length",
                "cache-control",
                "rempart-action",
            ] {
                assert_eq!(get.header(name), head.header(name), "{name}");
            }
        }
    }
}

#[test]
fn http_1_0_and_websockets_are_answered_in_their_own_words() {
    let upstream = Upstream::named("app");
    let edge = edge(&upstream, "");
    for (head, kind) in [
        (
            "GET / HTTP/1.0\r\nhost: app.example.com\r\naccept: text/html\r\n",
            "text/html; charset=utf-8",
        ),
        (
            "GET / HTTP/1.0\r\nhost: app.example.com\r\n",
            "application/problem+json",
        ),
        (
            "GET /chat HTTP/1.1\r\nhost: app.example.com\r\naccept: text/html\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            "application/problem+json",
        ),
    ] {
        let mut stream = edge.connect("127.0.0.1");
        let answer = raw::exchange(&mut stream, format!("{head}\r\n").as_bytes()).unwrap();
        assert_eq!(answer.status, 403, "{head}");
        assert_eq!(answer.header("content-type"), Some(kind), "{head}");
        assert_eq!(answer.header("rempart-action"), Some("challenge"));
    }
}

/// RFC 9112, 3.2.2: it asks for the same, and leads back to the same.
#[test]
fn the_absolute_form_of_a_target_is_no_other_request() {
    let upstream = Upstream::named("app");
    let edge = Edge::start(&format!(
        "upstreams: {{ app: {{ endpoints: [{}] }} }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n\
         rules: [{{ name: prove, when: 'request.path.startsWith(\"/\")', then: {{ challenge: silent }} }}]\n",
        upstream.address
    ));
    let ask = |target: &str, cookie: &str| {
        let head = format!(
            "GET http://app.example.com{target} HTTP/1.1\r\nhost: app.example.com\r\n\
             accept: text/html\r\ncookie: {cookie}\r\n\r\n"
        );
        let mut stream = edge.connect("127.0.0.1");
        raw::exchange(&mut stream, head.as_bytes()).unwrap()
    };
    let challenged = ask("/orders?page=2", "none=1");
    let cookie = challenged.header("set-cookie").unwrap();
    let cookie = cookie.split(';').next().unwrap();
    let refresh = challenged.header("refresh").unwrap();
    let back = ask(refresh.strip_prefix("0; url=").unwrap(), cookie);
    assert_eq!(back.status, 303);
    assert_eq!(back.header("location"), Some("/orders?page=2"));
}

#[test]
fn a_grpc_client_sees_that_it_is_denied() {
    let upstream = Upstream::named("app");
    let edge = edge(&upstream, "");
    let said = tools::succeed(
        tools::python("grpc_denied.py")
            .arg(format!("app.example.com:{}", edge.tls().port()))
            .arg(edge.ca()),
    );
    assert!(said.contains("denied ok"), "{said}");
}

#[test]
fn an_exempt_route_is_not_challenged_but_limited() {
    let upstream = Upstream::named("app");
    let edge = edge(&upstream, "");
    let hook = || edge.get("/hooks/paid").data("{}").status();
    assert_eq!([hook(), hook(), hook(), hook()], [200, 200, 200, 429]);
    assert_eq!(edge.get("/else").status(), 403);
}

#[test]
fn reserved_paths_say_what_they_take_and_are_limited() {
    let upstream = Upstream::named("app");
    let edge = Edge::start(&format!(
        "upstreams: {{ app: {{ endpoints: [{}] }} }}\n\
         routes: [{{ name: app, path: /, upstream: app, limits: [few] }}]\n\
         limits: {{ few: {{ key: [client.ip], rate: 6/m, over: throttle }} }}\n",
        upstream.address
    ));
    let path = "/.rempart/challenge";
    for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
        let answer = edge.get(path).method(method).answer();
        assert_eq!(answer.status, 405, "{method}");
        assert_eq!(answer.header("allow"), Some("POST"));
        assert!(answer.header("cache-control").unwrap().contains("no-store"));
    }
    let unknown = edge.get("/.rempart/else").answer();
    assert_eq!(unknown.status, 404);
    assert!(
        unknown
            .header("cache-control")
            .unwrap()
            .contains("no-store")
    );
    let wrong = edge
        .get(path)
        .header("content-type", "application/json")
        .data("{}")
        .answer();
    assert_eq!(wrong.status, 403);
    assert!(wrong.header("cache-control").unwrap().contains("no-store"));
    // A flood of answers runs into the limits as anything else does.
    assert_eq!(edge.get(path).data("{}").status(), 429);
    assert!(upstream.seen().is_empty());
}
