//! HTTP/1 to the letter: what could be read in two ways is refused before an upstream hears of it,
//! and what people's programs really send passes.

use crate::harness::{
    Edge, Upstream,
    cases::{Case, cases},
    raw,
    upstream::{Stream, drain},
    wait_until,
};
use std::io::{self, Read};

/// An answer to each request, with the method and target it came with.
fn upstream() -> Upstream {
    Upstream::start(|request, stream| {
        let body = drain(request, stream)?;
        let head = request.method == "HEAD";
        let said = format!("{} {} {}", request.method, request.target, body.len());
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{}",
            said.len(),
            if head { "" } else { &said }
        );
        // In one piece, or it would wait for an acknowledgement.
        stream.write_all(answer.as_bytes())?;
        stream.flush()?;
        Ok(true)
    })
}

fn edge(upstream: &Upstream, more: &str) -> Edge {
    Edge::start(&format!(
        "upstreams: {{ app: {{ endpoints: [{}], ejection: {{ failures: 0 }}, retries: {{ attempts: 0 }} }} }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n{more}",
        upstream.address
    ))
}

/// A connection in plaintext and one over TLS.
fn both(edge: &Edge) -> [(&'static str, Box<dyn Stream>); 2] {
    [
        (
            "plaintext",
            Box::new(raw::connect("127.0.0.1", edge.plain()).unwrap()) as Box<dyn Stream>,
        ),
        ("TLS", Box::new(edge.connect("127.0.0.1"))),
    ]
}

/// Sends what the other side may close upon before it is all sent.
fn send(stream: &mut dyn Stream, bytes: &[u8]) {
    let _ = stream.write_all(bytes).and_then(|()| stream.flush());
}

/// The final answer to this case.
fn answer(case: &Case, mut stream: &mut dyn Stream) -> io::Result<raw::Answer> {
    loop {
        let answer = if case.is_head() {
            raw::read_head(&mut stream)?
        } else {
            raw::read_answer(&mut stream)?
        };
        if answer.status >= 200 {
            return Ok(answer);
        }
    }
}

#[test]
fn malformed_requests_are_refused_before_any_upstream() {
    let upstream = upstream();
    let mut edge = edge(&upstream, "");
    let cases = cases("malformed.txt");
    assert!(cases.len() >= 60, "{}", cases.len());
    let refused = |edge: &Edge| {
        ["malformed", "too_large"]
            .map(|reason| edge.metric("rempart_connections_refused_total", &[("reason", reason)]))
    };
    let before = refused(&edge);
    for case in &cases {
        for (transport, mut stream) in both(&edge) {
            let what = format!("{} over {transport}", case.what);
            send(&mut *stream, &case.bytes);
            let answer = raw::read_answer(&mut stream).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(answer.status, case.status, "{what}");
            assert_eq!(answer.header("connection"), Some("close"), "{what}");
            assert_eq!(
                answer.header("content-type"),
                Some("application/problem+json"),
                "{what}"
            );
            let id = answer.header("x-request-id").unwrap_or_default();
            assert_eq!(id.len(), 36, "{what}");
            let mut rest = Vec::new();
            let end = stream.read_to_end(&mut rest);
            let waited = end.is_err_and(|e| {
                matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                )
            });
            assert!(rest.is_empty() && !waited, "{what}: {rest:?}");
        }
    }
    assert!(upstream.seen().is_empty(), "{:?}", upstream.seen());
    let large = cases
        .iter()
        .filter(|case| matches!(case.status, 414 | 431))
        .count();
    let [malformed, too_large] = refused(&edge);
    // Counted one by one, over both transports.
    let counted = [malformed - before[0], too_large - before[1]];
    let expected = [2 * (cases.len() - large), 2 * large];
    assert_eq!(
        counted.map(|count| count.to_string()),
        expected.map(|count| count.to_string())
    );
    // It still serves, and nothing in it panicked.
    assert!(edge.process().ended().is_none());
    assert_eq!(edge.get("/alive").status(), 200);
    assert!(!edge.log().contains("panicked"), "{}", edge.log());
}

#[test]
fn odd_requests_that_people_send_pass() {
    let upstream = upstream();
    let edge = edge(&upstream, "");
    let cases = cases("legal.txt");
    assert!(cases.len() >= 20, "{}", cases.len());
    for case in &cases {
        for (transport, mut stream) in both(&edge) {
            let what = format!("{} over {transport}", case.what);
            let before = upstream.seen().len();
            send(&mut *stream, &case.bytes);
            let answer = answer(case, &mut *stream).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(answer.status, case.status, "{what}");
            assert_eq!(upstream.seen().len(), before + 1, "{what}");
            if !case.is_last() {
                let next = b"GET /next HTTP/1.1\r\nhost: app.example.com\r\n\r\n";
                let answer = raw::exchange(&mut stream, next)
                    .unwrap_or_else(|e| panic!("a request after {what}: {e}"));
                assert_eq!(answer.body, b"GET /next 0", "after {what}");
            }
        }
    }
    // What is meant for the edge alone, or may come from it alone, went no further.
    for request in upstream.seen() {
        for name in [
            "x-hop",
            "keep-alive",
            "proxy-connection",
            "upgrade",
            "http2-settings",
            "te",
            "trailer",
            "x-sum",
            "x_forwarded_for",
            "x_rempart_user",
            "x-rempart-roles",
        ] {
            assert_eq!(request.header(name), None, "{request:?}");
        }
        assert!(request.target.starts_with(['/', '*']), "{request:?}");
    }
}

#[test]
fn limits_of_heads_are_the_configurations() {
    let upstream = upstream();
    let edge = edge(
        &upstream,
        "connections: { per_client: off, rate_per_client: off, http1: { request_line: 1KiB, header_bytes: 2KiB, headers: 8 } }\n",
    );
    let ask = |target: &str, headers: &str| {
        let request = format!("GET /{target} HTTP/1.1\r\nhost: a\r\n{headers}\r\n");
        let mut stream = edge.connect("127.0.0.1");
        send(&mut stream, request.as_bytes());
        raw::read_answer(&mut stream).unwrap().status
    };
    assert_eq!(ask(&"a".repeat(1000), ""), 200);
    assert_eq!(ask(&"a".repeat(1024), ""), 414);
    assert_eq!(ask("", &format!("x: {}\r\n", "a".repeat(1900))), 200);
    assert_eq!(ask("", &format!("x: {}\r\n", "a".repeat(2048))), 431);
    assert_eq!(ask("", &"x: y\r\n".repeat(7)), 200);
    assert_eq!(ask("", &"x: y\r\n".repeat(8)), 431);
    // The redirecting listener is as strict.
    for (request, status) in [
        (
            format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(1024)),
            414,
        ),
        (
            format!(
                "GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n",
                "a".repeat(3000)
            ),
            431,
        ),
        (
            "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n".to_owned(),
            400,
        ),
        ("GET / HTTP/1.1\nhost: a\n\n".to_owned(), 400),
        ("GET / HTTP/3.0\r\nhost: a\r\n\r\n".to_owned(), 505),
    ] {
        let mut stream = raw::connect("127.0.0.1", edge.redirect()).unwrap();
        send(&mut stream, request.as_bytes());
        let answer = raw::read_answer(&mut stream).unwrap();
        assert_eq!(answer.status, status, "{request:.60}");
    }
}

/// What is wrong only later in a body reaches the upstream as a request that never ends.
#[test]
fn a_body_that_turns_bad_ends_the_request_on_both_sides() {
    let upstream = upstream();
    let edge = edge(&upstream, "");
    let trailers = format!("0\r\nx: {}\r\n\r\n", "a".repeat(9000));
    let bodies = ["0x5\r\nhello\r\n0\r\n\r\n", &trailers];
    for (body, (transport, mut stream)) in bodies
        .into_iter()
        .flat_map(|body| both(&edge).map(|stream| (body, stream)))
    {
        let head =
            b"POST /late HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
        let before = upstream.seen().len();
        send(&mut *stream, head);
        wait_until("the head at the upstream", 15, || {
            upstream.seen().len() > before
        });
        send(
            &mut *stream,
            format!("{body}GET /next HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes(),
        );
        let answer = raw::read_answer(&mut stream).unwrap_or_else(|e| panic!("{transport}: {e}"));
        assert_eq!(answer.status, 400, "{transport}");
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{transport}: {rest:?}");
    }
    assert!(
        edge.metric(
            "rempart_connections_refused_total",
            &[("reason", "malformed")]
        ) >= 4.0
    );
    let seen = upstream.seen();
    assert!(
        seen.iter().all(|request| request.target == "/late"),
        "{seen:?}"
    );
}
