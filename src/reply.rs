//! The answers that Rempart makes itself: HTML for a browser's navigation, problem details
//! (RFC 9457) for anything else. Neither names a rule.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};

/// A complete answer; `content-length` and `x-request-id` are added when it is sent.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
}
