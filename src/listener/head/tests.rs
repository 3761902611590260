//! Heads of requests, well-formed and not.

use super::*;
use proptest::prelude::*;

fn limits() -> Http1Limits {
    Http1Limits::default()
}

#[test]
fn a_head_is_found_however_it_is_cut() {
    let whole = b"GET / HTTP/1.1\r\nhost: a\r\n\r\nrest";
    let expected = whole.len() - 4;
    for cut in 0..=whole.len() {
        let mut scanned = 0;
        let early = end(&whole[..cut], &mut scanned);
        if cut >= expected {
            assert_eq!(early, Some(expected), "cut at {cut}");
        } else {
            assert_eq!(early, None, "cut at {cut}");
            assert_eq!(end(whole, &mut scanned), Some(expected), "cut at {cut}");
        }
    }
}

#[test]
fn framings_and_refusals() {
    let cases: &[(&str, Result<Body, u16>)] = &[
        ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", Ok(Body::None)),
        ("GET / HTTP/1.0\r\n\r\n", Ok(Body::None)),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 12\r\n\r\n",
            Ok(Body::Length(12)),
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n",
            Ok(Body::None),
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\nContent-Length: 3\r\n\r\n",
            Err(400),
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: Chunked\r\n\r\n",
            Ok(Body::Chunked),
        ),
        (
            "GET http://a:80/x HTTP/1.1\r\nhost: a:80\r\n\r\n",
            Ok(Body::None),
        ),
        ("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", Ok(Body::None)),
        // Refused
        ("GET / HTTP/1.1\r\nhost: a@b\r\n\r\n", Err(400)),
        ("GET http://a/ HTTP/1.1\r\nhost: b\r\n\r\n", Err(400)),
        ("GET http://u@a/ HTTP/1.1\r\nhost: a\r\n\r\n", Err(400)),
        ("GET http://u@a/ HTTP/1.0\r\n\r\n", Err(400)),
        ("GET http://a\\b/ HTTP/1.1\r\nhost: a\r\n\r\n", Err(400)),
        ("GET http:a HTTP/1.1\r\nhost: a\r\n\r\n", Err(400)),
        (
            "CONNECT example.com:443 HTTP/1.1\r\nhost: example.com:443\r\n\r\n",
            Err(405),
        ),
        ("GET / HTTP/1.1\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1\r\nhost: a\r\nHost: b\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1\nhost: a\n\n", Err(400)),
        ("GET / HTTP/1.1\r\nhost: a\n\r\n", Err(400)),
        ("GET / HTTP/2.0\r\nhost: a\r\n\r\n", Err(505)),
        ("GET /\r\n\r\n", Err(400)),
        ("\x16\x03\x01\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1\r\nhost: a\r\n folded: b\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1\r\nhost : a\r\n\r\n", Err(400)),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n",
            Err(400),
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +3\r\n\r\n",
            Err(400),
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3, 3\r\n\r\n",
            Err(400),
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999\r\n\r\n",
            Err(400),
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
            Err(400),
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            Err(501),
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n",
            Err(400),
        ),
        (
            "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n",
            Err(400),
        ),
    ];
    for (head, expected) in cases {
        assert_eq!(
            framing(head.as_bytes(), &limits())
                .map(|framing| framing.body)
                .map_err(|status| status.as_u16()),
            *expected,
            "{head:?}"
        );
    }
    let many = format!(
        "GET / HTTP/1.1\r\nhost: a\r\n{}\r\n",
        "x: y\r\n".repeat(128)
    );
    assert_eq!(
        framing(many.as_bytes(), &limits()).unwrap_err().as_u16(),
        431
    );
}

#[test]
fn event_streams_are_known_by_their_request() {
    for (header, expected) in [
        ("accept: text/event-stream", true),
        ("Accept: text/html, Text/Event-Stream;q=0.9", true),
        ("accept: */*", false),
        ("accept: text/event-streams", false),
        ("content-type: text/event-stream", false),
        ("content-type: application/json", false),
    ] {
        let head = format!("GET / HTTP/1.1\r\nhost: a\r\n{header}\r\n\r\n");
        let framing = framing(head.as_bytes(), &limits()).unwrap();
        assert_eq!(framing.events, expected, "{header}");
    }
}

#[test]
fn empty_lines_before_a_request_are_skipped() {
    assert_eq!(leading_empty_lines(b"\r\n\r\nGET"), 4);
    assert_eq!(leading_empty_lines(b"\rGET"), 0);
    assert_eq!(leading_empty_lines(b""), 0);
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..512), cut in 0_usize..512) {
        let mut scanned = 0;
        let early = end(&bytes[..cut.min(bytes.len())], &mut scanned);
        let late = end(&bytes, &mut scanned);
        let mut fresh = 0;
        prop_assert_eq!(early.or(late), end(&bytes, &mut fresh));
        let _ = framing(&bytes, &limits());
    }
}

#[test]
fn grpc_and_event_streams_last() {
    for (name, value, expected) in [
        ("content-type", "application/grpc+proto", true),
        ("Accept", "Text/Event-Stream", true),
        ("accept", "*/*", false),
        ("content-type", "text/event-stream", false),
    ] {
        assert_eq!(is_lasting(name, value.as_bytes()), expected, "{name}");
    }
}

#[test]
fn what_is_too_large_is_known_before_it_is_whole() {
    let limits = Http1Limits {
        request_line: 40,
        header_bytes: 80,
        headers: 2,
    };
    let long = format!("GET /{}", "a".repeat(40));
    assert_eq!(size(long.as_bytes(), &limits).unwrap_err().as_u16(), 414);
    let fits = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(26));
    assert_eq!(
        framing(fits.as_bytes(), &limits).map(|f| f.body),
        Ok(Body::None)
    );
    let over = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(27));
    assert_eq!(framing(over.as_bytes(), &limits).unwrap_err().as_u16(), 414);
    let large = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}", "a".repeat(80));
    assert_eq!(size(large.as_bytes(), &limits).unwrap_err().as_u16(), 431);
    let many = "GET / HTTP/1.1\r\nhost: a\r\nb: c\r\nd: e\r\n\r\n";
    assert_eq!(framing(many.as_bytes(), &limits).unwrap_err().as_u16(), 431);
}

#[test]
fn a_connection_option_strips_nothing_that_is_the_upstreams() {
    for (options, passes) in [
        ("keep-alive", true),
        ("Keep-Alive, TE", true),
        ("Upgrade, HTTP2-Settings", true),
        ("close, x-hop,,", true),
        ("close, Content-Length", false),
        ("cookie", false),
        ("X-Forwarded-For", false),
        ("x-rempart-user", false),
        ("\"cookie\"", false),
        (":authority", false),
        ("a,b,c,d,e,f,g,h,i", false),
    ] {
        let head = format!("GET / HTTP/1.1\r\nhost: a\r\nconnection: {options}\r\n\r\n");
        assert_eq!(
            framing(head.as_bytes(), &limits()).is_ok(),
            passes,
            "{options}"
        );
    }
}
