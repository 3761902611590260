//! The answers that Rempart makes itself: HTML for a browser's navigation, problem details
//! (RFC 9457) for anything else. Neither names a rule.
//!
//! A flood is answered from here, so pages are rendered once and only the request's id (and a wait)
//! is put in. When to answer, and with what, is decided elsewhere.

mod manners;
pub mod page;
mod rate_limit;

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION, RETRY_AFTER},
};
use std::time::Duration;

pub use manners::{Grpc, wants_html};
pub use rate_limit::RateLimit;

/// A complete answer; `content-length` and `x-request-id` are added when it is sent.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
}

impl Reply {
    /// A refusal or failure: a page when `html` (see [`wants_html`]), problem details otherwise.
    #[must_use]
    pub fn refusal(status: StatusCode, request_id: &str, html: bool) -> Self {
        Self::explained(status, request_id, html, None)
    }

    /// 429: when to come back, in `retry-after` and on the page, and the state of the bucket when
    /// one was overdrawn.
    #[must_use]
    pub fn throttled(
        request_id: &str,
        html: bool,
        wait: Duration,
        rate: Option<RateLimit>,
    ) -> Self {
        let wait = whole_seconds(wait);
        let mut reply =
            Self::explained(StatusCode::TOO_MANY_REQUESTS, request_id, html, Some(wait));
        if let Some(rate) = rate {
            reply.headers.extend(rate.headers());
        }
        reply
    }

    /// 503: no upstream, or too much to do.
    #[must_use]
    pub fn unavailable(request_id: &str, html: bool, wait: Duration) -> Self {
        Self::explained(
            StatusCode::SERVICE_UNAVAILABLE,
            request_id,
            html,
            Some(whole_seconds(wait)),
        )
    }

    /// An empty redirect. `None` when `location` can't stand in a header.
    #[must_use]
    pub fn redirect(status: StatusCode, location: &str) -> Option<Self> {
        let location = HeaderValue::from_str(location).ok()?;
        Some(Self {
            status,
            headers: vec![(LOCATION, location), no_store()],
            body: Bytes::new(),
        })
    }

    /// An answer without a body.
    #[must_use]
    pub fn empty(status: StatusCode) -> Self {
        Self {
            status,
            headers: vec![no_store()],
            body: Bytes::new(),
        }
    }

    /// With one header more.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    fn explained(status: StatusCode, request_id: &str, html: bool, wait: Option<u64>) -> Self {
        let request_id = safe(request_id);
        let mut reply = if html {
            Self {
                status,
                headers: page::headers(),
                body: page::of(status, request_id, wait),
            }
        } else {
            let text = page::text(status);
            Self::problem(status, text.title, text.detail, request_id, None)
        };
        if let Some(wait) = wait {
            reply.headers.push((RETRY_AFTER, HeaderValue::from(wait)));
        }
        reply
    }

    /// Problem details. `title`, `detail` and `more` (members, as JSON text) are ours and go in as
    /// they are.
    pub(crate) fn problem(
        status: StatusCode,
        title: &str,
        detail: &str,
        request_id: &str,
        more: Option<&str>,
    ) -> Self {
        let id = safe(request_id);
        let code = status.as_str();
        let mut body = String::with_capacity(384);
        for part in [
            r#"{"type":"about:blank","title":""#,
            title,
            r#"","status":"#,
            code,
            r#","detail":""#,
            detail,
            r#"","instance":"urn:uuid:"#,
            id,
            r#"","request_id":""#,
            id,
            "\"",
        ] {
            body.push_str(part);
        }
        if let Some(more) = more {
            body.push(',');
            body.push_str(more);
        }
        body.push_str("}\n");
        let mut headers = Vec::with_capacity(8);
        headers.push((
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        ));
        headers.push(no_store());
        Self {
            status,
            headers,
            body: body.into(),
        }
    }
}

fn no_store() -> (HeaderName, HeaderValue) {
    (CACHE_CONTROL, HeaderValue::from_static("no-store"))
}

/// Whole seconds, rounded up, at least one: who comes back then comes back late enough.
fn whole_seconds(wait: Duration) -> u64 {
    let seconds = wait.as_secs();
    let more = u64::from(wait.subsec_nanos() > 0);
    seconds.saturating_add(more).max(1)
}

/// Request ids are made here, and are UUIDs; anything else is not shown, so that nothing has to be
/// escaped.
pub(crate) fn safe(request_id: &str) -> &str {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if request_id.len() <= 64 && request_id.bytes().all(plain) {
        request_id
    } else {
        ""
    }
}

#[cfg(test)]
mod tests;
