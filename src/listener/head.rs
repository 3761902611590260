//! The head of an HTTP/1 request: where it ends, how its body is framed, and whether it is so
//! malformed that it ends the connection. What the request means is left to pingora and the proxy.
//!
//! Stricter than RFC 9112 obliges, where leniency lets two parsers disagree about a request's end:
//! bare line feeds, a transfer coding beside a content length, and several lengths are refused.

use super::stream::Body;
use http::StatusCode;
use memchr::memchr_iter;
use pingora_core::protocols::http::authority::{
    RawTargetAuthority, is_http_family_scheme, raw_target_authority,
};

/// Most bytes of a request line and headers.
pub const MAXIMUM: usize = 64 * 1024;
/// Most headers of a request.
const HEADERS: usize = 128;
/// What an HTTP/2 client with prior knowledge sends first, up to the first empty line.
pub const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// Where the head in `buffer` ends: the index past its empty line. Bytes before `scanned` were
/// looked at before; it is moved on so that nothing is looked at twice.
pub fn end(buffer: &[u8], scanned: &mut usize) -> Option<usize> {
    let from = *scanned;
    for found in memchr_iter(b'\n', buffer.get(from..)?) {
        let newline = from.saturating_add(found);
        let rest = buffer.get(newline.saturating_add(1)..)?;
        match rest {
            [b'\n', ..] => return Some(newline.saturating_add(2)),
            [b'\r', b'\n', ..] => return Some(newline.saturating_add(3)),
            // Undecided: look at this line feed again when there is more.
            [] | [b'\r'] => {
                *scanned = newline;
                return None;
            }
            _ => {}
        }
    }
    *scanned = buffer.len();
    None
}

/// Empty lines that a client may have left before a request line (RFC 9112, section 2.2).
#[must_use]
pub fn leading_empty_lines(buffer: &[u8]) -> usize {
    let mut skipped = 0;
    while let Some([b'\r', b'\n', ..]) = buffer.get(skipped..) {
        skipped = skipped.saturating_add(2);
    }
    skipped
}

/// What has to be known of a request before it is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    pub body: Body,
    /// HEAD: the answer has no body, whatever its headers say.
    pub bodiless_answer: bool,
    /// It may rightly go on for long: see [`is_lasting`].
    pub lasting: bool,
}

/// Whether a request with this header is made for an answer without a foreseeable end: a gRPC stream
/// or server-sent events.
#[must_use]
pub fn is_lasting(name: &str, value: &[u8]) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    const EVENTS: &[u8] = b"text/event-stream";
    match name.len() {
        12 if name.eq_ignore_ascii_case("content-type") => value
            .get(..GRPC.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(GRPC)),
        6 if name.eq_ignore_ascii_case("accept") => value
            .split(|byte| *byte == b',')
            .filter_map(|range| range.split(|byte| *byte == b';').next())
            .any(|range| range.trim_ascii().eq_ignore_ascii_case(EVENTS)),
        _ => false,
    }
}

/// Whether the target and the Host header name one place, and nothing that parsers read differently
/// (RFC 9112, section 3.2). What pingora would refuse unseen is refused here.
fn is_one_place(target: &str, host: Option<&[u8]>) -> bool {
    if host.is_some_and(|host| host.contains(&b'@')) {
        return false;
    }
    match raw_target_authority(target.as_bytes()) {
        RawTargetAuthority::None => true,
        RawTargetAuthority::AmbiguousAuthority => false,
        RawTargetAuthority::Absolute {
            scheme, authority, ..
        } => {
            let parses =
                !is_http_family_scheme(scheme) || http::uri::Authority::try_from(authority).is_ok();
            parses && !authority.contains(&b'@') && host.is_none_or(|host| host == authority)
        }
    }
}

/// How the request of this head is framed.
///
/// # Errors
/// The status to refuse the request with.
pub fn framing(head: &[u8]) -> Result<Framing, StatusCode> {
    const BAD: StatusCode = StatusCode::BAD_REQUEST;
    for newline in memchr_iter(b'\n', head) {
        if newline
            .checked_sub(1)
            .and_then(|before| head.get(before))
            .is_none_or(|byte| *byte != b'\r')
        {
            return Err(BAD);
        }
    }
    let mut headers = [const { std::mem::MaybeUninit::uninit() }; HEADERS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, &mut headers) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => {
            return Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        }
        Ok(httparse::Status::Partial) | Err(_) => return Err(BAD),
    }
    if request.method == Some("CONNECT") {
        // Nothing here tunnels.
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    let mut host = None;
    let mut lasting = false;
    let mut length = None;
    let mut chunked = false;
    for header in request.headers.iter() {
        match header.name.len() {
            4 if header.name.eq_ignore_ascii_case("host") => {
                if host.replace(header.value).is_some() {
                    return Err(BAD);
                }
            }
            14 if header.name.eq_ignore_ascii_case("content-length") => {
                let value = decimal(header.value).ok_or(BAD)?;
                if length.is_some_and(|other| other != value) {
                    return Err(BAD);
                }
                length = Some(value);
            }
            17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                if chunked || !header.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(BAD);
                }
                chunked = true;
            }
            _ => lasting |= is_lasting(header.name, header.value),
        }
    }
    let http11 = request.version == Some(1);
    if (http11 && host.is_none()) || (chunked && (length.is_some() || !http11)) {
        return Err(BAD);
    }
    if !is_one_place(request.path.unwrap_or_default(), host) {
        return Err(BAD);
    }
    Ok(Framing {
        body: match (chunked, length) {
            (true, _) => Body::Chunked,
            (false, Some(1..)) => Body::Length(length.unwrap_or(0)),
            (false, _) => Body::None,
        },
        bodiless_answer: request.method == Some("HEAD"),
        lasting,
    })
}

/// `1*DIGIT` (RFC 9110, section 8.6): no sign, no list.
fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
                Ok(Body::Length(3)),
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
            ("GET / HTTP/2.0\r\nhost: a\r\n\r\n", Err(400)),
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
                Err(400),
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
                framing(head.as_bytes())
                    .map(|framing| framing.body)
                    .map_err(|status| status.as_u16()),
                *expected,
                "{head:?}"
            );
        }
        let many = format!(
            "GET / HTTP/1.1\r\nhost: a\r\n{}\r\n",
            "x: y\r\n".repeat(HEADERS)
        );
        assert_eq!(framing(many.as_bytes()).unwrap_err().as_u16(), 431);
    }

    #[test]
    fn streams_without_an_end_are_known_by_their_request() {
        for (header, expected) in [
            ("accept: text/event-stream", true),
            ("Accept: text/html, Text/Event-Stream;q=0.9", true),
            ("content-type: application/grpc+proto", true),
            ("accept: */*", false),
            ("accept: text/event-streams", false),
            ("content-type: text/event-stream", false),
            ("content-type: application/json", false),
        ] {
            let head = format!("GET / HTTP/1.1\r\nhost: a\r\n{header}\r\n\r\n");
            let framing = framing(head.as_bytes()).unwrap();
            assert_eq!(framing.lasting, expected, "{header}");
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
            let _ = framing(&bytes);
        }
    }
}
