//! The head of an HTTP/1 request: where it ends, how its body is framed, and whether it is so
//! malformed or so large that it ends the connection. What the request means is left to pingora and
//! the proxy.
//!
//! Stricter than RFC 9110 and 9112 oblige, where leniency lets two parsers disagree about what a
//! request is or where it ends: bare line feeds, a transfer coding beside a content length, and
//! several lengths, even equal ones, are refused.

mod fields;
mod target;

use super::stream::Body;
use crate::config::model::Http1Limits;
use fields::Fields;
use http::StatusCode;
use memchr::{memchr, memchr_iter, memchr2_iter};
use std::mem::MaybeUninit;

pub use fields::is_lasting;

/// What pingora takes at most: headers, and bytes of a target or a header's name. What the
/// configuration allows beyond is refused here, too.
const HEADERS: usize = 256;
const LENGTH: usize = 65_534;
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

/// Whether a head, or as much of it as has come, is larger than it may be.
///
/// # Errors
/// 414 for its request line, which is long by its target; 431 for all of it.
pub fn size(head: &[u8], limits: &Http1Limits) -> Result<(), StatusCode> {
    if head.len() > limits.request_line {
        let line = memchr(b'\n', head).unwrap_or(head.len());
        // Without the CR.
        if line.saturating_sub(1) > limits.request_line {
            return Err(StatusCode::URI_TOO_LONG);
        }
    }
    if head.len() > limits.header_bytes {
        return Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    Ok(())
}

/// What a refusal of a head counts as.
#[must_use]
pub fn reason(status: StatusCode) -> &'static str {
    match status {
        StatusCode::URI_TOO_LONG | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "too_large",
        _ => "malformed",
    }
}

/// What has to be known of a request before it is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    pub body: Body,
    /// HEAD: the answer has no body, whatever its headers say.
    pub bodiless_answer: bool,
    /// It asks for server-sent events, which have no foreseeable end.
    pub events: bool,
    /// Its body follows only when it was told to go on (RFC 9110, section 10.1.1).
    pub expects: bool,
}

/// How the request of this head is framed.
///
/// # Errors
/// The status to refuse the request with.
pub fn framing(head: &[u8], limits: &Http1Limits) -> Result<Framing, StatusCode> {
    const BAD: StatusCode = StatusCode::BAD_REQUEST;
    size(head, limits)?;
    if !lines_end_plainly(head) {
        return Err(BAD);
    }
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS];
    let headers = headers
        .get_mut(..limits.headers.min(HEADERS))
        .unwrap_or_default();
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, headers) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => {
            return Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        }
        Err(httparse::Error::Version) => return Err(version(head)),
        Ok(httparse::Status::Partial) | Err(_) => return Err(BAD),
    }
    let method = request.method.unwrap_or_default();
    if method == "CONNECT" {
        // Nothing here tunnels.
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    let target = request.path.unwrap_or_default();
    if target.len() > LENGTH {
        return Err(StatusCode::URI_TOO_LONG);
    }
    let http11 = request.version == Some(1);
    let mut fields = Fields::default();
    for header in request.headers.iter() {
        if header.name.len() > LENGTH {
            return Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        }
        fields.read(header.name, header.value)?;
    }
    let body = fields.body(http11)?;
    if (http11 && fields.host.is_none()) || !target::is_sound(method, target, fields.host) {
        return Err(BAD);
    }
    if fields.expects_more {
        return Err(StatusCode::EXPECTATION_FAILED);
    }
    Ok(Framing {
        body,
        bodiless_answer: method == "HEAD",
        events: fields.events,
        expects: http11 && fields.expects,
    })
}

/// Whether each CR stands before an LF and each LF behind a CR.
fn lines_end_plainly(head: &[u8]) -> bool {
    let mut carriage = None;
    for at in memchr2_iter(b'\r', b'\n', head) {
        let feeds = head.get(at) == Some(&b'\n');
        let follows = carriage.is_some_and(|before: usize| before.saturating_add(1) == at);
        if feeds != follows || (carriage.is_some() && !follows) {
            return false;
        }
        carriage = (!feeds).then_some(at);
    }
    carriage.is_none()
}

/// The refusal of a request line whose last word is no version that is spoken here.
fn version(head: &[u8]) -> StatusCode {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ').skip(2);
    match (words.next(), words.next()) {
        (Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor]), None)
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            StatusCode::HTTP_VERSION_NOT_SUPPORTED
        }
        _ => StatusCode::BAD_REQUEST,
    }
}

#[cfg(test)]
mod tests;
