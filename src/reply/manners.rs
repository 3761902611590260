//! Who is spoken to: a person at a browser gets a page, a program gets data, and gRPC gets a status
//! of its own. Told by what the request says of itself, so it is no proof of anything.

use super::{Reply, no_store};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, UPGRADE},
};

/// Destinations of a request (Fetch Metadata) in which a page is seen.
const SEEN: [&str; 4] = ["document", "iframe", "frame", "fencedframe"];

/// Whether a page is wanted: a browser navigates (as `sec-fetch-mode` and `sec-fetch-dest` say, or
/// nothing is said of it) and `accept` names HTML. Never for `fetch`, XHR, `accept: */*`, pictures,
/// `WebSockets` and event streams, and not for what is loaded ahead: the page would be shown later.
#[must_use]
pub fn wants_html(headers: &HeaderMap) -> bool {
    let says = |name: &str, fits: &dyn Fn(&HeaderValue) -> bool| headers.get(name).is_none_or(fits);
    accepts_html(headers)
        && says("sec-fetch-mode", &|mode| mode == "navigate")
        && says("sec-fetch-dest", &|seen| {
            SEEN.iter().any(|name| seen == name)
        })
        && !headers.contains_key("x-requested-with")
        && !headers.contains_key(UPGRADE)
        && !is_ahead(headers)
        && Grpc::of(headers).is_none()
}

/// Whether the answer is wanted for later: `sec-purpose: prefetch;prerender`, and what older browsers
/// say.
fn is_ahead(headers: &HeaderMap) -> bool {
    ["sec-purpose", "purpose", "x-purpose", "x-moz"]
        .iter()
        .filter_map(|name| headers.get(*name))
        .any(|value| {
            let value = value.as_bytes().to_ascii_lowercase();
            value.starts_with(b"prefetch") || value.starts_with(b"prerender")
        })
}

fn accepts_html(headers: &HeaderMap) -> bool {
    headers
        .get_all(ACCEPT)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(is_html)
}

/// `text/html` or XHTML, and not with `q=0` (RFC 9110, 12.4.2).
fn is_html(range: &[u8]) -> bool {
    let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let html = parts.next().is_some_and(|name| {
        name.eq_ignore_ascii_case(b"text/html")
            || name.eq_ignore_ascii_case(b"application/xhtml+xml")
    });
    html && !parts.any(|parameter| {
        parameter
            .strip_prefix(b"q=")
            .or_else(|| parameter.strip_prefix(b"Q="))
            .is_some_and(|q| !q.is_empty() && q.iter().all(|byte| matches!(byte, b'0' | b'.')))
    })
}

/// The kinds of gRPC: their clients look for a status in the headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grpc {
    Http2,
    Web,
    WebText,
}

impl Grpc {
    /// What the request's `content-type` says.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let kind = headers.get(CONTENT_TYPE)?.as_bytes();
        let is = |name: &[u8]| {
            let start = kind.get(..name.len());
            let next = kind.get(name.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(name))
                && matches!(next, None | Some(b'+' | b';' | b' '))
        };
        if is(b"application/grpc") {
            Some(Self::Http2)
        } else if is(b"application/grpc-web") {
            Some(Self::Web)
        } else if is(b"application/grpc-web-text") {
            Some(Self::WebText)
        } else {
            None
        }
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Http2 => "application/grpc",
            Self::Web => "application/grpc-web",
            Self::WebText => "application/grpc-web-text",
        })
    }
}

impl Reply {
    /// 403 for a gRPC client: `PERMISSION_DENIED`, and why, in the headers (a response of trailers
    /// only); the HTTP status says the same to those who look no further. `message` is
    /// percent-encoded already.
    #[must_use]
    pub fn grpc_denied(grpc: Grpc, message: &'static str) -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            headers: vec![
                (CONTENT_TYPE, grpc.content_type()),
                no_store(),
                (
                    HeaderName::from_static("grpc-status"),
                    HeaderValue::from_static("7"),
                ),
                (
                    HeaderName::from_static("grpc-message"),
                    HeaderValue::from_static(message),
                ),
            ],
            body: Bytes::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHROME: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn a_page_is_for_navigations() {
        for (wanted, pairs) in [
            (
                true,
                &[("accept", CHROME), ("sec-fetch-mode", "navigate")][..],
            ),
            (true, &[("accept", CHROME)]),
            (true, &[("accept", "TEXT/HTML;q=0.5")]),
            (true, &[("accept", "image/png"), ("accept", "text/html")]),
            (false, &[("accept", CHROME), ("sec-fetch-mode", "cors")]),
            (
                false,
                &[("accept", CHROME), ("sec-fetch-mode", "same-origin")],
            ),
            (
                false,
                &[("accept", CHROME), ("sec-fetch-mode", "websocket")],
            ),
            (
                false,
                &[("accept", CHROME), ("x-requested-with", "XMLHttpRequest")],
            ),
            (false, &[("accept", "*/*"), ("sec-fetch-mode", "navigate")]),
            (false, &[("accept", "*/*")]),
            (false, &[("accept", "application/json")]),
            (false, &[("accept", "text/event-stream")]),
            (false, &[("accept", "text/html;q=0")]),
            (false, &[("accept", "text/html; q=0.000, */*")]),
            (false, &[("accept", "text/htmlx")]),
            (false, &[("accept", "")]),
            (false, &[]),
        ] {
            assert_eq!(wants_html(&headers(pairs)), wanted, "{pairs:?}");
        }
    }

    #[test]
    fn a_page_is_wanted_where_it_is_seen() {
        for (wanted, destination) in [
            (true, "document"),
            (true, "iframe"),
            (true, "frame"),
            (true, "fencedframe"),
            (false, "image"),
            (false, "script"),
            (false, "style"),
            (false, "font"),
            (false, "video"),
            (false, "empty"),
            (false, "embed"),
            (false, "object"),
            (false, "worker"),
            (false, "serviceworker"),
            (false, "manifest"),
            (false, "xslt"),
            (false, "report"),
            (false, ""),
        ] {
            let pairs = [("accept", CHROME), ("sec-fetch-dest", destination)];
            assert_eq!(wants_html(&headers(&pairs)), wanted, "{destination}");
        }
    }

    #[test]
    fn nobody_sees_a_page_that_is_loaded_ahead() {
        for pair in [
            ("sec-purpose", "prefetch"),
            ("sec-purpose", "prefetch;prerender"),
            ("sec-purpose", "Prefetch;anonymous-client-ip"),
            ("purpose", "prefetch"),
            ("x-moz", "prefetch"),
            ("upgrade", "websocket"),
            ("content-type", "application/grpc"),
        ] {
            let pairs = [("accept", CHROME), ("sec-fetch-mode", "navigate"), pair];
            assert!(!wants_html(&headers(&pairs)), "{pair:?}");
        }
        let shown = [("accept", CHROME), ("sec-purpose", "other")];
        assert!(wants_html(&headers(&shown)));
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (kind, expected) in [
            ("application/grpc", Some(Grpc::Http2)),
            ("application/grpc+proto", Some(Grpc::Http2)),
            ("Application/gRPC;x=y", Some(Grpc::Http2)),
            ("application/grpc-web", Some(Grpc::Web)),
            ("application/grpc-web+proto", Some(Grpc::Web)),
            ("application/grpc-web-text", Some(Grpc::WebText)),
            ("application/grpc-web-text+proto", Some(Grpc::WebText)),
            ("application/grpcx", None),
            ("application/json", None),
            ("", None),
        ] {
            assert_eq!(Grpc::of(&headers(&[("content-type", kind)])), expected);
        }
        assert_eq!(Grpc::of(&HeaderMap::new()), None);
    }
}
