//! The headers of a request that say how it is framed or where it goes, and those that are told to
//! proxies alone (RFC 9110, sections 7 and 8; RFC 9112, section 6).

use crate::listener::{chunked::is_token, stream::Body};
use http::StatusCode;

const BAD: StatusCode = StatusCode::BAD_REQUEST;
/// Most connection options: pingora takes one more, and browsers send two.
const OPTIONS: u8 = 8;

/// Whether a request with this header is made for an answer without a foreseeable end: a gRPC stream
/// or server-sent events.
#[must_use]
pub fn is_lasting(name: &str, value: &[u8]) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    match name.len() {
        12 if name.eq_ignore_ascii_case("content-type") => value
            .get(..GRPC.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(GRPC)),
        6 if name.eq_ignore_ascii_case("accept") => accepts_events(value),
        _ => false,
    }
}

fn accepts_events(value: &[u8]) -> bool {
    value
        .split(|byte| *byte == b',')
        .filter_map(|range| range.split(|byte| *byte == b';').next())
        .any(|range| {
            range
                .trim_ascii()
                .eq_ignore_ascii_case(b"text/event-stream")
        })
}

/// What was read of the headers so far.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // each is a header that was seen
pub struct Fields<'a> {
    pub host: Option<&'a [u8]>,
    /// See [`super::Framing::events`].
    pub events: bool,
    /// An expectation other than `100-continue`.
    pub expects_more: bool,
    /// `100-continue`, or an expectation that is refused.
    pub expects: bool,
    length: Option<u64>,
    chunked: bool,
    web_socket: bool,
    content_type: bool,
    authorization: bool,
    options: u8,
}

impl<'a> Fields<'a> {
    /// Reads one header.
    ///
    /// # Errors
    /// The status to refuse the request with.
    pub fn read(&mut self, name: &str, value: &'a [u8]) -> Result<(), StatusCode> {
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
        let once = |seen: bool| if seen { Err(BAD) } else { Ok(true) };
        match name.len() {
            4 if is("host") => {
                once(self.host.is_some())?;
                self.host = Some(value);
            }
            6 if is("accept") => self.events |= accepts_events(value),
            6 if is("expect") => {
                self.expects = once(self.expects)?;
                self.expects_more = !value.eq_ignore_ascii_case(b"100-continue");
            }
            7 if is("upgrade") => self.web_socket |= value.eq_ignore_ascii_case(b"websocket"),
            10 if is("connection") => self.read_options(value)?,
            12 if is("content-type") => self.content_type = once(self.content_type)?,
            13 if is("authorization") => self.authorization = once(self.authorization)?,
            // Equal ones as well: RFC 9110 allows either, nginx refuses them, and nobody sends them.
            14 if is("content-length") => {
                once(self.length.is_some())?;
                self.length = Some(length(value).ok_or(BAD)?);
            }
            17 if is("transfer-encoding") => {
                once(self.chunked)?;
                self.chunked = transfer_coding(value)?;
            }
            // What CGI and its heirs take for the same as those with a hyphen.
            14 if is("content_length") => return Err(BAD),
            17 if is("transfer_encoding") => return Err(BAD),
            _ => {}
        }
        Ok(())
    }

    /// How the body is framed.
    ///
    /// # Errors
    /// 400 when the headers contradict each other.
    pub fn body(&self, http11: bool) -> Result<Body, StatusCode> {
        let body = match (self.chunked, self.length) {
            (true, None) if http11 => Body::Chunked,
            (true, _) => return Err(BAD),
            (false, Some(length @ 1..)) => Body::Length(length),
            (false, _) => Body::None,
        };
        // A handshake has no body (RFC 6455, section 4.1): what stands there would be read as one by
        // some, and as frames by others.
        if self.web_socket && body != Body::None {
            return Err(BAD);
        }
        Ok(body)
    }

    /// `Connection` may name what is meant for the next hop alone: pingora strips it. To name what is
    /// meant for the upstream would strip that.
    fn read_options(&mut self, value: &[u8]) -> Result<(), StatusCode> {
        for option in value.split(|byte| *byte == b',') {
            let option = option.trim_ascii();
            if option.is_empty() {
                continue;
            }
            self.options = self.options.saturating_add(1);
            if self.options > OPTIONS
                || !option.iter().copied().all(is_token)
                || is_end_to_end(option)
            {
                return Err(BAD);
            }
        }
        Ok(())
    }
}

/// Whether this header is meant for the upstream for sure (RFC 9110, section 7.6.1: never to be named
/// as a connection option).
fn is_end_to_end(option: &[u8]) -> bool {
    const WHOLE: [&[u8]; 22] = [
        b"authorization",
        b"cache-control",
        b"cookie",
        b"date",
        b"expect",
        b"forwarded",
        b"from",
        b"host",
        b"max-forwards",
        b"origin",
        b"pragma",
        b"range",
        b"referer",
        b"traceparent",
        b"transfer-encoding",
        b"user-agent",
        b"via",
        b"x-api-key",
        b"x-csrf-token",
        b"x-real-ip",
        b"x-request-id",
        b"x-requested-with",
    ];
    const FAMILIES: [&[u8]; 7] = [
        b"accept",
        b"access-control-",
        b"content-",
        b"if-",
        b"sec-",
        b"x-forwarded-",
        b"x-rempart-",
    ];
    let begins = |family: &&[u8]| {
        option
            .get(..family.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(family))
    };
    WHOLE.iter().any(|whole| option.eq_ignore_ascii_case(whole)) || FAMILIES.iter().any(begins)
}

/// `1*DIGIT` (RFC 9110, section 8.6): no sign, no list, nothing that could be read as octal.
fn length(value: &[u8]) -> Option<u64> {
    match value {
        [] | [b'0', _, ..] => return None,
        _ if !value.iter().all(u8::is_ascii_digit) => return None,
        _ => {}
    }
    let length: u64 = std::str::from_utf8(value).ok()?.parse().ok()?;
    // What every parser of 64 bits reads alike.
    i64::try_from(length).is_ok().then_some(length)
}

/// `chunked` and nothing else; 501 for codings that end in it and are not known here.
fn transfer_coding(value: &[u8]) -> Result<bool, StatusCode> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(true);
    }
    let mut codings = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let last = codings.next_back().unwrap_or_default();
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let other = |coding: &[u8]| {
        !coding.is_empty() && coding.iter().copied().all(is_token) && !is_chunked(coding)
    };
    let mut others = codings.peekable();
    Err(
        if is_chunked(last) && others.peek().is_some() && others.all(other) {
            StatusCode::NOT_IMPLEMENTED
        } else {
            BAD
        },
    )
}
