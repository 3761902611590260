//! The few answers that are given before pingora sees a request: it was malformed, or belongs on
//! HTTPS. All of them end the connection.

use http::StatusCode;
use uuid::Uuid;

/// A whole HTTP/1.1 response, as it goes on the wire.
#[must_use]
pub fn refusal(status: StatusCode) -> Vec<u8> {
    let reason = status.canonical_reason().unwrap_or_default();
    let code = status.as_u16();
    let body = format!(r#"{{"type":"about:blank","title":"{reason}","status":{code}}}"#);
    format!(
        "HTTP/1.1 {code} {reason}\r\n\
         content-type: application/problem+json\r\n\
         content-length: {}\r\n\
         x-request-id: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len(),
        Uuid::now_v7(),
    )
    .into_bytes()
}

/// 308 to `location`, which holds nothing but characters of a URI.
#[must_use]
pub fn redirect(location: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 308 Permanent Redirect\r\n\
         location: {location}\r\n\
         content-length: 0\r\n\
         x-request-id: {}\r\n\
         connection: close\r\n\r\n",
        Uuid::now_v7(),
    )
    .into_bytes()
}
